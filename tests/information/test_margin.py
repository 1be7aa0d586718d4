"""The protective margin: bounds hold, nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modalign.information.margin import LossHinge, gradient_scale, guarded_gradients, ramp


def test_scale_by_hand() -> None:
    task, pull = torch.tensor([4.0, 4.0, 0.0, 4.0]), torch.tensor([1.0, 100.0, 1.0, 0.0])
    # norms 2 and 1: .3 * 2 / 1; 2 and 10: .3 * 2 / 10; no task, no pull; no pull to bound
    torch.testing.assert_close(gradient_scale(task, pull, 0.3), torch.tensor([0.6, 0.06, 0.0, 1.0]))
    assert gradient_scale(torch.ones(1), torch.full((1,), 1e-4)).item() == 1


@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e3, 0.0])
def test_bound_holds_for_each_modality(strength: float) -> None:
    encoders = [nn.Linear(3, 4), nn.Linear(2, 4)]
    head = nn.Linear(4, 1)
    x = [torch.randn(6, 3), torch.randn(6, 2)]
    z = [e(part) for e, part in zip(encoders, x, strict=True)]
    task = (head(z[0] + z[1]) ** 2).mean()
    pull = strength * (z[0] * z[1]).sum()
    guarded = guarded_gradients(z, pull, task, rho=0.3)
    free = torch.autograd.grad(pull, z, retain_graph=True)
    of_task = torch.autograd.grad(task, z, retain_graph=True)
    for bounded, g, t, scale in zip(guarded.gradients, free, of_task, guarded.scales, strict=True):
        assert bounded.norm() <= 0.3 * t.norm() * (1 + 1e-5)
        torch.testing.assert_close(bounded, g * scale)
        assert (scale == 1) == bool(g.norm() <= 0.3 * t.norm())
    assert head.weight.grad is None


def test_one_backward_pass_adds_up() -> None:
    """Encoders receive the task's gradient and the bounded pull, the head the task's alone."""
    encoder, head = nn.Linear(3, 4), nn.Linear(4, 1)
    x = torch.randn(5, 3)
    z = [encoder(x)]
    task, pull = head(z[0]).square().mean(), z[0].sum()
    guarded = guarded_gradients(z, pull, task)
    torch.autograd.backward([task, *z], [None, *guarded.gradients])
    alone = head(encoder(x)).square().mean() + guarded.scales[0] * encoder(x).sum()
    expected = torch.autograd.grad(alone, [encoder.weight, head.weight])
    torch.testing.assert_close(encoder.weight.grad, expected[0])
    torch.testing.assert_close(head.weight.grad, expected[1])


def test_feature_without_task_gradient_is_not_pulled() -> None:
    z = [torch.randn(3, 2, requires_grad=True), torch.randn(3, 2, requires_grad=True)]
    guarded = guarded_gradients(z, (z[0] * z[1]).sum(), z[0].sum())
    assert guarded.gradients[0].any()
    assert not guarded.gradients[1].any()


def test_ramp() -> None:
    assert [ramp(p) for p in (0.0, 0.15, 0.3, 1.0)] == pytest.approx([0, 0.5, 1, 1])


def losses_of(levels, noise=0.1, seed=0):
    """A batch's loss for each level, with the noise of batches."""
    return torch.tensor(levels)[:, None] + noise * torch.randn(len(levels), 1, generator=torch.manual_seed(seed))


def test_hinge_is_zero_without_gradient_while_nothing_is_lost() -> None:
    falling = losses_of([2.0 * 0.97**k + 0.3 for k in range(200)])
    hinge, values = LossHinge(1), []
    for batch in falling:
        loss = batch.clone().requires_grad_()
        value = hinge(loss)
        (gradient,) = torch.autograd.grad(value.sum(), loss)
        assert bool(gradient.any()) == bool(value.detach().any())
        values.append(value.item())
    assert sum(v > 0 for v in values) <= 10  # noise alone, of 200 batches
    assert sum(values) < 0.2


def test_hinge_is_what_is_lost_with_the_gradient_of_the_loss_and_moves_no_reference_up() -> None:
    hinge = LossHinge(2)
    for batch in losses_of([0.3] * 100):
        hinge(torch.cat([batch, batch]))
    for batch in losses_of([1.3] * 40, seed=1):
        loss = torch.cat([batch, batch - 1.1]).requires_grad_()
        value = hinge(loss)
    assert value[0].item() == pytest.approx(1.0, abs=0.25)
    assert value[1] == 0
    (gradient,) = torch.autograd.grad(3 * value.sum(), loss)
    assert gradient.tolist() == [3.0, 0.0]
    again = LossHinge(2)
    again.load_state_dict(hinge.state_dict())
    assert torch.equal(again(torch.ones(2)), hinge(torch.ones(2)))


def test_the_hinge_has_no_reference_before_twenty_batches() -> None:
    hinge = LossHinge(1)
    for _ in range(19):
        hinge(torch.ones(1))
    assert hinge.best.isinf().all()
    hinge(torch.ones(1))
    assert hinge.best.item() == pytest.approx(1.0)
