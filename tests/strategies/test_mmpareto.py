"""MMPareto against brute force and its formulas written out, and on small models."""

from __future__ import annotations

import pytest
import torch

from modalign.data.info import DataInfo
from modalign.errors import InputError
from modalign.strategies.joint_unimodal import unimodal_losses
from modalign.strategies.mmpareto import MMPareto, combined, joint_share


def _conflicting(size: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    joint, own = torch.randn(size), torch.randn(size)
    if joint @ own > 0:  # reflect
        own = own - 2 * (joint @ own) / (joint @ joint) * joint
    return joint, own


def test_share_by_hand():
    """g_0 = (1, 0), g_m = (-1, 1): a_0 = (2 + 1) / 5, h = 2 (1/5, 2/5)."""
    joint, own = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    assert float(joint_share(joint, own)) == pytest.approx(0.6)
    # ||g_0 + g_m|| = 1 is longer than ||h|| = 2 / sqrt(5), so h is brought to length 1, times gamma.
    direction = torch.tensor([1.0, 2.0]) / 5**0.5
    torch.testing.assert_close(combined(joint, own, 1.5), 1.5 * direction)


def test_share_is_the_shortest_combination_by_brute_force():
    for _ in range(20):
        joint, own = _conflicting()
        grid = torch.linspace(0, 1, 10001)
        lengths = (grid.unsqueeze(1) * joint + (1 - grid).unsqueeze(1) * own).norm(dim=1)
        assert float(joint_share(joint, own)) == pytest.approx(float(grid[lengths.argmin()]), abs=2e-4)


def test_under_conflict_the_direction_opposes_neither_and_is_no_shorter_than_the_sum():
    for _ in range(50):
        joint, own = _conflicting()
        direction = combined(joint, own, 1.5)
        assert direction @ joint > 0
        assert direction @ own > 0
        assert direction.norm() >= 1.5 * (joint + own).norm() * (1 - 1e-5)


def test_rescaling_by_tensor_can_lose_the_pareto_property():
    """What the published code, and the default, gives away: here the step would raise the modality's own loss."""
    joint, own = torch.tensor([1.0, 0.5]), torch.tensor([-8.0, 4.0])
    assert combined(joint, own, 1.5, sizes=[1, 1]) @ own < 0
    assert combined(joint, own, 1.5) @ own > 0


@pytest.mark.parametrize("sizes", [None, [10, 20]])
def test_without_conflict_it_is_gamma_times_the_plain_sum(sizes):
    joint, own = torch.randn(30).abs(), torch.randn(30).abs()
    torch.testing.assert_close(combined(joint, own, 1.5, sizes), 1.5 * (joint + own))


def test_the_default_is_that_of_the_published_code():
    assert MMPareto.Options() == MMPareto.Options(gamma=1.5, rescale="tensor")


def test_rescaling_by_tensor_against_the_formula():
    joint, own = _conflicting()
    share = ((own @ own) - (joint @ own)) / (joint - own).square().sum()
    h = 2 * share * joint + 2 * (1 - share) * own
    wanted = torch.cat(
        [
            1.5 * part * max(1.0, float((joint + own)[rows].norm() / part.norm()))
            for rows in (slice(0, 10), slice(10, 30))
            for part in [h[rows]]
        ]
    )
    torch.testing.assert_close(combined(joint, own, 1.5, [10, 20]), wanted)


def test_a_zero_gradient_is_no_conflict():
    joint, zero = torch.randn(30), torch.zeros(30)
    torch.testing.assert_close(combined(joint, zero, 1.5), 1.5 * joint)
    torch.testing.assert_close(combined(zero, joint, 1.5), 1.5 * joint)
    torch.testing.assert_close(combined(zero, zero, 1.5, [10, 20]), zero)


def test_opposite_gradients_cancel_without_nan():
    joint = torch.randn(30)
    assert combined(joint, -joint, 1.5).abs().max() < 1e-6


def test_what_is_not_finite_stays_so_that_half_precision_skips_the_step():
    joint, own = _conflicting()
    joint[0] = torch.inf
    assert not torch.isfinite(combined(joint, own, 1.5)).all()


@pytest.mark.parametrize("rescale", ["encoder", "tensor"])
@pytest.mark.parametrize("widths", [(6, 5), (6, 5, 4)])
def test_gradients_of_a_step_against_separate_backward_passes(make_data, make_model, make_stepper, widths, rescale):
    data = make_data(widths, missing=0.2)
    batch = data.train.__getitems__(list(range(20)))

    def gradients(pick):
        model = make_model(data)
        pick(model(batch)).backward()
        return {name: p.grad for name, p in model.named_parameters()}

    joint = gradients(lambda output: data.task.loss(output.logits, batch.target))
    own = {
        m: gradients(lambda output, m=m: unimodal_losses(data.task, output, batch)[f"task_{m}"])
        for m in data.modalities
    }
    strategy = MMPareto(make_model(data), DataInfo.of(data), MMPareto.Options(rescale=rescale))
    strategy.step(batch, make_stepper(strategy, [batch], loss_scale=1.0))
    result = {name: p.grad for name, p in strategy.model.named_parameters()}
    for name, gradient in result.items():
        if not name.startswith("encoders."):
            parts = [g[name] for g in (joint, *own.values()) if g[name] is not None]
            torch.testing.assert_close(gradient, sum(parts))
    for m in data.modalities:
        names = [name for name in result if name.startswith(f"encoders.{m}.")]
        flat = [torch.cat([g[name].flatten() for name in names]) for g in (joint, own[m], result)]
        sizes = [result[name].numel() for name in names] if rescale == "tensor" else None
        torch.testing.assert_close(flat[2], combined(flat[0], flat[1], 1.5, sizes))


def test_gradients_accumulate_and_scale(make_data, make_model, make_stepper):
    """Two batches a step add up; a loss scale comes out as a factor."""
    data = make_data()
    batches = data.train.batches(20)

    def gradients(picked, **settings):
        strategy = MMPareto(make_model(data), DataInfo.of(data), MMPareto.Options())
        stepper = make_stepper(strategy, picked, **settings)
        for batch in picked:
            strategy.step(batch, stepper)
        return [p.grad for p in strategy.parameters()]

    each = [gradients([batch]) for batch in batches]
    for first, second, both, large in zip(
        *each, gradients(batches, accumulate=2), gradients(batches[:1], loss_scale=1024.0), strict=True
    ):
        torch.testing.assert_close(both, (first + second) / 2)
        torch.testing.assert_close(large, 1024 * first)


def test_a_modality_absent_from_a_batch_does_not_stop_the_others(make_data, make_model, make_stepper):
    data = make_data((6, 5, 4))
    batch = data.train.__getitems__(list(range(10))).mask(["a", "c"])
    strategy = MMPareto(make_model(data), DataInfo.of(data), MMPareto.Options())
    strategy.step(batch, make_stepper(strategy, [batch]))
    grads = {m: [p.grad for p in strategy.model.encoders[m].parameters()] for m in data.modalities}
    assert all(not g.any() for g in grads["b"])
    assert all(torch.isfinite(g).all() for m in grads for g in grads[m])
    assert any(g.any() for g in grads["a"])


def test_conflicts_are_counted(make_data, make_model, make_stepper):
    data = make_data()
    strategy = MMPareto(make_model(data), DataInfo.of(data), MMPareto.Options())
    make_stepper(strategy, data.train.batches(10)).fit(1)
    assert strategy.steps == 4
    assert set(strategy.metrics()) == {"conflicts_a", "conflicts_b"}
    assert all(0 <= share <= 1 for share in strategy.metrics().values())


def test_bad_options_are_refused():
    with pytest.raises(InputError, match="gamma is 0"):
        MMPareto.Options(gamma=0)


@pytest.mark.parametrize("rescale", ["encoder", "tensor"])
def test_trains_on_every_small_case(check_trains, rescale):
    check_trains(MMPareto, rescale=rescale)
