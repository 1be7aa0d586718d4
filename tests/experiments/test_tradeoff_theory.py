"""The trade-off on data and encoders so simple that its curve, and where it turns, can be calculated.

Each modality is a look at a bit of its own, B + N (the label is both bits), beside a number that is correlated with the
other modality's and useless. An encoder gives one number, a direction: c toward the bit, s toward the useless number,
c^2 + s^2 = 1. Then, per modality and in nats,

    complementarity  C = i(c)                             i: information of a look, closed form in data.synthetic
    fusibility       F = -1/2 log(1 - s^4 rho^2)          as given the label z1 and z2 are Gaussian, correlated s^2 rho

and the loss ModAlign descends without its margin is, up to constants, -(1 + eta) M i(c) - alpha J(s^2 rho), where J is
the largest value of L_NCE / (1 + r) over critics, less that of independent features. Its minimum over directions leaves
the bit for the useless number when alpha passes a threshold.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from modalign.data.datasets.synthetic import truth
from modalign.experiments.tradeoff import run_tradeoff
from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings

RHO, MODALITIES, ETA = 0.9, 2, 1.0
BATCH, CLASSES = 64, 4
ANGLES = np.linspace(0, np.pi / 2, 46)


def complementarity(angle: float) -> float:
    return truth(redundant=0, unique=np.cos(angle), synergy=0, shared=0).label_alone


def fusibility(angle: float) -> float:
    return float(-0.5 * np.log(1 - (np.sin(angle) ** 2 * RHO) ** 2))


def pull(angle: float, ratio: float = BATCH / CLASSES - 1) -> float:
    """J: E_p[log h] + r / (1 + r) E_q[log(1 - h)] at the best h, less the same for independent features."""
    rho = np.sin(angle) ** 2 * RHO
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    x, y = np.meshgrid(nodes, nodes)
    weight = np.outer(weights, weights) / weights.sum() ** 2

    def value(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        log_density_ratio = -0.5 * np.log(1 - rho**2) - (rho**2 * (x**2 + y**2) - 2 * rho * x * y) / 2 / (1 - rho**2)
        logit: np.ndarray = log_density_ratio + np.log((1 + ratio) / ratio)
        return logit

    related = -np.logaddexp(0, -value(x, rho * x + np.sqrt(1 - rho**2) * y))
    unrelated = -np.logaddexp(0, value(x, y))
    share = ratio / (1 + ratio)
    independent = np.log(1 / (1 + share)) + share * np.log(share / (1 + share))
    return float((weight * (related + share * unrelated)).sum() - independent)


def best_angle(alpha: float) -> float:
    loss = [-(1 + ETA) * MODALITIES * complementarity(a) - alpha * pull(a) for a in ANGLES]
    return float(ANGLES[int(np.argmin(loss))])


def turning_point() -> float:
    """The strength at which the best direction changes ends."""
    low, high = 0.1, 30.0
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if best_angle(middle) < np.pi / 4 else (low, middle)
    return low


def sweep(out: Path) -> dict[tuple[float, bool], tuple[float, float]]:
    """``{(alpha, margin): (fusibility, complementarity)}`` as measured, well below and well above the threshold."""
    options = {"samples": 4000, "redundant": 0.0, "unique": 1.0, "synergy": 0.0, "shared": 1, "correlation": RHO}
    linear = {"name": "mlp", "hidden": []}
    recipe = Recipe(
        data=DataSettings(name="synthetic", options={**options, "features": 4}),
        model=ModelSettings(width=1, encoders={"x1": linear, "x2": linear}),
        training=TrainingSettings(epochs=3, lr=0.04, batch_size=BATCH, accelerator="cpu"),
        strategies={"modalign": {"ramp": 0.0, "eta": ETA}},
    )
    path = run_tradeoff(recipe, out, alphas=(1.0, 10.0), seeds=1, jobs=1, method="ksg", quiet=True)
    points = json.loads(path.read_text())["points"]
    return {(p["alpha"], p["margin"]): (p["fusibility"], p["complementarity"]) for p in points}


def test_the_pull_of_independent_and_of_equal_features() -> None:
    assert pull(0.0) == pytest.approx(0, abs=1e-9)
    assert all(a < b for a, b in itertools.pairwise(pull(a) for a in ANGLES))


@pytest.mark.slow
def test_the_curve_turns_where_theory_says(tmp_path: Path) -> None:
    assert 2 < turning_point() < 5
    curve = np.array([(fusibility(a), complementarity(a)) for a in ANGLES])
    measured = sweep(tmp_path / "sweep")
    assert len(measured) == 4
    for (alpha, margin), point in measured.items():
        # Without the margin the model is where the loss is least, with it where nothing is lost.
        expected = 0.0 if margin else best_angle(alpha)
        assert expected == pytest.approx(0.0 if margin or alpha < 2 else np.pi / 2)
        assert point == pytest.approx((fusibility(expected), complementarity(expected)), abs=0.1)
        assert np.linalg.norm(curve - point, axis=1).min() < 0.08
