"""What is left of features once their context is known: deviations from a running mean given T."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SHARE = 0.2  # of the newest batch in the running mean


class ContextMeans(nn.Module):
    """Running means of each modality's features given a discrete T, to be taken off before a critic compares them.

    What features say first of all is their context, and a critic compares samples of one context only: without this
    it spends its first epochs learning to overlook the largest part of its input. Meanwhile its scores tell nothing,
    and encoders that follow them erase what varies within a context instead of aligning it. The density ratio
    p(z1,z2|T) / p(z1|T)p(z2|T) is not changed by a shift that depends on T.

    Features of all modalities are taken together, (M, N, D), padded to one D where they differ.

    Args:
        contexts: number C of contexts; None for one mean over all samples (no context, or no codes).
        modalities: M.
        dim: D.

    >>> means, z, t = ContextMeans(2, 1, 3), torch.tensor([[[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]]), torch.tensor([0, 1])
    >>> means.observe(z, t)
    >>> means(z, t).abs().sum().item()   # one sample of each context is its mean
    0.0
    """

    mean: Tensor
    share: Tensor
    codes: Tensor

    def __init__(self, contexts: int | None, modalities: int, dim: int) -> None:
        super().__init__()
        self.discrete = contexts is not None
        self.register_buffer("mean", torch.zeros(modalities, contexts or 1, dim))  # zero until seen
        self.register_buffer("share", torch.ones(modalities, contexts or 1, 1))  # of the next batch: all at first
        self.register_buffer("codes", torch.arange(contexts or 1), persistent=False)

    @torch.no_grad()
    def observe(self, features: Tensor, context: Tensor | None, present: Tensor | None = None) -> None:
        """Move the means of the contexts that occur towards those of this batch.

        Args:
            features: (M, N, D).
            context: (N,) int64 in [0, C); not looked at where there is one mean.
            present: (N, M) bool, which features exist; all by default.
        """
        if present is None:
            present = torch.ones_like(features[..., 0].T, dtype=torch.bool)
        there = present.T.to(self.mean.dtype)[:, None]
        if self.discrete and context is not None:
            there = there * (self.codes[:, None] == context)  # (M, C, N)
        count = there.sum(-1, keepdim=True)
        batch = there @ features.to(there.dtype) / count.clamp(min=1)
        self.mean.lerp_(batch, (count > 0) * self.share)
        self.share.masked_fill_(count > 0, _SHARE)

    def forward(self, features: Tensor, context: Tensor | None) -> Tensor:
        """Return ``features`` (M, N, D) less the mean of their context; gradients pass, the means have none."""
        known = self.mean[:, context] if self.discrete and context is not None else self.mean
        return features - known.to(features.dtype)

    def forget(self) -> None:
        """Start anew, where codes have come to mean something else (clusters found again)."""
        self.mean.zero_()
        self.share.fill_(1.0)
