"""The decomposition on gates with known parts, against a general solver, and on data built to order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.linalg import null_space
from scipy.optimize import minimize

from modalign.errors import InputError
from modalign.evaluation.decomposition import Decomposition, _closest, decompose, decompose_features, symbols_for

BIT = np.log(2)


def gate(outcomes: list[tuple[int, int, int]]) -> np.ndarray:
    p = np.zeros((2, 2, max(y for *_, y in outcomes) + 1))
    for outcome in outcomes:
        p[outcome] += 1
    return p


def parts(d: Decomposition) -> list[float]:
    return [d.redundant, d.unique_1, d.unique_2, d.synergy]


PAIRS = list(itertools.product((0, 1), (0, 1)))


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([(a, b, a ^ b) for a, b in PAIRS], [0, 0, 0, BIT]),
        ([(a, a, a) for a in (0, 1)], [BIT, 0, 0, 0]),
        ([(a, b, a) for a, b in PAIRS], [0, BIT, 0, 0]),
        ([(a, b, 2 * a + b) for a, b in PAIRS], [0, BIT, BIT, 0]),
        # Bertschinger et al. 2014, Table 1: AND has 0.311 bits shared and half a bit of synergy.
        ([(a, b, a & b) for a, b in PAIRS], [0.311278 * BIT, 0, 0, 0.5 * BIT]),
    ],
    ids=["xor", "rdn", "unq", "two bits", "and"],
)
def test_gates(outcomes: list[tuple[int, int, int]], expected: list[float]) -> None:
    found = decompose(gate(outcomes))
    assert parts(found) == pytest.approx(expected, abs=2e-3)
    assert sum(parts(found)) == pytest.approx(found.total)


def least_information(p: np.ndarray) -> float:
    """min_q I_q by a general solver over the directions that leave both marginals as they are."""
    cells = np.eye(p.size).reshape(-1, *p.shape)
    fixed = np.concatenate([cells.sum(2).reshape(p.size, -1), cells.sum(1).reshape(p.size, -1)], 1).T
    directions = null_space(fixed)
    start = (p.sum(1)[:, None] * p.sum(0)[None] / p.sum((0, 1))).ravel()

    def log_ratios(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = (start + directions @ steps).clip(1e-15).reshape(p.shape)
        return q.ravel(), np.log(q / (q.sum(2, keepdims=True) * q.sum((0, 1), keepdims=True))).ravel()

    solved = minimize(
        lambda steps: float(np.dot(*log_ratios(steps))),
        np.zeros(directions.shape[1]),
        jac=lambda steps: directions.T @ log_ratios(steps)[1],
        method="SLSQP",
        constraints={
            "type": "ineq",
            "fun": lambda steps: start + directions @ steps,
            "jac": lambda _: directions,
        },
        options={"ftol": 1e-9, "maxiter": 1000},
    )
    assert solved.success
    return float(solved.fun)


@pytest.mark.parametrize("seed", range(4))
def test_against_a_general_solver(seed: int) -> None:
    p = np.random.default_rng(seed).dirichlet(np.full(12, 0.7)).reshape(2, 3, 2)
    found = decompose(p)
    assert found.total - found.synergy == pytest.approx(least_information(p), abs=2e-4)
    swapped = decompose(p.swapaxes(0, 1))
    assert (swapped.unique_1, swapped.unique_2) == pytest.approx((found.unique_2, found.unique_1), abs=1e-3)


def test_nearly_equal_sources_keep_their_marginals() -> None:
    """Nearly diagonal tables make the scaling slow; a result that left the constraints would show here."""
    rng = np.random.default_rng(0)
    y = rng.integers(5, size=2000)
    x1 = (y + (rng.random(2000) < 0.4) * rng.integers(5, size=2000)) % 5
    x2 = np.where(rng.random(2000) < 0.03, rng.integers(5, size=2000), x1)
    p = np.zeros((5, 5, 5))
    np.add.at(p, (x1, x2, y), 1 / 2000)
    q = _closest(p, 1e-6, 2000)
    assert np.abs(q.sum(0) - p.sum(0)).max() < 1e-8
    assert np.abs(q.sum(1) - p.sum(1)).max() < 1e-8
    found = decompose(p)
    assert found.redundant > 10 * max(found.unique_1, found.unique_2, found.synergy)


def build(kind: str, n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two noisy two-dimensional sources and a binary target related as ``kind`` says."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(2, size=(2, n))
    y = {"redundant": a, "unique_1": a, "synergy": a ^ b}[kind]
    second = a if kind == "redundant" else b
    cloud = rng.normal(size=(2, n, 2)) * 0.4
    return 4 * a[:, None] + cloud[0], 4 * second[:, None] + cloud[1], y


@pytest.mark.parametrize("kind", ["redundant", "unique_1", "synergy"])
@pytest.mark.parametrize("symbols", [2, 6])
def test_recovers_what_was_built_in(kind: str, symbols: int) -> None:
    first, second, y = build(kind, 1500)
    found = decompose_features(first, second, y, 2, symbols, repeats=4)
    for name in ("redundant", "unique_1", "unique_2", "synergy"):
        assert getattr(found.parts, name) == pytest.approx(BIT if name == kind else 0, abs=0.05), name
    assert sum(parts(found.parts)) == pytest.approx(found.parts.total)
    assert not found.warnings


def test_many_classes_told_by_both() -> None:
    """Ten classes, both sources tell all: nothing but redundancy, though (x1, x2, y) has more cells than samples."""
    rng = np.random.default_rng(0)
    y = rng.integers(10, size=500)
    views = [3.0 * np.eye(10)[y] @ rng.normal(size=(10, 12)) + 0.3 * rng.normal(size=(500, 12)) for _ in "ab"]
    found = decompose_features(*views, y, 10, repeats=4)
    assert found.symbols == 12
    assert found.parts.redundant > 2.0
    assert max(found.parts.unique_1, found.parts.unique_2, found.parts.synergy) < 0.1


@pytest.mark.slow
def test_bias_of_noise_is_taken_off() -> None:
    """Uncorrected, the synergy of pure noise is about 0.2 nats here."""
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        noise = [rng.normal(size=(300, 4)) for _ in "ab"]
        found.append(decompose_features(*noise, rng.integers(3, size=300), 3, symbols=8, repeats=10))
    assert np.mean([f.parts.synergy for f in found]) < 0.08
    assert np.mean([f.parts.total for f in found]) < 0.1
    assert all(f.stderr["synergy"] > 0 for f in found)
    assert any("taken off the synergy" in warning for f in found for warning in f.warnings)


def test_says_when_it_cannot_be_trusted() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.normal(size=(40, 3)) for _ in "ab"]
    found = decompose_features(*noise, rng.integers(6, size=40), 6, repeats=3)
    assert any("too few" in w for w in found.warnings)
    assert any("2 symbols for 6 classes" in w for w in found.warnings)
    assert symbols_for(752, 2) == 12


def test_bad_input() -> None:
    for table in (np.zeros((2, 2, 2)), -np.ones((2, 2, 2)), np.ones((2, 2))):
        with pytest.raises(InputError, match="non-negative table"):
            decompose(table)
