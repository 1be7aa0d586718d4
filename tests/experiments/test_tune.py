"""The search for one method."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import modalign
from modalign.cli import main
from modalign.errors import RunFolderError
from modalign.recipes import load_recipe

pytest.importorskip("optuna", reason="needs the extra tune")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    return modalign.tune("digits", "infonce", trials=2, runs=2, epochs=1, out=folder, quiet=True), folder


def test_the_best_setting_is_a_recipe_that_trains(searched, tmp_path):
    found, folder = searched
    recipe = load_recipe(str(folder / "recipe.yaml"))
    assert recipe.training.lr == found.chosen.lr
    assert recipe.strategies["infonce"] == found.chosen.options
    run = modalign.train(recipe, "infonce", out=tmp_path / "run", quiet=True)
    assert run.result["options"].items() >= found.chosen.options.items()
    table = pd.read_csv(folder / "trials.csv")
    assert table["lr"][0] == 0.02  # the recipe's own is tried first
    assert found.value == table["value"].min()


def test_a_finished_search_is_not_repeated_and_more_trials_are_added(searched):
    found, folder = searched
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    again = modalign.tune("digits", "infonce", trials=2, runs=2, epochs=1, out=folder, quiet=True)
    assert again.chosen == found.chosen
    more = modalign.tune("digits", "infonce", trials=3, runs=2, epochs=1, out=folder, quiet=True)
    assert len(more.trials) == 3
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_folder_of_another_search_is_refused(searched):
    _, folder = searched
    with pytest.raises(RunFolderError, match=r"epochs: 1 -> 2"):
        modalign.tune("digits", "infonce", trials=2, runs=2, epochs=2, out=folder, quiet=True)


def test_a_search_that_died_while_it_drew_a_setting_ends_as_one_that_did_not(searched, tmp_path, monkeypatch):
    import optuna

    ask = optuna.Study.ask
    search = {"trials": 2, "runs": 2, "epochs": 1, "out": tmp_path / "died", "quiet": True}

    def dies(study, distributions):
        ask(study)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "ask", dies)
        with pytest.raises(MemoryError):
            modalign.tune("digits", "infonce", **search)
    assert modalign.tune("digits", "infonce", **search).trials == searched[0].trials


def test_a_search_that_died_before_it_was_told_of_an_epoch_is_told_later(tmp_path, monkeypatch):
    import optuna

    search = {"trials": 1, "runs": 1, "epochs": 2, "out": tmp_path / "died", "quiet": True}

    def dies(trial, value, step):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(optuna.trial.Trial, "report", dies)
        with pytest.raises(MemoryError):
            modalign.tune("digits", "late_fusion", **search)
    told = []
    monkeypatch.setattr(optuna.trial.Trial, "report", lambda trial, value, step: told.append(step))
    modalign.tune("digits", "late_fusion", **search)
    assert told == [0, 1]


def test_arrays_in_memory_are_searched_on_other_validation_parts(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(120, 4)).astype("float32"), "b": rng.normal(size=(120, 3)).astype("float32")}
    arrays["y"] = (arrays["a"][:, 0] > 0).astype(int)
    found = modalign.tune(arrays, "joint", target="y", trials=1, runs=2, epochs=1, out=tmp_path / "t", quiet=True)
    prints = {modalign.load_run(tmp_path / "t" / "trial0" / f"run{i}").result["fingerprint"] for i in range(2)}
    assert len(prints) == 2
    assert found.chosen.options == {}


def test_the_command_says_what_to_do_next(tmp_path, capsys):
    out = tmp_path / "t"
    main(["tune", "digits", "--strategy", "joint", "--trials", "1", "--runs", "1", "--training.epochs", "1",
          "--out", str(out)])  # fmt: skip
    said = capsys.readouterr().out
    assert "trial 1 of 1" in said
    assert f"modalign train {out}/recipe.yaml --strategy joint" in said
