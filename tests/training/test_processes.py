"""Two processes take the steps of one, for every strategy, with two and three modalities and with missing ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from modalign.data.dataset import MultimodalData
from modalign.data.info import DataInfo
from modalign.data.tables.arrays import from_arrays
from modalign.strategies import strategy_names
from modalign.training.build import build_strategy
from modalign.training.distributed import Devices
from modalign.training.own_code import Objects
from modalign.training.run import RunFolder, RunSpec
from modalign.training.train import _train

PICTURES = {"name": "resnet18", "config": {"embedding_size": 8, "hidden_sizes": [8], "depths": [1]}, "frozen": True}


def picture_data() -> MultimodalData:
    """Pictures, for a frozen encoder whose features both processes read from one file, and a vector."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    arrays = {
        "picture": rng.normal(size=(120, 1, 8, 8)) + y[:, None, None, None],
        "m0": rng.normal(size=(120, 4)),
        "y": y,
    }
    return from_arrays(arrays, ["picture", "m0"], "y", kinds={"picture": "image"})


def train_all(devices: Devices, cases: list, folder: str) -> None:
    """Train every case in the processes at hand (one launch for all: starting processes is what costs)."""
    for name, strategy, options, data, recipe in cases:
        spec = RunSpec(strategy, 0, recipe, options)
        built = build_strategy(spec, DataInfo.of(data), data.train)
        _train(devices, spec, built, Objects(), data, True, f"{folder}/{name}", True, True, None)


def test_two_processes_equal_one(small_data, small_recipe, tmp_path):
    cases = []
    for modalities, missing in ((2, 0.0), (3, 0.3)):
        data = small_data(modalities, missing)
        for strategy in strategy_names():
            recipe = small_recipe(epochs=2, batch_size=20)
            # A class with one sample in the share is its own PMR prototype: the direction between the two is rounding
            # error, and differs. With more samples there is a direction.
            options = {"share": 1.0} if strategy == "pmr" else {}
            cases.append((f"{strategy}{modalities}", strategy, options, data, recipe))
    for context in ("none", "column:site", "continuous:age", "cluster", "predicted"):
        cases.append((f"modalign-{context}", "modalign", {"context": context}, small_data(), small_recipe()))
    cases.append(("modalign-hinge", "modalign", {"margin": "both"}, small_data(3, 0.3), small_recipe()))
    recipe = small_recipe()
    recipe.model = dataclasses.replace(recipe.model, encoders={"picture": PICTURES})
    cases.append(("frozen", "joint", {}, picture_data(), recipe))
    train_all(Devices("cpu"), cases, str(tmp_path / "one"))
    Devices("cpu", 2).launch(train_all, cases, str(tmp_path / "two"))
    different = []
    for name, *_ in cases:
        one, two = (RunFolder(tmp_path / n / name).load("last")["strategy"] for n in ("one", "two"))
        for key in one:
            if not torch.allclose(one[key].double(), two[key].double(), rtol=1e-3, atol=1e-5):
                different.append((name, key, float((one[key].double() - two[key].double()).abs().max())))
    assert not different
