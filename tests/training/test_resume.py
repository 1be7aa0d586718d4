"""Stop and go on: a killed run ends with the parameters of an uninterrupted one, bit for bit."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from modalign.errors import Interrupted
from modalign.training.build import method_spec
from modalign.training.run import RunFolder
from modalign.training.train import train, train_spec
from modalign.training.trainer import Hooks

SETTINGS = {"epochs": 3, "batch_size": 8, "checkpoint_minutes": 1e-5}  # a checkpoint after every step


def end_state(folder: Path) -> dict[str, torch.Tensor]:
    return RunFolder(folder).load("last")["strategy"]


def assert_equal_runs(first: Path, second: Path) -> None:
    a, b = end_state(first), end_state(second)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    logs = [
        [{k: v for k, v in record.items() if k != "seconds"} for record in RunFolder(folder).metrics()]
        for folder in (first, second)
    ]
    assert logs[0] == logs[1]


def in_child(function, *args) -> multiprocessing.Process:
    child = multiprocessing.get_context("fork").Process(target=function, args=args)
    child.start()
    return child


def die_at(save: int, fraction: float) -> None:
    """Have this process killed ``fraction`` of a step after its ``save``-th checkpoint, whatever it then does.

    Counted in checkpoints, so that a fast machine is killed as often as a slow one; the kernel's alarm, left to its
    default, ends the process as SIGKILL does: no Python runs after it.
    """
    write, times = RunFolder.save, [time.monotonic()]
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def counting(self: RunFolder, name: str, state: dict) -> None:
        write(self, name, state)
        times.append(time.monotonic())
        if len(times) == save + 1:
            signal.setitimer(signal.ITIMER_REAL, 1e-6 + fraction * (times[-1] - times[-2]))

    RunFolder.save = counting  # type: ignore[method-assign]


@pytest.mark.parametrize("strategy", ["modalign", "reconboost", "mla", "opm", "linear"])
def test_killed_at_random_moments(small_data, small_recipe, tmp_path, strategy):
    torch.set_num_threads(1)  # forked children cannot use the parent's threads
    recipe, data = small_recipe(**SETTINGS), small_data()
    recipe.model.dropout = 0.3  # the random state must go on as well
    train(recipe, strategy, out=tmp_path / "whole", data=data, quiet=True)
    rng = random.Random(1)

    def run(save: int = 0, fraction: float = 0.0) -> None:
        if save:
            die_at(save, fraction)
        train(recipe, strategy, out=tmp_path / "killed", data=data, resume=True, quiet=True)

    for _ in range(4):
        child = in_child(run, rng.randint(2, 5), rng.random())
        child.join(timeout=120)
        assert child.exitcode == -signal.SIGALRM
    run()
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")


def test_a_run_that_accumulates_batches_goes_on_within_an_epoch(small_data, small_recipe, tmp_path):
    spec = method_spec(small_recipe(epochs=2, batch_size=8, accumulate=2, checkpoint_minutes=1e-9), "joint", 0, {})
    train_spec(spec, tmp_path / "whole", data=small_data(), quiet=True)

    def stop(record: dict) -> None:
        if record["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # two steps of four are in the checkpoint
        train_spec(spec, tmp_path / "parts", data=small_data(), quiet=True, hooks=Hooks(on_step=stop))
    assert 0 < RunFolder(tmp_path / "parts").load("last")["state"]["window"] < 4
    train_spec(spec, tmp_path / "parts", resume=True, data=small_data(), quiet=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_resumable_run(small_data, small_recipe, tmp_path, number):
    torch.set_num_threads(1)
    recipe, data = small_recipe(epochs=4, batch_size=8), small_data()
    recipe.model.dropout = 0.3
    train(recipe, "modalign", out=tmp_path / "whole", data=data, quiet=True)

    def run() -> None:
        steps = itertools.count(1)

        def interrupt(*_) -> None:
            if next(steps) == 20:
                os.kill(os.getpid(), number)

        register_optimizer_step_post_hook(interrupt)
        try:
            train(recipe, "modalign", out=tmp_path / "stopped", data=data, quiet=True)
        except Interrupted:
            os._exit(7)

    child = in_child(run)
    child.join(timeout=60)
    assert child.exitcode == 7
    train(recipe, "modalign", out=tmp_path / "stopped", data=data, resume=True, quiet=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")
