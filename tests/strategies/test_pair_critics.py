"""All pairs of modalities at once, against one pair after the other."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from modalign.information import LearnedContext
from modalign.strategies.modalign import ModAlignOptions
from modalign.strategies.pair_critics import PairCritics, stacked

DIMS = {"a": 4, "b": 3, "c": 5}
SAMPLES, CONTEXTS = 18, 4


def make(modalities=3, contexts=CONTEXTS, minimum=4, **options) -> PairCritics:
    """Critics in float64 that have seen a batch, remember some of it, and depend on T."""
    torch.manual_seed(0)
    dims = dict(list(DIMS.items())[:modalities])
    embed = None if contexts is None else lambda: LearnedContext(contexts)
    options = {"critic_width": 6, "memory": 3, "memory_minimum": minimum} | options
    critics = PairCritics(dims, embed, contexts, None, ModAlignOptions(**options)).double()
    for parameter in critics.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    features, present, context = batch(modalities, contexts)
    critics.observe(features, present, context)
    critics.remember(features, present, context)
    return critics


def batch(modalities=3, contexts=CONTEXTS, missing=0.3):
    """(M, N, 5) features, (N, M) present and (N,) contexts, of which one has a single sample."""
    features = torch.randn(modalities, SAMPLES, max(list(DIMS.values())[:modalities]), dtype=torch.float64)
    present = torch.rand(SAMPLES, modalities) >= missing
    present[~present.any(1), 0] = True
    context = torch.cat([torch.zeros(1).long(), torch.randint(1, CONTEXTS, (SAMPLES - 1,))])
    return features, present, None if contexts is None else context


def value_and_gradients(critics, features, *given):
    features = features.clone().requires_grad_()
    objective = critics(features, *given)
    wrt = [features, *critics.parameters()]
    gradients = torch.autograd.grad(objective, wrt, allow_unused=True)
    return objective, [torch.zeros_like(x) if g is None else g for x, g in zip(wrt, gradients, strict=True)]


@pytest.mark.parametrize("form", ["nce3", "nce2"])
@pytest.mark.parametrize("case", [{}, {"memory": 0}, {"modalities": 2}, {"contexts": None}, {"minimum": 100}], ids=str)
def test_all_pairs_at_once_equal_one_after_the_other(form, case):
    critics = make(objective=form, **case)
    given = batch(critics.means.mean.shape[0], None if case.get("contexts", 0) is None else CONTEXTS)
    plan = critics.observe(*given)
    assert plan is not None
    assert (plan.recent is not None) == (critics.memory is not None)
    value, gradients = value_and_gradients(critics, *given, plan)
    literal, expected = value_and_gradients(critics, *given, None)
    torch.testing.assert_close(value, literal)
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_remembered_is_seen_by_the_critic_as_it_is_now(at_once):
    """Kept as an earlier critic embedded it, a negative would be told from a positive by its age."""
    before, after = make(minimum=100), make(minimum=100)
    remembered, given = batch(), batch()
    before.memory.forget()
    before.remember(*remembered)
    for parameter in before.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    after.load_state_dict(before.state_dict())
    after.memory.forget()
    after.remember(*remembered)
    values = [critics(*given, critics.observe(*given) if at_once else None) for critics in (before, after)]
    torch.testing.assert_close(*values)


def test_a_batch_without_any_pair_has_no_gradient():
    critics = make(2)
    features, present, context = batch(2)
    present[:, 1] = False
    plan = critics.observe(features, present, context)
    objective, gradients = value_and_gradients(critics, features, present, context, plan)
    assert objective == 0
    assert all(not g.any() for g in gradients)


def test_what_cannot_be_taken_at_once_is_taken_one_by_one():
    for options in ({"objective": "infonce"}, {"critic": "bilinear"}, {"critic": "mlp"}):
        critics = make(**options)
        assert critics.observe(*batch()) is None
        assert torch.isfinite(critics(*batch(), None))


@pytest.mark.parametrize("critic", ["separable", "bilinear", "mlp"])
def test_scores_of_every_context_are_those_of_each(critic):
    critics = make(critic=critic)
    features, present, _ = batch()
    by_name = {m: z[:, :d] for (m, d), z in zip(DIMS.items(), features, strict=True)}
    said = critics.every_context(by_name, present)
    assert said.shape == (SAMPLES, 3, CONTEXTS)
    rows = stacked(by_name).transpose(0, 1)
    for c in range(CONTEXTS):
        code = torch.full((SAMPLES,), c)
        keys = critics.keys(rows, code)
        for p, (a, b) in enumerate(combinations(range(3), 2)):
            one = critics.critic(p)
            expected = one.diagonal(*one.embed(keys[a], keys[b], code)) * (present[:, a] & present[:, b])
            torch.testing.assert_close(said[:, p, c].double(), expected, rtol=1e-4, atol=1e-5)


def test_information_is_that_of_trained_critics_and_zero_without_partners():
    critics = make(2, memory=0, objective="nce3")
    torch.manual_seed(1)
    context = torch.randint(CONTEXTS, (400,))
    shared = torch.randn(400, 4, dtype=torch.float64)
    features = torch.stack([shared, shared + 0.3 * torch.randn(400, 4)])
    present = torch.ones(400, 2, dtype=torch.bool)
    optimizer = torch.optim.AdamW(critics.parameters(), lr=1e-2)
    for _ in range(60):
        plan = critics.observe(features[:, :200], present[:200], context[:200])
        (-critics(features[:, :200], present[:200], context[:200], plan)).backward()
        optimizer.step()
        optimizer.zero_grad()
    held_out = dict(zip("ab", features[:, 200:], strict=True))
    critics.estimate(held_out, present[200:], context[200:])
    assert 0.5 < critics.information()["a", "b"] < 6  # 4.97 in truth, more than 60 steps find
    critics.estimate({m: z[:4] for m, z in held_out.items()}, present[:4], torch.arange(4))
    assert critics.information()["a", "b"] == 0
