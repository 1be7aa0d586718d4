"""Random crops and flips of images and clips, and the frames that a clip is drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from modalign.domains import Checked, Count, Part, Positive
from modalign.errors import SettingsError


@dataclass(frozen=True)
class Crop(Checked):
    """A random resized crop and flip.

    Args:
        area: share of the area that a box has, from and to, uniform.
        ratio: its width over its height, from and to, uniform in the logarithm.
        each_frame: each frame of a clip has its own box and flip; otherwise all have the same.
        tries: boxes that are drawn until one fits into the frame; the last is cut to it.

    >>> Crop(area=(0.08, 1.0), each_frame=True, tries=10).ratio
    (0.75, 1.3333333333333333)
    """

    where = "data.options.crop."

    area: tuple[Part, Part] = (0.3, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    each_frame: bool = False
    tries: Count = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (low, high) in (("area", self.area), ("ratio", self.ratio)):
            if low > high:
                raise SettingsError(f"{self.where}{name} is {[low, high]}; expected the smaller number first")

    def box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw a box: top, left, rows and columns.

        >>> Crop(area=(1.0, 1.0), ratio=(1.0, 1.0)).box(8, 8, np.random.default_rng(0))
        (0, 0, 8, 8)
        """
        for _ in range(self.tries):
            area = rng.uniform(*self.area)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            rows, columns = round(height * math.sqrt(area / ratio)), round(width * math.sqrt(area * ratio))
            if 0 < rows <= height and 0 < columns <= width:
                break
        rows, columns = min(height, max(1, rows)), min(width, max(1, columns))
        return int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1)), rows, columns


def random_crop_flip(values: Tensor, seeds: list[tuple[int, ...]], crop: Crop | None = None) -> Tensor:
    """Random resized crop and horizontal flip of images (B, C, H, W) or clips (B, T, C, H, W).

    By default the crop has 30 to 100 % of the area and an aspect of 3/4 to 4/3 and is the same for all frames of a
    clip. It is scaled back to the full size bilinearly. Bytes stay bytes, which is many times faster than float32.
    Sample b is changed by random numbers of ``seeds[b]`` alone, so the result depends neither on the batch nor
    on the process that it is in.

    >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    >>> random_crop_flip(images, [(0, 1), (0, 2)]).shape
    torch.Size([2, 3, 8, 8])
    """
    crop, changed, (height, width) = crop or Crop(), torch.empty_like(values), values.shape[-2:]
    for sample, new, seed in zip(values, changed, seeds, strict=True):
        rng = np.random.default_rng(seed)
        apart = crop.each_frame and sample.ndim == 4
        for frames, result in zip(sample if apart else [sample], new if apart else [new], strict=True):
            top, left, rows, columns = crop.box(height, width, rng)
            part = frames[..., top : top + rows, left : left + columns].reshape(-1, *frames.shape[-3:-2], rows, columns)
            scaled = functional.interpolate(part, (height, width), mode="bilinear").view_as(frames)
            result.copy_(scaled.flip(-1) if rng.random() < 0.5 else scaled)
    return changed


def pick_frames(stored: int, drawn: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return one of each of ``drawn`` equal parts of ``stored`` frames, (drawn,) int64: at random, or a fixed one.

    The fixed one is number length // 2 of a part when its frames are counted from 1: that before the middle. Frames
    that are left over at the end are never taken. Source: MMPareto (Wei and Hu, ICML 2024), code.

    >>> pick_frames(10, 2).tolist(), pick_frames(3, 3).tolist()
    ([1, 6], [0, 1, 2])
    """
    length = stored // drawn
    within = np.full(drawn, max(length // 2, 1) - 1) if rng is None else rng.integers(length, size=drawn)
    return np.arange(drawn) * length + within
