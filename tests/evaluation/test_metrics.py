"""Metrics against hand-calculated values, scikit-learn and slow literal loops."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from modalign.data.task import Task, classification
from modalign.errors import InputError
from modalign.evaluation.metrics import (
    calibration,
    compute_metrics,
    confusion_matrix,
    higher_is_better,
    per_class,
    primary_metric,
    weighted_metrics,
)

THREE = classification("abc")


def scores_of(probabilities: list[list[float]]) -> np.ndarray:
    return np.log(np.array(probabilities))


def random_case(n: int = 200, classes: int = 4) -> tuple[Task, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = rng.integers(classes, size=n)
    return classification(range(classes)), rng.normal(size=(n, classes)) + 2 * np.eye(classes)[target], target


def test_r2_and_spearman_are_those_of_scikit_learn_and_scipy_also_under_weights():
    from scipy.stats import spearmanr
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(0)
    said = rng.normal(size=(80, 1)).round(1)  # with ties
    target = (said[:, 0] + rng.normal(size=80)).round(1)
    weights = np.stack([np.ones(80, int), rng.integers(0, 3, 80)])
    found = weighted_metrics(Task("regression"), said, target, weights, ["r2", "spearman"])
    for row, times in enumerate(weights):
        x, y = np.repeat(said[:, 0], times), np.repeat(target, times)
        assert found["r2"][row] == pytest.approx(r2_score(y, x))
        assert found["spearman"][row] == pytest.approx(spearmanr(x, y).statistic)
    same = compute_metrics(Task("regression"), said, np.ones(80))
    assert np.isnan([same["r2"], same["spearman"], same["pearson"]]).all()


def test_hand_calculated_case() -> None:
    scores = scores_of([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]])
    found = compute_metrics(THREE, scores, np.array([0, 1, 2, 1]))
    assert found["accuracy"] == 0.75
    assert found["nll"] == pytest.approx(-np.log([0.7, 0.4, 0.8, 0.6]).mean())
    # f1: a 2/(1+2), b 2/(2+1), c 1
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    # every sample in a bin of its own: |1-.7|, |0-.5|, |1-.8|, |1-.6|
    assert found["ece"] == pytest.approx((0.3 + 0.5 + 0.2 + 0.4) / 4)


@pytest.mark.parametrize("ties", [False, True])
def test_against_scikit_learn(ties: bool) -> None:
    task, scores, target = random_case()
    if ties:  # few distinct probabilities: equal rows in any order
        scores = np.log(np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]]))[
            np.where(scores[:, 0] > 1, 0, np.where(scores[:, 3] > 1, 1, 2))
        ]
    found = compute_metrics(task, scores, target)
    probability = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    truth = np.eye(4)[target]
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(target, scores.argmax(1)))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(target, scores.argmax(1), average="macro"))
    assert found["nll"] == pytest.approx(sk.log_loss(target, probability))
    assert found["auc_micro"] == pytest.approx(sk.roc_auc_score(truth, probability, average="micro"))
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(truth, probability))


def test_scores_need_not_be_normalized() -> None:
    task, scores, target = random_case()
    shifted = compute_metrics(task, scores + 100.0, target)
    assert shifted == pytest.approx(compute_metrics(task, scores, target))


def test_class_absent_from_the_target() -> None:
    scores = scores_of([[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.6, 0.3, 0.1]])
    found = compute_metrics(THREE, scores, np.array([0, 1, 0]))
    assert found["macro_f1"] == 1.0
    assert found["average_precision"] == 1.0
    assert all(np.isfinite(list(found.values())))


def test_single_sample_is_finite() -> None:
    found = compute_metrics(THREE, np.array([[0.0, -np.inf, -np.inf]]), np.array([1]))
    assert found["accuracy"] == 0
    assert 80 < found["nll"] < 100


def test_weights_count_as_repetitions() -> None:
    task, scores, target = random_case(60)
    weights = np.random.default_rng(1).integers(0, 3, size=(4, 60)).astype(float)
    found = weighted_metrics(task, scores, target, weights)
    for row, weight in enumerate(weights.astype(int)):
        index = np.repeat(np.arange(60), weight)
        expected = compute_metrics(task, scores[index], target[index])
        assert {k: v[row] for k, v in found.items()} == pytest.approx(expected)


def test_fast_path_computes_what_is_asked() -> None:
    task, scores, target = random_case()
    assert set(compute_metrics(task, scores, target, ("accuracy", "nll"))) == {"accuracy", "nll"}


def test_regression() -> None:
    task = Task("regression")
    found = compute_metrics(task, np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 3.0, 2.0]))
    assert found["mae"] == 1
    assert found["rmse"] == pytest.approx(np.sqrt(5 / 3))
    assert found["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 3, 2])[0, 1])
    assert np.isnan(compute_metrics(task, np.ones((3, 1)), np.arange(3.0))["pearson"])


def slow_concordance(risk: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    good = total = 0.0
    for i in range(len(risk)):
        for j in range(len(risk)):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                total += 1
                good += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return good / total


def test_concordance_against_the_loop() -> None:
    rng = np.random.default_rng(0)
    time, event = rng.integers(1, 12, 700), rng.random(700) < 0.6
    risk = np.round(rng.normal(size=700) - 0.2 * time, 1)
    found = compute_metrics(Task("survival"), risk[:, None], np.stack([time, event], 1))
    assert found["c_index"] == pytest.approx(slow_concordance(risk, time, event))


def test_concordance_by_hand() -> None:
    # Comparable pairs: 1-2, 1-3 (event at 1), 3-? none later. Risk orders 1-2 right, 1-3 wrong.
    target = np.array([[1.0, 1], [2.0, 0], [3.0, 1]])
    assert compute_metrics(Task("survival"), np.array([2.0, 1.0, 3.0]), target)["c_index"] == 0.5
    none_dies = np.array([[1.0, 0], [2.0, 0]])
    assert np.isnan(compute_metrics(Task("survival"), np.array([1.0, 2.0]), none_dies)["c_index"])


def test_calibration_by_hand() -> None:
    # Two bins: (0, .5] is empty for two classes; in (.5, 1] lie .6 right, .8 wrong, 1.0 right, .9 right.
    p = np.array([[0.6, 0.4], [0.2, 0.8], [1.0, 0.0], [0.9, 0.1]])
    curve = calibration(p, np.array([0, 0, 0, 0]), bins=2)
    assert curve.ece == pytest.approx(abs(0.75 - 0.825))
    assert list(curve.count) == [0, 4]
    assert np.isnan(curve.accuracy[0])
    assert curve.accuracy[1] == 0.75
    assert curve.confidence[1] == pytest.approx(0.825)
    # Five bins: (.4,.6] holds .6, (.6,.8] holds .8, (.8,1] holds .9 and 1: gaps .4, .8 and |1-.95| twice.
    assert calibration(p, np.zeros(4, int), bins=5).ece == pytest.approx((0.4 + 0.8 + 2 * 0.05) / 4)


def test_confusion_and_classes() -> None:
    scores = scores_of([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]])
    target = np.array([0, 1, 2, 1])
    assert confusion_matrix(scores, target).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    rows = per_class(scores, target)
    assert rows["precision"].tolist() == [0.5, 1, 1]
    assert rows["recall"].tolist() == [1, 0.5, 1]
    assert rows["support"].tolist() == [1, 2, 1]


def test_directions() -> None:
    assert primary_metric(THREE) == "accuracy"
    assert higher_is_better("c_index")
    assert not higher_is_better("mae")
    with pytest.raises(InputError, match="did you mean 'accuracy'"):
        higher_is_better("acuracy")


@pytest.mark.parametrize(
    ("scores", "target", "message"),
    [
        (np.array([[0.0, np.nan, 0.0]]), np.array([0]), "NaN or infinity in 1 of 1"),
        (np.zeros((2, 3)), np.array([0]), "scores have 2 rows and target has 1"),
        (np.zeros((0, 3)), np.zeros(0, int), "not 0"),
        (np.zeros((1, 3)), np.array([3]), "class indices 0..2"),
        (np.full((1, 3), -np.inf), np.array([1]), "-inf"),
    ],
)
def test_bad_input(scores: np.ndarray, target: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compute_metrics(THREE, scores, target)
    with pytest.raises(InputError, match="did you mean"):
        compute_metrics(THREE, np.zeros((1, 3)), np.array([0]), ["acuracy"])
