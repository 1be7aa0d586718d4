"""Figure 1(a) of the paper for any data: what alignment makes modalities share, and what it costs them of their own."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modalign.errors import InputError, RunFolderError, RunsFailed, unknown
from modalign.estimators.estimate import METHODS, estimate
from modalign.evaluation.diagnosis import fusibility_and_complementarity
from modalign.evaluation.pairs import Complete
from modalign.experiments.bench import Entry, run_bench, run_folder
from modalign.experiments.evaluate import reference_features
from modalign.experiments.parallel import side_by_side
from modalign.files import read_settings, write_whole
from modalign.settings import Recipe
from modalign.strategies import load_strategy
from modalign.training.build import load_with_data
from modalign.training.forward import outputs
from modalign.training.progress import BenchDisplay
from modalign.training.run import RunFolder

ALPHAS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
# The model at the end of training: one selected on validation hides what too strong an alignment does to it.
_CHECKPOINT, _METRICS = "last", "test_last"


def run_tradeoff(
    recipe: Recipe,
    out: str | Path,
    *,
    alphas: Sequence[float] = ALPHAS,
    seeds: int = 3,
    jobs: int | None = None,
    method: str = "nce3",
    trust_code: bool = False,
    quiet: bool = False,
) -> Path:
    """Sweep the strength of alignment with and without the protective margin, and measure each model.

    Fusibility is the mean over pairs of I(Z1;Z2|Y), complementarity the mean over modalities of what only one tells
    about the label, both on test features; accuracy (or the task's metric) is test's. All three are of the model after
    the last epoch.

    Args:
        recipe: data, model and budget.
        out: bench folder of the sweep; ``tradeoff.json`` is written into it.
        alphas: strengths; 0 is the same model with and without the margin, and trained once.
        seeds: runs of each.
        jobs: trainings, and then measurements, at a time.
        method: estimator of information.
        trust_code: load classes of one's own, where the recipe names some, from the runs.
        quiet: print nothing.

    Returns:
        Path of ``tradeoff.json``: ``{"default", "metric", "points": [{alpha, margin, seed, fusibility, complementarity,
        accuracy}], "failed": [text]}``. Runs that diverged have no point; ``failed`` says which and why.

    Raises:
        InputError: fewer than two strengths, one below zero, an unknown estimator, or what ``run_bench`` refuses.
        RunsFailed: every run diverged.
    """
    if len(set(alphas)) < 2 or min(alphas) < 0:
        raise InputError(f"alphas are {list(alphas)}; expected two or more different strengths of 0 or more")
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    rows = {
        (alpha, margin): Entry(
            f"alpha{alpha:g}-{margin}",
            "modalign",
            {"alpha": alpha, "margin": margin},
            f"alpha {alpha:g}, margin {margin}",
        )
        for alpha in sorted(set(alphas))
        for margin in ("gradient", "none")
        if alpha > 0 or margin == "gradient"
    }
    failed: list[str] = []
    try:
        run_bench({recipe.data.shown: recipe}, list(rows.values()), seeds, out, jobs=jobs, quiet=quiet)
    except RunsFailed as error:  # how strong an alignment destroys a model is part of the answer
        failed = error.failed
    wanted = [
        _Measurement(run_folder(Path(out), recipe.data.shown, row, seed), alpha, margin, seed, method, trust_code)
        for (alpha, margin), row in rows.items()
        for seed in range(seeds)
    ]
    trained = [one for one in wanted if RunFolder(one.folder).done]
    if not trained:
        raise RunsFailed("no run of the sweep came to its end:", failed)
    _measure_all([one for one in trained if one.kept() is None], len(trained), jobs, quiet)
    default = recipe.strategies.get("modalign", {}).get("alpha", load_strategy("modalign").Options().alpha)
    metric = RunFolder(trained[0].folder).result()["metric"]
    content = {
        "default": default,
        "metric": metric,
        "points": [point for one in trained for point in one.points(metric)],
        "failed": failed,
    }
    path = Path(out) / "tradeoff.json"
    return write_whole(path, json.dumps(content, indent=1))


@dataclass(frozen=True)
class _Measurement:
    """What is measured of one run, kept beside it so that a sweep can be completed and drawn again."""

    folder: Path
    alpha: float
    margin: str
    seed: int
    method: str
    trust_code: bool = False

    @property
    def label(self) -> str:
        return f"{self.folder.parent.name} seed {self.seed}"

    def kept(self) -> dict[str, Any] | None:
        """Return what was measured before by the same estimator, if it was."""
        path = self.folder / "tradeoff.json"
        found = read_settings(path, "what `modalign tradeoff` measured", RunFolderError) if path.exists() else {}
        return found if found.get("method") == self.method else None

    def measure(self) -> _Measurement:
        """Measure and keep; returns itself."""
        strategy, data, _ = load_with_data(self.folder, _CHECKPOINT, trust_code=self.trust_code)
        found = outputs(strategy, data.test)
        given = Complete.of(
            {m: z.numpy() for m, z in found.features.items()},
            data.test.target.numpy(),
            len(data.task.classes) if data.task.kind == "classification" else 0,
            functools.partial(estimate, method=self.method),
            found.present.numpy(),
            data.test.groups,
            reference=reference_features(strategy, data.valid),
        )
        fusibility, complementarity = fusibility_and_complementarity(given)
        measured = {"method": self.method, "fusibility": fusibility, "complementarity": complementarity}
        write_whole(self.folder / "tradeoff.json", json.dumps(measured))
        return self

    def points(self, metric: str) -> list[dict[str, Any]]:
        """Return the run's points; without alignment there is nothing to protect, and one run stands for both."""
        measured = self.kept()
        assert measured is not None
        values = {name: measured[name] for name in ("fusibility", "complementarity")}
        values["accuracy"] = RunFolder(self.folder).result()["metrics"][_METRICS][metric]
        return [
            {"alpha": self.alpha, "margin": margin == "gradient", "seed": self.seed, **values}
            for margin in (("gradient", "none") if self.alpha == 0 else (self.margin,))
        ]


def _measure_all(waiting: Sequence[_Measurement], total: int, jobs: int | None, quiet: bool) -> None:
    with BenchDisplay("measuring", waiting, total - len(waiting), quiet) as display:
        for one in side_by_side(_Measurement.measure, waiting, jobs):
            display.finished(one, None)
