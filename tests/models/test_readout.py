"""The readout against Bayes' rule on discrete distributions, the tree bound against brute force and Gaussians."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from modalign.errors import InputError
from modalign.models.readout import (
    class_log_prior,
    context_aware_readout,
    fusion_strength,
    product_of_experts,
    total_correlation_bound,
)


def posterior(table: Tensor) -> Tensor:
    """log p(y | all the other axes) of a joint table whose first axis is y, as (cells, C)."""
    return (table / table.sum(0, keepdim=True)).flatten(1).T.log()


def unimodal_posteriors(table: Tensor) -> dict[str, Tensor]:
    """log p(y | z_m) for every cell of the joint table, (cells, C) each."""
    given = {}
    for m in range(1, table.ndim):
        others = tuple(k for k in range(1, table.ndim) if k != m)
        alone = table.sum(others, keepdim=True) if others else table
        conditional = alone / alone.sum(0, keepdim=True)
        given[f"m{m}"] = conditional.expand_as(table).flatten(1).T.log()
    return given


def conditionally_independent(*sizes: int) -> Tensor:
    """p(y) prod_m p(z_m | y) with an uneven p(y), as a table (C, *sizes)."""
    table = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    table = table.view(-1, *[1] * len(sizes))
    for m, size in enumerate(sizes):
        shape = [3] + [size if k == m else 1 for k in range(len(sizes))]
        table = table * torch.randn(3, size, dtype=torch.float64).softmax(1).view(shape)
    return table


@pytest.mark.parametrize("sizes", [(4,), (2, 5), (3, 2, 4)])
def test_exact_under_conditional_independence(sizes: tuple[int, ...]) -> None:
    table = conditionally_independent(*sizes)
    experts = unimodal_posteriors(table)
    present = torch.ones(math.prod(sizes), len(sizes), dtype=torch.bool)
    log_prior = table.flatten(1).sum(1).log()
    given = product_of_experts(experts, present, log_prior)
    torch.testing.assert_close(given, posterior(table).float(), rtol=1e-5, atol=1e-5)
    at_zero = context_aware_readout(torch.randn_like(given), experts, present, 0.0, log_prior)
    torch.testing.assert_close(at_zero, given)
    if len(sizes) > 1:
        without = product_of_experts(experts, present)
        assert (without - given).abs().max() > 0.1, "the prior's correction matters when classes are uneven"


def test_missing_modalities_are_marginalised() -> None:
    table = conditionally_independent(3, 2)
    experts = unimodal_posteriors(table)
    log_prior = table.flatten(1).sum(1).log()
    present = torch.tensor([[True, False], [False, True], [False, False]]).repeat(2, 1)
    given = product_of_experts(
        {m: torch.randn(6, 3).double() if m == "x" else e for m, e in experts.items()}, present, log_prior
    )
    torch.testing.assert_close(given[0], experts["m1"][0].float())
    torch.testing.assert_close(given[1], experts["m2"][1].float())
    torch.testing.assert_close(given[2], log_prior.float())


def test_mixture_by_hand() -> None:
    joint = torch.tensor([[0.7, 0.3]]).log() + 5
    experts = {"a": torch.tensor([[0.4, 0.6]]).log(), "b": torch.tensor([[0.9, 0.1]]).log() - 2}
    present = torch.ones(1, 2, dtype=torch.bool)
    raw = torch.tensor([0.7**0.25 * (0.4 * 0.9) ** 0.75, 0.3**0.25 * (0.6 * 0.1) ** 0.75])
    given = context_aware_readout(joint, experts, present, torch.tensor(0.25))
    torch.testing.assert_close(given[0].exp(), raw / raw.sum())
    at_one = context_aware_readout(joint, experts, present, 1.0, torch.tensor([0.2, 0.8]).log())
    torch.testing.assert_close(at_one, joint.log_softmax(1))


def test_strength_per_sample() -> None:
    joint, experts = torch.randn(2, 3), {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}
    present = torch.ones(2, 2, dtype=torch.bool)
    given = context_aware_readout(joint, experts, present, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(given[0], product_of_experts(experts, present)[0])
    torch.testing.assert_close(given[1], joint[1].log_softmax(0))


def test_single_output_mixes_scores() -> None:
    experts = {"a": torch.tensor([[1.0], [1.0], [9.0]]), "b": torch.tensor([[3.0], [9.0], [9.0]])}
    present = torch.tensor([[True, True], [True, False], [False, False]])
    given = context_aware_readout(torch.full((3, 1), 10.0), experts, present, 0.5)
    torch.testing.assert_close(given, torch.tensor([[6.0], [5.5], [10.0]]))


def test_columns_must_agree() -> None:
    with pytest.raises(InputError, match="1 modalities have logits but 'present' has 2 columns"):
        product_of_experts({"a": torch.zeros(1, 2)}, torch.ones(1, 2, dtype=torch.bool))


def test_class_log_prior() -> None:
    given = class_log_prior((3, 0, 1)).exp()
    torch.testing.assert_close(given, torch.tensor([4 / 7, 1 / 7, 2 / 7]))


def test_fusion_strength() -> None:
    given = fusion_strength(torch.tensor([-1.0, 0.0, math.log(2), 50.0]))
    torch.testing.assert_close(given, torch.tensor([0.0, 0.0, 0.5, 1.0]))
    assert fusion_strength(1e-6).item() == pytest.approx(1e-6, rel=1e-3)


def test_tree_against_brute_force() -> None:
    names = "abcde"
    pairs = list(itertools.combinations(names, 2))
    for _ in range(5):
        weights = dict(zip(pairs, torch.rand(len(pairs)).tolist(), strict=True))

        def spans(edges: tuple[tuple[str, str], ...]) -> bool:
            reached = {"a"}
            for _ in names:
                reached |= {x for edge in edges if reached & set(edge) for x in edge}
            return len(reached) == len(names)

        best = max(sum(weights[e] for e in edges) for edges in itertools.combinations(pairs, 4) if spans(edges))
        assert total_correlation_bound(weights) == pytest.approx(best)


def test_tree_bounds_gaussian_total_correlation() -> None:
    """TC = -1/2 log det R; I of a pair = -1/2 log(1 - r^2). A Markov chain reaches the bound."""

    def parts(r: Tensor) -> tuple[float, float]:
        pairs = {
            (str(i), str(j)): -0.5 * torch.log1p(-(r[i, j] ** 2)) for i, j in itertools.combinations(range(len(r)), 2)
        }
        return total_correlation_bound(pairs), -0.5 * torch.logdet(r).item()

    for _ in range(20):
        x = torch.randn(4, 12, dtype=torch.float64)
        bound, total = parts(torch.corrcoef(x))
        assert 0 < bound <= total + 1e-9
    distance = (torch.arange(4)[:, None] - torch.arange(4)).abs()
    bound, total = parts(0.7 ** distance.double())
    assert bound == pytest.approx(total, rel=1e-6)


def test_tree_edge_cases() -> None:
    assert total_correlation_bound({}) == 0
    assert total_correlation_bound({("a", "b"): torch.tensor(-0.3)}) == 0
    assert total_correlation_bound({("a", "b"): 0.4, ("b", "c"): -0.1}) == pytest.approx(0.4)
    for pair, value in ((("a", "a"), 0.1), (("a", "b"), math.nan)):
        with pytest.raises(InputError, match="expected two modalities, a finite number"):
            total_correlation_bound({pair: value})
