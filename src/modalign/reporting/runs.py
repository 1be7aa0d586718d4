"""Read run folders and compare them: one record a run, one row a method and data set, one row a method over all.

Run folders are read as plain JSON and YAML, without torch. What cannot be read becomes a record that says why, and the
rest is shown.
"""

from __future__ import annotations

import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from modalign.errors import RunFolderError
from modalign.evaluation.metrics import METRICS, higher_is_better
from modalign.evaluation.statistics import holm, mean_interval, paired, ranks

REFERENCE = "modalign"
# The methods in the order of the paper's Table 1, then the variants of its Table 2. Written down here, and held equal
# to the methods' own list by a test, because their modules import torch and a report needs none.
ORDER = (
    "unimodal", "ensemble", "late_fusion", "joint", "joint_long", "joint_mlp", "joint_unimodal", "infonce", "mmpareto",
    "diagnose_relearn", "reconboost", "ogm_ge", "pmr", "opm", "mla", "dgl", "no_objective", "no_margin", "no_prior", "no_context",
)  # fmt: skip
# Files of which at least one marks a folder as a run, whatever state it is in.
_MARKS = ("recipe.yaml", "result.json", "metrics.jsonl", "environment.json", "done")
_NAN = float("nan")


@dataclass
class RunRecord:
    """What a run folder says.

    Attributes:
        path: the folder.
        state: ``done``, ``unfinished`` (no result yet), ``untested`` (trained for a search, without a test
            score) or ``broken`` (files that cannot be read, or training diverged).
        reason: why the run is not done, in words; empty if it is.
        result: ``result.json``; recipe: ``recipe.yaml``; environment: ``environment.json``; {} if absent.
        epochs: the lines of ``metrics.jsonl``: ``epoch, train, valid, log, ...``.
    """

    path: Path
    state: Literal["done", "unfinished", "untested", "broken"] = "done"
    reason: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def strategy(self) -> str:
        """Name of the strategy (a variant's own name where the run is an ablation)."""
        said = {**self.recipe, **self.result}
        return str(said.get("variant") or said.get("strategy") or self.path.parent.name)

    @property
    def title(self) -> str:
        """Name in tables."""
        return str(self.result.get("title") or self.recipe.get("title") or self.strategy)

    @property
    def settings(self) -> dict[str, Any]:
        """Data, model and training settings as nested dicts; {} where the folder does not say."""
        found = self.recipe.get("recipe")
        return found if isinstance(found, dict) else {}

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        named = (self.settings.get("data") or {}).get("name")
        return str(self.result.get("dataset") or named or self.path.parent.parent.name)

    @property
    def seed(self) -> int:
        """Seed of the run, -1 if unknown."""
        return int(self.result.get("seed", self.recipe.get("seed", -1)))

    @property
    def task(self) -> str:
        """Kind of task."""
        return str(self.result.get("task", "classification"))

    @property
    def primary(self) -> str:
        """The metric that the run was selected by."""
        return str(self.result.get("metric") or METRICS[self.task][0])

    @property
    def option(self) -> str:
        """The method's options where they are not the defaults, as ``name=value``."""
        return ", ".join(f"{k}={v}" for k, v in (self.result.get("options") or {}).items())

    def metric(self, split: str, name: str) -> float:
        """Return a number of ``result.json``, NaN if it is not there."""
        value = self.result.get("metrics", {}).get(split, {}).get(name)
        return _NAN if value is None else float(value)

    def number(self, name: str) -> float:
        """Return a top-level number of ``result.json``, NaN if it is not there."""
        value = self.result.get(name)
        return _NAN if value is None else float(value)

    def curve(self, part: str, name: str) -> np.ndarray:
        """Return ``name`` of ``train``, ``valid`` or ``log`` by epoch, (epochs,); NaN where it is not there."""
        values = [(line.get(part) or {}).get(name) for line in self.epochs]
        return np.array([_NAN if v is None else v for v in values], np.float64)

    def predictions(self) -> dict[str, np.ndarray] | None:
        """Return the arrays of ``predictions_test.npz``; None where it is absent or unreadable."""
        try:
            with np.load(self.path / "predictions_test.npz") as archive:
                return {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None

    def evaluation(self) -> dict[str, Any] | None:
        """Return what ``modalign evaluate`` wrote; None where it was not run or cannot be read."""
        return _read(self.path / "evaluation.json", json.loads, []) or None


def read_runs(folders: str | Path | Iterable[str | Path]) -> list[RunRecord]:
    """Return every run in ``folders``: each a run itself, or a folder that holds runs at any depth.

    Of a bench folder only ``runs/`` is read: what the search on validation left beside it is no result.

    Raises:
        RunFolderError: a folder does not exist, or there is no run at all.
    """
    folders = [folders] if isinstance(folders, (str, Path)) else list(folders)
    found: dict[Path, RunRecord] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise RunFolderError(f"no folder {folder}; give a run, or a folder that holds runs")
        inner = folder / "runs" if (folder / "runs").is_dir() else folder
        paths = {path.parent for mark in _MARKS for path in inner.rglob(mark)}
        # A run that died before its first file is an empty folder of the form .../seed3.
        paths |= {path for path in inner.rglob("seed*") if path.is_dir() and not any(path.iterdir())}
        for path in [folder] if any((folder / mark).exists() for mark in _MARKS) else sorted(paths):
            found.setdefault(path.resolve(), read_run(path))
    if not found:
        said = ", ".join(map(str, folders))
        raise RunFolderError(f"no run in {said}; a run is a folder that `modalign train --out` wrote")
    return list(found.values())


def read_run(path: str | Path) -> RunRecord:
    """Return one run folder's record; what is wrong in the folder is said in it, and never raised.

    >>> record = read_run("no/such/run/seed0")
    >>> record.state, record.reason
    ('unfinished', 'stopped after 0 epochs; continue it with --resume')
    """
    path, problems = Path(path), []  # type: ignore[var-annotated]
    record = RunRecord(path)
    record.recipe = _read(path / "recipe.yaml", yaml.safe_load, problems)
    record.environment = _read(path / "environment.json", json.loads, problems)
    record.result = _read(path / "result.json", json.loads, problems)
    lines = path / "metrics.jsonl"
    for text in lines.read_text(errors="replace").splitlines() if lines.exists() else []:
        with suppress(ValueError):  # a line cut by a crash is dropped
            if isinstance(line := json.loads(text), dict):
                # Version 0.1.0 said "facts" for what is called "log" since.
                record.epochs.append({"log" if key == "facts" else key: value for key, value in line.items()})
    metrics = record.result.get("metrics")
    if problems:
        record.state, record.reason = "broken", "; ".join(problems)
    elif not (path / "done").exists() and (path / "diverged.txt").exists():
        record.state, record.reason = "broken", f"diverged: {(path / 'diverged.txt').read_text().strip()}"
    elif not (path / "done").exists():
        record.state = "unfinished"
        record.reason = f"stopped after {len(record.epochs)} epochs; continue it with --resume"
    elif not isinstance(metrics, dict) or not all(isinstance(values, dict) for values in metrics.values()):
        record.state, record.reason = "broken", "result.json is missing or holds no metrics"
    elif "test" not in metrics:
        record.state, record.reason = "untested", "it has no test score (a run of a search on validation)"
    return record


def _read(path: Path, parse: Callable[[str], Any], problems: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        loaded = parse(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(f"{path.name} cannot be read ({type(error).__name__})")
        return {}
    if not isinstance(loaded, dict):
        problems.append(f"{path.name} holds no mapping")
        return {}
    return loaded


@dataclass
class Row:
    """One method on one data set; columns of ``table.csv``.

    Attributes:
        mean, ci_low, ci_high: test metric over seeds, with its 95 % t-interval.
        rank: rank among the methods of the data set, by mean.
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
    rank: float = _NAN
    seconds: float = _NAN
    difference: float = _NAN
    difference_low: float = _NAN
    difference_high: float = _NAN
    p: float = _NAN
    p_holm: float = _NAN
    p_wilcoxon: float = _NAN
    lr: str = ""
    option: str = ""
    parameters: float = _NAN
    peak_memory_mb: float = _NAN
    seconds_per_epoch: float = _NAN
    last_epoch: float = _NAN
    selection_gap: float = _NAN


@dataclass
class RankRow:
    """One method across data sets; columns of ``ranks.csv``.

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
    """Return the key that sorts strategies as the paper's tables do, unknown ones next, ModAlign last.

    >>> sorted(["modalign", "pmr", "mine", "joint"], key=order_key)
    ['joint', 'pmr', 'mine', 'modalign']
    """
    if strategy == REFERENCE:
        return (len(ORDER) + 1, strategy)
    return (ORDER.index(strategy) if strategy in ORDER else len(ORDER), strategy)


def compare(runs: Iterable[RunRecord]) -> list[Row]:
    """Return the rows of all data sets, methods in the paper's order, compared with ModAlign seed by seed.

    Args:
        runs: records; those not done are left out, the others judged by the metric that they were selected by.
    """
    methods: dict[str, dict[str, dict[int, RunRecord]]] = defaultdict(lambda: defaultdict(dict))
    primary: dict[str, str] = {}
    for run in runs:
        if run.state == "done":
            primary.setdefault(run.dataset, run.primary)
            methods[run.dataset][run.strategy][run.seed] = run
    rows: list[Row] = []
    for dataset in sorted(methods):
        own = methods[dataset]
        names = sorted(own, key=order_key)
        chosen = primary[dataset]
        found = [_row(list(own[name].values()), chosen) for name in names]
        for row, rank in zip(found, ranks([row.mean for row in found], higher_is_better(chosen)), strict=True):
            row.rank = float(rank)
        others = [row for row in found if row.strategy != REFERENCE and REFERENCE in own]
        for row in others:
            seeds = sorted(own[row.strategy].keys() & own[REFERENCE].keys())
            scores = [[own[name][seed].metric("test", chosen) for seed in seeds] for name in (row.strategy, REFERENCE)]
            test = paired(*scores)
            row.difference, row.p, row.p_wilcoxon = test.difference.mean, test.p, test.p_wilcoxon
            row.difference_low, row.difference_high = test.difference.low, test.difference.high
        for row, p in zip(others, holm([row.p for row in others]), strict=True):
            row.p_holm = float(p)
        rows += found
    return rows


def _row(runs: Sequence[RunRecord], metric: str) -> Row:
    """Return the row of one method, but for its rank and its comparison with others."""
    interval = mean_interval([run.metric("test", metric) for run in runs])
    sign = 1 if higher_is_better(metric) else -1
    lrs = [f"{run.number('lr'):.3g}" for run in runs if "lr" in run.result]
    numbers = {
        name: mean_interval([run.number(name) for run in runs]).mean
        for name in ("seconds", "parameters", "peak_memory_mb", "seconds_per_epoch")
    }
    return Row(
        runs[0].dataset, runs[0].strategy, runs[0].title, metric,
        interval.mean, interval.low, interval.high, interval.n,
        lr=" / ".join(dict.fromkeys(lrs)),
        option=" / ".join(dict.fromkeys(run.option for run in runs if run.option)),
        last_epoch=mean_interval([run.metric("test_last", metric) for run in runs]).mean,
        selection_gap=mean_interval(
            [sign * (run.metric("valid", metric) - run.metric("test", metric)) for run in runs]
        ).mean,
        **numbers,
    )  # fmt: skip


def across(rows: Sequence[Row]) -> list[RankRow]:
    """Return one row a method over all data sets, in the paper's order."""
    datasets = sorted({row.dataset for row in rows})
    names = sorted({row.strategy for row in rows}, key=order_key)
    cell = {(row.dataset, row.strategy): row for row in rows}
    found = []
    for name in names:
        own = [cell[d, name] for d in datasets if (d, name) in cell]
        same = len({row.metric for row in own}) == 1
        mean, metric = (mean_interval([row.mean for row in own]).mean, own[0].metric) if same else (_NAN, "")
        rank, wins = mean_interval([row.rank for row in own]).mean, sum(row.rank == 1 for row in own)
        found.append(RankRow(name, own[0].title, rank, len(own), wins, mean, metric))
    return found


def by_dataset(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each data set, in order."""
    return {name: [row for row in rows if row.dataset == name] for name in dict.fromkeys(row.dataset for row in rows)}


def best(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of one data set with the best mean: several where they are equal, none where none is known."""
    lowest = min((row.rank for row in rows if not np.isnan(row.rank)), default=None)
    return [row for row in rows if row.rank == lowest]


def headline(rows: Sequence[Row]) -> Row:
    """Return the row of ModAlign where it was run, else of the best method."""
    return next((row for row in rows if row.strategy == REFERENCE), (best(rows) or list(rows))[0])
