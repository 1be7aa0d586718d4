"""What a reader should know of a comparison, in sentences: who leads, what is noise, what to be careful with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modalign.evaluation.metrics import SHARES, higher_is_better
from modalign.report.comparison import REFERENCE, Row, by_dataset
from modalign.report.runs import RunRecord
from modalign.report.tables import interval_text, readable, scale, show

FEW_SEEDS = 5
LARGE_GAP = 0.05
LEVEL = 0.05


def findings(rows: Sequence[Row]) -> list[str]:
    """For each data set: the best method, and from which others ModAlign can be told apart."""
    texts = []
    for dataset, own in by_dataset(rows).items():
        known = [row for row in own if not np.isnan(row.rank)]
        if not known:
            continue
        lead = [row for row in known if row.rank == min(r.rank for r in known)]
        texts.append(f"{dataset}: {_best(lead)}.{_told_apart(own)}")
    return texts


def _best(lead: Sequence[Row]) -> str:
    """The best method, or those that share the first place."""
    first = lead[0]
    factor, decimals, unit = scale(first.metric)
    extreme = "highest" if higher_is_better(first.metric) else "lowest"
    value = show(first.mean, decimals, factor) + unit.replace("(", "").replace(")", "")
    bounds = interval_text(first.ci_low, first.ci_high, decimals, factor)
    over = f"mean of {first.seeds} seeds, 95 % interval {bounds}" if bounds != "–" else "one seed"
    share = "share" if len(lead) > 1 else "has"
    return f"{_list([row.title for row in lead])} {share} the {extreme} test {readable(first.metric)}, {value} ({over})"


def _told_apart(rows: Sequence[Row]) -> str:
    reference = [row for row in rows if row.strategy == REFERENCE]
    if not reference or len(rows) < 2:
        return ""
    sign = 1 if higher_is_better(rows[0].metric) else -1
    others = [row for row in rows if row.strategy != REFERENCE]
    untested = [row.title for row in others if np.isnan(row.p_holm)]
    clear = [row for row in others if row.p_holm < LEVEL]
    worse = [row.title for row in clear if sign * row.difference < 0]
    better = [row.title for row in clear if sign * row.difference > 0]
    noise = [row.title for row in others if row not in clear and row.title not in untested]
    parts = [f" {reference[0].title} ranks {reference[0].rank:g} of {len(rows)}"]
    if worse:
        parts.append(f"beyond noise better than {_list(worse)}")
    if better:
        parts.append(f"beyond noise worse than {_list(better)}")
    if noise:
        parts.append(f"not told apart from {_list(noise)}")
    text = ", ".join(parts)
    if len(untested) < len(others):
        text += f" (paired t-test over seeds, Holm, level {LEVEL:g})"
    if untested:
        text += f"; not tested against {_list(untested)}, with fewer than two seeds in common"
    return f"{text}."


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def warnings(runs: Sequence[RunRecord], rows: Sequence[Row]) -> list[str]:
    """What speaks against reading the numbers at face value."""
    found = [f"{run.path}: {run.state}; {run.reason}" for run in runs if run.state in ("broken", "unfinished")]
    untested = sum(run.state == "untested" for run in runs)
    if untested:
        found.append(f"{untested} runs without a test score (of a search on validation) are left out")
    for dataset, own in by_dataset(rows).items():
        found += _of_seeds(dataset, own)
        found += _of_gaps(dataset, own)
        prints = {run.result.get("fingerprint") for run in runs if run.dataset == dataset and run.state == "done"}
        if len(prints) > 1:
            found.append(f"{dataset}: runs saw {len(prints)} versions or splits of the data: do not compare them")
    return found + _of_runs(runs)


def _of_runs(runs: Sequence[RunRecord]) -> list[str]:
    """What runs warned of themselves, once for all that say the same; gaps are said above for whole methods."""
    said: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for text in run.result.get("warnings") or []:
            if not text.startswith("selection gap"):
                said.setdefault((run.dataset, text), []).append(run.title)
    return [
        f"{dataset}, {_list(list(dict.fromkeys(titles)))} ({len(titles)} run{'s' * (len(titles) > 1)}): {text}"
        for (dataset, text), titles in said.items()
    ]


def _of_seeds(dataset: str, rows: Sequence[Row]) -> list[str]:
    fewest, most = min(row.seeds for row in rows), max(row.seeds for row in rows)
    found = []
    if fewest == 1:
        single = [row.title for row in rows if row.seeds == 1]
        found.append(f"{dataset}: one seed of {_list(single)}: no interval, no test; use --seeds {FEW_SEEDS}")
    elif fewest < FEW_SEEDS:
        found.append(f"{dataset}: only {fewest} seeds; with fewer than {FEW_SEEDS} intervals are wide and tests weak")
    if fewest != most:
        found.append(f"{dataset}: methods have between {fewest} and {most} seeds; differences use common seeds only")
    return found


def _of_gaps(dataset: str, rows: Sequence[Row]) -> list[str]:
    wide = [row for row in rows if row.metric in SHARES and row.selection_gap > LARGE_GAP]
    if not wide:
        return []
    worst = max(wide, key=lambda row: row.selection_gap)
    return [
        f"{dataset}: validation is {100 * worst.selection_gap:.1f} points above test for {worst.title}"
        + (f" and above {100 * LARGE_GAP:g} for {len(wide) - 1} more" if len(wide) > 1 else "")
        + ": the splits differ, or selection overfitted"
    ]
