"""AVE: 28 audio-visual events in 10 s videos (Tian et al., ECCV 2018).

Download: ``AVE_Dataset`` with ``AVE/<id>.mp4``, ``trainSet.txt``, ``valSet.txt`` and ``testSet.txt`` (3,339,
402 and 402 lines ``Category&VideoID&Quality&StartTime&EndTime``), of the project page of the paper.

Defects that are handled: categories that contain commas; lists with and without a header; videos that are
listed twice (45 of them under two labels), which become samples ``<id>`` and ``<id>#2``; 8 videos in both
train and test and 10 in train and validation, which ``drop_leaks`` leaves out; the event of no length
(VWi2ENBuTbw), which is listed as unreadable. PMR keeps the first label of a video that is listed twice,
OGM-GE the last; here every line of a list is a sample.

Classes are in their order of appearance in ``testSet.txt``, as in the published loaders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modalign.data.dataset import MultimodalData
from modalign.data.media.folder import load_under, manifest_of
from modalign.data.media.prepare import PrepareReport, Run, Sample, decode, locate, protocol_decoders
from modalign.data.task import classification
from modalign.errors import DataError
from modalign.protocols import protocol_of
from modalign.settings import DataSettings

OFFICIAL = {"train": 3339, "valid": 402, "test": 402}
LISTS = {"train": "trainSet.txt", "valid": "valSet.txt", "test": "testSet.txt"}
SOURCE = "github.com/YapengTian/AVE-ECCV18 (AVE_Dataset.zip)"


@dataclass(frozen=True)
class Event:
    """One line of a list: what is seen and heard in a video, and when (s)."""

    category: str
    video: str
    start: float
    stop: float


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
    """Prepare AVE; audio and frames are taken from within the event, unless the protocol says the whole video.

    Args:
        raw: the download.
        out: folder to write.
        run: how.
        protocol: whose sound, frames and choice among repeated lines (``modalign.protocols``).
        audio: ``pmr`` and ``pmr22`` (1, 257, 1004), ``pmr3s`` (1, 257, 299), ``ogm`` (1, 257, 188) or ``fbank``
            (1, 1024, 128); see ``spectrograms``. That of ``ours``: ``pmr``.
        frames: of each event; those of ``ours``: 4 from the middle of equal segments.
        size: height and width of a frame in pixels.

    Raises:
        InputError: no such protocol, files are missing or a list cannot be read.
    """
    chosen = protocol_of("ave", protocol)
    settings, decoders = protocol_decoders("ave", protocol, audio, frames, size)
    wanted = {"AVE": "4,097 MP4 files"}
    wanted |= {LISTS[split]: f"list of {n:,} events" for split, n in OFFICIAL.items()}
    root = locate(raw, wanted, SOURCE)
    lists = {split: read_list(root / name) for split, name in LISTS.items()}
    warnings = run.expect({f"events in {LISTS[s]}": (len(lists[s]), n) for s, n in OFFICIAL.items()})
    classes = list(dict.fromkeys(e.category for split in ("test", "train", "valid") for e in lists[split]))
    later = {
        "train": {event.video for split in ("valid", "test") for event in lists[split]},
        "valid": {event.video for event in lists["test"]},
        "test": set(),
    }
    if chosen.repeats != "every":
        order = -1 if chosen.repeats == "first" else 1  # the later entry of a dictionary stays
        lists = {split: [*{e.video: e for e in events[::order]}.values()][::order] for split, events in lists.items()}
    samples, seen = [], Counter[str]()
    for split, event in [(split, event) for split, events in lists.items() for event in events]:
        seen[event.video] += 1
        key = event.video if seen[event.video] == 1 else f"{event.video}#{seen[event.video]}"
        times = () if chosen.whole else (event.start, event.stop)
        source = (str(root / "AVE" / f"{event.video}.mp4"), *times)
        facts = {"video_id": event.video, "leak": event.video in later[split]}  # it stands in a later split too
        samples.append(Sample(key, split, event.category, {"audio": source, "video": source}, facts))
    return decode("ave", samples, decoders, out, run, settings, task=classification(classes), warnings=warnings)


def read_list(path: Path) -> list[Event]:
    """The events of a list, with or without header.

    Raises:
        InputError: with every line that has not five fields, or whose times are no numbers.
    """
    events, wrong = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        fields = [field.strip() for field in line.split("&")]
        try:
            category, video, _, start, stop = fields
            events.append(Event(category, video, float(start), float(stop)))
        except ValueError:
            header = number == 1 and len(fields) == 5
            if line.strip() and not header:
                wrong.append(f"line {number}: {line}")
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} lines are no 'Category&VideoID&Quality&StartTime&EndTime': {'; '.join(wrong[:10])}."
        )
    return events


def load(
    settings: DataSettings, protocol: str = "ours", augment: Sequence[str] | None = None, drop_leaks: bool = False
) -> MultimodalData:
    """AVE as prepared in ``settings.path``, in its official splits.

    Args:
        settings: ``split`` is ``official`` (default) or an expression over the columns.
        protocol: how frames are cropped and flipped in training (``modalign.protocols``); the folder must have been
            prepared under it.
        augment: modalities that are cropped and flipped; by the protocol where it is not given.
        drop_leaks: leave out of training what is validated or tested on too, and out of validation what is
            tested.
    """
    if not drop_leaks or not manifest_of(settings)["leak"].any():
        return load_under(protocol, settings, augment)
    return load_under(protocol, replace(settings, group="video_id"), augment, drop="leak==True")
