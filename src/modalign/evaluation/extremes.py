"""Samples in which one modality is far surer than another: what the numbers by context look like from near."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Example:
    """One sample to show.

    Attributes:
        title: what it is (id, true class).
        inputs: modality -> its values: ``sequence`` (T, F), ``image`` (C, H, W), ``clip`` (T, C, H, W),
            ``vector`` (F,), or the text itself; a modality that is missing is left out.
        notes: modality -> line below it, such as what it predicts and how surely.
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
    """

    groups: Mapping[str, Sequence[Example]]
    kinds: Mapping[str, str]


def contrasting(evidence: np.ndarray, present: np.ndarray) -> tuple[int, int]:
    """The two modalities that differ most in mean confidence, the surer first.

    Args:
        evidence: (M, N, C) log-probabilities from each modality alone.
        present: (N, M) bool; a modality that no sample has is left aside.
    """
    confidence = np.where(present.T, np.exp(evidence.max(2)), np.nan)
    seen = np.flatnonzero(present.any(0))
    means = np.nanmean(confidence[seen], 1)
    return int(seen[means.argmax()]), int(seen[means.argmin()])


def extreme_samples(
    evidence: np.ndarray, present: np.ndarray, first: int, second: int, count: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Samples in which one modality is far surer than the other: indices (count,) for each direction.

    Args:
        evidence: (M, N, C) log-probabilities from each modality alone.
        present: (N, M) bool; only samples with both modalities are shown.
        first, second: positions of the two modalities.
        count: how many at each extreme.
    """
    confidence = np.exp(evidence.max(2))
    both = np.flatnonzero(present[:, first] & present[:, second])
    order = both[np.argsort(confidence[first, both] - confidence[second, both], kind="stable")]
    count = min(count, len(order) // 2)
    return order[len(order) - count :][::-1], order[:count]
