"""Critics: shapes, the start without context, sides that agree, precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modalign.errors import InputError
from modalign.information.critics import (
    CRITICS,
    ContinuousContext,
    Critic,
    FixedContext,
    LearnedContext,
    make_critic,
)

B = 7


def trained(name: str, context: nn.Module | None) -> Critic:
    """A critic whose dependence on T has left its start at zero."""
    critic = make_critic(name, (5, 3), context)  # type: ignore[arg-type]
    for parameter in critic.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return critic


EMBEDDINGS = {
    "learned": (lambda: LearnedContext(4), torch.arange(B) % 4),
    "fixed": (lambda: FixedContext(torch.randn(4, 10)), torch.arange(B) % 4),
    "continuous": (lambda: ContinuousContext(2), torch.linspace(0, 1, 2 * B).reshape(B, 2)),
    "one_number": (lambda: ContinuousContext(1), torch.linspace(0, 1, B)),
}


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_all_ways_of_scoring_agree(name: str, kind: str) -> None:
    build, context = EMBEDDINGS[kind]
    critic = trained(name, build())
    z1, z2 = torch.randn(B, 5), torch.randn(B, 3)
    scores = critic(z1, z2, context)
    assert scores.shape == (B, B)
    left, right = critic.embed(z1, z2, context)
    torch.testing.assert_close(critic.diagonal(left, right), scores.diagonal())
    # one pair at a time, with the T of the left sample
    alone = [[critic(z1[i : i + 1], z2[j : j + 1], context[i : i + 1]).item() for j in range(B)] for i in range(B)]
    torch.testing.assert_close(scores, torch.tensor(alone), atol=1e-5, rtol=1e-4)
    # anchored on the right: the same with the T of the right sample
    other = critic.pair(*critic.embed(z1, z2, context, "right"))
    alone = [[critic(z1[i : i + 1], z2[j : j + 1], context[j : j + 1]).item() for j in range(B)] for i in range(B)]
    torch.testing.assert_close(other, torch.tensor(alone), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(other, scores)


@pytest.mark.parametrize("name", CRITICS)
def test_groups_of_pairs(name: str) -> None:
    critic = trained(name, None)
    left, right = critic.embed(torch.randn(12, 5), torch.randn(12, 3))
    grouped = critic.pair(left.view(3, 4, -1), right.view(3, 4, -1))
    whole = critic.pair(left, right)
    for g in range(3):
        torch.testing.assert_close(grouped[g], whole[4 * g : 4 * g + 4, 4 * g : 4 * g + 4])


@pytest.mark.parametrize("name", CRITICS)
def test_starts_without_context(name: str) -> None:
    critic = make_critic(name, (5, 3), LearnedContext(4))
    z1, z2 = torch.randn(B, 5), torch.randn(B, 3)
    zero = torch.zeros(B, dtype=torch.int64)
    torch.testing.assert_close(critic(z1, z2, zero), critic(z1, z2, zero + 3))
    critic(z1, z2, torch.arange(B) % 4).sum().backward()
    assert critic.modulation.weight.grad.any()  # type: ignore[union-attr]  # and it can leave that start


@pytest.mark.parametrize("name", CRITICS)
def test_full_precision_whatever_surrounds_it(name: str) -> None:
    critic = trained(name, None)
    z1, z2 = torch.randn(B, 5).half(), torch.randn(B, 3).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = critic(z1, z2)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, critic(z1.float(), z2.float()))
    assert critic.double()(z1, z2).dtype == torch.float64


def test_refusals() -> None:
    with pytest.raises(InputError, match="did you mean 'bilinear'"):
        make_critic("biliner", (3, 3))
    with pytest.raises(InputError, match="two modalities"):
        make_critic("mlp", (3, 3, 3))
    with pytest.raises(InputError, match="context"):
        make_critic("mlp", (3, 3), LearnedContext(2))(torch.zeros(1, 3), torch.zeros(1, 3))
