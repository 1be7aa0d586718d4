"""Estimators against closed forms, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from modalign.errors import InputError
from modalign.estimators.estimate import (
    METHODS,
    NEURAL,
    MineTraining,
    _folds,
    _jackknife,
    _stderr,
    estimate,
    jensen_shannon,
    three_term,
    two_term,
)
from modalign.estimators.neural import LogRatio
from modalign.estimators.samples import paired_samples
from modalign.estimators.transforms import Canonical, NormalScores, Residual, cells
from modalign.information import objectives

KINDS = {"nce3": "plug-in", "nce2": "plug-in", "smile": "plug-in"} | dict.fromkeys(
    ("ksg", "latent"), "nearest-neighbor"
)
NAMED = tuple(method for method in METHODS if method != "auto")


def gaussian(nats: float, n: int, d: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rho = math.sqrt(1 - math.exp(-2 * nats / d))
    x = rng.normal(size=(n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=(n, d))


def test_mine_divides_its_gradient_by_a_moving_average() -> None:
    mine, same = MineTraining(), torch.eye(2)
    mine(torch.zeros(2, 2), same, 1 - same)  # E_neg[e^s] = 1
    scores = torch.ones(2, 2, requires_grad=True)
    mine(scores, same, 1 - same).backward()
    assert scores.grad is not None
    assert scores.grad[0, 1].item() == pytest.approx(-math.e / 2 / (0.9 + 0.1 * math.e))


@pytest.mark.parametrize("method", NAMED)
@pytest.mark.slow
def test_gaussian(method: str) -> None:
    x, y = gaussian(1.0, 600, d=2)
    result = estimate(torch.tensor(x), y, method=method, folds=2)
    assert abs(result.value - 1.0) < 3 * result.stderr + 0.05
    assert 0.01 < result.stderr < 0.15
    assert result.kind == KINDS.get(method, "lower bound")
    assert (result.unit, result.method, result.trusted) == ("nats", method, True)
    assert result.samples == (600 if method in ("ksg", "latent") else 240)


@pytest.mark.parametrize("method", NAMED)
@pytest.mark.slow
def test_independent_given_contexts(method: str) -> None:
    """Means that move with T make 1.2 nats without T; given T nothing is left."""
    rng = np.random.default_rng(0)
    t = rng.integers(4, size=500)
    x, y = (4 * t[:, None] + rng.normal(size=(500, 2)) for _ in range(2))
    result = estimate(x, y, t, method, folds=1)
    assert abs(result.value) < 3 * result.stderr + 0.02
    if method == "ksg":
        assert estimate(x, y, method=method).value > 1


@pytest.mark.parametrize("method", ["nce3", "ksg"])
def test_independent_given_a_line(method: str) -> None:
    rng = np.random.default_rng(0)
    t = rng.uniform(-3, 3, size=800)
    x, y = (np.sin(t) + t + 0.5 * rng.normal(size=800) for _ in range(2))
    result = estimate(x, y, t, method, folds=1)
    assert abs(result.value) < 3 * result.stderr + 0.02
    assert estimate(x, y, method="ksg").value > 0.8


def test_dependence_that_only_contexts_show() -> None:
    """Correlation of either sign by context: the correlation over all is 0, so that the start knows nothing."""
    x, y = gaussian(1.0, 1600, d=2)
    t = np.random.default_rng(1).integers(2, size=1600)
    result = estimate(x, np.where(t[:, None] == 1, y, -y), t, folds=1)
    assert result.value == pytest.approx(1.0, abs=3 * result.stderr + 0.1)


@pytest.mark.parametrize("method", ["nce3", "infonce"])
@pytest.mark.slow
def test_binary_channel(method: str) -> None:
    """A bit that flips with probability 0.1: I = log 2 - H(0.1)."""
    rng = np.random.default_rng(0)
    x = rng.integers(2, size=2000)
    y = np.where(rng.random(2000) < 0.1, 1 - x, x)
    truth = math.log(2) + 0.1 * math.log(0.1) + 0.9 * math.log(0.9)
    result = estimate(x, y, method=method, folds=1)
    assert result.value == pytest.approx(truth, abs=3 * result.stderr + 0.01)


@pytest.mark.parametrize("critic", ["bilinear", "mlp"])
def test_critics(critic: str) -> None:
    x, y = gaussian(1.0, 200)
    result = estimate(x, y, critic=critic, folds=1)
    assert result.value == pytest.approx(1.0, abs=3 * result.stderr + 0.1)


def test_high_information_in_twenty_dimensions() -> None:
    x, y = gaussian(5.0, 2000, d=20)
    assert estimate(x, y, folds=1).value == pytest.approx(5.0, abs=0.6)


@pytest.mark.slow
def test_infonce_warns_at_its_ceiling() -> None:
    x, y = gaussian(5.0, 200, d=2)
    result = estimate(x, y, method="infonce", folds=1)
    assert result.value < math.log(40)
    assert not result.trusted
    assert "log of the number of negatives" in "".join(result.warnings)


@pytest.mark.parametrize("method", ["nce3", "ksg"])
@pytest.mark.slow
def test_invertible_maps(method: str) -> None:
    """Increasing maps of single features change no rank, and hence nothing but rounding."""
    x, y = gaussian(1.0, 600)
    plain = estimate(x, y, method=method, folds=1)
    mapped = estimate(x**3, np.sinh(y) + 5, method=method, folds=1)
    assert mapped.value == pytest.approx(plain.value, abs=max(1e-3, plain.stderr / 2))


def test_seeds() -> None:
    x, y = gaussian(0.5, 100)
    state = torch.random.get_rng_state()
    first, again, other = (estimate(x, y, seed=s, folds=1) for s in (0, 0, 1))
    assert first == again
    assert first.value != other.value
    assert torch.equal(state, torch.random.get_rng_state())


def test_stderr_of_ksg_covers() -> None:
    """Over 60 draws the truth lies within 1.96 standard errors in about 95 %; and the error is not inflated."""
    truth, hits, values, errors = 0.3, 0, [], []
    for seed in range(60):
        result = estimate(*gaussian(truth, 300, seed=seed), method="ksg")
        hits += abs(result.value - truth) < 1.96 * result.stderr
        values.append(result.value)
        errors.append(result.stderr)
    assert hits >= 53
    assert np.mean(errors) < 1.5 * np.std(values)


@pytest.mark.parametrize("method", list(NEURAL))
def test_jackknife_by_leaving_out(method: str) -> None:
    """Influences against the literal jackknife, and the standard error against that of many draws."""
    value = NEURAL[method](5.0).value
    x, y = gaussian(0.5, 80)
    rho2 = 1 - math.exp(-1)

    def of(x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scores = math.sqrt(rho2) * x * y.T - rho2 / 2 * (x**2 + (y**2).T)
        n = len(x)
        eye = torch.eye(n, dtype=torch.float64)
        return torch.tensor(scores / (1 - rho2)), eye, (1 - eye) / (n - 1)

    full, influence = _jackknife(*of(x, y), value)
    left_out = [_jackknife(*of(np.delete(x, i, 0), np.delete(y, i, 0)), value)[0] for i in range(80)]
    slow = math.sqrt(79 / 80 * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))
    assert _stderr(influence.numpy(), np.arange(80)) == pytest.approx(slow, rel=0.1)
    assert full == pytest.approx(value(*of(x, y)).item())


def test_groups_widen_the_error() -> None:
    """Each sample six times over is no more evidence."""
    x, y = gaussian(0.5, 60)
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 6)
    x, y = (np.repeat(v, 6, axis=0) + 0.01 * rng.normal(size=(360, 1)) for v in (x, y))
    together = estimate(x, y, groups=groups, method="ksg", neighbors=10)
    assert together.stderr > 1.5 * estimate(x, y, method="ksg", neighbors=10).stderr
    fold = _folds(paired_samples(x, y, groups=groups), rng)
    assert all(len(np.unique(fold[groups == g])) == 1 for g in range(60))


def test_objectives_have_the_log_ratio_as_optimum() -> None:
    """Two symbols: the gradient at f = log p/q vanishes, for every r and without offset."""
    p = torch.tensor([[0.4, 0.1], [0.1, 0.4]], dtype=torch.float64)
    q = torch.full((2, 2), 0.25, dtype=torch.float64)
    for objective in (three_term, two_term, jensen_shannon, NEURAL["nwj"](5.0).value):
        f = (p / q).log().flatten().repeat(3).requires_grad_()
        positive = torch.cat([p.flatten(), torch.zeros(8, dtype=torch.float64)])
        negative = torch.cat([torch.zeros(4, dtype=torch.float64), q.flatten() / 2, q.flatten() / 2])
        (gradient,) = torch.autograd.grad(objective(f, positive, negative), f)
        torch.testing.assert_close(gradient.view(3, 4).sum(0), torch.zeros(4, dtype=torch.float64))


def test_mine_has_the_gradient_of_donsker_varadhan() -> None:
    """With the average at the value of the batch, the surrogate's gradient is the exact one."""
    scores = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    eye = torch.eye(6, dtype=torch.float64)
    pairs = (eye, (1 - eye) / 5)
    (surrogate,) = torch.autograd.grad(MineTraining()(scores, *pairs), scores)
    (exact,) = torch.autograd.grad(objectives.donsker_varadhan(scores, *pairs), scores)
    torch.testing.assert_close(surrogate, exact)


def test_log_ratio_starts_gaussian() -> None:
    rho = torch.tensor([0.8, 0.3])
    x, y = torch.randn(5, 2), torch.randn(5, 3)
    scores = LogRatio((2, 3), rho[None], "separable", None, 50.0)(x, y, torch.zeros(5, dtype=torch.int64))
    for i in range(5):
        for j in range(5):
            log_ratio = 0.0
            for k, r in enumerate(rho.tolist()):
                a, b = x[i, k].item(), y[j, k].item()
                log_ratio += (2 * r * a * b - r * r * (a * a + b * b)) / (2 * (1 - r * r))
                log_ratio -= math.log(1 - r * r) / 2
            assert scores[i, j].item() == pytest.approx(log_ratio, abs=1e-4)


def test_normal_scores_by_context() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(2, size=4000)
    values = (np.exp(rng.normal(size=(4000, 1))) + 7) * np.where(codes, 1, 20)[:, None]
    fit = NormalScores(values[:2000], codes[:2000])
    scores = fit(values[2000:], codes[2000:])
    for c in (0, 1):
        assert abs(scores[codes[2000:] == c].mean()) < 0.1
        assert scores[codes[2000:] == c].std() == pytest.approx(1, abs=0.1)
    assert np.isfinite(fit(np.array([[1e9], [-1e9]]), np.array([0, 1]))).all()


def test_residual_removes_what_t_says() -> None:
    t = np.random.default_rng(0).uniform(-2, 2, size=(1000, 1))
    values = np.hstack([np.sin(3 * t), 4 * t]) + 0.1 * np.random.default_rng(1).normal(size=(1000, 2))
    fit = Residual(values[:800], t[:800])
    assert fit(values[800:], t[800:]).std(axis=0).max() < 0.15
    assert fit(values[:800], t[:800], fitted=True).std(axis=0).max() < 0.15


def test_canonical_correlations() -> None:
    """Recovered after any linear map, and about 0 where there are none."""
    rng = np.random.default_rng(0)
    x, y = gaussian(0.5, 3000, d=3)
    found = Canonical(x @ rng.normal(size=(3, 3)), y @ rng.normal(size=(3, 3))).correlations
    np.testing.assert_allclose(found, math.sqrt(1 - math.exp(-1 / 3)), atol=0.06)
    assert Canonical(rng.normal(size=(500, 20)), rng.normal(size=(500, 20))).correlations.mean() < 0.15


def test_cells_are_small_and_narrow() -> None:
    t = np.random.default_rng(0).uniform(size=(1000, 1))
    codes = cells(t, 32, np.random.default_rng(1))
    assert np.bincount(codes).max() <= 32
    assert max(np.ptp(t[codes == c]) for c in range(codes.max() + 1)) < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.arange(29.0)}, "y has 29 samples and x has 30"),
        ({"given": np.arange(31) % 3}, "given has 31 samples and x has 30"),
        ({"groups": np.arange(29)}, "groups has 29 samples"),
        ({"groups": np.arange(30) % 2}, "groups has 2 distinct"),
        ({"x": np.r_[np.nan, np.arange(29.0)]}, "x has 1 values that are NaN or infinite, the first in row 0"),
        ({"y": np.r_[np.arange(29.0), np.inf]}, "y has 1 values that are NaN or infinite, the first in row 29"),
        ({"x": np.ones(30)}, "x is constant"),
        ({"x": np.zeros((30, 2, 2))}, "x has shape"),
        ({"x": np.array(["a"] * 30)}, "expected numbers"),
        ({"given": np.r_[5, np.zeros(29, dtype=int)]}, "context.* with a single sample, such as .5."),
        ({"given": np.array(["a", *"bc" * 14, "b"])}, "single sample, such as .'a'."),
        ({"method": "nce"}, "unknown method 'nce'; did you mean 'nce[23]'"),
        ({"critic": "linear"}, "unknown critic 'linear'"),
        ({"folds": 6}, "folds is 6"),
        ({"y": np.arange(30.0) ** 3}, "feature 0 of x and feature 0 of y order the samples alike"),
        ({"x": np.arange(30) % 2, "method": "ksg"}, "x is discrete, with 2 distinct values in 30 samples"),
        ({"x": np.arange(30) % 2, "method": "latent"}, "x is discrete, with 2 distinct values"),
        ({"x": np.arange(9.0), "y": np.arange(9.0)}, "9 samples; at least 20"),
        ({"given": np.arange(30) // 3, "method": "ksg"}, "smallest context has 3"),
        ({"given": np.arange(30) // 2}, "no context has two samples in a fifth"),
    ],
)
def test_refused(change: dict, message: str) -> None:
    arguments = {"x": np.arange(30.0), "y": np.sin(np.arange(30.0)), **change}
    with pytest.raises(InputError, match=message):
        estimate(**arguments)


def test_warnings() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 5))
    y = rng.normal(size=(100, 5))
    few = estimate(x, y, np.arange(100) % 10, method="ksg", neighbors=2)
    assert not few.trusted
    said = "\n".join(few.warnings)
    for part in ("only 100 samples", "too few samples per context: 10 of 10", "high dimension: 10 features"):
        assert part in said
    assert "tied" in estimate(x.round(), y, method="ksg").warnings[-1]
    context = np.arange(300) % 3
    told = estimate(context.astype(float), rng.normal(size=300), context, method="infonce", folds=1)
    assert "x is constant within 3 of 3 contexts" in told.warnings
    assert abs(told.value) < 0.02


def test_kinds_of_context() -> None:
    """Strings, integers and repeated floats are the same contexts."""
    x, y = gaussian(0.5, 200)
    codes = np.arange(200) % 2
    values = {
        estimate(x, y, given, "ksg").value
        for given in (codes, codes.astype(float), np.array(["a", "b"])[codes], codes[:, None] == 1)
    }
    assert len(values) == 1


@pytest.mark.slow
def test_a_critic_that_misses_a_near_deterministic_relation_says_so():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 1))
    found = estimate(x, (x + 0.005 * rng.normal(size=(600, 1))) ** 3, method="nce3", folds=1)
    assert found.value < 4.5  # the truth is 5.3
    assert not found.trusted
    assert "use method='ksg'" in " ".join(found.warnings)


def digits(n: int, given: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Different images of one class: log 10 nats, log 5 given parity, none given the class."""
    images, label = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    drawn = rng.integers(10, size=n)
    pair = np.array([rng.choice(np.flatnonzero(label == c), 2, replace=False) for c in drawn])
    return images[pair[:, 0]], images[pair[:, 1]], {"parity": drawn % 2, "class": drawn}.get(given or "")


@pytest.mark.parametrize(
    ("method", "given", "truth", "short"),
    [
        ("nce3", None, math.log(10), 0.5),
        ("latent", None, math.log(10), 0.5),
        ("nce3", "parity", math.log(5), 0.5),
        ("latent", "parity", math.log(5), 0.5),
        ("nce3", "class", 0.0, 0.05),
        ("latent", "class", 0.0, 0.15),
    ],
)
@pytest.mark.slow
def test_clusters_that_images_share(method: str, given: str | None, truth: float, short: float) -> None:
    """Classes are told apart from pairs alone: no estimate passes the truth, and none falls far short of it."""
    found = estimate(*digits(1500, given), method, folds=1)
    assert truth - short < found.value < truth + 0.15


@pytest.mark.parametrize("turn", ["rotation", "sign"])
def test_dependence_that_turns_with_the_context(turn: str) -> None:
    rng = np.random.default_rng(0)
    t = rng.integers(4, size=1500)
    x, y = gaussian(1.5, 1500, d=4)
    maps = np.stack(
        [np.linalg.qr(rng.normal(size=(4, 4)))[0] if turn == "rotation" else (-1) ** c * np.eye(4) for c in range(4)]
    )
    found = estimate(x, np.einsum("nij,nj->ni", maps[t], y), t, folds=1)
    assert found.value == pytest.approx(1.5, abs=3 * found.stderr + 0.1)


def rotated(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two correlated directions of 30, rotated on both sides."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, n, 30))
    y[:, :2] = 0.9 * x[:, :2] + math.sqrt(0.19) * y[:, :2]
    left, right = (np.linalg.qr(rng.normal(size=(30, 30)))[0] for _ in "xy")
    return x @ left, y @ right


@pytest.mark.slow
def test_auto_takes_critics_where_few_of_many_directions_are_shared() -> None:
    found = estimate(*rotated(1000), method="auto", folds=1)
    assert found.method == "nce3"
    assert found.value == pytest.approx(-math.log(0.19), abs=3 * found.stderr + 0.2)
    assert found.notes[0].startswith("auto took nce3")


@pytest.mark.slow
def test_auto_takes_neighbors_where_one_scalar_all_but_determines_the_other() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 1))
    found = estimate(x, (x + 0.005 * rng.normal(size=(600, 1))) ** 3, method="auto", folds=1)
    assert found.method in ("ksg", "latent")
    assert found.value > 4  # the truth is 5.3


@pytest.mark.slow
def test_auto_says_which_methods_it_could_not_try() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(2, size=400)
    found = estimate(x, np.where(rng.random(400) < 0.1, 1 - x, x), method="auto", folds=1)
    assert found.method == "nce3"
    assert "not tried: x is discrete, with 2 distinct values" in " ".join(found.notes)


def test_features_that_say_nothing_new_change_nothing() -> None:
    x, y = gaussian(0.5, 200, d=2)
    more = np.c_[np.ones(200), x, x[:, :1]]
    assert estimate(more, y, method="ksg") == estimate(x, y, method="ksg")


@pytest.mark.parametrize("method", ["latent", "auto"])
@pytest.mark.slow
def test_seeds_of_what_is_learned(method: str) -> None:
    x, y = gaussian(0.5, 120, d=2)
    assert estimate(x, y, method=method, folds=1) == estimate(x, y, method=method, folds=1)
