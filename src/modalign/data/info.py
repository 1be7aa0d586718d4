"""A small description of a data set: what a strategy may know of it, and what a run keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from modalign.data.batch import Modality
from modalign.data.dataset import MultimodalData
from modalign.data.task import Task

MOST_SETS = 63
"""Number of sets of labels that are contexts of their own; the rest share one."""
BINS = 8
"""Number of bins between ``DataInfo.quantiles``: contexts made of a label that is a number."""


@dataclass(frozen=True)
class ColumnInfo:
    """Describe a further column of the data.

    Attributes:
        names: names behind the codes of a discrete column; empty for a continuous one.
        counts: training samples of each code (rows) by ``DataInfo.target_bins`` (columns), of a discrete column.
        width: shape of one sample's value, ``()`` for a single number.
        mean, std: moments of a continuous column in the training split, one for each number of a sample.
    """

    names: tuple[str, ...] = ()
    width: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    counts: tuple[tuple[int, ...], ...] = ()

    @property
    def discrete(self) -> bool:
        """Whether the column holds codes."""
        return bool(self.names)


@dataclass(frozen=True)
class DataInfo:
    """Describe a data set without its samples.

    Attributes:
        name: name of the data set.
        task: what is predicted.
        modalities: name -> what it is, in the order of ``Batch.inputs``.
        samples: number of training samples.
        class_counts: number of training samples of each class; of labels (2C,) without and with each; else empty.
        quantiles: inner octiles of a numeric target in the training split (survival: of the time; several: of the mean
            of those known, each in its standard deviations), else empty.
        label_sets: the sets of labels that most training samples have, as 0 and 1 of each label; else empty.
        columns: name -> further column.
        group: the column whose values no split divides (speaker, site, patient), if the data names one.

    >>> info = DataInfo("toy", Task("classification", ("no", "yes")), {"a": Modality("a", "vector", (3,))}, 10, (6, 4))
    >>> DataInfo.from_dict(info.to_dict()) == info
    True
    """

    name: str
    task: Task
    modalities: dict[str, Modality]
    samples: int
    class_counts: tuple[int, ...] = ()
    quantiles: tuple[float, ...] = ()
    columns: dict[str, ColumnInfo] = field(default_factory=dict)
    group: str | None = None
    label_sets: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(cls, data: MultimodalData) -> DataInfo:
        """Return the description of ``data``, from its training split.

        >>> from modalign.data.tables.arrays import from_arrays
        >>> import numpy as np
        >>> data = from_arrays({"a": np.random.rand(40, 3), "y": np.arange(40) % 2})
        >>> DataInfo.of(data).class_counts
        (12, 12)
        """
        train, task = data.train, data.task
        counts, quantiles, sets = list[int](), list[float](), list[list[int]]()
        if task.kind == "classification":
            counts = torch.bincount(train.target.long(), minlength=task.outputs).tolist()
        elif task.kind == "multilabel":
            counts = torch.stack([(train.target == 0).sum(0), (train.target == 1).sum(0)], 1).flatten().tolist()
            found, sizes = (train.target == 1).long().unique(dim=0, return_counts=True)
            sets = found[sizes.argsort(descending=True, stable=True)[:MOST_SETS]].tolist()
        else:
            quantiles = torch.quantile(_single(task, train.target), torch.arange(1, BINS) / BINS).tolist()
        info = cls(data.name, task, dict(data.modalities), len(train), tuple(counts), tuple(quantiles))
        info = replace(info, label_sets=tuple(map(tuple, sets)))
        for name, column in train.columns.items():
            width = tuple(column.values.shape[1:])
            if column.discrete:
                cells = column.values * info.target_contexts + info.target_bins(train.target)
                table = torch.bincount(cells, minlength=len(column.names) * info.target_contexts)
                counted = table.view(-1, info.target_contexts).tolist()
                info.columns[name] = ColumnInfo(tuple(column.names), width, counts=tuple(map(tuple, counted)))
            else:
                rows = column.values.float().reshape(len(column.values), -1)
                info.columns[name] = ColumnInfo((), width, tuple(rows.mean(0).tolist()), tuple(rows.std(0).tolist()))
        return replace(info, group=data.group if data.group in info.columns else None)

    def __getattr__(self, name: str) -> Any:
        """Say what strategies of version 0.1, which were given the data, find here instead."""
        hint = ""
        if name in ("train", "valid", "test"):
            hint = ": a strategy is given a description without samples; it has class_counts, quantiles and columns"
        raise AttributeError(f"DataInfo has no attribute {name!r}{hint}")

    def target_bins(self, target: Tensor) -> Tensor:
        """Return the target as a discrete context, (B,) int64.

        The class; the set of labels, where one not known counts as absent; or the octile of a number (and the event).
        """
        if self.task.kind == "classification":
            return target
        if self.task.kind == "multilabel":
            sets = torch.tensor(self.label_sets, device=target.device).view(-1, self.task.outputs)
            same = ((target == 1).long()[:, None] == sets).all(2)
            return torch.where(same.any(1), same.long().argmax(1), len(sets))
        edges = torch.tensor(self.quantiles, device=target.device)
        octile = torch.bucketize(_single(self.task, target).contiguous(), edges)
        return octile + BINS * target[:, 1].long() if self.task.kind == "survival" else octile

    @property
    def target_contexts(self) -> int:
        """Number of values that ``target_bins`` can take."""
        if self.task.kind == "multilabel":
            return len(self.label_sets) + 1
        return self.task.outputs if self.task.kind == "classification" else 2 * BINS

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DataInfo:
        """Return the description that ``to_dict`` gave, also after a way through JSON."""
        tuples = ("class_counts", "quantiles")
        return cls(
            name=plain["name"],
            task=Task(
                plain["task"]["kind"], *(tuple(plain["task"].get(k, ())) for k in ("classes", "center", "scale"))
            ),
            modalities={
                name: Modality(**{**about, "shape": tuple(about["shape"])})
                for name, about in plain["modalities"].items()
            },
            samples=plain["samples"],
            columns={
                name: ColumnInfo(
                    **{key: tuple(value) for key, value in about.items() if key != "counts"},
                    counts=tuple(map(tuple, about.get("counts", ()))),
                )
                for name, about in plain["columns"].items()
            },
            **{key: tuple(plain[key]) for key in tuples},
            group=plain.get("group"),
            label_sets=tuple(map(tuple, plain.get("label_sets", ()))),
        )


def _single(task: Task, target: Tensor) -> Tensor:
    """Return one number of each target (B,): the time of survival; of several the mean of those known, scaled."""
    if task.several:
        center, scale = target.new_tensor([task.center, task.scale])
        return ((target - center) / scale).nanmean(1)
    return (target if task.kind == "regression" else target[:, 0]).float()
