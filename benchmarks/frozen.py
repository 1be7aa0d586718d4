"""Seconds of an epoch of training on a frozen encoder, with its features cached and without, in one run.

Made pictures and vectors, a ResNet-18 with random frozen weights on the pictures, joint training. The two ways take
turns (A B A B ...), so that a machine whose speed drifts slows both alike; the median over rounds is shown. An epoch
is training and validation, without the writing of checkpoints. The cached way computes its features once before; what
that takes is shown beside.

    python benchmarks/frozen.py [--samples 256] [--size 64] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from modalign.data.dataset import MultimodalData
from modalign.data.info import DataInfo
from modalign.data.tables.arrays import from_arrays
from modalign.settings import ModelSettings, Recipe, TrainingSettings
from modalign.training.build import build_strategy
from modalign.training.distributed import Devices
from modalign.training.feature_cache import with_cached_features
from modalign.training.progress import Display
from modalign.training.run import RunFolder, RunSpec
from modalign.training.trainer import Trainer


def make_data(samples: int, size: int) -> MultimodalData:
    """Noise of the right shapes: cost does not depend on what the numbers say."""
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.integers(0, 256, (samples, 3, size, size), np.uint8),
        "vector": rng.normal(size=(samples, 32)).astype(np.float32),
        "y": np.arange(samples) % 8,
    }
    return from_arrays(arrays, ["image", "vector"], "y", kinds={"image": "image"}, name="frozen")


def make_spec(rounds: int) -> RunSpec:
    """Joint training with a frozen ResNet-18 on the pictures."""
    encoders = {"image": {"name": "resnet18", "frozen": True}}
    return RunSpec(
        "joint",
        0,
        Recipe(
            model=ModelSettings(encoders=encoders), training=TrainingSettings(epochs=rounds, optimizer="sgd", lr=0.02)
        ),
    )


def make_trainer(spec: RunSpec, data: MultimodalData, folder: Path, cached: bool) -> tuple[Trainer, float]:
    """A trainer of one epoch at a time, and the seconds that its features took."""
    devices = Devices()
    display = Display("", data, "", quiet=True)
    strategy = build_strategy(spec, DataInfo.of(data), data.train)
    run = RunFolder(folder)
    run.create(spec, [], data.fingerprint, {})
    begun = time.perf_counter()
    if cached:
        data = with_cached_features(strategy.model, data, spec.recipe.training, devices.device, display)
    seconds = time.perf_counter() - begun
    return Trainer(devices, strategy, data, spec, run, display), seconds


def one_epoch(trainer: Trainer) -> float:
    """Seconds of one epoch more, training and validation, as the log has them."""
    before = trainer.run.metrics()
    trainer.settings.epochs = trainer.stepper.epochs = len(before) + 1
    trainer.fit()
    spent = [record["seconds"] for record in [{"seconds": 0.0}, *trainer.run.metrics()]]
    return float(spent[-1] - spent[-2])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    spec = make_spec(given.rounds + 1)
    data = make_data(given.samples, given.size)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MODALIGN_CACHE"] = f"{folder}/cache"
        made = {cached: make_trainer(spec, data, Path(folder) / str(cached), cached) for cached in (False, True)}
        times: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(given.rounds + 1):
            for cached, (trainer, _) in made.items():
                seconds = one_epoch(trainer)
                if turn > 0:  # the first warms up
                    times[cached].append(seconds)
    result = {
        "samples": given.samples,
        "size": given.size,
        "features_seconds": made[True][1],
        "epoch_seconds": statistics.median(times[False]),
        "cached_epoch_seconds": statistics.median(times[True]),
        "ratio": statistics.median(a / b for a, b in zip(times[False], times[True], strict=True)),
    }
    print(f"{given.samples} pictures of {given.size} x {given.size}, ResNet-18, {torch.get_num_threads()} thread(s)")
    print(f"without cache  {result['epoch_seconds']:8.3f} s an epoch")
    print(f"with cache     {result['cached_epoch_seconds']:8.3f} s an epoch, {result['ratio']:.1f} times as fast")
    print(f"               {result['features_seconds']:8.3f} s once, for the features of all three splits")
    if given.json:
        Path(given.json).write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
