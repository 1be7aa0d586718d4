"""The whole evaluation of a model known by its answers: the schema, its consistency, its warnings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from modalign.data.task import Task, classification
from modalign.evaluation.diagnosis import confidence_by_context, evaluate_model, plain

TASK = classification(("wind", "paint", "horn"))


def model(n: int = 240, strength: tuple[float, float] = (2.0, 1.0)) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    target = rng.integers(3, size=n)
    logits = [s * np.eye(3)[target] + rng.normal(size=(n, 3)) for s in strength]
    heads = np.stack([x - np.log(np.exp(x).sum(1, keepdims=True)) for x in logits])
    kept = {"audio": heads[0], "video": heads[1]}
    return {
        "task": TASK,
        "predict": lambda keep: sum((kept[name] for name in keep), np.zeros((n, 3))),
        "modalities": ["audio", "video"],
        "target": target,
        "heads": heads,
        "repeats": 100,
    }


def test_schema_is_json_and_consistent() -> None:
    found = evaluate_model(**model(), groups=np.arange(240) // 4)
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    assert (found["samples"], found["units"]) == (240, 60)
    accuracy = found["metrics"]["accuracy"]
    assert accuracy["low"] < accuracy["mean"] < accuracy["high"]
    assert found["subsets"][-1]["mean"] == accuracy["mean"]
    assert found["subsets"][1]["mean"] == found["heads"]["audio"]["mean"]
    assert sum(v["mean"] for v in found["shapley"]["values"].values()) == pytest.approx(found["shapley"]["total"])
    assert np.sum(found["confusion"]) == 240
    assert np.trace(found["confusion"]) / 240 == pytest.approx(accuracy["mean"])
    assert [c["name"] for c in found["classes"]] == ["wind", "paint", "horn"]
    assert set(found["calibration"]) == {"fused", "audio", "video"}
    assert found["calibration"]["fused"]["ece"] == pytest.approx(found["metrics"]["ece"]["mean"])
    assert found["confidence"]["class"]["contexts"] == ["wind", "paint", "horn"]
    assert found["information"] is None


def test_a_modality_that_gives_nothing_is_named() -> None:
    found = evaluate_model(**model(strength=(2.0, 0.0)))
    assert any("video gives nothing" in w for w in found["warnings"])
    assert any("not surely better than audio alone" in w for w in found["warnings"])
    assert not any("audio gives nothing" in w for w in found["warnings"])


def test_without_heads_masking_gives_the_evidence() -> None:
    case = model()
    with_heads = evaluate_model(**case)
    masked = evaluate_model(**(case | {"heads": None}))
    assert masked["heads"] == {}
    assert masked["calibration"] == with_heads["calibration"]
    assert any("masking" in w for w in masked["warnings"])


@dataclass
class Half:
    value: float = 0.5
    stderr: float = 0.01
    kind: str = "plug-in"
    method: str = "constant"
    trusted: bool = True
    warnings: tuple[str, ...] = ()


@pytest.mark.slow
def test_information_is_included() -> None:
    case = model()
    noise = np.random.default_rng(1).normal(size=(240, 4))
    found = evaluate_model(**case, features={"audio": noise, "video": noise}, estimate=lambda *data, groups: Half())
    json.dumps(found, allow_nan=False)
    assert found["information"]["pairs"][0]["shared"]["value"] == 0.5
    assert found["information"]["fusibility"] == 0.5
    assert any("over-fusion" in w for w in found["warnings"])


def test_regression_and_one_modality() -> None:
    y = np.random.default_rng(0).normal(size=50)
    found = evaluate_model(Task("regression"), lambda keep: (y * bool(keep))[:, None], ["only"], y, repeats=20)
    assert found["missing"] is None
    assert found["metrics"]["mae"]["mean"] == 0
    assert "confusion" not in found
    json.dumps(found, allow_nan=False)


def test_confidence_by_context_by_hand() -> None:
    p = np.array([[[0.9, 0.1], [0.7, 0.3], [0.6, 0.4]], [[0.5, 0.5], [0.2, 0.8], [1.0, 0.0]]])
    with np.errstate(divide="ignore"):
        evidence = np.log(p)
    present = np.array([[True, True], [True, True], [True, False]])
    found = confidence_by_context(evidence, present, ["a", "v"], np.array([0, 0, 2]), ["x", "none", "z"])
    assert found["contexts"] == ["x", "z"]
    assert found["count"] == [2, 1]
    assert found["by_modality"]["a"][0].mean == pytest.approx(0.8)
    assert found["by_modality"]["v"][0].mean == pytest.approx(0.65)
    assert found["by_modality"]["v"][1].n == 0


def test_plain() -> None:
    assert plain({"a": np.array([1.0, np.nan]), "b": (np.int64(2),)}) == {"a": [1.0, None], "b": [2]}
