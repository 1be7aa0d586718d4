"""Compare runs: one row a method and data set, and one row a method across data sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from modalign.evaluation.metrics import higher_is_better
from modalign.evaluation.statistics import holm, mean_interval, mean_ranks, paired, ranks
from modalign.experiments.bench import ABLATION
from modalign.report.runs import RunRecord
from modalign.strategies import strategy_names

# The methods in the order of the paper's Table 1, then the variants of its Table 2.
ORDER = (*strategy_names(), *(variant.name for variant in ABLATION))
REFERENCE = "modalign"


@dataclass
class Row:
    """One method on one data set; columns of ``table.csv``.

    Attributes:
        mean, ci_low, ci_high: of the test metric over seeds, with the 95 % t-interval.
        rank: among the methods of the data set, by mean.
        seconds: mean time of a whole run.
        difference: mean over common seeds of this method minus the reference (ModAlign), with its interval
            and p value (paired t-test), Holm-corrected over the comparisons of the data set; and Wilcoxon's.
        lr, option: learning rate and non-default options (what ``--tune`` chose).
        last_epoch: test metric after the last epoch instead of the selected one.
        selection_gap: by how much validation flattered the selected epoch: validation minus test, in the
            direction in which more is better.
    """

    dataset: str
    strategy: str
    title: str
    metric: str
    mean: float
    ci_low: float
    ci_high: float
    seeds: int
    rank: float
    seconds: float
    difference: float
    difference_low: float
    difference_high: float
    p: float
    p_holm: float
    p_wilcoxon: float
    lr: str
    option: str
    parameters: float
    peak_memory_mb: float
    seconds_per_epoch: float
    last_epoch: float
    selection_gap: float


@dataclass
class RankRow:
    """One method across data sets.

    Attributes:
        mean_rank: mean of its ranks; datasets: on how many; wins: on how many it is first.
        mean: mean of its metric over those data sets (only where all have the same metric, else NaN).
    """

    strategy: str
    title: str
    mean_rank: float
    datasets: int
    wins: int
    mean: float
    metric: str


def order_key(strategy: str) -> tuple[int, str]:
    """Sorts strategies as the paper's tables do, unknown ones next, ModAlign last."""
    if strategy == REFERENCE:
        return (len(ORDER) + 1, strategy)
    return (ORDER.index(strategy) if strategy in ORDER else len(ORDER), strategy)


def compare(runs: Iterable[RunRecord], metric: str | None = None, reference: str = REFERENCE) -> list[Row]:
    """Rows of all data sets, methods in the paper's order.

    Args:
        runs: records; those not done are left out.
        metric: which test metric; by default the one that the runs were selected by.
        reference: the strategy that the others are compared with, seed by seed.
    """
    grouped: dict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        if run.state == "done":
            grouped[run.dataset].append(run)
    rows: list[Row] = []
    for dataset in sorted(grouped):
        chosen = metric or grouped[dataset][0].primary
        rows += _compare_one(grouped[dataset], chosen, reference)
    return rows


def _compare_one(runs: Sequence[RunRecord], metric: str, reference: str) -> list[Row]:
    methods: dict[str, dict[int, RunRecord]] = defaultdict(dict)
    for run in runs:
        methods[run.strategy][run.seed] = run
    names = sorted(methods, key=order_key)
    rows = [_row(list(methods[name].values()), metric) for name in names]
    for row, rank in zip(rows, ranks([r.mean for r in rows], higher_is_better(metric)), strict=True):
        row.rank = float(rank)
    others = [row for row in rows if row.strategy != reference and reference in methods]
    for row in others:
        _compare_with(row, methods[row.strategy], methods[reference], metric)
    for row, p in zip(others, holm([row.p for row in others]), strict=True):
        row.p_holm = float(p)
    return rows


def _row(runs: list[RunRecord], metric: str) -> Row:
    interval = mean_interval([run.metric("test", metric) for run in runs])
    sign = 1 if higher_is_better(metric) else -1
    gaps = [sign * (run.metric("valid", metric) - run.metric("test", metric)) for run in runs]
    nan = float("nan")
    return Row(
        dataset=runs[0].dataset,
        strategy=runs[0].strategy,
        title=runs[0].title,
        metric=metric,
        mean=interval.mean,
        ci_low=interval.low,
        ci_high=interval.high,
        seeds=interval.n,
        rank=nan,
        seconds=_average([run.number("seconds") for run in runs]),
        difference=nan,
        difference_low=nan,
        difference_high=nan,
        p=nan,
        p_holm=nan,
        p_wilcoxon=nan,
        lr=_distinct(f"{run.number('lr'):.3g}" for run in runs if "lr" in run.result),
        option=_distinct(run.option for run in runs if run.option),
        parameters=_average([run.number("parameters") for run in runs]),
        peak_memory_mb=_average([run.number("peak_memory_mb") for run in runs]),
        seconds_per_epoch=_average([run.number("seconds_per_epoch") for run in runs]),
        last_epoch=_average([run.metric("test_last", metric) for run in runs]),
        selection_gap=_average(gaps),
    )


def _compare_with(row: Row, runs: dict[int, RunRecord], reference: dict[int, RunRecord], metric: str) -> None:
    seeds = sorted(runs.keys() & reference.keys())
    test = paired([runs[s].metric("test", metric) for s in seeds], [reference[s].metric("test", metric) for s in seeds])
    row.difference = test.difference.mean
    row.difference_low, row.difference_high = test.difference.low, test.difference.high
    row.p, row.p_wilcoxon = test.p, test.p_wilcoxon


def _average(values: Sequence[float]) -> float:
    return mean_interval(values).mean


def _distinct(values: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(values))


def across(rows: Sequence[Row]) -> list[RankRow]:
    """One row a method over all data sets, in the paper's order."""
    datasets = sorted({row.dataset for row in rows})
    names = sorted({row.strategy for row in rows}, key=order_key)
    cell = {(row.dataset, row.strategy): row for row in rows}
    table = np.full((len(datasets), len(names)), np.nan)
    for i, dataset in enumerate(datasets):
        for j, name in enumerate(names):
            if (dataset, name) in cell:
                table[i, j] = cell[dataset, name].rank
    result = []
    for j, (name, rank) in enumerate(zip(names, mean_ranks(table), strict=True)):
        own = [cell[d, name] for d in datasets if (d, name) in cell]
        metrics = {row.metric for row in own}
        result.append(
            RankRow(
                strategy=name,
                title=own[0].title,
                mean_rank=float(rank),
                datasets=len(own),
                wins=int((table[:, j] == 1).sum()),
                mean=_average([row.mean for row in own]) if len(metrics) == 1 else float("nan"),
                metric=metrics.pop() if len(metrics) == 1 else "",
            )
        )
    return result


def by_dataset(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each data set, in order."""
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.dataset].append(row)
    return dict(grouped)


def best(rows: Sequence[Row]) -> set[str]:
    """Strategies with the best mean of a data set (set in bold)."""
    return {row.strategy for row in rows if row.rank == min(r.rank for r in rows)}
