"""New samples for a trained model: what a run keeps of its inputs, and how raw ones become such inputs again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modalign.data.dataset import MultimodalData
from modalign.data.media.decoders import decode_cells, export_tokenizer, make_decoder
from modalign.data.media.folder import read_folder, read_meta
from modalign.data.objects import DatasetSplit, Samples, columns_of, is_dataset, split_parts
from modalign.data.tables.array_split import ArraySplit, Rows
from modalign.data.tables.conditions import describe_conditions, read_conditions
from modalign.data.tables.files import TABLES, columns_beside, join_columns, read_arrays, read_table, table_arrays
from modalign.data.tables.modalities import Preparation, as_strings, find_modality, is_text, marked_present, show
from modalign.data.tables.omics import is_omics, open_omics, read_cells
from modalign.errors import DataError, Problems, RunFolderError, unknown
from modalign.files import reading


def describe_inputs(data: MultimodalData) -> dict[str, Any]:
    """Return how raw rows of each modality become inputs, as plain values for JSON: what ``read_samples`` needs.

    That is what was learned from the training rows (words, categories, means that fill gaps), the columns that a
    modality is made of, and for data of raw files the decoders, with the vocabulary of their tokenizers.

    >>> import numpy as np
    >>> from modalign.data.tables.arrays import from_arrays
    >>> data = from_arrays({"a": np.arange(40.0).reshape(20, 2), "y": np.arange(20) % 2})
    >>> describe_inputs(data)["preparations"]["a"]["modality"]["shape"]
    (2,)
    """
    if not isinstance(data.train, ArraySplit):
        return {"preparations": None, "conditions": {}}
    described = {}
    for name, preparation in data.train.preparations.items():
        decoder = dict(preparation.decoder)
        if decoder.get("kind") == "text":
            decoder["vocabulary"] = export_tokenizer(decoder["vocabulary"])
        described[name] = asdict(replace(preparation, decoder=decoder))
    drawn = {"draw": dict(data.train.drawn)} if data.train.drawn else {}
    return {"preparations": described, "conditions": describe_conditions(data.train.condition_readers), **drawn}


def read_samples(source: Any, saved: Mapping[str, Any], modalities: Sequence[str] | None = None) -> ArraySplit:
    """Return samples without labels, prepared as those of training were; their targets are zeros.

    Args:
        source: path of arrays (``.npz``, ``.csv``, ``.parquet``), of a manifest whose cells name raw files (its own
            ``.yaml`` is not needed: files are decoded as those of training were), of ``.h5ad`` or ``.h5mu``, or of a
            prepared folder; or arrays by name, a table (``objects.as_table``), AnnData, MuData, a torch ``Dataset`` or
            ``DataLoader`` of dictionaries. Cells that name files are relative to the table, or to the working directory
            where it is an object. Features of AnnData and MuData are found by their names.
        saved: what ``describe_inputs`` gave of the training data.
        modalities: use only these, as if the others were missing.

    Raises:
        DataError: no modality of training is there, or one has other shapes, broken rows or files; all are named.
        RunFolderError: the training data said nothing of its inputs.

    >>> from modalign.data.tables.arrays import from_arrays
    >>> data = from_arrays({"a": np.arange(20.0), "b": np.arange(20.0), "y": np.arange(20) % 2}, ["a", "b"])
    >>> new = read_samples({"b": [7.0, float("nan")], "id": ["s1", "s2"]}, describe_inputs(data))
    >>> new.ids, new.__getitems__([0, 1]).present.tolist()
    (['s1', 's2'], [[False, True], [False, False]])
    """
    with reading("data.json of the run", "how training prepared its inputs", RunFolderError):
        if saved["preparations"] is None:
            raise RunFolderError("the run does not say how its inputs are prepared: its data set is a class of its own")
        preparations = {m: Preparation.from_dict(values) for m, values in saved["preparations"].items()}
    for name in modalities or ():
        if name not in preparations:
            raise unknown("modality", name, preparations)
    used = [m for m in preparations if modalities is None or m in modalities]
    conditions = saved.get("conditions", {})
    roles = [one["name"] for m in used for one in conditions.get(m, ())]
    columns, stored, samples, folder = _open(source, used, preparations, roles)
    wanted = {}  # what is read when needed, with its key
    for m in [m for m in used if m not in stored]:
        made_of = () if m in columns and "layer" in preparations[m].decoder else preparations[m].columns
        key = made_of[0] if len(made_of) == 1 and made_of[0] in {*columns, *(samples.forms if samples else ())} else m
        if samples and key in samples.forms:
            wanted[m] = key
        elif key in columns:
            columns[m] = columns[key]
        elif made_of and {*made_of} <= {*columns}:
            join_columns(columns, {m: made_of})
        elif columns_beside(m, columns):
            join_columns(columns, {m: []})
    given = [m for m in used if m in columns or m in wanted or m in stored]
    if not given:
        found = show([*columns, *stored]) or "nothing"
        raise DataError(
            f"no modality is given; expected at least one of {', '.join(used)}: name them so (there are {found})"
        )
    problems = Problems("new samples")
    single = [key for key in ("id", *(f"present_{m}" for m in used)) if key in columns]
    read = [key for key in (*given, *single) if key in columns]
    problems += [f"{key!r} is a single value; expected one row a sample" for key in read if columns[key].ndim == 0]
    problems += [f"{key!r} has several values a row; expected one" for key in single if columns[key].ndim > 1]
    problems.stop()
    total = len(samples) if samples else len(columns[given[0]] if given[0] in columns else next(iter(columns.values())))
    lengths = {key: len(columns[key]) for key in read}
    problems += [f"{m!r} has {length} rows; expected {total}" for m, length in lengths.items() if length != total]
    problems.stop()
    ids = [str(i) for i in columns["id"]] if "id" in columns else [str(row) for row in range(total)]
    present = np.zeros((total, len(preparations)), bool)
    values: dict[str, Rows] = dict(stored)
    for position, (m, preparation) in enumerate(preparations.items()):
        about = preparation.modality
        if m in stored or m in wanted:
            present[:, position] = marked_present(wanted.get(m, m), columns, total)
        elif m in given:
            made = problems.trying(_prepare, preparation, columns, ids, folder)
            if made is not None:
                present[:, position], values[m] = made
        zero = np.zeros((), np.int64 if about.kind == "text" else np.float32)  # takes no memory, however wide
        values.setdefault(m, np.broadcast_to(zero, (total, *about.shape)))
    known = read_conditions(conditions, given, columns, total, problems)
    problems.stop()
    split = partial(DatasetSplit, samples, wanted) if samples else ArraySplit
    return split(
        stored=values, preparations=preparations, rows=np.arange(total), present=torch.from_numpy(present),
        target=torch.zeros(total, dtype=torch.int64), columns={}, ids=ids, groups=None, conditions=known,
        drawn=saved.get("draw", {}),
    )  # fmt: skip


def _open(
    source: Any, used: Sequence[str], preparations: Mapping[str, Preparation], roles: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, Rows], Samples | None, Path]:
    """Columns in memory, rows that are prepared already, what reads the rest, and where relative paths begin."""
    if is_omics(source):
        cells = read_cells(open_omics(source), used, {}, preparations)
        return dict(cells.columns), dict(cells.stored), None, Path()
    if not isinstance(source, (str, Path)):
        parts = split_parts(source, "new samples")
        if "" not in parts:
            raise DataError(f"new samples come as {', '.join(parts)}; expected one of them")
        if not is_dataset(parts[""]):
            return columns_of(parts[""]), {}, None, Path()
        samples = Samples(parts, "new samples")
        keys = [key for m in used for key in (m, *preparations[m].columns)]
        texts = {m: "text" for m in used if preparations[m].modality.kind == "text"}
        return samples.scan(roles, keys, texts), {}, samples, Path()
    path = Path(source)
    if path.suffix == ".yaml":
        path = next((path.with_suffix(end) for end in TABLES if path.with_suffix(end).exists()), path)
    if not path.exists():
        raise DataError(f"no file or folder {str(path)!r}; expected arrays, a manifest or a prepared folder there")
    if not path.is_dir():
        if path.suffix in TABLES:
            return table_arrays(read_table(path)), {}, None, path.parent
        named = {"id"} | {k for m in used for k in (m, f"present_{m}", *preparations[m].columns)}
        return read_arrays(path, wanted=partial(_needed, named, used)), {}, None, path.parent
    problems = Problems(f"prepared folder {str(path)!r}")
    meta = read_meta(path)
    found = read_folder(path, [m for m in used if m in meta["modalities"] or m in meta["plain"]], problems)
    for m, prepared in found.preparations.items():
        wanted = preparations[m]
        told = [{k: v for k, v in p.decoder.items() if k != "vocabulary"} for p in (prepared, wanted) if p.decoder]
        if prepared.modality != wanted.modality or (len(told) == 2 and told[0] != told[1]):
            problems.append(
                f"{m!r} was decoded to {prepared.modality} ({told[0] if told else 'unknown'}); expected "
                f"{wanted.modality} ({told[-1] if told else 'unknown'}): prepare it as the data of training"
            )
    problems.stop()
    return dict(found.columns), dict(found.stored), None, path


def _needed(keys: set[str], used: Sequence[str], axes: Mapping[str, int]) -> set[str]:
    return (keys & {*axes}) | {column for m in used for column in columns_beside(m, axes)}


def _prepare(
    preparation: Preparation, columns: Mapping[str, np.ndarray], ids: Sequence[str], folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Rows in which a modality is there, and its prepared values; cells may name files, or be texts to tokenize."""
    name, shape, kind = preparation.modality.name, preparation.modality.shape, preparation.decoder.get("kind")
    array = columns[name]
    if is_text(array) and not (preparation.words or preparation.categories or kind):
        raise DataError(
            f"{name!r} holds texts such as {str(array[0])!r}, but the model was trained on arrays and knows no decoder "
            f"of files; expected arrays of shape {shape}, or a model trained on files (modalign prepare)"
        )
    if not (is_text(array) and kind):
        present = find_modality(name, columns, bool(preparation.fill))
        return present, preparation.apply(array) if present.any() else np.zeros((len(array), *shape), np.float32)
    decoder = make_decoder(name, preparation.decoder, gaps=True)
    present = find_modality(name, columns)
    return present, decode_cells(decoder, np.where(present, as_strings(array), "").tolist(), ids, folder)
