"""Comparisons: complete and resumable, searched on validation, refused where settings differ."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from modalign.api import Bench
from modalign.errors import InputError, RunsFailed
from modalign.experiments.bench import ABLATION, LR_FACTORS, entries, run_bench
from modalign.reporting.runs import read_runs
from modalign.reporting.tables import write_tables
from modalign.settings import DataSettings
from modalign.training.run import RunFolder


@pytest.fixture
def recipes(tmp_path, small_recipe):
    """``recipes(name, ...)``: a recipe for each name, on one small file."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    a, b = (rng.normal(size=(3, d))[y] + rng.normal(size=(90, d)) for d in (4, 5))
    np.savez(tmp_path / "data.npz", a=a, b=b, y=y, rep=np.arange(90) % 4)

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


def test_search_is_on_validation_with_other_seeds_and_never_reads_the_test_split(recipes, tmp_path):
    out = run(recipes("one"), entries(["joint", "infonce"]), 1, tmp_path / "bench", tune=True, tune_seeds=1)
    searched = list((out / "tune").rglob("result.json"))
    for path in searched:
        result = json.loads(path.read_text())
        assert set(result["metrics"]) == {"valid"}
        assert result["seed"] >= 1000
        assert not (path.parent / "predictions_test.npz").exists()
    # Three learning rates each; then two more values of InfoNCE's weight. Joint training has no main option.
    assert len(searched) == 3 + 3 + 2
    kept = json.loads((out / "tune.json").read_text())
    chosen = {entry["row"]: entry for entry in kept["chosen"]}
    for name in ("joint", "infonce"):
        tried = [entry for entry in kept["searched"] if entry["row"] == name]
        assert {entry["lr"] for entry in tried} == {0.05 * factor for factor in LR_FACTORS}
        assert max(entry["valid"] for entry in tried) == next(
            entry["valid"]
            for entry in tried
            if (entry["lr"], entry["options"]) == (chosen[name]["lr"], chosen[name]["options"])
        )
        final = RunFolder(out / "runs" / "one" / name / "seed0").result()
        assert final["lr"] == chosen[name]["lr"]
        assert chosen[name]["options"].items() <= final["options"].items()


def test_a_learning_rate_that_diverges_loses_the_search(recipes, tmp_path):
    plan = recipes("one")
    plan["one"].training.lr = 1e18  # a third of it diverges as well, but not every start of every seed
    plan["one"].training.epochs = 2
    with pytest.raises(RunsFailed, match=r"every learning rate diverged for joint on one; lower --training\.lr"):
        run(plan, entries(["joint"]), 1, tmp_path / "bench", tune=True, tune_seeds=1)
    assert list((tmp_path / "bench").rglob("diverged.txt"))


def test_ablation_has_the_rows_of_table_2(recipes, tmp_path):
    out = run(recipes("one"), ABLATION, 1, tmp_path / "bench")
    write_tables(read_runs(out / "runs"), out)
    rows = {row["strategy"]: row["title"] for row in csv.DictReader((out / "table.csv").open())}
    assert rows == {
        "no_objective": "W/o CMI objective",
        "no_margin": "W/o protective margin",
        "no_prior": "W/o context-aware prior",
        "no_context": "W/o semantic context",
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
