"""A trained run in use: predictions for new samples without the training data, and the diagnosis of a split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modalign.cli import main
from modalign.data.tables.arrays import from_arrays
from modalign.errors import InputError
from modalign.experiments.evaluate import evaluate_run
from modalign.experiments.predict import predict
from modalign.reporting import style
from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings
from modalign.training.train import train

WORDS = ("red wine", "green tea", "blue sea")


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(150) % 3
    return {
        "tone": (rng.normal(size=(3, 6))[y] + rng.normal(size=(150, 6))).astype(np.float32),
        "note": np.array([f"{WORDS[k]} {i}" for i, k in enumerate(y)]),
        "kind": np.array(["low", "mid", "high"])[y],
        "site": np.arange(150) % 2,
        "age": rng.normal(size=150),
        "id": np.array([f"s{i}" for i in range(150)]),
        "split": np.where(np.arange(150) < 60, "train", np.where(np.arange(150) < 90, "valid", "test")),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on tones and notes in a file, with its data beside it."""
    folder = tmp_path_factory.mktemp("run")
    np.savez(folder / "data.npz", **arrays())
    recipe = Recipe(
        DataSettings(
            name="tones", path=str(folder / "data.npz"), modalities=["tone", "note"], label="kind", split="split",
            columns=["site", "age"], kinds={"note": "text"},
        ),
        ModelSettings(width=8),
        TrainingSettings(epochs=8, batch_size=20, lr=0.1, accelerator="cpu"),
    )  # fmt: skip
    train(recipe, "joint_unimodal", out=folder / "run", seed=0, quiet=True)
    return folder / "run"


def expected(run: Path) -> pd.DataFrame:
    """What the run itself said of its test split."""
    with np.load(run / "predictions_test.npz") as kept:
        return pd.DataFrame(np.exp(kept["scores"]), index=kept["ids"], columns=[f"p_{c}" for c in kept["classes"]])


def test_predicts_as_in_training_without_the_data(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    raw = arrays()
    np.savez(tmp_path / "new.npz", **{name: raw[name][90:] for name in ("tone", "note", "id")})
    main(["predict", str(moved), str(tmp_path / "new.npz"), "--out", str(tmp_path / "made/new.csv")])
    table = pd.read_csv(tmp_path / "made/new.csv", index_col="id")
    assert table.filter(like="p_").to_numpy() == pytest.approx(expected(run).loc[table.index].to_numpy(), abs=1e-5)
    assert (table["predicted"] == raw["kind"][90:]).mean() > 0.6
    assert table["confidence"].to_numpy() == pytest.approx(table.filter(like="p_").max(axis=1).to_numpy())
    assert table["note_present"].all()
    assert set(table["tone_predicted"]) <= {"low", "mid", "high"}


def test_tables_with_a_modality_that_is_not_there(run: Path, tmp_path: Path) -> None:
    raw = arrays()
    side_by_side = pd.DataFrame(raw["tone"][90:], columns=[f"tone_{i}" for i in range(6)]).assign(id=raw["id"][90:])
    side_by_side.to_csv(tmp_path / "tones.csv", index=False)
    pd.DataFrame({"tone": list(raw["tone"][90:])}).to_parquet(tmp_path / "tones.parquet")
    main(["predict", str(run), str(tmp_path / "tones.csv"), "--out", str(tmp_path / "out.parquet")])
    found = pd.read_parquet(tmp_path / "out.parquet")
    np.savez(tmp_path / "both.npz", **raw)
    masked = predict(run, tmp_path / "both.npz", ["tone"]).iloc[90:]
    again = predict(run, tmp_path / "tones.parquet")
    assert list(found["id"]) == list(raw["id"][90:])
    assert not found["note_present"].any()
    assert found["note_predicted"].isna().all()
    for other in (masked, again):
        assert found["confidence"].to_numpy() == pytest.approx(other["confidence"].to_numpy(), abs=1e-5)


def test_empty_cells_are_missing(run: Path, tmp_path: Path) -> None:
    raw = arrays()
    notes = raw["note"][90:94].astype(object)
    notes[1] = ""
    pd.DataFrame({"note": notes, "tone": list(raw["tone"][90:94])}).to_parquet(tmp_path / "new.parquet")
    table = predict(run, tmp_path / "new.parquet")
    assert table["note_present"].tolist() == [True, False, True, True]
    assert table["note_predicted"].isna().tolist() == [False, True, False, False]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_what_predict_refuses(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tone = arrays()["tone"]
    np.savez(tmp_path / "wide.npz", tone=np.zeros((4, 9), np.float32))
    np.savez(tmp_path / "other.npz", smell=tone)
    np.savez(tmp_path / "good.npz", tone=tone)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "done").unlink()
    (tmp_path / "there.csv").write_text("mine")

    def said(folder: Path, data: str, *more: str) -> str:
        return refused(["predict", str(folder), str(tmp_path / data), "--out", str(tmp_path / "p.csv"), *more], capsys)

    assert "(9,); expected (6,)" in said(run, "wide.npz")
    assert "no modality is given; expected at least one of tone, note" in said(run, "other.npz")
    assert "did you mean 'tone'" in said(run, "good.npz", "--modalities", "tones")
    assert "is not finished" in said(unfinished, "good.npz")
    assert "not a run folder" in said(tmp_path, "good.npz")
    assert "absent.npz" in said(run, "absent.npz")
    assert "there.csv exists" in said(run, "good.npz", "--out", str(tmp_path / "there.csv"))
    assert "neither .csv nor .parquet" in said(run, "good.npz", "--out", "p.txt")
    assert not (tmp_path / "p.csv").exists()


def test_evaluate_from_the_command_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "KINDS", ("svg",))  # for speed
    bench = tmp_path / "bench"
    shutil.copytree(run, bench / "runs/tones/joint_unimodal/seed0")
    shutil.copytree(run, bench / "runs/tones/joint_unimodal/seed1")
    (bench / "runs/tones/joint_unimodal/seed1/done").unlink()
    main(["evaluate", str(bench), "--quick", "--context", "site", "--out", str(tmp_path / "figures")])
    shown = capsys.readouterr().out
    found = json.loads((bench / "runs/tones/joint_unimodal/seed0/evaluation.json").read_text())
    with np.load(run / "predictions_test.npz") as kept:
        accuracy = (kept["scores"].argmax(1) == kept["target"]).mean()
    assert found["metrics"]["accuracy"]["mean"] == pytest.approx(accuracy)
    assert found["information"] is None
    assert set(found["confidence"]) == {"class", "site"}
    assert "seed1: left out (unfinished" in shown
    assert f"{100 * accuracy:.1f} [" in shown
    drawn = {path.name for path in (tmp_path / "figures/tones-joint_unimodal-seed0").iterdir()}
    assert {"examples.svg", "confidence_site.svg", "reliability.svg", "shapley.svg"} <= drawn


def test_what_evaluate_refuses(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'site'" in refused(["evaluate", str(run), "--context", "sites"], capsys)
    assert "split 'train'" in refused(["evaluate", str(run), "--split", "train"], capsys)
    assert "method 'guess'" in refused(["evaluate", str(run), "--method", "guess"], capsys)
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/done").unlink()
    assert "nothing to evaluate" in refused(["evaluate", str(tmp_path / "run")], capsys)
    with pytest.raises(InputError, match="not finished"):
        evaluate_run(tmp_path / "run")


def test_examples_are_the_samples_themselves(run: Path) -> None:
    found = evaluate_run(run, information=False, context="age")
    contexts = found.result["confidence"]["age"]
    assert sum(contexts["count"]) == 60
    assert len(contexts["contexts"]) == 4
    extremes = found.extremes
    assert extremes is not None
    assert extremes.kinds == {"tone": "vector", "note": "text"}
    raw = arrays()
    gaps = []
    for heading, examples in extremes.groups.items():
        assert len(examples) == 3
        for example in examples:
            row = int(example.title.split()[1].strip("s,"))
            assert f"true class {raw['kind'][row]}" in example.title
            assert example.inputs["tone"] == pytest.approx(raw["tone"][row])
            assert set(str(example.inputs["note"]).split()) - {"?"} <= set(raw["note"][row].split())
            sure = {m: int(note.split()[-2]) for m, note in example.notes.items()}
            gaps.append((heading.split()[0], sure["tone"] - sure["note"]))
    assert all(gap >= 0 if surer == "tone" else gap <= 0 for surer, gap in gaps)


def test_data_in_memory_and_missing_modalities(small_data, small_recipe, tmp_path: Path) -> None:
    data = small_data(missing=0.4)
    train(small_recipe(), "joint", out=tmp_path / "run", data=data, quiet=True)
    found = evaluate_run(tmp_path / "run", split="valid", information=False, data=data)
    assert found.result["split"] == "valid"
    assert found.result["heads"] == {}
    assert found.extremes is not None
    numbers = from_arrays(
        {"x": np.arange(60.0)[:, None], "y": np.arange(60.0) + 0.5}, ["x"], "y", name="line", task="regression"
    )
    train(small_recipe(), "joint", out=tmp_path / "line", data=numbers, quiet=True)
    line = evaluate_run(tmp_path / "line", data=numbers)
    assert line.extremes is None
    assert "rmse" in line.result["metrics"]
