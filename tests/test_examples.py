"""Every example runs."""

from __future__ import annotations

import runpy

import pytest

import modalign
from modalign import cli


def test_own_loop(root, capsys):
    runpy.run_path(str(root / "examples" / "own_loop.py"))
    shown = capsys.readouterr().out
    assert float(shown.split("test accuracy")[1]) > 0.85


def test_the_objective_takes_about_ten_lines(root):
    text = (root / "examples" / "own_loop.py").read_text()
    between = text.split("# -- ModAlign: Algorithm 1")[1].split("\n", 1)[1].split("# ----")[0]
    assert len([line for line in between.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("name", ["own_modules.py", "torch_dataset.py", "raw_files.py"])
def test_scripts_of_the_python_door(root, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(root / "examples" / name))
    shown = capsys.readouterr().out
    assert {
        "own_modules.py": "joint 0." in shown,
        "torch_dataset.py": "table adds" in shown and len(list(tmp_path.glob("runs/*/curves.png"))) == 1,
        "raw_files.py": "new2" in shown and "False" in shown.split("face_present")[1],
    }[name]


def test_a_recipe_of_ones_own_classes(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root / "examples")
    out, own = str(tmp_path / "run"), "own_classes.py:Distilled"
    line = ["train", "own_recipe.yaml", "--strategy", own, "--training.epochs", "1", "--out", out]
    with pytest.raises(SystemExit) as stopped:
        cli.main(line)
    assert stopped.value.code == 2, "code that a recipe names runs only where that is asked for"
    cli.main([*line, "--allow-code"])
    run = modalign.load_run(out, trust_code=True)
    assert run.model.dims == {"picture": 48, "sums": 32}
    assert run.model.fusion.width == 24
    assert run.strategy.options.weight == 0.5


@pytest.mark.parametrize("name", ["own_strategy.py"])
def test_own_strategy(root, tmp_path, name):
    path = str(root / "examples" / name)
    cli.main(["train", "digits", "--strategy", path, "--training.epochs", "1", "--out", str(tmp_path / "run")])
    assert (tmp_path / "run" / "done").exists()
