"""Conditions of a modality: further columns, known at prediction too, that tell how far it is to be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalign.data.tables.labels import Labels, missing_values
from modalign.data.tables.modalities import MOST_CATEGORIES, as_strings, is_text, refuse_rows
from modalign.errors import DataError, Problems, unknown

Named = Mapping[str, Sequence[str]]  # modality name to the columns that are its conditions


@dataclass(frozen=True)
class Condition:
    """How one column or array becomes numbers, learned from the training rows.

    Text and truth values become one-hot; numbers are standardized, each entry of an array for itself. What is not
    known (NaN, an empty cell, a text that no training row has) becomes zeros, which modulate nothing.

    Attributes:
        name: of the column.
        categories: texts in the order of the one-hot vector; empty for numbers.
        shape: of the numbers of one sample.
        mean, std: of each number, flat.

    >>> Condition.fit("snr", np.array([1.0, 3.0, np.nan]), np.arange(3)).apply(np.array([3.0, np.nan])).tolist()
    [[1.0], [0.0]]
    >>> Condition.fit("event", np.array(["rain", "wind"]), np.arange(2)).apply(np.array(["wind", "hail"])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """

    name: str
    categories: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Number of values it becomes."""
        return len(self.categories) or len(self.mean)

    @classmethod
    def fit(cls, name: str, values: np.ndarray, rows: np.ndarray) -> Condition:
        """Learn from the training ``rows`` how a column (N, ...) is read.

        Raises:
            DataError: it holds neither numbers nor text, more than 100 texts, or one value in all training rows.
        """
        if _is_discrete(values):
            found = sorted({*as_strings(values)[rows].tolist()} - {""})
            if len(found) > MOST_CATEGORIES:
                raise DataError(
                    f"condition {name!r} has {len(found)} different texts; expected at most {MOST_CATEGORIES}: leave "
                    "it out, or turn it into numbers"
                )
            made = cls(name, categories=tuple(found))
            varies = len(found) > 1
        else:
            known = _numbers(name, values)[rows]
            mean, std = (_moment(f, known) for f in (np.nanmean, np.nanstd))
            made = cls(name, (), values.shape[1:], tuple(mean.tolist()), tuple(std.tolist()))
            varies = bool((std > 0).any())
        if not varies:
            raise DataError(f"condition {name!r} has one value in the training rows and can tell nothing: leave it out")
        return made

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return the values (N, width) of a raw column, zeros where they are not known.

        Raises:
            DataError: it is of another shape or type than in training, or infinite.
        """
        if self.categories:
            return (as_strings(values)[:, None] == np.array(self.categories, dtype=object)).astype(np.float32)
        if values.shape[1:] != self.shape:
            raise DataError(
                f"condition {self.name!r} has samples of shape {values.shape[1:]}; expected {self.shape} as in training"
            )
        std = np.array(self.std)
        scaled = (_numbers(self.name, values) - np.array(self.mean)) / np.where(std > 0, std, 1.0)
        return np.nan_to_num(np.where(std > 0, scaled, 0.0)).astype(np.float32)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Condition:
        """Return the condition of which ``dataclasses.asdict`` gave these values, also after a way through JSON."""
        return cls(plain["name"], *(tuple(plain[key]) for key in ("categories", "shape", "mean", "std")))


def check_conditions(named: Named, modalities: Sequence[str], label: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return what is wrong with the names of conditions; empty if nothing is.

    >>> check_conditions({"sound": ["snr"]}, ["sound"], ["y"], ["snr", "y"])
    []
    """
    wrong = [str(unknown("modality in conditions:", m, modalities)) for m in named if m not in modalities]
    for m, columns in named.items():
        if isinstance(columns, str):
            wrong.append(f"conditions of {m!r} are {columns!r}; expected a list of columns, [{columns}]")
            continue
        for column in columns:
            if column in label:
                wrong.append(f"condition {column!r} of {m!r} is the label, not known at prediction: leave it out")
            elif column not in known:
                wrong.append(str(unknown(f"condition of {m!r}:", column, known)))
    return wrong


def fit_conditions(
    named: Named, arrays: Mapping[str, np.ndarray], labels: Labels, train: np.ndarray, problems: Problems
) -> tuple[dict[str, tuple[Condition, ...]], dict[str, Tensor], list[str]]:
    """Return how the conditions of each modality are read, their values (N, width), and notes.

    Args:
        named: modality name to columns; all exist.
        arrays: columns of all rows.
        labels: to refuse a condition that is the label under another name.
        train: (N,) bool, the rows to learn from.
        problems: what is wrong is added.
    """
    made: dict[str, tuple[Condition, ...]] = {}
    values: dict[str, Tensor] = {}
    notes = []
    for m, columns in named.items():
        found = []
        for column in columns:
            condition = problems.trying(Condition.fit, column, arrays[column], np.flatnonzero(train))
            if condition is None or problems.trying(condition.apply, arrays[column]) is None:
                continue
            problems.trying(_refuse_label, column, arrays[column], labels)
            found.append(condition)
            notes += _unseen(condition, arrays[column])
        if found:
            made[m] = tuple(found)
            values[m] = apply_conditions(made[m], arrays)
    return made, values, notes


def apply_conditions(conditions: Sequence[Condition], arrays: Mapping[str, np.ndarray]) -> Tensor:
    """Return the values of the conditions of one modality side by side, (N, K) float32."""
    return torch.from_numpy(np.concatenate([c.apply(arrays[c.name]) for c in conditions], 1))


def read_conditions(
    saved: Mapping[str, Sequence[Mapping[str, Any]]],
    used: Sequence[str],
    arrays: Mapping[str, np.ndarray],
    total: int,
    problems: Problems,
) -> dict[str, Tensor]:
    """Return the conditions of new samples, zeros for modalities that are not used.

    Args:
        saved: modality name to its conditions as ``describe_conditions`` gave them.
        used: modalities that are given; the conditions of the others are not needed.
        arrays: columns of the new samples.
        total: number of samples.
        problems: conditions that are not given, or of another form, are added.
    """
    values = {}
    for m, plain in saved.items():
        conditions = [Condition.from_dict(one) for one in plain]
        values[m] = torch.zeros(total, sum(c.width for c in conditions))
        if m not in used:
            continue
        lost = [c.name for c in conditions if c.name not in arrays]
        problems += [
            f"condition {name!r} of {m!r} is not given; expected a column of that name as in training, empty (NaN) "
            "where it is not known"
            for name in lost
        ]
        lengths = {c.name: len(arrays[c.name]) for c in conditions if c.name in arrays}
        wrong = [f"{name!r} has {length} rows; expected {total}" for name, length in lengths.items() if length != total]
        problems += wrong
        if not (lost or wrong):
            found = problems.trying(apply_conditions, conditions, arrays)
            values[m] = values[m] if found is None else found
    return values


def describe_conditions(made: Mapping[str, Sequence[Condition]]) -> dict[str, list[dict[str, Any]]]:
    """Return how conditions are read as plain values for JSON: what ``read_conditions`` needs."""
    return {m: [asdict(condition) for condition in conditions] for m, conditions in made.items()}


def _is_discrete(values: np.ndarray) -> bool:
    return values.ndim == 1 and (is_text(values) or values.dtype.kind in "bO")


def _numbers(name: str, values: np.ndarray) -> np.ndarray:
    """(N, F) float64, NaN where not known."""
    if values.dtype.kind not in "fiub":
        raise DataError(f"condition {name!r} has type {values.dtype}; expected numbers, or one text a row")
    flat = values.reshape(len(values), -1).astype(np.float64)
    infinite = np.asarray(np.isinf(flat).any(1))
    refuse_rows(infinite, f"condition {name!r} is infinite", "; expected numbers, or NaN where not known")
    return flat


def _moment(function: Any, known: np.ndarray) -> np.ndarray:
    """A moment of each column of (N, F), zero where none of its rows is known."""
    there = ~np.isnan(known).all(0)
    values = np.zeros(known.shape[1])
    values[there] = function(known[:, there], axis=0)
    return values


def _refuse_label(name: str, values: np.ndarray, labels: Labels) -> None:
    """A column that names the class of every row, one value a class, is the label."""
    if values.ndim > 1 or labels.task.kind != "classification" or missing_values(values).any():
        return
    codes = np.unique(as_strings(values).astype(str), return_inverse=True)[1]
    pairs = len(np.unique(np.stack([codes, labels.target.numpy()], 1), axis=0))
    if pairs == codes.max() + 1 == len(labels.target.unique()):
        raise DataError(
            f"condition {name!r} tells the label of every row, one value a class: it is the label under another name, "
            "which is not known at prediction; leave it out"
        )


def _unseen(condition: Condition, values: np.ndarray) -> list[str]:
    """A note on texts that no training row has."""
    if not condition.categories:
        return []
    found = sorted({*as_strings(values).tolist()} - {"", *condition.categories})
    count = int(np.isin(as_strings(values), found).sum())
    said = f"condition {condition.name}: {count} rows outside training have values that training has not"
    return [f"{said} ({', '.join(found[:5])}); they count as not known"] if found else []
