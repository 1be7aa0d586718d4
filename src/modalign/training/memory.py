"""Peak memory of a run: of the GPU where there is one, else of this process."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from pathlib import Path

import torch


class PeakMemory:
    """Peak since construction, in MiB.

    On a GPU: bytes allocated by tensors. On the CPU: resident memory of the process; where Linux lets the
    high-water mark be reset it starts here, elsewhere it is the peak since the process began.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """Return the peak so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        with contextlib.suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
            if found:
                return int(found[1]) / 2**10
        unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
