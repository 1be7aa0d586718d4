"""Survival beyond concordance: curves of single patients, and whether they hold on samples not trained on.

A model gives log risks r; with a slope a and the baseline of Breslow (1974), both fitted to samples that it was not
trained on (on its training samples a network's risks are spread further than on others), they become curves

    S(t | x) = exp(-H0(t) exp(a r)),    H0(t) = sum over event times u <= t of d(u) / sum over at risk at u of exp(a r).

Scores with censored samples weigh by the inverse probability of not being censored before, G, the Kaplan-Meier
estimate of censoring (IPCW): the concordance of Uno et al. (2011), which does not depend on censoring as Harrell's
does; the area under the cumulative/dynamic ROC curve at t (Uno et al. 2007); and the Brier score (Graf et al. 1999).
Where nobody is at risk any longer the estimates end: times beyond the last at which someone is followed are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from modalign.data.task import Task
from modalign.errors import DataError, InputError


@dataclass(frozen=True)
class Curve:
    """A step function of time: ``values`` from each of ``times`` on, which ascend, and ``first`` before them.

    >>> curve = Curve(np.array([1.0, 3.0]), np.array([0.8, 0.4]))
    >>> curve.at([0.5, 1.0, 2.9, 9.0]), curve.at([1.0, 3.0], before=True)
    (array([1. , 0.8, 0.8, 0.4]), array([1. , 0.8]))
    """

    times: np.ndarray
    values: np.ndarray
    first: float = 1.0

    def at(self, times: Any, before: bool = False) -> np.ndarray:
        """Return the value at each of ``times``, or just before it."""
        steps = np.searchsorted(self.times, np.asarray(times, np.float64), side="left" if before else "right")
        values: np.ndarray = np.concatenate([[self.first], self.values])[steps]
        return values


def kaplan_meier(time: np.ndarray, event: np.ndarray) -> Curve:
    """Estimate the share that lives beyond each time at which an event happened (Kaplan and Meier 1958).

    Args:
        time: (N,) time of event or of the end of follow-up.
        event: (N,) whether the event happened.

    >>> found = kaplan_meier(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 0, 1, 1]))
    >>> found.times, found.values
    (array([1., 3., 4.]), array([0.75 , 0.375, 0.   ]))
    """
    times, dead, at_risk = _counts(time, event)
    return Curve(times, np.cumprod(1 - dead / at_risk))


def _counts(time: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct times of events, how many happen at each, and how many are at risk then."""
    time, event = np.asarray(time, np.float64), np.asarray(event) > 0
    times, dead = np.unique(time[event], return_counts=True)
    return times, dead, len(time) - np.searchsorted(np.sort(time), times, side="left")


def breslow_baseline(risk: np.ndarray, time: np.ndarray, event: np.ndarray) -> Curve:
    """Estimate the cumulative hazard H0 of a patient of log risk 0 from training samples.

    Args:
        risk: (N,) log risks that the model gives.
        time, event: (N,) as in ``kaplan_meier``.

    Raises:
        DataError: no event, or risks that are not finite.

    >>> same = breslow_baseline(np.zeros(4), np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 0, 0, 0]))
    >>> same.at([0.5, 1.0])     # one of four
    array([0.  , 0.25])
    """
    risk = np.asarray(risk, np.float64)
    if not np.isfinite(risk).all() or not (np.asarray(event) > 0).any():
        raise DataError("the baseline of survival needs finite log risks and at least one event")
    times, dead, _ = _counts(time, event)
    order = np.argsort(time)
    # The sum over all with a time no earlier; factors as large as exp(highest) are taken off and put back.
    highest = risk.max()
    tail = np.cumsum(np.exp(risk[order] - highest)[::-1])[::-1]
    at_risk = tail[np.searchsorted(np.asarray(time, np.float64)[order], times, side="left")]
    return Curve(times, np.cumsum(dead / at_risk) * np.exp(-highest), 0.0)


@dataclass(frozen=True)
class SurvivalModel:
    """Survival of single patients, made of log risks: S(t | x) = exp(-H0(t) exp(slope r)).

    Attributes:
        slope: of the log risks; below 1 where a model that was fitted too closely spreads them too far.
        baseline: H0 over time.
        middle: median of the log risks, which divides lower from higher risk.
        ticks: times of interest: quantiles of the times of events.

    >>> model = SurvivalModel(1.0, Curve(np.array([1.0, 2.0]), np.log([2.0, 4.0]), 0.0), 0.0, (1.0,))
    >>> model.curves(np.array([0.0, np.log(2.0)]), [0.0, 1.0])
    array([[1.  , 0.5 ],
           [1.  , 0.25]])
    >>> model.median(np.array([0.0, -9.0]))
    array([ 1., inf])
    """

    slope: float
    baseline: Curve
    middle: float
    ticks: tuple[float, ...]

    @classmethod
    def fit(cls, risk: np.ndarray, target: np.ndarray, points: int = 5) -> SurvivalModel:
        """Fit slope and baseline to samples that the model was not trained on (the validation split).

        The slope maximizes the partial likelihood (van Houwelingen 2000 recalibrates so); its baseline is Breslow's.

        Args:
            risk: (N,) or (N, 1) log risks.
            target: (N, 2) time and event.
            points: number of ``ticks``.

        Raises:
            DataError: no event, or risks that are not finite.

        >>> rng = np.random.default_rng(0)
        >>> risk = rng.normal(size=500)
        >>> fitted = SurvivalModel.fit(3 * risk, np.stack([rng.exponential(np.exp(-risk)), np.ones(500)], 1))
        >>> 0.8 < 3 * fitted.slope < 1.2
        True
        """
        from scipy.optimize import minimize_scalar

        risk, (time, event) = np.asarray(risk, np.float64).reshape(len(risk)), np.asarray(target, np.float64).T
        breslow_baseline(risk, time, event)  # refuses what cannot be fitted

        def loss(slope: float) -> float:
            rows = torch.from_numpy(slope * risk[:, None]), torch.from_numpy(np.stack([time, event], 1))
            return float(Task("survival").loss(*rows))

        slope = float(minimize_scalar(loss, bounds=(0.0, 3.0), method="bounded").x) if np.ptp(risk) > 0 else 1.0
        baseline = breslow_baseline(slope * risk, time, event)
        ticks = np.unique(np.quantile(time[event > 0], np.linspace(0, 1, points + 2)[1:-1]))
        return cls(slope, baseline, float(np.median(risk)), tuple(ticks.tolist()))

    def curves(self, risk: np.ndarray, times: Any) -> np.ndarray:
        """Return S(t | x) of each sample at each of ``times``, (N, T)."""
        relative = np.exp(self.slope * np.asarray(risk, np.float64).reshape(len(risk), 1))
        values: np.ndarray = np.exp(-self.baseline.at(times) * relative)
        return values

    def median(self, risk: np.ndarray) -> np.ndarray:
        """Return the first time at which S(t | x) is at most one half, (N,); infinity where it never is."""
        below = self.curves(risk, self.baseline.times) <= 0.5
        return np.where(below.any(1), self.baseline.times[below.argmax(1)], np.inf)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, which ``from_dict`` reads."""
        curve = {"times": self.baseline.times.tolist(), "hazard": self.baseline.values.tolist()}
        return {"slope": self.slope, "middle": self.middle, "ticks": list(self.ticks), **curve}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> SurvivalModel:
        """Return what ``to_dict`` described."""
        baseline = Curve(np.array(plain["times"]), np.array(plain["hazard"]), 0.0)
        return cls(plain["slope"], baseline, plain["middle"], tuple(plain["ticks"]))


def concordance_ipcw(
    risk: np.ndarray, time: np.ndarray, event: np.ndarray, censoring: Curve, weights: np.ndarray | None = None
) -> np.ndarray:
    """Compute Uno's C: the share of comparable pairs in which who dies first has the higher risk, weighted by 1 / G^2.

    With ``weights`` (R, N) of the samples one value for each row, (R,); NaN where no pair can be compared.

    >>> uno = kaplan_meier(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 0]))
    >>> float(concordance_ipcw(np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0]), np.ones(3), uno))
    1.0
    """
    weight = _inverse(event > 0, censoring.at(time, before=True)) ** 2
    rows = np.ones((1, len(risk))) if weights is None else weights
    concordant = comparable = np.zeros(len(rows))
    for block in np.array_split(np.arange(len(risk)), max(1, len(risk) // 512)):
        pair = weight[block, None] * (time[block, None] < time)
        right = (risk[block, None] > risk) + 0.5 * (risk[block, None] == risk)
        comparable = comparable + ((rows[:, block] @ pair) * rows).sum(1)
        concordant = concordant + ((rows[:, block] @ (pair * right)) * rows).sum(1)
    found = np.divide(concordant, comparable, out=np.full(len(rows), np.nan), where=comparable > 0)
    return found[0] if weights is None else found


def auc_ipcw(risk: np.ndarray, time: np.ndarray, event: np.ndarray, censoring: Curve, at: np.ndarray) -> np.ndarray:
    """Compute the area under the ROC curve of dying by each time in ``at`` (T,) against living beyond it; NaN if none.

    >>> nobody = Curve(np.array([]), np.array([]))
    >>> auc_ipcw(np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0]), np.ones(3), nobody, np.array([1.5, 5.0]))
    array([ 1., nan])
    """
    weight = _inverse(event > 0, censoring.at(time, before=True))
    right = (risk[:, None] > risk) + 0.5 * (risk[:, None] == risk)
    areas = []
    for t in at:
        cases, controls = weight * (time <= t), time > t
        pairs = cases.sum() * controls.sum()
        areas.append(cases @ right @ controls / pairs if pairs > 0 else np.nan)
    return np.array(areas)


def brier_ipcw(
    curves: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    censoring: Curve,
    at: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the Brier score of ``curves`` (N, T) at each time in ``at`` (T,); lower is better, 0.25 says one half.

    With ``weights`` (R, N) of the samples the scores for each row, (R, T).

    >>> nobody = Curve(np.array([]), np.array([]))
    >>> half = np.full((2, 1), 0.5)
    >>> brier_ipcw(half, np.array([1.0, 3.0]), np.ones(2), nobody, np.array([2.0]))
    array([0.25])
    """
    dead = (time[:, None] <= at) & (event[:, None] > 0)
    alive = time[:, None] > at
    own = _inverse(np.ones(len(time), bool), censoring.at(time, before=True))[:, None]
    then = _inverse(np.ones(len(at), bool), censoring.at(at))
    each = curves**2 * dead * own + (1 - curves) ** 2 * alive * then
    score: np.ndarray = each.mean(0) if weights is None else weights @ each / weights.sum(1, keepdims=True)
    return score


def _inverse(where: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return 1 / probability, and 0 where it is not asked for or nobody is left."""
    return np.divide(1.0, probability, out=np.zeros(len(probability)), where=where & (probability > 0))


def _scored_times(time: np.ndarray, event: np.ndarray, train_time: np.ndarray, censoring: Curve) -> np.ndarray:
    """Return the times of held-out events at which curves are scored.

    From the first event on, and no further than both splits are followed: weights end where nobody is left.
    """
    end = min(time.max(), train_time.max())
    return np.unique(time[(event > 0) & (time < end) & (censoring.at(time) > 0)])


def survival_scores(
    name: str,
    risk: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    model: SurvivalModel,
    train_target: np.ndarray,
) -> np.ndarray:
    """Compute ``c_uno`` (Uno's C) or ``ibs`` (integrated Brier score) of held-out samples, one for each row of weights.

    Args:
        name: ``c_uno`` or ``ibs``.
        risk: (N,) or (N, 1) log risks.
        target: (N, 2) time and event.
        weights: (R, N) of the samples.
        model, train_target: as in ``survival_diagnosis``.

    Returns:
        (R,), NaN where the samples do not define it: no pair to compare, no event while both splits are followed.

    >>> rng = np.random.default_rng(0)
    >>> risk = rng.normal(size=240)
    >>> target = np.stack([rng.exponential(np.exp(-risk)), np.ones(240)], 1)
    >>> model = SurvivalModel.fit(risk[:80], target[:80])
    >>> bool(survival_scores("ibs", risk[80:160], target[80:160], np.ones((1, 80)), model, target[160:])[0] < 0.2)
    True
    """
    (time, event), (train_time, train_event) = (np.asarray(t, np.float64).T for t in (target, train_target))
    risk, censoring = np.asarray(risk, np.float64).reshape(len(risk)), kaplan_meier(train_time, train_event <= 0)
    if name == "c_uno":
        return concordance_ipcw(risk, time, event, censoring, weights)
    grid = _scored_times(time, event, train_time, censoring)
    if not len(grid):
        return np.full(len(weights), np.nan)
    return _integral(brier_ipcw(model.curves(risk, grid), time, event, censoring, grid, weights), grid)


RISK_GROUPS = ("lower risk", "higher risk")


def survival_diagnosis(
    risk: np.ndarray, target: np.ndarray, model: SurvivalModel, train_target: np.ndarray
) -> dict[str, Any]:
    """Diagnose log risks on held-out samples against the outcomes.

    Args:
        risk: (N,) or (N, 1) log risks of held-out samples.
        target: (N, 2) their time and event.
        model: curves of single patients, fitted to other samples.
        train_target: (N', 2) of training samples, from which censoring and the curve of everyone are estimated.

    Returns:
        Ready for JSON: ``c_uno``; ``times`` (T,) and there ``auc``, ``brier`` and ``brier_reference`` (of the
        Kaplan-Meier curve, which knows no patient); ``ibs`` and ``ibs_reference``, their means over time; ``slope``;
        ``calibration``: ``time``, and of thirds by predicted survival there ``predicted``, ``observed`` (Kaplan-Meier)
        with ``low`` and ``high`` (95 %, log-log) and ``count``; ``groups``: Kaplan-Meier of those below and above the
        middle risk, with ``at_risk`` at ``at_risk_times``; ``logrank``, the p value of their difference.

    Raises:
        InputError: no event in either split, or times that do not overlap.

    >>> rng = np.random.default_rng(0)
    >>> risk = rng.normal(size=240)
    >>> target = np.stack([rng.exponential(np.exp(-risk)), np.ones(240)], 1)
    >>> model = SurvivalModel.fit(risk[:80], target[:80])
    >>> found = survival_diagnosis(risk[80:160], target[80:160], model, target[160:])
    >>> found["c_uno"] > 0.6, found["ibs"] < found["ibs_reference"]
    (True, True)
    """
    risk = np.asarray(risk, np.float64).reshape(len(risk))
    (time, event), (train_time, train_event) = (np.asarray(t, np.float64).T for t in (target, train_target))
    for name, happened in (("held-out", event), ("training", train_event)):
        if not (happened > 0).any():
            raise InputError(f"no event happened among the {len(happened)} {name} samples: survival cannot be scored")
    censoring, reference = kaplan_meier(train_time, train_event <= 0), kaplan_meier(train_time, train_event)
    end = min(time.max(), train_time.max())
    grid = _scored_times(time, event, train_time, censoring)
    if not len(grid):
        raise InputError(
            f"no held-out event falls before {end:g}, up to where both splits are followed: survival cannot be scored "
            "over time; hold out more samples (data.split)"
        )
    brier = brier_ipcw(model.curves(risk, grid), time, event, censoring, grid)
    plain = brier_ipcw(np.tile(reference.at(grid), (len(risk), 1)), time, event, censoring, grid)
    ticks = np.array([t for t in model.ticks if t < end])
    high, even = risk > model.middle, np.linspace(0, time.max(), 6)
    return {
        "c_uno": float(concordance_ipcw(risk, time, event, censoring)),
        "times": grid.tolist(),
        "auc": auc_ipcw(risk, time, event, censoring, grid).tolist(),
        "brier": brier.tolist(),
        "brier_reference": plain.tolist(),
        "ibs": float(_integral(brier, grid)),
        "ibs_reference": float(_integral(plain, grid)),
        "slope": model.slope,
        "calibration": [_calibrated(model, risk, time, event, float(t)) for t in ticks],
        "groups": [
            _group(name, time[rows], event[rows], even)
            for name, rows in zip(RISK_GROUPS, (~high, high), strict=True)
            if rows.any()
        ],
        "at_risk_times": even.tolist(),
        "logrank": _logrank(time, event, high),
    }


def _integral(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the mean over time (the last axis), by the trapezoidal rule."""
    if len(grid) == 1:
        return np.asarray(values[..., 0])
    return np.asarray(np.trapezoid(values, grid, axis=-1) / (grid[-1] - grid[0]))


def _group(name: str, time: np.ndarray, event: np.ndarray, times: np.ndarray) -> dict[str, Any]:
    curve = kaplan_meier(time, event)
    at_risk = [int((time >= t).sum()) for t in times]
    events = int((event > 0).sum())
    return {
        "name": name,
        "count": len(time),
        "events": events,
        "times": curve.times.tolist(),
        "survival": curve.values.tolist(),
        "at_risk": at_risk,
        "last": float(time.max()),
    }


def _calibrated(
    model: SurvivalModel, risk: np.ndarray, time: np.ndarray, event: np.ndarray, at: float
) -> dict[str, Any]:
    """Compare predicted survival at a time with what was seen, in thirds."""
    predicted = model.curves(risk, [at])[:, 0]
    rows: dict[str, Any] = {"time": at, "predicted": [], "observed": [], "low": [], "high": [], "count": []}
    for third in np.array_split(np.argsort(predicted, kind="stable"), 3):
        if not len(third):
            continue
        times, dead, at_risk = _counts(time[third], event[third])
        seen = times <= at
        observed = float(np.prod(1 - dead[seen] / at_risk[seen]))
        low, high = _log_log_interval(observed, dead[seen], at_risk[seen])
        values = (float(predicted[third].mean()), observed, low, high, len(third))
        for key, value in zip(("predicted", "observed", "low", "high", "count"), values, strict=True):
            rows[key].append(value)
    return rows


def _log_log_interval(survival: float, dead: np.ndarray, at_risk: np.ndarray) -> tuple[float, float]:
    """Return a 95 % interval by Greenwood's variance on the scale of log(-log S), which stays within 0 and 1."""
    if not 0 < survival < 1:
        return float("nan"), float("nan")
    variance = (dead / (at_risk * np.maximum(at_risk - dead, 1))).sum()
    half = 1.96 * np.sqrt(variance) / abs(np.log(survival))
    return float(survival ** np.exp(half)), float(survival ** np.exp(-half))


def _logrank(time: np.ndarray, event: np.ndarray, high: np.ndarray) -> float:
    """Return the p value of the log-rank test of two groups (Mantel 1966); NaN where one has nobody or no event."""
    from scipy.stats import CensoredData, logrank

    groups = [(time[rows], event[rows] > 0) for rows in (~high, high)]
    if not all(happened.any() for _, happened in groups):
        return float("nan")
    low, above = (CensoredData(uncensored=t[e], right=t[~e]) for t, e in groups)
    return float(logrank(low, above).pvalue)
