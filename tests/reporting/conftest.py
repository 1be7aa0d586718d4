"""Run folders as training writes them, with invented but consistent numbers."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from modalign.data.task import classification
from modalign.evaluation.diagnosis import evaluate_model

TITLES = {"joint": "Joint-Train", "infonce": "InfoNCE", "ogm_ge": "OGM-GE", "modalign": "ModAlign"}
SKILL = {"joint": 1.2, "infonce": 1.3, "ogm_ge": 1.25, "modalign": 1.8}


def softmax_log(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def write_run(
    folder: Path,
    strategy: str = "modalign",
    seed: int = 0,
    dataset: str = "letters",
    accuracy: float | None = None,
    classes: int = 6,
    samples: int = 180,
    epochs: int = 12,
    **result: object,
) -> Path:
    """A finished run. ``accuracy`` fixes the number in result.json; keywords override its entries."""
    rng = np.random.default_rng(1000 * seed + sum(map(ord, strategy)))
    folder.mkdir(parents=True)
    skill = SKILL.get(strategy, 1.0)
    target = np.arange(samples) % classes
    truth = np.eye(classes)[target]
    unimodal = softmax_log(
        np.stack([truth * s * skill for s in (1.6, 0.7)]) + rng.normal(size=(2, samples, classes)) * 0.9
    )
    joint = softmax_log(unimodal.sum(0) + rng.normal(size=(samples, classes)) * 0.3)
    arrays = {
        "ids": np.array([f"sample{i:04d}" for i in range(samples)]),
        "target": target,
        "scores": joint,
        "joint": joint,
        "unimodal": unimodal,
        "present": np.ones((samples, 2), bool),
        "groups": np.array([f"speaker{i % 9}" for i in range(samples)]),
        "classes": np.array([f"class {chr(97 + c)}" for c in range(classes)]),
        "modalities": np.array(["audio", "video"]),
    }
    for split in ("valid", "test"):
        np.savez(folder / f"predictions_{split}.npz", **arrays)
    reached = float((joint.argmax(1) == target).mean()) if accuracy is None else accuracy
    recipe = {
        "data": {"name": dataset},
        "model": {"width": 64, "fusion": "concat"},
        "training": {"epochs": epochs, "lr": 0.02, "batch_size": 64},
        "strategies": {"modalign": {"alpha": 3.0}} if strategy == "modalign" else {},
    }
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(
            {
                "strategy": strategy,
                "seed": seed,
                "options": recipe["strategies"].get(strategy, {}),
                "recipe": recipe,
            }
        )
    )
    environment = {"python": "3.11.7", "torch": "2.13.0", "commit": "0123abc", "notes": ["no rows dropped"]}
    (folder / "environment.json").write_text(json.dumps(environment))
    lines = []
    for epoch in range(epochs):
        gain = 1 - np.exp(-(epoch + 1) / 4)
        lines.append(
            {
                "epoch": epoch,
                "step": 20 * (epoch + 1),
                "lr": 0.02,
                "seconds": 1.5,
                "train": {"task": 1.5 * (1 - gain) + 0.1, "contrast": 0.3},
                "valid": {"accuracy": reached * gain + rng.normal() * 0.01, "nll": 1.8 - gain},
                "log": {"weight_joint": 0.3 * gain},
            }
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = {
        "dataset": dataset,
        "strategy": strategy,
        "title": TITLES.get(strategy, strategy),
        "seed": seed,
        "trains_unimodal": strategy == "modalign",
        "task": "classification",
        "metrics": {
            "valid": {"accuracy": reached + 0.01, "nll": 0.8},
            "test": {"accuracy": reached, "nll": 0.9, "macro_f1": reached, "ece": 0.04},
            "test_last": {"accuracy": reached - 0.004, "nll": 0.95},
        },
        "selected_epoch": epochs - 2,
        "epochs": epochs,
        "seconds": 18.5 + seed,
        "seconds_per_epoch": 1.5,
        "parameters": 123456,
        "peak_memory_mb": 512.0,
        "fingerprint": "f00d",
        "options": {"alpha": 3.0} if strategy == "modalign" else {},
        "metric": "accuracy",
        "lr": 0.02,
        "warnings": [],
    } | result
    (folder / "result.json").write_text(json.dumps(content))
    (folder / "done").write_text("")
    return folder


@pytest.fixture
def make_run() -> Callable[..., Path]:
    """``write_run``: writes one finished run folder."""
    return write_run


class Half:
    """An estimate of half a nat that its estimator does not stand by."""

    value, stderr, kind, method, trusted, warnings = 0.5, 0.1, "plug-in", "constant", False, ("near log N",)


def write_evaluation(run: Path) -> dict[str, Any]:
    """``evaluation.json`` of a run that ``write_run`` wrote, as if its model summed its heads; returns the content."""
    (run / "evaluation.json").write_text(found := _evaluate((run / "predictions_test.npz").read_bytes()))
    return json.loads(found)


@functools.cache
def _evaluate(predictions: bytes) -> str:
    with np.load(io.BytesIO(predictions)) as p:
        heads, target, classes, groups = p["unimodal"], p["target"], p["classes"], p["groups"]
    names = ["audio", "video"]
    found = evaluate_model(
        classification(classes),
        lambda keep: sum((h for n, h in zip(names, heads, strict=True) if n in keep), 0 * heads[0]),
        names,
        target,
        heads=heads,
        groups=groups,
        features=dict(zip(names, heads, strict=True)),
        estimate=lambda *data, groups: Half(),
        repeats=20,
    )
    return json.dumps(found)


@pytest.fixture(scope="session")
def diagnose() -> Callable[[Path], dict[str, Any]]:
    """``write_evaluation``: evaluates one run folder of ``make_run``."""
    return write_evaluation


def write_bench(folder: Path) -> Path:
    """Two data sets, four strategies, three seeds; one run unfinished, one broken, one empty."""
    for dataset in ("letters", "digits"):
        for strategy in SKILL:
            for seed in range(3):
                path = folder / "runs" / dataset / strategy / f"seed{seed}"
                write_run(path, strategy, seed, dataset)
    (folder / "runs/letters/joint/seed2/done").unlink()
    (folder / "runs/letters/infonce/seed2/result.json").write_text('{"dataset": "letters", "str')
    (folder / "runs/letters/pmr/seed0").mkdir(parents=True)
    return folder


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A fresh bench folder (see ``write_bench``)."""
    return write_bench(tmp_path / "bench")


@pytest.fixture(scope="module")
def module_bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, once for a file of tests that only read it."""
    return write_bench(tmp_path_factory.mktemp("bench"))
