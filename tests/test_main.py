"""``python -m modalign`` and ``torchrun -m modalign`` are the command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import modalign


def test_the_package_can_be_run():
    shown = subprocess.run([sys.executable, "-m", "modalign", "--version"], capture_output=True, text=True, check=True)
    assert modalign.__version__ in shown.stdout


@pytest.mark.slow
def test_torchrun_starts_it_in_several_processes(tmp_path):
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "modalign",
        "train",
        "digits",
    ]
    # A method of one's own is kept in the run by one process while the others still look whether the folder is free.
    mine = tmp_path / "mine.py"
    mine.write_text("from modalign.strategies.joint import Joint\n\n\nclass Mine(Joint):\n    title = 'Mine'\n")
    words += ["--strategy", str(mine), "--training.epochs", "1", "--training.accelerator", "cpu"]
    subprocess.run([sys.executable, *words, "--out", str(tmp_path / "two")], check=True, capture_output=True)
    lone = modalign.train("digits", "joint", epochs=1, accelerator="cpu", out=tmp_path / "one", quiet=True)
    two = json.loads((tmp_path / "two" / "result.json").read_text())
    assert (tmp_path / "two" / "code" / "mine.py").exists()
    assert abs(two["metrics"]["test"]["nll"] - lone.metrics["test"]["nll"]) < 1e-3
