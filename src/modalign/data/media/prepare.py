"""``modalign prepare NAME --raw DIR --out DIR``: from an official download to a prepared folder.

Many samples are decoded in parallel into arrays on disk, so that a kill at any moment costs a few samples: each
modality has one file of its final size into which rows are written where they belong; a journal beside notes the rows
that are done. A run that is started again reads the journal and decodes the rest, and once more what was unreadable.
Rows that stay unreadable are cut out at the end. The bytes do not depend on the number of processes or on
interruptions.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import multiprocessing
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modalign.data import load
from modalign.data.media.decoders import Decoder, make_decoder
from modalign.data.media.folder import array_path, open_array, write_prepared
from modalign.data.tables.modalities import show
from modalign.data.task import Task
from modalign.errors import DataError, InputError, option, unknown
from modalign.files import (
    check_inside,
    end_with_parent,
    in_use,
    locked,
    read_settings,
    read_text,
    reading,
    write_csv,
    write_whole,
)
from modalign.protocols import OURS, protocol_of

CHUNK = 16  # samples between two lines of the journal
Entry = dict[str, str]
PARTIAL = 0.05  # share of samples that cannot be read from which on the download is taken for a partial one
SHOWN = 20  # entries of a list that are printed
VERSION = 1  # of what is decoded; a change makes earlier unfinished work unusable
DATASETS = tuple(name for name in load.DATASETS if name not in ("digits", "synthetic"))  # those with a download


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


@dataclass
class PrepareReport:
    """What ``prepare`` did; ``str(report)`` is what the command prints.

    Attributes:
        name: of the data set.
        out: the prepared folder.
        samples: number of samples in it.
        counts: split name to number of samples.
        unreadable: id, modality and reason of every sample left out; also in ``unreadable.csv``.
        remarks: the same of every sample that is odd but kept; also in ``remarks.csv``.
        warnings: where the download differs from the official one.
        resumed: samples that an earlier, interrupted run had decoded.
    """

    name: str
    out: Path
    samples: int
    counts: dict[str, int]
    unreadable: list[Entry]
    remarks: list[Entry]
    warnings: list[str]
    resumed: int = 0

    def __str__(self) -> str:
        parts = ", ".join(f"{count} {split}" for split, count in self.counts.items())
        before = f", {self.resumed} of them decoded by an earlier run" if self.resumed else ""
        lines = [f"{self.name}: {self.samples} samples ({parts}) in {self.out}{before}"]
        lines += [f"warning: {warning}" for warning in self.warnings]
        for title, entries, file in (
            ("unreadable and left out", self.unreadable, "unreadable.csv"),
            ("odd but kept", self.remarks, "remarks.csv"),
        ):
            lines += [f"{len(entries)} {title} (also in {self.out / file}):"] if entries else []
            lines += [f"  {entry['id']} [{entry['modality']}] {entry['reason']}" for entry in entries[:SHOWN]]
            lines += [f"  and {len(entries) - SHOWN} more"] if len(entries) > SHOWN else []
            lines += [f"once repaired, run again with {_fresh()}"] if entries is self.unreadable and entries else []
        return "\n".join(lines)


@dataclass(frozen=True)
class Run:
    """How a preparation is run, the same for every data set.

    Attributes:
        workers: processes that decode; 0 for one a core.
        resume: go on where an interrupted run with the same settings stopped; otherwise start again.
        strict: counts that differ from the official ones, and a partial download, are an error, not a warning.

    >>> Run().expect({"recordings": (2998, 3000)})
    ['2998 recordings; officially 3000']
    """

    workers: int = 0
    resume: bool = True
    strict: bool = False

    def expect(self, counts: Mapping[str, tuple[int, int]]) -> list[str]:
        """Where counts ``{what: (found, official)}`` differ, as warnings.

        Raises:
            InputError: they differ and the run is strict.
        """
        differing = [f"{found} {what}; officially {n}" for what, (found, n) in counts.items() if found != n]
        if differing and self.strict:
            raise DataError(
                f"the download is not the official one: {'; '.join(differing)}. Complete it, or leave strict "
                "off to prepare what is there."
            )
        return differing


def partial_download(failed: Sequence[Entry], samples: int) -> str:
    """Say how many samples cannot be read, and why, where these are too many for a whole download; else nothing.

    >>> gone = [{"id": "a", "modality": "video", "reason": "no such file: a.flv"}] * 3
    >>> partial_download(gone, 10)
    '3 of 10 samples cannot be read (3 no such file): the download is not whole'
    >>> partial_download(gone, 1000)
    ''
    """
    if len(failed) <= PARTIAL * samples:
        return ""
    reasons = Counter(re.split(r"[:(]", entry["reason"])[0].strip() for entry in failed)
    said = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return f"{len(failed)} of {samples} samples cannot be read ({said}): the download is not whole"


def prepare(
    name: str,
    raw: str | Path,
    out: str | Path,
    *,
    workers: int = 0,
    resume: bool = True,
    strict: bool = False,
    **options: Any,
) -> PrepareReport:
    """Prepare a data set of the package from its official download.

    Args:
        name: one of ``DATASETS``.
        raw: the download, untouched.
        out: folder to write; ``load`` and every command read it.
        workers, resume, strict: see ``Run``.
        options: of the data set's own ``prepare`` (audio recipe, number of frames, size of images).

    Raises:
        InputError: no such data set or option, the download is not there, or nothing could be read.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    function = importlib.import_module(f"modalign.data.datasets.{name}").prepare
    known = [p for p in inspect.signature(function).parameters if p not in ("raw", "out", "run")]
    for given in options:
        if given == "protocol" and given not in known:
            protocol_of(name, str(options[given]))  # raises
        if given not in known:
            raise unknown(f"option of {name}", given, known)
    with claimed(Path(out), Run(workers, resume, strict)) as run:
        report: PrepareReport = function(Path(raw), Path(out), run=run, **options)
    return report


def protocol_decoders(
    dataset: str, protocol: str, audio: str | None, frames: int | None, size: int
) -> tuple[dict[str, Any], dict[str, Decoder]]:
    """Return settings, for the folder, and decoders of sound and video under a protocol.

    Args:
        dataset, protocol: see ``modalign.protocols``.
        audio, frames: in place of the protocol's.
        size: height and width of a frame.

    Raises:
        SettingsError: no such protocol.

    >>> protocol_decoders("cremad", "dr", None, None, 8)[1]["video"].modality.shape
    (2, 3, 8, 8)
    """
    chosen = protocol_of(dataset, protocol)
    settings: dict[str, Any] = {"audio": audio or chosen.audio, "frames": frames or chosen.frames, "size": size}
    video: dict[str, Any] = {"kind": "video", "frames": settings["frames"], "size": size, "sampling": chosen.sampling}
    video |= {"keep": [*chosen.keep]} if frames is None else {}
    made = {"audio": {"kind": "audio", "recipe": settings["audio"]}, "video": video}
    settings |= {} if protocol == OURS else {"protocol": protocol}
    return settings, {name: make_decoder(name, described) for name, described in made.items()}


@contextmanager
def claimed(out: Path, run: Run) -> Iterator[Run]:
    """Be the only one to work in the folder ``out``, which is new, empty, or was written by ``prepare``.

    Raises:
        InputError: it holds other files, or links to elsewhere, or another process works in it; nothing was written.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"output {out} is a file; expected a folder, or a path that does not exist")
    if in_use(out):
        inner = [folder for folder in (out, out / ".partial", out / "tokenizer") if folder.is_dir()]
        check_inside(out, *(entry for folder in inner for entry in folder.iterdir()))
        if not (out / ".partial").is_dir() and not _is_prepared(out / "meta.yaml"):
            raise DataError(
                f"output folder {out} is in use: it holds {show(sorted(e.name for e in out.iterdir()))}, which prepare "
                f"did not write; expected a new or empty folder: choose another {option('out')}"
            )
    with locked(out):
        (out / ".partial").mkdir(exist_ok=True)
        try:
            yield run
        finally:
            with suppress(OSError):  # nothing was begun
                (out / ".partial").rmdir()


def _is_prepared(meta: Path) -> bool:
    try:
        return meta.is_file() and "modalities" in read_settings(meta, "what prepare wrote")
    except InputError:
        return False


def refuse_other(name: str, settings: Mapping[str, Any], out: Path, run: Run) -> None:
    """See that a folder does not hold the work of other settings, which would be overwritten.

    Raises:
        InputError: it does, and the run is not to begin anew.
    """
    kept = [out / ".partial" / "settings.json", out / "report.json"]
    found = next((read_settings(path, "what prepare wrote") for path in kept if path.is_file()), None)
    now = json.loads(json.dumps({"name": name, **settings}, default=str))
    old = {} if found is None else {"name": found.get("name"), **(found.get("settings") or {})}
    if run.resume and old and old != now:
        other = [key for key in {**old, **now} if old.get(key) != now.get(key)]
        raise DataError(
            f"output folder {out} is in use: it holds {old['name']}, prepared with another {', '.join(other)}. Choose "
            f"another {option('out')}, or add {_fresh()} to prepare anew in its place"
        )


def _fresh() -> str:
    """Return what prepares anew, in the words of the interface in use."""
    said = option("fresh", True)
    return said if said.startswith("--") else "resume=False"


def locate(raw: Path, wanted: Mapping[str, str], source: str) -> Path:
    """The folder in which all of ``wanted`` (relative path to what it is) lie: ``raw``, or one just
    inside it.

    Raises:
        InputError: names what was looked for, what is missing, where it should lie and where to get it.
    """
    if not raw.is_dir():
        places = "; ".join(f"{raw / name} ({what})" for name, what in wanted.items())
        raise DataError(f"no folder at {raw}; expected {places}. Source: {source}.")
    for root in [raw, *sorted(path for path in raw.iterdir() if path.is_dir())]:
        if all((root / name).exists() for name in wanted):
            return root
    missing = [f"{raw / name} ({what})" for name, what in wanted.items() if not (raw / name).exists()]
    present = sorted(path.name for path in raw.iterdir())
    raise DataError(
        f"the download in {raw} lacks {'; '.join(missing)}. Found there: {', '.join(present[:12]) or 'nothing'}"
        f"{', ...' if len(present) > 12 else ''}. Put what is missing there, or give the folder that holds it. "
        f"Source: {source}."
    )


def decode(
    name: str,
    samples: Sequence[Sample],
    decoders: Mapping[str, Decoder],
    out: Path,
    run: Run,
    settings: Mapping[str, Any],
    *,
    task: Task,
    plain: Mapping[str, str | list[str]] | None = None,
    columns: Sequence[str] = (),
    conditions: Mapping[str, Sequence[str]] | None = None,
    warnings: Iterable[str] = (),
    lost: Iterable[Entry] = (),
) -> PrepareReport:
    """Decode all samples into a prepared folder.

    Args:
        name: of the data set.
        samples: in the order in which they will lie in the folder.
        decoders: modality name to decoder.
        out: folder to write.
        run: how.
        settings: what the arrays depend on beside the samples; work under others is begun anew.
        task: with the classes in their order.
        plain: modalities that are columns of the samples, with their kinds (see ``prepared``).
        columns: columns of the samples that are contexts unless a recipe names others.
        conditions: modality name to columns that are its conditions unless a recipe names others.
        warnings: for the report.
        lost: what the reader found unusable before decoding.

    Raises:
        InputError: one id for two samples, no sample, or none that can be read.
    """
    if not samples:
        raise DataError(f"{name}: the lists of the download name no sample.")
    twice = [key for key, count in Counter(sample.id for sample in samples).items() if count > 1]
    if twice:
        raise DataError(f"{name}: {len(twice)} ids stand for two samples: {', '.join(twice[:10])}.")
    refuse_other(name, settings, out, run)
    told = json.dumps([VERSION, name, dict(settings), [(s.id, s.split, s.label) for s in samples]], default=str)
    key = hashlib.sha256(told.encode()).hexdigest()  # what an interrupted run must share with the next
    if run.resume and (out / "meta.yaml").is_file() and (out / "report.json").is_file():
        noted = read_settings(out / "report.json", "what prepare wrote")
        if noted.pop("key", "") == key:  # an earlier run finished this very work
            with reading(out / "report.json", "what prepare wrote", remedy=f"prepare anew with {_fresh()}"):
                del noted["settings"]
                return PrepareReport(out=out, resumed=noted["samples"], **noted)
        raise DataError(
            f"output folder {out} is in use: it holds {name}, prepared from other samples. Choose another "
            f"{option('out')}, or add {_fresh()} to prepare anew in its place"
        )
    pool = DecodePool(out, samples, decoders, key, run.resume)
    write_whole(pool.state / "settings.json", json.dumps({"name": name, "settings": dict(settings)}, default=str))
    pool.decode_rest(run.workers, f"{name}: decoding")
    unreadable = [(row, *found) for row, found in sorted(pool.failed.items())]
    odd = [(row, *found) for row in sorted(pool.remarks) if pool.done[row] for found in sorted({*pool.remarks[row]})]
    failed, remarks = (
        [{"id": samples[row].id, "modality": m, "reason": reason} for row, m, reason in found]
        for found in (unreadable, odd)
    )
    if not pool.done.any():
        raise DataError(f"{name}: none of {len(samples)} samples can be read; the first: {failed[0]['reason']}.")
    if partial := partial_download(failed, len(samples)):
        if run.strict:
            raise DataError(
                f"{name}: {partial}, such as {failed[0]['id']}, {failed[0]['reason']}. Complete it and run the same "
                "command again, which goes on with what is missing; or leave strict off to prepare what is there."
            )
        warnings = [*warnings, f"{partial}; complete it, and run again with {_fresh()}"]
    pool.seal()
    kept = [sample for sample, done in zip(samples, pool.done, strict=True) if done]
    found = Counter(sample.split for sample in kept)
    counts = {split: found[split] for split in ("train", "valid", "test") if found[split]}
    report = PrepareReport(name, out, len(kept), counts, [*lost, *failed], remarks, list(warnings), pool.resumed)
    for file in ("unreadable", "remarks"):
        table = pd.DataFrame(getattr(report, file), columns=["id", "modality", "reason"])
        write_csv(out / f"{file}.csv", table, lineterminator="\n")
    noted = {
        "key": key,
        "settings": json.loads(json.dumps(dict(settings), default=str)),
        **{k: v for k, v in vars(report).items() if k not in ("out", "resumed")},
    }
    write_whole(out / "report.json", json.dumps(noted, indent=1))
    write_prepared(
        out,
        name,
        task,
        {name: decoder.modality for name, decoder in decoders.items()},
        pd.DataFrame([{"id": s.id, "split": s.split, "label": s.label, **s.columns} for s in kept]),
        plain=plain,
        columns=columns,
        conditions=conditions,
        about=settings,
        decoders={name: decoder.described for name, decoder in decoders.items() if decoder.described},
    )
    shutil.rmtree(pool.state)  # the journal: the work is finished
    return report


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
        if resume and noted.is_file() and read_text(noted, "what prepare wrote") == key:
            lines = self.journal.read_text("utf-8", "replace").splitlines() if self.journal.is_file() else []
            for line in lines:
                with suppress(ValueError, LookupError, TypeError):  # a line that a killed run did not finish
                    self._note(json.loads(line))
            if not self.sealed.exists():
                self.failed = {}  # these are tried again
        else:
            shutil.rmtree(self.state, ignore_errors=True)
            self.state.mkdir(parents=True)
            (folder / "meta.yaml").unlink(missing_ok=True)  # a folder without it is not finished
            for name, decoder in decoders.items():
                open_array(folder, name, (len(samples), *decoder.modality.shape), decoder.dtype)
            write_whole(noted, key)
        self.resumed = int(self.done.sum())

    def _note(self, outcome: Mapping[str, Any]) -> None:
        failed = {int(row): (str(m), str(reason)) for row, m, reason in outcome["failed"]}
        self.done[outcome["done"]] = True
        self.failed |= failed
        for row, modality, remark in outcome["remarks"]:
            self.remarks.setdefault(int(row), []).append((modality, remark))

    def decode_rest(self, workers: int, title: str) -> None:
        """Decode every row that is not done, in ``workers`` processes (0: one a core), under a progress bar."""
        from joblib import Parallel, delayed
        from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        rest = [(row, self.samples[row].sources) for row in np.flatnonzero(~self.done).tolist()]
        if not rest or self.sealed.exists():
            return
        chunks = [rest[i : i + CHUNK] for i in range(0, len(rest), CHUNK)]
        parallel = Parallel(workers or os.cpu_count() or 1, return_as="generator_unordered")
        said = TextColumn("{task.description}", markup=False)  # the name of a data set may hold brackets
        columns = (said, *Progress.get_default_columns()[1:3], MofNCompleteColumn(), TimeRemainingColumn())
        with self.journal.open("a") as journal, Progress(*columns, transient=True) as progress:
            journal.write("\n")  # what follows must not continue an unfinished line
            task = progress.add_task(title, total=len(rest))
            here = Path.cwd()
            for outcome in parallel(delayed(_decode_in)(here, self.folder, self.decoders, chunk) for chunk in chunks):
                journal.write(json.dumps(outcome) + "\n")
                journal.flush()
                self._note(outcome)
                progress.advance(task, len(outcome["done"]) + len(outcome["failed"]))

    def seal(self) -> None:
        """Cut the unreadable rows out of all arrays. Interrupted, it is gone on with by the next run."""
        self.sealed.touch()
        rows = np.flatnonzero(self.done)
        for name in self.decoders:
            path = array_path(self.folder, name)
            if len(np.load(path, mmap_mode="r")) != len(rows):
                compact(path, rows)


def _decode_in(here: Path, *arguments: Any) -> dict[str, Any]:
    """Decode rows in a worker, which lives on from call to call: relative paths are those of this call."""
    if multiprocessing.parent_process() is not None:
        end_with_parent()
    os.chdir(here)
    return decode_rows(*arguments)


def decode_rows(
    folder: Path, decoders: Mapping[str, Decoder], rows: Sequence[tuple[int, Mapping[str, tuple[Any, ...]]]]
) -> dict[str, Any]:
    """Decode some rows into the files of ``folder`` and say how it went; runs in a process of its own.

    A row of which one modality is unreadable is unreadable. Whatever a decoder cannot cope with counts as
    such, so that one strange file never ends the work of hours.
    """
    files = {name: np.load(array_path(folder, name), mmap_mode="r+") for name in decoders}
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
    part.unlink(missing_ok=True)
    kept = np.lib.format.open_memmap(part, "w+", whole.dtype, (len(rows), *whole.shape[1:]))
    for begin in range(0, len(rows), block):
        kept[begin : begin + block] = whole[rows[begin : begin + block]]
    kept.flush()
    os.replace(part, path)
