"""CREMA-D: six emotions spoken by 91 actors, audio and video (Cao et al., IEEE Trans. Affective Computing
2014).

Download: ``AudioWAV/<id>.wav`` and ``VideoFlash/<id>.flv`` (Sorenson H.263 with MP3) of
github.com/CheyneyComputerScience/CREMA-D (large files by git-LFS), and beside them the lists
``train.csv`` and ``test.csv`` (6,698 and 744 lines ``id,LABEL``) of any of the published repositories. An
id such as ``1001_DFA_ANG_XX`` is actor, sentence, emotion and intensity.

Defects that are handled: lists with and without header, byte-order mark and CRLF; LFS pointers in place
of files; known broken clips (1076_MTI_NEU_XX, 1076_MTI_SAD_XX, 1064_TIE_SAD_XX, 1064_IEO_DIS_MD), which
are listed as unreadable where they are. Every one of the 91 actors stands in both official lists, so an
official test score says nothing of new speakers: the split ``actor`` does.

Classes are in alphabetical order: ANG DIS FEA HAP NEU SAD. OGM-GE numbers them NEU HAP SAD FEA DIS ANG;
compare predictions by name.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from modalign.data.dataset import MultimodalData
from modalign.data.media.folder import hold_out_values, load_under
from modalign.data.media.prepare import PrepareReport, Run, Sample, decode, locate, protocol_decoders
from modalign.data.task import classification
from modalign.domains import Count, Seed
from modalign.errors import DataError
from modalign.settings import DataSettings

CLASSES = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
OFFICIAL = {"train": 6698, "test": 744}
ID = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})")
SOURCE = (
    "github.com/CheyneyComputerScience/CREMA-D for the recordings; data/CREMAD of "
    "github.com/GeWu-Lab/OGM-GE_CVPR2022 for train.csv and test.csv"
)


def prepare(
    raw: Path,
    out: Path,
    *,
    run: Run,
    protocol: str = "ours",
    audio: str | None = None,
    frames: int | None = None,
    size: int = 224,
) -> PrepareReport:
    """Prepare CREMA-D.

    Args:
        raw: the download.
        out: folder to write.
        run: how.
        protocol: whose sound and frames (``modalign.protocols``), where they are not given.
        audio: ``ogm`` and ``reconboost`` (1, 257, 188), ``pmr`` and ``pmr22`` (1, 257, 1004), ``pmr3s`` (1, 257, 299)
            or ``fbank`` (1, 1024, 128); see ``spectrograms``. That of ``ours``: ``ogm``.
        frames: of each video; those of ``ours``: 3 from the middle of equal segments.
        size: height and width of a frame in pixels.

    Raises:
        InputError: no such protocol, files are missing or a list cannot be read.
    """
    settings, decoders = protocol_decoders("cremad", protocol, audio, frames, size)
    wanted = {
        "AudioWAV": "7,442 WAV files",
        "VideoFlash": "7,442 FLV files",
        "train.csv": "list of 6,698 ids with labels",
        "test.csv": "list of 744 ids with labels",
    }
    root = locate(raw, wanted, SOURCE)
    lists = {split: read_list(root / f"{split}.csv") for split in OFFICIAL}
    shared = sorted({*dict(lists["train"])} & {*dict(lists["test"])})
    if shared:
        raise DataError(f"{len(shared)} ids stand in train.csv and test.csv: {', '.join(shared[:10])}.")
    warnings = run.expect({f"ids in {split}.csv": (len(lists[split]), n) for split, n in OFFICIAL.items()})
    samples = []
    for split, key in [(split, key) for split, entries in lists.items() for key, _ in entries]:
        actor, sentence, emotion, intensity = key.split("_")
        sources = {"audio": (str(root / f"AudioWAV/{key}.wav"),), "video": (str(root / f"VideoFlash/{key}.flv"),)}
        facts = {"actor": actor, "sentence": sentence, "intensity": intensity}
        samples.append(Sample(key, split, emotion, sources, facts))
    return decode("cremad", samples, decoders, out, run, settings, task=classification(CLASSES), warnings=warnings)


def read_list(path: Path) -> list[tuple[str, str]]:
    """Return ids and labels of a list, whether or not it has a header, a byte-order mark or CRLF.

    Raises:
        InputError: with every line that is no ``id,LABEL``, or whose label is not that of the id.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    if rows and not ID.fullmatch(rows[0][0]):
        rows = rows[1:]  # the header that some copies have
    wrong = [
        f"entry {number}: {','.join(row)}"
        for number, row in enumerate(rows, 1)
        if len(row) != 2 or not (match := ID.fullmatch(row[0])) or match[3] != row[1].strip() or match[3] not in CLASSES
    ]
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} lines are no 'id,LABEL' such as '1001_DFA_ANG_XX,ANG': {'; '.join(wrong[:10])}."
        )
    return [(row[0], row[1].strip()) for row in rows]


def load(
    settings: DataSettings,
    protocol: str = "ours",
    augment: Sequence[str] | None = None,
    test_actors: Count = 18,
    actor_seed: Seed = 0,
) -> MultimodalData:
    """CREMA-D as prepared in ``settings.path``; validation is carved out of the training part.

    Args:
        settings: ``split`` is ``official`` (default; all actors in all parts, stratified by emotion) or
            ``actor`` (no actor in two parts), or an expression over the columns actor, sentence,
            intensity.
        protocol: how frames are drawn, cropped and flipped in training (``modalign.protocols``); the folder must have
            been prepared under it.
        augment: modalities that are cropped and flipped; by the protocol where it is not given.
        test_actors: how many of the 91 actors are held out under ``actor``.
        actor_seed: which ones.
    """
    if settings.split == "actor":
        settings = hold_out_values(settings, "actor", test_actors, actor_seed)
    return load_under(protocol, settings, augment)
