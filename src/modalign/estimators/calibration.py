"""Calibrate a trained critic on samples it has not seen, and what it is worth there."""

from __future__ import annotations

import torch
from torch import Tensor

from modalign.information.critics import Critic
from modalign.information.objectives import Form, checked_form, pointwise_information

_STEPS = 25


@torch.no_grad()
def heldout_information(critic: Critic, z1: Tensor, z2: Tensor, context: Tensor, form: Form = "nce3") -> Tensor:
    """Estimate I(Z1;Z2|T) in nats (plug-in) on held-out pairs, after calibrating the critic's logits there.

    A critic that has fitted its training pairs too closely is over-confident on others, and its plain plug-in far
    below zero even where information remains; ``calibrate`` mends that with two numbers fitted to hundreds of pairs.

    Args:
        critic: critic of the pair of modalities; it sees T.
        z1: (N, D1) held-out features of one modality.
        z2: (N, D2) features of the other, of the same samples.
        context: (N,) int64; negatives are the other samples of the context, and each sample's weigh one together.
        form: ``nce3`` or ``nce2``, which decides the offset of the optimal logit (the estimate is the same in theory).

    Returns:
        Scalar, at least 0; 0 where no context has two samples.

    >>> from modalign.information import BilinearCritic
    >>> heldout_information(BilinearCritic((2, 2)), torch.randn(4, 2), torch.randn(4, 2), torch.arange(4))
    tensor(0.)
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
    scores = torch.cat(positive)
    scale, offset = calibrate(scores, torch.cat(negative), torch.cat(weight), form)
    return (scale * scores + offset).mean().clamp(min=0)


@torch.no_grad()
def calibrate(positive: Tensor, negative: Tensor, weight: Tensor, form: Form = "nce3") -> tuple[Tensor, Tensor]:
    """Fit scale a and offset b with which the scores of a critic, a s + b, are pointwise information in nats.

    As Platt (1999) does for classifiers: a and b maximize the NCE objective on held-out pairs (weighted logistic
    regression by Newton's method).

    Args:
        positive: (n,) scores of positives, float64.
        negative: (m,) scores of negatives.
        weight: (m,) weights of the negatives, which sum to n.
        form: objective, ``nce3`` or ``nce2``; r is m/n.

    Returns:
        a and b; both 0 where the critic is worth nothing, its scores being no higher for positives.

    >>> a, b = calibrate(torch.tensor([3.0, 5.0]).double(), torch.tensor([1.0, 4.0]).double(), torch.ones(2).double())
    >>> bool(a > 0)
    True
    """
    form, ratio = checked_form(form), len(negative) / len(positive)
    gain = 1 + ratio if form == "nce3" else 1.0
    deviation = torch.cat([positive, negative]).std().clamp(min=1e-6)
    center = positive.mean()
    s = torch.cat([positive - center, negative - center]) / deviation
    sign = torch.cat([torch.ones_like(positive), -torch.ones_like(negative)])
    weights = torch.cat([torch.full_like(positive, gain), ratio * weight]) / len(positive)
    design = torch.stack([s, torch.ones_like(s)], dim=1)
    # A trace of ridge keeps separable pairs finite.
    ridge = torch.tensor([1e-3, 1e-6], dtype=s.dtype, device=s.device)
    solution = torch.zeros(2, dtype=s.dtype, device=s.device)
    for _ in range(_STEPS):
        wrong = torch.sigmoid(-sign * (design @ solution))
        gradient = design.T @ (weights * sign * wrong) - ridge * solution
        curvature = design.T @ (design * (weights * wrong * (1 - wrong))[:, None]) + torch.diag(ridge)
        step = torch.linalg.solve(curvature, gradient)
        solution = solution + step * (5.0 / step.norm()).clamp(max=1.0)
        if step.norm() < 1e-10:  # the next step would be its square
            break
    if solution[0] <= 0:
        return torch.zeros_like(center), torch.zeros_like(center)
    scale = solution[0] / deviation
    return scale, pointwise_information(solution[1] - scale * center, ratio, form)
