"""Decode the files that a manifest names, once, into a prepared folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modalign.data.batch import Modality
from modalign.data.media import decoders
from modalign.data.media.decoders import Unreadable, decode_image, segment_centers
from modalign.data.media.pool import Decoder, Sample
from modalign.data.media.prepare import PrepareReport, Run, decode
from modalign.data.media.spectrograms import AUDIO_RECIPES
from modalign.data.tables.manifest import PLAIN, Manifest, Source
from modalign.data.tables.modalities import as_strings
from modalign.data.tables.rows import Table
from modalign.data.task import Task
from modalign.errors import InputError, Problems, unknown

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
DEFAULTS: dict[str, dict[str, Any]] = {
    "audio": {"recipe": "ogm"},
    "image": {"size": 224},
    "video": {"frames": 3, "size": 224},
    "frames": {"frames": 3, "size": 224},
    "text": {"vocabulary": "", "length": 64},
}
"""Options of each kind of decoder. Text is decoded here only where ``vocabulary`` names a tokenizer."""


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
        m: problems.trying(_decoder, m, source) for m, source in manifest.sources.items() if needs_decoding(source)
    }
    problems += manifest.check()
    problems.stop()
    used = {m: decoder for m, decoder in decoders.items() if decoder is not None}
    if not used:
        raise InputError(f"the manifest {str(path)!r} has no files to decode; every command reads it as it is")
    plain = {m: PLAIN[source.kind] for m, source in manifest.sources.items() if m not in used}
    settings = {
        "table": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        "modalities": {m: {"kind": source.kind, **source.options} for m, source in manifest.sources.items()},
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


def needs_decoding(source: Source) -> bool:
    """Whether a modality is decoded beforehand: files, and text for a pretrained tokenizer."""
    return source.is_file or (source.kind == "text" and "vocabulary" in source.options)


def _samples(manifest: Manifest, table: Table, decoded: list[str]) -> list[Sample]:
    """What to decode, and the columns to keep: everything but paths, label and group under the names they go by."""
    rows = manifest.rows.reset_index(drop=True)
    cells = {m: as_strings(rows[m].to_numpy()) for m in decoded}
    dropped = [*decoded, "id", "split", "label"]
    kept = rows.drop(columns=[column for column in dropped if column in rows])
    targets = table.labels.target.tolist()
    samples = []
    for row, columns in enumerate(kept.to_dict("records")):
        sources = {m: (_source_cell(manifest, m, cells[m][row]),) for m in decoded}
        facts = {str(key): value for key, value in columns.items()}
        facts |= {f"present_{m}": bool(cells[m][row]) for m in decoded}
        if table.groups is not None:
            facts["group"] = str(table.groups[row])
        if table.labels.task.kind == "survival":
            facts |= dict(zip(("time", "event"), targets[row], strict=True))
        label = _label(table.labels.task, targets[row])
        samples.append(Sample(table.ids[row], str(table.parts[row]), label, sources, facts))
    return samples


def _label(task: Task, target: Any) -> Any:
    """What stands in the column of labels: a class's name, a number, or nothing where time and event are the target."""
    if task.kind == "survival":
        return ""
    return task.classes[target] if task.kind == "classification" else target


def _source_cell(manifest: Manifest, modality: str, cell: str) -> str:
    return str(manifest.path(cell)) if cell and manifest.sources[modality].is_file else cell


@dataclass(frozen=True)
class OrNothing:
    """A decoder that gives zeros for an empty cell: the modality is absent there."""

    function: Callable[..., tuple[np.ndarray, str]]
    shape: tuple[int, ...]
    dtype: str

    def __call__(self, cell: str, **options: Any) -> tuple[np.ndarray, str]:
        """The array of a cell and a remark."""
        return self.function(cell, **options) if cell else (np.zeros(self.shape, self.dtype), "")


def decode_folder(path: str | Path, frames: int, size: int) -> tuple[np.ndarray, str]:
    """``frames`` images of a folder, (frames, 3, size, size) uint8, and a remark or "".

    The images are sorted by name and taken from the middle of equal segments.

    Raises:
        Unreadable: the folder has no images, or one cannot be read.
    """
    files = sorted(file for file in Path(path).iterdir() if file.suffix.lower() in PICTURES)
    if not files:
        raise Unreadable(f"no images in the folder {path}; expected files that end in {', '.join(PICTURES)}")
    chosen = [decode_image(files[i], size)[0] for i in segment_centers(len(files), frames)]
    return np.stack(chosen), f"only {len(files)} frames" if len(files) < frames else ""


def _decoder(name: str, source: Source) -> Decoder:
    """How a modality of the manifest is decoded."""
    for option in source.options:
        if option not in DEFAULTS[source.kind]:
            raise unknown(f"option of {source.kind} modality {name!r}:", option, DEFAULTS[source.kind])
    options = {**DEFAULTS[source.kind], **source.options}
    for option in ("size", "frames", "length"):
        if not (isinstance(options.get(option, 1), int) and options.get(option, 1) >= 1):
            raise InputError(f"{option} of modality {name!r} is {options[option]!r}; expected a whole number from 1")
    size, frames = options.get("size", 0), options.get("frames", 0)
    if source.kind == "audio":
        if options["recipe"] not in AUDIO_RECIPES:
            raise unknown("audio recipe", options["recipe"], AUDIO_RECIPES)
        about = Modality(name, "image", AUDIO_RECIPES[options["recipe"]].shape)
        return _with_gaps(about, "<f4", decoders.decode_audio, options)
    if source.kind == "image":
        return _with_gaps(Modality(name, "image", (3, size, size)), "|u1", decode_image, options)
    if source.kind == "text":
        tokens = decoders.tokenizer(options["vocabulary"])
        about = Modality(name, "text", (options["length"],), len(tokens), tokens.pad_token_id)
        return _with_gaps(about, "<i8", decoders.decode_text, options)
    function = decoders.decode_video if source.kind == "video" else decode_folder
    return _with_gaps(Modality(name, "clip", (frames, 3, size, size)), "|u1", function, options)


def _with_gaps(
    modality: Modality, dtype: str, function: Callable[..., tuple[np.ndarray, str]], options: Mapping[str, Any]
) -> Decoder:
    return Decoder(modality, dtype, OrNothing(function, modality.shape, dtype), options)
