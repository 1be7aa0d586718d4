"""Read ``.npz``, Parquet and CSV files as named arrays, and join columns to modalities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modalign.data.tables.modalities import show
from modalign.errors import DataError, unknown
from modalign.files import check_claim, read_archive, reading

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".parquet", ".csv")


def read_arrays(
    path: str | Path,
    modalities: Sequence[str] | None = None,
    wanted: Callable[[Mapping[str, int]], set[str]] | None = None,
) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name.

    Args:
        path: ``.npz``, ``.parquet`` or ``.csv``.
        modalities: those that columns of a table are joined to.
        wanted: of the number of axes by name, gives the arrays of an ``.npz`` file that are needed. The others are not
            read: zeros of their shape, which take no memory, stand for them; so they do for all where one is missing.

    In a table, modality ``audio`` is the column ``audio`` (text, a number or a list a row), or, side by side,
    the numeric columns ``audio_*`` or ``audio.*`` in their order.

    Raises:
        DataError: another kind of file, one that cannot be read, or an array of Python objects.
    """
    path = Path(path)
    if path.suffix in TABLES:
        return table_arrays(read_table(path), modalities or [])
    if path.suffix != ".npz":
        known = ", ".join([".npz", *TABLES])
        raise DataError(f"cannot read {str(path)!r}; expected a file that ends in {known}, or a prepared folder")
    return read_archive(path, wanted)


def read_table(path: str | Path) -> pd.DataFrame:
    """Return a CSV or Parquet file as a table.

    Raises:
        DataError: it does not exist, is empty or cannot be read.
    """
    import pandas as pd
    from pyarrow import parquet

    path = Path(path)
    if path.suffix not in TABLES:
        raise DataError(f"{str(path)!r} is no table; expected a file that ends in {' or '.join(TABLES)}")
    with reading(path, f"a table as {'Parquet' if path.suffix == '.parquet' else 'CSV in UTF-8'}"):
        if path.suffix == ".parquet":
            about = parquet.read_metadata(path)
            check_claim(about.num_rows * about.num_columns, f"{path}: {about.num_rows:,} rows of it")
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, encoding="utf-8-sig")
    if not len(table):
        raise DataError(f"the table {str(path)!r} has no rows; expected one a sample below the names of the columns")
    return table


def table_arrays(table: pd.DataFrame, modalities: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return the columns of a table as arrays; those of a modality side by side are joined to (N, F).

    Lists of one length become (N, F), a missing list a row of NaN.

    >>> import pandas as pd
    >>> table_arrays(pd.DataFrame({"labs_a": [1.0, 2.0], "labs_b": [3.0, 4.0]}), ["labs"])["labs"].tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    arrays = {}
    for name, column in ((str(key), table[key].to_numpy()) for key in table.columns):
        lists = {
            row: np.array([x.tolist() if isinstance(x, np.ndarray) else x for x in value], np.float32)
            for row, value in enumerate(column if column.dtype == object else ())
            if isinstance(value, (list, np.ndarray))
        }
        arrays[name] = column
        if lists:
            shape = next(iter(lists.values())).shape
            wrong = [row for row, values in lists.items() if values.shape != shape]
            if wrong:
                raise DataError(
                    f"column {name!r} has lists of another length than {shape} in rows {show(wrong)}; expected the "
                    "same length in every row: pad or cut them"
                )
            arrays[name] = np.full((len(column), *shape), np.nan, np.float32)
            arrays[name][list(lists)] = list(lists.values())
    join_columns(arrays, {m: [] for m in modalities})
    return arrays


def columns_beside(name: str, columns: Iterable[str]) -> list[str]:
    """Return the columns ``<name>_*`` and ``<name>.*``, in their order: a modality side by side.

    >>> columns_beside("labs", ["labs_a", "labs_b", "labsite"])
    ['labs_a', 'labs_b']
    """
    return [key for key in columns if key.startswith((f"{name}_", f"{name}."))]


def join_columns(
    arrays: dict[str, np.ndarray], modalities: Mapping[str, str | Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Add modalities that are made of columns to ``arrays``, and return what each was made of.

    Args:
        arrays: columns by name; changed.
        modalities: modality name to a column of another name, to columns that are put side by side (numbers, and texts
            that are categories), or to nothing: where there is no column of its name, the columns of numbers
            ``<name>_*`` and ``<name>.*`` in their order.

    Raises:
        DataError: no such columns, or one that cannot be put beside others: several values a row, or text that is not
            named.

    >>> arrays = {"age": np.array([30, 40]), "sex": np.array([0, 1]), "title": np.array(["a", "b"])}
    >>> join_columns(arrays, {"table": ["age", "sex"], "text": "title"})
    {'table': ('age', 'sex'), 'text': ('title',)}
    >>> arrays["table"].tolist(), arrays["text"].tolist()
    ([[30.0, 0.0], [40.0, 1.0]], ['a', 'b'])
    """
    joined: dict[str, tuple[str, ...]] = {}
    for name, given in modalities.items():
        if given == name or (not given and name in arrays):
            continue
        named = [given] if isinstance(given, str) else list(given)
        parts = named or columns_beside(name, arrays)
        for lost in [part for part in parts or [name] if part not in arrays]:
            raise unknown(f"column of modality {name!r}:" if named else "modality", lost, arrays)
        if isinstance(given, str):
            arrays[name], joined[name] = arrays[given], (given,)
            continue
        texts = [key for key in parts if arrays[key].dtype.kind not in "fiub" or arrays[key].ndim != 1]
        if texts and named and all(arrays[key].ndim == 1 for key in parts):
            joined[name] = tuple(parts)
            arrays[name] = np.stack([arrays[key].astype(object) for key in parts], 1)
            continue
        if texts:
            columns = f"{name}_*" if not named else ", ".join(parts)
            raise DataError(
                f"modality {name!r} would be the columns {columns}, of which {show(texts)} hold no numbers; "
                "expected numbers: name a text column as a modality of its own"
            )
        joined[name] = tuple(parts)
        arrays[name] = np.stack([arrays[key].astype(np.float32) for key in parts], 1)
    return joined
