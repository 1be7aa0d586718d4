"""Batches of a split, read in this process or in others."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from modalign.data.dataset import Split


def load_batches(split: Split, batches: list[list[int]], workers: int, device: torch.device) -> DataLoader[Any]:
    """The batches of the samples at the given positions, in that order.

    Args:
        split: where they are read.
        batches: positions of the samples of each batch.
        workers: processes that read; 0 for this one.
        device: where the batches are used; for a GPU they come in pinned memory.
    """
    dataset: Dataset[Any] = split  # type: ignore[assignment]
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_identity,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(0),  # keeps its hands off the run's random state
    )


def _identity(batch: Any) -> Any:
    return batch
