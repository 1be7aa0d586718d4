"""Comparisons: complete and resumable, searched on validation, refused where settings differ."""

from __future__ import annotations

import csv
import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from modalign.api import Bench, bench
from modalign.data.load import load_data
from modalign.errors import InputError, RunError, RunsFailed
from modalign.experiments.bench import ABLATION, entries, run_bench
from modalign.experiments.search import Study
from modalign.files import locked
from modalign.reporting.runs import read_runs
from modalign.reporting.tables import write_tables
from modalign.settings import DataSettings
from modalign.training.own_code import Objects
from modalign.training.run import RunFolder, RunSpec


@pytest.fixture
def recipes(tmp_path, small_recipe):
    """``recipes(name, ...)``: a recipe for each name, on one small file."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    a, b = (rng.normal(size=(3, d))[y] + rng.normal(size=(90, d)) for d in (4, 5))
    rows = np.arange(90)
    np.savez(tmp_path / "data.npz", a=a, b=b, y=y, rep=rows % 4, who=rows // 30)

    def make(*names: str):
        settings = DataSettings(path=str(tmp_path / "data.npz"), modalities=["a", "b"], label="y", split="rep==3")
        return {n: replace(small_recipe(epochs=1), data=replace(settings, name=n)) for n in names}

    return make


def run(*args, **options) -> Path:
    return run_bench(*args, **{"jobs": 1, "quiet": True} | options)


def test_completes_and_writes_the_table(recipes, tmp_path):
    out = run(recipes("one"), entries(["joint", "modalign"]), 2, tmp_path / "bench")
    write_tables(read_runs(out / "runs"), out)
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["strategy"] for row in rows] == ["joint", "modalign"]
    assert {"dataset", "strategy", "metric", "mean", "ci_low", "ci_high", "seeds", "rank", "seconds"} <= rows[0].keys()
    assert all(row["seeds"] == "2" and row["dataset"] == "one" for row in rows)
    results = [RunFolder(out / "runs" / "one" / "joint" / f"seed{k}").result() for k in (0, 1)]
    expected = np.mean([r["metrics"]["test"]["accuracy"] for r in results])
    assert float(rows[0]["mean"]) == pytest.approx(expected, abs=1e-4)


def test_finished_runs_are_not_run_again_and_rows_seeds_and_data_can_be_added(recipes, tmp_path):
    out = run(recipes("one"), entries(["joint"]), 1, tmp_path / "bench")
    stamp = (out / "runs/one/joint/seed0/result.json").stat().st_mtime_ns
    run(recipes("one"), entries(["joint", "infonce"]), 2, out)
    run(recipes("two"), entries(["joint"]), 1, out)
    assert (out / "runs/one/joint/seed0/result.json").stat().st_mtime_ns == stamp
    done = sorted(str(p.parent.relative_to(out / "runs")) for p in out.glob("runs/*/*/*/done"))
    assert done == [
        "one/infonce/seed0", "one/infonce/seed1", "one/joint/seed0", "one/joint/seed1", "two/joint/seed0",
    ]  # fmt: skip
    settings = yaml.safe_load((out / "bench.yaml").read_text())
    assert set(settings["rows"]) == {"joint", "infonce"}
    assert set(settings["datasets"]) == {"one", "two"}


def test_other_settings_are_refused_and_named(recipes, tmp_path):
    out = run(recipes("one"), entries(["joint", "modalign"]), 1, tmp_path / "bench")
    other = recipes("one")
    other["one"].training.lr = 0.3
    with pytest.raises(InputError, match=r"training\.lr: 0\.05 -> 0\.3.*new folder"):
        run(other, entries(["joint"]), 1, out)
    with pytest.raises(InputError, match=r"rows\.modalign\.options\.alpha: None -> 9"):
        run(recipes("one"), entries(["modalign"], {"modalign": {"alpha": 9}}), 1, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("x")
    with pytest.raises(InputError, match="in use and holds no bench"):
        run(recipes("one"), entries(["joint"]), 1, tmp_path / "full")


def test_splits_are_runs_of_their_own_and_can_be_added(recipes, tmp_path):
    plan, rows = recipes("one"), entries(["joint", "late_fusion"])
    out = run(plan, rows, 1, tmp_path / "bench", splits=2)
    stamp = (out / "runs/one/joint/split0-seed0/result.json").stat().st_mtime_ns
    run(plan, rows, 2, out, splits=3)
    assert (out / "runs/one/joint/split0-seed0/result.json").stat().st_mtime_ns == stamp
    assert len(list(out.glob("runs/*/*/*/done"))) == 2 * 3 * 2
    tested = [set(np.load(out / f"runs/one/joint/split{k}-seed0/predictions_test.npz")["ids"]) for k in range(3)]
    assert len(set.union(*tested)) == sum(map(len, tested))
    rows = {row.strategy: row for row in Bench(out).rows}
    assert (rows["joint"].splits, rows["joint"].seeds, rows["joint"].interval) == (3, 2, "splits")
    assert rows["late_fusion"].pairs == 6
    with pytest.raises(InputError, match=r"resampled: True -> False"):
        run(plan, entries(["joint"]), 1, out)


def test_data_in_memory_is_split_too_and_what_is_split_already_is_not(recipes, tmp_path):
    with np.load(recipes("one")["one"].data.path) as arrays:
        given = dict(arrays)
    how = {"modalities": ["a", "b"], "epochs": 1, "jobs": 1, "quiet": True, "seeds": 1, "splits": 3}
    made = bench(given, ["joint"], out=tmp_path / "memory", folds="rep", **how)
    assert [row.splits for row in made.rows] == [3]
    sizes = [json.loads(path.read_text())["sizes"]["test"] for path in sorted(made.folder.rglob("result.json"))]
    assert sizes == [23, 23, 22]
    parts = {"train": given, "test": given}
    with pytest.raises(InputError, match="split already into train, test"):
        bench(parts, ["joint"], out=tmp_path / "parts", **how)
    with pytest.raises(InputError, match="split already; hand in what it was made of"):
        bench(load_data(given), ["joint"], out=tmp_path / "ready", **{**how, "modalities": None})


@pytest.mark.parametrize(
    ("settings", "splits", "match"),
    [
        ({"group": "who", "split": None}, 2, "3 groups for 4 folds; expected as many at least"),
        ({"folds": 31}, 2, "rarest class .* is in 30 rows, fewer than 31 folds"),
        ({"folds": "rep"}, 5, "the column 'rep' has 4 values, which are folds 0 to 3"),
        ({"folds": "repp"}, 2, "unknown column of folds 'repp'; did you mean 'rep'"),
        ({"fold": 1}, 2, "data.fold is 1 and splits 2"),
    ],
)
def test_splits_that_cannot_be_are_refused_before_anything_is_written(recipes, tmp_path, settings, splits, match):
    plan = recipes("one")
    plan["one"].data = replace(plan["one"].data, **settings)
    with pytest.raises(InputError, match=match):
        run(plan, entries(["joint"]), 1, tmp_path / "bench", splits=splits)
    assert not (tmp_path / "bench").exists()


def test_a_run_that_another_process_has_claimed_is_waited_for_and_taken_over(recipes, tmp_path, monkeypatch):
    monkeypatch.setattr("modalign.experiments.bench._LOOK_AGAIN", 0.05)
    run(recipes("one"), entries(["late_fusion"]), 1, tmp_path / "bench")
    claimed = tmp_path / "bench/runs/one/joint/seed0"
    with locked(claimed):
        worker = threading.Thread(target=run, args=(recipes("one"), entries(["joint"]), 2, tmp_path / "bench"))
        worker.start()
        other = tmp_path / "bench/runs/one/joint/seed1/done"
        deadline = time.monotonic() + 30
        while not other.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert other.exists()
        assert not (claimed / "done").exists()
    worker.join(30)
    assert (claimed / "done").exists()


def test_the_search_is_fair_on_validation_and_never_reads_the_test_split(recipes, tmp_path):
    out = run(recipes("one"), entries(["joint", "infonce"]), 1, tmp_path / "bench", tune=4, tune_seeds=2)
    searched = list((out / "tune").rglob("result.json"))
    for path in searched:
        result = json.loads(path.read_text())
        assert set(result["metrics"]) == {"valid"}
        assert result["seed"] >= 1000
        assert not (path.parent / "predictions_test.npz").exists()
    prints = {json.loads(path.read_text())["fingerprint"] for path in searched}
    assert len(prints) == 2  # another validation part for each run of a trial
    chosen = {entry["row"]: entry for entry in json.loads((out / "tune.json").read_text())["chosen"]}
    for name, own in chosen.items():
        assert len(own["trials"]) == 4
        assert own["trials"][0]["lr"] == 0.05  # the recipe's is where it starts
        assert own["value"] == min(trial["value"] for trial in own["trials"] if trial["state"] == "complete")
        final = RunFolder(out / "runs" / "one" / name / "seed0").result()
        assert final["lr"] == own["chosen"]["lr"]
        assert own["chosen"]["options"].items() <= final["options"].items()
    assert set(chosen["joint"]["chosen"]["options"]) == set()
    assert set(chosen["infonce"]["chosen"]["options"]) == {"weight", "temperature"}
    stamps = {path: path.stat().st_mtime_ns for path in searched}
    run(recipes("one"), entries(["joint", "infonce"]), 2, out, tune=4, tune_seeds=2)
    assert {path: path.stat().st_mtime_ns for path in (out / "tune").rglob("result.json")} == stamps


def test_an_option_that_is_given_is_not_searched_and_the_space_holds_where_it_starts(recipes, tmp_path):
    plan = recipes("one")
    plan["one"].training.lr = 5.0
    plan["one"].strategies = {"infonce": {"weight": 7.0}}

    def study(fixed: frozenset[str]) -> Study:
        spec = RunSpec("infonce", 1000, plan["one"], {"weight": 7.0})
        return Study("one", "infonce", None, (spec,), fixed, 3, tmp_path / "s", None, Objects(), (None,))

    assert study(frozenset()).space() == {"lr": (1e-3, 50.0), "weight": (0.03, 7.0), "temperature": (0.03, 0.3)}
    assert set(study(frozenset({"weight"})).space()) == {"lr", "temperature"}
    assert study(frozenset()).start() == {"lr": 5.0, "weight": 7.0, "temperature": 0.07}


def test_a_method_that_solves_for_its_parameters_has_no_learning_rate_to_search(recipes, tmp_path):
    spec = RunSpec("linear", 1000, recipes("one")["one"], {})
    study = Study("one", "linear", None, (spec,), frozenset(), 2, tmp_path / "s", None, Objects(), (None,))
    assert set(study.space()) == set(study.start()) == {"l1_ratio"}
    assert study.work() is None
    chosen = study.found().chosen
    assert chosen.lr == spec.recipe.training.lr
    assert 0.1 <= chosen.options["l1_ratio"] <= 0.9


def test_a_search_that_was_killed_goes_on_with_its_trial(recipes, tmp_path):
    spec = RunSpec("joint", 1000, recipes("one")["one"], {})
    one = Study("one", "joint", None, (spec,), frozenset(), 3, tmp_path / "s", None, Objects(), (None,))
    opened = one._open()
    opened.enqueue_trial(one.start())
    opened.ask(one.distributions())  # and then killed
    assert not one.done
    one.work()
    assert one.done
    assert [trial["state"] for trial in one.found().trials] == ["complete"] * 3
    again = Study("one", "joint", None, (spec,), frozenset(), 3, tmp_path / "t", None, Objects(), (None,))
    again.work()
    assert [t["lr"] for t in again.found().trials] == [t["lr"] for t in one.found().trials]


def test_a_broken_search_storage_is_said_and_runs_are_kept(recipes, tmp_path):
    out = run(recipes("one"), entries(["joint"]), 1, tmp_path / "bench", tune=1, tune_seeds=1)
    journal = out / "tune/one/joint/search/journal.log"
    journal.write_text("{" + journal.read_text())
    with pytest.raises(InputError, match=r"search storage .*journal\.log cannot be read .*move .*search away"):
        run(recipes("one"), entries(["joint"]), 2, out, tune=1, tune_seeds=1)
    assert (out / "runs/one/joint/seed0/done").exists()


def test_a_search_in_a_database_and_one_that_does_not_answer(recipes, tmp_path):
    url = f"sqlite:///{tmp_path}/search.db"
    out = run(recipes("one"), entries(["joint"]), 1, tmp_path / "bench", tune=1, tune_seeds=1, storage=url)
    assert not list(out.rglob("journal.log"))
    (tmp_path / "search.db").write_text("no database")
    with pytest.raises((RunError, InputError), match=r"search storage sqlite:.*"):
        run(recipes("one"), entries(["joint"]), 2, out, tune=1, tune_seeds=1, storage=url)


def test_what_diverges_loses_the_search(recipes, tmp_path):
    plan = recipes("one")
    plan["one"].training.lr = plan["one"].training.weight_decay = 1e6
    plan["one"].training.epochs = 2
    with pytest.raises(RunsFailed, match=r"every setting that was tried diverged; lower lr"):
        run(plan, entries(["joint"]), 1, tmp_path / "bench", tune=1, tune_seeds=1)


def test_ablation_has_the_rows_of_table_2(recipes, tmp_path):
    out = run(recipes("one"), ABLATION, 1, tmp_path / "bench")
    write_tables(read_runs(out / "runs"), out)
    rows = {row["strategy"]: row["title"] for row in csv.DictReader((out / "table.csv").open())}
    assert rows == {
        "no_objective": "W/o CMI objective",
        "no_margin": "W/o protective margin",
        "no_prior": "W/o context-aware prior",
        "no_context": "W/o semantic context",
        "no_heads": "W/o unimodal heads",
        "no_readout_critic": "W/o critic in the readout",
        "modalign": "ModAlign (full)",
    }


def test_what_is_not_defined_for_the_data_is_left_out_of_all_with_a_line(recipes, tmp_path, capsys):
    plan = recipes("one")
    plan["one"].data.modalities = ["a"]
    rows = entries(["joint", "infonce"])
    with pytest.raises(InputError, match="needs at least 2"):
        run(plan, rows, 1, tmp_path / "bench")
    out = run(plan, rows, 1, tmp_path / "bench", skip=True, quiet=False)
    assert "left out on one: strategy 'infonce' relates modalities" in capsys.readouterr().out
    assert [path.name for path in (out / "runs/one").iterdir()] == ["joint"]


def test_the_reference_is_kept_with_the_bench(recipes, tmp_path):
    rows = entries(["joint", "late_fusion"])
    with pytest.raises(InputError, match="unknown method to compare with 'modalign'"):
        run(recipes("one"), rows, 1, tmp_path / "bench", reference="modalign")
    out = run(recipes("one"), rows, 1, tmp_path / "bench", reference="late_fusion")
    assert {row.reference for row in Bench(out).rows} == {"late_fusion"}
    assert "Difference to Late fusion" in (Bench(out).write()[1]).read_text()


def test_bad_plans_are_refused_before_anything_is_written(recipes, tmp_path):
    out = tmp_path / "bench"
    for rows, seeds, match in (
        ([], 1, "no strategy given"),
        (entries(["joint"]), 0, "seeds is 0"),
        (entries(["joint", "joint"]), 1, "given twice: joint"),
        (entries(["jiont"]), 1, "did you mean 'joint'"),
    ):
        with pytest.raises(InputError, match=match):
            run(recipes("one"), rows, seeds, out)
    with pytest.raises(InputError, match="options for 'pmr', which is not among"):
        entries(["joint"], {"pmr": {"alpha": 1}})
    assert not out.exists()
