"""Samples per second of the input pipeline: the prepared cache against decoding on the fly and customary loaders.

    python benchmarks/throughput.py [--json FILE] [--clips 96] [--batch 32] [--workers 0 2]

On clips made as CREMA-D's are (FLV of 2.5 s, 480 x 360, 30 frames a second; WAV at 16 kHz), one spectrogram
(1, 257, 188) and three frames of 224 x 224 for each sample, batches ready for the encoders:

- ``cache``: what ``modalign prepare`` wrote, through memory maps; ``cache, augmented``: cropped and flipped as well;
- ``decode``: the same arrays from FLV and WAV at every epoch;
- ``customary``: as the widely used loaders do: frames extracted as JPEG files beforehand, each opened by Pillow,
  cropped at random and resized; the recording resampled to 22.05 kHz and transformed at every epoch.

The second pass over the data is timed, so files are in the system's cache in all cases; from a cold disk
the cache reads 0.64 MB a sample. An encoder that trains faster than its line waits for data.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.signal import resample_poly
from torch.utils.data import DataLoader, Dataset

from modalign.data.media.decoders import decode_audio, decode_video
from modalign.data.media.folder import load_split
from modalign.data.media.prepare import prepare
from modalign.settings import DataSettings

EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
SIZE, FRAMES = 224, 3


def make_download(root: Path, clips: int) -> list[str]:
    """A download of ``clips`` clips in CREMA-D's layout and codecs, and the frames that others extract
    from it."""
    rng = np.random.default_rng(0)
    keys = [f"{1001 + i // 6}_DFA_{EMOTIONS[i % 6]}_XX" for i in range(clips)]
    for folder in ("AudioWAV", "VideoFlash"):
        (root / folder).mkdir(parents=True)
    coarse = rng.integers(0, 256, (75, 12, 16, 3), np.uint8)
    frames = [np.asarray(Image.fromarray(c).resize((480, 360), Image.Resampling.BICUBIC)) for c in coarse]
    for number, key in enumerate(keys):
        sound = rng.normal(0, 0.1, 40_000) + 0.3 * np.sin(np.arange(40_000) * (0.05 + 0.001 * number))
        with wave.open(str(root / "AudioWAV" / f"{key}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes((sound.clip(-1, 1) * 32767).astype("<i2").tobytes())
        write_flv(root / "VideoFlash" / f"{key}.flv", np.roll(frames, number, axis=0))
        jpegs = root / "Image-01-FPS" / key
        jpegs.mkdir(parents=True)
        for second in range(FRAMES):
            Image.fromarray(frames[(second * 29 - number) % 75]).save(jpegs / f"{second * 29:05d}.jpg", quality=95)
    test = keys[-(clips // 6) :]
    (root / "test.csv").write_text("".join(f"{key},{key[9:12]}\n" for key in test))
    (root / "train.csv").write_text("".join(f"{key},{key[9:12]}\n" for key in keys if key not in test))
    return keys


def write_flv(path: Path, frames: np.ndarray) -> None:
    """Frames as Sorenson H.263."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flv", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 480, 360, "yuv420p", 600_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


class Decode(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Arrays of the cache, made anew from FLV and WAV."""

    def __init__(self, root: Path, keys: list[str]) -> None:
        self.root, self.keys = root, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        audio, _ = decode_audio(self.root / "AudioWAV" / f"{self.keys[i]}.wav", recipe="ogm")
        video, _ = decode_video(self.root / "VideoFlash" / f"{self.keys[i]}.flv", frames=FRAMES, size=SIZE)
        return torch.from_numpy(audio), torch.from_numpy(video)


class Customary(Decode):
    """Extracted JPEG frames and the recording, as the widely used loaders read them at every epoch."""

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        with wave.open(str(self.root / "AudioWAV" / f"{self.keys[i]}.wav"), "rb") as file:
            sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
        sound = np.clip(np.tile(resample_poly(sound, 441, 320), 3)[: 3 * 22_050], -1, 1)
        stft = torch.stft(torch.from_numpy(sound), 512, 353, window=torch.hann_window(512), return_complex=True)
        files = sorted((self.root / "Image-01-FPS" / self.keys[i]).iterdir())
        return torch.log(stft.abs() + 1e-7)[None], torch.stack([self.frame(file) for file in files])

    @staticmethod
    def frame(file: Path) -> torch.Tensor:
        """A frame cropped at random, resized, flipped and scaled."""
        with Image.open(file) as image:
            side = int(torch.randint(180, 360, ()))
            left, top = int(torch.randint(0, 480 - side, ())), int(torch.randint(0, 361 - side, ()))
            square = image.convert("RGB").resize(
                (SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + side, top + side)
            )
        pixels = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1).float().div_(255)
        return (pixels.flip(-1) if torch.rand(()) < 0.5 else pixels).sub_(0.45).div_(0.225)


def measure(data: Any, batch: int, workers: int, whole: bool) -> float:
    """Samples per second of the second pass."""
    batches = list(torch.randperm(len(data)).split(batch))
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    if whole:
        loader = DataLoader(data, batch_sampler=[b.tolist() for b in batches], collate_fn=lambda b: b, **options)
    else:
        loader = DataLoader(data, batch_sampler=[b.tolist() for b in batches], **options)
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        for _ in loader:
            pass
        seconds = time.perf_counter() - start
    return len(data) / seconds


def main(arguments: list[str]) -> None:
    """Make the data, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, nargs="+", default=[0])
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder) / "raw", Path(folder) / "out"
        keys = make_download(raw, given.clips)
        start = time.perf_counter()
        prepare("cremad", raw, out, workers=1)
        preparing = given.clips / (time.perf_counter() - start)
        settings = DataSettings(name="cremad", path=str(out))
        plain, augmented = load_split(settings).train, load_split(settings, augment=["video"]).train
        augmented.set_epoch(0)
        train = [key for key in keys if key in set(plain.ids) | set(load_split(settings).valid.ids)]
        for workers in given.workers:
            cases = {
                "cache": (plain, True),
                "cache, augmented": (augmented, True),
                "decode": (Decode(raw, train), False),
                "customary": (Customary(raw, train), False),
            }
            for name, (data, whole) in cases.items():
                rate = measure(data, given.batch, workers, whole)
                rows.append({"way": name, "workers": workers, "samples_per_second": round(rate, 1)})
    table = Table("way", "workers", "samples/s", title=f"{given.clips} clips, batches of {given.batch}")
    for row in rows:
        table.add_row(row["way"], str(row["workers"]), f"{row['samples_per_second']:,.0f}")
    console = Console()
    console.print(table)
    console.print(f"preparing: {preparing:,.1f} samples/s in one process, once")
    if given.json:
        machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
        given.json.write_text(json.dumps({"machine": machine, "preparing": preparing, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
