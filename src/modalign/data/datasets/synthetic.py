r"""Made data whose information is known: redundant, unique and synergistic parts of the label, any M.

Bits, all uniform on {-1, +1} and independent but for the last line:

    A           redundant: every modality sees it
    B_m         unique: modality m alone sees it
    E_m         synergistic: modality m sees its own, and the product S = E_1 ... E_M is what the label has

The label Y says A, all B_m and S, as far as their strength is not zero. With N standard normal noise,
independent everywhere, W a shared standard normal vector and rho the correlation, modality m is

    X_m = Q_m [ redundant A + N,  unique B_m + N,  synergy E_m + N,  sqrt(rho) W + sqrt(1 - rho) N,  N ]

with a random rotation Q_m, which changes no information. W says nothing of Y: dependence that is of no use.

Write i(d) = I(B; d B + N) = log 2 - E log(1 + exp(-2 d (d + N))) for what one look tells of a bit, a
one-dimensional integral, and J(d) = 2 i(d) - i(sqrt(2) d) for what two looks at one bit share. Then, in nats,

    I(X_1; X_2)     = J(redundant) - shared / 2 log(1 - rho^2)
    I(X_1; X_2 | Y) = J(synergy) [M = 2 only] - shared / 2 log(1 - rho^2)
    I(X_m; Y)       = i(redundant) + i(unique)
    I(X_1, X_2; Y)  = i(sqrt(2) redundant) + 2 i(unique) + J(synergy)                               [M = 2]

The bits of the label are independent given the data, so the best guess of Y is that of each of them. With Phi the
normal distribution function it is right with probability

    Phi(sqrt(M) redundant) * Phi(unique)^M * [1 + (2 Phi(synergy) - 1)^M] / 2

without the factor of a part whose strength is 0: that part is not in the label.

Given Y the looks at A are independent and drop out of the second line, while E_2 = S E_1 is as good as E_1:
synergy appears there as redundancy does in the first line. With M > 2 two of the E_m are independent even given S.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np

from modalign.data.dataset import MultimodalData
from modalign.data.tables.arrays import from_settings
from modalign.domains import Count, Decay, NonNegative, Range, Seed, Whole, Width, check_values
from modalign.errors import Problems
from modalign.settings import DataSettings


@dataclass(frozen=True)
class Truth:
    """Information in nats of two modalities of the synthetic data.

    Attributes:
        mutual: I(X_1; X_2).
        conditional: I(X_1; X_2 | Y).
        label_alone: I(X_m; Y) of a single modality.
        label_pair: I(X_1, X_2; Y) where these two are all modalities (M = 2), else without synergy.
        accuracy: of the Bayes classifier, which has all M modalities: no method can be better.

    >>> round(truth().conditional, 3)
    0.847
    """

    mutual: float
    conditional: float
    label_alone: float
    label_pair: float
    accuracy: float


def load(settings: DataSettings, **options: Any) -> MultimodalData:
    """Return synthetic data with modalities ``x1`` to ``x<M>``; the options are the arguments of ``generate``.

    Raises:
        InputError: an option that does not exist or is outside its range.

    >>> list(load(DataSettings(), samples=60, count=3).modalities)
    ['x1', 'x2', 'x3']
    """
    arrays = generate(**options)
    return from_settings(settings, arrays, "synthetic", [name for name in arrays if name[1:].isdigit()])


def generate(
    samples: Annotated[int, Range(least=20, most=10**7)] = 2000,
    count: Annotated[int, Range(least=1, most=10)] = 2,
    redundant: NonNegative = 1.0,
    unique: NonNegative = 1.0,
    synergy: NonNegative = 1.0,
    shared: Whole = 2,
    correlation: Decay = 0.7,
    features: Width = 16,
    missing: Decay = 0.0,
    groups: Count = 20,
    shift: NonNegative = 0.0,
    seed: Seed = 0,
) -> dict[str, np.ndarray]:
    """Arrays ``x<m>`` (N, F) float32, NaN where absent, ``y`` (N,) and what can serve as context.

    The latter are ``redundant``, ``unique<m>`` and ``synergy``, the bits behind the label, and ``group``.

    Args:
        samples: N.
        count: number of modalities M.
        redundant: strength of the part of the label that every modality sees; 0 takes it out of the label.
        unique: strength of the part that each modality sees alone.
        synergy: strength of the part that only all modalities together tell.
        shared: number of features that are correlated between modalities and say nothing of the label.
        correlation: of each of them, 0 to below 1.
        features: F of each modality; those left over are noise.
        missing: share of absences of each modality; a sample keeps at least one.
        groups: number of values of the column ``group``, drawn at random.
        shift: standard deviation of what each group adds to all features of a modality. ``truth`` knows of no shift.
        seed: of the data.

    Raises:
        InputError: an argument outside its range.

    >>> arrays = generate(samples=30, features=6)
    >>> arrays["x1"].shape, arrays["y"].shape
    ((30, 6), (30,))
    """
    check_values(generate, locals(), "data.options.")
    problems = Problems("synthetic data")
    if not max(redundant, unique, synergy):
        problems.append("redundant, unique and synergy are 0; expected one of them above: the label depends on nothing")
    if features < 3 + shared:
        problems.append(f"features is {features}; expected at least 3 + shared = {3 + shared}")
    problems.stop()
    rng = np.random.default_rng(seed)
    bits = rng.choice([-1, 1], (samples, 1 + 2 * count))
    common, own, hidden = bits[:, 0], bits[:, 1 : 1 + count], bits[:, 1 + count :]
    product = hidden.prod(1)
    latent = rng.standard_normal((samples, shared))
    arrays = {}
    for m, rotation in enumerate(rotations(count, features, rng)):
        x = rng.standard_normal((samples, features))
        x[:, 0] += redundant * common
        x[:, 1] += unique * own[:, m]
        x[:, 2] += synergy * hidden[:, m]
        noise = x[:, 3 : 3 + shared]
        x[:, 3 : 3 + shared] = sqrt(correlation) * latent + sqrt(1 - correlation) * noise
        arrays[f"x{m + 1}"] = (x @ rotation.T).astype(np.float32)
    parts = [("redundant", redundant, common)]
    parts += [(f"unique{m + 1}", unique, own[:, m]) for m in range(count)]
    parts += [("synergy", synergy, product)]
    known = [(bit > 0).astype(np.int64) for _, strength, bit in parts if strength > 0]
    arrays["y"] = np.array(sum(bit << place for place, bit in enumerate(known)))
    arrays |= {name: bit for name, _, bit in parts}
    arrays["group"] = rng.integers(groups, size=samples)
    if shift > 0:
        for m in range(count):
            moved = shift * rng.standard_normal((groups, features))[arrays["group"]]
            arrays[f"x{m + 1}"] += moved.astype(np.float32)
    gone = rng.random((samples, count)) < missing
    gone[np.arange(samples), rng.integers(count, size=samples)] &= ~gone.all(1)  # a sample keeps one
    for m in range(count):
        arrays[f"x{m + 1}"][gone[:, m]] = np.nan
    return arrays


def rotations(count: int, features: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return a random orthogonal matrix (F, F) for each modality.

    >>> bool(np.allclose((q := rotations(1, 4, np.random.default_rng(0))[0]) @ q.T, np.eye(4)))
    True
    """
    return [np.linalg.qr(rng.standard_normal((features, features)))[0] for _ in range(count)]


def truth(
    count: int = 2,
    redundant: float = 1.0,
    unique: float = 1.0,
    synergy: float = 1.0,
    shared: int = 2,
    correlation: float = 0.7,
) -> Truth:
    """Compute what is known of ``generate`` with these options (no modality missing), by the formulas of this module.

    >>> round(truth(synergy=0.0, shared=0).conditional, 9)
    0.0
    >>> round(truth(redundant=0.0, unique=0.0).accuracy, 3)  # of two classes that only synergy tells apart
    0.733
    """
    useless = -shared / 2 * log(1 - correlation**2)
    together = _common(synergy) if count == 2 else 0.0
    return Truth(
        mutual=_common(redundant) + useless,
        conditional=together + useless,
        label_alone=_look(redundant) + _look(unique),
        label_pair=_look(sqrt(2) * redundant) + 2 * _look(unique) + together,
        accuracy=(_right(sqrt(count) * redundant) if redundant > 0 else 1.0)
        * (_right(unique) ** count if unique > 0 else 1.0)
        * ((1 + (2 * _right(synergy) - 1) ** count) / 2 if synergy > 0 else 1.0),
    )


def _look(strength: float) -> float:
    """i(d): information in nats that d B + N has of a uniform bit B, by the trapezoidal rule."""
    noise = np.linspace(-12, 12, 4001)
    weights = np.exp(-(noise**2) / 2)
    loss = np.logaddexp(0, -2 * strength * (strength + noise))
    return log(2) - float(weights @ loss / weights.sum())


def _right(strength: float) -> float:
    """Phi(d): probability that the sign of d B + N is that of B."""
    return NormalDist().cdf(strength)


def _common(strength: float) -> float:
    """J(d): information in nats that two independent looks at one bit have of each other."""
    return 2 * _look(strength) - _look(sqrt(2) * strength)
