"""Pairs across processes, with the gradient that one process would have."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Rows of all processes, in rank order, with gradients; numbers of rows may differ.

    The backward pass adds what every process wants of a row and hands it to the process that owns the row. So
    if every process computes the same loss of the gathered rows and the processes' gradients are then
    *averaged* (with weights that sum to one), the parameters receive exactly the gradient of one process with
    all rows. Every process must run the backward pass. Without ``torch.distributed`` the tensor itself is
    returned.

    Args:
        tensor: (B_rank, ...); all dimensions but the first agree.

    Returns:
        (sum of B_rank, ...).
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    gathered: Tensor = _Gather.apply(tensor)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        counts = _counts(tensor)
        ctx.first, ctx.rows = sum(counts[: dist.get_rank()]), len(tensor)
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        total = gradient.clone()
        dist.all_reduce(total)
        return total[ctx.first : ctx.first + ctx.rows]


def _counts(tensor: Tensor) -> list[int]:
    """Numbers of rows of all processes."""
    own = torch.tensor([len(tensor)], device=tensor.device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    return [int(c) for c in counts]
