"""Samples shown as what they are: a spectrogram, frames of a clip, an image, a text, a vector."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modalign.errors import unknown
from modalign.evaluation.extremes import Example
from modalign.report.style import INK, OTHER, canvas, styled

# Frames of a clip in a line, and most lines.
FRAMES, LINES = 4, 2
# Colors of a sequence span this share of its values: a few far out would leave no contrast to the others.
SPAN = (0.02, 0.98)


def example_grid(groups: Mapping[str, Sequence[Example]], kinds: Mapping[str, str]) -> Figure:
    """Samples as rows, modalities as columns, under the heading of their group.

    Args:
        groups: heading (such as ``audio sure, video not``) -> samples.
        kinds: modality -> ``vector``, ``sequence``, ``image``, ``clip`` or ``text``; gives the columns.

    Raises:
        InputError: a kind that does not exist.
    """
    for kind in kinds.values():
        if kind not in _DRAW:
            raise unknown("kind of modality", kind, _DRAW)
    samples = [(heading, example) for heading, examples in groups.items() for example in examples]
    with styled():
        figure, axes = canvas(1.2 + 3.0 * len(kinds), 1.75 * len(samples) + 0.3, len(samples), len(kinds))
        for i, (heading, example) in enumerate(samples):
            row = axes[i * len(kinds) : (i + 1) * len(kinds)]
            for axis, (modality, kind) in zip(row, kinds.items(), strict=True):
                axis.set_xticks([])
                axis.set_yticks([])
                axis.spines[:].set_visible(False)
                axis.grid(visible=False)
                if modality in example.inputs:
                    _DRAW[kind](axis, example.inputs[modality])
                else:
                    _say(axis, "missing")
                axis.set_xlabel(f"{modality}: {example.notes.get(modality, '')}".rstrip(": "), fontsize=9)
            row[0].set_title(f"{heading} · {example.title}", fontsize=9.5)
    return figure


def _sequence(axis: Axes, value: np.ndarray | str) -> None:
    values = np.asarray(value, np.float64)
    low, high = np.nanquantile(values, SPAN)
    axis.imshow(values.T, aspect="auto", origin="lower", cmap="magma", vmin=low, vmax=max(high, low + 1e-12))


def _image(axis: Axes, value: np.ndarray | str) -> None:
    axis.imshow(_picture(np.asarray(value, np.float64)), cmap="gray")


def _clip(axis: Axes, value: np.ndarray | str) -> None:
    """Frames at equal distances, in lines of four."""
    frames = np.asarray(value, np.float64)
    count = FRAMES * LINES if len(frames) >= FRAMES * LINES else min(FRAMES, len(frames))
    shown = list(frames[np.linspace(0, len(frames) - 1, count).round().astype(int)])
    lines = [np.concatenate(shown[i : i + FRAMES], axis=2) for i in range(0, count, FRAMES)]
    axis.imshow(_picture(np.concatenate(lines, axis=1)), cmap="gray")


def _picture(value: np.ndarray) -> np.ndarray:
    """(C, H, W) of any range as (H, W) or (H, W, 3) in 0..1: normalized data are stretched to be seen."""
    low, high = np.nanmin(value), np.nanmax(value)
    value = (value - low) / (high - low) if high > low else np.zeros_like(value)
    return value[:3].transpose(1, 2, 0) if len(value) >= 3 else value[0]


def _vector(axis: Axes, value: np.ndarray | str) -> None:
    values = np.asarray(value, np.float64).ravel()
    axis.fill_between(np.arange(len(values)), values, step="mid", color=OTHER, linewidth=0)
    axis.axhline(0, color=INK, linewidth=0.6)
    usual = 3 * np.quantile(np.abs(values), 0.97)
    if 0 < usual < np.abs(values).max():  # a few outliers would flatten all others; their bars are cut
        axis.set_ylim(max(values.min(), -usual), min(values.max(), usual))


def _text(axis: Axes, value: np.ndarray | str) -> None:
    _say(axis, textwrap.shorten(str(value), 170, placeholder=" …"))


def _say(axis: Axes, text: str) -> None:
    wrapped = "\n".join(textwrap.wrap(text, 42))
    axis.text(0, 0.5, wrapped, va="center", ha="left", fontsize=8.5, transform=axis.transAxes)


_DRAW = {"sequence": _sequence, "image": _image, "clip": _clip, "vector": _vector, "text": _text}
