"""Work side by side, on this machine and on a Ray cluster."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from modalign.errors import InputError, RunError, SettingsError
from modalign.experiments.bench import entries, run_bench
from modalign.experiments.parallel import check_backend, side_by_side
from modalign.training.run import RunFolder


def test_workers_follow_the_working_folder_from_call_to_call(tmp_path, monkeypatch):
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found.append(set(side_by_side(lambda _: os.path.basename(os.getcwd()), [1, 2], jobs=2)))
    assert found == [{"first"}, {"second"}]


def test_ray_is_named_with_its_extra_where_it_is_not_installed(tmp_path, monkeypatch, small_recipe):
    monkeypatch.setattr("modalign.experiments.parallel.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"needs Ray.*pip install 'modalign\[ray\]'"):
        run_bench({"d": small_recipe()}, entries(["joint"]), 1, tmp_path / "bench", backend="ray")
    with pytest.raises(SettingsError, match="backend is 'dask'; expected one of local, ray"):
        run_bench({"d": small_recipe()}, entries(["joint"]), 1, tmp_path / "bench", backend="dask")
    assert not (tmp_path / "bench").exists()
    check_backend("local")


class Lost(Exception):
    """In place of Ray's errors of a cluster."""


class Raised(Lost):
    """In place of Ray's error for what a task raised."""

    def __init__(self, cause):
        super().__init__("a long traceback")
        self.cause = cause


@pytest.fixture
def ray(monkeypatch):
    """Ray's part that is used, in this process: two CPUs, tasks done when they are waited for."""
    monkeypatch.setattr("modalign.experiments.parallel.end_with_parent", lambda: None)
    told = SimpleNamespace(options={}, running=0, most=0, cancelled=[])

    def remote(function):
        def options(**given):
            told.options = given
            return SimpleNamespace(remote=start)

        def start(*arguments):
            told.running += 1
            told.most = max(told.most, told.running)
            return lambda: function(*arguments)

        return SimpleNamespace(options=options)

    def get(task):
        told.running -= 1
        try:
            return task()
        except (InputError, RunError) as error:
            raise Raised(error) from None

    fake = SimpleNamespace(
        init=lambda **_: None,
        is_initialized=lambda: False,
        cluster_resources=lambda: {"CPU": 2.0},
        remote=remote,
        wait=lambda running, num_returns: (running[:1], running[1:]),
        get=get,
        cancel=told.cancelled.append,
        exceptions=SimpleNamespace(RayError=Lost, RayTaskError=Raised),
        told=told,
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_a_cluster_is_asked_for_a_cpu_or_a_gpu_a_run_and_kept_busy(ray):
    assert sorted(side_by_side(lambda i: i * i, range(9), backend="ray")) == [i * i for i in range(9)]
    assert (ray.told.options, ray.told.most) == ({"num_cpus": 1, "num_gpus": 0}, 4)
    ray.told.most = 0
    assert sorted(side_by_side(lambda i: i, range(9), 3, "ray")) == list(range(9))
    assert ray.told.most == 3
    ray.cluster_resources = lambda: {"CPU": 8.0, "GPU": 1.0}
    assert list(side_by_side(lambda i: i, [1], backend="ray")) == [1]
    assert ray.told.options == {"num_cpus": 1, "num_gpus": 1}


def test_what_a_run_raises_on_a_cluster_comes_out_as_it_is_and_the_rest_is_called_off(ray):
    def work(i):
        raise InputError(f"row {i} is broken")

    with pytest.raises(InputError, match=r"^row 0 is broken$"):
        list(side_by_side(work, range(9), 3, "ray"))
    assert len(ray.told.cancelled) == 2


def test_a_cluster_that_goes_away_or_never_was_is_said_with_what_to_do(ray, monkeypatch):
    def lost(*_, **__):
        raise Lost("the raylet died")

    ray.get = lost
    with pytest.raises(RunError, match=r"cluster was lost.*\(Lost\).* done is kept.* repeat the command"):
        list(side_by_side(str, [1, 2], 1, "ray"))

    def nothing(**_):
        raise SystemExit(15)  # as Ray does

    ray.init = nothing
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(RunError, match=r"no Ray cluster answers at 10\.0\.0\.1:6379.*unset RAY_ADDRESS"):
        list(side_by_side(str, [1, 2], 1, "ray"))


def test_a_machine_that_does_not_share_the_folder_does_nothing(ray, tmp_path):
    with pytest.raises(RunError, match=r"bench\.yaml is not there on .*must share this folder"):
        list(side_by_side(str, [1], 1, "ray", tmp_path / "bench.yaml"))


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this machine."""
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def test_a_bench_on_a_cluster_is_that_of_this_machine_and_goes_on(cluster, tmp_path, small_data, small_recipe):
    data, how = {"small": small_data()}, {"quiet": True}
    recipes = {"small": small_recipe(epochs=1)}
    out = run_bench(recipes, entries(["joint"]), 1, tmp_path / "bench", backend="ray", data=data, **how)
    stamp = (out / "runs/small/joint/seed0/result.json").stat().st_mtime_ns
    run_bench(recipes, entries(["joint"]), 2, out, backend="ray", data=data, **how)
    assert (out / "runs/small/joint/seed0/result.json").stat().st_mtime_ns == stamp
    here = run_bench(recipes, entries(["joint"]), 2, tmp_path / "here", jobs=1, data=data, **how)
    for seed in ("seed0", "seed1"):
        there, own = (RunFolder(at / "runs/small/joint" / seed).result()["metrics"] for at in (out, here))
        assert there == own


def test_what_a_killed_worker_had_begun_is_taken_over(cluster, tmp_path):
    def work(path: Path) -> str:
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return path.name

    assert sorted(side_by_side(work, [tmp_path / "a", tmp_path / "b"], backend="ray")) == ["a", "b"]
