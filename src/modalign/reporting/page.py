"""One self-contained page of a set of runs: opens from disk, asks no network, reads runs and nothing else.

All text that comes from run folders is escaped: by jinja in the page, by the XML writer in figures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from modalign.errors import RunFolderError
from modalign.evaluation.contributions import Extremes
from modalign.files import reading, write_whole
from modalign.reporting.diagnosis import evaluation_figures, evaluation_tables, examples_figure, units
from modalign.reporting.figures import (
    Captioned,
    dataset_figures,
    overview,
    prediction_figures,
    search_figure,
    tradeoff_figures,
)
from modalign.reporting.findings import findings, modality_findings, warnings
from modalign.reporting.runs import (
    Row,
    RunRecord,
    by_dataset,
    check_data,
    compare,
    headline,
    order_key,
    read_mapping,
    read_run,
    read_runs,
)
from modalign.reporting.style import inline_svg
from modalign.reporting.tables import (
    MetricFormat,
    Table,
    averaged,
    data_card,
    dataset_tables,
    plural,
    ranks_table,
    runs_table,
)
from modalign.settings import selected

_HERE = Path(__file__).parent
_PAGES = Environment(loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
# Widest picture (points) that can be read in one of two columns.
COLUMN = 475
# Terms of the glossary that a figure is about, by the beginning of its name.
_ABOUT = {
    "alignment": ("Weights of the pool (lambda)", "Margin"),
    "confidence": ("Confidence",),
    "critical_difference": ("Critical difference",),
    "information": ("Information, shared and unique", "Nat"),
    "missing": ("When a modality is missing",),
    "reliability": ("Reliability", "ECE"),
    "search": ("Objective of a search",),
    "shapley": ("Shapley value",),
    "survival_time": ("Integrated Brier score",),
    "tradeoff": ("Alpha", "Margin", "T"),
}
# Tables whose columns are terms of the glossary, and those whose rows are.
_HEADS = ("scores", "cost", "others", "ranks", "modalities", "classes", "survival", "information", "decomposition")
_ROWS = ("metrics", "survival")
# What tables call a term, and what the glossary does.
_ALSO = {
    "calibration error": "ece",
    "difference to": "difference",
    "last epoch": "test at the last epoch",
    "mean average precision": "average precision",
    "negative log-likelihood": "nll",
    "peak": "memory added",
    "s per epoch": "seconds",
    "s in all": "seconds",
    "won/tied/lost": "won",
}
METHOD = (
    "Means over splits and seeds with 95 % intervals. Over several splits of one data set the interval is the "
    "corrected resampled t-interval of Nadeau and Bengio, as splits share samples; over one split it is crossed, "
    "over seeds and bootstrapped test units. Differences are paired by split and seed, with an interval of the same "
    "kind; p values are Holm-corrected over the comparisons of a data set, and none is given below five splits, or "
    "seeds of one, or without variance. The test split is read once. “Last epoch” is the test score of the last "
    "epoch; “selection gap” is validation minus test at the scored weights. Intervals within a run are bootstrapped "
    "over samples, over whole groups where there are any. Information is in nats."
)


def write_report(
    runs: Any, out: str | Path = "report.html", reference: str | None = None, outdated: bool = False
) -> Path:
    """Write one page about runs and return its path.

    A folder that holds ``tradeoff.json`` adds Figure 1(a), a run with ``evaluation.json`` its diagnosis.

    Args:
        runs: a run folder, a folder that holds runs, an object with a ``folder`` (``Run``, ``Bench``), or several.
        out: the page.
        reference: the method that others are compared with; by default ModAlign where it was run, else the first.
        outdated: report runs whose data have changed since, too.

    Raises:
        RunFolderError: a folder does not exist, there is no run in any, or the data of one have changed since.

    Example:
        A page of a bench::

            write_report("runs/bench", "report.html")
    """
    several = [runs] if isinstance(runs, (str, Path)) or hasattr(runs, "folder") else runs
    folders = [Path(getattr(one, "folder", one)) for one in several]
    records = read_runs(folders)
    if not outdated:
        check_data(records)
    page = render(records, [path for f in folders if (path := f / "tradeoff.json").exists()], reference)
    return write_whole(out, page)


def render(runs: Sequence[RunRecord], sweeps: Sequence[Path] = (), reference: str | None = None) -> str:
    """Return the page of ``runs`` and of the trade-off files ``sweeps`` as text."""
    rows = compare(runs, reference)
    grouped = by_dataset(rows)
    names = list(dict.fromkeys([*grouped, *(run.dataset for run in runs)]))
    datasets = [
        _dataset(i, name, grouped.get(name, []), [r for r in runs if r.dataset == name]) for i, name in enumerate(names)
    ]
    versions = {str((run.environment.get("packages") or {}).get("modalign", "")) for run in runs} - {"", "None"}
    done = sum(run.state == "done" for run in runs)
    return _PAGES.get_template("page.html").render(
        title=f"Multimodal comparison: {', '.join(names)}",
        subtitle=f"{done} finished of {len(runs)} runs: {plural(len({row.strategy for row in rows}), 'method')} on "
        f"{plural(len(grouped), 'data set')}." + (f" modalign {', '.join(sorted(versions))}." if versions else ""),
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((_HERE / "page.js").read_text(encoding="utf-8")),
        findings=[*findings(rows), *(d["learned"] for d in datasets if d["learned"])],
        overview=[_figure(drawn, "overview") for drawn in overview(rows)],
        warnings=warnings(runs, rows),
        doubts=sum(len(found["warnings"]) for d in datasets for found in d["methods"]),
        datasets=datasets,
        across=_table(ranks_table(rows)) if averaged(rows) else None,
        tradeoff=[_figure(d, f"sweep{i}") for i, path in enumerate(sweeps) for d in tradeoff_figures(path)],
        setups=[setup for name in names for setup in _setups(name, [r for r in runs if r.dataset == name])],
        runs=_table(runs_table(runs)),
        glossary=_glossary(),
        count=len(runs),
        method=METHOD,
    )


def run_html(run: RunRecord | str | Path) -> str:
    """Return a compact HTML fragment about one run: its scores, its settings in a line, and where it is.

    >>> html = run_html(RunRecord(Path("runs/<a>"), "unfinished", "stopped after 2 epochs", {"seed": 0}))
    >>> "runs/&lt;a&gt;" in html, "stopped after 2 epochs" in html
    (True, True)
    """
    record = run if isinstance(run, RunRecord) else read_run(run)
    known: dict[str, dict[str, float]] = {} if record.state == "broken" else record.result.get("metrics") or {}
    first = ("valid", "test", "test_last")
    splits = {name: known[name] for name in dict.fromkeys((*first, *known)) if name in known}
    metrics = list(dict.fromkeys(name for values in splits.values() for name in values))
    titles = {"valid": "Validation", "test": "Test", "test_last": "Test, last epoch"}
    training = record.settings.get("training") or {}
    shown = [f"{name} {training[name]}" for name in ("epochs", "batch_size", "optimizer", "lr") if name in training]
    if "selected_epoch" in record.result:
        shown.append(selected(record.result))
    if "seconds" in record.result:
        shown.append(f"{record.number('seconds'):.1f} s")
    return _PAGES.get_template("run.html").render(
        run=record,
        head=[titles.get(name, name.replace("test_", "Test, by ")) for name in splits],
        body=[
            (MetricFormat(name).label, [MetricFormat(name)(values.get(name)) for values in splits.values()])
            for name in metrics
        ],
        settings=", ".join([*filter(None, [record.option]), *shown]),
        warnings=record.result.get("warnings") or [],
    )


def _dataset(position: int, name: str, rows: list[Row], runs: list[RunRecord]) -> dict[str, Any]:
    """Return a section of the page: tables, figures, and what is known of each method, the headline method first."""
    anchor = f"data-{position}"  # names are not: two of them may differ in nothing that an identifier can hold
    # The comparison of all data sets stands at the top of the page.
    figures = [_figure(d, anchor) for d in dataset_figures(rows, runs) if d.name != "comparison"]
    evaluated: dict[str, list[tuple[RunRecord, dict[str, Any]]]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        if run.state == "done" and (found := run.evaluation()) is not None:
            evaluated.setdefault(run.strategy, []).append((run, found))
    first = headline(rows).strategy if rows else ""
    searched = _searched(name, runs)
    known = dict.fromkeys([first, *(row.strategy for row in rows), *sorted(evaluated, key=order_key)])
    methods, learned = [], ""
    for i, strategy in enumerate(filter(None, known)):
        title = next(run.title for run in runs if run.strategy == strategy and run.state == "done")
        drawn = prediction_figures(strategy, runs)
        if search := search_figure(searched, strategy):
            drawn.append(search)
        method: dict[str, Any] = {"title": title, "subtitle": "", "tables": [], "warnings": []}
        if own := evaluated.get(strategy):  # the first seed that was evaluated
            run, found = own[0]
            others = f"; {len(own) - 1} more evaluated in their run folders" if len(own) > 1 else ""
            with reading(
                run.path / "evaluation.json", "what `modalign evaluate` wrote", RunFolderError, "evaluate anew"
            ):
                drawn += evaluation_figures(found)
                method |= {
                    "subtitle": f"Diagnosis of seed {run.seed}{others}, on the {found['split']} split: "
                    f"{found['samples']} samples; intervals are over {units(found)}.",
                    "tables": [_table(one) for one in evaluation_tables(found)],
                    "warnings": list(found["warnings"]),
                }
                if not learned and (said := modality_findings(found)):
                    learned = f"{name}, what modalities give {run.title} (seed {run.seed}): {said}"
            if (samples := run.path / "examples.npz").exists():
                with reading(samples, "samples that `modalign evaluate` kept", RunFolderError, "evaluate anew"):
                    drawn.append(examples_figure(Extremes.load(samples)))
        if drawn or method["tables"]:
            methods.append(method | {"figures": [_figure(one, f"{anchor}-{i}") for one in drawn]})
    with reading(f"the runs of {name}: data.json and predictions", "what training wrote", RunFolderError, "train anew"):
        card, notes = data_card(runs)
    return {
        "name": name,
        "anchor": anchor,
        "card": [_table(one) for one in card],
        "notes": notes,
        "tables": [_table(one) for one in dataset_tables(name, rows)] if rows else [],
        # Those over the whole width first, so that the others fill both columns below.
        "figures": sorted(figures, key=lambda figure: not figure["wide"]),
        "methods": methods,
        "learned": learned,
    }


def _figure(drawn: Captioned, prefix: str) -> dict[str, Any]:
    name = re.sub(r"\W+", "-", drawn.name)
    svg = inline_svg(drawn.figure, drawn.alt, f"{prefix}-{name}-")
    terms = next((terms for start, terms in _ABOUT.items() if drawn.name.startswith(start)), ())
    about = [(term, *_glossary()[term]) for term in terms]
    wide = 72 * drawn.figure.get_figwidth() > COLUMN
    return {"title": drawn.title, "svg": svg, "wide": wide, "note": drawn.note, "about": about}


def _searched(name: str, runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return the searches on a data set that lie beside its runs: folder/tune.json of folder/runs/DATA/METHOD/RUN."""
    benches = {run.path.resolve().parents[3] for run in runs if len(run.path.resolve().parents) > 3}
    found = [read_mapping(bench / "tune.json", json.loads, []).get("chosen") for bench in sorted(benches)]
    searches = [one for own in found if isinstance(own, list) for one in own if isinstance(one, dict)]
    return [one for one in searches if one.get("dataset") == name]


def _table(table: Table) -> dict[str, Any]:
    """Return a table for the page, with the terms of the glossary that its heads and rows are about."""
    heads = [_term(head) if table.name in _HEADS else None for head in table.head]
    rows = [_term(row[0]) if table.name in _ROWS else None for row in table.body]
    about = [_term("nats")] if "nats" in table.caption else []
    return {"caption": table.caption, "about": about, "head": [*zip(table.head, heads, strict=True)],
            "body": [*zip(table.body, rows, strict=True)], "best": table.best, "words": table.words}  # fmt: skip


@cache
def _glossary() -> dict[str, tuple[str, str]]:
    """Return term to its anchor and its meaning."""
    groups = yaml.safe_load((_HERE / "glossary.yaml").read_text(encoding="utf-8")).values()
    terms = [(term, meaning) for group in groups for term, meaning in group.items()]
    return {term: (f"term-{i}", meaning) for i, (term, meaning) in enumerate(terms)}


@cache
def _term(words: str) -> tuple[str, str, str] | None:
    """Return term, anchor and meaning of what some words are about: the longest name of a term that they begin with."""
    said = words.lower().removeprefix("test ")
    for start, name in _ALSO.items():
        said = name if said.startswith(start) else said
    names = {
        part.partition(" (")[0].removesuffix("s"): term for term in _glossary() for part in term.lower().split(", ")
    }
    found = [name for name in names if re.match(rf"{re.escape(name)}s?( |$)", said)]
    if not found:
        return None
    term = names[max(found, key=len)]
    return (term, *_glossary()[term])


def _setups(name: str, runs: Sequence[RunRecord]) -> list[dict[str, str]]:
    """Return the recipe and the machine of a data set's runs, and what differs between them."""
    known = [run for run in runs if run.recipe]
    if not known:
        return []
    first, machines = known[0], [run.environment for run in known if run.environment]
    texts = {
        "recipe": yaml.safe_dump(first.settings, sort_keys=False, allow_unicode=True),
        "settings in which runs differ": _differences([run.settings for run in known]),
        "environment of the first run": json.dumps(machines[0], indent=2, ensure_ascii=False) if machines else "",
        "environments differ": _differences(machines, ignored=("command",)),
    }
    return [{"title": f"{name}: {what}", "text": text} for what, text in texts.items() if text]


def _differences(settings: Sequence[dict[str, Any]], ignored: Sequence[str] = ()) -> str:
    flat: list[dict[Any, Any]] = [pd.json_normalize(s).to_dict("records")[0] for s in settings]
    lines = []
    for key in sorted({key for f in flat for key in f}):
        values = list(dict.fromkeys(str(f.get(key)) for f in flat))
        if len(values) > 1 and key not in ignored:
            lines.append(f"{key}: {' | '.join(values)}")
    return "\n".join(lines)
