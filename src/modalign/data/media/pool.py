"""Decode many samples in parallel into arrays on disk, so that a kill at any moment costs a few samples.

Each modality has one file of its final size into which rows are written where they belong; a journal beside
notes the rows that are done. A run that is started again reads the journal and decodes the rest, and once
more what was unreadable. Rows that stay unreadable are cut out at the end. The bytes do not depend on the
number of processes or on interruptions.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modalign.data.media.decoders import Decoder
from modalign.data.media.folder import open_array
from modalign.errors import InputError

CHUNK = 16  # samples between two lines of the journal
Entry = dict[str, str]


@dataclass(frozen=True)
class Sample:
    """One sample of a data set before decoding.

    Attributes:
        id: unique.
        split: ``train``, ``valid`` or ``test``.
        label: name of its class, or the number to predict.
        sources: modality name to the arguments of its decoder (a path, a path and times, a text, an array).
        columns: further facts (actor, fold, time and event) by name, the same names for all samples;
            ``group`` is what no split may divide.

    >>> Sample("s1", "train", "ill", {"cough": ("s1.wav",)}).columns
    {}
    """

    id: str
    split: str
    label: str | float
    sources: Mapping[str, tuple[Any, ...]]
    columns: Mapping[str, Any] = field(default_factory=dict)


class DecodePool:
    """A folder in which samples are decoded, and what its journal says.

    Args:
        folder: its place.
        samples: all samples, in the order of their rows.
        decoders: modality name to decoder.
        key: of the settings and samples; work under another key is thrown away.
        resume: whether work under the same key is gone on with.

    Attributes:
        done: rows decoded, (N,) bool.
        failed: row to its modality and reason.
        remarks: row to its modalities and remarks.
        resumed: number of rows that earlier runs decoded.
    """

    def __init__(
        self, folder: Path, samples: Sequence[Sample], decoders: Mapping[str, Decoder], key: str, resume: bool
    ) -> None:
        self.folder, self.samples, self.decoders = folder, samples, decoders
        self.done = np.zeros(len(samples), bool)
        self.failed: dict[int, tuple[str, str]] = {}
        self.remarks: dict[int, list[tuple[str, str]]] = {}
        self.state = folder / ".partial"
        self.journal, self.sealed = self.state / "journal.jsonl", self.state / "sealed"
        noted = self.state / "key"
        if resume and noted.is_file() and noted.read_text() == key:
            self._read_journal()
        else:
            self._start()
            noted.write_text(key)
        self.resumed = int(self.done.sum())

    def _start(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir(parents=True)
        (self.folder / "meta.yaml").unlink(missing_ok=True)  # a folder without it is not finished
        for name, decoder in self.decoders.items():
            open_array(self.folder, name, (len(self.samples), *decoder.modality.shape), decoder.dtype)

    def _read_journal(self) -> None:
        lines = self.journal.read_text().splitlines() if self.journal.is_file() else []
        for line in lines:
            try:
                self._note(json.loads(line))
            except json.JSONDecodeError:
                continue  # a line that a killed run did not finish
        if not self.sealed.exists():
            self.failed = {}  # these are tried again

    def _note(self, outcome: Mapping[str, Any]) -> None:
        self.done[outcome["done"]] = True
        self.failed |= {int(row): (str(m), str(reason)) for row, m, reason in outcome["failed"]}
        for row, modality, remark in outcome["remarks"]:
            self.remarks.setdefault(int(row), []).append((modality, remark))

    def decode_rest(self, workers: int, title: str) -> None:
        """Decode every row that is not done, in ``workers`` processes (0: one a core), under a progress bar."""
        from joblib import Parallel, delayed
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        rest = np.flatnonzero(~self.done).tolist()
        if not rest or self.sealed.exists():
            return
        chunks = [rest[i : i + CHUNK] for i in range(0, len(rest), CHUNK)]
        jobs = (
            delayed(decode_rows)(self.folder, self.decoders, [(r, self.samples[r].sources) for r in chunk])
            for chunk in chunks
        )
        parallel = Parallel(workers or os.cpu_count() or 1, return_as="generator_unordered")
        columns = (*Progress.get_default_columns()[:3], MofNCompleteColumn(), TimeRemainingColumn())
        if self.journal.is_file():
            with self.journal.open("a") as journal:
                journal.write("\n")  # what follows must not continue an unfinished line
        with self.journal.open("a") as journal, Progress(*columns, transient=True) as progress:
            task = progress.add_task(title, total=len(rest))
            for outcome in parallel(jobs):
                journal.write(json.dumps(outcome) + "\n")
                journal.flush()
                self._note(outcome)
                progress.advance(task, len(outcome["done"]) + len(outcome["failed"]))

    def entries(self) -> tuple[list[Entry], list[Entry]]:
        """What was unreadable, and what is odd but kept, in the order of the samples."""
        failed = [self._entry(row, *self.failed[row]) for row in sorted(self.failed)]
        odd = [
            self._entry(row, *found)
            for row in sorted(self.remarks)
            if self.done[row]
            for found in sorted(set(self.remarks[row]))
        ]
        return failed, odd

    def _entry(self, row: int, modality: str, reason: str) -> Entry:
        return {"id": self.samples[row].id, "modality": modality, "reason": reason}

    def seal(self) -> None:
        """Cut the unreadable rows out of all arrays. Interrupted, it is gone on with by the next run."""
        self.sealed.touch()
        rows = np.flatnonzero(self.done)
        for name in self.decoders:
            path = self.folder / f"{name}.npy"
            if len(np.load(path, mmap_mode="r")) != len(rows):
                compact(path, rows)

    def close(self) -> None:
        """Remove the journal: the work is finished."""
        shutil.rmtree(self.state)


def decode_rows(
    folder: Path, decoders: Mapping[str, Decoder], rows: Sequence[tuple[int, Mapping[str, tuple[Any, ...]]]]
) -> dict[str, Any]:
    """Decode some rows into the files of ``folder`` and say how it went; runs in a process of its own.

    A row of which one modality is unreadable is unreadable. Whatever a decoder cannot cope with counts as
    such, so that one strange file never ends the work of hours.
    """
    files = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in decoders}
    outcome: dict[str, Any] = {"done": [], "failed": [], "remarks": []}
    for row, sources in rows:
        name = ""
        try:
            for name, decoder in decoders.items():
                files[name][row], remark = decoder(sources[name])
                if remark:
                    outcome["remarks"].append((row, name, remark))
            outcome["done"].append(row)
        except (InputError, OSError, ValueError, ArithmeticError, LookupError) as error:
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            outcome["failed"].append((row, name, reason))
    for file in files.values():
        file.flush()
    return outcome


def compact(path: Path, rows: np.ndarray, block: int = 256) -> None:
    """Keep only ``rows`` of an array file, block by block, so that it need not fit in memory."""
    whole = np.load(path, mmap_mode="r")
    part = path.with_suffix(".part")
    kept = np.lib.format.open_memmap(part, "w+", whole.dtype, (len(rows), *whole.shape[1:]))
    for begin in range(0, len(rows), block):
        kept[begin : begin + block] = whole[rows[begin : begin + block]]
    kept.flush()
    os.replace(part, path)
