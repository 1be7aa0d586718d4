"""One look for all figures: colors that color-blind readers tell apart, markers beside them, readable type."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito, Color Universal Design, 2008; black and yellow last, as they are hard on one of two grounds.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F", "#000000")
# Modalities have tones of their own: none is that of ModAlign or of the other methods.
MODALITIES = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
OURS = "#D55E00"
OTHER = "#0072B2"
INK = "#222222"
SHARED = "#8C8C8C"

KINDS = ("svg", "png", "pdf")

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "path",
    "svg.hashsalt": "modalign",
    "pdf.fonttype": 42,
}


def styled() -> AbstractContextManager[None]:
    """Context in which figures are drawn and saved."""
    return matplotlib.rc_context(_STYLE)


def canvas(width: float = 6.4, height: float = 3.6, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure without any global state, and its axes in reading order."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.ravel())


def modality_color(position: int) -> str:
    """Color of the modality at ``position``, the same in every figure."""
    return MODALITIES[position % len(MODALITIES)]


def marker(position: int) -> str:
    """Marker of the series at ``position``."""
    return MARKERS[position % len(MARKERS)]


def save(figure: Figure, stem: Path, kinds: Sequence[str] | None = None) -> list[Path]:
    """Write ``figure`` as ``stem`` + each kind (``KINDS``); returns the paths. The same figure gives the same bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    # Without a date the files do not change when the numbers do not.
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    paths = []
    with styled():
        for kind in KINDS if kinds is None else kinds:
            path = stem.with_name(f"{stem.name}.{kind}")
            figure.savefig(path, dpi=160, metadata=undated[kind])
            paths.append(path)
    return paths
