"""Objects as data sets: arrays by name, tables, AnnData and MuData, torch data sets or loaders of dictionaries.

A torch data set stays lazy. Its items are read once when it is loaded, to learn targets, shapes and which modalities
are there; only numbers and texts are kept, and arrays are read again, item by item, when a batch needs them. That first
reading is spared where all there is to be known are attributes of the data set (``targets``, ``<name>`` or ``<name>s``:
one value a sample) and its items hold nothing but arrays beside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, default_collate

from modalign.data.dataset import MultimodalData
from modalign.data.media.decoders import decode_cells, make_decoder
from modalign.data.tables.array_split import ArraySplit
from modalign.data.tables.files import columns_beside, join_columns, table_arrays
from modalign.data.tables.modalities import (
    MEDIA_ENDINGS,
    Preparation,
    as_strings,
    find_modality,
    fit_preparation,
    is_text,
    kind_of_files,
    marked_present,
    show,
)
from modalign.data.tables.omics import OmicsOptions, is_omics, open_omics, read_cells
from modalign.data.tables.reader import RowOptions, Source, condition_columns, label_columns, read_source
from modalign.data.tables.splits import SPLITS
from modalign.errors import DataError, Problems, SettingsError, unknown
from modalign.settings import DataSettings

MadeOf = Mapping[str, str | Sequence[str] | Mapping[str, Any]]

TARGETS = ("y", "target", "label", "targets", "labels")
_BLOCK = 64
_EXAMPLE = "{'image': tensor of shape (3, 32, 32), 'age': 41.0, 'note': 'a text', 'y': 1}"
_FORMS = (
    "a dict of arrays, a data frame, a Hugging Face Dataset, a map-style torch.utils.data.Dataset or a DataLoader that "
    "yields dictionaries, {'train': ..., 'valid': ..., 'test': ...} of these, AnnData or MuData"
)


class Samples:
    """Items of map-style data sets one after the other, read by row.

    Args:
        parts: name of each part ("" for a single one) to a ``Dataset`` of dictionaries, a ``DataLoader``, or arrays by
            name. Of a loader the data set, the ``collate_fn`` and the choice of samples are used; their order and
            number in a batch are the training's.
        name: what messages call them.

    Attributes:
        keys: what an item may hold; known after ``scan``.
        forms: key of arrays that are read when needed to shape and whether it is bytes; known after ``scan``.

    Raises:
        DataError: an object of another kind.

    >>> items = torch.utils.data.StackDataset(x=torch.eye(4), age=torch.arange(4), y=torch.tensor([0, 1, 0, 1]))
    >>> samples = Samples({"": items}, "toy")
    >>> sorted(samples.scan(["y"], ["x"], {})), samples.forms
    (['age', 'present_x', 'y'], {'x': ((4,), False)})
    """

    def __init__(self, parts: Mapping[str, Any], name: str) -> None:
        self.name = f"{name} ({', '.join(dict.fromkeys(type(part).__name__ for part in parts.values()))})"
        self.parts = {
            key: _Part(part if is_dataset(part) else columns_of(part), self.name) for key, part in parts.items()
        }
        self.starts = np.cumsum([0, *(len(part) for part in self.parts.values())])
        self.keys: set[str] = set()
        self.forms: dict[str, tuple[tuple[int, ...], bool]] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def called(self, row: int) -> str:
        """Return the name of a row in messages."""
        part = int(np.searchsorted(self.starts, row, "right")) - 1
        key = list(self.parts)[part]
        return f"{row - self.starts[part]} of {key}" if key else str(row)

    def items(self, rows: np.ndarray) -> dict[str, list[Any]]:
        """Return some samples as key to values, None where a sample has none.

        Raises:
            DataError: an item is no dictionary, or a collated batch is no dictionary of as many values.
        """
        found: dict[str, list[Any]] = {}
        for part, start in zip(self.parts.values(), self.starts, strict=False):
            mine = np.flatnonzero((rows >= start) & (rows < start + len(part)))
            for key, values in part.items(rows[mine] - start).items() if len(mine) else ():
                column = found.setdefault(key, [None] * len(rows))
                for at, value in zip(mine.tolist(), values, strict=True):
                    if not (value is None or isinstance(value, (str, int, float, bool))):
                        value = to_array(value)
                        value = value.item() if value.ndim == 0 else value
                    column[at] = value
        return found

    def scan(self, roles: Sequence[str], modalities: Sequence[str], kinds: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Learn the forms of the samples, and return what is small enough to be kept: numbers, texts, token ids.

        Args:
            roles: what has to be known of all samples (target, group, columns).
            modalities: what else they may hold beside the keys of the first sample.
            kinds: modality to kind where given; ``text`` in numbers is kept, to know the largest.

        Raises:
            DataError: a sample differs from those before in keys, shapes or types.
        """
        first = self.items(np.arange(1))
        self.keys = {*first, *roles, *modalities, *kinds, "id"}
        columns = {key: known for key in roles if (known := self.attribute(key)) is not None}
        small = {*roles, *(key for key, kind in kinds.items() if kind == "text")}
        large = {key for key, (value,) in first.items() if _is_large(value)} - small
        if {*roles, *modalities, *first} <= {*columns, *large}:
            self.forms = {key: _form(first[key][0]) for key in large}
            return columns
        kept: dict[str, list[Any]] = {key: [] for key in self.keys}
        for start in range(0, len(self), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(self)))
            batch = self.items(rows)
            for key in self.keys & {*batch} - {*self.forms, *small}:
                large_ones = [value for value in batch[key] if _is_large(value)]
                if large_ones and all(value is None for value in kept[key]):
                    self.forms[key] = _form(large_ones[0])
            self.check(rows, batch)
            for key, values in kept.items():
                found = batch.get(key, [None] * len(rows))
                if key in self.forms:  # all that is kept is whether it is there; NaN throughout is absent
                    nan = [_is_large(v) and v.dtype.kind == "f" and np.isnan(v).all() for v in found]
                    found = [None if v is None or gap else 1 for v, gap in zip(found, nan, strict=True)]
                values += found
        for key, whole in kept.items():
            if key in self.forms:
                columns[f"present_{key}"] = np.array([value is not None for value in whole])
            elif key not in columns and not all(value is None for value in whole):
                columns[key] = self._column(key, whole)
        return columns

    def attribute(self, name: str) -> np.ndarray | None:
        """Return one value a sample, where all parts have an attribute for it."""
        found = [part.attribute(name) for part in self.parts.values()]
        return None if any(values is None for values in found) else np.concatenate(found)  # type: ignore[arg-type]

    def check(self, rows: np.ndarray, batch: Mapping[str, Sequence[Any]]) -> None:
        """Refuse samples of other keys, shapes or types than those of ``scan``; all of the batch are named.

        Raises:
            DataError: there are such samples.
        """
        problems = Problems(self.name)
        for key, values in batch.items():
            there = [(int(row), value) for row, value in zip(rows, values, strict=True) if value is not None]
            if key not in self.keys and there:
                problems.append(
                    f"sample {self.called(there[0][0])} has the key {key!r}; expected {show(sorted(self.keys))}: yield "
                    "the same keys for every sample, with None where a modality is absent"
                )
            expected = self.forms.get(key)
            for row, value in there:
                if expected is not None and _form(value) != expected:
                    problems.append(
                        f"{key!r} of sample {self.called(row)} is {_said(value)}; expected "
                        f"{'bytes' if expected[1] else 'numbers'} of shape {expected[0]}, as in the others: pad, cut "
                        "or convert it"
                    )
        problems.stop()

    def _column(self, key: str, values: Sequence[Any]) -> np.ndarray:
        """Small values as one array; None becomes NaN, or stays where they are text."""
        there = [value for value in values if value is not None]
        forms = {np.shape(value) for value in there}
        if len(forms) > 1 or len({isinstance(value, str) for value in there}) > 1:
            examples = {repr(_said(value)): value for value in there}
            raise DataError(
                f"{self.name}: {key!r} is {' and '.join(_said(v) for v in list(examples.values())[:2])} in different "
                "samples; expected values of one shape and type: pad, cut or convert them"
            )
        if len(there) < len(values) and not isinstance(there[0], str):
            (shape,) = forms
            values = [np.full(shape, np.nan) if value is None else value for value in values]
        return np.array(values, dtype=object if isinstance(there[0], str) else None)


class _Part:
    """One data set or loader, or arrays by name, as a list of dictionaries."""

    def __init__(self, source: Any, name: str) -> None:
        self.name, self.source, self.collate = name, source, None
        self.chosen: np.ndarray | None = None
        loader = source if isinstance(source, DataLoader) else None
        if loader is not None:
            self.source = loader.dataset
            if loader.batch_sampler is None:
                raise DataError(f"{name} has batch_size=None; expected batches of samples: give a batch_size")
            self.collate = None if loader.collate_fn is default_collate else loader.collate_fn
        if isinstance(self.source, IterableDataset) or not hasattr(self.source, "__len__"):
            raise DataError(
                f"{name} can only be read from its beginning; expected a map-style torch.utils.data.Dataset (with "
                "__len__ and __getitem__), because samples are split and shuffled: read the stream into arrays first"
            )
        if loader is not None:
            order: Any = loader.sampler
            whole = isinstance(order, RandomSampler) and not order.replacement
            whole = whole and order.num_samples == len(order.data_source)
            whole |= isinstance(order, SequentialSampler)
            if not whole or type(loader.batch_sampler).__name__ != "BatchSampler":
                self.chosen = np.sort([row for batch in loader.batch_sampler or [] for row in batch])
                if len(np.unique(self.chosen)) < len(self.chosen):
                    raise DataError(
                        f"{name} draws samples more than once in an epoch; expected each at most once: give the "
                        "Dataset itself, and choose the order of the training by training.sampler"
                    )
        if len(self) == 0:
            raise DataError(f"{name} has no samples; expected at least one in each split")

    def __len__(self) -> int:
        if self.chosen is not None:
            return len(self.chosen)
        return _length(self.source) if isinstance(self.source, dict) else len(self.source)

    def items(self, rows: np.ndarray) -> Mapping[str, Sequence[Any]]:
        """Key to values of some samples."""
        if isinstance(self.source, dict):
            return {key: list(values[rows]) for key, values in self.source.items()}
        at = rows.tolist() if self.chosen is None else self.chosen[rows].tolist()
        items = [self.source[i] for i in at]
        if self.collate is not None:
            batch = self.collate(items)
            if not isinstance(batch, Mapping):
                raise DataError(f"{self.name} collates to {_said(batch)}; expected a dictionary, such as {_EXAMPLE}")
            for key, values in batch.items():
                if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != len(at):
                    raise DataError(
                        f"{self.name} collates {key!r} of {len(at)} samples to {_said(values)}; expected one each"
                    )
            return {str(key): list(values) for key, values in batch.items()}
        for row, item in zip(rows.tolist(), items, strict=True):
            if not isinstance(item, Mapping):
                raise DataError(
                    f"{self.name}: sample {row} is {_said(item)}; expected a dictionary of modalities and target, such "
                    f"as {_EXAMPLE}"
                )
        return {
            str(key): [item.get(key) for item in items] for key in dict.fromkeys(key for item in items for key in item)
        }

    def attribute(self, name: str) -> np.ndarray | None:
        """One value a sample, where the data set has an attribute (arrays: an entry) for it."""
        if isinstance(self.source, dict):
            values = self.source.get(name)
            return values if values is not None and values.ndim == 1 else None
        for key in (name, f"{name}s", *(("targets", "labels") if name in TARGETS else ())):
            values = getattr(self.source, key, None)
            if isinstance(values, (Tensor, np.ndarray, list, tuple)) and len(values) == len(self.source):
                array = to_array(values)
                if array.ndim == 1:
                    return array if self.chosen is None else array[self.chosen]
        return None


class DatasetSplit(ArraySplit):
    """A split of torch data sets, whose arrays are read when a batch needs them.

    Args:
        samples: where they are read.
        wanted: modality to its key in the items, of those that are read when needed.
        rest: as ``ArraySplit``.
    """

    def __init__(self, samples: Samples, wanted: Mapping[str, str], **rest: Any) -> None:
        super().__init__(**rest)
        self.samples, self.wanted = samples, wanted

    @property
    def augment(self) -> None:
        """Nobody knows whether the data set gives the same twice."""

    def _read(self, rows: np.ndarray, present: Tensor) -> dict[str, np.ndarray]:
        """Prepared values; keys, shapes and types of every sample are checked."""
        values = {m: array[rows] for m, array in self.stored.items() if m not in {*self.wanted, *self.unread}}
        batch, numbers = self.samples.items(rows), [self.samples.called(int(row)) for row in rows]
        self.samples.check(rows, batch)
        problems = Problems(self.samples.name)
        for m, (name, preparation) in enumerate(self.preparations.items()):
            if name in self.unread or name not in self.wanted:
                continue
            shape, pixels = self.samples.forms[self.wanted[name]]
            found = batch.get(self.wanted[name], [None] * len(rows))
            here = np.array([value is not None for value in found])
            raw = np.zeros((len(rows), *shape), "u1" if pixels else "f4")
            if here.any():
                raw[here] = [value for value in found if value is not None]
            known = problems.trying(find_modality, name, {name: raw, f"present_{name}": here}, False, numbers)
            if known is not None:
                present[:, m] &= torch.from_numpy(known)
                values[name] = preparation.apply(raw)
        empty = [number for number, any_ in zip(numbers, present.any(1).tolist(), strict=True) if not any_]
        if empty:
            problems.append(f"samples {show(empty)} have no modality at all; expected at least one in each")
        problems.stop()
        return values


def load_object(
    source: Any,
    settings: DataSettings,
    options: RowOptions | None = None,
    made_of: MadeOf | None = None,
) -> MultimodalData:
    """Return an object as a data set, split and checked as arrays are.

    Args:
        source: arrays by name, a table (``as_table``), a map-style ``torch.utils.data.Dataset`` or a ``DataLoader`` of
            dictionaries, or ``{"train": ..., "valid": ..., "test": ...}`` of any of these (without ``valid``, it is
            taken out of ``train`` at random); AnnData or MuData, or the path of one.
        settings: modalities, label, split, group, columns and kinds, as in ``from_arrays``.
        options: how rows are read.
        made_of: modality name to the column or columns it is made of, or to ``{"column": ..., "kind": ..., ...}``: how
            its files are decoded (``decoders.make_decoder``). Columns of paths are recognized by the endings of files.

    Raises:
        InputError: the object is of another kind; see also ``from_arrays``.

    >>> from torch.utils.data import StackDataset
    >>> pairs = StackDataset(image=torch.rand(20, 3, 4, 4), age=torch.arange(20.0), y=torch.arange(20) % 2)
    >>> data = load_object(pairs, DataSettings(modalities=["image", "age"]))
    >>> data.train.__getitems__([0, 1]).inputs["image"].shape
    torch.Size([2, 3, 4, 4])
    """
    options, name = options or RowOptions(), settings.name or "data"
    made_of, cells = dict(made_of or {}), Source({})
    if is_omics(source):
        own = [m for m in settings.modalities or made_of if not made_of.get(m)]
        layers = options.layers if isinstance(options, OmicsOptions) else {}
        cells = read_cells(open_omics(source), own or ([] if made_of else None), layers)
        if strange := [m for m in cells.stored if settings.kinds.get(m, "vector") != "vector"]:
            raise SettingsError(f"{name}: {show(strange)} is sparse, a vector; leave it out of kinds, or make it dense")
        source = cells.columns
    parts = split_parts(source, name)
    if "" not in parts and (settings.split or settings.fold is not None):
        raise SettingsError(
            f"{name} is split already into {', '.join(parts)}; leave the setting split out, and take one split"
        )
    samples = Samples(parts, name) if any(is_dataset(part) for part in parts.values()) else None
    if samples is None:
        tables = {key: columns_of(part) for key, part in parts.items()}
        lengths = [_length(table) for table in tables.values()]
        first, columns = {}, _concatenated(tables, name)
        label = str(settings.label or next((key for key in TARGETS if key in columns), "y"))
    else:
        lengths, first = np.diff(samples.starts).tolist(), samples.items(np.arange(1))
        known = [*first, *(key for key in TARGETS if samples.attribute(key) is not None)]
        label = str(settings.label or next((key for key in TARGETS if key in known), "y"))
        roles = [*label.split(","), *settings.columns, *([settings.group] if settings.group else [])]
        roles += condition_columns(settings)
        roles += [settings.split] if settings.split and settings.split.isidentifier() else []
        roles += [settings.folds] if isinstance(settings.folds, str) else []
        keys = [key for given in made_of.values() for key in ([given] if isinstance(given, str) else given)]
        keys += [m for m in settings.modalities or [] if m not in made_of and not columns_beside(m, first)]
        columns = samples.scan(roles, keys, settings.kinds)
    settings = replace(settings, label=label)
    if "" not in parts:
        columns["split"], settings.split = np.repeat(list(parts), lengths), "split"
    names = list(settings.modalities or made_of or cells.preparations)
    if not names:
        taken = {*label_columns(settings), settings.group, *settings.columns, "id", "split", settings.split}
        taken |= {*condition_columns(settings)}
        usable = {key for key, array in columns.items() if array.ndim >= 2 or (samples and is_text(array))}
        usable |= {*samples.forms} if samples else set()
        names = [key for key in (first if samples else columns) if key in usable and key not in taken]
    rest = {m: made_of.get(m, []) for m in names if m not in cells.stored}
    table = _make_source(columns, samples, rest, settings.kinds)
    table.stored, table.preparations = {**table.stored, **cells.stored}, {**table.preparations, **cells.preparations}
    return read_source(table, replace(settings, modalities=names), options, Problems(name), name)


def _make_source(
    columns: dict[str, np.ndarray],
    samples: Samples | None,
    made_of: MadeOf,
    kinds: Mapping[str, str],
) -> Source:
    """Return the source of modalities in memory and of those that are read when needed (see ``load_object``)."""
    forms = samples.forms if samples else {}
    files: dict[str, Mapping[str, Any]] = {}
    plain: dict[str, str | Sequence[str]] = {}
    for m, given in made_of.items():
        if isinstance(given, Mapping):
            files[m] = given
            continue
        plain[m], column = given, given if isinstance(given, str) else m
        if samples is None and m not in kinds and column in columns and is_text(columns[column]):
            kind = kind_of_files(as_strings(columns[column]).tolist())
            if kind is not None:
                files[m] = {"column": column, "kind": kind}
                del plain[m]
    if files and samples is not None:
        raise SettingsError("decoders of files are for tables; a Dataset decodes by itself: give names of its keys")
    keys = {m: given if isinstance(given, str) else m for m, given in plain.items()}
    wanted = {m: key for m, key in keys.items() if key in forms and plain[m] in ([], key, (key,), [key])}
    rest = {m: given for m, given in plain.items() if m not in wanted and (given or columns_beside(m, columns))}
    joined = join_columns(columns, rest) | {m: (key,) for m, key in wanted.items() if key != m}
    if samples is None:
        stored, preparations = _decoded(columns, files)
        joined |= {m: preparations[m].columns for m in files}
        return Source(columns, stored, preparations, joined)
    columns |= {f"present_{m}": columns[f"present_{key}"] for m, key in wanted.items() if f"present_{key}" in columns}
    digest = hashlib.sha256()
    for part in samples.parts.values():
        digest.update(f"{type(part.source).__name__}{getattr(part.source, 'fingerprint', '')}".encode())
    for key, array in sorted(columns.items()):
        digest.update(f"{key}{[str(value) for value in array.tolist()]}".encode())
    preparations = {}
    for m, key in wanted.items():
        shape, pixels = forms[key]
        raw = np.zeros((1, *shape), "u1" if pixels else "f4")
        fitted = fit_preparation(m, raw, kinds.get(m), np.arange(1), False)
        preparations[m] = replace(fitted, columns=tuple(joined.get(m, ())))
        digest.update(f"{m}{forms[key]}".encode())
    split = partial(DatasetSplit, samples, wanted)
    return Source(columns, dict.fromkeys(wanted, np.empty(0)), preparations, joined, digest.hexdigest(), split=split)


def _decoded(
    columns: dict[str, np.ndarray], files: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, np.ndarray], dict[str, Preparation]]:
    """Decode the files that columns name, and mark in ``columns`` which rows name one.

    Raises:
        DataError: a column or an option that is not there, and every file that cannot be read.
    """
    stored, preparations, problems = {}, {}, Problems("files")
    for m, given in files.items():
        column, how = given.get("column", m), {key: value for key, value in given.items() if key != "column"}
        if column not in columns:
            raise unknown(f"column of modality {m!r}:", column, columns)
        if how.get("kind") not in (*MEDIA_ENDINGS, "text"):
            raise unknown(f"kind of the files of {m!r}:", str(how.get("kind")), [*MEDIA_ENDINGS, "text"])
        cells = as_strings(columns[column])
        ids = [str(i) for i in columns["id"]] if "id" in columns else [str(row) for row in range(len(cells))]
        decoder = make_decoder(m, how, gaps=True)
        found = problems.trying(decode_cells, decoder, cells.tolist(), ids, Path())
        if found is not None:
            stored[m] = found
        columns[f"present_{m}"] = marked_present(m, columns, len(cells)) & (cells != "")
        preparations[m] = Preparation(decoder.modality, columns=(column,), decoder=decoder.described)
    problems.stop()
    return stored, preparations


def split_parts(source: Any, name: str) -> dict[str, Any]:
    """Return the parts of ``{"train": ..., "test": ...}``; anything else is one part of the name "".

    Raises:
        DataError: there is no training or no test part, or the object is none that data can be read from.

    >>> split_parts({"train": {"x": [1]}, "val": {"x": [2]}, "test": {"x": [3]}}, "data")
    {'train': {'x': [1]}, 'valid': {'x': [2]}, 'test': {'x': [3]}}
    """

    def usable(part: Any) -> bool:
        return isinstance(part, (Mapping, pd.DataFrame)) or is_dataset(part)

    if isinstance(source, Mapping) and any(is_omics(part) for part in source.values()):
        raise DataError(
            f"{name} has AnnData or MuData in parts ({', '.join(map(str, source))}); expected one: join them "
            "(anndata.concat), with a column of obs that says the split"
        )
    source = {key: as_table(part) for key, part in source.items()} if isinstance(source, Mapping) else as_table(source)
    if isinstance(source, Mapping) and source and all(usable(part) for part in source.values()):
        parts = {SPLITS[key]: part for key, part in source.items() if key in SPLITS}
        if not {*source} <= {*SPLITS} or not {"train", "test"} <= {*parts}:
            raise DataError(
                f"{name} has the parts {', '.join(map(str, source))}; expected train and test, and best valid (to have "
                "samples split at random, give them as one)"
            )
        return parts
    if not usable(source):
        raise DataError(f"{name} is {_said(source)}; expected {_FORMS}")
    return {"": source}


def as_table(source: Any) -> Any:
    """Return a table of another library as a pandas data frame, and anything else as it is.

    That is a ``datasets.Dataset`` of Hugging Face, of polars or pyarrow a table: what has ``to_pandas``. Classes of a
    ``datasets.Dataset`` come by their names. One whose items it decodes or transforms itself (images, sound, arrays of
    several axes, ``set_transform``) stays what it is, and is read item by item.

    >>> import pyarrow
    >>> as_table(pyarrow.table({"age": [30, 40]}))["age"].tolist(), as_table([1, 2])
    ([30, 40], [1, 2])
    """
    if isinstance(source, pd.DataFrame) or not hasattr(source, "to_pandas") or not hasattr(source, "__len__"):
        return source
    features, style = getattr(source, "features", None) or {}, getattr(source, "format", None)
    plain = all(type(getattr(one, "feature", one)).__name__ in ("Value", "ClassLabel") for one in features.values())
    if not plain or (isinstance(style, Mapping) and style.get("type") == "custom"):
        return source
    table = source.to_pandas()
    for name in [key for key, feature in features.items() if hasattr(feature, "names")]:
        table[name] = table[name].map(dict(enumerate(features[name].names)))  # -1 is none known
    return table


def columns_of(source: Any) -> dict[str, np.ndarray]:
    """Return the columns of a data frame, or arrays by name, as NumPy arrays.

    >>> columns_of({"a": torch.ones(2, 3), "y": [0, 1]})["a"].shape
    (2, 3)
    """
    if isinstance(source, Mapping):
        return {str(key): to_array(values) for key, values in source.items()}
    return table_arrays(source)


def to_array(values: Any) -> np.ndarray:
    """Return a tensor, a pandas column or a list as an array.

    >>> to_array(torch.ones(2)).tolist()
    [1.0, 1.0]
    """
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)


def is_dataset(source: Any) -> bool:
    """Return whether an object is a torch data set or loader, or has the methods of one.

    >>> is_dataset(torch.utils.data.StackDataset(a=torch.ones(2))), is_dataset([1, 2])
    (True, False)
    """
    if isinstance(source, (Mapping, str, bytes, list, tuple, np.ndarray, Tensor, pd.DataFrame)):
        return False
    return isinstance(source, (Dataset, DataLoader)) or (hasattr(source, "__getitem__") and hasattr(source, "__len__"))


def _length(table: Mapping[str, np.ndarray]) -> int:
    return max((len(array) for array in table.values() if array.ndim), default=0)


def _concatenated(tables: Mapping[str, dict[str, np.ndarray]], name: str) -> dict[str, np.ndarray]:
    """The columns of several tables one after the other; where one lacks a column its rows are NaN or empty."""
    if len(tables) == 1:
        return next(iter(tables.values()))
    columns = {}
    for key in dict.fromkeys(key for table in tables.values() for key in table):
        there = {part: table[key] for part, table in tables.items() if key in table}
        first = next(iter(there.values()))
        for part, array in there.items():
            if array.shape[1:] != first.shape[1:] or is_text(array) != is_text(first):
                raise DataError(
                    f"{name}: {key!r} of {part} has samples of shape {array.shape[1:]} and type {array.dtype}; "
                    f"expected {first.shape[1:]} and {first.dtype}, as in {next(iter(there))}"
                )
        blank = "" if is_text(first) else np.nan
        columns[key] = np.concatenate(
            [there.get(part, np.full((_length(table), *first.shape[1:]), blank)) for part, table in tables.items()]
        )
    return columns


def _is_large(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def _form(value: Any) -> tuple[tuple[int, ...], bool]:
    return (np.shape(value), isinstance(value, np.ndarray) and value.dtype == np.uint8)


def _said(value: Any) -> str:
    """What an object is, in messages."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return f"{value!r}" if isinstance(value, (int, float, str)) else f"a {type(value).__name__}"
