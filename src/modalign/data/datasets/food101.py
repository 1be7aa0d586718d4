"""UPMC Food-101: images of 101 dishes and the titles of the pages they were found on (Wang et al., ICMEW 2015).

Download: the Kaggle data set ``gianmarco96/upmcfood101``: ``images/{train,test}/<class>/<class>_<n>.jpg`` and
``texts/{train,test}_titles.csv`` (67,972 and 22,716 lines ``file,title,class``).

Defects that are handled: the lists have no header (some copies do); titles contain commas and quotes that are
never closed (``breakfast_burrito_730.jpg``), so a line is cut at its first and last comma; some rows name a
``.txt`` for the ``.jpg`` of that name. Rows whose image is missing or unreadable are listed and left out. An
empty title is kept, with a remark. Classes are in alphabetical order.

A title often names the dish: text alone reaches about 85 %, both together 92 to 94 % when fine-tuned. Much
lower published numbers come from shorter budgets, from missing attention masks and from frozen encoders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from modalign.data.dataset import MultimodalData
from modalign.data.media.decoders import build_vocabulary, make_decoder, tokenizer
from modalign.data.media.folder import load_split
from modalign.data.media.prepare import Entry, PrepareReport, Run, Sample, decode, locate, refuse_other
from modalign.data.task import classification
from modalign.settings import DataSettings

OFFICIAL = {"train": 67_972, "test": 22_716}
FILE = re.compile(r"(.+_\d+)\.(?:jpg|jpeg|txt)", re.IGNORECASE)
SOURCE = "kaggle.com/datasets/gianmarco96/upmcfood101"


def prepare(
    raw: Path,
    out: Path,
    *,
    run: Run,
    size: int = 224,
    length: int = 40,
    vocabulary: str = "google-bert/bert-base-uncased",
) -> PrepareReport:
    """Prepare UPMC Food-101.

    Args:
        raw: the download.
        out: folder to write.
        run: how.
        size: height and width of an image in pixels.
        length: tokens of a title, with the opening and the closing one; shorter ones are padded.
        vocabulary: tokenizer of a pretrained model by name or local folder, a ``vocab.txt``, or ``train`` to
            build one from the training titles (``vocab.txt`` in ``out``) where none can be had.

    Raises:
        InputError: files are missing, or there is no such tokenizer.
    """
    wanted = {f"images/{split}": f"{n:,} images in 101 folders" for split, n in OFFICIAL.items()}
    wanted |= {f"texts/{split}_titles.csv": f"list of {n:,} titles" for split, n in OFFICIAL.items()}
    root = locate(raw, wanted, SOURCE)
    lists = {split: read_list(root, split) for split in OFFICIAL}
    samples = [sample for found, _ in lists.values() for sample in found]
    lost = [entry for _, wrong in lists.values() for entry in wrong]
    warnings = run.expect({f"rows in {s}_titles.csv": (len(lists[s][0]), n) for s, n in OFFICIAL.items()})
    settings = {"size": size, "length": length, "vocabulary": vocabulary}
    refuse_other("food101", settings, out, run)
    words = vocabulary
    if vocabulary == "train":
        titles = [str(sample.sources["text"][0]) for sample in samples if sample.split == "train"]
        words = str(build_vocabulary(titles, out / "vocab.txt"))
    known = tokenizer(words)
    if not words.endswith(".txt"):
        known.save_pretrained(out / "tokenizer")  # so that the titles can be read where the folder is taken to
    decoders = {
        "image": make_decoder("image", {"kind": "image", "size": size}),
        "text": make_decoder("text", {"kind": "text", "vocabulary": words, "length": length}),
    }
    task = classification(sorted({sample.label for sample in samples}))
    return decode("food101", samples, decoders, out, run, settings, task=task, warnings=warnings, lost=lost)


def read_list(root: Path, split: str) -> tuple[list[Sample], list[Entry]]:
    """The samples of a list, and its lines that are none: of another form, or naming a file a second time."""
    path = root / "texts" / f"{split}_titles.csv"
    samples: dict[str, Sample] = {}
    lost = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        file, _, rest = line.partition(",")
        title, _, label = rest.rpartition(",")
        label, match = label.strip().strip('"'), FILE.fullmatch(file.strip().strip('"'))
        reason = ""
        if match is None or not label:  # the first line without a digit is a header
            strange = line.strip() and (number > 1 or any(character.isdigit() for character in line))
            reason = f"no 'file,title,class': {line[:80]}" if strange else ""
        elif match[1] in samples:
            reason = f"{match[1]} is listed before; the first title is kept"
        else:
            image = root / "images" / split / label / f"{match[1]}.jpg"
            text = title.strip().removeprefix('"').removesuffix('"').replace('""', '"')
            samples[match[1]] = Sample(match[1], split, label, {"image": (str(image),), "text": (text,)})
        if reason:
            lost.append({"id": f"{path.name}:{number}", "modality": "text", "reason": reason})
    return list(samples.values()), lost


def load(settings: DataSettings, augment: Sequence[str] = ("image",)) -> MultimodalData:
    """UPMC Food-101 as prepared in ``settings.path``; validation is carved out of train, stratified by class.

    Args:
        settings: ``split`` is ``official`` (default) or an expression over the columns.
        augment: modalities that are cropped and flipped at random in training.
    """
    return load_split(settings, augment=augment)
