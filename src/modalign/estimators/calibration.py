"""What a trained critic is worth on samples it has not seen."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from modalign.information.critics import Critic
from modalign.information.objectives import Form, pointwise_information

_STEPS = 25


@torch.no_grad()
def heldout_information(critic: Critic, z1: Tensor, z2: Tensor, context: Tensor, form: Form = "three") -> Tensor:
    """Plug-in estimate of I(Z1;Z2|T) in nats on held-out pairs, after calibrating the critic's logits there.

    A critic that has fitted its training pairs too closely is over-confident on others, and its plain plug-in far
    below zero even where information remains. As Platt (1999) does for classifiers, the logits are mapped to a s + b,
    with a >= 0 and b the maximizers of the NCE objective on the held-out pairs; two numbers fitted to hundreds of
    pairs. A critic that is worth nothing there gets a = 0 and the estimate 0.

    Args:
        critic: of the pair of modalities; it sees T.
        z1, z2: (N, D1), (N, D2) held-out features of the same samples.
        context: (N,) int64; negatives are the other samples of the context, and each sample's weigh one together.
        form: ``three`` or ``two``, which decides the offset of the optimal logit (the estimate is the same in theory).

    Returns:
        Scalar, at least 0; 0 where no context has two samples.
    """
    left, right = critic.embed(z1, z2, context)
    positive, negative, weight = [], [], []
    for code in context.unique():
        rows = (context == code).nonzero().squeeze(1)
        count = len(rows)
        if count < 2:
            continue
        scores = critic.pair(left[rows], right[rows]).double()
        others = ~torch.eye(count, dtype=torch.bool, device=scores.device)
        positive.append(scores.diagonal())
        negative.append(scores[others])
        weight.append(torch.full_like(scores[others], 1 / (count - 1)))
    if not positive:
        return torch.zeros((), device=z1.device)
    return _calibrated(torch.cat(positive), torch.cat(negative), torch.cat(weight), form)


def _calibrated(positive: Tensor, negative: Tensor, weight: Tensor, form: Form) -> Tensor:
    """The estimate from logits of positives (n,), of negatives (m,) and the weights of these, which sum to n."""
    ratio = len(negative) / len(positive)
    gain = 1 + ratio if form == "three" else 1.0
    scale = torch.cat([positive, negative]).std().clamp(min=1e-6)
    center = positive.mean()
    s = torch.cat([positive - center, negative - center]) / scale
    sign = torch.cat([torch.ones_like(positive), -torch.ones_like(negative)])
    weights = torch.cat([torch.full_like(positive, gain), ratio * weight]) / len(positive)
    design = torch.stack([s, torch.ones_like(s)], dim=1)
    # Weighted logistic regression by Newton's method; a trace of ridge keeps separable pairs finite.
    ridge = torch.tensor([1e-3, 1e-6], dtype=s.dtype, device=s.device)
    solution = torch.zeros(2, dtype=s.dtype, device=s.device)
    for _ in range(_STEPS):
        wrong = torch.sigmoid(-sign * (design @ solution))
        gradient = design.T @ (weights * sign * wrong) - ridge * solution
        curvature = design.T @ (design * (weights * wrong * (1 - wrong))[:, None]) + torch.diag(ridge)
        step = torch.linalg.solve(curvature, gradient)
        solution = solution + step * (5.0 / step.norm()).clamp(max=1.0)
    if solution[0] <= 0:
        return torch.zeros((), device=s.device)
    logits = design[: len(positive)] @ solution
    estimate = pointwise_information(logits, torch.as_tensor(ratio, dtype=s.dtype), form).mean()
    return functional.relu(estimate)
