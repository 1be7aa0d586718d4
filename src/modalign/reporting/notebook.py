"""The curves of a run in a notebook, below its lines, while it trains."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

_EVERY = 2.0  # seconds between two drawings, each of which takes a tenth of one


def live_curves(folder: Path) -> Callable[..., None] | None:
    """Return what draws the curves of a run, once and then anew in the same place; None where no notebook runs.

    Args:
        folder: the run folder.

    Returns:
        A function that draws unless it has just drawn; always with ``last=True``. What fails is a warning, once.

    >>> live_curves(Path("runs/none")) is None  # here
    True
    """
    if not Console().is_jupyter:
        return None
    # A notebook has loaded IPython itself.
    from IPython.display import Image, display

    from modalign.reporting.figures import training_curves
    from modalign.reporting.style import styled

    place, drawn_at, failed = None, -_EVERY, False

    def draw(last: bool = False) -> None:
        nonlocal place, drawn_at, failed
        if failed or (time.monotonic() - drawn_at < _EVERY and not last):
            return
        try:
            stream = io.BytesIO()
            with styled():
                training_curves(folder).savefig(stream, format="png", dpi=110)
            picture = Image(data=stream.getvalue(), format="png")
            if place is None:
                place = display(picture, display_id=True)
            else:
                place.update(picture)
        except Exception as error:
            failed = True
            warnings.warn(f"the curves could not be drawn ({type(error).__name__}: {error})", stacklevel=2)
        drawn_at = time.monotonic()

    return draw
