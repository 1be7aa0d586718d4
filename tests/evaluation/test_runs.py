"""The evaluation of run folders: what a second one keeps, which are left out, and texts shown as words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from modalign.cli import main
from modalign.data.batch import Modality
from modalign.data.media.decoders import build_vocabulary, tokenizer
from modalign.data.media.folder import write_prepared
from modalign.data.task import classification
from modalign.experiments import evaluate as inference
from modalign.experiments.evaluate import evaluate_run
from modalign.report import style
from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings
from modalign.training.train import train

ROWS, LENGTH = 150, 8
TITLES = [("apple pie", "green tea", "blue cheese")[i % 3] + f" number {'abcde'[i % 5]}" for i in range(ROWS)]


class Half:
    """An estimate at once, in place of one that takes a minute."""

    value, stderr, kind, method, trusted, warnings = 0.5, 0.1, "plug-in", "constant", False, ("near log N",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared data set of titles as tokens (``data``) and a run on it (``run``)."""
    folder = tmp_path_factory.mktemp("titles")
    vocabulary = build_vocabulary(TITLES, folder / "data/vocab.txt")
    tokens = tokenizer(str(vocabulary))(TITLES, truncation=True, max_length=LENGTH, padding="max_length")["input_ids"]
    y = np.arange(ROWS) % 3
    tone = np.random.default_rng(0).normal(size=(ROWS, 5)) + y[:, None]
    write_prepared(
        folder / "data",
        "titles",
        classification(["apple", "cheese", "tea"]),
        {
            "title": Modality("title", "text", (LENGTH,), len(tokenizer(str(vocabulary))), 0),
            "tone": Modality("tone", "vector", (5,)),
        },
        pd.DataFrame(
            {
                "id": [f"s{i}" for i in range(ROWS)],
                "label": np.array(["apple", "tea", "cheese"])[y],
                "split": np.where(np.arange(ROWS) < 60, "train", np.where(np.arange(ROWS) < 90, "valid", "test")),
            }
        ),
        {"title": np.array(tokens, np.int32), "tone": tone.astype(np.float32)},
        about={"vocabulary": "train"},
    )
    recipe = Recipe(
        DataSettings(path=str(folder / "data")),
        ModelSettings(width=8),
        TrainingSettings(epochs=2, batch_size=20, lr=0.05, accelerator="cpu"),
    )
    train(recipe, "joint_unimodal", out=folder / "run", seed=0, quiet=True)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, with an estimator that answers at once."""
    monkeypatch.setattr(inference, "estimate", lambda *data, **options: Half())
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


def kept(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    return loaded


def test_a_quick_evaluation_keeps_what_an_earlier_one_estimated(run: Path) -> None:
    assert evaluate_run(run, information=False).result["information"] is None
    first = evaluate_run(run).result
    again = evaluate_run(run, information=False).result
    assert first["information"]["pairs"][0]["shared"]["value"] == 0.5
    assert "earlier" not in first["information"]
    assert again["information"] == first["information"] | {"earlier": True}
    assert again["warnings"] == first["warnings"]
    assert kept(run) == json.loads(json.dumps(again))
    assert evaluate_run(run, information=False).result == again
    assert "earlier" not in evaluate_run(run).result["information"]


def test_what_was_estimated_on_something_else_is_dropped_and_that_is_said(run: Path) -> None:
    evaluate_run(run)
    other = evaluate_run(run, split="valid", information=False).result
    assert other["information"] is None
    assert any("of another split and are dropped; evaluate without --quick" in text for text in other["warnings"])
    evaluate_run(run)
    shutil.copy(run / "checkpoints/last.pt", run / "checkpoints/best.pt")
    (run / "checkpoints/best.pt").open("ab").write(b"\0")
    changed = inference._with_earlier_information(
        evaluated := kept(run) | {"information": None, "warnings": [], "source": {"checkpoint": "x", "data": "y"}},
        run / "evaluation.json",
    )
    assert evaluated["information"] is None
    assert changed["information"] is None
    assert any("of another model or other data and are dropped" in text for text in changed["warnings"])


def test_a_broken_evaluation_is_written_anew(run: Path) -> None:
    (run / "evaluation.json").write_text('{"split": "te')
    evaluate_run(run, information=False)
    assert kept(run)["split"] == "test"


def test_the_remedy_for_few_samples_of_a_class_is_named(run: Path) -> None:
    warnings = evaluate_run(run, split="valid").result["warnings"]
    assert any("about 20 samples of each class are needed, and the smallest has 10" in text for text in warnings)
    assert not any("samples of each class" in text for text in evaluate_run(run).result["warnings"])


def test_one_run_that_cannot_be_evaluated_does_not_take_the_others_with_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "KINDS", ("svg",))  # for speed
    shutil.copytree(run, tmp_path / "runs/a")
    shutil.copytree(run, tmp_path / "runs/b")
    (tmp_path / "runs/a/checkpoints/best.pt").unlink()
    main(["evaluate", str(tmp_path / "runs"), "--quick"])
    said = capsys.readouterr()
    assert "runs/a: left out" in said.out
    assert "no checkpoint 'best'" in said.out
    assert "runs/b (2 of 2)" in said.err
    assert (tmp_path / "runs/b/evaluation.json").exists()
    shutil.rmtree(tmp_path / "runs/b")
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path / "runs"), "--quick"])
    assert "no checkpoint 'best'" in capsys.readouterr().err


def titles(run: Path) -> set[str]:
    """The titles that are shown of a run's samples."""
    extremes = evaluate_run(run, information=False).extremes
    assert extremes is not None
    return {str(example.inputs["title"]) for group in extremes.groups.values() for example in group}


def test_tokens_are_shown_as_the_words_they_stand_for(run: Path, trained: Path, tmp_path: Path) -> None:
    assert titles(run) <= set(TITLES)
    folder = tmp_path / "moved"
    shutil.copytree(trained / "data", folder)
    tokenizer(str(folder / "vocab.txt")).save_pretrained(folder / "tokenizer")
    (folder / "vocab.txt").unlink()
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace(str(trained / "data"), str(folder)))
    assert titles(run) <= set(TITLES)
    shutil.rmtree(folder / "tokenizer")
    inference.token_reader.cache_clear()
    counts = {len(title.split()) + 2 for title in TITLES}  # and the marks of begin and end
    assert titles(run) <= {f"({n} tokens; their vocabulary 'train' is not on this machine)" for n in counts}


def test_notes_say_whether_a_modality_is_right(run: Path) -> None:
    extremes = evaluate_run(run, information=False).extremes
    assert extremes is not None
    for group in extremes.groups.values():
        for example in group:
            truth = example.title.split()[-1]
            for note in example.notes.values():
                _, said, verdict, *_ = note.split()
                assert verdict == ("(right)," if said == truth else "(wrong),")
