"""Figures of runs and comparisons. Each function returns a figure; ``style.save`` writes SVG, PNG and PDF.

Nothing here uses matplotlib's global state, so that figures can be drawn from any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from modalign.evaluation.metrics import Calibration
from modalign.evaluation.statistics import Interval, mean_interval
from modalign.report.comparison import REFERENCE, Row, by_dataset, compare, order_key
from modalign.report.runs import RunRecord
from modalign.report.style import (
    COLOURS,
    INK,
    OTHER,
    OURS,
    SHARED,
    canvas,
    marker,
    modality_color,
    save,
    styled,
)
from modalign.report.tables import readable, scale

# Bins of a reliability diagram with fewer samples are set apart.
SPARSE = 10
# Where the largest training loss is so many times the smallest, its axis is logarithmic.
WIDE_RANGE = 10
# Least range of the axis of lambda, so that a weight of nearly nothing looks like that.
LEAST_LAMBDA = 0.1


def comparison(rows: Sequence[Row]) -> Figure:
    """Mean and 95 % interval of every method, one panel a data set, in the tables' order."""
    grouped = by_dataset(rows)
    longest = max(len(own) for own in grouped.values())
    columns = min(len(grouped), 3)
    lines = -(-len(grouped) // columns)
    with styled():
        figure, axes = canvas(2.4 + 3.4 * columns, lines * (1.2 + 0.32 * longest), lines, columns)
        for axis, (dataset, own) in zip(axes, grouped.items(), strict=False):
            factor, _, unit = scale(own[0].metric)
            for y, row in enumerate(own):
                ours = row.strategy == REFERENCE
                mean, low, high = (factor * v for v in (row.mean, row.ci_low, row.ci_high))
                axis.plot([low, high], [y, y], color=OURS if ours else OTHER, linewidth=2.5)
                axis.plot(mean, y, "D" if ours else "o", color=OURS if ours else OTHER, markersize=7)
            axis.set_yticks(range(len(own)), [row.title for row in own])
            axis.set_ylim(len(own) - 0.4, -0.6)
            axis.grid(axis="y", visible=False)
            if unit == " (%)":  # t-intervals of few seeds reach beyond what a share can be
                left, right = axis.get_xlim()
                axis.set_xlim(max(left, -0.5), min(right, 100.5))
            axis.set_xlabel(f"test {readable(own[0].metric)}{unit}")
            if len(grouped) > 1:
                axis.set_title(dataset)
        for axis in axes[len(grouped) :]:
            axis.set_visible(False)
    return figure


def comparison_figure(runs: Sequence[RunRecord], stem: Path) -> list[Path]:
    """Draw ``comparison`` of ``runs`` and save it as SVG, PNG and PDF; returns the paths, none if no run is done."""
    rows = compare(runs)
    return save(comparison(rows), stem) if rows else []


def training_curves(runs: Sequence[RunRecord], metric: str) -> Figure:
    """Training loss and validation metric by epoch: a line a method, the range over seeds as a band.

    The loss is the term ``task``, which methods have in common, not the sum with terms of their own.
    """
    by_method: dict[str, list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: (order_key(run.strategy), run.state != "done")):
        if run.epochs:
            by_method.setdefault(run.strategy, []).append(run)
    factor, _, unit = scale(metric)
    with styled():
        figure, (left, right) = canvas(9.2, 3.8, 1, 2)
        for i, own in enumerate(by_method.values()):
            title = own[0].title  # of a finished run: an unfinished one may not know it
            look = _line(i, own[0].strategy == REFERENCE)
            _band(left, [_series(run, "train", "task") for run in own], look, title)
            _band(right, [factor * _series(run, "valid", metric) for run in own], look, title)
        losses = np.concatenate([line.get_ydata() for line in left.lines] or [np.zeros(0)])
        losses = losses[np.isfinite(losses)]
        if len(losses) and losses.min() > 0 and losses.max() > WIDE_RANGE * losses.min():
            left.set_yscale("log")
        left.set(xlabel="epoch", title="Loss of the task in training")
        right.set(xlabel="epoch", title=f"Validation {readable(metric)}{unit}")
        handles, labels = right.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(5, max(1, len(labels))))
    return figure


def _series(run: RunRecord, part: str, name: str) -> np.ndarray:
    values = [line.get(part, {}).get(name) for line in run.epochs]
    return np.array([np.nan if v is None else v for v in values], np.float64)


def _line(position: int, ours: bool) -> dict[str, Any]:
    """How a method's curve looks: the reference stands out, others differ in color, then in dashes."""
    if ours:
        return {"color": OURS, "linewidth": 2.6, "zorder": 5}
    tones = [tone for tone in COLOURS if tone != OURS]
    dashes = ("-", "--", ":")[position // len(tones) % 3]
    return {"color": tones[position % len(tones)], "linewidth": 1.4, "linestyle": dashes}


def _band(axis: Axes, series: list[np.ndarray], look: dict[str, Any], label: str) -> None:
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


@dataclass(frozen=True)
class TradeoffPoint:
    """One trained model of the sweep of Figure 1(a).

    Attributes:
        alpha: strength of the alignment.
        margin: whether the protective margin was on.
        seed: of the run.
        fusibility: I(Z1;Z2|T), nats.
        complementarity: mean unique part of a modality, nats.
        accuracy: the task's metric on test.
    """

    alpha: float
    margin: bool
    seed: int
    fusibility: float
    complementarity: float
    accuracy: float


def tradeoff(points: Sequence[TradeoffPoint], default: float, metric: str = "accuracy") -> Figure:
    """Figure 1(a): what is shared, what is kept, and accuracy over alpha, with and without the margin.

    Args:
        points: of any number of seeds; bands are 95 % intervals of the mean.
        default: the strength that the method uses by default, marked.
        metric: what ``accuracy`` of the points is.
    """
    factor, _, unit = scale(metric)
    panels = (
        ("fusibility", 1.0, "Shared: I(Z1; Z2 | T), nats"),
        ("complementarity", 1.0, "Unique: I(all; Y) − I(others; Y), nats"),
        ("accuracy", factor, f"Test {readable(metric)}{unit}"),
    )
    with styled():
        figure, axes = canvas(11.0, 3.7, 1, 3)
        for axis, (name, factor, title) in zip(axes, panels, strict=True):
            for i, (margin, label) in enumerate(((True, "with margin"), (False, "without margin"))):
                own = [p for p in points if p.margin == margin]
                _sweep(axis, own, name, factor, i, label)
            axis.axvline(default, color=INK, linestyle=":", linewidth=1.3)
            _log_alpha(axis, sorted({p.alpha for p in points}))
            axis.set(title=title, xlabel="strength of alignment α")
            # Intervals of two or three seeds are so wide that they would flatten the curves: they are cut instead.
            values = [factor * getattr(p, name) for p in points]
            room = 0.5 * (max(values) - min(values)) + 1e-9
            low, high = axis.get_ylim()
            low, high = max(low, min(values) - room), min(high, max(values) + room)
            axis.set_ylim(*((max(low, -2), min(high, 102)) if name == "accuracy" and factor == 100 else (low, high)))
        axes[0].annotate(
            "default", (default, 0.98), xycoords=("data", "axes fraction"), xytext=(4, 0),
            textcoords="offset points", va="top", fontsize=9,
        )  # fmt: skip
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _sweep(axis: Axes, points: Sequence[TradeoffPoint], name: str, factor: float, position: int, label: str) -> None:
    alphas = sorted({p.alpha for p in points})
    if not alphas:
        return
    means = [mean_interval([factor * getattr(p, name) for p in points if p.alpha == a]) for a in alphas]
    tone = (OURS, OTHER)[position]
    style = {"color": tone, "marker": marker(position), "linestyle": ("-", "--")[position]}
    axis.plot(alphas, [m.mean for m in means], label=label, **style)  # type: ignore[arg-type]
    axis.fill_between(alphas, [m.low for m in means], [m.high for m in means], color=tone, alpha=0.15, linewidth=0)


def _log_alpha(axis: Axes, alphas: Sequence[float]) -> None:
    """A logarithmic axis on which zero, where it is swept, has its place at the left."""
    positive = [a for a in alphas if a > 0]
    axis.set_xscale("symlog", linthresh=min(positive, default=1.0), linscale=0.5)
    axis.set_xticks(list(alphas), [f"{a:g}" for a in alphas])
    axis.minorticks_off()
    axis.set_xlim(alphas[0] - 0.3 * min(positive, default=1.0) if alphas[0] == 0 else None, 1.4 * alphas[-1])


def tradeoff_plane(points: Sequence[TradeoffPoint], default: float) -> Figure:
    """The same sweep as a path in the plane of shared and unique information, labeled with alpha."""
    with styled():
        figure, (axis,) = canvas(5.6, 4.2)
        for i, (margin, label) in enumerate(((True, "with margin"), (False, "without margin"))):
            own = [p for p in points if p.margin == margin]
            alphas = sorted({p.alpha for p in own})
            x, y = (
                [float(np.mean([getattr(p, name) for p in own if p.alpha == a])) for a in alphas]
                for name in ("fusibility", "complementarity")
            )
            tone = (OURS, OTHER)[i]
            axis.plot(x, y, marker=marker(i), color=tone, label=label, linestyle=("-", "--")[i])
            for a, px, py in zip(alphas, x, y, strict=True):
                weight = "bold" if a == default and margin else "normal"
                axis.annotate(
                    f"{a:g}", (px, py), xytext=(5, 5), textcoords="offset points", fontsize=8,
                    color=tone, weight=weight,
                )  # fmt: skip
        axis.set(
            xlabel="shared: I(Z1; Z2 | T), nats", ylabel="unique part of a modality, nats",
            title="Fusibility against complementarity, by α (default bold)",
        )  # fmt: skip
        axis.margins(0.1)
        axis.legend()
    return figure


def context_confidence(entry: Mapping[str, Any], name: str = "class", limit: int = 30) -> Figure:
    """Figure 1(b): confidence of each modality by context, contexts in the order of their difference.

    Args:
        entry: ``confidence[name]`` of ``evaluation.json``.
        name: what the contexts are.
        limit: most contexts shown; those with the largest differences are kept.
    """
    modalities = list(entry["by_modality"])
    means = np.array(
        [[np.nan if i["mean"] is None else i["mean"] for i in entry["by_modality"][m]] for m in modalities]
    )
    difference = means[0] - means[min(1, len(means) - 1)]
    order = np.argsort(np.where(np.isnan(difference), 0, difference), kind="stable")
    if len(order) > limit:
        order = np.concatenate([order[: limit // 2], order[-(limit - limit // 2) :]])
    with styled():
        figure, (axis,) = canvas(6.4, 1.5 + 0.27 * len(order))
        rows = np.arange(len(order))
        for i, modality in enumerate(modalities):
            # Markers of one row do not hide each other's intervals.
            apart = rows + 0.14 * (i - (len(modalities) - 1) / 2)
            low, high = (100 * np.array([_bounds(entry["by_modality"][modality][k])[j] for k in order]) for j in (1, 2))
            axis.hlines(apart, np.maximum(low, 0), np.minimum(high, 100), color=modality_color(i), linewidth=1.2)
            look: dict[str, Any] = {"color": modality_color(i), "marker": marker(i), "linestyle": "none"}
            axis.plot(100 * means[i, order], apart, label=modality, **look)
        axis.set_yticks(rows, [f"{entry['contexts'][k]} ({entry['count'][k]})" for k in order])
        axis.set_ylim(-0.7, len(order) - 0.3)
        axis.grid(axis="y", visible=False)
        axis.set(xlabel="mean confidence (%)", ylabel=f"{name} (samples)")
        figure.legend(loc="outside lower center", ncols=len(modalities))
    return figure


def cost(rows: Sequence[Row], base: str = "joint") -> Figure:
    """Seconds per epoch and peak memory of every method, each labeled with its multiple of ``base``.

    Args:
        rows: of one data set.
        base: the method that others are compared with; the cheapest where it was not run.
    """
    panels = (("seconds_per_epoch", "seconds per epoch"), ("peak_memory_mb", "peak memory (MB)"))
    with styled():
        figure, axes = canvas(9.2, 1.2 + 0.32 * len(rows), 1, 2)
        for axis, (name, label) in zip(axes, panels, strict=True):
            values = np.array([getattr(row, name) for row in rows])
            unit = next((v for row, v in zip(rows, values, strict=True) if row.strategy == base), np.nanmin(values))
            tones = [OURS if row.strategy == REFERENCE else OTHER for row in rows]
            axis.barh(range(len(rows)), values, color=tones, height=0.62)
            for y, value in enumerate(values):
                axis.annotate(
                    f"{value / unit:.2g}×", (value, y), xytext=(4, 0), textcoords="offset points", va="center",
                    fontsize=8.5,
                )  # fmt: skip
            axis.set_yticks(range(len(rows)), [row.title for row in rows])
            axis.set_ylim(len(rows) - 0.4, -0.6)
            axis.set_xlim(0, 1.15 * np.nanmax(values))
            axis.grid(axis="y", visible=False)
            axis.set_xlabel(label)
        axes[1].tick_params(labelleft=False)
        figure.get_layout_engine().set(wspace=0.08)  # type: ignore[call-arg, union-attr]
    return figure


def alignment(runs: Sequence[RunRecord]) -> Figure:
    """What ModAlign did, epoch by epoch: lambda, and in which share of the steps each margin held the pull back.

    Args:
        runs: of the method, one a seed; bands are the range over seeds.
    """
    names = [name for name in runs[0].epochs[0]["log"] if name.startswith("margin_")]
    with styled():
        figure, (left, right) = canvas(9.2, 3.4, 1, 2)
        _band(left, [_series(run, "log", "lambda") for run in runs], {"color": OURS, "linewidth": 2}, "lambda")
        left.set(xlabel="epoch", title="Weight λ of the joint head in the readout")
        left.set_ylim(0, max(LEAST_LAMBDA, left.get_ylim()[1]))
        for i, name in enumerate(names):
            look = {"color": modality_color(i), "marker": marker(i), "markersize": 4}
            label = name.removeprefix("margin_")
            _band(right, [100 * _series(run, "log", name) for run in runs], look, label)
        right.set(xlabel="epoch", title="Steps in which the margin acted (%)", ylim=(-3, 103))
        if names:
            right.legend()
    return figure


def confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Confusion matrix, rows (true classes) normalized; counts are written where there is room."""
    counts = np.asarray(counts)
    c = len(counts)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = float(np.clip(2.2 + 0.15 * c, 3.4, 9.0))
    with styled():
        figure, (axis,) = canvas(side + 0.6, side)
        image = axis.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
        if c <= 12:
            for i, j in np.ndindex(c, c):
                if counts[i, j]:
                    # Not the ink that follows a dark page: the cells stay light.
                    tone = "white" if share[i, j] > 0.55 else "#202020"
                    axis.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8, color=tone)
        step = -(-c // 40)
        shown = range(0, c, step)
        size = 9 if c <= 15 else 8
        turned = 90 if c > 15 or max(map(len, classes)) > 4 else 0
        axis.set_xticks(shown, [classes[k] for k in shown], rotation=turned, fontsize=size)
        axis.set_yticks(shown, [classes[k] for k in shown], fontsize=size)
        axis.grid(visible=False)
        axis.set(xlabel="predicted", ylabel="true")
        figure.colorbar(image, ax=axis, shrink=0.7, label="% of the true class")
    return figure


def reliability(curves: Mapping[str, Calibration | Mapping[str, Any]]) -> Figure:
    """Reliability diagram: accuracy against confidence, one line a curve, ECE in the legend.

    Bins of fewer than ``SPARSE`` samples are open markers off the line: their accuracy is mostly chance.
    """
    with styled():
        figure, (axis,) = canvas(4.8, 5.0)
        axis.plot([0, 100], [0, 100], color="#999999", linewidth=1, linestyle=":")
        for name, look in _looks(curves, "fused").items():
            curve = curves[name]
            entry = vars(curve) if isinstance(curve, Calibration) else curve
            x, y, count = (np.array(entry[key], np.float64) for key in ("confidence", "accuracy", "count"))
            dense, sparse = count >= SPARSE, (count > 0) & (count < SPARSE)
            label = f"{name}: ECE {100 * entry['ece']:.1f} %"
            axis.plot(100 * x[dense], 100 * y[dense], markersize=5, label=label, **look)
            open_markers = look | {"markerfacecolor": "none", "linestyle": "none"}
            axis.plot(100 * x[sparse], 100 * y[sparse], markersize=4, alpha=0.6, **open_markers)
        axis.set(xlim=(0, 100), ylim=(-2, 102), xlabel="confidence (%)", ylabel="accuracy (%)", aspect="equal")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _looks(names: Iterable[str], whole: str) -> dict[str, dict[str, Any]]:
    """Line and marker of each modality, the same in every figure; ``whole``, which is none of them, in ink."""
    modalities = [name for name in names if name != whole]
    looks: dict[str, dict[str, Any]] = {whole: {"color": INK, "marker": "x"}} if whole in names else {}
    return looks | {m: {"color": modality_color(i), "marker": marker(i)} for i, m in enumerate(modalities)}


def shapley_bars(values: Mapping[str, Interval | Mapping[str, Any]], metric: str = "accuracy") -> Figure:
    """Contribution of each modality with its interval."""
    factor, _, _ = scale(metric)
    unit = f"points of {readable(metric)}" if factor == 100 else readable(metric)
    with styled():
        figure, (axis,) = canvas(5.6, 1.3 + 0.5 * len(values))
        for y, (_, value) in enumerate(values.items()):
            mean, low, high = (factor * v for v in _bounds(value))
            axis.barh(y, mean, color=modality_color(y), height=0.6)
            axis.plot([low, high], [y, y], color=INK, linewidth=1.6)
            axis.annotate(
                f"{mean:+.1f}" if factor == 100 else f"{mean:+.3f}", (np.nanmax([mean, high]), y),
                xytext=(6, 0), textcoords="offset points", va="center", fontsize=9,
            )  # fmt: skip
        axis.axvline(0, color=INK, linewidth=1)
        axis.set_yticks(range(len(values)), list(values))
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(f"Shapley contribution ({unit})")
    return figure


def _bounds(value: Interval | Mapping[str, Any]) -> tuple[float, float, float]:
    entry = vars(value) if isinstance(value, Interval) else value
    mean, low, high = (np.nan if entry[k] is None else float(entry[k]) for k in ("mean", "low", "high"))
    return mean, low, high


def missing_modalities(entry: Mapping[str, Any], metric: str = "accuracy") -> Figure:
    """The metric against the share of samples that lack a modality; ``entry`` is ``missing`` of the schema."""
    factor, _, unit = scale(metric)
    shares = 100 * np.array(entry["shares"])
    with styled():
        figure, (axis,) = canvas(5.8, 3.8)
        for name, look in _looks(list(entry["curves"]), "any").items():
            mean, low, high = factor * np.array([_bounds(value) for value in entry["curves"][name]]).T
            axis.plot(shares, mean, label="any one" if name == "any" else name, **look)
            axis.fill_between(shares, low, high, color=look["color"], alpha=0.13, linewidth=0)
        axis.set(xlabel="samples that lack a modality (%)", ylabel=f"{readable(metric)}{unit}")
        axis.legend(title="missing", alignment="left")
    return figure


def information_bars(entry: Mapping[str, Any]) -> Figure:
    """Amounts of information with twice their standard errors; ``entry`` is ``information`` of the schema.

    What is of one modality has its color, what is of several is gray; amounts not to be trusted are hatched.
    """
    rows: list[tuple[str, Mapping[str, Any], str]] = []
    for pair in entry["pairs"]:
        a, b = pair["modalities"]
        rows.append((f"shared, I({a}; {b})", pair["shared"], SHARED))
        rows.append((f"beyond the target, I({a}; {b} | Y)", pair["shared_given_target"], SHARED))
    tones = {m: modality_color(i) for i, m in enumerate(entry["target"])}
    rows += [(f"about the target, I({m}; Y)", amount, tones[m]) for m, amount in entry["target"].items()]
    if entry.get("together"):
        rows.append(("about the target, I(all; Y)", entry["together"], SHARED))
    rows += [(f"about it only in {m}", amount, tones[m]) for m, amount in entry["unique"].items()]
    with styled():
        figure, (axis,) = canvas(6.4, 1.0 + 0.36 * len(rows))
        for y, (_, amount, tone) in enumerate(rows):
            value, error = (np.nan if amount[key] is None else amount[key] for key in ("value", "stderr"))
            face = tone if amount["trusted"] else "none"
            axis.barh(y, value, color=face, edgecolor=tone, height=0.62, hatch=None if amount["trusted"] else "///")
            axis.plot([value - 2 * error, value + 2 * error], [y, y], color=INK, linewidth=1.6)
        axis.axvline(0, color=INK, linewidth=1)
        axis.set_yticks(range(len(rows)), [name for name, *_ in rows])
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("nats")
    return figure
