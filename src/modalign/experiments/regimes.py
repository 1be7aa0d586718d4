"""Which method leads where: made data in which one thing at a time is varied, and where real data lie among them.

``REGIMES`` varies redundant, unique and synergistic information, nuisance that modalities share, a shift between
groups, the number of labels and the share of missing modalities around one base. ``Place`` measures the same things on
the features of any run; ``advise`` looks at the regimes nearest to it, and says how far such advice has been right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from modalign.data.dataset import MultimodalData
from modalign.data.datasets.synthetic import truth
from modalign.errors import InputError, RunFolderError, unknown
from modalign.estimators.transforms import Canonical
from modalign.evaluation.decomposition import decompose_features
from modalign.experiments.bench import Entry, run_bench, run_folder
from modalign.files import read_settings, write_whole
from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings
from modalign.strategies import Strategy
from modalign.training.build import load_with_data
from modalign.training.forward import outputs

PUBLISHED = Path(__file__).with_name("regimes.json")
"""The map that comes with the package; ``docs/results/map.md`` has the command that made it."""

_BASE: dict[str, Any] = {"samples": 3000, "redundant": 1.0, "unique": 1.0, "synergy": 0.0, "correlation": 0.7}
_NEAREST = 3  # regimes that advice is taken from
_DIRECTIONS = 10  # principal components of features that are looked at
_LEAST = 20  # samples of a split below which nothing is said of its place


@dataclass(frozen=True)
class Regime:
    """Made data, one point of an axis.

    Attributes:
        axis, value: what is varied, and how far; empty and 0 for the base.
        options: of ``generate``, over those of the base.
        learned: groups of 20 that are learned from; the others are the test split.
        divided: whether groups are divided between training and validation; where they shift they are not.

    >>> REGIMES[0].name, REGIMES[1].name
    ('base', 'redundant 0')
    """

    axis: str = ""
    value: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    learned: int = 10
    divided: bool = True

    @property
    def name(self) -> str:
        """Name of the data set in tables and folders."""
        return f"{self.axis} {self.value:g}" if self.axis else "base"

    def recipe(self, epochs: int) -> Recipe:
        """Return the recipe of its data, with the same small budget for all."""
        data = DataSettings(
            "synthetic",
            title=self.name,
            split=f"group>={self.learned}",
            group=None if self.divided else "group",
            options=_BASE | self.options,
        )
        return Recipe(data, ModelSettings(width=16), TrainingSettings(epochs=epochs, optimizer="adamw", lr=1e-3))

    @property
    def bayes(self) -> float | None:
        """Accuracy of the Bayes classifier; None where the formulas do not hold."""
        if {"shift", "missing"} & set(self.options):
            return None
        made = _BASE | self.options
        return truth(**{name: made[name] for name in ("redundant", "unique", "synergy", "correlation")}).accuracy


REGIMES = (
    Regime(),
    *(Regime("redundant", v, {"redundant": v}) for v in (0.0, 2.0)),
    *(Regime("unique", v, {"unique": v}) for v in (0.0, 2.0)),
    *(Regime("synergy", v, {"synergy": v}) for v in (1.0, 2.0)),
    Regime("synergy alone", 2.0, {"redundant": 0.0, "unique": 0.0, "synergy": 2.0}),
    *(Regime("nuisance", v, {"correlation": v}) for v in (0.0, 0.95)),
    *(Regime("shift", v, {"shift": v}, divided=False) for v in (0.5, 1.0)),
    *(Regime("labels", 150.0 * groups, learned=groups) for groups in (1, 3)),
    *(Regime("missing", v, {"missing": v}) for v in (0.3, 0.6)),
)


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


def place(strategy: Strategy, data: MultimodalData) -> Place | None:
    """Return where the data of a trained classifier lie; None for other tasks, one modality, or under 20 whole samples.

    Args:
        strategy: what was trained.
        data: its data; validation and test features are looked at.
    """
    if data.task.kind != "classification" or len(data.modalities) < 2:
        return None
    seen, absent = [], []
    for split in (data.valid, data.test):
        found = outputs(strategy, split)
        whole = found.present.all(1)
        absent.append(1 - found.present.float().mean().item())
        if int(whole.sum()) < _LEAST:
            return None
        seen.append(({m: z[whole].double().numpy() for m, z in found.features.items()}, split.target[whole].numpy()))
    (valid, _), (test, target) = seen
    names, classes = list(test), len(data.task.classes)
    z = _principal(test)
    # Of two modalities one comparison says all; of more each stands against all others.
    parts = []
    for m in names[: 1 if len(names) == 2 else None]:
        others = np.concatenate([z[other] for other in names if other != m], 1)
        parts.append(decompose_features(z[m], others, target, classes, repeats=5).parts)
    told = np.mean([[p.redundant, p.unique_1 + p.unique_2, p.synergy] for p in parts], 0)
    told = told / max(told.sum(), 1e-9)
    centered = {m: _within(part, target) for m, part in z.items()}
    shared = [
        -0.5 * np.log(1 - Canonical(centered[a], centered[b]).correlations ** 2).sum()
        for a, b in combinations(names, 2)
    ]
    redundant, unique, synergy = map(float, told)
    labels, missing = float(np.log10(len(data.train) / classes)), absent[0]
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


def run_map(
    rows: Sequence[Entry],
    out: str | Path,
    *,
    regimes: Sequence[Regime] = REGIMES,
    seeds: int = 3,
    epochs: int = 15,
    jobs: int | None = None,
    quiet: bool = False,
) -> Path:
    """Train every row with every seed in every regime, and measure where each regime lies.

    Args:
        rows: what is compared (``bench.entries``).
        out: bench folder; what is there is not run again. ``places.json`` is written into it.
        regimes: made data.
        seeds: runs of each.
        epochs: of every run, AdamW at 1e-3, 64 samples a batch.
        jobs: trainings at a time.
        quiet: print nothing.

    Returns:
        The bench folder; ``modalign.reporting.regimes.write_map`` makes table and figure of it.

    Raises:
        InputError: what ``run_bench`` refuses.
        RunsFailed: some runs failed.
    """
    recipes = {regime.name: regime.recipe(epochs) for regime in regimes}
    folder = run_bench(recipes, rows, seeds, out, jobs=jobs, skip=True, quiet=quiet)
    probe = next((row for row in rows if row.name == "modalign"), rows[0])
    places = []
    for regime in regimes:
        strategy, data, _ = load_with_data(run_folder(folder, regime.name, probe, 0))
        at = place(strategy, data)
        places.append(
            {"name": regime.name, "axis": regime.axis, "value": regime.value, "bayes": regime.bayes}
            | {"place": None if at is None else asdict(at)}
        )
    write_whole(folder / "places.json", json.dumps({"probe": probe.name, "places": places}, indent=1))
    return folder


def chosen_regimes(axes: Sequence[str]) -> tuple[Regime, ...]:
    """Return the base and the regimes of some axes.

    Raises:
        InputError: there is no such axis.

    >>> [regime.name for regime in chosen_regimes(["missing"])]
    ['base', 'missing 0.3', 'missing 0.6']
    """
    known = [regime.axis for regime in REGIMES[1:]]
    for axis in axes:
        if axis not in known:
            raise unknown("axis of the map", axis, list(dict.fromkeys(known)))
    return tuple(regime for regime in REGIMES if not regime.axis or regime.axis in axes)


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
    path = Path(folder) / "places.json"
    if not path.exists():
        raise RunFolderError(f"{folder} holds no map; expected a folder that `modalign map` wrote")
    found: list[dict[str, Any]] = read_settings(path, "what `modalign map` wrote", RunFolderError)["places"]
    return found
