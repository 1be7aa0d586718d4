"""What ``modalign evaluate`` found of survival, as a table and figures (``survival`` of ``evaluation.json``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from modalign.reporting.figures import Captioned
from modalign.reporting.style import COLORS, INK, MARKERS, OTHER, OURS, canvas
from modalign.reporting.tables import Table, show

GROUP_LOOKS: tuple[dict[str, Any], ...] = ({"color": OTHER, "linestyle": "-"}, {"color": OURS, "linestyle": "--"})


def survival_table(found: dict[str, Any]) -> Table:
    """Return the scores over time beside those of a curve that is the same for everyone."""
    areas = [a for a in found["auc"] if a is not None]
    rows = [
        ("Uno's C", show(found["c_uno"], 3), "0.5 is chance; unmoved by censoring"),
        ("AUC, mean over time", show(float(np.mean(areas)) if areas else None, 3), "dying by t against living beyond"),
        ("Integrated Brier score", show(found["ibs"], 3), f"{show(found['ibs_reference'], 3)} without any features"),
        ("Slope of the log risks", show(found["slope"], 2), "below 1: the network spreads them too far; mended"),
        ("Log-rank p", _p(found["logrank"]), "higher against lower risk"),
    ]
    return Table(
        "survival", "Survival over time", pd.DataFrame(rows, columns=["Score", "Value", "What it says"]), words=True
    )


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def survival_figures(found: dict[str, Any]) -> list[Captioned]:
    """Draw the curves of both risk groups, predicted against observed survival, and the Brier score over time."""
    return [_groups(found), _calibration(found), _brier(found)]


def _groups(found: dict[str, Any]) -> Captioned:
    """Draw Kaplan-Meier curves of those of lower and higher risk, with the numbers at risk below."""
    groups, ticks = found["groups"], found["at_risk_times"]
    with canvas(6.4, 4.4, 1, 1) as (figure, (axis,)):
        for group, look in zip(groups, GROUP_LOOKS, strict=False):
            times, values = [0.0, *group["times"], group["last"]], [1.0, *group["survival"]]
            axis.step(times, 100 * np.array([*values, values[-1]]), where="post", label=group["name"], **look)
        axis.set(ylim=(0, 103), ylabel="alive (%)")
        axis.set_xlim(left=0)
        axis.legend(loc="lower left")
        # How many are at risk stands under the axis of time, as in reports of trials.
        columns = zip(ticks, *(group["at_risk"] for group in groups), strict=True)
        axis.set_xticks(ticks, ["\n".join([f"{t:.3g}", *map(str, numbers)]) for t, *numbers in columns])
        axis.set_xlabel(f"time, and below how many are at risk: {', '.join(group['name'] for group in groups)}")
    parts = [f"{g['name']}: {g['events']} events among {g['count']}" for g in groups]
    note = (
        "Kaplan-Meier curves of held-out samples, divided at the middle log risk of the validation split; log-rank p "
        f"{_p(found['logrank'])}. {'; '.join(parts)}."
    )
    return Captioned("survival_groups", "Do the risks divide the patients?", "; ".join(parts), figure, note)


def _calibration(found: dict[str, Any]) -> Captioned:
    """Draw predicted against observed survival, in thirds, at each tick."""
    with canvas(4.8, 5.0) as (figure, (axis,)):
        axis.plot([0, 100], [0, 100], color="#999999", linewidth=1, linestyle=":")
        for i, row in enumerate(found["calibration"]):
            x, y, low, high = (_percent(row[key]) for key in ("predicted", "observed", "low", "high"))
            color = COLORS[i % len(COLORS)]
            axis.vlines(x, low, high, color=color, linewidth=1.2)
            axis.plot(x, y, color=color, marker=MARKERS[i % len(MARKERS)], label=f"t = {row['time']:.3g}", markersize=5)
        axis.set(xlim=(0, 102), ylim=(-2, 102), xlabel="predicted alive (%)", ylabel="seen alive (%)", aspect="equal")
        figure.legend(loc="outside lower center", ncols=3)
    gaps = [abs(p - o) for row in found["calibration"] for p, o in zip(row["predicted"], row["observed"], strict=True)]
    alt = f"Mean gap between predicted and observed survival: {100 * float(np.mean(gaps)):.0f} points." if gaps else ""
    note = (
        "Held-out samples in thirds by predicted survival at each time; seen is the Kaplan-Meier estimate, lines its "
        "95 % intervals. Below the dotted line fewer live than predicted."
    )
    return Captioned("survival_calibration", "Can the survival curves be trusted?", alt, figure, note)


def _brier(found: dict[str, Any]) -> Captioned:
    """Draw the Brier score and the AUC over time."""
    times = np.array(found["times"])
    with canvas(6.4, 3.4, 1, 2) as (figure, (left, right)):
        left.plot(times, found["brier"], color=OURS, label="model")
        left.plot(times, found["brier_reference"], color=INK, linestyle=":", label="same curve for all")
        left.set(xlabel="time", ylabel="Brier score (lower is better)", ylim=(0, None))
        left.legend()
        right.plot(times, np.array(found["auc"], np.float64), color=OURS)
        right.axhline(0.5, color=INK, linestyle=":", linewidth=1)
        right.set(xlabel="time", ylabel="AUC at t", ylim=(0, 1.02))
    alt = f"Integrated Brier score {show(found['ibs'], 3)} against {show(found['ibs_reference'], 3)} without features."
    note = "Weighted for censoring (IPCW), with the censoring of the training split. The dotted lines know no patient."
    return Captioned("survival_time", "How good over time?", alt, figure, note)


def _percent(values: list[float | None]) -> np.ndarray:
    return 100 * np.array([np.nan if v is None else v for v in values])
