"""DGL: which loss reaches which parameters, against separate backward passes typed anew."""

from __future__ import annotations

import pytest
import torch

from modalign.data.info import DataInfo
from modalign.errors import InputError
from modalign.strategies.dgl import Dgl


@pytest.mark.parametrize("widths", [(6, 5), (6, 5, 4)])
def test_encoders_follow_their_own_losses_and_the_fusion_the_joint_one(make_data, make_model, make_stepper, widths):
    data = make_data(widths, missing=0.3)
    batch = data.train.__getitems__(list(range(20)))
    strategy = Dgl(make_model(data), DataInfo.of(data), Dgl.Options(alpha=3.0))
    losses = strategy.step(batch, make_stepper(strategy, [batch]))
    names = list(data.modalities)

    joint = make_model(data)  # the loss of the code: features are constants
    z = {m: x.detach() * batch.present[:, j, None] for j, (m, x) in enumerate(joint.encode(batch).items())}
    torch.nn.functional.cross_entropy(joint.head(torch.cat([z[m] for m in names], 1)), batch.target).backward()
    torch.testing.assert_close(strategy.model.head.weight.grad, joint.head.weight.grad, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(strategy.model.head.bias.grad, joint.head.bias.grad, atol=1e-6, rtol=1e-6)

    for j, name in enumerate(names):  # alone, zeros in place of the others, the fusion's gradient thrown away
        own = make_model(data)
        features = own.encode(batch)
        part = torch.cat([features[m] if m == name else torch.zeros_like(features[m]) for m in names], 1)
        each = torch.nn.functional.cross_entropy(own.head(part), batch.target, reduction="none")
        loss = sum(each[i] for i in range(20) if batch.present[i, j]) / 20
        assert float(losses[f"task_{name}"].detach()) == pytest.approx(float(loss.detach()), abs=1e-6)
        (3.0 * loss).backward()
        for p, q in zip(strategy.model.encoders[name].parameters(), own.encoders[name].parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, atol=1e-6, rtol=1e-6)


def test_scores_of_single_modalities_are_those_that_were_trained(make_data, make_model):
    data = make_data((6, 5))
    strategy = Dgl(make_model(data), DataInfo.of(data)).eval()
    batch = data.test.__getitems__(list(range(8)))
    output = strategy(batch)
    for name in data.modalities:
        torch.testing.assert_close(output.unimodal[name], strategy(batch.mask([name])).logits)


def test_a_batch_in_which_a_modality_is_absent_everywhere_is_no_accident(make_data, make_model, make_stepper):
    data = make_data((6, 5))
    strategy = Dgl(make_model(data), DataInfo.of(data))
    batch = data.train.__getitems__(list(range(8)))
    for keep in (["a"], []):
        strategy.zero_grad()
        strategy.step(batch.mask(keep), make_stepper(strategy, [batch]))
        assert all(p.grad is None for p in strategy.model.encoders["b"].parameters())


def test_bad_options_are_refused():
    with pytest.raises(InputError, match="alpha is 0"):
        Dgl.Options(alpha=0)
