"""Arrays in memory as a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from modalign.data.dataset import MultimodalData
from modalign.data.tables.array_split import ArraySplit, Rows, StoredArray
from modalign.data.tables.files import columns_beside, join_columns
from modalign.data.tables.reader import RowOptions, Source, condition_columns, label_columns, read_source
from modalign.errors import Problems
from modalign.settings import DataSettings

__all__ = ["ArraySplit", "Rows", "StoredArray", "from_arrays", "from_settings", "needed_arrays"]


def from_arrays(
    arrays: Mapping[str, Any],
    modalities: Sequence[str] | None = None,
    label: str = "y",
    split: str | None = None,
    group: str | None = None,
    columns: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
    *,
    name: str = "arrays",
    valid_fraction: float = 0.15,
    split_seed: int = 0,
    conditions: Mapping[str, Sequence[str]] | None = None,
    impute: Literal["mean"] | None = None,
    augment: Sequence[str] = (),
    **options: Any,
) -> MultimodalData:
    """Return a data set of arrays that all have N rows, checked as a whole before anything is trained.

    Args:
        arrays: name to array (N, ...): modalities, labels and further columns; ``id`` names the samples.
        modalities: arrays that are modalities; by default all that have two axes or more.
        label: the array to predict; ``TIME,EVENT`` for survival.
        split: expression for the test rows (``COLUMN==VALUE``, ``!= < <= > >=``, ``COLUMN in a|b``), or the
            name of a column of ``train``/``valid``/``test``; by default the column ``split`` if there is one,
            else 60/15/25 at random, stratified.
        group: column whose values no split divides. An expression that divides *every* group is taken as
            meant (repetitions of each speaker) and noted; one that divides some is an error.
        columns: further columns, possible contexts.
        kinds: modality to ``vector``, ``sequence``, ``image``, ``clip``, ``text`` or ``categories`` where its
            shape does not tell (see ``modalities.arrange``). Strings are categories (one-hot) if few differ
            (at most 100, and five training rows to each), else text.
        name: of the data set, in tables and messages.
        valid_fraction: share of validation where none is named: of the training rows where the test rows are
            named, else of all rows.
        split_seed: seed of random splits.
        conditions: modality to columns or arrays that are known at prediction too and tell how far it is to be trusted
            (see ``data.tables.conditions``).
        impute: ``mean`` fills NaN in a part of a row with the training mean, instead of refusing it.
        augment: images or clips to crop and flip at random in training.
        options: further fields of ``RowOptions``.

    A row of a modality that is NaN throughout, or an empty string, is absent there; so is one marked False in
    an array ``present_<modality>``.

    Raises:
        InputError: with every problem found, each with rows, expectation and remedy.

    >>> rng = np.random.default_rng(0)
    >>> arrays = {"sound": rng.normal(size=(40, 8)), "labs": rng.normal(size=(40, 3)), "y": np.arange(40) % 2}
    >>> data = from_arrays(arrays)
    >>> len(data.train), len(data.valid), len(data.test), list(data.modalities)
    (24, 6, 10, ['sound', 'labs'])
    """
    settings = DataSettings(
        name=name, modalities=list(modalities or []) or None, label=label, split=split, group=group,
        columns=list(columns), kinds=dict(kinds or {}), valid_fraction=valid_fraction, split_seed=split_seed,
        conditions={m: list(named) for m, named in (conditions or {}).items()},
    )  # fmt: skip
    return from_settings(settings, arrays, name, impute=impute, augment=augment, **options)


def from_settings(
    settings: DataSettings,
    arrays: Mapping[str, Any],
    name: str,
    modalities: Sequence[str] | None = None,
    **options: Any,
) -> MultimodalData:
    """Return ``from_arrays`` as a recipe describes it; ``name`` and ``modalities`` hold where the recipe says nothing.

    Args:
        settings: data settings of the recipe; its ``options`` are not read.
        arrays: as in ``from_arrays``.
        name: of the data set.
        modalities: names of the modalities.
        options: fields of ``RowOptions``.

    Raises:
        InputError: as ``from_arrays``.

    >>> arrays = {"a": np.arange(40.0), "b": np.arange(80.0).reshape(40, 2), "y": np.arange(40) % 2}
    >>> from_settings(DataSettings(split="a>29"), arrays, "small", ["a", "b"]).test.ids[0]
    '30'
    """
    columns = {key: np.asarray(value) for key, value in arrays.items()}
    beside = [m for m in settings.modalities or modalities or () if columns_beside(m, columns)]
    source = Source(columns, joined=join_columns(columns, {m: [] for m in beside}))
    if not (settings.modalities or modalities):
        taken = {*label_columns(settings), settings.group, *settings.columns, *condition_columns(settings)}
        modalities = [key for key, array in source.columns.items() if array.ndim >= 2 and key not in taken]
    name = settings.name or name
    used = replace(settings, modalities=settings.modalities or list(modalities or []))
    return read_source(source, used, RowOptions(**options), Problems(name), name)


def needed_arrays(settings: DataSettings, axes: Mapping[str, int]) -> set[str]:
    """Return the arrays that a recipe has need of, of those of a file with their numbers of axes.

    >>> sorted(needed_arrays(DataSettings(split="fold==1"), {"a": 2, "y": 1, "fold": 1, "junk": 1}))
    ['a', 'fold', 'y']
    """
    beside = {*label_columns(settings), *([settings.group] if settings.group else []), *settings.columns}
    beside |= {column for columns in settings.conditions.values() for column in columns}
    beside |= {str(settings.folds)} & {*axes}
    used = settings.modalities or [name for name, count in axes.items() if count >= 2 and name not in beside]
    said = f"{settings.split} {settings.options}"  # expressions name columns too
    named = {name for name in axes if name in said} | ({"id", "split", *(f"present_{m}" for m in used)} & {*axes})
    joined = {m: columns_beside(m, axes) for m in used if m not in axes}
    return (
        beside | named | ({*used} - {m for m in joined if joined[m]}) | {c for found in joined.values() for c in found}
    )
