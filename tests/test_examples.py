"""Every example runs."""

from __future__ import annotations

import runpy

import pytest

from modalign import cli


def test_own_loop(root, capsys):
    runpy.run_path(str(root / "examples" / "own_loop.py"))
    shown = capsys.readouterr().out
    assert float(shown.split("test accuracy")[1]) > 0.85


def test_the_objective_takes_about_ten_lines(root):
    text = (root / "examples" / "own_loop.py").read_text()
    between = text.split("# -- ModAlign: Algorithm 1")[1].split("\n", 1)[1].split("# ----")[0]
    assert len([line for line in between.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("name", ["own_strategy.py"])
def test_own_strategy(root, tmp_path, name):
    path = str(root / "examples" / name)
    cli.main(["train", "digits", "--strategy", path, "--training.epochs", "1", "--out", str(tmp_path / "run")])
    assert (tmp_path / "run" / "done").exists()
