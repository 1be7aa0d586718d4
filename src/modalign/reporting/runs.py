"""Read run folders and compare them: one record a run, one row a method and data set, one row a method over all.

Run folders are read as plain JSON and YAML, without torch. What cannot be read becomes a record that says why, and the
rest is shown.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import yaml

from modalign.classes import short_name
from modalign.errors import InputError, RunFolderError, unknown
from modalign.evaluation.metrics import METRICS, SHARES, bounds, higher_is_better, weighted_metrics
from modalign.evaluation.statistics import (
    MINIMUM_PAIRS,
    Interval,
    bootstrap_weights,
    crossed_interval,
    holm,
    mean_interval,
    ranks,
    signed_rank_posterior,
    split_interval,
)
from modalign.files import file_digest, in_use, read_archive

REFERENCE = "modalign"
ROPE = 0.01
"""Half width of the region of practical equivalence between shares: one point."""
REPEATS = 400
"""Bootstrap resamples of the test units: their variance is known to 7 %."""
# The methods in the order of the paper's Table 1, then the variants of its Table 2. Written down here, and held equal
# to the methods' own list by a test, because their modules import torch and a report needs none.
GROUPS = (
    ("linear", "unimodal", "ensemble", "late_fusion"),  # no network sees two modalities
    ("joint", "joint_long", "joint_mlp", "joint_unimodal", "infonce"),
    ("mmpareto", "diagnose_relearn", "reconboost", "ogm_ge", "pmr", "opm", "mla", "dgl"),  # balance modalities
    ("no_objective", "no_margin", "no_prior", "no_context", "no_heads", "no_readout_critic"),
)
ORDER = tuple(name for group in GROUPS for name in group)
# Files of which at least one marks a folder as a run, whatever state it is in.
_MARKS = ("recipe.yaml", "result.json", "metrics.jsonl", "environment.json", "done")
_BY_SAMPLE = ("ids", "target", "scores")  # arrays of predictions with a row a sample
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
        return short_name(str(said.get("variant") or said.get("strategy") or self.path.parent.name))

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
    def key(self) -> tuple[str, int]:
        """Split, by the fingerprint of its data, and seed."""
        return str(self.result.get("fingerprint", "")), self.seed

    @property
    def split(self) -> str:
        """Which split of the data it is, for people."""
        data = self.settings.get("data") or {}
        return str(data.get("split") or "") if data.get("fold") is None else f"fold {data['fold']}"

    @property
    def caution(self) -> str:
        """Why its scores are shown and left out of averages over data sets; empty if they are not."""
        return str((self.settings.get("data") or {}).get("caution") or "")

    @property
    def ratio(self) -> float:
        """Samples tested over samples learned from (trained on or selected by); 1/3 where the run does not say."""
        sizes = self.result.get("sizes") or {}
        learned = sizes.get("train", 0) + sizes.get("valid", 0)
        return float(sizes["test"] / learned) if learned else 1 / 3

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
        options = self.result.get("options") or {}
        return ", ".join(f"{k}={float(f'{v:.4g}')}" if isinstance(v, float) else f"{k}={v}" for k, v in options.items())

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

    def data(self) -> dict[str, Any]:
        """Return the description of the training data (``DataInfo.to_dict``); {} where it is absent or unreadable."""
        found = read_mapping(self.path / "data.json", json.loads, []).get("info")
        return found if isinstance(found, dict) else {}

    def predictions(self, split: str = "test") -> dict[str, np.ndarray] | None:
        """Return the arrays of ``predictions_<split>.npz``; None where it is absent or unreadable."""
        try:
            arrays = read_archive(self.path / f"predictions_{split}.npz")
        except InputError:
            return None
        lengths = {len(arrays[name]) if name in arrays and arrays[name].ndim else -1 for name in _BY_SAMPLE}
        return arrays if len(lengths) == 1 and min(lengths) >= 0 and "classes" in arrays else None

    def evaluation(self) -> dict[str, Any] | None:
        """Return what ``modalign evaluate`` wrote; None where it was not run or cannot be read."""
        return read_mapping(self.path / "evaluation.json", json.loads, []) or None


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
        paths |= {path for path in inner.rglob("seed*") if path.is_dir() and not in_use(path)}
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
    record.recipe = read_mapping(path / "recipe.yaml", yaml.safe_load, problems)
    record.environment = read_mapping(path / "environment.json", json.loads, problems)
    record.result = read_mapping(path / "result.json", json.loads, problems)
    lines = path / "metrics.jsonl"
    for text in lines.read_text(errors="replace").splitlines() if lines.exists() else []:
        with suppress(ValueError, RecursionError):  # a line cut by a crash is dropped
            if isinstance(line := json.loads(text), dict):
                # Version 0.1.0 said "facts" for what is called "log" since.
                record.epochs.append({"log" if key == "facts" else key: value for key, value in line.items()})
    metrics = record.result.get("metrics")
    problems += _strange(record)
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


def _strange(record: RunRecord) -> list[str]:
    """Return what in the files of a run has another form than training gives it, and take it out of the record."""
    found = []
    numbers, texts = (int, float, type(None)), (str, type(None))
    forms: dict[str, Any] = dict.fromkeys(
        ("seconds", "seconds_per_epoch", "parameters", "peak_memory_mb", "lr"), numbers
    )
    forms |= dict.fromkeys(
        ("strategy", "variant", "title", "dataset", "metric", "task", "fingerprint", "contents"), texts
    )
    forms |= {"seed": int, "selected_epoch": int, "options": (dict, type(None)), "warnings": (list, type(None))}
    forms |= {"fold": (list, type(None))}
    forms |= {"sizes": (dict, type(None)), "metrics": dict, "recipe": dict, "packages": (dict, type(None))}
    parts = {"result.json": record.result, "recipe.yaml": record.recipe, "environment.json": record.environment}
    for file, values in parts.items():
        for name in [n for n in values if n in forms and not isinstance(values[n], forms[n])]:
            found.append(f"{file} has {name} {values.pop(name)!r:.40}")
    for name in [
        n for n, part in record.settings.items() if n in ("data", "training", "model") and not isinstance(part, dict)
    ]:
        found.append(f"recipe.yaml has {name} {record.settings.pop(name)!r:.40}")
    if record.result.get("task", "classification") not in METRICS:
        found.append(f"result.json has task {record.result.pop('task')!r:.40}")
    if record.result.get("metric") not in {None, *(metric for known in METRICS.values() for metric in known)}:
        found.append(f"result.json has metric {record.result.pop('metric')!r:.40}")
    fold = record.result.get("fold")
    if fold is not None and not (len(fold) == 2 and all(isinstance(k, int) and 0 < k <= 1000 for k in fold)):
        found.append(f"result.json has fold {record.result.pop('fold')!r:.40}")
    scores = record.result.get("metrics") or {}
    for split in [split for split, values in scores.items() if not _are_numbers(values)]:
        found.append(f"result.json has no numbers for {split!r}")
        scores.pop(split)
    record.epochs = [
        line for line in record.epochs if all(_are_numbers(line.get(p) or {}) for p in ("train", "valid", "log"))
    ]
    return found


def _are_numbers(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(value, (int, float, type(None))) for value in values.values())


def check_data(runs: Iterable[RunRecord]) -> None:
    """See that the data of runs are still those that they were trained on, where they lie on this machine.

    Only of files that have another size, time and hash since is the data read again and compared.

    Raises:
        RunFolderError: some are others; the message says what of them has changed.
    """
    compared: dict[str, list[Any]] = {}
    for run in runs:
        files = read_mapping(run.path / "data.json", json.loads, []).get("files")
        for name, state in files.items() if isinstance(files, dict) and run.state == "done" else ():
            path = Path(name)
            if not path.is_file() or [path.stat().st_size, path.stat().st_mtime_ns] == list(state)[:2]:
                continue
            now = compared.setdefault(name, [file_digest(path)])
            if now[0] != list(state)[-1]:
                _read_again(run)
                break


def _read_again(run: RunRecord) -> None:
    """Read the data of a run whose files have changed, and raise if what is read has changed too."""
    from modalign.data.load import load_data
    from modalign.recipes import recipe_from_plain
    from modalign.training.build import check_same_data
    from modalign.training.run import RunFolder

    try:
        data = load_data(recipe_from_plain({"data": {**run.settings["data"]}}).data)
        check_same_data(RunFolder(run.path), data)
    except InputError as error:
        raise RunFolderError(f"{error}\nTo report it as it is, add --outdated (outdated=True in Python)") from error


def read_mapping(path: Path, parse: Callable[[str], Any], problems: list[str]) -> dict[str, Any]:
    """Return the mapping in a file, {} where there is none; what is wrong is added to ``problems``."""
    if not path.exists():
        return {}
    try:
        loaded = parse(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError, MemoryError) as error:
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
        mean, ci_low, ci_high: test metric over splits and seeds, with its 95 % interval; of what, ``interval`` says:
            ``splits`` (corrected resampled t-interval), ``seeds and test units`` (one split, crossed), ``test units``
            (one seed) or ``seeds`` (Student's, where no predictions are kept).
        seeds, splits: how many of each; sd: standard deviation over splits (of means over seeds), or over the seeds of
            a single split.
        rank: rank among the methods of the data set, by mean.
        reference: the method that all are compared with.
        difference: mean of this method minus the reference over common splits and seeds, with an interval of the same
            kind and its p value, Holm-corrected over the comparisons of the data set. No p below five splits, or
            seeds of a single split, nor where differences do not vary.
        pairs: common runs behind the difference.
        caution: why the data set is left out of averages over data sets, else empty.
        lr, option: learning rate and non-default options (what ``--tune`` chose).
        last_epoch: test metric after the last epoch instead of the selected one.
        selection_gap: by how much validation flattered the selected epoch: validation minus test, in the
            direction in which more is better.
        seconds: mean time of a whole run.
        others: the other test metrics of all runs, each as its mean with its 95 % interval over splits or seeds.
        units: the same of all test metrics by each way to count that the data set has (patch, region, patient), with
            the standard deviation after it.
    """

    dataset: str
    strategy: str
    title: str
    metric: str
    mean: float
    ci_low: float
    ci_high: float
    seeds: int
    splits: int = 1
    sd: float = _NAN
    interval: str = ""
    rank: float = _NAN
    seconds: float = _NAN
    reference: str = ""
    difference: float = _NAN
    difference_low: float = _NAN
    difference_high: float = _NAN
    pairs: int = 0
    p: float = _NAN
    p_holm: float = _NAN
    caution: str = ""
    lr: str = ""
    option: str = ""
    parameters: float = _NAN
    peak_memory_mb: float = _NAN
    seconds_per_epoch: float = _NAN
    last_epoch: float = _NAN
    selection_gap: float = _NAN
    others: dict[str, Interval] = field(default_factory=dict)
    units: dict[str, dict[str, tuple[Interval, float]]] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return the row for a data frame: means of other metrics as ``test_<metric>``, ``test_<unit>_<metric>``.

        >>> row = Row("toy", "joint", "Joint-Train", "c_index", 0.8, 0.7, 0.9, 5, others={"ibs": mean_interval([0.1])})
        >>> row.plain()["test_ibs"]
        0.1
        """
        found = dict(vars(self))
        others = {f"test_{name}": interval.mean for name, interval in found.pop("others").items()}
        for unit, own in found.pop("units").items():
            others |= {f"test_{unit}_{name}": interval.mean for name, (interval, _) in own.items()}
        return found | others


@dataclass
class RankRow:
    """One method across data sets; columns of ``ranks.csv``.

    Attributes:
        mean_rank: mean of its ranks; datasets: on how many; wins: on how many it is first.
        mean: mean of its metric over those data sets (only where all have the same metric, else NaN).
        against_reference, against_baseline: data sets on which it wins, ties (within ``ROPE``) and loses against the
            reference, and against the best other method; empty for itself.
        worse, same, better: posterior probabilities of the Bayesian signed-rank test against the reference.
    """

    strategy: str
    title: str
    mean_rank: float
    datasets: int
    wins: int
    mean: float
    metric: str
    against_reference: str = ""
    against_baseline: str = ""
    worse: float = _NAN
    same: float = _NAN
    better: float = _NAN


def order_key(strategy: str) -> tuple[int, str]:
    """Return the key that sorts strategies as the paper's tables do, unknown ones next, ModAlign last.

    >>> sorted(["modalign", "pmr", "mine", "joint"], key=order_key)
    ['joint', 'pmr', 'mine', 'modalign']
    """
    if strategy == REFERENCE:
        return (len(ORDER) + 1, strategy)
    return (ORDER.index(strategy) if strategy in ORDER else len(ORDER), strategy)


def group_of(strategy: str) -> int:
    """Return the position of a method's group in tables: those of ``GROUPS``, unknown ones, ModAlign.

    >>> [group_of(name) for name in ("late_fusion", "joint", "mine", "modalign")]
    [0, 1, 4, 5]
    """
    if strategy == REFERENCE:
        return len(GROUPS) + 1
    return next((i for i, names in enumerate(GROUPS) if strategy in names), len(GROUPS))


def compare(runs: Iterable[RunRecord], reference: str | None = None) -> list[Row]:
    """Return the rows of all data sets, methods in the paper's order, compared with one of them run by run.

    Args:
        runs: records; those not done are left out, the others judged by the metric that they were selected by. Splits
            of one data set are merged.
        reference: the method to compare with; by default ModAlign where it was run, else the first.

    Raises:
        RunFolderError: runs under one name are of different data or versions of the package.
        InputError: no run is of the reference.
    """
    sets: dict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        if run.state == "done":
            sets[run.dataset].append(run)
    names = sorted({run.strategy for own in sets.values() for run in own}, key=order_key)
    if reference is not None and names and reference not in names:
        raise unknown("method to compare with", reference, names)
    rows: list[Row] = []
    for dataset in sorted(sets):
        check_alike(dataset, sets[dataset])
        rows += _compare(sets[dataset], reference)
    return rows


_SPLITTING = ("fold", "folds", "split", "split_seed", "valid_seed", "valid_fraction", "title", "caution")


def check_alike(dataset: str, runs: Sequence[RunRecord]) -> None:
    """Refuse runs that stand under one name and are not of the same data, or not of the same version of the package.

    Splits may differ. Where runs keep no hash of their data without its splits, its settings stand for it.

    Raises:
        RunFolderError: says which runs differ in what.
    """

    def settings(run: RunRecord, without: Sequence[str] = ()) -> str:
        data = dict(run.settings.get("data") or {})
        options = {k: v for k, v in (data.pop("options", None) or {}).items() if not (without and k in _OPTIONS)}
        kept = {k: v for k, v in data.items() if k not in without and v is not None}
        return json.dumps([kept, options], sort_keys=True, default=str)

    keys: dict[str, Callable[[RunRecord], Any]] = {
        "versions of modalign": lambda run: (run.environment.get("packages") or {}).get("modalign"),
        "versions of the data": lambda run: run.result.get("contents") or settings(run, _SPLITTING),
        "units that metrics count": lambda run: run.result.get("scored", "samples"),
    }
    one_split: dict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        one_split[settings(run)].append(run)
    for what, key in [*keys.items(), ("versions of one split", lambda run: run.result.get("fingerprint"))]:
        for alike in one_split.values() if what not in keys else [runs]:
            first = {key(run): run for run in reversed(alike)}
            if len(first) > 1:
                paths = " and ".join(str(run.path) for run in [*first.values()][:-3:-1])
                raise RunFolderError(
                    f"runs called {dataset!r} are of {len(first)} {what}, such as {paths}; expected one, for a table "
                    "averages over them: report the folders apart, or train anew under another data.title"
                )


_OPTIONS = ("fold", "actor_seed", "test_actors")


@dataclass(frozen=True)
class _Scores:
    """Scores of a method by run, or of the difference of two, with what an interval needs.

    Attributes:
        values: (split, seed) to the score; a split goes by the fingerprint of its data.
        resampled: the same on bootstrap resamples of the test units, where predictions are kept.
        units: number of test units; ratio: samples tested over samples learned from.
    """

    values: dict[tuple[str, int], float]
    resampled: dict[tuple[str, int], np.ndarray]
    units: int
    ratio: float

    def minus(self, other: _Scores) -> _Scores:
        """Return the differences over common runs."""
        values = {k: v - other.values[k] for k, v in self.values.items() if k in other.values}
        both = {k: v - other.resampled[k] for k, v in self.resampled.items() if k in other.resampled and k in values}
        return _Scores(values, both, self.units, self.ratio)

    def by_split(self) -> list[float]:
        """Return the mean over seeds of each split; of a single split the score of each seed."""
        splits: dict[str, list[float]] = defaultdict(list)
        for (split, _), value in self.values.items():
            if not np.isnan(value):
                splits[split].append(value)
        return [float(np.mean(own)) for own in splits.values()] if len(splits) > 1 else [*chain(*splits.values())]

    def sd(self) -> float:
        """Return the standard deviation of ``by_split``, NaN of one."""
        found = self.by_split()
        return float(np.std(found, ddof=1)) if len(found) > 1 else _NAN

    def interval(self) -> tuple[Interval, str]:
        """Return the mean with its interval, and what the interval is over."""
        known = {key: value for key, value in self.values.items() if not np.isnan(value)}
        if len({split for split, _ in known}) > 1:
            return split_interval(self.by_split(), self.ratio, self._of_units()), "splits"
        if known and known.keys() <= self.resampled.keys():
            found = crossed_interval([*known.values()], np.stack([self.resampled[k] for k in known]), self.units)
            return found, "seeds and test units" if len(known) > 1 else "test units"
        return mean_interval([*known.values()]), "seeds" if len(known) > 1 else ""

    def _of_units(self) -> float:
        """Return the variance of a split's mean over seeds that comes of its test units, the mean over splits."""
        splits: dict[str, list[np.ndarray]] = defaultdict(list)
        for (split, _), replicates in self.resampled.items():
            splits[split].append(replicates)
        return float(np.mean([np.var(np.mean(own, 0), ddof=1) for own in splits.values()])) if splits else 0.0


def _scores(
    runs: Sequence[RunRecord],
    metric: str,
    weights: dict[tuple[int, bytes], np.ndarray] | None = None,
    part: str = "test",
) -> _Scores:
    """Return the scores of a method, with bootstrap replicates from the predictions that runs keep.

    Resamples are drawn once for all methods and stand in ``weights``; without it there are none. ``part`` is that of
    ``metrics`` in ``result.json``.
    """
    values = {run.key: run.metric(part, metric) for run in runs}
    resampled: dict[tuple[str, int], np.ndarray] = {}
    units = 0
    if weights is not None:
        for run in runs:
            found = _resampled(run, metric, weights)
            if found is not None:
                resampled[run.key], units = found
    return _Scores(values, resampled, units, float(np.mean([run.ratio for run in runs])))


def _resampled(
    run: RunRecord, metric: str, weights: dict[tuple[int, bytes], np.ndarray]
) -> tuple[np.ndarray, int] | None:
    """Return the metric on resamples of the test units, the same for all runs of a split, and the number of units.

    None where predictions are not kept, or do not give the score that ``result.json`` says.
    """
    kept = run.predictions()
    try:
        if kept is None:
            return None
        scores, target, groups = kept["scores"], kept["target"], kept["groups"]
        if run.result.get("scored", "samples") != "samples":
            units = kept.get("units", groups)  # version 0.1 scored samples and groups alone
            names, first, member = np.unique(units, return_index=True, return_inverse=True)
            share = (member == np.arange(len(names))[:, None]) / np.bincount(member)[:, None]
            of_classes = run.task in ("classification", "multilabel")
            with np.errstate(divide="ignore"):  # a class that no sample of a unit allows
                scores = np.log(share @ np.exp(scores)) if of_classes else share @ scores
            target, groups = target[first], groups[first] if len(groups) else groups
        drawn = weights.get(at := (len(target), groups.tobytes()))
        if drawn is None:
            drawn = weights[at] = bootstrap_weights(len(target), groups, REPEATS)
        task: Any = SimpleNamespace(kind=run.task, scale=kept.get("scale", ()))
        whole = weighted_metrics(task, scores, target, np.vstack([np.ones(len(target)), drawn]), [metric])[metric]
    except (InputError, KeyError):
        return None
    said = run.metric("test", metric)
    if not abs(whole[0] - said) <= 1e-4 * max(1.0, abs(said)):
        return None
    return whole[1:], len(np.unique(groups)) if len(groups) else len(target)


def _compare(runs: Sequence[RunRecord], reference: str | None) -> list[Row]:
    """Return the rows of one data set."""
    own: dict[str, list[RunRecord]] = defaultdict(list)
    for run in unrepeated(runs):
        own[run.strategy].append(run)
    names, metric = sorted(own, key=order_key), runs[0].primary
    default = REFERENCE if REFERENCE in own else names[0]
    compared = default if reference is None else reference
    weights: dict[tuple[int, bytes], np.ndarray] = {}
    scores = {name: _scores(own[name], metric, weights) for name in names}
    low, high = bounds(metric)
    found = []
    for name in names:
        interval, over = scores[name].interval()
        row = _row(own[name], metric, interval.within(low, high))
        row.interval, row.reference, row.sd = over, compared if compared in own else "", scores[name].sd()
        found.append(row)
    for row, rank in zip(found, ranks([row.mean for row in found], higher_is_better(metric)), strict=True):
        row.rank = float(rank)
    others = [row for row in found if row.reference and row.strategy != row.reference]
    for row in others:
        gap = scores[row.strategy].minus(scores[row.reference])
        interval = gap.interval()[0].within(low - high, high - low)
        row.pairs = sum(not np.isnan(value) for value in gap.values.values())
        row.difference, row.difference_low, row.difference_high = interval.mean, interval.low, interval.high
        row.p = interval.p if interval.n >= MINIMUM_PAIRS else _NAN
    for row, p in zip(others, holm([row.p for row in others]), strict=True):
        row.p_holm = float(p)
    return found


def unrepeated(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the first of runs that are the same method, split and seed.

    >>> runs = [RunRecord(Path(place), result={"strategy": "joint", "seed": 0}) for place in ("a", "b")]
    >>> [str(run.path) for run in unrepeated(runs)]
    ['a']
    """
    return list({(run.strategy, *run.key): run for run in reversed(runs)}.values())[::-1]


def _row(runs: Sequence[RunRecord], metric: str, interval: Interval) -> Row:
    """Return the row of one method, but for its rank and its comparison with others."""
    sign = 1 if higher_is_better(metric) else -1
    lrs = [f"{run.number('lr'):.3g}" for run in runs if "lr" in run.result]
    numbers: dict[str, Any] = {
        name: mean_interval([run.number(name) for run in runs]).mean
        for name in ("seconds", "parameters", "peak_memory_mb", "seconds_per_epoch")
    }
    others = [
        n for n in METRICS[runs[0].task] if n != metric and not np.isnan([r.metric("test", n) for r in runs]).any()
    ]
    return Row(
        runs[0].dataset, runs[0].strategy, runs[0].title, metric,
        interval.mean, interval.low, interval.high,
        len({run.seed for run in runs}), len({run.key[0] for run in runs}),
        caution=runs[0].caution,
        lr=" / ".join(dict.fromkeys(lrs)),
        option=" / ".join(dict.fromkeys(run.option for run in runs if run.option)),
        last_epoch=mean_interval([run.metric("test_last", metric) for run in runs]).mean,
        selection_gap=mean_interval(
            [sign * (run.metric("valid", metric) - run.metric("test", metric)) for run in runs]
        ).mean,
        others={name: _scores(runs, name).interval()[0].within(*bounds(name)) for name in others},
        units=_units(runs),
        **numbers,
    )  # fmt: skip


def _units(runs: Sequence[RunRecord]) -> dict[str, dict[str, tuple[Interval, float]]]:
    """Return the test metrics by each way to count that all runs have (see ``Row.units``)."""
    parts = [{*(run.result.get("metrics") or {})} for run in runs]
    counted = [part for part in runs[0].result.get("metrics") or {} if all(part in own for own in parts)]
    found: dict[str, dict[str, tuple[Interval, float]]] = {}
    for part in counted:
        if part.startswith("test_") and part != "test_last":
            scores = {name: _scores(runs, name, part=part) for name in runs[0].result["metrics"][part]}
            found[part.removeprefix("test_")] = {
                name: (own.interval()[0].within(*bounds(name)), own.sd()) for name, own in scores.items()
            }
    return found


def missing_folds(runs: Iterable[RunRecord]) -> list[str]:
    """Return which published folds runs of a data set lack, by method.

    >>> about = {"dataset": "glioma", "strategy": "joint"}
    >>> missing_folds([RunRecord(Path(str(k)), result={**about, "fold": [k, 4]}) for k in (1, 3)])
    ['glioma: joint has 2 of 4 published folds; missing are 2 and 4: run them before the mean is compared']
    """
    found: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for run in runs:
        if run.state == "done" and (fold := run.result.get("fold")):
            found[run.dataset, run.title][fold[0]] = fold[1]
    told = []
    for (dataset, title), folds in found.items():
        number = max(folds.values())
        if missing := [str(k) for k in range(1, number + 1) if k not in folds]:
            listed = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
            told.append(
                f"{dataset}: {title} has {len(folds)} of {number} published folds; missing "
                f"{'is' if len(missing) == 1 else 'are'} {listed}: run them before the mean is compared"
            )
    return told


def across(rows: Sequence[Row]) -> list[RankRow]:
    """Return one row a method over all data sets but those with a caution, in the paper's order."""
    rows = [row for row in rows if not row.caution]
    names = sorted({row.strategy for row in rows}, key=order_key)
    own = {name: [row for row in rows if row.strategy == name] for name in names}
    mean_ranks = {name: mean_interval([row.rank for row in own[name]]).mean for name in names}
    compared = next((row.reference for row in rows if row.reference), "")
    others = [name for name in names if name != compared and not np.isnan(mean_ranks[name])]
    baseline = min(others, key=mean_ranks.__getitem__) if others else ""
    found = []
    for name in names:
        same = len({row.metric for row in own[name]}) == 1
        mean, metric = (
            (mean_interval([row.mean for row in own[name]]).mean, own[name][0].metric) if same else (_NAN, "")
        )
        wins = sum(row.rank == 1 for row in own[name])
        row = RankRow(name, own[name][0].title, mean_ranks[name], len(own[name]), wins, mean, metric)
        row.against_reference, gaps = _tally(own[name], own.get(compared, []))
        row.against_baseline = _tally(own[name], own.get(baseline, []))[0]
        if name != compared and len(gaps) > 1:
            row.worse, row.same, row.better = signed_rank_posterior(gaps, ROPE)
        found.append(row)
    return found


def _tally(own: Sequence[Row], other: Sequence[Row]) -> tuple[str, list[float]]:
    """Return wins, ties and losses against another method, as text, and the gaps in which more is better.

    Gaps of metrics that are no shares are relative to the other's value.
    """
    against = {row.dataset: row for row in other}
    gaps = []
    for row in own:
        peer = against.get(row.dataset)
        if peer is None or peer is row or np.isnan(row.mean - peer.mean):
            continue
        sign = 1 if higher_is_better(row.metric) else -1
        unit = 1.0 if row.metric in SHARES else max(abs(peer.mean), 1e-12)
        gaps.append(sign * (row.mean - peer.mean) / unit)
    if not gaps:
        return "", []
    wins, losses = sum(gap > ROPE for gap in gaps), sum(gap < -ROPE for gap in gaps)
    return f"{wins}/{len(gaps) - wins - losses}/{losses}", gaps


def rank_matrix(rows: Sequence[Row]) -> tuple[list[str], np.ndarray]:
    """Return the methods that were run on all data sets without a caution, and their ranks among them.

    Returns:
        Names (M,) in the paper's order, and ranks (N, M).

    >>> rows = [Row(d, m, m, "accuracy", v, v, v, 3) for d in "ab" for m, v in (("joint", 0.8), ("modalign", 0.9))]
    >>> rank_matrix(rows)[1].tolist()
    [[2.0, 1.0], [2.0, 1.0]]
    """
    grouped = by_dataset([row for row in rows if not row.caution])
    cells = [{row.strategy: row for row in own if not np.isnan(row.mean)} for own in grouped.values()]
    names = sorted(set.intersection(*(set(cell) for cell in cells)) if cells else [], key=order_key)
    found = [
        ranks([cell[name].mean for name in names], higher_is_better(next(iter(cell.values())).metric))
        for cell in cells
        if cell
    ]
    return names, np.array(found).reshape(len(found), len(names))


def by_dataset(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each data set, in order."""
    return {name: [row for row in rows if row.dataset == name] for name in dict.fromkeys(row.dataset for row in rows)}


def best(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of one data set with the best mean: several where they are equal, none where none is known."""
    lowest = min((row.rank for row in rows if not np.isnan(row.rank)), default=None)
    return [row for row in rows if row.rank == lowest]


def headline(rows: Sequence[Row]) -> Row:
    """Return the row of the method that others are compared with, else of the best one."""
    return next((row for row in rows if row.strategy == row.reference), (best(rows) or list(rows))[0])
