"""Information by nearest neighbors: no critic, nothing trained, an independent check on the neural estimates.

Kraskov, Stögbauer and Grassberger, "Estimating mutual information", Phys. Rev. E 69, 066138 (2004), algorithm 1;
its conditional form by Frenzel and Pompe, "Partial mutual information for coupling analysis of multivariate
time series", Phys. Rev. Lett. 99, 204101 (2007).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.special import digamma

Array = NDArray[np.float64]

TREE_FEATURES = 6
"""With more features than this a tree looks at nearly all points, and plain distances are faster."""
ROWS = 512  # of which distances are held at once
# Just less than the distance of the neighbor that set a radius: it lies on it, and rounding must not let it in.
_INSIDE = 1 - 1e-6
_NEW_ROWS = 16


def ksg_terms(x: Array, y: Array, k: int = 3) -> Array:
    """Compute local terms (N,) in nats whose mean estimates I(X;Y): Kraskov et al. (2004), algorithm 1, equation 8.

    ``x`` (N, F), ``y`` (N, G): continuous (ties break the assumption of a density), N > k. The term of a sample is
    psi(k) + psi(N) - psi(n_x + 1) - psi(n_y + 1), with n_x the number of other samples nearer in x than the k-th
    neighbor of the sample in the joint space, maximum norm.

    >>> x = np.random.default_rng(0).normal(size=(500, 1))
    >>> bool(ksg_terms(x, x[::-1]).mean() < 0.1 < 3 < ksg_terms(x, x + 0.01 * x[::-1]).mean())
    True
    """
    n_x, n_y = _counts([x, y], [(0,), (1,)], k)
    return np.asarray(digamma(k) + digamma(len(x)) - digamma(n_x + 1) - digamma(n_y + 1))


def conditional_ksg_terms(x: Array, y: Array, t: Array, k: int = 3) -> Array:
    """Compute local terms (N,) in nats whose mean estimates I(X;Y|T) for a continuous ``t`` (N, H).

    Equation 5 of Frenzel and Pompe (2007): psi(k) + psi(n_t + 1) - psi(n_xt + 1) - psi(n_yt + 1).

    >>> t, noise = np.random.default_rng(0).normal(size=(2, 500, 1))
    >>> bool(abs(conditional_ksg_terms(t + noise, t - noise[::-1], t).mean()) < 0.1)   # t explains what they share
    True
    """
    n_t, n_xt, n_yt = _counts([x, y, t], [(2,), (0, 2), (1, 2)], k)
    return np.asarray(digamma(k) + digamma(n_t + 1) - digamma(n_xt + 1) - digamma(n_yt + 1))


def ksg_log_ratios(
    known: list[Array], new: list[Array], rows: NDArray[np.int64], partners: NDArray[np.int64], k: int = 3
) -> Array:
    """Compute the log-ratio (n, m) that nearest neighbors among ``known`` samples give pairs of ``new`` ones.

    Entry (i, j) is the local term of (x[rows[i]], y[partners[i, j]], t[rows[i]]), were it added to the known samples.

    Args:
        known: x (N, F), y (N, G) and perhaps t (N, H).
        new: the same of n other samples.
        rows, partners: (n,) and (n, m) rows of ``new``.
        k: neighbors.

    >>> x = np.random.default_rng(0).normal(size=(500, 1))
    >>> own, swapped = ksg_log_ratios([x, x], [x[:50]] * 2, np.arange(50), np.c_[:50, 49:-1:-1]).T
    >>> bool(own.mean() > 2 and swapped.mean() < 1)
    True
    """
    found = []
    far_y = cdist(new[1], known[1], "chebyshev").astype(np.float32)
    for start in range(0, len(partners), _NEW_ROWS):
        here = rows[start : start + _NEW_ROWS]
        x = cdist(new[0][here], known[0], "chebyshev").astype(np.float32)[:, None]
        y = far_y[partners[start : start + _NEW_ROWS]]
        near = {"x": x, "y": y}
        if len(known) > 2:
            t = cdist(new[2][here], known[2], "chebyshev").astype(np.float32)[:, None]
            near = {"xt": np.maximum(x, t), "yt": np.maximum(y, t), "t": t}
        radius = np.partition(np.maximum(*list(near.values())[:2]), k - 1, axis=2)[:, :, k - 1 : k] * np.float32(
            _INSIDE
        )
        first, second, *rest = (digamma((distance <= radius).sum(2) + 1) for distance in near.values())
        found.append(digamma(k) + (rest[0] if rest else digamma(len(known[0]) + 1)) - first - second)
    return np.concatenate(found)


def _counts(variables: list[Array], subspaces: list[tuple[int, ...]], k: int) -> list[Array]:
    """For each subspace (which variables) the number (N,) of others nearer than the k-th neighbor in all of them."""
    if sum(v.shape[1] for v in variables) <= TREE_FEATURES:
        joint = np.hstack(variables)
        radius = _INSIDE * np.asarray(cKDTree(joint).query(joint, k=[k + 1], p=np.inf)[0])[:, 0]
        spaces = [np.hstack([variables[v] for v in subspace]) for subspace in subspaces]
        found = [cKDTree(s).query_ball_point(s, radius, p=np.inf, return_length=True) for s in spaces]
        return [np.asarray(within, dtype=np.float64) - 1 for within in found]
    blocks = []
    for start in range(0, len(variables[0]), ROWS):
        near = [cdist(v[start : start + ROWS], v, "chebyshev") for v in variables]
        radius = _INSIDE * np.partition(np.maximum.reduce(near), k, axis=1)[:, k, None]
        blocks.append([(np.maximum.reduce([near[v] for v in s]) <= radius).sum(1) - 1.0 for s in subspaces])
    return [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
