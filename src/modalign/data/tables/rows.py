"""Rows of a table: which are kept, their names and groups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from modalign.data.tables.labels import missing_values
from modalign.data.tables.modalities import as_strings, refuse_rows, show
from modalign.data.tables.splits import select_rows
from modalign.data.task import TaskKind
from modalign.errors import DataError, Problems, unknown
from modalign.settings import DataSettings


@dataclass(frozen=True)
class RowOptions:
    """How the rows of a table are read, beyond ``DataSettings``.

    Args:
        task: ``classification``, ``regression`` or ``survival`` (label ``TIME,EVENT``); None: by the labels.
        classes: names of the classes, where their order or range is to be fixed.
        drop: expression of the rows to leave out, such as ``grade==0``.
        drop_unlabelled: leave rows without a label out instead of refusing them.
        group_pattern: regular expression with one capture that takes the group from the group column's text.
        impute: ``mean`` fills NaN in a part of a row with the training mean, instead of refusing it.
        augment: images or clips to crop and flip at random in training.

    >>> RowOptions(task="regression", drop="age<18").drop
    'age<18'
    """

    task: TaskKind | None = None
    classes: Sequence[object] | None = None
    drop: str | None = None
    drop_unlabelled: bool = False
    group_pattern: str | None = None
    impute: Literal["mean"] | None = None
    augment: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.impute not in (None, "mean"):
            raise unknown("way to impute", str(self.impute), ["mean"])


def label_columns(settings: DataSettings) -> list[str]:
    """Return the names of the label column, or of the two of a survival target; ``y`` by default.

    >>> label_columns(DataSettings(label="time,event"))
    ['time', 'event']
    """
    return [part.strip() for part in (settings.label or "y").split(",")]


def named_columns(settings: DataSettings) -> list[tuple[str, str]]:
    """Return what the settings name that is no modality, as pairs of what it is for and its name.

    >>> named_columns(DataSettings(columns=["age"]))
    [('label', 'y'), ('column', 'age')]
    """
    named = [("label", column) for column in label_columns(settings)]
    named += [("group", settings.group)] if settings.group else []
    return named + [("column", column) for column in settings.columns]


def keep_rows(
    arrays: Mapping[str, np.ndarray], settings: DataSettings, options: RowOptions, problems: Problems
) -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
    """Return the rows that are not dropped, (N,) int, the arrays of those rows, and notes.

    Raises:
        DataError: nothing is left.

    >>> keep_rows({"y": np.array([0, 1, 2])}, DataSettings(), RowOptions(drop="y==0"), Problems("data"))[0].tolist()
    [1, 2]
    """
    columns = label_columns(settings)
    total = len(arrays[columns[0]])
    keep, notes = np.ones(total, bool), []
    if options.drop:
        dropped = problems.trying(select_rows, options.drop, arrays)
        if dropped is not None:
            keep &= ~dropped
            notes.append(f"{int(dropped.sum())} of {total} rows left out: {options.drop}")
    if options.drop_unlabelled:
        lost = keep & np.logical_or.reduce([missing_values(arrays[column]) for column in columns])
        notes += [f"{int(lost.sum())} of {total} rows left out: no label"] if lost.any() else []
        keep &= ~lost
    if not keep.any():
        problems.append("every row is left out; expected some to stay: change drop or drop_unlabelled")
        problems.stop()
    kept = np.flatnonzero(keep)
    if len(kept) == total:
        return kept, dict(arrays), notes
    return kept, {key: a[kept] for key, a in arrays.items() if a.ndim and len(a) == total}, notes


def read_groups(arrays: Mapping[str, np.ndarray], settings: DataSettings, options: RowOptions) -> np.ndarray | None:
    """Return the group of each row (N,) as text, or None without groups.

    Raises:
        DataError: a row has none, or ``group_pattern`` fits nothing in it.

    >>> read_groups({"who": np.array(["p1_a", "p2_b"])}, DataSettings(group="who"), RowOptions(group_pattern="(.*)_"))
    array(['p1', 'p2'], dtype='<U2')
    """
    if settings.group is None:
        return None
    column = arrays[settings.group]
    if column.ndim != 1:
        raise DataError(f"group {settings.group!r} has shape {column.shape}; expected one value a row")
    refuse_rows(missing_values(column), f"group {settings.group!r} is missing", "; expected a group in every row")
    texts = as_strings(column).astype(str)
    if options.group_pattern is None:
        return texts
    matches = [re.search(options.group_pattern, text) for text in texts]
    unmatched = [text for text, match in zip(texts, matches, strict=True) if not (match and match.groups())]
    if unmatched:
        raise DataError(
            f"group_pattern {options.group_pattern!r} captures nothing in {show(unmatched)}; expected one "
            "(capture) that matches every row"
        )
    return np.array([match[1] for match in matches if match])


def read_ids(arrays: Mapping[str, np.ndarray], kept: np.ndarray) -> list[str]:
    """Return the names of the samples: the column ``id``, or the numbers ``kept`` of the rows.

    Raises:
        DataError: a name stands twice.

    >>> read_ids({}, np.array([3, 5]))
    ['3', '5']
    """
    if "id" not in arrays:
        return [str(row) for row in kept]
    ids = [str(value) for value in arrays["id"].tolist()]
    names, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"ids stand more than once: {show(names[counts > 1])}; expected one row a sample")
    return ids
