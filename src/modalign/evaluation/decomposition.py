"""Partial information decomposition of I(X1, X2; Y): what two sources share, own alone, and give only together.

Source: Bertschinger, Rauh, Olbrich, Jost and Ay, Quantifying Unique Information, Entropy 2014. With q over
all distributions that agree with p on (X1, Y) and on (X2, Y):

    unique_1 = min_q I_q(X1; Y | X2)     redundant = I(X1; Y) - unique_1
    synergy = I_p(X1, X2; Y) - min_q I_q(X1, X2; Y)

The minimum is found by alternating projections (Banerjee, Rauh and Montufar, Computing the Unique
Information, ISIT 2018): I_q is the smallest divergence KL(q || r(x1, x2) p(y)) over r; r is updated to the
marginal of q, and q to the projection of r p(y) onto the constraints, by Sinkhorn scaling for each y.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import numpy as np

from modalign.errors import InputError
from modalign.evaluation.statistics import bootstrap_weights
from modalign.evaluation.target import probe

# Least number of samples per cell of the tables (x1, y) and (x2, y) for which their parts are taken seriously.
SAMPLES_PER_CELL = 4
# Tolerance and most steps where a decomposition is one of many whose spread or mean is wanted.
_ROUGH = (1e-5, 200)


@dataclass(frozen=True)
class Decomposition:
    """Parts of I(X1, X2; Y) in nats; ``redundant + unique_1 + unique_2 + synergy = total``.

    Attributes:
        redundant: what either source tells.
        unique_1, unique_2: what only that source tells.
        synergy: what only both together tell.
        total: I(X1, X2; Y).

    >>> Decomposition(redundant=0.1, unique_1=0.2, unique_2=0.0, synergy=0.3, total=0.6).synergy
    0.3
    """

    redundant: float
    unique_1: float
    unique_2: float
    synergy: float
    total: float


def decompose(p: np.ndarray, tolerance: float = 1e-6, steps: int = 2000) -> Decomposition:
    """Decompose a joint distribution.

    Args:
        p: (K1, K2, C) non-negative table of (x1, x2, y), counts or probabilities; it is normalized.
        tolerance: stop when three steps in a row change the information by less (nats).
        steps: most steps.

    Raises:
        InputError: the table is not three-dimensional, is negative, or holds nothing.

    >>> xor = np.zeros((2, 2, 2))
    >>> xor[[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]] = 1
    >>> round(decompose(xor).synergy, 3)   # one bit, which only both together tell
    0.693
    """
    p = np.asarray(p, np.float64)
    if p.ndim != 3 or (p < 0).any() or not np.isfinite(p).all() or p.sum() <= 0:
        raise InputError(f"expected a non-negative table (K1, K2, C) with a positive sum; got shape {p.shape}")
    p = p / p.sum()
    shared = min(_information(_closest(p, tolerance, steps)), total := _information(p))
    first, second = _information(p.sum(1)[:, None]), _information(p.sum(0)[None])
    unique_1, unique_2 = max(0.0, shared - second), max(0.0, shared - first)
    return Decomposition(first - unique_1, unique_1, unique_2, total - shared, total)


def _information(p: np.ndarray) -> float:
    """Compute I(X1, X2; Y) in nats of a table (K1, K2, C)."""
    outer = p.sum(2, keepdims=True) * p.sum((0, 1), keepdims=True)
    kept = p > 1e-30  # smaller ones add nothing, and their product with a marginal may underflow
    return max(0.0, float((p[kept] * np.log(p[kept] / outer[kept])).sum()))


def _closest(p: np.ndarray, tolerance: float, steps: int) -> np.ndarray:
    """Return the q with the marginals (x1, y) and (x2, y) of ``p`` and the least information about y."""
    given_1, given_2, prior = p.sum(1), p.sum(0), p.sum((0, 1))
    # Start from conditional independence given y: every cell that may be positive is.
    q = given_1[:, None] * given_2[None] / np.where(prior > 0, prior, 1)
    value, still = np.inf, 0
    column_scale = np.ones_like(given_2)
    for _ in range(steps):
        q, column_scale = _project(q.sum(2), given_1, given_2, column_scale)
        # Projections are not carried to their end, so that the value may rise a little on its way down.
        before, value = value, _information(q)
        still = still + 1 if abs(before - value) < tolerance else 0
        if still == 3:
            break
    return _project(q.sum(2), given_1, given_2, column_scale, sweeps=500)[0]


def _project(
    r: np.ndarray, given_1: np.ndarray, given_2: np.ndarray, column_scale: np.ndarray, sweeps: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """Scale ``r`` (K1, K2), for each y on its own, to the marginals (K1, C) and (K2, C).

    ``column_scale`` (K2, C) is where the last projection ended; starting from it saves most sweeps.
    """
    for _ in range(sweeps):
        rows = r @ column_scale
        row_scale = np.divide(given_1, rows, out=np.zeros_like(rows), where=rows > 0)
        columns = r.T @ row_scale
        column_scale = np.divide(given_2, columns, out=np.zeros_like(columns), where=columns > 0)
        if np.abs(row_scale * (r @ column_scale) - given_1).max() < 1e-10:
            break
    return r[:, :, None] * row_scale[:, None] * column_scale[None], column_scale


def symbols_for(samples: int, classes: int) -> int:
    """Return the number of symbols, 2 to 12, for which the tables (x1, y) and (x2, y) are filled.

    >>> symbols_for(400, 10), symbols_for(40, 10)
    (10, 2)
    """
    return int(np.clip(samples / (SAMPLES_PER_CELL * classes), 2, 12))


def discretise(features: np.ndarray, symbols: int, guide: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Cut features (N, D) into ``symbols`` clusters, codes (N,), by k-means on at most five main components.

    Args:
        features: what is cut.
        symbols: number of clusters.
        guide: (N, C) probabilities of a probe, clustered with the components. They lead where the features tell
            the class; where they tell nothing alone (an exclusive or) the guide is constant and the components
            lead, so that synergy is not lost.
        seed: of k-means.

    Source of the procedure: Liang et al., Quantifying and Modeling Multimodal Interactions, NeurIPS 2023.

    >>> discretise([[0.0], [0.1], [5.0], [5.1]], 2).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    True
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    features = np.asarray(features, np.float64).reshape(len(features), -1)
    features = features[:, np.ptp(features, axis=0) > 0]  # the deviation of a constant may be above zero by rounding
    features = (features - features.mean(0)) / features.std(0)
    if features.shape[1] == 0:
        return np.zeros(len(features), int)
    if features.shape[1] > 5:
        features = PCA(5, random_state=seed).fit_transform(features)
    # Variance 0.1 in all: probabilities of an informative probe have several times as much.
    features = features * np.sqrt(0.1 / features.var(0).sum())
    if guide is not None:
        features = np.concatenate([features, guide], 1)
    codes: np.ndarray = KMeans(symbols, n_init=4, random_state=seed).fit_predict(features)
    return codes


@dataclass(frozen=True)
class Decomposed:
    """A decomposition of data, with what is known of its error.

    Attributes:
        parts: corrected for bias (see ``decompose_features``).
        stderr: standard error of each part by name, from resampling.
        symbols: clusters per source.
        warnings: why the numbers should not be trusted; empty if nothing speaks against them.
    """

    parts: Decomposition
    stderr: dict[str, float]
    symbols: int
    warnings: tuple[str, ...]


def decompose_features(
    first: np.ndarray,
    second: np.ndarray,
    target: np.ndarray,
    classes: int,
    symbols: int | None = None,
    repeats: int = 20,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Decomposed:
    """Decompose what two sets of features tell about a class, after cutting each into symbols.

    What clusters cannot resolve is lost: all parts are of the *clustered* sources. Plug-in estimates of
    information are too high, most of all the synergy, as (x1, x2, y) has many cells. The bias is measured by
    drawing data sets of the same size from the q that has the same (x1, y) and (x2, y) and no synergy, and
    subtracted (parts do not go below zero).

    Args:
        first, second: (N, D1), (N, D2) held-out features.
        target: (N,) class indices.
        classes: number of classes.
        symbols: clusters per source; by default as many as the samples allow (``symbols_for``).
        repeats: resamples for the bias and for standard errors.
        groups: (N,) or None; the folds of the probes and the resamples respect them.
        seed: of clusters, folds and resamples.

    >>> x, y = np.random.default_rng(0).normal(size=(200, 1)), np.arange(200) % 2
    >>> found = decompose_features(5.0 * y[:, None], x, y, 2, repeats=3)   # the first tells all, the second nothing
    >>> found.parts.unique_1 > 0.5, found.parts.unique_2 < 0.1
    (True, True)
    """
    n = len(target)
    k = symbols or symbols_for(n, classes)
    guided = [(z, np.exp(probe(z, target, classes, groups, seed))) for z in (first, second)]
    x1, x2 = (discretise(z, k, guide, seed) for z, guide in guided)
    flat, shape = (x1 * k + x2) * classes + target, (k, k, classes)
    p, *tables = (
        np.bincount(flat, w, minlength=k * k * classes).reshape(shape)
        for w in (np.ones(n), *bootstrap_weights(n, groups, repeats, seed))
    )
    null = _closest(p / n, *_ROUGH)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, null.ravel() / null.sum(), size=repeats).reshape(repeats, *shape)
    bias = np.mean([astuple(decompose(q, *_ROUGH)) for q in drawn], 0) - astuple(decompose(null, *_ROUGH))
    spread = np.std([astuple(decompose(q, *_ROUGH)) for q in tables], axis=0, ddof=1)
    kept = np.maximum(0, astuple(decompose(p)) - bias)[:4]
    parts = Decomposition(*(float(part) for part in (*kept, kept.sum())))
    doubts = []
    if n < SAMPLES_PER_CELL * k * classes:
        doubts.append(f"{n} samples for {k} symbols and {classes} classes: too few for any part")
    if bias[3] > 0.1 and bias[3] > parts.synergy:
        doubts.append(f"a bias of {bias[3]:.2f} nats was taken off the synergy, more than is left of it")
    if k < classes:
        doubts.append(f"{k} symbols for {classes} classes: what finer features tell about the class is not seen")
    stderr = {part.name: float(s) for part, s in zip(fields(Decomposition), spread, strict=True)}
    return Decomposed(parts, stderr, k, tuple(doubts))
