"""How a prepared data set of the package is divided: the named protocols on top of ``load_prepared``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modalign.data.dataset import MultimodalData
from modalign.data.media.folder import load_prepared, read_meta
from modalign.data.tables.rows import RowOptions
from modalign.errors import DataError
from modalign.settings import DataSettings


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
    return pd.read_parquet(Path(settings.path) / "manifest.parquet")


def hold_out_values(settings: DataSettings, column: str, count: int, seed: int) -> DataSettings:
    """The settings under which ``count`` values of a column, drawn by ``seed``, are the test split.

    Validation is then carved out by whole values too.

    Raises:
        InputError: fewer than two values would be left to train and validate on.
    """
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
