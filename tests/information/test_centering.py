"""Running means of features given their context."""

from __future__ import annotations

import pytest
import torch

from modalign.information import ContextMeans


def test_the_first_batch_gives_its_own_means() -> None:
    means = ContextMeans(3, 2, 2)
    z, context = torch.randn(2, 6, 2), torch.tensor([0, 2, 0, 2, 2, 0])
    present = torch.tensor([[True, False]] * 3 + [[True, True]] * 2 + [[True, False]])
    means.observe(z, context, present)
    centered = means(z, context)
    for m, rows in enumerate(present.T):
        for c in (0, 2):
            there = rows & (context == c)
            if there.any():
                torch.testing.assert_close(centered[m, there].mean(0), torch.zeros(2))
    # A context that has not been seen, of one modality or of all, is left as it is.
    assert torch.equal(centered[1, context == 0], z[1, context == 0])
    assert torch.equal(means(z, torch.ones_like(context)), z)


def test_later_batches_move_the_means_a_fifth_of_the_way() -> None:
    means = ContextMeans(2, 1, 1)
    zero, one = torch.tensor([0]), torch.tensor([1])
    means.observe(torch.tensor([[[10.0]]]), zero)
    means.observe(torch.tensor([[[20.0]]]), zero)
    assert means(torch.zeros(1, 1, 1), zero).item() == pytest.approx(-12)
    means.observe(torch.tensor([[[5.0], [7.0]]]), torch.tensor([1, 1]))
    assert means(torch.zeros(1, 1, 1), one).item() == pytest.approx(-6)
    assert means(torch.zeros(1, 1, 1), zero).item() == pytest.approx(-12)
    means.observe(torch.zeros(1, 0, 1), torch.zeros(0, dtype=torch.int64))
    assert means(torch.zeros(1, 1, 1), one).item() == pytest.approx(-6)


@pytest.mark.parametrize("context", [None, torch.randn(8, 3)])
def test_one_mean_where_contexts_have_no_codes(context: torch.Tensor | None) -> None:
    means = ContextMeans(None, 1, 4)
    z = torch.randn(1, 8, 4) + 3
    means.observe(z, context)
    torch.testing.assert_close(means(z, context), z - z.mean(1))


def test_gradients_pass_and_the_means_have_none() -> None:
    means = ContextMeans(2, 1, 3)
    z = torch.randn(1, 5, 3, requires_grad=True)
    context = torch.tensor([0, 1, 1, 0, 1])
    means.observe(z, context)
    means(z, context).sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))
    assert means(z.half(), context).dtype == torch.float16


def test_forgotten_means_start_anew() -> None:
    means = ContextMeans(2, 1, 1)
    code = torch.tensor([1])
    means.observe(torch.tensor([[[10.0]]]), code)
    means.forget()
    assert means(torch.zeros(1, 1, 1), code).item() == 0
    means.observe(torch.tensor([[[4.0]]]), code)
    assert means(torch.zeros(1, 1, 1), code).item() == -4
