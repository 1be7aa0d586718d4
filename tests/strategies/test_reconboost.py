"""ReconBoost: its losses against loops and finite differences, and what each phase trains."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from modalign.data.info import DataInfo
from modalign.errors import InputError
from modalign.strategies.reconboost import (
    ReconBoost,
    boosting_loss,
    consolidation_loss,
    residual_target,
    turn,
)


def test_residual_target_is_the_negative_functional_gradient():
    """Of CE at the ensemble of the other modalities, by finite differences in double precision."""
    ensemble, target = torch.randn(6, 4, dtype=torch.float64), torch.randint(4, (6,))
    full = residual_target(ensemble.softmax(1), target, residual=1.0, full=True)
    true = residual_target(ensemble.softmax(1), target, residual=1.0)
    step = 1e-5
    for i in range(6):
        for c in range(4):
            change = torch.zeros_like(ensemble)
            change[i, c] = step
            up, down = (
                nn.functional.cross_entropy(ensemble + sign * change, target, reduction="sum") for sign in (1, -1)
            )
            slope = float(up - down) / (2 * step)
            assert float(full[i, c]) == pytest.approx(-slope, abs=1e-8)
            assert float(true[i, c]) == pytest.approx(-slope if c == target[i] else 0.0, abs=1e-8)


def test_boosting_loss_by_hand_and_against_loops():
    """q_y = 0.6, residual 0.25, p_y = 0.5: (1 - 0.15) log 2."""
    q, p = torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[0.5, 0.3, 0.2]])
    wanted = residual_target(q, torch.tensor([0]), 0.25)
    assert float(boosting_loss(p.log(), wanted)) == pytest.approx(0.85 * math.log(2))
    scores, q, target = torch.randn(5, 4), torch.randn(5, 4).softmax(1), torch.randint(4, (5,))
    for full in (False, True):
        result = boosting_loss(scores, residual_target(q, target, 0.5, full))
        for i in range(5):
            value = 0.0
            for c in range(4):
                if full or c == target[i]:
                    value -= ((c == int(target[i])) - 0.5 * float(q[i, c])) * float(scores[i].log_softmax(0)[c])
            assert float(result[i]) == pytest.approx(value, rel=1e-5)


def test_the_full_target_is_unbounded_below_and_the_default_is_not():
    q, target = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
    far = torch.tensor([[0.0, -1000.0]])
    assert boosting_loss(far, residual_target(q, target, 0.25, full=True)) < -100
    assert boosting_loss(far, residual_target(q, target, 0.25)) >= 0


def test_consolidation_has_a_gradient_and_only_towards_the_former_learner():
    scores = torch.randn(5, 4, requires_grad=True)
    previous = torch.randn(5, 4, requires_grad=True)
    loss = consolidation_loss(scores, previous)
    p, old = scores.detach().softmax(1), previous.detach().softmax(1)
    for i in range(5):
        value = sum((float(p[i, c]) - float(old[i, c])) ** 2 for c in range(4)) / 4
        assert float(loss[i].detach()) == pytest.approx(value, rel=1e-5)
    loss.sum().backward()
    assert scores.grad.abs().sum() > 0
    assert previous.grad is None
    closer = scores.detach() - 0.1 * scores.grad
    assert (consolidation_loss(closer, previous).sum() < loss.sum()).all()


def test_turns():
    assert [turn(e, 2, 1, 1) for e in range(5)] == [
        (0, 0, True),
        (0, 0, False),
        (1, 1, True),
        (1, 1, False),
        (2, 0, True),
    ]
    four = [turn(e, 3, 4, 4) for e in range(24)]
    assert [k for _, k, _ in four] == [0] * 8 + [1] * 8 + [2] * 8
    assert [boosting for _, _, boosting in four] == ([True] * 4 + [False] * 4) * 3


def _strategy(data, make_model, **options):
    return ReconBoost(make_model(data), DataInfo.of(data), ReconBoost.Options(**{"pretrain": 0.0, **options}))


def test_losses_of_a_boosting_step_against_loops(make_data, make_model, make_stepper):
    data = make_data((6, 5, 4), missing=0.3)
    strategy = _strategy(data, make_model, consolidation=0.7)
    with torch.no_grad():
        strategy.scale.fill_(1.3)
    stepper = make_stepper(strategy, data.train.batches(10), epochs=12)
    stepper.epoch = 2  # stage 1: modality b learns, a is the former learner
    batch = stepper.batches[0]
    output = strategy(batch)
    f = {m: s.detach() for m, s in output.unimodal.items()}
    fit = stay = 0.0
    for i in range(10):
        here = {m: bool(batch.present[i, j]) for j, m in enumerate(data.modalities)}
        if not here["b"]:
            continue
        others = sum((f[m][i] for m in "ac" if here[m]), torch.zeros(3))
        q = float((1.3 * others).softmax(0)[batch.target[i]])
        p = f["b"][i].softmax(0)
        fit -= (1 - 0.25 * q) * math.log(p[batch.target[i]]) / 10
        if here["a"]:
            stay += float((p - f["a"][i].softmax(0)).square().mean()) / 10
        total = 1.3 * sum(f[m][i] for m in "abc" if here[m])
        torch.testing.assert_close(output.logits[i], total)
    losses = strategy.step(batch, stepper)
    assert float(losses["boosting"].detach()) == pytest.approx(fit, rel=1e-4)
    assert float(losses["consolidation"].detach()) == pytest.approx(stay, rel=1e-4)


def test_the_first_stage_has_nothing_to_consolidate(make_data, make_model, make_stepper):
    data = make_data()
    strategy = _strategy(data, make_model)
    stepper = make_stepper(strategy, data.train.batches(10))
    assert strategy.step(stepper.batches[0], stepper)["consolidation"] == 0


def test_the_first_stage_is_that_of_the_published_code(make_data, make_model, make_stepper):
    """One learner, whose residual is against a constant: -(w1 - w2) / C log p for weights w1, w2; F is that learner."""
    data = make_data((6, 5, 4), missing=0.3)
    strategy = _strategy(data, make_model, residual=0.2)
    stepper = make_stepper(strategy, data.train.batches(10), epochs=12)
    strategy.on_epoch_start(stepper)
    batch = stepper.batches[0]
    f = strategy(batch).unimodal["a"].detach()
    w1, w2, classes, here = 5.0, 1.0, 3, batch.present[:, 0]
    published = sum(
        -w1 * float(f[i].log_softmax(0)[y]) / classes + w2 * 1.0 * float(f[i].log_softmax(0)[y]) / classes
        for i, y in enumerate(batch.target.tolist())
        if here[i]
    )
    losses = strategy.step(batch, stepper)
    # w1 / C is 1 here, and the mean is over the batch.
    assert float(losses["boosting"].detach()) == pytest.approx(published / 10 / (w1 / classes), rel=1e-5)
    torch.testing.assert_close(strategy(batch).logits, f * here[:, None])
    wanted = strategy._others({}, batch.present)
    assert torch.equal(residual_target(wanted, batch.target, 1.0).sum(1), torch.zeros(10))


def test_modalities_enter_one_by_one_all_at_once_after_pretraining_or_in_a_short_budget(
    make_data, make_model, make_stepper
):
    data = make_data((6, 5, 4))
    for options, epochs, wanted in (
        ({}, 8, ["a", "a", "ab", "ab", "abc", "abc", "abc"]),
        ({"boost_epochs": 4, "rectify_epochs": 4}, 24, ["a"] * 8 + ["ab"] * 8 + ["abc"] * 8),
        ({"pretrain": 0.25}, 9, ["abc"] * 9),
        ({}, 5, ["abc"] * 5),
    ):
        strategy = _strategy(data, make_model, **options)
        stepper = make_stepper(strategy, data.train.batches(10), epochs=epochs)
        for stepper.epoch, names in enumerate(wanted):
            strategy.on_epoch_start(stepper)
            assert [m for m, here in zip("abc", strategy.entered, strict=True) if here] == list(names)


def test_pretraining_is_of_each_modality_alone(make_data, make_model, make_stepper):
    data = make_data()
    strategy = _strategy(data, make_model, pretrain=1 / 3)
    stepper = make_stepper(strategy, data.train.batches(10), epochs=6)
    batch = stepper.batches[0]
    assert set(strategy.step(batch, stepper)) == {"task_a", "task_b"}
    alone = make_model(data)
    data.task.loss(alone(batch).unimodal["a"], batch.target).backward()
    for p, q in zip(strategy.model.encoders["a"].parameters(), alone.encoders["a"].parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    assert all(p.grad is None for p in strategy.shared.parameters())
    stepper.epoch = 2
    assert set(strategy.step(batch, stepper)) == {"boosting", "consolidation"}
    with pytest.raises(InputError, match="pretrain is 1"):
        ReconBoost.Options(pretrain=1)


@pytest.mark.parametrize(
    ("epoch", "trained"),
    [(0, "a"), (1, "a"), (2, "b"), (3, "ab"), (4, "c"), (5, "abc"), (6, "a"), (7, "abc")],
)
def test_a_phase_trains_what_it_should(make_data, make_model, make_stepper, epoch, trained):
    """Others are not stepped: no gradient, whatever momentum and weight decay they have."""
    data = make_data((6, 5, 4))
    strategy = _strategy(data, make_model)
    stepper = make_stepper(strategy, data.train.batches(10), epochs=12)
    stepper.fit(1)
    stepper.epoch = epoch
    strategy.train()
    strategy.on_epoch_start(stepper)
    strategy.step(stepper.batches[0], stepper)
    for m in data.modalities:
        grads = [p.grad for p in strategy.model.encoders[m].parameters()]
        assert all((g is not None) == (m in trained) for g in grads)
    assert all(p.grad is not None for p in strategy.shared.parameters())
    assert (strategy.scale.grad is not None) == (epoch % 2 == 1)
    for part in (strategy.model.head, strategy.model.fusion, strategy.model.unimodal_heads):
        assert all(p.grad is None for p in part.parameters())


def test_norm_statistics_of_encoders_out_of_turn_stay(make_data, make_model, make_stepper):
    data = make_data()
    model = make_model(data)
    norms = {}
    for m in data.modalities:
        norms[m] = nn.BatchNorm1d(8)
        model.encoders[m] = nn.Sequential(model.encoders[m], norms[m])
    strategy = ReconBoost(model, DataInfo.of(data), ReconBoost.Options(pretrain=0.0))
    stepper = make_stepper(strategy, data.train.batches(10))
    strategy.on_epoch_start(stepper)
    strategy.step(stepper.batches[0], stepper)
    assert not norms["b"].running_mean.any()
    assert norms["a"].running_mean.any()
    stepper.epoch = 1
    strategy.step(stepper.batches[0], stepper)
    assert not norms["b"].running_mean.any()
    stepper.epoch = 3
    strategy.on_epoch_start(stepper)
    strategy.step(stepper.batches[0], stepper)
    assert norms["b"].running_mean.any()


def test_only_what_is_trained_is_given_to_the_optimizer(make_data, make_model):
    data = make_data()
    strategy = _strategy(data, make_model)
    given = {id(p) for p in strategy.parameter_groups()["main"]}
    unused = (strategy.model.head, strategy.model.unimodal_heads)
    assert given.isdisjoint(id(p) for part in unused for p in part.parameters())
    assert {id(p) for p in strategy.model.encoders.parameters()} < given
    assert id(strategy.scale) in given


def test_encoders_of_different_widths_are_projected(make_data, make_model, make_stepper):
    data = make_data()
    model = make_model(data, encoders={"a": {"width": 4}, "b": {"width": 7}})
    strategy = ReconBoost(model, DataInfo.of(data), ReconBoost.Options(hidden=16))
    make_stepper(strategy, data.train.batches(10)).fit()
    assert strategy.shared[0].in_features == 16
    assert strategy(data.test.__getitems__([0, 1])).logits.shape == (2, 3)


def test_it_learns(make_data, make_model, make_stepper):
    data = make_data(samples=200)
    strategy = _strategy(data, make_model)
    make_stepper(strategy, data.train.batches(20), epochs=12).fit()
    strategy.eval()
    whole = data.test.__getitems__(list(range(16)))
    assert (strategy(whole).logits.argmax(1) == whole.target).float().mean() > 0.8


def test_bad_options_are_refused():
    with pytest.raises(InputError, match="boost_epochs is 0"):
        ReconBoost.Options(boost_epochs=0)


@pytest.mark.parametrize("options", [{}, {"target": "full", "pretrain": 0.0}], ids=str)
def test_trains_on_every_small_case(check_trains, options):
    check_trains(ReconBoost, **options)
