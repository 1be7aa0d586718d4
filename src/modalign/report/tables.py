"""The comparison written down: CSV with plain numbers (shares in 0..1), Markdown and LaTeX with percent."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from modalign.evaluation.metrics import SHARES
from modalign.report.comparison import REFERENCE, RankRow, Row, across, best, by_dataset, compare, order_key
from modalign.report.runs import RunRecord, read_runs

__all__ = ["Row", "RunRecord", "compare", "latex", "markdown", "read_runs", "write_tables"]


def write_tables(
    runs: Iterable[RunRecord], folder: Path, metric: str | None = None, reference: str = REFERENCE
) -> list[Path]:
    """Write ``table.csv``, ``.md``, ``.tex``, and ``ranks.csv`` for several data sets; returns the paths."""
    runs = list(runs)
    rows = compare(runs, metric, reference)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "table.csv", folder / "table.md", folder / "table.tex"]
    _write_csv(written[0], rows, Row)
    written[1].write_text(markdown(rows, runs))
    written[2].write_text(latex(rows))
    if len({row.dataset for row in rows}) > 1:
        written.append(folder / "ranks.csv")
        _write_csv(written[-1], across(rows), RankRow)
    return written


def _write_csv(path: Path, rows: Sequence[Row] | Sequence[RankRow], kind: type[Row] | type[RankRow]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [column.name for column in fields(kind)])
        writer.writeheader()
        for row in rows:
            writer.writerow({k: _plain(v) for k, v in asdict(row).items()})


def _plain(value: object) -> object:
    """A number that reads back exactly enough; NaN as an empty cell."""
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.6g}"
    return value


def scale(metric: str) -> tuple[float, int, str]:
    """Factor, decimals and unit with which a metric is shown to people."""
    return (100.0, 1, " (%)") if metric in SHARES else (1.0, 3, " (nats)" if metric == "nll" else "")


_READABLE = {
    "macro_f1": "macro F1",
    "nll": "negative log-likelihood",
    "ece": "calibration error (ECE)",
    "auc_micro": "AUC (micro)",
    "average_precision": "average precision",
    "mae": "MAE",
    "rmse": "RMSE",
    "pearson": "Pearson correlation",
    "c_index": "concordance index",
}


def readable(metric: str) -> str:
    """The name of a metric for people; files keep the short one."""
    return _READABLE.get(metric, metric)


def number(value: float | None) -> float:
    """A number of ``evaluation.json``, where null stands for NaN."""
    return float("nan") if value is None else value


def show(value: float, decimals: int, factor: float = 1.0, signed: bool = False) -> str:
    """A number for people; a dash where there is none."""
    if np.isnan(value):
        return "–"
    text = f"{value * factor:{'+' if signed else ''}.{decimals}f}"
    return text.replace("-", "−")


def interval_text(low: float, high: float, decimals: int, factor: float = 1.0) -> str:
    """An interval in brackets; a dash where there is none."""
    if np.isnan(low):
        return "–"
    return f"[{show(low, decimals, factor)}, {show(high, decimals, factor)}]"


HEADER = (
    "Method",
    "Test{unit}",
    "95 % interval",
    "Seeds",
    "Rank",
    "Difference to {reference}",
    "its 95 % interval",
    "p (Holm)",
    "Learning rate, options",
    "Last epoch",
    "Selection gap",
    "Parameters",
    "Peak MB",
    "s per epoch",
    "s in all",
)


def cells(row: Row) -> list[str]:
    """The cells of ``HEADER`` for a row."""
    factor, decimals, _ = scale(row.metric)
    return [
        row.title,
        show(row.mean, decimals, factor),
        interval_text(row.ci_low, row.ci_high, decimals, factor),
        str(row.seeds),
        f"{row.rank:g}",
        show(row.difference, decimals, factor, signed=True),
        interval_text(row.difference_low, row.difference_high, decimals, factor),
        show(row.p_holm, 3),
        ", ".join(filter(None, (row.lr, row.option))) or "–",
        show(row.last_epoch, decimals, factor),
        show(row.selection_gap, decimals, factor, signed=True),
        "–" if np.isnan(row.parameters) else f"{row.parameters:,.0f}",
        show(row.peak_memory_mb, 0),
        show(row.seconds_per_epoch, 2),
        show(row.seconds, 1),
    ]


def header(rows: Sequence[Row]) -> list[str]:
    """``HEADER`` filled in for the rows of one data set."""
    names = [row.title for row in rows if row.strategy == REFERENCE]
    unit = f" {readable(rows[0].metric)}{scale(rows[0].metric)[2]}"
    return [text.format(unit=unit, reference=names[0] if names else "ModAlign") for text in HEADER]


RANK_HEADER = ("Method", "Mean rank", "Data sets", "First on", "Mean metric")


def rank_cells(row: RankRow) -> list[str]:
    """The cells of ``RANK_HEADER`` for a row."""
    factor, decimals, _ = scale(row.metric)
    return [
        row.title,
        show(row.mean_rank, 2),
        str(row.datasets),
        str(row.wins),
        show(row.mean, decimals, factor),
    ]


def markdown(rows: Sequence[Row], runs: Sequence[RunRecord] = ()) -> str:
    """All tables as Markdown, with a list of the runs that are left out and why."""
    parts = []
    for dataset, own in by_dataset(rows).items():
        winners = best(own)
        body = [_bold(cells(row), row.strategy in winners) for row in own]
        parts.append(f"## {dataset}\n\n" + _markdown_table(header(own), body))
    if len(parts) > 1:
        parts.append("## Across data sets\n\n" + _markdown_table(RANK_HEADER, [rank_cells(r) for r in across(rows)]))
    missing = [f"- {run.path}: {run.state}, {run.reason}" for run in runs if run.state != "done"]
    if missing:
        parts.append("## Left out\n\n" + "\n".join(missing))
    return "\n\n".join(parts) + "\n"


def _bold(texts: list[str], on: bool) -> list[str]:
    return [texts[0], f"**{texts[1]}**", *texts[2:]] if on else texts


def _markdown_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|"]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in body]
    return "\n".join(lines)


def latex(rows: Sequence[Row]) -> str:
    """The table of the paper's form: methods × data sets, mean ± half interval, best in bold (booktabs)."""
    grouped = by_dataset(rows)
    titles = {row.strategy: row.title for row in rows}
    cell = {(row.dataset, row.strategy): row for row in rows}
    ranked = {row.strategy: row.mean_rank for row in across(rows)}
    lines = [
        r"\begin{tabular}{l" + "c" * len(grouped) + "r}",
        r"\toprule",
        " & ".join(["Method", *map(_escape, grouped), "Mean rank"]) + r" \\",
        r"\midrule",
    ]
    for name in sorted(titles, key=order_key):
        entries = [_latex_cell(cell.get((d, name)), best(own)) for d, own in grouped.items()]
        lines.append(" & ".join([_escape(titles[name]), *entries, f"{ranked[name]:.2f}"]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_cell(row: Row | None, winners: set[str]) -> str:
    if row is None:
        return "--"
    factor, decimals, _ = scale(row.metric)
    number = f"{row.mean * factor:.{decimals}f}"
    number = rf"\mathbf{{{number}}}" if row.strategy in winners else number
    half = "" if np.isnan(row.ci_low) else rf" \pm {(row.ci_high - row.mean) * factor:.{decimals}f}"
    return f"${number}{half}$"


def _escape(text: str) -> str:
    """Characters that LaTeX would read as commands."""
    for character in "\\&%$#_{}":
        text = text.replace(character, "\\textbackslash " if character == "\\" else f"\\{character}")
    return text
