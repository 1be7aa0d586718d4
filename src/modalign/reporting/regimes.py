"""The map of regimes, shown: which method leads where and by how much, and what that says of other data."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from modalign.errors import RunFolderError
from modalign.evaluation.place import Place, advise, folder_places
from modalign.files import write_whole
from modalign.reporting.figures import Captioned
from modalign.reporting.runs import Row, RunRecord, compare, read_runs
from modalign.reporting.style import INK, canvas, save
from modalign.reporting.tables import MetricFormat, Table, plural, show


def write_map(folder: str | Path) -> list[Path]:
    """Write ``map.json``, ``map.md`` and the figure of a folder of ``run_map``; return the paths.

    Raises:
        RunFolderError: the folder holds no map, or a regime in it has no finished run.
    """
    folder, sets = Path(folder), defaultdict(list)
    for run in read_runs(folder):
        sets[run.dataset].append(run)
    regimes = [_regime(about, sets[about["name"]]) for about in folder_places(folder)]
    titles = {row.strategy: row.title for row in compare(run for own in sets.values() for run in own)}
    content = {"methods": titles, "regimes": regimes}
    drawn = map_figure(content)
    write_whole(folder / "map.json", json.dumps(content, indent=1))
    table = map_table(content)
    write_whole(folder / "map.md", f"{table.caption}.\n\n{table.markdown()}\n")
    return [folder / "map.json", folder / "map.md", *save(drawn.figure, folder / drawn.name)]


def _regime(about: dict[str, Any], runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Add to what is known of a regime the scores, and the lead of the first over the second with its interval."""
    rows = compare(runs)
    if not rows:
        raise RunFolderError(f"no run of the regime {about['name']!r} is done; repeat `modalign map` to complete it")
    first, *others = sorted(rows, key=lambda row: -row.mean)
    lead: dict[str, Any] = {"method": first.strategy}
    if others:
        second: Row = next(row for row in compare(runs, first.strategy) if row.strategy == others[0].strategy)
        bounds = {"mean": -second.difference, "low": -second.difference_high, "high": -second.difference_low}
        lead |= {"second": second.strategy} | {k: None if np.isnan(v) else v for k, v in bounds.items()}
    return about | {"scores": {row.strategy: row.mean for row in rows}, "seeds": first.seeds, "lead": lead}


def map_table(content: dict[str, Any]) -> Table:
    """Return one line a regime: its first two methods, the lead of the first, and what the best possible is."""
    form, titles = MetricFormat("accuracy"), content["methods"]
    cells = []
    for one in content["regimes"]:
        lead = one["lead"]
        best = one["scores"][lead["method"]]
        cells.append(
            {
                "Regime": one["name"],
                "First": titles[lead["method"]],
                "Accuracy (%)": form(best),
                "Second": titles.get(lead.get("second"), "–"),
                "Lead (points)": form(lead.get("mean")),
                "its 95 % interval": form.interval(lead.get("low"), lead.get("high")),
                "Bayes (%)": form(one["bayes"]),
            }
        )
    seeds = plural(content["regimes"][0]["seeds"], "seed")
    said = f"Which method leads where: means over {seeds}; intervals over seeds and test samples, not corrected for "
    return Table("map", f"{said}having chosen the first two", pd.DataFrame(cells), words=True)


def map_figure(content: dict[str, Any]) -> Captioned:
    """Draw how far every method is behind the best of each regime: methods from the best on average to the worst."""
    regimes, titles = content["regimes"], content["methods"]
    scores = np.array([[one["scores"].get(m, np.nan) for m in titles] for one in regimes])
    behind = 100 * (np.nanmax(scores, 1, keepdims=True) - scores)
    order = np.nanmean(behind, 0).argsort(kind="stable")
    names = [list(titles.values())[i] for i in order]
    average = ", ".join(f"{name} {np.nanmean(behind[:, i]):.1f}" for name, i in zip(names, order, strict=True))
    return Captioned(
        "map",
        "Which method leads where",
        f"Points behind the best of each regime, on average: {average}.",
        _heat(behind[:, order], [one["name"] for one in regimes], names),
        f"Points of accuracy behind the best method of a regime, means over {plural(regimes[0]['seeds'], 'seed')}. One "
        "thing at a time is varied from the base. Methods are ordered by their mean over all regimes.",
    )


def _heat(values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Figure:
    with canvas(2.6 + 0.62 * len(columns), 1.9 + 0.31 * len(rows)) as (figure, (axis,)):
        # Square roots keep what is within noise apart from what is far behind.
        axis.imshow(np.sqrt(values), cmap="Blues", vmin=0, vmax=1.35 * np.sqrt(np.nanmax(values)) + 1e-9, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            leads = value == 0
            axis.text(j, i, "–" if np.isnan(value) else "best" if leads else f"{value:.1f}", ha="center", va="center",
                      fontsize=8, weight="bold" if leads else "normal", color=INK)  # fmt: skip
        axis.set_xticks(range(len(columns)), columns, rotation=40, ha="left", rotation_mode="anchor")
        axis.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False)
        axis.set_yticks(range(len(rows)), rows)
        axis.grid(False)
    return figure


def advice(at: Place) -> list[str]:
    """Return in sentences where data lie, what led there on the package's map, and how far that is to be trusted."""
    found = advise(at)
    near = ", ".join(f"{name} ({distance:.1f})" for name, distance in found.nearest.items())
    first = list(found.behind.items())[:3]
    said = ", ".join(f"{m} {show(100 * cost, 1)}" for m, cost in first)
    helps = "no better than" if found.followed >= found.fixed else "better than"
    return [
        f"of what modalities tell of the class, {at.redundant:.0%} redundant, {at.unique:.0%} unique, {at.synergy:.0%} "
        f"synergy; shared within a class {at.nuisance:.2f} nats; {10**at.labels:.0f} training samples a class; "
        f"{at.missing:.0%} missing; test told from validation {at.shift:.2f}",
        f"nearest regimes of the map of made data (distance in its standard deviations): {near}",
        f"there the least behind the best: {said} points",
        f"doubt: on the map itself such advice, each regime left out in turn, was {100 * found.followed:.1f} points "
        f"behind the best, {helps} always {found.always} ({100 * found.fixed:.1f}); made data are not yours"
        + ("; these data lie outside of the map, so that its nearest regimes are not near" if found.outside else ""),
    ]
