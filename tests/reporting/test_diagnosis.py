"""The diagnosis in the terminal and its figures as files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modalign.data.task import Task
from modalign.evaluation.contributions import Example, Extremes
from modalign.evaluation.diagnosis import evaluate_model
from modalign.reporting import style
from modalign.reporting.diagnosis import summarize, write_evaluation_figures
from modalign.reporting.runs import read_run

MakeRun = Callable[..., Path]
Diagnose = Callable[[Path], dict[str, Any]]


def test_says_every_number_once(tmp_path: Path, make_run: MakeRun, diagnose: Diagnose) -> None:
    run = make_run(tmp_path / "run", "modalign", 0)
    found = diagnose(run)
    text = summarize(read_run(run), found)
    lines = {line.split("  ")[1]: line for line in text.splitlines() if line.startswith("  ")}
    assert text.startswith("ModAlign on letters, seed 0: test split, 180 samples, 9 groups")
    accuracy = found["metrics"]["accuracy"]
    assert f"{100 * accuracy['mean']:.1f} [{100 * accuracy['low']:.1f}, " in lines["accuracy (%)"]
    shapley = found["shapley"]["values"]["audio"]["mean"]
    assert f"{100 * shapley:+.1f} [" in lines["audio"]
    # the model of this test is the sum of its heads: masked, it says what the head says
    assert lines["audio"].count(f"{100 * found['heads']['audio']['mean']:.1f} [") == 2
    assert f"{100 * found['missing']['curves']['video'][-1]['mean']:.1f}" in lines["video missing"]
    assert "0.50 ± 0.10 ?" in lines["shared, I(audio; video)"]
    assert f"{found['information']['unique']['audio']['value']:.2f} ± " in lines["about the target, only in audio"]
    assert all(f"- {warning}" in text for warning in found["warnings"])


def test_kept_information_is_called_that(tmp_path: Path, make_run: MakeRun, diagnose: Diagnose) -> None:
    run = make_run(tmp_path / "run")
    found = diagnose(run)
    record = read_run(run)
    assert "kept from an earlier evaluation" not in summarize(record, found)
    found["information"]["earlier"] = True
    assert "kept from an earlier evaluation" in summarize(record, found)


def test_one_modality_and_other_tasks(tmp_path: Path, make_run: MakeRun) -> None:
    record = read_run(make_run(tmp_path / "run"))
    y = np.random.default_rng(0).normal(size=50)
    found = evaluate_model(Task("regression"), lambda keep: (y * bool(keep))[:, None], ["only"], y, repeats=20)
    text = summarize(record, json.loads(json.dumps(found)))
    assert "MAE" in text
    assert "missing" not in text
    assert "Confidence" not in text


@pytest.mark.slow
def test_figures_and_pictures_are_written(
    tmp_path: Path, make_run: MakeRun, diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "KINDS", ("svg",))  # for speed
    run = make_run(tmp_path / "run")
    record = read_run(run)
    assert write_evaluation_figures(record, run) == []
    diagnose(run)
    shown = Example("sample 1, true class a", {"audio": np.ones((4, 3))}, {"audio": "says a, 93 %"})
    extremes = Extremes({"audio surer than video": [shown], "video surer than audio": []}, {"audio": "sequence"})
    written = write_evaluation_figures(record, run, extremes)
    names = {path.stem for path in written}
    assert names == {"reliability", "shapley", "missing", "confidence_class", "information", "examples"}
    assert all(path.stat().st_size > 500 for path in written)
