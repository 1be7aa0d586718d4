"""The scale of a run's inputs, kept with it, so that prediction warns of rows that come in other units.

Two numbers of a row are compared with those of training rows: how large its values are, and how far they lie from the
mean, each in the training split's own units, feature by feature, as root mean square over features. Quantiles over rows
are kept, which neither a few strange rows nor one feature with long tails move.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from modalign.data.dataset import Split
from modalign.models.encoders import Standardize
from modalign.models.multimodal import MultimodalModel

ROWS = 512
"""Rows that are looked at, spread over the split."""
FACTOR = 3.0
"""How many times beyond training rows the median new row has to be. Test splits of eleven real sets, other days and
later sensors among them, and random parts of eight rows stay below 1.5; digits that were divided by 16 are at 15."""
_LEVELS = np.linspace(0, 1, 41)


@dataclass(frozen=True)
class Scale:
    """What rows of one modality are like.

    Attributes:
        size, distance: quantiles over rows at 41 levels, from the smallest to the largest.
        low, high: 98 % of the values lie between them.

    >>> rows = np.linspace(1, 2, 100)
    >>> kept = Scale.of(rows, rows, np.arange(101))
    >>> kept.strange(rows + 0.5, rows), kept.strange(rows / 10, rows)
    ('', 'a typical row is 0.1 times as large')
    """

    size: tuple[float, ...]
    distance: tuple[float, ...]
    low: float
    high: float

    def __post_init__(self) -> None:
        if not len(self.size) == len(self.distance) == len(_LEVELS):
            raise ValueError(f"{len(self.size)} and {len(self.distance)} quantiles; expected {len(_LEVELS)}")

    @classmethod
    def of(cls, size: np.ndarray, distance: np.ndarray, values: np.ndarray) -> Scale:
        """Return the scale of rows, (N,) each, of some of their values."""
        low, high = np.quantile(values, [0.01, 0.99]).tolist()
        sizes, distances = (tuple(np.quantile(rows, _LEVELS).tolist()) for rows in (size, distance))
        return cls(sizes, distances, low, high)

    def strange(self, size: np.ndarray, distance: np.ndarray) -> str:
        """Return in words how new rows, (N,) each, lie far outside; nothing where they do not.

        Their median is held against the quantiles between which the median of so many training rows lies (of one row:
        all), and has to be rarer than one row in twenty, for new rows may be all of one class.
        """
        off = 2 / len(size) ** 0.5  # four standard errors of the rank of a median
        for known, rows, said in ((self.distance, distance, "from the mean"), (self.size, size, "")):
            median, middle = float(np.median(rows)), max(known[len(known) // 2], 1e-12)
            low, rare, common, high = np.interp([0.5 - off, 0.05, 0.95, 0.5 + off], _LEVELS, known)
            if median > max(high * FACTOR, common) or (not said and median < min(low / FACTOR, rare)):
                return f"a typical row is {median / middle:.2g} times as {f'far {said}' if said else 'large'}"
        return ""


def describe_scales(model: MultimodalModel, split: Split) -> dict[str, Scale]:
    """Return the scale of each modality that is standardized, of rows of the training split that have it.

    Args:
        model: its standardization is fitted.
        split: at most ``ROWS`` rows of it are read.
    """
    return {name: Scale.of(*rows) for name, rows in _measured(model, split).items()}


def warn_of_scales(model: MultimodalModel, split: Split, kept: Mapping[str, Scale]) -> None:
    """Warn of each modality whose new rows lie far outside the scale of training.

    Args:
        model: as in ``describe_scales``.
        split: the new rows, of which at most ``ROWS`` are read.
        kept: what ``describe_scales`` gave; of a modality that it lacks nothing is said.
    """
    for name, (size, distance, values) in (_measured(model, split) if kept else {}).items():
        if name in kept and (how := kept[name].strange(size, distance)):
            low, high = np.quantile(values, [0.01, 0.99])
            warnings.warn(
                f"{name!r} lies far outside the scale of training: its values are {low:.3g} to {high:.3g} here and "
                f"were {kept[name].low:.3g} to {kept[name].high:.3g} there; {how}. What is predicted from it means "
                "little: give it in the units of training, not scaled or standardized before (the model does that)",
                stacklevel=4,
            )


def _measured(model: MultimodalModel, split: Split) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return size and distance of rows that have a modality, and some of their values, by its name."""
    split.set_epoch(None)
    taken = np.linspace(0, len(split) - 1, min(len(split), ROWS)).astype(int).tolist()
    found: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for start in range(0, len(taken), 64):
        batch = split.__getitems__(taken[start : start + 64])
        for m, (name, x) in enumerate(batch.inputs.items()):
            x = x[batch.present[:, m]].float()
            if name not in model.standardize or not len(x):
                continue
            standardize = model.standardize[name]
            assert isinstance(standardize, Standardize)
            size, distance = (
                scaled.flatten(1).square().mean(1).sqrt().numpy() for scaled in (standardize.size(x), standardize(x))
            )
            values = x.flatten(1)[:, :: 1 + x[0].numel() // 1000]  # of a clip not every pixel
            found.setdefault(name, []).append((size, distance, values.flatten().numpy()))
    return {
        name: tuple(np.concatenate(part) for part in zip(*parts, strict=True))  # type: ignore[misc]
        for name, parts in found.items()
    }
