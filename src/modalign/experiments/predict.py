"""Predict new samples with a trained run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from modalign.data.samples import read_samples
from modalign.data.tables.omics import annotate as annotate_cells
from modalign.data.tables.omics import is_omics
from modalign.data.task import Task
from modalign.errors import SettingsError
from modalign.training.build import Trained, load_trained
from modalign.training.forward import outputs
from modalign.training.own_code import Objects
from modalign.training.run import RunFolder
from modalign.training.scales import warn_of_scales


def predict(
    run: str | Path | Trained,
    source: Any,
    modalities: Sequence[str] | None = None,
    *,
    annotate: bool = False,
    objects: Objects | None = None,
    trust_code: bool = False,
) -> pd.DataFrame:
    """Return the predictions of a run for new samples, with confidence and the evidence of each modality.

    Args:
        run: the run folder, or a trained strategy as ``load_trained`` gives it.
        source: new samples, labels not needed (see ``data.samples.read_samples``): arrays, a table, a manifest of raw
            files, ``.h5ad``, ``.h5mu`` or a prepared folder, by path; or arrays, a data frame, AnnData, MuData, a torch
            data set or loader at hand. A modality that is not there, and a row of it that is NaN or empty throughout,
            counts as missing.
        modalities: use only these, as if the others were missing.
        annotate: write the columns of the answer into ``obs`` of the AnnData or MuData ``source``, as
            ``modalign_predicted`` and so on, and the features of each modality into ``obsm``, as
            ``X_modalign_<modality>`` (N, D), zeros where it is missing.
        objects: the objects of one's own that it was trained with, if they are at hand.
        trust_code: load such objects from the copy in the run.

    A modality that lies far outside the scale of the training rows is warned of.

    Returns:
        One row a sample. Classification: ``id, predicted, confidence``, ``p_<class>`` for every class, and for each
        modality ``<m>_present`` and, where the method trains heads of single modalities, ``<m>_predicted`` and
        ``<m>_confidence``. Labels: ``predicted`` are those above one half, joined by ``|``, and ``p_<label>`` is the
        probability of each. Other tasks: ``id, predicted`` and ``<m>_predicted``; of several numbers
        ``predicted_<name>``. Survival: ``predicted`` is the log risk; ``median_time`` is when survival falls to one
        half (infinity where it never does), and ``survival_<t>`` is the probability of living beyond each of five times
        (quantiles of the times of events on validation).

    Raises:
        InputError: no such run or file, a run that is not finished, a modality that it does not know, or samples of
            another shape or that cannot be read; all of these are named.
    """
    if annotate and (isinstance(source, (str, Path)) or not is_omics(source)):
        raise SettingsError(f"annotate is for AnnData and MuData at hand; {type(source).__name__} is no such object")
    if not isinstance(run, Trained):
        folder = RunFolder(run)
        folder.spec()
        folder.result()
        run = load_trained(run, objects=objects, trust_code=trust_code)
    split = read_samples(source, run.inputs, modalities)
    warn_of_scales(run.strategy.model, split, run.scales)
    found, task = outputs(run.strategy, split, modalities), run.info.task
    scores = run.strategy.log_probability(found)
    columns: dict[str, Any] = {"id": list(split.ids)} | _answer(task, "", scores)
    if task.kind in ("classification", "multilabel"):
        columns |= {f"p_{name}": p for name, p in zip(task.classes, scores.exp().T.numpy(), strict=True)}
    if run.survival is not None:
        risk = scores[:, 0].numpy()
        curves = run.survival.curves(risk, run.survival.ticks)
        columns["median_time"] = run.survival.median(risk)
        columns |= {f"survival_{t:.6g}": p for t, p in zip(run.survival.ticks, curves.T, strict=True)}
    for m, name in enumerate(run.info.modalities):
        columns[f"{name}_present"] = here = found.present[:, m].numpy()
        if run.strategy.trains_unimodal:
            own = _answer(task, f"{name}_", task.log_probability(found.unimodal[name]))
            columns |= {key: pd.Series(value).where(here) for key, value in own.items()}
    table = pd.DataFrame(columns)
    if annotate:
        annotate_cells(source, table, {m: z.numpy() for m, z in found.features.items()})
    return table


def _answer(task: Task, prefix: str, scores: Tensor) -> dict[str, np.ndarray]:
    """The prediction and, for classes, its probability."""
    if task.kind == "multilabel":
        names = np.asarray(task.classes, dtype=object)
        return {
            f"{prefix}predicted": np.array(["|".join(names[row]) for row in (scores > -math.log(2)).numpy()], object)
        }
    if task.several:
        return {f"{prefix}predicted_{name}": scores[:, c].numpy() for c, name in enumerate(task.classes)}
    if task.kind != "classification":
        return {f"{prefix}predicted": scores[:, 0].numpy()}
    confidence, best = scores.exp().max(1)
    classes = np.asarray(task.classes, dtype=object)
    return {f"{prefix}predicted": classes[best.numpy()], f"{prefix}confidence": confidence.numpy()}
