"""What a person sees while many runs are trained or measured: which, how far they are, and when all will be done."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class Work(Protocol):
    """Something that is done with a run."""

    @property
    def label(self) -> str:
        """How the display calls it."""
        ...

    @property
    def folder(self) -> Path:
        """The run folder."""
        ...


class BenchDisplay:
    """Progress of many runs, read from their folders, so that it works with any kind of worker.

    Args:
        title: what this part of the bench does.
        jobs: the runs to do.
        done: how many were done before.
        quiet: print nothing.
    """

    def __init__(self, title: str, jobs: Sequence[Work], done: int, quiet: bool) -> None:
        self._title, self._jobs, self._done = title, jobs, done
        self._finished = 0
        self._begun = time.monotonic()
        self._console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._stop = threading.Event()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        before = f", {self._done} done before" if self._done else ""
        self._console.print(f"{self._title}: {len(self._jobs)} runs{before}")
        if self._console.is_terminal and not self._console.quiet and self._jobs:
            self._bar = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("starting", total=len(self._jobs))
            self._bar.start()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._bar is not None:
            self._thread.join()
            self._bar.stop()

    def finished(self, job: Work, problem: str | None) -> None:
        """One run came to its end."""
        self._finished += 1
        end = f"FAILED: {problem}" if problem else "done"
        self._console.print(
            f"  [{self._finished}/{len(self._jobs)}] {job.label}: {end}; {self._remaining()}", markup=False
        )

    def _remaining(self) -> str:
        left = len(self._jobs) - self._finished
        seconds = (time.monotonic() - self._begun) / max(1, self._finished) * left
        return f"about {_clock(seconds)} left" if left else f"took {_clock(time.monotonic() - self._begun)}"

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            assert self._bar is not None
            running = [
                f"{job.label} (epoch {epochs})" for job in self._jobs if (epochs := _epochs(job.folder)) is not None
            ]
            self._bar.update(
                self._task,
                completed=self._finished,
                description=f"{self._remaining()} | {', '.join(running)}",
            )


def _epochs(folder: Path) -> int | None:
    """Epochs done by a run that is running; None if it has not begun or is over."""
    if not (folder / "recipe.yaml").exists() or (folder / "done").exists():
        return None
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
