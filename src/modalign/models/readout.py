"""Read out what several voices say of the class: a log-opinion pool with weights fitted to held-out likelihood.

By Bayes' rule, with C classes and M modalities,

    log p(y | z_1..z_M) = log p(y) + sum_m [log p(y | z_m) - log p(y)]
                          + log [ p(z_1..z_M | y) / prod_m p(z_m | y) ] + const(z_1..z_M)

so the product of experts (the first line) is the posterior where the bracket of the second does not depend on y, as
where the modalities are independent given the label. The bracket is what a critic h(z_a, z_b, T = y) estimates, up to
a constant: its logit s, evaluated for every candidate class, is the fusion operator E_h. What all classes share, such
as nuisance that modalities have in common, cancels. For M > 2 the sum over pairs is the first order of the bracket.

Voices that were fitted to few samples are over-confident, and overlap; so each has a weight that must be earned:

    F_c = log p(c) + w_J [log p_J(c) - log p(c)] + sum_m w_m [log p_m(c) - log p(c)]
          + kappa sum_{a<b} [s(z_a, z_b, c) - mean_c s],        w, kappa > 0

(Genest and Zidek, "Combining probability distributions", Statistical Science 1986; with one voice it is the temperature
of Guo et al., ICML 2017.) The prior's exponent follows from the weights, 1 - sum w: evidence is weighed, the prior
counts once. With w_J = 0, w_m = kappa = 1 and true densities F is the exact posterior.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from modalign.data.info import DataInfo
from modalign.data.task import Task, TaskKind
from modalign.errors import InputError

SHRINKAGE = 3.0
"""Strength of the log-normal prior on weights: a weight e times its prior costs as much as 3 nats on the samples."""
EARNED = 3.0
"""Nats of posterior that an optional voice must gain: strong evidence (Kass and Raftery, Bayes Factors, JASA 1995)."""


def evidence(
    joint_logits: Tensor,
    unimodal_logits: Mapping[str, Tensor],
    present: Tensor,
    log_prior: Tensor | None = None,
    scores: Tensor | None = None,
    kind: TaskKind = "classification",
) -> Tensor:
    """Stack what each voice of the pool says: the joint head, the head of each modality, the critics together.

    Args:
        joint_logits: (B, C) of the joint head.
        unimodal_logits: modality name to (B, C), in the order of the columns of ``present``.
        present: (B, M) bool; what needs an absent modality is zero, and drops out of the pool.
        log_prior: (C,) logarithm of the class frequencies (``log_prior_of``); equal ones by default.
        scores: (B, P, C) logits s of the critics of P pairs for every class, zero where one of a pair is absent.
        kind: of the task. Labels are C decisions of their own: their log-odds take the place of log-probabilities, here
            and in ``pool``, and ``log_prior`` holds log-odds (``log_prior_of``).

    Returns:
        (B, K, C) with K = 1 + M, or 2 + M with critics: log p_k - log p(y), and s less its mean over classes. Of
        numbers (regression, survival) the scores as they are, and NaN for what is absent.

    Raises:
        InputError: the number of modalities and the columns of ``present`` disagree.

    >>> sure, here = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[True, False]])
    >>> evidence(sure, {"a": sure, "b": sure}, here).shape
    torch.Size([1, 3, 2])
    """
    there = torch.cat([present.any(1, keepdim=True), present], 1)
    heads = _stack([joint_logits, *unimodal_logits.values()], there)
    if kind == "multilabel":
        return torch.where(there.unsqueeze(2), heads - (0.0 if log_prior is None else log_prior.to(heads)), 0.0)
    if kind != "classification" or heads.shape[2] == 1:
        return torch.where(there.unsqueeze(2), heads, torch.nan)
    prior = 0.0 if log_prior is None else log_prior.to(heads).log_softmax(0)
    voices = torch.where(there.unsqueeze(2), heads.log_softmax(2) - prior, 0.0)
    if scores is None:
        return voices
    critics = scores.to(voices).sum(1, keepdim=True)
    return torch.cat([voices, critics - critics.mean(2, keepdim=True)], 1)


def pool(voices: Tensor, weights: Tensor, log_prior: Tensor | None = None, kind: TaskKind = "classification") -> Tensor:
    """Pool what voices say (``evidence``), (B, K, C), with ``weights`` (K,): log-probabilities (B, C).

    A row in which nothing is present has the prior. Of labels the result is log-odds. Numbers are averaged with the
    weights of those present; a row without any is 0.

    >>> pool(torch.tensor([[0.75, 0.25]]).log().expand(1, 2, 2), torch.ones(2)).exp()
    tensor([[0.9000, 0.1000]])
    """
    weights = weights.to(voices)
    if kind not in ("classification", "multilabel") or (kind == "classification" and voices.shape[2] == 1):
        there = ~voices.isnan().any(2)
        total = (there * weights).sum(1, keepdim=True).clamp(min=torch.finfo(voices.dtype).tiny)
        return torch.einsum("k,bkc->bc", weights, voices.nan_to_num()) / total
    pooled = torch.einsum("k,bkc->bc", weights, voices)
    if kind == "multilabel":
        return pooled if log_prior is None else pooled + log_prior.to(pooled)
    if log_prior is not None:
        pooled = pooled + log_prior.to(pooled).log_softmax(0)
    return pooled.log_softmax(1)


def fit_weights(
    voices: Tensor,
    target: Tensor,
    start: Sequence[float] | Tensor,
    task: Task,
    log_prior: Tensor | None = None,
    shrinkage: float = SHRINKAGE,
    optional: int = 0,
    groups: Tensor | None = None,
) -> Tensor:
    """Fit the weights of a pool to held-out samples by maximum a posteriori, in fp64 on the CPU: deterministic.

    The negative log-likelihood of the samples plus ``shrinkage`` times the squared logarithm of each weight over its
    ``start``, by L-BFGS from ``start``. A log-normal prior keeps weights positive, and lets few samples do no harm.
    The likelihood is that of the classes or labels, of a Gaussian with the variance of the residuals (regression), or
    Cox's partial one (survival).

    Args:
        voices: (N, K, C) of ``evidence``.
        target: (N,) classes or values, (N, 2) time and event.
        start: (K,) the weights of the prior, above zero.
        task: what is predicted.
        log_prior: (C,) as in ``pool``.
        shrinkage: strength of the prior on the weights.
        optional: so many of the last voices have to earn their part: their weights are zero unless the pool with them
            is better by ``EARNED`` nats of posterior than the pool without them. Of classes.
        groups: (N,) codes of the groups (speakers, sites, batches) that the samples are of, where answers will be asked
            about other groups: those are what was drawn, and evidence counts them, not samples. The optional voices'
            gain must then be above zero by a one-sided t-test over groups, too, at 5 %.

    Returns:
        (K,) fp32 on the CPU; ``start`` where the samples cannot tell (a single class or value, no event).

    >>> said = torch.tensor([[[2.0, -2.0]], [[-2.0, 2.0]], [[2.0, -2.0]], [[2.0, -2.0]]])
    >>> fit_weights(said, torch.tensor([0, 1, 1, 0]), [1.0], Task("classification", ("a", "b"))).round(decimals=1)
    tensor([0.7000])
    """
    voices, target = voices.detach().cpu().double(), target.cpu()
    prior = torch.as_tensor(start, dtype=torch.float64).log()
    log_prior = None if log_prior is None else log_prior.detach().cpu().double()
    blind = not target[:, 1].any() if task.kind == "survival" else len(target[target == target].unique()) < 2
    silent = torch.zeros(optional, dtype=torch.float64)
    if blind:
        return torch.cat([prior[: len(prior) - optional].exp(), silent]).float()
    weights, loss = _maximum(voices, target, prior, task, log_prior, shrinkage)
    if optional:
        plain, without = _maximum(voices[:, :-optional], target, prior[:-optional], task, log_prior, shrinkage)
        plain, earned = torch.cat([plain, silent]), without - loss > EARNED
        if earned and groups is not None:
            with_, without_ = (_log_likelihood(voices, target, w, log_prior) for w in (weights, plain))
            earned = _above_zero_over(groups.cpu(), with_ - without_)
        weights = weights if earned else plain
    return weights.float()


def _log_likelihood(voices: Tensor, target: Tensor, weights: Tensor, log_prior: Tensor | None) -> Tensor:
    """(N,) log-probabilities of the classes."""
    return -functional.nll_loss(pool(voices, weights, log_prior), target, reduction="none")


def _above_zero_over(groups: Tensor, gains: Tensor) -> bool:
    """Whether the mean over groups of what samples gain is above zero, by a one-sided t-test at 5 %."""
    from scipy.stats import ttest_1samp

    codes, member = groups.unique(return_inverse=True)
    means = member.bincount(gains) / member.bincount()
    return len(codes) > 1 and bool(ttest_1samp(means.numpy(), 0, alternative="greater").pvalue < 0.05)


def _maximum(
    voices: Tensor, target: Tensor, prior: Tensor, task: Task, log_prior: Tensor | None, shrinkage: float
) -> tuple[Tensor, float]:
    """Return the most probable weights (K,), and the negative logarithm of their posterior but for a constant."""
    change = torch.zeros_like(prior, requires_grad=True)
    loss = _likelihood(task, voices, target, log_prior)
    optimizer = torch.optim.LBFGS([change], max_iter=100, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def posterior() -> Tensor:
        return loss((prior + change).exp()) + shrinkage * change.square().sum()

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = posterior()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(closure)
        found = posterior().item()
    return (prior + change.detach()).exp(), found


def _likelihood(task: Task, voices: Tensor, target: Tensor, log_prior: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return the negative log-likelihood, a sum over samples, of weights (K,)."""
    if task.kind == "classification":
        return lambda weights: functional.nll_loss(pool(voices, weights, log_prior), target, reduction="sum")
    if task.kind == "multilabel":
        return lambda weights: task.outputs * task.loss(pool(voices, weights, log_prior, task.kind), target, "sum")
    if task.kind == "survival":
        return lambda weights: task.loss(pool(voices, weights), target, "sum")
    return lambda weights: (
        len(target) / 2 * task.loss(pool(voices, weights, None, task.kind), target).clamp(min=1e-30).log()
    )


def product_of_experts(
    unimodal_logits: Mapping[str, Tensor],
    present: Tensor,
    log_prior: Tensor | None = None,
    kind: TaskKind = "classification",
) -> Tensor:
    """Compute the posterior of modalities that are independent given the label, as log-probabilities.

    Arguments and errors are those of ``evidence``. Of numbers (regression, survival) it is the mean of the scores:
    where the product of Gaussians of equal variance has its maximum.

    Returns:
        (B, C) log-probabilities of classes, log-odds of labels, or scores.

    >>> sure = torch.tensor([[0.75, 0.25]]).log()
    >>> product_of_experts({"a": sure, "b": sure}, torch.ones(1, 2, dtype=torch.bool)).exp()
    tensor([[0.9000, 0.1000]])
    """
    stacked = _stack([*unimodal_logits.values()], present)
    if kind == "multilabel":
        prior = 0.0 if log_prior is None else log_prior.to(stacked)
        return ((stacked - prior) * present.unsqueeze(2)).sum(1) + prior
    if kind != "classification" or stacked.shape[2] == 1:
        return (stacked * present.unsqueeze(2)).sum(1) / present.sum(1, keepdim=True).clamp(min=1)
    scores = (stacked.log_softmax(2) * present.unsqueeze(2)).sum(1)
    if log_prior is not None:
        surplus = present.sum(1, keepdim=True) - 1
        scores = scores - surplus * log_prior.to(scores).log_softmax(0)
    return scores.log_softmax(1)


def _stack(logits: Sequence[Tensor], present: Tensor) -> Tensor:
    """(B, K, C) in fp32, or fp64 where they are."""
    if len(logits) != present.shape[1]:
        raise InputError(
            f"{len(logits)} heads have logits but {present.shape[1]} are said to be present; "
            "expected one column of 'present' for each modality, in the same order."
        )
    stacked = torch.stack(list(logits), 1)
    return stacked.to(torch.promote_types(stacked.dtype, torch.float32))


def class_log_prior(counts: Sequence[int] | Tensor) -> Tensor:
    """Return (C,) logarithms of the class frequencies of training samples, one added to each of ``counts`` (C,).

    >>> class_log_prior([2, 0]).exp()
    tensor([0.7500, 0.2500])
    """
    smoothed = torch.as_tensor(counts) + 1.0
    return (smoothed / smoothed.sum()).log()


def log_prior_of(info: DataInfo) -> Tensor | None:
    """Return what ``pool`` divides by: (C,) log-frequencies of classes, log-odds of labels; None for other tasks.

    >>> log_prior_of(DataInfo("toy", Task("multilabel", ("a", "b")), {}, 4, (2, 0, 0, 2))).exp()
    tensor([0.3333, 3.0000])
    """
    if info.task.kind == "multilabel":
        without, having = (torch.tensor(info.class_counts).view(-1, 2) + 1.0).log().unbind(1)
        return having - without
    return class_log_prior(info.class_counts) if info.task.kind == "classification" else None
