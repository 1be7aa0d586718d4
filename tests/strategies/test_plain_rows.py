"""Unimodal ensemble, perceptron and longer joint training: what they answer, by hand, and what they can learn."""

from __future__ import annotations

import math

import pytest
import torch

from modalign.data.info import DataInfo
from modalign.strategies.ensemble import Ensemble
from modalign.strategies.joint import Joint
from modalign.strategies.joint_mlp import JointMlp
from modalign.strategies.unimodal import Unimodal


def test_the_ensemble_is_the_mean_of_probabilities_over_the_modalities_present(make_data, make_model):
    data = make_data((6, 5, 4), missing=0.4)
    strategy = Ensemble(make_model(data), DataInfo.of(data)).eval()
    batch = data.train.__getitems__(list(range(20)))
    batch.present[3] = False
    output = strategy(batch).detach()
    found = strategy.predict(output).exp()
    counts = [int((data.train.target == k).sum()) + 1 for k in range(3)]
    for i in range(20):
        for k in range(3):
            each = []
            for m, name in enumerate(data.modalities):
                scores = output.unimodal[name][i].double()
                if batch.present[i, m]:
                    each.append(math.exp(scores[k]) / sum(math.exp(s) for s in scores))
            wanted = sum(each) / len(each) if each else counts[k] / sum(counts)
            assert float(found[i, k]) == pytest.approx(wanted, abs=1e-6)


def test_the_networks_of_the_ensemble_are_those_that_are_trained_alone(make_data, make_model, make_stepper):
    data = make_data((6, 5))
    ensemble, alone = (kind(make_model(data), DataInfo.of(data)) for kind in (Ensemble, Unimodal))
    for strategy in (ensemble, alone):
        make_stepper(strategy, data.train.batches(10)).fit()
    for p, q in zip(ensemble.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_perceptron_against_its_formula_with_missing_modalities(make_data, make_model):
    data = make_data((6, 5, 4), missing=0.4)
    strategy = JointMlp(make_model(data), DataInfo.of(data), JointMlp.Options(hidden=7)).eval()
    batch = data.train.__getitems__(list(range(12)))
    output = strategy(batch)
    first, second = strategy.perceptron[0], strategy.perceptron[2]
    for i in range(12):
        z = [output.features[m][i] * batch.present[i, j] for j, m in enumerate(data.modalities)]
        hidden = (first.weight @ torch.cat(z) + first.bias).clamp(min=0)
        torch.testing.assert_close(output.logits[i], second.weight @ hidden + second.bias, atol=1e-6, rtol=1e-6)


def test_only_the_perceptron_learns_an_exclusive_or_of_two_modalities(make_data, make_model, make_stepper):
    """Its parts say nothing alone; of an additive head over linear encoders it is out of reach."""
    accuracy = {}
    for kind in (Joint, JointMlp):
        data = make_data((2, 2), samples=200, outputs=2)
        bits = torch.randint(2, (2, 200))
        data.train.target[:] = bits[0] ^ bits[1]
        for m, name in enumerate(data.modalities):
            data.train.inputs[name][:] = (2.0 * bits[m, :, None] - 1) + 0.1 * torch.randn(200, 2)
        model = make_model(data, encoders={m: {"hidden": []} for m in data.modalities})
        strategy = kind(model, DataInfo.of(data))
        make_stepper(strategy, data.train.batches(20), epochs=15, lr=0.1).fit()
        whole = data.train.__getitems__(list(range(200)))
        accuracy[kind] = float((strategy.eval()(whole).logits.argmax(1) == whole.target).float().mean())
    assert accuracy[JointMlp] > 0.95
    assert accuracy[Joint] < 0.8
