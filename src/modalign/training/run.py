"""The run folder: all the state there is of a training. Reports read it, nothing else is kept anywhere.

recipe.yaml               what was asked
environment.json          where it ran
data.json                 what the data is, without samples, and how raw rows become inputs
network.json              configurations of large networks
code/                     classes of one's own, where there are any
metrics.jsonl             one line an epoch
checkpoints/{last,best}.pt
predictions_{valid,test}.npz
result.json, done         written last
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import numpy as np
import torch
import yaml

from modalign.domains import Checked, Seed
from modalign.errors import RunFolderError
from modalign.recipes import recipe_from_plain
from modalign.settings import Recipe

# Settings that change how long a run takes and not what it gives: an interrupted run may go on with others.
_WITHOUT_EFFECT = {"cache_features"}
_PACKAGES = ("modalign", "torch", "numpy", "lightning-fabric", "transformers", "scikit-learn")


@dataclass
class RunSpec(Checked):
    """What determines a run: the same spec on the same data, machine and versions gives the same run.

    Attributes:
        strategy: name of the method.
        seed: seed of initial weights, order of samples and dropout.
        recipe: data, model and budget.
        options: options of the strategy.
        variant, title: name and title in tables where a strategy is compared with itself (ablation); else empty.
    """

    where: ClassVar[str] = ""

    strategy: str
    seed: Seed
    recipe: Recipe
    options: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    title: str = ""

    def plain(self) -> dict[str, Any]:
        """As nested dicts of plain values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> RunSpec:
        """Return the inverse of ``plain``; nothing that the settings name is imported."""
        return cls(**{**plain, "recipe": recipe_from_plain(plain["recipe"])})


class RunFolder:
    """Read and write one run folder.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def done(self) -> bool:
        """Whether the run came to its end."""
        return (self.folder / "done").exists()

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self._checkpoint("last").exists()

    def check_free(self, spec: RunSpec, resume: bool) -> None:
        """See that the folder can be written to.

        Raises:
            RunFolderError: it holds something already and ``resume`` is off; or it holds a run with other settings.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise RunFolderError(f"output {self.folder} is a file; expected a folder, or a path that does not exist")
        if not self.folder.exists() or not any(self.folder.iterdir()):
            return
        if not resume:
            raise RunFolderError(
                f"output folder {self.folder} is in use; choose another --out, or add --resume to go on with it"
            )
        if (self.folder / "recipe.yaml").exists():
            changed = differences(self.spec(), spec.plain())
            if changed:
                raise RunFolderError(
                    f"{self.folder} holds a run with other settings: {'; '.join(changed)}. "
                    "Resume with the same settings, or choose another --out"
                )

    def create(self, spec: RunSpec, notes: list[str], fingerprint: str, about: dict[str, dict[str, Any]]) -> None:
        """Make the folder and write what was asked, where it runs, and ``about``: file name to JSON."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "recipe.yaml", yaml.safe_dump(spec.plain(), sort_keys=False))
        said = environment() | {"fingerprint": fingerprint, "notes": notes}
        for name, content in {"environment.json": said, **about}.items():
            write_whole(self.folder / name, json.dumps(content, indent=1))

    def about(self, name: str) -> dict[str, Any]:
        """Return one of the JSON files that ``create`` wrote.

        Raises:
            RunFolderError: the folder does not hold it.
        """
        path = self.folder / name
        if not path.exists():
            raise RunFolderError(
                f"{self.folder} has no {name}; expected a run folder of this version of modalign: load it with the "
                "version that wrote it (environment.json names it), or train again"
            )
        loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded

    def spec(self) -> dict[str, Any]:
        """Return the run's settings as nested dicts.

        Raises:
            RunFolderError: the folder is not a run.
        """
        path = self.folder / "recipe.yaml"
        if not path.exists():
            raise RunFolderError(f"{self.folder} is not a run folder: it has no recipe.yaml")
        loaded: dict[str, Any] = yaml.safe_load(path.read_text())
        return loaded

    def log(self, record: dict[str, Any]) -> None:
        """Append one epoch's record to ``metrics.jsonl``."""
        with (self.folder / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return all epochs' records."""
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def forget_after(self, epochs: int) -> None:
        """Drop what a killed run logged beyond its checkpoint: records of epochs from ``epochs`` on."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = path.read_text().splitlines()[:epochs]  # a torn last line is beyond the checkpoint too
            write_whole(path, "".join(line + "\n" for line in lines))

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint; a kill at any moment leaves the former or the new one whole."""
        path = self._checkpoint(name)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)

    def load(self, name: str) -> dict[str, Any]:
        """Read a checkpoint (tensors and plain values only: no code of the file is run)."""
        path = self._checkpoint(name)
        if not path.exists():
            raise RunFolderError(f"{self.folder} has no checkpoint {name!r}; expected {path}")
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (UnpicklingError, EOFError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise RunFolderError(
                f"{path} is not loaded: expected a whole file of tensors and plain values ({reason})"
            ) from error
        return state

    def write_predictions(self, split: str, arrays: dict[str, np.ndarray]) -> None:
        """Write ``predictions_<split>.npz``."""
        path = self.folder / f"predictions_{split}.npz"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        os.replace(partial, path)

    def finish(self, result: dict[str, Any]) -> None:
        """Write ``result.json``, then ``done``."""
        write_whole(self.folder / "result.json", json.dumps(result, indent=2))
        write_whole(self.folder / "done", "")

    def result(self) -> dict[str, Any]:
        """Return what the finished run reached.

        Raises:
            RunFolderError: the run is not finished.
        """
        if not self.done:
            raise RunFolderError(f"run {self.folder} is not finished; go on with `modalign train ... --resume`")
        loaded: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return loaded

    def _checkpoint(self, name: str) -> Path:
        return self.folder / "checkpoints" / f"{name}.pt"


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ and matter to the result, as ``name: old -> new``."""
    found = []
    for key in sorted({*old, *new} - _WITHOUT_EFFECT):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return found


def environment() -> dict[str, Any]:
    """Versions, commit, machine and command: what a reader needs to repeat a number."""
    return {
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the checkout that the package runs from; None when installed from a wheel."""
    here = Path(__file__).resolve().parent
    if "site-packages" in here.parts:
        return None
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_whole(path: Path, text: str) -> None:
    """Write a text; a kill at any moment leaves the former file or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
