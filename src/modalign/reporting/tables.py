"""The tables of a report: one list of captioned data frames, rendered as text, Markdown, LaTeX, CSV or HTML.

A ``Table`` holds what people read (shares in percent, a dash where nothing is known). ``table.csv`` and ``ranks.csv``
hold plain numbers (shares in 0..1) for scripts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from modalign.evaluation.metrics import F1, higher_is_better, is_share
from modalign.evaluation.statistics import LEVEL, Interval, critical_difference, friedman, ranks
from modalign.files import write_csv, write_whole
from modalign.reporting.runs import ROPE, Row, RunRecord, across, best, by_dataset, compare, group_of, rank_matrix

_READABLE = {
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "map": "mean average precision",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
    "auc_micro": "AUC (micro)",
    "average_precision": "average precision",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R2",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "c_index": "concordance index",
    "c_uno": "Uno's C",
    "ibs": "integrated Brier score",
}
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def show(value: float | None, decimals: int, signed: bool = False) -> str:
    """Return a number as people read it; a dash where there is none.

    >>> show(-0.25, 1), show(3, 2, signed=True), show(None, 1)
    ('−0.2', '+3.00', '–')
    """
    if value is None or np.isnan(value):
        return "–"
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", "−")


def plural(count: int, noun: str) -> str:
    """Return a number of things in words.

    >>> plural(1, "seed"), plural(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{count} {noun}{'s' * (count != 1)}"


class MetricFormat:
    """How a metric is shown to people: shares in percent, likelihoods in nats, others as they are.

    Args:
        metric: short name of the metric, as files have it.

    Attributes:
        name: name for people; factor: multiplies values; decimals: shown; unit: ``" (%)"``, ``" (nats)"`` or nothing.

    >>> accuracy = MetricFormat("accuracy")
    >>> accuracy(0.9312), accuracy.interval(0.91, 0.95), accuracy.label
    ('93.1', '[91.0, 95.0]', 'accuracy (%)')
    >>> MetricFormat("nll").entry({"mean": 0.25, "low": None, "high": None})
    '0.250 –'
    """

    def __init__(self, metric: str) -> None:
        self.name = f"F1 of {metric[len(F1) :]}" if metric.startswith(F1) else _READABLE.get(metric, metric)
        self.factor, self.decimals, self.unit = (100.0, 1, " (%)") if is_share(metric) else (1.0, 3, "")
        if metric == "nll":
            self.unit = " (nats)"
        self.label = self.name + self.unit

    def __call__(self, value: float | None, signed: bool = False) -> str:
        return show(None if value is None else value * self.factor, self.decimals, signed)

    def worded(self, value: float | None) -> str:
        """Return a value with its unit, as in a sentence."""
        return self(value) + self.unit.replace("(", "").replace(")", "")

    def interval(self, low: float | None, high: float | None) -> str:
        """Return an interval in brackets; a dash where there is none."""
        return "–" if self(low) == "–" else f"[{self(low)}, {self(high)}]"

    def entry(self, entry: dict[str, Any], signed: bool = False) -> str:
        """Return the mean and interval of an entry of ``evaluation.json``."""
        return f"{self(entry['mean'], signed)} {self.interval(entry['low'], entry['high'])}"


@dataclass(frozen=True)
class Table:
    """A captioned table whose cells are texts for people.

    Attributes:
        name: short name, unique in a list of tables.
        caption: what it shows.
        frame: cells; the first column names the rows.
        best: positions of the rows that are marked.
        words: whether the cells are words (aligned to the left) and not numbers.

    >>> table = Table("t", "Scores", pd.DataFrame({"Method": ["A|B", "C"], "Test": ["91.2", "8.5"]}), best=(0,))
    >>> print(table.markdown())
    | Method | Test |
    |---|---:|
    | A\\|B | **91.2** |
    | C | 8.5 |
    >>> print("\\n".join(table.lines()))
    Method  Test
    A|B     91.2
    C        8.5
    """

    name: str
    caption: str
    frame: pd.DataFrame
    best: Sequence[int] = ()
    words: bool = False

    @property
    def head(self) -> list[str]:
        """Names of the columns."""
        return [str(name) for name in self.frame.columns]

    @property
    def body(self) -> list[list[str]]:
        """Cells, row by row."""
        return [[str(cell) for cell in row] for row in self.frame.itertuples(index=False)]

    def markdown(self) -> str:
        """Return the table in Markdown, the second cell of marked rows in bold."""
        rows = [[cell.replace("|", "\\|") for cell in row] for row in [self.head, *self.body]]
        for i in self.best:
            rows[i + 1][1] = f"**{rows[i + 1][1]}**"
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([lines[0], "|" + "|".join(["---"] + ["---:"] * (len(self.head) - 1)) + "|", *lines[1:]])

    def lines(self, head: bool = True) -> list[str]:
        """Return the table as lines of plain text in columns."""
        rows = [self.head, *self.body] if head else self.body
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        sides = [str.ljust, *[str.ljust if self.words else str.rjust] * (len(widths) - 1)]
        return ["  ".join(side(c, w) for side, c, w in zip(sides, row, widths, strict=True)).rstrip() for row in rows]

    def rich(self) -> RichTable:
        """Return the table for a terminal, marked rows in bold; cells are text and never markup."""
        shown = RichTable(title=Text(self.caption, "bold"), title_justify="left", header_style="bold")
        for i, name in enumerate(self.head):
            shown.add_column(Text(name), justify="left" if i == 0 or self.words else "right")
        for i, row in enumerate(self.body):
            shown.add_row(*map(Text, row), style="bold" if i in self.best else "")
        return shown


MOST_CLASSES = 12  # whose sizes are listed one by one


def data_card(runs: Sequence[RunRecord]) -> tuple[list[Table], list[str]]:
    """Return what the data of runs are, from the first that says it: parts and modalities, and its notes.

    Parts: samples, groups, and the share of each class, or of the smallest and the largest of many. Modalities: kind,
    shape, and the share of samples that lack them. Of several splits it is the first one's.
    """
    for run in runs:
        about = run.data()
        parts = {split: run.predictions(split) for split in ("valid", "test")}
        if run.state == "done" and about and any(found is not None for found in parts.values()):
            break
    else:
        return [], []
    classes = [str(name) for name in (about.get("task") or {}).get("classes") or []]
    kind = (about.get("task") or {}).get("kind")
    counts = list(about.get("class_counts") or []) if kind == "classification" else []
    lines = [{"Part": "Training", "Samples": f"{about.get('samples', 0):,}", "Groups": "–"} | _balance(counts, classes)]
    for title, found in (("Validation", parts["valid"]), ("Test", parts["test"])):
        if found is not None:
            groups = len({*found["groups"].tolist()}) if "groups" in found else 0
            own = np.bincount(found["target"].astype(int), minlength=len(classes)).tolist() if counts else []
            line = {
                "Part": title,
                "Samples": f"{len(found['ids']):,}",
                "Groups": f"{groups:,}" if groups else "–",
            }
            lines.append(line | _balance(own, classes))
    modalities = []
    for position, (name, entry) in enumerate((about.get("modalities") or {}).items()):
        shape = " x ".join(map(str, entry.get("shape") or []))
        line = {"Modality": str(name), "Kind": str(entry.get("kind", "–")), "Shape": shape}
        for title, found in (("validation", parts["valid"]), ("test", parts["test"])):
            if found is not None:
                line[f"Missing in {title} (%)"] = f"{100 * (1 - found['present'][:, position].mean()):.1f}"
        modalities.append(line)
    folds = {(run.settings.get("data") or {}).get("fold") for run in runs}
    first = ", of the first of several splits" if len(folds) > 1 else ""
    tables = [Table("parts", f"The data{first}: parts, and the share of each class (%)", pd.DataFrame(lines)),
              Table("modalities", "Its modalities", pd.DataFrame(modalities))]  # fmt: skip
    return tables, [str(note) for note in run.environment.get("notes") or []]


def _balance(counts: Sequence[int], classes: Sequence[str]) -> dict[str, str]:
    """Share of each class, or of the smallest and the largest of many."""
    total = max(1, sum(counts))
    if not counts or len(counts) != len(classes):
        return {}
    if len(counts) <= MOST_CLASSES:
        return {name: f"{100 * count / total:.1f}" for name, count in zip(classes, counts, strict=True)}
    said = {"Classes": str(sum(count > 0 for count in counts))}
    return said | {"Smallest": f"{100 * min(counts) / total:.2f}", "Largest": f"{100 * max(counts) / total:.2f}"}


def dataset_tables(dataset: str, rows: Sequence[Row]) -> list[Table]:
    """Return the scores of one data set, settings and cost behind them, and other metrics where there are any."""
    form = MetricFormat(rows[0].metric)
    reference = next((row.title for row in rows if row.strategy == row.reference), "")
    several = any(row.splits > 1 for row in rows)
    scores = [
        {
            "Method": row.title,
            f"Test {form.label}": form(row.mean),
            "95 % interval": form.interval(row.ci_low, row.ci_high),
            "SD": form(row.sd),
            **({"Splits": row.splits} if several else {}),
            "Seeds": row.seeds,
            "Rank": f"{row.rank:g}",
        }
        | (
            {
                f"Difference to {reference}": form(row.difference, signed=True),
                "its 95 % interval": form.interval(row.difference_low, row.difference_high),
                "p (Holm)": show(row.p_holm, 3),
            }
            if reference
            else {}
        )
        for row in rows
    ]
    costs = [
        {
            "Method": row.title,
            "Learning rate, options": ", ".join(filter(None, (row.lr, row.option))) or "–",
            "Last epoch": form(row.last_epoch),
            "Selection gap": form(row.selection_gap, signed=True),
            "Parameters": "–" if np.isnan(row.parameters) else f"{row.parameters:,.0f}",
            "Memory added (MB)": show(row.peak_memory_mb, 0),
            "s per epoch": show(row.seconds_per_epoch, 2),
            "s in all": show(row.seconds, 1),
        }
        for row in rows
    ]
    over = " or ".join(dict.fromkeys(row.interval for row in rows if row.interval))
    said = f"Test scores on {dataset}: means with 95 % intervals{f' over {over}' if over else ''}; the best is marked"
    if rows[0].caution:
        said += f". Left out of averages over data sets: {rows[0].caution}"
    winners = [rows.index(row) for row in best(rows)]
    tables = [
        Table("scores", said, pd.DataFrame(scores), winners),
        Table("cost", f"Settings, selection and cost on {dataset}: means over runs", pd.DataFrame(costs)),
    ]
    names = dict.fromkeys(name for row in rows for name in row.others)
    others = [
        {"Method": row.title}
        | {
            form.label: f"{form(found.mean)} {form.interval(found.low, found.high)}" if found else "–"
            for form, found in ((MetricFormat(name), row.others.get(name)) for name in names)
        }
        for row in rows
    ]
    caption = (
        f"Other metrics of the test split of {dataset}: means over runs with 95 % intervals, without resampled units"
    )
    tables += [Table("others", caption, pd.DataFrame(others))] if names else []
    units = [
        {"Method": row.title, "Counted by": unit}
        | {MetricFormat(name).label: _spread(name, *found) for name, found in own.items()}
        for row in rows
        for unit, own in row.units.items()
    ]
    caption = (
        f"Test metrics of {dataset} by what is counted: means over runs, standard deviations, and 95 % intervals, over "
        "several splits corrected for shared samples"
    )
    return [*tables, Table("units", caption, pd.DataFrame(units).fillna("–"))] if units else tables


def _spread(metric: str, found: Interval, sd: float) -> str:
    form = MetricFormat(metric)
    return f"{form(found.mean)} ± {form(sd)} {form.interval(found.low, found.high)}"


def ranks_table(rows: Sequence[Row]) -> Table:
    """Return methods over all data sets but those with a caution: ranks, wins and losses, posterior probabilities.

    Args:
        rows: of all data sets.
    """
    found = across(rows)
    titles = {row.strategy: row.title for row in rows}
    reference = next((titles[row.reference] for row in rows if row.reference in titles), "")
    baseline = next((row.title for row in found if not row.against_baseline), "")
    cells = [
        {
            "Method": row.title,
            "Mean rank": show(row.mean_rank, 2),
            "Data sets": row.datasets,
            "First on": row.wins,
            "Mean metric": MetricFormat(row.metric)(row.mean),
            f"Won/tied/lost against {reference}": row.against_reference or "–",
            f"against {baseline}": row.against_baseline or "–",
            "P(worse, same, better)": "–"
            if np.isnan(row.same)
            else f"{row.worse:.2f}, {row.same:.2f}, {row.better:.2f}",
        }
        for row in found
    ]
    if not reference or reference == baseline:
        cells = [{k: v for k, v in cell.items() if k in list(cell)[:5]} for cell in cells]
    lowest = min((row.mean_rank for row in found), default=np.nan)
    winners = [i for i, row in enumerate(found) if row.mean_rank == lowest]
    return Table(
        "ranks",
        f"Ranks over data sets; the lowest mean rank is marked. {across_words(rows)}",
        pd.DataFrame(cells),
        winners,
    )


def across_words(rows: Sequence[Row]) -> str:
    """Return in words what is known over data sets: Friedman's test, the critical difference, what is left out."""
    sets, methods = rank_matrix(rows)[1].shape
    said = []
    if sets > 1 and methods > 2:
        p, apart = friedman(rank_matrix(rows)[1]), critical_difference(methods, sets)
        said.append(
            f"Of {plural(methods, 'method')} on {plural(sets, 'data set')} Friedman's test of no difference gives "
            f"p = {p:.2g}; mean ranks are told apart (Nemenyi, level {LEVEL:g}) from a difference of {apart:.2f} on"
        )
    said.append(
        f"Tied is what is within {100 * ROPE:g} point (shares) or {100 * ROPE:g} % of the other; P is the Bayesian "
        "signed-rank test against the reference with that region of equivalence"
    )
    left = [f"{name} ({own[0].caution})" for name, own in by_dataset(rows).items() if own[0].caution]
    if left:
        said.append(f"Left out: {'; '.join(left)}")
    return ". ".join(said)


def averaged(rows: Sequence[Row]) -> bool:
    """Return whether several data sets are there to be averaged over."""
    return len({row.dataset for row in rows if not row.caution}) > 1


def runs_table(runs: Sequence[RunRecord]) -> Table:
    """Return every run folder that was read, with its score or why it has none."""
    cells = [
        {
            "Folder": str(run.path),
            "Data": run.dataset,
            "Method": run.title,
            "Split": run.split or "–",
            "Seed": run.seed,
            "Test": MetricFormat(run.primary)(run.metric("test", run.primary)),
            "State": f"{run.state}: {run.reason}" if run.reason else run.state,
        }
        for run in runs
    ]
    return Table("runs", "Every run folder that was read", pd.DataFrame(cells), words=True)


def write_tables(
    runs: Iterable[RunRecord], folder: str | Path, reference: str | None = None, formulas: bool = False
) -> list[Path]:
    """Write ``table.csv``, ``.md``, ``.tex``, and ``ranks.csv`` for several data sets; return the paths.

    Args:
        runs: records, as ``read_runs`` gives them; of those not done ``table.md`` says why they are left out.
        folder: where to; it is made.
        reference: the method that others are compared with.
        formulas: leave texts in CSV files that a spreadsheet takes for formulas (a title ``=1+1``) as they are.

    Example:
        Tables of a bench folder::

            write_tables(read_runs("runs/bench"), "tables")
    """
    folder, runs = Path(folder), list(runs)
    rows = compare(runs, reference)
    columns = [name for name in Row.__dataclass_fields__ if name not in ("others", "units")]
    plain = [row.plain() for row in rows]
    columns += dict.fromkeys(name for row in plain for name in row if name not in columns)
    frames = {"table": pd.DataFrame(plain, columns=columns)}
    if averaged(rows):
        frames["ranks"] = pd.DataFrame(across(rows))
    write_whole(folder / "table.md", markdown(rows, runs))
    write_whole(folder / "table.tex", latex(rows))
    for name, frame in frames.items():
        write_csv(folder / f"{name}.csv", frame, formulas, float_format="%.6g", lineterminator="\r\n")
    return [folder / name for name in ("table.csv", "table.md", "table.tex", "ranks.csv")[: 2 + len(frames)]]


def markdown(rows: Sequence[Row], runs: Sequence[RunRecord] = ()) -> str:
    """Return all tables as Markdown, with a list of the runs that are left out and why."""
    parts = []
    for dataset, own in by_dataset(rows).items():
        parts.append(f"## {dataset}")
        parts += [f"{table.caption}.\n\n{table.markdown()}" for table in dataset_tables(dataset, own)]
    if averaged(rows):
        table = ranks_table(rows)
        parts += ["## Across data sets", f"{table.caption}.", table.markdown()]
    missing = [f"- {run.path}: {run.state}, {run.reason}" for run in runs if run.state != "done"]
    if missing:
        parts += ["## Left out", "\n".join(missing)]
    return "\n\n".join(parts) + "\n"


def latex(rows: Sequence[Row]) -> str:
    """Return tables in the paper's form (booktabs): methods by group, mean ± half interval, the best in bold.

    First methods × data sets; then, for each data set of which more metrics are known, methods × metrics.
    """
    datasets = by_dataset(rows)
    cells = {
        (row.strategy, row.dataset): _latex_cell(row.metric, row.mean, row.ci_low, row.ci_high, row in best(own))
        for own in datasets.values()
        for row in own
    }
    ranked = across(rows)
    main = [
        (r.strategy, r.title, [*(cells.get((r.strategy, d), "--") for d in datasets), f"{r.mean_rank:.2f}"])
        for r in ranked
    ]
    parts = [f"% Test scores\n{_latex_table(main, [*datasets, 'Mean rank'])}"]
    for dataset, own in datasets.items():
        names = list(dict.fromkeys(name for row in own for name in row.others))
        if not names:
            continue
        leads = {}
        for name in names:
            known = [row.others[name].mean if name in row.others else np.nan for row in own]
            leads[name] = ranks(known, higher_is_better(name))
        body = []
        for i, row in enumerate(own):
            others = [
                _latex_cell(name, one.mean, one.low, one.high, leads[name][i] == np.nanmin(leads[name]))
                if (one := row.others.get(name))
                else "--"
                for name in names
            ]
            body.append((row.strategy, row.title, [cells[row.strategy, dataset], *others]))
        heads = [MetricFormat(name).label for name in (own[0].metric, *names)]
        said = dataset.replace("\n", " ")
        parts.append(f"% All metrics of the test split of {said}\n{_latex_table(body, heads)}")
    return "\n".join(parts)


def _latex_cell(metric: str, mean: float, low: float, high: float, bold: bool) -> str:
    form = MetricFormat(metric)
    if np.isnan(mean):
        return "--"
    number = f"{mean * form.factor:.{form.decimals}f}"
    number = rf"\mathbf{{{number}}}" if bold else number
    half = "" if np.isnan(low) else rf" \pm {(high - low) / 2 * form.factor:.{form.decimals}f}"
    return f"${number}{half}$"


def _latex_table(rows: Sequence[tuple[str, str, list[str]]], heads: Sequence[str]) -> str:
    """Return rows of strategy, title and cells as a tabular, with a rule between groups of methods."""
    line = " & ".join(["Method", *(head.translate(_LATEX) for head in heads)])
    lines = [rf"\begin{{tabular}}{{l{'c' * len(heads)}}}", r"\toprule", rf"{line} \\"]
    last = None
    for strategy, title, cells in rows:
        if group_of(strategy) != last:
            lines.append(r"\midrule")
        last = group_of(strategy)
        lines.append(rf"{' & '.join([title.translate(_LATEX), *cells])} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def show_tables(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print one table a data set, the best methods in bold: the columns that fit a screen."""
    console = console or Console(width=None if Console().is_terminal else 110)
    for dataset, own in by_dataset(rows).items():
        scores, cost = dataset_tables(dataset, own)[:2]
        shown = scores.frame.drop(columns="its 95 % interval", errors="ignore")
        frame = pd.concat([shown, cost.frame["s in all"]], axis=1)
        console.print(Table("shown", dataset, frame, scores.best).rich())
