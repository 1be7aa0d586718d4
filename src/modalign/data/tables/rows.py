"""What the samples of a table have in common whatever their modalities: targets, splits, groups, columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from modalign.data.dataset import Column
from modalign.data.tables.labels import Labels, missing_values, read_column, read_labels
from modalign.data.tables.modalities import as_strings, show
from modalign.data.tables.splits import assign_splits, check_groups, select_rows
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


@dataclass
class Table:
    """What all rows that are kept have in common, whatever their modalities.

    Attributes:
        kept: (N,) rows of the arrays that were not dropped; everything else here has N rows too.
        labels: targets.
        parts: (N,) names of the splits.
        ids: (N,) names of the samples.
        groups: (N,) text, or None.
        present: modality name to rows (N,) bool in which it is there.
        columns: further columns.
        notes: what was dropped or found.
    """

    kept: np.ndarray
    labels: Labels
    parts: np.ndarray
    ids: list[str]
    groups: np.ndarray | None
    present: Mapping[str, np.ndarray]
    columns: dict[str, Column]
    notes: list[str] = field(default_factory=list)


def label_columns(settings: DataSettings) -> list[str]:
    """Names of the label column, or of the two of a survival target; ``y`` by default."""
    return [part.strip() for part in (settings.label or "y").split(",")]


def named_columns(settings: DataSettings) -> list[tuple[str, str]]:
    """What the settings name that is no modality, and what each is for."""
    named = [("label", column) for column in label_columns(settings)]
    named += [("group", settings.group)] if settings.group else []
    return named + [("column", column) for column in settings.columns]


def unknown_columns(known: Iterable[str], settings: DataSettings) -> list[str]:
    """Problems with labels, group and columns that are named but are not there."""
    names = list(known)
    return [str(unknown(what, name, names)) for what, name in named_columns(settings) if name not in names]


def keep_rows(
    arrays: Mapping[str, np.ndarray], settings: DataSettings, options: RowOptions, problems: Problems
) -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
    """Rows that are not dropped, (N,) int, the arrays of those rows, and notes.

    Raises:
        InputError: nothing is left.
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


def read_rows(
    arrays: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    settings: DataSettings,
    options: RowOptions,
    problems: Problems,
    kept: np.ndarray,
    notes: list[str],
) -> Table:
    """Labels, splits, groups and columns of the rows that are kept.

    Args:
        arrays: as ``keep_rows`` leaves them.
        present: modality name to (N,) bool.
        settings: label, split, group and columns.
        options: how to read them.
        problems: found so far.
        kept: the rows' numbers, which are their ids where there are none.
        notes: so far.

    Raises:
        InputError: with everything in ``problems``, what is found here added.
    """
    flat = {key: a for key, a in arrays.items() if a.ndim == 1 or (a.ndim and key not in present)}
    values = [flat[column] for column in label_columns(settings)]
    labels = problems.trying(read_labels, settings.label or "y", values, options.task, options.classes)
    groups = problems.trying(_groups, flat, settings, options)
    ids = problems.trying(_ids, flat, kept)
    columns = {c: problems.trying(read_column, c, flat[c]) for c in settings.columns}
    parts = None
    if labels is not None and (groups is not None or not settings.group):
        how = settings.split, settings.valid_fraction, settings.split_seed
        parts = problems.trying(assign_splits, flat, labels.strata, groups, *how)
    if labels is not None and parts is not None:
        problems += _uncovered_classes(labels, parts)
    if groups is not None and parts is not None:
        notes = notes + (problems.trying(check_groups, parts, groups, settings.split) or [])
    notes = notes + _check_presence(present, parts, problems)
    if problems and len(kept) <= kept[-1]:
        problems.append("(rows are counted from 0 among those that were not left out)")
    problems.stop()
    assert labels is not None
    assert parts is not None
    assert ids is not None
    whole = {name: column for name, column in columns.items() if column is not None}
    return Table(kept, labels, parts, ids, groups, present, whole, notes)


def _groups(arrays: Mapping[str, np.ndarray], settings: DataSettings, options: RowOptions) -> np.ndarray | None:
    if settings.group is None:
        return None
    column = arrays[settings.group]
    if column.ndim != 1:
        raise DataError(f"group {settings.group!r} has shape {column.shape}; expected one value a row")
    lost = np.flatnonzero(missing_values(column))
    if len(lost):
        raise DataError(f"group {settings.group!r} is missing in rows {show(lost)}; expected a group in every row")
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


def _ids(arrays: Mapping[str, np.ndarray], kept: np.ndarray) -> list[str]:
    if "id" not in arrays:
        return [str(row) for row in kept]
    ids = [str(value) for value in arrays["id"].tolist()]
    names, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"ids stand more than once: {show(names[counts > 1])}; expected one row a sample")
    return ids


def _uncovered_classes(labels: Labels, parts: np.ndarray) -> list[str]:
    """Classes that are validated or tested but never trained on."""
    if labels.task.kind != "classification":
        return []
    codes = labels.target.numpy()
    lost = sorted(set(codes.tolist()) - set(codes[parts == "train"].tolist()))
    names = [labels.task.classes[code] for code in lost]
    if not names:
        return []
    return [
        f"classes without a training sample: {show(names)}; expected at least one of each: move rows to the "
        "training split, or leave the classes out with the option drop"
    ]


def _check_presence(present: Mapping[str, np.ndarray], parts: np.ndarray | None, problems: Problems) -> list[str]:
    """Notes on absent modalities; problems where nothing is left."""
    notes = []
    for name, rows in present.items():
        where = "everywhere" if not rows.any() else ""
        if parts is not None and not where and not rows[parts == "train"].any():
            where = "in the whole training split"
        if where:
            problems.append(f"modality {name!r} is absent {where}; expected some rows: leave it out of the modalities")
        elif not rows.all():
            notes.append(f"{name} is absent in {int((~rows).sum())} of {len(rows)} samples")
    if present:
        empty = np.flatnonzero(~np.logical_or.reduce(list(present.values())))
        if len(empty):
            problems.append(f"rows {show(empty)} have no modality at all; expected at least one: leave those rows out")
    return notes
