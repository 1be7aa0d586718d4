"""Tables and figures of one run, for the experiment tracker that it was trained with."""

from __future__ import annotations

from pathlib import Path


def draw_run(run: Path, folder: Path) -> None:
    """Write ``tables/`` (CSV, Markdown, LaTeX) and ``figures/`` (PNG) of a finished run into a folder.

    Args:
        run: the run folder.
        folder: where to.
    """
    # Here, for every training knows this function and few draw.
    from modalign.reporting.figures import dataset_figures, prediction_figures
    from modalign.reporting.runs import compare, read_run
    from modalign.reporting.style import save
    from modalign.reporting.tables import write_tables

    record = read_run(run)
    write_tables([record], folder / "tables")
    for drawn in [*dataset_figures(compare([record]), [record]), *prediction_figures(record.strategy, [record])]:
        if drawn.name != "comparison":  # of one method there is none
            save(drawn.figure, folder / "figures" / drawn.name, ("png",))
