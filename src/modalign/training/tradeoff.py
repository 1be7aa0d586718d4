"""Figure 1(a) of the paper for any data: what alignment makes modalities share, and what it costs them of their own."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modalign.errors import InputError
from modalign.evaluation.information import information_diagnosis
from modalign.information.estimators import estimate
from modalign.settings import Recipe
from modalign.strategies import load_strategy
from modalign.training.bench import Entry, run_bench
from modalign.training.engine import load_run
from modalign.training.inference import outputs, reference_features
from modalign.training.run import Run

ALPHAS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


def run_tradeoff(
    recipe: Recipe,
    out: str | Path,
    *,
    alphas: Sequence[float] = ALPHAS,
    seeds: int = 3,
    jobs: int | None = None,
    method: str = "nce3",
    quiet: bool = False,
) -> Path:
    """Sweep the strength of alignment with and without the protective margin, and measure each model.

    Fusibility is the mean over pairs of I(Z1;Z2|Y), complementarity the mean over modalities of what only one tells
    about the label, both on test features that the model has not seen; accuracy (or the task's metric) is test's.

    Args:
        recipe: data, model and budget.
        out: bench folder of the sweep; ``tradeoff.json`` is written into it.
        alphas: strengths; 0 is the same model with and without the margin, and trained once.
        seeds: runs of each.
        jobs: trainings at a time.
        method: estimator of information.
        quiet: print nothing.

    Returns:
        Path of ``tradeoff.json``: ``{"default", "metric", "points": [{alpha, margin, seed, fusibility, complementarity,
        accuracy}]}``.

    Raises:
        InputError: fewer than two strengths, one below zero, or anything that ``run_bench`` refuses.
    """
    if len(set(alphas)) < 2 or min(alphas) < 0:
        raise InputError(f"alphas are {list(alphas)}; expected two or more different strengths of 0 or more")
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
    folder = run_bench({recipe.data.shown: recipe}, list(rows.values()), seeds, out, jobs=jobs, quiet=quiet)
    points, metric = [], ""
    for (alpha, margin), row in rows.items():
        for seed in range(seeds):
            run = Run(folder / "runs" / recipe.data.shown / row.name / f"seed{seed}")
            metric = run.result()["metric"]
            measured = _measure(run, metric, method)
            for shown in ("gradient", "none") if alpha == 0 else (margin,):
                points.append({"alpha": alpha, "margin": shown == "gradient", "seed": seed, **measured})
    path = folder / "tradeoff.json"
    default = recipe.strategies.get("modalign", {}).get("alpha", load_strategy("modalign").Options().alpha)
    path.write_text(json.dumps({"default": default, "metric": metric, "points": points}, indent=1))
    return path


def _measure(run: Run, metric: str, method: str) -> dict[str, Any]:
    """What the features of one run share and keep, and how well it predicts; kept beside the run."""
    kept = run.folder / "tradeoff.json"
    if kept.exists():
        loaded: dict[str, Any] = json.loads(kept.read_text())
        return loaded
    strategy, data, _ = load_run(run.folder)
    found = outputs(strategy, data.test)
    classes = len(data.task.classes) if data.task.kind == "classification" else 0
    information = information_diagnosis(
        {m: z.numpy() for m, z in found.features.items()},
        data.test.target.numpy(),
        classes,
        functools.partial(estimate, method=method),
        found.present.numpy(),
        data.test.groups,
        reference=reference_features(strategy, data.valid),
    )
    measured = {
        "fusibility": information.fusibility,
        "complementarity": information.complementarity,
        "accuracy": run.result()["metrics"]["test"][metric],
    }
    kept.write_text(json.dumps(measured))
    return measured
