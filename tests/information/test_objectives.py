"""Objectives against literal loops, values worked out by hand, finite differences and the known optimum."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modalign.errors import InputError
from modalign.information.contexts import pair_masks
from modalign.information.objectives import (
    conditional_nce,
    donsker_varadhan,
    info_nce,
    information,
    pointwise_information,
    two_term_nce,
)

OBJECTIVES = {
    "nce3": conditional_nce,
    "nce2": two_term_nce,
    "infonce": info_nce,
    "donsker_varadhan": donsker_varadhan,
}


def literal(name: str, scores: Tensor, positive: Tensor, negative: Tensor) -> float:
    """The formulas, pair by pair, with probabilities."""
    s = scores.tolist()
    n, m = scores.shape
    pairs = [(i, j) for i in range(n) for j in range(m)]
    pos = [(i, j) for i, j in pairs if positive[i, j]]
    neg = [(i, j) for i, j in pairs if negative[i, j]]
    h = {(i, j): 1 / (1 + math.exp(-s[i][j])) for i, j in pairs}
    if name in ("nce3", "nce2"):
        first = sum(math.log(h[p]) for p in pos) / len(pos)
        second = sum(math.log(1 - h[p]) for p in neg) / len(neg)
        r = len(neg) / len(pos)
        return first + r * second + (r * first if name == "nce3" else 0)
    if name == "donsker_varadhan":
        return sum(s[i][j] for i, j in pos) / len(pos) - math.log(sum(math.exp(s[i][j]) for i, j in neg) / len(neg))
    total = 0.0
    for i, j in pos:
        for others in ([k for k in neg if k[0] == i], [k for k in neg if k[1] == j]):
            e = sum(math.exp(s[a][b]) for a, b in others)
            total += math.log(math.exp(s[i][j]) / ((math.exp(s[i][j]) + e) / (1 + len(others)))) / 2
    return total / len(pos)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_equals_the_literal_loop(name: str) -> None:
    scores = torch.randn(9, 9, dtype=torch.float64) * 3
    positive, negative = pair_masks(torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3]))
    value = OBJECTIVES[name](scores, positive, negative)
    assert value.item() == pytest.approx(literal(name, scores, positive, negative), rel=1e-12)


def test_hand_calculated() -> None:
    """Two samples, one context: h = 3/4 on positives, 1/4 on negatives, r = 1."""
    s = math.log(3)
    scores = torch.tensor([[s, -s], [-s, s]])
    positive, negative = pair_masks(torch.tensor([5, 5]))
    log34 = math.log(3 / 4)
    assert conditional_nce(scores, positive, negative).item() == pytest.approx(3 * log34)
    assert two_term_nce(scores, positive, negative).item() == pytest.approx(2 * log34)
    # e^s = 3 against 1/3, of two candidates
    assert info_nce(scores, positive, negative).item() == pytest.approx(math.log(3 / ((3 + 1 / 3) / 2)))
    assert donsker_varadhan(scores, positive, negative).item() == pytest.approx(2 * s)
    assert information(scores, positive, negative, "nce3").item() == pytest.approx(s - math.log(2))
    assert information(scores, positive, negative, "nce2").item() == pytest.approx(s)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_equals_finite_differences(name: str) -> None:
    scores = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    positive, negative = pair_masks(torch.tensor([0, 0, 0, 1, 1, 2]))
    weight = torch.rand(6, 6, dtype=torch.float64) * negative
    assert torch.autograd.gradcheck(lambda s: OBJECTIVES[name](s, positive, weight), scores)


@pytest.mark.parametrize("form", ["nce3", "nce2"])
def test_optimal_logit(form: str) -> None:
    """The best table of logits is log p/q + log((1+r)/r) (three terms) or log p/q - log r (two), here r = 5."""
    p = torch.tensor([[0.3, 0.05], [0.1, 0.25], [0.02, 0.28]], dtype=torch.float64)
    q = p.sum(1, keepdim=True) * p.sum(0, keepdim=True)
    table = torch.zeros_like(p, requires_grad=True)
    positive = torch.cat([p[None], torch.zeros(5, 3, 2, dtype=torch.float64)])
    negative = torch.cat([torch.zeros(1, 3, 2, dtype=torch.float64), q.expand(5, 3, 2)])
    optimizer = torch.optim.LBFGS([table], 1, 200, None, 1e-12, 0, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -OBJECTIVES[form](table.expand(6, 3, 2), positive, negative)
        value.backward()
        return value

    optimizer.step(loss)
    offset = math.log(6 / 5) if form == "nce3" else -math.log(5)
    torch.testing.assert_close(table.detach(), (p / q).log() + offset, atol=1e-5, rtol=0)
    true = (p * (p / q).log()).sum()
    estimate = information(table.detach().expand(6, 3, 2), positive, negative, form)
    torch.testing.assert_close(estimate, true, atol=1e-5, rtol=0)
    pointwise = pointwise_information(table.detach(), 5.0, form)
    torch.testing.assert_close(pointwise, (p / q).log(), atol=1e-5, rtol=0)


def test_infonce_and_donsker_varadhan_at_the_truth() -> None:
    """With s = log p/q + any constant both give I in the limit: here the exact expectation is computed."""
    p = torch.tensor([[0.4, 0.1], [0.1, 0.4]], dtype=torch.float64)
    q = p.sum(1, keepdim=True) * p.sum(0, keepdim=True)
    true = (p * (p / q).log()).sum()
    scores = (p / q).log() + 7.0
    assert donsker_varadhan(scores, p, q).item() == pytest.approx(true.item())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_swapping_modalities_changes_nothing(name: str) -> None:
    scores = torch.randn(8, 8)
    positive, negative = pair_masks(torch.arange(8) % 3)
    one = OBJECTIVES[name](scores, positive, negative)
    torch.testing.assert_close(one, OBJECTIVES[name](scores.T, positive.T, negative.T))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("value", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("context", [[0], [0, 0, 0, 0], [0, 1, 2, 3]])
def test_never_nan(name: str, value: float, dtype: torch.dtype, context: list[int]) -> None:
    """Huge logits, a batch of one, one context, contexts of one sample."""
    codes = torch.tensor(context)
    scores = torch.full((len(codes), len(codes)), value, dtype=dtype, requires_grad=True)
    objective = OBJECTIVES[name](scores, *pair_masks(codes))
    objective.backward()
    assert objective.dtype == torch.float32
    assert objective.isfinite()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_without_positives_zero_with_a_graph(name: str) -> None:
    scores = torch.randn(3, 3, requires_grad=True)
    none = torch.zeros(3, 3, dtype=torch.bool)
    objective = OBJECTIVES[name](scores, none, ~none)
    objective.backward()
    assert objective.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_without_negatives_only_the_first_term() -> None:
    scores = torch.tensor([[2.0]])
    yes = torch.ones(1, 1, dtype=torch.bool)
    assert conditional_nce(scores, yes, ~yes).item() == pytest.approx(math.log(1 / (1 + math.exp(-2))))
    assert info_nce(scores, yes, ~yes).item() == 0
    assert information(scores, yes, ~yes, "nce3").item() == 0


def test_scores_of_unused_pairs_do_not_matter() -> None:
    """Not even infinite ones."""
    scores = torch.randn(4, 4)
    positive, negative = pair_masks(torch.tensor([0, 0, 1, 1]))
    spoilt = scores.masked_fill(~(positive | negative), -torch.inf).requires_grad_()
    for objective in OBJECTIVES.values():
        value = objective(spoilt, positive, negative)
        torch.testing.assert_close(value, objective(scores, positive, negative))
        assert torch.autograd.grad(value, spoilt)[0].isfinite().all()


@pytest.mark.parametrize("name", ["nce3", "nce2", "donsker_varadhan"])
def test_weights_can_be_scaled_at_will(name: str) -> None:
    scores = torch.randn(5, 5)
    positive, negative = pair_masks(torch.zeros(5, dtype=torch.int64))
    one = OBJECTIVES[name](scores, positive, negative)
    torch.testing.assert_close(one, OBJECTIVES[name](scores, positive * 3.0, negative * 0.01))


def test_full_precision_under_autocast() -> None:
    scores = torch.randn(6, 6)
    masks = pair_masks(torch.zeros(6, dtype=torch.int64))
    for objective in OBJECTIVES.values():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = objective(scores, *masks)
        assert torch.equal(value, objective(scores, *masks))


def test_refusals() -> None:
    scores, mask = torch.zeros(2, 2), torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(InputError, match=r"\(2, 3\)"):
        conditional_nce(scores, mask, mask)
    with pytest.raises(InputError, match="two_term_nce"):
        info_nce(scores[0], scores[0], scores[0])
    with pytest.raises(InputError, match="give both masks"):
        conditional_nce(scores, scores)
    with pytest.raises(InputError, match="infonce_terms"):
        pointwise_information(scores, 1.0, "infonce")
    with pytest.raises(InputError, match="did you mean 'nce3'"):
        pointwise_information(scores, 1.0, "nce4")  # type: ignore[arg-type]
