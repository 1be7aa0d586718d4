"""The made data: its formulas against exact densities, and its options."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import logsumexp

from modalign.data.datasets.synthetic import generate, rotations, truth
from modalign.data.load import load_data
from modalign.errors import InputError
from modalign.settings import DataSettings

STRONG = {"redundant": 1.5, "unique": 0.7, "synergy": 1.2}


def log_normal(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Log-density of independent unit normals, up to a constant that ratios do not see."""
    return -((x - mean) ** 2).sum(-1) / 2


def ratios(n: int, correlation: float, shared: int) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise I(X1;X2) and I(X1;X2|Y) of samples of M = 2, summing literally over every state of the bits."""
    features = 3 + shared
    arrays = generate(n, shared=shared, correlation=correlation, features=features, seed=3, **STRONG)
    rng = np.random.default_rng(3)
    rng.choice([-1, 1], (n, 5))
    rng.standard_normal((n, shared))
    first, second = rotations_in_order(n, features, rng)
    x1, x2 = arrays["x1"] @ first, arrays["x2"] @ second
    states = np.array(list(product([-1, 1], repeat=5)))
    means1 = np.stack(
        [STRONG["redundant"] * states[:, 0], STRONG["unique"] * states[:, 1], STRONG["synergy"] * states[:, 3]], 1
    )
    means2 = np.stack(
        [STRONG["redundant"] * states[:, 0], STRONG["unique"] * states[:, 2], STRONG["synergy"] * states[:, 4]], 1
    )
    one = log_normal(x1[:, None, :3], means1)
    two = log_normal(x2[:, None, :3], means2)
    label = np.stack([states[:, 0], states[:, 1], states[:, 2], states[:, 3] * states[:, 4]], 1)
    own = np.stack([arrays[k] for k in ("redundant", "unique1", "unique2", "synergy")], 1)
    same = np.where((label[None] == own[:, None]).all(-1), 0.0, -np.inf)
    useless = gaussian_ratio(x1[:, 3:], x2[:, 3:], correlation)
    mutual = ratio(one, two, np.zeros_like(same)) + useless
    return mutual, ratio(one, two, same) + useless


def rotations_in_order(n: int, features: int, rng: np.random.Generator) -> list[np.ndarray]:
    return rotations(2, features, rng)


def ratio(one: np.ndarray, two: np.ndarray, mask: np.ndarray) -> np.ndarray:
    count = logsumexp(mask, 1)
    joint = logsumexp(one + two + mask, 1) - count
    return joint - (logsumexp(one + mask, 1) - count) - (logsumexp(two + mask, 1) - count)


def gaussian_ratio(a: np.ndarray, b: np.ndarray, rho: float) -> np.ndarray:
    log_ratio = -(rho**2 * (a**2 + b**2) - 2 * rho * a * b) / (2 * (1 - rho**2)) - 0.5 * np.log(1 - rho**2)
    return log_ratio.sum(1)


def test_information_against_exact_densities() -> None:
    mutual, conditional = ratios(20_000, correlation=0.6, shared=2)
    known = truth(shared=2, correlation=0.6, **STRONG)
    for value, formula in ((mutual, known.mutual), (conditional, known.conditional)):
        error = value.std() / np.sqrt(len(value))
        assert abs(value.mean() - formula) < 4 * error
        assert error < 0.01
    assert abs(known.mutual - known.conditional) > 0.05, "the test must tell the two apart"


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 4.0])
def test_a_look_at_a_bit_against_an_integrator(strength: float) -> None:
    def entropy_term(x: float) -> float:
        density = (np.exp(-((x - strength) ** 2) / 2) + np.exp(-((x + strength) ** 2) / 2)) / np.sqrt(8 * np.pi)
        return -density * np.log(density) if density > 0 else 0.0

    exact = quad(entropy_term, -15, 15, limit=200)[0] - 0.5 * np.log(2 * np.pi * np.e)
    look = truth(redundant=strength, unique=0.0).label_alone
    assert look == pytest.approx(exact, abs=1e-8)


def test_limits_of_the_formulas() -> None:
    nothing = truth(redundant=0, synergy=0, shared=0)
    assert nothing.mutual == pytest.approx(0, abs=1e-12)
    assert nothing.conditional == pytest.approx(0, abs=1e-12)
    strong = truth(redundant=20, unique=0, synergy=20, shared=1, correlation=0.8)
    gaussian = -0.5 * np.log(1 - 0.64)
    assert strong.mutual == pytest.approx(np.log(2) + gaussian)
    assert strong.conditional == pytest.approx(np.log(2) + gaussian)
    assert strong.label_pair == pytest.approx(2 * np.log(2))
    assert truth(count=3, redundant=0, synergy=5, shared=0).conditional == pytest.approx(0, abs=1e-12)


def test_the_label_is_made_of_the_bits() -> None:
    arrays = generate(500, count=3, seed=1)
    bits = [arrays[name] > 0 for name in ("redundant", "unique1", "unique2", "unique3", "synergy")]
    assert (arrays["y"] == sum(bit.astype(int) << k for k, bit in enumerate(bits))).all()
    assert len(np.unique(generate(500, unique=0.0, synergy=0.0)["y"])) == 2


def test_no_modality_alone_tells_the_synergy() -> None:
    arrays = generate(4000, redundant=0.0, unique=0.0, synergy=4.0, shared=0, features=3)
    rng = np.random.default_rng(0)
    rng.choice([-1, 1], (4000, 5))
    rng.standard_normal((4000, 0))
    first, second = rotations_in_order(4000, 3, rng)
    signs = [np.sign(arrays["x1"] @ first)[:, 2], np.sign(arrays["x2"] @ second)[:, 2]]
    label = np.where(arrays["y"] == 1, 1, -1)
    assert (signs[0] * signs[1] == label).mean() > 0.99
    assert all(abs((sign * label).mean()) < 0.05 for sign in signs)


def test_missing_modalities_leave_one() -> None:
    arrays = generate(4000, count=3, missing=0.4)
    gone = np.stack([np.isnan(arrays[f"x{m}"]).all(1) for m in (1, 2, 3)], 1)
    assert not gone.all(1).any()
    assert abs(gone.mean() - (0.4 - 0.4**3 / 3)) < 0.02


def test_loaded_with_columns_and_groups() -> None:
    settings = DataSettings(name="synthetic", columns=["synergy", "group"], group="group")
    settings.options = {"samples": 300, "count": 3, "missing": 0.2, "unique": 0.0}
    data = load_data(settings)
    assert list(data.modalities) == ["x1", "x2", "x3"]
    assert data.task.outputs == 4
    assert data.train.columns["synergy"].names == ("-1", "1")
    assert not set(data.train.groups) & set(data.test.groups)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sinergy": 1.0}, r"unknown option of the data 'synthetic': 'sinergy'; did you mean 'synergy'"),
        ({"features": 4}, r"features is 4; expected at least 3 \+ shared = 5"),
        ({"correlation": 1.0}, r"correlation is 1.0; expected a number of at least 0 and below 1"),
        ({"missing": 1.0, "samples": 3}, r"(?s)missing is 1.0; .*samples is 3; expected a whole number of at least 20"),
        ({"redundant": 0.0, "unique": 0.0, "synergy": 0.0}, r"synergy are 0; .*one of them above"),
        ({"count": 0}, r"count is 0; expected a whole number of at least 1 and at most 10"),
    ],
)
def test_options_outside_their_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(DataSettings(name="synthetic", options=options))


@pytest.mark.parametrize(
    "options", [{}, {"redundant": 0.0, "unique": 0.0}, {"count": 3, "synergy": 1.5}, {"unique": 0.0, "synergy": 0.0}]
)
def test_the_accuracy_of_the_bayes_classifier_is_reached_with_the_directions_known(options):
    """The sign of the sum of looks at A, of each own look, and of the product of looks at S; 20,000 samples."""
    strengths = {"redundant": 1.0, "unique": 1.0, "synergy": 1.0} | {k: v for k, v in options.items() if k != "count"}
    count, n, features = options.get("count", 2), 20_000, 5
    arrays = generate(n, count, **strengths, features=features, seed=1)
    rng = np.random.default_rng(1)
    rng.choice([-1, 1], (n, 1 + 2 * count))
    rng.standard_normal((n, 2))
    looks = [arrays[f"x{m}"] @ q for m, q in enumerate(rotations(count, features, rng), 1)]
    guesses = {"redundant": sum(look[:, 0] for look in looks), "synergy": np.prod([look[:, 2] for look in looks], 0)}
    guesses |= {f"unique{m}": look[:, 1] for m, look in enumerate(looks, 1)}
    kept = [name for name in guesses if strengths[name.rstrip("0123456789")] > 0]
    right = np.all([np.sign(guesses[name]) == arrays[name] for name in kept], 0).mean()
    assert truth(count, **strengths).accuracy == pytest.approx(right, abs=0.012)
