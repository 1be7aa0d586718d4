"""Commands that are killed at any moment lose nothing: the same command goes on and ends as if nothing had happened.

A few kills here; with MODALIGN_KILLS=30 so many of each kind, which takes minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from modalign.training.run import RunFolder

KILLS = int(os.environ.get("MODALIGN_KILLS", "1"))
EPOCHS, JOBS = (30, "2") if KILLS > 1 else (6, "1")
pytestmark = [pytest.mark.slow, *([pytest.mark.timeout(0)] if KILLS > 1 else [])]
BUDGET = ["--training.epochs", str(EPOCHS), "--training.checkpoint_minutes", "0.0001", "--training.accelerator", "cpu"]
HOST = """
import os, sys
import modalign.cli, modalign.experiments.bench, modalign.reporting.page, modalign.data.media.manifest_media
import modalign.training.train, modalign.experiments.search, modalign.reporting.figures
for line in sys.stdin:  # everything is imported once; each command is a child that is killed
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 0
        try:
            modalign.cli.main(eval(line))
        except SystemExit as stop:
            status = int(stop.code or 0)
        os._exit(status)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Host:
    """A process that starts commands quickly."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
            env=environment,
        )  # fmt: skip

    def run(self, words: list[str], after: float | None = None) -> int:
        """Run a command and kill it after so many seconds; returns how it ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{words!r}\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        if after is not None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return int(self.process.stdout.readline())

    def killed(self, words: list[str], again: list[str], seconds: float, rng: random.Random, kills: int = KILLS) -> int:
        """Kill a command as often as asked for, at moments of its duration, then let it end; returns the kills."""
        done = 0
        for _ in range(kills):
            done += self.run(again if done else words, rng.uniform(0.0, seconds)) == -signal.SIGKILL
        for attempt in (again, words):
            if (status := self.run(attempt)) == 0:
                return done
        raise AssertionError(f"{words} ended with {status} after {done} kills")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    np.savez(folder / "d.npz", a=rng.normal(size=(120, 4)) + y[:, None], b=rng.normal(size=(120, 3)), y=y)
    for i in range(40):
        Image.new("RGB", (8, 8), (5 * i, 0, 0)).save(folder / f"face{i}.png")
    rows = pd.DataFrame({"id": range(40), "label": ["a", "b"] * 20, "face": [f"face{i}.png" for i in range(40)]})
    rows.to_csv(folder / "my.csv", index=False)
    (folder / "my.yaml").write_text("modalities:\n  face: {kind: image, size: 64}\n")
    started = Host(folder)
    started.folder = folder  # type: ignore[attr-defined]
    yield started
    started.process.kill()


def timed(work: Callable[[], int]) -> float:
    begun = time.monotonic()
    assert work() == 0
    return time.monotonic() - begun


def same_runs(first: Path, second: Path) -> None:
    a, b = (RunFolder(folder).load("last")["strategy"] for folder in (first, second))
    assert all(torch.equal(a[key], b[key]) for key in a)
    results = [json.loads((folder / "result.json").read_text()) for folder in (first, second)]
    for result in results:
        for name in ("seconds", "seconds_per_epoch", "peak_memory_mb"):
            result.pop(name)
    assert results[0] == results[1]
    assert len(RunFolder(first).metrics()) == len(RunFolder(second).metrics()) == EPOCHS
    assert not list(second.rglob("*.partial"))


@pytest.mark.parametrize("strategy", ["joint", "modalign", "reconboost", "ogm_ge"] if KILLS > 1 else ["modalign"])
def test_killed_trainings_end_as_one_that_was_not(host, strategy):
    words = ["train", "d.npz", "--strategy", strategy, *BUDGET, "--out"]
    seconds = timed(lambda: host.run([*words, f"{strategy}-whole"]))
    again = [*words, f"{strategy}-killed", "--resume"]
    count = host.killed([*words, f"{strategy}-killed"], again, 0.6 * seconds, random.Random(1))
    print(f"{strategy}: {count} kills of {seconds:.1f} s")
    same_runs(host.folder / f"{strategy}-whole", host.folder / f"{strategy}-killed")


def test_killed_benches_end_as_one_that_was_not(host):
    words = ["bench", "d.npz", "--strategies", "joint,late_fusion", "--seeds", "2", *BUDGET, "--jobs", JOBS, "--out"]
    seconds = timed(lambda: host.run([*words, "bench-whole"]))
    count = host.killed([*words, "bench-killed"], [*words, "bench-killed"], 0.6 * seconds, random.Random(2))
    print(f"bench: {count} kills of {seconds:.1f} s")
    for run in sorted((host.folder / "bench-whole" / "runs").glob("*/*/*")):
        same_runs(run, host.folder / "bench-killed" / run.relative_to(host.folder / "bench-whole"))
    tables = [pd.read_csv(host.folder / name / "table.csv") for name in ("bench-whole", "bench-killed")]
    varying = [name for name in tables[0].columns if "seconds" in name or "memory" in name]
    pd.testing.assert_frame_equal(*(table.drop(columns=varying) for table in tables))
    page = ["report", "bench-whole", "--html", "page.html"]
    host.run(page)
    whole = (host.folder / "page.html").read_bytes()
    rng = random.Random(3)
    for _ in range(KILLS):
        host.run(page, rng.uniform(0.0, 2.0))
        assert (host.folder / "page.html").read_bytes() == whole


def test_killed_searches_end_as_one_that_was_not(host):
    pytest.importorskip("optuna", reason="needs the extra tune")
    words = ["bench", "d.npz", "--strategies", "joint,infonce", "--tune", "6" if KILLS > 1 else "2",
             "--tune_seeds", "1", "--seeds", "1", *BUDGET, "--jobs", JOBS, "--out"]  # fmt: skip
    seconds = timed(lambda: host.run([*words, "tune-whole"]))
    count = host.killed([*words, "tune-killed"], [*words, "tune-killed"], 0.6 * seconds, random.Random(5))
    print(f"bench --tune: {count} kills of {seconds:.1f} s")
    whole, killed = (host.folder / name for name in ("tune-whole", "tune-killed"))
    assert (whole / "tune.json").read_text() == (killed / "tune.json").read_text()
    for run in sorted((whole / "runs").glob("*/*/*")):
        same_runs(run, killed / run.relative_to(whole))


def test_killed_preparations_end_as_one_that_was_not(host):
    words = ["prepare", "my.csv", "--workers", "1", "--out"]
    seconds = timed(lambda: host.run([*words, "prepared-whole"]))
    count = host.killed([*words, "prepared-killed"], [*words, "prepared-killed"], seconds, random.Random(4))
    print(f"prepare: {count} kills of {seconds:.1f} s")
    for name in ("face.npy", "manifest.parquet", "meta.yaml", "report.json"):
        assert (host.folder / "prepared-whole" / name).read_bytes() == (
            host.folder / "prepared-killed" / name
        ).read_bytes()
