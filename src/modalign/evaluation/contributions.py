"""What each modality gives: scores of every subset, Shapley contributions, and accuracy when one is missing.

All intervals come from one bootstrap over samples: the same resamples score every subset, so that differences
between subsets (and everything linear in them) have their own, paired intervals.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modalign.errors import DataError, InputError
from modalign.evaluation.metrics import higher_is_better, primary_metric, weighted_metrics
from modalign.evaluation.statistics import Interval, bootstrap_weights, percentile_interval
from modalign.files import read_archive, write_whole

if TYPE_CHECKING:
    from modalign.data.task import Task

# Given the modalities that are kept, the scores (N, C) of all samples with the others masked.
Predict = Callable[[tuple[str, ...]], np.ndarray]
EXACT_LIMIT = 6


class Subsets:
    """Scores of a model that is shown only some modalities, each subset evaluated once.

    Args:
        task: what is predicted.
        predict: modalities kept (in order, possibly none) -> scores (N, C).
        modalities: all names.
        target: (N,) or (N, 2).
        groups: (N,) group of each sample, or None: what the bootstrap draws.
        metric: which one; the task's first by default. Errors are negated, so that more is better.
        repeats: bootstrap resamples.
        seed: of the resampling.

    >>> from modalign.data.task import Task
    >>> y = np.arange(40) % 2
    >>> see = lambda keep: np.log(0.1 + 0.8 * (y[:, None] == np.arange(2))) if "audio" in keep else np.zeros((40, 2))
    >>> subsets = Subsets(Task("classification", ("a", "b")), see, ["audio", "video"], y, repeats=50)
    >>> float(subsets.values(["audio"])[0]), float(subsets.values(["video"])[0])
    (1.0, 0.5)
    """

    def __init__(
        self,
        task: Task,
        predict: Predict,
        modalities: Sequence[str],
        target: np.ndarray,
        groups: np.ndarray | None = None,
        metric: str | None = None,
        repeats: int = 1000,
        seed: int = 0,
    ) -> None:
        if not modalities:
            raise InputError("no modalities: give the names that predict knows")
        self.task, self.target, self.seed = task, np.asarray(target), seed
        self.modalities = tuple(modalities)
        self.metric = metric or primary_metric(task)
        self.sign = 1.0 if higher_is_better(self.metric) else -1.0
        drawn = groups if groups is not None and len(groups) else np.arange(len(self.target))
        self.units = len(np.unique(drawn))
        resamples = bootstrap_weights(len(self.target), groups, repeats, seed)
        # The first row is the sample itself, so that value and replicates come from one call.
        self.weights = np.concatenate([np.ones((1, len(self.target))), resamples])
        self._predict = predict
        self._scores: dict[tuple[str, ...], np.ndarray] = {}
        self._values: dict[tuple[str, ...], np.ndarray] = {}

    def scores(self, keep: Sequence[str]) -> np.ndarray:
        """Return scores (N, C) with only ``keep`` present."""
        key = tuple(name for name in self.modalities if name in keep)
        if key not in self._scores:
            self._scores[key] = np.asarray(self._predict(key))
        return self._scores[key]

    def evaluate(self, scores: np.ndarray) -> np.ndarray:
        """Return the value (1 + repeats,) of ``scores``: of the sample itself, then of each resample."""
        found = weighted_metrics(self.task, scores, self.target, self.weights, [self.metric])
        return self.sign * found[self.metric]

    def values(self, keep: Sequence[str]) -> np.ndarray:
        """Return ``evaluate`` of a subset."""
        key = tuple(name for name in self.modalities if name in keep)
        if key not in self._values:
            self._values[key] = self.evaluate(self.scores(key))
        return self._values[key]

    def interval(self, values: np.ndarray) -> Interval:
        """Return the interval of something that was computed on the sample (first entry) and on each resample."""
        return percentile_interval(float(values[0]), values[1:], self.units)


def subset_scores(subsets: Subsets) -> dict[tuple[str, ...], Interval]:
    """Compute the metric of every subset of modalities; of singles, all but one and all beyond six.

    >>> from modalign.data.task import Task
    >>> y = np.arange(40) % 2
    >>> see = lambda keep: np.log(0.1 + 0.8 * (y[:, None] == np.arange(2))) if "audio" in keep else np.zeros((40, 2))
    >>> subsets = Subsets(Task("classification", ("a", "b")), see, ["audio", "video"], y, repeats=50)
    >>> {" and ".join(keep): value.mean for keep, value in subset_scores(subsets).items()}
    {'': 0.5, 'audio': 1.0, 'video': 0.5, 'audio and video': 1.0}
    """
    names = subsets.modalities
    sizes = range(len(names) + 1)
    if len(names) > EXACT_LIMIT:
        sizes = sorted({0, 1, len(names) - 1, len(names)})  # type: ignore[assignment]
    chosen = [keep for size in sizes for keep in itertools.combinations(names, size)]
    return {keep: subsets.interval(subsets.sign * subsets.values(keep)) for keep in chosen}


@dataclass(frozen=True)
class Shapley:
    """How much of v(all) - v(none) is due to each modality.

    Attributes:
        values: modality -> contribution in units of the metric (errors negated), with its 95 % interval.
        total: v(all) - v(none), which the contributions sum to.
        exact: whether all subsets were evaluated; else a sample of orders was.
        orders: number of orders sampled, 0 if exact.
    """

    values: dict[str, Interval]
    total: float
    exact: bool
    orders: int


def shapley(subsets: Subsets, orders: int = 64) -> Shapley:
    """Compute Shapley contributions of the modalities.

    Exact up to six modalities, beyond from ``orders`` random orders in antithetic pairs (an order and its
    reverse); the interval then covers the choice of orders too, by resampling the pairs.

    Source: Shapley, A Value for n-Person Games, 1953; sampling by orders: Castro et al., Comput. Oper. Res. 2009.

    >>> from modalign.data.task import Task
    >>> y = np.arange(40) % 2
    >>> see = lambda keep: np.log(0.1 + 0.8 * (y[:, None] == np.arange(2))) if "audio" in keep else np.zeros((40, 2))
    >>> subsets = Subsets(Task("classification", ("a", "b")), see, ["audio", "video"], y, repeats=50)
    >>> {name: value.mean for name, value in shapley(subsets).values.items()}
    {'audio': 0.5, 'video': 0.0}
    """
    names = subsets.modalities
    total = float(subsets.values(names)[0] - subsets.values(())[0])
    m, values = len(names), {}
    if m <= EXACT_LIMIT:
        for name in names:
            gain = np.zeros(len(subsets.weights))
            for size in range(m):
                for keep in itertools.combinations([other for other in names if other != name], size):
                    gain += 1 / (m * math.comb(m - 1, size)) * (subsets.values((*keep, name)) - subsets.values(keep))
            values[name] = subsets.interval(gain)
        return Shapley(values, total, True, 0)
    pairs, rng = max(1, orders // 2), np.random.default_rng(subsets.seed)
    gains = {name: np.zeros((pairs, len(subsets.weights))) for name in names}
    for pair in range(pairs):
        order = [names[i] for i in rng.permutation(m)]
        for direction in (order, order[::-1]):
            for position, name in enumerate(direction):
                before = direction[:position]
                gains[name][pair] += 0.5 * (subsets.values([*before, name]) - subsets.values(before))
    # Each resample of the samples meets its own resample of the orders.
    drawn = bootstrap_weights(pairs, None, len(subsets.weights) - 1, subsets.seed + 1)
    weight = np.concatenate([np.ones((1, pairs)), drawn]) / pairs
    values = {name: subsets.interval((weight.T * gains[name]).sum(0)) for name in names}
    return Shapley(values, total, False, 2 * pairs)


@dataclass(frozen=True)
class MissingCurve:
    """The metric against the share of samples that lack a modality.

    Attributes:
        shares: (K,) from 0 to 1.
        curves: modality that is missing -> intervals, one a share; ``any`` where each incomplete sample
            lacks one modality drawn at random.
    """

    shares: np.ndarray
    curves: dict[str, list[Interval]]


def missing_curve(subsets: Subsets, points: int = 6, draws: int = 10) -> MissingCurve:
    """Remove modalities from a growing share of the samples and score the model as it is.

    Which samples are hit is drawn ``draws`` times and averaged. For metrics that are means over samples the
    curves are straight lines from v(all) to v(all but m), up to the noise of the draws; their slopes tell which
    modality the model leans on.

    >>> from modalign.data.task import Task
    >>> y = np.arange(40) % 2
    >>> see = lambda keep: np.log(0.1 + 0.8 * (y[:, None] == np.arange(2))) if "audio" in keep else np.zeros((40, 2))
    >>> subsets = Subsets(Task("classification", ("a", "b")), see, ["audio", "video"], y, repeats=50)
    >>> [round(value.mean, 2) for value in missing_curve(subsets, points=2).curves["audio"]]
    [1.0, 0.5]
    """
    names = subsets.modalities
    shares = np.linspace(0, 1, points)
    without = np.stack([subsets.scores([n for n in names if n != name]) for name in names])
    whole = subsets.scores(names)
    rng = np.random.default_rng(subsets.seed)
    samples = np.arange(len(whole))
    sums = {name: np.zeros((points, len(subsets.weights))) for name in ("any", *names)}
    for _ in range(draws):
        turn = rng.permutation(len(whole)) / len(whole)
        lost = {name: np.full(len(whole), i) for i, name in enumerate(names)}
        lost["any"] = rng.integers(len(names), size=len(whole))
        for name, index in lost.items():
            for k, share in enumerate(shares):
                mixed = np.where((turn < share)[:, None], without[index, samples], whole)
                sums[name][k] += subsets.sign * subsets.evaluate(mixed) / draws
    return MissingCurve(shares, {k: [subsets.interval(row) for row in v] for k, v in sums.items()})


# Frames of a clip, steps or pixels along an axis, and letters that a picture of a sample shows.
FRAMES, MOST_STEPS, MOST_LETTERS = 8, 128, 300
# Colors of a sequence span this share of its values: a few far out would leave no contrast to the others.
SPAN = (0.02, 0.98)


@dataclass(frozen=True)
class Example:
    """One sample to show.

    Attributes:
        title: what it is (id, true class).
        inputs: modality -> its values: ``sequence`` (T, F), ``image`` (C, H, W), ``clip`` (T, C, H, W),
            ``vector`` (F,), or the text itself; a modality that is missing is left out.
        notes: modality -> line below it, such as what it predicts and how surely.

    >>> Example("sample 3, true class a", {"text": "a word"}, {"text": "says a (right), 90 %"}).inputs["text"]
    'a word'
    """

    title: str
    inputs: Mapping[str, np.ndarray | str]
    notes: Mapping[str, str]


@dataclass(frozen=True)
class Extremes:
    """Where one modality is sure and another is not, in both directions.

    Attributes:
        groups: heading -> samples.
        kinds: modality -> ``vector``, ``sequence``, ``image``, ``clip`` or ``text``.

    >>> Extremes({"audio surer than text": []}, {"audio": "sequence", "text": "text"}).kinds["audio"]
    'sequence'
    """

    groups: Mapping[str, Sequence[Example]]
    kinds: Mapping[str, str]

    def save(self, path: str | Path) -> Path:
        """Write them as arrays and text, no larger than they are drawn (``.npz``, a few hundred KB)."""
        arrays: dict[str, np.ndarray] = {}
        groups: dict[str, list[dict[str, Any]]] = {}
        for heading, examples in self.groups.items():
            for one in examples:
                own: dict[str, Any] = {"title": one.title, "notes": dict(one.notes), "texts": {}, "arrays": {}}
                for m, value in one.inputs.items():
                    if isinstance(value, str):
                        own["texts"][m] = value[:MOST_LETTERS]
                    else:
                        own["arrays"][m] = name = f"input{len(arrays)}"
                        arrays[name] = _as_drawn(self.kinds[m], value)
                groups.setdefault(heading, []).append(own)
        about = np.array(json.dumps({"kinds": dict(self.kinds), "groups": groups}))
        return write_whole(path, lambda stream: np.savez_compressed(stream, about=about, **arrays))  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Extremes:
        """Return what ``save`` wrote.

        Raises:
            DataError: the file is damaged, or holds something else.
        """
        arrays = read_archive(path)
        try:
            about = json.loads(str(arrays["about"]))
            groups = {
                str(heading): [
                    Example(
                        str(one["title"]),
                        {**one["texts"], **{m: arrays[name] for m, name in one["arrays"].items()}},
                        dict(one["notes"]),
                    )
                    for one in examples
                ]
                for heading, examples in about["groups"].items()
            }
            return cls(groups, dict(about["kinds"]))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} holds no samples of an evaluation ({type(error).__name__}); evaluate the run anew"
            ) from None


def _as_drawn(kind: str, value: np.ndarray) -> np.ndarray:
    """Return an input with no more steps, frames, pixels and digits than a small picture shows."""
    value = np.nan_to_num(np.asarray(value, np.float32))
    if kind == "vector":
        return value.ravel()[: MOST_STEPS**2]
    if kind == "clip":
        value = value[np.unique(np.linspace(0, len(value) - 1, FRAMES).round().astype(int))]
    if kind == "sequence":
        low, high = np.quantile(value, SPAN)
    else:
        low, high = value.min(), value.max()
    every = [max(1, -(-size // MOST_STEPS)) for size in value.shape[-2:]]
    across, down = every if kind == "sequence" else (max(every), max(every))
    small = value[..., ::across, ::down]
    scaled: np.ndarray = np.clip((small - low) / max(high - low, 1e-12), 0, 1) * 255
    return scaled.round().astype(np.uint8)


def contrasting(evidence: np.ndarray, present: np.ndarray) -> tuple[int, int]:
    """Return the two modalities that differ most in mean confidence, the surer first.

    Args:
        evidence: (M, N, C) log-probabilities from each modality alone.
        present: (N, M) bool; a modality that no sample has is left aside.

    >>> evidence = np.log([[[0.6, 0.4]], [[0.9, 0.1]]])   # two modalities, one sample
    >>> contrasting(evidence, np.ones((1, 2), bool))
    (1, 0)
    """
    confidence = np.where(present.T, np.exp(evidence.max(2)), np.nan)
    seen = np.flatnonzero(present.any(0))
    means = np.nanmean(confidence[seen], 1)
    return int(seen[means.argmax()]), int(seen[means.argmin()])


def extreme_samples(
    evidence: np.ndarray, present: np.ndarray, first: int, second: int, count: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Find samples in which one modality is far surer than the other: indices (count,) for each direction.

    Args:
        evidence: (M, N, C) log-probabilities from each modality alone.
        present: (N, M) bool; only samples with both modalities are shown.
        first, second: positions of the two modalities.
        count: how many at each extreme.

    >>> sure, unsure = [0.9, 0.1], [0.5, 0.5]
    >>> extreme_samples(np.log([[sure, unsure], [unsure, sure]]), np.ones((2, 2), bool), 0, 1)
    (array([0]), array([1]))
    """
    confidence = np.exp(evidence.max(2))
    both = np.flatnonzero(present[:, first] & present[:, second])
    order = both[np.argsort(confidence[first, both] - confidence[second, both], kind="stable")]
    count = min(count, len(order) // 2)
    return order[len(order) - count :][::-1], order[:count]
