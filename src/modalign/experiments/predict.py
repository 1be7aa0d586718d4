"""Predict new samples with a trained run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from modalign.data.batch import Output
from modalign.data.tables.arrays import ArraySplit, new_samples
from modalign.data.tables.files import TABLES, read_arrays, read_table, table_arrays
from modalign.data.tables.modalities import Preparation
from modalign.data.task import Task
from modalign.errors import RunFolderError, unknown
from modalign.training.build import Trained, load_trained
from modalign.training.forward import outputs
from modalign.training.run import RunFolder

_BATCH = 128


def predict(folder: str | Path, source: str | Path, modalities: Sequence[str] | None = None) -> pd.DataFrame:
    """Predictions of a run for new samples, with confidence and the evidence of each modality.

    Args:
        folder: the run.
        source: ``.npz``, Parquet or CSV with the run's modalities under their names (labels are not needed). A modality
            that is not there, and a row of it that is NaN or empty throughout, counts as missing.
        modalities: use only these, as if the others were missing.

    Returns:
        One row a sample. Classification: ``id, predicted, confidence``, ``p_<class>`` for every class, and for each
        modality ``<m>_present`` and, where the method trains heads of single modalities, ``<m>_predicted`` and
        ``<m>_confidence``. Other tasks: ``id, predicted`` and ``<m>_predicted``.

    Raises:
        InputError: no such run or file, a run that is not finished, a modality that it does not know, or samples of
            another shape.
    """
    run = RunFolder(folder)
    run.spec()
    run.result()
    trained = load_trained(folder)
    known = list(trained.info.modalities)
    for name in modalities or ():
        if name not in known:
            raise unknown("modality", name, known)
    arrays = _given(Path(source), known)
    if trained.inputs["preparations"] is None:
        raise RunFolderError("the run does not say how its inputs are prepared: its data set is a class of its own")
    preparations = {name: Preparation.from_dict(values) for name, values in trained.inputs["preparations"].items()}
    ids = [str(i) for i in arrays["id"]] if "id" in arrays else None
    split = new_samples(arrays, preparations, ids)
    found = outputs(trained.strategy, split, modalities)
    return _table(trained, split, found)


def _given(source: Path, known: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of a file, joined to modalities where it is a table; those that are not there are left out."""
    if source.suffix not in TABLES:
        return read_arrays(source)
    table = read_table(source)
    columns = [str(name) for name in table.columns]
    there = [m for m in known if any(c == m or c.startswith((f"{m}_", f"{m}.")) for c in columns)]
    return table_arrays(table, there)


def _table(trained: Trained, split: ArraySplit, found: Output) -> pd.DataFrame:
    task = trained.info.task
    scores = task.log_probability(trained.strategy.predict(found))
    columns: dict[str, Any] = {"id": list(split.ids)} | _answer(task, "", scores)
    if task.kind == "classification":
        columns |= {f"p_{name}": p for name, p in zip(task.classes, scores.exp().T.numpy(), strict=True)}
    for m, name in enumerate(trained.info.modalities):
        here = found.present[:, m].numpy()
        columns[f"{name}_present"] = here
        if trained.strategy.trains_unimodal:
            own = _answer(task, f"{name}_", task.log_probability(found.unimodal[name]))
            columns |= {key: pd.Series(value).where(here) for key, value in own.items()}
    return pd.DataFrame(columns)


def _answer(task: Task, prefix: str, scores: Tensor) -> dict[str, np.ndarray]:
    """The prediction and, for classes, its probability."""
    if task.kind != "classification":
        return {f"{prefix}predicted": scores[:, 0].numpy()}
    confidence, best = scores.exp().max(1)
    classes = np.asarray(task.classes, dtype=object)
    return {f"{prefix}predicted": classes[best.numpy()], f"{prefix}confidence": confidence.numpy()}
