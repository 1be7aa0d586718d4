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
        class_counts: number of training samples of each class; empty for other tasks than classification.
        quantiles: inner octiles of a numeric target (of the time, for survival) in the training split, else empty.
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
        counts, quantiles = list[int](), list[float]()
        if task.kind == "classification":
            counts = torch.bincount(train.target.long(), minlength=task.outputs).tolist()
        else:
            values = train.target if task.kind == "regression" else train.target[:, 0]
            quantiles = torch.quantile(values.float(), torch.arange(1, BINS) / BINS).tolist()
        info = cls(data.name, task, dict(data.modalities), len(train), tuple(counts), tuple(quantiles))
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
        """Return the target as a discrete context, (B,) int64: the class, or the octile of a number (and the event)."""
        if self.task.kind == "classification":
            return target
        edges = torch.tensor(self.quantiles, device=target.device)
        if self.task.kind == "regression":
            return torch.bucketize(target.contiguous(), edges)
        return torch.bucketize(target[:, 0].contiguous(), edges) + BINS * target[:, 1].long()

    @property
    def target_contexts(self) -> int:
        """Number of values that ``target_bins`` can take."""
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
            task=Task(plain["task"]["kind"], tuple(plain["task"]["classes"])),
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
        )
