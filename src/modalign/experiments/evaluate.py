"""Evaluate a trained run: what each modality gives, alone, together and missing."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalign.data.dataset import MultimodalData, Split
from modalign.data.media.decoders import token_reader
from modalign.data.media.folder import StoredArray, file_digest, read_meta
from modalign.data.tables.arrays import ArraySplit
from modalign.data.tables.words import UNKNOWN
from modalign.data.task import Task
from modalign.errors import InputError, unknown
from modalign.estimators.estimate import METHODS, estimate
from modalign.evaluation.diagnosis import evaluate_model
from modalign.evaluation.extremes import Example, Extremes, contrasting, extreme_samples
from modalign.evaluation.information import Reference
from modalign.strategies import Strategy
from modalign.training.build import Objects, load_with_data
from modalign.training.forward import outputs
from modalign.training.run import RunFolder

_BATCH = 128


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
    objects: Objects | None = None,
    trust_code: bool = False,
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
        objects: the objects of one's own that it was trained with, if they are at hand.
        trust_code: load such objects from the copy in the run.

    Raises:
        InputError: the folder is no finished run, its data cannot be loaded, or there is no such split or column.
    """
    run = RunFolder(folder)
    run.result()
    if split not in ("test", "valid"):
        raise unknown("split", split, ("test", "valid"))
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    strategy, data, _ = load_with_data(folder, data=data, objects=objects, trust_code=trust_code)
    samples = data.test if split == "test" else data.valid
    columns = {} if context == "class" else {context: _contexts(samples, context)}
    whole = outputs(strategy, samples)
    task = data.task

    @functools.cache
    def answer(keep: tuple[str, ...]) -> np.ndarray:
        found = whole if set(keep) == set(data.modalities) else outputs(strategy, samples, keep)
        return task.log_probability(strategy.predict(found)).numpy()

    heads = None
    if strategy.trains_unimodal:
        heads = torch.stack([task.log_probability(whole.unimodal[m]) for m in data.modalities]).numpy()
    units = data.sample_groups(samples)
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
