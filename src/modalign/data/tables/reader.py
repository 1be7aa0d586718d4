"""The one reader of tables: from named columns and modalities to checked splits, whatever they come from.

Arrays (``arrays``), manifests (``manifest``), prepared folders (``media.folder``) and objects (``objects``) are
``Source``s: columns in memory, and modalities that are prepared already or read when they are needed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from modalign.data.augment import Crop
from modalign.data.dataset import Column, MultimodalData
from modalign.data.tables.array_split import ArraySplit, Rows, SparseRows
from modalign.data.tables.conditions import Condition, check_conditions, fit_conditions
from modalign.data.tables.labels import MOST_CODES, Labels, missing_values, read_column, read_labels
from modalign.data.tables.meaning import (
    check_label_names,
    check_roles,
    check_values,
    remark_labels,
    remark_split,
    remark_values,
)
from modalign.data.tables.modalities import (
    Preparation,
    as_strings,
    find_modality,
    fit_preparation,
    is_table,
    is_text,
    marked_present,
    refuse_rows,
    show,
)
from modalign.data.tables.splits import FOLDS, assign_splits, check_groups, select_rows
from modalign.data.task import TaskKind
from modalign.domains import Count
from modalign.domains import check_values as check_options
from modalign.errors import DataError, Problems, SettingsError, option, unknown
from modalign.settings import DataSettings

_BLOCK = 1024  # rows that are hashed at a time


@dataclass(frozen=True)
class RowOptions:
    """How the rows of a table are read, beyond ``DataSettings``.

    Args:
        task: ``classification``, ``multilabel`` (label ``A,B,C``, or an array (N, C)), ``regression`` (likewise one or
            several) or ``survival`` (label ``TIME,EVENT``); None: by the labels.
        classes: names of the classes, where their order or range is to be fixed.
        drop: expression of the rows to leave out, such as ``grade==0``.
        drop_unlabelled: leave rows without a label out instead of refusing them; of several, rows without any.
        group_pattern: regular expression with one capture that takes the group from the group column's text.
        impute: ``mean`` fills NaN in a part of a row with the training mean, instead of refusing it.
        augment: images or clips to crop and flip at random in training.
        crop: how (``data.augment.Crop``, or its arguments by name).
        draw: clip to a number of frames: a sample has one of each of so many equal parts of the frames that are there,
            at random in training, and a fixed one otherwise (``data.augment.pick_frames``).

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
    crop: Crop | dict[str, Any] = field(default_factory=Crop)
    draw: dict[str, Count] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.crop, dict):
            check_options(Crop, self.crop, Crop.where, "entry of data.options.crop:")
            object.__setattr__(self, "crop", Crop(**self.crop))
        if self.impute not in (None, "mean"):
            raise unknown("way to impute", str(self.impute), ["mean"])
        if self.classes is not None and (isinstance(self.classes, str) or not isinstance(self.classes, Sequence)):
            raise SettingsError(f"classes is {self.classes!r}; expected a list of the names of the classes")
        try:
            groups = re.compile(self.group_pattern or "()").groups
        except (re.error, TypeError) as error:
            raise SettingsError(f"group_pattern {self.group_pattern!r} is no regular expression: {error}") from None
        if groups < 1:
            raise SettingsError(f"group_pattern {self.group_pattern!r} has no group; expected one (capture)")


def label_columns(settings: DataSettings) -> list[str]:
    """Return the names of the label column, or of the two of a survival target; ``y`` by default.

    >>> label_columns(DataSettings(label="time,event"))
    ['time', 'event']
    """
    return [part.strip() for part in str(settings.label or "y").split(",")]


def condition_columns(settings: DataSettings) -> list[str]:
    """Return the columns that are conditions of some modality.

    >>> condition_columns(DataSettings(conditions={"sound": ["snr", "event"]}))
    ['snr', 'event']
    """
    return list(dict.fromkeys(column for columns in settings.conditions.values() for column in columns))


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
        missing = np.array([_unknown(arrays[column]) for column in columns])
        partly = options.task in ("multilabel", "regression")
        lost = keep & (missing.all(0) if partly else missing.any(0))
        notes += [f"{int(lost.sum())} of {total} rows left out: no label"] if lost.any() else []
        keep &= ~lost
    if not keep.any():
        problems.append("every row is left out; expected some to stay: change drop or drop_unlabelled")
        problems.stop()
    kept = np.flatnonzero(keep)
    if len(kept) == total:
        return kept, dict(arrays), notes
    return kept, {key: a[kept] for key, a in arrays.items() if a.ndim and len(a) == total}, notes


def _unknown(column: np.ndarray) -> np.ndarray:
    """Return the rows (N,) bool without any value in a label column, which may be (N, C)."""
    return np.asarray(missing_values(column).reshape(len(column), -1).all(1))


def read_groups(arrays: Mapping[str, np.ndarray], settings: DataSettings, options: RowOptions) -> np.ndarray | None:
    """Return the group of each row (N,) as text, or None without groups.

    Raises:
        DataError: a row has none, or ``group_pattern`` fits nothing in it.

    >>> read_groups({"who": np.array(["p1_a", "p2_b"])}, DataSettings(group="who"), RowOptions(group_pattern="(.*)_"))
    array(['p1', 'p2'], dtype='<U2')
    """
    if not settings.group:
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


@dataclass
class Source:
    """Samples before they are checked.

    Attributes:
        columns: name to array (N, ...): raw modalities, labels and further columns.
        stored: modality name to rows that need no preparation any more (on disk, or read when needed), with
            ``Preparation``s of the same names.
        preparations: how the stored modalities became what they are; of others, which columns and decoder to keep.
        joined: modality name to the columns it was put together from.
        contents: hash of what is stored and not in ``columns``; None: the prepared modalities are hashed.
        present: rows (N,) bool in which a modality of ``columns`` is there, by its name, all columns and whether
            gaps are filled; raises ``InputError``.
        split: class of the splits.

    >>> sorted(Source({"a": np.ones((8, 2)), "y": np.arange(8) % 2}).columns)
    ['a', 'y']
    """

    columns: Mapping[str, np.ndarray]
    stored: Mapping[str, Rows] = field(default_factory=dict)
    preparations: Mapping[str, Preparation] = field(default_factory=dict)
    joined: Mapping[str, Sequence[str]] = field(default_factory=dict)
    contents: str | None = None
    present: Callable[[str, Mapping[str, np.ndarray], bool], np.ndarray] = find_modality
    split: Callable[..., ArraySplit] = ArraySplit


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
        columns: further columns, and that of the groups.
        conditions, condition_readers: as in ``ArraySplit``, of all rows.
        notes: what was dropped or found.
    """

    kept: np.ndarray
    labels: Labels
    parts: np.ndarray
    ids: list[str]
    groups: np.ndarray | None
    present: Mapping[str, np.ndarray]
    columns: dict[str, Column]
    conditions: dict[str, Tensor] = field(default_factory=dict)
    condition_readers: Mapping[str, Sequence[Condition]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check_table(source: Source, settings: DataSettings, options: RowOptions, problems: Problems) -> Table:
    """Return what the rows of a source have in common, checked as a whole.

    Args:
        source: columns and modalities.
        settings: modalities, label, split, group and columns, all of which must exist.
        options: how rows are read.
        problems: found so far; everything found here is added.

    Raises:
        DataError: with every problem.

    >>> source = Source({"a": np.ones((8, 2)), "y": np.arange(8) % 2})
    >>> check_table(source, DataSettings(modalities=["a"]), RowOptions(), Problems("data")).labels.task.classes
    ('0', '1')
    """
    names = settings.modalities or []
    _check_names(source, names, settings, problems)
    problems.stop()
    kept, columns, notes = keep_rows(source.columns, settings, options, problems)
    present = {}
    for m in names:
        if m in source.stored:
            present[m] = marked_present(m, columns, len(kept))
        else:
            found = problems.trying(source.present, m, columns, options.impute is not None)
            present |= {} if found is None else {m: found}
    label = ",".join(label_columns(settings))
    targets = [columns[column] for column in label.split(",")]
    labels = problems.trying(read_labels, label, targets, options.task, options.classes)
    groups = problems.trying(read_groups, columns, settings, options)
    ids = problems.trying(read_ids, columns, kept)
    contexts = {c: problems.trying(read_column, c, columns[c]) for c in settings.columns}
    if groups is not None and settings.group and len(np.unique(groups)) <= MOST_CODES:
        contexts.setdefault(settings.group, read_column(settings.group, groups))
    if labels is not None:
        problems += check_label_names(label, targets[0], labels, options.classes)
        held = [(m, columns[m]) for m in names if m in columns and m not in source.stored]
        for m, values in held:
            problems += check_values(
                m, values, present.get(m, np.ones(len(kept), bool)), labels.target.numpy(), labels.task
            )
        if problems:
            labels = None  # splits of such labels have problems of their own, which would hide these
    parts = None
    if labels is not None and (groups is not None or not settings.group):
        how = settings.split, settings.valid_fraction, settings.split_seed
        outer = settings.fold, settings.folds, settings.valid_seed
        parts = problems.trying(assign_splits, columns, labels.strata, groups, *how, *outer)
    if settings.fold is not None:
        instead = f" in place of the split {settings.split!r}" if settings.split else ""
        notes.append(f"outer split {settings.fold}{instead}: folds by {settings.folds or FOLDS}")
    if labels is not None and parts is not None and labels.task.kind == "classification":
        codes = labels.target.numpy()
        lost = [labels.task.classes[code] for code in np.setdiff1d(codes, codes[parts == "train"])]
        if lost:
            problems.append(
                f"classes without a training sample: {show(lost)}; expected at least one of each: move rows to the "
                f"training split, or leave the classes out with {option('data.options.drop')}"
            )
    if labels is not None and parts is not None and labels.task.kind == "multilabel":
        seen = labels.target.numpy()[parts == "train"]
        alike = [
            name for name, own in zip(labels.task.classes, seen.T, strict=True) if not {0.0, 1.0} <= {*own.tolist()}
        ]
        if alike:
            notes.append(
                f"labels that are all the same in the training split, of which nothing is learned: {show(alike)}"
            )
    if groups is not None and parts is not None:
        named = settings.split if settings.fold is None else f"{settings.folds} in one of its values"
        by_design = settings.fold is None or isinstance(settings.folds, str)
        notes += problems.trying(check_groups, parts, groups, named if by_design else None) or []
    notes += _check_presence(present, parts, problems)
    if labels is not None and parts is not None and len(present) == len(names):
        refused, remarks = remark_values(dict(held), present, parts, labels)
        problems += refused
        notes += [
            *remark_split(names, source.joined, settings.split),
            *remark_labels(targets[0], labels, parts),
            *remarks,
        ]
    readers: dict[str, tuple[Condition, ...]] = {}
    conditions: dict[str, Tensor] = {}
    if labels is not None and parts is not None:
        readers, conditions, told = fit_conditions(settings.conditions, columns, labels, parts == "train", problems)
        notes += told
    if problems and len(kept) <= kept[-1]:
        problems.append("(rows are counted from 0 among those that were not left out)")
    problems.stop()
    assert labels is not None
    assert parts is not None
    assert ids is not None
    whole = {name: column for name, column in contexts.items() if column is not None}
    return Table(kept, labels, parts, ids, groups, present, whole, conditions, readers, notes)


def read_source(
    source: Source, settings: DataSettings, options: RowOptions, problems: Problems, name: str
) -> MultimodalData:
    """Return the data set of a source: rows kept, presence found, labels and splits read, preparations fitted.

    Args:
        source, settings, options, problems: as in ``check_table``.
        name: name of the data set.

    Raises:
        DataError: with every problem found.

    >>> source = Source({"a": np.arange(16.0).reshape(8, 2), "y": np.arange(8) % 2})
    >>> len(read_source(source, DataSettings(modalities=["a"]), RowOptions(), Problems("toy"), "toy").train)
    4
    """
    table = check_table(source, settings, options, problems)
    names, kept = settings.modalities or [], table.kept
    preparations: dict[str, Preparation] = {}
    stored: dict[str, Rows] = {}
    digest = hashlib.sha256()
    for m in names:
        if m in source.stored:
            preparations[m], stored[m] = source.preparations[m], source.stored[m]
            if source.contents is None:
                digest.update(m.encode())
                for block in _blocks(stored[m], kept):
                    digest.update(block)
            continue
        array, rows = source.columns[m], np.flatnonzero((table.parts == "train") & table.present[m])
        whole = len(kept) == len(array)
        used = array if whole else array[kept]
        fitted = problems.trying(fit_preparation, m, used, settings.kinds.get(m), rows, options.impute is not None)
        if fitted is not None:
            values = fitted.apply(array)
            told = source.preparations.get(m, replace(fitted, columns=tuple(source.joined.get(m, ()))))
            preparations[m], stored[m] = replace(fitted, columns=told.columns, decoder=told.decoder), values
            if source.contents is None:
                digest.update(f"{m}{values.dtype}{(len(kept), *values.shape[1:])}".encode())
                for block in _blocks(values, kept):
                    digest.update(block)
    problems.stop()
    pixels = [m for m in names if preparations[m].modality.kind in ("image", "clip")]
    for wrong in [m for m in options.augment if m not in pixels]:
        raise unknown("image or clip to augment", wrong, pixels)
    clips = {m: preparations[m].modality.shape for m in pixels if preparations[m].modality.kind == "clip"}
    for m, drawn in options.draw.items():
        if m not in clips:
            raise unknown("clip to draw frames of", m, clips)
        if drawn > clips[m][0]:
            raise SettingsError(f"data.options.draw.{m} is {drawn}, but {m} has {clips[m][0]} frames; expected no more")
    present = np.stack([table.present[m] for m in names], 1)
    contents = digest.hexdigest() if source.contents is None else source.contents
    # The inputs as they came: some preparations (means that fill gaps) depend on the split.
    inputs = hashlib.sha256((source.contents or "").encode() + present.tobytes())
    inputs.update(json.dumps(options.draw).encode() if options.draw else b"")
    for m in names if source.contents is None else ():
        raw = source.stored[m] if m in source.stored else source.columns[m]
        for block in _blocks(raw, kept):
            inputs.update(block)
    contexts = [c.values.numpy().tobytes() + "\n".join(c.names).encode() for c in table.columns.values()]
    contexts += [m.encode() + conditions.numpy().tobytes() for m, conditions in table.conditions.items()]
    hashed = {
        "values": [inputs.digest(), *contexts],
        "rows": [np.array(table.ids).tobytes()],
        "labels": [table.labels.target.numpy().tobytes(), "\n".join(table.labels.task.classes).encode()],
        "split": [table.parts.tobytes(), b"" if table.groups is None else table.groups.tobytes()],
    }
    hashes = {what: hashlib.sha256(b"".join(texts)).hexdigest() for what, texts in hashed.items()}
    pieces = [contents.encode(), present.tobytes(), *contexts, *hashed["rows"], *hashed["labels"], *hashed["split"]]
    fingerprint = hashlib.sha256(b"".join(pieces)).hexdigest()

    parts: dict[str, Any] = {}
    assert isinstance(options.crop, Crop)
    for part in ("train", "valid", "test"):
        rows = np.flatnonzero(table.parts == part)
        columns = {key: replace(c, values=c.values[rows]) for key, c in table.columns.items()}
        parts[part] = source.split(
            stored=stored, preparations=preparations, rows=kept[rows], present=torch.from_numpy(present[rows]),
            target=table.labels.target[rows], columns=columns, ids=[table.ids[row] for row in rows],
            groups=None if table.groups is None else table.groups[rows],
            cropped=options.augment if part == "train" else (), crop=options.crop, drawn=options.draw,
            drawn_at_random=part == "train", seed=settings.split_seed,
            conditions={m: values[torch.from_numpy(rows)] for m, values in table.conditions.items()},
            condition_readers=table.condition_readers,
        )  # fmt: skip
    widths = {m: values.shape[1] for m, values in table.conditions.items()}
    modalities = {m: replace(about.modality, conditions=widths.get(m, 0)) for m, about in preparations.items()}
    modalities |= {m: replace(modalities[m], shape=(n, *clips[m][1:])) for m, n in options.draw.items()}
    return MultimodalData(
        name, modalities, table.labels.task, **parts, fingerprint=fingerprint, notes=table.notes,
        contents=inputs.hexdigest(), group=settings.group or None, parts=hashes,
    )  # fmt: skip


def _blocks(rows: Rows, kept: np.ndarray) -> Iterator[bytes]:
    """Yield the bytes of the rows that are kept, some at a time: rows of numbers may fill half of the memory."""
    if isinstance(rows, SparseRows):
        yield rows.tobytes(kept)
        return
    if isinstance(rows, np.ndarray) and (is_text(rows) or is_table(rows)):
        yield "\0".join(as_strings(rows[kept].ravel()).tolist()).encode()
        return
    for first in range(0, len(kept), _BLOCK):
        yield np.asarray(rows[kept[first : first + _BLOCK]]).tobytes()


def _check_names(source: Source, names: Sequence[str], settings: DataSettings, problems: Problems) -> None:
    """Everything that is named exists, and everything that exists has as many rows."""
    columns = source.columns
    if not names:
        problems.append(f"no modality is named and no array has two axes; name them, of: {show(list(columns))}")
    wanted = [("modality", m) for m in names]
    wanted += [("modality in kinds", m) for m in settings.kinds if m not in names]
    beside = named_columns(settings)
    for pairs, known in ((wanted, [*source.stored, *columns]), (beside, [*columns])):
        problems += [str(unknown(what, name, known)) for what, name in pairs if name not in known]
    problems += check_conditions(settings.conditions, names, label_columns(settings), [*columns])
    problems += check_roles(names, source.joined, label_columns(settings), settings.group)
    problems += [f"modality {m!r} has a dot in its name; rename it" for m in names if "." in m]
    single = [key for key in ("id", "split", *(f"present_{m}" for m in names)) if key in columns]
    problems += [
        f"{key!r} has samples of shape {columns[key].shape[1:]}; expected one value a row"
        for key in single
        if columns[key].ndim > 1
    ]
    used = [*(name for _, name in (*wanted, *beside) if name in columns), *single]
    scalars = [key for key in used if columns[key].ndim == 0]
    problems += [f"{key!r} is a single value; expected one row a sample" for key in scalars]
    lengths = {key: len(columns[key]) for key in used if key not in scalars}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{key} {length}" for key, length in lengths.items())
        problems.append(f"the arrays have different numbers of rows: {shown}; expected the same in all: align them")
    elif 0 in lengths.values():
        problems.append("the arrays have no rows; expected at least one sample in each split")


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
