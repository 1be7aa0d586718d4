"""The protective margin: how hard agreement between modalities may pull, and when it must let go.

The idea is that of InfoBridge (ICCV 2025), which states it in words; both forms are this package's:

- a bound on the pull at the features of each modality, || alpha grad_z L_NCE || <= rho || grad_z (task losses) ||;
- a term, ``LossHinge``: what a modality's own head has lost against what it had reached, zero while nothing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modalign.information.objectives import full_precision


class Guarded(NamedTuple):
    """Bounded gradients of the pull at each modality's features, and the factors (M,) that bounded them.

    >>> guarded = Guarded([torch.zeros(5, 3), torch.zeros(5, 2)], torch.tensor([0.6, 1.0]))
    >>> (guarded.scales < 1).tolist()   # where the margin bound
    [True, False]
    """

    gradients: list[Tensor]
    scales: Tensor


def gradient_scale(task_squared: Tensor, pull_squared: Tensor, rho: float = 0.3) -> Tensor:
    """Compute min(1, rho ||g_task|| / ||g_pull||): the factor on the pull, for each modality.

    Squared norms are taken because they add over processes: reduce them first, then all processes scale
    alike.

    Args:
        task_squared: (M,) squared norms of the task losses' gradient at the features.
        pull_squared: (M,) squared norms of the pull's gradient there, alpha included.
        rho: largest ratio of the two norms.

    Returns:
        (M,) factors in [0, 1]; 1 where there is no pull. A factor below 1 means that the margin bound.

    >>> gradient_scale(torch.tensor([4.0, 4.0]), torch.tensor([1.0, 0.01]), rho=0.3)   # norms 2, 2 and 1, 0.1
    tensor([0.6000, 1.0000])
    """
    tiny = torch.finfo(pull_squared.dtype).tiny
    bounded = rho * (task_squared / pull_squared.clamp(min=tiny)).sqrt()
    return torch.where(pull_squared > 0, bounded.clamp(max=1.0), 1.0)


def guarded_gradients(features: Sequence[Tensor], pull_loss: Tensor, task_loss: Tensor, rho: float = 0.3) -> Guarded:
    """Compute the gradient of ``pull_loss`` at ``features``, bounded by ``rho`` times that of ``task_loss``.

    Parameters are not touched: hand the result to ``torch.autograd.backward`` together with the task loss.

    Args:
        features: M tensors (B, D_m) on which both losses depend.
        pull_loss: scalar to be minimized, such as -alpha L_NCE / (1+r).
        task_loss: scalar to be minimized.
        rho: largest ratio of the two norms.

    A step of one's own, Algorithm 1 of InfoBridge, with ``critic_optimizer`` over the critic's parameters:

    >>> from modalign.information import ramp, score_pairs, SeparableCritic, LearnedContext
    >>> encoders, head = [torch.nn.Linear(6, 4), torch.nn.Linear(5, 4)], torch.nn.Linear(8, 3)
    >>> critic = SeparableCritic((4, 4), LearnedContext(3))
    >>> optimizer = torch.optim.SGD([p for m in (*encoders, head) for p in m.parameters()], lr=0.1)
    >>> critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-3)
    >>> x, y, progress, alpha = [torch.randn(32, 6), torch.randn(32, 5)], torch.arange(32) % 3, 0.5, 1.0
    >>> z = [encoder(part) for encoder, part in zip(encoders, x)]
    >>> seen = score_pairs(critic, z[0].detach(), z[1].detach(), context=y)
    >>> critic_optimizer.zero_grad()
    >>> (-seen.objective / (1 + seen.ratio)).backward()
    >>> critic_optimizer.step()
    >>> optimizer.zero_grad()
    >>> task = torch.nn.functional.cross_entropy(head(torch.cat(z, dim=1)), y)
    >>> pairs = score_pairs(critic, z[0], z[1], context=y)
    >>> pull = -alpha * ramp(progress) * pairs.objective / (1 + pairs.ratio)
    >>> torch.autograd.backward([task, *z], [None, *guarded_gradients(z, pull, task).gradients])
    >>> optimizer.step()
    """
    task, pull = (
        [torch.zeros_like(f) if g is None else g for f, g in zip(features, found, strict=True)]
        for loss in (task_loss, pull_loss)
        for found in [torch.autograd.grad(loss, list(features), retain_graph=True, allow_unused=True)]
    )
    scales = gradient_scale(squared_norms(task), squared_norms(pull), rho)
    return Guarded([s.to(g.dtype) * g for s, g in zip(scales, pull, strict=True)], scales)


_FAST, _SLOW = 0.2, 0.05  # of the newest batch in the running losses
_NOISE = 0.6  # of a batch's deviation, about two of the fast mean


class LossHinge(nn.Module):
    """Hinge on the loss of each modality's own head: what it has lost against the best that it had reached.

        hinge_m = max(0, fast_m - best_m - noise_m)

    ``fast`` follows the loss over some 5 batches, the reference ``best`` is the lowest that a mean over some 20 has
    been: it only moves down, and slowly. Let alignment wait until the heads have reached something without it, or there
    is nothing to hold.
    ``noise`` is what the fast mean strays by chance, from the deviations of the batches. All are buffers.

    Args:
        modalities: M.

    >>> hinge, loss = LossHinge(1), torch.tensor([0.5], requires_grad=True)
    >>> [round(hinge(value * loss).item(), 2) for value in (4.0, 3.0, 2.0, 2.0)]   # falls: nothing is lost
    [0.0, 0.0, 0.0, 0.0]
    """

    fast: Tensor
    slow: Tensor
    variance: Tensor
    best: Tensor
    count: Tensor

    def __init__(self, modalities: int) -> None:
        super().__init__()
        for name in ("fast", "slow", "variance"):
            self.register_buffer(name, torch.zeros(modalities))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("best", torch.full((modalities,), torch.inf))

    def forward(self, losses: Tensor, everywhere: Tensor | None = None) -> Tensor:
        """Take in the losses of a batch and return the hinge of each modality, (M,).

        Where it is above zero its gradient is that of the loss itself, not of its small share in the running mean.

        Args:
            losses: (M,) losses of the heads on this process's samples.
            everywhere: the same on all samples of the batch, without gradient, where processes share it.
        """
        with torch.no_grad():
            seen = full_precision(losses if everywhere is None else everywhere)
            new = self.count == 0
            self.variance.lerp_(torch.where(new, 0.0, seen - self.fast).square(), _SLOW)
            self.fast.copy_(torch.where(new, seen, self.fast.lerp(seen, _FAST)))
            self.slow.copy_(torch.where(new, seen, self.slow.lerp(seen, _SLOW)))
            lost = (self.fast - self.best - _NOISE * self.variance.sqrt()).clamp(min=0)
            self.count += 1
            settled = self.count * _SLOW >= 1
            self.best.copy_(torch.where(settled, torch.minimum(self.best, self.slow), self.best))
        return lost + (lost > 0) * (losses - losses.detach())


def squared_norms(gradients: Sequence[Tensor]) -> Tensor:
    """Return (M,) squared norms of M gradients, in fp32 at least.

    >>> squared_norms([torch.tensor([3.0, 4.0])])
    tensor([25.])
    """
    return torch.stack([full_precision(g).square().sum() for g in gradients])


def ramp(progress: float, share: float = 0.3) -> float:
    """Return the factor on alpha: rises linearly from 0 to 1 over the first ``share`` of training.

    >>> ramp(0.0), round(ramp(0.15), 3), ramp(0.9), ramp(0.0, share=0.0)
    (0.0, 0.5, 1.0, 1.0)
    """
    return 1.0 if progress >= share else progress / share
