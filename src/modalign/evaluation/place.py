"""Where data lie among the regimes of ``modalign map``, and what the map says of methods there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from modalign.errors import InputError, RunFolderError
from modalign.files import read_settings

PUBLISHED = Path(__file__).with_name("map.json")
"""The map that comes with the package; ``docs/results/map.md`` has the command that made it."""
PLACES = "places.json"
"""What ``modalign map`` keeps of its regimes in its folder."""

_NEAREST = 3  # regimes that advice is taken from
_DIRECTIONS = 10  # principal components of features that are looked at
_LEAST = 20  # samples of a split below which nothing is said of its place


@dataclass(frozen=True)
class Place:
    """Where data lie among the axes of the map, measured on what a run has learned to see.

    Attributes:
        redundant, unique, synergy: shares of what modalities tell of the class (``decompose_features``, each modality
            against the others).
        nuisance: what two modalities share within a class, nats: -1/2 sum log(1 - rho^2) of canonical correlations.
        labels: logarithm to base 10 of training samples a class.
        missing: share of absent modalities in the validation split.
        shift: how far validation and test samples can be told apart, 0 to 1: twice the balanced accuracy of a
            cross-validated logistic regression, less 1 (a classifier two-sample test).

    >>> Place(0.5, 0.5, 0.0, 0.2, 2.0, 0.0, 0.0).shift
    0.0
    """

    redundant: float
    unique: float
    synergy: float
    nuisance: float
    labels: float
    missing: float
    shift: float


def measure_place(
    valid: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    target: np.ndarray,
    classes: int,
    learned: int,
    missing: float,
) -> Place | None:
    """Return where data lie, by held-out features of a trained network; None below 20 samples of a split.

    Args:
        valid, test: modality to features (N, D_m) of the samples that have all modalities.
        target: (N,) classes of the test samples.
        classes: number of classes C.
        learned: number of training samples.
        missing: share of absent modalities.

    >>> y = np.arange(60) % 2
    >>> z = {"a": np.random.default_rng(0).normal(size=(60, 2)) + 3 * y[:, None], "b": np.ones((60, 1))}
    >>> found = measure_place(z, z, y, 2, 200, 0.0)
    >>> round(found.unique, 1), found.labels
    (1.0, 2.0)
    """
    from modalign.estimators.transforms import Canonical  # here, for what is read of a map needs no torch
    from modalign.evaluation.decomposition import decompose_features

    names = list(test)
    if min(len(valid[names[0]]), len(target)) < _LEAST:
        return None
    z = _principal(test)
    # Of two modalities one comparison says all; of more each stands against all others.
    parts = []
    for m in names[: 1 if len(names) == 2 else None]:
        others = np.concatenate([z[other] for other in names if other != m], 1)
        parts.append(decompose_features(z[m], others, target, classes, repeats=5).parts)
    told = np.mean([[p.redundant, p.unique_1 + p.unique_2, p.synergy] for p in parts], 0)
    redundant, unique, synergy = map(float, told / max(told.sum(), 1e-9))
    centered = {m: _within(part, target) for m, part in z.items()}
    shared = [
        -0.5 * np.log(1 - Canonical(centered[a], centered[b]).correlations ** 2).sum()
        for a, b in combinations(names, 2)
    ]
    labels = float(np.log10(learned / classes))
    return Place(redundant, unique, synergy, float(np.mean(shared)), labels, missing, _told_apart(valid, test))


def _principal(features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the first principal components of each modality."""
    from sklearn.decomposition import PCA

    return {m: PCA(min(_DIRECTIONS, *z.shape), random_state=0).fit_transform(z) for m, z in features.items()}


def _within(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return features less the mean of their class."""
    codes = np.unique(target, return_inverse=True)[1]
    means = np.stack([features[codes == c].mean(0) for c in range(codes.max() + 1)])
    centered: np.ndarray = features - means[codes]
    return centered


def _told_apart(valid: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    both = _principal({m: np.concatenate([valid[m], test[m]]) for m in valid})
    which = np.repeat([0, 1], [len(next(iter(split.values()))) for split in (valid, test)])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=500))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    right = cross_val_score(model, np.concatenate([*both.values()], 1), which, cv=folds, scoring="balanced_accuracy")
    return max(0.0, 2 * float(right.mean()) - 1)


@dataclass(frozen=True)
class Advice:
    """What the map says of a place.

    Attributes:
        nearest: names of the nearest regimes, and their distances, in standard deviations of the map.
        outside: whether the place is farther from the map than its regimes are from each other.
        behind: title of a method to its mean accuracy behind the best of these regimes, a share; the least first.
        followed: what following such advice has cost in the regimes, each left out in turn, mean.
        fixed: what always taking the method that is best on average over the others would have cost there.
        always: title of that method over all regimes.

    >>> Advice({"base": 0.5}, False, {"Joint-Train": 0.0}, 0.01, 0.02, "Joint-Train").behind
    {'Joint-Train': 0.0}
    """

    nearest: dict[str, float]
    outside: bool
    behind: dict[str, float]
    followed: float
    fixed: float
    always: str


def advise(at: Place, path: str | Path = PUBLISHED) -> Advice:
    """Return what the map knows of data at a place: scores in the nearest regimes, and how far that is to be trusted.

    Args:
        at: where the data lie.
        path: a map that ``write_map`` wrote.

    Raises:
        RunFolderError: the file is no map.
    """
    content = read_settings(Path(path), "what `modalign map` wrote", RunFolderError)
    try:
        regimes = [one for one in content["regimes"] if one["place"] is not None]
        places = np.array([astuple(Place(**one["place"])) for one in regimes])
        # Only methods that were run everywhere can be compared.
        methods = [m for m in content["methods"] if all(m in one["scores"] for one in regimes)]
        titles = [str(content["methods"][m]) for m in methods]
        scores = np.array([[one["scores"][m] for m in methods] for one in regimes])
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{path} is no map of `modalign map` ({type(error).__name__}: {error})") from None
    if len(regimes) <= _NEAREST:
        raise InputError(f"{path} has {len(regimes)} regimes with a place; expected more than {_NEAREST} for advice")
    behind = scores.max(1, keepdims=True) - scores
    scale = places.std(0)
    scale[scale < 1e-9] = 1.0

    def distances(point: np.ndarray) -> np.ndarray:
        away: np.ndarray = np.sqrt((((places - point) / scale) ** 2).mean(1))
        return away

    followed, fixed = [], []
    for i in range(len(regimes)):
        away = distances(places[i])
        away[i] = np.inf
        followed.append(behind[i, behind[away.argsort()[:_NEAREST]].mean(0).argmin()])
        fixed.append(behind[i, np.delete(behind, i, 0).mean(0).argmin()])
    away = distances(np.array(astuple(at)))
    near = away.argsort()[:_NEAREST]
    between = [np.sort(distances(point))[1] for point in places]
    costs = behind[near].mean(0)
    return Advice(
        {regimes[i]["name"]: float(away[i]) for i in near},
        bool(away.min() > max(between)),
        {titles[i]: float(costs[i]) for i in costs.argsort(kind="stable")},
        float(np.mean(followed)),
        float(np.mean(fixed)),
        titles[int(behind.mean(0).argmin())],
    )


def place_of(found: Mapping[str, Any]) -> Place | None:
    """Return the place in the content of ``evaluation.json``, if it has one."""
    given = found.get("place")
    known = {one.name for one in fields(Place)}
    return Place(**given) if isinstance(given, dict) and set(given) == known else None


def folder_places(folder: str | Path) -> list[dict[str, Any]]:
    """Return what ``run_map`` kept of the regimes of a bench folder.

    Raises:
        RunFolderError: the folder holds no map.
    """
    path = Path(folder) / PLACES
    if not path.exists():
        raise RunFolderError(f"{folder} holds no map; expected a folder that `modalign map` wrote")
    found: list[dict[str, Any]] = read_settings(path, "what `modalign map` wrote", RunFolderError)["places"]
    return found
