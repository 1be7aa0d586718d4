"""One small modality of each kind, and inputs for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modalign.data.batch import Batch, Modality

MODALITIES = {
    "vector": Modality("vector", "vector", (7,)),
    "sequence": Modality("sequence", "sequence", (9, 5)),
    "image": Modality("image", "image", (3, 20, 24)),
    "clip": Modality("clip", "clip", (4, 1, 18, 20)),
    "text": Modality("text", "text", (6,), vocabulary=30, padding=2),
}


@pytest.fixture
def modalities() -> dict[str, Modality]:
    """One modality of each kind, named by its kind."""
    return dict(MODALITIES)


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    """Random input (B, *shape) of a modality; texts end in some padding."""

    def make(modality: Modality, size: int = 5) -> Tensor:
        if modality.kind != "text":
            return torch.randn(size, *modality.shape)
        ids = torch.randint(3, modality.vocabulary, (size, *modality.shape))
        ids[0, modality.shape[0] // 2 :] = modality.padding
        return ids

    return make


@pytest.fixture
def make_batch(draw: Callable[..., Tensor]) -> Callable[..., Batch]:
    """A batch of the given modalities, everything present unless a mask is given."""

    def make(modalities: dict[str, Modality], size: int = 5, present: Tensor | None = None) -> Batch:
        if present is None:
            present = torch.ones(size, len(modalities), dtype=torch.bool)
        inputs = {name: draw(modality, size) for name, modality in modalities.items()}
        for m, name in enumerate(inputs):
            inputs[name][~present[:, m]] = 0
        return Batch(inputs, present, torch.arange(size) % 3, torch.arange(size))

    return make
