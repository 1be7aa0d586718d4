"""What a person sees while runs are trained: a bar on a terminal or in a notebook, and lines everywhere."""

from __future__ import annotations

import contextlib
import importlib.util
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from modalign.data.dataset import MultimodalData
from modalign.settings import selected

WIDTH = 100


class _Shown:
    """Prints lines of at most ``WIDTH`` columns, and knows whether a bar can be shown.

    Args:
        quiet: print nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self._console = Console(quiet=quiet, highlight=False, soft_wrap=True)

    def _say(self, text: str, bold: str = "", cut: bool = False) -> None:
        """Print a line, with its beginning ``bold``, and what does not fit in lines below it, or cut off.

        A path or a word that is longer than a line stays whole.
        """
        if cut:
            text = text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
        else:
            begun = len(text) - len(text.lstrip())
            text = textwrap.fill(text, WIDTH, subsequent_indent=" " * (begun + 2), break_long_words=False,
                                 break_on_hyphens=False)  # fmt: skip
        shown = Text(text)  # not markup: names and titles may hold brackets
        shown.stylize("bold", 0, len(bold))
        self._console.print(shown)

    def _bar(self, *columns: ProgressColumn) -> Progress | None:
        """Return a bar that vanishes when it is done; None where there is no terminal and no notebook for one."""
        # Of a notebook rich says that it is no terminal; there it draws with ipywidgets.
        notebook = self._console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
        if self._console.quiet or not (self._console.is_terminal or notebook):
            return None
        return Progress(*columns, console=self._console, transient=True)


class Display(_Shown):
    """Progress of one run.

    Args:
        title: name of the method.
        data: what it trains on; its notes are printed once.
        out: where results go.
        quiet: print nothing.
    """

    def __init__(self, title: str, data: MultimodalData, out: str, quiet: bool) -> None:
        super().__init__(quiet)
        self._out = out
        self._progress: Progress | None = None
        sizes = f"{len(data.train)} training, {len(data.valid)} validation, {len(data.test)} test samples"
        self._say(f"{title} on {data.name} ({', '.join(data.modalities)}): {sizes}", title)
        for note in data.notes:
            self._say(f"  note: {note}")

    @contextlib.contextmanager
    def features(
        self, modality: str, done: Callable[[], int], total: int, folder: Path
    ) -> Iterator[Callable[[], None]]:
        """Say how many features of a frozen encoder are there, and show a bar while the others are computed.

        Args:
            modality: modality of the encoder.
            done: tells how many are there.
            total: how many there will be.
            folder: where they are kept.

        Yields:
            What is to be called when more of them are there.
        """
        title = f"features of the frozen {modality} encoder"
        there = done()
        self._say(f"  {title}: {there:,} of {total:,}, kept in {folder}")
        with contextlib.ExitStack() as stack:
            bar = self._training_bar() if there < total else None
            if bar is None:
                yield lambda: None
                return
            stack.enter_context(bar)
            task = bar.add_task(title, total=total, completed=there)
            yield lambda: bar.update(task, completed=done())

    @contextlib.contextmanager
    def training(self, epochs: int, steps: int, begun: int) -> Iterator[None]:
        """Show the bar while training."""
        self._epochs, self._steps = epochs, steps
        if begun:
            self._say(f"  going on after epoch {begun} of {epochs}")
        self._progress = self._training_bar()
        with self._progress or contextlib.nullcontext():
            if self._progress is not None:
                self._task = self._progress.add_task("training", total=epochs * steps, completed=begun * steps)
            yield
        self._progress = None

    def _training_bar(self) -> Progress | None:
        described = TextColumn("{task.description}", markup=False)
        return self._bar(described, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    def step(self, epoch: int, window: int) -> None:
        """Move the bar: one optimizer step is done."""
        if self._progress is not None:
            done, said = epoch * self._steps + window, f"epoch {epoch + 1}/{self._epochs}"
            self._progress.update(self._task, completed=done, description=said)

    def epoch(self, record: dict[str, Any], metric: str, improved: bool) -> None:
        """Print one epoch in a line: the metric whole, of the losses as many as fit."""
        head = f"  epoch {record['epoch'] + 1:>3}/{self._epochs}  "
        tail = f"  |  validation {metric} {record['valid'][metric]:.4f}{' *' if improved else ''}"
        losses = ", ".join(f"{name} {value:.3f}" for name, value in record["train"].items())
        room = WIDTH - len(head) - len(tail)
        self._say(head + (losses if len(losses) <= room else f"{losses[: room - 1]}…") + tail, cut=True)

    def result(self, result: dict[str, Any]) -> None:
        """Print what the run reached and by which weights, and what those of the last epoch reach."""
        metric, found = result["metric"], result["metrics"]
        titles = {"valid": "validation", "test": "test"}
        parts = ", ".join(f"{title} {found[split][metric]:.4f}" for split, title in titles.items() if split in found)
        self._say(f"{metric}: {parts}; {result['seconds']:.1f} s", metric)
        last = found.get("test_last", {}).get(metric)
        other = last is not None and result["selected_epoch"] + 1 < result["epochs"]
        self._say(f"  {selected(result)}" + (f"; the last epoch's weights would have test {last:.4f}" if other else ""))
        for warning in result["warnings"]:
            self._say(f"  warning: {warning}")
        self._say(f"  results in {self._out}")


class Work(Protocol):
    """Something that is done with a run."""

    @property
    def label(self) -> str:
        """What the display calls it."""
        ...

    @property
    def folder(self) -> Path:
        """The run folder."""
        ...


class BenchDisplay(_Shown):
    """Progress of many runs, read from their folders, so that it works with any kind of worker.

    Args:
        title: what this part of the bench does.
        jobs: the runs to do.
        done: how many were done before.
        quiet: print nothing.
        later: runs of later parts of the bench, which the time that is left counts too.
    """

    def __init__(self, title: str, jobs: Sequence[Work], done: int, quiet: bool, later: int = 0) -> None:
        super().__init__(quiet)
        self._later = later
        self._runs = sum(_count(job) for job in jobs)
        self._trained = 0
        self._title, self._jobs, self._done = title, jobs, done
        self._finished = self._failed = 0
        self._begun = time.monotonic()
        self._stop = threading.Event()
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        before = f", {self._done} done before" if self._done else ""
        searches = f" in {len(self._jobs)} searches" if self._runs > len(self._jobs) else ""
        after = f", then {self._later} more" if self._later else ""
        self._say(f"{self._title}: {self._runs} runs{searches}{before}{after}")
        if self._jobs:
            described = TextColumn("{task.description}", markup=False)
            self._progress = self._bar(BarColumn(), MofNCompleteColumn(), described)
        if self._progress is not None:
            self._task = self._progress.add_task("starting", total=len(self._jobs))
            self._progress.start()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._progress is not None:
            self._thread.join()
            self._progress.stop()
            failed = f", {self._failed} failed" if self._failed else ""
            self._say(f"  {self._finished - self._failed} of {len(self._jobs)} done{failed}; {self._remaining()}")

    def finished(self, job: Work, problem: str | None) -> None:
        """Print that one run came to its end; where a bar counts them, only if it failed."""
        self._finished += 1
        self._failed += problem is not None
        self._trained += _count(job)
        if self._progress is not None and not problem:
            return
        end = f"FAILED: {problem}" if problem else "done"
        self._say(f"  [{self._finished}/{len(self._jobs)}] {job.label}: {end}; {self._remaining()}")

    def _remaining(self) -> str:
        left = self._runs - self._trained + self._later
        seconds = (time.monotonic() - self._begun) / max(1, self._trained) * left
        whole = " in all" if self._later else ""
        return f"about {_clock(seconds)} left{whole}" if left else f"took {_clock(time.monotonic() - self._begun)}"

    def _watch(self) -> None:
        assert self._progress is not None
        while not self._stop.wait(0.5):
            running = [f"{job.label} (epoch {e})" for job in self._jobs if (e := _epochs(job.folder)) is not None]
            said = f"{self._remaining()} | {', '.join(running)}"
            self._progress.update(self._task, completed=self._finished, description=said)


def _count(job: Work) -> int:
    """Return the trainings that a job stands for."""
    return int(getattr(job, "runs", 1))


def _epochs(folder: Path) -> int | None:
    """Return the epochs done by a run that is running; None if it has not begun or is over."""
    if not (folder / "recipe.yaml").exists() or (folder / "done").exists():
        return None
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
