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
def calibrated_information(positive: Tensor, negative: Tensor, valid: Tensor, form: Form = "nce3") -> Tensor:
    """Estimate I(Z1;Z2|T) in nats of P pairs of modalities at once, each from its calibrated logits.

    Args:
        positive: (P, N) logits of samples' own pairs.
        negative: (P, N, k) logits of each sample with k others of its context.
        valid: (P, N, k) which of these there are; a sample without any is left out.
        form: as in ``heldout_information``.

    Returns:
        (P,), at least 0; 0 where no sample has another.

    >>> ones = torch.ones(1, 4, 1)
    >>> calibrated_information(ones[..., 0], ones, ones > 0)   # logits that do not tell own pairs from others
    tensor([0.], dtype=torch.float64)
    """
    count = valid.sum(-1)
    used = (count > 0).double()
    weight = (valid / count.clamp(min=1)[..., None]).flatten(1)
    scale, offset = calibrate(positive.double(), negative.double().flatten(1), weight.double(), form, used)
    anchors = used.sum(1)
    mean = (scale * (used * positive).sum(1) + offset * anchors) / anchors.clamp(min=1)
    return mean.clamp(min=0)


@torch.no_grad()
def calibrate(
    positive: Tensor, negative: Tensor, weight: Tensor, form: Form = "nce3", used: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Fit scale a and offset b with which the scores of a critic, a s + b, are pointwise information in nats.

    As Platt (1999) does for classifiers: a and b maximize the NCE objective on held-out pairs (weighted logistic
    regression by Newton's method). Several critics at once have leading dimensions.

    Args:
        positive: (..., n) scores of positives, float64.
        negative: (..., m) scores of negatives.
        weight: (..., m) weights of the negatives, 0 for none, which sum to the number of positives.
        form: objective, ``nce3`` or ``nce2``; r is the number of negatives by that of positives.
        used: (..., n) 1 for positives that count, 0 for others; all by default.

    Returns:
        a and b, (...); both 0 where the critic is worth nothing, its scores being no higher for positives.

    >>> a, b = calibrate(torch.tensor([3.0, 5.0]).double(), torch.tensor([1.0, 4.0]).double(), torch.ones(2).double())
    >>> bool(a > 0)
    True
    """
    form, used = checked_form(form), torch.ones_like(positive) if used is None else used
    anchors = used.sum(-1, keepdim=True).clamp(min=1)
    ratio = (weight > 0).sum(-1, keepdim=True) / anchors
    gain = 1 + ratio if form == "nce3" else torch.ones_like(ratio)
    scores, counted = torch.cat([positive, negative], -1), torch.cat([used, (weight > 0).to(used.dtype)], -1)
    center = (used * positive).sum(-1, keepdim=True) / anchors
    s = (scores - center) * counted
    total = counted.sum(-1, keepdim=True).clamp(min=2)
    variance = (s.square().sum(-1, keepdim=True) - s.sum(-1, keepdim=True).square() / total) / (total - 1)
    deviation = variance.clamp(min=1e-12).sqrt()
    sign = torch.cat([torch.ones_like(positive), -torch.ones_like(negative)], -1)
    weights = torch.cat([gain * used, ratio * weight], -1) / anchors
    design = torch.stack([s / deviation, torch.ones_like(s)], -1)
    # A trace of ridge keeps separable pairs finite.
    ridge = torch.tensor([1e-3, 1e-6], dtype=s.dtype, device=s.device)
    solution = s.new_zeros((*s.shape[:-1], 2))
    for _ in range(_STEPS):
        wrong = torch.sigmoid(-sign * (design @ solution[..., None]).squeeze(-1))
        gradient = ((weights * sign * wrong)[..., None] * design).sum(-2) - ridge * solution
        curvature = design.mT @ (design * (weights * wrong * (1 - wrong))[..., None]) + torch.diag(ridge)
        step = torch.linalg.solve(curvature, gradient)
        length = step.norm(dim=-1, keepdim=True)
        solution = solution + step * (5.0 / length).clamp(max=1.0)
        if length.max() < 1e-10:  # the next step would be its square
            break
    scale = solution[..., 0] / deviation[..., 0]
    offset = pointwise_information(solution[..., 1] - scale * center[..., 0], ratio[..., 0], form)
    useful = solution[..., 0] > 0
    return torch.where(useful, scale, 0.0), torch.where(useful, offset, 0.0)
