"""Random crops and flips."""

from __future__ import annotations

import pytest
import torch

from modalign.data.augment import random_crop_flip

RAMP = torch.arange(24, dtype=torch.float32).expand(3, 16, 24)
"""Rises from left to right by one a pixel: slope and sign show crop and flip."""


def seeds(n: int) -> list[tuple[int, ...]]:
    return [(0, 0, i) for i in range(n)]


def test_crops_have_the_stated_width_and_half_are_flipped() -> None:
    changed = random_crop_flip(RAMP.expand(200, -1, -1, -1), seeds(200))
    assert changed.shape == (200, 3, 16, 24)
    slope = changed[:, 0, 8, 13] - changed[:, 0, 8, 11]
    assert 0.35 < (slope < 0).float().mean() < 0.65
    shares = slope.abs() / 2  # width of the crop over the whole width
    assert shares.min() > 0.45
    assert shares.max() <= 1.0 + 1e-6
    assert shares.std() > 0.05
    assert changed.min() >= 0
    assert changed.max() <= 23


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_all_frames_of_a_clip_get_the_same(dtype: torch.dtype) -> None:
    clip = RAMP.expand(4, 5, 3, 16, 24).to(dtype)
    changed = random_crop_flip(clip, seeds(4))
    assert changed.dtype == dtype
    assert changed.shape == clip.shape
    assert (changed == changed[:, :1]).all()
    assert not torch.equal(changed[0], changed[1])
