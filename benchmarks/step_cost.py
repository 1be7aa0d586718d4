"""Cost of one training step, and of a whole run, of every method against joint training, in one process.

Encoders: the small convolutional nets of the package, a pair of ResNet-18 size, and two to six modalities of vectors
with small perceptrons (``vectors2`` ... ``vectors6``; batch 64, where what a step does between the encoders counts
most). Methods take turns (A B C ... A B C ...), so that a machine whose speed drifts slows all alike; the median over
rounds is shown, as a ratio to joint training's. Peak memory is measured in a fresh process for each method.

``--runs N`` also times whole runs, in turn: two epochs with validation, calibration and checkpoints. Over the cases of
vectors a line gives the growth: the exponent of M in what a method adds to joint training.

    python benchmarks/step_cost.py [--strategies joint,modalign] [--rounds 15] [--runs 3] [--cases small,vectors2]
                                   [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import torch

from modalign.data.batch import Batch
from modalign.data.dataset import MultimodalData
from modalign.data.info import DataInfo
from modalign.data.tables.arrays import from_arrays
from modalign.settings import ModelSettings, Recipe, TrainingSettings
from modalign.strategies import strategy_names
from modalign.training import memory
from modalign.training.build import build_strategy
from modalign.training.distributed import Devices
from modalign.training.progress import Display
from modalign.training.run import RunFolder, RunSpec
from modalign.training.train import train
from modalign.training.trainer import Trainer

CASES: dict[str, dict[str, Any]] = {
    "small": {
        "shapes": {"audio": (32, 26), "video": (16, 1, 30, 40)},
        "kinds": {"audio": "sequence", "video": "clip"},
        "encoders": {},
        "batch": 32,
    },
    "resnet": {
        "shapes": {"audio": (1, 96, 64), "video": (3, 96, 96)},
        "kinds": {"audio": "image", "video": "image"},
        "encoders": {"audio": {"name": "resnet18"}, "video": {"name": "resnet18"}},
        "batch": 16,
    },
} | {
    f"vectors{count}": {
        "shapes": {f"m{i}": (64,) for i in range(count)},
        "kinds": {f"m{i}": "vector" for i in range(count)},
        "encoders": {},
        "batch": 64,
    }
    for count in (2, 3, 4, 6)
}


def make_data(case: str, classes: int = 8) -> MultimodalData:
    """Noise of the right shapes: cost does not depend on what the numbers say."""
    rng = np.random.default_rng(0)
    total = 6 * CASES[case]["batch"]
    arrays: dict[str, Any] = {
        m: rng.normal(size=(total, *s)).astype("float32") for m, s in CASES[case]["shapes"].items()
    }
    arrays["y"] = np.arange(total) % classes
    return from_arrays(arrays, list(CASES[case]["shapes"]), "y", kinds=CASES[case]["kinds"], name=case)


def make_trainer(case: str, strategy: str, data: MultimodalData) -> tuple[Trainer, Batch]:
    """A trainer in the middle of its budget, and one batch."""
    batch_size = CASES[case]["batch"]
    recipe = Recipe(
        model=ModelSettings(encoders=CASES[case]["encoders"]),
        training=TrainingSettings(epochs=1000, batch_size=batch_size, optimizer="sgd", lr=1e-4, accelerator="auto"),
    )
    spec = RunSpec(strategy, 0, recipe)
    devices = Devices()
    strategy = build_strategy(spec, DataInfo.of(data), data.train)
    trainer = Trainer(devices, strategy, data, spec, RunFolder("unused"), Display("", data, "", True))
    strategy.train()
    strategy.on_train_start(trainer.stepper)
    strategy.on_epoch_start(trainer.stepper)
    return trainer, data.train.__getitems__(list(range(batch_size)))


def one_step(trainer: Trainer, batch: Batch) -> float:
    """Seconds of one step: forward, backward, update."""
    if trainer.devices.device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    batch = batch.to(trainer.devices.device)
    trainer.stepper.forward_backward(batch, len(batch), len(batch))
    trainer.stepper.update("main")
    if trainer.devices.device.type == "cuda":
        torch.cuda.synchronize()
    trainer.state.step += 1
    return time.perf_counter() - begun


def one_run(case: str, strategy: str, data: MultimodalData) -> float:
    """Seconds of a whole run of two epochs."""
    recipe = Recipe(
        model=ModelSettings(encoders=CASES[case]["encoders"]),
        training=TrainingSettings(epochs=2, batch_size=CASES[case]["batch"], optimizer="sgd", lr=1e-4),
    )
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        train(recipe, strategy, data=data, out=f"{folder}/run", quiet=True)
        return time.perf_counter() - begun


def growth(results: list[dict[str, Any]], name: str) -> float | None:
    """Slope of log(ms beyond joint training's) over log M, by least squares over the cases of vectors."""
    ms = {(row["case"], row["strategy"]): row["ms"] for row in results}
    rows = [
        (int(case.removeprefix("vectors")), value - ms[case, "joint"])
        for (case, strategy), value in ms.items()
        if strategy == name and case.startswith("vectors") and value > ms[case, "joint"]
    ]
    return float(np.polyfit(*np.log(np.array(rows)).T, 1)[0]) if len(rows) > 1 else None


def peak_mb(case: str, strategy: str) -> float:
    """Peak memory in MiB of three steps above what is there before the first, in a process of its own."""

    def measure(pipe: Any) -> None:
        trainer, batch = make_trainer(case, strategy, make_data(case))
        memory.start_peak()
        before = memory.peak_mb(trainer.devices.device)
        for _ in range(3):
            one_step(trainer, batch)
        pipe.send(memory.peak_mb(trainer.devices.device) - before)

    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=measure, args=(there,))
    process.start()
    value: float = here.recv()
    process.join()
    return value


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", default=",".join(strategy_names()))
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--json")
    given = parser.parse_args()
    names = ["joint", *(n for n in given.strategies.split(",") if n != "joint")]
    torch.set_num_threads(1)
    results = []
    for case in given.cases.split(","):
        # Children are forked before this process has used its threads.
        memory = {name: peak_mb(case, name) for name in names}
        data = make_data(case)
        runs: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(given.runs):
            for name in names:
                runs[name].append(one_run(case, name, data))
        trainers = {name: make_trainer(case, name, data) for name in names}
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(given.rounds + 2):
            for name, (trainer, batch) in trainers.items():
                seconds = one_step(trainer, batch)
                if turn >= 2:  # the first two warm up
                    times[name].append(seconds)
        print(f"\n{case}: batch {CASES[case]['batch']}, {given.rounds} rounds, {torch.get_num_threads()} thread(s)")
        print(f"{'strategy':18} {'ms a step':>10} {'x joint':>8} {'peak MB':>8} {'x joint':>8}", end="")
        print(f" {'s a run':>8} {'x joint':>8}" if given.runs else "")
        for name in names:
            ratio = statistics.median(a / b for a, b in zip(times[name], times["joint"], strict=True))
            row = {
                "case": case,
                "strategy": name,
                "ms": 1000 * statistics.median(times[name]),
                "time_ratio": ratio,
                "peak_mb": memory[name],
                "memory_ratio": memory[name] / memory["joint"] if memory["joint"] else float("nan"),
            }
            shown = ""
            if given.runs:
                row["run_seconds"] = statistics.median(runs[name])
                row["run_ratio"] = statistics.median(a / b for a, b in zip(runs[name], runs["joint"], strict=True))
                shown = f" {row['run_seconds']:8.2f} {row['run_ratio']:8.3f}"
            results.append(row)
            print(f"{name:18} {row['ms']:10.1f} {ratio:8.3f} {row['peak_mb']:8.1f} {row['memory_ratio']:8.3f}{shown}")
    for name in names[1:]:
        exponent = growth(results, name)
        if exponent is not None:
            print(f"growth: {name} adds M^{exponent:.2f} to joint training")
    if given.json:
        with open(given.json, "w") as stream:
            json.dump(results, stream, indent=2)


if __name__ == "__main__":
    main()
