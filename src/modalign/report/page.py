"""One self-contained page of a set of runs: opens from disk, asks no network, reads runs and nothing else."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from modalign.report.comparison import RankRow, Row, across, best, by_dataset, compare
from modalign.report.findings import findings, warnings
from modalign.report.gallery import Drawn, headline, of_dataset, of_evaluation, of_tradeoff, overview
from modalign.report.runs import RunRecord, read_runs
from modalign.report.style import styled
from modalign.report.tables import RANK_HEADER, cells, header, interval_text, number, rank_cells, readable, scale, show

# Which columns of a comparison go into the table of results; the others tell how they came about.
RESULTS = (0, 1, 2, 3, 4, 5, 6, 7)
COST = (0, 8, 9, 10, 11, 12, 13, 14)
# Widest picture (points) that can be read in one of two columns.
COLUMN = 475
EXAMPLES = (
    "Samples in which the two modalities that differ most in confidence are furthest apart, with what each says alone "
    "and how sure it is. As they enter the model: sequences with time to the right and features upwards (each with its "
    "own colors), frames in reading order, vectors as bars, text as words. They illustrate, and prove nothing."
)
METHOD = (
    "Means over seeds with 95 % Student intervals. Differences are paired by seed; p values are of the paired t-test, "
    "Holm-corrected over the comparisons of a data set. Epochs are selected on validation; the test split is read "
    "once. “Last epoch” is the test score without selection; “selection gap” is validation minus test at the "
    "selected epoch. Student intervals of few seeds are wide and may leave the range of a share. "
    "Intervals within a run are bootstrapped over samples, over whole groups where there are any. "
    "Information is in nats."
)


def write_report(runs: Iterable[Path], out: Path) -> Path:
    """Write the page for ``runs`` (run folders, or folders that hold runs) to ``out``; returns ``out``.

    A folder that holds ``tradeoff.json`` adds Figure 1(a), a run with ``evaluation.json`` its diagnosis.

    Raises:
        InputError: a folder does not exist or there is no run in any.
    """
    folders = [Path(folder) for folder in runs]
    page = render(read_runs(folders), [path for f in folders if (path := f / "tradeoff.json").exists()])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def render(runs: Sequence[RunRecord], sweeps: Sequence[Path] = ()) -> str:
    """The page as text."""
    from jinja2 import Environment

    rows = compare(runs)
    grouped = by_dataset(rows)
    names = list(dict.fromkeys([*grouped, *(run.dataset for run in runs)]))
    datasets = [_dataset(name, grouped.get(name, []), [r for r in runs if r.dataset == name]) for name in names]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("page.html")).render(
        title=f"Multimodal comparison: {', '.join(names)}",
        subtitle=_subtitle(runs, rows),
        css=Markup(_asset("page.css")),
        script=Markup(_asset("page.js")),
        findings=findings(rows),
        overview=[_figure(overview(rows), "overview")] if rows else [],
        warnings=warnings(runs, rows),
        doubts=sum(len(run["warnings"]) for d in datasets for run in d["diagnoses"]),
        datasets=datasets,
        across=_across(across(rows)) if len(grouped) > 1 else None,
        tradeoff=[_figure(d, f"sweep{i}") for i, path in enumerate(sweeps) for d in of_tradeoff(path)],
        setups=[setup for name in names for setup in _setups(name, [r for r in runs if r.dataset == name])],
        runs=_run_table(runs),
        method=METHOD,
    )


def _asset(name: str) -> str:
    return resources.files("modalign.report").joinpath(name).read_text(encoding="utf-8")


def _subtitle(runs: Sequence[RunRecord], rows: Sequence[Row]) -> str:
    done = sum(run.state == "done" for run in runs)
    methods = len({row.strategy for row in rows})
    datasets = len({row.dataset for row in rows})
    versions = {str((run.environment.get("packages") or {}).get("modalign", "")) for run in runs} - {"", "None"}
    written = f" modalign {', '.join(sorted(versions))}." if versions else ""
    return (
        f"{done} finished of {len(runs)} runs: {methods} method{'s' * (methods != 1)} "
        f"on {datasets} data set{'s' * (datasets != 1)}.{written}"
    )


def _dataset(name: str, rows: list[Row], runs: list[RunRecord]) -> dict[str, Any]:
    anchor = "data-" + re.sub(r"\W+", "-", name)
    diagnoses = _diagnoses(rows, runs, anchor)
    return {
        "name": name,
        "anchor": anchor,
        "tables": _result_tables(name, rows) if rows else [],
        # The comparison of all data sets stands at the top of the page.
        "figures": _wide_first([_figure(d, anchor) for d in of_dataset(rows, runs) if d.name != "comparison"]),
        "diagnoses": diagnoses,
    }


def _result_tables(name: str, rows: list[Row]) -> list[dict[str, Any]]:
    head, body = header(rows), [cells(row) for row in rows]
    winners = [i for i, row in enumerate(rows) if row.strategy in best(rows)]
    captions = (
        (RESULTS, f"Test scores on {name}: means over seeds with 95 % intervals; the best is marked"),
        (COST, f"Settings, selection and cost on {name}: means over seeds"),
    )
    return [
        {
            "caption": caption,
            "head": [head[i] for i in columns],
            "body": [[row[i] for i in columns] for row in body],
            "best": winners if columns is RESULTS else [],
        }
        for columns, caption in captions
    ]


def _across(rows: Sequence[RankRow]) -> dict[str, Any]:
    lowest = min(row.mean_rank for row in rows)
    return {
        "caption": "Ranks over all data sets; the lowest mean rank is marked",
        "head": RANK_HEADER,
        "body": [rank_cells(row) for row in rows],
        "best": [i for i, row in enumerate(rows) if row.mean_rank == lowest],
    }


def _diagnoses(rows: list[Row], runs: list[RunRecord], anchor: str) -> list[dict[str, Any]]:
    """One diagnosis a method: of its first seed that was evaluated, the headline method first."""
    known: dict[str, list[tuple[RunRecord, dict[str, Any]]]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        found = run.evaluation() if run.state == "done" else None
        if found is not None:
            known.setdefault(run.strategy, []).append((run, found))
    first = headline(rows).strategy if rows else ""
    ordered = sorted(known.items(), key=lambda item: item[0] != first)
    return [_diagnosis(*own[0], f"{anchor}-{strategy}", len(own)) for strategy, own in ordered]


def _diagnosis(run: RunRecord, found: dict[str, Any], prefix: str, count: int) -> dict[str, Any]:
    units = "groups" if found["units"] != found["samples"] else "samples"
    pictures = [_picture(path) for path in sorted(run.path.glob("examples*.svg"))]
    others = f"; {count - 1} more evaluated in their run folders" if count > 1 else ""
    return {
        "title": run.title,
        "subtitle": f"Of seed {run.seed}{others}, on the {found['split']} split: {found['samples']} samples; intervals "
        f"are over {found['units']} {units}.",
        "figures": [_figure(d, prefix) for d in of_evaluation(found)] + pictures,
        "tables": _diagnosis_tables(found),
        "warnings": found["warnings"],
    }


def _diagnosis_tables(found: dict[str, Any]) -> list[dict[str, Any]]:
    metric = found["metric"]
    tables = [
        _table(
            f"Metrics on the {found['split']} split, with bootstrap intervals",
            ("Metric", "Value", "95 % interval"),
            [[readable(name) + scale(name)[2], *_value(entry, name)] for name, entry in found["metrics"].items()],
        ),
        _table(
            f"With some modalities only: {readable(metric)}{scale(metric)[2]}",
            ("Modalities", "Value", "95 % interval"),
            [[" + ".join(s["modalities"]) or "none", *_value(s, metric)] for s in found["subsets"]]
            + [[f"head on {m} alone", *_value(entry, metric)] for m, entry in found["heads"].items()],
        ),
    ]
    if "classes" in found:
        names = ("precision", "recall", "f1")
        body = [[c["name"], *(_value_or_dash(c[n]) for n in names), str(c["support"])] for c in found["classes"]]
        tables.append(_table("Each class (%)", ("Class", "Precision", "Recall", "F1", "Samples"), body))
    splits = (found["information"] or {}).get("splits") or []
    if splits:
        head = ("Sources", "Both tell", "First alone", "Second alone", "Only together", "In all", "Clusters")
        doubted = any(entry["decomposed"]["warnings"] for entry in splits)
        caption = "What two sources, cut into clusters, tell of the class (nats ± standard error"
        caption += "; ? is not to be trusted)" if doubted else ")"
        tables.append(_table(caption, head, map(_split, splits)))
    return tables


def _table(caption: str, head: Sequence[str], body: Iterable[Sequence[str]]) -> dict[str, Any]:
    return {"caption": caption, "head": head, "body": list(body), "best": []}


def _value(entry: dict[str, Any], metric: str) -> list[str]:
    factor, decimals, _ = scale(metric)
    mean, low, high = (number(entry[k]) for k in ("mean", "low", "high"))
    return [show(mean, decimals, factor), interval_text(low, high, decimals, factor)]


def _value_or_dash(value: float | None) -> str:
    return show(number(value), 1, 100)


def _split(entry: dict[str, Any]) -> list[str]:
    parts, stderr = entry["decomposed"]["parts"], entry["decomposed"]["stderr"]
    names = ("redundant", "unique_1", "unique_2", "synergy", "total")
    doubt = " ?" if entry["decomposed"]["warnings"] else ""
    amounts = [f"{show(parts[n], 2)} ± {show(stderr[n], 2)}{doubt}" for n in names]
    return [", ".join(entry["modalities"]), *amounts, str(entry["decomposed"]["symbols"])]


def _figure(drawn: Drawn, prefix: str) -> dict[str, Any]:
    svg = inline_svg(drawn.figure, drawn.alt, f"{prefix}-{drawn.name}-")
    wide = 72 * drawn.figure.get_figwidth() > COLUMN
    return {"title": drawn.title, "svg": svg, "wide": wide, "note": drawn.note}


def _wide_first(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those over the whole width first, so that the others fill both columns below."""
    return sorted(figures, key=lambda figure: not figure["wide"])


def _picture(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    data = base64.b64encode(content).decode()
    width = re.search(rb'<svg[^>]* width="([\d.]+)pt"', content)
    alt = "Samples in which one modality is sure and the other is not, shown as what they are"
    image = Markup('<img alt="{}" src="data:image/svg+xml;base64,{}">').format(alt, data)
    wide = width is not None and float(width[1]) > COLUMN
    return {"title": "Samples at both extremes", "svg": image, "wide": wide, "note": EXAMPLES}


# What matplotlib writes -> what follows the page's light or dark ground.
_THEME = {
    "#222222": "var(--ink)",
    "#000000": "var(--ink)",
    "#555555": "var(--axis)",
    "#e3e3e3": "var(--grid)",
    "#0072b2": "var(--blue)",
}


def inline_svg(figure: Figure, alt: str, prefix: str) -> Markup:
    """A figure as an ``<svg>`` element that follows the page's colors and clashes with no other figure."""
    stream = io.StringIO()
    with styled():
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Identifiers are the page's, not the figure's: two figures with the same ones would borrow each other's clips.
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r"url\(#", f"url(#{prefix}", text)
    text = re.sub(r'href="#', f'href="#{prefix}', text)
    for fixed, themed in _THEME.items():
        text = text.replace(f"fill: {fixed}", f"fill: {themed}").replace(f"stroke: {fixed}", f"stroke: {themed}")
    # Glyphs have no fill of their own and would be black on a dark ground.
    width = round(1.6 * 72 * figure.get_figwidth())
    opening = f'<svg role="img" aria-label="{escape(alt)}" fill="var(--ink)" style="max-width: {width}px"'
    return Markup(text.replace("<svg", opening, 1))


def _setups(name: str, runs: Sequence[RunRecord]) -> list[dict[str, str]]:
    """The recipe and the machine of a data set's runs, and what differs between them."""
    known = [run for run in runs if run.recipe]
    if not known:
        return []
    recipe = known[0].recipe.get("recipe", {})
    found = [{"title": f"{name}: recipe", "text": yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)}]
    changes = _differences([run.recipe.get("recipe", {}) for run in known])
    if changes:
        found.append({"title": f"{name}: settings in which runs differ", "text": changes})
    machines = [run.environment for run in known if run.environment]
    if machines:
        text = json.dumps(machines[0], indent=2, ensure_ascii=False)
        found.append({"title": f"{name}: environment of the first run", "text": text})
        changes = _differences(machines, ignored=("command",))
        if changes:
            found.append({"title": f"{name}: environments differ", "text": changes})
    return found


def _differences(settings: Sequence[dict[str, Any]], ignored: Sequence[str] = ()) -> str:
    flat = [_flatten(s) for s in settings]
    lines = []
    for key in sorted({key for f in flat for key in f}):
        values = list(dict.fromkeys(str(f.get(key)) for f in flat))
        if len(values) > 1 and key not in ignored:
            lines.append(f"{key}: {' | '.join(values)}")
    return "\n".join(lines)


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, dict):
            flat |= _flatten(entry, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = entry
    return flat


def _run_table(runs: Sequence[RunRecord]) -> dict[str, Any]:
    body = []
    for run in runs:
        factor, decimals, _ = scale(run.primary)
        score = show(run.metric("test", run.primary), decimals, factor)
        state = run.state if not run.reason else f"{run.state}: {run.reason}"
        body.append([str(run.path), run.dataset, run.title, str(run.seed), score, state])
    head = ("Folder", "Data", "Method", "Seed", "Test", "State")
    table = _table("Every run folder that was read", head, body)
    return {"summary": f"All {len(runs)} runs", "table": table | {"text": True}}
