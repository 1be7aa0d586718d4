"""Peak memory counts from before the data are read, and not what is mapped from files."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from modalign.training.memory import peak_mb, start_peak


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux says of memory")
def test_mapped_pages_do_not_count_and_memory_that_was_given_back_does(tmp_path):
    device = torch.device("cpu")
    np.save(tmp_path / "a.npy", np.ones(10_000_000))
    held = start_peak()
    before = peak_mb(device)
    assert peak_mb(device, held) < 10  # what the process held already is no part of what a run adds
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert mapped.sum() == 10_000_000
    assert peak_mb(device) - before < 40
    loaded = np.ones(10_000_000)
    del loaded, mapped
    assert peak_mb(device, held) == pytest.approx(peak_mb(device) - held, abs=5)
    assert peak_mb(device) - before > 60
