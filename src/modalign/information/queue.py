"""Recent features of each context, as negatives where a batch has too few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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

    Each modality has its own ring: p(z1|T) p(z2|T) does not ask which features belonged together, and a
    sample may lack some. Push after the step, so that a batch does not meet itself. Everything is a buffer:
    saved with the model, and the same on all processes that push the same (gathered) rows.

    Args:
        contexts: number C of contexts.
        size: features kept of each context and modality.
        dims: D_m of each modality.
        minimum: contexts with fewer negatives than this in the batch also get those of the memory.

    >>> memory = FeatureMemory(contexts=2, size=4, dims=[3, 5])
    >>> memory.push([torch.zeros(6, 3), torch.zeros(6, 5)], torch.tensor([0, 0, 0, 0, 0, 1]))
    >>> memory.pair(0, 1).left_valid.sum(1)
    tensor([4, 1])
    """

    def __init__(self, contexts: int, size: int, dims: Sequence[int], minimum: int = 8) -> None:
        super().__init__()
        self.minimum = minimum
        self.rings: Any = nn.ModuleList(_Ring(contexts, size, dim) for dim in dims)

    @torch.no_grad()
    def push(self, features: Sequence[Tensor], context: Tensor, present: Tensor | None = None) -> None:
        """Add B samples.

        Args:
            features: M tensors (B, D_m).
            context: (B,) int64 in [0, C).
            present: (B, M) bool, which features exist; all by default.

        Raises:
            InputError: a context is outside [0, C).
        """
        for m, (ring, z) in enumerate(zip(self.rings, features, strict=True)):
            keep = slice(None) if present is None else present[:, m]
            added, codes, (contexts, size, _) = z[keep].detach(), context[keep], ring.bank.shape
            if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < contexts:
                raise InputError(
                    f"the memory holds contexts 0 to {contexts - 1} and got codes {int(codes.min())} to "
                    f"{int(codes.max())}; build it with as many contexts as there are."
                )
            counts = torch.bincount(codes, minlength=contexts)
            order = torch.argsort(codes, stable=True)
            code = codes[order]
            rank = torch.arange(len(code), device=code.device) - (counts.cumsum(0) - counts)[code]
            slot = (ring.pushed[code] + rank) % size
            last = rank >= counts[code] - size  # of more than ``size`` the last remain: slots are distinct
            ring.bank[code[last], slot[last]] = added[order][last].to(ring.bank.dtype)
            ring.pushed += counts

    def pair(self, first: int, second: int) -> RecentFeatures:
        """Return what is remembered of two modalities, to be given to ``score_pairs``."""
        a, b = self.rings[first], self.rings[second]
        return RecentFeatures(a.bank, b.bank, a.valid, b.valid, self.minimum)

    def forget(self) -> None:
        """Empty the memory, where codes have come to mean something else (clusters found again)."""
        for ring in self.rings:
            ring.pushed.zero_()


class _Ring(nn.Module):
    """Ring buffers (C, size, D); ``pushed`` (C,) counts what each context has received so far."""

    bank: Tensor
    pushed: Tensor

    def __init__(self, contexts: int, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(contexts, size, dim))
        self.register_buffer("pushed", torch.zeros(contexts, dtype=torch.int64))

    @property
    def valid(self) -> Tensor:
        """(C, size) bool: slots that hold a feature."""
        return torch.arange(self.bank.shape[1], device=self.bank.device) < self.pushed[:, None]
