"""KSG against a literal loop, closed forms and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_regression

from modalign.estimators import ksg
from modalign.estimators.ksg import conditional_ksg_terms, ksg_terms


def gaussian(rho: float, n: int, d: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray, float]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=(n, d))
    return x, y, -d / 2 * np.log(1 - rho**2)


def chebyshev(values: np.ndarray, i: int) -> np.ndarray:
    distance = np.abs(values - values[i]).max(axis=1)
    return np.delete(distance, i)


@pytest.mark.parametrize(("d", "e"), [(1, 1), (2, 3), (5, 4)])
def test_literal_loop(d: int, e: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, d))
    y = x[:, :1] + rng.normal(size=(60, e))
    slow = []
    for i in range(60):
        dx, dy = chebyshev(x, i), chebyshev(y, i)
        radius = np.sort(np.maximum(dx, dy))[2]
        slow.append(digamma(3) + digamma(60) - digamma((dx < radius).sum() + 1) - digamma((dy < radius).sum() + 1))
    np.testing.assert_allclose(ksg_terms(x, y), slow)


@pytest.mark.parametrize("features", [0, 99])
def test_conditional_literal_loop(features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ksg, "TREE_FEATURES", features)
    rng = np.random.default_rng(0)
    x, y, t = rng.normal(size=(60, 2)), rng.normal(size=(60, 1)), rng.normal(size=(60, 2))
    slow = []
    for i in range(60):
        dx, dy, dt = chebyshev(x, i), chebyshev(y, i), chebyshev(t, i)
        radius = np.sort(np.maximum(np.maximum(dx, dy), dt))[3]
        n_t, n_xt, n_yt = ((v < radius).sum() for v in (dt, np.maximum(dx, dt), np.maximum(dy, dt)))
        slow.append(digamma(4) + digamma(n_t + 1) - digamma(n_xt + 1) - digamma(n_yt + 1))
    np.testing.assert_allclose(conditional_ksg_terms(x, y, t, k=4), slow)


@pytest.mark.parametrize(("rho", "d"), [(0.0, 1), (0.6, 1), (0.9, 1), (0.99, 1), (0.5, 2)])
def test_gaussian(rho: float, d: int) -> None:
    x, y, truth = gaussian(rho, 3000, d)
    assert ksg_terms(x, y).mean() == pytest.approx(truth, abs=0.06)


def test_uniform_noise() -> None:
    """Y = X + U with X, U uniform on (0, 1) has I = 1/2: the entropy of a triangle."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(4000, 1))
    assert ksg_terms(x, x + rng.uniform(size=x.shape)).mean() == pytest.approx(0.5, abs=0.05)


def test_scikit_learn() -> None:
    x, y, _ = gaussian(0.8, 1000)
    theirs = mutual_info_regression(x / x.std(), y[:, 0] / y.std(), n_neighbors=3, random_state=0)[0]
    assert ksg_terms(x / x.std(), y / y.std()).mean() == pytest.approx(theirs, abs=1e-3)


def test_conditional_gaussian() -> None:
    """X and Y share T, which alone makes them dependent, and noise of correlation 0.8, which is left given T."""
    u, v, truth = gaussian(0.8, 4000)
    t = np.random.default_rng(1).normal(size=(4000, 1))
    assert conditional_ksg_terms(u + t, v + t, t).mean() == pytest.approx(truth, abs=0.08)
    w = np.random.default_rng(2).normal(size=(4000, 1))
    assert conditional_ksg_terms(u + t, w + t, t).mean() == pytest.approx(0, abs=0.05)
    assert ksg_terms(u + t, w + t).mean() > 0.1
