"""One run's diagnosis in the terminal, and its figures as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from modalign.evaluation.extremes import Extremes
from modalign.report.examples import example_grid
from modalign.report.gallery import of_evaluation, reliability
from modalign.report.runs import RunRecord
from modalign.report.style import save
from modalign.report.tables import interval_text, number, readable, scale, show

WORST = 3
REST = "the others"


def summarize(record: RunRecord, result: dict[str, Any]) -> str:
    """The diagnosis ``result`` (``evaluation.json``) of a run as plain text, section by section."""
    groups = f", {result['units']} groups" if result["units"] != result["samples"] else ""
    head = (
        f"{record.title} on {record.dataset}, seed {record.seed}: {result['split']} split, {result['samples']} samples"
    )
    sections = [
        _section("Scores, with 95 % intervals", _scores(result)),
        _section(f"What each modality gives ({_named(result['metric'])})", _modalities(result)),
        _section(f"Some modalities only ({_named(result['metric'])})", _subsets(result)),
        _section("When a modality is missing", _missing(result)),
        _section(_of_information(result), _information(result)),
        _section("Confidence", _confidence(result)),
        _section("Read with care", [f"- {text}" for text in result["warnings"]]),
    ]
    return "\n\n".join([head + groups, *filter(None, sections)])


def write_diagnosis_figures(record: RunRecord, folder: Path, extremes: Extremes | None = None) -> list[Path]:
    """Save the figures of an evaluated run as SVG, PNG and PDF into ``folder``; returns the paths.

    Args:
        record: a run that has its ``evaluation.json``.
        folder: where to.
        extremes: samples to show; the report finds the picture where the folder is the run's.
    """
    found = record.evaluation()
    if found is None:
        return []
    written = []
    for drawn in [*reliability(found), *of_evaluation(found)]:
        written += save(drawn.figure, folder / drawn.name)
    if extremes is not None:
        written += save(example_grid(extremes.groups, extremes.kinds), folder / "examples")
    return written


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)]) if lines else ""


def _columns(rows: Iterable[Sequence[str]], right: bool = True) -> list[str]:
    """Rows of cells as lines; cells after the first stand to the right of their column, or to the left."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.ljust, *[str.rjust if right else str.ljust] * (len(widths) - 1)]
    return ["  ".join(side(c, w) for side, c, w in zip(sides, row, widths, strict=True)).rstrip() for row in rows]


def _named(metric: str) -> str:
    return f"{readable(metric)}{scale(metric)[2].replace('(', 'in ').replace(')', '')}"


def _interval(entry: dict[str, Any], metric: str, signed: bool = False) -> str:
    factor, decimals, _ = scale(metric)
    mean, low, high = (number(entry[key]) for key in ("mean", "low", "high"))
    return f"{show(mean, decimals, factor, signed)} {interval_text(low, high, decimals, factor)}"


def _scores(result: dict[str, Any]) -> list[str]:
    return _columns(
        [readable(name) + scale(name)[2], _interval(entry, name)] for name, entry in result["metrics"].items()
    )


def _modalities(result: dict[str, Any]) -> list[str]:
    """Alone, by its own head, and its part in the whole."""
    metric = result["metric"]
    alone = {s["modalities"][0]: s for s in result["subsets"] if len(s["modalities"]) == 1}
    heads = bool(result["heads"])
    rows = [["", "others masked", *(["own head"] if heads else []), "Shapley contribution"]]
    for name, value in result["shapley"]["values"].items():
        own = [_interval(result["heads"][name], metric)] if heads else []
        rows.append([name, _interval(alone[name], metric), *own, _interval(value, metric, signed=True)])
    return _columns(rows)


def _subsets(result: dict[str, Any]) -> list[str]:
    """Subsets of several but not all modalities, and none and all."""
    if not result["missing"]:
        return []
    kept = [s for s in result["subsets"] if len(s["modalities"]) != 1]
    return _columns([" + ".join(s["modalities"]) or "none", _interval(s, result["metric"])] for s in kept)


def _missing(result: dict[str, Any]) -> list[str]:
    if not result["missing"]:
        return []
    factor, decimals, _ = scale(result["metric"])
    rows = [["share of samples", *(f"{100 * share:.0f} %" for share in result["missing"]["shares"])]]
    for name, curve in result["missing"]["curves"].items():
        means = [show(number(point["mean"]), decimals, factor) for point in curve]
        rows.append(["any one missing" if name == "any" else f"{name} missing", *means])
    return _columns(rows)


def _of_information(result: dict[str, Any]) -> str:
    kept = (result["information"] or {}).get("earlier")
    earlier = "; kept from an earlier evaluation of the same model" if kept else ""
    return f"Information (nats, with standard errors; ? is not to be trusted{earlier})"


def _information(result: dict[str, Any]) -> list[str]:
    found = result["information"]
    if not found:
        return []
    rows: list[Sequence[str]] = []
    for pair in found["pairs"]:
        a, b = pair["modalities"]
        rows.append([f"shared, I({a}; {b})", *_amount(pair["shared"])])
        rows.append([f"shared given the target, I({a}; {b} | Y)", *_amount(pair["shared_given_target"])])
    rows += [[f"about the target, I({m}; Y)", *_amount(amount)] for m, amount in found["target"].items()]
    if found["together"]:
        rows.append(["about the target, all together", *_amount(found["together"])])
    rows += [[f"about the target, only in {m}", *_amount(amount)] for m, amount in found["unique"].items()]
    for split in found["splits"]:
        rows += _split(split)
    return _columns(rows, right=False)


def _amount(amount: dict[str, Any]) -> tuple[str, str]:
    return _with_error(amount["value"], amount["stderr"], amount["trusted"]), f"{amount['method']}, {amount['kind']}"


def _with_error(value: float | None, error: float | None, trusted: bool) -> str:
    return f"{show(number(value), 2)} ± {show(number(error), 2)}{'' if trusted else ' ?'}"


def _split(split: dict[str, Any]) -> list[tuple[str, str, str]]:
    first, second = split["modalities"]
    found = split["decomposed"]
    names = {
        "redundant": f"{first} and {second} both tell",
        "unique_1": f"{first} alone tells",
        "unique_2": f"{second} alone tells",
        "synergy": f"{first} and {second} tell only together",
    }
    if second == REST:  # several modalities against each other: what the rest has is said in their own lines
        del names["unique_2"]
    parts, errors, how = found["parts"], found["stderr"], f"decomposition, {found['symbols']} symbols"
    return [(text, _with_error(parts[key], errors[key], not found["warnings"]), how) for key, text in names.items()]


def _confidence(result: dict[str, Any]) -> list[str]:
    """Calibration, the contexts in which two modalities differ most, and the classes that fare worst."""
    if "calibration" not in result:
        return []
    errors = [f"{name} {100 * curve['ece']:.1f} %" for name, curve in result["calibration"].items()]
    lines = ["calibration error: " + ", ".join(errors)]
    for name, entry in result["confidence"].items():
        lines += _gaps(name, entry)
    worst = sorted(result["classes"], key=lambda c: 1.0 if c["f1"] is None else c["f1"])[:WORST]
    shown = ", ".join(f"{c['name']} {show(number(c['f1']), 0, 100)} %" for c in worst)
    return [*lines, f"classes with the lowest F1: {shown}"]


def _gaps(name: str, entry: dict[str, Any]) -> list[str]:
    """For each modality the context in which it is surest beside the others, where it is surer than all of them."""
    means = {m: [number(i["mean"]) for i in intervals] for m, intervals in entry["by_modality"].items()}
    lines = []
    for m, own in means.items() if len(means) > 1 else ():
        ahead = [x - max(other[k] for n, other in means.items() if n != m) for k, x in enumerate(own)]
        best, k = max(((gap, k) for k, gap in enumerate(ahead) if not isnan(gap)), default=(0.0, 0))
        if best > 0:
            said = ", ".join(f"{n} {100 * values[k]:.0f} %" for n, values in means.items())
            lines.append(f"{m} is furthest ahead in {name} {entry['contexts'][k]}: {said}")
    return lines
