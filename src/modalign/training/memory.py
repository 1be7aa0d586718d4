"""Peak memory that a run adds: of the GPU where there is one, else to this process."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def start_peak() -> float:
    """Begin to watch, before the data are read, which is often when most memory is needed.

    Returns:
        MiB that the process holds already (libraries, data in memory), to be taken off ``peak_mb`` on the CPU.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # lets the high-water mark of Linux begin here; elsewhere it is the process's
        Path("/proc/self/clear_refs").write_text("5")
    return peak_mb(torch.device("cpu"))


def peak_mb(device: torch.device, held: float = 0.0) -> float:
    """Return the peak since ``start_peak``, in MiB.

    On a GPU: bytes allocated by tensors. On the CPU: resident memory of the process without the pages of mapped files
    (prepared arrays, libraries), which the system takes back when it needs them, less what it ``held`` at the start.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(OSError, KeyError):
        said = dict(re.findall(r"(VmHWM|RssFile):\s+(\d+) kB", _STATUS.read_text()))
        return max(0.0, (int(said["VmHWM"]) - int(said["RssFile"])) / 2**10 - held)
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB on Linux
    return max(0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20 - held)
