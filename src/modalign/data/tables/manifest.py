"""The user's own table: one row a sample, and a small YAML file that says what its columns are.

``my.csv`` (or ``.parquet``) has ``id`` and ``label``, may have ``split`` (train, valid, test) and ``group``, and
one column a modality: a path relative to the table, a text, a category or a number. An empty cell means that
the modality is absent in that sample. ``my.yaml`` beside it:

    name: clinic                # in tables; the file's name by default
    task: classification        # or regression, multilabel with label: [A, B, C], survival with [TIME, EVENT]
    label: label                # the default
    modalities:
      cough: {kind: audio}      # further keys are options of the decoder
      face: {kind: image, size: 224}
      note: text
      labs: numbers             # the column labs (a number, or a list), or labs_* side by side
      site: categories
    columns: [site]             # possible contexts
    impute: mean                # fills gaps in numbers by the mean of the training rows; else they are refused
    conditions: {cough: [snr]}  # known at prediction too: how far a modality is to be trusted

Audio, images and video are decoded once by ``modalign prepare my.csv``; a table of text, numbers and categories
can be used as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modalign.data.dataset import MultimodalData
from modalign.data.tables.files import columns_beside, join_columns, read_table, table_arrays
from modalign.data.tables.modalities import as_strings, find_modality, is_text, refuse_rows, show
from modalign.data.tables.reader import RowOptions, Source, Table, check_table, named_columns, read_source
from modalign.data.tables.words import split_words
from modalign.errors import DataError, InputError, Problems, speaking, unknown
from modalign.files import read_settings
from modalign.settings import DataSettings

MEDIA = ("audio", "image", "video", "frames")
PLAIN = {"text": "text", "numbers": "vector", "categories": "categories", "table": "vector"}
KEYS = ("name", "task", "label", "group", "split", "modalities", "columns", "conditions", "impute")


def table_columns(described: Mapping[str, Any]) -> list[str]:
    """Return the columns of a modality of the kind ``table``; none for other kinds.

    >>> table_columns({"kind": "table", "columns": ["age", "sex"]})
    ['age', 'sex']
    """
    return [str(column) for column in described.get("columns", ())] if described["kind"] == "table" else []


@dataclass
class Manifest:
    """A table of samples and what its columns are; made by ``read``, not checked until ``check``.

    Attributes:
        name: of the data set.
        rows: the table.
        modalities: modality name to its ``kind`` and the options of its decoder: ``audio``, ``image``, ``video`` and
            ``frames`` (a folder of images) are paths; ``text``, ``numbers`` and ``categories`` the values themselves,
            ``table`` the ``columns`` that it names side by side, numbers and categories.
        folder: paths in the table are relative to it.
        settings: modalities, label, split, group and columns.
        options: how rows are read.
    """

    name: str
    rows: pd.DataFrame
    modalities: dict[str, dict[str, Any]]
    folder: Path
    settings: DataSettings
    options: RowOptions

    @classmethod
    def read(cls, path: str | Path) -> Manifest:
        """Read the table at ``path`` and its YAML, the file beside it with the ending ``.yaml``.

        Raises:
            InputError: a file is missing or cannot be read, or the YAML names what does not exist.
        """
        path = Path(path)
        if not path.exists():
            raise DataError(f"no manifest at {str(path)!r}; expected a table with a row for each sample")
        rows, about = read_table(path), path.with_suffix(".yaml")
        if not about.exists():
            raise DataError(
                f"no file {str(about)!r}, which says what the columns are; expected at least modalities: "
                "{NAME: KIND} in it, with kinds " + ", ".join([*MEDIA, *PLAIN])
            )
        says = read_settings(about, "what the columns of the table are: modalities: {NAME: KIND, ...}")
        if not isinstance(says.get("modalities"), dict) or not says["modalities"]:
            raise DataError(f"{str(about)!r} names no modalities; expected modalities: {{NAME: KIND, ...}}")
        problems = Problems(f"manifest {str(about)!r}")
        problems += [str(unknown("key", key, KEYS)) for key in says if key not in KEYS]
        modalities: dict[str, dict[str, Any]] = {}
        for name, value in says["modalities"].items():
            m, entry = str(name), {"kind": value} if isinstance(value, str) else value
            if not isinstance(entry, dict) or "kind" not in entry:
                problems.append(f"modality {m!r} has no kind; expected NAME: KIND or NAME: {{kind: KIND, ...}}")
            elif entry["kind"] not in (*MEDIA, *PLAIN):
                problems.append(str(unknown(f"kind of modality {m!r}:", str(entry["kind"]), [*MEDIA, *PLAIN])))
            elif entry["kind"] == "table" and not (isinstance(entry.get("columns"), list) and entry["columns"]):
                problems.append(
                    f"modality {m!r} is a table of no columns; expected {m}: {{kind: table, columns: [...]}}"
                )
            elif "." in m:
                problems.append(f"modality {m!r} has a dot in its name; rename it")
            else:
                modalities[m] = entry
        columns = [str(column) for column in rows.columns]
        for m, described in modalities.items():
            if described["kind"] == "table":
                lost = [str(c) for c in described["columns"] if str(c) not in columns]
                problems += [str(unknown(f"column of modality {m!r}:", c, columns)) for c in lost]
            elif m not in columns and not (described["kind"] == "numbers" and columns_beside(m, columns)):
                problems.append(str(unknown("column of modality", m, columns)))
        conditions = says.get("conditions") or {}
        if not isinstance(conditions, dict):
            problems.append(f"conditions are {conditions!r}; expected conditions: {{MODALITY: [COLUMN, ...]}}")
            conditions = {}
        further, label = says.get("columns") or [], says.get("label", "label")
        settings = DataSettings(
            name=str(says.get("name", path.stem)),
            modalities=list(modalities),
            label=[*map(str, label)] if isinstance(label, list) else str(label),
            split=says.get("split"),
            group=says.get("group", "group" if "group" in columns else None),
            columns=[str(column) for column in further] if isinstance(further, list) else further,
            conditions=conditions,
        )
        problems += [str(unknown(what, c, columns)) for what, c in named_columns(settings) if c not in columns]
        options = problems.trying(RowOptions, task=says.get("task"), impute=says.get("impute"))
        problems.stop()
        assert options is not None
        return cls(settings.name, rows, modalities, path.parent, settings, options)

    def source(self, problems: Problems) -> Source:
        """Return all columns as arrays, those of a modality of numbers joined; paths stay text.

        Args:
            problems: those with the column ``id`` are added.

        Raises:
            DataError: lists of different lengths, or numbers that cannot be put side by side.
        """
        columns = problems.trying(table_arrays, self.rows) or {}
        used = {m: self.modalities[m] for m in self.settings.modalities or []}
        beside = {m: table_columns(one) for m, one in used.items() if one["kind"] in ("numbers", "table")}
        joined = problems.trying(join_columns, columns, beside) if columns else None
        problems.stop()
        if "id" not in self.rows:
            problems.append("the table has no column 'id'; expected a name for each sample, none twice: add one")
        else:
            lost = self.rows["id"].isna().to_numpy()
            problems.trying(refuse_rows, lost, "'id' is missing", "; expected a name for each sample")
        return Source(columns, joined=joined or {}, present=self._present)

    def check(self) -> list[str]:
        """Return every problem of the table, each with rows, expectation and remedy; empty if there is none.

        Found are: ids missing or twice, labels missing or outside their range, classes without a training
        sample, strange names of splits, splits without rows, groups in two splits, files that are missing or
        empty, texts without a word, numbers that are none, samples without any modality, modalities absent
        everywhere. Rows are counted from 0 below the header.
        """
        problems = Problems(f"manifest {self.name!r}")
        with suppress(InputError):  # all that it says is in problems
            self.table(problems)
        return list(problems)

    def table(self, problems: Problems | None = None) -> Table:
        """Return targets, splits and groups of the checked table.

        Raises:
            DataError: with everything that ``check`` finds.
        """
        problems = Problems(f"manifest {self.name!r}") if problems is None else problems
        with speaking("manifest"):
            return check_table(self.source(problems), self.settings, self.options, problems)

    def _present(self, name: str, arrays: Mapping[str, np.ndarray], impute: bool) -> np.ndarray:
        """Samples in which a modality is there, its cells checked."""
        array, kind = arrays[name], self.modalities[name]["kind"]
        if kind == "numbers":
            if is_text(array):
                texts = pd.Series(as_strings(array))
                strange = (pd.to_numeric(texts, errors="coerce").isna() & (texts != "")).to_numpy()
                after = "; expected numbers, or an empty cell: mend the rows, or call it categories or text"
                refuse_rows(strange, f"{name!r} has text", after)
            return find_modality(name, arrays, impute)
        if kind == "table":
            return find_modality(name, arrays, impute)
        if array.ndim != 1:
            raise DataError(f"{name!r} has lists in its cells; expected one value of {kind} in each")
        cells = as_strings(array)
        present = np.asarray(cells != "")
        if kind == "text":
            given = [isinstance(cell, str) and cell != "" for cell in array.tolist()]
            blank = np.array([there and not split_words(cell) for there, cell in zip(given, cells, strict=True)])
            expected = "; expected a text, or an empty cell where the modality is absent"
            refuse_rows(blank, f"{name!r} has texts without a word", expected)
        if kind in MEDIA:
            paths = [self.folder / cell for cell in cells]
            good = [p.is_dir() if kind == "frames" else p.is_file() and p.stat().st_size > 0 for p in paths]
            lost = np.flatnonzero(present & ~np.array(good))
            if len(lost):
                what = "folders of frames" if kind == "frames" else "files"
                raise DataError(
                    f"{name!r} names {what} that are missing or empty in rows {show(lost)}: "
                    f"{show([str(paths[row]) for row in lost], 5)}; expected paths relative to the table: "
                    "correct them, or leave the cell empty where the modality is absent"
                )
        return present


def load_manifest(path: Path, settings: DataSettings, options: RowOptions) -> MultimodalData:
    """Return a manifest without files to decode as a data set; the settings go before what its YAML says.

    Args:
        path: of the table.
        settings: data settings of the recipe.
        options: how rows are read.

    Raises:
        InputError: with every problem of the manifest; or it has files, which have to be decoded first.
    """
    manifest = Manifest.read(path)
    said = manifest.settings
    used = settings.modalities or list(manifest.modalities)
    for name in [m for m in used if m not in manifest.modalities]:
        raise unknown("modality", name, manifest.modalities)
    kinds = {m: manifest.modalities[m]["kind"] for m in used}
    manifest.settings = replace(
        settings,
        modalities=used,
        label=settings.label or said.label,
        split=settings.split or said.split,
        group=settings.group or said.group,
        columns=settings.columns or said.columns,
        conditions=settings.conditions or {m: c for m, c in said.conditions.items() if m in used},
        kinds={m: PLAIN[kind] for m, kind in kinds.items() if kind in PLAIN} | settings.kinds,
    )
    own = manifest.options
    manifest.options = replace(options, task=options.task or own.task, impute=options.impute or own.impute)
    files = [m for m in used if kinds[m] in MEDIA]
    if files:
        manifest.table()
        raise DataError(
            f"the manifest {str(path)!r} has files to decode ({show(files)}); run modalign prepare {path} --out "
            "FOLDER once, and then use FOLDER in its place"
        )
    problems = Problems(f"manifest {manifest.name!r}")
    return read_source(
        manifest.source(problems), manifest.settings, manifest.options, problems, settings.name or manifest.name
    )
