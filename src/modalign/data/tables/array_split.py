"""A split of arrays: sliced into batches out of memory, or out of files through memory maps."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from modalign.data.augment import Crop, pick_frames, random_crop_flip
from modalign.data.batch import Batch
from modalign.data.dataset import Column, Split
from modalign.data.tables.conditions import Condition
from modalign.data.tables.modalities import Preparation


class Rows(Protocol):
    """An array in memory or on disk of which single rows can be taken."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


class StoredArray:
    """A ``.npy`` file as ``Rows``: opened on first use and again in each process, never copied into one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: np.ndarray | None = None
        self.shape, self.dtype = self._open().shape, self._open().dtype

    def _open(self) -> np.ndarray:
        if self._map is None:
            self._map = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return self._map

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._open()[rows])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}


class SparseRows:
    """A sparse matrix as ``Rows``: those asked for become dense float32 (B, F), zeros where there is none.

    Args:
        matrix: SciPy's, (n, F), compressed by rows.
        index: (N,) row of ``matrix`` that each sample has, -1 where it has none.

    >>> from scipy.sparse import csr_matrix
    >>> SparseRows(csr_matrix([[0, 2], [3, 0]]), np.array([1, -1, 0]))[np.array([0, 1])].tolist()
    [[3.0, 0.0], [0.0, 0.0]]
    """

    def __init__(self, matrix: Any, index: np.ndarray) -> None:
        self.matrix, self.index = matrix, index

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        at = self.index[rows]
        found = np.zeros((len(at), self.matrix.shape[1]), np.float32)
        found[at >= 0] = self.matrix[at[at >= 0]].toarray()
        return found

    def tobytes(self, rows: np.ndarray) -> bytes:
        """Return the numbers of some rows that are there, for a hash, without making them dense."""
        at = self.index[rows]
        chosen = self.matrix[at[at >= 0]]
        return b"".join(part.tobytes() for part in (chosen.data, chosen.indices, chosen.indptr))


@dataclass(eq=False)
class ArraySplit:
    """One split of arrays; fulfils ``Split``. A batch is sliced out of the arrays, without a loop.

    Args:
        stored: modality name to all rows of the data (not of the split alone), as ``Preparation.apply`` left
            them.
        preparations: modality name to how its raw rows became the stored ones.
        rows: (N,) rows of the arrays that make up this split.
        present: (N, M) bool.
        target, columns, ids, groups: as in ``Split``, (N,) each.
        cropped: modalities whose images are cropped and flipped at random while ``set_epoch`` has an epoch.
        crop: how.
        drawn: clips of whose stored frames so many are taken, one of each of as many equal parts.
        drawn_at_random: while ``set_epoch`` has an epoch; otherwise fixed ones.
        seed: of augmentation.
        epoch: as ``set_epoch`` gives it.
        unread: modalities whose inputs a ``FeatureSplit`` has.
        conditions: modality name to the conditions of this split, (N, K).
        condition_readers: modality name to how they were read.

    >>> from modalign.data.tables.arrays import from_arrays
    >>> split = from_arrays({"a": np.eye(8), "y": np.arange(8) % 2}).train
    >>> isinstance(split, ArraySplit), split.__getitems__([0, 1]).inputs["a"].shape
    (True, torch.Size([2, 8]))
    """

    stored: Mapping[str, Rows]
    preparations: Mapping[str, Preparation]
    rows: np.ndarray
    present: Tensor
    target: Tensor
    columns: dict[str, Column]
    ids: Sequence[str]
    groups: np.ndarray | None = None
    cropped: Sequence[str] = ()
    crop: Crop | None = None
    drawn: Mapping[str, int] = field(default_factory=dict)
    drawn_at_random: bool = False
    seed: int = 0
    epoch: int | None = None
    unread: frozenset[str] = frozenset()
    conditions: dict[str, Tensor] = field(default_factory=dict)
    condition_readers: Mapping[str, Sequence[Condition]] = field(default_factory=dict)

    @property
    def augment(self) -> Sequence[str] | None:
        """What ``is_augmented`` reads."""
        return [*self.cropped, *(self.drawn if self.drawn_at_random else ())]

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int | None) -> None:
        """Fix augmentation to ``epoch``; None switches it off."""
        self.epoch = epoch

    def __getitems__(self, index: list[int]) -> Batch:
        """The batch of the samples at ``index``."""
        chosen = torch.as_tensor(index, dtype=torch.int64)
        present = self.present[chosen]
        values = self._read(self.rows[chosen.numpy()], present)
        inputs = dict.fromkeys(self.preparations, torch.empty(len(index), 0))
        for m, (name, preparation) in enumerate(self.preparations.items()):
            if name in self.unread:
                continue
            tensor = torch.from_numpy(np.ascontiguousarray(values[name]))
            if tensor.dtype != torch.uint8 or preparation.modality.kind == "text":
                tensor = tensor.long() if preparation.modality.kind == "text" else tensor.float()
            if name in self.drawn:
                tensor = self._draw(tensor, self.drawn[name], chosen.tolist())
            if self.epoch is not None and name in self.cropped:
                tensor = random_crop_flip(tensor, [(self.seed, self.epoch, i) for i in chosen.tolist()], self.crop)
            if not present[:, m].all():
                tensor[~present[:, m]] = preparation.modality.padding
            inputs[name] = tensor
        columns = {name: column.values[chosen] for name, column in self.columns.items()}
        conditions = {name: values[chosen] for name, values in self.conditions.items()}
        return Batch(inputs, present, self.target[chosen], chosen, columns, conditions=conditions)

    def _draw(self, clips: Tensor, drawn: int, samples: list[int]) -> Tensor:
        """Some frames of clips (B, T, ...), (B, drawn, ...)."""
        rngs: list[np.random.Generator | None] = [None] * len(samples)
        if self.drawn_at_random and self.epoch is not None:
            rngs = [np.random.default_rng((self.seed, self.epoch, i, 1)) for i in samples]
        frames = np.stack([pick_frames(clips.shape[1], drawn, rng) for rng in rngs])
        return clips[torch.arange(len(clips))[:, None], torch.from_numpy(frames)]

    def _read(self, rows: np.ndarray, present: Tensor) -> dict[str, np.ndarray]:
        """Prepared values of some rows of the data; what is found to be absent is taken out of ``present`` (B, M)."""
        return {name: array[rows] for name, array in self.stored.items() if name not in self.unread}

    def __getitem__(self, index: int) -> Batch:
        """The sample at ``index`` as a batch of one."""
        return self.__getitems__([index])


class FeatureSplit:
    """A split with features that were computed before in place of the inputs of some modalities.

    Args:
        split: any split. Of an ``ArraySplit`` the replaced inputs are not read any more.
        features: modality name to (N, D) float32, a row a sample of ``split``, zeros where it is absent.

    >>> from modalign.data.tables.arrays import from_arrays
    >>> split = FeatureSplit(from_arrays({"a": np.eye(8), "y": np.arange(8) % 2}).train, {"a": np.ones((4, 3), "f4")})
    >>> batch = split.__getitems__([0, 1])
    >>> batch.inputs["a"].shape, batch.encoded
    (torch.Size([2, 3]), frozenset({'a'}))
    """

    def __init__(self, split: Split, features: Mapping[str, Rows]) -> None:
        self.split: Split
        self.features: dict[str, Rows] = {**(split.features if isinstance(split, FeatureSplit) else {}), **features}
        self.split = split.split if isinstance(split, FeatureSplit) else split
        if isinstance(self.split, ArraySplit):
            self.split = copy.copy(self.split)
            self.split.unread = frozenset(self.features)
        self.target, self.columns, self.ids, self.groups = split.target, split.columns, split.ids, split.groups
        self.augment: Sequence[str] | None = getattr(split, "augment", None)

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, index: list[int]) -> Batch:
        """The batch of the samples at ``index``."""
        batch, rows = self.split.__getitems__(index), np.asarray(index, dtype=np.int64)
        computed = {name: torch.from_numpy(found[rows]) for name, found in self.features.items()}
        return replace(batch, inputs={**batch.inputs, **computed}, encoded=batch.encoded | {*computed})

    def __getitem__(self, index: int) -> Batch:
        """The sample at ``index`` as a batch of one."""
        return self.__getitems__([index])

    def set_epoch(self, epoch: int | None) -> None:
        """Fix augmentation of the other modalities to ``epoch``; None switches it off."""
        self.split.set_epoch(epoch)
