"""Which samples are shown: those in which one modality is sure and the other is not."""

from __future__ import annotations

import numpy as np

from modalign.evaluation.contributions import contrasting, extreme_samples


def test_extreme_samples() -> None:
    confidence = np.array([[0.9, 0.6, 0.5, 0.99], [0.5, 0.6, 0.9, 0.5]])
    evidence = np.log(np.stack([confidence, 1 - confidence], 2))
    present = np.ones((4, 2), bool)
    present[3, 1] = False
    first, second = extreme_samples(evidence, present, 0, 1, count=1)
    assert first.tolist() == [0]
    assert second.tolist() == [2]


def test_contrast_is_between_the_surest_and_the_least_sure() -> None:
    confidence = np.array([[0.6, 0.6], [0.9, 0.55], [0.7, 0.8]])
    evidence = np.log(np.stack([confidence, 1 - confidence], 2))
    assert contrasting(evidence, np.ones((2, 3), bool)) == (2, 0)
    present = np.array([[True, True, False], [True, False, False]])
    assert contrasting(evidence, present) == (1, 0)
