"""What modalities tell of the target: each, all together, and only one beside the others.

Information about a *class* is bounded from below by a cross-validated linear probe: I(Z; Y) >= H(Y) - cross-entropy
(Barber and Agakov, The IM Algorithm, NIPS 2003), which is tighter and steadier than a pair critic where one side is a
label, and gives unique parts as paired differences with honest standard errors. Information about a number is
estimated, in few directions where there are too many features for the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from modalign.evaluation.pairs import Amount, Complete, affordable, as_amount, canonical_directions, main_directions

FOLDS = 5
# Inverse strengths of the penalty that are tried; many features and few samples need a strong one.
STRENGTHS = (0.0001, 0.001, 0.01, 0.1)
# Most samples on which the strength is chosen.
CHOICE = 3000


def about_target(given: Complete) -> tuple[dict[str, Amount], Amount, dict[str, Amount]]:
    """Estimate what each modality tells of the target, what all tell together, and what only one tells, in nats.

    >>> x, y = np.random.default_rng(0).normal(size=(100, 1)), np.arange(100) % 2
    >>> given = Complete.of({"a": x, "b": 5.0 * y[:, None]}, y, 2, lambda *arrays, groups: None)
    >>> alone, together, unique = about_target(given)
    >>> alone["b"].value > 0.3, unique["a"].value < 0.1   # of log 2
    (True, True)
    """
    if not given.classes:
        return _about_value(given)
    z, y, classes, groups = given.z, given.y, given.classes, given.groups
    prior = np.bincount(y, minlength=classes) / len(y)
    surprise = -np.log(prior[y])
    each = np.arange(len(y))

    def gain(names: Sequence[str]) -> np.ndarray:
        """Return pointwise information about the class, whose mean bounds I(Z; Y)."""
        joined = np.concatenate([z[name] for name in names], 1)
        return surprise + probe(joined, y, classes, groups, given.seed)[each, y]

    whole = gain(tuple(z))
    single = {name: gain([name]) for name in z}
    rest = {name: [n for n in z if n != name] for name in z}
    lack = {m: single[others[0]] if len(others) == 1 else gain(others) for m, others in rest.items()}
    bound = "lower bound"
    about = {m: _mean_amount(single[m], groups, bound) for m in z}
    unique = {m: _mean_amount(whole - lack[m], groups, "difference of lower bounds") for m in z}
    return about, _mean_amount(whole, groups, bound), unique


def _mean_amount(values: np.ndarray, groups: np.ndarray | None, kind: str) -> Amount:
    """Return the mean with its standard error, of groups where there are any (they, not samples, are independent)."""
    centered = values - values.mean()
    if groups is not None:
        _, member = np.unique(groups, return_inverse=True)
        centered = np.bincount(member, centered)
    units = len(centered)
    spread = np.sqrt((centered**2).sum() * units / max(units - 1, 1)) / len(values)
    doubts = () if units >= 20 else (f"only {units} independent groups: the standard error is rough",)
    return Amount(float(values.mean()), float(spread), kind, "linear probe", not doubts, doubts)


def _about_value(given: Complete) -> tuple[dict[str, Amount], Amount, dict[str, Amount]]:
    column = given.y.astype(np.float64).reshape(len(given.y), -1)
    count, width = max(1, affordable(len(given.y)) // 2), max(values.shape[1] for values in given.z.values())
    kept = None if width <= count else (count, width)

    def few(names: Sequence[str]) -> np.ndarray:
        """Return features of some modalities in directions that tell of the target."""
        joined = np.concatenate([given.z[name] for name in names], 1)
        if kept is None:
            return joined
        if given.reference is None:
            return joined @ main_directions(joined, count)
        # Sliced inverse regression (Li, Journal of the American Statistical Association 1991): directions that tell
        # slices of a continuous target apart.
        known = np.concatenate([given.reference.features[name] for name in names], 1)
        target = given.reference.target.ravel()
        edges = np.quantile(target, np.linspace(0, 1, count + 2)[1:-1])
        slices = np.eye(count + 1)[np.searchsorted(edges, target)]
        return joined @ canonical_directions(known, slices[:, 1:], count)[0]

    def amount(names: Sequence[str], beside: Sequence[str] = ()) -> Amount:
        return as_amount(given.estimate(few(names), column, few(beside) if beside else None), given, kept)

    unique = {m: amount([m], [n for n in given.z if n != m]) for m in given.z}
    return {m: amount([m]) for m in given.z}, amount(list(given.z)), unique


def probe(
    features: np.ndarray, target: np.ndarray, classes: int, groups: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Compute log-probabilities (N, C) of a linear probe for samples that it was not fitted on.

    Multinomial logistic regression on standardized features, five folds (whole groups where there are any), the
    penalty chosen within the samples of each fit. One percent of a uniform distribution is mixed in, so that one
    confident error does not decide the bound.

    >>> y = np.arange(60) % 2
    >>> bool((probe(5.0 * y[:, None], y, 2).argmax(1) == y).all())
    True
    """
    found = np.zeros((len(target), classes))
    for fit, held in _folds(target, groups, FOLDS, seed):
        inner = None if groups is None else groups[fit]
        strength = _strength(features[fit], target[fit], classes, inner, seed)
        found[held] = _predict(features, target, fit, held, classes, strength)
    return found


def _folds(target: np.ndarray, groups: np.ndarray | None, folds: int, seed: int) -> Any:
    from sklearn.model_selection import GroupKFold, KFold

    units = 0 if groups is None else len(np.unique(groups))
    if units > 1:
        return GroupKFold(min(folds, units)).split(target, target, groups)
    return KFold(folds, shuffle=True, random_state=seed).split(target)


def _strength(features: np.ndarray, target: np.ndarray, classes: int, groups: np.ndarray | None, seed: int) -> float:
    """Return the strength with the best likelihood on a third of the samples, fitted to the others."""
    chosen = np.random.default_rng(seed).permutation(len(target))[:CHOICE]
    features, target = features[chosen], target[chosen]
    fit, held = next(_folds(target, None if groups is None else groups[chosen], 3, seed))
    found = (_predict(features, target, fit, held, classes, s) for s in STRENGTHS)
    return STRENGTHS[int(np.argmax([score[np.arange(len(held)), target[held]].mean() for score in found]))]


def _predict(
    features: np.ndarray, target: np.ndarray, fit: np.ndarray, held: np.ndarray, classes: int, strength: float
) -> np.ndarray:
    """Return log-probabilities of the samples ``held`` (H, C) by a regression on the samples ``fit``."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known, probability = np.unique(target[fit]), np.zeros((len(held), classes))
    if len(known) == 1:
        probability[:, known] = 1
    else:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
        probability[:, known] = model.fit(features[fit], target[fit]).predict_proba(features[held])
    log_probability: np.ndarray = np.log(0.99 * probability + 0.01 / classes)
    return log_probability
