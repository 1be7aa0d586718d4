"""Estimates of I(X;Y) and I(X;Y|T) in nats, with a standard error and the kind of number each is.

Neural methods train a critic (``ratio``) on one part of the samples, stop and calibrate it on a second, and are
evaluated on a third that it has not seen; by cross-fitting every sample serves once for evaluation. What a critic
has not learned is missing from every neural estimate, and no standard error knows of it; ``docs/results/estimators.md``
has how much it was where the truth is known. Nearest neighbors train nothing, or the codes that they are applied to
(``latent``). No method serves for all; ``auto`` lets samples that none was fitted to decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from modalign.errors import InputError, unknown
from modalign.estimators.calibration import calibrate
from modalign.estimators.ksg import conditional_ksg_terms, ksg_log_ratios, ksg_terms
from modalign.estimators.latent import learned_codes
from modalign.estimators.neural import (
    BLOCK,
    Coordinates,
    Prepared,
    Ratio,
    fit_log_ratio,
    held_out_gain,
    pair_blocks,
    prepare,
    score,
)
from modalign.estimators.samples import Array, Codes, Samples, Values, paired_samples
from modalign.estimators.transforms import NormalScores
from modalign.information import objectives
from modalign.information.critics import CRITICS
from modalign.information.objectives import Form

Kind = Literal["lower bound", "upper bound", "plug-in", "nearest-neighbor"]

FOLDS = 5
DRAWN = 32
"""Partners of each sample on which log-ratios are compared."""
DISCRETE = 0.1
"""Rows of which a smaller share is distinct have no density that nearest neighbors could measure."""
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
        notes: how ``auto`` chose.
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
    notes: tuple[str, ...] = ()

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.warnings

    def __str__(self) -> str:
        what, about = "I(X;Y|T)" if self.conditional else "I(X;Y)", f"{self.method}, {self.kind}, N = {self.samples}"
        line = f"{what} = {self.value:.4f} ± {self.stderr:.4f} {self.unit} ({about})"
        more = [*(f"  warning: {warning}" for warning in self.warnings), *(f"  note: {note}" for note in self.notes)]
        return "\n".join([line, *more])


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
    ('nce3', 'nce2', 'infonce', 'mine', 'nwj', 'smile', 'ksg', 'latent', 'auto')
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
METHODS = (*NEURAL, "ksg", "latent", "auto")
BEST = ("separable", "mixture")
"""The critics among which ``critic="best"`` chooses."""


def estimate(
    x: Values,
    y: Values,
    given: Values | None = None,
    method: str = "nce3",
    *,
    seed: int = 0,
    groups: Values | None = None,
    critic: str = "best",
    folds: int | None = None,
    tau: float = 5.0,
    neighbors: int = 3,
) -> Estimate:
    """Estimate I(X;Y), or I(X;Y|T) with ``given``, in nats.

    Negatives of a conditional estimate come from p(x|T) p(y|T): from the same context where T is discrete. Where it
    is continuous, x and y are first regressed on T, which changes no information given T, and negatives then come
    from small cells of T, within which the rest of T hardly varies. Features that are constant or that repeat an
    earlier one of the same variable say nothing and are left out.

    Args:
        x, y: (N,) or (N, F) numbers.
        given: T: (N,) integers or strings (discrete), or (N,) or (N, H) floats (continuous; discrete if every value
            occurs twice).
        method: ``nce3``, ``nce2``, ``infonce``, ``mine``, ``nwj``, ``smile`` train a critic; ``ksg`` trains nothing;
            ``latent`` trains codes for it; ``auto`` is that of ``nce3``, ``latent`` and ``ksg`` whose log-ratio tells
            unseen pairs from unseen products best (``neural.held_out_gain``), and says so in its notes.
        seed: of folds and training; one seed gives one number.
        groups: (N,) samples of one group (patient, speaker) stay in one fold and count as one in the error.
        critic: ``separable``, ``bilinear`` or ``mlp`` (slow), on top of a Gaussian start (``neural.LogRatio``);
            ``mixture`` (``neural.MixtureRatio``); ``best``: ``separable`` or ``mixture``, by held-out likelihood.
        folds: how many fifths of the samples serve for evaluation of a critic, 1 to 5; all up to 10,000 samples,
            else one. ``latent`` has two halves, each evaluated by codes of the other.
        tau: clip of ``smile``.
        neighbors: k of ``ksg`` and ``latent``.

    Raises:
        InputError: lengths disagree, NaN or infinity, constant arrays, a feature of x that determines one of y, a
            context with a single sample, an unknown method or critic, fewer samples than the method needs, discrete
            data for nearest neighbors.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=1000)
    >>> estimate(x, 0.8 * x + 0.6 * rng.normal(size=1000), method="ksg").kind     # the truth is 0.51 nats
    'nearest-neighbor'
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if critic not in (*CRITICS, "mixture", "best"):
        raise unknown("critic", critic, (*CRITICS, "mixture", "best"))
    samples = paired_samples(x, y, given, groups)
    folds = folds if folds is not None else (FOLDS if len(samples) <= 10_000 else 1)
    if not 1 <= folds <= FOLDS:
        raise InputError(f"folds is {folds}; expected 1 to {FOLDS}, the fifths of the samples to evaluate on.")
    _refuse_copies(samples)
    settings = _Settings(critic, folds, tau, neighbors, seed)
    with torch.random.fork_rng(devices=[]):
        return _auto(samples, settings) if method == "auto" else _estimate(samples, method, settings)


@dataclass(frozen=True)
class _Settings:
    """What ``estimate`` was told besides the samples and the method."""

    critic: str
    folds: int
    tau: float
    neighbors: int
    seed: int


def _estimate(samples: Samples, method: str, settings: _Settings) -> Estimate:
    random = np.random.default_rng(settings.seed)
    if method == "ksg":
        found = _ksg(samples, settings.neighbors, random)
    elif method == "latent":
        found = _latent(samples, settings.neighbors, random)
    else:
        found = _neural(samples, method, settings, random)
        found = _checked_by_neighbors(found, samples, settings.neighbors, random)
    return found


def _checked_by_neighbors(found: Estimate, samples: Samples, neighbors: int, random: np.random.Generator) -> Estimate:
    """Warn where a critic of two scalars disagrees with KSG, which for these is nearly exact and costs little.

    It happens where one scalar all but determines the other, a ratio too sharp for any smooth critic.
    """
    scalars = samples.x.shape[1] == samples.y.shape[1] == 1 and (samples.t is None or samples.t.shape[1] == 1)
    if not scalars or _no_neighbors(samples, neighbors) or len(samples) > 20_000:
        return found
    check = _ksg(samples, neighbors, random)
    if abs(found.value - check.value) <= 0.1 + 3 * math.hypot(found.stderr, check.stderr):
        return found
    warning = (
        f"nearest neighbors give {check.value:.2f} ± {check.stderr:.2f} nats, and for two scalars they are close to "
        "exact: use method='ksg'"
    )
    return replace(found, warnings=(*found.warnings, warning))


def _auto(samples: Samples, settings: _Settings) -> Estimate:
    """Choose by a fifth of the samples to which no candidate was fitted, then estimate from all."""
    random = np.random.default_rng(settings.seed)
    fold = _folds(samples, random)
    rows = [np.flatnonzero(part) for part in (fold > 1, fold == 1, fold == 0)]
    coordinates = prepare(samples, *rows)
    parts = coordinates[0].parts
    drawn = [_draw(part, random) for part in parts[1:]]
    if not all(drawn):
        raise InputError(
            "no context has two samples in a fifth of the data, so no method can be tried on unseen samples; give "
            "more samples of each context, merge contexts, or name a method."
        )
    ratio, own_parts, _ = _fit(coordinates, "nce3", NEURAL["nce3"](settings.tau), settings.critic, random)
    gains = {"nce3": held_out_gain(*_scores(ratio, own_parts[2], drawn[1]))}
    notes = []
    if reason := _no_neighbors(samples, settings.neighbors, fold > 1):
        notes.append(f"nearest neighbors were not tried: {reason}")
    else:
        plain = [(p.plain_x.double().numpy(), p.plain_y.double().numpy()) for p in parts]
        spaces = {"ksg": plain, "latent": learned_codes(parts, random)[0]}
        for name, space in spaces.items():
            valid, test = (_near(space, parts, i + 1, drawn[i], settings.neighbors) for i in (0, 1))
            weight = torch.full_like(valid[1], 1 / valid[1].shape[1])
            scale, offset = calibrate(valid[0], valid[1].flatten(), weight.flatten())
            gains[name] = held_out_gain(scale * test[0] + offset, scale * test[1] + offset)
    first, *others = sorted(gains, key=lambda name: -float(gains[name].mean()))
    told = ", ".join(f"{name} {float(gains[name].mean()):.2f}" for name in (first, *others))
    notes.insert(0, f"auto took {first}, by what its log-ratio gains on unseen pairs, nats a sample: {told}")
    found = _estimate(samples, first, settings)
    warnings = list(found.warnings)
    if others:
        lead = (gains[first] - gains[others[0]]).numpy()
        tried = np.concatenate([rows[2][block[used]] for block, used, _ in drawn[1]])
        error = _stderr(lead, samples.groups[tried])
        if lead.mean() < 2 * error:
            other = _estimate(samples, others[0], settings)
            if abs(other.value - found.value) > 0.1 + 3 * math.hypot(other.stderr, found.stderr):
                warnings.append(
                    f"auto cannot choose: unseen pairs do not tell {first} from {others[0]} (lead {lead.mean():.3f} ± "
                    f"{error:.3f} nats a sample), which gives {other.value:.2f} ± {other.stderr:.2f}; more samples, or "
                    "knowledge of the data, must decide"
                )
    return replace(found, warnings=tuple(warnings), notes=tuple(notes))


_Drawn = list[tuple[Codes, Codes, Codes]]
"""Blocks of rows of a part; in each, positions (n,) of samples and (n, ``DRAWN``) of others that share their T."""


def _draw(part: Prepared, random: np.random.Generator) -> _Drawn:
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    drawn = []
    for block, positive, negative in pair_blocks(part, BLOCK, random):
        used = (positive.diagonal() > 0).nonzero()[:, 0]
        if len(used):
            chosen = torch.multinomial(negative[used], DRAWN, replacement=True, generator=generator)
            drawn.append((block, used.numpy(), chosen.numpy()))
    return drawn


def _scores(ratio: Ratio, part: Prepared, drawn: _Drawn) -> tuple[Tensor, Tensor]:
    """Return log-ratios (n,) of the drawn samples and (n, ``DRAWN``) with their partners, by a critic."""
    with torch.no_grad():
        found = [
            (s[used, used], s[used[:, None], chosen])
            for s, used, chosen in ((score(ratio, part, block).double(), u, c) for block, u, c in drawn)
        ]
    return torch.cat([own for own, _ in found]), torch.cat([others for _, others in found])


def _near(
    space: list[tuple[Array, Array]], parts: list[Prepared], which: int, drawn: _Drawn, k: int
) -> tuple[Tensor, Tensor]:
    """Return the same by nearest neighbors in ``space`` among the first part, for drawn samples of part ``which``."""
    rows = np.concatenate([block[used] for block, used, _ in drawn])
    partners = np.concatenate([np.c_[block[used], block[chosen]] for block, used, chosen in drawn])
    known, new, old, codes = list(space[0]), list(space[which]), parts[0], parts[which].codes[rows]
    if old.t is not None:
        found = ksg_log_ratios([*known, old.t], [*new, np.asarray(parts[which].t)], rows, partners, k)
    else:
        found = np.empty(partners.shape)
        for c in np.unique(codes):
            here, of_context = codes == c, [v[old.codes == c] for v in known]
            found[here] = ksg_log_ratios(of_context, new, rows[here], partners[here], k)
    scores = torch.as_tensor(found)
    return scores[:, 0], scores[:, 1:]


def _ratio(positive: Tensor, negative: Tensor) -> Tensor:
    """Compute r = N0/N1, as the objectives count it."""
    return (negative > 0).sum() / (positive > 0).sum()


def _neural(samples: Samples, name: str, settings: _Settings, random: np.random.Generator) -> Estimate:
    method, folds, critic = NEURAL[name](settings.tau), settings.folds, settings.critic
    fold = _folds(samples, random)
    if samples.t is None and max(np.bincount(samples.codes[fold == k]).max() for k in range(folds)) < 2:
        raise InputError(
            "no context has two samples in a fifth of the data, so nothing can be compared; give more samples of "
            "each context, merge contexts, or use method='ksg'."
        )
    tested: list[_Block] = []
    calibration, n_train = 0.0, len(samples)
    for k in range(folds):
        others = fold != k
        stop = others & (_folds(samples, random) == 0)
        rows = [np.flatnonzero(others & ~stop), np.flatnonzero(stop), np.flatnonzero(~others)]
        # Which critic serves is asked once: the answer hardly depends on the fold.
        ratio, (train, valid, test), critic = _fit(prepare(samples, *rows), name, method, critic, random)
        tested += _evaluate(ratio, test, rows[2], method, random)
        n_train = min(n_train, len(train))
        if method.kind == "plug-in":  # the offset has the error of the samples on which it was calibrated
            calibration += _pooled_stderr(_evaluate(ratio, valid, rows[1], method, random), samples.groups) ** 2
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


def _fit(
    coordinates: list[Coordinates], name: str, method: Method, critic: str, random: np.random.Generator
) -> tuple[Ratio, list[Prepared], str]:
    """Return the critic, the parts in its coordinates, and its name: of several the best on the second part."""
    objective = method.objective or method.value
    form: Form = "nce2" if name == "nce2" else "nce3"
    fitted = []
    for each in BEST if critic == "best" else (critic,):
        trainer = method.trainer() if method.trainer else objective
        fitted.append((*fit_log_ratio(coordinates, each, trainer, objective, form, random), each))
    if len(fitted) == 1:
        return fitted[0]
    drawn = _draw(coordinates[0].parts[1], random)
    if not drawn:
        return fitted[0]
    return max(fitted, key=lambda found: float(held_out_gain(*_scores(found[0], found[1][1], drawn)).mean()))


@dataclass(frozen=True)
class _Block:
    """A block of evaluated samples: its value, and of each sample its influence, row and number of negatives."""

    value: float
    influence: Array
    rows: Codes
    negatives: Array


def _evaluate(ratio: Ratio, part: Prepared, rows: Codes, method: Method, random: np.random.Generator) -> list[_Block]:
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


def _folds(samples: Samples, random: np.random.Generator, count: int = FOLDS) -> Codes:
    """Return the fold (N,) of each sample: groups whole; otherwise each context spread evenly."""
    if samples.grouped:
        group_fold = random.permutation(int(samples.groups.max()) + 1) % count
        return group_fold[samples.groups]
    fold = np.empty(len(samples), dtype=np.int64)
    order = np.lexsort((random.random(len(samples)), samples.codes))
    fold[order] = np.arange(len(samples)) % count
    return fold


def _no_neighbors(samples: Samples, k: int, known: NDArray[np.bool_] | None = None) -> str:
    """Return why nearest neighbors cannot be asked, among the ``known`` samples; empty where they can."""
    smallest = np.bincount(samples.codes if known is None else samples.codes[known]).min()
    if smallest < k + 2:
        return f"the smallest context has {smallest} samples and {k} neighbors need at least {k + 2}"
    for name, values in (("x", samples.x), ("y", samples.y)):
        distinct = len(np.unique(values, axis=0))
        if distinct < len(samples) * DISCRETE:
            return f"{name} is discrete, with {distinct} distinct values in {len(samples)} samples, and has no density"
    return ""


def _ksg(samples: Samples, k: int, random: np.random.Generator) -> Estimate:
    if reason := _no_neighbors(samples, k):
        raise InputError(f"ksg: {reason}. Merge contexts or lower neighbors, or train a critic (method='nce3').")
    x, y = (NormalScores(v, samples.codes)(v, samples.codes) for v in (samples.x, samples.y))
    distinct = [len(np.unique(column)) for v in (samples.x, samples.y) for column in v.T]
    ties = 1 - min(distinct) / len(samples)  # the largest share of samples with a value that an earlier one has
    nowhere = np.zeros(len(samples), dtype=np.int64)
    t = None if samples.t is None else NormalScores(samples.t, nowhere)(samples.t, nowhere)
    value, stderr = _neighbors(replace(samples, x=x, y=y, t=t), k, random)
    warnings = _few(samples, len(samples), ksg=True)
    if ties > 0.1:
        warnings.append(f"{ties:.0%} of the values of a feature are tied; ksg assumes continuous features")
    found = tuple(warnings)
    return Estimate(value, stderr, "nearest-neighbor", "ksg", len(samples), found, conditional=samples.conditional)


def _latent(samples: Samples, k: int, random: np.random.Generator) -> Estimate:
    """Apply nearest neighbors to codes of either half of the samples, learned from the other half."""
    half = _folds(samples, random, count=2)
    found, predicted = [], []
    for h in (0, 1):
        others, test = np.flatnonzero(half != h), np.flatnonzero(half == h)
        if reason := _no_neighbors(samples, k, half == h):
            raise InputError(f"latent: in half of the data {reason}. Give more samples, or use method='nce3'.")
        # The fold is that of all samples, so that groups stay whole.
        stop = _folds(samples, random)[others] == 0
        parts = prepare(samples, others[~stop], others[stop], test)[0].parts
        codes, share = learned_codes(parts, random)
        coded = Samples(*codes[2], samples.codes[test], parts[2].t, samples.groups[test], samples.conditional)
        # Nothing predicted: the codes are those of nets without training, and what these seem to share is chance.
        value, stderr = _neighbors(coded, k, random)
        found.append((value if share > 0 else 0.0, stderr))
        predicted.append(share)
    (first, _), (second, _) = found
    stderr = math.hypot(*(error for _, error in found)) / 2
    warnings = _few(samples, len(samples) // 2)
    if min(predicted) <= 0:
        warnings.append("on held-out samples neither variable tells the mean of the other: latent sees nothing else")
    return Estimate(
        (first + second) / 2, max(stderr, abs(first - second) / 2), "nearest-neighbor", "latent", len(samples),
        tuple(warnings), conditional=samples.conditional,
    )  # fmt: skip


def _neighbors(samples: Samples, k: int, random: np.random.Generator) -> tuple[float, float]:
    """Return the estimate by nearest neighbors, features as they stand, and its standard error."""
    x, y = (v + 1e-9 * random.normal(size=v.shape) for v in (samples.x, samples.y))

    def terms(rows: Codes) -> Array:
        if samples.t is not None:
            return conditional_ksg_terms(x[rows], y[rows], samples.t[rows], k)
        result = np.empty(len(rows))
        for c in np.unique(samples.codes[rows]):
            here = samples.codes[rows] == c
            result[here] = ksg_terms(x[rows][here], y[rows][here], k)
        return result

    local = terms(np.arange(len(samples)))
    stderr = _stderr(local, samples.groups)
    if np.bincount(samples.codes).min() > FOLDS * (k + 2) and not samples.grouped:
        # Local terms of neighbors are not independent: the spread of estimates on fifths of the samples, whose
        # variance falls as 1/N (Holmes and Nemenman, Phys. Rev. E 100, 022404, 2019).
        folds = [_folds(samples, random) for _ in range(5)]
        parts = [[terms(np.flatnonzero(fold == f)).mean() for f in range(FOLDS)] for fold in folds]
        stderr = max(stderr, math.sqrt(float(np.mean(np.var(parts, axis=1, ddof=1) / FOLDS))))
    return float(local.mean()), stderr


def _refuse_copies(samples: Samples) -> None:
    """Refuse continuous features of x and y of which one determines the other: they share infinitely many nats."""
    seen: dict[bytes, int] = {}
    for j, column in enumerate(samples.x.T):
        if len(np.unique(column)) > len(samples) / 2:
            ranks = rankdata(column)
            seen |= {r.tobytes(): j for r in (ranks, len(column) + 1 - ranks)}
    for i, column in enumerate(samples.y.T):
        if (same := seen.get(rankdata(column).tobytes())) is not None:
            raise InputError(
                f"feature {same} of x and feature {i} of y order the samples alike, so that one determines the other; "
                "continuous variables then share infinitely many nats. Leave one out, or round to what is meant."
            )


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
