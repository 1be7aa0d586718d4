"""Prepared folders: decoded data on disk, read through memory maps.

A prepared folder holds

- ``meta.yaml``: ``version`` (1), ``name``, ``task``, ``classes`` (in order; empty unless classification) and
  ``modalities``: name to ``kind``, ``shape``, ``vocabulary``, ``padding``, ``dtype`` and ``sha256`` of the file;
  ``plain``: modalities whose values stand in the manifest, name to ``text``, ``vector``, ``categories`` or columns
  (they are prepared when loaded, because words and categories are learned from training rows); ``columns``: those that
  are loaded as contexts unless a recipe names others; ``decoders``: how files become arrays
  (``decoders.make_decoder``), so that a model predicts new files; ``about``: what the reader of the data set keeps.
  Written last: a folder without it is not finished.
- ``manifest.parquet``: a row a sample, in the order of the arrays, with ``id`` and ``label`` (name of the class,
  or a number; ``time`` and ``event`` for survival), ``present_<modality>`` where one may be absent, ``split``
  (train, valid, test) and ``group`` where known, and any further columns.
- ``<modality>.npy``: (N, *shape); uint8 for pixels, float16 or float32 for numbers, integers for token ids.
  Rows of an absent modality are zeros.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import yaml

from modalign.data.batch import KINDS, Modality
from modalign.data.dataset import MultimodalData
from modalign.data.tables.array_split import Rows, StoredArray
from modalign.data.tables.files import join_columns, read_table, table_arrays
from modalign.data.tables.modalities import Preparation
from modalign.data.tables.reader import RowOptions, Source, read_source
from modalign.data.task import Task, TaskKind
from modalign.errors import DataError, InputError, Problems, unknown
from modalign.files import check_inside, file_digest, folder_name, read_settings, reading, write_whole, writing
from modalign.protocols import OURS, protocol_of
from modalign.settings import DataSettings

VERSION = 1
SURVIVAL = "time,event"
_MODALITY = ("kind", "shape", "vocabulary", "padding")


def open_array(folder: str | Path, name: str, shape: Sequence[int], dtype: Any) -> np.memmap:
    """A new ``<name>.npy`` of zeros, (N, *sample), to be filled row by row while decoding; its room is taken at once.

    Raises:
        RunError: the disk has not so much room.
    """
    path = array_path(folder, name)
    with writing(path):
        path.unlink(missing_ok=True)  # a link there is not followed
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=tuple(shape))
        if hasattr(os, "posix_fallocate"):  # a full disk while a map is written would kill the process
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def array_path(folder: str | Path, name: str) -> Path:
    """Where the array of a modality lies in a prepared folder, whatever the modality is called.

    >>> array_path("prepared", "face").name, array_path("prepared", "../face").name
    ('face.npy', 'face-e8b1580a.npy')
    """
    return Path(folder) / f"{folder_name(name)}.npy"


def write_prepared(
    folder: str | Path,
    name: str,
    task: Task,
    modalities: Mapping[str, Modality],
    manifest: pd.DataFrame,
    arrays: Mapping[str, np.ndarray] | None = None,
    plain: Mapping[str, str | list[str]] | None = None,
    columns: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
    decoders: Mapping[str, Mapping[str, Any]] | None = None,
    conditions: Mapping[str, Sequence[str]] | None = None,
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
        decoders: modality name to how its files were decoded, as ``decoders.make_decoder`` takes it.
        conditions: modality name to columns of the manifest that are its conditions by default.

    Raises:
        InputError: an array is missing or disagrees with its description or with the manifest.

    >>> import tempfile, pandas as pd
    >>> rows = pd.DataFrame({"id": list("abcdefgh"), "label": ["no", "yes"] * 4})
    >>> with tempfile.TemporaryDirectory() as place:
    ...     labs = {"labs": Modality("labs", "vector", (3,))}
    ...     made = write_prepared(place, "toy", Task(classes=("no", "yes")), labs, rows, {"labs": np.eye(8, 3)})
    ...     len(load_prepared(made, DataSettings()).train)
    4
    """
    folder = Path(folder)
    for key, array in (arrays or {}).items():
        write_whole(array_path(folder, key), partial(np.save, arr=array, allow_pickle=False))
    problems = Problems(f"prepared folder {str(folder)!r}")
    described = {}
    for key, modality in modalities.items():
        path, expected = array_path(folder, modality.name), (len(manifest), *modality.shape)
        saved = np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else None
        if saved is None:
            problems.append(f"modality {modality.name!r} has no array; expected {str(path)!r}")
        elif saved.shape != expected:
            problems.append(
                f"{path.name} has shape {saved.shape}; expected {expected}: as many rows as the manifest, samples of "
                f"kind {modality.kind}"
            )
        else:
            described[key] = {entry: getattr(modality, entry) for entry in _MODALITY}
            described[key] |= {"shape": list(modality.shape), "dtype": str(saved.dtype), "sha256": file_digest(path)}
    problems.stop()
    write_whole(folder / "manifest.parquet", partial(manifest.to_parquet, index=False))
    meta: dict[str, Any] = {"version": VERSION, "name": name, "task": task.kind, "classes": list(task.classes)}
    meta |= {"modalities": described, "plain": dict(plain or {}), "columns": list(columns), "about": dict(about or {})}
    meta["conditions"] = {m: list(named) for m, named in (conditions or {}).items()}
    meta["decoders"] = {
        key: {k: str(v).removeprefix(f"{folder}/") if k == "vocabulary" else v for k, v in options.items()}
        for key, options in (decoders or {}).items()
    }
    write_whole(folder / "meta.yaml", yaml.safe_dump(meta, sort_keys=False, allow_unicode=True))
    return folder


def load_prepared(folder: str | Path, settings: DataSettings, options: RowOptions | None = None) -> MultimodalData:
    """Return a prepared folder as a data set; arrays stay on disk.

    Modalities, label, split, group and columns of ``settings`` are as in ``from_arrays``; where they are absent,
    all modalities, ``label``, ``split`` and ``group`` of the manifest and the columns of ``meta.yaml`` are used.

    Args:
        folder: what ``write_prepared`` wrote.
        settings: data settings of the recipe.
        options: how rows are read.

    Raises:
        InputError: the folder is not finished or does not agree with itself; see also ``from_arrays``.
    """
    folder, options = Path(folder), options or RowOptions()
    meta = read_meta(folder)
    decoded, plain = meta["modalities"], meta["plain"]
    names = settings.modalities or [*decoded, *plain]
    name = settings.name or meta["name"]
    problems = Problems(name)
    problems += [str(unknown("modality", m, [*decoded, *plain])) for m in names if m not in decoded and m not in plain]
    if settings.kinds:
        problems.append("kinds are fixed in a prepared folder; leave them out, or prepare it anew")
    if options.impute and not plain:
        problems.append("impute is for columns of numbers, and all modalities of this folder are decoded; leave it out")
    options = replace(options, impute=options.impute or (meta.get("about") or {}).get("impute"))
    source = read_folder(folder, names, problems)
    # Several labels, or numbers, have a column each.
    several = meta["task"] in ("multilabel", "regression") and bool(meta["classes"])
    own = SURVIVAL if meta["task"] == "survival" else ",".join(meta["classes"]) if several else "label"
    if settings.label is None:
        options = replace(
            options,
            task=options.task or meta["task"],
            classes=options.classes or (None if several else meta["classes"]) or None,
        )
    chosen = replace(
        settings,
        modalities=names,
        kinds={m: "vector" if isinstance(plain[m], list) else plain[m] for m in names if m in plain},
        label=settings.label or own,
        group=settings.group or ("group" if "group" in source.columns else None),
        columns=settings.columns or meta.get("columns", []),
        conditions=settings.conditions or {m: c for m, c in meta.get("conditions", {}).items() if m in names},
    )
    return read_source(source, chosen, options, problems, name)


def read_folder(folder: Path, names: Sequence[str], problems: Problems) -> Source:
    """Return the columns of a prepared folder and the arrays of ``names`` in it, which stay on disk.

    Raises:
        InputError: the folder is not finished, or with ``problems`` and what is wrong with its arrays.
    """
    meta = read_meta(folder)
    manifest = read_table(folder / "manifest.parquet")
    decoded, plain = meta["modalities"], meta["plain"]
    opened: dict[str, Rows] = {}
    for m in [m for m in names if m in decoded]:
        path, expected = array_path(folder, m), (len(manifest), *decoded[m]["shape"])
        try:
            check_inside(folder, path)
            opened[m] = array = StoredArray(path)
            wrong = "" if array.shape == expected else f"has shape {array.shape}; expected {expected}:"
            if not wrong and file_digest(path) != decoded[m]["sha256"]:
                wrong = "is not what prepare wrote (its SHA-256 is another than that in meta.yaml): restore it, or"
        except FileNotFoundError:
            wrong = "is missing;"
        except InputError:
            raise
        except Exception:  # NumPy raises nearly anything on a damaged file
            wrong = "cannot be read; expected the array that prepare wrote: restore it, or"
        problems += [f"{str(path)!r} {wrong} run prepare again"] if wrong else []
    columns = problems.trying(table_arrays, manifest)
    beside = {m: plain[m] if isinstance(plain[m], list) else [] for m in names if m in plain}
    joined = problems.trying(join_columns, columns or {}, beside)
    problems.stop()
    contents = file_digest(folder / "manifest.parquet")
    contents += "".join(f" {m} {decoded[m]['sha256'] if m in decoded else plain[m]}" for m in names)
    about = {m: Modality(**{k: v for k, v in decoded[m].items() if k in _MODALITY}, name=m) for m in opened}
    told = meta.get("decoders") or (meta.get("about") or {}).get("modalities") or {}
    decoders = {m: dict(told.get(m, {})) for m in opened}
    for own in [path for path in (folder / "vocab.txt", folder / "tokenizer") if path.exists()]:
        for decoder in decoders.values():  # its own tokenizer goes before the name that it had elsewhere
            decoder |= {"vocabulary": str(own)} if decoder.get("kind") == "text" else {}
    preparations = {m: Preparation(replace(a, shape=tuple(a.shape)), decoder=decoders[m]) for m, a in about.items()}
    return Source(columns or {}, opened, preparations, joined or {}, contents)


def read_meta(folder: Path) -> dict[str, Any]:
    """``meta.yaml`` of a prepared folder.

    Raises:
        InputError: there is none, or it is of another version.
    """
    path = folder / "meta.yaml"
    if not path.exists():
        raise DataError(
            f"{str(folder)!r} is no finished prepared folder; expected {path.name} in it: run prepare again"
        )
    meta = read_settings(path, "what `modalign prepare` wrote")
    if meta.get("version") != VERSION:
        raise DataError(f"{str(path)!r} has version {meta.get('version')}; expected {VERSION}: run prepare again")
    with reading(path, "what `modalign prepare` wrote", remedy="run prepare again"):
        if meta["task"] not in get_args(TaskKind) or not isinstance(meta["classes"], list):
            raise ValueError(f"task {meta['task']!r} of classes {meta['classes']!r}")
        for entry in meta["modalities"].values():
            shape, kind = [int(length) for length in entry["shape"]], str(entry["kind"])
            if kind not in KINDS or min(shape, default=1) < 1 or not isinstance(entry["sha256"], str):
                raise ValueError(f"a modality of kind {kind!r} and shape {shape}")
            int(entry["vocabulary"]), int(entry["padding"])
        named = [k for k in meta["plain"].values() if not isinstance(k, list) or not all(isinstance(c, str) for c in k)]
        if not {*map(str, named)} <= {"text", "vector", "categories"}:
            raise ValueError(f"plain is {meta['plain']!r}")
        dict(meta.get("decoders") or {}), list(meta.get("columns") or [])
    return meta


def manifest_of(settings: DataSettings) -> pd.DataFrame:
    """The manifest of the prepared folder at ``settings.path``.

    Raises:
        InputError: no path is given, or it is not that of a finished folder of this data set.
    """
    name = settings.name
    if settings.path is None:
        raise DataError(
            f"{name} has no path; expected the folder that `modalign prepare {name} --raw DOWNLOAD --out FOLDER` "
            "wrote: give it as data.path."
        )
    meta = read_meta(Path(settings.path))
    if meta["name"] != name:
        raise DataError(f"{settings.path} holds {meta['name']}, prepared; expected {name}.")
    return read_table(Path(settings.path) / "manifest.parquet")


def hold_out_values(settings: DataSettings, column: str, count: int, seed: int) -> DataSettings:
    """The settings under which ``count`` values of a column, drawn by ``seed``, are the test split, or those of a fold.

    Validation is then carved out by whole values too.

    Raises:
        InputError: fewer than two values would be left to train and validate on.
    """
    if settings.fold is not None:
        return replace(settings, split=None, group=column)
    values = sorted(manifest_of(settings)[column].astype(str).unique())
    if not 0 < count <= len(values) - 2:
        raise DataError(
            f"{settings.name}: cannot hold {count} of {len(values)} values of {column!r} out; expected between 1 "
            f"and {len(values) - 2}."
        )
    drawn = np.random.default_rng(seed).permutation(len(values))[:count]
    held = "|".join(values[i] for i in sorted(drawn))
    return replace(settings, split=f"{column} in {held}", group=column)


def load_split(settings: DataSettings, augment: Sequence[str] = (), **options: Any) -> MultimodalData:
    """The prepared folder under ``settings.split``: ``official`` or None is the column ``split``.

    Args:
        settings: with the path of the folder.
        augment: modalities that are cropped and flipped at random in training, of those used.
        options: fields of ``RowOptions``.
    """
    manifest_of(settings)
    if settings.split in (None, "official"):
        settings = replace(settings, split="split")
    used = [name for name in augment if settings.modalities is None or name in settings.modalities]
    return load_prepared(str(settings.path), settings, RowOptions(augment=used, **options))


def load_under(
    protocol: str, settings: DataSettings, augment: Sequence[str] | None = None, **options: Any
) -> MultimodalData:
    """The prepared folder of a data set with a video, under the protocol that it was prepared under.

    Args:
        protocol: its name (``modalign.protocols``).
        settings: as in ``load_split``.
        augment: modalities that are cropped and flipped at random in training; by the protocol where it is None.
        options: fields of ``RowOptions``.

    Raises:
        InputError: no such protocol, or the folder was prepared under another.
    """
    chosen = protocol_of(settings.name, protocol)
    manifest_of(settings)
    before = (read_meta(Path(str(settings.path))).get("about") or {}).get("protocol", OURS)
    if before != protocol:
        raise DataError(
            f"{settings.path} was prepared under the protocol {before}, but data.options.protocol is {protocol}; name "
            f"the same, or prepare the download anew: modalign prepare {settings.name} --protocol {protocol} --raw "
            "DOWNLOAD --out ANOTHER_FOLDER"
        )
    video = settings.modalities is None or "video" in settings.modalities
    draw = {"video": chosen.draw} if chosen.draw and video else {}
    augment = (["video"] if chosen.augment else []) if augment is None else augment
    return load_split(settings, augment, crop=dict(chosen.crop), draw=draw, **options)
