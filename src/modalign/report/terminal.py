"""The comparison on a terminal: the columns that fit a screen; the files hold all of them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from modalign.report.comparison import Row, best, by_dataset
from modalign.report.tables import cells, header

_SHOWN = ("Method", "Test", "95 % interval", "Seeds", "Rank", "Difference", "p (Holm)", "s in all")


def show_tables(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print one table a data set, the best methods in bold."""
    console = console or Console(width=None if Console().is_terminal else 110)
    for dataset, own in by_dataset(rows).items():
        names = header(own)
        columns = [i for i, name in enumerate(names) if name.startswith(_SHOWN)]
        table = Table(title=dataset, title_justify="left", title_style="bold", header_style="bold")
        for i in columns:
            table.add_column(names[i], justify="left" if i == 0 else "right")
        winners = best(own)
        for row in own:
            texts = cells(row)
            table.add_row(*(texts[i] for i in columns), style="bold" if row.strategy in winners else "")
        console.print(table)
