"""Small data in memory for tests of the engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from modalign.data.arrays import from_arrays
from modalign.data.dataset import MultimodalData
from modalign.settings import ModelSettings, Recipe, TrainingSettings


@pytest.fixture
def small_data() -> Callable[..., MultimodalData]:
    """``small_data(modalities=2, missing=0.0)``: vectors with three classes, 61 training samples (an odd number)."""

    def make(modalities: int = 2, missing: float = 0.0) -> MultimodalData:
        rng = np.random.default_rng(0)
        y = np.arange(120) % 3
        arrays: dict[str, np.ndarray] = {"y": y, "site": np.arange(120) % 4, "age": rng.normal(size=120)}
        for m in range(modalities):
            x = rng.normal(size=(3, 5 + m))[y] + rng.normal(size=(120, 5 + m))
            if m > 0:
                x[rng.random(120) < missing] = np.nan
            arrays[f"m{m}"] = x.astype(np.float32)
        arrays["split"] = np.where(np.arange(120) < 61, "train", np.where(np.arange(120) < 90, "valid", "test"))
        names = [f"m{m}" for m in range(modalities)]
        return from_arrays(arrays, names, "y", split="split", columns=["site", "age"], name="small")

    return make


@pytest.fixture
def small_recipe() -> Callable[..., Recipe]:
    """``small_recipe(**training)``: two epochs of batches of 20 on small perceptrons."""

    def make(**training: object) -> Recipe:
        settings: dict[str, object] = {"epochs": 2, "batch_size": 20, "lr": 0.05, "accelerator": "cpu"}
        return Recipe(model=ModelSettings(width=8), training=TrainingSettings(**(settings | training)))  # type: ignore[arg-type]

    return make
