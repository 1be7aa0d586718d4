"""Every fusion on every subset of one to three modalities of different widths."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from modalign.errors import InputError
from modalign.models.fusion import FUSIONS, build_fusion, mixture_weights

DIMS = {"a": 5, "b": 3, "c": 8}
CLASSES = 4


def inputs(size: int, count: int) -> tuple[dict[str, int], dict[str, Tensor], dict[str, Tensor]]:
    """Dims, features and conditions of the first ``count`` modalities."""
    dims = dict(itertools.islice(DIMS.items(), count))
    features = {m: torch.randn(size, d, requires_grad=True) for m, d in dims.items()}
    return dims, features, {m: torch.randn(size, CLASSES).softmax(1) for m in dims}


def every_subset(count: int) -> Tensor:
    """(2^M, M) masks, the empty one first."""
    return torch.tensor(list(itertools.product([False, True], repeat=count)))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", FUSIONS)
def test_every_subset(name: str, count: int) -> None:
    """Finite everywhere; absent modalities reach neither the result nor get a gradient; present ones do."""
    present = every_subset(count)
    dims, features, conditions = inputs(len(present), count)
    fusion = build_fusion(name, dims, 16, CLASSES)
    fused = fusion(features, present, conditions)
    assert fused.shape == (len(present), fusion.width)
    assert fused.isfinite().all()
    (fused * torch.randn_like(fused)).sum().backward()
    for m, modality in enumerate(dims):
        reached = features[modality].grad.abs().sum(1) > 0
        assert torch.equal(reached, present[:, m]), modality

    other = {m: torch.where(present[:, k, None], z, torch.randn_like(z)) for k, (m, z) in enumerate(features.items())}
    torch.testing.assert_close(fusion(other, present, conditions), fused)


@pytest.mark.parametrize("name", FUSIONS)
def test_parameters_are_trained(name: str) -> None:
    dims, features, conditions = inputs(6, 3)
    fusion = build_fusion(name, dims, 16, CLASSES)
    fused = fusion(features, torch.ones(6, 3, dtype=torch.bool), conditions)
    (fused * torch.randn_like(fused)).sum().backward()
    for parameter_name, parameter in fusion.named_parameters():
        assert parameter.grad is not None, parameter_name


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("training", [True, False])
def test_rows_are_independent(name: str, training: bool) -> None:
    present = every_subset(3)
    dims, features, conditions = inputs(8, 3)
    fusion = build_fusion(name, dims, 16, CLASSES).train(training)
    with torch.no_grad():
        whole = fusion(features, present, conditions)
        one = fusion({m: z[3:4] for m, z in features.items()}, present[3:4], {m: c[3:4] for m, c in conditions.items()})
    torch.testing.assert_close(one, whole[3:4], rtol=1e-4, atol=1e-5)


def test_concat_and_sum_by_hand() -> None:
    dims, features, _ = inputs(2, 2)
    present = torch.tensor([[True, True], [False, True]])
    fused = build_fusion("concat", dims, 16, CLASSES)(features, present)
    torch.testing.assert_close(fused[0], torch.cat([features["a"][0], features["b"][0]]))
    torch.testing.assert_close(fused[1], torch.cat([torch.zeros(5), features["b"][1]]))
    added = build_fusion("sum", dims, 16, CLASSES)
    w = {m: added.projections[m].weight for m in dims}
    expected = torch.stack([w["a"] @ features["a"][0] + w["b"] @ features["b"][0], w["b"] @ features["b"][1]])
    torch.testing.assert_close(added(features, present), expected)


def test_tensor_is_the_full_outer_product() -> None:
    """Against the weight tensor (rank 4) written out over [z_a; 1] x [z_b; 1]."""
    dims, features, _ = inputs(3, 2)
    fusion = build_fusion("tensor", dims, 2, CLASSES, {"rank": 4})
    torch.nn.init.normal_(fusion.ranks.weight)

    def factor(m: str) -> Tensor:
        linear = fusion.factors[m]
        return torch.cat([linear.weight, linear.bias[:, None]], 1).unflatten(0, (2, 4))

    weight = torch.einsum("wri,wrj,r->wij", factor("a"), factor("b"), fusion.ranks.weight[0])
    a, b = (torch.cat([features[m], torch.ones(3, 1)], 1) for m in "ab")
    expected = torch.einsum("ni,nj,wij->nw", a, b, weight) + fusion.ranks.bias
    torch.testing.assert_close(fusion(features, torch.ones(3, 2, dtype=torch.bool)), expected)


@pytest.mark.parametrize("name", ["film", "tensor", "gated", "attention"])
def test_not_additive(name: str) -> None:
    """f(a, b) - f(a, 0) - f(0, b) + f(0, 0) vanishes for concat and sum; these can express interaction."""
    dims, features, conditions = inputs(4, 2)
    fusion = build_fusion(name, dims, 16, CLASSES).eval()

    def score(a: bool, b: bool) -> Tensor:
        return fusion(features, torch.tensor([[a, b]]).expand(4, 2), conditions)

    interaction = score(True, True) - score(True, False) - score(False, True) + score(False, False)
    assert interaction.abs().max() > 1e-2


def test_film_by_hand() -> None:
    dims, features, _ = inputs(1, 2)
    fusion = build_fusion("film", dims, 4, CLASSES)
    h = {m: fusion.projections[m](features[m]) for m in "ab"}
    (ga, ba), (gb, bb) = (fusion.modulations[k](features[k[-1]]).chunk(2, 1) for k in ("a<-b", "b<-a"))
    expected = ((1 + ga) * h["a"] + ba + (1 + gb) * h["b"] + bb) / 2
    torch.testing.assert_close(fusion(features, torch.ones(1, 2, dtype=torch.bool)), expected)
    torch.testing.assert_close(fusion(features, torch.tensor([[True, False]])), h["a"])


def test_context_by_hand() -> None:
    """(1 + gamma) z + beta by posterior, claimed information and what else is known; at the start it is concat."""
    dims, features, posteriors = inputs(3, 2)
    present = torch.tensor([[True, True], [True, False], [False, True]])
    conditions = {"a": torch.cat([posteriors["a"], torch.randn(3, 2)], 1), "b": posteriors["b"]}
    fusion = build_fusion("context", dims, 4, CLASSES, conditions={"a": 2})
    plain = build_fusion("concat", dims, 4, CLASSES)(features, present)
    torch.testing.assert_close(fusion(features, present, conditions), plain)
    for weight in fusion.modulations.values():
        torch.nn.init.normal_(weight)
    parts = []
    for k, m in enumerate("ab"):
        p, rest = conditions[m][:, :CLASSES], conditions[m][:, CLASSES:]
        claimed = torch.log(torch.tensor(4.0)) + (p * p.log()).sum(1, keepdim=True)
        gamma, beta = (torch.cat([p, claimed, rest], 1) @ fusion.modulations[m]).chunk(2, 1)
        parts.append(((1 + gamma) * features[m] + beta) * present[:, k, None])
    torch.testing.assert_close(fusion(features, present, conditions), torch.cat(parts, 1))
    torch.testing.assert_close(fusion(features, present), plain)


def test_conditions_get_no_gradient() -> None:
    dims, features, conditions = inputs(3, 2)
    conditions = {m: c.clone().requires_grad_() for m, c in conditions.items()}
    build_fusion("context", dims, 4, CLASSES)(features, torch.ones(3, 2, dtype=torch.bool), conditions).sum().backward()
    assert all(c.grad is None for c in conditions.values())


def test_mixture_weights() -> None:
    weights = mixture_weights(torch.randn(8, 3, 5) * 100, every_subset(3))
    torch.testing.assert_close(weights[1:].sum(1), torch.ones(7, 5))
    assert weights[0].abs().max() == 0


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("contat", {}, "did you mean 'concat'"),
        ("tensor", {"ranks": 3}, "did you mean 'rank'"),
        ("tensor", {"rank": 0}, "rank is 0"),
        ("attention", {"heads": 5}, "not a multiple"),
        ("concat", {"rank": 2}, "unknown option of fusion 'concat'"),
    ],
)
def test_bad_settings(name: str, options: dict, said: str) -> None:
    with pytest.raises(InputError) as error:
        build_fusion(name, DIMS, 16, CLASSES, options)
    assert said in str(error.value)
