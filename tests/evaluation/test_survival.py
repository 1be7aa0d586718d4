"""Scores of survival by hand, against torchsurv where it is installed, and where truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modalign.errors import DataError, InputError
from modalign.evaluation.survival import (
    Curve,
    SurvivalModel,
    auc_ipcw,
    breslow_baseline,
    brier_ipcw,
    concordance_ipcw,
    kaplan_meier,
    survival_diagnosis,
    survival_scores,
)

NOBODY = Curve(np.array([]), np.array([]))


def made(seed: int, count: int, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log risks, times of exponential survival, and events of which about a third are censored."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=count)
    death, lost = rng.exponential(np.exp(-strength * risk)), rng.exponential(1.5, count)
    return risk, np.minimum(death, lost), (death <= lost).astype(float)


def test_kaplan_meier_by_hand_with_ties_and_a_censored_one_at_the_same_time() -> None:
    """Who is censored when another dies is still at risk then."""
    found = kaplan_meier(np.array([2.0, 1.0, 2.0, 2.0, 5.0]), np.array([1, 1, 0, 1, 0]))
    assert found.times.tolist() == [1.0, 2.0]
    assert found.values == pytest.approx([4 / 5, 4 / 5 * (1 - 2 / 4)])


def test_breslow_by_hand_and_unmoved_by_a_shift_of_all_risks() -> None:
    """H0 adds deaths over the summed hazard at risk; curves are the same where all risks are shifted."""
    risk, time, event = np.array([0.0, 1.0, -1.0]), np.array([1.0, 2.0, 3.0]), np.array([1, 1, 0])
    e = np.exp(risk)
    baseline = breslow_baseline(risk, time, event)
    hazard = np.cumsum([1 / e.sum(), 1 / (e[1] + e[2])])
    assert baseline.values == pytest.approx(hazard)
    shifted, at = breslow_baseline(risk + 300, time, event), [0.5, 1.5, 2.5]
    curves = [SurvivalModel(1.0, h, 0.0, ()).curves(r, at) for h, r in ((baseline, risk), (shifted, risk + 300))]
    assert curves[0] == pytest.approx(curves[1])


def test_scores_equal_those_of_torchsurv() -> None:
    """Weights of censoring from the same samples, as that library has them."""
    pytest.importorskip("torchsurv", reason="torchsurv is not installed (it comes with the dev extra)")
    from torchsurv.metrics.auc import Auc
    from torchsurv.metrics.brier_score import BrierScore
    from torchsurv.metrics.cindex import ConcordanceIndex
    from torchsurv.stats.kaplan_meier import KaplanMeierEstimator

    risk, time, event = made(0, 120)
    t, e, r = torch.tensor(time), torch.tensor(event).bool(), torch.tensor(risk)
    censoring = kaplan_meier(time, event <= 0)
    at = np.quantile(time, [0.2, 0.5, 0.7])
    own = torch.tensor(1 / np.maximum(censoring.at(time, before=True), 1e-12))
    then = torch.tensor(1 / censoring.at(at))
    uno = ConcordanceIndex()(r, e, t, weight=own)
    assert concordance_ipcw(risk, time, event, censoring) == pytest.approx(float(uno), abs=1e-6)
    area = Auc()(r, e, t, new_time=torch.tensor(at), weight=own, weight_new_time=then)
    assert auc_ipcw(risk, time, event, censoring, at) == pytest.approx(area.numpy(), abs=1e-6)
    curves = SurvivalModel(1.0, breslow_baseline(risk, time, event), 0.0, ()).curves(risk, at)
    brier = BrierScore()(torch.tensor(curves), e, t, new_time=torch.tensor(at), weight=own, weight_new_time=then)
    assert brier_ipcw(curves, time, event, censoring, at) == pytest.approx(brier.numpy(), abs=1e-6)
    km = KaplanMeierEstimator()
    km(e, t)
    assert kaplan_meier(time, event).at(time) == pytest.approx(km.predict(t).numpy(), abs=1e-6)


def test_scores_of_a_bench_are_those_of_the_diagnosis_and_of_torchsurv() -> None:
    """Weights of censoring from other samples; the integral by that library's own rule, on the same times."""
    pytest.importorskip("torchsurv", reason="torchsurv is not installed (it comes with the dev extra)")
    from torchsurv.metrics.brier_score import BrierScore
    from torchsurv.metrics.cindex import ConcordanceIndex

    (risk, *outcome), (other, *held_out), (_, *train) = made(0, 150), made(1, 150), made(2, 150)
    target, fit, known = (np.stack(rows, 1) for rows in (outcome, held_out, train))
    model, (time, event) = SurvivalModel.fit(other, fit), outcome
    once = np.ones((1, 150))
    found = {name: survival_scores(name, risk[:, None], target, once, model, known)[0] for name in ("c_uno", "ibs")}
    diagnosis = survival_diagnosis(risk, target, model, known)
    assert found == {name: diagnosis[name] for name in found}
    t, e, censoring = torch.tensor(time), torch.tensor(event).bool(), kaplan_meier(known[:, 0], known[:, 1] <= 0)
    own = torch.tensor(1 / np.maximum(censoring.at(time, before=True), 1e-12))
    assert found["c_uno"] == pytest.approx(float(ConcordanceIndex()(torch.tensor(risk), e, t, weight=own)), abs=1e-6)
    at, score = np.array(diagnosis["times"]), BrierScore()
    curves, then = torch.tensor(model.curves(risk, at)), torch.tensor(1 / censoring.at(at))
    score(curves, e, t, new_time=torch.tensor(at), weight=own, weight_new_time=then)
    assert found["ibs"] == pytest.approx(float(score.integral()), abs=1e-5)


def test_scores_under_weights_are_those_of_samples_repeated_as_often() -> None:
    """What the bootstrap asks for: one value a row of weights, among them one in which nothing can be compared."""
    risk, time, event = made(3, 60)
    target, weights = np.stack([time, event], 1), np.random.default_rng(0).integers(0, 3, (3, 60))
    weights[2] = np.arange(60) == 0
    model = SurvivalModel.fit(risk, target)
    for name in ("c_uno", "ibs"):
        found = survival_scores(name, risk, target, weights, model, target)
        for row in (0, 1):
            again = np.repeat(np.arange(60), weights[row])
            # On the times of all, so that the integral of the Brier score has the same ones.
            if name == "c_uno":
                rows = (risk[again], target[again], np.ones((1, len(again))))
                assert found[row] == pytest.approx(survival_scores(name, *rows, model, target)[0])
            else:
                at = np.array(survival_diagnosis(risk, target, model, target)["times"])
                censoring = kaplan_meier(time, event <= 0)
                brier = brier_ipcw(model.curves(risk[again], at), time[again], event[again], censoring, at)
                assert found[row] == pytest.approx(np.trapezoid(brier, at) / (at[-1] - at[0]))
    assert np.isnan(survival_scores("c_uno", risk, target, weights, model, target)[2])
    assert np.isnan(survival_scores("ibs", risk, target + np.array([99, 0]), weights, model, target)).all()


def test_a_risk_group_without_events_has_a_flat_curve_and_no_p_value() -> None:
    """And where all events happened nobody is censored: the weights are all one."""
    risk, time, event = made(4, 80)
    low = risk <= np.median(risk)
    target = np.stack([time, np.where(low, 0, 1)], 1)
    found = survival_diagnosis(risk, target, SurvivalModel.fit(risk, np.stack([time, event], 1)), target)
    assert found["groups"][0]["events"] == 0
    assert found["groups"][0]["survival"] == []
    assert np.isnan(found["logrank"])
    everyone = np.stack([time, np.ones(80)], 1)
    found = survival_diagnosis(risk, everyone, SurvivalModel.fit(risk, everyone), everyone)
    assert found["c_uno"] == pytest.approx(float(concordance_ipcw(risk, time, np.ones(80), NOBODY)))


def test_unos_concordance_does_not_move_with_censoring_as_harrells_does() -> None:
    """The same patients, followed briefly and for long."""
    rng = np.random.default_rng(1)
    risk = rng.normal(size=3000)
    death = rng.exponential(np.exp(-2 * np.where(risk > 0, risk, 0)))
    lost = rng.exponential(0.7, 3000)
    time, event = np.minimum(death, lost), (death <= lost).astype(float)
    whole = concordance_ipcw(risk, death, np.ones(3000), NOBODY)
    seen = concordance_ipcw(risk, time, event, kaplan_meier(time, event <= 0))
    harrell = concordance_ipcw(risk, time, event, NOBODY)
    assert abs(seen - whole) < 0.5 * abs(harrell - whole)


def test_true_risks_are_calibrated_and_beat_a_curve_that_knows_no_patient() -> None:
    """Exponential survival: the curves are the true ones, and risks without sense are no better than none."""
    (risk, time, event), (other, *outcome), (_, *train) = made(2, 800), made(3, 800), made(6, 800)
    target, held_out, train_target = (np.stack(rows, 1) for rows in ((time, event), outcome, train))
    found = survival_diagnosis(risk, target, SurvivalModel.fit(other, held_out), train_target)
    assert found["ibs"] < 0.9 * found["ibs_reference"]
    assert found["slope"] == pytest.approx(1.0, abs=0.15)
    assert found["logrank"] < 1e-6
    for row in found["calibration"]:
        assert row["predicted"] == pytest.approx(row["observed"], abs=0.08)
    assert [group["at_risk"][0] for group in found["groups"]] == [group["count"] for group in found["groups"]]
    rng = np.random.default_rng(0)
    senseless = SurvivalModel.fit(rng.normal(size=800), held_out)
    found = survival_diagnosis(rng.normal(size=800), target, senseless, train_target)
    assert found["ibs"] == pytest.approx(found["ibs_reference"], abs=0.01)
    assert found["logrank"] > 1e-3
    assert abs(np.nanmean(found["auc"]) - 0.5) < 0.06


def test_risks_that_are_spread_too_far_are_drawn_together_again() -> None:
    """As those of a network fitted too closely: the slope takes off the factor, and the curves are what they were."""
    (risk, time, event), at = made(2, 800), [0.2, 0.6]
    target = np.stack([time, event], 1)
    right, wide = SurvivalModel.fit(risk, target), SurvivalModel.fit(2.5 * risk, target)
    assert wide.slope == pytest.approx(right.slope / 2.5, abs=1e-3)
    assert wide.curves(2.5 * risk, at) == pytest.approx(right.curves(risk, at), abs=1e-3)
    kept = SurvivalModel.from_dict(right.to_dict())
    assert (kept.curves(risk, at) == right.curves(risk, at)).all()


def test_median_survival_of_exponential_times_is_log_two_over_the_hazard() -> None:
    """Within what 5,000 samples allow."""
    risk, time, event = made(4, 5000)
    found = SurvivalModel.fit(risk, np.stack([time, event], 1)).median(np.array([0.0, 1.0]))
    assert found == pytest.approx(np.log(2) * np.exp([0.0, -1.0]), rel=0.08)


def test_what_cannot_be_scored_is_said() -> None:
    """No event at all, or none while both splits are followed."""
    risk, time, event = made(5, 30)
    target = np.stack([time, event], 1)
    censored, model = target * [1, 0], SurvivalModel.fit(risk, target)
    with pytest.raises(InputError, match="no event happened among the 30 held-out samples"):
        survival_diagnosis(risk, censored, model, target)
    with pytest.raises(InputError, match="no event happened among the 30 training samples"):
        survival_diagnosis(risk, target, model, censored)
    with pytest.raises(InputError, match="no held-out event falls before"):
        survival_diagnosis(risk, target + np.array([1000, 0]), model, target)
    with pytest.raises(DataError, match="at least one event"):
        SurvivalModel.fit(risk, censored)
