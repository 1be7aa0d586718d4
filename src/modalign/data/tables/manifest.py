"""The user's own data: one table with a row a sample, and a small YAML file that says what its columns are.

``my.csv`` (or ``.parquet``) has ``id`` and ``label``, may have ``split`` (train, valid, test) and ``group``, and
one column a modality: a path relative to the table, a text, a category or a number. An empty cell means that
the modality is absent in that sample. ``my.yaml`` beside it:

    name: clinic                # in tables; the file's name by default
    task: classification        # or regression, or survival with label: TIME,EVENT
    label: label                # the default
    modalities:
      cough: {kind: audio}      # further keys are options of the decoder
      face: {kind: image, size: 224}
      note: text
      labs: numbers             # the column labs (a number, or a list), or labs_* side by side
      site: categories
    columns: [site]             # possible contexts

Audio, images and video are decoded once by ``modalign prepare my.csv``; a table of text, numbers and categories
can be used as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import yaml

from modalign.data.dataset import MultimodalData
from modalign.data.tables.arrays import find_modality, from_settings
from modalign.data.tables.files import read_table, table_arrays
from modalign.data.tables.modalities import as_strings, is_text, show
from modalign.data.tables.rows import RowOptions, Table, keep_rows, read_rows, unknown_columns
from modalign.data.tables.words import split_words
from modalign.errors import InputError, Problems, unknown
from modalign.settings import DataSettings

if TYPE_CHECKING:
    import pandas as pd

MEDIA = ("audio", "image", "video", "frames")
PLAIN = {"text": "text", "numbers": "vector", "categories": "categories"}
KEYS = ("name", "task", "label", "group", "split", "modalities", "columns")


@dataclass(frozen=True)
class Source:
    """What a modality of a manifest is.

    Attributes:
        kind: ``audio``, ``image``, ``video`` and ``frames`` (a folder of images) are paths; ``text``,
            ``numbers`` and ``categories`` are the values themselves.
        options: of the decoder.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        """Whether the column holds paths."""
        return self.kind in MEDIA


@dataclass
class Manifest:
    """A table of samples and what its columns are; made by ``read``, not checked until ``check``.

    Attributes:
        name: of the data set.
        rows: the table.
        sources: modality name to what it is.
        folder: paths in the table are relative to it.
        settings: label, split, group and columns.
        options: how rows are read.
    """

    name: str
    rows: pd.DataFrame
    sources: dict[str, Source]
    folder: Path
    settings: DataSettings
    options: RowOptions

    @classmethod
    def read(cls, path: str | Path, about: str | Path | None = None) -> Manifest:
        """Read the table at ``path`` and its YAML, by default the file beside it with the ending ``.yaml``.

        Raises:
            InputError: a file is missing or cannot be read, or the YAML names what does not exist.
        """
        path = Path(path)
        about = Path(about) if about is not None else path.with_suffix(".yaml")
        if not path.exists():
            raise InputError(f"no manifest at {str(path)!r}; expected a table with a row for each sample")
        rows = read_table(path)
        says = _read_about(about)
        problems = Problems(f"manifest {str(about)!r}")
        problems += [str(unknown("key", key, KEYS)) for key in says if key not in KEYS]
        found = {str(m): problems.trying(_source, str(m), value) for m, value in says["modalities"].items()}
        label = str(says.get("label", "label"))
        columns = [str(column) for column in says.get("columns", [])]
        group = says.get("group", "group" if "group" in rows else None)
        sources = {m: source for m, source in found.items() if source is not None}
        problems += _missing_columns(sources, list(rows.columns))
        name = str(says.get("name", path.stem))
        settings = DataSettings(name=name, label=label, split=says.get("split"), group=group, columns=columns)
        problems += unknown_columns(rows.columns, settings)
        problems.stop()
        return cls(name, rows, sources, path.parent, settings, RowOptions(task=says.get("task")))

    def arrays(self) -> dict[str, np.ndarray]:
        """All columns as arrays, those of a modality of numbers joined; paths stay text."""
        return table_arrays(self.rows, [m for m, source in self.sources.items() if source.kind == "numbers"])

    def path(self, cell: str) -> Path:
        """Where the file of a cell lies."""
        return self.folder / cell

    def check(self) -> list[str]:
        """Every problem of the table, each with rows, expectation and remedy; empty if there is none.

        Found are: ids missing or twice, labels missing or outside their range, classes without a training
        sample, strange names of splits, splits without rows, groups in two splits, files that are missing or
        empty, texts without a word, numbers that are none, samples without any modality, modalities absent
        everywhere. Rows are counted from 0 below the header.
        """
        problems = Problems(f"manifest {self.name!r}")
        with suppress(InputError):  # all that it says is in problems
            self._read(problems, impute=False)
        return list(problems)

    def table(self, impute: bool = False) -> Table:
        """Targets, splits and groups of the checked table; ``impute`` allows numbers that are missing in part.

        Raises:
            InputError: with everything that ``check`` finds.
        """
        return self._read(Problems(f"manifest {self.name!r}"), impute)

    def _read(self, problems: Problems, impute: bool) -> Table:
        whole = problems.trying(self.arrays)
        problems += unknown_columns(self.rows.columns, self.settings)
        problems.stop()
        assert whole is not None
        problems += _missing_ids(self.rows)
        kept, arrays, notes = keep_rows(whole, self.settings, self.options, problems)
        found = {m: problems.trying(self._present, m, source, arrays, impute) for m, source in self.sources.items()}
        present = {m: rows for m, rows in found.items() if rows is not None}
        return read_rows(arrays, present, self.settings, self.options, problems, kept, notes)

    def _present(self, name: str, source: Source, arrays: Mapping[str, np.ndarray], impute: bool) -> np.ndarray:
        """Samples in which a modality is there, its cells checked."""
        array = arrays[name]
        if source.kind == "numbers":
            if is_text(array):
                raise InputError(f"{name!r} should be numbers but has text in rows {show(_not_numbers(array))}")
            return find_modality(name, arrays, impute)
        cells = as_strings(array) if array.ndim == 1 else np.array([""])
        if len(cells) != len(array):
            raise InputError(f"{name!r} has lists in its cells; expected one value of {source.kind} in each")
        present = np.asarray(cells != "")
        if source.kind == "text":
            _check_texts(name, array, present)
        if source.is_file:
            self._check_files(name, source, cells, present)
        return present

    def _check_files(self, name: str, source: Source, cells: np.ndarray, present: np.ndarray) -> None:
        good = Path.is_dir if source.kind == "frames" else _has_bytes
        lost = [row for row in np.flatnonzero(present) if not good(self.path(cells[row]))]
        if lost:
            what = "folders of frames" if source.kind == "frames" else "files"
            raise InputError(
                f"{name!r} names {what} that are missing or empty in rows {show(lost)}: "
                f"{show([str(self.path(cells[row])) for row in lost], 5)}; expected paths relative to the table: "
                "correct them, or leave the cell empty where the modality is absent"
            )


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _read_about(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise InputError(
            f"no file {str(path)!r}, which says what the columns are; expected at least modalities: "
            "{NAME: KIND} in it, with kinds " + ", ".join([*MEDIA, *PLAIN])
        )
    try:
        says = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{str(path)!r} is no YAML: {error}") from None
    if not isinstance(says, dict) or not isinstance(says.get("modalities"), dict) or not says["modalities"]:
        raise InputError(f"{str(path)!r} names no modalities; expected modalities: {{NAME: KIND, ...}}")
    return says


def _source(name: str, value: object) -> Source:
    entry = {"kind": value} if isinstance(value, str) else value
    if not isinstance(entry, dict) or "kind" not in entry:
        raise InputError(f"modality {name!r} has no kind; expected NAME: KIND or NAME: {{kind: KIND, ...}}")
    kind = str(entry["kind"])
    if kind not in (*MEDIA, *PLAIN):
        raise unknown(f"kind of modality {name!r}:", kind, [*MEDIA, *PLAIN])
    if "." in name:
        raise InputError(f"modality {name!r} has a dot in its name; rename it")
    return Source(kind, {key: option for key, option in entry.items() if key != "kind"})


def _missing_columns(sources: Mapping[str, Source], columns: list[str]) -> list[str]:
    lost = []
    for name, source in sources.items():
        beside = any(c.startswith((f"{name}_", f"{name}.")) for c in columns)
        if name not in columns and not (source.kind == "numbers" and beside):
            lost.append(str(unknown("column of modality", name, columns)))
    return lost


def _missing_ids(rows: pd.DataFrame) -> list[str]:
    if "id" not in rows:
        return ["the table has no column 'id'; expected a name for each sample, none twice: add one"]
    lost = np.flatnonzero(rows["id"].isna().to_numpy())
    return [f"'id' is missing in rows {show(lost)}; expected a name for each sample"] if len(lost) else []


def _not_numbers(column: np.ndarray) -> list[int]:
    def fails(text: str) -> bool:
        try:
            float(text or 0)
        except ValueError:
            return True
        return False

    return [row for row, text in enumerate(as_strings(column)) if fails(text)]


def _check_texts(name: str, array: np.ndarray, present: np.ndarray) -> None:
    blank = [
        row
        for row, cell in enumerate(array.tolist())
        if isinstance(cell, str) and cell and not (present[row] and split_words(cell))
    ]
    if blank:
        raise InputError(
            f"{name!r} has texts without a word in rows {show(blank)}; expected a text, or an empty cell where "
            "the modality is absent"
        )


def load_manifest(
    path: Path, settings: DataSettings, impute: Literal["mean"] | None, augment: Sequence[str], **options: Any
) -> MultimodalData:
    """A manifest without files to decode as a data set; the settings go before what its YAML says.

    Args:
        path: of the table.
        settings: of the recipe.
        impute, augment: as in ``from_arrays``.
        options: fields of ``RowOptions``.

    Raises:
        InputError: with every problem of the manifest; or it has files, which have to be decoded first.
    """
    manifest = Manifest.read(path)
    used = settings.modalities or list(manifest.sources)
    for name in [m for m in used if m not in manifest.sources]:
        raise unknown("modality", name, manifest.sources)
    manifest.sources = {m: manifest.sources[m] for m in used}
    said = manifest.settings
    manifest.settings = replace(
        settings,
        name=settings.name or manifest.name,
        modalities=used,
        label=settings.label or said.label,
        split=settings.split or said.split,
        group=settings.group or said.group,
        columns=settings.columns or said.columns,
        kinds={m: PLAIN[source.kind] for m, source in manifest.sources.items() if source.kind in PLAIN}
        | settings.kinds,
    )
    options["task"] = options.get("task") or manifest.options.task
    manifest.options = RowOptions(**options)
    manifest.table(impute is not None)
    files = [m for m in used if manifest.sources[m].is_file]
    if files:
        raise InputError(
            f"the manifest {str(path)!r} has files to decode ({show(files)}); run modalign prepare {path} --out "
            "FOLDER once, and then use FOLDER in its place"
        )
    return from_settings(manifest.settings, manifest.arrays(), manifest.name, impute=impute, augment=augment, **options)
