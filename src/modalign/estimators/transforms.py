"""Coordinates in which information is easier to see: invertible given T, so that they leave I(X;Y|T) unchanged.

1. Remove what T says: mean and scale of each context, or a regression on a continuous T.
2. Normal scores: each feature through its cumulative distribution to a standard normal one.
3. Canonical coordinates: rotate both sides so that the k-th coordinates correlate with each other and no others, all
   contexts alike or each by itself, which makes of a dependence that turns with T one that does not.

All are fitted to training samples. In these coordinates a Gaussian copula is K scalar correlations.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import ndtri

from modalign.estimators.samples import Array, Codes

POOLED = 20.0
"""Weight, in samples, of the distribution over all contexts beside that of the one context."""


class NormalScores:
    """Features (N, F) to standard normal ones, context by context; contexts with few samples borrow from all.

    >>> values, nowhere = np.arange(5.0)[:, None] ** 3, np.zeros(5, int)
    >>> NormalScores(values, nowhere)(values, nowhere).round(2).ravel()
    array([-1.28, -0.52,  0.  ,  0.52,  1.28])
    """

    def __init__(self, values: Array, codes: Codes) -> None:
        parts = [values[codes == c] for c in range(codes.max() + 1)]
        self.mean = np.stack([p.mean(axis=0) if len(p) else values.mean(axis=0) for p in parts])
        scale = np.stack([p.std(axis=0) if len(p) > 1 else values.std(axis=0) for p in parts])
        self.scale = np.where(scale > 1e-12, scale, 1.0)  # 1 where a feature is constant
        scaled = (values - self.mean[codes]) / self.scale[codes]
        self.everything = np.sort(scaled, axis=0)
        self.each = [np.sort(scaled[codes == c], axis=0) for c in range(len(self.mean))]

    def __call__(self, values: Array, codes: Codes) -> Array:
        """Map (N, F) to (N, F); values beyond the fitted ones are taken as the outermost of these."""
        scaled = (values - self.mean[codes]) / self.scale[codes]
        result = np.empty_like(scaled)
        for context, known in enumerate(self.each):
            rows = np.flatnonzero(codes == context)
            n = len(known)
            for j in range(scaled.shape[1]):
                v = scaled[rows, j]
                share = n * _cdf(known[:, j], v) + POOLED * _cdf(self.everything[:, j], v)
                result[rows, j] = ndtri(share / (n + POOLED))
        return result


class Residual:
    """What is left of features (N, F) once regressed on a continuous T: least squares, then neighbors in T.

    >>> t = np.linspace(0, 1, 50)[:, None]
    >>> bool(abs(Residual(3 * t + 1, t)(3 * t + 1, t)).max() < 1e-9)
    True
    """

    def __init__(self, values: Array, t: Array) -> None:
        self.k = min(20, len(t) - 1)  # neighbors
        terms = np.c_[np.ones(len(t)), t]
        self.linear = np.linalg.lstsq(terms, values, rcond=None)[0]
        self.left = values - terms @ self.linear
        self.tree = cKDTree(t)

    def __call__(self, values: Array, t: Array, fitted: bool = False) -> Array:
        """Map (N, F) to (N, F). ``fitted``: these are the samples of the fit, which must not predict themselves."""
        near = np.asarray(self.tree.query(t, k=self.k + fitted)[1]).reshape(len(t), -1)
        near = near[:, 1:] if fitted else near
        residual: Array = values - np.c_[np.ones(len(t)), t] @ self.linear - self.left[near].mean(axis=1)
        return residual


class Canonical:
    """Canonical correlation analysis (Hotelling 1936) of x (N, F) and y (N, G).

    Args:
        x: (N, F) features of one side.
        y: (N, G) features of the other.
        ridge: share of the mean variance that is added to every direction: few samples make weak ones look correlated.

    Attributes:
        left: (F, F) directions of x, uncorrelated, of variance about one, the most correlated first.
        right: (G, G) the same of y.
        correlations: (min(F, G),) corrected for the number of features, so that noise gives about 0.

    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> Canonical(x, x[:, ::-1]).correlations.round(2)
    array([1., 1., 1.])
    """

    def __init__(self, x: Array, y: Array, ridge: float = 1e-3) -> None:
        self.means = x.mean(axis=0), y.mean(axis=0)
        white_x, white_y = _whitening(x, ridge), _whitening(y, ridge)
        covariance = (x - self.means[0]).T @ (y - self.means[1]) / len(x)
        left, correlations, right = np.linalg.svd(white_x.T @ covariance @ white_y)
        self.left, self.right = white_x @ left, white_y @ right.T
        free = max(len(x) - x.shape[1] - y.shape[1], 1)
        self.correlations = np.sqrt(np.clip(1 - (1 - correlations**2) * len(x) / free, 0, 0.99999))

    def __call__(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return both sides in canonical coordinates, of the same shapes."""
        return (x - self.means[0]) @ self.left, (y - self.means[1]) @ self.right


class CanonicalByContext:
    """Canonical coordinates of x (N, F) and y (N, G), one rotation for all contexts or, with ``own``, one for each.

    A context with fewer than twice as many samples as features in all keeps the common rotation.

    Attributes:
        correlations: (contexts, min(F, G)).

    >>> x, codes = np.random.default_rng(0).normal(size=(500, 2)), np.arange(500) % 2
    >>> y = np.where(codes[:, None] == 1, x, -x)     # the sign turns with the context
    >>> [CanonicalByContext(x, y, codes, 2, own).correlations.min().round(1).item() for own in (False, True)]
    [0.0, 1.0]
    """

    def __init__(self, x: Array, y: Array, codes: Codes, contexts: int, own: bool = False) -> None:
        common, enough = Canonical(x, y), 2 * (x.shape[1] + y.shape[1])
        counts = np.bincount(codes, minlength=contexts)
        self.each = [
            Canonical(x[codes == c], y[codes == c]) if own and n >= enough else common for c, n in enumerate(counts)
        ]
        self.correlations = np.stack([fit.correlations for fit in self.each])

    def __call__(self, x: Array, y: Array, codes: Codes) -> tuple[Array, Array]:
        """Return both sides in the coordinates of their contexts, of the same shapes."""
        left, right = np.empty_like(x), np.empty_like(y)
        for c, fit in enumerate(self.each):
            rows = codes == c
            left[rows], right[rows] = fit(x[rows], y[rows])
        return left, right


def _whitening(values: Array, ridge: float) -> Array:
    """Return a matrix (F, F) whose columns are uncorrelated directions of variance about one."""
    covariance = np.atleast_2d(np.cov(values.T))
    covariance += ridge * max(float(np.trace(covariance)) / len(covariance), 1e-12) * np.eye(len(covariance))
    variances, axes = np.linalg.eigh(covariance)
    white: Array = axes / np.sqrt(variances)
    return white


def cells(t: Array, size: int, random: np.random.Generator) -> Codes:
    """Return the cell (N,) of each row of T (N, H): halves at random angles until none has more than ``size`` rows.

    Cells make discrete contexts of a continuous T: within one T is nearly constant. A random projection tree
    (Dasgupta and Freund, STOC 2008), with cuts that differ at every call.

    >>> bool(np.bincount(cells(np.arange(64.0)[:, None], 16, np.random.default_rng(0))).max() <= 16)
    True
    """
    codes = np.zeros(len(t), dtype=np.int64)
    open_cells, closed = [np.arange(len(t))], 0
    while open_cells:
        rows = open_cells.pop()
        if len(rows) <= size:
            codes[rows] = closed
            closed += 1
            continue
        along = rows[np.argsort(t[rows] @ random.normal(size=t.shape[1]), kind="stable")]
        cut = int(len(along) * random.uniform(0.35, 0.65))
        open_cells += [along[:cut], along[cut:]]
    return codes


def _cdf(known: Array, values: Array) -> Array:
    """Return the share of the sorted ``known`` below each value, interpolated, ties at their middle, never 0 or 1."""
    n = len(known)
    if n == 0:
        return np.full(len(values), 0.5)
    distinct, first, counts = np.unique(known, return_index=True, return_counts=True)
    return np.interp(values, distinct, (first + counts / 2) / n)
