"""Independent pieces of work side by side: on the cores there are, or on the machines of a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

import joblib
import torch

from modalign.errors import RunError, SettingsError, option
from modalign.files import end_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")
Backend = Literal["local", "ray"]


def check_backend(backend: Backend) -> None:
    """See that what a backend needs is installed.

    Raises:
        SettingsError: it is not; the message names the extra.
    """
    if backend == "ray" and find_spec("ray") is None:
        raise SettingsError("backend 'ray' needs Ray, on all machines of the cluster: pip install 'modalign[ray]'")


def side_by_side(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int | None = None,
    backend: Backend = "local",
    shared: Path | None = None,
) -> Iterator[Result]:
    """Results in the order in which they are done.

    Args:
        work: what is done with an item, in a process of its own unless it is one at a time on this machine.
        items: what it is done with.
        jobs: how many at a time; they share the cores between them. By default one a core, or on GPUs one; on a Ray
            cluster one a GPU, or where it has none, one a CPU.
        backend: ``local``, or ``ray``: the cluster of ``RAY_ADDRESS`` or of this machine, or a new one of this machine.
        shared: a file that the machines of a cluster must see.

    Raises:
        RunError: workers were killed, or the cluster does not answer.
    """
    if backend == "ray":
        yield from _on_ray(work, items, jobs, shared)
        return
    jobs = jobs or (1 if torch.cuda.is_available() else cores())
    if jobs == 1:
        yield from map(work, items)
        return
    where = Path.cwd(), None, _environment()
    try:
        yield from joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(
            joblib.delayed(_in_worker)(work, item, max(1, cores() // jobs), *where) for item in items
        )
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process was killed, perhaps for lack of memory; what is done is kept: repeat the command, with "
            f"fewer {option('jobs')} if memory is short"
        ) from error


def _on_ray(
    work: Callable[[Item], Result], items: Sequence[Item], jobs: int | None, shared: Path | None
) -> Iterator[Result]:
    """As ``side_by_side``; Ray itself gives what a machine that was lost had begun to another one."""
    # Its tasks and not its backend for joblib, which gives results only when all are there, and does not try again.
    import ray

    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, logging_level="ERROR")
        except (Exception, SystemExit) as error:  # the latter is what Ray raises where nothing answers
            raise RunError(
                f"no Ray cluster answers at {os.environ.get('RAY_ADDRESS', 'this machine')} ({error}); see that `ray "
                "status` shows one there, or unset RAY_ADDRESS to work on this machine"
            ) from error
    per = "GPU" if ray.cluster_resources().get("GPU", 0) >= 1 else "CPU"
    task = ray.remote(_in_worker).options(num_cpus=1, num_gpus=int(per == "GPU"))
    where = Path.cwd(), None if shared is None else shared.resolve(), _environment()
    waiting, running = list(items), list[Any]()
    try:
        while waiting or running:
            # Twice as many as there is room for: a cluster that can grow does so for those that wait.
            room = jobs or 2 * max(1, int(ray.cluster_resources().get(per, 0)))
            while waiting and len(running) < room:
                running.append(task.remote(work, waiting.pop(0), 1, *where))
            (done,), running = ray.wait(running, num_returns=1)
            yield ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error  # what the work itself raised
    except ray.exceptions.RayError as error:
        raise RunError(
            f"the Ray cluster was lost, or a machine of it ({type(error).__name__}); what is done is kept, what was "
            "begun goes on from its last checkpoint: see that `ray status` shows the cluster, and repeat the command"
        ) from error
    finally:
        for left in running:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(left)


def _in_worker(
    work: Callable[[Item], Result],
    item: Item,
    threads: int,
    folder: Path,
    shared: Path | None,
    environment: Mapping[str, str],
) -> Result:
    end_with_parent()
    torch.set_num_threads(threads)
    for path in filter(None, (folder, shared)):
        if not path.exists():
            raise RunError(
                f"{path} is not there on {platform.node()}: the machines of a cluster must share this folder"
            )
    os.chdir(folder)  # workers live on from call to call, and relative paths are those of this call
    os.environ.update(environment)
    return work(item)


def _environment() -> dict[str, str]:
    """Return the variables of this package, which workers on other machines do not inherit."""
    return {name: value for name, value in os.environ.items() if name.startswith("MODALIGN_")}


def cores() -> int:
    """Return the number of cores that this process may use."""
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
