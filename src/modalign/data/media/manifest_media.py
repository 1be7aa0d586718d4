"""Decode the files that a manifest names, once, into a prepared folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from modalign.data.media.decoders import make_decoder
from modalign.data.media.prepare import PrepareReport, Run, Sample, claimed, decode
from modalign.data.tables.manifest import MEDIA, PLAIN, Manifest, table_columns
from modalign.data.tables.modalities import as_strings
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
    kinds = {m: described["kind"] for m, described in manifest.modalities.items()}
    problems = Problems(f"manifest {manifest.name!r}")
    decoders = {
        m: problems.trying(make_decoder, m, described, gaps=True)
        for m, described in manifest.modalities.items()
        if kinds[m] in MEDIA or (kinds[m] == "text" and "vocabulary" in described)  # for a pretrained tokenizer
    }
    problems += manifest.check()
    problems.stop()
    used = {m: decoder for m, decoder in decoders.items() if decoder is not None}
    if not used:
        raise DataError(f"the manifest {str(path)!r} has no files to decode; every command reads it as it is")
    said, table = manifest.settings, manifest.table()
    settings: dict[str, Any] = {
        "table": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        "modalities": manifest.modalities,
    }
    settings |= {"label": said.label, "group": said.group, "columns": said.columns}
    settings |= {"conditions": said.conditions} if said.conditions else {}
    settings |= {"impute": manifest.options.impute} if manifest.options.impute else {}
    rows = manifest.rows.reset_index(drop=True)
    kept = rows.drop(columns=[c for c in [*used, "id", "split", "label"] if c in rows]).to_dict("records")
    cells = {m: as_strings(rows[m].to_numpy()) for m in used}
    targets, task = table.labels.target.tolist(), table.labels.task
    samples = []
    for row, (target, columns) in enumerate(zip(targets, kept, strict=True)):
        found = {m: cells[m][row] for m in used}
        sources = {m: (str(manifest.folder / c) if c and kinds[m] in MEDIA else c,) for m, c in found.items()}
        facts = {str(key): value for key, value in columns.items()} | {
            f"present_{m}": bool(c) for m, c in found.items()
        }
        facts |= {} if table.groups is None else {"group": str(table.groups[row])}
        facts |= dict(zip(("time", "event"), target, strict=True)) if task.kind == "survival" else {}
        facts |= dict(zip(task.classes, target, strict=True)) if task.several else {}
        several = task.several or task.kind == "survival"
        label = "" if several else target if task.kind == "regression" else task.classes[target]
        samples.append(Sample(table.ids[row], str(table.parts[row]), label, sources, facts))
    plain = {m: table_columns(manifest.modalities[m]) or PLAIN[kind] for m, kind in kinds.items() if m not in used}
    with claimed(out, Run(workers, resume)) as run:
        return decode(
            manifest.name, samples, used, out, run, settings, task=task, plain=plain, columns=said.columns,
            conditions=said.conditions,
        )  # fmt: skip
