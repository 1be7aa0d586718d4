"""Outputs of a strategy on a whole split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from modalign.data.batch import Output
from modalign.data.dataset import Split
from modalign.strategies import Strategy

_BATCH = 128


def outputs(
    strategy: Strategy, split: Split, keep: Sequence[str] | None = None, device: str | torch.device = "cpu"
) -> Output:
    """The strategy's outputs on a whole split, with only the modalities ``keep`` if given."""
    split.set_epoch(None)
    strategy = strategy.to(device).eval()
    parts = []
    with torch.no_grad():
        for rows in _blocks(len(split)):
            batch = split.__getitems__(rows).to(device)
            parts.append(strategy(batch if keep is None else batch.mask(keep)).to("cpu"))
    strategy.to("cpu")
    return Output.cat(parts)


def _blocks(total: int) -> Iterator[list[int]]:
    for start in range(0, total, _BATCH):
        yield list(range(start, min(start + _BATCH, total)))
