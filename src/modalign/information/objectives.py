"""Objectives of pairs: pure functions of critic scores and of which pairs are positive and which negative.

Throughout, ``scores`` are logits s = log h/(1-h) of any shape (``info_nce``: (..., n, m)); ``positive`` and
``negative`` have the same shape and are boolean masks or float weights >= 0. A weight enters the expectations
as a weighted mean; r = N0/N1 is always the ratio of the *numbers* of pairs with a weight above zero, so that
weights can be scaled at will. Everything is computed in fp32 (float64 stays), from ``logsigmoid`` and
``logsumexp``: no probability is formed. Every objective is a scalar to be MAXIMIZED; information is in nats.

The three objectives also take ``PairSums``, what ``score_pairs`` makes of a batch without ever holding all scores:
the function that one reads here is the one that training runs.

Without negatives, r = 0 and the terms with r vanish; without positives the objective is 0, with a graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from modalign.errors import SettingsError, unknown

Form = Literal["nce3", "nce2", "infonce"]
FORMS: tuple[Form, ...] = ("nce3", "nce2", "infonce")
_EARLIER: dict[str, Form] = {"three": "nce3", "two": "nce2"}

# Minus infinity for log-sum-exp, but finite: a row without negatives then has a gradient of zero and not NaN.
FLOOR = -1e30


@dataclass(frozen=True)
class PairSums:
    """Positives of a batch, each with sums over the negatives of its anchor.

    Every sample is an anchor that counts once, and its negatives together count once; a sample without negatives
    has no part in an objective. S is the number of sides (modalities) whose samples have been anchors.

    Attributes:
        score: (B,) logits of the positives.
        negatives: (S, B) sum of w log(1-h) over each anchor's negatives; for InfoNCE log of the sum of w e^s.
        weight: (S, B) sum of the weights w of these negatives.
        count: (S, B) number of these negatives.

    >>> three = torch.full((1, 4), 3.0)   # four samples of one context: each has three negatives, all with logit 0
    >>> sums = PairSums(torch.zeros(4), three * log_not_h(torch.zeros(4)), three, three)
    >>> sums.ratio.item(), round(conditional_nce(sums).item(), 4)   # 7 log(1/2)
    (3.0, -4.852)
    """

    score: Tensor
    negatives: Tensor
    weight: Tensor
    count: Tensor

    @property
    def used(self) -> Tensor:
        """(S, B) 1 for anchors that have negatives, 0 for others."""
        return (self.count > 0).to(self.score.dtype)

    @property
    def ratio(self) -> Tensor:
        """r, the number of negatives of an anchor that has any, on average; 0 where none has."""
        return mean_over(self.count.sum(), self.used.sum())

    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return E_pos[log h], E_neg[log(1-h)] and r."""
        used = self.used
        e_neg = mean_over((used * mean_over(self.negatives, self.weight)).sum(), used.sum())
        return mean_over((used * log_h(self.score)).sum(), used.sum()), e_neg, self.ratio


def conditional_nce(
    scores: Tensor | PairSums, positive: Tensor | None = None, negative: Tensor | None = None
) -> Tensor:
    """Compute E_pos[log h] + r E_neg[log(1-h)] + r E_pos[log h], r = N0/N1: the objective of ModAlign.

    The third term is the first with weight r and is part of the objective. Its maximizer is
    s* = log(p_pos/p_neg) + log((1+r)/r): with many negatives the logit is the pointwise information.
    Divide by 1+r when adding it to other losses, so that its scale does not depend on the batch.

    Args:
        scores: logits of any shape, or the sums over a batch (``PairSums``).
        positive: weights of the scores as positives; not with ``PairSums``.
        negative: weights of the scores as negatives; not with ``PairSums``.

    Source: InfoBridge (ICCV 2025), the conditional NCE objective.

    Raises:
        SettingsError: masks and scores differ in shape.

    >>> s, same = torch.zeros(2, 2), torch.eye(2, dtype=torch.bool)
    >>> round(conditional_nce(s, same, ~same).item(), 4)   # r = 1: three times log(1/2)
    -2.0794
    """
    e_pos, e_neg, r = _means(scores, positive, negative)
    return e_pos + r * e_neg + r * e_pos


def two_term_nce(scores: Tensor | PairSums, positive: Tensor | None = None, negative: Tensor | None = None) -> Tensor:
    """Compute E_pos[log h] + r E_neg[log(1-h)], r = N0/N1; its maximizer is s* = log(p_pos/p_neg) - log r.

    Arguments and errors are those of ``conditional_nce``.

    Source: Gutmann and Hyvarinen (JMLR 2012), Eq. 8; as a bound on information Tian et al.,
    "Contrastive Representation Distillation" (ICLR 2020): E_pos[log h] + log r <= I.

    >>> s, same = torch.zeros(2, 2), torch.eye(2, dtype=torch.bool)
    >>> round(two_term_nce(s, same, ~same).item(), 4)   # r = 1: twice log(1/2)
    -1.3863
    """
    e_pos, e_neg, r = _means(scores, positive, negative)
    return e_pos + r * e_neg


def info_nce(scores: Tensor | PairSums, positive: Tensor | None = None, negative: Tensor | None = None) -> Tensor:
    """Compute InfoNCE within rows and within columns, averaged, with the count of candidates added back.

    Each positive (i, j) competes with the negatives of its row, and of its column:

        s_ij - log( (e^s_ij + sum_k w_ik e^s_ik) / (1 + sum_k w_ik) )

    and the mean over positives and over both directions is returned. The normalization by the count makes
    the value itself the lower bound on I in nats, at most log(1 + number of negatives); its gradient is that
    of the usual form. A positive without negatives contributes 0.

    Args:
        scores: logits (..., n, m), or the sums over a batch (``PairSums``).
        positive: (..., n, m) weights of the scores as positives; not with ``PairSums``.
        negative: (..., n, m) weights of the scores as negatives; not with ``PairSums``.

    Source: van den Oord et al. (2018), Eq. 4; Poole et al. (ICML 2019), Eq. 12.

    Raises:
        SettingsError: masks and scores differ in shape, or have fewer than two dimensions.

    >>> same = torch.eye(3, dtype=torch.bool)
    >>> round(info_nce(50.0 * same, same, ~same).exp().item(), 3)   # the best value is the log of the candidates
    3.0
    """
    if isinstance(scores, PairSums):
        terms, weight = infonce_terms(scores.score, scores.negatives, scores.weight), scores.used
    else:
        scores, weight, w0 = _checked(scores, positive, negative)
        if scores.dim() < 2:
            raise SettingsError(
                f"info_nce needs scores (..., rows, columns) and got shape {tuple(scores.shape)}; "
                "give the matrix of pairs, or use two_term_nce, which takes any shape."
            )
        by_row, by_column = (
            infonce_terms(scores, log_sum_exp(scores, w0, dim), w0.sum(dim, keepdim=True)) for dim in (-1, -2)
        )
        terms = (by_row + by_column) / 2
    return mean_over((weight * terms).sum(), weight.sum())


OBJECTIVES: dict[Form, Callable[..., Tensor]] = {"nce3": conditional_nce, "nce2": two_term_nce, "infonce": info_nce}


def infonce_terms(scores: Tensor, negatives: Tensor, weight: Tensor) -> Tensor:
    """Compute the InfoNCE term of each positive: s - log((e^s + e^negatives) / (1 + weight)), in nats.

    Args:
        scores: logits of the positives.
        negatives: ``log_sum_exp`` of the logits of each one's negatives.
        weight: sum of the weights of each one's negatives.

    >>> infonce_terms(torch.zeros(1), torch.zeros(1), torch.ones(1))
    tensor([0.])
    """
    return scores - torch.logaddexp(scores, negatives) + torch.log1p(weight)


def donsker_varadhan(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Compute E_pos[s] - log E_neg[e^s]: a lower bound on I in nats if the critic has not been fitted to these pairs.

    Constant offsets of s cancel, so it can be read from a critic trained with any form. 0 where there are no
    positives or no negatives.

    Source: Donsker and Varadhan (1975); Belghazi et al., "MINE" (ICML 2018), Eq. 2.

    Raises:
        SettingsError: masks and scores differ in shape.

    >>> same = torch.eye(2, dtype=torch.bool)
    >>> donsker_varadhan(3.0 * same + 7.0, same, ~same).item()
    3.0
    """
    scores, w1, w0 = _checked(scores, positive, negative)
    exist = (w1 > 0).any() & (w0 > 0).any()
    log_mean = log_sum_exp(scores.flatten(), w0.flatten(), 0) - w0.sum().clamp(min=torch.finfo(w0.dtype).tiny).log()
    return (mean_over((w1 * scores).sum(), w1.sum()) - log_mean) * exist


def pointwise_information(scores: Tensor, ratio: float | Tensor, form: Form) -> Tensor:
    """Compute pointwise (conditional) information log p_pos/p_neg, in nats, from the logits of a fitted critic.

    ``nce3``: s - log((1+r)/r); ``nce2``: s + log r. Where r = 0 nothing was compared and the value is 0.

    Args:
        scores: logits, any shape.
        ratio: r = N0/N1 with which the critic was fitted.
        form: the objective with which it was fitted; ``infonce`` leaves the offset of s free and is refused
            (use ``infonce_terms``, which needs the negatives).

    Raises:
        SettingsError: the form is unknown or has no pointwise value.

    >>> pointwise_information(torch.tensor([2.0]).log(), 1.0, "nce3")
    tensor([0.])
    """
    form = checked_form(form)
    if form == "infonce":
        raise SettingsError("InfoNCE fixes logits only up to an offset; take infonce_terms, given the negatives.")
    scores = full_precision(scores)
    r = torch.as_tensor(ratio, dtype=scores.dtype, device=scores.device)
    safe = r.clamp(min=torch.finfo(scores.dtype).tiny)
    offset = torch.log1p(safe) - safe.log() if form == "nce3" else -safe.log()
    return torch.where(r > 0, scores - offset, scores * 0)


def information(scores: Tensor, positive: Tensor, negative: Tensor, form: Form) -> Tensor:
    """Estimate I(Z1;Z2|T) in nats from the scores of a critic fitted with ``form``.

    ``nce3`` and ``nce2``: the plug-in E_pos[log p_pos/p_neg], consistent but not a bound. ``infonce``: the
    lower bound ``info_nce``, which cannot exceed log(1 + number of negatives).

    Raises:
        SettingsError: masks and scores differ in shape, or the form is unknown.

    >>> same = torch.eye(2, dtype=torch.bool)
    >>> information(5.0 * same, same, ~same, "nce2").item()   # r = 1: the logit itself
    5.0
    """
    if checked_form(form) == "infonce":
        return info_nce(scores, positive, negative)
    scores, w1, w0 = _checked(scores, positive, negative)
    return pointwise_information(mean_over((w1 * scores).sum(), w1.sum()), _ratio(w1, w0), form)


def checked_form(form: str) -> Form:
    """Return the name of an objective, with the names of version 0.1 (``three``, ``two``) translated.

    Raises:
        SettingsError: there is no objective of that name.

    >>> checked_form("nce3")
    'nce3'
    """
    if form in _EARLIER:
        now = _EARLIER[form]
        warnings.warn(f"the objective {form!r} is called {now!r} now", DeprecationWarning, stacklevel=3)
        return now
    if form not in FORMS:
        raise unknown("objective", form, FORMS)
    return form


def log_h(scores: Tensor) -> Tensor:
    """Compute log h = logsigmoid(s), element by element.

    >>> round(log_h(torch.zeros(1)).exp().item(), 3)
    0.5
    """
    return F.logsigmoid(scores)


def log_not_h(scores: Tensor) -> Tensor:
    """Compute log(1-h) = logsigmoid(-s), element by element.

    Written as -softplus(s), the same function, whose backward pass keeps one tensor less.

    >>> round(log_not_h(torch.zeros(1)).exp().item(), 3)
    0.5
    """
    return -F.softplus(scores, threshold=40.0)


def log_sum_exp(scores: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Compute log sum_k w_k e^{s_k} over ``dim`` (kept); about -1e30, with zero gradient, where every weight is 0.

    >>> log_sum_exp(torch.zeros(2), torch.tensor([0.5, 0.5]), 0)
    tensor([0.])
    """
    used = weight > 0
    logits = torch.where(used, scores + weight.clamp(min=torch.finfo(weight.dtype).tiny).log(), FLOOR)
    return torch.logsumexp(logits, dim, keepdim=True)


def full_precision(x: Tensor) -> Tensor:
    """Return ``x`` in fp32; float64 stays as it is.

    >>> full_precision(torch.zeros(1, dtype=torch.float16)).dtype
    torch.float32
    """
    return x if x.dtype == torch.float64 else x.float()


def mean_over(total: Tensor, weight: Tensor) -> Tensor:
    """Return total / weight; 0, with a graph, where the weight is 0 (and so is the total).

    >>> mean_over(torch.tensor([3.0, 0.0]), torch.tensor([2.0, 0.0]))
    tensor([1.5000, 0.0000])
    """
    return total / weight.clamp(min=torch.finfo(weight.dtype).tiny)


def _means(
    scores: Tensor | PairSums, positive: Tensor | None, negative: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute E_pos[log h], E_neg[log(1-h)] and r."""
    if isinstance(scores, PairSums):
        return scores.means()
    scores, w1, w0 = _checked(scores, positive, negative)
    e_neg = mean_over((w0 * log_not_h(scores)).sum(), w0.sum())
    return mean_over((w1 * log_h(scores)).sum(), w1.sum()), e_neg, _ratio(w1, w0)


def _ratio(w1: Tensor, w0: Tensor) -> Tensor:
    """Compute r = N0/N1; 0 where there is no positive."""
    positives, negatives = ((w > 0).to(w.dtype).sum() for w in (w1, w0))
    return torch.where(positives > 0, negatives / positives.clamp(min=1), 0.0)


def _checked(scores: Tensor, positive: Tensor | None, negative: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores and weights in full precision; scores of pairs that are neither are replaced by 0."""
    if positive is None or negative is None:
        raise SettingsError("scores need to know which are positive and which negative; give both masks.")
    if not scores.shape == positive.shape == negative.shape:
        raise SettingsError(
            f"scores {tuple(scores.shape)}, positive {tuple(positive.shape)} and negative "
            f"{tuple(negative.shape)} must have one shape; expand the masks to the shape of the scores."
        )
    scores = full_precision(scores)
    w1, w0 = positive.to(scores.dtype), negative.to(scores.dtype)
    return scores.masked_fill((w1 == 0) & (w0 == 0), 0.0), w1, w0
