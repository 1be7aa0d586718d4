"""Use a trained run: predictions on new samples, and the evaluation of its test split."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from modalign.data.batch import Output
from modalign.data.dataset import MultimodalData, Split
from modalign.data.media.folder import StoredArray, file_digest, read_meta
from modalign.data.tables.arrays import ArraySplit, new_samples
from modalign.data.tables.files import TABLES, read_arrays, read_table, table_arrays
from modalign.data.tables.words import UNKNOWN, token_reader
from modalign.data.task import Task
from modalign.errors import InputError, unknown
from modalign.estimators.estimate import METHODS, estimate
from modalign.evaluation.diagnosis import evaluate_model
from modalign.evaluation.extremes import Example, Extremes, contrasting, extreme_samples
from modalign.evaluation.information import Reference
from modalign.strategies import Strategy
from modalign.training.portable import preparations, rebuild
from modalign.training.run import Run
from modalign.training.trainer import build_strategy, load_run, restore, spec_from_plain

_BATCH = 128


@dataclass(frozen=True)
class Trained:
    """A trained strategy that needs no training data, as ``load_trained`` gives it."""

    strategy: Strategy
    data: MultimodalData
    described: dict[str, Any]


def load_trained(folder: str | Path, checkpoint: str = "best") -> Trained:
    """The trained strategy of a run, rebuilt from the run folder alone.

    Raises:
        InputError: the folder is no run, or has no such checkpoint.
    """
    run = Run(folder)
    spec = spec_from_plain(run.spec())
    state = run.load(checkpoint)
    described = run.data()
    data = rebuild(described)
    strategy = build_strategy(spec, data, standardize=False)
    restore(strategy, state, folder)
    return Trained(strategy.eval(), data, described)


def outputs(
    strategy: Strategy, split: Split, keep: Sequence[str] | None = None, device: str | torch.device = "cpu"
) -> Output:
    """The strategy's outputs on a whole split, with only the modalities ``keep`` if given."""
    split.set_epoch(None)
    strategy = strategy.to(device).eval()
    parts = []
    with torch.no_grad():
        for rows in _blocks(len(split)):
            batch = split.__getitems__(rows).to(device)
            parts.append(strategy(batch if keep is None else batch.mask(keep)).to("cpu"))
    strategy.to("cpu")
    return Output.cat(parts)


def _blocks(total: int) -> Iterator[list[int]]:
    for start in range(0, total, _BATCH):
        yield list(range(start, min(start + _BATCH, total)))


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
    run = Run(folder)
    run.spec()
    run.result()
    trained = load_trained(folder)
    known = list(trained.data.modalities)
    for name in modalities or ():
        if name not in known:
            raise unknown("modality", name, known)
    arrays = _given(Path(source), known)
    ids = [str(i) for i in arrays["id"]] if "id" in arrays else None
    split = new_samples(arrays, preparations(trained.described), ids)
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
    task = trained.data.task
    scores = task.log_probability(trained.strategy.readout(found))
    columns: dict[str, Any] = {"id": list(split.ids)} | _answer(task, "", scores)
    if task.kind == "classification":
        columns |= {f"p_{name}": p for name, p in zip(task.classes, scores.exp().T.numpy(), strict=True)}
    for m, name in enumerate(trained.data.modalities):
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


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate_run`` found.

    Attributes:
        result: the content of ``evaluation.json`` (``evaluation.diagnosis`` gives its form).
        extremes: samples in which one modality is sure and another is not; None where that cannot be said.
    """

    result: dict[str, Any]
    extremes: Extremes | None


def evaluate_run(
    folder: str | Path,
    *,
    split: str = "test",
    context: str = "class",
    information: bool = True,
    method: str = "nce3",
    data: MultimodalData | None = None,
) -> Evaluation:
    """Evaluate a finished run and keep the result in its ``evaluation.json``.

    Args:
        folder: the run.
        split: ``test`` or ``valid``.
        context: column by whose values confidence is shown beside the classes; numbers are cut at their quartiles.
        information: also estimate information between the features (takes a minute or so); if not, the estimates of an
            earlier evaluation are kept where they are of the same split, checkpoint and data.
        method: estimator of information.
        data: the data in memory that the run was trained on, if it was.

    Raises:
        InputError: the folder is no finished run, its data cannot be loaded, or there is no such split or column.
    """
    run = Run(folder)
    run.result()
    if split not in ("test", "valid"):
        raise unknown("split", split, ("test", "valid"))
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    strategy, data, _ = load_run(folder, data=data)
    samples = data.test if split == "test" else data.valid
    columns = {} if context == "class" else {context: _contexts(samples, context)}
    whole = outputs(strategy, samples)
    task = data.task

    @functools.cache
    def answer(keep: tuple[str, ...]) -> np.ndarray:
        found = whole if set(keep) == set(data.modalities) else outputs(strategy, samples, keep)
        return task.log_probability(strategy.readout(found)).numpy()

    heads = None
    if strategy.trains_unimodal:
        heads = torch.stack([task.log_probability(whole.unimodal[m]) for m in data.modalities]).numpy()
    units = data.units(samples)
    first = units.first.numpy()

    def scored(scores: np.ndarray) -> np.ndarray:
        return units.scores(task, torch.from_numpy(scores)).numpy()

    result = evaluate_model(
        task,
        lambda keep: scored(answer(tuple(keep))),
        list(data.modalities),
        samples.target.numpy()[first],
        heads=None if heads is None else np.stack([scored(head) for head in heads]),
        present=whole.present.numpy()[first],
        groups=None if samples.groups is None else samples.groups[first],
        columns={name: (codes[first], names) for name, (codes, names) in columns.items()},
        features={m: units.mean(z).numpy() for m, z in whole.features.items()} if information else None,
        estimate=functools.partial(estimate, method=method) if information else None,
        reference=reference_features(strategy, data.valid if split == "test" else data.train) if information else None,
        split=split,
    )
    result["source"] = {"checkpoint": file_digest(run.folder / "checkpoints" / "best.pt"), "data": data.fingerprint}
    kept = run.folder / "evaluation.json"
    if not information:
        result = _with_earlier_information(result, kept)
    kept.write_text(json.dumps(result, indent=1))
    if task.kind != "classification" or len(data.modalities) < 2:
        return Evaluation(result, None)
    evidence = np.stack([answer((m,)) for m in data.modalities]) if heads is None else heads
    return Evaluation(result, _extremes(data, samples, evidence, whole.present.numpy(), columns))


def _with_earlier_information(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """``result`` with the information that an earlier evaluation of the same model on the same samples found.

    An earlier one of another split, checkpoint or data is of no use here; that it is replaced stands in the warnings.
    """
    try:
        earlier = json.loads(path.read_text())
    except (OSError, ValueError):
        return result
    if not isinstance(earlier, dict) or not earlier.get("information"):
        return result
    if (earlier.get("split"), earlier.get("source")) != (result["split"], result["source"]):
        other = "another model or other data" if earlier.get("split") == result["split"] else "another split"
        text = f"the earlier estimates of information were of {other} and are dropped; evaluate without --quick"
        return result | {"warnings": [*result["warnings"], text]}
    information = earlier["information"] | {"earlier": True}
    return result | {"information": information, "warnings": [*result["warnings"], *information["warnings"]]}


def reference_features(strategy: Strategy, split: Split) -> Reference:
    """Features of the samples of another split that have all modalities, to which directions are fitted."""
    found = outputs(strategy, split)
    whole = found.present.all(1)
    return Reference({m: z[whole].numpy() for m, z in found.features.items()}, split.target[whole].numpy())


def _contexts(samples: Split, name: str) -> tuple[np.ndarray, Sequence[str]]:
    """Code of each sample in a column, and what the codes mean."""
    if name not in samples.columns:
        raise unknown("context", name, ["class", *samples.columns])
    column = samples.columns[name]
    values = column.values.numpy()
    if column.discrete:
        return values, column.names
    if values.ndim > 1:
        raise InputError(f"context {name!r} has {values.shape[1]} numbers a sample; expected a column of single ones")
    edges = np.unique(np.nanquantile(values, [0.25, 0.5, 0.75]))
    bounds = [f"{edge:.3g}" for edge in edges]
    names = [f"to {bounds[0]}", *(f"{a} to {b}" for a, b in itertools.pairwise(bounds)), f"over {bounds[-1]}"]
    return np.searchsorted(edges, values), names


def _extremes(
    data: MultimodalData,
    samples: Split,
    evidence: np.ndarray,
    present: np.ndarray,
    columns: dict[str, tuple[np.ndarray, Sequence[str]]],
) -> Extremes | None:
    """The samples in which the two modalities that differ most in confidence differ most."""
    first, second = contrasting(evidence, present)
    names = list(data.modalities)
    groups = {}
    for (sure, unsure), chosen in zip(
        ((first, second), (second, first)), extreme_samples(evidence, present, first, second), strict=True
    ):
        batch = samples.__getitems__(chosen.tolist())
        groups[f"{names[sure]} surer than {names[unsure]}"] = [
            Example(
                _title(data.task, samples, int(row), columns),
                {m: _shown(samples, m, batch.inputs[m][k]) for i, m in enumerate(names) if present[row, i]},
                {m: _said(data.task, evidence[i, row], truth) for i, m in enumerate(names) if present[row, i]},
            )
            for k, (row, truth) in enumerate(zip(chosen, samples.target[chosen.tolist()].tolist(), strict=True))
        ]
    kinds = {m: about.kind for m, about in data.modalities.items()}
    return Extremes(groups, kinds) if any(groups.values()) else None


def _title(task: Task, samples: Split, row: int, columns: dict[str, tuple[np.ndarray, Sequence[str]]]) -> str:
    parts = [f"sample {samples.ids[row]}", f"true class {task.classes[int(samples.target[row])]}"]
    return ", ".join(parts + [f"{name} {names[codes[row]]}" for name, (codes, names) in columns.items()])


def _said(task: Task, log_probability: np.ndarray, truth: int) -> str:
    """What a modality says alone, whether that is right, and how sure it is."""
    best = int(log_probability.argmax())
    verdict = "right" if best == truth else "wrong"
    return f"says {task.classes[best]} ({verdict}), {100 * np.exp(log_probability[best]):.0f} %"


def _shown(samples: Split, modality: str, values: Tensor) -> np.ndarray | str:
    """An input as it is shown: word numbers as their words where these are at hand, and never as numbers."""
    if not isinstance(samples, ArraySplit):
        return values.numpy()
    about = samples.preparations[modality]
    if about.modality.kind != "text":
        return values.numpy()
    numbers = [i for i in values.tolist() if i != about.modality.padding]
    if about.words:
        return " ".join("?" if i == UNKNOWN else about.words[i - 2] for i in numbers)
    stored = samples.stored[modality]
    if not isinstance(stored, StoredArray):
        return f"({len(numbers)} tokens; the data hold numbers without a vocabulary)"
    vocabulary = _vocabulary(stored.path.parent, modality)
    read = token_reader(vocabulary)
    if read is None:
        return f"({len(numbers)} tokens; their vocabulary {vocabulary!r} is not on this machine)"
    return read(numbers)


def _vocabulary(folder: Path, modality: str) -> str:
    """Where the words of a prepared text are: in its folder, or by the name that it was prepared with."""
    for own in (folder / "tokenizer", folder / "vocab.txt"):
        if own.exists():
            return str(own)
    about: Mapping[str, Any] = read_meta(folder).get("about") or {}
    modalities = about.get("modalities") or {}
    return str((modalities.get(modality) or about).get("vocabulary") or "")
