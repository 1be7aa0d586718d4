"""Intervals and tests against textbook values, SciPy and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from modalign.errors import InputError
from modalign.evaluation.statistics import (
    bootstrap_weights,
    holm,
    mean_interval,
    paired,
    percentile_interval,
    ranks,
)


def test_interval_by_hand() -> None:
    # mean 2, s = 1, n = 3: half width t(.975, 2) / sqrt(3) = 4.302653 / 1.732051
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.high - found.mean == pytest.approx(4.302653 / 1.732051, rel=1e-5)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_interval_of_one_seed_is_not_known() -> None:
    found = mean_interval([0.7])
    assert found.mean == 0.7
    assert np.isnan(found.low)
    assert np.isnan(found.high)
    assert "one seed" in found.note
    assert mean_interval([np.nan]).n == 0


def test_paired_against_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 8), rng.normal(size=8)
    found = paired(a, b)
    assert found.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(a - b).pvalue)
    assert found.difference.mean == pytest.approx((a - b).mean())
    assert np.isnan(paired(a[:5], b[:5]).p_wilcoxon)
    assert np.isnan(paired(a[:1], b[:1]).p)


def test_paired_extremes() -> None:
    assert paired([1.0, 2.0], [1.0, 2.0]).p == 1
    assert paired([1.5, 2.5], [1.0, 2.0]).p == 0
    with pytest.raises(InputError, match="as many"):
        paired([1.0], [1.0, 2.0])


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1 -> .04 .06 .06 .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    corrected = holm([0.5, np.nan, 0.9])
    assert np.isnan(corrected[1])
    assert corrected[[0, 2]] == pytest.approx([1.0, 1.0])


def test_ranks() -> None:
    assert ranks([0.9, 0.7, 0.9]).tolist() == [1.5, 3, 1.5]
    assert ranks([0.9, 0.7], higher=False).tolist() == [2, 1]
    assert np.isnan(ranks([np.nan, 0.5])).tolist() == [True, False]


def test_bootstrap_draws_whole_groups() -> None:
    groups = np.array(["a", "b", "a", "c", "b"])
    weights = bootstrap_weights(5, groups, repeats=50)
    assert weights.shape == (50, 5)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()
    with pytest.raises(InputError, match="4 groups for 5"):
        bootstrap_weights(5, groups[:4])


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_cover_at_their_rate(grouped: bool) -> None:
    """300 data sets of 40 groups of 5 alike samples: 95 % intervals that ignore the groups fail."""
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(40), 5)
    hits = 0
    for trial in range(300):
        values = np.repeat(rng.normal(size=40), 5) + 0.3 * rng.normal(size=200)
        weights = bootstrap_weights(200, names if grouped else None, repeats=200, seed=trial)
        found = percentile_interval(values.mean(), weights @ values / weights.sum(1), 40)
        hits += found.low <= 0 <= found.high
    if grouped:
        assert 0.89 <= hits / 300 <= 0.98
    else:
        assert hits / 300 < 0.8


def test_too_few_samples_are_said() -> None:
    found = percentile_interval(0.5, np.array([0.5, 0.5]), n=1)
    assert np.isnan(found.low)
    assert "too few" in found.note
