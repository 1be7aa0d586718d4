"""A split whose raw inputs are replaced by features that were computed of them before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from modalign.data.batch import Batch
from modalign.data.dataset import Column, Split
from modalign.data.tables.arrays import ArraySplit, Rows


def with_features(split: Split, features: Mapping[str, Rows]) -> Split:
    """``split`` with computed features in place of the inputs of some modalities.

    Args:
        split: any split. Of an ``ArraySplit`` the replaced inputs are not read any more.
        features: modality name to (N, D) float32, a row a sample of ``split``, zeros where it is absent.
    """
    return split.with_features(features) if isinstance(split, ArraySplit) else FeatureSplit(split, features)


class FeatureSplit:
    """Any split with other inputs; see ``with_features`` for the arguments."""

    def __init__(self, split: Split, features: Mapping[str, Rows]) -> None:
        self.split = split
        self.features = features
        self.target: Tensor = split.target
        self.columns: dict[str, Column] = split.columns
        self.ids: Sequence[str] = split.ids
        self.groups: np.ndarray | None = split.groups

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, index: list[int]) -> Batch:
        """The batch of the samples at ``index``."""
        batch = self.split.__getitems__(index)
        rows = np.asarray(index, dtype=np.int64)
        computed = {name: torch.from_numpy(found[rows]) for name, found in self.features.items()}
        inputs = {**batch.inputs, **computed}
        return replace(batch, inputs=inputs, encoded=batch.encoded | set(self.features))

    def __getitem__(self, index: int) -> Batch:
        """The sample at ``index`` as a batch of one."""
        return self.__getitems__([index])

    def set_epoch(self, epoch: int | None) -> None:
        """Fix augmentation of the other modalities to ``epoch``; None switches it off."""
        self.split.set_epoch(epoch)
