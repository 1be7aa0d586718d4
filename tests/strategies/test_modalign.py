"""ModAlign against a literal Algorithm 1, its margin, its switches and its readout."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional

from modalign.data.batch import Output
from modalign.data.info import DataInfo
from modalign.errors import InputError
from modalign.information import conditional_nce, pair_masks
from modalign.models.readout import evidence, pool
from modalign.strategies.base import Stepper
from modalign.strategies.joint_unimodal import JointUnimodal, JointUnimodalOptions
from modalign.strategies.modalign import ModAlign, ModAlignOptions


@pytest.fixture
def build(make_data, make_model, make_stepper):
    """``build(**options)``: a ModAlign in the middle of training (the ramp is over), its stepper and a batch."""

    def make(widths=(6, 5), missing=0.0, progress=0.5, **options):
        data = make_data(widths, missing=missing, samples=24)
        strategy = ModAlign(make_model(data), DataInfo.of(data), ModAlignOptions(**{"memory": 0} | options))
        stepper = make_stepper(strategy, data.train.batches(24), data.valid.batches(16), epochs=100)
        stepper.step_index = int(100 * progress)
        return strategy, stepper, data.train.batches(24)[0]

    return make


def encoder_gradients(strategy) -> dict[str, torch.Tensor]:
    return {k: p.grad.clone() for k, p in strategy.model.named_parameters() if p.grad is not None}


def literal_step(strategy, critic_lr: float, batch, rho: float) -> dict[str, torch.Tensor]:
    """Algorithm 1 with plain autograd on a copy: every pair of the batch scored, masked by context."""
    strategy = copy.deepcopy(strategy)
    model, critics = strategy.model, strategy.alignment
    z = [model.encoders[m](model.standardize[m](batch.inputs[m])) for m in model.modalities]
    positive, negative = pair_masks(batch.target)
    weight = negative / negative.sum(1, keepdim=True)  # negatives of one sample weigh one together
    ratio = float(negative.sum() / positive.sum())
    # The critic sees deviations from the means of the classes, which at the first step are those of this batch.
    means = [torch.stack([part[batch.target == y].mean(0) for y in batch.target]).detach() for part in z]

    def objective(features):
        centered = torch.stack([part - mean for part, mean in zip(features, means, strict=True)])
        left, right = critics.shared.embed(centered)
        return conditional_nce(critics.critic(0)(left, right, batch.target), positive, weight) / (1 + ratio)

    optimizer = torch.optim.SGD(critics.parameters(), lr=critic_lr, momentum=0.9)
    (-objective([part.detach() for part in z])).backward()
    optimizer.step()
    model.zero_grad()
    output = model.heads(dict(zip(model.modalities, z, strict=True)), batch.present)
    task = functional.cross_entropy(output.logits, batch.target)
    task = task + sum(functional.cross_entropy(logits, batch.target) for logits in output.unimodal.values())
    pull = -objective(z)
    g_task = torch.autograd.grad(task, z, retain_graph=True)
    g_pull = torch.autograd.grad(pull, z, retain_graph=True)
    bounded = [g * min(1.0, rho * float(t.norm() / g.norm())) for g, t in zip(g_pull, g_task, strict=True)]
    torch.autograd.backward([task, *z], [None, *bounded])
    return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rho", [0.01, 0.3, 1e6])
def test_one_step_is_algorithm_1(build, rho):
    strategy, stepper, batch = build(rho=rho)
    expected = literal_step(strategy, 0.05, batch, rho)
    strategy.step(batch, stepper)
    found = encoder_gradients(strategy)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_encoders_run_once_a_step(build):
    strategy, stepper, batch = build()
    calls = []
    for m, encoder in strategy.model.encoders.items():
        encoder.register_forward_hook(lambda *_, m=m: calls.append(m))
    strategy.step(batch, stepper)
    assert sorted(calls) == ["a", "b"]


def test_the_critic_moves_before_the_encoders_see_it(build):
    strategy, stepper, batch = build()
    order = []
    stepper_update, stepper_from = stepper.update, stepper.backward_from
    stepper.update = lambda group: (order.append(f"update {group}"), stepper_update(group))
    stepper.backward_from = lambda *a: (order.append("encoders"), stepper_from(*a))
    before = {k: v.clone() for k, v in strategy.alignment.shared.state_dict().items()}
    strategy.step(batch, stepper)
    assert order == ["update critic", "encoders"]
    assert any(not torch.equal(before[k], v) for k, v in strategy.alignment.shared.state_dict().items())


@pytest.mark.parametrize(("rho", "share"), [(1e-3, 1.0), (1e6, 0.0)])
def test_margin_activity_is_reported(build, rho, share):
    strategy, stepper, batch = build(rho=rho)
    strategy.on_epoch_start(stepper)
    strategy.step(batch, stepper)
    assert strategy.metrics()["margin_a"] == share
    assert strategy.metrics()["margin_b"] == share


@pytest.mark.parametrize("off", [{"objective": "none"}, {"alpha": 0.0}])
def test_without_the_pull_the_gradients_are_those_of_joint_plus_heads(build, make_stepper, off):
    strategy, stepper, batch = build(**off)
    plain = JointUnimodal(copy.deepcopy(strategy.model), _Data(strategy), JointUnimodalOptions())
    strategy.step(batch, stepper)
    plain_stepper = make_stepper(plain, [batch])
    plain.step(batch, plain_stepper)
    expected, found = encoder_gradients(plain), encoder_gradients(strategy)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)


class _Data:
    def __init__(self, strategy) -> None:
        self.task = strategy.task


def test_the_pull_changes_the_encoders_but_not_beyond_the_margin(build):
    strategy, stepper, batch = build(rho=0.3)
    plain, plain_stepper, _ = build(objective="none")
    strategy.step(batch, stepper)
    plain.step(batch, plain_stepper)
    with_pull, without = encoder_gradients(strategy), encoder_gradients(plain)
    name = next(k for k in with_pull if k.startswith("encoders.a"))
    assert not torch.equal(with_pull[name], without[name])


def test_alpha_is_ramped_up(build):
    strategy, stepper, batch = build(progress=0.0)
    plain, plain_stepper, _ = build(objective="none")
    strategy.step(batch, stepper)
    plain.step(batch, plain_stepper)
    for (name, found), expected in zip(
        encoder_gradients(strategy).items(), encoder_gradients(plain).values(), strict=True
    ):
        torch.testing.assert_close(found, expected, msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "nce2"},
        {"objective": "infonce"},
        {"margin": "none"},
        {"margin": "hinge"},
        {"margin": "both"},
        {"context": "none"},
        {"context": "predicted"},
        {"context": "cluster", "clusters": 3},
        {"critic": "bilinear"},
        {"critic": "mlp"},
        {"memory": 4},
        {"prior": False},
    ],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_every_part_trains(check_trains, options):
    check_trains(ModAlign, **options)


def test_the_answer_is_the_pool_and_its_weights_are_fitted_and_kept(build):
    strategy, stepper, batch = build()
    strategy.step(batch, stepper)
    before = strategy.weights.clone()
    with torch.no_grad():
        output = strategy(batch)
        strategy.calibrate(output, batch.target)
        scores = strategy.alignment.every_context(output.features, output.present)
        assert scores.shape == (24, 1, 3)
        voices = evidence(output.logits, output.unimodal, output.present, strategy.log_prior, scores)
        expected = pool(voices, strategy.weights, strategy.log_prior)
        torch.testing.assert_close(strategy.predict(output), expected)
    assert (strategy.weights / before).log().abs().min() > 1e-4  # all of them, in units of their prior
    logged = strategy.metrics()
    names = ("joint", "a", "b", "critic")
    assert [logged[f"weight_{name}"] for name in names] == pytest.approx(strategy.weights.tolist())
    again, _, _ = build()
    again.load_state_dict(strategy.state_dict())
    torch.testing.assert_close(again.predict(output), expected)


def test_with_true_densities_the_answer_is_the_exact_posterior(build):
    """Classes are Gaussians whose modalities correlate by class: no head sees that, and the critic says all of it."""
    from torch.distributions import MultivariateNormal, Normal

    strategy, _, _ = build()
    torch.manual_seed(0)
    prior, r = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.9, -0.8, 0.3]).double()
    mean = torch.tensor([[0.0, 0.2], [0.3, 0.0], [-0.5, 0.5]]).double()
    covariance = torch.stack([torch.ones(3).double(), r, r, torch.ones(3).double()], 1).view(3, 2, 2)
    z = torch.randn(50, 2).double()
    both = MultivariateNormal(mean, covariance).log_prob(z.unsqueeze(1))  # (50, 3)
    alone = [Normal(mean[:, m], 1.0).log_prob(z[:, m : m + 1]) for m in range(2)]
    strategy.alignment.every_context = lambda features, present: (both - alone[0] - alone[1]).unsqueeze(1)
    strategy.log_prior, strategy.weights = prior.log(), torch.tensor([0.0, 1.0, 1.0, 1.0]).double()
    heads = {m: one + prior.log() for m, one in zip("ab", alone, strict=True)}
    output = Output({}, heads, torch.randn(50, 3).double(), torch.ones(50, 2, dtype=torch.bool))
    exact = (both + prior.log()).log_softmax(1)
    torch.testing.assert_close(strategy.predict(output), exact, rtol=0, atol=1e-6)
    strategy.weights[3] = 0.0
    assert (strategy.predict(output) - exact).abs().max() > 1


def test_without_the_prior_the_joint_head_decides(build):
    strategy, _, batch = build(prior=False)
    output = strategy(batch)
    strategy.calibrate(output, batch.target)
    assert strategy.predict(output) is output.logits
    assert not any(name.startswith("weight") for name in strategy.metrics())


def test_the_pool_asks_about_the_label_whatever_pulls(build):
    """With another T for the pull, a second critic, on detached features, is given the label."""
    strategy, stepper, batch = build(context="none")
    assert strategy.label_critic is not None
    assert strategy.alignment.shared.context is None
    assert strategy.label_critic.shared.context is not None
    losses = strategy.step(batch, stepper)
    assert {"critic", "critic_label"} <= losses.keys()


def test_class_names_embed_the_context(make_data, make_model, make_stepper, tmp_path):
    import numpy as np

    data = make_data(samples=24)
    np.save(tmp_path / "names.npy", np.eye(3, 4, dtype=np.float32))
    options = ModAlignOptions(class_names=str(tmp_path / "names.npy"))
    strategy = ModAlign(make_model(data), DataInfo.of(data), options)
    stepper = make_stepper(strategy, data.train.batches(24), epochs=2)
    assert all(math.isfinite(v) for losses in stepper.fit() for v in losses.values())
    np.save(tmp_path / "short.npy", np.eye(2, 4, dtype=np.float32))
    with pytest.raises(InputError, match="expected one row for each of 3 classes"):
        ModAlign(make_model(data), DataInfo.of(data), ModAlignOptions(class_names=str(tmp_path / "short.npy")))


def test_bad_contexts_are_refused(make_data, make_model):
    data = make_data()
    with pytest.raises(InputError, match=r"context is 'lable'; expected one of .*; did you mean 'label'"):
        ModAlign(make_model(data), DataInfo.of(data), ModAlignOptions(context="lable"))
    with pytest.raises(InputError, match="unknown context column"):
        ModAlign(make_model(data), DataInfo.of(data), ModAlignOptions(context="column:site"))


def test_clusters_found_anew_drop_what_was_known_of_the_old_ones(build):
    strategy, stepper, batch = build(context="cluster", clusters=3, memory=4)
    strategy.on_epoch_start(stepper)
    strategy.step(batch, stepper)
    assert strategy.alignment.memory.pair(0, 1).left_valid.any()
    assert strategy.alignment.means.mean.any()
    strategy.on_epoch_start(stepper)
    assert not strategy.alignment.memory.pair(0, 1).left_valid.any()
    assert not strategy.alignment.means.mean.any()


def test_words_of_the_first_version_are_translated_or_refused():
    with pytest.warns(DeprecationWarning, match="'two' is called 'nce2'"):
        assert ModAlignOptions(objective="two") == ModAlignOptions(objective="nce2")
    with pytest.raises(InputError, match="'log_odds' is gone; use 'gradient'"):
        ModAlignOptions(margin="log_odds")
    with pytest.raises(InputError, match=r"margin is 'gradent'; expected one of .*; did you mean 'gradient'"):
        ModAlignOptions(margin="gradent")
    with pytest.raises(InputError, match=r"objective is 'nce5'; expected one of"):
        ModAlignOptions(objective="nce5")


def test_hinge_protects_what_one_modality_alone_knows(make_model, make_stepper):
    """The label is in a's last column; what both modalities share says nothing of it, and alignment is all for that."""
    from modalign.data.tables.arrays import from_arrays

    generator = torch.Generator().manual_seed(0)
    y = torch.randint(2, (600,), generator=generator)
    shared = torch.randn(600, 3, generator=generator)
    own = 2.0 * y[:, None] - 1 + 0.5 * torch.randn(600, 1, generator=generator)
    b = shared + 0.1 * torch.randn(600, 3, generator=generator)
    data = from_arrays({"a": torch.cat([shared, own], 1).numpy(), "b": b.numpy(), "y": y.numpy()})
    lost = {}
    for margin in ("none", "hinge"):
        options = ModAlignOptions(margin=margin, alpha=30.0, eta=0.0, context="none", memory=0)
        strategy = ModAlign(make_model(data, width=4), DataInfo.of(data), options)
        stepper = Stepper(
            strategy, data.train, epochs=25, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2), batch_size=64
        )
        log = stepper.fit()
        lost[margin] = sum(losses["task_a"] for losses in log[-20:]) / 20
    assert lost["none"] > 0.6  # log 2 = 0.69: nothing is left
    assert lost["hinge"] < 0.5
    assert any(losses["hinge"] > 0 for losses in log)


def test_hinge_adds_nothing_while_nothing_is_lost(build):
    strategy, stepper, batch = build(margin="hinge", progress=0.0)
    plain, plain_stepper, _ = build(objective="none")
    losses = strategy.step(batch, stepper)
    plain.step(batch, plain_stepper)
    assert losses["hinge"] == 0
    for found, expected in zip(encoder_gradients(strategy).values(), encoder_gradients(plain).values(), strict=True):
        torch.testing.assert_close(found, expected)
