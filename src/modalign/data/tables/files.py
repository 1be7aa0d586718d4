"""Read ``.npz``, Parquet and CSV files as named arrays, and choose the reader of a path."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalign.data.dataset import MultimodalData
from modalign.data.tables.arrays import from_settings
from modalign.data.tables.modalities import show
from modalign.data.task import TaskKind
from modalign.errors import InputError, unknown
from modalign.settings import DataSettings

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".parquet", ".csv")


def load_path(
    settings: DataSettings,
    task: TaskKind | None = None,
    classes: Sequence[object] | None = None,
    drop: str | None = None,
    drop_unlabelled: bool = False,
    group_pattern: str | None = None,
    impute: Literal["mean"] | None = None,
    augment: Sequence[str] = (),
) -> MultimodalData:
    """The data of ``settings.path``: arrays, a manifest, or a folder that ``modalign prepare`` wrote.

    The options are those of ``from_arrays`` and ``RowOptions``.

    Raises:
        InputError: the path cannot be read, or the data has problems (all are named).
    """
    path = Path(settings.path or "")
    if not path.exists():
        raise InputError(f"no file or folder {str(path)!r}; expected the data there: check the path")
    rows: dict[str, Any] = {
        "task": task, "classes": classes, "drop": drop, "drop_unlabelled": drop_unlabelled,
        "group_pattern": group_pattern,
    }  # fmt: skip
    if path.is_dir():
        from modalign.data.media.folder import load_prepared

        if impute is not None:
            raise InputError("impute does not apply to a prepared folder; impute the table before preparing it")
        return load_prepared(path, settings, augment=augment, **rows)
    if path.suffix in TABLES and path.with_suffix(".yaml").exists():
        from modalign.data.tables.manifest import load_manifest

        return load_manifest(path, settings, impute=impute, augment=augment, **rows)
    arrays = read_arrays(path, settings.modalities)
    return from_settings(settings, arrays, path.stem, impute=impute, augment=augment, **rows)


def read_arrays(path: str | Path, modalities: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of a file by name.

    In a table, modality ``audio`` is the column ``audio`` (text, a number or a list a row), or, side by side,
    the numeric columns ``audio_*`` or ``audio.*`` in their order.

    Raises:
        InputError: another kind of file, one that cannot be read, or an array of Python objects.
    """
    path = Path(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix in TABLES:
        return table_arrays(read_table(path), modalities or [])
    known = ", ".join([".npz", *TABLES])
    raise InputError(f"cannot read {str(path)!r}; expected a file that ends in {known}, or a prepared folder")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: _read_member(archive, name, path) for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {str(path)!r} as .npz ({error}); expected what numpy.savez writes") from None


def _read_member(archive: Mapping[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    try:
        return archive[name]
    except ValueError:
        raise InputError(
            f"array {name!r} of {str(path)!r} holds Python objects, which are never unpickled; "
            "save it as numbers or as fixed-width text (array.astype(str))"
        ) from None


def read_table(path: str | Path) -> pd.DataFrame:
    """A CSV or Parquet file as a table.

    Raises:
        InputError: it does not exist, is empty or cannot be read.
    """
    import pandas as pd

    path = Path(path)
    if path.suffix not in TABLES:
        raise InputError(f"{str(path)!r} is no table; expected a file that ends in {' or '.join(TABLES)}")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the table {str(path)!r}: {error}") from None
    if not len(table):
        raise InputError(f"the table {str(path)!r} has no rows")
    return table


def table_arrays(table: pd.DataFrame, modalities: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of a table as arrays; those of a modality side by side are joined to (N, F)."""
    arrays = {str(name): _column_array(str(name), table[name].to_numpy()) for name in table.columns}
    for name in [m for m in modalities if m not in arrays]:
        parts = [key for key in arrays if re.fullmatch(re.escape(name) + r"[_.].+", key)]
        texts = [key for key in parts if arrays[key].dtype.kind not in "fiub"]
        if texts:
            raise InputError(
                f"modality {name!r} would be the columns {name}_*, of which {show(texts)} hold no numbers; "
                "expected numbers: name a text column as a modality of its own"
            )
        if not parts:
            raise unknown("modality", name, arrays)
        arrays[name] = np.stack([arrays[key].astype(np.float32) for key in parts], 1)
    return arrays


def _column_array(name: str, column: np.ndarray) -> np.ndarray:
    """A column as one array: lists of one length become (N, F), a missing list a row of NaN."""
    first = next((x for x in column if isinstance(x, (list, np.ndarray))), None)
    if column.dtype != object or first is None:
        return column
    shape = _nested(first).shape
    rows = np.full((len(column), *shape), np.nan, np.float32)
    wrong = []
    for i, value in enumerate(column):
        if isinstance(value, (list, np.ndarray)):
            values = _nested(value)
            if values.shape == shape:
                rows[i] = values
            else:
                wrong.append(i)
    if wrong:
        raise InputError(
            f"column {name!r} has lists of another length than {shape} in rows {show(wrong)}; expected the "
            "same length in every row: pad or cut them"
        )
    return rows


def _nested(value: object) -> np.ndarray:
    """A list, of lists where it is nested, as numbers."""
    listed = [x.tolist() if isinstance(x, np.ndarray) else x for x in value]  # type: ignore[attr-defined]
    return np.array(listed, dtype=np.float32)
