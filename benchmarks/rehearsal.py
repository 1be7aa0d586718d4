"""CREMA-D prepared at its official counts and codecs from made clips: time, disk, memory, throughput.

    python benchmarks/rehearsal.py FOLDER [--share 1.0] [--workers 0] [--json FILE]

FOLDER gets the made download (0.8 MB a clip) and the prepared folder (0.65 MB a clip), and keeps them. At share 1 it
holds 6,698 and 744 clips, which are FLV of 2.5 s, 480 x 360, 30 frames a second, and WAV at 16 kHz. 48 clips are
encoded, the others are copies of them under names of their own: reading a copy costs what reading any clip does.

One clip in a hundred is damaged, in the five ways that downloads are (cut off, pointer of git-LFS, empty, absent, not
a video). ``modalign prepare`` is killed when half is decoded, and started again. The script fails if a damaged clip is
not reported, one that is whole is left out, or less than what was decoded before the kill is gone on with.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from throughput import measure

from modalign.data.datasets.cremad import CLASSES, OFFICIAL
from modalign.data.load import load_data
from modalign.data.media.miniature import write_video, write_wav
from modalign.settings import DataSettings

CLIPS, ENCODED = sum(OFFICIAL.values()), 48
SENTENCES = ("DFA", "IEO", "IOM", "ITH", "ITS", "IWL", "IWW", "MTI", "TAI", "TIE", "TSI", "WSI")


def make_download(root: Path, clips: int) -> dict[str, str]:
    """Write the made download, and return what is wrong with each damaged clip."""
    rng = np.random.default_rng(0)
    named = itertools.product(("XX", "HI"), range(1001, 1092), SENTENCES, CLASSES)
    keys = [f"{actor}_{sentence}_{emotion}_{level}" for level, actor, sentence, emotion in named][:clips]
    for folder in ("AudioWAV", "VideoFlash", "made"):
        (root / folder).mkdir(parents=True)
    noise = rng.integers(0, 256, (75, 12, 16, 3), np.uint8).repeat(30, 1).repeat(30, 2)
    for number in range(min(ENCODED, clips)):
        sound = rng.normal(0, 0.1, 40_000) + 0.3 * np.sin(np.arange(40_000) * (0.05 + 0.005 * number))
        write_wav(root / "made" / f"{number}.wav", sound)
        write_video(
            root / "made" / f"{number}.flv", np.roll(noise, number, axis=0), sound.astype(np.float32), 30, 22_050
        )
    for number, key in enumerate(keys):
        for folder, ending in (("AudioWAV", "wav"), ("VideoFlash", "flv")):
            shutil.copyfile(root / "made" / f"{number % ENCODED}.{ending}", root / folder / f"{key}.{ending}")
    shutil.rmtree(root / "made")
    test = {*rng.permutation(keys)[: round(clips * OFFICIAL["test"] / CLIPS)].tolist()}
    for name, held in (("train", False), ("test", True)):
        lines = [f"{key},{key[9:12]}\n" for key in keys if (key in test) == held]
        (root / f"{name}.csv").write_text("".join(lines))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 181274\n"
    ways: dict[str, Callable[[Path, Path], object]] = {
        "video cut off": lambda _, flv: os.truncate(flv, flv.stat().st_size // 4),
        "sound a git-LFS pointer": lambda wav, _: wav.write_bytes(pointer),
        "sound empty": lambda wav, _: wav.write_bytes(b""),
        "video absent": lambda _, flv: flv.unlink(),
        "video of other bytes": lambda _, flv: flv.write_bytes(rng.bytes(5_000)),
    }
    damaged = {}
    for key, way in zip(rng.permutation(keys)[: round(clips / 100)].tolist(), itertools.cycle(ways)):
        ways[way](root / "AudioWAV" / f"{key}.wav", root / "VideoFlash" / f"{key}.flv")
        damaged[key] = way
    return damaged


def prepare(raw: Path, out: Path, workers: int, until: int | None = None) -> dict[str, Any]:
    """Run ``modalign prepare`` in a process, and kill it once ``until`` samples are decoded."""
    words = ["prepare", "cremad", "--raw", str(raw), "--out", str(out), "--workers", str(workers)]
    start, peak = time.perf_counter(), 0.0
    with (out.parent / "prepare.txt").open("w") as said:
        process = subprocess.Popen([sys.executable, "-m", "modalign", *words], stdout=said, stderr=said)
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            if until is not None and decoded(out) >= until:
                process.kill()
            time.sleep(0.2)
    if until is None and process.returncode:
        raise SystemExit((out.parent / "prepare.txt").read_text())
    return {"seconds": time.perf_counter() - start, "decoded": decoded(out), "memory_mb": peak}


def decoded(out: Path) -> int:
    """Return how many samples the journal of an unfinished folder says are done."""
    journal = out / ".partial" / "journal.jsonl"
    if not journal.exists():
        return 0
    lines = [line for line in journal.read_text().splitlines() if line.endswith("}")]
    return sum(len(json.loads(line)["done"]) for line in lines)


def memory(pid: int) -> float:
    """Return the memory (MB) that a process and those it started hold beside files, on Linux; else 0."""
    total = 0.0
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        except OSError:  # it has ended
            continue
        if int(fields["Pid"]) == pid or int(fields["PPid"]) == pid:
            total += float(fields.get("RssAnon", "0 kB").split()[0]) / 1024
    return total


def size(folder: Path) -> float:
    """Return the size (GB) of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def main(arguments: list[str]) -> None:
    """Make, prepare, kill, go on, check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of the 7,442 clips")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    clips, raw, out = round(CLIPS * given.share), given.folder / "CREMA-D", given.folder / "prepared"
    start = time.perf_counter()
    damaged = make_download(raw, clips)
    making = time.perf_counter() - start
    first = prepare(raw, out, given.workers, until=clips // 2)
    second = prepare(raw, out, given.workers)
    report = json.loads((out / "report.json").read_text())
    lost = {entry["id"]: entry["reason"] for entry in report["unreadable"]}
    if {*lost} != {*damaged} or report["samples"] != clips - len(damaged):
        raise SystemExit(f"damaged {sorted(damaged)}, left out {sorted(lost)}, kept {report['samples']} of {clips}")
    if not 0 < first["decoded"] < clips:
        raise SystemExit(f"{first['decoded']} of {clips} were decoded when it was killed: nothing was interrupted")
    if len(pd.read_csv(out / "unreadable.csv")) != len(lost):
        raise SystemExit("unreadable.csv does not list what was left out")
    resumed = re.search(r"(\d+) of them decoded by an earlier run", (given.folder / "prepare.txt").read_text())
    if resumed is None or int(resumed[1]) != first["decoded"]:
        raise SystemExit(f"{first['decoded']} were decoded when it was killed, gone on with {resumed and resumed[1]}")
    torch.set_num_threads(1)
    data = load_data(DataSettings(name="cremad", path=str(out)))
    rates = {}
    for name, epoch in (("as stored", None), ("cropped and flipped", 0)):
        data.train.set_epoch(epoch)
        rates[name] = round(measure(data.train, 64, 0, True), 1)
    seconds = first["seconds"] + second["seconds"]
    found = {
        "share": given.share, "clips": clips, "made_minutes": round(making / 60, 2),
        "download_gb": round(size(raw), 3), "prepared_gb": round(size(out), 3),
        "prepare_minutes": round(seconds / 60, 2), "clips_per_second": round(clips / seconds, 1),
        "killed_after": {"decoded": first["decoded"], "minutes": round(first["seconds"] / 60, 2)},
        "went_on": {"decoded": clips - len(damaged) - first["decoded"], "minutes": round(second["seconds"] / 60, 2)},
        "peak_memory_mb": round(max(first["memory_mb"], second["memory_mb"])),
        "damaged": dict(Counter(damaged.values())),
        "reported": {way: lost[key].replace(f"{raw}/", "") for key, way in damaged.items()},
        "training_samples_per_second": rates,
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
    }  # fmt: skip
    text = json.dumps(found, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
