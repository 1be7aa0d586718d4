"""What the pull is for: modalities that tell more about each other, given the label, on samples not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modalign.data.dataset import Split
from modalign.recipes import load_recipe
from modalign.strategies.base import Strategy
from modalign.training.build import load_with_data
from modalign.training.forward import outputs
from modalign.training.train import train

DIRECTIONS = 10


@pytest.mark.slow
def test_the_pull_raises_what_modalities_share_given_the_label(tmp_path: Path) -> None:
    """A critic whose scores are large before they mean anything makes the pull erase it instead."""
    alone, pulled = (_shared_given_label(tmp_path / str(alpha), alpha) for alpha in (0.0, 1.0))
    assert pulled > 1.1 * alone > 0.1


def _shared_given_label(folder: Path, alpha: float) -> float:
    train(load_recipe("digits"), "modalign", options={"alpha": alpha}, out=folder, quiet=True)
    strategy, data, _ = load_with_data(folder)
    return canonical_information(_within_class(strategy, data.train), _within_class(strategy, data.test))


def _within_class(strategy: Strategy, split: Split) -> list[np.ndarray]:
    """Features of both modalities less their class's mean."""
    label = split.target.numpy()
    centered = []
    for z in outputs(strategy, split).features.values():
        means = np.stack([z[label == c].double().mean(0).numpy() for c in range(label.max() + 1)])
        centered.append(z.double().numpy() - means[label])
    return centered


def canonical_information(train: list[np.ndarray], test: list[np.ndarray]) -> float:
    """-1/2 sum log(1 - rho^2) over canonical directions of ``train``, with their correlations on ``test``: nats.

    The critic of the training has no part in it. Directions are sought among the largest principal components.
    """
    whiten = []
    for z in train:
        _, scale, axes = np.linalg.svd(z, full_matrices=False)
        whiten.append(axes[:DIRECTIONS].T / scale[:DIRECTIONS])
    a, b = (z @ w for z, w in zip(train, whiten, strict=True))
    left, _, right = np.linalg.svd(a.T @ b)
    a, b = (z @ w for z, w in zip(test, whiten, strict=True))
    rho = [np.corrcoef(x, y)[0, 1] for x, y in zip((a @ left).T, (b @ right.T).T, strict=True)]
    return float(-0.5 * np.log(1 - np.clip(rho, 0, 0.999) ** 2).sum())
