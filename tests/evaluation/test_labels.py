"""Metrics of labels and of several numbers against scikit-learn, with some not known, and under weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from modalign.data.task import Task
from modalign.errors import InputError
from modalign.evaluation.metrics import (
    calibration,
    compute_metrics,
    label_calibration,
    per_label,
    weighted_metrics,
)

TAGS = Task("multilabel", ("a", "b", "c"))


def made(missing: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, 3) with ties, and labels of which some are NaN."""
    rng = np.random.default_rng(0)
    said = rng.uniform(0.02, 0.98, (120, 3)).round(2)
    true = (rng.uniform(size=said.shape) < said**2).astype(float)
    true[rng.random(true.shape) < missing] = np.nan
    return said, true


def test_all_metrics_of_labels_are_those_of_scikit_learn() -> None:
    said, true = made(0.0)
    found = compute_metrics(TAGS, np.log(said), true)
    assert found["map"] == pytest.approx(metrics.average_precision_score(true, said, average="macro"))
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(true, said > 0.5, average="micro"))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(true, said > 0.5, average="macro"))
    assert found["nll"] == pytest.approx(metrics.log_loss(true.ravel(), said.ravel()))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(true.ravel(), said.ravel()))
    assert found["ece"] == pytest.approx(label_calibration(said, true).ece)


def test_labels_that_are_not_known_count_nowhere() -> None:
    """Each label by scikit-learn on the samples of which it is known."""
    said, true = made()
    found, known = compute_metrics(TAGS, np.log(said), true), ~np.isnan(true)
    columns = [(true[k, c], said[k, c]) for c, k in enumerate(known.T)]
    assert found["map"] == pytest.approx(np.mean([metrics.average_precision_score(*column) for column in columns]))
    assert found["macro_f1"] == pytest.approx(np.mean([metrics.f1_score(t, s > 0.5) for t, s in columns]))
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(true[known], said[known] > 0.5))
    assert found["nll"] == pytest.approx(metrics.log_loss(true[known], said[known]))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(true[known], said[known]))
    table = per_label(np.log(said), true)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(columns[1][0], columns[1][1] > 0.5)
    for name, value in (("precision", precision), ("recall", recall), ("f1", f1), ("support", support)):
        assert table[name][1] == pytest.approx(value[1])
    assert table["ap"][1] == pytest.approx(metrics.average_precision_score(*columns[1]))
    assert table["auc"][1] == pytest.approx(metrics.roc_auc_score(*columns[1]))


def test_all_metrics_on_real_sensors_are_those_of_scikit_learn(shared: Path) -> None:
    """Occupancy of a room: what a linear model says of later blocks; an eighth of the labels is taken away."""
    sensors = dict(np.load(shared / "sets" / "occupancy.npz"))
    x = np.concatenate([sensors[m] for m in ("temperature", "light", "sound", "co2")], 1)
    use = np.isfinite(x).all(1) & np.isfinite(sensors["motion"]).all(1)
    people, test = sensors["y"][use], sensors["fold"][use] == 0
    labels = np.stack([people > 0, people > 1, sensors["motion"][use].max(1) > 0], 1).astype(float)
    x = StandardScaler().fit(x[use][~test]).transform(x[use])
    fits = [LogisticRegression(C=0.1).fit(x[~test], labels[~test, c]) for c in range(3)]
    said, true = np.stack([fit.predict_proba(x[test])[:, 1] for fit in fits], 1), labels[test]
    true[np.random.default_rng(0).random(true.shape) < 0.125] = np.nan
    known = ~np.isnan(true)
    columns = [(true[k, c], said[k, c]) for c, k in enumerate(known.T)]
    found, table = compute_metrics(TAGS, np.log(said), true), per_label(np.log(said), true)
    assert found["map"] == pytest.approx(np.mean([metrics.average_precision_score(*column) for column in columns]))
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(true[known], said[known] > 0.5))
    assert found["macro_f1"] == pytest.approx(np.mean([metrics.f1_score(t, s > 0.5) for t, s in columns]))
    assert found["nll"] == pytest.approx(metrics.log_loss(true[known], said[known]))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(true[known], said[known]))
    assert table["ap"] == pytest.approx([metrics.average_precision_score(*column) for column in columns])
    assert table["auc"] == pytest.approx([metrics.roc_auc_score(*column) for column in columns])
    assert table["f1"] == pytest.approx([metrics.f1_score(t, s > 0.5) for t, s in columns])
    assert table["support"].tolist() == [int(t.sum()) for t, _ in columns]
    curve = label_calibration(said, true)
    holds, given = calibration_curve(true[known], said[known], n_bins=15)
    filled = curve.count > 0
    assert curve.accuracy[filled] == pytest.approx(holds)
    assert curve.confidence[filled] == pytest.approx(given)
    assert found["ece"] == pytest.approx(curve.count[filled] / known.sum() @ np.abs(holds - given))


def test_weights_repeat_samples() -> None:
    said, true = made()
    weights = np.random.default_rng(1).integers(0, 3, (2, 120))
    found = weighted_metrics(TAGS, np.log(said), true, weights)
    for row in (0, 1):
        again = np.repeat(np.arange(120), weights[row])
        once = compute_metrics(TAGS, np.log(said[again]), true[again])
        assert {name: values[row] for name, values in found.items()} == pytest.approx(once)


@pytest.mark.filterwarnings("error")
def test_a_resample_without_a_label_has_a_mean_over_the_others() -> None:
    said, true = made(0.0)
    true[:, 2] = np.arange(120) == 0
    found = weighted_metrics(TAGS, np.log(said), true, np.stack([np.ones(120), np.arange(120) > 0]), ["map"])["map"]
    assert found[1] == pytest.approx(metrics.average_precision_score(true[1:, :2], said[1:, :2]))


def test_a_label_that_never_holds_is_left_out_of_means_and_has_no_average_precision() -> None:
    said, true = made(0.0)
    true[:, 2] = 0.0
    found = compute_metrics(TAGS, np.log(said), true)
    assert found["map"] == pytest.approx(metrics.average_precision_score(true[:, :2], said[:, :2]))
    table = per_label(np.log(said), true)
    assert np.isnan(table["ap"][2])
    assert np.isnan(table["auc"][2])
    assert table["support"][2] == 0
    assert np.isnan(compute_metrics(TAGS, np.log(said), true * 0)["map"])


def test_the_reliability_of_one_label_is_that_of_two_classes() -> None:
    """Where every probability is above one half, confidence of two classes is the probability itself."""
    rng = np.random.default_rng(0)
    said = rng.uniform(0.5, 1, 200)
    true = (rng.uniform(size=200) < said).astype(int)
    ours, classes = label_calibration(said[:, None], true[:, None].astype(float)), np.stack([1 - said, said], 1)
    known = calibration(classes, true)
    assert ours.ece == pytest.approx(known.ece)
    assert ours.accuracy[8:] == pytest.approx(known.accuracy[8:])


def test_metrics_of_several_numbers_are_means_over_them_in_their_own_scale() -> None:
    from scipy.stats import pearsonr, spearmanr

    rng = np.random.default_rng(0)
    said = rng.normal(size=(90, 2))
    true = said + rng.normal(size=said.shape)
    true[rng.random(true.shape) < 0.2] = np.nan
    units = np.array([100.0, 0.01])
    task = Task("regression", ("h", "k"), (0.0, 0.0), tuple(units))
    found = compute_metrics(task, said * units, true * units)
    columns = [(true[k, c], said[k, c]) for c, k in enumerate(~np.isnan(true.T))]
    expected = {
        "mae": metrics.mean_absolute_error,
        "rmse": metrics.root_mean_squared_error,
        "r2": metrics.r2_score,
        "pearson": lambda t, s: pearsonr(t, s).statistic,
        "spearman": lambda t, s: spearmanr(t, s).statistic,
    }
    for name, score in expected.items():
        assert found[name] == pytest.approx(np.mean([score(*column) for column in columns])), name


def test_scores_and_labels_of_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"scores have shape \(4, 3\) and target \(4, 2\)"):
        compute_metrics(TAGS, np.zeros((4, 3)), np.zeros((4, 2)))
