"""AV-MNIST from real files: a spoken digit and an image of the same digit, paired at random.

Download: ``fsdd/recordings/<digit>_<speaker>_<index>.wav`` (Free Spoken Digit Dataset, 3,000 recordings of 6
speakers) and ``mnist/t10k-{images-idx3,labels-idx1}-ubyte[.gz]`` (the 10,000 images of MNIST's test half).

Because any image of the digit may stand beside a recording, the two say nothing about each other once the
digit is known, I(audio; image | digit) = 0: the data on which conditional alignment must find nothing and do
no harm.

Official split: recordings 0 to 4 of each speaker and digit are the test, with images of rows from 8,500 on;
all others are trained on, with images before. ``speaker`` holds two speakers out altogether, and validates on
a third.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from modalign.data.dataset import MultimodalData
from modalign.data.media.decoders import make_decoder
from modalign.data.media.folder import hold_out_values, manifest_of
from modalign.data.media.prepare import PrepareReport, Run, Sample, decode, locate, refuse_other
from modalign.data.tables.array_split import StoredArray
from modalign.data.tables.arrays import from_settings
from modalign.data.tables.splits import FOLDS, hold_out, outer_fold, select_rows
from modalign.data.task import classification
from modalign.domains import Count, NonNegative, Part, Seed
from modalign.errors import DataError
from modalign.files import read_array, write_whole
from modalign.settings import DataSettings

DIGITS = tuple("0123456789")
TEST_INDICES = range(5)
FIRST_TEST_ROW = 8500
NAME = re.compile(r"(\d)_([a-z]+)_(\d+)")
SOURCE = "github.com/Jakobovski/free-spoken-digit-dataset, and the MNIST database"


def prepare(raw: Path, out: Path, *, run: Run) -> PrepareReport:
    """Prepare AV-MNIST: log-mel energies (1, 40, 50) of the recordings, and the images as they are.

    The images lie beside, in ``images.npy`` and ``image_digits.npy``: ``load`` pairs them, because who may be
    paired with what depends on the split.

    Raises:
        InputError: files are missing, or an IDX file is none.
    """
    root = locate(raw, {"fsdd/recordings": "3,000 WAV files", "mnist": "t10k-*-ubyte files"}, SOURCE)
    files = sorted((root / "fsdd" / "recordings").glob("*.wav"))
    named = {file: match.groups() for file in files if (match := NAME.fullmatch(file.stem))}
    strange = [file.name for file in files if file not in named]
    if strange:
        raise DataError(f"{len(strange)} recordings are not named <digit>_<speaker>_<index>.wav: {strange[:10]}.")
    images = read_idx(root / "mnist", "t10k-images-idx3-ubyte")
    digits = read_idx(root / "mnist", "t10k-labels-idx1-ubyte")
    if len(images) != len(digits):
        raise DataError(f"{root / 'mnist'} holds {len(images)} images but {len(digits)} labels.")
    warnings = run.expect({"recordings": (len(files), 3000), "images": (len(images), 10_000)})
    refuse_other("avmnist", {}, out, run)
    write_whole(out / "images.npy", partial(np.save, arr=images))
    write_whole(out / "image_digits.npy", partial(np.save, arr=digits))
    decoders = {"audio": make_decoder("audio", {"kind": "audio", "recipe": "digit"})}
    samples = [
        Sample(
            file.stem, "test" if int(index) in TEST_INDICES else "train", digit, {"audio": (str(file),)},
            {"speaker": speaker, "index": int(index)},
        )
        for file, (digit, speaker, index) in named.items()
    ]  # fmt: skip
    return decode("avmnist", samples, decoders, out, run, {}, task=classification(DIGITS), warnings=warnings)


def read_idx(folder: Path, name: str) -> np.ndarray:
    """The array of unsigned bytes in an IDX file, compressed (``.gz``) or not.

    Raises:
        InputError: no such file, another type, or another number of bytes than its head says.
    """
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)
    if path is None:
        raise DataError(f"no {name}[.gz] in {folder}; expected MNIST's test half there. Source: {SOURCE}.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be decompressed ({error}); download it again.") from None
    if content[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is no IDX file of unsigned bytes; download it again.")
    rank = content[3]
    shape = tuple(np.frombuffer(content, ">u4", rank, 4).astype(int).tolist())
    if len(content) != 4 + 4 * rank + int(np.prod(shape)):
        raise DataError(f"{path} has {len(content)} bytes, which do not make {shape}; download it again.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def load(
    settings: DataSettings, noise: NonNegative = 0.0, labels: Part = 1.0, test_speakers: Count = 2, pair_seed: Seed = 0
) -> MultimodalData:
    """AV-MNIST as prepared in ``settings.path``: ``audio`` (1, 40, 50) and ``image`` (1, 28, 28).

    Args:
        settings: ``split`` is ``official`` (default), ``speaker``, or an expression over speaker and index.
        noise: standard deviation of the Gaussian noise added to pixels in [0, 1] (all splits): weak images.
        labels: share of the training recordings kept, stratified by digit, before validation is carved out
            of them: few labels.
        test_speakers: speakers held out under ``speaker``.
        pair_seed: of the pairing, the noise, the choice of speakers and of the recordings kept.
    """
    manifest = manifest_of(settings)
    folder = Path(str(settings.path))
    rng = np.random.default_rng(pair_seed)
    columns = {name: manifest[name].to_numpy() for name in ("id", "split", "label", "speaker", "index")}
    if settings.split == "speaker":
        settings = hold_out_values(settings, "speaker", test_speakers, pair_seed)
    digits = columns["label"].astype(int)
    if settings.fold is None:
        test = select_rows("split==test" if settings.split in (None, "official") else str(settings.split), columns)
    else:
        groups = None if settings.group is None else columns[settings.group].astype(str)
        test = outer_fold(columns, digits, groups, settings.fold, settings.folds or FOLDS, settings.split_seed)
    images, image_digits = read_array(folder / "images.npy"), read_array(folder / "image_digits.npy")
    chosen = pair(digits, test, image_digits, rng)
    pixels = images[chosen][:, None].astype(np.float32) / 255
    pixels += rng.normal(0, noise, pixels.shape).astype(np.float32) if noise else 0
    keep = np.ones(len(digits), bool)
    if labels < 1:
        train = np.flatnonzero(~test)
        keep[train] = hold_out(digits[train], None, labels, rng, "train")
    arrays = {
        **{name: values[keep] for name, values in columns.items() if name != "split"},
        "image_row": chosen[keep],
        "part": np.where(test, "test", "train")[keep],
        "audio": StoredArray(folder / "audio.npy")[keep],
        "image": pixels[keep],
    }
    chosen_settings = replace(settings, label="label", split="part==test", fold=None, kinds={})
    data = from_settings(chosen_settings, arrays, settings.name or "", ["audio", "image"], classes=DIGITS)
    if labels < 1:
        data.notes.append(f"{int((~keep).sum())} training recordings left out: labels {labels:g}")
    return replace(data, contents="")  # pairs of recordings and images are drawn for each split


def pair(digits: np.ndarray, test: np.ndarray, image_digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each recording the row of an image of its digit, (N,), at random.

    Training and test images come from rows before and from ``FIRST_TEST_ROW`` on (of a
    smaller copy: the last 15 %); no image is used twice while there are enough of its digit.

    Raises:
        InputError: there is no image of a digit.

    >>> digits, images = np.array([0, 1, 0]), np.repeat([0, 1], 10)
    >>> images[pair(digits, np.array([False, False, False]), images, np.random.default_rng(0))].tolist()
    [0, 1, 0]
    """
    rows = np.zeros(len(digits), np.int64)
    test_pool = np.arange(len(image_digits)) >= min(FIRST_TEST_ROW, round(0.85 * len(image_digits)))
    for part in (False, True):
        for digit in np.unique(digits[test == part]):
            wanted = np.flatnonzero((test == part) & (digits == digit))
            pool = np.flatnonzero((test_pool == part) & (image_digits == digit))
            if not len(pool):
                raise DataError(f"there is no {'test' if part else 'training'} image of the digit {digit}.")
            rows[wanted] = rng.choice(pool, len(wanted), replace=len(wanted) > len(pool))
    return rows
