"""Prepared folders: decoded data on disk, read through memory maps.

A prepared folder holds

- ``meta.yaml``: ``version`` (1), ``name``, ``task``, ``classes`` (in order; empty unless classification) and
  ``modalities``: name to ``kind``, ``shape``, ``vocabulary``, ``padding``, ``dtype`` and ``sha256`` of the file;
  ``plain``: modalities whose values stand in the manifest, name to ``text``, ``vector`` or ``categories`` (they are
  prepared when loaded, because words and categories are learned from the training rows); ``columns``: those that
  are loaded as contexts unless a recipe names others; ``about``: whatever the reader of the data set wants to keep.
  Written last: a folder without it is not finished.
- ``manifest.parquet``: a row a sample, in the order of the arrays, with ``id`` and ``label`` (name of the class,
  or a number; ``time`` and ``event`` for survival), ``present_<modality>`` where one may be absent, ``split``
  (train, valid, test) and ``group`` where known, and any further columns.
- ``<modality>.npy``: (N, *shape); uint8 for pixels, float16 or float32 for numbers, integers for token ids.
  Rows of an absent modality are zeros.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from modalign.data.batch import Modality
from modalign.data.dataset import MultimodalData
from modalign.data.tables.arrays import Rows, assemble, find_modality
from modalign.data.tables.files import table_arrays
from modalign.data.tables.modalities import Preparation, fit_preparation
from modalign.data.tables.rows import RowOptions, keep_rows, read_rows, unknown_columns
from modalign.data.task import Task
from modalign.errors import InputError, Problems, unknown
from modalign.settings import DataSettings

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
SURVIVAL = "time,event"


class StoredArray:
    """A ``.npy`` file as ``Rows``: opened on first use and again in each process, never copied into one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: np.ndarray | None = None
        self.shape, self.dtype = self._open().shape, self._open().dtype

    def _open(self) -> np.ndarray:
        if self._map is None:
            self._map = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return self._map

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._open()[rows])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}


def open_array(folder: str | Path, name: str, shape: Sequence[int], dtype: Any) -> np.memmap:
    """A new ``<name>.npy`` of zeros, (N, *sample), to be filled row by row while decoding."""
    path = Path(folder) / f"{name}.npy"
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=tuple(shape))


def write_prepared(
    folder: str | Path,
    name: str,
    task: Task,
    modalities: Mapping[str, Modality],
    manifest: pd.DataFrame,
    arrays: Mapping[str, np.ndarray] | None = None,
    plain: Mapping[str, str] | None = None,
    columns: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write (or, after ``open_array``, finish) a prepared folder; see the head of this file.

    Args:
        folder: made if absent.
        name: of the data set.
        task: with the classes in their order.
        modalities: what each stored array is.
        manifest: as ``manifest.parquet``; rows in the order of the arrays.
        arrays: arrays to save; those not given must already lie in the folder.
        plain: modalities that are columns of the manifest, with their kinds.
        columns: columns of the manifest that are contexts by default.
        about: further facts for ``meta.yaml`` (options of the decoding), plain values.

    Raises:
        InputError: an array is missing or disagrees with its description or with the manifest.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for key, array in (arrays or {}).items():
        np.save(folder / f"{key}.npy", array)
    problems = Problems(f"prepared folder {str(folder)!r}")
    described = {
        key: problems.trying(_describe, folder, modality, len(manifest)) for key, modality in modalities.items()
    }
    problems.stop()
    manifest.to_parquet(folder / "manifest.parquet", index=False)
    meta = {
        "version": VERSION,
        "name": name,
        "task": task.kind,
        "classes": list(task.classes),
        "modalities": described,
        "plain": dict(plain or {}),
        "columns": list(columns),
        "about": dict(about or {}),
    }
    unfinished = folder / "meta.yaml.part"
    unfinished.write_text(yaml.safe_dump(meta, sort_keys=False, allow_unicode=True), "utf-8")
    unfinished.replace(folder / "meta.yaml")
    return folder


def _describe(folder: Path, modality: Modality, rows: int) -> dict[str, Any]:
    """Entry of one modality in ``meta.yaml``."""
    path = folder / f"{modality.name}.npy"
    if not path.exists():
        raise InputError(f"modality {modality.name!r} has no array; expected {str(path)!r}")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    expected = (rows, *modality.shape)
    if array.shape != expected:
        raise InputError(
            f"{path.name} has shape {array.shape}; expected {expected}: as many rows as the manifest, samples of "
            f"kind {modality.kind}"
        )
    return {
        "kind": modality.kind,
        "shape": list(modality.shape),
        "vocabulary": modality.vocabulary,
        "padding": modality.padding,
        "dtype": str(array.dtype),
        "sha256": file_digest(path),
    }


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_prepared(
    folder: str | Path,
    settings: DataSettings,
    augment: Sequence[str] = (),
    **options: Any,
) -> MultimodalData:
    """A prepared folder as a data set; arrays stay on disk.

    Modalities, label, split, group and columns of ``settings`` are as in ``from_arrays``; where they are absent,
    all modalities, ``label``, ``split`` and ``group`` of the manifest and the columns of ``meta.yaml`` are used.

    Args:
        augment: images or clips to crop and flip at random in training.
        options: fields of ``RowOptions``.

    Raises:
        InputError: the folder is not finished or does not agree with itself; see also ``from_arrays``.
    """
    import pandas as pd

    folder = Path(folder)
    meta = read_meta(folder)
    manifest = pd.read_parquet(folder / "manifest.parquet")
    decoded, plain = meta["modalities"], meta["plain"]
    names = settings.modalities or [*decoded, *plain]
    problems = Problems(settings.name or meta["name"])
    problems += [str(unknown("modality", m, [*decoded, *plain])) for m in names if m not in decoded and m not in plain]
    opened = {m: problems.trying(_open_checked, folder, m, meta, len(manifest)) for m in names if m in decoded}
    if settings.kinds:
        problems.append("kinds are fixed in a prepared folder; leave them out, or prepare it anew")
    columns = problems.trying(table_arrays, manifest, [m for m in names if m in plain]) or {}
    problems.stop()
    chosen = _chosen(settings, meta, columns)
    problems += unknown_columns(columns, chosen)
    problems.stop()
    if settings.label is None:
        options["task"] = options.get("task") or meta["task"]
        options["classes"] = options.get("classes") or meta["classes"] or None
    how = RowOptions(**options)
    kept, flat, notes = keep_rows(columns, chosen, how, problems)
    full = np.ones(len(kept), bool)
    present = {m: flat.get(f"present_{m}", full).astype(bool) for m in names if m in decoded}
    present |= {m: find_modality(m, flat, impute=False) for m in names if m in plain}
    table = read_rows(flat, present, chosen, how, problems, kept, notes)
    stored: dict[str, Rows] = {m: array for m, array in opened.items() if array is not None}
    preparations = {m: Preparation(_modality(m, decoded[m])) for m in stored}
    for m in [m for m in names if m in plain]:
        rows = np.flatnonzero((table.parts == "train") & present[m])
        preparations[m] = fit_preparation(m, flat[m], plain[m], rows, impute=False)
        stored[m] = preparations[m].apply(columns[m])
    contents = file_digest(folder / "manifest.parquet")
    contents += "".join(f" {m} {decoded[m]['sha256'] if m in decoded else plain[m]}" for m in names)
    return assemble(
        problems.subject,
        stored,
        {m: preparations[m] for m in names},
        np.stack([present[m] for m in names], 1),
        table,
        contents,
        augment,
        settings.split_seed,
    )


def read_meta(folder: Path) -> dict[str, Any]:
    """``meta.yaml`` of a prepared folder.

    Raises:
        InputError: there is none, or it is of another version.
    """
    path = folder / "meta.yaml"
    if not path.exists():
        raise InputError(
            f"{str(folder)!r} is no finished prepared folder; expected {path.name} in it: run prepare again"
        )
    meta: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    if meta.get("version") != VERSION:
        raise InputError(f"{str(path)!r} has version {meta.get('version')}; expected {VERSION}: run prepare again")
    return meta


def _open_checked(folder: Path, name: str, meta: Mapping[str, Any], rows: int) -> StoredArray:
    path, about = folder / f"{name}.npy", meta["modalities"][name]
    if not path.exists():
        raise InputError(f"{str(path)!r} is missing; run prepare again")
    try:
        array = StoredArray(path)
    except ValueError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); run prepare again") from None
    expected = (rows, *about["shape"])
    if array.shape != expected:
        raise InputError(f"{str(path)!r} has shape {array.shape}; expected {expected}: run prepare again")
    return array


def _modality(name: str, about: Mapping[str, Any]) -> Modality:
    return Modality(name, about["kind"], tuple(about["shape"]), about["vocabulary"], about["padding"])


def _chosen(settings: DataSettings, meta: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> DataSettings:
    """The settings with what the folder says where they say nothing."""
    label = settings.label or (SURVIVAL if meta["task"] == "survival" else "label")
    group = settings.group or ("group" if "group" in columns else None)
    return replace(settings, label=label, group=group, columns=settings.columns or meta.get("columns", []))
