"""How sure a number is: over seeds, splits and test units; paired differences; many methods on many data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from modalign.errors import InputError

LEVEL = 0.05
MINIMUM_PAIRS = 5
"""Paired values (splits, or seeds of one split) below which no difference is tested: two or three carry no claim."""


@dataclass(frozen=True)
class Interval:
    """A mean with a confidence interval.

    Attributes:
        mean: the value itself.
        low, high: bounds; NaN where they cannot be known.
        n: repetitions behind it.
        note: why there are no bounds, or what they leave out, else empty.
        p: two-sided p value of the mean being zero; NaN without variance, as it would not be of chance.

    >>> mean_interval([1.0]).note
    'one seed: no interval'
    """

    mean: float
    low: float
    high: float
    n: int
    note: str = ""
    p: float = float("nan")

    def within(self, lowest: float, highest: float) -> Interval:
        """Return the interval cut at what the number can be; its coverage stays the same.

        >>> mean_interval([0.9, 1.0]).within(0, 1).high
        1.0
        """
        low, high = np.clip([self.low, self.high], lowest, highest)  # NaN stays NaN
        return replace(self, low=float(low), high=float(high))


def _student(mean: float, variance: float, freedom: float, n: int, note: str = "") -> Interval:
    """Return the t-interval of a mean whose own variance is known with some degrees of freedom."""
    from scipy.special import stdtr, stdtrit

    error = float(np.sqrt(variance))
    half = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    p = float(2 * stdtr(freedom, -abs(mean) / error)) if error > 1e-12 else float("nan")
    return Interval(mean, mean - half, mean + half, n, note, p)


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Compute a mean over seeds with Student's 95 % t-interval; without bounds, and a note why, below two.

    >>> found = mean_interval([0.70, 0.72, 0.74])
    >>> round(found.mean, 2), round(found.low, 2), round(found.high, 2)
    (0.72, 0.67, 0.77)
    """
    kept = np.asarray(values, np.float64)
    kept = kept[~np.isnan(kept)]
    if len(kept) == 0:
        return Interval(np.nan, np.nan, np.nan, 0, "no value")
    mean = float(kept.mean())
    if len(kept) == 1:
        return Interval(mean, np.nan, np.nan, 1, "one seed: no interval")
    return _student(mean, kept.var(ddof=1) / len(kept), len(kept) - 1, len(kept))


def split_interval(values: Sequence[float] | np.ndarray, ratio: float, least: float = 0.0) -> Interval:
    """Compute a mean over resampled splits with the corrected resampled 95 % t-interval.

    Splits of one data set share training samples, so that their scores vary less than those of independent data sets
    would: the variance of the mean of K splits is s^2 (1/K + ratio) instead of s^2 / K.

    Args:
        values: (K,) a value for each split: the mean over its seeds, or the mean paired difference.
        ratio: samples tested over samples learned from, of a split.
        least: variance of a split's value that its test units alone bring about. A few splits may give the same
            difference by chance, where scores move by whole units: s^2 is at least this.

    Raises:
        InputError: fewer than two splits.

    Source: Nadeau and Bengio, Inference for the Generalization Error, Machine Learning 52, 2003, section 3; for
    repeated cross-validation Bouckaert and Frank, PAKDD 2004.

    >>> plain, corrected = mean_interval([0.70, 0.72, 0.74]), split_interval([0.70, 0.72, 0.74], 1 / 3)
    >>> round((corrected.high - corrected.low) / (plain.high - plain.low), 3)  # sqrt((1/3 + 1/3) / (1/3))
    1.414
    """
    kept = np.asarray(values, np.float64)
    kept = kept[~np.isnan(kept)]
    if len(kept) < 2:
        raise InputError(f"{len(kept)} splits have a value; expected two or more")
    spread = max(float(kept.var(ddof=1)), least)
    return _student(float(kept.mean()), spread * (1 / len(kept) + ratio), len(kept) - 1, len(kept))


def crossed_interval(scores: Sequence[float] | np.ndarray, resampled: np.ndarray, units: int) -> Interval:
    """Compute a mean over seeds on one test split with a 95 % interval over both seeds and test units.

    Seeds and units are crossed: every model answers the same test. With variance components A of seeds, B of units
    and E of both, the mean over S seeds and U units varies by A/S + B/U + E/(SU). The first and last are in the
    variance between seeds, the last two in that of the bootstrapped mean, and the last, counted twice, follows from
    what the bootstrap gives for single seeds. Degrees of freedom after Satterthwaite.

    Args:
        scores: (S,) score, or paired difference, of each seed.
        resampled: (S, R) the same on R bootstrap resamples of the test units, the same resamples for all seeds.
        units: number of test units (samples, or groups where there are any).

    Raises:
        InputError: shapes disagree.

    Source: Owen, The Pigeonhole Bootstrap, Annals of Applied Statistics 1(2), 2007 (variance of crossed factors).

    >>> rng = np.random.default_rng(0)
    >>> right = rng.random((3, 200)) < 0.8
    >>> weights = bootstrap_weights(200, repeats=300)
    >>> found = crossed_interval(right.mean(1), right @ weights.T / 200, 200)
    >>> found.low < 0.8 < found.high
    True
    """
    values, replicates = np.asarray(scores, np.float64), np.asarray(resampled, np.float64)
    if replicates.shape[:1] != values.shape or not len(values):
        raise InputError(f"resampled scores {replicates.shape} do not belong to scores {values.shape}")
    count, mean = len(values), float(values.mean())
    known = units / max(1, units - 1)  # the bootstrap of few units is as much too narrow
    pooled = known * float(np.nanvar(replicates.mean(0), ddof=1))
    if count == 1:
        return _student(mean, pooled, max(1, units - 1), 1, "one seed: the interval is over test units only")
    seeds = float(values.var(ddof=1)) / count
    single = known * float(np.nanvar(replicates, axis=1, ddof=1).mean())
    both = max(0.0, single - pooled) / (count - 1)
    variance = max(seeds + pooled - both, seeds, pooled)
    parts = seeds**2 / (count - 1) + pooled**2 / max(1, units - 1)
    return _student(mean, variance, variance**2 / parts if parts > 0 else 1.0, count)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Correct p values by Holm's step-down for as many comparisons as are not NaN (NaN stays NaN).

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    p = np.asarray(p_values, np.float64)
    corrected = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
    return corrected


def ranks(values: Sequence[float] | np.ndarray, higher: bool = True) -> np.ndarray:
    """Return ranks from 1 (best) of ``values``; equals share their mean rank, NaN has none.

    >>> ranks([0.7, 0.9, 0.7])
    array([2.5, 1. , 2.5])
    """
    return pd.Series(values, dtype=float).rank(ascending=not higher).to_numpy()


def bootstrap_weights(n: int, groups: np.ndarray | None = None, repeats: int = 1000, seed: int = 0) -> np.ndarray:
    """Return how often each of ``n`` samples is drawn in each bootstrap resample, (repeats, n).

    Where samples come in ``groups`` (n,) (patients, speakers), whole groups are drawn: samples of one group
    are alike, and resampling them one by one would give intervals that are too narrow.

    Raises:
        InputError: lengths disagree or there is nothing to resample.

    >>> bootstrap_weights(4, groups=np.array([0, 0, 1, 1]), repeats=2).shape
    (2, 4)
    """
    if n < 1:
        raise InputError("no samples to resample")
    names = np.arange(n) if groups is None or len(groups) == 0 else groups
    if len(names) != n:
        raise InputError(f"{len(names)} groups for {n} samples: need one for each")
    distinct, member = np.unique(names, return_inverse=True)
    units = len(distinct)
    drawn = np.random.default_rng(seed).integers(units, size=(repeats, units))
    flat = drawn + units * np.arange(repeats)[:, None]
    counts = np.bincount(flat.ravel(), minlength=repeats * units).reshape(repeats, units)
    return counts.astype(np.float64)[:, member]


def percentile_interval(value: float, resampled: np.ndarray, n: int) -> Interval:
    """Compute the 95 % interval of ``value`` from the quantiles of its bootstrap replicates (percentile method).

    >>> round(percentile_interval(0.5, np.linspace(0, 1, 101), n=50).low, 3)
    0.025
    """
    kept = resampled[~np.isnan(resampled)]
    if len(kept) < 2 or n < 2:
        return Interval(value, np.nan, np.nan, n, "too few samples for an interval")
    low, high = np.quantile(kept, [0.025, 0.975])
    return Interval(value, float(low), float(high), n)


def friedman(scores: np.ndarray) -> float:
    """Return the p value of Friedman's test that all methods are alike over data sets.

    Args:
        scores: (N, M) a score for each of N data sets and M methods, none of them NaN.

    Source: Friedman, JASA 32, 1937; Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 2006.

    >>> round(friedman(np.array([[1, 2, 3], [1, 2, 3], [2, 1, 3], [1, 2, 3]])), 3)
    0.039
    """
    from scipy.stats import friedmanchisquare

    if scores.shape[0] < 2 or scores.shape[1] < 3:
        return float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):  # all equal: no ranks, no p
        return float(friedmanchisquare(*scores.T).pvalue)


def critical_difference(methods: int, datasets: int, level: float = LEVEL) -> float:
    """Return the difference of mean ranks that Nemenyi's test tells apart at a level.

    Source: Demsar, JMLR 7, 2006, section 3.2.2 and Table 5.

    >>> round(critical_difference(4, 14, 0.05), 2), round(critical_difference(4, 14, 0.1), 2)
    (1.25, 1.12)
    """
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - level, methods, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * datasets)))


def signed_rank_posterior(
    differences: Sequence[float] | np.ndarray, rope: float, draws: int = 20_000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the posterior probabilities that a method is worse, equivalent and better over data sets.

    The Bayesian signed-rank test: a Dirichlet process over differences, with prior weight 1/2 on none; the three
    masses of Walsh averages (z_i + z_j) / 2 below, within and above ``rope``, and the share of draws in which each is
    the largest.

    Args:
        differences: (N,) of a method minus another, larger better, one a data set.
        rope: half width of the region of practical equivalence.
        draws: from the posterior.
        seed: of the draws.

    Source: Benavoli, Corani, Demsar and Zaffalon, Time for a Change, JMLR 18(77), 2017, section 4.2.

    >>> worse, same, better = signed_rank_posterior([0.03, 0.02, 0.04, 0.05, 0.03], rope=0.01)
    >>> better > 0.95, round(worse + same + better, 6)
    (True, 1.0)
    """
    z = np.concatenate([[0.0], np.asarray(differences, np.float64)])
    weights = np.random.default_rng(seed).dirichlet([0.5, *np.ones(len(z) - 1)], draws)
    walsh = (z[:, None] + z[None, :]) / 2
    regions = (walsh < -rope, abs(walsh) <= rope, walsh > rope)
    masses = np.stack([((weights @ region) * weights).sum(1) for region in regions])
    worse, same, better = np.bincount(masses.argmax(0), minlength=3) / draws
    return float(worse), float(same), float(better)
