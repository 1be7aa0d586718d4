"""PMR against its formulas written out, and on small models."""

from __future__ import annotations

import math

import pytest
import torch

from modalign.data.info import DataInfo
from modalign.errors import InputError
from modalign.strategies.pmr import (
    Pmr,
    blended,
    clip_weights,
    entropy,
    similarities,
    weakest_weights,
)

ALL = torch.ones(3, dtype=torch.bool)


def test_similarities_against_loops_and_without_nan_at_a_prototype():
    features, prototypes = torch.randn(5, 4), torch.randn(3, 4)
    features[0] = prototypes[1]
    result = similarities(features, prototypes, ALL)
    for i in range(5):
        for k in range(3):
            assert float(result[i, k]) == pytest.approx(
                -math.dist(features[i].tolist(), prototypes[k].tolist()), abs=1e-5
            )
    features.requires_grad_()
    similarities(features, prototypes, ALL).log_softmax(1)[:, 1].sum().backward()
    assert torch.isfinite(features.grad).all()


def test_a_class_without_prototype_is_left_out_of_the_softmax():
    features, prototypes = torch.randn(5, 4), torch.randn(3, 4)
    result = similarities(features, prototypes, torch.tensor([True, False, True]))
    two = similarities(features, prototypes[[0, 2]], ALL[:2])
    torch.testing.assert_close(result.softmax(1)[:, [0, 2]], two.softmax(1))
    assert result.softmax(1)[:, 1].eq(0).all()
    torch.testing.assert_close(entropy(result), entropy(two))


def test_entropy_by_hand():
    log_p = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]]).log()
    assert entropy(log_p).tolist() == pytest.approx([1.5 * math.log(2), math.log(3)])


@pytest.mark.parametrize(
    ("first", "second"), [(6.0, 4.0), (4.0, 6.0), (5.0, 5.0), (9.0, 1.0)], ids=["a", "b", "even", "clipped"]
)
def test_clip_weights_are_the_papers_beta_and_gamma(first, second):
    """rho = s_0 / s_1; beta = clip(1/rho - 1, 0, 1) for modality 0, gamma = clip(rho - 1, 0, 1) for 1."""
    behind, ahead = clip_weights(torch.tensor([[first, first], [second, second]]))
    rho = first / second
    beta, gamma = (min(max(x - 1, 0), 1) for x in (1 / rho, rho))
    assert behind.tolist() == pytest.approx([beta, gamma])
    assert ahead.tolist() == pytest.approx([gamma, beta])  # the entropy of 0 is weighted with gamma


def test_clip_weights_of_three_modalities():
    s = torch.tensor([6.0, 4.0, 5.0])
    behind, ahead = clip_weights(s.unsqueeze(1).expand(3, 3))
    assert behind.tolist() == pytest.approx([0, 6 / 4 - 1, 6 / 5 - 1])
    assert ahead.tolist() == pytest.approx([6 / 4 - 1, 0, 5 / 4 - 1])


def test_only_the_weakest_counts_in_the_codes_form():
    s = torch.tensor([6.0, 4.0, 5.0]).unsqueeze(1).expand(3, 3)
    assert weakest_weights(s).tolist() == [0, 1, 0]
    assert weakest_weights(torch.full((3, 3), 2.0)).tolist() == [0, 0, 0]


def test_prototypes_blend_keep_and_overwrite():
    """Class 0 seen before and again, class 1 absent from the sample, class 2 seen for the first time."""
    old = torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]])
    known = torch.tensor([True, True, False])
    sums, counts = torch.tensor([[6.0, 0.0], [0.0, 0.0], [4.0, 8.0]]), torch.tensor([2.0, 0.0, 4.0])
    result = blended(old, known, sums, counts, 0.25)
    assert result.tolist() == [[0.75 * 3 + 0.25, 0.25], [2.0, 2.0], [1.0, 2.0]]


def _strategy(data, make_model, **options):
    return Pmr(make_model(data), DataInfo.of(data), Pmr.Options(**options))


def test_prototypes_are_class_means_of_those_present(make_data, make_model, make_stepper):
    data = make_data((6, 5), missing=0.3, samples=80)
    strategy = _strategy(data, make_model, share=0.5)
    stepper = make_stepper(strategy, data.train.batches(1))
    strategy.on_train_start(stepper)
    rows = [int(batch.index) for batch in stepper.train_batches(0.5, draw=0)]
    assert len(rows) == 40
    batch = data.train.__getitems__(rows)
    features = strategy.model.encode(batch)
    for m, name in enumerate(data.modalities):
        for k in range(3):
            rows = batch.present[:, m] & (batch.target == k)
            torch.testing.assert_close(strategy.prototypes[name].prototypes[k], features[name][rows].mean(0))
    assert strategy.model.training


def test_the_share_is_drawn_anew_each_epoch_and_holds_ten_samples_a_class(make_data, make_model, make_stepper):
    """Of 60 samples in 3 classes a tenth is 6: 30 are taken; of 24 all."""
    taken = []
    for samples in (60, 24):
        data = make_data(samples=samples)
        strategy = _strategy(data, make_model)
        stepper = make_stepper(strategy, data.train.batches(1))
        draws = []
        encode = strategy.model.encode
        strategy.model.encode = lambda batch: draws[-1].append(int(batch.index)) or encode(batch)  # noqa: B023
        for _ in range(3):
            draws.append([])
            strategy._compute(stepper)
        taken.append(draws)
    assert [len(draw) for draw in taken[0]] == [30] * 3
    assert len({tuple(draw) for draw in taken[0]}) == 3
    assert taken[1] == [list(range(24))] * 3


def test_the_first_two_computations_overwrite(make_data, make_model, make_stepper):
    data = make_data()
    strategy = _strategy(data, make_model, momentum=0.5, share=1.0)
    stepper = make_stepper(strategy, data.train.batches(10))
    means = []
    for shift in (0.0, 1.0, 3.0):
        with torch.no_grad():
            strategy.model.encoders["a"].net[-1].bias += shift
        strategy._compute(stepper)
        means.append(strategy.prototypes["a"].prototypes.clone())
    torch.testing.assert_close(means[1] - means[0], torch.ones(3, 8))
    torch.testing.assert_close(means[2] - means[1], torch.full((3, 8), 1.5))


@pytest.mark.parametrize("weights", ["clip", "weakest"])
def test_loss_against_loops(make_data, make_model, make_stepper, weights):
    data = make_data((6, 5, 4), missing=0.3)
    strategy = _strategy(data, make_model, weights=weights, alpha=1.5, entropy=0.3, share=1.0)
    stepper = make_stepper(strategy, data.train.batches(10))
    strategy.on_train_start(stepper)
    batch = stepper.batches[0]
    features = strategy.model.encode(batch)
    p = []
    for name in data.modalities:
        centers = strategy.prototypes[name].prototypes
        p.append([torch.tensor([-float((z - c).norm()) for c in centers]).softmax(0) for z in features[name].detach()])

    def s(m, j):
        return sum(float(p[m][i][batch.target[i]]) for i in range(10) if batch.present[i, m] and batch.present[i, j])

    behind = [max(s(j, m) / s(m, j) for j in range(3) if j != m) for m in range(3)]
    ahead = [min(max(max(s(m, j) / s(j, m) for j in range(3) if j != m) - 1, 0), 1) for m in range(3)]
    if weights == "clip":
        w = [min(max(x - 1, 0), 1) for x in behind]
    else:
        w = [float(x == max(behind)) for x in behind]
    wanted = 0.0
    for m in range(3):
        for i in range(10):
            if batch.present[i, m]:
                wanted -= 1.5 * w[m] * math.log(p[m][i][batch.target[i]]) / 10
                wanted += 0.3 * ahead[m] * sum(float(x) * math.log(x) for x in p[m][i]) / 10
    assert float(strategy._pull(features, batch, stepper).detach()) == pytest.approx(wanted, rel=1e-4)


def test_a_class_absent_from_the_prototypes_gives_no_nan_and_no_pull(make_data, make_model, make_stepper):
    data = make_data(outputs=4)
    data.train.target.clamp_(max=2)
    strategy = _strategy(data, make_model, share=1.0)
    stepper = make_stepper(strategy, data.train.batches(10))
    strategy.on_train_start(stepper)
    batch = stepper.batches[0]
    batch.target[:5] = 3  # first seen after the prototypes were made
    features = {m: z.detach().requires_grad_() for m, z in strategy.model.encode(batch).items()}
    strategy._pull(features, batch, stepper).backward()
    assert any(z.grad[5:].any() for z in features.values())
    for z in features.values():
        assert torch.isfinite(z.grad).all()
        assert not z.grad[:5].any()


def test_distances_of_different_widths_are_made_comparable(make_data, make_model, make_stepper):
    """Standardized distances do not change when a modality's features are stretched or repeated."""
    data = make_data((6, 5))
    model = make_model(data, encoders={"a": {"hidden": [10], "width": 4}, "b": {"hidden": [10], "width": 16}})
    with torch.no_grad():  # b becomes 7 times a, four times over
        model.encoders["b"] = torch.nn.Sequential(model.encoders["a"], _Repeat())
    data.train.inputs["b"] = data.train.inputs["a"]
    model.standardize["b"] = model.standardize["a"]
    strategy = Pmr(model, DataInfo.of(data), Pmr.Options(share=1.0))
    stepper = make_stepper(strategy, data.train.batches(10))
    strategy.on_train_start(stepper)
    features = model.encode(stepper.batches[0])
    scores = [strategy.prototypes[m](features[m]) for m in data.modalities]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-4)


class _Repeat(torch.nn.Module):
    def forward(self, x):
        return 7 * x.repeat(1, 4)


def test_equal_widths_are_left_as_they_are(make_data, make_model, make_stepper):
    data = make_data()
    strategy = _strategy(data, make_model)
    strategy.on_train_start(make_stepper(strategy, data.train.batches(10)))
    assert strategy.prototypes["a"].scale.eq(1).all()


def test_bad_options_are_refused():
    with pytest.raises(InputError, match="share is 0"):
        Pmr.Options(share=0)
    with pytest.raises(InputError, match="momentum is 1"):
        Pmr.Options(momentum=1)


@pytest.mark.parametrize("options", [{}, {"entropy": 0.1, "entropy_until": 1.0, "momentum": 0.2}], ids=str)
def test_trains_on_every_small_case(check_trains, options):
    check_trains(Pmr, **options)


def test_rounding_between_a_sample_and_its_own_prototype_has_no_direction():
    """The only sample of a class is its prototype; what parts the two differs from process to process."""
    z = torch.randn(4, 16, requires_grad=True)
    prototypes = z.detach().clone()
    prototypes[0] *= 1 + 1e-7
    prototypes[1] += 0.01
    similarities(z, prototypes, torch.ones(4, dtype=torch.bool)).diagonal().sum().backward()
    assert z.grad is not None
    assert z.grad[0].abs().max() == 0
    assert z.grad[1].norm().item() == pytest.approx(1, rel=1e-3)
