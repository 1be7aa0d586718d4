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
from modalign.data.media.folder import StoredArray, read_meta
from modalign.data.tables.arrays import ArraySplit
from modalign.data.tables.words import UNKNOWN
from modalign.errors import DataError, unknown
from modalign.estimators.estimate import METHODS, estimate
from modalign.evaluation.contributions import Example, Extremes, contrasting, extreme_samples
from modalign.evaluation.diagnosis import evaluate_model, plain
from modalign.evaluation.pairs import Reference
from modalign.evaluation.survival import SurvivalModel, survival_diagnosis, survival_scores
from modalign.experiments.regimes import place
from modalign.files import file_digest, write_whole
from modalign.strategies import Strategy
from modalign.training.build import load_with_data
from modalign.training.forward import outputs
from modalign.training.own_code import Objects
from modalign.training.run import RunFolder


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
        folder: run folder.
        split: ``test`` or ``valid``.
        context: column by whose values confidence is shown beside the classes; numbers are cut at their quartiles.
        information: also estimate information between the features (takes a minute or so); if not, the estimates of an
            earlier evaluation are kept where they are of the same split, checkpoint and data.
        method: estimator of information.
        data: data in memory that the run was trained on, if it was.
        objects: objects of one's own that it was trained with, if they are at hand.
        trust_code: load such objects from the copy in the run.

    Returns:
        The content of ``evaluation.json``, and samples to look at.

    Raises:
        InputError: the folder is no finished run, its data cannot be loaded, or there is no such split or column.

    Example:
        What a run's modalities contribute to its accuracy::

            found = evaluate_run("runs/digits-joint-seed0", information=False)
            found.result["shapley"]["values"]["left"]["mean"]
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
    task, modalities = data.task, list(data.modalities)
    groups = data.sample_groups(samples)
    first = groups.first.numpy()
    whole = outputs(strategy, samples)

    @functools.cache
    def answer(keep: tuple[str, ...]) -> Tensor:
        """Log-probabilities of all samples with the other modalities masked."""
        found = whole if set(keep) == set(modalities) else outputs(strategy, samples, keep)
        return strategy.log_probability(found)

    fitted, curves = None, None
    known = data.train.target[data.sample_groups(data.train).first].numpy()
    if task.kind == "survival" and (run.folder / "survival.json").exists():
        fitted = SurvivalModel.from_dict(run.about("survival.json"))
        curves = functools.partial(survival_scores, model=fitted, train_target=known)
    heads = None
    if strategy.trains_unimodal:
        heads = torch.stack([task.log_probability(whole.unimodal[m]) for m in modalities])
    result = evaluate_model(
        task,
        lambda keep: groups.scores(task, answer(tuple(keep))).numpy(),
        modalities,
        samples.target.numpy()[first],
        heads=None if heads is None else np.stack([groups.scores(task, head).numpy() for head in heads]),
        present=whole.present.numpy()[first],
        groups=None if samples.groups is None else samples.groups[first],
        columns={name: (codes[first], names) for name, (codes, names) in columns.items()},
        features={m: groups.mean(z).numpy() for m, z in whole.features.items()} if information else None,
        estimate=functools.partial(estimate, method=method) if information else None,
        reference=reference_features(strategy, data.valid if split == "test" else data.train) if information else None,
        curves=curves,
        split=split,
    )
    if fitted is not None:
        risk, target = groups.mean(answer(tuple(modalities))).numpy(), samples.target[groups.first].numpy()
        result["survival"] = plain(survival_diagnosis(risk, target, fitted, known))
    if information:
        at = place(strategy, data)
        result["place"] = None if at is None else plain(at)
    result["source"] = {"checkpoint": file_digest(run.folder / "checkpoints" / "best.pt"), "data": data.fingerprint}
    kept = run.folder / "evaluation.json"
    if not information:
        result = _with_earlier_information(result, kept)
    write_whole(kept, json.dumps(result, indent=1))
    extremes = None
    if task.kind == "classification" and len(modalities) > 1:
        evidence = torch.stack([answer((m,)) for m in modalities]) if heads is None else heads
        extremes = _extremes(data, samples, evidence.numpy(), whole.present.numpy(), columns)
    drawn = run.folder / "examples.npz"
    if extremes is None:
        drawn.unlink(missing_ok=True)  # those of an earlier evaluation
    else:
        extremes.save(drawn)
    return Evaluation(result, extremes)


def _with_earlier_information(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return ``result`` with the information that an earlier evaluation of the same model on the same samples found.

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
    doubts = [*result["warnings"], *information["warnings"]]
    return result | {"information": information, "place": earlier.get("place"), "warnings": doubts}


def reference_features(strategy: Strategy, split: Split) -> Reference:
    """Return features of the samples of another split that have all modalities, to which directions are fitted."""
    found = outputs(strategy, split)
    whole = found.present.all(1)
    return Reference({m: z[whole].numpy() for m, z in found.features.items()}, split.target[whole].numpy())


def _contexts(samples: Split, name: str) -> tuple[np.ndarray, Sequence[str]]:
    """Return the code of each sample in a column, and what the codes mean; numbers are cut at their quartiles."""
    if name not in samples.columns:
        raise unknown("context", name, ["class", *samples.columns])
    column = samples.columns[name]
    values = column.values.numpy()
    if column.discrete:
        return values, column.names
    if values.ndim > 1:
        raise DataError(f"context {name!r} has {values.shape[1]} numbers a sample; expected a column of single ones")
    if not np.isfinite(values).any():
        raise DataError(f"context {name!r} has no value in this split")
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
    """Return the samples in which the two modalities that differ most in confidence differ most."""
    names, classes = list(data.modalities), data.task.classes
    first, second = contrasting(evidence, present)
    chosen = extreme_samples(evidence, present, first, second)
    groups: dict[str, list[Example]] = {}
    for sure, unsure, found in ((first, second, chosen[0]), (second, first, chosen[1])):
        rows = found.tolist()
        batch = samples.__getitems__(rows)
        shown = groups.setdefault(f"{names[sure]} surer than {names[unsure]}", [])
        for k, row in enumerate(rows):
            truth = int(samples.target[row])
            parts = [f"sample {samples.ids[row]}", f"true class {classes[truth]}"]
            parts += [f"{name} {meanings[codes[row]]}" for name, (codes, meanings) in columns.items()]
            inputs, notes = {}, {}
            for i, m in enumerate(names):
                if present[row, i]:
                    said = int(evidence[i, row].argmax())
                    verdict = "right" if said == truth else "wrong"
                    inputs[m] = _shown(samples, m, batch.inputs[m][k])
                    notes[m] = f"says {classes[said]} ({verdict}), {100 * np.exp(evidence[i, row, said]):.0f} %"
            shown.append(Example(", ".join(parts), inputs, notes))
    kinds = {m: about.kind for m, about in data.modalities.items()}
    return Extremes(groups, kinds) if any(groups.values()) else None


def _shown(samples: Split, modality: str, values: Tensor) -> np.ndarray | str:
    """Return an input as it is shown: word numbers as their words where these are at hand, and never as numbers."""
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
    # The words of a prepared text are in its folder, or have the name that it was prepared with.
    folder = stored.path.parent
    about_text: Mapping[str, Any] = read_meta(folder).get("about") or {}
    named = ((about_text.get("modalities") or {}).get(modality) or about_text).get("vocabulary") or ""
    own = [str(path) for path in (folder / "tokenizer", folder / "vocab.txt") if path.exists()]
    vocabulary = own[0] if own else str(named)
    read = token_reader(vocabulary)
    if read is None:
        return f"({len(numbers)} tokens; their vocabulary {vocabulary!r} is not on this machine)"
    return read(numbers)
