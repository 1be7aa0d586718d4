"""OPM against its formulas typed anew: probabilities to drop, the thinned loss, and what is drawn."""

from __future__ import annotations

import math

import pytest
import torch

from modalign.data.info import DataInfo
from modalign.errors import InputError
from modalign.strategies.opm import Opm, drop_probabilities


@pytest.mark.parametrize(("first", "second"), [(6.0, 4.0), (4.0, 6.0), (5.0, 5.0), (9.0, 0.1)])
def test_probabilities_to_drop_by_the_published_rule(first, second):
    def q(ratio):
        rise = math.tanh(max(ratio - 1, 0))
        return min(0.5 * (1 + 0.5 * rise), 1.0) if rise > 0 else 0.0

    found = drop_probabilities(torch.tensor([[first, first], [second, second]]), 0.5, 0.5)
    assert found.tolist() == pytest.approx([q(first / second), q(second / first)], abs=1e-6)
    assert drop_probabilities(torch.tensor([[9.0, 9.0], [0.1, 0.1]]), 0.9, 0.9)[0] == 1


@pytest.mark.parametrize(("widths", "missing"), [((6, 5), 0.0), ((6, 5, 4), 0.3)])
def test_the_loss_against_loops(make_data, make_model, make_stepper, widths, missing):
    data = make_data(widths, missing=missing)
    strategy = Opm(make_model(data), DataInfo.of(data), Opm.Options(active=1.0))
    stepper = make_stepper(strategy, data.train.batches(20), epochs=4)
    stepper.epoch = 1
    batch = stepper.batches[0]
    features = strategy.model.encode(batch)
    with torch.no_grad():
        loss = float(strategy._thinned(features, batch, stepper))
        kept, share = strategy._draw(strategy.dropped, batch, stepper)
    q, dims = strategy.dropped.tolist(), list(strategy.model.dims.values())
    assert max(q) > 0
    theta = sum(d * x for d, x in zip(dims, q, strict=True)) / sum(dims)
    total, count = 0.0, 0
    for i in range(20):
        here = [bool(batch.present[i, m] and kept[i, m]) for m in range(len(dims))]
        if any(here) or not batch.present[i].any():
            parts = [features[n][i].detach() * h / (1 - theta) for n, h in zip(data.modalities, here, strict=True)]
            logits = strategy.model.head(torch.cat(parts)).detach()
            total -= float(logits.log_softmax(0)[batch.target[i]])
            count += 1
    assert share == pytest.approx(count / 20)
    assert (count < 20) == (missing > 0)  # of two that are complete only one is ever dropped
    assert loss == pytest.approx(total / count, abs=1e-6)


def test_what_is_dropped_has_its_probability_and_depends_on_samples_not_on_their_order(
    make_data, make_model, make_stepper
):
    data = make_data(samples=1000)
    strategy = Opm(make_model(data), DataInfo.of(data), Opm.Options(active=1.0))
    stepper = make_stepper(strategy, data.train.batches(1000))
    batch = stepper.batches[0]
    q = torch.tensor([0.6, 0.0])
    kept, _ = strategy._draw(q, batch, stepper)
    assert float(kept[:, 0].float().mean()) == pytest.approx(0.4, abs=0.05)
    assert kept[:, 1].all()
    stepper.step_index += 1
    later, _ = strategy._draw(q, batch, stepper)
    assert not torch.equal(kept, later)
    # A process that has every second sample of the batch draws as the whole does.
    stepper.step_index -= 1
    stepper.all_gather = lambda x: {1: batch.index, 2: batch.present}[x.ndim]
    half = data.train.__getitems__(list(range(1, 1000, 2)))
    mine, _ = strategy._draw(q, half, stepper)
    assert torch.equal(mine, kept[1::2])


def test_it_acts_in_a_share_of_the_steps_and_after_the_warm_up(make_data, make_model, make_stepper):
    data = make_data()
    strategy = Opm(make_model(data), DataInfo.of(data))
    stepper = make_stepper(strategy, data.train.batches(10), epochs=100)
    batch, acted = stepper.batches[0], 0
    for stepper.step_index in range(300):
        acted += strategy._draw(torch.tensor([0.5, 0.0]), batch, stepper)[0] is not None
    assert acted / 300 == pytest.approx(0.7, abs=0.08)
    for stepper.epoch, drops in ((5, False), (6, True)):
        strategy.dropped.zero_()
        strategy.step(batch, stepper)
        assert bool(strategy.dropped.any()) == drops


def test_bad_options_are_refused():
    with pytest.raises(InputError, match="base is 2"):
        Opm.Options(base=2)
    with pytest.raises(InputError, match="rise is -1"):
        Opm.Options(rise=-1)
