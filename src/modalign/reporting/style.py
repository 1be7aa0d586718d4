"""One look for all figures: colors that color-blind readers tell apart, markers beside them, readable type."""

from __future__ import annotations

import base64
import contextlib
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
from PIL import Image

from modalign.files import write_whole

# Okabe and Ito, Color Universal Design, 2008; black and yellow last, as they are hard on one of two grounds.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F", "#000000")
# Modalities have tones of their own: none is that of ModAlign or of the other methods.
MODALITIES = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
# Neighbors differ in dashes too: neither color nor ground alone has to tell series apart.
DASHES = ("-", "--", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
OURS = "#D55E00"
OTHER = "#0072B2"
INK = "#222222"
AXIS = "#555555"
GRID = "#E3E3E3"
SHARED = "#8C8C8C"
# Colors that follow a page's light or dark ground, as variables of its style sheet; all others stay as they are.
THEMED = {INK: "var(--ink)", "#000000": "var(--ink)", AXIS: "var(--axis)", GRID: "var(--grid)", OTHER: "var(--blue)",
          "#56B4E9": "var(--sky)"}  # fmt: skip

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
    """Return color, dashes and marker of the modality at ``position``, the same in every figure."""
    look = {"color": MODALITIES[position % len(MODALITIES)], "linestyle": DASHES[position % len(DASHES)]}
    return look | {"marker": MARKERS[position % len(MARKERS)]}


def series_look(position: int, colors: Sequence[str] = COLORS) -> dict[str, Any]:
    """Return color and dashes of a curve among others that are no modalities."""
    return {"color": colors[position % len(colors)], "linestyle": DASHES[position % len(DASHES)]}


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

    It is a fraction of what is saved as a file: letters are text in the page's font, numbers have two digits after the
    point, identifiers that nothing refers to are left out, and pictures are compressed again.

    Args:
        figure: what is drawn.
        alt: its numbers, for readers who cannot see it.
        prefix: before every identifier, unique on the page: two figures with the same ones would borrow each other's
            clips and glyphs.
    """
    stream = io.BytesIO()
    with styled(), matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(stream.getvalue())
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', stream.getvalue().decode()))
    for parent in list(root.iter()):
        for child in list(parent):
            # A style sheet inside a figure would apply to the whole page.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    themed = {color.lower(): variable for color, variable in THEMED.items()}
    for element in root.iter():
        if not (element.text or "").strip():
            element.text = None
        element.tail = None
        if element.get("id") not in referred:
            element.attrib.pop("id", None)
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, prefix + value)
            elif name == f"{{{_XLINK}}}href":
                element.set(name, f"#{prefix}{value[1:]}" if value.startswith("#") else _compressed(value))
            elif name in ("d", "x", "y", "transform", "points"):
                element.set(name, re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", value))
            elif name == "clip-path":
                element.set(name, value.replace("url(#", f"url(#{prefix}"))
            elif name in ("style", "fill", "stroke"):
                value = re.sub(r"#[0-9a-f]{6}\b", lambda found: themed.get(found[0], found[0]), value)
                value = value.replace("'DejaVu Sans'", "var(--font)")
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


def _compressed(picture: str) -> str:
    """Return a picture (``data:image/png;base64,...``) as WebP where that is smaller: without loss up to 256 colors."""
    start, _, content = picture.partition(",")
    image, stream = Image.open(io.BytesIO(base64.b64decode(content))), io.BytesIO()
    with contextlib.suppress(OSError, KeyError):  # a Pillow that was built without it
        image.save(stream, "WEBP", lossless=image.getcolors() is not None, quality=80, method=6)
    smaller = base64.b64encode(stream.getvalue()).decode()
    return f"data:image/webp;base64,{smaller}" if 0 < len(smaller) < len(content) else f"{start},{content}"
