"""What a person sees while runs are trained: lines that fit, names as they are, and bars where they can be drawn."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

import modalign
from modalign.training.progress import WIDTH, BenchDisplay, Display


@dataclass
class Job:
    label: str
    folder: Path


def test_lines_fit_and_brackets_are_no_markup(small_data, capsys: pytest.CaptureFixture[str]) -> None:
    data = small_data()
    data.notes.append("[red]rows[/] " + "dropped because of a missing label " * 6)
    display = Display("[bold]Mine :smile:", data, f"runs/{'long' * 40}", quiet=False)
    losses = {f"term_with_a_long_name_{i}": 0.5 for i in range(9)}
    with display.training(3, 4, 1):
        display.epoch({"epoch": 1, "train": losses, "valid": {"accuracy": 0.5}}, "accuracy", True)
    display.result({
        "metric": "accuracy", "metrics": {"test": {"accuracy": 0.5}, "test_last": {"accuracy": 0.25}},
        "selected_epoch": 1, "epochs": 3, "seconds": 2.0, "warnings": [],
    })  # fmt: skip
    shown = capsys.readouterr().out
    assert "[bold]Mine :smile: on small (m0, m1): 61 training" in shown
    assert "note: [red]rows[/] dropped" in shown
    assert "accuracy: test 0.5000; 2.0 s" in shown
    assert "  epoch 2 selected on validation; the last epoch's weights would have test 0.2500\n" in shown
    *lines, last = shown.splitlines()
    assert all(len(line) <= WIDTH for line in lines)
    (epoch,) = [line for line in lines if line.startswith("  epoch   2/3  term_with_a_long_name_0 0.500, ")]
    assert epoch.endswith("…  |  validation accuracy 0.5000 *")
    assert last == "long" * 40 or last.strip() == f"runs/{'long' * 40}"  # a path stays whole


def test_bars_are_drawn_in_notebooks_and_on_terminals(
    small_data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    display = Display("Joint", small_data(), "out", quiet=False)
    assert display._bar() is None  # a file or a pipe gets lines alone
    display._console = Console(force_jupyter=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert display._bar() is None  # a notebook without ipywidgets could show no bar
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert display._bar() is not None
    jobs = [Job("[x] joint seed 0", tmp_path / "a"), Job("b", tmp_path / "b")]
    bench = BenchDisplay("training", jobs, 1, quiet=False)
    bench._console = Console(force_terminal=True, width=120)
    with bench:
        (tmp_path / "a").mkdir()
        (tmp_path / "a/recipe.yaml").write_text("")
        bench._stop.wait(1.2)
        bench.finished(jobs[0], None)
        bench.finished(jobs[1], "loss is [NaN]")
    shown = capsys.readouterr().out
    assert "training: 2 runs, 1 done before" in shown
    assert "[x] joint seed 0 (epoch 0)" in shown
    assert "b: FAILED: loss is [NaN]; took" in shown
    assert "joint seed 0: done" not in shown  # the bar counts it
    assert "  1 of 2 done, 1 failed; took" in shown


@pytest.mark.parametrize("strategy", ["joint", "modalign"])
def test_a_training_on_a_terminal_of_100_columns_has_no_line_that_wraps(strategy: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("COLUMNS", "100")
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            modalign.train("digits", strategy, epochs=2, width=8, out="runs/digits")
    lines = shown.getvalue().splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert all(
        line.startswith(("  ", "accuracy: ")) and not line.startswith("    ") for line in lines[1:]
    )  # no rest of a line
    assert sum(line.startswith("  epoch   ") for line in lines) == 2
