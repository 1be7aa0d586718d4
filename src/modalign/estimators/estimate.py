"""Estimates of I(X;Y) and I(X;Y|T) in nats, with a standard error and the kind of number each is.

Neural methods train a critic (``ratio``) on one part of the samples, stop and calibrate it on a second, and are
evaluated on a third that it has not seen; by cross-fitting every sample serves once for evaluation. What a critic
has not learned is missing from every neural estimate, and no standard error knows of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from modalign.errors import InputError, unknown
from modalign.estimators.ksg import conditional_ksg_terms, ksg_terms
from modalign.estimators.neural import LogRatio, Prepared, fit_log_ratio, pair_blocks, prepare, score
from modalign.estimators.samples import Array, Codes, Samples, Values, paired_samples
from modalign.estimators.transforms import NormalScores
from modalign.information import objectives
from modalign.information.critics import CRITICS
from modalign.information.objectives import Form

Kind = Literal["lower bound", "upper bound", "plug-in", "nearest-neighbor"]

FOLDS = 5
FEW, FEW_IN_CONTEXT, MANY_FEATURES_KSG = 200, 20, 6


@dataclass(frozen=True)
class Estimate:
    """An estimate of information.

    Attributes:
        value: in ``unit``.
        stderr: standard error: sampling of the evaluated samples, and the spread over folds; not the bias.
        kind: ``lower bound`` (in expectation, for any critic), ``upper bound``, ``plug-in`` (right if the critic is) or
            ``nearest-neighbor``.
        method: of ``METHODS``.
        samples: how many samples it was evaluated on.
        warnings: why it cannot be trusted; ``trusted`` where there are none.
        conditional: whether it is of I(X;Y|T).

    >>> print(Estimate(0.5, 0.02, "plug-in", "nce3", 1000))
    I(X;Y) = 0.5000 ± 0.0200 nats (nce3, plug-in, N = 1000)
    """

    value: float
    stderr: float
    kind: Kind
    method: str
    samples: int
    warnings: tuple[str, ...] = ()
    unit: str = "nats"
    conditional: bool = False

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.warnings

    def __str__(self) -> str:
        what, about = "I(X;Y|T)" if self.conditional else "I(X;Y)", f"{self.method}, {self.kind}, N = {self.samples}"
        line = f"{what} = {self.value:.4f} ± {self.stderr:.4f} {self.unit} ({about})"
        return "\n".join([line, *(f"  warning: {warning}" for warning in self.warnings)])


@dataclass(frozen=True)
class Method:
    """A neural estimator.

    Attributes:
        kind: of its value.
        value: (scores, positive, negative) -> the estimate.
        objective: the same arguments -> what the critic maximizes; ``value`` itself where None.
        ceiling: the log of this number cannot be exceeded (``negatives`` of a sample), or not with confidence
            (evaluated ``samples``; McAllester and Stratos, AISTATS 2020).
        trainer: builds the objective of the steps where it differs from the one of validation.

    >>> METHODS
    ('nce3', 'nce2', 'infonce', 'mine', 'nwj', 'smile', 'ksg')
    """

    kind: Kind
    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    objective: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    ceiling: Literal["negatives", "samples"] = "samples"
    trainer: Callable[[], Callable[[Tensor, Tensor, Tensor], Tensor]] | None = None


def plug_in(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Compute E_pos[f]: consistent where f is the log-ratio itself; no bound.

    >>> plug_in(2 * torch.eye(2), torch.eye(2), 1 - torch.eye(2)).item()
    2.0
    """
    return (positive * scores).sum() / positive.sum()


def three_term(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Compute ``conditional_nce`` of the logits whose optimum is the log-ratio without offset, divided by 1+r.

    >>> round(three_term(torch.zeros(2, 2), torch.eye(2), 1 - torch.eye(2)).item(), 4)   # no information
    -0.9548
    """
    r = _ratio(positive, negative)
    return objectives.conditional_nce(scores + torch.log1p(1 / r), positive, negative) / (1 + r)


def two_term(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Compute ``two_term_nce`` of the logits whose optimum is the log-ratio without offset.

    >>> round(two_term(torch.zeros(2, 2), torch.eye(2), 1 - torch.eye(2)).item(), 4)   # r = 1: twice log(1/2)
    -1.3863
    """
    return objectives.two_term_nce(scores - _ratio(positive, negative).log(), positive, negative)


def info_nce(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Compute ``objectives.info_nce`` with negatives counted, not averaged.

    >>> info_nce(torch.zeros(2, 2), torch.eye(2), 1 - torch.eye(2)).item()
    0.0
    """
    return objectives.info_nce(scores, positive, negative * (negative > 0).sum(-1, keepdim=True))


def nwj(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Compute 1 + E_pos[f] - E_neg[e^f].

    Source: Nguyen, Wainwright and Jordan (IEEE Trans. Inf. Theory 2010), Eq. 12, f - 1 for f.

    >>> nwj(torch.zeros(2, 2), torch.eye(2), 1 - torch.eye(2)).item()
    0.0
    """
    return 1 + plug_in(scores, positive, negative) - (negative * scores.exp()).sum() / negative.sum()


def smile(scores: Tensor, positive: Tensor, negative: Tensor, tau: float) -> Tensor:
    """Compute E_pos[f] - log E_neg[clip(e^f, e^-tau, e^tau)], where clipping ends the bound.

    Source: Song and Ermon (ICLR 2020), Eq. 12.

    >>> smile(torch.zeros(2, 2), torch.eye(2), 1 - torch.eye(2), tau=5.0).item()
    0.0
    """
    clipped = torch.where(positive > 0, scores, scores.clamp(-tau, tau))
    return objectives.donsker_varadhan(clipped, positive, negative)


def jensen_shannon(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Compute E_pos[log h] + E_neg[log(1-h)], the logit being f itself: how SMILE trains its critic.

    >>> round(jensen_shannon(torch.zeros(2, 2), torch.eye(2), 1 - torch.eye(2)).item(), 4)
    -1.3863
    """
    e_pos = plug_in(objectives.log_h(scores), positive, negative)
    e_neg = (negative * objectives.log_not_h(scores)).sum() / negative.sum()
    return e_pos + e_neg


class MineTraining:
    """Donsker-Varadhan with the bias correction of the gradient: the denominator E_neg[e^f] is a moving average.

    Belghazi et al., "MINE" (ICML 2018), section 3.2. The value is that of a surrogate with this gradient.

    >>> MineTraining()(torch.zeros(2, 2), torch.eye(2), 1 - torch.eye(2)).item()
    -1.0
    """

    def __init__(self) -> None:
        self.average = 0.0

    def __call__(self, scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Return a scalar whose gradient ascends Donsker-Varadhan."""
        mean = (negative * scores.exp()).sum() / negative.sum()
        now = mean.item()
        self.average = now if not self.average else 0.9 * self.average + 0.1 * now
        return plug_in(scores, positive, negative) - mean / max(self.average, 1e-12)


NEURAL: dict[str, Callable[[float], Method]] = {
    "nce3": lambda tau: Method("plug-in", plug_in, three_term),
    "nce2": lambda tau: Method("plug-in", plug_in, two_term),
    "infonce": lambda tau: Method("lower bound", info_nce, ceiling="negatives"),
    "mine": lambda tau: Method("lower bound", objectives.donsker_varadhan, trainer=MineTraining),
    "nwj": lambda tau: Method("lower bound", nwj),
    "smile": lambda tau: Method("plug-in", partial(smile, tau=tau), jensen_shannon),
}
METHODS = (*NEURAL, "ksg")


def estimate(
    x: Values,
    y: Values,
    given: Values | None = None,
    method: str = "nce3",
    *,
    seed: int = 0,
    groups: Values | None = None,
    critic: str = "separable",
    folds: int | None = None,
    tau: float = 5.0,
    neighbors: int = 3,
) -> Estimate:
    """Estimate I(X;Y), or I(X;Y|T) with ``given``, in nats.

    Negatives of a conditional estimate come from p(x|T) p(y|T): from the same context where T is discrete. Where it
    is continuous, x and y are first regressed on T, which changes no information given T, and negatives then come
    from small cells of T, within which the rest of T hardly varies.

    Args:
        x, y: (N,) or (N, F) numbers.
        given: T: (N,) integers or strings (discrete), or (N,) or (N, H) floats (continuous; discrete if every value
            occurs twice).
        method: ``nce3``, ``nce2``, ``infonce``, ``mine``, ``nwj``, ``smile``, or ``ksg``, which trains nothing.
        seed: of folds and training; one seed gives one number.
        groups: (N,) samples of one group (patient, speaker) stay in one fold and count as one in the error.
        critic: ``separable``, ``bilinear`` or ``mlp`` (slow), on top of a Gaussian start (``neural.LogRatio``).
        folds: how many fifths of the samples serve for evaluation, 1 to 5; all up to 10,000 samples, else one.
        tau: clip of ``smile``.
        neighbors: k of ``ksg``.

    Raises:
        InputError: lengths disagree, NaN or infinity, constant arrays, a context with a single sample, an unknown
            method or critic, fewer samples than the method needs.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=1000)
    >>> estimate(x, 0.8 * x + 0.6 * rng.normal(size=1000), method="ksg").kind     # the truth is 0.51 nats
    'nearest-neighbor'
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    samples = paired_samples(x, y, given, groups)
    random = np.random.default_rng(seed)
    if method == "ksg":
        return _ksg(samples, neighbors, random)
    if critic not in CRITICS:
        raise unknown("critic", critic, CRITICS)
    folds = folds if folds is not None else (FOLDS if len(samples) <= 10_000 else 1)
    if not 1 <= folds <= FOLDS:
        raise InputError(f"folds is {folds}; expected 1 to {FOLDS}, the fifths of the samples to evaluate on.")
    with torch.random.fork_rng(devices=[]):
        found = _neural(samples, method, NEURAL[method](tau), critic, folds, random)
    # For two scalars KSG is nearly exact and costs little: a critic that disagrees with it is not to be trusted. It
    # happens where one scalar all but determines the other, a ratio too sharp for any smooth critic.
    scalars = samples.x.shape[1] == samples.y.shape[1] == 1 and (samples.t is None or samples.t.shape[1] == 1)
    if not scalars or np.bincount(samples.codes).min() <= neighbors + 1 or len(samples) > 20_000:
        return found
    check = _ksg(samples, neighbors, random)
    if abs(found.value - check.value) <= 0.1 + 3 * math.hypot(found.stderr, check.stderr):
        return found
    warning = (
        f"nearest neighbors give {check.value:.2f} ± {check.stderr:.2f} nats, and for two scalars they are close to "
        "exact: use method='ksg'"
    )
    return replace(found, warnings=(*found.warnings, warning))


def _ratio(positive: Tensor, negative: Tensor) -> Tensor:
    """Compute r = N0/N1, as the objectives count it."""
    return (negative > 0).sum() / (positive > 0).sum()


def _neural(
    samples: Samples, name: str, method: Method, critic: str, folds: int, random: np.random.Generator
) -> Estimate:
    fold = _folds(samples, random)
    if samples.t is None and max(np.bincount(samples.codes[fold == k]).max() for k in range(folds)) < 2:
        raise InputError(
            "no context has two samples in a fifth of the data, so nothing can be compared; give more samples of "
            "each context, merge contexts, or use method='ksg'."
        )
    objective = method.objective or method.value
    contexts = int(samples.codes.max()) + 1
    tested: list[_Block] = []
    calibration, n_train = 0.0, len(samples)
    for k in range(folds):
        others = fold != k
        stop = others & (_folds(samples, random) == 0)
        parts = [np.flatnonzero(others & ~stop), np.flatnonzero(stop), np.flatnonzero(~others)]
        (train, valid, test), correlations = prepare(samples, *parts)
        trainer = method.trainer() if method.trainer else objective
        form: Form = "nce2" if name == "nce2" else "nce3"
        ratio = fit_log_ratio(train, valid, correlations, critic, contexts, trainer, objective, form, random)
        tested += _evaluate(ratio, test, parts[2], method, random)
        n_train = min(n_train, len(train))
        if method.kind == "plug-in":  # the offset has the error of the samples on which it was calibrated
            calibration += _pooled_stderr(_evaluate(ratio, valid, parts[1], method, random), samples.groups) ** 2
    sizes = [len(block.rows) for block in tested]
    values = [block.value for block in tested]
    value = float(np.average(values, weights=sizes))
    stderr = math.sqrt(_pooled_stderr(tested, samples.groups) ** 2 + calibration / folds**2)
    if len(values) > 1:
        stderr = max(stderr, float(np.std(values, ddof=1)) / math.sqrt(len(values)))
    negatives = np.concatenate([block.negatives for block in tested])
    ceiling = float(np.log1p(negatives).mean()) if method.ceiling == "negatives" else math.log(min(sizes))
    warnings = _few(samples, n_train)
    if value > 0.8 * ceiling:
        warnings.append(f"near {ceiling:.2f} nats, the log of the number of {method.ceiling} it is measured against")
    if value < -3 * stderr - 0.01:
        warnings.append("below zero by more than its error: the critic does not carry over to unseen samples")
    return Estimate(value, stderr, method.kind, name, sum(sizes), tuple(warnings), conditional=samples.conditional)


@dataclass(frozen=True)
class _Block:
    """A block of evaluated samples: its value, and of each sample its influence, row and number of negatives."""

    value: float
    influence: Array
    rows: Codes
    negatives: Array


def _evaluate(
    ratio: LogRatio, part: Prepared, rows: Codes, method: Method, random: np.random.Generator
) -> list[_Block]:
    """Return the value on unseen samples, ``rows`` of all; blocks in which nothing can be compared are left out."""
    blocks = []
    for block, positive, negative in pair_blocks(part, ratio.block, random):
        used = positive.diagonal() > 0
        if used.any():
            value, influence = _jackknife(score(ratio, part, block), positive, negative, method.value)
            count = (negative[used] > 0).sum(1).double()
            blocks.append(_Block(value, influence[used].numpy(), rows[block][used.numpy()], count.numpy()))
    return blocks


def _pooled_stderr(blocks: list[_Block], groups: Codes) -> float:
    if not blocks:
        return 0.0
    return _stderr(np.concatenate([b.influence for b in blocks]), groups[np.concatenate([b.rows for b in blocks])])


def _jackknife(
    scores: Tensor, positive: Tensor, negative: Tensor, value: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> tuple[float, Tensor]:
    """Return the value and the influence (n,) of each sample on it: n dV/dweight_i, centered.

    The infinitesimal jackknife (Jaeckel 1972): a sample weighs in its positive and in every negative it is part of,
    so that denominators count. fp64, as sums of e^f need.
    """
    weight = torch.ones(len(scores), dtype=torch.float64, requires_grad=True)
    v = value(scores.double(), positive * weight[:, None], negative * weight[:, None] * weight[None, :])
    (gradient,) = torch.autograd.grad(v, weight)
    used = positive.diagonal() > 0
    influence = gradient * used.sum()
    return v.item(), influence - influence[used].mean()


def _stderr(influence: Array, groups: Codes) -> float:
    """Return the standard error of a mean of influences, samples of one group together."""
    totals = np.bincount(np.unique(groups, return_inverse=True)[1], weights=influence - influence.mean())
    g = len(totals)
    return math.sqrt(g / max(g - 1, 1) * float((totals**2).sum())) / len(influence)


def _folds(samples: Samples, random: np.random.Generator) -> Codes:
    """Return the fold (N,) of each sample: groups whole; otherwise each context spread evenly."""
    if samples.grouped:
        group_fold = random.permutation(int(samples.groups.max()) + 1) % FOLDS
        return group_fold[samples.groups]
    fold = np.empty(len(samples), dtype=np.int64)
    order = np.lexsort((random.random(len(samples)), samples.codes))
    fold[order] = np.arange(len(samples)) % FOLDS
    return fold


def _ksg(samples: Samples, k: int, random: np.random.Generator) -> Estimate:
    counts = np.bincount(samples.codes)
    if counts.min() <= k + 1:
        raise InputError(
            f"the smallest context has {counts.min()} samples and ksg with {k} neighbors needs at least {k + 2}; "
            "merge contexts or lower neighbors."
        )
    x, y = (NormalScores(v, samples.codes)(v, samples.codes) for v in (samples.x, samples.y))
    distinct = [len(np.unique(column)) for v in (samples.x, samples.y) for column in v.T]
    ties = 1 - min(distinct) / len(samples)  # the largest share of samples with a value that an earlier one has
    x, y = (v + 1e-9 * random.normal(size=v.shape) for v in (x, y))
    nowhere = np.zeros(len(samples), dtype=np.int64)
    t = None if samples.t is None else NormalScores(samples.t, nowhere)(samples.t, nowhere)

    def terms(rows: Codes) -> Array:
        if t is not None:
            return conditional_ksg_terms(x[rows], y[rows], t[rows], k)
        result = np.empty(len(rows))
        for c in np.unique(samples.codes[rows]):
            here = samples.codes[rows] == c
            result[here] = ksg_terms(x[rows][here], y[rows][here], k)
        return result

    local = terms(np.arange(len(samples)))
    stderr = _stderr(local, samples.groups)
    if counts.min() > FOLDS * (k + 2) and not samples.grouped:
        # Local terms of neighbors are not independent: the spread of estimates on fifths of the samples, whose
        # variance falls as 1/N (Holmes and Nemenman, Phys. Rev. E 100, 022404, 2019).
        folds = [_folds(samples, random) for _ in range(5)]
        parts = [[terms(np.flatnonzero(fold == f)).mean() for f in range(FOLDS)] for fold in folds]
        stderr = max(stderr, math.sqrt(float(np.mean(np.var(parts, axis=1, ddof=1) / FOLDS))))
    warnings = _few(samples, len(samples), ksg=True)
    if ties > 0.1:
        warnings.append(f"{ties:.0%} of the values of a feature are tied; ksg assumes continuous features")
    value, found = float(local.mean()), tuple(warnings)
    return Estimate(value, stderr, "nearest-neighbor", "ksg", len(local), found, conditional=samples.conditional)


def _few(samples: Samples, n_train: int, ksg: bool = False) -> list[str]:
    """Return warnings about the samples themselves."""
    warnings = []
    features = samples.x.shape[1] + samples.y.shape[1]
    counts = np.bincount(samples.codes)
    if len(samples) < FEW:
        warnings.append(f"only {len(samples)} samples")
    if len(counts) > 1 and counts.min() < FEW_IN_CONTEXT:
        warnings.append(
            f"too few samples per context: {int((counts < FEW_IN_CONTEXT).sum())} of {len(counts)} contexts have "
            f"fewer than {FEW_IN_CONTEXT}"
        )
    if samples.t is not None:
        features += samples.t.shape[1]
    if ksg and features > MANY_FEATURES_KSG:
        warnings.append(f"ksg is biased towards 0 in high dimension: {features} features in all")
    if not ksg and features > n_train / 10:
        warnings.append(f"{features} features and only {n_train} samples to train on")
    for name, values in (("x", samples.x), ("y", samples.y)):
        within = [np.ptp(values[samples.codes == c], axis=0).any() for c in range(len(counts))]
        if not all(within):
            warnings.append(f"{name} is constant within {within.count(False)} of {len(within)} contexts")
    return warnings
