"""Which method leads where: made data in which one thing at a time is varied, and every method trained on all of them.

``REGIMES`` varies redundant, unique and synergistic information, nuisance that modalities share, a shift between
groups, the number of labels and the share of missing modalities around one base. ``evaluation.place`` says where other
data lie among them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modalign.data.dataset import MultimodalData
from modalign.data.datasets.synthetic import truth
from modalign.errors import unknown
from modalign.evaluation.place import PLACES, Place, measure_place
from modalign.experiments.bench import Entry, run_bench, run_folder
from modalign.files import write_whole
from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings
from modalign.strategies import Strategy
from modalign.training.build import load_with_data
from modalign.training.forward import outputs

_BASE: dict[str, Any] = {"samples": 3000, "redundant": 1.0, "unique": 1.0, "synergy": 0.0, "correlation": 0.7}
_LEARNED = 10  # groups of 20 that are learned from


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
    learned: int = _LEARNED
    divided: bool = True

    @property
    def name(self) -> str:
        """Name of the data set in tables and folders."""
        return f"{self.axis} {self.value:g}" if self.axis else "base"

    def recipe(self, epochs: int) -> Recipe:
        """Return the recipe of its data, with the same small budget for all: as many steps where labels are few."""
        data = DataSettings(
            "synthetic",
            title=self.name,
            split=f"group>={self.learned}",
            group=None if self.divided else "group",
            options=_BASE | self.options,
        )
        training = TrainingSettings(
            epochs=round(epochs * _LEARNED / self.learned), optimizer="adamw", lr=1e-3, selection="best"
        )
        return Recipe(data, ModelSettings(width=16), training)

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


def place(strategy: Strategy, data: MultimodalData) -> Place | None:
    """Return where the data of a trained classifier lie; None for other tasks, one modality, or under 20 whole samples.

    Args:
        strategy: what was trained.
        data: its data; validation and test features are looked at.
    """
    if data.task.kind != "classification" or len(data.modalities) < 2:
        return None
    seen = []
    for split in (data.valid, data.test):
        found = outputs(strategy, split)
        whole = found.present.all(1)
        absent = 1 - found.present.float().mean().item()
        features = {m: z[whole].double().numpy() for m, z in found.features.items()}
        seen.append((features, split.target[whole].numpy(), absent))
    (valid, _, missing), (test, target, _) = seen
    return measure_place(valid, test, target, len(data.task.classes), len(data.train), missing)


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
        epochs: of every run on 1,500 training rows; as many steps on fewer; AdamW at 1e-3, 64 samples a batch.
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
    write_whole(folder / PLACES, json.dumps({"probe": probe.name, "places": places}, indent=1))
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
