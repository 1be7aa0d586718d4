"""Which figures belong to a set of runs, each with a title and a text for readers who cannot see it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from modalign.errors import InputError
from modalign.evaluation.metrics import calibration, confusion_matrix
from modalign.report import figures
from modalign.report.comparison import REFERENCE, Row, by_dataset, compare
from modalign.report.runs import RunRecord
from modalign.report.style import save
from modalign.report.tables import interval_text, scale, show


@dataclass(frozen=True)
class Drawn:
    """A figure with its file name, title, and alternative text."""

    name: str
    title: str
    alt: str
    figure: Figure


def of_dataset(rows: Sequence[Row], runs: Sequence[RunRecord]) -> list[Drawn]:
    """Comparison and training curves of one data set, and what the headline method confuses.

    Args:
        rows: of this data set; runs: its records (unfinished ones have curves too).
    """
    drawn = []
    if rows:
        drawn.append(Drawn("comparison", "Methods compared", _compared(rows), figures.comparison(rows)))
    if any(run.epochs for run in runs):
        metric = rows[0].metric if rows else runs[0].primary
        alt = f"Training loss and validation {metric} by epoch, a line for each method."
        drawn.append(Drawn("curves", "Training curves", alt, figures.training_curves(runs, metric)))
    if len(rows) > 1 and any(row.seconds_per_epoch > 0 for row in rows):
        base = next((row.title for row in rows if row.strategy == "joint"), "the cheapest")
        drawn.append(Drawn("cost", f"Cost of each method, in multiples of {base}", _costs(rows), figures.cost(rows)))
    aligned = [run for run in runs if run.strategy == REFERENCE and "lambda" in _facts(run)]
    if aligned:
        alt = (
            "The weight of the alignment, and the share of steps in which the margin of each modality acted, by epoch."
        )
        drawn.append(Drawn("alignment", "What ModAlign did in training", alt, figures.alignment(aligned)))
    return drawn + (_of_predictions(rows, runs) if rows and runs[0].task == "classification" else [])


def _facts(run: RunRecord) -> dict[str, Any]:
    return dict(run.epochs[0].get("facts") or {}) if run.epochs else {}


def _costs(rows: Sequence[Row]) -> str:
    return "; ".join(f"{row.title} {row.seconds_per_epoch:.2g} s per epoch" for row in rows) + "."


def _compared(rows: Sequence[Row]) -> str:
    factor, decimals, unit = scale(rows[0].metric)
    values = [
        f"{row.title} {show(row.mean, decimals, factor)} {interval_text(row.ci_low, row.ci_high, decimals, factor)}"
        for row in rows
    ]
    return f"Test {rows[0].metric}{unit} with 95 % intervals: " + "; ".join(values) + "."


def headline(rows: Sequence[Row]) -> Row:
    """ModAlign where it was run, else the best method."""
    own = [row for row in rows if row.strategy == REFERENCE]
    return own[0] if own else min(rows, key=lambda row: row.rank)


def _of_predictions(rows: Sequence[Row], runs: Sequence[RunRecord]) -> list[Drawn]:
    chosen = headline(rows)
    own = [run for run in runs if run.strategy == chosen.strategy and run.state == "done"]
    kept = [p for run in own if (p := run.predictions()) is not None]
    if not kept:
        return []
    classes = [str(name) for name in kept[0]["classes"]]
    counts = sum((confusion_matrix(p["scores"], p["target"]) for p in kept), np.zeros((len(classes),) * 2, int))
    wrong = counts - np.diag(counts.diagonal())
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    seeds = f"{len(kept)} seed{'s' * (len(kept) > 1)}"
    alt = f"Confusion matrix over {seeds}; the most frequent error is {classes[i]} read as {classes[j]}."
    title = f"What {chosen.title} confuses (test, {seeds})"
    curves = _curves(own[0], kept)
    text = "; ".join(f"{name}: calibration error {100 * c.ece:.1f} %" for name, c in curves.items())
    return [
        Drawn("confusion", title, alt, figures.confusion(counts, classes)),
        Drawn("reliability", f"Can the confidence of {chosen.title} be trusted?", text, figures.reliability(curves)),
    ]


def _curves(run: RunRecord, kept: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Reliability of the readout, and of the heads of single modalities where they were trained."""
    target = np.concatenate([p["target"] for p in kept])
    curves = {"fused": calibration(np.exp(np.concatenate([p["scores"] for p in kept])), target)}
    if run.result.get("trains_unimodal") and len(kept[0]["unimodal"]):
        for m, name in enumerate(kept[0]["modalities"]):
            curves[str(name)] = calibration(np.exp(np.concatenate([p["unimodal"][m] for p in kept])), target)
    return curves


def reliability(found: dict[str, Any]) -> list[Drawn]:
    """Reliability of one evaluated run; of a whole method, over its seeds, it is among ``of_dataset``."""
    curves = found.get("calibration")
    if not curves:
        return []
    text = "; ".join(f"{name}: calibration error {100 * c['ece']:.1f} %" for name, c in curves.items())
    return [Drawn("reliability", "Can the confidence be trusted?", text, figures.reliability(curves))]


def of_evaluation(found: dict[str, Any]) -> list[Drawn]:
    """Figures of one ``evaluation.json`` (see ``modalign.evaluation.diagnosis`` for its form)."""
    metric = found["metric"]
    values = found["shapley"]["values"]
    text = "; ".join(f"{m} {v['mean']:+.3f}" for m, v in values.items())
    drawn = [
        Drawn("shapley", "What each modality contributes", text, figures.shapley_bars(values, metric)),
    ]
    if found["missing"]:
        ends = {name: curve[-1]["mean"] for name, curve in found["missing"]["curves"].items()}
        text = "; ".join(f"{name} always missing: {_number(value)}" for name, value in ends.items())
        figure = figures.missing_modalities(found["missing"], metric)
        drawn.append(Drawn("missing", "When a modality is missing", text, figure))
    for name, entry in found.get("confidence", {}).items():
        text = f"Mean confidence of {', '.join(entry['by_modality'])} in each {name}."
        figure = figures.context_confidence(entry, name)
        drawn.append(Drawn(f"confidence_{name}", f"How sure each modality is, by {name}", text, figure))
    if found["information"]:
        information = found["information"]
        text = "; ".join(f"only in {m}: {a['value']:.2f} nats" for m, a in information["unique"].items())
        figure = figures.information_bars(information)
        drawn.append(Drawn("information", "What is shared and what is unique", text, figure))
    return drawn


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def of_tradeoff(path: Path) -> list[Drawn]:
    """Figure 1(a) from ``tradeoff.json``: ``{"default": alpha, "metric", "points": [TradeoffPoint as a mapping]}``.

    Raises:
        InputError: the file has another form.
    """
    try:
        content = json.loads(path.read_text())
        points = [figures.TradeoffPoint(**point) for point in content["points"]]
        default = float(content["default"])
        metric = str(content.get("metric", "accuracy"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is no sweep of `modalign tradeoff` ({type(error).__name__}: {error})") from None
    seeds = len({point.seed for point in points})
    alt = (
        f"Shared information, unique information and {metric} over the strength of alignment, "
        f"with and without the protective margin, {seeds} seeds; default {default:g}."
    )
    return [
        Drawn("tradeoff", "Fusibility against complementarity", alt, figures.tradeoff(points, default, metric)),
        Drawn("tradeoff_plane", "The same as a path", alt, figures.tradeoff_plane(points, default)),
    ]


def write_figures(runs: Iterable[RunRecord], folder: Path) -> list[Path]:
    """Save the figures of every data set as SVG, PNG and PDF into ``folder``; returns the paths."""
    runs = list(runs)
    written = []
    for dataset, rows in by_dataset(compare(runs)).items():
        for drawn in of_dataset(rows, [run for run in runs if run.dataset == dataset]):
            written += save(drawn.figure, folder / f"{dataset}_{drawn.name}")
    return written
