"""Arrays as modalities: in memory here, from files by ``load.py``, memory-mapped by ``prepared.py``."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from modalign.data.augment import random_crop_flip
from modalign.data.batch import Batch, Modality
from modalign.data.dataset import Column, MultimodalData
from modalign.data.tables.modalities import Preparation, find_present, fit_preparation, is_text, show
from modalign.data.tables.rows import (
    RowOptions,
    Table,
    keep_rows,
    label_columns,
    named_columns,
    read_rows,
    unknown_columns,
)
from modalign.errors import InputError, Problems, unknown
from modalign.settings import DataSettings


class Rows(Protocol):
    """An array in memory or on disk of which single rows can be taken."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


class ArraySplit:
    """One split of arrays; fulfils ``Split``. A batch is sliced out of the arrays, without a loop.

    Args:
        stored: modality name to all rows of the data (not of the split alone), as ``Preparation.apply`` left
            them.
        preparations: modality name to how its raw rows became the stored ones.
        rows: (N,) rows of the arrays that make up this split.
        present: (N, M) bool.
        target, columns, ids, groups: as in ``Split``, (N,) each.
        augment: modalities whose images are cropped and flipped at random while ``set_epoch`` has an epoch.
        seed: of augmentation.
    """

    def __init__(
        self,
        stored: Mapping[str, Rows],
        preparations: Mapping[str, Preparation],
        rows: np.ndarray,
        present: np.ndarray,
        target: Tensor,
        columns: dict[str, Column],
        ids: Sequence[str],
        groups: np.ndarray | None,
        augment: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.stored = stored
        self.preparations = preparations
        self.rows = rows
        self.present = torch.from_numpy(present)
        self.target = target
        self.columns = columns
        self.ids = ids
        self.groups = groups
        self.augment = augment
        self.seed = seed
        self.epoch: int | None = None
        self.features: Mapping[str, Rows] = {}

    def with_features(self, features: Mapping[str, Rows]) -> ArraySplit:
        """This split with computed features of some modalities, whose own rows are then not read.

        Args:
            features: modality name to (N, D) float32, a row a sample of this split, zeros where it is absent.
        """
        made = copy.copy(self)
        made.features = {**self.features, **features}
        return made

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int | None) -> None:
        """Fix augmentation to ``epoch``; None switches it off."""
        self.epoch = epoch

    def __getitems__(self, index: list[int]) -> Batch:
        """The batch of the samples at ``index``."""
        chosen = torch.as_tensor(index, dtype=torch.int64)
        present = self.present[chosen]
        rows = self.rows[chosen.numpy()]
        inputs = {}
        for m, (name, preparation) in enumerate(self.preparations.items()):
            if name in self.features:
                inputs[name] = torch.from_numpy(self.features[name][chosen.numpy()])
                continue
            values = _tensor(self.stored[name][rows], preparation.modality.kind)
            if self.epoch is not None and name in self.augment:
                values = random_crop_flip(values, [(self.seed, self.epoch, i) for i in chosen.tolist()])
            if not present[:, m].all():
                values[~present[:, m]] = preparation.modality.padding
            inputs[name] = values
        return Batch(
            inputs=inputs,
            present=present,
            target=self.target[chosen],
            index=chosen,
            columns={name: column.values[chosen] for name, column in self.columns.items()},
            encoded=frozenset(self.features),
        )

    def __getitem__(self, index: int) -> Batch:
        """The sample at ``index`` as a batch of one."""
        return self.__getitems__([index])


def _tensor(values: np.ndarray, kind: str) -> Tensor:
    """Stored rows as the model takes them: int64 for text, uint8 as it is, everything else float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if kind == "text":
        return tensor.long()
    return tensor if tensor.dtype == torch.uint8 else tensor.float()


def from_arrays(
    arrays: Mapping[str, Any],
    modalities: Sequence[str] | None = None,
    label: str = "y",
    split: str | None = None,
    group: str | None = None,
    columns: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
    *,
    name: str = "arrays",
    valid_fraction: float = 0.15,
    split_seed: int = 0,
    impute: Literal["mean"] | None = None,
    augment: Sequence[str] = (),
    **options: Any,
) -> MultimodalData:
    """A data set of arrays that all have N rows, checked as a whole before anything is trained.

    Args:
        arrays: name to array (N, ...): modalities, labels and further columns; ``id`` names the samples.
        modalities: arrays that are modalities; by default all that have two axes or more.
        label: the array to predict; ``TIME,EVENT`` for survival.
        split: expression for the test rows (``COLUMN==VALUE``, ``!= < <= > >=``, ``COLUMN in a|b``), or the
            name of a column of ``train``/``valid``/``test``; by default the column ``split`` if there is one,
            else 60/15/25 at random, stratified.
        group: column whose values no split divides. An expression that divides *every* group is taken as
            meant (repetitions of each speaker) and noted; one that divides some is an error.
        columns: further columns, possible contexts.
        kinds: modality to ``vector``, ``sequence``, ``image``, ``clip``, ``text`` or ``categories`` where its
            shape does not tell (see ``inputs.arrange``). Strings are categories (one-hot) if few differ
            (at most 100, and five training rows to each), else text.
        name: of the data set, in tables and messages.
        valid_fraction: share of validation where none is named: of the training rows where the test rows are
            named, else of all rows.
        split_seed: seed of random splits.
        impute: ``mean`` fills NaN in a part of a row with the training mean, instead of refusing it.
        augment: images or clips to crop and flip at random in training.
        options: fields of ``table.RowOptions``.

    A row of a modality that is NaN throughout, or an empty string, is absent there; so is one marked False in
    an array ``present_<modality>``.

    Raises:
        InputError: with every problem found, each with rows, expectation and remedy.
    """
    settings = DataSettings(
        name=name, label=label, split=split, group=group, columns=list(columns), kinds=dict(kinds or {}),
        valid_fraction=valid_fraction, split_seed=split_seed,
    )  # fmt: skip
    problems = Problems(name)
    known = {key: np.asarray(value) for key, value in arrays.items()}
    names = list(modalities) if modalities else _default_modalities(known, settings)
    _check_names(known, names, settings, impute, problems)
    problems.stop()
    how = RowOptions(**options)
    kept, known, notes = keep_rows(known, settings, how, problems)
    found = {m: problems.trying(find_modality, m, known, impute is not None) for m in names}
    present = {m: rows for m, rows in found.items() if rows is not None}
    table = read_rows(known, present, settings, how, problems, kept, notes)
    preparations: dict[str, Preparation] = {}
    stored: dict[str, Rows] = {}
    digest = hashlib.sha256()
    for m in names:
        rows = np.flatnonzero((table.parts == "train") & present[m])
        fitted = problems.trying(fit_preparation, m, known[m], settings.kinds.get(m), rows, impute is not None)
        if fitted is not None:
            values = fitted.apply(known[m])
            preparations[m], stored[m] = fitted, values
            digest.update(f"{m}{values.dtype}{values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
    problems.stop()
    mask = np.stack([present[m] for m in names], 1)
    inside = replace(table, kept=np.arange(len(kept)))
    return assemble(name, stored, preparations, mask, inside, digest.hexdigest(), augment, split_seed)


def from_settings(
    settings: DataSettings,
    arrays: Mapping[str, Any],
    name: str,
    modalities: Sequence[str] | None = None,
    **options: Any,
) -> MultimodalData:
    """``from_arrays`` as a recipe describes it; ``name`` and ``modalities`` hold where the recipe says nothing.

    Args:
        settings: of the recipe; its ``options`` are not read.
        arrays, options: as in ``from_arrays``.

    Raises:
        InputError: as ``from_arrays``.
    """
    return from_arrays(
        arrays,
        modalities=settings.modalities or modalities,
        label=settings.label or "y",
        split=settings.split,
        group=settings.group,
        columns=settings.columns,
        kinds=settings.kinds,
        name=settings.name or name,
        valid_fraction=settings.valid_fraction,
        split_seed=settings.split_seed,
        **options,
    )


def _default_modalities(arrays: Mapping[str, np.ndarray], settings: DataSettings) -> list[str]:
    taken = {*label_columns(settings), settings.group, *settings.columns}
    return [key for key, array in arrays.items() if array.ndim >= 2 and key not in taken]


def _check_names(
    arrays: Mapping[str, np.ndarray],
    names: Sequence[str],
    settings: DataSettings,
    impute: str | None,
    problems: Problems,
) -> None:
    """Everything that is named exists, and everything that exists has as many rows."""
    if not names:
        problems.append(f"no modality is named and no array has two axes; name them, of: {show(list(arrays))}")
    if impute not in (None, "mean"):
        problems.append(str(unknown("way to impute", str(impute), ["mean"])))
    wanted = [("modality", m) for m in names]
    wanted += [("modality in kinds", m) for m in settings.kinds if m not in names]
    problems += [str(unknown(what, name, arrays)) for what, name in wanted if name not in arrays]
    problems += unknown_columns(arrays, settings)
    wanted += named_columns(settings)
    problems += [f"modality {m!r} has a dot in its name; rename it" for m in names if "." in m]
    scalars = [key for key, array in arrays.items() if array.ndim == 0]
    lengths = {key: len(array) for key, array in arrays.items() if key not in scalars}
    used = [name for _, name in wanted if name in arrays]
    problems += [f"{key!r} is a single value; expected one row a sample" for key in scalars if key in used]
    if len({lengths[key] for key in used if key in lengths}) > 1:
        shown = ", ".join(f"{key} {lengths[key]}" for key in dict.fromkeys(used) if key in lengths)
        problems.append(f"the arrays have different numbers of rows: {shown}; expected the same in all: align them")
    elif any(lengths.get(key) == 0 for key in used):
        problems.append("the arrays have no rows; expected at least one sample in each split")


def find_modality(name: str, arrays: Mapping[str, np.ndarray], impute: bool) -> np.ndarray:
    """Rows in which a modality is there, by its values and by ``present_<name>``."""
    array = arrays[name]
    if array.dtype == object and not is_text(array):
        raise InputError(
            f"modality {name!r} holds objects of type {type(array.flat[0]).__name__}; expected numbers or text "
            "of one shape: pad sequences to one length and save them as a numeric array"
        )
    if array.dtype.kind not in "fiubUSTO":
        raise InputError(f"modality {name!r} has type {array.dtype}; expected numbers or text")
    mark = arrays.get(f"present_{name}", np.ones(len(array), bool)).astype(bool)
    present, problems = find_present(name, array, mark, impute)
    if problems:
        raise InputError("; ".join(problems))
    return present


def assemble(
    name: str,
    stored: Mapping[str, Rows],
    preparations: Mapping[str, Preparation],
    present: np.ndarray,
    table: Table,
    contents: str,
    augment: Sequence[str],
    seed: int,
) -> MultimodalData:
    """The data set of a checked table: its three splits and its fingerprint.

    Args:
        present: (N, M) bool of the kept rows, columns in the order of ``preparations``.
        contents: hash of what is stored; the splits, labels and ids are added to it.
    """
    described: dict[str, Modality] = {key: value.modality for key, value in preparations.items()}
    pixels = [m for m, about in described.items() if about.kind in ("image", "clip")]
    for wrong in [m for m in augment if m not in pixels]:
        raise unknown("image or clip to augment", wrong, pixels)
    digest = hashlib.sha256(contents.encode())
    for values in (table.parts, present, table.labels.target.numpy(), np.array(table.ids)):
        digest.update(values.tobytes())
    splits = {part: np.flatnonzero(table.parts == part) for part in ("train", "valid", "test")}
    made = {
        part: ArraySplit(
            stored=stored,
            preparations=preparations,
            rows=table.kept[rows],
            present=present[rows],
            target=table.labels.target[rows],
            columns={key: replace(c, values=c.values[rows]) for key, c in table.columns.items()},
            ids=[table.ids[row] for row in rows],
            groups=None if table.groups is None else table.groups[rows],
            augment=augment if part == "train" else (),
            seed=seed,
        )
        for part, rows in splits.items()
    }
    return MultimodalData(
        name=name,
        modalities=described,
        task=table.labels.task,
        train=made["train"],
        valid=made["valid"],
        test=made["test"],
        fingerprint=digest.hexdigest(),
        notes=table.notes,
    )


def new_samples(
    arrays: Mapping[str, Any], preparations: Mapping[str, Preparation], ids: Sequence[str] | None = None
) -> ArraySplit:
    """Samples without labels, prepared as those of training were; their targets are zeros.

    Args:
        arrays: modality name to array (N, ...); a modality that is not there is absent in all samples.
        preparations: ``data.train.preparations`` of the training data, in that order.
        ids: names of the samples; row numbers by default.

    Raises:
        InputError: no modality of training is there, or one has other shapes or broken rows.
    """
    known = {key: np.asarray(value) for key, value in arrays.items()}
    given = [m for m in preparations if m in known]
    problems = Problems("new samples")
    if not given:
        raise InputError(f"no modality is given; expected at least one of {', '.join(preparations)}")
    total = len(known[given[0]])
    problems += [f"{m!r} has {len(known[m])} rows; expected {total}" for m in given if len(known[m]) != total]
    problems.stop()
    present = np.zeros((total, len(preparations)), bool)
    stored: dict[str, Rows] = {}
    for column, (m, preparation) in enumerate(preparations.items()):
        about = preparation.modality
        stored[m] = np.zeros((total, *about.shape), np.int64 if about.kind == "text" else np.float32)
        found = problems.trying(find_modality, m, known, bool(preparation.fill)) if m in known else None
        values = problems.trying(preparation.apply, known[m]) if found is not None else None
        if found is not None and values is not None:
            present[:, column], stored[m] = found, values
    problems.stop()
    names = list(ids) if ids is not None else [str(row) for row in range(total)]
    return ArraySplit(
        stored, preparations, np.arange(total), present, torch.zeros(total, dtype=torch.int64), {}, names, None
    )
