"""Find and load a data set by the settings of a recipe."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

from modalign.data.dataset import MultimodalData
from modalign.errors import InputError, unknown
from modalign.settings import DataSettings

DATASETS = ("ave", "avmnist", "cremad", "digits", "food101", "gbmlgg", "synthetic")


def available() -> list[str]:
    """Names of the data sets of the package, the modules of ``modalign.data.datasets`` that define ``load``."""
    return list(DATASETS)


def load_data(settings: DataSettings) -> MultimodalData:
    """The data set that ``settings`` describe.

    ``settings.name`` is that of a module of this folder, whose function ``load(settings, **options)`` is
    called (adding a data set means adding one such file); with any other name ``settings.path`` is read as
    arrays (``.npz``, ``.parquet``, ``.csv``), as a manifest (a table beside its ``.yaml``) or as a prepared
    folder.

    Raises:
        InputError: no such data set, file or option, or the data cannot be used.
    """
    settings = replace(settings, path=_expanded(settings.path))
    if settings.name in available():
        load: Callable[..., MultimodalData] = import_module(f"modalign.data.datasets.{settings.name}").load
    elif settings.path is not None:
        from modalign.data.tables.files import load_path as load
    elif settings.name:
        raise unknown("data set", settings.name, available())
    else:
        raise InputError(f"no data named; expected a name of {', '.join(available())}, or a path")
    if not accepts_any(load):
        check_options(settings.name or str(settings.path), load, settings.options)
    data = load(settings, **settings.options)
    data.name = settings.title or data.name
    return data


def _expanded(path: str | None) -> str | None:
    """``path`` with environment variables and ``~`` filled in, so that recipes can be shared between machines."""
    if path is None:
        return None
    full = os.path.expanduser(os.path.expandvars(path))
    missing = re.search(r"\$\{?(\w+)", full)
    if missing:
        raise InputError(f"data.path {path} needs the environment variable {missing[1]}; set it, or give --data.path")
    return full


def check_options(subject: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options that ``function`` has no argument for.

    Raises:
        InputError: names the option and the nearest that exists.
    """
    known = [argument for argument in inspect.signature(function).parameters if argument != "settings"]
    for option in options:
        if option not in known:
            raise unknown(f"option of the data {subject!r}:", option, known)


def accepts_any(function: Callable[..., Any]) -> bool:
    """Whether a function takes any keyword, and so checks options itself."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def describe_inputs(data: MultimodalData) -> dict[str, Any]:
    """How raw rows of each modality become inputs, as plain values."""
    from modalign.data.tables.arrays import ArraySplit

    train = data.train
    known = {m: p.to_dict() for m, p in train.preparations.items()} if isinstance(train, ArraySplit) else None
    return {"preparations": known}
