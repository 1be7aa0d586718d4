"""The one reader of tables: from named columns and modalities to checked splits, whatever they come from.

Arrays (``arrays``), manifests (``manifest``), prepared folders (``media.folder``) and objects (``objects``) are
``Source``s: columns in memory, and modalities that are prepared already or read when they are needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from modalign.data.dataset import MultimodalData
from modalign.data.tables.array_split import ArraySplit, Rows
from modalign.data.tables.modalities import Preparation, find_modality, fit_preparation, show
from modalign.data.tables.rows import RowOptions, Table, keep_rows, named_columns, read_rows, unknown_columns
from modalign.errors import Problems, unknown
from modalign.settings import DataSettings


@dataclass
class Source:
    """Samples before they are checked.

    Attributes:
        columns: name to array (N, ...): raw modalities, labels and further columns.
        stored: modality name to rows that need no preparation any more (on disk, or read when needed), with
            ``Preparation``s of the same names.
        preparations: how the stored modalities became what they are.
        joined: modality name to the columns it was put together from.
        contents: hash of what is stored and not in ``columns``; None: the prepared modalities are hashed.
        present: rows (N,) bool in which a modality of ``columns`` is there, by its name, all columns and whether
            gaps are filled; raises ``InputError``.
        split: class of the splits.
    """

    columns: Mapping[str, np.ndarray]
    stored: Mapping[str, Rows] = field(default_factory=dict)
    preparations: Mapping[str, Preparation] = field(default_factory=dict)
    joined: Mapping[str, Sequence[str]] = field(default_factory=dict)
    contents: str | None = None
    present: Callable[[str, Mapping[str, np.ndarray], bool], np.ndarray] = find_modality
    split: Callable[..., ArraySplit] = ArraySplit


def check_table(source: Source, settings: DataSettings, options: RowOptions, problems: Problems) -> Table:
    """Return what the rows of a source have in common, checked as a whole.

    Args:
        source: columns and modalities.
        settings: modalities, label, split, group and columns, all of which must exist.
        options: how rows are read.
        problems: found so far; everything found here is added.

    Raises:
        InputError: with every problem.
    """
    names = settings.modalities or []
    _check_names(source, names, settings, problems)
    problems.stop()
    kept, columns, notes = keep_rows(source.columns, settings, options, problems)
    present = {}
    for m in names:
        if m in source.stored:
            present[m] = columns.get(f"present_{m}", np.ones(len(kept), bool)).astype(bool)
        else:
            found = problems.trying(source.present, m, columns, options.impute is not None)
            present |= {} if found is None else {m: found}
    return read_rows(columns, present, settings, options, problems, kept, notes)


def read_source(
    source: Source, settings: DataSettings, options: RowOptions, problems: Problems, name: str
) -> MultimodalData:
    """Return the data set of a source: rows kept, presence found, labels and splits read, preparations fitted.

    Args:
        source, settings, options, problems: as in ``check_table``.
        name: name of the data set.

    Raises:
        InputError: with every problem found.
    """
    table = check_table(source, settings, options, problems)
    names, kept = settings.modalities or [], table.kept
    preparations: dict[str, Preparation] = {}
    stored: dict[str, Rows] = {}
    digest = hashlib.sha256()
    for m in names:
        if m in source.stored:
            preparations[m], stored[m] = source.preparations[m], source.stored[m]
            continue
        array, rows = source.columns[m], np.flatnonzero((table.parts == "train") & table.present[m])
        whole = len(kept) == len(array)
        used = array if whole else array[kept]
        fitted = problems.trying(fit_preparation, m, used, settings.kinds.get(m), rows, options.impute is not None)
        if fitted is not None:
            values = fitted.apply(array)
            preparations[m], stored[m] = replace(fitted, columns=tuple(source.joined.get(m, ()))), values
            if source.contents is None:
                used = values if whole else values[kept]
                digest.update(f"{m}{used.dtype}{used.shape}".encode())
                digest.update(np.ascontiguousarray(used).data)
    problems.stop()
    pixels = [m for m in names if preparations[m].modality.kind in ("image", "clip")]
    for wrong in [m for m in options.augment if m not in pixels]:
        raise unknown("image or clip to augment", wrong, pixels)
    present = np.stack([table.present[m] for m in names], 1)
    contents = digest.hexdigest() if source.contents is None else source.contents
    digest = hashlib.sha256(contents.encode())
    for values in (table.parts, present, table.labels.target.numpy(), np.array(table.ids)):
        digest.update(values.tobytes())

    def split(part: str) -> ArraySplit:
        rows = np.flatnonzero(table.parts == part)
        return source.split(
            stored=stored,
            preparations=preparations,
            rows=kept[rows],
            present=present[rows],
            target=table.labels.target[rows],
            columns={key: replace(c, values=c.values[rows]) for key, c in table.columns.items()},
            ids=[table.ids[row] for row in rows],
            groups=None if table.groups is None else table.groups[rows],
            augment=options.augment if part == "train" else (),
            seed=settings.split_seed,
        )

    parts: dict[str, Any] = {part: split(part) for part in ("train", "valid", "test")}
    modalities = {m: about.modality for m, about in preparations.items()}
    task, fingerprint = table.labels.task, digest.hexdigest()
    return MultimodalData(name, modalities, task, **parts, fingerprint=fingerprint, notes=table.notes)


def _check_names(source: Source, names: Sequence[str], settings: DataSettings, problems: Problems) -> None:
    """Everything that is named exists, and everything that exists has as many rows."""
    columns = source.columns
    if not names:
        problems.append(f"no modality is named and no array has two axes; name them, of: {show(list(columns))}")
    wanted = [("modality", m) for m in names]
    wanted += [("modality in kinds", m) for m in settings.kinds if m not in names]
    known = [*source.stored, *columns]
    problems += [str(unknown(what, name, known)) for what, name in wanted if name not in known]
    problems += unknown_columns(columns, settings)
    problems += [f"modality {m!r} has a dot in its name; rename it" for m in names if "." in m]
    used = [name for _, name in (*wanted, *named_columns(settings)) if name in columns]
    scalars = [key for key in used if columns[key].ndim == 0]
    problems += [f"{key!r} is a single value; expected one row a sample" for key in scalars]
    lengths = {key: len(columns[key]) for key in used if key not in scalars}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{key} {length}" for key, length in lengths.items())
        problems.append(f"the arrays have different numbers of rows: {shown}; expected the same in all: align them")
    elif 0 in lengths.values():
        problems.append("the arrays have no rows; expected at least one sample in each split")
