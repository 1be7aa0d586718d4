"""A linear probe: what features say of a class, on samples that the probe has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

FOLDS = 5
# Inverse strengths of the penalty that are tried; many features and few samples need a strong one.
STRENGTHS = (0.0001, 0.001, 0.01, 0.1)
# Most samples on which the strength is chosen.
CHOICE = 3000


def probe(
    features: np.ndarray, target: np.ndarray, classes: int, groups: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Log-probabilities (N, C) of a linear probe for samples that it was not fitted on.

    Multinomial logistic regression on standardized features, five folds (whole groups where there are any), the
    penalty chosen within the samples of each fit. One percent of a uniform distribution is mixed in, so that one
    confident error does not decide the bound.
    """
    probability = np.zeros((len(target), classes))
    for fit, held in _folds(target, groups, FOLDS, seed):
        known = np.unique(target[fit])
        if len(known) == 1:
            probability[held, known[0]] = 1
            continue
        inner = None if groups is None else groups[fit]
        model = _model(_strength(features[fit], target[fit], classes, inner, seed))
        model.fit(features[fit], target[fit])
        probability[held[:, None], known] = model.predict_proba(features[held])
    return _smooth(probability, classes)


def _folds(target: np.ndarray, groups: np.ndarray | None, folds: int, seed: int) -> Any:
    from sklearn.model_selection import GroupKFold, KFold

    units = 0 if groups is None else len(np.unique(groups))
    rows = np.zeros(len(target))
    if units > 1:
        return GroupKFold(min(folds, units)).split(rows, target, groups)
    return KFold(folds, shuffle=True, random_state=seed).split(rows)


def _strength(features: np.ndarray, target: np.ndarray, classes: int, groups: np.ndarray | None, seed: int) -> float:
    """The strength with the best likelihood on a third of the samples, fitted to the others."""
    chosen = np.random.default_rng(seed).permutation(len(target))[:CHOICE]
    features, target = features[chosen], target[chosen]
    fit, held = next(_folds(target, None if groups is None else groups[chosen], 3, seed))
    known = np.unique(target[fit])
    if len(known) == 1:
        return STRENGTHS[0]
    scores = []
    for strength in STRENGTHS:
        probability = np.zeros((len(held), classes))
        probability[:, known] = _model(strength).fit(features[fit], target[fit]).predict_proba(features[held])
        scores.append(_smooth(probability, classes)[np.arange(len(held)), target[held]].mean())
    return STRENGTHS[int(np.argmax(scores))]


def _model(strength: float) -> Pipeline:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))


def _smooth(probability: np.ndarray, classes: int) -> np.ndarray:
    log_probability: np.ndarray = np.log(0.99 * probability + 0.01 / classes)
    return log_probability
