"""Intervals and tests against textbook values, SciPy and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from modalign.errors import InputError
from modalign.evaluation.statistics import (
    bootstrap_weights,
    critical_difference,
    crossed_interval,
    friedman,
    holm,
    mean_interval,
    percentile_interval,
    ranks,
    signed_rank_posterior,
    split_interval,
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


def test_p_is_that_of_the_t_test_and_none_without_variance() -> None:
    rng = np.random.default_rng(0)
    gap = rng.normal(0.3, 1, 8)
    assert mean_interval(gap).p == pytest.approx(stats.ttest_1samp(gap, 0).pvalue)
    for alike in ([0.5, 0.5], [0.0, 0.0, 0.0]):  # nothing that a chance could be of
        assert np.isnan(mean_interval(alike).p)
        assert np.isnan(split_interval(alike, 0.25).p)


def test_splits_are_corrected_for_what_they_share() -> None:
    # By hand: 1 2 3 4 have s^2 = 5/3; variance 5/3 * (1/4 + 1/3); t(.975, 3) = 3.182446
    found = split_interval([1.0, 2.0, 3.0, 4.0], 1 / 3)
    assert found.high - found.mean == pytest.approx(3.182446 * np.sqrt(5 / 3 * (1 / 4 + 1 / 3)), rel=1e-6)
    # Three splits that are alike by chance vary by their test units at least.
    found = split_interval([0.7, 0.7, 0.7], 1 / 3, least=0.01)
    assert found.high - found.mean == pytest.approx(4.302653 * np.sqrt(0.01 * (1 / 3 + 1 / 3)), rel=1e-6)
    with pytest.raises(InputError, match="1 splits have a value"):
        split_interval([1.0], 1 / 3)


def test_seeds_and_units_are_crossed_by_hand() -> None:
    """Two seeds that agree on every unit: only units vary. Two seeds on one certain unit each: only seeds do."""
    right = np.random.default_rng(0).random(400) < 0.7
    weights = bootstrap_weights(400, repeats=4000)
    replicates = weights @ right / 400
    alike = crossed_interval([right.mean()] * 2, np.stack([replicates] * 2), 400)
    assert alike.high - alike.mean == pytest.approx(1.966 * np.sqrt(right.mean() * (1 - right.mean()) / 399), rel=0.05)
    apart = crossed_interval([0.5, 0.7], np.array([[0.5] * 9, [0.7] * 9]), 400)
    assert apart.high - apart.mean == pytest.approx(12.706 * 0.1, rel=1e-3)
    alone = crossed_interval([0.5], replicates[None], 400)
    assert "one seed" in alone.note
    with pytest.raises(InputError, match="do not belong"):
        crossed_interval([0.5, 0.6], replicates[None], 400)


def test_what_both_sources_share_is_counted_once() -> None:
    """Of independent noise alone, the variance of the mean over S seeds and U units is 1/(SU), not twice that."""
    rng = np.random.default_rng(1)
    found = []
    for trial in range(60):
        scores = rng.normal(size=(10, 50))
        weights = bootstrap_weights(50, repeats=200, seed=trial) / 50
        interval = crossed_interval(scores.mean(1), scores @ weights.T, 50)
        found.append((interval.high - interval.mean) ** 2)
    assert np.mean(found) / (2.1**2 / 500) == pytest.approx(1.1, abs=0.25)


def test_an_interval_keeps_within_what_the_number_can_be() -> None:
    cut = mean_interval([0.98, 1.0]).within(0, 1)
    assert (cut.mean, cut.high) == (0.99, 1.0)
    assert cut.low < 0.98
    assert np.isnan(mean_interval([0.5]).within(0, 1).low)


def test_many_methods_on_many_data_sets() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(12, 5))
    assert friedman(scores) == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    assert np.isnan(friedman(scores[:1]))
    assert np.isnan(friedman(scores[:, :2]))
    # Demsar 2006, Table 5: q = 2.728 for 5 classifiers at 0.05; 3.164 for 10.
    assert critical_difference(5, 30) == pytest.approx(2.728 * np.sqrt(5 * 6 / 180), rel=1e-3)
    assert critical_difference(10, 30) == pytest.approx(3.164 * np.sqrt(10 * 11 / 180), rel=1e-3)


def test_the_bayesian_test_knows_clear_cases_and_is_symmetric() -> None:
    gaps = np.array([0.02, 0.03, 0.05, 0.04, 0.02, 0.06, 0.03, 0.02])
    assert signed_rank_posterior(gaps, 0.01)[2] > 0.99
    assert signed_rank_posterior(-gaps, 0.01)[0] > 0.99
    assert signed_rank_posterior(gaps / 100, 0.01)[1] > 0.99
    left, same, right = signed_rank_posterior(np.array([-0.05, 0.05, -0.04, 0.04, 0.03, -0.03]), 0.01)
    assert left == pytest.approx(right, abs=0.02)
    assert left + same + right == pytest.approx(1)


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
