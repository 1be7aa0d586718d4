"""OGM-GE against its formulas written out, and on small models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from modalign.data.batch import Modality
from modalign.data.info import DataInfo
from modalign.errors import InputError
from modalign.models.encoders import build_encoder
from modalign.strategies.ogm_ge import (
    OgmGe,
    coefficients,
    modulate,
    modulated_weights,
    paired_evidence,
    true_class_probability,
)


def test_coefficients_by_hand():
    """s = (6, 3): the leader has rho = 2 and k = 1 - tanh(0.8 * 2), the weak one is left at 1."""
    evidence = torch.tensor([[6.0, 6.0], [3.0, 3.0]])
    leader, weak = coefficients(evidence, 0.8).tolist()
    assert leader == pytest.approx(1 - math.tanh(1.6))
    assert leader == pytest.approx(0.07833, abs=1e-5)
    assert weak == 1.0


def test_of_two_equal_modalities_the_first_is_slowed_as_in_the_published_code():
    """Its rule typed anew: ``if v / a > 1`` the second is slowed, ``else`` the first, at a ratio of exactly 1 too."""
    for a, v in ((5.0, 5.0), (5.0, 4.0), (4.0, 5.0)):
        k_a, k_v = (1.0, 1 - math.tanh(0.8 * v / a)) if v / a > 1 else (1 - math.tanh(0.8 * a / v), 1.0)
        found = coefficients(torch.tensor([[a, a], [v, v]]), 0.8)
        assert found.tolist() == pytest.approx([k_a, k_v], abs=1e-6)
    assert coefficients(torch.full((3, 3), 5.0), 0.8).tolist() == [1.0, 1.0, 1.0]


def test_evidence_and_coefficients_against_loops_with_three_modalities_some_missing():
    probability, present = torch.rand(20, 3), torch.rand(20, 3) > 0.3
    evidence = paired_evidence(probability, present)
    result = coefficients(evidence, 0.5)
    for m in range(3):
        ratios = []
        for j in range(3):
            shared = [i for i in range(20) if present[i, m] and present[i, j]]
            own = sum(float(probability[i, m]) for i in shared)
            other = sum(float(probability[i, j]) for i in shared)
            assert float(evidence[m, j]) == pytest.approx(own, rel=1e-5)
            if j != m:
                ratios.append(own / other)
        rho = sum(ratios) / 2
        assert float(result[m]) == pytest.approx(1 - math.tanh(0.5 * rho) if rho > 1 else 1.0, rel=1e-5)


def test_modalities_never_seen_together_are_left_alone():
    present = torch.tensor([[True, False], [False, True]])
    evidence = paired_evidence(torch.tensor([[0.9, 0.0], [0.0, 0.1]]), present)
    assert coefficients(evidence, 0.8).tolist() == [1.0, 1.0]


def test_noise_has_the_spread_of_the_unmodulated_gradient_and_nothing_else():
    gradient = 0.3 * torch.randn(500, 400) + 0.1
    changed = gradient.clone()
    modulate(changed, torch.tensor(0.25), torch.Generator().manual_seed(3))
    noise = changed - 0.25 * gradient
    assert float(noise.std()) == pytest.approx(float(gradient.std()), rel=0.01)
    assert abs(float(noise.mean())) < 0.003
    assert abs(float(torch.corrcoef(torch.stack([noise.flatten(), gradient.flatten()]))[0, 1])) < 0.01
    kurtosis = float((noise / noise.std()).pow(4).mean())
    assert kurtosis == pytest.approx(3.0, abs=0.05)


def test_noise_is_drawn_alike_by_all_processes_and_differently_for_each_tensor(make_data, make_model, make_stepper):
    data = make_data()
    strategy = OgmGe(make_model(data), DataInfo.of(data), OgmGe.Options())
    stepper = make_stepper(strategy, data.train.batches(10))
    draw = [torch.randn(5, generator=strategy._generator(stepper, i, stepper.device)) for i in (0, 0, 1)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    stepper.step_index += 1
    later = torch.randn(5, generator=strategy._generator(stepper, 0, stepper.device))
    assert not torch.equal(draw[0], later)


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_parts_of_the_logits_are_those_of_the_paper(make_data, make_model, fusion):
    """W_m z_m + b / M, and the parts add up to the joint logits."""
    data = make_data((6, 5, 4))
    model = make_model(data, fusion=fusion)
    nn.init.normal_(model.head.bias)
    batch = data.train.__getitems__(list(range(12)))
    features = model.encode(batch)
    if fusion == "concat":
        blocks = dict(zip(data.modalities, model.head.weight.split(list(model.dims.values()), 1), strict=True))
    else:
        blocks = {m: model.head.weight @ model.fusion.projections[m].weight for m in data.modalities}
    parts = [features[m] @ blocks[m].T + model.head.bias / 3 for m in data.modalities]
    torch.testing.assert_close(sum(parts), model.fuse(features, batch.present))
    wanted = torch.stack([part.softmax(1)[range(12), batch.target] for part in parts], 1)
    torch.testing.assert_close(true_class_probability(model, features, batch), wanted)


def test_only_encoder_weights_are_scaled_and_by_their_own_coefficient(make_data, make_model, make_stepper):
    data = make_data()
    batch = data.train.__getitems__(list(range(20)))
    plain = make_model(data)
    data.task.loss(plain(batch).logits, batch.target).backward()
    strategy = OgmGe(make_model(data), DataInfo.of(data), OgmGe.Options(noise=False))
    stepper = make_stepper(strategy, [batch])
    strategy.step(batch, stepper)
    strategy.before_update(stepper)
    k = dict(zip(data.modalities, strategy.coefficient, strict=True))
    assert min(k.values()) < 1
    assert max(k.values()) == 1
    for (name, p), q in zip(strategy.model.named_parameters(), plain.parameters(), strict=True):
        if q.grad is None:
            assert p.grad is None
        elif name.startswith("encoders.") and p.ndim == 2:
            torch.testing.assert_close(p.grad, k[name.split(".")[1]] * q.grad)
        else:
            torch.testing.assert_close(p.grad, q.grad)


def test_accumulated_batches_count_together(make_data, make_model, make_stepper):
    data = make_data()

    def coefficient(size: int, accumulate: int):
        strategy = OgmGe(make_model(data), DataInfo.of(data), OgmGe.Options())
        make_stepper(strategy, data.train.batches(size), accumulate=accumulate, lr=0.0).fit(1)
        assert not strategy.evidence.any()
        return strategy.coefficient

    torch.testing.assert_close(coefficient(10, 4), coefficient(40, 1))


def test_after_its_share_of_the_epochs_it_is_joint_training(make_data, make_model, make_stepper):
    data = make_data()
    strategy = OgmGe(make_model(data), DataInfo.of(data), OgmGe.Options(until=0.5))
    stepper = make_stepper(strategy, data.train.batches(10), epochs=100)
    stepper.epoch = 50
    assert strategy._active(stepper)
    stepper.epoch = 51
    assert not strategy._active(stepper)
    strategy.step(stepper.batches[0], stepper)
    before = [p.grad.clone() for p in strategy.parameters() if p.grad is not None]
    strategy.before_update(stepper)
    after = [p.grad for p in strategy.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert strategy.metrics() == {"coefficient_a": 1.0, "coefficient_b": 1.0}


@pytest.mark.parametrize(
    "modality",
    [
        Modality("x", "vector", (6,)),
        Modality("x", "sequence", (8, 5)),
        Modality("x", "image", (1, 8, 8)),
        Modality("x", "clip", (4, 1, 8, 8)),
        Modality("x", "text", (7,), vocabulary=11),
    ],
    ids=lambda m: m.kind,
)
def test_something_is_modulated_in_every_kind_of_encoder(modality):
    encoder = build_encoder(modality, 8)
    chosen = {id(p) for p in modulated_weights(encoder)}
    assert chosen
    for module in encoder.modules():
        for p in module.parameters(recurse=False):
            assert (id(p) in chosen) == (p.ndim >= 2 and not isinstance(module, nn.Embedding))


def test_transformers_and_recurrent_nets_are_modulated_embeddings_are_not():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.words = nn.Embedding(5, 8)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16)
            self.rnn = nn.GRU(8, 8)

    net = Net()
    names = {id(p): name for name, p in net.named_parameters()}
    chosen = {names[id(p)] for p in modulated_weights(net)}
    assert "layer.self_attn.in_proj_weight" in chosen
    assert "rnn.weight_ih_l0" in chosen
    assert chosen.isdisjoint({"token", "words.weight", "layer.norm1.weight", "rnn.bias_ih_l0"})


def test_an_encoder_without_weights_is_refused(make_data, make_model):
    data = make_data()
    model = make_model(data)
    model.encoders["b"] = nn.Identity()
    with pytest.raises(InputError, match="nothing to modulate in the encoder of b"):
        OgmGe(model, DataInfo.of(data), OgmGe.Options())


def test_trains_on_every_small_case(check_trains):
    check_trains(OgmGe)
