"""The Cox loss against its formula, term by term."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modalign.data.task import Task

SURVIVAL = Task("survival")


def partial_likelihood(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Each event's log-sum over all that are at risk, less its own risk (Breslow): a slow loop."""
    terms = []
    for i in range(len(risk)):
        if event[i]:
            at_risk = [risk[j] for j in range(len(risk)) if time[j] >= time[i]]
            terms.append(torch.stack(at_risk).exp().sum().log() - risk[i])
    return torch.stack(terms).sum() / len(terms)


def test_the_cox_loss_is_the_partial_likelihood_with_ties_and_so_is_its_gradient() -> None:
    """Times are few, so that most are tied, events with censored ones too."""
    generator = torch.Generator().manual_seed(0)
    risk = torch.randn(40, generator=generator).requires_grad_()
    time = torch.randint(1, 8, (40,), generator=generator).float()
    event = torch.rand(40, generator=generator) < 0.6
    loss, slow = SURVIVAL.loss(risk[:, None], torch.stack([time, event], 1)), partial_likelihood(risk, time, event)
    assert loss.item() == pytest.approx(slow.item(), rel=1e-5)
    fast_gradient, slow_gradient = (torch.autograd.grad(value, risk)[0] for value in (loss, slow))
    assert torch.allclose(fast_gradient, slow_gradient, atol=1e-6)


def test_one_event_by_hand_whatever_the_order_of_the_rows() -> None:
    """Of three, the one that dies second is compared with itself and with who lives longer."""
    risk, time, event = [0.5, -1.0, 2.0], [2.0, 3.0, 1.0], [1.0, 0.0, 0.0]
    expected = math.log(math.exp(0.5) + math.exp(-1.0)) - 0.5
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        rows = [[time[i], event[i]] for i in order]
        loss = SURVIVAL.loss(torch.tensor([risk[i] for i in order])[:, None], torch.tensor(rows))
        assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_terms_are_each_samples_own_and_zero_where_censored() -> None:
    """They add to the sum, and stand in the order of the rows."""
    risk, target = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[3.0, 1.0], [1.0, 0.0], [2.0, 1.0]])
    terms = SURVIVAL.loss(risk, target, "none")
    assert terms.tolist() == pytest.approx([0.0, 0.0, math.log(1 + math.exp(2.0)) - 2.0], abs=1e-6)
    assert SURVIVAL.loss(risk, target, "sum").item() == pytest.approx(terms.sum().item())


def test_without_any_event_the_loss_is_zero_and_has_a_gradient_of_zero() -> None:
    """A batch of censored samples teaches nothing, and breaks nothing."""
    risk = torch.randn(4, 1, requires_grad=True)
    loss = SURVIVAL.loss(risk, torch.tensor([[1.0, 0.0]] * 4))
    loss.backward()
    assert loss.item() == 0
    assert risk.grad is not None
    assert not risk.grad.any()


def test_labels_and_numbers_that_are_not_known_have_no_part_in_the_loss() -> None:
    """Sums by hand over those that are known, divided by all; their gradient is zero."""
    scores = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    target = torch.tensor([[1.0, torch.nan], [0.0, 1.0]])
    labels = Task("multilabel", ("a", "b"))
    each = [-math.log(1 / (1 + math.exp(-s))) for s in (1.0, -0.5, 3.0)]
    assert float(labels.loss(scores, target)) == pytest.approx(sum(each) / 4)
    assert labels.loss(scores, target, "none").tolist() == pytest.approx([each[0] / 2, (each[1] + each[2]) / 2])
    numbers = Task("regression", ("a", "b"), (0.0, 2.0), (1.0, 4.0))
    loss = numbers.loss(scores, target * 4)
    assert float(loss) == pytest.approx(((1 - 4) ** 2 + 0.5**2 + (3 - 0.5) ** 2) / 4)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad[0, 1] == 0
