"""Recent features of each context, as negatives where a batch has too few."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from modalign.errors import InputError


class RecentFeatures(NamedTuple):
    """Recent features of two modalities, for contexts with fewer than ``minimum`` negatives in a batch.

    ``left`` (C, size, D1) and ``right`` (C, size, D2); ``left_valid``, ``right_valid`` (C, size) bool.

    >>> there = torch.ones(2, 4, dtype=torch.bool)
    >>> RecentFeatures(torch.zeros(2, 4, 3), torch.zeros(2, 4, 5), there, there, minimum=8).left.shape
    torch.Size([2, 4, 3])
    """

    left: Tensor
    right: Tensor
    left_valid: Tensor
    right_valid: Tensor
    minimum: int


class FeatureMemory(nn.Module):
    """The last ``size`` detached features of every modality in every discrete context.

    Each modality has its own rings: p(z1|T) p(z2|T) does not ask which features belonged together, and a
    sample may lack some. Push after the step, so that a batch does not meet itself. Everything is a buffer:
    saved with the model, and the same on all processes that push the same (gathered) rows.

    Args:
        contexts: number C of contexts.
        size: features kept of each context and modality.
        modalities: M.
        dim: D of every modality (padded to one D where they differ).
        minimum: contexts with fewer negatives than this in the batch also get those of the memory.

    >>> memory = FeatureMemory(contexts=2, size=4, modalities=2, dim=3)
    >>> memory.push(torch.zeros(2, 6, 3), torch.tensor([0, 0, 0, 0, 0, 1]))
    >>> memory.pair(0, 1).left_valid.sum(1)
    tensor([4, 1])
    """

    rows: Tensor
    pushed: Tensor

    def __init__(self, contexts: int, size: int, modalities: int, dim: int, minimum: int = 8) -> None:
        super().__init__()
        self.minimum = minimum
        self.size = size
        # All rings of a modality one after the other, and a last row for what is not kept.
        self.register_buffer("rows", torch.zeros(modalities, contexts * size + 1, dim))
        self.register_buffer("pushed", torch.zeros(modalities, contexts, dtype=torch.int64))  # so far, by context

    @torch.no_grad()
    def push(self, features: Tensor, context: Tensor, present: Tensor | None = None) -> None:
        """Add N samples.

        Args:
            features: (M, N, D).
            context: (N,) int64 in [0, C).
            present: (N, M) bool, which features exist; all by default.

        Raises:
            InputError: a context is outside [0, C).
        """
        (modalities, contexts), size = self.pushed.shape, self.size
        if len(context) == 0:
            return
        low, high = context.aminmax()
        if not (context.is_cuda or 0 <= int(low) <= int(high) < contexts):  # a wait for the accelerator otherwise
            raise InputError(
                f"the memory holds contexts 0 to {contexts - 1} and got codes {int(low)} to {int(high)}; "
                "build it with as many contexts as there are."
            )
        # In order of context, the rank of a sample among those of its context that have the modality: (M, N).
        code, order = context.sort(stable=True)
        there = torch.ones_like(context).expand(modalities, -1) if present is None else present.T[:, order].long()
        counts = torch.zeros_like(self.pushed).scatter_add_(1, code.expand(modalities, -1), there)
        rank = there.cumsum(1) - 1 - (counts.cumsum(1) - counts)[:, code]
        # Of more than ``size`` the last remain, so slots are distinct.
        kept = (there > 0) & (rank >= counts[:, code] - size)
        slot = torch.where(kept, code * size + (self.pushed[:, code] + rank) % size, contexts * size)
        added = features[:, order].to(self.rows.dtype)
        self.rows.scatter_(1, slot[..., None].expand_as(added), added)
        self.rows[:, -1] = 0
        self.pushed += counts

    @property
    def bank(self) -> Tensor:
        """(M, C, size, D): what is kept."""
        return self.rows[:, :-1].unflatten(1, (-1, self.size))

    @property
    def valid(self) -> Tensor:
        """(M, C, size) bool: slots that hold a feature."""
        return torch.arange(self.size, device=self.rows.device) < self.pushed[..., None]

    def pair(self, first: int, second: int) -> RecentFeatures:
        """Return what is remembered of two modalities, to be given to ``score_pairs``."""
        bank, valid = self.bank, self.valid
        return RecentFeatures(bank[first], bank[second], valid[first], valid[second], self.minimum)

    def forget(self) -> None:
        """Empty the memory, where codes have come to mean something else (clusters found again)."""
        self.pushed.zero_()
