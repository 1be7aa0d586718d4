"""A run for survival from training to curves of new patients and the report's figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import modalign
from modalign.errors import InputError
from modalign.experiments.evaluate import evaluate_run
from modalign.reporting.diagnosis import evaluation_figures, evaluation_tables

TRAINING = {"epochs": 15, "width": 8, "batch_size": 32, "optimizer": "adamw", "lr": 0.01}


def patients(count: int = 400, seed: int = 0) -> dict[str, np.ndarray]:
    """Two modalities of which each tells one half of the log risk; a third is censored."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, count, 3)).astype("float32")
    death, lost = rng.exponential(np.exp(-a[:, 0] - b[:, 0])), rng.exponential(2.0, count)
    return {"a": a, "b": b, "time": np.minimum(death, lost), "event": (death <= lost).astype(int)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> modalign.Run:
    """A short training."""
    folder = tmp_path_factory.mktemp("survival") / "run"
    data = modalign.load_data(patients(), label="time,event", task="survival")
    return modalign.train(data, "late_fusion", out=folder, quiet=True, **TRAINING)


def test_predictions_are_curves_that_fall_and_follow_the_risk(run: modalign.Run) -> None:
    """Higher risk, earlier median, lower survival at every time."""
    found = run.predict({name: patients(50, 1)[name] for name in ("a", "b")})
    curves = found.filter(regex="^survival_")
    assert curves.shape == (50, 5)
    assert curves.columns.str.removeprefix("survival_").astype(float).is_monotonic_increasing
    assert (np.diff(curves, axis=1) <= 0).all()
    order = found["predicted"].to_numpy().argsort()
    assert (np.diff(curves.to_numpy()[order], axis=0) <= 0).all()
    assert (np.diff(found["median_time"].to_numpy()[order]) <= 0).all()


def test_evaluation_scores_the_curves_and_draws_them(run: modalign.Run) -> None:
    """The true risks are learned: better than one curve for everyone, and divided significantly."""
    found = evaluate_run(run.folder, data=run.data, information=False).result
    survival = found["survival"]
    assert run.metrics["test"].keys() == {"c_index", "c_uno", "ibs"}
    assert run.metrics["valid"].keys() == {"c_index"}
    for name in ("c_uno", "ibs"):
        assert run.metrics["test"][name] == pytest.approx(survival[name], abs=1e-6)
        assert found["metrics"][name]["mean"] == pytest.approx(survival[name], abs=1e-6)
        assert found["metrics"][name]["low"] < survival[name] < found["metrics"][name]["high"]
    assert survival["ibs"] < 0.9 * survival["ibs_reference"]
    assert survival["logrank"] < 0.01
    assert json.loads((Path(run.folder) / "evaluation.json").read_text())["survival"] == survival
    assert "survival" in [table.name for table in evaluation_tables(found)]
    names = [drawn.name for drawn in evaluation_figures(found)]
    assert names[:3] == ["survival_groups", "survival_calibration", "survival_time"]


def test_an_epoch_is_not_selected_by_what_is_known_after_training(run: modalign.Run, tmp_path: Path) -> None:
    """Curves of survival are fitted once, to the selected epoch."""
    with pytest.raises(InputError, match=r"unknown metric 'ibs'.*c_index"):
        modalign.train(run.data, "joint", out=tmp_path / "run", metric="ibs", **TRAINING)


def test_a_validation_split_without_events_is_told_and_the_run_is_kept(tmp_path: Path) -> None:
    """Log risks remain; there is nothing that curves could be fitted to."""
    arrays = patients(200)
    arrays["part"] = np.array(["train", "valid", "test"])[np.arange(200) % 3]
    arrays["event"][arrays["part"] == "valid"] = 0
    data = modalign.load_data(arrays, label="time,event", task="survival", split="part", modalities=["a", "b"])
    run = modalign.train(data, "joint", out=tmp_path / "run", quiet=True, **TRAINING | {"epochs": 1})
    assert any("no event happened in the validation split" in text for text in run.result["warnings"])
    assert not run.predict({"a": arrays["a"], "b": arrays["b"]}).filter(regex="^survival_").shape[1]
