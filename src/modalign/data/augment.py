"""Random crops and flips of images and clips."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

AREA = (0.3, 1.0)
RATIO = (3 / 4, 4 / 3)


def random_crop_flip(values: Tensor, seeds: list[tuple[int, ...]]) -> Tensor:
    """Random resized crop and horizontal flip of images (B, C, H, W) or clips (B, T, C, H, W).

    The crop has 30 to 100 % of the area and an aspect of 3/4 to 4/3, and is scaled back to the full size
    bilinearly; all frames of a clip get the same. Bytes stay bytes, which is many times faster than float32.
    Sample b is changed by random numbers of ``seeds[b]`` alone, so the result depends neither on the batch nor
    on the process that it is in.

    >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    >>> random_crop_flip(images, [(0, 1), (0, 2)]).shape
    torch.Size([2, 3, 8, 8])
    """
    changed, (height, width) = torch.empty_like(values), values.shape[-2:]
    for sample, new, seed in zip(values, changed, seeds, strict=True):
        rng = np.random.default_rng(seed)
        area = rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        rows = min(height, max(1, round(height * math.sqrt(area / ratio))))
        columns = min(width, max(1, round(width * math.sqrt(area * ratio))))
        top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
        crop = sample[..., top : top + rows, left : left + columns].reshape(-1, *sample.shape[-3:-2], rows, columns)
        scaled = functional.interpolate(crop, (height, width), mode="bilinear").view_as(sample)
        new.copy_(scaled.flip(-1) if rng.random() < 0.5 else scaled)
    return changed
