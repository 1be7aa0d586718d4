"""Find and load a data set: by its name, by a path, by the class that makes it, or as an object at hand."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from modalign.data.dataset import MultimodalData
from modalign.data.samples import describe_inputs, read_samples
from modalign.domains import check_values
from modalign.errors import DataError, SettingsError, unknown
from modalign.files import file_digest
from modalign.settings import DataSettings

__all__ = ["DATASETS", "available", "check_options", "describe_inputs", "load_data", "read_samples"]

DATASETS = ("ave", "avmnist", "cremad", "digits", "food101", "gbmlgg", "synthetic")
"""The data sets of the package: modules of ``modalign.data.datasets`` with a function ``load``."""


def available() -> list[str]:
    """Return the names of the data sets of the package.

    >>> "digits" in available()
    True
    """
    return list(DATASETS)


def load_data(
    source: Any,
    *,
    target: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    modalities: Sequence[str] | Mapping[str, str | Sequence[str] | Mapping[str, Any]] | None = None,
    split: str | None = None,
    group: str | None = None,
    columns: Sequence[str] = (),
    conditions: Mapping[str, Sequence[str]] | None = None,
    kinds: Mapping[str, str] | None = None,
    valid_fraction: float = 0.15,
    split_seed: int = 0,
    fold: int | None = None,
    folds: int | str | None = None,
    valid_seed: int | None = None,
    name: str | None = None,
    **options: Any,
) -> MultimodalData:
    """Return a data set from whatever holds it.

    Args:
        source: ``DataSettings`` (of a recipe), the name of a data set of the package, the path of a file or a prepared
            folder, or an object: ``MultimodalData``, arrays by name, a data frame of pandas or polars, a Hugging Face
            ``datasets.Dataset``, AnnData or MuData, a map-style ``torch.utils.data.Dataset`` or a ``DataLoader`` that
            yields dictionaries of tensors, arrays, numbers and texts, or ``{"train": ..., "valid": ..., "test": ...}``
            of such (``valid`` may be left out).
            A row of a modality that is NaN throughout, None, an empty text, or not among the keys of a sample, is
            absent there. See ``modalign.data.objects`` for what is read when.
        target: what is predicted: a column, or several as a list or as ``A,B`` (``TIME,EVENT`` for survival); by
            default ``y``, ``target`` or ``label``.
        label: the same.
        modalities: names, or name to the column or columns it is made of (``{"table": ["age", "sex"]}``); a name that
            is no column stands for the columns ``<name>_*`` side by side. Numbers and texts of several columns become
            one vector, texts one-hot. A column of paths to images, sound or video is decoded, by default or as
            ``{"photo": {"column": "path", "kind": "image", "size": 64}}`` says. By default all that have an axis, and
            the texts of a ``Dataset``; of AnnData and MuData see ``OmicsOptions``.
        split: expression for the test rows, or column of splits (see ``from_arrays``).
        group: column whose values no split divides.
        columns: further columns, possible contexts.
        conditions: modality to columns or arrays that are known at prediction too and tell how far it is to be trusted.
        kinds: modality to kind where the shape does not tell.
        valid_fraction: share of validation where none is named.
        split_seed: seed of random splits.
        fold, folds: number of an outer split in place of ``split``, and how many folds a repetition has, or which
            column's values are folds (see ``DataSettings``).
        valid_seed: seed of a random validation part, if it is to have one of its own.
        name: of the data set, in tables and messages.
        options: fields of ``RowOptions`` (``task``, ``classes``, ``drop``, ``impute``, ``augment``, ...; ``layers`` of
            AnnData and MuData), or arguments of the data set of the package.

    Raises:
        InputError: an object of another kind, a setting for data that is ready, or data that cannot be used.

    >>> import numpy as np, pandas as pd
    >>> n = np.arange(40)
    >>> frame = pd.DataFrame({"age": n % 7, "bmi": n % 5, "title": [f"case {i}" for i in n], "y": n % 2})
    >>> data = load_data(frame, target="y", modalities={"table": ["age", "bmi"], "note": "title"})
    >>> {name: modality.kind for name, modality in data.modalities.items()}, len(data.train)
    ({'table': 'vector', 'note': 'text'}, 24)
    >>> load_data("digits").task.outputs
    10
    """
    if target and label and target != label:
        raise SettingsError(f"target is {target!r} and label is {label!r}; expected one of them")
    made_of = modalities if isinstance(modalities, Mapping) else {}
    given: dict[str, Any] = {
        "name": name, "modalities": list(modalities) if modalities else None, "label": target or label, "split": split,
        "group": group, "columns": list(columns), "kinds": dict(kinds or {}), "valid_fraction": valid_fraction,
        "split_seed": split_seed, "fold": fold, "folds": folds, "valid_seed": valid_seed, "options": options,
        "conditions": {m: list(named) for m, named in (conditions or {}).items()},
    }  # fmt: skip
    changed: dict[str, Any] = {
        key: value for key, value in given.items() if value != getattr(_DEFAULTS, key) and value is not None
    }
    if isinstance(source, (DataSettings, MultimodalData)):
        if changed:
            raise SettingsError(
                f"{', '.join(changed)}: not for {type(source).__name__}, which says all itself; expected no setting "
                "beside it"
            )
        return source if isinstance(source, MultimodalData) else _by_settings(source)
    if isinstance(source, (str, Path)):
        if made_of:
            raise SettingsError("modalities by columns are for objects; read the file and give what it holds")
        known = str(source) in DATASETS
        title = {"title": changed.pop("name")} if known and name else {}
        where = {"name": source} if known else {"path": str(source)}
        return _by_settings(DataSettings(**{**changed, **where, **title}))
    return _by_object(source, DataSettings(**changed), made_of)


_DEFAULTS = DataSettings()


def _by_object(
    source: Any, settings: DataSettings, made_of: Mapping[str, str | Sequence[str] | Mapping[str, Any]] | None = None
) -> MultimodalData:
    from modalign.data.objects import load_object
    from modalign.data.tables.omics import OmicsOptions, is_omics
    from modalign.data.tables.reader import RowOptions

    options = OmicsOptions if is_omics(source) else RowOptions
    check_options(settings.name or type(source).__name__, options, settings.options)
    return load_object(source, settings, options(**settings.options), made_of)


def _by_settings(settings: DataSettings) -> MultimodalData:
    """Return the data set that ``settings`` describe.

    Raises:
        InputError: no such data set, file or option, or the data cannot be used.
    """
    if settings.path is not None:  # recipes can be shared between machines
        full = os.path.expanduser(os.path.expandvars(settings.path))
        if missing := re.search(r"\$\{?(\w+)", full):
            raise SettingsError(
                f"data.path {settings.path} needs the environment variable {missing[1]}; set it, or give --data.path"
            )
        settings = replace(settings, path=full)
    if settings.class_path is not None:
        data = _by_class(settings)
    elif settings.name in DATASETS:
        module = import_module(f"modalign.data.datasets.{settings.name}")
        check_options(settings.name, getattr(module, "generate", module.load), settings.options)
        data = module.load(settings, **settings.options)
    elif settings.path is not None:
        data = _by_path(Path(settings.path), settings)
    elif settings.name:
        raise unknown("data set", settings.name, DATASETS)
    else:
        raise SettingsError(f"no data named; expected a name of {', '.join(DATASETS)}, or a path")
    data.name = settings.title or data.name
    return data


def file_states(settings: DataSettings) -> dict[str, list[Any]]:
    """Return size, time and SHA-256 of the files that a recipe's ``data.path`` stands for, by their paths.

    Those of a prepared folder stand in its ``meta.yaml``, and that is one of them.

    >>> file_states(DataSettings("digits"))
    {}
    """
    if settings.path is None:
        return {}
    path = Path(os.path.expanduser(os.path.expandvars(settings.path))).resolve()
    beside = [path / "meta.yaml", path / "manifest.parquet"] if path.is_dir() else [path, path.with_suffix(".yaml")]
    files = [*beside, *sorted(path.glob("*.npy"))]
    return {str(f): [f.stat().st_size, f.stat().st_mtime_ns, file_digest(f)] for f in files if f.is_file()}


def _by_class(settings: DataSettings) -> MultimodalData:
    """What a class or function of the user's own returns, through the same door as any object."""
    from modalign.classes import import_class

    if settings.path or settings.name in DATASETS:
        raise SettingsError(
            f"data.class_path {settings.class_path} and {settings.path or settings.name} name two data sets; give one"
        )
    made = import_class(str(settings.class_path), "data")
    check_options(str(settings.class_path), made, settings.init_args)
    source = made(**settings.init_args)
    if isinstance(source, MultimodalData):
        return replace(source, name=settings.name or source.name)
    name = settings.name or str(settings.class_path).rpartition(".")[2]
    return _by_object(source, replace(settings, name=name, title=None))


def _by_path(path: Path, settings: DataSettings) -> MultimodalData:
    """Arrays, a manifest, a prepared folder, AnnData or MuData; the options are fields of ``RowOptions``."""
    from modalign.data.media.folder import load_prepared
    from modalign.data.tables.arrays import from_settings, needed_arrays
    from modalign.data.tables.files import TABLES, read_arrays
    from modalign.data.tables.manifest import load_manifest
    from modalign.data.tables.omics import is_omics
    from modalign.data.tables.reader import RowOptions

    if not path.exists():
        raise DataError(f"no file or folder {str(path)!r}; expected the data there: check the path")
    if is_omics(path):
        return _by_object(path, replace(settings, name=settings.name or path.stem))
    check_options(settings.name or str(path), RowOptions, settings.options)
    if path.is_dir():
        return load_prepared(path, settings, RowOptions(**settings.options))
    if path.suffix in TABLES and path.with_suffix(".yaml").exists():
        return load_manifest(path, settings, RowOptions(**settings.options))
    arrays = read_arrays(path, wanted=partial(needed_arrays, settings))
    return from_settings(settings, arrays, path.stem, **settings.options)


def check_options(subject: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options that ``function`` has no argument for, and values outside the domains that it declares.

    Raises:
        SettingsError: names the option and the nearest that exists, or the value and what is expected.

    >>> check_options("digits", lambda settings, scale=1: None, {"scael": 2})
    Traceback (most recent call last):
        ...
    modalign.errors.SettingsError: unknown option of the data 'digits': 'scael'; did you mean 'scale'? Known: scale.
    """
    check_values(function, options, "data.options.", f"option of the data {subject!r}:", skip=("settings",))
