"""Shapley values and missing modalities against brute force, known truths and simulated coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from modalign.data.task import Task, classification
from modalign.evaluation.contributions import Subsets, missing_curve, shapley, subset_scores

TASK = classification(range(3))


def problem(modalities: int, n: int = 300, repeats: int = 200, seed: int = 0, metric: str | None = None) -> Subsets:
    """A product of experts over modalities of falling strength; the last one is noise."""
    rng = np.random.default_rng(seed)
    names = [f"m{i}" for i in range(modalities)]
    target = rng.integers(3, size=n)
    strength = np.linspace(2, 0, modalities)
    evidence = {name: s * np.eye(3)[target] + rng.normal(size=(n, 3)) for name, s in zip(names, strength, strict=True)}

    def predict(keep: tuple[str, ...]) -> np.ndarray:
        return sum((evidence[name] for name in keep), np.zeros((n, 3)))

    return Subsets(TASK, predict, names, target, metric=metric, repeats=repeats)


def accuracy(subsets: Subsets, keep: tuple[str, ...]) -> float:
    return float((subsets.scores(keep).argmax(1) == subsets.target).mean())


def test_shapley_is_brute_force_over_orders() -> None:
    subsets = problem(3)
    found = shapley(subsets)
    for name in subsets.modalities:
        gain = 0.0
        for order in itertools.permutations(subsets.modalities):
            before = order[: order.index(name)]
            gain += accuracy(subsets, (*before, name)) - accuracy(subsets, before)
        assert found.values[name].mean == pytest.approx(gain / math.factorial(3))
    assert found.exact
    assert sum(v.mean for v in found.values.values()) == pytest.approx(found.total)
    assert found.total == pytest.approx(accuracy(subsets, subsets.modalities) - accuracy(subsets, ()))


def test_sampled_shapley_sums_and_finds_the_order() -> None:
    subsets = problem(8, repeats=100)
    found = shapley(subsets, orders=40)
    assert not found.exact
    assert found.orders == 40
    assert sum(v.mean for v in found.values.values()) == pytest.approx(found.total)
    assert found.values["m0"].low > found.values["m7"].high
    assert found.values["m7"].low < 0.01


def test_sampled_agrees_with_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    subsets = problem(5, repeats=100)
    exact = shapley(subsets)
    monkeypatch.setattr("modalign.evaluation.contributions.EXACT_LIMIT", 1)
    sampled = shapley(subsets, orders=200)
    for name, interval in exact.values.items():
        assert sampled.values[name].mean == pytest.approx(interval.mean, abs=0.02)


def test_intervals_cover_at_their_rate() -> None:
    """The truth from one very large sample, intervals from many small ones."""
    truth = shapley(problem(2, n=200_000, repeats=2, seed=10_000)).values
    hits = dict.fromkeys(truth, 0)
    trials = 150
    for seed in range(trials):
        for name, interval in shapley(problem(2, n=150, repeats=200, seed=seed)).values.items():
            hits[name] += interval.low <= truth[name].mean <= interval.high
    assert all(0.88 <= count / trials <= 0.99 for count in hits.values()), hits


def test_subset_scores() -> None:
    subsets = problem(2)
    found = subset_scores(subsets)
    assert list(found) == [(), ("m0",), ("m1",), ("m0", "m1")]
    assert found["m0",].mean == accuracy(subsets, ("m0",))
    assert found["m0",].low < found["m0",].mean < found["m0",].high
    assert len(subset_scores(problem(7, n=50, repeats=10))) == 1 + 7 + 7 + 1


def test_missing_curve_joins_its_ends() -> None:
    subsets = problem(3)
    found = missing_curve(subsets, points=3, draws=4)
    whole = accuracy(subsets, subsets.modalities)
    without = accuracy(subsets, ("m1", "m2"))
    m0 = found.curves["m0"]
    assert m0[0].mean == pytest.approx(whole)
    assert m0[-1].mean == pytest.approx(without)
    assert m0[1].mean == pytest.approx((whole + without) / 2, abs=0.03)
    assert set(found.curves) == {"any", "m0", "m1", "m2"}


def test_errors_are_negated_in_contributions_not_in_scores() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=100)

    def predict(keep: tuple[str, ...]) -> np.ndarray:
        return (y if "good" in keep else 0 * y)[:, None]

    subsets = Subsets(Task("regression"), predict, ["good", "bad"], y, repeats=50)
    found = shapley(subsets)
    assert found.values["good"].mean == pytest.approx(np.abs(y).mean())
    assert found.values["bad"].mean == pytest.approx(0)
    assert subset_scores(subsets)[("bad",)].mean == pytest.approx(np.abs(y).mean())


def test_survival_contributions_sum() -> None:
    rng = np.random.default_rng(0)
    risk = rng.normal(size=(120, 2))
    time = np.exp(-risk.sum(1) + 0.3 * rng.normal(size=120))
    target = np.stack([time, rng.random(120) < 0.7], 1)

    def predict(keep: tuple[str, ...]) -> np.ndarray:
        return (risk * [("a" in keep), ("b" in keep)]).sum(1, keepdims=True)

    found = shapley(Subsets(Task("survival"), predict, ["a", "b"], target, repeats=50))
    assert sum(v.mean for v in found.values.values()) == pytest.approx(found.total)
    assert found.values["a"].low > 0.05
