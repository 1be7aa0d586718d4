"""Arrays that nobody foresaw, through the command line: six modalities, gaps, text labels, a class of two samples."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from modalign.cli import main
from modalign.reporting import style

N = 120
NAMES = ("audio", "face", "walk", "note", "labs", "site")


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Sequences, images, clips, texts, numbers and categories of 120 samples, eight speakers and three repetitions."""
    rng = np.random.default_rng(0)
    y = np.array(["calm", "cross", "cheerful"])[np.arange(N) // 24 % 3]
    y[[0, 2]] = "puzzled"  # one to train on, one to test on, of one speaker
    code = np.unique(y, return_inverse=True)[1]
    audio = rng.normal(size=(N, 7, 5)) + code[:, None, None]
    labs = rng.normal(size=(N, 3))
    audio[5:20] = np.nan
    labs[[0, 30, 31]] = np.nan
    note = np.array([f"said {name} {i} times" for i, name in enumerate(y)])
    note[40:44] = ""
    path = tmp_path / "odd.npz"
    np.savez(
        path,
        audio=audio.astype(np.float32),
        face=rng.integers(0, 256, (N, 12, 12, 3), np.uint8),
        walk=rng.integers(0, 256, (N, 2, 3, 10, 10), np.uint8),
        note=note,
        labs=labs,
        site=np.array(["north", "south", "east"])[np.arange(N) % 3],
        y=y,
        rep=np.arange(N) % 3 + 1,
        speaker=np.array([f"p{i}" for i in np.arange(N) // 3 % 8]),
    )
    return path


def bench(path: Path, out: Path, *more: str) -> None:
    small = ["--training.epochs", "1", "--model.width", "8", "--training.accelerator", "cpu"]
    plan = ["--strategies", "joint,modalign", "--seeds", "1", "--jobs", "1", "--out", str(out)]
    main(["bench", str(path), "--modalities", ",".join(NAMES), "--label", "y", *plan, *small, *more])


def test_a_bench_of_six_modalities(
    arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(style, "KINDS", ("svg",))  # for speed
    out = tmp_path / "bench"
    bench(arrays, out, "--split", "rep==3", "--group", "speaker")
    with (out / "table.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert {"dataset", "strategy", "metric", "mean", "ci_low", "ci_high", "seeds", "seconds"} <= rows[0].keys()
    assert [(row["dataset"], row["strategy"], row["seeds"]) for row in rows] == [
        ("odd", "joint", "1"),
        ("odd", "modalign", "1"),
    ]
    assert all(0 <= float(row["mean"]) <= 1 for row in rows)
    for strategy in ("joint", "modalign"):
        run = out / "runs" / "odd" / strategy / "seed0"
        with np.load(run / "predictions_test.npz") as found:
            assert found["scores"].shape == (N // 3, 4)
            assert found["unimodal"].shape == (6, N // 3, 4)
            assert found["modalities"].tolist() == list(NAMES)
            assert found["classes"].tolist() == ["calm", "cheerful", "cross", "puzzled"]
            absent = {name: int((~found["present"][:, m]).sum()) for m, name in enumerate(NAMES)}
            assert np.isfinite(found["scores"]).all()
        assert absent == {"audio": 5, "face": 0, "walk": 0, "note": 1, "labs": 0, "site": 0}
        notes = json.loads((run / "environment.json").read_text())["notes"]
        assert any("labs is absent in 3 of 120" in note for note in notes)
        assert any("divides every one of the 8 groups" in note for note in notes)


def test_every_problem_at_once(arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(arrays) as archive:
        broken = dict(archive)
    broken["labs"][7, 1] = np.nan
    broken["y"][3] = ""
    broken["site"] = broken["site"][:-1]
    np.savez(arrays, **broken)
    with pytest.raises(SystemExit) as stop:
        bench(arrays, tmp_path / "bench", "--split", "rep==4", "--group", "speeker")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "speeker" in said
    assert "did you mean 'speaker'" in said
    assert "site 119" in said
    assert not (tmp_path / "bench" / "runs").exists()
    broken["site"] = np.append(broken["site"], "east")
    np.savez(arrays, **broken)
    with pytest.raises(SystemExit):
        bench(arrays, tmp_path / "bench", "--split", "rep==4", "--group", "speaker")
    said = capsys.readouterr().err
    assert "'labs'" in said
    assert "label 'y' is missing in 1 rows (3)" in said
