"""Memory of a training over the size of its data: from one ``.npz`` file, and from a prepared folder.

Two modalities of vectors in float32, one epoch of joint training, each in a process of its own. ``private`` is what the
process holds beyond what it held before (resident pages that belong to no file); ``mapped`` is the most it had of
files, which the system takes back when it needs them.

    python benchmarks/memory.py [--gigabytes 3]
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import modalign
from modalign.data.batch import Modality
from modalign.data.media.folder import write_prepared
from modalign.data.task import classification

WIDTH, CLASSES = 3750, "abcd"


def status() -> tuple[float, float]:
    """Resident memory of this process in GB: its own, and of files."""
    said = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/self/status").read_text()))
    return int(said["RssAnon"]) * 1024 / 1e9, int(said["RssFile"]) * 1024 / 1e9


def measure(source: str, out: str, options: dict[str, Any], pipe: Any) -> None:
    """Send private and mapped GB at their peaks, and what the run counted."""
    start, peak = status()[0], [0.0, 0.0]

    def watch() -> None:
        while True:
            own, mapped = status()
            peak[:] = max(peak[0], own - start), max(peak[1], mapped)
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()
    settings = {"epochs": 1, "width": 8, "batch_size": 512, "accelerator": "cpu"}
    run = modalign.train(source, "joint", out=out, quiet=True, **settings, **options)
    pipe.send((*peak, run.result["peak_memory_mb"] * 2**20 / 1e9))


def main() -> None:
    """Make the data, train on them, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    rows = int(parser.parse_args().gigabytes * 1e9 / (2 * 4 * WIDTH))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        arrays = {m: rng.standard_normal((rows, WIDTH), dtype=np.float32) for m in "ab"}
        size = sum(array.nbytes for array in arrays.values()) / 1e9
        np.savez(f"{folder}/data.npz", **arrays, y=np.arange(rows) % len(CLASSES))
        table = pd.DataFrame({"id": np.arange(rows).astype(str), "label": np.array(list(CLASSES))[np.arange(rows) % 4]})
        described = {m: Modality(m, "vector", (WIDTH,)) for m in "ab"}
        write_prepared(f"{folder}/prepared", "big", classification(CLASSES), described, table, arrays)
        del arrays
        print(f"{rows:,} rows, {size:.2f} GB")
        print(f"{'from':10} {'private GB':>10} {'x data':>7} {'mapped GB':>10} {'counted GB':>10}")
        for name, options in (("data.npz", {"target": "y", "modalities": ["a", "b"]}), ("prepared", {})):
            here, there = multiprocessing.Pipe()
            given = f"{folder}/{name}", f"{folder}/run-{name}", options, there
            process = multiprocessing.get_context("spawn").Process(target=measure, args=given)
            process.start()
            own, mapped, counted = here.recv()
            process.join()
            print(f"{name:10} {own:10.2f} {own / size:7.2f} {mapped:10.2f} {counted:10.2f}")


if __name__ == "__main__":
    main()
