"""A data set without its samples: what it takes to rebuild a trained strategy where the training data is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalign.data.batch import Batch, Modality
from modalign.data.dataset import Column, MultimodalData
from modalign.data.tables.arrays import ArraySplit
from modalign.data.tables.modalities import Preparation
from modalign.data.task import Task
from modalign.errors import InputError


def describe(data: MultimodalData) -> dict[str, Any]:
    """Plain values for ``data.json``: modalities, task, columns, and how raw rows of each modality become inputs."""
    train = data.train
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "task": asdict(data.task),
        "modalities": {name: asdict(modality) for name, modality in data.modalities.items()},
        "columns": {
            name: {"names": list(column.names), "width": list(column.values.shape[1:])}
            for name, column in train.columns.items()
        },
        "preparations": (
            {name: p.to_dict() for name, p in train.preparations.items()} if isinstance(train, ArraySplit) else None
        ),
    }


def rebuild(described: dict[str, Any]) -> MultimodalData:
    """A data set of no samples that a strategy can be built around; its weights come from a checkpoint.

    The splits hold one made-up label a class, for strategies count labels when they are built; whatever they compute
    from them is a buffer, and replaced by the checkpoint's.
    """
    task = Task(described["task"]["kind"], tuple(described["task"]["classes"]))
    modalities = {
        name: Modality(**{**about, "shape": tuple(about["shape"])}) for name, about in described["modalities"].items()
    }
    empty = _Nothing(task, described["columns"])
    return MultimodalData(described["name"], modalities, task, empty, empty, empty, described["fingerprint"])


def preparations(described: dict[str, Any]) -> dict[str, Preparation]:
    """How raw rows of each modality become inputs, as learned from the training rows.

    Raises:
        InputError: the run was trained on data of one's own class, which says nothing of that.
    """
    if described["preparations"] is None:
        raise InputError("the run does not say how its inputs are prepared: its data set is a class of its own")
    return {name: Preparation.from_dict(values) for name, values in described["preparations"].items()}


class _Nothing:
    """A split without samples."""

    groups: np.ndarray | None = None

    def __init__(self, task: Task, columns: dict[str, Any]) -> None:
        count = max(8, task.outputs)
        self.target: Tensor = torch.arange(count) % task.outputs if task.kind == "classification" else torch.rand(count)
        if task.kind == "survival":
            self.target = torch.rand(count, 2)
        self.columns = {
            name: Column(torch.zeros(count, *about["width"]), tuple(about["names"])) for name, about in columns.items()
        }
        self.ids: Sequence[str] = []

    def __len__(self) -> int:
        return len(self.target)

    def __getitems__(self, index: list[int]) -> Batch:
        raise InputError("this data set holds no samples; load the data the run was trained on")

    def set_epoch(self, epoch: int | None) -> None:
        """Nothing is augmented."""
