"""Task metrics as functions of weighted samples: one implementation serves a number and its bootstrap.

A metric is computed for every row of ``weights`` (R, N) at once; ``compute_metrics`` is the case of a single
row of ones. NumPy only, so that it costs little each epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modalign.errors import InputError, unknown

if TYPE_CHECKING:
    from modalign.data.task import Task

METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "nll", "brier", "ece", "auc_micro", "average_precision"),
    "multilabel": ("map", "micro_f1", "macro_f1", "nll", "brier", "ece"),
    "regression": ("mae", "rmse", "r2", "pearson", "spearman"),
    "survival": ("c_index", "c_uno", "ibs"),
}
# Of curves of survival, which a run has once it is trained: no epoch is selected by them.
AFTER_TRAINING = frozenset({"c_uno", "ibs"})
LOWER_IS_BETTER = frozenset({"nll", "brier", "ece", "mae", "rmse", "ibs"})
SHARES = frozenset(
    {"accuracy", "macro_f1", "micro_f1", "map", "ece", "auc_micro", "average_precision", "c_index", "c_uno"}
)
F1 = "f1_"  # before the name of a class
BOUNDS = {"pearson": (-1.0, 1.0), "spearman": (-1.0, 1.0), "r2": (-np.inf, 1.0), "ibs": (0.0, 1.0)}
BINS = 15
# A probability below the smallest normal fp32 number counts as that number, so that NLL stays finite.
FLOOR = float(np.log(np.finfo(np.float32).tiny))


def primary_metric(task: Task) -> str:
    """Return the metric that selects epochs and heads tables, unless a recipe names another.

    >>> from modalign.data.task import Task
    >>> primary_metric(Task("regression"))
    'mae'
    """
    return METRICS[task.kind][0]


def higher_is_better(metric: str) -> bool:
    """Return the direction of a metric.

    Raises:
        InputError: no task has a metric of that name.

    >>> higher_is_better("accuracy"), higher_is_better("nll")
    (True, False)
    """
    known = [name for names in METRICS.values() for name in names]
    if metric not in known:
        raise unknown("metric", metric, known)
    return metric not in LOWER_IS_BETTER


def bounds(metric: str) -> tuple[float, float]:
    """Return the smallest and the largest value that a metric can have.

    >>> bounds("accuracy"), bounds("r2"), bounds("nll")
    ((0.0, 1.0), (-inf, 1.0), (0.0, inf))
    """
    return BOUNDS.get(metric, (0.0, 1.0 if is_share(metric) else np.inf))


def is_share(metric: str) -> bool:
    """Return whether a metric, or the F1 of a class, lies in 0..1 and is shown in percent.

    >>> is_share("accuracy"), is_share("f1_IV"), is_share("nll")
    (True, True, False)
    """
    return metric in SHARES or metric.startswith(F1)


Curves = Callable[[str, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Scores ``c_uno`` and ``ibs``: ``evaluation.survival.survival_scores`` but for its first four arguments."""


def compute_metrics(
    task: Task,
    scores: np.ndarray,
    target: np.ndarray,
    names: Sequence[str] | None = None,
    curves: Curves | None = None,
) -> dict[str, float]:
    """Compute the metrics of a task, each as one number.

    Args:
        task: classification, multilabel, regression or survival.
        scores: (N, C) log-probabilities of classes (renormalized here) or labels, predictions, or (N, 1) log risks.
        target: (N,) class indices or values; (N, C) labels or values, NaN where not known; (N, 2) time and event.
        names: which metrics, all of the task by default. ``accuracy`` and ``nll`` alone cost one pass.
        curves: scores survival over time; without them ``c_uno`` and ``ibs`` are left out.

    Returns:
        Name to value. Shares (accuracy, macro F1, ECE, areas, concordance) are in 0..1, NLL in nats, the Brier score
        (squared distance of the probabilities from the truth, summed over classes; Brier 1950) in 0..2, R2 (the share
        of the variance that is explained) below 1. A metric that the data does not define (a correlation with a
        constant, concordance without comparable pairs) is NaN.
        Macro F1 averages over the classes that occur in target or prediction, average precision over those that occur
        in the target; AUC is micro-averaged over one-against-rest decisions. Of labels only those known count: NLL and
        Brier score (of one probability, in 0..1) are means over them, ECE is of the probability of every label, F1 of
        those above one half. Metrics of several numbers are means over them, MAE and RMSE in their ``scale``.

    Raises:
        InputError: shapes disagree, nothing to score, NaN or +inf in the scores, labels out of range.

    >>> from modalign.data.task import Task
    >>> task, scores = Task("classification", ("a", "b")), np.log([[0.9, 0.1], [0.6, 0.4]])
    >>> compute_metrics(task, scores, np.array([0, 1]), ["accuracy"])
    {'accuracy': 0.5}
    """
    weights = np.ones((1, len(scores)))
    return {k: float(v[0]) for k, v in weighted_metrics(task, scores, target, weights, names, curves).items()}


def weighted_metrics(
    task: Task,
    scores: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    names: Sequence[str] | None = None,
    curves: Curves | None = None,
) -> dict[str, np.ndarray]:
    """Compute as ``compute_metrics`` does, once for every row of ``weights`` (R, N): name to values (R,).

    >>> from modalign.data.task import Task
    >>> task, scores, target = Task("classification", ("a", "b")), np.log([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1])
    >>> weighted_metrics(task, scores, target, np.array([[1, 1], [3, 1]]), ["accuracy"])["accuracy"]
    array([0.5 , 0.75])
    """
    scores, target = check_scores(task, scores, target)
    wanted = METRICS[task.kind] if names is None else tuple(names)
    for name in wanted:
        if name not in METRICS[task.kind]:
            raise unknown(f"metric of {task.kind}", name, METRICS[task.kind])
    score: Curves = {
        "classification": _of_classes,
        "multilabel": _of_labels,
        "regression": _of_values,
        "survival": _c_index,
    }[task.kind]
    known = {name: curves if name in AFTER_TRAINING else score for name in wanted}
    return {name: by(name, scores, target, weights) for name, by in known.items() if by is not None}


def check_scores(task: Task, scores: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``scores`` (N, C) in float64 (log-probabilities normalized, floored) and ``target``, both checked.

    >>> from modalign.data.task import Task
    >>> np.exp(check_scores(Task("classification", ("a", "b")), np.zeros((1, 2)), np.array([0]))[0])
    array([[0.5, 0.5]])
    """
    scores, target = np.asarray(scores, np.float64), np.asarray(target)
    if scores.ndim == 1:
        scores = scores[:, None]
    if len(scores) == 0 or len(scores) != len(target):
        raise InputError(f"scores have {len(scores)} rows and target has {len(target)}: need as many, not 0")
    bad = np.isnan(scores) | (scores == np.inf)
    if bad.any():
        raise InputError(
            f"scores hold NaN or infinity in {bad.any(1).sum()} of {len(scores)} samples, first in row "
            f"{int(bad.any(1).argmax())}: the model diverged; lower the learning rate or clip gradients"
        )
    if task.kind == "survival":
        if target.ndim != 2 or target.shape[1] != 2:
            raise InputError(f"the target of survival is (N, 2), time and event; got shape {target.shape}")
        return scores, target.astype(np.float64)
    if task.kind in ("regression", "multilabel"):
        target = target.astype(np.float64).reshape(len(scores), -1)
        if target.shape != scores.shape:
            raise InputError(f"scores have shape {scores.shape} and target {target.shape}; expected the same")
        if task.kind == "multilabel":
            return np.clip(scores, FLOOR, 0.0), target
        scale = np.asarray(task.scale if len(task.scale) else [1.0])
        return scores / scale, target / scale
    classes = scores.shape[1]
    if not np.issubdtype(target.dtype, np.integer) or target.min() < 0 or target.max() >= classes:
        raise InputError(f"target must be class indices 0..{classes - 1}; got {target.min()}..{target.max()}")
    return normalize(scores), target


def normalize(scores: np.ndarray) -> np.ndarray:
    """Return log-probabilities (..., C) of ``scores`` (..., C), none below the smallest that fp32 can hold.

    >>> np.exp(normalize(np.zeros((1, 2))))
    array([[0.5, 0.5]])
    """
    highest = scores.max(-1, keepdims=True)
    if (highest == -np.inf).any():
        raise InputError("a sample gives every class the log-probability -inf: the scores cannot be normalized")
    shifted = scores - highest
    return np.maximum(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)), FLOOR)


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    mean: np.ndarray = weights @ values / weights.sum(1)
    return mean


def _of_classes(name: str, log_probability: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute a metric of classification (R,) from log-probabilities (N, C)."""
    samples, classes = log_probability.shape
    predicted, highest = log_probability.argmax(1), log_probability.max(1)
    correct = (predicted == target).astype(np.float64)
    if name == "accuracy":
        return _mean(correct, weights)
    if name == "nll":
        return _mean(-log_probability[np.arange(samples), target], weights)
    if name == "brier":
        wrong = np.exp(log_probability)
        wrong[np.arange(samples), target] -= 1
        return _mean((wrong**2).sum(1), weights)
    if name == "ece":
        confidence = np.exp(highest)
        member = _bin_of(confidence, BINS)[:, None] == np.arange(BINS)
        gaps = weights @ (member * (correct - confidence)[:, None])
        error: np.ndarray = np.abs(gaps).sum(1) / weights.sum(1)
        return error
    true, said = ((index[:, None] == np.arange(classes)).astype(np.float64) for index in (target, predicted))
    if name == "macro_f1":
        f1 = _f1(true, said, weights)
        mean: np.ndarray = np.nansum(f1, 1) / (~np.isnan(f1)).sum(1)
        return mean
    if name == "auc_micro" and classes < 2:
        return np.full(len(weights), np.nan)
    # So many resamples at a time that their sorted copies stay small.
    size = log_probability.size if name == "auc_micro" else samples
    blocks = np.array_split(weights, min(max(1, len(weights) * size // 4_000_000), len(weights)))
    if name == "auc_micro":
        return np.concatenate([_micro_area(true, log_probability, rows) for rows in blocks])
    return np.concatenate([_mean_precision(true, log_probability, rows) for rows in blocks])


def _f1(true: np.ndarray, said: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the F1 of each class (R, C); NaN of those that occur neither in target nor in prediction."""
    hits, total = weights @ (true * said), weights @ (true + said)
    return np.divide(2 * hits, total, out=np.full(total.shape, np.nan), where=total > 0)


def class_f1(scores: np.ndarray, target: np.ndarray) -> list[float]:
    """Compute the F1 of each class; NaN of one that occurs neither in target nor in prediction.

    Args:
        scores: (N, C) any that rise with the probability of a class.
        target: (N,) class indices.

    >>> class_f1(np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0]]), np.array([0, 1]))
    [0.6666666666666666, 0.0, nan]
    """
    true, said = (np.eye(scores.shape[1])[index] for index in (target, scores.argmax(1)))
    return [float(value) for value in _f1(true, said, np.ones((1, len(target))))[0]]


def _micro_area(true: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the area under the ROC curve (R,) of all one-against-rest decisions together."""
    hits, false = _ranked(true.ravel(), score.ravel(), np.repeat(weights, true.shape[1], 1))
    steps = np.diff(false, axis=1, prepend=0)
    heights = hits - np.diff(hits, axis=1, prepend=0) / 2
    area: np.ndarray = (steps * heights).sum(1) / (hits[:, -1] * false[:, -1])
    return area


def _mean_precision(true: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute average precision (R,), averaged over the classes that occur."""
    found = []
    for c in np.flatnonzero(true.any(0)):
        hits, false = _ranked(true[:, c], score[:, c], weights)
        precision = np.divide(hits, hits + false, out=np.zeros_like(hits), where=hits > 0)
        positives, total = hits[:, -1], (np.diff(hits, axis=1, prepend=0) * precision).sum(1)
        found.append(np.divide(total, positives, out=np.full(len(weights), np.nan), where=positives > 0))
    counted = (~np.isnan(found)).sum(0)  # a resample may have none of a class
    return np.divide(np.nansum(found, 0), counted, out=np.full(len(weights), np.nan), where=counted > 0)


def _ranked(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return true and false positives (R, K) among those scored at least as high as each of K distinct scores."""
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    weights, truth = weights[:, order], truth[order]
    return np.cumsum(weights * truth, 1)[:, last], np.cumsum(weights * (1 - truth), 1)[:, last]


def _of_labels(name: str, log_probability: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute a metric of labels (R,) from log-probabilities (N, C), over those of ``target`` that are not NaN."""
    known, probability = ~np.isnan(target), np.exp(log_probability)
    true, said = known * np.nan_to_num(target), known * (probability > 0.5)
    if name in ("micro_f1", "macro_f1"):
        hits, total = weights @ (true * said), weights @ (true + said)
        if name == "micro_f1":
            hits, total = hits.sum(1, keepdims=True), total.sum(1, keepdims=True)
        f1 = np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)
        occurring = (total > 0).sum(1)
        return np.divide(f1.sum(1), occurring, out=np.full(len(weights), np.nan), where=occurring > 0)
    if name == "map":
        found = [label_precision(target[:, c], log_probability[:, c], weights) for c in range(target.shape[1])]
        counted = (~np.isnan(found)).sum(0)
        return np.divide(np.nansum(found, 0), counted, out=np.full(len(weights), np.nan), where=counted > 0)
    total = weights @ known.sum(1)
    if name == "ece":
        member = known & (_bin_of(probability, BINS)[None] == np.arange(BINS)[:, None, None])
        return np.abs([weights @ (own * (true - probability)).sum(1) for own in member]).sum(0) / total
    no = np.log(np.maximum(-np.expm1(log_probability), np.exp(FLOOR)))
    each = (true - probability) ** 2 if name == "brier" else -np.where(true > 0, log_probability, no)
    mean: np.ndarray = weights @ (known * each).sum(1) / total
    return mean


def label_precision(target: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Compute the average precision of one label, once for every row of ``weights`` (R, N): (R,).

    Args:
        target: (N,) 0 and 1, NaN where it is not known.
        score: (N,) any that rise with its probability.
        weights: (R, N); all one by default.

    >>> label_precision(np.array([1.0, 0.0, np.nan]), np.array([0.9, 0.1, 0.5]))
    array([1.])
    """
    known = ~np.isnan(target)
    weights = np.ones((1, len(target))) if weights is None else weights
    if not (target[known] == 1).any():
        return np.full(len(weights), np.nan)
    return _mean_precision(target[known, None], score[known, None], weights[:, known])


def _of_values(name: str, scores: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute a metric of regression (R,) from predictions (N, C): its mean over the C numbers."""
    found = []
    for prediction, true in zip(scores.T, target.T, strict=True):
        known = ~np.isnan(true)
        own = weights[:, known]
        drawn = own.any(1) if known.any() else np.zeros(len(weights), bool)
        values = np.full(len(weights), np.nan)
        if drawn.any():
            values[drawn] = _of_value(name, prediction[known], true[known], own[drawn])
        found.append(values)
    counted = (~np.isnan(found)).sum(0)
    return np.divide(np.nansum(found, 0), counted, out=np.full(len(weights), np.nan), where=counted > 0)


def _of_value(name: str, prediction: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if name == "mae":
        return _mean(np.abs(prediction - target), weights)
    if name == "rmse":
        return np.sqrt(_mean((prediction - target) ** 2, weights))
    # Centring first keeps the difference of moments from losing its digits.
    x, y = prediction - prediction.mean(), target - target.mean()
    if name == "r2":
        spread = _mean(y * y, weights) - _mean(y, weights) ** 2
        left = _mean((prediction - target) ** 2, weights)
        return 1 - np.divide(left, spread, out=np.full(len(weights), np.nan), where=spread > 1e-12)
    if name == "spearman":  # ranks are those within each resample
        blocks = np.array_split(weights, min(max(1, weights.size // 4_000_000), len(weights)))
        return np.concatenate([_correlation(_ranks(x, rows), _ranks(y, rows), rows) for rows in blocks])
    return _correlation(x[None, :], y[None, :], weights)


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute Pearson's correlation (R,) of values (1 or R, N) under weights (R, N)."""
    total = weights.sum(1)
    mx, my, products, xx, yy = ((weights * values).sum(1) / total for values in (x, y, x * y, x * x, y * y))
    variance = (xx - mx**2) * (yy - my**2)
    found = np.full(len(weights), np.nan)
    return np.divide(products - mx * my, np.sqrt(variance.clip(0)), out=found, where=variance > 1e-24)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the rank of each value (R, N) among all of its row, as often as its weight says; equal ones share theirs.

    Ranks are shares of the row, less one half.
    """
    _, member = np.unique(values, return_inverse=True)
    counts = np.zeros((len(weights), member.max() + 1))
    for start in range(0, len(weights), 64):  # one count of all pairs of row and value is faster than a loop over rows
        rows = weights[start : start + 64]
        cells = member + counts.shape[1] * np.arange(len(rows))[:, None]
        summed = np.bincount(cells.ravel(), rows.ravel(), len(rows) * counts.shape[1])
        counts[start : start + 64] = summed.reshape(len(rows), -1)
    ranks: np.ndarray = ((counts.cumsum(1) - counts / 2) / counts.sum(1, keepdims=True) - 0.5)[:, member]
    return ranks


def _c_index(name: str, scores: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute Harrell's concordance: the share of comparable pairs in which who dies first has the higher risk."""
    risk, time, event = scores[:, 0], target[:, 0], target[:, 1] > 0
    concordant = comparable = np.zeros(len(weights))
    for block in np.array_split(np.arange(len(risk)), max(1, len(risk) // 512)):
        first, later = time[block, None], time[None, :]
        pair = event[block, None] & ((first < later) | ((first == later) & ~event[None, :]))
        right = (risk[block, None] > risk) + 0.5 * (risk[block, None] == risk)
        comparable = comparable + ((weights[:, block] @ pair) * weights).sum(1)
        concordant = concordant + ((weights[:, block] @ (pair * right)) * weights).sum(1)
    return np.divide(concordant, comparable, out=np.full(len(weights), np.nan), where=comparable > 0)


@dataclass(frozen=True)
class Calibration:
    """Confidence against accuracy.

    Attributes:
        ece: expected calibration error, the mean over samples of |accuracy - confidence| of their bin.
        confidence, accuracy: (bins,) mean of each bin, NaN where a bin is empty.
        count: (bins,) samples in each bin.
    """

    ece: float
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


def calibration(probabilities: np.ndarray, target: np.ndarray, bins: int = BINS) -> Calibration:
    """Compute reliability curve and expected calibration error of ``probabilities`` (N, C), bins of equal width.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, Eqs. 2-3.

    Raises:
        InputError: rows that are not probabilities, or as many rows as targets are not given.

    >>> round(calibration(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1])).ece, 3)
    0.4
    """
    probabilities, target = np.asarray(probabilities, np.float64), np.asarray(target)
    if probabilities.ndim != 2 or len(probabilities) != len(target) or len(target) == 0:
        raise InputError(f"expected (N, C) probabilities and (N,) target; got {probabilities.shape}, {target.shape}")
    if not np.allclose(probabilities.sum(1), 1, atol=1e-3) or (probabilities < 0).any():
        raise InputError("rows of probabilities must be non-negative and sum to 1; pass exp of log-probabilities")
    confidence = probabilities.max(1)
    correct = (probabilities.argmax(1) == target).astype(np.float64)
    index = _bin_of(confidence, bins)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(index, confidence, bins) / count
        mean_correct = np.bincount(index, correct, bins) / count
    gap = np.abs(np.bincount(index, correct - confidence, bins)).sum() / len(target)
    return Calibration(float(gap), mean_confidence, mean_correct, count)


def label_calibration(probabilities: np.ndarray, target: np.ndarray, bins: int = BINS) -> Calibration:
    """Compute the reliability of the probabilities (N, C) of labels: how often one holds that is given as likely.

    ``confidence`` is then the mean probability of a bin and ``accuracy`` the share that holds, over all known labels.

    >>> round(label_calibration(np.array([[0.9], [0.9]]), np.array([[1.0], [0.0]])).ece, 3)
    0.4
    """
    known = ~np.isnan(target)
    said, true = probabilities[known], target[known]
    index = _bin_of(said, bins)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_said, mean_true = (np.bincount(index, values, bins) / count for values in (said, true))
    gap = np.abs(np.bincount(index, true - said, bins)).sum() / max(1, len(said))
    return Calibration(float(gap), mean_said, mean_true, count)


def _bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Return the index of the bin ((i/bins, (i+1)/bins]) that each confidence falls into."""
    return np.clip(np.ceil(confidence * bins - 1e-9).astype(int) - 1, 0, bins - 1)


def confusion_matrix(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return counts (C, C): rows are true classes, columns predicted ones.

    >>> confusion_matrix(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    array([[1, 0],
           [1, 0]])
    """
    classes = scores.shape[1]
    pairs = np.asarray(target, int) * classes + scores.argmax(1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def per_label(log_probability: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """Return ``precision``, ``recall``, ``f1``, ``ap`` (average precision), ``auc`` (of the ROC curve) and ``support``.

    One of each label (C,), over the samples of which it is known; NaN where undefined.

    >>> found = per_label(np.log([[0.9, 0.2], [0.6, 0.4]]), np.array([[1.0, 0.0], [0.0, np.nan]]))
    >>> found["precision"], found["support"]
    (array([0.5, nan]), array([1, 0]))
    """
    known = ~np.isnan(target)
    true, said = known & (target == 1), known & (log_probability > np.log(0.5))
    hits, real, predicted = (true & said).sum(0), true.sum(0), said.sum(0)
    ap, auc = np.full((2, target.shape[1]), np.nan)
    for c, (own, score) in enumerate(zip(target.T, log_probability.T, strict=True)):
        ap[c] = label_precision(own, score)[0]
        if len(np.unique(own[known[:, c]])) == 2:
            at = known[:, c]
            auc[c] = _micro_area(own[at, None], score[at, None], np.ones((1, at.sum())))[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = 2 * hits / (real + predicted)
        return {
            "precision": hits / predicted,
            "recall": hits / real,
            "f1": f1,
            "ap": ap,
            "auc": auc,
            "support": real,
        }


def per_class(scores: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """Return ``precision``, ``recall``, ``f1`` and ``support`` of each class, (C,) each; NaN where undefined.

    >>> per_class(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))["recall"]
    array([1., 0.])
    """
    counts = confusion_matrix(scores, target)
    hits, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": hits / predicted,
            "recall": hits / true,
            "f1": 2 * hits / (true + predicted),
            "support": true,
        }
