"""AnnData and MuData (``.h5ad``, ``.h5mu``; the extra ``omics``): read, sparse until the batch, and written again.

Modalities are those of ``mod``, or of a single AnnData ``X``, its layers and the keys of ``obsm``. All else (label,
group, split, contexts, conditions, further modalities) are columns of ``obs``.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from modalign.data.batch import Modality
from modalign.data.tables.array_split import Rows, SparseRows
from modalign.data.tables.files import columns_beside, table_arrays
from modalign.data.tables.modalities import Preparation, marked_present, show
from modalign.data.tables.reader import RowOptions, Source
from modalign.errors import DataError, Problems, SettingsError, unknown
from modalign.files import check_claim, reading, write_whole

READERS = {".h5ad": ("anndata", "read_h5ad"), ".h5mu": ("mudata", "read_h5mu")}


@dataclass(frozen=True)
class OmicsOptions(RowOptions):
    """How AnnData and MuData are read, beyond ``DataSettings``.

    Args:
        layers: modality name to the layer, or the key of ``obsm``, that is read in place of ``X``.

    The others are those of ``RowOptions``; ``impute`` is for dense matrices.

    >>> OmicsOptions(layers={"rna": "counts"}).layers
    {'rna': 'counts'}
    """

    layers: Mapping[str, str] = field(default_factory=dict)


def is_omics(source: Any) -> bool:
    """Return whether this is an AnnData or MuData, or the path of one.

    >>> is_omics("cells.h5mu"), is_omics({"x": [1]})
    (True, False)
    """
    if isinstance(source, (str, Path)):
        return Path(source).suffix in READERS
    kinds = [f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(source).__mro__]
    return "anndata.AnnData" in kinds or "mudata.MuData" in kinds


def open_omics(source: Any) -> Any:
    """Return the AnnData or MuData of a path, in memory, or the object itself.

    A file is data only: one whose parts lie in other files is refused, so is one with links within, which can lead in
    circles, and one that claims more than the memory there is.

    Raises:
        DataError: no such file, or one that is damaged or refused.
        SettingsError: the extra ``omics`` is not installed.
    """
    if not isinstance(source, (str, Path)):
        return source
    path = Path(source)
    module, reader = READERS[path.suffix]
    try:
        import h5py

        read = getattr(import_module(module), reader)
    except ImportError:
        raise SettingsError(f"{path.name} is read by {module}: pip install 'modalign[omics]'") from None
    linked: list[str] = []
    claimed: list[int] = []

    def look(name: str, link: Any) -> None:
        item = file[name] if isinstance(link, h5py.HardLink) else None  # others are not followed
        rows = isinstance(item, h5py.Dataset)
        if item is None or h5py.h5o.get_info(item.id).rc > 1 or (rows and (item.external or item.is_virtual)):
            linked.append(name)
        elif rows:
            claimed.append(item.nbytes)

    with reading(path, f"HDF5 as {module} writes it"), _quietly():
        with h5py.File(path, "r") as file:
            file.visititems_links(look)
        if linked:
            raise DataError(
                f"{path}: {show(linked)} lie in other files or are linked within; expected all data in place: read the "
                "file where it was made, and write it anew"
            )
        check_claim(sum(claimed), str(path))
        return read(path)


def write_omics(held: Any, path: str | Path) -> Path:
    """Write an AnnData (``.h5ad``) or MuData (``.h5mu``) whole.

    Raises:
        InputError: nothing can be written there.
    """
    write = held.write_h5mu if hasattr(held, "mod") else held.write_h5ad
    with _quietly():
        return write_whole(path, lambda stream: write(stream.name))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """No warnings (of names that stand twice, an error here; of releases to come), and texts as Python strings.

    An anndata that can be installed beside pandas 3 need not know how to write its strings.
    """
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        if int(pd.__version__.partition(".")[0]) < 4:
            stack.enter_context(pd.option_context("future.infer_string", False))
        yield


def annotate(held: Any, table: pd.DataFrame, features: Mapping[str, np.ndarray]) -> None:
    """Write predictions into ``obs`` (``modalign_<column>``) and features (N, D) into ``obsm`` (``X_modalign_<name>``).

    Those of an earlier prediction are taken out, so that no two runs are mixed.

    Args:
        held: AnnData or MuData whose samples were predicted; changed.
        table: one row a sample, in their order.
        features: name to features.

    Raises:
        DataError: it is a view of another one.
    """
    if held.is_view:
        raise DataError("the data are a view of other data; expected ones that can be written to: call copy() first")
    for place, start in ((held.obs, "modalign_"), (held.obsm, "X_modalign_")):
        for old in [key for key in place if key.startswith(start)]:
            del place[old]
    for column in table.columns.drop("id"):
        values: Any = table[column].to_numpy()
        if values.dtype.kind not in "biuf":
            codes, texts = pd.factorize(table[column], sort=True)
            values = pd.Categorical.from_codes(codes, pd.Index(texts, dtype=object))
        held.obs[f"modalign_{column}".replace("/", "_")] = values  # a slash is a group in HDF5
    for name, found in features.items():
        held.obsm[f"X_modalign_{name}"] = found


def read_cells(
    held: Any,
    names: Sequence[str] | None,
    layers: Mapping[str, str],
    known: Mapping[str, Preparation] | None = None,
) -> Source:
    """Return what an AnnData or MuData holds: sparse matrices as stored, dense ones and ``obs`` as columns.

    Args:
        held: in memory.
        names: modalities, those that are columns of ``obs`` among them; by default all of a MuData, and of an AnnData
            ``X`` and the keys of ``obsm`` that do not begin with ``X_``, which by custom are computed from ``X``.
        layers: as in ``OmicsOptions``.
        known: modality name to how training prepared it: the same layers are read, their features are taken in the
            order of training, and what is not there is missing.

    Raises:
        DataError: cells or features of one name, no cell in two modalities, no such modality or layer, features of
            training that are not there, values that are no finite numbers. All are named.
    """
    several, problems = hasattr(held, "mod"), Problems(type(held).__name__)
    tables: dict[str, Any] = dict(held.mod) if several else {}
    if several and held.axis == 1:
        problems.append("the MuData shares features (axis 1); expected modalities of the same cells (axis 0)")
    for m, table in {"": held, **tables}.items():
        where = f" of modality {m!r}" if m else ""
        if m and hasattr(table, "mod"):
            problems.append(f"modality {m!r} is a MuData itself; expected AnnData: take its modalities out")
        elif len(twice := table.obs_names[table.obs_names.duplicated()].unique()):
            problems.append(f"obs_names{where} stand more than once: {show([*twice])}; expected each cell once")
    problems.stop()
    first = {m: table.obs_names[0] for m, table in tables.items() if table.n_obs}
    if len(first) > 1 and held.n_obs == sum(table.n_obs for table in tables.values()):
        raise DataError(f"no cell is in two modalities ({first}); expected one name for one cell: align obs_names")
    obs = held.obs
    for m, table in tables.items():  # newer releases do not copy these into the whole
        own = table.obs.add_prefix(f"{m}:")
        obs = obs.join(own[own.columns.difference(obs.columns, sort=False)])
    columns = {**table_arrays(obs), "id": held.obs_names.to_numpy().astype(object)}
    layers = {**layers, **{m: made.decoder["layer"] for m, made in (known or {}).items() if "layer" in made.decoder}}
    places = {m: (table, layers.get(m, "X")) for m, table in tables.items()}
    if not several:
        places = {key: (held, key) for key in _keys(held)}
        renamed = [m for m in layers if known is None or (layers[m] in places and not known[m].decoder["mod"])]
        places |= {m: (held, layers[m]) for m in renamed}
        standard = [*layers] or [key for key in places if key == "X" or (key in held.obsm and key[:2] != "X_")]
    names = ([*places] if several else standard) if names is None else names
    if known is None:
        problems += [str(unknown("modality in layers:", m, names)) for m in layers if m not in names]
        lost = [m for m in names if m not in places and m not in columns and not columns_beside(m, columns)]
        problems += [str(unknown("modality", m, [*places, *columns])) for m in lost]
    stored: dict[str, Rows] = {}
    preparations: dict[str, Preparation] = {}
    for m in [m for m in names if m in places]:
        if m in obs:
            problems.append(f"{m!r} is a modality and a column of obs; rename one of them")
        table, key = places[m]
        found = problems.trying(_matrix, m, table, key, known[m].columns if known else ())
        if found is None:
            continue
        matrix, features = found
        index = table.obs_names.get_indexer(held.obs_names)
        columns[f"present_{m}"] = marked_present(m, columns, held.n_obs) & (index >= 0)
        about, told = Modality(m, "vector", matrix.shape[1:]), {"layer": key, "mod": several}
        preparations[m] = Preparation(about, columns=features, decoder=told)
        if sparse.issparse(matrix):
            if known and known[m].modality != about:
                problems.append(f"{m!r} is {about}; expected {known[m].modality}, as in training")
            stored[m] = SparseRows(matrix, index)
        elif (index >= 0).all():
            columns[m] = matrix[index]
        else:  # NaN throughout is missing, as in all arrays
            columns[m] = np.full((held.n_obs, *matrix.shape[1:]), np.nan, np.result_type(matrix.dtype, np.float32))
            columns[m][index >= 0] = matrix[index[index >= 0]]
    problems.stop()
    return Source(columns, stored, preparations)


def _keys(table: Any) -> list[str]:
    return [*(["X"] if table.X is not None else []), *map(str, table.layers), *map(str, table.obsm)]


def _matrix(name: str, table: Any, key: str, wanted: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """A matrix (n, F) and what its features are called, where they have names: as ``wanted``, if that is known."""
    keys = _keys(table)
    if key not in keys:
        raise unknown(f"layer of modality {name!r}:", key, keys)
    if keys.count(key) > 1:
        raise DataError(f"{key!r} of modality {name!r} is a layer and a key of obsm; rename one of them")
    inner = key in table.obsm
    matrix: Any = table.obsm[key] if inner else table.X if key == "X" else table.layers[key]
    features = pd.Index(getattr(matrix, "columns", []) if inner else table.var_names).map(str)
    matrix = np.asarray(matrix) if isinstance(matrix, (pd.DataFrame, np.ndarray)) else matrix
    thin = sparse.issparse(matrix)
    if not (thin or isinstance(matrix, np.ndarray)) or matrix.dtype.kind not in "fiub":
        said = f"{getattr(matrix, 'dtype', '')} {type(matrix).__name__}".strip()
        raise DataError(f"modality {name!r} is a {said}; expected numbers in memory, NumPy's or sparse ones of SciPy")
    if features.has_duplicates:
        twice = show([*features[features.duplicated()].unique()])
        raise DataError(f"features of modality {name!r} stand more than once: {twice}; expected each name once")
    if thin:
        try:
            matrix.check_format(full_check=True)  # nobody else sees to it that indices in a file lie in the matrix
        except ValueError as error:
            raise DataError(f"modality {name!r} is no sparse matrix: {error}; expected one as SciPy makes") from None
        matrix = sparse.csr_matrix(matrix)  # a view keeps all that it is a view of
        bad = np.flatnonzero(~(np.abs(matrix.data) <= np.finfo(np.float32).max))
        if len(bad):
            cells = show([*table.obs_names[np.unique(np.searchsorted(matrix.indptr, bad, "right") - 1)]])
            raise DataError(f"modality {name!r} has NaN or enormous values in {cells}; expected finite numbers")
    if not wanted or not len(features):
        return matrix, tuple(features)
    at = features.get_indexer(pd.Index(wanted))
    if (at < 0).any():
        lost = show([one for one, place in zip(wanted, at, strict=True) if place < 0])
        raise DataError(f"modality {name!r} lacks features of training: {lost}; expected all of them")
    return matrix if np.array_equal(at, np.arange(len(features))) else matrix[:, at], tuple(wanted)
