"""The paper's tables beside what was reached: a verdict on every number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from modalign.experiments.reproduce import PAPER, Plan
from modalign.files import write_csv, write_whole
from modalign.reporting.diagnosis import diagnose
from modalign.reporting.figures import tradeoff_figures
from modalign.reporting.page import write_report
from modalign.reporting.runs import compare, missing_folds, read_runs
from modalign.reporting.style import save

NOTES = {
    "full": "Percent, with 95 % intervals: over the published folds of GBMLGG (corrected for shared samples), over "
    "seeds and test samples elsewhere. 'inside' says that the paper's number lies in the interval, which is no proof "
    "of the same protocol: docs/reproduce.md lists what differs. The paper does not say which metric its numbers of "
    "GBMLGG are; micro-averaged AUC is the likeliest.",
    "tiny": "A rehearsal on made media with tiny networks: its numbers say nothing of the methods or of the paper.",
}


def reproduced(plan: Plan) -> pd.DataFrame:
    """Return one line a method and data set: ``reached`` and its interval, ``paper``, and the ``verdict``.

    Numbers are percent. The verdict is ``inside`` where the paper's number lies in the interval, else ``above`` or
    ``below``: where what was reached lies.
    """
    numbers, lines = PAPER[plan.what], []
    for part in plan.parts:
        runs = read_runs(plan.out / plan.what / part.of.name / "runs")
        rows = {row.strategy: row for row in compare(runs, "modalign")}
        for name, paper in numbers.items():
            if name not in rows:
                continue
            row, said = rows[name], paper[part.of.name]
            low, high = 100 * row.ci_low, 100 * row.ci_high
            verdict = "inside" if low <= said <= high else "above" if low > said else "below"
            lines.append(
                {
                    "data": part.of.title, "method": row.title, "metric": row.metric, "reached": 100 * row.mean,
                    "low": low, "high": high, "runs": row.seeds * row.splits, "paper": said, "verdict": verdict,
                }
            )  # fmt: skip
    return pd.DataFrame(lines)


def write_reproduction(plan: Plan, folders: Sequence[Path]) -> tuple[str, list[Path]]:
    """Write table (Markdown, CSV) and page of a plan, or its figures; return the table as text, and all paths."""
    if plan.what == "figures":
        written = []
        for folder in folders:
            for drawn in tradeoff_figures(folder / "tradeoff" / "tradeoff.json"):
                written += save(drawn.figure, folder / drawn.name)
            diagnose([folder / "modalign"], folder / "confidence", information=False)
            written += sorted((folder / "confidence").rglob("*.png"))
        return "", written
    found = reproduced(plan)
    lines = ["| Method | " + " | ".join(part.of.title for part in plan.parts) + " |"]
    lines.append("|---|" + "---:|" * len(plan.parts))
    for method in found["method"].unique():
        own = found[found["method"] == method].set_index("data")
        cells = [
            f"{one.reached:.1f} [{one.low:.1f}, {one.high:.1f}], paper {one.paper:.2f}: {one.verdict}"
            for part in plan.parts
            for one in [own.loc[part.of.title]]
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    absent = [f"Left out: {text}." for text in plan.absent]
    absent += [f"{text}." for folder in folders for text in missing_folds(read_runs(folder / "runs"))]
    text = "\n".join([*lines, "", NOTES[plan.scale], *absent]) + "\n"
    base = plan.out / plan.what
    write_whole(base.with_suffix(".md"), text)
    write_csv(base.with_suffix(".csv"), found, False)
    page = write_report(list(folders), base.with_suffix(".html"), "modalign")
    return text, [base.with_suffix(".md"), base.with_suffix(".csv"), page]
