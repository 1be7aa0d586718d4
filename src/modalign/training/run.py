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
import errno
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
import yaml

from modalign.domains import Checked, Seed
from modalign.errors import RunFolderError, option
from modalign.files import check_claim, check_inside, in_use, read_settings, read_text, reading, write_whole, writing
from modalign.recipes import recipe_from_plain
from modalign.settings import Recipe

# Settings that change how long a run takes and not what it gives: an interrupted run may go on with others.
_WITHOUT_EFFECT = {"cache_features", "logger"}
DESCRIPTIONS = ("recipe.yaml", "data.json", "network.json", "environment.json", "survival.json", "result.json")
"""Files of a run folder that say what was trained and what it reached; with the weights they are all it predicts by."""
_WROTE = "what training wrote"
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
        """Return the inverse of ``plain``; nothing that the settings name is imported.

        Raises:
            RunFolderError: the values have not the form that ``plain`` gives.
        """
        with reading("recipe.yaml of a run", _WROTE, RunFolderError):
            spec = cls(**{**plain, "recipe": recipe_from_plain(plain["recipe"])})
            forms = {"strategy": str, "seed": int, "options": dict, "variant": str, "title": str}
            for name, kind in forms.items():
                if not isinstance(getattr(spec, name), kind):
                    raise TypeError(f"{name} is {getattr(spec, name)!r}, which is no {kind.__name__}")
        return spec


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
        with reading(self.folder, "a folder that can be read", RunFolderError, f"choose another {option('out')}"):
            if not in_use(self.folder):
                return
            parts = [self.folder / name for name in ("checkpoints", "code", "metrics.jsonl", "checkpoints/last.pt")]
            check_inside(self.folder, *parts)
        if not resume:
            raise RunFolderError(
                f"output folder {self.folder} is in use; choose another {option('out')}, or add "
                f"{option('resume', True)} to go on with it"
            )
        if (self.folder / "recipe.yaml").exists():
            changed = differences(self.spec(), spec.plain())
            if changed:
                raise RunFolderError(
                    f"{self.folder} holds a run with other settings: {'; '.join(changed)}. "
                    f"Resume with the same settings, or choose another {option('out')}"
                )

    def create(self, spec: RunSpec, notes: list[str], fingerprint: str, about: dict[str, dict[str, Any]]) -> None:
        """Make the folder and write what was asked, where it runs, and ``about``: file name to JSON."""
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
        return read_settings(path, _WROTE, RunFolderError)

    def spec(self) -> dict[str, Any]:
        """Return the run's settings as nested dicts.

        Raises:
            RunFolderError: the folder is not a run.
        """
        path = self.folder / "recipe.yaml"
        if not path.exists():
            raise RunFolderError(f"{self.folder} is not a run folder: it has no recipe.yaml")
        return read_settings(path, _WROTE, RunFolderError)

    def log(self, record: dict[str, Any]) -> None:
        """Append one epoch's record to ``metrics.jsonl``."""
        path = self.folder / "metrics.jsonl"
        with writing(path), path.open("a") as stream:
            stream.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return all epochs' records."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        with reading(path, "a line of JSON an epoch", RunFolderError):
            return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    def forget_after(self, epochs: int) -> None:
        """Drop what a killed run logged beyond its checkpoint: records of epochs from ``epochs`` on."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            # A torn last line is beyond the checkpoint too.
            lines = read_text(path, _WROTE, RunFolderError).splitlines()[:epochs]
            write_whole(path, "".join(line + "\n" for line in lines))

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint; a kill at any moment leaves the former or the new one whole."""
        path = self._checkpoint(name)

        def write(stream: BinaryIO) -> None:
            try:
                torch.save(state, stream)
            except RuntimeError as error:  # torch says no more than that writing failed
                raise OSError(errno.ENOSPC, "No space left on device") from error

        write_whole(path, write)

    def load(self, name: str) -> dict[str, Any]:
        """Read a checkpoint (tensors and plain values only: no code of the file is run)."""
        path = self._checkpoint(name)
        if not path.exists():
            unfinished = f": its training has not ended, go on with it by {option('resume', True)}"
            told = unfinished if self.resumable and not self.done else f"; expected {path}"
            raise RunFolderError(f"{self.folder} has no checkpoint {name!r}{told}")
        whole = "a whole file of tensors and plain values, as training wrote it"
        with reading(path, whole, RunFolderError, "restore it, or train again into another folder"):
            with zipfile.ZipFile(path) as archive:  # torch does not compare the checksums that it wrote
                check_claim(sum(part.file_size for part in archive.infolist()), str(path), RunFolderError)
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"{damaged} in it has another checksum")
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict):
                raise TypeError(f"it holds a {type(state).__name__}")
        return state

    def write_predictions(self, split: str, arrays: dict[str, np.ndarray]) -> None:
        """Write ``predictions_<split>.npz``."""
        write_whole(self.folder / f"predictions_{split}.npz", partial(np.savez_compressed, **arrays))  # type: ignore[arg-type]

    def clear_partial(self) -> None:
        """Remove what killed processes left half-written."""
        for left in self.folder.rglob(".*.partial"):
            left.unlink(missing_ok=True)

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
            raise RunFolderError(f"run {self.folder} is not finished; go on with train and {option('resume', True)}")
        return read_settings(self.folder / "result.json", _WROTE, RunFolderError)

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
