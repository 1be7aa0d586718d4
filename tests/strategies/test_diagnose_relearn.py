"""D&R: purity worked by hand, the blend at both ends, and what a re-learning touches."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

from modalign.data.info import DataInfo
from modalign.errors import InputError
from modalign.strategies.diagnose_relearn import (
    DiagnoseRelearn,
    blend,
    cluster_purity,
    occasions,
    purity,
    reset_shares,
    scaled,
)


def test_purity_by_hand():
    """Cluster 0 holds classes 0 0 1, cluster 1 holds 2 2 2 0, cluster 2 holds 1: (2 + 3 + 1) / 8."""
    clusters = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    target = torch.tensor([0, 0, 1, 2, 2, 2, 0, 1])
    assert purity(clusters, target) == 6 / 8


def test_purity_of_points_that_cluster_by_hand():
    """Two tight groups far apart in one feature; one of six points is in the other class's group."""
    features = torch.tensor([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]])
    assert cluster_purity(features, torch.tensor([0, 0, 1, 1, 1, 1]), 2) == pytest.approx(5 / 6)
    assert cluster_purity(features, torch.tensor([0, 0, 0, 1, 1, 1]), 2) == 1.0


def test_purity_needs_no_more_points_than_classes_and_survives_collapse():
    assert cluster_purity(torch.randn(2, 4), torch.tensor([3, 1]), 5) == 1.0
    assert cluster_purity(torch.zeros(6, 4), torch.tensor([0, 0, 0, 1, 1, 2]), 3) == 0.5


def test_purity_of_features_that_are_not_finite_is_refused():
    with pytest.raises(InputError, match="diverged"):
        cluster_purity(torch.full((4, 2), torch.nan), torch.tensor([0, 1, 0, 1]), 2)


def test_scaling_is_by_feature_and_to_both_ends():
    result = scaled(torch.tensor([[1.0, 5.0, 100.0], [3.0, 5.0, 300.0], [2.0, 5.0, 150.0]]))
    assert result.tolist() == [[-1, -1, -1], [1, -1, 1], [0, -1, -0.5]]


def test_share_by_hand_whichever_purity_is_larger():
    """tanh(3 * 0.2); no purity means that the split lacks the modality."""
    shares = reset_shares(torch.tensor([[0.9, 0.7], [0.7, 0.9], [0.5, 0.5], [0.9, 0.0]]), 3.0)
    assert shares.tolist() == pytest.approx([math.tanh(0.6), math.tanh(0.6), 0.0, 0.0])


def test_blend_is_exact_at_both_ends_and_linear_between():
    layer, start = nn.Linear(5, 4), nn.Linear(5, 4)
    initial = nn.utils.parameters_to_vector(start.parameters()).detach()
    trained = [p.detach().clone() for p in layer.parameters()]
    blend(layer.parameters(), initial, torch.tensor(0.0))
    assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), trained, strict=True))
    blend(layer.parameters(), initial, torch.tensor(0.3))
    for p, q, s in zip(layer.parameters(), trained, start.parameters(), strict=True):
        torch.testing.assert_close(p, 0.3 * s + 0.7 * q)
    blend(layer.parameters(), initial, torch.tensor(1.0))
    assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), start.parameters(), strict=True))


def test_the_papers_schedule_and_any_other_budget():
    assert occasions(90, 20 / 90, 3) == {20, 40, 60}
    assert occasions(30, 20 / 90, 3) == {7, 13, 20}
    assert occasions(3, 20 / 90, 3) == {1}
    assert occasions(2, 20 / 90, 3) == occasions(1, 20 / 90, 3) == set()
    assert max(occasions(10, 0.5, 2)) < 9


def _at_occasion(data, make_model, make_stepper, **options):
    """A strategy whose weights have moved, at the end of epoch 1 of 3, where re-learning is due."""
    strategy = DiagnoseRelearn(make_model(data), DataInfo.of(data), DiagnoseRelearn.Options(**options))
    with torch.no_grad():
        for p in strategy.model.parameters():
            p += 0.3 * torch.randn_like(p)
    stepper = make_stepper(strategy, data.train.batches(10), data.valid.batches(10), epochs=3)
    stepper.epoch = 1
    return strategy, stepper


def test_encoders_move_towards_their_start_and_nothing_else_moves(make_data, make_model, make_stepper):
    data = make_data((6, 5, 4))
    strategy, stepper = _at_occasion(data, make_model, make_stepper)
    start = dict(make_model(data).named_parameters())
    moved = {name: p.detach().clone() for name, p in strategy.model.named_parameters()}
    strategy.on_epoch_end(stepper)
    share = dict(zip(data.modalities, strategy.shares.tolist(), strict=True))
    assert max(share.values()) > 0
    for name, p in strategy.model.named_parameters():
        if name.startswith("encoders."):
            a = share[name.split(".")[1]]
            torch.testing.assert_close(p, a * start[name] + (1 - a) * moved[name])
        else:
            assert torch.equal(p, moved[name])
    assert strategy.model.training


@pytest.mark.parametrize("frozen", ["a.net.0", "a"])
def test_frozen_parameters_are_neither_kept_nor_blended(make_data, make_model, make_stepper, frozen):
    """A part of an encoder, or the whole of it."""
    data = make_data()
    model = make_model(data)
    model.encoders.get_submodule(frozen).requires_grad_(False)
    strategy = DiagnoseRelearn(model, DataInfo.of(data), DiagnoseRelearn.Options())
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)
    before = {name: p.detach().clone() for name, p in model.encoders.named_parameters()}
    stepper = make_stepper(strategy, data.train.batches(10), data.valid.batches(10), epochs=3)
    stepper.epoch = 1
    strategy.on_epoch_end(stepper)
    assert min(strategy.shares) > 0
    same = [name for name, p in model.encoders.named_parameters() if torch.equal(p, before[name])]
    assert same == [name for name, p in model.encoders.named_parameters() if not p.requires_grad]
    assert len(strategy.initial_a) == sum(p.numel() for p in model.encoders["a"].parameters() if p.requires_grad)


def test_the_share_follows_the_gap_in_purity(make_data, make_model, make_stepper):
    """Purities typed anew: of as many samples as the smaller split has, evenly spread over each."""
    data = make_data((6, 5), missing=0.3)
    strategy, stepper = _at_occasion(data, make_model, make_stepper, strength=2.0)
    wanted = []
    for m, name in enumerate(data.modalities):
        splits = [split.__getitems__(list(range(len(split)))) for split in (data.train, data.valid)]
        count = min(int(whole.present[:, m].sum()) for whole in splits)
        parts = []
        for whole in splits:
            here = torch.nonzero(whole.present[:, m]).flatten().tolist()
            rows = [here[i * len(here) // count] for i in range(count)]
            with torch.no_grad():
                z = strategy.model.encode(whole)[name][rows].numpy()
            z = 2 * (z - z.min(0)) / (z.max(0) - z.min(0)) - 1
            clusters = KMeans(3, n_init=10, random_state=0).fit_predict(z)
            inside = [whole.target[rows][torch.from_numpy(clusters == c)].tolist() for c in range(3)]
            parts.append(sum(max(ys.count(y) for y in set(ys)) for ys in inside) / count)
        wanted.append(math.tanh(2.0 * abs(parts[0] - parts[1])))
    with pytest.warns(UserWarning, match=r"D&R compares purities of 1\d samples in 3 clusters"):
        strategy.on_epoch_end(stepper)
    assert strategy.shares.tolist() == pytest.approx(wanted, abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        strategy.on_epoch_end(stepper)


def test_a_modality_that_validation_lacks_is_left_as_it_is(make_data, make_model, make_stepper):
    data = make_data()
    strategy, stepper = _at_occasion(data, make_model, make_stepper)
    stepper._valid = [batch.mask(["a"]) for batch in stepper.valid]
    before = [p.detach().clone() for p in strategy.model.encoders["b"].parameters()]
    strategy.on_epoch_end(stepper)
    after = strategy.model.encoders["b"].parameters()
    assert all(torch.equal(p, q) for p, q in zip(before, after, strict=True))


def test_only_when_due(make_data, make_model, make_stepper):
    data = make_data()
    strategy, stepper = _at_occasion(data, make_model, make_stepper)
    before = [p.detach().clone() for p in strategy.parameters()]
    for stepper.epoch in (0, 2):
        strategy.on_epoch_end(stepper)
    assert all(torch.equal(p, q) for p, q in zip(before, strategy.parameters(), strict=True))


def test_samples_are_limited_evenly(make_data, make_model):
    data = make_data()
    strategy = DiagnoseRelearn(make_model(data), DataInfo.of(data), DiagnoseRelearn.Options(limit=4))
    features = torch.tensor([0.0] * 9 + [5.0]).unsqueeze(1)
    target = torch.tensor([0, 2, 2, 0, 2, 2, 0, 2, 2, 1])
    # Four of ten, 0 2 5 7, are of classes 0 2 2 2; where the other split has two it is 0 and 5, of classes 0 2.
    strategy._warned = True
    assert strategy._pair_of_purities((features, target), (features, target)) == [0.75, 0.75]
    assert strategy._pair_of_purities((features, target), (features[[0, 9]], target[[0, 9]])) == [0.5, 1.0]
    assert strategy._pair_of_purities((features, target), (features[:0], target[:0])) == [0.0, 0.0]


def test_noise_resets_nothing_however_small_the_validation_split(make_data, make_model):
    """With all samples of both splits, 442 and 78 as in AVLetters, a gap of .25 came out of noise alone."""
    data = make_data(outputs=26)
    strategy = DiagnoseRelearn(make_model(data), DataInfo.of(data), DiagnoseRelearn.Options())
    strategy._warned = True
    train, valid = ((torch.randn(n, 8), torch.randint(26, (n,))) for n in (442, 78))
    alike = strategy._pair_of_purities(train, valid)
    whole = [cluster_purity(*part, 26) for part in (train, valid)]
    assert abs(whole[0] - whole[1]) > 0.2
    assert abs(alike[0] - alike[1]) < 0.08


def test_initial_weights_are_kept_in_the_state(make_data, make_model):
    data = make_data()
    strategy = DiagnoseRelearn(make_model(data, seed=0), DataInfo.of(data), DiagnoseRelearn.Options())
    other = DiagnoseRelearn(make_model(data, seed=1), DataInfo.of(data), DiagnoseRelearn.Options())
    assert not torch.equal(strategy.initial_a, other.initial_a)
    other.load_state_dict(strategy.state_dict())
    assert torch.equal(strategy.initial_a, other.initial_a)


def test_trains_on_every_small_case(check_trains):
    check_trains(DiagnoseRelearn)
