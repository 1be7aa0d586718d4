"""Objectives of pairs: pure functions of critic scores and of which pairs are positive and which negative.

Throughout, ``scores`` are logits s = log h/(1-h) of any shape (``info_nce``: (..., n, m)); ``positive`` and
``negative`` have the same shape and are boolean masks or float weights >= 0. A weight enters the expectations
as a weighted mean; r = N0/N1 is always the ratio of the *numbers* of pairs with a weight above zero, so that
weights can be scaled at will. Everything is computed in fp32 (float64 stays), from ``logsigmoid`` and
``logsumexp``: no probability is formed. Every objective is a scalar to be MAXIMISED; information is in nats.

Without negatives, r = 0 and the terms with r vanish; without positives the objective is 0, with a graph.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from modalign.errors import InputError, unknown

Form = Literal["three", "two", "infonce"]
FORMS: tuple[Form, ...] = ("three", "two", "infonce")

# Minus infinity for log-sum-exp, but finite: a row without negatives then has a gradient of zero and not NaN.
FLOOR = -1e30


@dataclass(frozen=True)
class PairSums:
    """Sums over pairs from which the NCE objectives follow; blocks of pairs are added with ``+``.

    Attributes (all scalars):
        log_h: weighted sum of log h over positives.
        log_not_h: weighted sum of log(1-h) over negatives.
        score: weighted sum of the logits over positives.
        positive_weight, negative_weight: sums of the weights.
        positives, negatives: numbers N1 and N0 of pairs with a weight above zero.
    """

    log_h: Tensor
    log_not_h: Tensor
    score: Tensor
    positive_weight: Tensor
    negative_weight: Tensor
    positives: Tensor
    negatives: Tensor

    @classmethod
    def of(cls, scores: Tensor, positive: Tensor, negative: Tensor) -> Self:
        """The sums of one block of pairs."""
        scores, w1, w0 = _checked(scores, positive, negative)
        return cls(
            log_h=(w1 * log_h(scores)).sum(),
            log_not_h=(w0 * log_not_h(scores)).sum(),
            score=(w1 * scores).sum(),
            positive_weight=w1.sum(),
            negative_weight=w0.sum(),
            positives=(w1 > 0).to(w1.dtype).sum(),
            negatives=(w0 > 0).to(w0.dtype).sum(),
        )

    def __add__(self, other: Self) -> Self:
        return type(self)(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def ratio(self) -> Tensor:
        """r = N0/N1; 0 where there is no positive."""
        return torch.where(self.positives > 0, self.negatives / self.positives.clamp(min=1), 0.0)

    def objective(self, form: Form) -> Tensor:
        """The three-term or the two-term NCE objective of all pairs."""
        e_pos, e_neg = (
            mean_over(self.log_h, self.positive_weight),
            mean_over(self.log_not_h, self.negative_weight),
        )
        return nce(e_pos, e_neg, self.ratio, form)

    def information(self, form: Form) -> Tensor:
        """The plug-in estimate, in nats, that belongs to the three-term or the two-term objective."""
        return pointwise_information(mean_over(self.score, self.positive_weight), self.ratio, form)


def log_h(scores: Tensor) -> Tensor:
    """log h = logsigmoid(s), element by element."""
    return F.logsigmoid(scores)


def log_not_h(scores: Tensor) -> Tensor:
    """log(1-h) = logsigmoid(-s), element by element.

    Written as -softplus(s), the same function, whose backward pass keeps one tensor less.
    """
    return -F.softplus(scores, threshold=40.0)


def nce(e_pos: Tensor, e_neg: Tensor, ratio: Tensor, form: Form) -> Tensor:
    """The NCE objective from its expectations E_pos[log h] and E_neg[log(1-h)] and r = N0/N1.

    ``three``: E_pos + r E_neg + r E_pos, as printed; ``two``: E_pos + r E_neg.
    """
    if form == "three":
        return e_pos + ratio * e_neg + ratio * e_pos
    if form == "two":
        return e_pos + ratio * e_neg
    raise unknown("form of NCE", form, FORMS[:2])


def conditional_nce(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """E_pos[log h] + r E_neg[log(1-h)] + r E_pos[log h], r = N0/N1: the objective of ModAlign.

    The third term is the first with weight r and is part of the objective. Its maximizer is
    s* = log(p_pos/p_neg) + log((1+r)/r): with many negatives the logit is the pointwise information.
    Divide by 1+r when adding it to other losses, so that its scale does not depend on the batch.

    Source: InfoBridge (ICCV 2025), the conditional NCE objective.

    Raises:
        InputError: masks and scores differ in shape.

    >>> import math, torch
    >>> s = torch.zeros(2, 2)
    >>> same = torch.eye(2, dtype=torch.bool)
    >>> round(conditional_nce(s, same, ~same).item() / math.log(2), 6)   # r = 1: three times log(1/2)
    -3.0
    """
    return PairSums.of(scores, positive, negative).objective("three")


def two_term_nce(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """E_pos[log h] + r E_neg[log(1-h)], r = N0/N1; its maximizer is s* = log(p_pos/p_neg) - log r.

    Source: Gutmann and Hyvarinen (JMLR 2012), Eq. 8; as a bound on information Tian et al.,
    "Contrastive Representation Distillation" (ICLR 2020): E_pos[log h] + log r <= I.

    Raises:
        InputError: masks and scores differ in shape.
    """
    return PairSums.of(scores, positive, negative).objective("two")


def info_nce(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """InfoNCE within rows and within columns, averaged, with the count of candidates added back.

    Each positive (i, j) competes with the negatives of its row, and of its column:

        s_ij - log( (e^s_ij + sum_k w_ik e^s_ik) / (1 + sum_k w_ik) )

    and the mean over positives and over both directions is returned. The normalization by the count makes
    the value itself the lower bound on I in nats, at most log(1 + number of negatives); its gradient is that
    of the usual form. A positive without negatives contributes 0.

    Args:
        scores, positive, negative: (..., n, m).

    Source: van den Oord et al. (2018), Eq. 4; Poole et al. (ICML 2019), Eq. 12.

    Raises:
        InputError: masks and scores differ in shape, or have fewer than two dimensions.
    """
    scores, w1, w0 = _checked(scores, positive, negative)
    if scores.dim() < 2:
        raise InputError(
            f"info_nce needs scores (..., rows, columns) and got shape {tuple(scores.shape)}; "
            "give the matrix of pairs, or use two_term_nce, which takes any shape."
        )
    by_row, by_column = (
        infonce_terms(scores, log_sum_exp(scores, w0, dim), w0.sum(dim, keepdim=True)) for dim in (-1, -2)
    )
    return mean_over((w1 * (by_row + by_column) / 2).sum(), w1.sum())


def infonce_terms(scores: Tensor, negatives: Tensor, weight: Tensor) -> Tensor:
    """The InfoNCE term of each positive: s - log((e^s + e^negatives) / (1 + weight)), in nats.

    Args:
        scores: logits of the positives.
        negatives: ``log_sum_exp`` of the logits of each one's negatives.
        weight: sum of the weights of each one's negatives.
    """
    return scores - torch.logaddexp(scores, negatives) + torch.log1p(weight)


def donsker_varadhan(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """E_pos[s] - log E_neg[e^s]: a lower bound on I in nats if the critic has not been fitted to these pairs.

    Constant offsets of s cancel, so it can be read from a critic trained with any form. 0 where there are no
    positives or no negatives.

    Source: Donsker and Varadhan (1975); Belghazi et al., "MINE" (ICML 2018), Eq. 2.

    Raises:
        InputError: masks and scores differ in shape.
    """
    scores, w1, w0 = _checked(scores, positive, negative)
    exist = (w1 > 0).any() & (w0 > 0).any()
    log_mean = log_sum_exp(scores.flatten(), w0.flatten(), 0) - w0.sum().clamp(min=_tiny(w0)).log()
    return (mean_over((w1 * scores).sum(), w1.sum()) - log_mean) * exist


def pointwise_information(scores: Tensor, ratio: float | Tensor, form: Form) -> Tensor:
    """Pointwise (conditional) information log p_pos/p_neg, in nats, from the logits of a fitted critic.

    ``three``: s - log((1+r)/r); ``two``: s + log r. Where r = 0 nothing was compared and the value is 0.

    Args:
        scores: logits, any shape.
        ratio: r = N0/N1 with which the critic was fitted.
        form: the objective with which it was fitted; ``infonce`` leaves the offset of s free and is refused
            (use ``infonce_terms``, which needs the negatives).

    Raises:
        InputError: the form is unknown or has no pointwise value.
    """
    scores = full_precision(scores)
    r = torch.as_tensor(ratio, dtype=scores.dtype, device=scores.device)
    safe = r.clamp(min=_tiny(scores))
    if form == "three":
        offset = torch.log1p(safe) - safe.log()
    elif form == "two":
        offset = -safe.log()
    elif form == "infonce":
        raise InputError("InfoNCE fixes logits only up to an offset; take infonce_terms, given the negatives.")
    else:
        raise unknown("form of NCE", form, FORMS)
    return torch.where(r > 0, scores - offset, scores * 0)


def information(scores: Tensor, positive: Tensor, negative: Tensor, form: Form) -> Tensor:
    """Estimate of I(Z1;Z2|T) in nats from a critic fitted with ``form``.

    ``three`` and ``two``: the plug-in E_pos[log p_pos/p_neg], consistent but not a bound. ``infonce``: the
    lower bound ``info_nce``, which cannot exceed log(1 + number of negatives).

    Raises:
        InputError: masks and scores differ in shape, or the form is unknown.
    """
    if form == "infonce":
        return info_nce(scores, positive, negative)
    return PairSums.of(scores, positive, negative).information(form)


def log_sum_exp(scores: Tensor, weight: Tensor, dim: int) -> Tensor:
    """log sum_k w_k e^{s_k} over ``dim`` (kept); about -1e30, with zero gradient, where every weight is 0."""
    used = weight > 0
    logits = torch.where(used, scores + weight.clamp(min=_tiny(weight)).log(), FLOOR)
    return torch.logsumexp(logits, dim, keepdim=True)


def full_precision(x: Tensor) -> Tensor:
    """``x`` in fp32; float64 stays as it is."""
    return x if x.dtype == torch.float64 else x.float()


def mean_over(total: Tensor, weight: Tensor) -> Tensor:
    """total / weight; 0, with a graph, where the weight is 0 (and so is the total)."""
    return total / weight.clamp(min=_tiny(weight))


def _checked(scores: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and weights in full precision; scores of pairs that are neither are replaced by 0."""
    if not scores.shape == positive.shape == negative.shape:
        raise InputError(
            f"scores {tuple(scores.shape)}, positive {tuple(positive.shape)} and negative "
            f"{tuple(negative.shape)} must have one shape; expand the masks to the shape of the scores."
        )
    scores = full_precision(scores)
    w1, w0 = positive.to(scores.dtype), negative.to(scores.dtype)
    return scores.masked_fill((w1 == 0) & (w0 == 0), 0.0), w1, w0


def _tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny
