"""Data that can be read but hardly meant: what leaks the answer, says nothing, or stands twice.

What cannot be meant is a problem, and all problems are said at once; what can be meant is a remark, kept with the
data's notes, which stand before the first epoch and in every run folder. Modalities that are decoded when they are
needed are not looked into.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from modalign.data.tables.labels import Labels
from modalign.data.tables.modalities import as_strings, is_text, magnitudes, show
from modalign.data.task import Task
from modalign.errors import option

LARGEST = 1e18
"""Numbers beyond it have squares that float32 cannot hold: placeholders, not measurements."""
_EXACT = 2**24  # whole numbers that float32 tells apart
_WILD = 100.0  # deviations from the median, in robust standard deviations
_FEW = 2  # samples of a class below which labels look like names of rows


def check_roles(
    names: Sequence[str], made_of: Mapping[str, Sequence[str]], label: Sequence[str], group: str | None
) -> Iterator[str]:
    """Yield a problem for every modality that is the label, or the group that no split divides.

    Args:
        names: of the modalities.
        made_of: modality to the columns that it was put together from.
        label, group: columns that have these parts.

    >>> list(check_roles(["a", "y"], {}, ["y"], None))[0][:40]
    "modality 'y' is the label 'y'; expected "
    """
    parts = dict.fromkeys(label, "label") | ({group: "group"} if group else {})
    for m in names:
        for column in dict.fromkeys([m, *made_of.get(m, ())]):
            if column in parts:
                what = f"{'is' if column == m else 'has'} the {parts[column]} {column!r}"
                yield f"modality {m!r} {what}; expected what is known of a new sample: leave it out"


def remark_split(names: Sequence[str], made_of: Mapping[str, Sequence[str]], split: str | None) -> Iterator[str]:
    """Yield a remark for every modality by whose values the test rows are chosen.

    >>> list(remark_split(["age"], {}, "age>=60"))[0][:45]
    "modality 'age' decides which rows are tested:"
    """
    for m in names if split else ():
        if any(re.search(rf"\b{re.escape(column)}\b", str(split)) for column in [m, *made_of.get(m, ())]):
            yield f"modality {m!r} decides which rows are tested: they are unlike all that is learned from"


def check_label_names(name: str, column: np.ndarray, labels: Labels, classes: Sequence[object] | None) -> Iterator[str]:
    """Yield problems of a label whose classes cannot be meant: names of rows, blanks, classes given twice.

    >>> names = np.array([f"p{i}" for i in range(9)])
    >>> from modalign.data.tables.labels import read_labels
    >>> next(check_label_names("y", names, read_labels("y", [names]), None))[:45]
    "label 'y' has 9 classes in 9 rows: it names r"
    """
    if labels.task.kind != "classification":
        return
    found = len(np.unique(labels.target.numpy()))
    if len(column) < _FEW * found:
        yield (
            f"label {name!r} has {found} classes in {len(column)} rows: it names rows; expected several rows of each "
            f"class: name another label, or set {option('data.options.task', 'regression')}"
        )
    given = [str(value) for value in classes or labels.task.classes]
    if len(set(given)) < len(given):
        yield f"classes are given twice: {show(sorted({c for c in given if given.count(c) > 1}))}; expected each once"
    elif len({c.strip() for c in given}) < len(given):
        alike = [c for c in given if [d.strip() for d in given].count(c.strip()) > 1]
        yield f"classes differ by blanks alone: {show(alike)}; expected one name a class: strip the column {name!r}"


def remark_labels(column: np.ndarray, labels: Labels, parts: np.ndarray) -> Iterator[str]:
    """Yield what is strange about a label as it is written, targets and splits, though it can be meant.

    >>> from modalign.data.tables.labels import read_labels
    >>> y = np.array(["No", "no", "yes", "yes"])
    >>> next(remark_labels(y, read_labels("y", [y]), np.array(["train"] * 4)))
    'classes differ by case alone: No, no; if they are one, write them alike'
    """
    task, target = labels.task, labels.target.numpy()
    rows = {part: target[parts == part] for part in ("train", "valid", "test")}
    if task.kind == "classification":
        alike = [c for c in task.classes if [d.lower() for d in task.classes].count(c.lower()) > 1]
        if alike:
            yield f"classes differ by case alone: {show(alike)}; if they are one, write them alike"
        written = sorted({str(value) for value in column.tolist()}) if is_text(column) else []
        blank = [c for c in written if c != c.strip() and c.strip() in written]
        if blank:
            yield f"classes that differ by blanks are read as one: {show([*map(repr, blank)])}; if not, rename them"
        for part in ("valid", "test"):
            lost = [c for i, c in enumerate(task.classes) if i in rows["train"] and i not in rows[part]]
            if lost and len(rows[part]) > 1:
                yield from _absent(part, lost, len(np.unique(rows[part])))
        unused = [c for i, c in enumerate(task.classes) if i not in target]
        if unused:
            yield f"classes without a single row: {show(unused)}; nothing is learned of them: leave them out of classes"
    if task.kind == "regression":
        for column in target.reshape(len(target), -1).T:
            yield from _wild(column)
    for part, what in (("valid", "selection and calibration rest"), ("test", "every score rests")):
        if len(rows[part]) == 1:
            yield f"one {'validation' if part == 'valid' else part} row: {what} on it alone; hold out more"


def _absent(part: str, lost: Sequence[str], left: int) -> Iterator[str]:
    called = "validation" if part == "valid" else part
    if left == 1:
        yield f"{called} rows are of one class alone; its scores say nothing of the others: hold out rows of each class"
    else:
        yield f"classes without a {called} row: {show(lost)}; {called} says nothing of them"


def _wild(target: np.ndarray) -> Iterator[str]:
    middle = np.nanmedian(target)
    spread = 1.4826 * np.nanmedian(np.abs(target - middle))
    wild = np.flatnonzero((np.abs(target - middle) > _WILD * spread) & (spread > 0))
    if 0 < len(wild) <= max(1, len(target) // 100):
        yield (
            f"targets far from all others (over {_WILD:g} robust standard deviations) in rows {show(wild)}: "
            f"{show(target[wild])}; if they are mistakes, mend them or leave these rows out"
        )
    whole = np.sort(target)
    if len(target) > 2 and (np.diff(whole) == 1).all():
        yield "targets are consecutive whole numbers, one a row: they look like numbers of rows; is it the right label?"


def check_values(name: str, values: np.ndarray, present: np.ndarray, target: np.ndarray, task: Task) -> Iterator[str]:
    """Yield problems of a modality's numbers: placeholders, and a copy of the target.

    >>> y = np.arange(6) % 2
    >>> list(check_values("a", y[:, None] * 1.0, y >= 0, y, Task("classification", ("0", "1"))))[0][:31]
    "modality 'a' is a copy of the l"
    """
    if is_text(values) or values.dtype.kind not in "fiu":
        return
    flat = values.reshape(len(values), -1)
    if values.dtype.kind == "f":
        huge = (magnitudes(flat) > LARGEST) & present
        if huge.any():
            yield (
                f"modality {name!r} has numbers beyond {LARGEST:g} in rows {show(np.flatnonzero(huge))}; expected "
                "measurements: write NaN in the whole row where a modality is missing"
            )
    same = task.kind != "survival" and flat.shape[1] == 1 and len(np.unique(target)) > 1
    targets = target.astype(np.float64).reshape(len(target), -1).T
    if same and any(np.array_equal(flat[:, 0].astype(np.float64), own, equal_nan=True) for own in targets):
        yield f"modality {name!r} is a copy of the label; expected what is known of a new sample: leave it out"


def remark_values(
    values: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray], parts: np.ndarray, labels: Labels
) -> tuple[list[str], list[str]]:
    """Return problems and remarks of what modalities hold, and of rows that stand twice.

    Args:
        values: modality to its raw rows, of all that are in memory.
        present: modality to rows (N,) in which it is there, of all modalities.
        parts: (N,) names of the splits.
        labels: targets.

    >>> from modalign.data.tables.labels import read_labels
    >>> a, y = np.ones((4, 2)), np.arange(4) % 2
    >>> everywhere = {"a": np.ones(4, bool)}
    >>> remark_values({"a": a}, everywhere, np.array(["train"] * 4), read_labels("y", [y]))[1]
    ["modality 'a' is the same in all rows: it tells nothing; leave it out"]
    """
    problems: list[str] = []
    remarks: list[str] = []
    codes = {m: _row_codes(array) for m, array in values.items()}
    train = parts == "train"
    target = labels.target.numpy()
    for m, code in codes.items():
        here = code[present[m]]
        kinds = len(np.unique(here))
        if kinds == 1:
            remarks.append(f"modality {m!r} is the same in all rows: it tells nothing; leave it out")
        elif len(np.unique(code[present[m] & train])) == 1:
            remarks.append(f"modality {m!r} is the same in all training rows: nothing is learned from it")
        elif labels.task.kind == "classification" and _one_to_one(here, target[present[m]]):
            said = f"modality {m!r} has one value for each class: it is the label in other words"
            remarks.append(f"{said}; is it known of new samples?")
        remarks += _lost_digits(m, values[m])
    for m, n in combinations(codes, 2):
        if (present[m] == present[n]).all() and np.array_equal(codes[m][present[m]], codes[n][present[n]]):
            remarks.append(f"modalities {m!r} and {n!r} are the same in all rows; expected two sources: leave one out")
    if set(codes) == set(present) and codes:
        problems, found = _twice(codes, present, parts)
        remarks += found
    return problems, remarks


def _one_to_one(codes: np.ndarray, target: np.ndarray) -> bool:
    """Return whether each class has one value of its own, and most classes several rows."""
    kinds = len(np.unique(codes))
    if kinds != len(np.unique(target)) or _FEW * kinds >= len(codes):
        return False
    return len(np.unique(np.stack([codes, target]), axis=1).T) == kinds


def _row_codes(values: np.ndarray) -> np.ndarray:
    """Return a number (N,) for each row, equal where rows are equal bit for bit."""
    if is_text(values) or values.dtype == object:
        texts = as_strings(values)
        return np.fromiter((hash(str(text)) for text in texts), np.int64, len(texts))
    rows = np.ascontiguousarray(values.reshape(len(values), -1))
    return np.fromiter((hash(row.tobytes()) for row in rows), np.int64, len(rows))


def _lost_digits(name: str, values: np.ndarray) -> list[str]:
    """Return a remark on numbers that float32, in which networks compute, does not tell apart."""
    if values.dtype.kind not in "iu" and values.dtype != np.float64:
        return []
    flat = values.reshape(len(values), -1)
    with np.errstate(invalid="ignore"):
        large = [k for k in np.flatnonzero((np.abs(flat) > _EXACT).any(0)) if np.isfinite(flat[:, k]).all()]
    rounded = {k: flat[:, k].astype(np.float32) for k in large[:100]}
    alike = [k for k, column in rounded.items() if len(np.unique(column)) < 0.9 * len(np.unique(flat[:, k]))]
    lost = [k for k, column in rounded.items() if (column.astype(np.float64) != flat[:, k]).any()]
    if not alike and (values.dtype == np.float64 or not lost):  # measurements are rounded anyway
        return []
    what = "that float32 does not tell apart" if alike else "whose last digits float32 loses"
    return [
        f"modality {name!r} has numbers beyond {_EXACT:,} {what} (column {show(alike or lost)}): subtract an offset "
        "first, or leave out what is an id or a time stamp"
    ]


def _twice(
    codes: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray], parts: np.ndarray
) -> tuple[list[str], list[str]]:
    """Return problems and remarks on held-out rows that are exact copies of training rows.

    Where few values are possible, rows are equal by chance: nothing is said if half of the training rows recur.
    """
    problems: list[str] = []
    remarks: list[str] = []
    train = parts == "train"
    keys = np.stack([np.where(present[m], codes[m], 0) for m in codes], 1)
    known = {row.tobytes() for row in np.unique(keys[train], axis=0)}
    if 2 * len(known) < train.sum():
        return problems, remarks
    for part, called in (("test", "test"), ("valid", "validation")):
        rows = np.flatnonzero(parts == part)
        copies = np.array([keys[row].tobytes() in known for row in rows], bool)
        if len(rows) > 1 and copies.all():
            said = f"every {called} row is an exact copy of a training row; expected rows that were not learned from"
            (problems if part == "test" else remarks).append(f"{said}: check the split")
        elif copies.any():
            remarks.append(
                f"{int(copies.sum())} of {len(rows)} {called} rows are exact copies of training rows (row "
                f"{show(rows[copies])}): scores are a little too good; leave them out with "
                f"{option('data.options.drop')}"
            )
        else:
            for m in codes if len(codes) > 1 else ():
                here = rows[present[m][rows]]
                share = float(np.isin(codes[m][here], codes[m][train & present[m]]).mean()) if len(here) else 0.0
                if share > 0.5 and 2 * len(np.unique(codes[m][train])) > train.sum():
                    remarks.append(
                        f"{m!r} of {share:.0%} of the {called} rows is that of a training row too; if rows belong "
                        "together (a patient, a recording), name that column as data.group"
                    )
    return problems, remarks
