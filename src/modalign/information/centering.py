"""What is left of features once their context is known: deviations from a running mean given T."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_SHARE = 0.2  # of the newest batch in the running mean


class ContextMeans(nn.Module):
    """Running means of each modality's features given a discrete T, to be taken off before a critic compares them.

    What features say first of all is their context, and a critic compares samples of one context only: without this
    it spends its first epochs learning to overlook the largest part of its input. Meanwhile its scores tell nothing,
    and encoders that follow them erase what varies within a context instead of aligning it. The density ratio
    p(z1,z2|T) / p(z1|T)p(z2|T) is not changed by a shift that depends on T.

    Args:
        contexts: number C of contexts; None for one mean over all samples (no context, or no codes).
        dims: D_m of each modality.

    >>> means, z, t = ContextMeans(2, [3]), torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]), torch.tensor([0, 1])
    >>> means.observe(0, z, t)
    >>> means(0, z, t).abs().sum().item()   # one sample of each context is its mean
    0.0
    """

    def __init__(self, contexts: int | None, dims: Sequence[int]) -> None:
        super().__init__()
        self.discrete = contexts is not None
        self.tables: Any = nn.ModuleList(_Table(contexts or 1, dim) for dim in dims)

    @torch.no_grad()
    def observe(self, modality: int, features: Tensor, context: Tensor | None) -> None:
        """Move the means of the contexts that occur towards those of this batch.

        Args:
            modality: its number.
            features: (B, D_m) of that modality.
            context: (B,) int64 in [0, C); not looked at where there is one mean.
        """
        table, codes = self.tables[modality], self._codes(features, context)
        count = torch.bincount(codes, minlength=len(table.mean))
        total = torch.zeros_like(table.mean).index_add_(0, codes, features.to(table.mean.dtype))
        share = torch.where(table.seen, _SHARE, 1.0) * (count > 0)
        table.mean += share[:, None] * (total / count.clamp(min=1)[:, None] - table.mean)
        table.seen |= count > 0

    def forward(self, modality: int, features: Tensor, context: Tensor | None) -> Tensor:
        """Return ``features`` (B, D_m) less the mean of their context; gradients pass, the means have none."""
        table, codes = self.tables[modality], self._codes(features, context)
        known: Tensor = table.mean[codes] * table.seen[codes, None]
        return features - known.to(features.dtype)

    def forget(self) -> None:
        """Start anew, where codes have come to mean something else (clusters found again)."""
        for table in self.tables:
            table.seen.zero_()

    def _codes(self, features: Tensor, context: Tensor | None) -> Tensor:
        if self.discrete and context is not None:
            return context
        return torch.zeros(len(features), dtype=torch.int64, device=features.device)


class _Table(nn.Module):
    """The means (C, D) of one modality, and which contexts have been seen, (C,) bool."""

    mean: Tensor
    seen: Tensor

    def __init__(self, contexts: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(contexts, dim))
        self.register_buffer("seen", torch.zeros(contexts, dtype=torch.bool))
