"""Running means of features given their context."""

from __future__ import annotations

import pytest
import torch

from modalign.information import ContextMeans


def test_the_first_batch_gives_its_own_means() -> None:
    means = ContextMeans(3, [2, 1])
    z, context = torch.randn(6, 2), torch.tensor([0, 2, 0, 2, 2, 0])
    means.observe(0, z, context)
    centered = means(0, z, context)
    for c in (0, 2):
        torch.testing.assert_close(centered[context == c].mean(0), torch.zeros(2))
    # A context that has not been seen, and another modality, are left as they are.
    assert torch.equal(means(0, z, torch.ones_like(context)), z)
    assert torch.equal(means(1, z[:, :1], context), z[:, :1])


def test_later_batches_move_the_means_a_fifth_of_the_way() -> None:
    means = ContextMeans(2, [1])
    zero, one = torch.tensor([0]), torch.tensor([1])
    means.observe(0, torch.tensor([[10.0]]), zero)
    means.observe(0, torch.tensor([[20.0]]), zero)
    assert means(0, torch.zeros(1, 1), zero).item() == pytest.approx(-12)
    means.observe(0, torch.tensor([[5.0], [7.0]]), torch.tensor([1, 1]))
    assert means(0, torch.zeros(1, 1), one).item() == pytest.approx(-6)
    assert means(0, torch.zeros(1, 1), zero).item() == pytest.approx(-12)
    means.observe(0, torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64))
    assert means(0, torch.zeros(1, 1), one).item() == pytest.approx(-6)


@pytest.mark.parametrize("context", [None, torch.randn(8, 3)])
def test_one_mean_where_contexts_have_no_codes(context: torch.Tensor | None) -> None:
    means = ContextMeans(None, [4])
    z = torch.randn(8, 4) + 3
    means.observe(0, z, context)
    torch.testing.assert_close(means(0, z, context), z - z.mean(0))


def test_gradients_pass_and_the_means_have_none() -> None:
    means = ContextMeans(2, [3])
    z = torch.randn(5, 3, requires_grad=True)
    context = torch.tensor([0, 1, 1, 0, 1])
    means.observe(0, z, context)
    means(0, z, context).sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))
    assert means(0, z.half(), context).dtype == torch.float16


def test_forgotten_means_start_anew() -> None:
    means = ContextMeans(2, [1])
    code = torch.tensor([1])
    means.observe(0, torch.tensor([[10.0]]), code)
    means.forget()
    assert means(0, torch.zeros(1, 1), code).item() == 0
    means.observe(0, torch.tensor([[4.0]]), code)
    assert means(0, torch.zeros(1, 1), code).item() == -4
