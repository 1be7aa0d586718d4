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
import yaml
from rich.console import Console

import modalign
from modalign.errors import InputError
from modalign.evaluation.statistics import mean_interval, split_interval
from modalign.experiments.bench import ABLATION
from modalign.reporting.findings import warnings
from modalign.reporting.runs import (
    ORDER,
    Row,
    across,
    compare,
    missing_folds,
    order_key,
    read_run,
    read_runs,
)
from modalign.reporting.tables import data_card, markdown, show_tables, write_tables
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
    accuracies = {
        "joint": [0.5, 0.6, 0.7, 0.6, 0.5], "modalign": [0.6, 0.65, 0.8, 0.7, 0.7], "unimodal": [0.4] * 5,
    }  # fmt: skip
    for strategy, values in accuracies.items():
        for seed, value in enumerate(values):
            make_run(tmp_path / strategy / f"seed{seed}", strategy, seed, accuracy=value)
    rows = compare(read_runs(tmp_path))
    assert [row.strategy for row in rows] == ["unimodal", "joint", "modalign"]
    single, joint, ours = rows
    expected = mean_interval(accuracies["joint"])
    assert (joint.mean, joint.ci_low, joint.ci_high) == (expected.mean, expected.low, expected.high)
    assert [single.rank, joint.rank, ours.rank] == [3, 2, 1]
    assert joint.difference == pytest.approx(-(0.1 + 0.05 + 0.1 + 0.1 + 0.2) / 5)
    assert (joint.interval, joint.pairs, joint.reference) == ("seeds", 5, "modalign")  # predictions give other scores
    gaps = [np.subtract(accuracies[name], accuracies["modalign"]) for name in ("joint", "unimodal")]
    small, large = sorted(mean_interval(gap).p for gap in gaps)
    assert {round(joint.p_holm, 9), round(single.p_holm, 9)} == {
        round(2 * small, 9),
        round(max(large, 2 * small), 9),
    }
    assert np.isnan(ours.difference)
    assert joint.selection_gap == pytest.approx(0.01)
    assert joint.last_epoch == pytest.approx(joint.mean - 0.004)
    assert (ours.lr, ours.option, joint.option) == ("0.02", "alpha=3.0", "")
    assert joint.seconds == pytest.approx(20.5)


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


def write_splits(folder: Path, make_run: MakeRun, scores: dict[str, list[list[float]]], **result: object) -> None:
    """``scores``: method to a list a split of its scores by seed."""
    for strategy, splits in scores.items():
        for split, values in enumerate(splits):
            for seed, value in enumerate(values):
                at = folder / strategy / f"split{split}-seed{seed}"
                sizes = {"train": 120, "valid": 30, "test": 50}
                more = {"fingerprint": f"print{split}", "contents": "one", "sizes": sizes} | result
                make_run(at, strategy, seed, accuracy=value, **more)
                plain = yaml.safe_load((at / "recipe.yaml").read_text())
                plain["recipe"]["data"]["fold"] = split
                (at / "recipe.yaml").write_text(yaml.safe_dump(plain))


def test_splits_of_one_data_set_are_merged_and_paired(tmp_path: Path, make_run: MakeRun) -> None:
    scores = {"joint": [[0.5, 0.6], [0.7, 0.7], [0.6, 0.6]], "modalign": [[0.7, 0.6], [0.7, 0.8], [0.7, 0.9]]}
    write_splits(tmp_path, make_run, scores)
    joint, ours = compare(read_runs(tmp_path))
    assert (joint.splits, joint.seeds, joint.pairs, joint.interval) == (3, 2, 6, "splits")
    expected = split_interval([0.55, 0.7, 0.6], 50 / 150)
    assert (joint.mean, joint.ci_low) == (pytest.approx(expected.mean), pytest.approx(expected.low))
    gap = split_interval([-0.1, -0.05, -0.2], 50 / 150)
    assert (joint.difference, joint.difference_high) == (pytest.approx(gap.mean), pytest.approx(gap.high))
    assert np.isnan(joint.p), "three splits are three values, however many seeds each has"
    assert ours.ci_high <= 1
    text = markdown([joint, ours])
    assert "| Splits | Seeds |" in text
    assert "over splits" in text


def test_splits_that_are_alike_by_chance_vary_by_their_test_units(tmp_path: Path, make_run: MakeRun) -> None:
    """The same predictions on each of three splits: what is known is how much 9 speakers' samples tell."""
    for strategy in ("joint", "modalign"):
        for split in range(3):
            folder = make_run(tmp_path / f"{strategy}{split}", strategy, 0, fingerprint=f"print{split}", contents="one")
            plain = yaml.safe_load((folder / "recipe.yaml").read_text())
            plain["recipe"]["data"]["fold"] = split
            (folder / "recipe.yaml").write_text(yaml.safe_dump(plain))
    joint, _ = compare(read_runs(tmp_path))
    assert joint.sd == pytest.approx(0, abs=1e-12)
    assert 0 < joint.ci_high - joint.mean < 0.2
    assert 0 < joint.difference_high - joint.difference < 0.2
    for kept in tmp_path.glob("*/predictions_test.npz"):
        kept.unlink()
    joint, _ = compare(read_runs(tmp_path))
    assert joint.ci_high - joint.mean == pytest.approx(0, abs=1e-12)


def fold_runs(folder: Path, make_run: MakeRun, folds: range, scored: str = "patient", strategy: str = "joint") -> None:
    """Runs on published folds, of which fold k is right .5 + k/100 of the time by patch and .1 more by patient."""
    for k in folds:
        by_patch = {"accuracy": 0.5 + k / 100, "f1_IV": 0.9}
        by_patient = {"accuracy": 0.6 + k / 100, "f1_IV": 0.8}
        metrics = {"test": by_patient, "test_patch": by_patch, "test_patient": by_patient, "valid": by_patient}
        about = {"metrics": metrics, "fingerprint": f"f{k}", "fold": [k, 15], "scored": scored}
        sizes = {"train": 60, "valid": 20, "test": 20}
        run = make_run(folder / strategy / f"{scored}{k}", strategy, 0, "glioma", **about, sizes=sizes)
        recipe = yaml.safe_load((run / "recipe.yaml").read_text())
        recipe["recipe"]["data"]["fold"] = k - 1
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def test_published_folds_are_one_row_by_each_way_to_count(tmp_path: Path, make_run: MakeRun) -> None:
    fold_runs(tmp_path, make_run, range(1, 16))
    (row,) = compare(read_runs(tmp_path))
    values = 0.6 + np.arange(1, 16) / 100
    assert (row.splits, row.mean, row.sd) == (15, pytest.approx(values.mean()), pytest.approx(values.std(ddof=1)))
    found, sd = row.units["patch"]["accuracy"]
    expected = split_interval(values - 0.1, 0.25)
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))
    assert sd == pytest.approx(values.std(ddof=1))
    assert row.plain()["test_patch_accuracy"] == pytest.approx(values.mean() - 0.1)
    text = markdown([row])
    assert "| Method | Counted by | accuracy (%) | F1 of IV (%) |" in text
    assert (
        f"| Joint-Train | patch | 58.0 ± 4.5 [{100 * expected.low:.1f}, {100 * expected.high:.1f}] | 90.0 ± 0.0" in text
    )
    assert missing_folds(read_runs(tmp_path)) == []


def test_missing_folds_are_named_and_counted(tmp_path: Path, make_run: MakeRun) -> None:
    fold_runs(tmp_path, make_run, range(1, 13))
    fold_runs(tmp_path, make_run, range(2, 16), strategy="modalign")
    runs = read_runs(tmp_path)
    told = missing_folds(runs)
    assert told[0].startswith("glioma: Joint-Train has 12 of 15 published folds; missing are 13, 14 and 15: run them")
    assert told[1].startswith("glioma: ModAlign has 14 of 15 published folds; missing is 1:")
    assert set(told) <= set(warnings(runs, compare(runs)))


def test_runs_that_count_otherwise_are_not_merged(tmp_path: Path, make_run: MakeRun) -> None:
    fold_runs(tmp_path, make_run, range(1, 4))
    fold_runs(tmp_path, make_run, range(4, 6), scored="patch")
    with pytest.raises(InputError, match="'glioma' are of 2 units that metrics count"):
        compare(read_runs(tmp_path))


def test_one_split_counts_its_test_units_too(tmp_path: Path, make_run: MakeRun) -> None:
    for strategy in ("joint", "modalign"):
        for seed in range(5):
            make_run(tmp_path / strategy / str(seed), strategy, seed)
    joint, ours = compare(read_runs(tmp_path))
    assert joint.interval == "seeds and test units"
    only_seeds = mean_interval([run.metric("test", "accuracy") for run in read_runs(tmp_path / "joint")])
    assert joint.mean == pytest.approx(only_seeds.mean)
    assert joint.ci_high - joint.ci_low > only_seeds.high - only_seeds.low
    assert joint.p < 0.05
    assert ours.difference_low != ours.difference_low  # none with itself


def test_intervals_are_over_the_units_that_metrics_count(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "joint" / "seed0", "joint", 0, samples=180, scored="region")
    kept = dict(np.load(run / "predictions_test.npz"))
    units = np.array([f"{c}-{i // 18}" for i, c in enumerate(kept["target"])])  # 60 of three samples of one class
    mean = {u: np.exp(kept["scores"][units == u]).mean(0).argmax() == int(u.split("-")[0]) for u in set(units)}
    result = json.loads((run / "result.json").read_text())
    result["metrics"]["test"] = {"accuracy": float(np.mean(list(mean.values())))}
    (run / "result.json").write_text(json.dumps(result))
    np.savez(run / "predictions_test.npz", **kept)
    (row,) = compare(read_runs(tmp_path))
    assert row.interval != "test units", "groups are no regions, and give another score"
    np.savez(run / "predictions_test.npz", **kept, units=units)
    (row,) = compare(read_runs(tmp_path))
    assert (row.interval, row.mean) == ("test units", result["metrics"]["test"]["accuracy"])
    assert row.ci_low < row.mean < row.ci_high


def test_nothing_is_claimed_below_five_pairs_or_without_variance(tmp_path: Path, make_run: MakeRun) -> None:
    for strategy, values in {"joint": [0.5] * 5, "infonce": [0.6, 0.61], "modalign": [0.7] * 5}.items():
        for seed, value in enumerate(values):
            make_run(tmp_path / strategy / str(seed), strategy, seed, accuracy=value)
    rows = {row.strategy: row for row in compare(read_runs(tmp_path))}
    assert rows["infonce"].pairs == 2
    assert np.isnan([rows["joint"].p, rows["joint"].p_holm, rows["infonce"].p]).all()


def test_what_is_of_other_data_or_code_is_not_merged(tmp_path: Path, make_run: MakeRun) -> None:
    one = make_run(tmp_path / "a", "joint", contents="one")
    make_run(tmp_path / "b", "modalign", contents="two", fingerprint="other")
    with pytest.raises(InputError, match=r"'letters' are of 2 versions of the data, such as .*a and .*b"):
        compare(read_runs(tmp_path))
    make_run(tmp_path / "c" / "d", "modalign", contents="one", fingerprint="changed")
    with pytest.raises(InputError, match="2 versions of one split"):
        compare([*read_runs(one), *read_runs(tmp_path / "c")])
    run = make_run(tmp_path / "e" / "f", "modalign", contents="one")
    for path, version in ((one, "0.2.0"), (run, "0.3.0")):
        (path / "environment.json").write_text(json.dumps({"packages": {"modalign": version}}))
    with pytest.raises(InputError, match="2 versions of modalign"):
        compare([*read_runs(one), *read_runs(run)])


def test_another_reference_and_its_tallies(bench: Path, tmp_path: Path, make_run: MakeRun) -> None:
    runs = read_runs(bench)
    rows = compare(runs, "ogm_ge")
    assert {row.reference for row in rows} == {"ogm_ge"}
    assert "Difference to OGM-GE" in markdown(rows)
    with pytest.raises(InputError, match="unknown method to compare with 'ogmge'; did you mean 'ogm_ge'"):
        compare(runs, "ogmge")
    make_run(tmp_path / "x", "joint")
    assert compare(read_runs(tmp_path / "x"))[0].reference == "joint"


def test_data_with_a_caution_is_shown_and_not_averaged(bench: Path) -> None:
    runs = read_runs(bench)
    for run in runs:
        if run.dataset == "digits":
            run.settings["data"]["caution"] = "seen before"
    rows = compare(runs)
    assert {row.datasets for row in across(rows)} == {1}
    text = markdown(rows)
    assert "Left out of averages over data sets: seen before" in text
    assert "## digits" in text
    assert "## Across data sets" not in text


def test_wins_ties_and_losses_by_hand() -> None:
    means = {"joint": [0.50, 0.60, 0.70], "pmr": [0.55, 0.605, 0.60], "modalign": [0.6, 0.6, 0.7]}
    places = {"joint": [3, 2.5, 1.5], "pmr": [2, 1, 3], "modalign": [1, 2.5, 1.5]}
    rows = [
        Row(str(d), name, name, "accuracy", value, 0, 1, 3, rank=places[name][d], reference="modalign")
        for name, values in means.items()
        for d, value in enumerate(values)
    ]
    found = {row.strategy: row for row in across(rows)}
    assert [found[name].against_reference for name in means] == ["0/2/1", "0/1/2", ""]
    assert [found[name].against_baseline for name in means] == ["1/1/1", "", "2/1/0"]  # PMR: mean rank 2 before 2.33
    assert found["joint"].worse + found["joint"].same + found["joint"].better == pytest.approx(1)
    assert "Friedman" in markdown(rows)


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
    main, *metrics = tex.split(r"\end{tabular}")[:-1]
    assert main.count(r"\\") == 5
    assert main.count(r"\midrule") == 3  # joint training, balanced, ModAlign
    assert r"\mathbf{" in main
    assert [part.strip().splitlines()[0] for part in metrics] == [
        f"% All metrics of the test split of {name}" for name in ("digits", "letters")
    ]
    assert "macro F1" in metrics[0]
    assert all(r"\mathbf{" in part for part in metrics)


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
    make_run(tmp_path / "run", "diagnose_relearn", title="D&R", dataset="a_b", accuracy=0.5)
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


def test_the_data_card_counts_parts_classes_groups_and_what_is_missing(tmp_path):
    label = np.arange(100) % 4 // 3  # three to one
    data = {"a": np.random.default_rng(0).normal(size=(100, 3)), "b": np.ones((100, 2)), "y": label}
    data["b"] += np.arange(100)[:, None] % 7
    data["b"][:30] = np.nan
    data["who"] = np.arange(100) // 4
    run = modalign.train(
        data, "joint", target="y", group="who", split="who<5", epochs=1, out=tmp_path / "r", quiet=True
    )
    tables, notes = data_card(read_runs(tmp_path))
    parts, modalities = (table.frame.set_index(table.frame.columns[0]) for table in tables)
    assert parts.loc["Test", ["Samples", "Groups", "0", "1"]].tolist() == ["20", "5", "75.0", "25.0"]
    assert int(parts["Samples"].astype(int).sum()) == 100
    assert modalities.loc["b", "Missing in test (%)"] == "100.0"
    assert modalities.loc["a", ["Kind", "Shape", "Missing in test (%)"]].tolist() == ["vector", "3", "0.0"]
    assert notes
    (run.folder / "data.json").unlink()
    assert data_card(read_runs(tmp_path)) == ([], [])
