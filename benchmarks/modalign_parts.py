"""What each part of ModAlign does to the quantity that it is for: with and without it, over splits and seeds.

Every variant is trained on the same splits with the same seeds; what is measured on the test split of each run:

- accuracy, NLL, Brier score, ECE of what the method predicts, and accuracy with one modality missing (mean over them);
- shared: sum over pairs of -1/2 sum log(1 - rho^2) of the canonical correlations of features less their class's mean,
  in nats: what two modalities tell about each other given the label, with directions fitted to the training split.
  A linear measure, in which no critic of the training has a part;
- alone: accuracy of a logistic regression on each modality's own features: what a modality still tells by itself;
- recall: how often a sample's nearest among the samples of its class, in canonical coordinates, is its own partner,
  less what guessing would reach.

    python benchmarks/modalign_parts.py --splits 3 --seeds 5 --out FOLDER

Runs are kept in FOLDER and not repeated; tables come out as Markdown. Needs MODALIGN_DATA for the real sets.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modalign.data.batch import Output
from modalign.errors import InputError
from modalign.evaluation.metrics import compute_metrics
from modalign.experiments.parallel import cores, side_by_side
from modalign.recipes import load_recipe
from modalign.settings import Recipe
from modalign.training.build import load_with_data
from modalign.training.forward import outputs
from modalign.training.train import train

DIRECTIONS = 10
SPEAKERS = ("Steve|Verity|Yi", "Anya|Bill|Faye", "John|Kate|Nicola")


@dataclass(frozen=True)
class Variant:
    """One row: a method and what is changed of it."""

    title: str
    strategy: str = "modalign"
    options: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "joint": Variant("Joint training", "joint"),
    "late": Variant("Late fusion", "late_fusion"),
    "full": Variant("ModAlign"),
    "no_alignment": Variant("- without alignment", options={"objective": "none"}),
    "no_margin": Variant("- without margin", options={"margin": "none"}),
    "hinge": Variant("- margin as a hinge", options={"margin": "hinge"}),
    "no_critic": Variant("- without critic in the readout", options={"readout_critic": False}),
    "no_heads": Variant("- without unimodal heads", options={"eta": 0.0}),
    "no_prior": Variant("- without context-aware prior", options={"prior": False}, model={"fusion": "concat"}),
    "concat": Variant("- without conditions in the fusion", model={"fusion": "concat"}),
    "context_fusion": Variant("- with conditions in the fusion", model={"fusion": "context"}),
    "no_context": Variant("- T: none", options={"context": "none"}),
    "speaker": Variant("- T: speaker", options={"context": "column:speaker"}),
}


def recipes(name: str, splits: int) -> list[Recipe]:
    """Return the recipe of each split of a data set."""
    if name == "synergy":
        made = {"samples": 4000, "redundant": 0.0, "unique": 0.0, "synergy": 2.0, "shared": 2, "correlation": 0.7}
        base = load_recipe("synthetic")
        return [_data(base, options={**made, "seed": k}) for k in range(splits)]
    base = load_recipe(name)
    if name.endswith(".yaml"):
        return [_data(base, fold=k) for k in range(splits)]
    if name == "synthetic":
        return [_data(base, options={**base.data.options, "seed": k}) for k in range(splits)]
    if name == "avletters-speaker":
        return [_data(base, split=f"speaker in {SPEAKERS[k]}", columns=["speaker"]) for k in range(splits)]
    return [_data(base, split_seed=k) for k in range(splits)]


def _data(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, data=replace(recipe.data, **changes))


@dataclass(frozen=True)
class Job:
    """One training, and where it is kept."""

    key: str
    variant: str
    recipe: Recipe
    split: int
    seed: int
    folder: Path


def run(job: Job) -> tuple[Job, dict[str, float]]:
    """Train, unless that is done, and measure."""
    kept = job.folder / "parts.json"
    if not kept.exists():
        variant = VARIANTS[job.variant]
        recipe = replace(job.recipe, model=replace(job.recipe.model, **variant.model))
        begun = time.monotonic()
        train(
            recipe,
            variant.strategy,
            options=variant.options,
            seed=job.seed,
            out=job.folder,
            quiet=True,
            resume=job.folder.exists(),
        )
        values = measure(job.folder) | {"seconds": time.monotonic() - begun}
        kept.write_text(json.dumps(values))
    return job, json.loads(kept.read_text())


def measure(folder: Path, checkpoint: str = "last") -> dict[str, float]:
    """Return all quantities of a run on its test split; those of the last epoch, for selection hides what was lost."""
    strategy, data, _ = load_with_data(folder, checkpoint)
    train_z, test_z = (outputs(strategy, split) for split in (data.train, data.test))
    train_y, test_y = data.train.target.numpy(), data.test.target.numpy()
    values = _scores(strategy, data, test_z, test_y)
    names = list(data.modalities)
    missing = [outputs(strategy, data.test, [m for m in names if m != gone]) for gone in names]
    values["missing"] = mean(_scores(strategy, data, found, test_y)["accuracy"] for found in missing)
    a, b = _within_class(train_z, train_y), _within_class(test_z, test_y)
    values["shared"] = values["recall"] = 0.0
    rows, test_rows = train_z.present.all(1).numpy(), test_z.present.all(1).numpy()
    pairs = list(combinations(names, 2))
    for m, n in pairs:
        left, right, rho = _canonical([a[m][rows], a[n][rows]], [b[m][test_rows], b[n][test_rows]])
        values["shared"] += float(-0.5 * np.log(1 - np.clip(rho, 0, 0.999) ** 2).sum())
        values["recall"] += _recall(left, right, test_y[test_rows]) / len(pairs)
    probes = {m: _probe(train_z, train_y, test_z, test_y, k, m) for k, m in enumerate(names)}
    values["alone"] = mean(probes.values())
    values |= {f"alone_{m}": value for m, value in probes.items()}
    return values | {f"log_{name}": value for name, value in strategy.metrics().items()}


def _scores(strategy: Any, data: Any, found: Output, target: np.ndarray) -> dict[str, float]:
    scores = strategy.log_probability(found).numpy()  # with the temperature, as a user is answered
    return compute_metrics(data.task, scores, target, ["accuracy", "nll", "brier", "ece"])


def _within_class(found: Output, label: np.ndarray) -> dict[str, np.ndarray]:
    """Features less their class's mean in the same split."""
    centered = {}
    for m, z in found.features.items():
        values = z.double().numpy().copy()
        for c in np.unique(label):
            values[label == c] -= values[label == c].mean(0)
        centered[m] = values
    return centered


def _canonical(train: list[np.ndarray], test: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canonical coordinates of test samples, sought among the largest principal components of the training ones."""
    whiten = []
    for z in train:
        _, scale, axes = np.linalg.svd(z, full_matrices=False)
        kept = scale[:DIRECTIONS] > 1e-6 * max(scale[0], 1e-12)
        whiten.append(axes[:DIRECTIONS][kept].T / scale[:DIRECTIONS][kept])
    a, b = (z @ w for z, w in zip(train, whiten, strict=True))
    left, strength, right = np.linalg.svd(a.T @ b, full_matrices=False)
    a, b = test[0] @ whiten[0] @ left, test[1] @ whiten[1] @ right.T
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = np.array([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)])
    return a * strength, b * strength, np.nan_to_num(rho)


def _recall(left: np.ndarray, right: np.ndarray, label: np.ndarray) -> float:
    """Recall at 1 of the partner among the samples of the class, less 1 / their number, mean over samples."""
    gain = []
    for c in np.unique(label):
        a, b = left[label == c], right[label == c]
        if len(a) > 1:
            unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b)]
            hits = (unit[0] @ unit[1].T).argmax(1) == np.arange(len(a))
            gain += list(hits - 1 / len(a))
    return mean(map(float, gain))


def _probe(train: Output, train_y: np.ndarray, test: Output, test_y: np.ndarray, column: int, name: str) -> float:
    rows, test_rows = train.present[:, column].numpy(), test.present[:, column].numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    model.fit(train.features[name].numpy()[rows], train_y[rows])
    return float(model.score(test.features[name].numpy()[test_rows], test_y[test_rows]))


COLUMNS = {
    "accuracy": ("Accuracy %", 100, 1),
    "nll": ("NLL", 1, 3),
    "brier": ("Brier", 1, 3),
    "ece": ("ECE %", 100, 1),
    "missing": ("One missing %", 100, 1),
    "shared": ("Shared given label, nats", 1, 2),
    "alone": ("Alone %", 100, 1),
    "recall": ("Recall at 1, over chance %", 100, 1),
}


def table(values: dict[str, dict[tuple[int, int], dict[str, float]]], splits: int) -> str:
    """Return means, and marks where the paired difference to ModAlign is beyond noise: corrected resampled t.

    Splits of one set overlap (Nadeau and Bengio 2003): variance times 1/n + 1/3, a quarter being tested.
    """
    lines = ["| | " + " | ".join(title for title, _, _ in COLUMNS.values()) + " |", "|---|" + "---:|" * len(COLUMNS)]
    full = values["full"]
    for key, found in values.items():
        cells = []
        for name, (_, factor, digits) in COLUMNS.items():
            cell = f"{factor * mean(v[name] for v in found.values()):.{digits}f}"
            if key != "full":
                cell += _mark([found[at][name] - full[at][name] for at in found if at in full], splits)
            cells.append(cell)
        lines.append(f"| {VARIANTS[key].title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mark(differences: Sequence[float], splits: int) -> str:
    """Return an arrow where the difference to the full method is beyond noise, p < 0.01."""
    n, spread = len(differences), float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    if spread == 0:
        return ""
    t = mean(differences) / (spread * np.sqrt(1 / n + 1 / 3))
    p = 2 * stats.t.sf(abs(t), n - 1)
    return "" if p >= 0.01 else (" ↑" if t > 0 else " ↓")


def main() -> None:
    """Run all that is asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["synthetic", "avletters-speaker", "gbmlgg-genomic"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=cores())
    parser.add_argument("--out", type=Path, default=Path("runs/parts"))
    arguments = parser.parse_args()
    for name in arguments.sets:
        chosen = [v for v in arguments.variants if v != "speaker" or name == "avletters-speaker"]
        jobs = [
            Job(
                name,
                variant,
                recipe,
                split,
                seed,
                arguments.out / Path(name).stem / variant / f"split{split}-seed{seed}",
            )
            for split, recipe in enumerate(recipes(name, arguments.splits))
            for seed in range(arguments.seeds)
            for variant in chosen
        ]
        values: dict[str, dict[tuple[int, int], dict[str, float]]] = {v: {} for v in chosen}
        begun = time.monotonic()
        for done, (job, found) in enumerate(side_by_side(run, jobs, arguments.jobs), 1):
            values[job.variant][job.split, job.seed] = found
            print(f"\r{name}: {done} of {len(jobs)}, {time.monotonic() - begun:.0f} s", end="", flush=True)
        print(f"\n\n## {Path(name).stem}\n\n{table(values, arguments.splits)}\n")
        logged = {k: mean(v[k] for v in values["full"].values()) for k in next(iter(values["full"].values()))}
        print("ModAlign: " + ", ".join(f"{k[4:]} {v:.3f}" for k, v in logged.items() if k.startswith("log_")))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
