"""Read run folders. Tolerant: what cannot be read becomes a record that says why, and the rest is shown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from modalign.errors import InputError
from modalign.evaluation.metrics import METRICS

# Files of which at least one marks a folder as a run, whatever state it is in.
_MARKS = ("recipe.yaml", "result.json", "metrics.jsonl", "environment.json", "done")


@dataclass
class RunRecord:
    """What a run folder says.

    Attributes:
        path: the folder.
        state: ``done``, ``unfinished`` (no result yet), ``untested`` (trained for a search, without a test
            score) or ``broken`` (files that cannot be read, or training diverged).
        reason: why the run is not done, in words; empty if it is.
        result: ``result.json``; recipe: ``recipe.yaml``; environment: ``environment.json``; {} if absent.
        epochs: the lines of ``metrics.jsonl``.
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
        name = said.get("variant") or said.get("strategy")
        return str(name or self.path.parent.name)

    @property
    def title(self) -> str:
        """Name in tables."""
        return str(self.result.get("title") or self.recipe.get("title") or self.strategy)

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        named = self.recipe.get("recipe", {}).get("data", {}).get("name")
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

    def metric(self, split: str, name: str) -> float:
        """A number of ``result.json``, NaN if it is not there."""
        value = self.result.get("metrics", {}).get(split, {}).get(name)
        return float("nan") if value is None else float(value)

    def number(self, name: str) -> float:
        """A top-level number of ``result.json``, NaN if it is not there."""
        value = self.result.get(name)
        return float("nan") if value is None else float(value)

    @cached_property
    def option(self) -> str:
        """The method's options where they are not the defaults, as ``name=value``."""
        chosen = self.result.get("options") or {}
        return ", ".join(f"{k}={v}" for k, v in chosen.items())

    def predictions(self, split: str = "test") -> dict[str, np.ndarray] | None:
        """The arrays of ``predictions_<split>.npz``; None where it is absent or unreadable."""
        try:
            with np.load(self.path / f"predictions_{split}.npz") as archive:
                return {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError):
            return None

    def evaluation(self) -> dict[str, Any] | None:
        """What ``modalign evaluate`` wrote; None where it was not run or cannot be read."""
        try:
            loaded = json.loads((self.path / "evaluation.json").read_text())
        except (OSError, ValueError):
            return None
        return loaded if isinstance(loaded, dict) else None


def read_runs(folders: Path | Iterable[Path]) -> list[RunRecord]:
    """Every run in ``folders``: each a run itself, or a folder that holds runs at any depth.

    Of a bench folder only ``runs/`` is read: what the search on validation left beside it is no result.

    Raises:
        InputError: a folder does not exist, or there is no run at all.
    """
    folders = [folders] if isinstance(folders, (str, Path)) else list(folders)
    found: dict[Path, RunRecord] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"no folder {folder}; give a run, or a folder that holds runs")
        for path in _run_folders(folder):
            found.setdefault(path.resolve(), read_run(path))
    if not found:
        raise InputError(
            f"no run in {', '.join(map(str, folders))}; a run is a folder that `modalign train --out` wrote"
        )
    return list(found.values())


def _run_folders(folder: Path) -> list[Path]:
    if any((folder / mark).exists() for mark in _MARKS):
        return [folder]
    folder = folder / "runs" if (folder / "runs").is_dir() else folder
    marked = {path.parent for mark in _MARKS for path in folder.rglob(mark)}
    # A run that died before its first file is an empty folder of the form .../seed3.
    empty = {path for path in folder.rglob("seed*") if path.is_dir() and not any(path.iterdir())}
    return sorted(marked | empty)


def read_run(path: Path) -> RunRecord:
    """One run folder; never raises for what is in it."""
    record = RunRecord(path)
    problems: list[str] = []
    record.recipe = _read(path / "recipe.yaml", yaml.safe_load, problems)
    record.environment = _read(path / "environment.json", json.loads, problems)
    record.result = _read(path / "result.json", json.loads, problems)
    record.epochs = _read_lines(path / "metrics.jsonl")
    if problems:
        record.state, record.reason = "broken", "; ".join(problems)
    elif not (path / "done").exists() and (path / "diverged.txt").exists():
        record.state, record.reason = "broken", f"diverged: {(path / 'diverged.txt').read_text().strip()}"
    elif not (path / "done").exists():
        record.state = "unfinished"
        record.reason = f"stopped after {len(record.epochs)} epochs; continue it with --resume"
    elif not isinstance(record.result.get("metrics"), dict):
        record.state, record.reason = "broken", "result.json is missing or holds no metrics"
    elif "test" not in record.result["metrics"]:
        record.state, record.reason = "untested", "it has no test score (a run of a search on validation)"
    return record


def _read(path: Path, parse: Any, problems: list[str]) -> dict[str, Any]:
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


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines; a line cut by a crash is dropped."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict)]
