"""Reading runs and comparing them: numbers worked by hand, broken runs named, the rest shown."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from modalign.errors import InputError
from modalign.evaluation.statistics import mean_interval, paired
from modalign.experiments.bench import ABLATION
from modalign.reporting.runs import ORDER, Row, across, compare, order_key, read_run, read_runs
from modalign.reporting.tables import markdown, show_tables, write_tables
from modalign.strategies import strategy_names

MakeRun = Callable[..., Path]


def test_reads_a_bench_and_names_what_is_wrong(bench: Path) -> None:
    runs = read_runs(bench)
    assert len(runs) == 25
    states = {str(r.path.relative_to(bench / "runs")): r for r in runs if r.state != "done"}
    assert states["letters/joint/seed2"].state == "unfinished"
    assert "12 epochs" in states["letters/joint/seed2"].reason
    assert states["letters/infonce/seed2"].state == "broken"
    assert "result.json" in states["letters/infonce/seed2"].reason
    assert states["letters/infonce/seed2"].strategy == "infonce"
    assert states["letters/pmr/seed0"].state == "unfinished"
    assert states["letters/pmr/seed0"].strategy == "pmr"
    rows = {(r.dataset, r.strategy): r for r in compare(runs)}
    assert rows["letters", "joint"].seeds == 2
    assert rows["letters", "ogm_ge"].seeds == 3
    assert ("letters", "pmr") not in rows


def test_rows_by_hand(tmp_path: Path, make_run: MakeRun) -> None:
    accuracies = {"joint": [0.5, 0.6, 0.7], "modalign": [0.6, 0.65, 0.8], "unimodal": [0.4, 0.4, 0.4]}
    for strategy, values in accuracies.items():
        for seed, value in enumerate(values):
            make_run(tmp_path / strategy / f"seed{seed}", strategy, seed, accuracy=value)
    rows = compare(read_runs(tmp_path))
    assert [row.strategy for row in rows] == ["unimodal", "joint", "modalign"]
    single, joint, ours = rows
    expected = mean_interval(accuracies["joint"])
    assert (joint.mean, joint.ci_low, joint.ci_high) == (expected.mean, expected.low, expected.high)
    assert [single.rank, joint.rank, ours.rank] == [3, 2, 1]
    assert joint.difference == pytest.approx(-(0.1 + 0.05 + 0.1) / 3)
    test_joint = paired(accuracies["joint"], accuracies["modalign"])
    test_single = paired(accuracies["unimodal"], accuracies["modalign"])
    small, large = sorted([test_joint.p, test_single.p])
    assert {round(joint.p_holm, 9), round(single.p_holm, 9)} == {
        round(2 * small, 9),
        round(max(large, 2 * small), 9),
    }
    assert np.isnan(ours.difference)
    assert joint.selection_gap == pytest.approx(0.01)
    assert joint.last_epoch == pytest.approx(joint.mean - 0.004)
    assert (ours.lr, ours.option, joint.option) == ("0.02", "alpha=3.0", "")
    assert joint.seconds == pytest.approx(19.5)


def test_lower_is_better_for_errors(tmp_path: Path, make_run: MakeRun) -> None:
    for strategy, error in (("joint", 0.9), ("modalign", 0.7)):
        metrics = {"valid": {"mae": error - 0.1}, "test": {"mae": error}, "test_last": {"mae": error}}
        make_run(tmp_path / strategy, strategy, task="regression", metric="mae", metrics=metrics)
    joint, ours = compare(read_runs(tmp_path))
    assert (joint.metric, joint.rank, ours.rank) == ("mae", 2, 1)
    assert joint.selection_gap == pytest.approx(0.1)
    assert "0.700" in markdown([joint, ours])


def test_pairs_are_common_seeds(tmp_path: Path, make_run: MakeRun) -> None:
    for strategy, seeds in (("joint", (0, 1)), ("modalign", (1, 2))):
        for seed in seeds:
            make_run(tmp_path / strategy / str(seed), strategy, seed, accuracy=0.5 + 0.1 * (strategy == "modalign"))
    joint = compare(read_runs(tmp_path))[0]
    assert joint.difference == pytest.approx(-0.1)
    assert np.isnan(joint.p)


def test_order_is_the_papers() -> None:
    names = ["modalign", "pmr", "no_prior", "late_fusion", "joint", "no_margin", "mine", "unimodal"]
    expected = ["unimodal", "late_fusion", "joint", "pmr", "no_margin", "no_prior", "mine", "modalign"]
    assert sorted(names, key=order_key) == expected


def test_variants_are_rows_of_their_own(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a", "modalign", accuracy=0.7, variant="no_margin", title="W/o protective margin")
    make_run(tmp_path / "b", "modalign", accuracy=0.8)
    assert [row.title for row in compare(read_runs(tmp_path))] == ["W/o protective margin", "ModAlign"]


def test_searches_and_diverged_runs_are_told_from_results(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "runs" / "letters" / "joint" / "seed0", "joint")
    make_run(tmp_path / "tune" / "letters" / "joint" / "seed0", "joint", metrics={"valid": {"accuracy": 1.0}})
    lost = make_run(tmp_path / "runs" / "letters" / "pmr" / "seed0", "pmr")
    (lost / "done").unlink()
    (lost / "diverged.txt").write_text("loss is NaN in batch 3\n")
    runs = read_runs(tmp_path)
    assert [(run.strategy, run.state, run.reason) for run in runs] == [
        ("joint", "done", ""),
        ("pmr", "broken", "diverged: loss is NaN in batch 3"),
    ]
    assert read_runs(tmp_path / "tune")[0].state == "untested"


def test_written_tables(bench: Path, tmp_path: Path) -> None:
    runs = read_runs(bench)
    written = write_tables(runs, tmp_path / "out")
    assert [p.name for p in written] == ["table.csv", "table.md", "table.tex", "ranks.csv"]
    with written[0].open() as stream:
        rows = list(csv.DictReader(stream))
    assert {"dataset", "strategy", "metric", "mean", "ci_low", "ci_high", "seeds", "rank", "seconds"} <= set(rows[0])
    assert len(rows) == 8
    assert all(0 < float(row["mean"]) < 1 for row in rows)
    text = written[1].read_text()
    assert "## Across data sets" in text
    assert "seed2: broken, result.json cannot be read" in text
    assert "| OGM-GE |" in text
    shown = float(rows[0]["mean"]) * 100
    assert f"{shown:.1f}" in text
    tex = written[2].read_text()
    assert tex.count(r"\\") == 5
    assert r"\mathbf{" in tex


def test_ranks_across(bench: Path) -> None:
    rows = compare(read_runs(bench))
    table = {row.strategy: row for row in across(rows)}
    own = [row.rank for row in rows if row.strategy == "modalign"]
    assert table["modalign"].mean_rank == np.mean(own)
    assert table["modalign"].datasets == 2
    assert sum(row.wins for row in table.values()) == 2


def test_a_mean_rank_is_over_the_data_sets_on_which_a_method_has_one() -> None:
    ranks = {("a", "joint"): 1, ("b", "joint"): 2, ("a", "pmr"): 2, ("b", "pmr"): 1, ("b", "mine"): 3}
    rows = [Row(d, m, m, "accuracy", 0.5, 0.4, 0.6, 3, rank=rank) for (d, m), rank in ranks.items()]
    rows.append(Row("a", "lost", "lost", "accuracy", np.nan, np.nan, np.nan, 3))
    found = {row.strategy: row.mean_rank for row in across(rows)}
    assert np.isnan(found.pop("lost"))
    assert found == {"joint": 1.5, "pmr": 1.5, "mine": 3}


def test_latex_is_escaped(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run", "diagnose_relearn", title="D&R", dataset="a_b")
    tex = write_tables(read_runs(tmp_path), tmp_path)[2].read_text()
    assert r"D\&R" in tex
    assert r"a\_b" in tex
    assert r"\pm" not in tex


def test_one_run_and_no_run(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "a" / "run")
    assert len(read_runs(run)) == len(read_runs([run, tmp_path])) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no run in"):
        read_runs(tmp_path / "empty")
    with pytest.raises(InputError, match="no folder"):
        read_runs(tmp_path / "absent")


def test_the_order_of_a_report_is_that_of_the_methods() -> None:
    expected = [*strategy_names(), *(variant.name for variant in ABLATION)]
    assert list(ORDER) == [name for name in expected if name != "modalign"]


def test_reports_need_no_torch() -> None:
    code = "import modalign.reporting.page, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_run_of_version_0_1_0_is_read(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run")
    now = read_run(run).epochs
    lines = [{"facts" if key == "log" else key: value for key, value in line.items()} for line in now]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_run(run).epochs == now


def test_brackets_in_names_are_no_markup(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run", title="[red]mine[/]", dataset="[bold]a")
    console = Console(width=150)
    with console.capture() as shown:
        show_tables(compare(read_runs(tmp_path)), console)
    assert "[red]mine[/]" in shown.get()
    assert "[bold]a" in shown.get()
    assert "18.5" in shown.get()  # seconds in all
