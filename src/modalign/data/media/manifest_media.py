"""Decode the files that a manifest names, once, into a prepared folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modalign.data.media.decoders import make_decoder
from modalign.data.media.pool import Sample
from modalign.data.media.prepare import PrepareReport, Run, decode
from modalign.data.tables.manifest import MEDIA, PLAIN, Manifest
from modalign.data.tables.modalities import as_strings
from modalign.data.tables.reader import Table
from modalign.errors import DataError, Problems


def prepare_manifest(path: str | Path, out: str | Path, *, workers: int = 0, resume: bool = True) -> PrepareReport:
    """Check a manifest and decode its files into a folder that every command reads.

    Where the table names no splits, they are drawn here (60/15/25, stratified, no group divided) and kept.
    Samples with an unreadable file are left out and reported. Text, numbers and categories are copied: what is
    learned from them is learned when they are loaded, from the training rows alone.

    Args:
        path: of the table; its YAML lies beside it (see ``manifest``).
        out: folder to write.
        workers, resume: see ``prepare.Run``.

    Raises:
        InputError: with every problem of the manifest; or no sample can be read.
    """
    manifest, out = Manifest.read(path), Path(out)
    problems = Problems(f"manifest {manifest.name!r}")
    decoders = {
        m: problems.trying(make_decoder, m, described, gaps=True)
        for m, described in manifest.modalities.items()
        if needs_decoding(described)
    }
    problems += manifest.check()
    problems.stop()
    used = {m: decoder for m, decoder in decoders.items() if decoder is not None}
    if not used:
        raise DataError(f"the manifest {str(path)!r} has no files to decode; every command reads it as it is")
    plain = {m: PLAIN[described["kind"]] for m, described in manifest.modalities.items() if m not in used}
    settings = {
        "table": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        "modalities": manifest.modalities,
        "label": manifest.settings.label,
        "group": manifest.settings.group,
        "columns": manifest.settings.columns,
    }
    table = manifest.table()
    samples = _samples(manifest, table, list(used))
    return decode(
        manifest.name,
        samples,
        used,
        out,
        Run(workers, resume),
        settings,
        task=table.labels.task,
        plain=plain,
        columns=manifest.settings.columns,
    )


def needs_decoding(described: Mapping[str, Any]) -> bool:
    """Return whether a modality is decoded beforehand: files, and text for a pretrained tokenizer.

    >>> needs_decoding({"kind": "text"}), needs_decoding({"kind": "audio"})
    (False, True)
    """
    return described["kind"] in MEDIA or (described["kind"] == "text" and "vocabulary" in described)


def _samples(manifest: Manifest, table: Table, decoded: list[str]) -> list[Sample]:
    """What to decode, and the columns to keep: everything but paths, label and group under the names they go by."""
    rows = manifest.rows.reset_index(drop=True)
    cells = {m: as_strings(rows[m].to_numpy()) for m in decoded}
    dropped = [*decoded, "id", "split", "label"]
    kept = rows.drop(columns=[column for column in dropped if column in rows])
    targets, task = table.labels.target.tolist(), table.labels.task
    files = [m for m in decoded if manifest.modalities[m]["kind"] in MEDIA]
    samples = []
    for row, columns in enumerate(kept.to_dict("records")):
        sources = {
            m: (str(manifest.path(cells[m][row])) if cells[m][row] and m in files else cells[m][row],) for m in decoded
        }
        facts = {str(key): value for key, value in columns.items()}
        facts |= {f"present_{m}": bool(cells[m][row]) for m in decoded}
        if table.groups is not None:
            facts["group"] = str(table.groups[row])
        if task.kind == "survival":
            facts |= dict(zip(("time", "event"), targets[row], strict=True))
        label = targets[row] if task.kind == "regression" else ""
        label = task.classes[targets[row]] if task.kind == "classification" else label
        samples.append(Sample(table.ids[row], str(table.parts[row]), label, sources, facts))
    return samples
