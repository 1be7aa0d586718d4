"""The contract every data set fulfils, so that the engine needs to know none of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from modalign.data.batch import Batch, Modality
from modalign.data.task import Task
from modalign.errors import DataError, option


@dataclass(frozen=True)
class Column:
    """A further column of the data: a possible source of the context T.

    Attributes:
        values: (N,) int64 codes if discrete, else (N,) or (N, F) float32.
        names: the names behind the codes; empty for a continuous column.

    >>> Column(torch.tensor([0, 1]), ("north", "south")).discrete
    True
    """

    values: Tensor
    names: tuple[str, ...] = ()

    @property
    def discrete(self) -> bool:
        """Whether ``values`` are codes."""
        return bool(self.names)


@runtime_checkable
class Split(Protocol):
    """One split of a data set (train, valid or test).

    ``__getitems__`` gives a whole batch at once, so that data in memory is sliced, not collated; it is what
    PyTorch's loader calls when a data set has it. An attribute ``augment`` may name the modalities that are changed
    at random in training (see ``is_augmented``).
    """

    target: Tensor
    columns: dict[str, Column]
    ids: Sequence[str]
    groups: np.ndarray | None

    def __len__(self) -> int: ...

    def __getitems__(self, index: list[int]) -> Batch: ...

    def set_epoch(self, epoch: int | None) -> None:
        """Fix the randomness of augmentation to ``epoch``; None switches augmentation off (evaluation)."""
        ...


def is_augmented(split: Split, modality: str) -> bool:
    """Return whether the inputs of a modality may differ between epochs; a split that does not say so may change all.

    >>> from modalign.data.tables.arrays import from_arrays
    >>> is_augmented(from_arrays({"a": np.ones((8, 2)), "y": np.arange(8) % 2}).train, "a")
    False
    """
    named: Collection[str] | None = getattr(split, "augment", None)
    return named is None or modality in named


@dataclass(frozen=True)
class SampleGroups:
    """What metrics count: samples, or groups of samples such as a patient's patches.

    Attributes:
        member: (N,) int64 unit of each sample; units are numbered in the order in which they first come.
        first: (U,) int64 first sample of each unit: what all its samples share (the target) is read there.
        names: names of the units.

    >>> groups = SampleGroups(torch.tensor([0, 0, 1]), torch.tensor([0, 2]), ["p1", "p2"])
    >>> groups.mean(torch.tensor([[1.0], [3.0], [5.0]])).tolist()
    [[2.0], [5.0]]
    """

    member: Tensor
    first: Tensor
    names: Sequence[str]

    def mean(self, values: Tensor) -> Tensor:
        """Mean of ``values`` (N, ...) over the samples of each unit, (U, ...)."""
        if len(self.first) == len(self.member):
            return values
        member = self.member.to(values.device)
        sums = values.new_zeros(len(self.first), *values.shape[1:]).index_add_(0, member, values)
        counts = torch.bincount(member, minlength=len(self.first)).to(values.dtype)
        return sums / counts.view(-1, *[1] * (values.ndim - 1))

    def scores(self, task: Task, scores: Tensor) -> Tensor:
        """Scores of the units, (U, C), of those of the samples, (N, C), as ``Task.log_probability`` gives them.

        Probabilities of classes and labels are averaged, and so are the predictions and log risks of the other tasks.
        """
        if task.kind not in ("classification", "multilabel") or len(self.first) == len(self.member):
            return self.mean(scores)
        return self.mean(scores.double().exp()).log().to(scores.dtype)


@dataclass
class MultimodalData:
    """A data set ready to train on.

    Attributes:
        name: short name, as in tables.
        modalities: name -> what it is, in the order of ``Batch.inputs``.
        task: what is predicted.
        train, valid, test: the splits; ``valid`` selects, ``test`` is read once.
        fingerprint: hash of contents and splits; two runs are comparable only if it agrees.
        parts: hashes of values, rows, labels and split, which say what has changed where the fingerprint has.
        contents: hash of the inputs alone, where the reader knows it, whatever the splits.
        notes: what the reader should know (rows dropped, modalities missing), printed once and kept in the run.
        group: name of the column whose values no split divides, if there is one.
        scored: what metrics count: ``samples``, or ``groups``, whose samples' probabilities are averaged first, or a
            name of ``units``.
        units: further ways to count, by which a finished run is reported too: name to a pattern, whose first group in
            the id of a sample is the unit that it belongs to.
        fold: number of the published fold, from 1, and how many there are, where the data set has such.

    >>> from modalign.data.load import load_data
    >>> data = load_data("digits")
    >>> list(data.modalities), len(data.train), len(data.valid), len(data.test)
    (['left', 'right'], 1078, 270, 449)
    """

    name: str
    modalities: dict[str, Modality]
    task: Task
    train: Split
    valid: Split
    test: Split
    fingerprint: str
    notes: list[str] = field(default_factory=list)
    scored: str = "samples"
    units: Mapping[str, str] = field(default_factory=dict)
    fold: tuple[int, int] | None = None
    contents: str = ""
    group: str | None = None
    parts: dict[str, str] = field(default_factory=dict)

    def sample_groups(self, split: Split, by: str | None = None) -> SampleGroups:
        """What metrics of ``split`` count; ``by`` counts otherwise than ``scored`` says.

        Raises:
            InputError: groups are scored but there are none, an id tells no unit, or one has samples of different
                targets.
        """
        by = by or self.scored
        if by == "samples":
            every = torch.arange(len(split))
            return SampleGroups(every, every, split.ids)
        if by in self.units:
            found = [re.fullmatch(self.units[by], name) for name in split.ids]
            if None in found:
                name = split.ids[found.index(None)]
                raise DataError(f"{self.name} is scored by {by}, which the id {name!r} does not tell; prepare it anew")
            belonging = np.array([match[1] for match in found if match])
        elif split.groups is None:
            raise DataError(f"{self.name} is scored by group but has no groups; name them with {option('group')}")
        else:
            belonging = np.asarray(split.groups)
        names, first, member = np.unique(belonging, return_index=True, return_inverse=True)
        order = np.argsort(first)
        units = torch.from_numpy(np.argsort(order)[member]), torch.from_numpy(first[order])
        known = split.target.nan_to_num(-1.0) if split.target.is_floating_point() else split.target
        differs = (known != known[units[1]][units[0]]).view(len(split), -1).any(1).numpy()
        if differs.any():
            what, group = "group" if by == "groups" else by, str(belonging[differs][0])
            raise DataError(
                f"{self.name} is scored by {what}, but samples of {what} {group!r} have different targets; expected "
                f"one target a {what}"
            )
        return SampleGroups(*units, [str(name) for name in names[order]])
