"""GBMLGG: grade and survival of 769 glioma patients from histology and genomics (Chen et al., IEEE TMI 2020).

Download: the processed data of PathomicFusion, ``data/TCGA_GBMLGG``: ``all_dataset.csv``
(``all_datasets.csv`` in its description), ``grade_data.csv``, ``pnas_splits.csv``, two mRNA tables,
``splits/gbmlgg15cv_*.pkl``, and the images: ``gbmlgg/all_st_patches_512/*_<row>_<column>.png`` (13,545, nine
of each region of interest) or ``gbmlgg/all_st/*.png`` (1,505 regions of 1024 x 1024, from which the same nine
are cut).

A sample is a patch with its patient's genomic features; the patient (first 12 characters of every name) is
the group, in one split only. Metrics count patients, regions or patches, over whose patches probabilities are
averaged; published ones are per patch. Patients without grade or molecular subtype are left out, as in the published
grading.

Handled: the two names of the main table; paths in the split files that fit no documented tree (names are
looked for among the images); split files, which are pickles, are read without running what is in them (see
``read_splits``), or not at all where the tables are there. Published features are scaled over all regions of
the training folds; here they are stored as they are (or as fold 1 has them) and the model scales them by its
own training rows, which comes to the same without a look at validation.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from modalign.data.batch import Modality
from modalign.data.dataset import MultimodalData
from modalign.data.media.decoders import Decoder, check, decode_image, make_decoder
from modalign.data.media.folder import load_split
from modalign.data.media.prepare import Entry, PrepareReport, Run, Sample, decode, locate
from modalign.data.tables.modalities import show
from modalign.data.task import classification
from modalign.domains import Range
from modalign.errors import DataError, InputError, unknown
from modalign.files import check_claim
from modalign.settings import DataSettings

GRADES = ("II", "III", "IV")
FOLDS = 15
UNITS = {"patch": "(.+)", "region": r"(.+)_\d+_\d+", "patient": "(.{12}).*"}
"""What metrics count, and where an id says it: ``TCGA-02-0001-01Z-00-DX1.AB-12_1_<row>_<column>``."""
OFFICIAL = {"patients in the tables": 769, "regions": 1505, "patches": 13_545}
PATCHES, REGIONS = "all_st_patches_512", "all_st"
PATCH, OFFSETS = 512, (0, 256, 512)
TABLES = ("all_dataset.csv", "all_datasets.csv")
MRNA = ("mRNA_Expression_z-Scores_RNA_Seq_RSEM.txt", "mRNA_Expression_Zscores_RSEM.txt")
NOT_FEATURES = {"indexes", "TCGA ID", "censored", "Survival months"}
SOURCE = "the processed TCGA-GBMLGG data linked in data/TCGA_GBMLGG of github.com/mahmoodlab/PathomicFusion"


@dataclass(frozen=True)
class Patient:
    """What the tables say of a patient.

    Attributes:
        features: (F,) float32.
        grade: 0, 1, 2 for grades II, III, IV.
        time: of survival, in the unit of the table (called months there; days, to judge by the published plots).
        event: 1 if death was observed, 0 if censored.
        folds: ``train`` or ``test`` in each of the 15 splits.
    """

    features: np.ndarray
    grade: int
    time: float
    event: int
    folds: tuple[str, ...]


def prepare(
    raw: Path,
    out: Path,
    *,
    run: Run,
    size: int = 224,
    rnaseq: bool = False,
    tables: Literal["auto", "csv", "pickle"] = "auto",
) -> PrepareReport:
    """Prepare GBMLGG.

    Args:
        raw: the download: ``TCGA_GBMLGG``, or the folder it lies in.
        out: folder to write.
        run: how.
        size: height and width of a patch in pixels, scaled from 512.
        rnaseq: 320 genomic features (mRNA added), as in the published survival, instead of the 80 of its
            grading.
        tables: where patients come from: ``csv``, the ``pickle`` of the splits, or ``auto``: csv if they are
            there.

    Raises:
        InputError: files are missing or cannot be read.
    """
    if tables not in ("auto", "csv", "pickle"):
        raise unknown("source of tables", tables, ["auto", "csv", "pickle"])
    root = locate(raw, {"pnas_splits.csv": "the 15 splits", "gbmlgg": "images"}, SOURCE)
    complete = any((root / name).is_file() for name in TABLES) and (root / "grade_data.csv").is_file()
    if tables == "pickle" or (tables == "auto" and not complete):
        ending = "_rnaseq" if rnaseq else ""
        names = [f"gbmlgg15cv_{roi}_1_1_{vgg}{ending}.pkl" for roi in (REGIONS, PATCHES) for vgg in (0, 1)]
        files = [root / "splits" / name for name in names if (root / "splits" / name).is_file()]
        if not files:
            raise DataError(
                f"no table and no split file: expected one of {names} in {root / 'splits'}. Source: {SOURCE}."
            )
        patients, lost = read_splits(files[0])
    else:
        patients, lost = read_tables(root, rnaseq)
    patches = find_patches(root)
    regions = {key.rsplit("_", 2)[0] for key in patches}
    counts = (len(patients) + len(lost), len(regions), len(patches))
    warnings = run.expect(dict(zip(OFFICIAL, zip(counts, OFFICIAL.values(), strict=True), strict=True)))
    samples = []
    for key, source in patches.items():
        if patient := patients.get(key[:12]):
            facts = {"group": key[:12], "region": key.rsplit("_", 2)[0], "time": patient.time, "event": patient.event}
            facts |= {f"fold_{k}": part for k, part in enumerate(patient.folds, 1)}
            sources = {"image": source, "omic": (patient.features,)}
            samples.append(Sample(key, patient.folds[0], GRADES[patient.grade], sources, facts))
    if not samples:
        raise DataError(f"{root}: no image belongs to one of the {len(patients)} patients of the tables.")
    without = sorted(set(patients) - {key[:12] for key in patches})
    lost += [{"id": patient, "modality": "image", "reason": "no region of this patient"} for patient in without]
    width = len(next(iter(patients.values())).features)
    decoders = {
        "image": replace(make_decoder("image", {"kind": "image", "size": size}), function=decode_patch),
        "omic": Decoder(Modality("omic", "vector", (width,)), "<f4", keep),
    }
    task, settings = classification(GRADES), {"size": size, "rnaseq": rnaseq}
    return decode("gbmlgg", samples, decoders, out, run, settings, task=task, warnings=warnings, lost=lost)


def keep(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Return numbers that need no decoding, and no remark.

    >>> keep(np.ones(2))
    (array([1., 1.]), '')
    """
    return values, ""


def find_patches(root: Path) -> dict[str, tuple[Any, ...]]:
    """Name of each patch, without ending, and its source: a file, or a file and the corner to cut at.

    Raises:
        InputError: there are neither patches nor regions.
    """
    for folder in [root / place / name for name in (PATCHES, REGIONS) for place in ("gbmlgg", "")]:
        files = sorted(folder.glob("TCGA-*.png"))
        if files and folder.name == PATCHES:
            return {file.stem: (str(file),) for file in files}
        if files:
            corners = [(file, row, column) for file in files for row in OFFSETS for column in OFFSETS]
            return {f"{file.stem}_{row}_{column}": (str(file), row, column) for file, row, column in corners}
    raise DataError(
        f"no TCGA-*.png in {root / 'gbmlgg' / PATCHES} or {root / 'gbmlgg' / REGIONS}; put the "
        f"patches or the regions there. Source: {SOURCE}."
    )


def decode_patch(path: str, row: int | None = None, column: int | None = None, *, size: int) -> tuple[np.ndarray, str]:
    """A patch as (3, size, size) uint8, read as it is or cut out of its region at (row, column).

    Raises:
        Unreadable: not an image, or the region is smaller than the patch needs.
    """
    box = None if row is None or column is None else (column, row, column + PATCH, row + PATCH)
    return decode_image(path, size, box)


def read_tables(root: Path, rnaseq: bool) -> tuple[dict[str, Patient], list[Entry]]:
    """Return patients from the tables, and those left out: no grade, no molecular subtype, no split, no mRNA.

    A feature that a patient lacks is the median of all patients kept, as in the published preparation.

    Raises:
        InputError: a table is missing or lacks a column; or the splits are not 15 of Train and Test.
    """
    path = next((root / name for name in TABLES if (root / name).is_file()), None)
    if path is None or not (root / "grade_data.csv").is_file():
        raise DataError(f"{root} lacks {TABLES[0]} or grade_data.csv; expected both. Source: {SOURCE}.")
    main, grades = pd.read_csv(check(path)), pd.read_csv(check(root / "grade_data.csv"))
    needs = (NOT_FEATURES - {"indexes"}, {"TCGA ID", "Grade", "Molecular subtype"})
    for table, needed in zip((main, grades), needs, strict=True):
        if not needed <= set(table.columns):
            raise DataError(f"the tables in {root} lack the columns {sorted(needed - set(table.columns))}.")
    main, grades = main.set_index("TCGA ID"), grades.set_index("TCGA ID")
    genes = main.drop(columns=[name for name in NOT_FEATURES if name in main.columns])
    if rnaseq:  # of both projects, the genes that both tables have, complete ones only
        read = [pd.read_csv(check(root / name), sep="\t", skiprows=1, index_col=0) for name in MRNA]
        cancer, glioma = [table.dropna(axis=1, how="all") for table in read]
        both = cancer.join(glioma, how="inner").dropna(axis=0).T
        both.index = both.index.str[:12]
        genes = genes.join(both[~both.index.duplicated()].add_suffix("_rnaseq"), how="left")
    folds = pd.read_csv(root / "pnas_splits.csv", index_col=0)
    folds = folds.apply(lambda column: column.astype(str).str.strip().str.lower())
    if folds.shape[1] != FOLDS or not folds.isin(["train", "test"]).all(axis=None):
        said = show(sorted({*folds.to_numpy().ravel().tolist()}), most=4)
        raise DataError(
            f"{root / 'pnas_splits.csv'} has {folds.shape[1]} columns beside the id, of {said}; expected "
            f"{FOLDS} columns of Train or Test: take the file of the published 15 splits. Source: {SOURCE}."
        )
    reasons = {
        "no grade": grades["Grade"].reindex(main.index).isna(),
        "no molecular subtype": grades["Molecular subtype"].reindex(main.index).isna(),
        "no survival": main[["Survival months", "censored"]].isna().any(axis=1),
        "not in pnas_splits.csv": ~main.index.isin(folds.index.astype(str)),
        "no mRNA": genes.filter(like="_rnaseq").isna().any(axis=1),
    }
    lost = {patient: reason for reason, rows in reasons.items() for patient in main.index[np.asarray(rows, bool)]}
    genes = genes[~genes.index.isin(list(lost))].astype(np.float64)
    genes = genes.fillna(genes.median())
    parts = {str(patient): tuple(row) for patient, row in zip(folds.index, folds.to_numpy(), strict=True)}
    patients = {}
    for patient, features in zip(genes.index, genes.to_numpy(np.float32), strict=True):
        about, grade = main.loc[patient], int(grades.loc[patient, "Grade"]) - 2
        time, event = float(about["Survival months"]), 1 - int(about["censored"])
        patients[patient] = Patient(features, grade, time, event, parts[patient])
    return patients, [{"id": key, "modality": "omic", "reason": reason} for key, reason in sorted(lost.items())]


def read_splits(path: Path) -> tuple[dict[str, Patient], list[Entry]]:
    """Patients from a published split file, without running anything in it; and those left out.

    Only arrays of numbers and text are rebuilt (see ``DataUnpickler``). Features are those of fold 1: scaled
    by its training rows, which differs from every other fold's by a shift and a factor for each feature.

    Raises:
        InputError: the file asks for code, or has not the published form.
    """
    try:
        check_claim(2 * check(path).stat().st_size, str(path))
        splits = DataUnpickler(io.BytesIO(path.read_bytes()), path).load()["cv_splits"]
        folds: dict[str, list[str]] = {}
        for k in range(1, FOLDS + 1):
            for part in ("train", "test"):
                for patient in dict.fromkeys(splits[k][part]["x_patname"]):
                    folds.setdefault(str(patient), [""] * FOLDS)[k - 1] = part
        patients: dict[str, Patient] = {}
        for one in (splits[1]["train"], splits[1]["test"]):
            for patient, omic, grade, time, event in zip(
                *(one[k] for k in ("x_patname", "x_omic", "g", "t", "e")), strict=True
            ):
                about = np.asarray(omic, np.float32), int(grade), float(time), int(event)
                patients.setdefault(str(patient), Patient(*about, tuple(folds[str(patient)])))
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(
            f"{path} has not the published form cv_splits[fold][train|test] ({type(error).__name__}: "
            f"{error}); use the tables (all_dataset.csv, grade_data.csv, pnas_splits.csv) instead."
        ) from error
    lost = {patient: "not in every fold" for patient, parts in folds.items() if "" in parts}
    lost |= {key: "no grade" for key, patient in patients.items() if patient.grade not in (0, 1, 2)}
    kept = {key: patient for key, patient in patients.items() if key not in lost}
    return kept, [{"id": key, "modality": "omic", "reason": reason} for key, reason in sorted(lost.items())]


class Inert:
    """What stands for a table of pandas, or a part of one: takes whatever it is given and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Forget the arguments."""

    def __setstate__(self, state: Any) -> None:
        """Forget the state."""


def _bytes_only(content: object = b"") -> bytearray:
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("bytes made of a length")
    return bytearray(content)


def _latin(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"unexpected encoding {encoding!r}")
    return text.encode("latin1")


def _empty_array(kind: Any, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """How numpy begins an array; its contents follow, and are compared with its shape before memory is asked for."""
    if kind is not _Array or tuple(shape) != (0,):
        raise pickle.UnpicklingError(f"an array of shape {shape} without contents")
    return np.empty(0, np.int8)


def _scalar(dtype: np.dtype, content: bytes = b"") -> Any:
    if not isinstance(content, bytes) or len(content) != dtype.itemsize:
        raise pickle.UnpicklingError(f"a number of {dtype} with other contents")
    return np.frombuffer(content, dtype)[0]


class _Array:
    """What stands for the class of arrays, which is not called: a shape alone would ask for any memory."""

    def __init__(self) -> None:
        raise pickle.UnpicklingError("an array made of its shape")


class DataUnpickler(pickle._Unpickler):
    """Rebuilds dictionaries, lists, text and numpy arrays; nothing else that a pickle may ask for.

    It is the one of Python, not that of C, which gives memory to whatever a few bytes claim (a memo of 2^32 entries).

    Tables of pandas, which the published files hold too, become ``Inert``: their old forms need old versions
    of pandas, and nothing in them is needed.
    """

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """The few names that are allowed.

        Raises:
            InputError: any other name; nothing of the file has been run.
        """
        if module.split(".")[0] in ("pandas", "pyarrow"):
            return Inert
        plain = (module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins"), name)
        if plain in ALLOWED:
            return ALLOWED[plain]
        raise DataError(
            f"{self.path} asks for {module}.{name}, which a data file has no need of; nothing in it was run. "
            "Use the tables (all_dataset.csv, grade_data.csv, pnas_splits.csv) instead."
        )


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): np._core.numeric._frombuffer,  # type: ignore[attr-defined]
    ("_codecs", "encode"): _latin,
    ("builtins", "slice"): slice,
    ("builtins", "object"): object,
    ("builtins", "bytearray"): _bytes_only,
    ("copyreg", "_reconstructor"): Inert,
    ("copy_reg", "_reconstructor"): Inert,
}


def load(
    settings: DataSettings,
    target: Literal["grade", "survival"] = "grade",
    fold: Annotated[int, Range(least=1, most=FOLDS)] = 1,
    augment: Sequence[str] = ("image",),
    score: Literal["patient", "region", "patch"] = "patient",
) -> MultimodalData:
    """GBMLGG as prepared in ``settings.path``; validation patients are held out of the fold's training
    patients.

    Args:
        settings: ``split`` is ``official`` (default: the fold) or an expression over the columns.
        target: ``grade`` (II, III, IV) or ``survival`` (time and event).
        fold: 1 to 15.
        augment: modalities that are cropped and flipped at random in training.
        score: what metrics count, by which epochs are selected too: the ``patient`` or the ``region``, over whose
            patches probabilities (or log risks) are averaged, or the ``patch``. A run says the others beside it.

    Raises:
        InputError: no such target, fold or score.
    """
    if score not in UNITS:
        raise unknown("score", score, UNITS)
    if target not in ("grade", "survival"):
        raise unknown("target", target, ["grade", "survival"])
    if settings.fold is not None and settings.folds is None and settings.split in (None, "official"):
        fold, settings = settings.fold + 1, replace(settings, fold=None)  # the published folds
    if fold not in range(1, FOLDS + 1):
        raise DataError(f"fold {fold} does not exist; expected 1 to {FOLDS}.")
    if settings.split in (None, "official"):
        settings, published = replace(settings, split=f"fold_{fold}"), (fold, FOLDS)
    else:
        published = None
    if target == "survival":
        settings = replace(settings, label="time,event")
    data = load_split(settings, augment, task="survival" if target == "survival" else None)
    data = replace(data, scored=score, units=UNITS, fold=published)
    if score == "patch":
        return data
    note = f"metrics count {score}s: the scores of a {score}'s patches are averaged"
    return replace(data, fingerprint=f"{data.fingerprint}-{score}", notes=[*data.notes, note])
