"""What a reader should know of a comparison, in sentences: who leads, what is noise, what to be careful with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modalign.evaluation.metrics import SHARES, higher_is_better
from modalign.evaluation.statistics import LEVEL, MINIMUM_PAIRS
from modalign.reporting.runs import Row, RunRecord, best, by_dataset, missing_folds, read_mapping, unrepeated
from modalign.reporting.tables import MetricFormat, across_words, averaged, plural

LARGE_GAP = 0.05


def findings(rows: Sequence[Row]) -> list[str]:
    """Return for each data set which method is best, and from which others ModAlign can be told apart.

    >>> row = Row("letters", "joint", "Joint-Train", "accuracy", 0.8, float("nan"), float("nan"), seeds=1, rank=1)
    >>> findings([row])
    ['letters: Joint-Train has the highest test accuracy, 80.0 % (one seed).']
    """
    texts = []
    for dataset, own in by_dataset(rows).items():
        lead = best(own)
        if not lead:
            continue
        first, form = lead[0], MetricFormat(lead[0].metric)
        bounds = form.interval(first.ci_low, first.ci_high)
        runs = f"{plural(first.splits, 'split')} × {plural(first.seeds, 'seed')}" if first.splits > 1 else ""
        runs = runs or (f"{plural(first.seeds, 'seed')}" if first.seeds > 1 else "")
        over = f"mean of {runs}" if runs else "one seed"
        over += f", 95 % interval over {first.interval} {bounds}" if bounds != "–" else ""
        texts.append(
            f"{dataset}: {_list([row.title for row in lead])} {'share' if len(lead) > 1 else 'has'} the "
            f"{'highest' if higher_is_better(first.metric) else 'lowest'} test {form.name}, "
            f"{form.worded(first.mean)} ({over}).{_told_apart(own)}"
        )
    return texts + ([f"Over data sets: {across_words(rows).partition('. Tied')[0]}."] if averaged(rows) else [])


def modality_findings(found: Mapping[str, Any]) -> str:
    """Return what each modality gave a model that was evaluated, and what to do next.

    A modality adds nothing that shows where the interval of the score without it reaches the score of all.

    >>> def subset(mean, *modalities):
    ...     return {"modalities": [*modalities], "mean": mean, "low": mean - 0.03, "high": mean + 0.03}
    >>> subsets = [subset(0.8, "a"), subset(0.6, "b"), subset(0.81, "a", "b")]
    >>> modality_findings({"metric": "accuracy", "heads": {}, "subsets": subsets})[:69]
    'a alone 80.0 %, b alone 60.0 %, together 81.0 %. Without a 60.0 %. b '
    """
    values = {frozenset(one["modalities"]): one for one in found["subsets"]}
    every = max(values, key=len)
    form, sign = MetricFormat(found["metric"]), 1 if higher_is_better(found["metric"]) else -1
    if len(every) < 2:
        return ""

    names = [m for one in found["subsets"] if len(one["modalities"]) == 1 for m in one["modalities"]]
    alone = {m: (found["heads"] or {}).get(m) or values[frozenset([m])] for m in names}
    text = ", ".join(f"{m} alone {form.worded(value['mean'])}" for m, value in alone.items())
    text += f", together {form.worded(values[every]['mean'])}."
    without = {m: values[every - {m}] for m in names if every - {m} in values}
    reached = {m: max(sign * value["low"], sign * value["high"]) for m, value in without.items()}
    idle = [m for m in without if reached[m] >= sign * values[every]["mean"]]
    needed = {m: value for m, value in without.items() if m not in idle}
    if needed:
        text += (
            " Without " + ", without ".join(f"{m} {form.worded(value['mean'])}" for m, value in needed.items()) + "."
        )
    for m in idle:
        others = _list([name for name in names if name != m])
        text += f" {m} adds nothing that shows beyond {others}: try without it, or better features of it."
    if needed and not idle:
        worst = min(needed, key=lambda m: sign * needed[m]["mean"])
        text += f" Each one adds; where {worst} may be missing in use, train with missing modalities."
    return text


def _told_apart(rows: Sequence[Row]) -> str:
    """Say from which methods the reference differs beyond noise."""
    reference = [row for row in rows if row.strategy == row.reference]
    if not reference or len(rows) < 2:
        return ""
    sign = 1 if higher_is_better(rows[0].metric) else -1
    others = [row for row in rows if row.strategy != row.reference]
    untested = [row.title for row in others if np.isnan(row.p_holm)]
    clear = [row for row in others if row.p_holm < LEVEL]
    worse = [row.title for row in clear if sign * row.difference < 0]
    better = [row.title for row in clear if sign * row.difference > 0]
    noise = [row.title for row in others if row not in clear and row.title not in untested]
    told = {"beyond noise better than": worse, "beyond noise worse than": better, "not told apart from": noise}
    text = f" {reference[0].title} ranks {reference[0].rank:g} of {len(rows)}"
    text += "".join(f", {how} {_list(names)}" for how, names in told.items() if names)
    if len(untested) < len(others):
        text += f" (paired, over {reference[0].interval}, Holm, level {LEVEL:g})"
    if untested:
        whom = "any other" if len(untested) == len(others) else _list(untested)
        text += (
            f"; not tested against {whom}: fewer than {MINIMUM_PAIRS} splits, or seeds of one split, in "
            "common, or all differ alike"
        )
    return f"{text}."


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def warnings(runs: Sequence[RunRecord], rows: Sequence[Row]) -> list[str]:
    """Return what speaks against reading the numbers at face value."""
    found = [f"{run.path}: {run.state}; {run.reason}" for run in runs if run.state in ("broken", "unfinished")]
    untested = sum(run.state == "untested" for run in runs)
    if untested:
        found.append(f"{untested} runs without a test score (of a search on validation) are left out")
    found += missing_folds(runs)
    for dataset, own in by_dataset(rows).items():
        done = [run for run in runs if run.dataset == dataset and run.state == "done"]
        counts = {row.title: row.seeds * row.splits for row in own}
        fewest, most = min(counts.values()), max(counts.values())
        said = []
        if fewest == 1:
            single = "every method" if most == 1 else _list([title for title, count in counts.items() if count == 1])
            said.append(f"one run of {single}: no test; use --splits {MINIMUM_PAIRS} or more")
        elif min(row.splits if row.splits > 1 else row.seeds for row in own) < MINIMUM_PAIRS:
            few = plural(own[0].splits, "split") if own[0].splits > 1 else plural(fewest, "run")
            said.append(f"only {few}; below {MINIMUM_PAIRS} nothing is tested")
        if fewest != most:
            said.append(f"methods have between {fewest} and {most} runs; differences use common splits and seeds only")
        twice = len(done) - len(unrepeated(done))
        if twice:
            said.append(f"{plural(twice, 'run')} of a method, split and seed that another folder has too: left out")
        commits = sorted({str(commit) for run in done if (commit := run.environment.get("commit"))})
        if len(commits) > 1:
            said.append(f"runs are of {len(commits)} states of the code ({', '.join(commits)})")
        wide = [row for row in own if row.metric in SHARES and row.selection_gap > LARGE_GAP]
        if wide:
            worst = max(wide, key=lambda row: row.selection_gap)
            more = f" and above {100 * LARGE_GAP:g} for {len(wide) - 1} more" if len(wide) > 1 else ""
            text = f"validation is {100 * worst.selection_gap:.1f} points above test for {worst.title}{more}"
            said.append(f"{text}: the splits differ, or selection overfitted")
        found += [f"{dataset}: {text}" for text in said]
    # What a search of the bench was limited by: folder/runs/DATA/METHOD/RUN beside folder/tune.json.
    benches = {run.path.resolve().parents[3] for run in runs if len(run.path.resolve().parents) > 3}
    for path in sorted(bench / "tune.json" for bench in benches):
        searched: list[dict[str, Any]] = read_mapping(path, json.loads, []).get("chosen") or []
        edges = [f"{one['label']} ({', '.join(one['edges'])})" for one in searched if one.get("edges")]
        if edges:
            found.append(
                f"of {len(searched)} searches {len(edges)} ended at an edge of the space, beyond which more may lie: "
                f"{'; '.join(edges)}"
            )
    # What runs warned of themselves, once for all that say the same; gaps are said above for whole methods.
    own_words: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for text in run.result.get("warnings") or []:
            if not text.startswith("selection gap"):
                own_words.setdefault((run.dataset, text), []).append(run.title)
    return found + [
        f"{dataset}, {_list(list(dict.fromkeys(titles)))} ({plural(len(titles), 'run')}): {text}"
        for (dataset, text), titles in own_words.items()
    ]
