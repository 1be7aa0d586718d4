"""Sentences about a comparison: who leads, what is noise, what to be careful with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modalign.reporting.findings import findings, modality_findings, warnings
from modalign.reporting.runs import compare, read_runs

MakeRun = Callable[..., Path]


def write(folder: Path, make_run: MakeRun, accuracies: dict[str, list[float]], **result: object) -> None:
    for strategy, values in accuracies.items():
        for seed, value in enumerate(values):
            make_run(folder / strategy / f"seed{seed}", strategy, seed, accuracy=value, **result)


def test_noise_is_told_from_difference(tmp_path: Path, make_run: MakeRun) -> None:
    ours = [0.80, 0.81, 0.82, 0.80, 0.81]
    close = [0.82, 0.79, 0.83, 0.80, 0.82]
    worse = [0.70, 0.71, 0.71, 0.70, 0.72]
    write(tmp_path, make_run, {"joint": worse, "infonce": close, "modalign": ours})
    (text,) = findings(compare(read_runs(tmp_path)))
    assert "letters: InfoNCE has the highest test accuracy, 81.2 % (mean of 5 seeds, 95 % interval over seeds [" in text
    assert "ModAlign ranks 2 of 3" in text
    assert "beyond noise better than Joint-Train" in text
    assert "not told apart from InfoNCE" in text


def test_a_shared_first_place_and_what_cannot_be_tested(tmp_path: Path, make_run: MakeRun) -> None:
    write(tmp_path, make_run, {"joint": [0.8], "infonce": [0.8], "modalign": [0.7]})
    (text,) = findings(compare(read_runs(tmp_path)))
    assert "letters: Joint-Train and InfoNCE share the highest test accuracy, 80.0 % (one seed)." in text
    assert "not tested against any other: fewer than 5 splits, or seeds of one split, in common" in text
    assert "told apart" not in text
    assert "t-test" not in text


def test_seeds_gaps_and_versions_are_warned_of(tmp_path: Path, make_run: MakeRun) -> None:
    write(tmp_path, make_run, {"joint": [0.5, 0.6], "modalign": [0.7]}, warnings=["more epochs may give more"])
    metrics = {"valid": {"accuracy": 0.9}, "test": {"accuracy": 0.7}, "test_last": {"accuracy": 0.7}}
    said = ["selection gap: 20 points"]
    make_run(tmp_path / "x", "pmr", metrics=metrics, warnings=said)
    make_run(tmp_path / "y", "pmr")
    (tmp_path / "y" / "environment.json").write_text(json.dumps({"commit": "fffffff"}))
    runs = read_runs(tmp_path)
    found = "\n".join(warnings(runs, compare(runs)))
    assert "letters: one run of pmr and ModAlign" in found
    assert "between 1 and 2 runs" in found
    assert "1 run of a method, split and seed that another folder has too: left out" in found
    assert "runs are of 2 states of the code (0123abc, fffffff)" in found
    assert "validation is 20.0 points above test for pmr" in found
    assert "letters, Joint-Train and ModAlign (3 runs): more epochs may give more" in found
    assert "selection gap: 20" not in found


def subset(mean: float, *modalities: str) -> dict[str, Any]:
    return {"modalities": [*modalities], "mean": mean, "low": mean - 0.03, "high": mean + 0.03}


def test_what_each_modality_gives_and_what_to_do_next() -> None:
    found = {"metric": "accuracy", "heads": {}, "subsets": [subset(0.8, "a"), subset(0.6, "b"), subset(0.9, "a", "b")]}
    text = modality_findings(found)
    assert text.startswith("a alone 80.0 %, b alone 60.0 %, together 90.0 %. Without a 60.0 %, without b 80.0 %.")
    assert "where a may be missing in use, train with missing modalities" in text
    found["subsets"][2] = subset(0.82, "a", "b")  # within the interval of a alone
    text = modality_findings(found)
    assert "b adds nothing that shows beyond a: try without it" in text
    assert "Without a 60.0 %." in text
    assert "Each one adds" not in text
    found["heads"] = {"a": {"mean": 0.7}, "b": {"mean": 0.65}}
    assert modality_findings(found).startswith("a alone 70.0 %, b alone 65.0 %")
    # Of an error the smaller is the better one.
    found = {"metric": "rmse", "heads": {}, "subsets": [subset(1.0, "a"), subset(2.0, "b"), subset(0.99, "a", "b")]}
    text = modality_findings(found)
    assert "b adds nothing" in text
    assert "a adds nothing" not in text
    assert modality_findings({"metric": "accuracy", "heads": {}, "subsets": [subset(0.8, "a")]}) == ""
