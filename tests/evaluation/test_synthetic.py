"""Data whose redundant, unique and synergistic parts are known by construction: the diagnosis finds them again."""

from __future__ import annotations

import functools
from math import sqrt

import numpy as np
import pytest

from modalign.data.datasets.synthetic import _common, _look, generate, truth
from modalign.estimators.estimate import estimate
from modalign.evaluation.diagnosis import information_diagnosis
from modalign.evaluation.pairs import Reference, affordable, canonical_directions

NAMES = ("x1", "x2")


class Nothing:
    """Stands for the critic where only what is told of the label is looked at."""

    value, stderr, kind, method, trusted, warnings = 0.0, 0.0, "", "", True, ()


def drawn(samples: int, **options: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    arrays = generate(samples=samples, **options)  # type: ignore[arg-type]
    return {name: arrays[name].astype(np.float64) for name in NAMES}, arrays["y"]


CASES = {
    "redundant": {"redundant": 2.5, "unique": 0.0, "synergy": 0.0},
    "unique": {"redundant": 0.0, "unique": 2.5, "synergy": 0.0},
    "synergy": {"redundant": 0.0, "unique": 0.0, "synergy": 2.5},
    "all three": {"redundant": 2.0, "unique": 2.0, "synergy": 2.0},
}


@pytest.mark.parametrize("name", CASES)
def test_parts_are_recovered(name: str) -> None:
    """Within 0.13 nats, by cutting into 12 symbols; within 0.17 where they are fewer than the 16 classes, as is said.

    The bits are independent, so that the decomposition is the sum over bits. Of the redundant one both sources tell
    i(d) each, and i(sqrt(2) d) together: what the second look adds is synergy in the sense of Bertschinger et al.
    """
    strength = CASES[name]
    features, y = drawn(1500, features=8, **strength)
    found = information_diagnosis(features, y, int(y.max()) + 1, lambda *data, **more: Nothing())
    r, u, s = (strength[key] for key in ("redundant", "unique", "synergy"))
    parts = found.splits[0].decomposed.parts
    error = 0.17 if name == "all three" else 0.13
    assert bool(found.splits[0].decomposed.warnings) == (name == "all three")
    assert parts.redundant == pytest.approx(_look(r), abs=error)
    assert (parts.unique_1, parts.unique_2) == pytest.approx((_look(u), _look(u)), abs=error)
    assert parts.synergy == pytest.approx(_look(sqrt(2) * r) - _look(r) + _common(s), abs=error)
    known = truth(**strength)
    for amount in found.target.values():  # a lower bound, near where there is no synergy to miss
        assert known.label_alone - 0.25 < amount.value < known.label_alone + 3 * amount.stderr
    assert found.together is not None
    assert found.together.value < known.label_pair + 3 * found.together.stderr


@pytest.mark.slow
def test_many_features_and_few_samples_still_say_what_is_shared() -> None:
    """64 features and 600 samples: by themselves no estimate stands by its number; in eight directions it does."""
    options = {"redundant": 2.0, "unique": 0.0, "synergy": 0.0, "shared": 2, "correlation": 0.8, "features": 32}
    features, y = drawn(1400, **options)
    here, there = ({m: z[rows] for m, z in features.items()} for rows in (slice(0, 600), slice(600, None)))
    quick = functools.partial(estimate, folds=1)
    found = information_diagnosis(here, y[:600], 2, quick, reference=Reference(there, y[600:]))
    known = truth(**{k: v for k, v in options.items() if k != "features"})
    pair = found.pairs[0]
    for amount, true in ((pair.shared, known.mutual), (pair.shared_given_target, known.conditional)):
        assert amount.trusted, amount.warnings
        assert amount.method.endswith("in 8 of 32 directions")
        assert 0.8 * true - 2 * amount.stderr < amount.value < true + 2 * amount.stderr


def test_directions_find_what_is_shared_given_the_label() -> None:
    """Without the label the common bit leads; given it, the two shared features do, as the bit is no news then."""
    features, y = drawn(3000, redundant=3.0, unique=0.0, synergy=0.0, shared=2, correlation=0.8, features=20)
    fitted, held = ({m: z[rows] for m, z in features.items()} for rows in (slice(0, 1500), slice(1500, None)))
    free = canonical_directions(fitted["x1"], fitted["x2"], 3)
    given = canonical_directions(fitted["x1"], fitted["x2"], 3, np.eye(2)[y[:1500]])
    free_1, free_2 = (held[m] @ directions for m, directions in zip(NAMES, free, strict=True))
    correlations = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(free_1.T, free_2.T, strict=True)]
    # the bit has variance 9 beside noise of 1, the shared features correlate by 0.8
    assert correlations == pytest.approx([0.9, 0.8, 0.8], abs=0.06)
    inside = [np.corrcoef((held["x1"] @ given[0])[y[1500:] == 0, k], (held["x2"] @ given[1])[y[1500:] == 0, k])[0, 1]
              for k in range(3)]  # fmt: skip
    assert np.abs(inside) == pytest.approx([0.8, 0.8, 0.0], abs=0.12)


def test_directions_that_can_be_paid_for() -> None:
    # 600 samples: 360 train the critic, ten for each of 2 x 8 features at least
    assert [affordable(n) for n in (20, 100, 260, 600, 10_000)] == [1, 2, 7, 8, 8]
    wide, narrow = np.random.default_rng(0).normal(size=(2, 50, 9))
    first, second = canonical_directions(wide, narrow[:, :2], 5)
    assert (first.shape, second.shape) == ((9, 2), (2, 2))
