"""Two processes take the steps of one, for every strategy, with two and three modalities and with missing ones."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
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
        _train(devices, spec, built, Objects(), data, True, f"{folder}/{name}", True, True, 0.0, None)


def listening(devices: Devices, folder: str) -> None:
    """Write the addresses at which this process listens, as the kernel shows them."""
    devices.barrier()
    mine = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            mine.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/self/net/{name}").read_text().splitlines()
    ]
    found = [line[1] for line in lines if line[3] == "0A" and line[9] in mine]
    Path(folder, f"{devices.rank}.txt").write_text("\n".join(found))
    devices.barrier()


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="reads what Linux shows of sockets")
@pytest.mark.slow
def test_processes_of_one_machine_listen_on_loopback_only(tmp_path):
    Devices("cpu", 2).launch(listening, str(tmp_path))
    found = [address for rank in (0, 1) for address in (tmp_path / f"{rank}.txt").read_text().split()]
    assert found  # gloo does listen
    assert {address.partition(":")[0] for address in found} == {"0100007F"}


@pytest.mark.slow
def test_two_processes_equal_one(small_data, small_recipe, tmp_path):
    cases = []
    for modalities, missing in ((2, 0.0), (3, 0.3)):
        data = small_data(modalities, missing)
        for strategy in strategy_names():
            recipe = small_recipe(epochs=2, batch_size=20)
            cases.append((f"{strategy}{modalities}", strategy, {}, data, recipe))
    for context in ("none", "column:site", "continuous:age", "cluster", "predicted"):
        cases.append((f"modalign-{context}", "modalign", {"context": context}, small_data(), small_recipe()))
    cases.append(("modalign-hinge", "modalign", {"margin": "both"}, small_data(3, 0.3), small_recipe()))
    rng = np.random.default_rng(0)
    arrays = {"m0": rng.normal(size=(120, 4)), "m1": rng.normal(size=(120, 3))}
    tags = np.where(rng.random((120, 3)) < 0.2, np.nan, arrays["m0"][:, :3] > 0)
    labels = from_arrays(arrays | {"tags": tags}, ["m0", "m1"], "tags", task="multilabel", drop_unlabelled=True)
    cases += [(f"labels-{name}", name, {}, labels, small_recipe()) for name in ("joint_unimodal", "modalign", "linear")]
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
