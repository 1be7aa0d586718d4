"""Miniature downloads of the paper's four data sets, in their official layouts and codecs, of made media.

They rehearse the way from raw files to a table: minutes instead of days, and nothing to download. Classes can be told
by the pitch of the sound, the brightness of the picture, words of a title or the size of genes; scores on them mean
nothing.
"""

from __future__ import annotations

import shutil
import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pandas as pd
from PIL import Image

from modalign.data.datasets.cremad import CLASSES
from modalign.data.datasets.gbmlgg import FOLDS


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> None:
    """Write a waveform (N,) in [-1, 1] as 16-bit mono WAV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def write_video(path: Path, frames: np.ndarray, samples: np.ndarray | None, fps: int = 10, rate: int = 22_050) -> None:
    """Write frames (T, H, W, 3) and a waveform as FLV (Sorenson H.263, MP3) or MP4 (H.264, AAC), by the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codecs = {".flv": ("flv", "libmp3lame"), ".mp4": ("libx264", "aac")}[path.suffix]
    with av.open(str(path), "w") as container:
        video = container.add_stream(codecs[0], rate=fps)
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        audio = container.add_stream(codecs[1], rate=rate, layout="mono") if samples is not None else None
        video.codec_context.thread_count = 1
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(video.encode())
        if audio is not None and samples is not None:
            sound = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
            sound.sample_rate = rate
            form, size = audio.codec_context.format.name, audio.codec_context.frame_size
            resampler = av.AudioResampler(form, "mono", rate, size)
            for piece in [*resampler.resample(sound), *resampler.resample(None)]:
                container.mux(audio.encode(piece))
            container.mux(audio.encode())


def tone(seconds: float, rate: int, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    """Return a sine wave (N,) float32."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def _frames(count: int, grey: float) -> np.ndarray:
    greys = np.linspace(grey, min(grey + 40, 255), count).astype(np.uint8)
    return np.broadcast_to(greys[:, None, None, None], (count, 32, 48, 3)).copy()


def cremad(root: Path, rng: np.random.Generator) -> None:
    """144 clips of a second: 6 emotions of 24 actors, 24 clips for the test."""
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for number in range(144):
        actor, label = divmod(number, 6)
        key = f"{1001 + actor}_DFA_{CLASSES[label]}_XX"
        hertz = 200 * (1 + label) * (1 + 0.02 * rng.normal())
        write_wav(root / "AudioWAV" / f"{key}.wav", tone(1, 16_000, hertz))
        grey = 30 * label + 4 * abs(rng.normal())
        write_video(root / "VideoFlash" / f"{key}.flv", _frames(12, grey), tone(1.2, 22_050, hertz))
        lines["test" if number % 6 == actor % 6 else "train"].append(f"{key},{CLASSES[label]}\n")
    for split, found in lines.items():
        (root / f"{split}.csv").write_text("".join(found))


def ave(root: Path, rng: np.random.Generator) -> None:
    """100 videos of three seconds with one of four events."""
    events = ("Church bell", "Male speech, man speaking", "Bark", "Fixed-wing aircraft, airplane")
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number in range(100):
        label = number % 4
        name = f"video_{number:03d}"
        hertz = 300 * (1 + label) * (1 + 0.02 * rng.normal())
        write_video(root / "AVE" / f"{name}.mp4", _frames(30, 50 * label), tone(3, 22_050, hertz))
        split = "val" if number % 10 >= 8 else "test" if number % 10 >= 6 else "train"
        lines[split].append(f"{events[label]}&{name}&good&0&3")
    for split, found in lines.items():
        (root / f"{split}Set.txt").write_text("Category&VideoID&Quality&StartTime&EndTime\n" + "\n".join(found) + "\n")


def food101(root: Path, rng: np.random.Generator) -> None:
    """72 pictures with titles of four dishes."""
    dishes = ("apple_pie", "breakfast_burrito", "caesar_salad", "donuts")
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for number in range(72):
        dish, split = dishes[number % 4], "test" if number % 12 >= 8 else "train"
        picture = root / "images" / split / dish / f"{dish}_{number}.jpg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(60 * (number % 4) + 10 * rng.normal(size=(48, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(picture)
        lines[split].append(f'{picture.name},"{dish.replace("_", " ").title()}, recipe no. {number}",{dish}\n')
    (root / "texts").mkdir()
    for split, found in lines.items():
        (root / "texts" / f"{split}_titles.csv").write_text("".join(found))


def gbmlgg(root: Path, rng: np.random.Generator) -> None:
    """30 patients of three grades with 80 genomic features and one region of tissue each."""
    patients = [f"TCGA-02-{n:04d}" for n in range(1, 31)]
    grade = np.arange(30) % 3
    genes = (grade[:, None] * (np.arange(78) < 10) + rng.normal(size=(30, 78))).round(3)
    main = pd.DataFrame(genes, columns=[f"gene{i}" for i in range(78)])
    main.insert(0, "indexes", range(30))
    main.insert(1, "TCGA ID", patients)
    main["idh mutation"], main["codeletion"] = (grade == 0) * 1.0, 0.0
    main["censored"] = np.arange(30) % 2
    main["Survival months"] = 100 + 10 * np.arange(30)[::-1] - 50 * grade
    main.to_csv(root / "all_dataset.csv", index=False)
    grades = {"TCGA ID": patients, "Histology": "astrocytoma", "Grade": grade + 2.0, "Molecular subtype": "IDHwt"}
    pd.DataFrame(grades).to_csv(root / "grade_data.csv", index=False)
    folds = {f"Randomization - {k + 1}": ["Test" if (i // 3 - k) % 10 < 2 else "Train" for i in range(30)]
             for k in range(FOLDS)}  # fmt: skip
    pd.DataFrame({"TCGA ID": patients} | folds).to_csv(root / "pnas_splits.csv", index=False)
    (root / "gbmlgg" / "all_st").mkdir(parents=True)
    for patient, one in zip(patients, grade, strict=True):
        region = np.full((1024, 1024, 3), 60 * (1 + one), np.uint8)
        Image.fromarray(region).save(root / "gbmlgg" / "all_st" / f"{patient}-01Z-00-DX1.AB-12_1.png")


MAKERS: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "cremad": cremad, "ave": ave, "food101": food101, "gbmlgg": gbmlgg
}  # fmt: skip


def write_miniature(name: str, root: Path) -> Path:
    """Write the miniature of a data set into a new folder, whole or not at all, and return it.

    >>> import tempfile
    >>> made = write_miniature("food101", Path(tempfile.mkdtemp()) / "upmcfood101")
    >>> sorted(path.name for path in made.iterdir())
    ['images', 'texts']
    """
    if not root.exists():
        partial = root.with_name(f"{root.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir(parents=True)
        MAKERS[name](partial, np.random.default_rng(0))
        partial.rename(root)
    return root
