"""Experiment trackers: what a run tells a CSV file, TensorBoard, Weights & Biases or MLflow of every epoch.

The run folder holds all of it anyway. A tracker that fails is left alone with a warning, and training goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import yaml

from modalign.errors import SettingsError
from modalign.files import write_csv, write_whole
from modalign.training.run import DESCRIPTIONS, RunFolder, RunSpec


class _Backend(Protocol):
    """One connection: ``log`` takes the numbers of an epoch, ``close`` the files of the run and a folder of more."""

    def log(self, numbers: dict[str, float], step: int) -> None: ...

    def close(self, run: RunFolder, drawn: Path) -> None: ...


class Tracker:
    """The tracker of one run, on its first process.

    Args:
        kind: of ``training.logger``.
        open_: makes the connection; whatever it raises is a warning.
        draw: writes tables and figures of a finished run (its folder) into a folder.
    """

    def __init__(
        self, kind: str, open_: Callable[[], _Backend], draw: Callable[[Path, Path], object] | None = None
    ) -> None:
        self._kind, self._open, self._draw = kind, open_, draw
        self._backend: _Backend | None = None

    def start(self) -> None:
        """Open it, once a run that goes on has dropped what a killed process logged beyond its checkpoint."""
        with self._forgiven():
            self._backend = self._open()

    def epoch(self, record: dict[str, Any]) -> None:
        """Tell it the record of an epoch."""
        with self._forgiven():
            if self._backend is not None:
                self._backend.log(_numbers(record), record["epoch"])

    def close(self, run: RunFolder) -> None:
        """Hand over the files of the run, as far as they are there, with tables and figures of it, and part."""
        with self._forgiven(), tempfile.TemporaryDirectory() as folder:
            if self._backend is None:
                return
            if self._draw is not None and run.done:
                try:
                    self._draw(run.folder, Path(folder))
                except Exception as error:
                    warnings.warn(
                        f"tables and figures for {self._kind} could not be drawn ({type(error).__name__}: {error}); "
                        "the report of the run folder has them",
                        stacklevel=2,
                    )
            self._backend.close(run, Path(folder))

    @contextlib.contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._backend = None
            warnings.warn(
                f"the tracker {self._kind} failed ({type(error).__name__}: {error}); training goes on without it, and "
                "the run folder keeps every number",
                stacklevel=3,
            )


def flat(nested: dict[str, Any], joint: str = "/") -> dict[str, Any]:
    """Return the values of nested dicts by path.

    >>> flat({"epoch": 1, "valid": {"accuracy": 0.5}})
    {'epoch': 1, 'valid/accuracy': 0.5}
    """
    found: dict[str, Any] = {}
    for name, value in nested.items():
        inner = flat(value, joint) if isinstance(value, dict) else {}
        found |= {f"{name}{joint}{path}": leaf for path, leaf in inner.items()} or {name: value}
    return found


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in flat(record).items() if isinstance(value, int | float)}


def check_logger(kind: str) -> None:
    """See that the tracker is installed.

    Raises:
        SettingsError: it is not; the message names the extra.
    """
    if kind in ("tensorboard", "wandb", "mlflow") and find_spec(kind) is None:
        raise SettingsError(f"training.logger {kind!r} needs {kind}: pip install 'modalign[{kind}]'")


@contextlib.contextmanager
def tracked(
    spec: RunSpec, run: RunFolder, here: bool, draw: Callable[[Path, Path], object] | None = None
) -> Iterator[Tracker | None]:
    """Yield the tracker that the settings name, where there is one and this is the process for it; close it then."""
    kind = spec.recipe.training.logger
    if kind == "none" or not here:
        yield None
        return
    name = f"{spec.recipe.data.shown} {spec.title or spec.variant or spec.strategy} seed {spec.seed}"
    settings = spec.plain()
    made: dict[str, Callable[[], _Backend]] = {
        "csv": lambda: _Csv(run),
        "tensorboard": lambda: _TensorBoard(run, settings),
        "wandb": lambda: _Wandb(name, run, settings),
        "mlflow": lambda: _Mlflow(name, run, settings),
    }
    tracker = Tracker(kind, made[kind], None if kind == "csv" else draw)
    try:
        yield tracker
    finally:
        tracker.close(run)


class _Csv:
    """``metrics.csv`` of the run, a line an epoch, written whole each time."""

    def __init__(self, run: RunFolder) -> None:
        self._path = run.folder / "metrics.csv"
        self._lines = [_numbers(record) for record in run.metrics()]

    def log(self, numbers: dict[str, float], step: int) -> None:
        import pandas as pd

        self._lines.append(numbers)
        write_csv(self._path, pd.DataFrame(self._lines), False)

    def close(self, run: RunFolder, drawn: Path) -> None:
        """Do nothing: the file is whole."""


class _TensorBoard:
    """Event files in a folder of the run, made anew from ``metrics.jsonl`` when a run goes on."""

    def __init__(self, run: RunFolder, settings: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        self._writer.add_text("settings", f"```yaml\n{yaml.safe_dump(settings, sort_keys=False)}```")
        for record in run.metrics():
            self.log(_numbers(record), record["epoch"])

    def log(self, numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, run: RunFolder, drawn: Path) -> None:
        import numpy as np
        from PIL import Image

        for path in sorted(drawn.rglob("*.png")):
            with Image.open(path) as picture:
                self._writer.add_image(f"figures/{path.stem}", np.asarray(picture.convert("RGB")), dataformats="HWC")
        for path in sorted(drawn.rglob("*.md")):
            self._writer.add_text(f"tables/{path.stem}", path.read_text("utf-8"))
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases, gone on with under its name in ``tracker.json``."""

    def __init__(self, name: str, run: RunFolder, settings: dict[str, Any]) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", "modalign")
        self._run = wandb.init(
            project=project, name=name, id=_known(run), resume="allow", dir=run.folder, config=settings
        )
        _keep(run, self._run.id)

    def log(self, numbers: dict[str, float], step: int) -> None:
        self._run.log(numbers, step=step)

    def close(self, run: RunFolder, drawn: Path) -> None:
        import wandb

        files = wandb.Artifact(f"run-{self._run.id}", "run")
        for path in _there(run):
            files.add_file(path)
        files.add_dir(str(drawn))
        self._run.log_artifact(files)
        self._run.finish()


class _Mlflow:
    """A run of MLflow in the store that ``MLFLOW_TRACKING_URI`` names, gone on with under its name."""

    def __init__(self, name: str, run: RunFolder, settings: dict[str, Any]) -> None:
        import mlflow

        self._mlflow = mlflow
        known = _known(run)
        started = mlflow.start_run(run_id=known, run_name=None if known else name)
        _keep(run, started.info.run_id)
        if known is None:
            mlflow.log_params({key: str(value)[:500] for key, value in flat(settings, ".").items()})

    def log(self, numbers: dict[str, float], step: int) -> None:
        self._mlflow.log_metrics(numbers, step=step)

    def close(self, run: RunFolder, drawn: Path) -> None:
        for path in _there(run):
            self._mlflow.log_artifact(path)
        self._mlflow.log_artifacts(str(drawn))
        self._mlflow.end_run("FINISHED" if run.done else "FAILED")


def _there(run: RunFolder) -> list[str]:
    return [str(path) for name in (*DESCRIPTIONS, "metrics.jsonl") if (path := run.folder / name).exists()]


def _known(run: RunFolder) -> str | None:
    """Under which name the tracker knows this run, from an earlier session."""
    path = run.folder / "tracker.json"
    return str(json.loads(path.read_text("utf-8"))["id"]) if path.exists() else None


def _keep(run: RunFolder, identity: str) -> None:
    write_whole(run.folder / "tracker.json", json.dumps({"id": identity}))
