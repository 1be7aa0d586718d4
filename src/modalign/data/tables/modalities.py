"""From a raw array to the input of one modality: kind, order of axes, presence, vocabulary.

What has to be learned from data (categories, words, means to fill gaps with) is learned from the training rows
only and kept in a ``Preparation``, so that new samples are treated alike. Scaling is the model's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from modalign.data.batch import KINDS, Kind, Modality
from modalign.data.tables import words
from modalign.errors import DataError, option, unknown

CHANNELS = (1, 3, 4)
MOST_CATEGORIES = 100


def is_text(array: np.ndarray) -> bool:
    """Return whether the array holds strings.

    >>> is_text(np.array(["a", "b"])), is_text(np.ones(2))
    (True, False)
    """
    return array.dtype.kind in "UST" or (
        array.dtype == object and array.ndim == 1 and any(isinstance(x, str) for x in array)
    )


def is_table(array: np.ndarray) -> bool:
    """Return whether the array holds rows of cells of which some columns are texts (``files.join_columns``).

    >>> is_table(np.array([[30, "f"], [40, "m"]], object)), is_table(np.ones((2, 2)))
    (True, False)
    """
    return array.dtype == object and array.ndim == 2


def cells_of(array: np.ndarray) -> list[np.ndarray]:
    """Return the columns of a table: float64, NaN where missing, or stripped texts where any cell is text.

    >>> [column.tolist() for column in cells_of(np.array([[30, "f"], [None, "m"]], object))]
    [[30.0, nan], ['f', 'm']]
    """
    columns = []
    for cells in array.T:
        texts = as_strings(cells)
        if any(isinstance(cell, str) and text for cell, text in zip(cells, texts, strict=True)):
            columns.append(texts)
        else:
            columns.append(np.array([float(c) if t else np.nan for c, t in zip(cells, texts, strict=True)]))
    return columns


MEDIA_ENDINGS = {
    "image": (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"),
    "audio": (".wav", ".mp3", ".flac", ".ogg", ".m4a"),
    "video": (".mp4", ".avi", ".mov", ".mkv", ".flv", ".webm"),
}
"""Endings of files by the kind of modality that they hold."""


def kind_of_files(cells: Sequence[str]) -> str | None:
    """Return what the files are that all cells name, by their endings, the empty ones apart; None for other texts.

    >>> kind_of_files(["a/1.png", "", "b.JPG"]), kind_of_files(["see a.png", "none"])
    ('image', None)
    """
    named = [cell.lower() for cell in cells if cell]
    for kind, endings in MEDIA_ENDINGS.items():
        if named and all(cell.endswith(endings) for cell in named):
            return kind
    return None


def as_strings(array: np.ndarray) -> np.ndarray:
    """Return stripped strings; what stands for a missing value (None, NaN, ``nan``) becomes the empty string.

    >>> as_strings(np.array([" a", None, "nan"], object)).tolist()
    ['a', '', '']
    """
    missing = {"", "nan", "none", "null", "<na>"}
    texts = [x.decode() if isinstance(x, bytes) else str(x) for x in array.tolist()]
    return np.array(["" if t.strip().lower() in missing else t.strip() for t in texts], dtype=object)


def arrange(name: str, array: np.ndarray, kind: str | None) -> tuple[Kind, np.ndarray]:
    """Return the kind of a numeric array (N, ...) and the array with its axes in the order of that kind.

    Without ``kind``: (N,) and (N, F) are vectors, (N, T, F) a sequence (an image if uint8), (N, C, H, W) with
    1, 3 or 4 channels an image, other (N, T, H, W) a gray clip, (N, T, C, H, W) a clip. Images and clips with
    channels last are recognized where the other order is impossible.

    Raises:
        InputError: the shape does not fit the kind.

    >>> kind, array = arrange("photo", np.zeros((2, 8, 8, 3), np.uint8), None)
    >>> kind, array.shape
    ('image', (2, 3, 8, 8))
    """
    if kind is not None and kind not in KINDS:
        raise unknown(f"kind of modality {name!r}:", kind, [*KINDS, "categories"])
    sample, pixels = array.shape[1:], array.dtype == np.uint8
    rank = len(sample)
    if kind is None and rank == 3:
        kind = "image" if sample[0] in CHANNELS or (pixels and sample[-1] in CHANNELS) else "clip"
    kind = kind or {0: "vector", 1: "vector", 2: "image" if pixels else "sequence", 4: "clip"}.get(rank)
    if kind == "vector":
        return "vector", array.reshape(len(array), -1)
    if kind == "sequence" and rank in (1, 2):
        return "sequence", array if rank == 2 else array[..., None]
    if kind == "text" and rank == 1 and array.dtype.kind in "iu":
        return "text", array
    axis = 1 if kind == "image" else 2  # of the channels
    if kind in ("image", "clip") and rank in (axis + 1, axis + 2):
        array = array if rank == axis + 2 else np.expand_dims(array, axis)
        last = array.shape[axis] not in CHANNELS and array.shape[-1] in CHANNELS
        return ("image" if axis == 1 else "clip"), np.moveaxis(array, -1, axis) if last else array
    raise DataError(
        f"modality {name!r} has samples of shape {sample} and type {array.dtype}, which is no "
        f"{kind or 'known kind'}; expected vector (F,), sequence (T, F), image (C, H, W), clip (T, C, H, W) or "
        "text (L,) of integers: reshape the array, or name its kind in kinds"
    )


def marked_present(name: str, arrays: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
    """Return the rows (N,) bool that ``present_<name>`` marks; all where there is no such array.

    Raises:
        DataError: it holds something else than truth values, 0 and 1.

    >>> marked_present("a", {"present_a": np.array([1, 0])}, 2).tolist()
    [True, False]
    """
    marks = arrays.get(f"present_{name}")
    if marks is None:
        return np.ones(rows, bool)
    strange = np.ones(len(marks), bool) if marks.dtype.kind not in "biuf" else ~np.isin(marks, (0, 1))
    after = f": {show(np.unique(as_strings(marks[strange])))}; expected true and false, or 1 and 0"
    refuse_rows(strange, f"present_{name} is no mark of presence", after)
    found: np.ndarray = marks.astype(bool)
    return found


def find_modality(
    name: str, arrays: Mapping[str, np.ndarray], impute: bool = False, numbers: Sequence[object] | None = None
) -> np.ndarray:
    """Return the rows (N,) bool in which a modality is there, by its values and by ``present_<name>``.

    A row that is marked False there, that is NaN throughout, or an empty string, is absent. A row that is NaN in part
    is a problem unless it will be imputed; one with a number that float32 cannot hold always is.

    Args:
        name: of the modality.
        arrays: all arrays by name.
        impute: gaps in a row are filled later.
        numbers: what rows are called in messages, where not by their position.

    Raises:
        DataError: such rows, or values that are neither numbers nor text.

    >>> find_modality("a", {"a": np.array([[1.0, 2.0], [np.nan, np.nan]])}).tolist()
    [True, False]
    """
    array = arrays[name]
    present = marked_present(name, arrays, len(array))
    if is_text(array):
        return np.asarray(present & (as_strings(array) != ""))
    if is_table(array):
        columns = cells_of(array)
        known = [c != "" if c.dtype == object else ~np.isnan(c) for c in columns]
        present = present & np.any(known, 0)
        flat = np.array([c for c in columns if c.dtype != object]).reshape(-1, len(array)).T
        missing = np.isnan(flat)
    elif array.dtype == object:
        held = type(array.flat[0]).__name__ if array.size else "no type: it is empty"
        raise DataError(
            f"modality {name!r} holds objects of type {held}; expected numbers or text "
            "of one shape: pad sequences to one length and save them as a numeric array"
        )
    elif array.dtype.kind not in "fiub":
        raise DataError(f"modality {name!r} has type {array.dtype}; expected numbers or text")
    elif array.dtype.kind != "f":
        return present
    else:
        flat = array.reshape(len(array), -1)
        missing = np.isnan(flat)
        present = present & ~missing.all(1)
    rows = np.arange(len(array)) if numbers is None else np.asarray(numbers)
    partly = rows[missing.any(1) & present]
    infinite = rows[(magnitudes(flat) > np.finfo(np.float32).max) & present]
    problems = []
    if len(partly) and not impute:
        problems.append(
            f"modality {name!r} has NaN in a part of {len(partly)} rows ({show(partly)}); expected numbers, or "
            "NaN in the whole row where the modality is absent: repair the rows, or fill the gaps by "
            f"{option('data.options.impute', 'mean')}"
        )
    if len(infinite):
        problems.append(
            f"modality {name!r} has infinite or enormous values in {len(infinite)} rows ({show(infinite)}); "
            "expected finite numbers below 3e38: repair the rows, or set them to NaN throughout, which means "
            "absent"
        )
    if problems:
        raise DataError("; ".join(problems))
    return present


def magnitudes(flat: np.ndarray) -> np.ndarray:
    """Return the largest absolute value (N,) in each row of (N, F), NaN left aside, without a copy of them all.

    >>> magnitudes(np.array([[1.0, -3.0], [np.nan, 2.0]])).tolist()
    [3.0, 2.0]
    """
    top, bottom = (reduce(flat, axis=1, initial=0) for reduce in (np.fmax.reduce, np.fmin.reduce))
    return np.maximum(top, -bottom).astype(np.float64)  # half precision overflows where it is compared


def show(items: Any, most: int = 20) -> str:
    """Return the first items of a list, as in messages.

    >>> show(range(5), most=2)
    '0, 1, ... (5 in all)'
    """
    shown = ", ".join(str(item) for item in items[:most])
    return f"{shown}, ... ({len(items)} in all)" if len(items) > most else shown


def refuse_rows(bad: np.ndarray, before: str, after: str) -> None:
    """Refuse rows, if any are ``bad`` (N,) bool, in a message "BEFORE in rows ROWS AFTER".

    Raises:
        DataError: there are such rows.

    >>> refuse_rows(np.array([False, True]), "time is negative", "; expected times from 0")
    Traceback (most recent call last):
        ...
    modalign.errors.DataError: time is negative in rows 1; expected times from 0
    """
    if bad.any():
        raise DataError(f"{before} in rows {show(np.flatnonzero(bad))}{after}")


@dataclass(frozen=True)
class Preparation:
    """How the raw array of one modality becomes its input, learned from the training rows.

    Attributes:
        modality: name, kind and shape of the input.
        words: vocabulary of a text modality given as strings.
        categories: values of a modality of categories, in the order of the one-hot vector.
        fill: training mean of each entry, flat, that replaces NaN; empty without imputation.
        columns: names of the columns (features) that are joined to the modality; empty where it is one of its name.
        levels: of a modality of numbers and texts side by side, the values of each column that become a one-hot vector,
            none for a column of numbers; empty for other modalities.
        decoder: how raw files become the stored array (``decoders.make_decoder``), or the ``layer`` of AnnData that is
            read; empty where there are none.

    >>> made = fit_preparation("site", np.array(["south", "north", "south"]), None, np.arange(3), False)
    >>> made.apply(np.array(["north", "west"])).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """

    modality: Modality
    words: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    fill: tuple[float, ...] = ()
    columns: tuple[str, ...] = ()
    levels: tuple[tuple[str, ...], ...] = ()
    decoder: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The stored form (N, *shape) of a raw array: float32, uint8, or int64 for text.

        Raises:
            InputError: samples have another shape than those of training.
        """
        name, shape = self.modality.name, self.modality.shape
        if self.levels:
            array = self._encoded(array)
        if self.words:
            return words.encode(list(as_strings(array)), self.words, shape[0])
        if self.categories:
            return (as_strings(array)[:, None] == np.array(self.categories, dtype=object)).astype(np.float32)
        stored = arrange(name, array, self.modality.kind)[1]
        if self.modality.kind == "text":
            stored = stored.astype(np.int64)
        elif stored.dtype != np.uint8:
            stored = stored.astype(np.float32, copy=False)
        if stored.shape[1:] != shape:
            raise DataError(
                f"modality {name!r} has samples of shape {stored.shape[1:]}; expected {shape}, as in training: prepare "
                "new rows as those were"
            )
        if stored.dtype == np.float32 and np.isnan(stored).any():
            fill = np.array(self.fill, np.float32).reshape(shape) if self.fill else np.float32(0)
            stored = np.where(np.isnan(stored), fill, stored)
        return stored

    def _encoded(self, array: np.ndarray) -> np.ndarray:
        """A table (N, F) as numbers: texts one-hot, zeros for those that training did not have."""
        if array.ndim != 2 or array.shape[1] != len(self.levels):
            columns = ", ".join(self.columns) or f"{len(self.levels)} columns"
            raise DataError(f"modality {self.modality.name!r} has shape {array.shape}; expected {columns} in each row")
        parts = []
        for j, (column, known) in enumerate(zip(cells_of(array.astype(object)), self.levels, strict=True)):
            texts = column if column.dtype == object else as_strings(array[:, j])
            if known:
                parts.append((texts[:, None] == np.array(known, dtype=object)).astype(np.float32))
            elif column.dtype == object:
                numbers = np.array([isinstance(cell, int | float) for cell in array[:, j]])
                called = self.columns[j] if self.columns else f"column {j}"
                refuse_rows(
                    ~numbers & (texts != ""),
                    f"{called} of modality {self.modality.name!r} has text",
                    "; expected numbers",
                )
                parts.append(np.zeros((len(array), 1), np.float32))
            else:
                parts.append(column[:, None].astype(np.float32))
        return np.concatenate(parts, 1)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preparation:
        """Return the preparation of which ``dataclasses.asdict`` gave these values, also after a way through JSON."""
        about = {**values["modality"], "shape": tuple(values["modality"]["shape"])}
        rest = {key: tuple(value) for key, value in values.items() if key not in ("modality", "decoder")}
        rest["levels"] = tuple(map(tuple, rest.get("levels", ())))
        return cls(Modality(**about), **rest, decoder=values.get("decoder", {}))


def fit_preparation(name: str, array: np.ndarray, kind: str | None, rows: np.ndarray, impute: bool) -> Preparation:
    """Learn from ``rows`` (training rows in which the modality is present) how to prepare a modality.

    Raises:
        InputError: shape and kind disagree, or token ids are negative.

    >>> fit_preparation("a", np.zeros((4, 3)), None, np.arange(4), False).modality.kind
    'vector'
    """
    if is_table(array):
        levels = []
        for number, column in enumerate(cells_of(array)):
            found_levels = sorted({*column[rows].tolist()} - {""}) if column.dtype == object else []
            most = min(MOST_CATEGORIES, max(2, len(rows) // 5))
            if len(found_levels) > most:
                raise DataError(
                    f"modality {name!r}: column {number} has {len(found_levels)} different texts in {len(rows)} "
                    f"training rows; expected at most {most} categories: name texts as a modality of their own"
                )
            if column.dtype == object and not found_levels:
                raise DataError(f"modality {name!r}: column {number} has no value in the training rows; leave it out")
            levels.append(tuple(found_levels))
        made = Preparation(Modality(name, "vector", (sum(len(known) or 1 for known in levels),)), levels=tuple(levels))
        plain = fit_preparation(name, made._encoded(array), "vector", rows, impute)
        return replace(plain, levels=made.levels)
    if is_text(array) or kind == "categories":
        known = as_strings(array)[rows]
        if kind is None and (files := kind_of_files(known)):
            raise DataError(
                f"modality {name!r} names files such as {known[0]}, whose names would be read as words; expected what "
                "is in them: describe the table in a .yaml of its name beside it (modalities: "
                f"{{{name}: {files}}}) and run modalign prepare, or hand in a data frame from Python. If the names "
                f"themselves are meant, set {option('data.kinds', {name: 'text'})}"
            )
        values = sorted(set(known.tolist()))
        few = len(values) <= min(MOST_CATEGORIES, max(2, len(rows) // 5))
        if kind in ("vector", "categories") or (kind is None and few):
            return Preparation(Modality(name, "vector", (len(values),)), categories=tuple(values))
        if kind not in (None, "text"):
            raise DataError(f"modality {name!r} holds strings, which are no {kind}; its kind can be text or categories")
        vocabulary = words.build_vocabulary(known)
        if not vocabulary:
            raise DataError(f"modality {name!r} holds texts without a single word")
        length = min(words.LONGEST, max(len(words.split_words(text)) for text in known))
        return Preparation(Modality(name, "text", (length,), vocabulary=len(vocabulary) + 2), words=vocabulary)
    found, arranged = arrange(name, array, kind)
    shape = tuple(int(n) for n in arranged.shape[1:])
    if found == "text":
        if arranged.min() < 0:
            raise DataError(f"modality {name!r} has negative token ids; expected ids from 0, with 0 as padding")
        return Preparation(Modality(name, found, shape, vocabulary=int(arranged.max()) + 1))
    fill: tuple[float, ...] = ()
    # New rows of a table may have gaps where training has none.
    if impute and array.dtype.kind == "f" and (found == "vector" or np.isnan(arranged[rows]).any()):
        known = arranged[rows].reshape(len(rows), -1)
        counts = np.maximum((~np.isnan(known)).sum(0), 1)
        fill = tuple((np.nan_to_num(known).sum(0, dtype=np.float64) / counts).tolist())
    return Preparation(Modality(name, found, shape), fill=fill)
