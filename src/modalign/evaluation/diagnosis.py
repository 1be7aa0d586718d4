"""Everything ``modalign evaluate`` says of one model on one split, as a plain dictionary (``evaluation.json``).

The schema, with I an interval ``{"mean", "low", "high", "n", "note"}`` (null where it is not known):

    split, task, metric, samples, units       what was evaluated; units are groups, or samples where there are none
    metrics     {name: I}
    classes     [{"name", "precision", "recall", "f1", "support"}], of labels with "ap"
    values      [{"name", "target", "predicted"}] of at most ``SHOWN`` samples; for regression alone
    confusion   [[count]], rows true
    subsets     [{"modalities": [...], ...I}]
    heads       {modality: I}, empty where the method does not train heads of single modalities
    shapley     {"values": {modality: I}, "total", "exact", "orders"}
    missing     {"shares": [...], "curves": {"any" or modality: [I]}}
    calibration {"fused" or modality: {"ece", "confidence", "accuracy", "count"}}
    confidence  {column: {"contexts": [...], "count": [...], "by_modality": {modality: [I]}}}
    information ``Information`` with all its warnings, or null;
                ``"earlier": true`` where it was kept from an earlier evaluation of the same model
    survival    what ``evaluation.survival.survival_diagnosis`` returns; for survival alone
    place       where the data lie on the map of regimes (``evaluation.place.Place``), or null
    source      {"checkpoint", "data"}: digests of what was evaluated (``evaluate_run`` adds it, and the place)
    warnings    [text]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modalign.estimators.estimate import FEW_IN_CONTEXT
from modalign.evaluation.contributions import Predict, Shapley, Subsets, missing_curve, shapley, subset_scores
from modalign.evaluation.decomposition import Decomposed, decompose_features
from modalign.evaluation.metrics import (
    METRICS,
    Curves,
    calibration,
    confusion_matrix,
    label_calibration,
    normalize,
    per_class,
    per_label,
    weighted_metrics,
)
from modalign.evaluation.pairs import (
    Amount,
    Complete,
    Estimator,
    Pair,
    Reference,
    constant,
    shared,
    shared_given_target,
)
from modalign.evaluation.statistics import Interval, mean_interval
from modalign.evaluation.target import about_target

if TYPE_CHECKING:
    from modalign.data.task import Task

# Areas need a pass over all scores for every resample; fewer resamples keep that affordable.
SLOW_METRICS = frozenset({"auc_micro", "average_precision", "map", "spearman"})
SLOW_REPEATS = 200
SHOWN = 2000
"""Samples that are kept to be drawn, of a regression."""


def evaluate_model(
    task: Task,
    predict: Predict,
    modalities: Sequence[str],
    target: np.ndarray,
    *,
    heads: np.ndarray | None = None,
    present: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    columns: Mapping[str, tuple[np.ndarray, Sequence[str]]] | None = None,
    features: Mapping[str, np.ndarray] | None = None,
    estimate: Estimator | None = None,
    reference: Reference | None = None,
    curves: Curves | None = None,
    metric: str | None = None,
    split: str = "test",
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate a model that is known only by its answers.

    Args:
        task: what is predicted.
        predict: modalities kept -> scores (N, C) of the whole split with the others masked.
        modalities: names, in order.
        target: (N,) or (N, 2).
        heads: (M, N, C) log-probabilities of trained heads on single modalities; None where there are none
            (then a modality's own evidence is the model's answer with all others masked).
        present: (N, M) bool, all present by default.
        groups: (N,) groups that the bootstrap draws whole.
        columns: name -> (codes (N,), names): contexts for which confidence is shown beside the classes.
        features, estimate: modality -> (N, D) features and an estimator, for the information diagnosis.
        reference: features of other samples, to which the directions are fitted that the estimator sees.
        curves: scores survival over time, as in ``compute_metrics``.
        metric: of subsets and contributions; the task's first by default.
        split: name of the split, for the record.
        repeats, seed: of the bootstrap.

    Returns:
        The dictionary described at the top of this file, ready for ``json.dump``.

    >>> from modalign.data.task import Task
    >>> y = np.arange(40) % 2
    >>> see = lambda keep: np.log(0.1 + 0.8 * (y[:, None] == np.arange(2))) if "audio" in keep else np.zeros((40, 2))
    >>> found = evaluate_model(Task("classification", ("a", "b")), see, ["audio", "video"], y, repeats=50)
    >>> found["metrics"]["accuracy"]["mean"], found["shapley"]["values"]["video"]["mean"]
    (1.0, 0.0)
    """
    target = np.asarray(target)
    present = np.ones((len(target), len(modalities)), bool) if present is None else np.asarray(present)
    subsets = Subsets(task, predict, modalities, target, groups, metric, repeats, seed)
    scores = subsets.scores(modalities)
    contributions = shapley(subsets)
    singles = subset_scores(subsets)
    result: dict[str, Any] = {
        "split": split,
        "task": task.kind,
        "metric": subsets.metric,
        "samples": len(target),
        "units": subsets.units,
        "metrics": {},
        "subsets": [{"modalities": list(keep)} | plain(value) for keep, value in singles.items()],
        "heads": {},
        "shapley": plain(contributions),
        "missing": plain(missing_curve(subsets)) if len(modalities) > 1 else None,
    }
    for name in METRICS[task.kind]:
        weights = subsets.weights[: SLOW_REPEATS + 1] if name in SLOW_METRICS else subsets.weights
        for values in weighted_metrics(task, scores, subsets.target, weights, [name], curves).values():
            result["metrics"][name] = plain(subsets.interval(values))
    warnings = _warnings(subsets, contributions, singles)
    if heads is None:
        warnings.append("the method trains no heads of single modalities: their evidence is found by masking")
    else:
        own = (subsets.interval(subsets.sign * subsets.evaluate(head)) for head in heads)
        result["heads"] = dict(zip(modalities, map(plain, own), strict=True))
    if task.kind == "classification":
        alone = [subsets.scores([m]) for m in modalities] if heads is None else heads
        evidence = normalize(np.asarray(alone, np.float64))
        rows, everyone = per_class(scores, target), normalize(np.asarray(scores, np.float64))
        answers = {"fused": everyone} | dict(zip(modalities, evidence, strict=True))
        result |= {
            "classes": [{"name": n} | {key: plain(rows[key][i]) for key in rows} for i, n in enumerate(task.classes)],
            "confusion": confusion_matrix(scores, target).tolist(),
            "calibration": {name: plain(calibration(np.exp(answer), target)) for name, answer in answers.items()},
        }
        contexts = {"class": (target, task.classes)} | dict(columns or {})
        result["confidence"] = {
            name: plain(confidence_by_context(evidence, present, modalities, codes, names))
            for name, (codes, names) in contexts.items()
        }
        if result["calibration"]["fused"]["ece"] > 0.1:
            warnings.append("confidence is off by more than 10 points on average: do not read it as probability")
    if task.kind == "multilabel":
        alone = [subsets.scores([m]) for m in modalities] if heads is None else [*heads]
        answers, rows = {"fused": scores} | dict(zip(modalities, alone, strict=True)), per_label(scores, target)
        result |= {
            "classes": [{"name": n} | {key: plain(rows[key][i]) for key in rows} for i, n in enumerate(task.classes)],
            "calibration": {name: plain(label_calibration(np.exp(said), target)) for name, said in answers.items()},
            "confidence": {},
        }
    if task.kind == "regression":
        shown = np.unique(np.linspace(0, len(target) - 1, min(SHOWN, len(target))).astype(int))
        pairs = target.reshape(len(target), -1)[shown].T, np.asarray(scores)[shown].T
        result["values"] = [
            {"name": name, "target": plain(true), "predicted": plain(said)}
            for name, true, said in zip(task.classes or ("",), *pairs, strict=True)
        ]
    result["information"] = None
    one = task.kind in ("classification", "regression") and not getattr(task, "several", False)
    if features is not None and estimate is not None and one and len(modalities) > 1:
        classes = len(task.classes) if task.kind == "classification" else 0
        found = information_diagnosis(features, target, classes, estimate, present, groups, seed, reference)
        doubts = _information_warnings(found, np.bincount(target, minlength=classes) if classes else None)
        result["information"] = plain(found) | {"warnings": doubts}
        warnings += doubts
    result["warnings"] = warnings
    return result


def confidence_by_context(
    evidence: np.ndarray, present: np.ndarray, modalities: Sequence[str], codes: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Compute how sure each modality is by itself, context by context (the paper's Figure 1b), with t-intervals.

    Args:
        evidence: (M, N, C) log-probabilities from each modality alone; confidence is the largest probability.
        present: (N, M) bool; samples without a modality do not count for it.
        modalities: M names.
        codes: (N,) contexts of the samples, indices into ``names``.
        names: names of the contexts; those without a sample are left out.

    >>> evidence = np.log([[[0.9, 0.1], [0.6, 0.4]]])   # one modality, two samples
    >>> found = confidence_by_context(evidence, np.ones((2, 1), bool), ["audio"], np.array([0, 1]), ["a", "b", "c"])
    >>> found["contexts"], [round(value.mean, 2) for value in found["by_modality"]["audio"]]
    (['a', 'b'], [0.9, 0.6])
    """
    confidence = np.exp(evidence.max(2))
    occurring = [k for k in range(len(names)) if (codes == k).any()]
    by_modality = {
        m: [mean_interval(confidence[i, (codes == k) & present[:, i]]) for k in occurring]
        for i, m in enumerate(modalities)
    }
    counts = [int((codes == k).sum()) for k in occurring]
    return {"contexts": [str(names[k]) for k in occurring], "count": counts, "by_modality": by_modality}


def _warnings(subsets: Subsets, contributions: Shapley, scores: Mapping[tuple[str, ...], Interval]) -> list[str]:
    found = []
    if subsets.units < 30:
        found.append(f"{subsets.units} independent units: bootstrap intervals are too narrow below about 30")
    for name, value in contributions.values.items():
        if value.low <= 0:
            found.append(f"{name} gives nothing that can be told from zero (contribution {value.mean:+.3f})")
    whole = subsets.values(subsets.modalities)
    for name in subsets.modalities:
        gain = subsets.interval(whole - subsets.values((name,)))
        if len(subsets.modalities) > 1 and not gain.low > 0:
            shown = scores[(name,)].mean
            found.append(f"all modalities together are not surely better than {name} alone ({shown:.3f})")
    return found


def _information_warnings(found: Information, support: np.ndarray | None) -> list[str]:
    """What speaks against the amounts, and what would help; ``support`` is the number of samples of each class."""
    warnings = list(found.warnings)
    if not all(pair.shared_given_target.trusted for pair in found.pairs) and support is not None:
        fewest = int(support[support > 0].min())
        if fewest < FEW_IN_CONTEXT:
            warnings.append(
                f"for an amount given the target, about {FEW_IN_CONTEXT} samples of each class are needed, and the "
                f"smallest has {fewest}: hold out more samples (data.split), or merge classes that hardly differ; "
                "until then only its order of magnitude counts"
            )
    if over_fused(found):
        warnings.append("over-fusion: modalities share information beyond the target, and none keeps a part of its own")
    for split in found.splits:
        warnings += [f"decomposition of {' and '.join(split.modalities)}: {w}" for w in split.decomposed.warnings]
    return warnings


def plain(value: Any) -> Any:
    """Return ``value`` with dataclasses, arrays and tuples as dicts and lists, NaN as None: ready for JSON.

    >>> plain({"a": np.array([1.0, np.nan]), "b": (2,)})
    {'a': [1.0, None], 'b': [2]}
    """
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


@dataclass(frozen=True)
class Split:
    """Parts of what two sources tell of the target; the second may be all other modalities together."""

    modalities: tuple[str, str]
    decomposed: Decomposed


@dataclass(frozen=True)
class Information:
    """The diagnosis of one set of features.

    Attributes:
        samples: rows used (those with all modalities present).
        pairs: every pair of modalities.
        target: modality -> I(Zm; Y); together: I(all; Y).
        unique: modality -> I(all; Y) - I(all but m; Y), what only m tells beside the others.
        splits: partial information decompositions (classification only).
        fusibility: mean over pairs of I(Z1; Z2 | Y).
        complementarity: mean over modalities of the unique parts.
        warnings: what the reader should know.
    """

    samples: int
    pairs: tuple[Pair, ...]
    target: dict[str, Amount]
    together: Amount | None
    unique: dict[str, Amount]
    splits: tuple[Split, ...]
    fusibility: float
    complementarity: float
    warnings: tuple[str, ...]


def information_diagnosis(
    features: Mapping[str, np.ndarray],
    target: np.ndarray,
    classes: int,
    estimate: Estimator,
    present: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    seed: int = 0,
    reference: Reference | None = None,
) -> Information:
    """Diagnose held-out features of two or more modalities.

    Args:
        features: modality -> (N, D_m), not used for training.
        target: (N,) class indices, or (N,) values.
        classes: number of classes, 0 for a continuous target.
        estimate: estimator of information between arrays.
        present: (N, M) bool in the order of ``features``; rows with a missing modality are left out.
        groups: (N,) or None; folds of the probes and standard errors respect them.
        seed: of folds and clusters.
        reference: samples to which the directions are fitted that a critic sees where there are too many features;
            without it they are the principal directions, which may miss what is shared.

    Raises:
        InputError: fewer than two modalities, rows disagree, or fewer than 20 complete rows.

    >>> from modalign.estimators import estimate
    >>> x, y = np.random.default_rng(0).normal(size=(300, 1)), np.arange(300) % 2
    >>> ksg = lambda *arrays, groups: estimate(*arrays, method="ksg", groups=groups)
    >>> found = information_diagnosis({"a": x + y[:, None], "b": x[::-1] - y[:, None]}, y, 2, ksg)
    >>> found.pairs[0].shared.value > found.pairs[0].shared_given_target.value
    True
    """
    given = Complete.of(features, target, classes, estimate, present, groups, seed, reference)
    names = tuple(given.z)
    warnings = []
    if len(given.y) < len(target):
        warnings.append(f"{len(target) - len(given.y)} of {len(target)} samples lack a modality and are left out")
    for name in names:
        if constant(given.z[name]):
            warnings.append(
                f"the features of {name} are the same for all samples: it tells nothing, and shares nothing"
            )
    pairs = tuple(
        Pair((a, b), shared(a, b, given), shared_given_target(a, b, given)) for a, b in itertools.combinations(names, 2)
    )
    about, together, unique = about_target(given)
    # Two modalities against each other; of more, each against all others together.
    sources = [(names[0], names[1], given.z[names[1]])]
    if len(names) > 2:
        rest = {m: np.concatenate([given.z[other] for other in names if other != m], 1) for m in names}
        sources = [(m, "the others", rest[m]) for m in names]
    splits = tuple(
        Split((m, other), decompose_features(given.z[m], second, given.y, classes, groups=given.groups, seed=seed))
        for m, other, second in (sources if classes else ())
    )
    reasons: dict[str, list[str]] = {}
    for pair in pairs:
        for amount, name in ((pair.shared, "I({};{})"), (pair.shared_given_target, "I({};{}|target)")):
            if not amount.trusted:
                why = "; ".join(amount.warnings) or "the estimator does not stand by it"
                reasons.setdefault(why, []).append(name.format(*pair.modalities))
    warnings += [f"{', '.join(said)} cannot be trusted: {why}" for why, said in reasons.items()]
    fusibility = _mean_value(pair.shared_given_target for pair in pairs)
    complementarity = _mean_value(unique.values())
    counted = len(given.y)
    return Information(counted, pairs, about, together, unique, splits, fusibility, complementarity, tuple(warnings))


def fusibility_and_complementarity(given: Complete) -> tuple[float, float]:
    """Compute these two of ``information_diagnosis``, without the time that the rest of it takes.

    >>> from modalign.estimators import estimate
    >>> a, b, y = (*np.random.default_rng(0).normal(size=(2, 300, 1)), np.arange(300) % 2)
    >>> ksg = lambda *arrays, groups: estimate(*arrays, method="ksg", groups=groups)
    >>> fusibility, unique = fusibility_and_complementarity(Complete.of({"a": a, "b": b}, y, 2, ksg))
    >>> abs(fusibility) < 0.2, abs(unique) < 0.2
    (True, True)
    """
    fusibility = _mean_value(shared_given_target(a, b, given) for a, b in itertools.combinations(given.z, 2))
    return fusibility, _mean_value(about_target(given)[2].values())


def _mean_value(amounts: Iterable[Amount]) -> float:
    return float(np.mean([amount.value for amount in amounts]))


def over_fused(information: Information) -> bool:
    """Return whether modalities share beyond the target's context while none keeps anything of its own about it.

    Shared information given the target is above zero by two standard errors for some pair, and no modality's
    unique part is.

    >>> much, none = Amount(1.0, 0.1, "plug-in", "nce3"), Amount(0.0, 0.1, "plug-in", "nce3")
    >>> pair = Pair(("a", "b"), much, much)
    >>> over_fused(Information(100, (pair,), {}, None, {"a": none, "b": none}, (), 1.0, 0.0, ()))
    True
    """
    shares = any(pair.shared_given_target.value > 2 * pair.shared_given_target.stderr > 0 for pair in information.pairs)
    own = any(amount.value > 2 * amount.stderr for amount in information.unique.values())
    return shares and not own
