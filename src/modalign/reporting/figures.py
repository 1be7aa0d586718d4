"""Figures of runs and comparisons, each with a title, a note, and a text for readers who cannot see it.

Nothing here uses matplotlib's global state, so that figures can be drawn from any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from modalign.errors import RunFolderError
from modalign.evaluation.metrics import Calibration, calibration, confusion_matrix
from modalign.evaluation.statistics import LEVEL, Interval, critical_difference, mean_interval
from modalign.files import folder_name, read_settings
from modalign.reporting.runs import (
    REFERENCE,
    Row,
    RunRecord,
    by_dataset,
    compare,
    headline,
    order_key,
    rank_matrix,
    read_run,
)
from modalign.reporting.style import COLORS, INK, MARKERS, OTHER, OURS, canvas, modality_look, save, series_look
from modalign.reporting.tables import MetricFormat, plural

# Bins of a reliability diagram with fewer samples are set apart.
SPARSE = 10
# Shares of a confusion matrix in steps of 5 %: one blue, the more of it the larger, so that it shows on any ground.
SHADES = ListedColormap([(*to_rgb(OTHER), step / 20) for step in range(21)])
# Where the largest training loss is so many times the smallest, its axis is logarithmic.
WIDE_RANGE = 10


@dataclass(frozen=True)
class Captioned:
    """A figure with its file name and what is said of it.

    Attributes:
        name: name of its files.
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


def comparison(rows: Sequence[Row]) -> Captioned:
    """Draw the main finding: mean and 95 % interval of every method, one panel a data set, in the tables' order."""
    grouped = by_dataset(rows)
    longest = max(len(own) for own in grouped.values())
    columns = min(len(grouped), 3)
    lines = -(-len(grouped) // columns)
    said = []
    with canvas(2.4 + 3.4 * columns, lines * (1.2 + 0.32 * longest), lines, columns) as (figure, axes):
        for axis, (dataset, own) in zip(axes, grouped.items(), strict=False):
            form = MetricFormat(own[0].metric)
            for y, row in enumerate(own):
                tone, mark = (OURS, "D") if row.strategy == row.reference else (OTHER, "o")
                mean, low, high = (form.factor * v for v in (row.mean, row.ci_low, row.ci_high))
                axis.plot([low, high], [y, y], color=tone, linewidth=2.5)
                axis.plot(mean, y, mark, color=tone, markersize=7)
            name_rows(axis, [row.title for row in own])
            if form.factor == 100:  # room for markers at 0 and 100 %, and no more
                left, right = axis.get_xlim()
                axis.set_xlim(max(left, -0.5), min(right, 100.5))
            axis.set_xlabel(f"test {form.label}")
            if len(grouped) > 1:
                axis.set_title(dataset)
            values = "; ".join(f"{r.title} {form(r.mean)} {form.interval(r.ci_low, r.ci_high)}" for r in own)
            said.append(f"{dataset}: Test {form.label} with 95 % intervals: {values}.")
        for axis in axes[len(grouped) :]:
            axis.set_visible(False)
    ours = next((f"{row.title} is set apart. " for row in rows if row.strategy == row.reference), "")
    over = " or ".join(dict.fromkeys(row.interval for row in rows if row.interval)) or "nothing (one run)"
    note = (
        f"Means over {_seeds(rows)}. Lines are 95 % intervals of the mean over {over}. {ours}Whether two methods "
        "differ is a paired question, answered in the tables."
    )
    return Captioned("comparison", "Methods compared", " ".join(said), figure, note)


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Name the rows of a chart from top to bottom; they need no lines between them."""
    axis.set_yticks(range(len(names)), list(names))
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)


def _seeds(rows: Sequence[Row]) -> str:
    """Return the number of seeds of the methods, or its range."""
    fewest, most = min(row.seeds for row in rows), max(row.seeds for row in rows)
    splits = max(row.splits for row in rows)
    said = plural(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    return f"{plural(splits, 'split')} × {said}" if splits > 1 else said


def training_curves(runs: RunRecord | str | Path | Sequence[RunRecord], metric: str | None = None) -> Figure:
    """Draw training loss and validation metric by epoch.

    Args:
        runs: a run (its record or folder), or records of several. Of one run all terms of the loss are shown, the
            selected epoch, and what the method logged (its margin, its weights) where there is any. Of several a line a
            method, the range over seeds as a band; their loss is the term ``task``, which methods have in common, not
            the sum with terms of their own.
        metric: metric on validation; by default the one that the run was selected by.

    >>> from modalign.reporting.runs import RunRecord
    >>> lines = [{"train": {"task": 1 / n}, "valid": {"accuracy": 1 - 1 / n}, "log": {}} for n in (1, 2, 3)]
    >>> figure = training_curves(RunRecord(Path("joint/seed0"), epochs=lines))
    >>> [axis.get_title("left") for axis in figure.axes]
    ['Loss in training', 'Validation accuracy (%)']
    """
    if isinstance(runs, (str, Path, RunRecord)):
        return _curves_of_run(runs if isinstance(runs, RunRecord) else read_run(runs), metric)
    methods: dict[str, list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: (order_key(run.strategy), run.state != "done")):
        if run.epochs:
            methods.setdefault(run.strategy, []).append(run)
    form = MetricFormat(chosen := metric or runs[0].primary)
    tones = [tone for tone in COLORS if tone != OURS]
    with canvas(9.2, 3.8, 1, 2) as (figure, (left, right)):
        for i, own in enumerate(methods.values()):
            # The reference stands out.
            look = series_look(i, tones) | {"linewidth": 1.4}
            if own[0].strategy == REFERENCE:
                look = {"color": OURS, "linewidth": 2.6, "zorder": 5}
            # Titles are of a finished run: an unfinished one may not know it.
            _band(left, [run.curve("train", "task") for run in own], look, own[0].title)
            _band(right, [form.factor * run.curve("valid", chosen) for run in own], look, own[0].title)
        _scale_losses(left)
        left.set(xlabel="epoch", title="Loss of the task in training")
        right.set(xlabel="epoch", title=f"Validation {form.label}")
        handles, labels = right.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(5, max(1, len(labels))))
    return figure


def _curves_of_run(run: RunRecord, metric: str | None) -> Figure:
    form = MetricFormat(chosen := metric or run.primary)
    terms = list(dict.fromkeys(name for line in run.epochs for name in line.get("train") or {}))
    logged = list(dict.fromkeys(name for line in run.epochs for name in line.get("log") or {}))
    logged = [name for name in logged if name.startswith(("weight_", "margin_"))]
    with canvas(9.2 + 3.4 * bool(logged), 3.6, 1, 2 + bool(logged)) as (figure, axes):
        titles = ("Loss in training", f"Validation {form.label}", "Log: weights, and the share of steps with a margin")
        panels = zip(axes, titles, ("train", "valid", "log"), (terms, [chosen], logged), strict=False)
        for axis, title, part, names in panels:
            for i, name in enumerate(names):
                factor = form.factor if part == "valid" else 1.0
                label = name.replace("margin_", "steps with margin, ").replace("weight_", "weight of ")
                _band(axis, [factor * run.curve(part, name)], series_look(i), label)
            axis.set(xlabel="epoch", title=title)
            if len(names) > 1:
                axis.legend()
        _scale_losses(axes[0])
        if "selected_epoch" in run.result:
            axes[1].axvline(run.result["selected_epoch"] + 1, color=INK, linestyle=":", linewidth=1.3)
    return figure


def _scale_losses(axis: Axes) -> None:
    """Make the axis of losses logarithmic where they have a wide range."""
    losses = np.concatenate([line.get_ydata() for line in axis.lines] or [np.zeros(0)])
    losses = losses[np.isfinite(losses)]
    if len(losses) and losses.min() > 0 and losses.max() > WIDE_RANGE * losses.min():
        axis.set_yscale("log")
        plain_log(axis.yaxis)


def plain_log(axis: Axis) -> None:
    """Name the ticks of a logarithmic axis by numbers: powers are formulas, and no text is read as one."""
    low, high = axis.get_view_interval()
    if high < 30 * low:  # one power of ten or two do not tell the scale
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axis.set_major_formatter(plain)
    axis.set_minor_formatter(plain if high < 30 * low else NullFormatter())


def _band(axis: Axes, series: Sequence[np.ndarray], look: Mapping[str, Any], label: str) -> None:
    """Draw the mean of several curves and their range, up to the end of the shortest."""
    shortest = min(len(s) for s in series)
    values = np.stack([s[:shortest] for s in series])
    if np.isnan(values).all():
        return
    epochs = np.arange(1, shortest + 1)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.plot(epochs, values.mean(0), label=label, **look)
    if len(values) > 1:
        low, high = values.min(0), values.max(0)
        axis.fill_between(epochs, low, high, color=look["color"], alpha=0.13, linewidth=0)


def cost(rows: Sequence[Row]) -> Captioned:
    """Draw time and memory of every method of a data set, labeled with multiples of ``joint`` (or the cheapest)."""
    panels = (("seconds_per_epoch", "seconds per epoch"), ("peak_memory_mb", "memory added at the peak (MB)"))
    with canvas(9.2, 1.2 + 0.32 * len(rows), 1, 2) as (figure, axes):
        for axis, (name, label) in zip(axes, panels, strict=True):
            values = np.array([getattr(row, name) for row in rows])
            unit = next((v for row, v in zip(rows, values, strict=True) if row.strategy == "joint"), np.nanmin(values))
            tones = [OURS if row.strategy == row.reference else OTHER for row in rows]
            axis.barh(range(len(rows)), values, color=tones, height=0.62)
            for y, value in enumerate(values):
                if unit > 0:
                    write_beside(axis, f"{value / unit:.2g}×", value, y, 8.5)
            name_rows(axis, [row.title for row in rows])
            axis.set_xlim(0, 1.15 * np.nanmax(values) or 1)
            axis.set_xlabel(label)
        axes[1].tick_params(labelleft=False)
        figure.get_layout_engine().set(wspace=0.08)  # type: ignore[call-arg, union-attr]
    compared = next((row.title for row in rows if row.strategy == "joint"), "the cheapest")
    note = f"Means over {_seeds(rows)}, labeled with the multiple of {compared}. Runs side by side slow each other."
    alt = "; ".join(f"{row.title} {row.seconds_per_epoch:.2g} s per epoch" for row in rows) + "."
    return Captioned("cost", "Cost of each method", alt, figure, note)


def write_beside(axis: Axes, text: str, x: float, y: float, size: float) -> None:
    """Write a number beside the end of its bar."""
    axis.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=size)


def alignment(runs: Sequence[RunRecord]) -> Captioned:
    """Draw what ModAlign did by epoch: the weights of its pool, and the share of steps in which each margin acted.

    Args:
        runs: records of the method, one a seed; bands are the range over seeds.
    """
    names = [name for name in runs[0].epochs[0]["log"] if name.startswith("margin_")]
    weights = [name for name in runs[0].epochs[0]["log"] if name.startswith("weight_")]
    with canvas(9.2, 3.4, 1, 2) as (figure, (left, right)):
        for i, name in enumerate(weights):
            look = series_look(i) | {"linewidth": 2}
            _band(left, [run.curve("log", name) for run in runs], look, name.removeprefix("weight_"))
        left.set(xlabel="epoch", title="Weights in the pool of the prediction", ylim=(0, None))
        left.legend()
        for i, name in enumerate(names):
            shares = [100 * run.curve("log", name) for run in runs]
            _band(right, shares, modality_look(i) | {"markersize": 4}, name.removeprefix("margin_"))
        right.set(xlabel="epoch", title="Steps in which the margin acted (%)", ylim=(-3, 103))
        if names:
            right.legend()
    alt = (
        "The weights of joint head, single heads and critic in the prediction, and the share of steps in which the "
        "margin of each modality acted, by epoch."
    )
    note = (
        f"Means over {plural(len(runs), 'seed')}; bands are the range. The weights of what is pooled "
        "are fitted to validation: joint head, single heads, and the critic asked about every class. The margin acts "
        "in a step where the pull on a modality exceeds what it allows, by default 0.3 times the task's gradient."
    )
    return Captioned("alignment", "What ModAlign did in training", alt, figure, note)


def confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix, rows (true classes) normalized; counts are written where there is room."""
    counts = np.asarray(counts)
    c = len(counts)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = float(np.clip(2.2 + 0.15 * c, 3.4, 9.0))
    with canvas(side + 0.6, side) as (figure, (axis,)):
        image = axis.imshow(100 * share, cmap=SHADES, vmin=0, vmax=100, interpolation="none")
        for i, j in np.argwhere(counts) if c <= 12 else ():
            tone = "white" if share[i, j] > 0.8 else INK
            axis.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8, color=tone)
        shown = range(0, c, -(-c // 40))
        size = 9 if c <= 15 else 8
        turned = 90 if c > 15 or max(map(len, classes)) > 4 else 0
        axis.set_xticks(shown, [classes[k] for k in shown], rotation=turned, fontsize=size)
        axis.set_yticks(shown, [classes[k] for k in shown], fontsize=size)
        axis.grid(visible=False)
        axis.set(xlabel="predicted", ylabel="true")
        figure.colorbar(image, ax=axis, shrink=0.7, label="% of the true class")
    return figure


def reliability(
    curves: Mapping[str, Calibration | Mapping[str, Any]], title: str, of: str, labels: bool = False
) -> Captioned:
    """Draw accuracy against confidence, one line a curve, ECE in the legend.

    Bins of fewer than ``SPARSE`` samples are open markers off the line: their accuracy is mostly chance.

    Args:
        curves: ``fused`` or modality -> its calibration, or an entry of ``calibration`` of ``evaluation.json``.
        title: what the figure is asked.
        of: what and how many the predictions are.
        labels: whether they are probabilities of labels, of which each may be below one half.
    """
    entries = {name: vars(curve) if isinstance(curve, Calibration) else curve for name, curve in curves.items()}
    with canvas(4.8, 5.0) as (figure, (axis,)):
        axis.plot([0, 100], [0, 100], color="#999999", linewidth=1, linestyle=":")
        for name, look in looks(entries, "fused").items():
            x, y, count = (np.array(entries[name][key], np.float64) for key in ("confidence", "accuracy", "count"))
            dense, sparse = count >= SPARSE, (count > 0) & (count < SPARSE)
            label = f"{name}: ECE {100 * entries[name]['ece']:.1f} %"
            axis.plot(100 * x[dense], 100 * y[dense], markersize=5, label=label, **look)
            open_markers = look | {"markerfacecolor": "none", "linestyle": "none"}
            axis.plot(100 * x[sparse], 100 * y[sparse], markersize=4, alpha=0.6, **open_markers)
        axis.set(xlim=(0, 100), ylim=(-2, 102), aspect="equal")
        said, seen = ("probability", "share that holds") if labels else ("confidence", "accuracy")
        axis.set(xlabel=f"{said} (%)", ylabel=f"{seen} (%)")
        figure.legend(loc="outside lower center", ncols=2)
    alt = "; ".join(f"{name}: calibration error {100 * entry['ece']:.1f} %" for name, entry in entries.items())
    note = (
        f"Of {of}. Points below the dotted line are overconfident; open markers are bins of fewer than 10 predictions, "
        f"mostly chance. ECE is the mean gap between {said} and {seen} (15 bins), “fused” the answer from all "
        "modalities."
    )
    return Captioned("reliability", title, alt, figure, note)


def looks(names: Iterable[str], whole: str) -> dict[str, dict[str, Any]]:
    """Return line and marker of each modality, the same in every figure, and of ``whole``, which is none, in ink."""
    modalities = [name for name in names if name != whole]
    ink: dict[str, dict[str, Any]] = {whole: {"color": INK, "marker": "x"}} if whole in names else {}
    return ink | {name: modality_look(i) for i, name in enumerate(modalities)}


def dataset_figures(rows: Sequence[Row], runs: Sequence[RunRecord]) -> list[Captioned]:
    """Draw comparison, training curves and cost of one data set.

    Args:
        rows: rows of this data set; runs: its records (unfinished ones have curves too).
    """
    found = [comparison(rows)] if rows else []
    begun = sorted((run for run in runs if run.epochs), key=lambda run: order_key(run.strategy))
    if begun:
        metric = rows[0].metric if rows else runs[0].primary
        alt = f"Training loss and validation {MetricFormat(metric).name} by epoch, a line for each method."
        common = {run.strategy for run in begun if any("task" in (line.get("train") or {}) for line in run.epochs)}
        without = list(dict.fromkeys(run.title for run in begun if run.strategy not in common))
        note = "Means over seeds; bands are the range over seeds. The loss is the term that methods have in common"
        note += f"; not drawn for {', '.join(without)}, which have none." if without else "."
        found.append(Captioned("curves", "Training curves", alt, training_curves(runs, metric), note))
    if len(rows) > 1 and any(row.seconds_per_epoch > 0 for row in rows):
        found.append(cost(rows))
    aligned = [run for run in begun if run.strategy == REFERENCE and "weight_joint" in (run.epochs[0].get("log") or {})]
    if aligned:
        found.append(alignment(aligned))
    return found


def prediction_figures(strategy: str, runs: Sequence[RunRecord]) -> list[Captioned]:
    """Draw what a classifier confuses, and the reliability of its prediction and of the heads that it trained.

    Args:
        strategy: name of the method.
        runs: records of one data set, of any method; nothing is drawn where no predictions are kept.
    """
    own = [run for run in runs if run.strategy == strategy and run.state == "done" and run.task == "classification"]
    kept = [found for run in own if (found := run.predictions()) is not None]
    if not kept:
        return []
    title = own[0].title
    classes = [str(name) for name in kept[0]["classes"]]
    counts = sum((confusion_matrix(p["scores"], p["target"]) for p in kept), np.zeros((len(classes),) * 2, int))
    wrong = counts - np.diag(counts.diagonal())
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    worst = f"he most frequent error is {classes[i]} read as {classes[j]}."
    seeds = plural(len(kept), "seed")
    pooled = f"{counts.sum()} predictions of {seeds}"
    target = np.concatenate([p["target"] for p in kept])
    curves = {"fused": calibration(np.exp(np.concatenate([p["scores"] for p in kept])), target)}
    if own[0].result.get("trains_unimodal") and len(kept[0]["unimodal"]):
        for m, name in enumerate(kept[0]["modalities"]):
            curves[str(name)] = calibration(np.exp(np.concatenate([p["unimodal"][m] for p in kept])), target)
    return [
        Captioned(
            "confusion",
            f"What {title} confuses (test, {seeds})",
            f"Confusion matrix over {seeds}; t{worst}",
            confusion(counts, classes),
            f"Of {pooled}: rows are true classes, and their shares add up to 100 %. T{worst}",
        ),
        reliability(curves, f"Can the confidence of {title} be trusted?", pooled),
    ]


def search_figure(found: Sequence[Mapping[str, Any]], strategy: str) -> Captioned | None:
    """Draw what a search found of one method: the objective against every setting that it varied.

    Args:
        found: ``chosen`` of ``tune.json`` of a bench, a search each, those of one data set.
        strategy: name of the method.
    """
    own = [one for one in found if one.get("row") == strategy]
    trials = pd.DataFrame([t for one in own for t in one.get("trials") or []])
    if not {"state", "value", "lr"} <= {*trials}:
        return None
    trials = trials[pd.to_numeric(trials["value"], errors="coerce").notna()]
    varied = [name for name in trials if name not in ("state", "value") and trials[name].astype(str).nunique() > 1]
    if not varied:
        return None
    columns = min(3, len(varied))
    lines = -(-len(varied) // columns)
    done, settings = trials["state"] == "complete", [{"lr": c["lr"], **c["options"]} for o in own if (c := o["chosen"])]
    with canvas(0.6 + 3.0 * columns, 2.9 * lines + 0.3, lines, columns) as (figure, axes):
        for axis, name in zip(axes, varied, strict=False):
            at = pd.to_numeric(trials[name], errors="coerce")
            named = at.isna().any() or any(isinstance(value, bool) for value in trials[name])
            words = sorted({str(value) for value in trials[name]})
            at = trials[name].astype(str).map(words.index) if named else at
            axis.plot(at[done], trials["value"][done], "o", color=OTHER, label="trained to the end")
            axis.plot(
                at[~done], trials["value"][~done], "o", color=OTHER, markerfacecolor="none", label="stopped early"
            )
            places = [words.index(str(one[name])) if named else one[name] for one in settings if name in one]
            for place in places:
                axis.axvline(place, color=INK, linestyle=":", linewidth=1.3, label="chosen")
            if named:
                axis.set_xticks(range(len(words)), words)
                axis.set_xlim(-0.5, len(words) - 0.5)
            elif at.min() > 0 and at.max() > WIDE_RANGE * at.min():
                axis.set_xscale("log")
                plain_log(axis.xaxis)
            axis.set_xlabel("learning rate" if name == "lr" else str(name))
        for axis in axes[::columns]:
            axis.set_ylabel("objective")
        for axis in axes[len(varied) :]:
            axis.set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        legend = dict(zip(labels, handles, strict=True))
        figure.legend([*legend.values()], [*legend], loc="outside lower center", ncols=3)
    best = trials["value"][done].min()
    alt = f"{plural(len(trials), 'trial')}; objective from {best:.3g} (chosen) to {trials['value'].max():.3g}."
    note = (
        f"{alt} The objective on validation, the mean over the runs of a trial, less is better: negative "
        "log-likelihood of classes and labels, else the metric. A best at the edge of a panel may lie beyond it."
    )
    return Captioned("search", "What the search tried", alt, figure, note)


_MEASURED = ("fusibility", "complementarity", "accuracy")
_SWEEPS = ((True, "with margin", OURS, "-"), (False, "without margin", OTHER, "--"))


def tradeoff_figures(path: str | Path) -> list[Captioned]:
    """Draw Figure 1(a) of ``tradeoff.json``: ``{"default": alpha, "metric", "points": [point], "failed": [text]}``.

    A point is one trained model: ``alpha`` (strength of the alignment), ``margin`` (whether it was on), ``seed``,
    ``fusibility`` (I(Z1;Z2|T), nats), ``complementarity`` (mean unique part, nats), ``accuracy`` (the test metric).

    Raises:
        RunFolderError: the file has another form.
    """
    path = Path(path)
    try:
        content = read_settings(path, "what `modalign tradeoff` wrote", RunFolderError)
        points = pd.DataFrame(content["points"])[["alpha", "margin", "seed", *_MEASURED]]
        default = float(content["default"])
        metric, failed = str(content.get("metric", "accuracy")), content.get("failed", [])
    except RunFolderError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise RunFolderError(f"{path} is no sweep of `modalign tradeoff` ({type(error).__name__}: {error})") from None
    seeds = plural(points["seed"].nunique(), "seed")
    alt = (
        f"Shared information, unique information and {MetricFormat(metric).name} over the strength of alignment, "
        f"with and without the protective margin, {seeds}; default {default:g}."
    )
    note = (
        f"Models after their last epoch, means over {seeds}; bands are 95 % Student intervals, cut where they leave "
        "the panel. The dotted line is the strength that is used by default. T is the target. Without alignment "
        "(α = 0) there is nothing to protect: both lines start from the same model."
    )
    if failed:
        note += f" Without a point, as training diverged: {plural(len(failed), 'run')}."
    plane = f"Means over {seeds}, labeled with α."
    return [
        Captioned("tradeoff", "Fusibility against complementarity", alt, _sweep(points, default, metric), note),
        Captioned("tradeoff_plane", "The same as a path", alt, _plane(points, default), plane),
    ]


def _sweep(points: pd.DataFrame, default: float, metric: str) -> Figure:
    """Draw what is shared, what is kept, and accuracy over alpha, with and without the margin."""
    form = MetricFormat(metric)
    titles = ("Shared: I(Z1; Z2 | T), nats", "Unique: I(all; Y) − I(others; Y), nats", f"Test {form.label}")
    points = points.assign(accuracy=form.factor * points["accuracy"])
    alphas = sorted(points["alpha"].unique())
    least = min((a for a in alphas if a > 0), default=1.0)
    with canvas(11.0, 3.7, 1, 3) as (figure, axes):
        for axis, name, title in zip(axes, _MEASURED, titles, strict=True):
            for i, (margin, label, tone, dashes) in enumerate(_SWEEPS):
                own = points[points["margin"] == margin].groupby("alpha")[name]
                means: dict[Any, Interval] = {a: mean_interval(values.to_numpy()) for a, values in own}
                axis.plot(list(means), [m.mean for m in means.values()], label=label, color=tone, marker=MARKERS[i],
                          linestyle=dashes)  # fmt: skip
                lows, highs = ([getattr(m, bound) for m in means.values()] for bound in ("low", "high"))
                axis.fill_between(list(means), lows, highs, color=tone, alpha=0.15, linewidth=0)
            axis.axvline(default, color=INK, linestyle=":", linewidth=1.3)
            # A logarithmic axis on which zero, where it is swept, has its place at the left.
            axis.set_xscale("symlog", linthresh=least, linscale=0.5)
            axis.set_xticks(alphas, [f"{a:g}" for a in alphas])
            axis.minorticks_off()
            axis.set_xlim(alphas[0] - 0.3 * least if alphas[0] == 0 else None, 1.4 * alphas[-1])
            axis.set(title=title, xlabel="strength of alignment α")
            # Intervals of two or three seeds are so wide that they would flatten the curves: they are cut instead.
            least_value, most = points[name].min(), points[name].max()
            room = 0.5 * (most - least_value) + 1e-9
            low, high = axis.get_ylim()
            low, high = max(low, least_value - room), min(high, most + room)
            share = name == "accuracy" and form.factor == 100
            axis.set_ylim(*((max(low, -2), min(high, 102)) if share else (low, high)))
        axes[0].annotate(
            "default", (default, 0.98), xycoords=("data", "axes fraction"), xytext=(4, 0),
            textcoords="offset points", va="top", fontsize=9,
        )  # fmt: skip
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _plane(points: pd.DataFrame, default: float) -> Figure:
    """Draw the same sweep as a path in the plane of shared and unique information, labeled with alpha."""
    with canvas(5.6, 4.2) as (figure, (axis,)):
        for i, (margin, label, tone, dashes) in enumerate(_SWEEPS):
            path = points[points["margin"] == margin].groupby("alpha")[["fusibility", "complementarity"]].mean()
            for a, place in path.iterrows():
                weight = "bold" if a == default and margin else "normal"
                axis.annotate(f"{a:g}", tuple(place), xytext=(5, 5), textcoords="offset points", fontsize=8,
                              color=tone, weight=weight)  # fmt: skip
            axis.plot(*path.to_numpy().T, marker=MARKERS[i], color=tone, label=label, linestyle=dashes)
        axis.set(
            xlabel="shared: I(Z1; Z2 | T), nats", ylabel="unique part of a modality, nats",
            title="Fusibility against complementarity, by α (default bold)",
        )  # fmt: skip
        axis.margins(0.1)
        axis.legend()
    return figure


def critical_differences(rows: Sequence[Row]) -> Captioned | None:
    """Draw mean ranks over data sets, joined by bars where Nemenyi's test does not tell methods apart.

    None for fewer than two data sets or three methods that were run on all of them.

    Source: Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006, Figure 1.
    """
    names, matrix = rank_matrix(rows)
    sets, methods = matrix.shape
    if sets < 2 or methods < 3:
        return None
    titles = {row.strategy: row.title for row in rows}
    reference = next((row.reference for row in rows if row.reference), "")
    order = np.argsort(matrix.mean(0), kind="stable")
    mean, names = matrix.mean(0)[order], [names[i] for i in order]
    apart = critical_difference(methods, sets)
    ends = [int(np.flatnonzero(mean <= mean[i] + apart)[-1]) for i in range(methods)]
    bars = [(i, j) for i, j in enumerate(ends) if j > i and (i == 0 or j > ends[i - 1])]
    with canvas(7.6, 1.2 + 0.3 * methods + 0.12 * len(bars)) as (figure, (axis,)):
        for y, (name, value) in enumerate(zip(names, mean, strict=True)):
            tone, mark = (OURS, "D") if name == reference else (OTHER, "o")
            axis.plot(value, y, mark, color=tone, markersize=7)
            write_beside(axis, f"{value:.2f}", value, y, 8.5)
        for place, (i, j) in enumerate(bars):
            x = methods + 0.35 + 0.22 * place  # beside the points: bars of methods, not of ranks
            axis.plot([x, x], [i - 0.25, j + 0.25], color=INK, linewidth=3, solid_capstyle="butt")
        axis.plot([1, min(1 + apart, methods)], [-1, -1], color=INK, linewidth=2)
        axis.annotate(
            f"critical difference {apart:.2f}", (1, -1), xytext=(0, 5), textcoords="offset points", fontsize=9
        )
        name_rows(axis, [titles[name] for name in names])
        axis.set_ylim(methods - 0.4, -1.9)
        axis.set_xlim(0.7, methods + 0.6 + 0.22 * len(bars))
        axis.set_xlabel("mean rank (1 is best)")
    alt = "Mean ranks: " + "; ".join(f"{titles[n]} {v:.2f}" for n, v in zip(names, mean, strict=True)) + "."
    note = (
        f"Mean ranks of {plural(methods, 'method')} over {plural(sets, 'data set')}. Methods along one bar at the "
        f"right are not told apart by Nemenyi's test at level {LEVEL:g}: mean ranks differ by less than {apart:.2f}."
    )
    return Captioned("critical_difference", "Ranks over data sets", alt, figure, note)


def overview(rows: Sequence[Row]) -> list[Captioned]:
    """Draw what stands before all else: the comparison, and ranks where there are several data sets."""
    ranked = critical_differences(rows)
    return ([comparison(rows)] if rows else []) + ([ranked] if ranked else [])


def write_comparison(runs: Sequence[RunRecord], folder: str | Path, reference: str | None = None) -> list[Path]:
    """Draw the comparison of ``runs`` and their ranks into ``folder`` as SVG, PNG and PDF; return the paths."""
    drawn = overview(compare(runs, reference))
    return [path for one in drawn for path in save(one.figure, Path(folder) / one.name)]


def write_figures(runs: Iterable[RunRecord], folder: str | Path, reference: str | None = None) -> list[Path]:
    """Save the figures of every data set as SVG, PNG and PDF into ``folder``; return the paths."""
    runs = list(runs)
    compared, written = compare(runs, reference), []
    for drawn in overview(compared)[1:]:  # the comparison is drawn for each data set
        written += save(drawn.figure, Path(folder) / drawn.name)
    for dataset, rows in by_dataset(compared).items():
        own = [run for run in runs if run.dataset == dataset]
        for drawn in [*dataset_figures(rows, own), *prediction_figures(headline(rows).strategy, own)]:
            written += save(drawn.figure, Path(folder) / folder_name(f"{dataset}_{drawn.name}"))
    return written
