"""The information diagnosis on Gaussian data with closed forms and on classes with known structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from modalign.errors import InputError
from modalign.evaluation.diagnosis import (
    Information,
    fusibility_and_complementarity,
    information_diagnosis,
    over_fused,
)
from modalign.evaluation.pairs import Amount, Complete, Pair, Reference
from modalign.evaluation.target import probe


@dataclass
class Known:
    value: float
    stderr: float = 0.01
    kind: str = "plug-in"
    method: str = "gaussian"
    trusted: bool = True
    warnings: tuple[str, ...] = ()


def gaussian(x: np.ndarray, y: np.ndarray, given: np.ndarray | None = None, groups: object = None) -> Known:
    """I(X;Y) or I(X;Y|T) of jointly Gaussian arrays (T classes: within-class covariances)."""
    if given is not None and given.ndim == 1:
        x, y = (v - np.stack([v[given == t].mean(0) for t in range(given.max() + 1)])[given] for v in (x, y))
        given = None
    parts = [x, y] if given is None else [x, y, given]
    log_det = lambda *v: np.linalg.slogdet(np.atleast_2d(np.cov(np.concatenate(v, 1).T)))[1]  # noqa: E731
    if given is None:
        return Known(0.5 * (log_det(x) + log_det(y) - log_det(*parts)))
    return Known(0.5 * (log_det(x, given) + log_det(y, given) - log_det(given) - log_det(*parts)))


def two_views(n: int = 3000, classes: int = 4) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Audio tells bit one of the class, video bit two; both share noise beyond the class."""
    rng = np.random.default_rng(0)
    y = rng.integers(classes, size=n)
    common = rng.normal(size=(n, 1))
    audio = np.concatenate([4.0 * (y // 2)[:, None] + 0.3 * rng.normal(size=(n, 1)), common], 1)
    video = np.concatenate([4.0 * (y % 2)[:, None] + 0.3 * rng.normal(size=(n, 1)), common], 1)
    video[:, 1:] += 0.5 * rng.normal(size=(n, 1))
    return {"audio": audio, "video": video}, y


def test_recovers_unique_and_shared_parts() -> None:
    features, y = two_views()
    found = information_diagnosis(features, y, 4, gaussian)
    bit = np.log(2)
    assert found.target["audio"].value == pytest.approx(bit, abs=0.05)
    assert found.together is not None
    assert found.together.value == pytest.approx(2 * bit, abs=0.1)
    assert found.unique["video"].value == pytest.approx(bit, abs=0.05)
    assert found.unique["video"].stderr < 0.02
    # the common noise: I = -log(1 - rho^2) / 2 with rho^2 = 1 / 1.25
    assert found.pairs[0].shared_given_target.value == pytest.approx(0.5 * np.log(5), abs=0.05)
    assert found.fusibility == found.pairs[0].shared_given_target.value
    assert found.complementarity == pytest.approx(bit, abs=0.05)
    parts = found.splits[0].decomposed.parts
    assert parts.unique_1 + parts.unique_2 == pytest.approx(2 * bit, abs=0.3)
    assert not over_fused(found)


@pytest.mark.slow
def test_lower_bound_stays_below_the_truth_on_noise() -> None:
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=(200, 30)) for name in "ab"}
    found = information_diagnosis(features, rng.integers(3, size=200), 3, gaussian)
    for amount in (*found.target.values(), *found.unique.values()):
        assert amount.value < 2 * amount.stderr


@pytest.mark.slow
def test_three_modalities_with_some_missing() -> None:
    features, y = two_views(600)
    features["noise"] = np.random.default_rng(1).normal(size=(600, 2))
    present = np.ones((600, 3), bool)
    present[:100, 1] = False
    found = information_diagnosis(features, y, 4, gaussian, present)
    assert found.samples == 500
    assert "100 of 600" in found.warnings[0]
    assert len(found.pairs) == len(found.splits) == 3
    assert abs(found.unique["noise"].value) < 0.03


def test_continuous_target() -> None:
    rng = np.random.default_rng(0)
    z = {"a": rng.normal(size=(5000, 1)), "b": rng.normal(size=(5000, 1))}
    y = z["a"][:, 0] + z["b"][:, 0] + rng.normal(size=5000)
    found = information_diagnosis(z, y, 0, gaussian)
    assert found.target["a"].value == pytest.approx(0.5 * np.log(3 / 2), abs=0.03)
    assert found.unique["a"].value == pytest.approx(0.5 * np.log(2), abs=0.03)
    assert found.splits == ()


def test_groups_widen_standard_errors() -> None:
    features, y = two_views(400)
    groups = np.repeat(np.arange(10), 40)
    y, features = np.sort(y), {k: v[np.argsort(y, kind="stable")] for k, v in features.items()}
    found = information_diagnosis(features, y, 4, gaussian, groups=groups)
    assert not found.target["audio"].trusted
    assert "10 independent groups" in found.target["audio"].warnings[0]


def test_probe_survives_a_class_with_one_sample() -> None:
    features, y = two_views(100, 2)
    y[0] = 2
    log_probability = probe(features["audio"], y, 3)
    assert np.isfinite(log_probability).all()
    assert np.exp(log_probability).sum(1) == pytest.approx(1)


def test_untrusted_estimates_are_said() -> None:
    features, y = two_views(200)

    def doubtful(*data: object, groups: object) -> Known:
        return Known(5.0, trusted=False, warnings=("near log N",))

    found = information_diagnosis(features, y, 4, doubtful)
    assert found.warnings == ("I(audio;video), I(audio;video|target) cannot be trusted: near log N",)


def test_what_cannot_be_conditioned_on_is_said() -> None:
    features, y = two_views(200)

    def refuses(x: np.ndarray, y: np.ndarray, given: object = None, groups: object = None) -> Known:
        if given is not None:
            raise InputError("context 3 has a single sample")
        return Known(0.3)

    found = information_diagnosis(features, y, 4, refuses)
    assert np.isnan(found.pairs[0].shared_given_target.value)
    assert "I(audio;video|target) cannot be trusted: context 3 has a single sample" in found.warnings


def test_directions_fitted_to_nothing_else_are_not_trusted() -> None:
    rng = np.random.default_rng(0)
    z = {name: rng.normal(size=(200, 12)) for name in "ab"}
    found = information_diagnosis(z, rng.integers(2, size=200), 2, gaussian)
    assert found.pairs[0].shared.method == "gaussian in 5 of 12 directions"
    assert not found.pairs[0].shared.trusted
    assert "principal directions" in found.warnings[0]
    few = Reference({name: v[:10] for name, v in z.items()}, np.zeros(10, int))
    assert not information_diagnosis(z, rng.integers(2, size=200), 2, gaussian, reference=few).pairs[0].shared.trusted


def test_many_features_about_a_continuous_target() -> None:
    """One direction of thirty tells of the target; the directions are fitted to other samples."""
    rng = np.random.default_rng(0)
    z = {name: rng.normal(size=(2000, 30)) for name in "ab"}
    y = z["a"] @ rng.normal(size=30) / 5 + 0.5 * rng.normal(size=2000)
    here, there = slice(0, 600), slice(600, None)
    reference = Reference({name: v[there] for name, v in z.items()}, y[there])
    found = information_diagnosis({name: v[here] for name, v in z.items()}, y[here], 0, gaussian, reference=reference)
    truth = 0.5 * np.log(np.var(y) / 0.25)
    assert found.target["a"].value == pytest.approx(truth, abs=0.12)
    assert found.unique["a"].value == pytest.approx(truth, abs=0.12)
    assert found.target["b"].value < 0.03
    assert found.target["a"].method == "gaussian in 4 of 30 directions"


def test_over_fusion() -> None:
    shared, nothing = Amount(1.0, 0.1, "", ""), Amount(0.01, 0.02, "", "")
    pair = Pair(("a", "b"), shared, shared)
    base = Information(100, (pair,), {}, None, {"a": nothing, "b": nothing}, (), 1, 0, ())
    assert over_fused(base)
    kept = Information(100, (pair,), {}, None, {"a": nothing, "b": shared}, (), 1, 0, ())
    assert not over_fused(kept)


def test_bad_input() -> None:
    z = np.zeros((30, 2))
    with pytest.raises(InputError, match="two or more"):
        information_diagnosis({"a": z}, np.zeros(30, int), 2, gaussian)
    with pytest.raises(InputError, match="rows disagree"):
        information_diagnosis({"a": z, "b": z}, np.zeros(29, int), 2, gaussian)
    with pytest.raises(InputError, match="at least 20"):
        information_diagnosis({"a": z[:10], "b": z[:10]}, np.zeros(10, int), 2, gaussian)


def test_few_groups_are_a_doubt_and_not_an_end() -> None:
    features, target = two_views(600)
    groups = np.arange(600) % 2
    seen = []

    def estimate(x: np.ndarray, y: np.ndarray, given: np.ndarray | None = None, groups: object = None) -> Known:
        seen.append(groups)
        return gaussian(x, y, given, groups)

    found = information_diagnosis(features, target, 4, estimate, groups=groups)
    assert seen == [None, None]
    [pair] = found.pairs
    assert not pair.shared.trusted
    assert any("only 2 independent groups" in text for text in found.warnings)
    assert information_diagnosis(features, target, 4, gaussian, groups=np.arange(600) % 30).pairs[0].shared.trusted


def test_collapsed_features_share_and_tell_nothing() -> None:
    features, target = two_views(400)
    a, b = features
    features = {"a": features[a], "b": np.full_like(features[b], 0.3)}

    def refuses(x: np.ndarray, y: np.ndarray, given: np.ndarray | None = None, groups: object = None) -> Known:
        assert np.ptp(x, axis=0).any()
        assert np.ptp(y, axis=0).any()
        return gaussian(x, y, given, groups)

    for classes, label in ((4, target), (0, target + np.random.default_rng(0).normal(size=400))):
        found = information_diagnosis(features, label, classes, refuses)
        [pair] = found.pairs
        assert (pair.shared.value, pair.shared_given_target.value, found.fusibility) == (0, 0, 0)
        assert found.target["b"].value <= 0
        assert found.unique["b"].value == pytest.approx(0)
        assert any("features of b are the same" in text for text in found.warnings)
        given = Complete.of(features, label, classes, refuses)
        assert fusibility_and_complementarity(given) == (0, found.complementarity)
