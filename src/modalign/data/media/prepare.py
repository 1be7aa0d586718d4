"""``modalign prepare NAME --raw DIR --out DIR``: from an official download to a prepared folder."""

from __future__ import annotations

import csv
import hashlib
import importlib
import inspect
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from modalign.data import load
from modalign.data.media.decoders import Decoder
from modalign.data.media.folder import write_prepared
from modalign.data.media.pool import DecodePool, Entry, Sample
from modalign.data.task import Task
from modalign.errors import DataError, unknown

VERSION = 1  # of what is decoded; a change makes earlier unfinished work unusable
DATASETS = tuple(name for name in load.DATASETS if name not in ("digits", "synthetic"))  # those with a download


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
        lines = [f"{self.name}: {self.samples} samples ({parts}) in {self.out}"]
        lines += [f"warning: {warning}" for warning in self.warnings]
        for title, entries, file in (
            ("unreadable and left out", self.unreadable, "unreadable.csv"),
            ("odd but kept", self.remarks, "remarks.csv"),
        ):
            lines += [f"{len(entries)} {title} (also in {self.out / file}):"] if entries else []
            lines += [f"  {entry['id']} [{entry['modality']}] {entry['reason']}" for entry in entries]
            lines += ["once repaired, run again with --fresh"] if entries is self.unreadable and entries else []
        return "\n".join(lines)


@dataclass(frozen=True)
class Run:
    """How a preparation is run, the same for every data set.

    Attributes:
        workers: processes that decode; 0 for one a core.
        resume: go on where an interrupted run with the same settings stopped; otherwise start again.
        strict: counts that differ from the official ones are an error, not a warning.

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
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    report: PrepareReport = function(Path(raw), Path(out), run=Run(workers, resume, strict), **options)
    return report


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
    plain: Mapping[str, str] | None = None,
    columns: Sequence[str] = (),
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
    told = json.dumps([VERSION, name, dict(settings), [(s.id, s.split, s.label) for s in samples]], default=str)
    key = hashlib.sha256(told.encode()).hexdigest()  # what an interrupted run must share with the next
    if run.resume and (report := _finished(out, key)):
        return report
    pool = DecodePool(out, samples, decoders, key, run.resume)
    pool.decode_rest(run.workers, f"{name}: decoding")
    failed, remarks = pool.entries()
    if not pool.done.any():
        raise DataError(f"{name}: none of {len(samples)} samples can be read; the first: {failed[0]['reason']}.")
    pool.seal()
    kept = [sample for sample, done in zip(samples, pool.done, strict=True) if done]
    found = Counter(sample.split for sample in kept)
    counts = {split: found[split] for split in ("train", "valid", "test") if found[split]}
    report = PrepareReport(name, out, len(kept), counts, [*lost, *failed], remarks, list(warnings), pool.resumed)
    _write_report(report, key)
    write_prepared(
        out,
        name,
        task,
        {name: decoder.modality for name, decoder in decoders.items()},
        pd.DataFrame([{"id": s.id, "split": s.split, "label": s.label, **s.columns} for s in kept]),
        plain=plain,
        columns=columns,
        about=settings,
        decoders={name: decoder.described for name, decoder in decoders.items() if decoder.described},
    )
    pool.close()
    return report


def _finished(out: Path, key: str) -> PrepareReport | None:
    """The report of an earlier run that finished this very work."""
    if not ((out / "meta.yaml").is_file() and (out / "report.json").is_file()):
        return None
    noted = json.loads((out / "report.json").read_text("utf-8"))
    if noted.pop("key") != key:
        return None
    return PrepareReport(out=out, resumed=noted["samples"], **noted)


def _write_report(report: PrepareReport, key: str) -> None:
    """The report as tables for the reader and as JSON for the next run."""
    for file in ("unreadable", "remarks"):
        with (report.out / f"{file}.csv").open("w", newline="", encoding="utf-8") as table:
            writer = csv.DictWriter(table, ["id", "modality", "reason"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(getattr(report, file))
    noted = {"key": key, **{k: v for k, v in vars(report).items() if k not in ("out", "resumed")}}
    (report.out / "report.json").write_text(json.dumps(noted, indent=1, ensure_ascii=False), "utf-8")
