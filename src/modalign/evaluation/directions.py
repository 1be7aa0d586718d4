"""Few directions of many features, so that information can be estimated from the samples there are.

An estimate between 64 and 64 features needs thousands of samples. What two modalities share mostly lies in few
directions of either, and information between projections never exceeds the information between the features (the data
processing inequality): the projected value is a lower bound of the whole as far as the estimate itself is right.

The directions are canonical ones (Hotelling, Relations between Two Sets of Variates, 1936), fitted to *other* samples
than the estimate is made on: directions chosen for the correlation that some samples show overstate it there.
"""

from __future__ import annotations

import numpy as np

# Most directions, and samples per direction of both sides: a critic trains on about 0.6 of the samples and wants ten
# of those for each.
MOST, SAMPLES_PER_DIRECTION = 8, 34
# Share of the mean variance that is added to every direction: few samples make weak directions look correlated.
RIDGE = 0.1


def affordable(samples: int) -> int:
    """Number of directions of each of two sides that ``samples`` allow an estimate of, 1 to 8."""
    return int(np.clip(samples // SAMPLES_PER_DIRECTION, 1, MOST))


def canonical_directions(
    first: np.ndarray, second: np.ndarray, count: int, given: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Directions of two sets of features in which they correlate most, matrices (D1, K) and (D2, K).

    Args:
        first, second: (N, D1), (N, D2) features of the same samples.
        count: most directions; K is at most D1 and D2.
        given: (N, G): what both are regressed on first, so that the directions are those of what is shared given it.
    """
    if given is not None:
        terms = np.concatenate([np.ones((len(given), 1)), given], 1)
        first, second = (z - terms @ np.linalg.lstsq(terms, z, rcond=None)[0] for z in (first, second))
    white_1, white_2 = _whitening(first), _whitening(second)
    covariance = (first - first.mean(0)).T @ (second - second.mean(0)) / len(first)
    left, _, right = np.linalg.svd(white_1.T @ covariance @ white_2)
    k = min(count, first.shape[1], second.shape[1])
    return white_1 @ left[:, :k], white_2 @ right[:k].T


def main_directions(features: np.ndarray, count: int) -> np.ndarray:
    """The principal directions (D, K): where no other samples are at hand, as they see one side only."""
    _, _, right = np.linalg.svd(features - features.mean(0), full_matrices=False)
    directions: np.ndarray = right[:count].T
    return directions


def target_directions(features: np.ndarray, target: np.ndarray, count: int) -> np.ndarray:
    """Directions (D, K) that tell slices of a continuous target apart, with K below the number of slices.

    Sliced inverse regression (Li, Journal of the American Statistical Association 1991).
    """
    edges = np.quantile(target, np.linspace(0, 1, count + 2)[1:-1])
    slices = np.eye(count + 1)[np.searchsorted(edges, target)]
    return canonical_directions(features, slices[:, 1:], count)[0]


def _whitening(values: np.ndarray) -> np.ndarray:
    """Matrix (D, D) whose columns are uncorrelated directions of variance about one."""
    covariance = np.cov(values.T).reshape(values.shape[1], -1)
    covariance = covariance + RIDGE * max(float(np.trace(covariance)) / len(covariance), 1e-12) * np.eye(
        len(covariance)
    )
    variances, axes = np.linalg.eigh(covariance)
    white: np.ndarray = axes / np.sqrt(variances)
    return white
