"""Labels as targets, and further columns as codes or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modalign.data.dataset import Column
from modalign.data.tables.modalities import as_strings, is_text, refuse_rows, show
from modalign.data.task import Task, TaskKind, classification
from modalign.errors import DataError, Problems, option, unknown

MOST_CODES = 1000
MOST_WHOLE_FLOATS = 20


@dataclass(frozen=True)
class Labels:
    """Targets of all rows.

    Attributes:
        task: what is predicted.
        target: as in ``Batch.target``.
        strata: (N,) codes that splits are stratified by: class, tenth of the target, event, or number of labels.

    >>> read_labels("y", [np.array(["no", "yes", "no"])]).task.classes
    ('no', 'yes')
    """

    task: Task
    target: Tensor
    strata: np.ndarray


def missing_values(values: np.ndarray) -> np.ndarray:
    """Return the rows (N,) bool without a value: NaN, None or an empty string.

    >>> missing_values(np.array([1.0, np.nan])).tolist()
    [False, True]
    """
    if is_text(values) or values.dtype == object:
        return np.asarray(as_strings(values) == "")
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)


def read_labels(
    name: str, values: Sequence[np.ndarray], task: TaskKind | None = None, classes: Sequence[object] | None = None
) -> Labels:
    """Return targets from the label column (survival: from the columns of time and event).

    Several columns, or one (N, C), are labels (``multilabel``: 0 and 1) or numbers (``regression``), of which some may
    be missing; ``classes`` names the columns of (N, C).

    Without ``task``, text, truth values and whole numbers are classes, in sorted order; ``classes`` fixes the
    order and the range (whole numbers then index into it if they are not themselves its members).

    Raises:
        InputError: a label is missing or outside its range, or has a fraction while no task is given.

    >>> read_labels("y", [np.array([2, 0, 2])]).target.tolist()
    [1, 0, 1]
    """
    if task == "survival":
        return _survival(name, values)
    if task == "multilabel" or (task == "regression" and (len(values) > 1 or values[0].ndim == 2)):
        return _several(name, values, task, classes)
    if len(values) != 1:
        raise DataError(
            f"label {name!r} names {len(values)} columns; expected one, or a task for several: "
            f"{option('data.options.task', 'survival')}, or multilabel, or regression"
        )
    column = values[0]
    if column.ndim != 1:
        raise DataError(f"label {name!r} has shape {column.shape}; expected one value a row")
    lost = np.flatnonzero(missing_values(column))
    if len(lost):
        raise DataError(
            f"label {name!r} is missing in {len(lost)} rows ({show(lost)}); expected a label in every row: fill "
            f"them in, or set {option('data.options.drop_unlabelled', True)}"
        )
    if task == "regression":
        numbers = _numbers(name, column)
        if len(np.unique(numbers)) < 2:
            raise DataError(f"label {name!r} has one value only; expected numbers that vary")
        edges = np.quantile(numbers, np.linspace(0, 1, 11)[1:-1])
        return Labels(Task("regression"), torch.from_numpy(numbers).float(), np.searchsorted(edges, numbers))
    if task not in (None, "classification"):
        raise unknown("task", str(task), ["classification", "multilabel", "regression", "survival"])
    return _classes(name, column, task, classes)


def _classes(name: str, column: np.ndarray, task: TaskKind | None, classes: Sequence[object] | None) -> Labels:
    if is_text(column) or column.dtype == object:
        column = as_strings(column).astype(str)
    elif column.dtype.kind == "f":
        whole = bool((column == np.round(column)).all())
        if not whole and task is None:
            raise DataError(
                f"label {name!r} has {len(np.unique(column))} different values with fractions; expected classes: "
                f"set {option('data.options.task', 'regression')}, or classification if each value is a class"
            )
        column = column.astype(np.int64) if whole else column
    found = np.unique(column).tolist()
    names = [str(value) for value in (found if classes is None else classes)]
    if classes is None:
        if column.dtype.kind == "i" and found != [-1, 1]:
            after = (
                f"rows without a label set {option('data.options.drop', f'{name}<0')}, else name the classes as text"
            )
            refuse_rows(
                column < 0, f"label {name!r} is negative", f"; expected class numbers from 0: if it marks {after}"
            )
        codes = np.searchsorted(found, column)
    else:  # by name, or by position where they are numbers that are no names
        positions = {value: names.index(str(value)) for value in found if str(value) in names}
        if not positions and column.dtype.kind in "iu":
            positions = {value: value for value in found if 0 <= value < len(names)}
        outside = [value for value in found if value not in positions]
        after = f": {show(outside)}; expected one of {show(names)}, or a number below {len(names)}"
        refuse_rows(np.isin(column, outside), f"label {name!r} is outside its range", after)
        codes = np.array([positions[value] for value in column.tolist()])
    if len(names) < 2:
        raise DataError(f"label {name!r} has one class only, {names[0]!r}; expected at least two")
    return Labels(classification(names), torch.from_numpy(codes.astype(np.int64)), codes)


def _several(name: str, values: Sequence[np.ndarray], task: TaskKind, classes: Sequence[object] | None) -> Labels:
    """Return targets (N, C) float32, NaN where they are missing."""
    names = [part.strip() for part in name.split(",")]
    if len(values) == 1 and values[0].ndim == 2:
        width = values[0].shape[1]
        names = [str(one) for one in classes] if classes is not None else [f"{names[0]}_{c}" for c in range(width)]
        if len(names) != width:
            raise DataError(f"label {name!r} has {width} columns and classes names {len(names)}; expected as many")
        values = [*values[0].T]
    if repeated := sorted({one for one in names if names.count(one) > 1}):
        raise DataError(f"label {name!r} names {show(repeated)} more than once; expected every label once")
    problems, columns = Problems(f"label {name!r}"), []
    for one, column in zip(names, values, strict=True):
        found = problems.trying(_known_numbers, one, column, task)
        columns += [] if found is None else [found]
    problems.stop()
    target = np.stack(columns, 1)
    refuse_rows(
        np.isnan(target).all(1),
        f"no label of {name!r} is known",
        "; expected at least one in every row: leave those rows out with drop, or drop_unlabelled: true",
    )
    if task == "multilabel":
        strata = np.asarray(np.nansum(target, 1), np.int64)
        return Labels(Task(task, tuple(names)), torch.from_numpy(target).float(), strata)
    center, scale = np.nanmean(target, 0), np.nanstd(target, 0)
    middle = np.nanmean((target - center) / scale, 1)
    edges = np.quantile(middle, np.linspace(0, 1, 11)[1:-1])
    about = Task(task, tuple(names), tuple(center.tolist()), tuple(scale.tolist()))
    return Labels(about, torch.from_numpy(target).float(), np.asarray(np.searchsorted(edges, middle)))


def _known_numbers(name: str, column: np.ndarray, task: TaskKind) -> np.ndarray:
    """Return one label of several, (N,) float64, NaN where it is missing."""
    if column.ndim != 1:
        raise DataError(f"label {name!r} has shape {column.shape}; expected one value a row")
    if is_text(column) or column.dtype == object:
        texts = as_strings(column)
        column = np.where(texts == "", "nan", texts)
    try:
        numbers = column.astype(np.float64)
    except ValueError:
        raise DataError(f"label {name!r} holds text; expected numbers, and nothing where it is not known") from None
    refuse_rows(np.isinf(numbers), f"label {name!r} is infinite", "; expected a number")
    known = numbers[~np.isnan(numbers)]
    if task == "multilabel":
        strange = ~np.isnan(numbers) & (numbers != 0) & (numbers != 1)
        refuse_rows(strange, f"label {name!r} is neither 0 nor 1", "; expected 1 where it holds, empty where not known")
    if len(np.unique(known)) < 2:
        said = f"is {known[0]:g} in every row" if len(known) else "is not known in any row"
        raise DataError(f"label {name!r} {said}; expected at least two values: leave it out")
    return numbers


def _numbers(name: str, column: np.ndarray) -> np.ndarray:
    try:
        numbers = column.astype(np.float64)
    except ValueError:
        raise DataError(f"label {name!r} holds text; expected numbers for this task") from None
    refuse_rows(~np.isfinite(numbers), f"label {name!r} is missing or infinite", "; expected a number in every row")
    return numbers


def _survival(name: str, values: Sequence[np.ndarray]) -> Labels:
    if len(values) != 2:
        raise DataError(f"label {name!r} names {len(values)} column(s); survival expects two: 'TIME,EVENT'")
    first, second = name.split(",")
    time, event = _numbers(first, values[0]), _numbers(second, values[1])
    refuse_rows(time < 0, f"time {first!r} is negative", "; expected times from 0")
    strange = (event != 0) & (event != 1)
    refuse_rows(strange, f"event {second!r} is neither 0 nor 1", "; expected 1 where it happened")
    if not event.any():
        raise DataError(f"event {second!r} never happened; survival needs at least some events")
    target = torch.from_numpy(np.stack([time, event], 1)).float()
    return Labels(Task("survival"), target, event.astype(np.int64))


def read_column(name: str, values: np.ndarray) -> Column:
    """Return a further column: codes for text, truth values and whole numbers, float32 otherwise.

    Whole numbers of more than 1,000 different values are taken as continuous, and so are floats unless they
    hold at most 20 different whole numbers. Text that is missing is a value of its own, ``(none)``.

    Raises:
        InputError: text of more than 1,000 values, or numbers that are NaN or infinite.

    >>> read_column("site", np.array(["south", "north", "south"]))
    Column(values=tensor([1, 0, 1]), names=('north', 'south'))
    """
    if is_text(values) or values.dtype == object:
        texts = np.array([text or "(none)" for text in as_strings(values)])
        names, codes = np.unique(texts, return_inverse=True)
        if len(names) > MOST_CODES:
            raise DataError(
                f"column {name!r} has {len(names)} different texts; expected at most {MOST_CODES}: leave it out"
            )
        return Column(torch.from_numpy(codes.astype(np.int64)), tuple(names.tolist()))
    if values.dtype.kind not in "biuf":
        raise DataError(f"column {name!r} has values of type {values.dtype}; expected numbers or text")
    bad = ~np.isfinite(values.reshape(len(values), -1).astype(np.float64)).all(1)
    refuse_rows(np.asarray(bad), f"column {name!r} is NaN or infinite", "; expected a number in every row")
    if values.ndim == 1:
        names, codes = np.unique(values, return_inverse=True)
        whole = values.dtype.kind in "iub" or (names == np.round(names)).all()
        if whole and len(names) <= (MOST_CODES if values.dtype.kind in "iub" else MOST_WHOLE_FLOATS):
            shown = names.astype(np.int64) if values.dtype.kind == "f" else names
            return Column(torch.from_numpy(codes.astype(np.int64)), tuple(str(x) for x in shown.tolist()))
    return Column(torch.from_numpy(values.astype(np.float32)))
