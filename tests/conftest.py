"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from modalign.data.dataset import MultimodalData
from modalign.data.tables.arrays import from_arrays
from modalign.settings import ModelSettings, Recipe, TrainingSettings

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the real data; the test is skipped where it is absent (see docs on real data)."""
    folder = Path(os.environ.get("MODALIGN_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set MODALIGN_DATA to its folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder in which features of frozen encoders are kept: no test touches the one in the home folder."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODALIGN_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the repository."""
    return ROOT


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
    """``small_recipe(**training)``: two epochs of batches of 20 on small perceptrons, by SGD."""

    def make(**training: object) -> Recipe:
        settings: dict[str, object] = {
            "epochs": 2,
            "batch_size": 20,
            "optimizer": "sgd",
            "lr": 0.05,
            "accelerator": "cpu",
        }
        return Recipe(model=ModelSettings(width=8), training=TrainingSettings(**(settings | training)))  # type: ignore[arg-type]

    return make
