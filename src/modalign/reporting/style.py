"""One look for all figures: colors that color-blind readers tell apart, markers beside them, readable type."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from modalign.files import write_whole

# Okabe and Ito, Color Universal Design, 2008; black and yellow last, as they are hard on one of two grounds.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F", "#000000")
# Modalities have tones of their own: none is that of ModAlign or of the other methods.
MODALITIES = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
OURS = "#D55E00"
OTHER = "#0072B2"
INK = "#222222"
AXIS = "#555555"
GRID = "#E3E3E3"
SHARED = "#8C8C8C"
# Colors that follow a page's light or dark ground, as variables of its style sheet; all others stay as they are.
THEMED = {INK: "var(--ink)", "#000000": "var(--ink)", AXIS: "var(--axis)", GRID: "var(--grid)", OTHER: "var(--blue)"}

KINDS = ("svg", "png", "pdf")

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": AXIS,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "text.color": INK,
    "text.parse_math": False,  # a dollar in the name of a class is a dollar
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "path",
    "svg.hashsalt": "modalign",
    "pdf.fonttype": 42,
}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def styled() -> AbstractContextManager[None]:
    """Return the context in which figures are saved."""
    return matplotlib.rc_context(_STYLE)


@contextmanager
def canvas(
    width: float = 6.4, height: float = 3.6, rows: int = 1, columns: int = 1
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield a figure without any global state, and its axes in reading order, to be drawn on in one style."""
    with styled():
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def modality_look(position: int) -> dict[str, Any]:
    """Return color and marker of the modality at ``position``, the same in every figure."""
    return {"color": MODALITIES[position % len(MODALITIES)], "marker": MARKERS[position % len(MARKERS)]}


def save(figure: Figure, stem: str | Path, kinds: Sequence[str] = KINDS) -> list[Path]:
    """Write a figure as SVG, PNG and PDF beside each other and return the paths; equal figures give equal bytes."""
    stem = Path(stem)
    # Without a date the files do not change when the numbers do not.
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    with styled():
        for path in paths:
            kind = path.suffix[1:]
            write_whole(path, partial(figure.savefig, format=kind, dpi=160, metadata=undated[kind]))
    return paths


def inline_svg(figure: Figure, alt: str, prefix: str) -> Markup:
    """Return a figure as an ``<svg>`` element for a page: it follows the page's colors and clashes with no other.

    Args:
        figure: what is drawn.
        alt: its numbers, for readers who cannot see it.
        prefix: before every identifier, unique on the page: two figures with the same ones would borrow each other's
            clips and glyphs.
    """
    stream = io.BytesIO()
    with styled():
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(stream.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # A style sheet inside a figure would apply to the whole page.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    themed = {color.lower(): variable for color, variable in THEMED.items()}
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, prefix + value)
            elif name == f"{{{_XLINK}}}href" and value.startswith("#"):
                element.set(name, f"#{prefix}{value[1:]}")
            elif name == "clip-path":
                element.set(name, value.replace("url(#", f"url(#{prefix}"))
            elif name in ("style", "fill", "stroke"):
                value = re.sub(r"#[0-9a-f]{6}\b", lambda found: themed.get(found[0], found[0]), value)
                element.set(name, value.replace("url(#", f"url(#{prefix}"))
    width = round(1.6 * 72 * figure.get_figwidth())
    root.attrib |= {
        "role": "img",
        "aria-label": alt,
        "fill": "var(--ink)",  # glyphs have no fill of their own and would be black on a dark ground
        "style": f"stroke-linejoin: round; stroke-linecap: butt; max-width: {width}px",
    }
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return Markup(ElementTree.tostring(root, encoding="unicode"))
