"""What a person sees while a run trains: a bar on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from modalign.data.dataset import MultimodalData


class Display:
    """Progress of one run.

    Args:
        title: name of the method.
        data: what it trains on; its notes are printed once.
        out: where results go.
        quiet: print nothing.
    """

    def __init__(self, title: str, data: MultimodalData, out: str, quiet: bool) -> None:
        self._console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._out = out
        self._bar: Progress | None = None
        sizes = f"{len(data.train)} training, {len(data.valid)} validation, {len(data.test)} test samples"
        self._console.print(f"[bold]{title}[/] on {data.name} ({', '.join(data.modalities)}): {sizes}")
        for note in data.notes:
            self._console.print(f"  note: {note}")

    @contextlib.contextmanager
    def features(
        self, modality: str, done: Callable[[], int], total: int, folder: Path
    ) -> Iterator[Callable[[], None]]:
        """Say how many features of a frozen encoder are there, and show a bar while the others are computed.

        Args:
            modality: of the encoder.
            done: tells how many are there.
            total: how many there will be.
            folder: where they are kept.

        Yields:
            What is to be called when more of them are there.
        """
        title = f"features of the frozen {modality} encoder"
        there = done()
        self._console.print(f"  {title}: {there:,} of {total:,}, kept in {folder}")
        if there == total or not self._console.is_terminal or self._console.quiet:
            yield lambda: None
            return
        with self._progress() as bar:
            task = bar.add_task(title, total=total, completed=there)
            yield lambda: bar.update(task, completed=done())

    @contextlib.contextmanager
    def training(self, epochs: int, steps: int, begun: int) -> Iterator[None]:
        """Show the bar while training."""
        self._epochs, self._steps = epochs, steps
        if begun:
            self._console.print(f"  going on after epoch {begun} of {epochs}")
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        with self._progress() as self._bar:
            self._task = self._bar.add_task("training", total=epochs * steps, completed=begun * steps)
            yield
        self._bar = None

    def _progress(self) -> Progress:
        """A bar that vanishes when it is done."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        return Progress(*columns, console=self._console, transient=True)

    def step(self, epoch: int, window: int) -> None:
        """One optimizer step is done."""
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=epoch * self._steps + window,
                description=f"epoch {epoch + 1}/{self._epochs}",
            )

    def epoch(self, record: dict[str, Any], metric: str, improved: bool) -> None:
        """One epoch is done."""
        loss = ", ".join(f"{name} {value:.3f}" for name, value in record["train"].items())
        self._console.print(
            f"  epoch {record['epoch'] + 1:>3}/{self._epochs}  {loss}  |  validation {metric} "
            f"{record['valid'][metric]:.4f}{' *' if improved else ''}"
        )

    def result(self, result: dict[str, Any]) -> None:
        """The run is done."""
        metric = result["metric"]
        parts = [f"{split} {values[metric]:.4f}" for split, values in result["metrics"].items()]
        self._console.print(
            f"[bold]{metric}[/] {', '.join(parts)}; epoch {result['selected_epoch'] + 1} selected on validation; "
            f"{result['seconds']:.1f} s"
        )
        for warning in result["warnings"]:
            self._console.print(f"  warning: {warning}")
        self._console.print(f"  results in {self._out}")
