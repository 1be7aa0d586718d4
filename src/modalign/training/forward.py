"""Batches of a split, and the outputs of a strategy on a whole one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from modalign.data.batch import Batch, Output
from modalign.data.dataset import Split
from modalign.files import end_with_parent
from modalign.strategies.base import Strategy

_BATCH = 128


def load_batches(split: Split, batches: list[list[int]], workers: int, device: torch.device) -> DataLoader[Any]:
    """Return the batches of the samples at the given positions, in that order.

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
        worker_init_fn=_begin if workers else None,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(0),  # keeps its hands off the run's random state
    )


def _begin(_: int) -> None:
    end_with_parent()


def _identity(batch: Any) -> Any:
    return batch


def forward_batches(strategy: Strategy, batches: Iterable[Batch], keep: Sequence[str] | None = None) -> Output:
    """Return the outputs of a strategy, in evaluation mode and without gradient, on batches one after the other.

    Args:
        strategy: on the device of the batches.
        batches: samples in order.
        keep: modalities to see, as if the others were missing; all if None.
    """
    strategy.eval()
    parts = []
    with torch.no_grad():
        for batch in batches:
            found = strategy(batch if keep is None else batch.mask(keep))
            parts.append(found.to(found.logits.device))
    return Output.cat(parts)


def outputs(
    strategy: Strategy, split: Split, keep: Sequence[str] | None = None, device: str | torch.device = "cpu"
) -> Output:
    """Return the outputs of a strategy on a whole split, on the CPU, with only the modalities ``keep`` if given."""
    split.set_epoch(None)
    strategy = strategy.to(device)
    rows = range(len(split))
    batches = (split.__getitems__(list(rows[i : i + _BATCH])).to(device) for i in rows[::_BATCH])
    found = forward_batches(strategy, batches, keep).to("cpu")
    strategy.to("cpu")
    return found
