"""Independent pieces of work side by side on the cores there are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

import joblib
import torch

from modalign.errors import RunError, option
from modalign.files import end_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> Iterator[Result]:
    """Results in the order in which they are done.

    Args:
        work: what is done with an item, in a process of its own if ``jobs`` is above 1.
        items: what it is done with.
        jobs: how many at a time; they share the cores between them.
    """
    if jobs == 1:
        yield from map(work, items)
        return
    threads = max(1, cores() // jobs)
    try:
        yield from joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(
            joblib.delayed(_in_worker)(work, item, threads, Path.cwd()) for item in items
        )
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process was killed, perhaps for lack of memory; what is done is kept: repeat the command, with "
            f"fewer {option('jobs')} if memory is short"
        ) from error


def _in_worker(work: Callable[[Item], Result], item: Item, threads: int, folder: Path) -> Result:
    end_with_parent()
    torch.set_num_threads(threads)
    os.chdir(folder)  # workers live on from call to call, and relative paths are those of this call
    return work(item)


def cores() -> int:
    """Return the number of cores that this process may use."""
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_jobs() -> int:
    """Return one piece of work a core on CPUs, one on GPUs."""
    return 1 if torch.cuda.is_available() else cores()
