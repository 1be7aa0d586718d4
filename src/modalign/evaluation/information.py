"""Information diagnosis of learned features: what modalities share, what each tells of the target, what is unique.

Shared information between modalities is estimated by a critic (the caller passes the estimator). Information
about a *class* is bounded from below by a cross-validated linear probe: I(Z; Y) >= H(Y) - cross-entropy (Barber
and Agakov, The IM Algorithm, NIPS 2003), which is tighter and steadier than a pair critic where one side is a
label, and gives unique parts as paired differences with honest standard errors. Where a critic would have more features
than the samples carry, both sides are projected onto few directions first (``directions``).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from modalign.errors import InputError
from modalign.estimators.samples import FEWEST_GROUPS
from modalign.evaluation.decomposition import Decomposed, decompose_features
from modalign.evaluation.directions import affordable, canonical_directions, main_directions, target_directions
from modalign.evaluation.probe import probe


class Estimate(Protocol):
    """What an estimator returns (``modalign.estimators.estimate.Estimate`` fulfils it)."""

    @property
    def value(self) -> float: ...
    @property
    def stderr(self) -> float: ...
    @property
    def kind(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def trusted(self) -> bool: ...
    @property
    def warnings(self) -> Sequence[str]: ...


class Estimator(Protocol):
    """I(X; Y) or I(X; Y | given) in nats, samples of one group counted as one."""

    def __call__(
        self, x: np.ndarray, y: np.ndarray, given: np.ndarray | None = None, *, groups: np.ndarray | None = None
    ) -> Estimate: ...


@dataclass(frozen=True)
class Reference:
    """Samples that are not diagnosed, to which directions are fitted; all modalities are present in all of them.

    Attributes:
        features: modality -> (N, D_m).
        target: (N,) class indices, or (N,) values.
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
    """

    value: float
    stderr: float
    kind: str
    method: str
    trusted: bool = True
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two modalities: I(Z1; Z2) and I(Z1; Z2 | Y)."""

    modalities: tuple[str, str]
    shared: Amount
    shared_given_target: Amount


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
    """
    given = Complete.of(features, target, classes, estimate, present, groups, seed, reference)
    names = tuple(given.z)
    warnings = []
    if len(given.y) < len(target):
        warnings.append(f"{len(target) - len(given.y)} of {len(target)} samples lack a modality and are left out")
    for name in names:
        if _constant(given.z[name]):
            warnings.append(
                f"the features of {name} are the same for all samples: it tells nothing, and shares nothing"
            )
    pairs = tuple(
        Pair((a, b), _shared(a, b, given), _shared_given_target(a, b, given))
        for a, b in itertools.combinations(names, 2)
    )
    about, together, unique = _about(given)
    splits = tuple(_splits(given.z, given.y, classes, given.groups, seed)) if classes else ()
    return Information(
        samples=len(given.y),
        pairs=pairs,
        target=about,
        together=together,
        unique=unique,
        splits=splits,
        fusibility=_mean(pair.shared_given_target for pair in pairs),
        complementarity=_mean(unique.values()),
        warnings=(*warnings, *_doubts(pairs)),
    )


def fusibility_and_complementarity(given: Complete) -> tuple[float, float]:
    """These two of ``information_diagnosis``, without the time that the rest of it takes."""
    fusibility = _mean(_shared_given_target(a, b, given) for a, b in itertools.combinations(given.z, 2))
    return fusibility, _mean(_about(given)[2].values())


def _mean(amounts: Iterable[Amount]) -> float:
    return float(np.mean([amount.value for amount in amounts]))


@dataclass(frozen=True)
class Complete:
    """Samples that have all modalities, checked, and by what they are judged.

    Attributes:
        z: modality -> (N, D_m) of these samples.
        y: (N,) their target.
        classes, groups, seed, reference: as given, see ``information_diagnosis``.
        estimate: the estimator, with groups where there are enough, and zero for constants.
        doubts: what speaks against all that it estimates.
    """

    z: dict[str, np.ndarray]
    y: np.ndarray
    classes: int
    groups: np.ndarray | None
    estimate: Estimator
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
        """Of all samples those that can be diagnosed; arguments and errors as of ``information_diagnosis``."""
        rows = _complete_rows(features, target, present)
        z = {name: np.asarray(values, np.float64)[rows].reshape(len(rows), -1) for name, values in features.items()}
        kept = groups[rows] if groups is not None and len(groups) else None
        units = len(rows) if kept is None else len(np.unique(kept))
        few = units < FEWEST_GROUPS  # no critic can hold some out: better an estimate that says what it lacks than none
        doubts = (f"only {units} independent groups: samples are taken for independent",) if few else ()
        careful = functools.partial(_or_zero, estimate, groups=None if few else kept)
        known = _usable(reference, tuple(features))
        return cls(z, np.asarray(target)[rows], classes, kept, careful, doubts, seed, known)


def _complete_rows(features: Mapping[str, np.ndarray], target: np.ndarray, present: np.ndarray | None) -> np.ndarray:
    if len(features) < 2:
        raise InputError(f"the information diagnosis relates modalities: need two or more, got {list(features)}")
    lengths = {name: len(z) for name, z in features.items()} | {"target": len(target)}
    if len(set(lengths.values())) > 1:
        raise InputError(f"rows disagree: {lengths}")
    rows = np.arange(len(target)) if present is None else np.flatnonzero(np.asarray(present).all(1))
    if len(rows) < 20:
        raise InputError(f"{len(rows)} samples have all modalities; the diagnosis needs at least 20")
    return rows


def _usable(reference: Reference | None, names: Sequence[str]) -> Reference | None:
    """The reference as two-dimensional arrays; None where it has too few samples to fit anything to."""
    if reference is None or len(reference.target) < 20:
        return None
    rows = len(reference.target)
    flat = {m: np.asarray(reference.features[m], np.float64).reshape(rows, -1) for m in names}
    return Reference(flat, np.asarray(reference.target))


@dataclass(frozen=True)
class _Nothing:
    """What something shares with a constant."""

    value: float = 0.0
    stderr: float = 0.0
    kind: str = "exact"
    method: str = "constant"
    trusted: bool = True
    warnings: tuple[str, ...] = ()


def _or_zero(
    estimate: Estimator, x: np.ndarray, y: np.ndarray, given: np.ndarray | None = None, *, groups: np.ndarray | None
) -> Estimate:
    """``estimate``, but for constants, which estimators refuse: collapsed features share nothing with anything."""
    if _constant(x) or _constant(y):
        return _Nothing()
    return estimate(x, y, None if given is None or _constant(given) else given, groups=groups)


def _constant(values: np.ndarray) -> bool:
    return not np.ptp(values, axis=0).any()


def _shared(a: str, b: str, given: Complete) -> Amount:
    """I(Z_a; Z_b)."""
    first, second, reduced = _project(given.z[a], given.z[b], a, b, given.reference)
    return _amount(given.estimate(first, second), reduced, given.doubts)


def _shared_given_target(a: str, b: str, given: Complete) -> Amount:
    """I(Z_a; Z_b | Y)."""
    y, reference, conditions = given.y, given.reference, None
    context = y.astype(np.int64) if given.classes else y.astype(np.float64).reshape(len(y), -1)
    if reference is not None:
        known = reference.target
        conditions = np.eye(given.classes)[known] if given.classes else known.reshape(len(known), -1)
    first, second, reduced = _project(given.z[a], given.z[b], a, b, reference, conditions)
    try:
        return _amount(given.estimate(first, second, context), reduced, given.doubts)
    except InputError as error:  # a class with a single sample, say; the rest of the diagnosis still holds
        return Amount(np.nan, np.nan, "none", "none", False, (str(error),))


def _about(given: Complete) -> tuple[dict[str, Amount], Amount, dict[str, Amount]]:
    """What each modality tells of the target, what all tell together, and what only one tells."""
    if given.classes:
        return _about_class(given.z, given.y, given.classes, given.groups, given.seed)
    return _about_value(given)


@dataclass(frozen=True)
class _Reduced:
    """What is to be said of an estimate in few directions: how many of how many, and why it may mislead."""

    directions: str = ""
    doubts: tuple[str, ...] = ()


def _reduced(count: int, width: int, reference: Reference | None) -> _Reduced:
    doubts = () if reference else ("in principal directions, as no other samples are at hand: these may miss it",)
    return _Reduced(f" in {count} of {width} directions", doubts)


def _project(
    first: np.ndarray, second: np.ndarray, a: str, b: str, reference: Reference | None, given: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, _Reduced]:
    """Both sides in as many directions as the samples allow."""
    count, widths = affordable(len(first)), (first.shape[1], second.shape[1])
    if max(widths) <= count:
        return first, second, _Reduced()
    if reference is None:
        left, right = (main_directions(z, count) for z in (first, second))
    else:
        left, right = canonical_directions(reference.features[a], reference.features[b], count, given)
    return first @ left, second @ right, _reduced(left.shape[1], max(widths), reference)


def _amount(found: Estimate, reduced: _Reduced, doubts: tuple[str, ...]) -> Amount:
    return Amount(
        float(found.value),
        float(found.stderr),
        found.kind,
        found.method + reduced.directions,
        bool(found.trusted) and not reduced.doubts and not doubts,
        (*found.warnings, *reduced.doubts, *doubts),
    )


def _about_class(
    z: Mapping[str, np.ndarray], y: np.ndarray, classes: int, groups: np.ndarray | None, seed: int
) -> tuple[dict[str, Amount], Amount, dict[str, Amount]]:
    prior = np.bincount(y, minlength=classes) / len(y)
    surprise = -np.log(prior[y])
    each = np.arange(len(y))

    def gain(names: Sequence[str]) -> np.ndarray:
        """Pointwise information about the class, whose mean bounds I(Z; Y)."""
        joined = np.concatenate([z[name] for name in names], 1)
        return surprise + probe(joined, y, classes, groups, seed)[each, y]

    whole = gain(tuple(z))
    single = {name: gain([name]) for name in z}
    rest = {name: [n for n in z if n != name] for name in z}
    lack = {m: single[others[0]] if len(others) == 1 else gain(others) for m, others in rest.items()}
    bound = "lower bound"
    about = {m: _mean_amount(single[m], groups, bound) for m in z}
    unique = {m: _mean_amount(whole - lack[m], groups, "difference of lower bounds") for m in z}
    return about, _mean_amount(whole, groups, bound), unique


def _mean_amount(values: np.ndarray, groups: np.ndarray | None, kind: str) -> Amount:
    """Mean with its standard error, of groups where there are any (they, not samples, are independent)."""
    centered = values - values.mean()
    if groups is not None:
        _, member = np.unique(groups, return_inverse=True)
        centered = np.bincount(member, centered)
    units = len(centered)
    spread = np.sqrt((centered**2).sum() * units / max(units - 1, 1)) / len(values)
    doubts = () if units >= 20 else (f"only {units} independent groups: the standard error is rough",)
    return Amount(float(values.mean()), float(spread), kind, "linear probe", not doubts, doubts)


def _about_value(given: Complete) -> tuple[dict[str, Amount], Amount, dict[str, Amount]]:
    column = given.y.astype(np.float64).reshape(len(given.y), -1)
    few, reduced = _few_about_value(given.z, len(given.y), given.reference)

    def amount(names: Sequence[str], beside: Sequence[str] = ()) -> Amount:
        return _amount(given.estimate(few(names), column, few(beside) if beside else None), reduced, given.doubts)

    unique = {m: amount([m], [n for n in given.z if n != m]) for m in given.z}
    return {m: amount([m]) for m in given.z}, amount(list(given.z)), unique


def _few_about_value(
    z: Mapping[str, np.ndarray], samples: int, reference: Reference | None
) -> tuple[Callable[[Sequence[str]], np.ndarray], _Reduced]:
    """Features of some modalities in directions that tell of a continuous target."""
    count, width = max(1, affordable(samples) // 2), max(values.shape[1] for values in z.values())

    def few(names: Sequence[str]) -> np.ndarray:
        joined = np.concatenate([z[name] for name in names], 1)
        if width <= count:
            return joined
        if reference is None:
            return joined @ main_directions(joined, count)
        known = np.concatenate([reference.features[name] for name in names], 1)
        return joined @ target_directions(known, reference.target.ravel(), count)

    return few, _Reduced() if width <= count else _reduced(count, width, reference)


def _splits(
    z: Mapping[str, np.ndarray], y: np.ndarray, classes: int, groups: np.ndarray | None, seed: int
) -> list[Split]:
    """Two modalities against each other; of more, each against all others together."""
    names = list(z)
    if len(names) == 2:
        sources = [(names[0], names[1], z[names[1]])]
    else:
        rest = {m: np.concatenate([z[other] for other in names if other != m], 1) for m in names}
        sources = [(m, "the others", rest[m]) for m in names]
    return [
        Split((m, other), decompose_features(z[m], second, y, classes, groups=groups, seed=seed))
        for m, other, second in sources
    ]


def _doubts(pairs: Sequence[Pair]) -> list[str]:
    """Which estimates cannot be trusted, those with the same reason in one sentence."""
    reasons: dict[str, list[str]] = {}
    for pair in pairs:
        for amount, name in ((pair.shared, "I({};{})"), (pair.shared_given_target, "I({};{}|target)")):
            if not amount.trusted:
                why = "; ".join(amount.warnings) or "the estimator does not stand by it"
                reasons.setdefault(why, []).append(name.format(*pair.modalities))
    return [f"{', '.join(names)} cannot be trusted: {why}" for why, names in reasons.items()]


def over_fused(information: Information) -> bool:
    """Whether modalities share beyond the target's context while none keeps anything of its own about it.

    Shared information given the target is above zero by two standard errors for some pair, and no modality's
    unique part is.
    """
    shares = any(pair.shared_given_target.value > 2 * pair.shared_given_target.stderr > 0 for pair in information.pairs)
    own = any(amount.value > 2 * amount.stderr for amount in information.unique.values())
    return shares and not own
