"""What pairs of modalities share, given the target or not: samples, estimator and few directions of many features.

An estimate between 64 and 64 features needs thousands of samples. What two modalities share mostly lies in few
directions of either, and information between projections never exceeds the information between the features (the data
processing inequality): the projected value is a lower bound of the whole as far as the estimate itself is right.

The directions are canonical ones (Hotelling, Relations between Two Sets of Variates, 1936), fitted to *other* samples
than the estimate is made on: directions chosen for the correlation that some samples show overstate it there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from modalign.errors import InputError
from modalign.estimators.samples import FEWEST_GROUPS
from modalign.estimators.transforms import Canonical

# Most directions, and samples per direction of both sides: a critic trains on about 0.6 of the samples and wants ten
# of those for each.
MOST, SAMPLES_PER_DIRECTION = 8, 34
# Share of the mean variance that is added to every direction: few samples make weak directions look correlated.
RIDGE = 0.1


# I(X; Y) or I(X; Y | given) in nats as ``estimator(x, y[, given], groups=...)``, samples of one group counted as one:
# what it returns has the attributes of ``Amount`` (``modalign.estimators.Estimate`` does).
Estimator = Callable[..., Any]


@dataclass(frozen=True)
class Reference:
    """Samples that are not diagnosed, to which directions are fitted; all modalities are present in all of them.

    Attributes:
        features: modality -> (N, D_m).
        target: (N,) class indices, or (N,) values.

    >>> Reference({"a": np.zeros((30, 2))}, np.zeros(30)).features["a"].shape
    (30, 2)
    """

    features: Mapping[str, np.ndarray]
    target: np.ndarray


@dataclass(frozen=True)
class Amount:
    """An amount of information in nats.

    Attributes:
        value, stderr: estimate and its standard error.
        kind: what kind of number it is (lower bound, plug-in, difference of bounds).
        method: how it was found, and in how many directions of the features where not in all.
        trusted: whether the estimator stands by it; warnings: why not.

    >>> Amount(0.5, 0.02, "lower bound", "linear probe").trusted
    True
    """

    value: float
    stderr: float
    kind: str
    method: str
    trusted: bool = True
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two modalities: I(Z1; Z2) and I(Z1; Z2 | Y).

    >>> much, none = Amount(1.0, 0.1, "plug-in", "nce3"), Amount(0.0, 0.1, "plug-in", "nce3")
    >>> Pair(("audio", "video"), shared=much, shared_given_target=none).shared.value
    1.0
    """

    modalities: tuple[str, str]
    shared: Amount
    shared_given_target: Amount


@dataclass(frozen=True)
class Complete:
    """Samples that have all modalities, checked, and by what they are judged.

    Attributes:
        z: modality -> (N, D_m) of these samples.
        y: (N,) their target.
        classes, groups, seed, reference: as given, see ``information_diagnosis``.
        estimator: of information between arrays.
        doubts: what speaks against all that it estimates.

    >>> x, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    >>> present = np.ones((40, 2), bool)
    >>> present[:5, 0] = False
    >>> Complete.of({"a": x, "b": x}, y, 2, lambda x, y, given=None, *, groups: None, present).z["a"].shape
    (35, 2)
    """

    z: dict[str, np.ndarray]
    y: np.ndarray
    classes: int
    groups: np.ndarray | None
    estimator: Estimator
    doubts: tuple[str, ...]
    seed: int
    reference: Reference | None

    @classmethod
    def of(
        cls,
        features: Mapping[str, np.ndarray],
        target: np.ndarray,
        classes: int,
        estimate: Estimator,
        present: np.ndarray | None = None,
        groups: np.ndarray | None = None,
        seed: int = 0,
        reference: Reference | None = None,
    ) -> Complete:
        """Return those samples that can be diagnosed; arguments and errors as of ``information_diagnosis``."""
        if len(features) < 2:
            raise InputError(f"the information diagnosis relates modalities: need two or more, got {list(features)}")
        lengths = {name: len(z) for name, z in features.items()} | {"target": len(target)}
        if len(set(lengths.values())) > 1:
            raise InputError(f"rows disagree: {lengths}")
        rows = np.arange(len(target)) if present is None else np.flatnonzero(np.asarray(present).all(1))
        if len(rows) < 20:
            raise InputError(f"{len(rows)} samples have all modalities; the diagnosis needs at least 20")
        z = {name: np.asarray(values, np.float64)[rows].reshape(len(rows), -1) for name, values in features.items()}
        kept = groups[rows] if groups is not None and len(groups) else None
        units = len(rows) if kept is None else len(np.unique(kept))
        few = units < FEWEST_GROUPS  # no critic can hold some out: better an estimate that says what it lacks than none
        doubts = (f"only {units} independent groups: samples are taken for independent",) if few else ()
        if reference is not None and len(reference.target) < 20:
            reference = None  # too few samples to fit anything to
        if reference is not None:
            n, label = len(reference.target), np.asarray(reference.target)
            reference = Reference({m: np.asarray(reference.features[m], np.float64).reshape(n, -1) for m in z}, label)
        return cls(z, np.asarray(target)[rows], classes, kept, estimate, doubts, seed, reference)

    def estimate(self, x: np.ndarray, y: np.ndarray, given: np.ndarray | None = None) -> Any:
        """Estimate I(X; Y) or I(X; Y | given), with groups where there are enough; constants share nothing."""
        if constant(x) or constant(y):
            return Amount(0.0, 0.0, "exact", "constant")
        given = None if given is None or constant(given) else given
        return self.estimator(x, y, given, groups=None if self.doubts else self.groups)


def constant(values: np.ndarray) -> bool:
    """Return whether all rows of ``values`` (N, D) are the same.

    >>> constant(np.ones((3, 2))), constant(np.eye(2))
    (True, False)
    """
    return not np.ptp(values, axis=0).any()


def shared(a: str, b: str, given: Complete) -> Amount:
    """Estimate I(Z_a; Z_b) in nats.

    >>> from modalign.estimators import estimate
    >>> x = np.random.default_rng(0).normal(size=(300, 1))
    >>> ksg = lambda *arrays, groups: estimate(*arrays, method="ksg", groups=groups)
    >>> given = Complete.of({"a": x, "b": x + 0.1 * x[::-1]}, np.arange(300) % 2, 2, ksg)
    >>> shared("a", "b", given).value > 1
    True
    """
    first, second, kept = _project(given.z[a], given.z[b], a, b, given.reference)
    return as_amount(given.estimate(first, second), given, kept)


def shared_given_target(a: str, b: str, given: Complete) -> Amount:
    """Estimate I(Z_a; Z_b | Y) in nats.

    >>> from modalign.estimators import estimate
    >>> x, y = np.random.default_rng(0).normal(size=(300, 1)), np.arange(300) % 2
    >>> ksg = lambda *arrays, groups: estimate(*arrays, method="ksg", groups=groups)
    >>> given = Complete.of({"a": x + 9 * y[:, None], "b": x[::-1] + 9 * y[:, None]}, y, 2, ksg)   # the class alone
    >>> abs(shared_given_target("a", "b", given).value) < 0.2
    True
    """
    y, reference, conditions = given.y, given.reference, None
    context = y.astype(np.int64) if given.classes else y.astype(np.float64).reshape(len(y), -1)
    if reference is not None:
        known = reference.target
        conditions = np.eye(given.classes)[known] if given.classes else known.reshape(len(known), -1)
    first, second, kept = _project(given.z[a], given.z[b], a, b, reference, conditions)
    try:
        return as_amount(given.estimate(first, second, context), given, kept)
    except InputError as error:  # a class with a single sample, say; the rest of the diagnosis still holds
        return Amount(np.nan, np.nan, "none", "none", False, (str(error),))


def _project(
    first: np.ndarray, second: np.ndarray, a: str, b: str, reference: Reference | None, given: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[int, int] | None]:
    """Return both sides in as many directions as the samples allow."""
    count, widths = affordable(len(first)), (first.shape[1], second.shape[1])
    if max(widths) <= count:
        return first, second, None
    if reference is None:
        left, right = (main_directions(z, count) for z in (first, second))
    else:
        left, right = canonical_directions(reference.features[a], reference.features[b], count, given)
    return first @ left, second @ right, (left.shape[1], max(widths))


def as_amount(found: Any, given: Complete, kept: tuple[int, int] | None = None) -> Amount:
    """Return an estimate with what speaks against it.

    Args:
        found: the estimate.
        given: the samples it was made on.
        kept: how many of how many directions it was made in; None for all.
    """
    doubts, method = given.doubts, found.method
    if kept:
        method += f" in {kept[0]} of {kept[1]} directions"
        if given.reference is None:
            doubts = ("in principal directions, as no other samples are at hand: these may miss it", *doubts)
    trusted = bool(found.trusted) and not doubts
    return Amount(float(found.value), float(found.stderr), found.kind, method, trusted, (*found.warnings, *doubts))


def affordable(samples: int) -> int:
    """Return the number of directions of each of two sides that ``samples`` allow an estimate of, 1 to 8.

    >>> affordable(60), affordable(200), affordable(10_000)
    (1, 5, 8)
    """
    return int(np.clip(samples // SAMPLES_PER_DIRECTION, 1, MOST))


def canonical_directions(
    first: np.ndarray, second: np.ndarray, count: int, given: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find directions of two sets of features in which they correlate most, matrices (D1, K) and (D2, K).

    Args:
        first: (N, D1) features.
        second: (N, D2) features of the same samples.
        count: most directions; K is at most D1 and D2.
        given: (N, G): what both are regressed on first, so that the directions are those of what is shared given it.

    >>> x = np.random.default_rng(0).normal(size=(200, 5))
    >>> [directions.shape for directions in canonical_directions(x, x[:, :3], 2)]
    [(5, 2), (3, 2)]
    """
    if given is not None:
        terms = np.concatenate([np.ones((len(given), 1)), given], 1)
        first, second = (z - terms @ np.linalg.lstsq(terms, z, rcond=None)[0] for z in (first, second))
    found, k = Canonical(first, second, RIDGE), min(count, first.shape[1], second.shape[1])
    return found.left[:, :k], found.right[:, :k]


def main_directions(features: np.ndarray, count: int) -> np.ndarray:
    """Return the principal directions (D, K): where no other samples are at hand, as they see one side only.

    >>> main_directions(np.random.default_rng(0).normal(size=(50, 6)), 2).shape
    (6, 2)
    """
    _, _, right = np.linalg.svd(features - features.mean(0), full_matrices=False)
    directions: np.ndarray = right[:count].T
    return directions
