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
from modalign.report.comparison import REFERENCE, Row, by_dataset, compare, order_key
from modalign.report.runs import RunRecord
from modalign.report.style import save
from modalign.report.tables import interval_text, number, readable, scale, show


@dataclass(frozen=True)
class Drawn:
    """A figure with its file name and what is said of it.

    Attributes:
        name: of its files.
        title: what it shows.
        alt: its numbers, for readers who cannot see it.
        figure: the figure.
        note: below it: of what and how many the numbers are, and what its bands and lines mean.
    """

    name: str
    title: str
    alt: str
    figure: Figure
    note: str


def overview(rows: Sequence[Row]) -> Drawn:
    """All methods on all data sets of ``rows``, the main finding as a figure."""
    grouped = by_dataset(rows)
    alt = " ".join(f"{name}: {_compared(own)}" for name, own in grouped.items())
    note = (
        f"Means over {_count(rows)}. Lines are 95 % Student intervals of the mean over seeds (none for one seed); "
        f"{headline(rows).title if any(row.strategy == REFERENCE for row in rows) else 'ModAlign'} is set apart. "
        "Whether two methods differ is a paired question, answered in the tables."
    )
    return Drawn("comparison", "Methods compared", alt, figures.comparison(rows), note)


def _count(rows: Sequence[Row]) -> str:
    """Seeds of the methods, as a number or a range."""
    fewest, most = min(row.seeds for row in rows), max(row.seeds for row in rows)
    return f"{most} seed{'s' * (most > 1)}" if fewest == most else f"{fewest} to {most} seeds"


def of_dataset(rows: Sequence[Row], runs: Sequence[RunRecord]) -> list[Drawn]:
    """Comparison and training curves of one data set, and what the headline method confuses.

    Args:
        rows: of this data set; runs: its records (unfinished ones have curves too).
    """
    drawn = [overview(rows)] if rows else []
    if any(run.epochs for run in runs):
        metric = rows[0].metric if rows else runs[0].primary
        alt = f"Training loss and validation {readable(metric)} by epoch, a line for each method."
        drawn.append(Drawn("curves", "Training curves", alt, figures.training_curves(runs, metric), _of_curves(runs)))
    if len(rows) > 1 and any(row.seconds_per_epoch > 0 for row in rows):
        base = next((row.title for row in rows if row.strategy == "joint"), "the cheapest")
        note = f"Means over {_count(rows)}, labeled with the multiple of {base}. Runs side by side slow each other."
        drawn.append(Drawn("cost", "Cost of each method", _costs(rows), figures.cost(rows), note))
    aligned = [run for run in runs if run.strategy == REFERENCE and "lambda" in _facts(run)]
    if aligned:
        alt = (
            "The weight of the alignment, and the share of steps in which the margin of each modality acted, by epoch."
        )
        seeds = f"{len(aligned)} seed{'s' * (len(aligned) > 1)}"
        note = (
            f"Means over {seeds}; bands are the range. λ = 1 − exp(−I(Z1; Z2 | Y)) "
            "weighs the joint head against the product of the single heads. The margin acts in a step where the pull "
            "on a modality exceeds what it allows, by default 0.3 times the task's gradient."
        )
        drawn.append(Drawn("alignment", "What ModAlign did in training", alt, figures.alignment(aligned), note))
    return drawn + (_of_predictions(rows, runs) if rows and runs[0].task == "classification" else [])


def _of_curves(runs: Sequence[RunRecord]) -> str:
    """What the curves are of, and which methods have no loss in common with the others."""
    drawn = sorted((run for run in runs if run.epochs), key=lambda run: order_key(run.strategy))
    common = {run.strategy for run in drawn if any("task" in line.get("train", {}) for line in run.epochs)}
    without = list(dict.fromkeys(run.title for run in drawn if run.strategy not in common))
    note = "Means over seeds; bands are the range over seeds. The loss is the term that methods have in common"
    return f"{note}; not drawn for {', '.join(without)}, which have none." if without else f"{note}."


def _facts(run: RunRecord) -> dict[str, Any]:
    return dict(run.epochs[0].get("log") or {}) if run.epochs else {}


def _costs(rows: Sequence[Row]) -> str:
    return "; ".join(f"{row.title} {row.seconds_per_epoch:.2g} s per epoch" for row in rows) + "."


def _compared(rows: Sequence[Row]) -> str:
    factor, decimals, unit = scale(rows[0].metric)
    values = [
        f"{row.title} {show(row.mean, decimals, factor)} {interval_text(row.ci_low, row.ci_high, decimals, factor)}"
        for row in rows
    ]
    return f"Test {readable(rows[0].metric)}{unit} with 95 % intervals: " + "; ".join(values) + "."


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
    pooled = f"{counts.sum()} predictions of {seeds}"
    note = f"Of {pooled}: rows are true classes, and their shares add up to 100 %. {alt.split('; ')[1].capitalize()}"
    title_2 = f"Can the confidence of {chosen.title} be trusted?"
    return [
        Drawn("confusion", title, alt, figures.confusion(counts, classes), note),
        Drawn("reliability", title_2, text, figures.reliability(curves), f"Of {pooled}. {_RELIABILITY}"),
    ]


_RELIABILITY = (
    "Points below the dotted line are overconfident; open markers are bins of fewer than 10 predictions, mostly "
    "chance. ECE is the mean gap between confidence and accuracy (15 bins), “fused” the answer from all modalities."
)


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
    note = f"Of {found['samples']} samples. {_RELIABILITY}"
    return [Drawn("reliability", "Can the confidence be trusted?", text, figures.reliability(curves), note)]


def of_evaluation(found: dict[str, Any]) -> list[Drawn]:
    """Figures of one ``evaluation.json`` (see ``modalign.evaluation.diagnosis`` for its form)."""
    drawn = [_contributions(found)]
    if found["missing"]:
        ends = {name: curve[-1]["mean"] for name, curve in found["missing"]["curves"].items()}
        text = "; ".join(f"{name} always missing: {_number(value)}" for name, value in ends.items())
        figure = figures.missing_modalities(found["missing"], found["metric"])
        note = f"The modality is taken from samples drawn at random; bands are {_bootstrap(found)}."
        drawn.append(Drawn("missing", "When a modality is missing", text, figure, note))
    for name, entry in found.get("confidence", {}).items():
        text = f"Mean confidence of {', '.join(entry['by_modality'])} in each {name}."
        how = "by its own head" if found["heads"] else "with the others masked"
        note = f"Of each modality {how}; lines are 95 % t-intervals over the samples, whose number is in brackets. "
        figure = figures.context_confidence(entry, name)
        title = f"How sure each modality is, by {name}"
        drawn.append(Drawn(f"confidence_{name}", title, text, figure, note + _SORTED))
    if found["information"]:
        drawn.append(_amounts(found["information"]))
    return drawn


_SORTED = "Sorted by the difference of the first two modalities; confidence is not accuracy."


def _bootstrap(found: dict[str, Any]) -> str:
    units = f"{found['units']} groups" if found["units"] != found["samples"] else f"{found['samples']} samples"
    return f"95 % bootstrap intervals over {units}"


def _contributions(found: dict[str, Any]) -> Drawn:
    metric, values = found["metric"], found["shapley"]["values"]
    factor, decimals, unit = scale(metric)
    text = "; ".join(f"{m} {show(v['mean'], decimals, factor, signed=True)}{unit}" for m, v in values.items())
    ends = {len(s["modalities"]): s["mean"] for s in found["subsets"]}
    none, whole = (f"{show(number(ends.get(n)), decimals, factor)}" for n in (0, len(values)))
    note = (
        f"Shares of the way from {readable(metric)} {none} without any modality to {whole} with all{unit}; "
        f"lines are {_bootstrap(found)}."
    )
    figure = figures.shapley_bars(values, metric)
    return Drawn("shapley", "What each modality contributes", text, figure, note)


def _amounts(information: dict[str, Any]) -> Drawn:
    text = "; ".join(f"only in {m}: {show(number(a['value']), 2)} nats" for m, a in information["unique"].items())
    rows = [*information["target"].values(), *information["unique"].values()]
    rows += [pair[key] for pair in information["pairs"] for key in ("shared", "shared_given_target")]
    note = (
        f"Of the features of {information['samples']} samples; Y is the target, lines are two standard errors. "
        "Bounds from below: one under zero says no more than zero."
    )
    if not all(amount["trusted"] for amount in rows):
        note += " Hatched amounts are not to be trusted; why stands under “Read with care”."
    if information.get("earlier"):
        note += " Kept from an earlier evaluation of the same model."
    figure = figures.information_bars(information)
    return Drawn("information", "What is shared and what is unique", text, figure, note)


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
        metric, failed = str(content.get("metric", "accuracy")), content.get("failed", [])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is no sweep of `modalign tradeoff` ({type(error).__name__}: {error})") from None
    seeds = len({point.seed for point in points})
    alt = (
        f"Shared information, unique information and {readable(metric)} over the strength of alignment, "
        f"with and without the protective margin, {seeds} seeds; default {default:g}."
    )
    count = f"{seeds} seed{'s' * (seeds != 1)}"
    note = (
        f"Models after their last epoch, means over {count}; bands are 95 % Student intervals, cut where they leave "
        "the panel. The dotted line is the strength that is used by default. T is the target. Without alignment "
        "(α = 0) there is nothing to protect: both lines start from the same model."
    )
    if failed:
        note += f" Without a point, as training diverged: {len(failed)} run{'s' * (len(failed) > 1)}."
    sweep = figures.tradeoff(points, default, metric)
    plane = figures.tradeoff_plane(points, default)
    return [
        Drawn("tradeoff", "Fusibility against complementarity", alt, sweep, note),
        Drawn("tradeoff_plane", "The same as a path", alt, plane, f"Means over {count}, labeled with α."),
    ]


def write_figures(runs: Iterable[RunRecord], folder: Path) -> list[Path]:
    """Save the figures of every data set as SVG, PNG and PDF into ``folder``; returns the paths."""
    runs = list(runs)
    written = []
    for dataset, rows in by_dataset(compare(runs)).items():
        for drawn in of_dataset(rows, [run for run in runs if run.dataset == dataset]):
            written += save(drawn.figure, folder / f"{dataset}_{drawn.name}")
    return written
