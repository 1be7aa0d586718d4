"""How sure a number is: intervals over seeds, paired tests, ranks over data sets, bootstrap over samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from modalign.errors import InputError


@dataclass(frozen=True)
class Interval:
    """A mean with a confidence interval.

    Attributes:
        mean: the value itself.
        low, high: bounds; NaN where they cannot be known.
        n: repetitions behind it.
        note: why there are no bounds, else empty.

    >>> mean_interval([1.0]).note
    'one seed: no interval'
    """

    mean: float
    low: float
    high: float
    n: int
    note: str = ""


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Compute a mean over seeds with Student's 95 % t-interval; without bounds, and a note why, below two.

    >>> found = mean_interval([0.70, 0.72, 0.74])
    >>> round(found.mean, 2), round(found.low, 2), round(found.high, 2)
    (0.72, 0.67, 0.77)
    """
    from scipy.special import stdtrit

    kept = np.asarray(values, np.float64)
    kept = kept[~np.isnan(kept)]
    if len(kept) == 0:
        return Interval(np.nan, np.nan, np.nan, 0, "no value")
    mean = float(kept.mean())
    if len(kept) == 1:
        return Interval(mean, np.nan, np.nan, 1, "one seed: no interval")
    half = float(stdtrit(len(kept) - 1, 0.975) * kept.std(ddof=1) / np.sqrt(len(kept)))
    return Interval(mean, mean - half, mean + half, len(kept))


@dataclass(frozen=True)
class Paired:
    """A difference between two methods run with the same seeds.

    Attributes:
        difference: mean of first minus second, with its t-interval.
        p: two-sided p value of the paired t-test; NaN for fewer than two pairs.
        p_wilcoxon: the same by Wilcoxon's signed ranks; NaN below six pairs, where it cannot reach 0.05.

    >>> round(paired([0.70, 0.72, 0.74], [0.69, 0.70, 0.73]).difference.mean, 3)
    0.013
    """

    difference: Interval
    p: float
    p_wilcoxon: float


def paired(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> Paired:
    """Compare two methods seed by seed.

    Pairs with a NaN are left out. Differences that are all equal and not zero give p = 0, all zero p = 1.

    Raises:
        InputError: lengths disagree.

    >>> round(paired([0.70, 0.72, 0.74], [0.69, 0.70, 0.73]).p, 3)
    0.057
    """
    from scipy.special import stdtr
    from scipy.stats import wilcoxon

    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise InputError(f"paired values must be as many: {a.shape} against {b.shape}")
    gap = (a - b)[~np.isnan(a - b)]
    p = p_wilcoxon = float("nan")
    if len(gap) > 1:
        error, mean = gap.std(ddof=1) / np.sqrt(len(gap)), abs(gap.mean())
        p = float(2 * stdtr(len(gap) - 1, -mean / error)) if error >= 1e-12 else float(mean < 1e-12)
    if len(gap) >= 6 and gap.any():
        p_wilcoxon = float(wilcoxon(gap).pvalue)
    return Paired(mean_interval(gap), p, p_wilcoxon)


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
