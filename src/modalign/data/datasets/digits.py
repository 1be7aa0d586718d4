"""Handwritten digits of scikit-learn: the left and the right half of each image as two modalities.

1,797 images of 8 x 8 pixels in 17 gray values (Alpaydin & Kaynak 1998), embedded in scikit-learn. Halves of
one image as views are customary in the multi-view literature. Split 60/15/25 at random, stratified by digit.
"""

from __future__ import annotations

from modalign.data.dataset import MultimodalData
from modalign.data.tables.arrays import from_settings
from modalign.settings import DataSettings


def load(settings: DataSettings) -> MultimodalData:
    """Return digits as modalities ``left`` and ``right``, images (1, 8, 4).

    >>> load(DataSettings(name="digits")).modalities["left"].shape
    (1, 8, 4)
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images[:, None].astype("float32")
    arrays = {"left": images[..., :4], "right": images[..., 4:], "y": bunch.target}
    return from_settings(settings, arrays, "digits", ["left", "right"])
