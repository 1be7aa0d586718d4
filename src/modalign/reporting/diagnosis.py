"""What ``modalign evaluate`` found of one run, shown: as tables, as text in the terminal, as figures, as samples.

``found`` is the content of ``evaluation.json``; ``modalign.evaluation.diagnosis`` describes its form.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modalign.errors import InputError, unknown
from modalign.evaluation.contributions import FRAMES, MOST_STEPS, SPAN, Example, Extremes
from modalign.evaluation.place import place_of
from modalign.files import folder_name
from modalign.reporting.figures import Captioned, looks, name_rows, reliability, write_beside
from modalign.reporting.regimes import advice
from modalign.reporting.runs import RunRecord, read_runs
from modalign.reporting.style import INK, OTHER, OURS, SHARED, canvas, modality_look, save
from modalign.reporting.survival import survival_figures, survival_table
from modalign.reporting.tables import MetricFormat, Table, show

KINDS = ("sequence", "image", "clip", "vector", "text")
WORST = 3
_AREAS = {"ap": "Average precision", "auc": "AUC"}
# Contexts in the figure of confidence: those with the largest differences.
MOST_CONTEXTS = 30
# Frames of a clip in a line.
IN_LINE = 4
EXAMPLES = (
    "Samples in which the two modalities that differ most in confidence are furthest apart, with what each says alone "
    "and how sure it is. As they enter the model: sequences with time to the right and features upwards (each with its "
    "own colors), frames in reading order, vectors as bars, text as words. They illustrate, and prove nothing."
)


def diagnose(folders: Iterable[str | Path], out: str | Path | None = None, **how: Any) -> None:
    """Evaluate every finished run in ``folders``; print what was found and save the figures.

    Args:
        folders: run folders, or folders that hold runs.
        out: where figures go, a folder for each run; into the run by default.
        how: further arguments of ``evaluate_run``.

    Raises:
        InputError: no run is finished, or none can be evaluated.
    """
    from modalign.experiments.evaluate import evaluate_run

    records = read_runs(folders)
    done = [record for record in records if record.state == "done"]
    for record in records:
        if record.state != "done":
            print(f"{record.path}: left out ({record.state}: {record.reason})", end="\n\n")
    if not done:
        left = "; ".join(f"{record.path} is {record.state} ({record.reason})" for record in records[:5])
        raise InputError(f"there is nothing to evaluate: {left}; expected finished runs: train them to their end")
    refused: list[InputError] = []
    for position, record in enumerate(done, 1):
        if sys.stderr.isatty() or len(done) > 1:
            print(f"evaluating {record.path} ({position} of {len(done)})", file=sys.stderr, flush=True)
        try:
            found = evaluate_run(record.path, **how)
        except InputError as error:  # one run that cannot be evaluated does not take the others with it
            refused.append(error)
            if len(done) > 1:
                print(f"{record.path}: left out ({error})", end="\n\n")
            continue
        print(summarize(record, found.result))
        own = folder_name(f"{record.dataset}-{record.strategy}-seed{record.seed}")
        folder = record.path if out is None else Path(out) / own
        written = write_evaluation_figures(record, folder, found.extremes)
        print(f"written: {record.path / 'evaluation.json'} and {len(written)} files of figures in {folder}", end="\n\n")
    if len(refused) == len(done):
        raise refused[0]


def evaluation_tables(found: dict[str, Any]) -> list[Table]:
    """Return all numbers of an evaluation, but for calibration and confidence, which are curves."""
    form = MetricFormat(found["metric"])
    split, heads, named = found["split"], found["heads"], form.label.replace("(", "in ").replace(")", "")
    alone = {s["modalities"][0]: s for s in found["subsets"] if len(s["modalities"]) == 1}
    modalities = [
        {"Modality": name, "Others masked": form.entry(alone[name])}
        | ({"Own head": form.entry(heads[name])} if heads else {})
        | {"Shapley contribution": form.entry(value, signed=True)}
        for name, value in found["shapley"]["values"].items()
    ]
    head = "Value, 95 % interval"
    metrics = [{"Metric": MetricFormat(n).label, head: MetricFormat(n).entry(v)} for n, v in found["metrics"].items()]
    subsets = [(" + ".join(s["modalities"]) or "none", form.entry(s)) for s in found["subsets"]
               if len(s["modalities"]) != 1]  # fmt: skip
    tables = [
        Table("metrics", f"Scores on the {split} split", pd.DataFrame(metrics)),
        Table("modalities", f"What each modality gives ({named})", pd.DataFrame(modalities)),
        Table("subsets", f"Some modalities only ({named})", pd.DataFrame(subsets, columns=["Modalities", head])),
    ]
    if found["missing"]:
        shares = [f"{100 * share:.0f} %" for share in found["missing"]["shares"]]
        curves = [
            ["any one missing" if name == "any" else f"{name} missing", *(form(point["mean"]) for point in curve)]
            for name, curve in found["missing"]["curves"].items()
        ]
        frame = pd.DataFrame(curves, columns=["Share of samples", *shares])
        tables.append(Table("missing", f"When a modality is missing ({named})", frame))
    if found.get("survival"):
        tables.append(survival_table(found["survival"]))
    if found["information"]:
        tables += _information_tables(found["information"])
    if "classes" in found:
        labels = "ap" in found["classes"][0]
        # An evaluation of an earlier version has no areas.
        areas = {key: head for key, head in _AREAS.items() if key in found["classes"][0]}
        shown = ["precision", "recall", "f1", *areas]
        classes = pd.DataFrame(found["classes"])[["name", *shown, "support"]]
        classes[shown] = classes[shown].astype(float).map(MetricFormat("accuracy"))
        one = "Label" if labels else "Class"
        heads = [one, "Precision", "Recall", "F1", *areas.values(), "Samples"]
        tables.append(Table("classes", f"Each {one.lower()} (%)", classes.set_axis(heads, axis=1)))
    return tables


def _information_tables(information: dict[str, Any]) -> list[Table]:
    """Return the amounts of information, and what two sources cut into clusters tell of the class."""
    rows = [
        (what, f"{show(a['value'], 2)} ± {show(a['stderr'], 2)}{'' if a['trusted'] else ' ?'}",
         f"{a['method']}, {a['kind']}")
        for what, a, _ in _amounts(information)
    ]  # fmt: skip
    earlier = "; kept from an earlier evaluation of the same model" if information.get("earlier") else ""
    caption = f"Information (nats, with standard errors; ? is not to be trusted{earlier})"
    frame = pd.DataFrame(rows, columns=["Amount", "Nats", "How"])
    tables = [Table("information", caption, frame, words=True)]
    parts = {"Both tell": "redundant", "First alone": "unique_1", "Second alone": "unique_2",
             "Only together": "synergy", "In all": "total"}  # fmt: skip
    splits = []
    for entry in information["splits"]:
        d = entry["decomposed"]
        doubt = " ?" if d["warnings"] else ""
        said = {head: f"{show(d['parts'][p], 2)} ± {show(d['stderr'][p], 2)}{doubt}" for head, p in parts.items()}
        splits.append({"Sources": ", ".join(entry["modalities"]), **said, "Clusters": d["symbols"]})
    if splits:
        doubted = any(entry["decomposed"]["warnings"] for entry in information["splits"])
        caption = "What two sources, cut into clusters, tell of the class (nats ± standard error"
        caption += "; ? is not to be trusted)" if doubted else ")"
        tables.append(Table("decomposition", caption, pd.DataFrame(splits)))
    return tables


def _amounts(information: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], str]]:
    """Return each amount with its name and color: of one modality its own, of several gray."""
    rows: list[tuple[str, Mapping[str, Any], str]] = []
    for pair in information["pairs"]:
        a, b = pair["modalities"]
        rows.append((f"shared, I({a}; {b})", pair["shared"], SHARED))
        rows.append((f"shared given the target, I({a}; {b} | Y)", pair["shared_given_target"], SHARED))
    tones = {name: modality_look(i)["color"] for i, name in enumerate(information["target"])}
    rows += [(f"about the target, I({m}; Y)", amount, tones[m]) for m, amount in information["target"].items()]
    if information.get("together"):
        rows.append(("about the target, I(all; Y)", information["together"], SHARED))
    return rows + [(f"about the target, only in {m}", a, tones[m]) for m, a in information["unique"].items()]


def summarize(record: RunRecord, found: dict[str, Any]) -> str:
    """Return the diagnosis of a run as plain text, section by section."""
    groups = f", {units(found)}" if found["units"] != found["samples"] else ""
    sections = [
        f"{record.title} on {record.dataset}, seed {record.seed}: {found['split']} split, "
        f"{found['samples']} samples{groups}"
    ]
    parts = [(t.caption, t.lines()) for t in evaluation_tables(found) if t.name != "classes" and len(t.frame)]
    at = place_of(found)
    parts.append(("Where the data lie", advice(at) if at else []))
    parts += [("Confidence", _confidence(found)), ("Read with care", [f"- {text}" for text in found["warnings"]])]
    sections += ["\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in parts if lines]
    return "\n\n".join(sections)


def _confidence(found: dict[str, Any]) -> list[str]:
    """Return calibration, the contexts in which modalities differ most, and the classes that fare worst."""
    if "calibration" not in found:
        return []
    errors = [f"{name} {100 * curve['ece']:.1f} %" for name, curve in found["calibration"].items()]
    lines = ["calibration error: " + ", ".join(errors)]
    for context, entry in found["confidence"].items():
        means = {m: _means(intervals) for m, intervals in entry["by_modality"].items()}
        for m, own in means.items() if len(means) > 1 else ():
            # The context in which it is surest beside the others, where it is surer than all of them.
            ahead = own - np.max([other for n, other in means.items() if n != m], axis=0)
            if (ahead > 0).any():
                k = int(np.nanargmax(ahead))
                said = ", ".join(f"{n} {100 * values[k]:.0f} %" for n, values in means.items())
                lines.append(f"{m} is furthest ahead in {context} {entry['contexts'][k]}: {said}")
    worst = sorted(found["classes"], key=lambda c: 1.0 if c["f1"] is None else c["f1"])[:WORST]
    shown = ", ".join(f"{c['name']} {show(None if c['f1'] is None else 100 * c['f1'], 0)} %" for c in worst)
    return [*lines, f"{'labels' if 'ap' in found['classes'][0] else 'classes'} with the lowest F1: {shown}"]


def _means(intervals: Sequence[Mapping[str, Any]], key: str = "mean") -> np.ndarray:
    """Return one number of each interval of ``evaluation.json``, where null stands for NaN."""
    return np.array([np.nan if i[key] is None else i[key] for i in intervals], np.float64)


def evaluation_figures(found: dict[str, Any]) -> list[Captioned]:
    """Draw what each modality gives, what is lost without it, how sure it is, and amounts of information."""
    missing = [missing_modalities(found)] if found["missing"] else []
    confidence = [context_confidence(found, name) for name in found.get("confidence", {})]
    information = [information_bars(found["information"])] if found["information"] else []
    survival = survival_figures(found["survival"]) if found.get("survival") else []
    values = [predicted_values(one) for one in found.get("values", [])]
    labels = []
    if found.get("calibration") and "confusion" not in found:
        of = f"the probabilities of all labels of {found['samples']} samples of the {found['split']} split"
        labels = [reliability(found["calibration"], "Can the probabilities of labels be trusted?", of, True)]
    return [*survival, *values, *labels, shapley_bars(found), *missing, *confidence, *information]


def predicted_values(values: dict[str, Any]) -> Captioned:
    """Draw what was predicted against what is true, and the errors against what was predicted."""
    pairs = np.array([values["target"], values["predicted"]], np.float64)
    true, said = pairs[:, ~np.isnan(pairs).any(0)]
    name = f" of {values['name']}" if values["name"] else ""
    with canvas(6.4, 3.4, 1, 2) as (figure, (left, right)):
        look: dict[str, Any] = {"color": OURS, "linestyle": "none", "marker": "o", "markersize": 2.5, "alpha": 0.5}
        ends = [min(true.min(), said.min()), max(true.max(), said.max())]
        left.plot(ends, ends, color=INK, linestyle=":", linewidth=1)
        left.plot(true, said, **look)
        left.set(xlabel=f"true value{name}", ylabel="predicted")
        right.axhline(0, color=INK, linestyle=":", linewidth=1)
        right.plot(said, said - true, **look)
        right.set(xlabel="predicted", ylabel="predicted less true")
    error = said - true
    alt = f"{len(true)} samples: mean error {error.mean():.3g}, its standard deviation {error.std():.3g}."
    note = f"{alt} Errors that lean with what is predicted, or widen, are what one number as MAE does not tell."
    slug = f"_{values['name']}" if values["name"] else ""
    return Captioned(f"values{slug}", f"Predicted and true values{name}", alt, figure, note)


def write_evaluation_figures(
    record: RunRecord, folder: str | Path | None = None, extremes: Extremes | None = None
) -> list[Path]:
    """Save the figures of an evaluated run as SVG, PNG and PDF; return the paths.

    Args:
        record: a run that has its ``evaluation.json``; of another nothing is drawn.
        folder: where to; the run's own by default, where the report finds the samples.
        extremes: samples to show.
    """
    found, folder = record.evaluation(), record.path if folder is None else Path(folder)
    if found is None:
        return []
    drawn = {one.name: one.figure for one in evaluation_figures(found)}
    if "reliability" not in drawn and found.get("calibration"):
        title, of = "Can the confidence be trusted?", f"{found['samples']} samples"
        drawn["reliability"] = reliability(found["calibration"], title, of).figure
    if extremes is not None:
        drawn["examples"] = example_grid(extremes.groups, extremes.kinds)
    return [path for name, figure in drawn.items() for path in save(figure, folder / folder_name(name))]


def units(found: dict[str, Any]) -> str:
    """Return what intervals are over, and how many: groups where there are any, else samples."""
    return f"{found['units']} {'groups' if found['units'] != found['samples'] else 'samples'}"


def shapley_bars(found: dict[str, Any]) -> Captioned:
    """Draw the contribution of each modality with its interval."""
    form, values = MetricFormat(found["metric"]), found["shapley"]["values"]
    with canvas(5.6, 1.3 + 0.5 * len(values)) as (figure, (axis,)):
        for y, value in enumerate(values.values()):
            mean, low, high = (form.factor * _means([value], key)[0] for key in ("mean", "low", "high"))
            axis.barh(y, mean, color=modality_look(y)["color"], height=0.6)
            axis.plot([low, high], [y, y], color=INK, linewidth=1.6)
            write_beside(axis, form(value["mean"], signed=True), np.nanmax([mean, high]), y, 9)
        axis.axvline(0, color=INK, linewidth=1)
        name_rows(axis, list(values))
        axis.margins(x=0.15)
        unit = f"points of {form.name}" if form.factor == 100 else form.name
        axis.set_xlabel(f"Shapley contribution ({unit})")
    ends = {len(s["modalities"]): form(s["mean"]) for s in found["subsets"]}
    alt = "; ".join(f"{m} {form(v['mean'], signed=True)}{form.unit}" for m, v in values.items())
    note = (
        f"Shares of the way from {form.name} {ends.get(0, '–')} without any modality to {ends.get(len(values), '–')} "
        f"with all{form.unit}; lines are 95 % bootstrap intervals over {units(found)}."
    )
    return Captioned("shapley", "What each modality contributes", alt, figure, note)


def missing_modalities(found: dict[str, Any]) -> Captioned:
    """Draw the metric against the share of samples that lack a modality."""
    form, curves = MetricFormat(found["metric"]), found["missing"]["curves"]
    shares = 100 * np.array(found["missing"]["shares"])
    with canvas(5.8, 3.8) as (figure, (axis,)):
        for name, look in looks(list(curves), "any").items():
            mean, low, high = (form.factor * _means(curves[name], key) for key in ("mean", "low", "high"))
            axis.plot(shares, mean, label="any one" if name == "any" else name, **look)
            axis.fill_between(shares, low, high, color=look["color"], alpha=0.13, linewidth=0)
        axis.set(xlabel="samples that lack a modality (%)", ylabel=form.label)
        axis.legend(title="missing", alignment="left")
    ends = {name: curve[-1]["mean"] for name, curve in curves.items()}
    alt = "; ".join(f"{n} always missing: {'unknown' if v is None else f'{v:.3f}'}" for n, v in ends.items())
    note = (
        f"The modality is taken from samples drawn at random; bands are 95 % bootstrap intervals over {units(found)}."
    )
    return Captioned("missing", "When a modality is missing", alt, figure, note)


def context_confidence(found: dict[str, Any], name: str = "class", limit: int = MOST_CONTEXTS) -> Captioned:
    """Draw Figure 1(b): confidence of each modality by context, contexts in the order of their difference.

    Args:
        found: content of ``evaluation.json``.
        name: which of its ``confidence`` is drawn.
        limit: most contexts shown; those with the largest differences are kept.
    """
    entry = found["confidence"][name]
    modalities = list(entry["by_modality"])
    means = np.array([_means(entry["by_modality"][m]) for m in modalities])
    difference = means[0] - means[min(1, len(means) - 1)]
    order = np.argsort(np.where(np.isnan(difference), 0, difference), kind="stable")
    if len(order) > limit:
        order = np.concatenate([order[: limit // 2], order[-(limit - limit // 2) :]])
    with canvas(6.4, 1.5 + 0.27 * len(order)) as (figure, (axis,)):
        rows = np.arange(len(order))
        for i, modality in enumerate(modalities):
            look = modality_look(i)
            # Markers of one row do not hide each other's intervals.
            apart = rows + 0.14 * (i - (len(modalities) - 1) / 2)
            low, high = (100 * _means(entry["by_modality"][modality], key)[order] for key in ("low", "high"))
            axis.hlines(apart, np.maximum(low, 0), np.minimum(high, 100), color=look["color"], linewidth=1.2)
            axis.plot(100 * means[i, order], apart, label=modality, **(look | {"linestyle": "none"}))
        axis.set_yticks(rows, [f"{entry['contexts'][k]} ({entry['count'][k]})" for k in order])
        axis.set_ylim(-0.7, len(order) - 0.3)
        axis.grid(axis="y", visible=False)
        axis.set(xlabel="mean confidence (%)", ylabel=f"{name} (samples)")
        figure.legend(loc="outside lower center", ncols=len(modalities))
    how = "by its own head" if found["heads"] else "with the others masked"
    note = (
        f"Of each modality {how}; lines are 95 % t-intervals over the samples, whose number is in brackets. "
        "Sorted by the difference of the first two modalities; confidence is not accuracy."
    )
    alt = f"Mean confidence of {', '.join(modalities)} in each {name}."
    return Captioned(f"confidence_{name}", f"How sure each modality is, by {name}", alt, figure, note)


def information_bars(information: Mapping[str, Any]) -> Captioned:
    """Draw amounts of information with twice their standard errors; those not to be trusted are hatched."""
    rows = _amounts(information)
    with canvas(6.4, 1.0 + 0.36 * len(rows)) as (figure, (axis,)):
        for y, (_, amount, tone) in enumerate(rows):
            value, error = (_means([amount], key)[0] for key in ("value", "stderr"))
            face = tone if amount["trusted"] else "none"
            axis.barh(y, value, color=face, edgecolor=tone, height=0.62, hatch=None if amount["trusted"] else "///")
            axis.plot([value - 2 * error, value + 2 * error], [y, y], color=INK, linewidth=1.6)
        axis.axvline(0, color=INK, linewidth=1)
        name_rows(axis, [name for name, *_ in rows])
        axis.set_xlabel("nats")
    alt = "; ".join(f"only in {m}: {show(a['value'], 2)} nats" for m, a in information["unique"].items())
    note = (
        f"Of the features of {information['samples']} samples; Y is the target, lines are two standard errors. "
        "Bounds from below: one under zero says no more than zero."
    )
    if not all(amount["trusted"] for _, amount, _ in rows):
        note += " Hatched amounts are not to be trusted; why stands under “Read with care”."
    if information.get("earlier"):
        note += " Kept from an earlier evaluation of the same model."
    return Captioned("information", "What is shared and what is unique", alt, figure, note)


def example_grid(groups: Mapping[str, Sequence[Example]], kinds: Mapping[str, str]) -> Figure:
    """Draw samples as rows, modalities as columns, under the heading of their group.

    Args:
        groups: heading (such as ``audio sure, video not``) -> samples.
        kinds: modality -> ``vector``, ``sequence``, ``image``, ``clip`` or ``text``; gives the columns.

    Raises:
        SettingsError: a kind that does not exist.
    """
    for kind in kinds.values():
        if kind not in KINDS:
            raise unknown("kind of modality", kind, KINDS)
    samples = [(heading, example) for heading, examples in groups.items() for example in examples]
    with canvas(1.2 + 3.0 * len(kinds), 1.75 * len(samples) + 0.3, len(samples), len(kinds)) as (figure, axes):
        for i, (heading, example) in enumerate(samples):
            row = axes[i * len(kinds) : (i + 1) * len(kinds)]
            for axis, (modality, kind) in zip(row, kinds.items(), strict=True):
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                axis.grid(visible=False)
                here = modality in example.inputs
                _draw(axis, kind if here else "text", example.inputs[modality] if here else "missing")
                axis.set_xlabel(f"{modality}: {example.notes.get(modality, '')}".rstrip(": "), fontsize=9)
            row[0].set_title(f"{heading} · {example.title}", fontsize=9.5)
    return figure


def _draw(axis: Axes, kind: str, value: np.ndarray | str) -> None:
    """Draw one input: colors of a sequence, an image, frames of a clip in lines, bars of a vector, or words."""
    if kind == "text":
        wrapped = "\n".join(textwrap.wrap(textwrap.shorten(str(value), 170, placeholder=" …"), 42))
        axis.text(0, 0.5, wrapped, va="center", ha="left", fontsize=8.5, transform=axis.transAxes)
        return
    values = np.asarray(value, np.float64)
    if kind == "sequence":
        low, high = np.nanquantile(values, SPAN)
        bounds = {"vmin": low, "vmax": max(high, low + 1e-12)}
        axis.imshow(values.T, aspect="auto", origin="lower", cmap="magma", interpolation=_enlarged(values.T), **bounds)
    elif kind == "vector":
        values = values.ravel()
        axis.fill_between(np.arange(len(values)), values, step="mid", color=OTHER, linewidth=0)
        axis.axhline(0, color=INK, linewidth=0.6)
        usual = 3 * np.quantile(np.abs(values), 0.97)
        if 0 < usual < np.abs(values).max():  # a few outliers would flatten all others; their bars are cut
            axis.set_ylim(max(values.min(), -usual), min(values.max(), usual))
    else:
        if kind == "clip":
            count = FRAMES if len(values) >= FRAMES else min(IN_LINE, len(values))
            frames = list(values[np.linspace(0, len(values) - 1, count).round().astype(int)])
            lines = [np.concatenate(frames[i : i + IN_LINE], axis=2) for i in range(0, count, IN_LINE)]
            values = np.concatenate(lines, axis=1)
        # Stretched to 0..1: normalized data are meant to be seen too.
        low, high = np.nanmin(values), np.nanmax(values)
        values = (values - low) / (high - low) if high > low else np.zeros_like(values)
        shown = values[:3].transpose(1, 2, 0) if len(values) >= 3 else values[0]
        axis.imshow(shown, cmap="gray", interpolation=_enlarged(shown))


def _enlarged(values: np.ndarray) -> str:
    """How a picture is resampled: one of fewer pixels than are shown is kept as it is, which is sharp and small."""
    return "none" if max(values.shape[:2]) <= MOST_STEPS else "auto"


def examples_figure(extremes: Extremes) -> Captioned:
    """Draw the samples of an evaluation in which one modality is sure and another is not."""
    said = [f"{heading}: {one.title}" for heading, examples in extremes.groups.items() for one in examples]
    figure = example_grid(extremes.groups, extremes.kinds)
    return Captioned("examples", "Samples at both extremes", "; ".join(said), figure, EXAMPLES)
