"""The objective of a batch: against the masked full matrix, in pieces, under imbalance, with a memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from modalign.errors import InputError
from modalign.information.contexts import pair_masks
from modalign.information.critics import ContinuousContext, Critic, LearnedContext, make_critic
from modalign.information.objectives import (
    OBJECTIVES,
    PairSums,
    conditional_nce,
    info_nce,
    information,
    two_term_nce,
)
from modalign.information.pairs import score_pairs
from modalign.information.queue import FeatureMemory, RecentFeatures

FORMS = {"nce3": conditional_nce, "nce2": two_term_nce, "infonce": info_nce}
CONTEXTS = torch.tensor([3, 0, 0, 3, 1, 0, 3, 3, 2, 0, 3, 3, 1, 3])  # sizes 4, 2, 1, 7


def batch(n: int = 14, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 5, dtype=dtype), torch.randn(n, 3, dtype=dtype)


def padded(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """Both modalities in one tensor (2, B, 5), as a memory takes them."""
    return torch.stack([z1, nn.functional.pad(z2, (0, 2))])


def cut(recent: RecentFeatures) -> RecentFeatures:
    """What a memory keeps, without the padding of the second modality."""
    left, right = (bank if bank[..., 3:].any() else bank[..., :3] for bank in recent[:2])
    return recent._replace(left=left, right=right)


def critic_for(context: nn.Module | None, name: str = "separable") -> Critic:
    critic = make_critic(name, (5, 3), context).double()  # type: ignore[arg-type]
    for parameter in critic.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return critic


def anchor_masks(context: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """Masks that weigh pairs as ``score_pairs`` does: the negatives of a sample count once together."""
    positive, negative = pair_masks(context)
    count = negative.sum(1, keepdim=True)
    return positive & (count > 0), negative if form == "infonce" else negative / count.clamp(min=1).double()


def gradients(objective: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(objective, of, retain_graph=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["separable", "bilinear", "mlp"])
@pytest.mark.parametrize("block", [1024, 3, 1])
def test_within_contexts_equals_the_masked_matrix(form: str, name: str, block: int) -> None:
    critic = critic_for(LearnedContext(4), name)
    z1, z2 = (z.requires_grad_() for z in batch())
    scores, masks = critic(z1, z2, CONTEXTS), anchor_masks(CONTEXTS, form)
    whole = FORMS[form](scores, *masks)
    result = score_pairs(critic, z1, z2, CONTEXTS, form=form, block=block)
    torch.testing.assert_close(result.objective, whole)
    assert result.ratio.item() == pytest.approx((4 * 3 + 2 + 7 * 6) / 13)  # one sample is alone with its context
    with_negatives = CONTEXTS != 2
    torch.testing.assert_close(result.pointwise[with_negatives].mean(), information(scores, *masks, form))
    torch.testing.assert_close(result.information, result.pointwise.mean())
    weights = [z1, z2, *critic.parameters()]
    for got, expected in zip(gradients(result.objective, *weights), gradients(whole, *weights), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [1024, 4])
def test_without_context_equals_the_whole_matrix(form: str, block: int) -> None:
    critic = critic_for(None)
    z1, z2 = (z.requires_grad_() for z in batch())
    one = torch.zeros(14, dtype=torch.int64)
    whole = FORMS[form](critic(z1, z2), *pair_masks(one))
    for context in (None, one):
        result = score_pairs(critic, z1, z2, context, form=form, block=block)
        torch.testing.assert_close(result.objective, whole)
        torch.testing.assert_close(gradients(result.objective, z1, z2), gradients(whole, z1, z2))


def closeness(a: Tensor, b: Tensor) -> Tensor:
    return torch.exp(-torch.cdist(a.reshape(len(a), -1), b.reshape(len(b), -1)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [1024, 4])
def test_soft_contexts_equal_the_literal_loop(form: str, block: int) -> None:
    critic, t = critic_for(ContinuousContext(2)), torch.rand(14, 2, dtype=torch.float64)
    z1, z2 = batch()
    result = score_pairs(critic, z1, z2, t, form=form, kernel=closeness, block=block)
    by_row = critic(z1, z2, t)  # T of the left sample
    by_column = critic.pair(*critic.embed(z1, z2, t, "right")).T
    weight = closeness(t, t)
    positives, negatives, bound = [], [], []
    for s in (by_row, by_column):
        for i in range(14):
            others = [j for j in range(14) if j != i]
            total = sum(weight[i, j] for j in others)
            positives.append(torch.nn.functional.logsigmoid(s[i, i]))
            negatives.append(sum(weight[i, j] * torch.nn.functional.logsigmoid(-s[i, j]) for j in others) / total)
            e = sum(weight[i, j] * s[i, j].exp() for j in others)
            bound.append(torch.log(s[i, i].exp() / ((s[i, i].exp() + e) / (1 + total))))
    positive, negative, r = (sum(positives) / 28, sum(negatives) / 28, 13)
    expected = {
        "nce3": (1 + r) * positive + r * negative,
        "nce2": positive + r * negative,
        "infonce": sum(bound) / 28,
    }[form]
    torch.testing.assert_close(result.objective, expected)
    assert result.ratio.item() == 13


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("context", ["none", "discrete", "continuous", "memory"])
def test_swapping_modalities_changes_nothing(form: str, context: str) -> None:
    embedding = ContinuousContext(2) if context == "continuous" else LearnedContext(4)
    critic, z1, z2 = critic_for(embedding if context != "none" else None), *batch()
    t = {"none": None, "continuous": torch.rand(14, 2, dtype=torch.float64)}.get(context, CONTEXTS)
    kernel = closeness if context == "continuous" else None
    memory = FeatureMemory(4, 6, 2, 5).double()
    memory.push(padded(*batch()), CONTEXTS, present=torch.rand(14, 2) > 0.3)

    class Swapped(Critic):
        """h(z2, z1): the same function with its arguments exchanged."""

        def embed(self, z1, z2, context=None, anchor="left"):  # type: ignore[no-untyped-def]
            other = {"left": "right", "right": "left"}[anchor]
            return critic.embed(z2, z1, context, other)[::-1]

        def pair(self, left, right):  # type: ignore[no-untyped-def]
            return critic.pair(right, left).mT

        def diagonal(self, left, right):  # type: ignore[no-untyped-def]
            return critic.diagonal(right, left)

    used = context == "memory"
    one = score_pairs(critic, z1, z2, t, form=form, kernel=kernel, memory=cut(memory.pair(0, 1)) if used else None)
    two = score_pairs(Swapped(), z2, z1, t, form=form, kernel=kernel, memory=cut(memory.pair(1, 0)) if used else None)
    torch.testing.assert_close(one.objective, two.objective)
    torch.testing.assert_close(one.pointwise, two.pointwise)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_equals_finite_differences(form: str) -> None:
    critic = critic_for(LearnedContext(4))
    z1, z2 = (z.requires_grad_() for z in batch())

    def objective(a: Tensor, b: Tensor) -> Tensor:
        return score_pairs(critic, a, b, CONTEXTS, form=form, block=5).objective

    assert torch.autograd.gradcheck(objective, (z1, z2), fast_mode=True)


class Table(Critic):
    """One free logit for each (T, z1, z2), all of them codes."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(shape, dtype=torch.float64))

    def embed(self, z1, z2, context=None, anchor="left"):  # type: ignore[no-untyped-def]
        rows = self.table[context if len(self.table) > 1 else 0, z1[:, 0].long()]
        return rows, torch.nn.functional.one_hot(z2[:, 0].long(), self.table.shape[2]).double()


def imbalanced(*sizes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Contexts of these sizes (multiples of 20), all with exactly the same p(z1, z2)."""
    p = torch.tensor([[8, 2], [4, 6]])
    z = torch.cat([torch.tensor([[x, y]] * (int(p[x, y]) * n // 20)) for n in sizes for x in (0, 1) for y in (0, 1)])
    t = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    q = p.sum(1, keepdim=True) * p.sum(0, keepdim=True) / 400
    return z[:, :1].double(), z[:, 1:].double(), t, (p / 20 / q).log().double()


def fit(critic: Table, objective: Callable[[], Tensor]) -> None:
    """Optimize the table."""
    optimizer = torch.optim.LBFGS(critic.parameters(), 1, 100, None, 1e-9, 0, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -objective()
        value.backward()
        return value

    optimizer.step(loss)


@pytest.mark.parametrize("form", ["nce3", "nce2"])
def test_imbalanced_contexts_have_one_optimal_logit(form: str) -> None:
    """Weighted by anchors, the best logit is log p/q + offset(r) in a small context as in a large one.

    What is left, below .07, is that a sample is not its own negative.
    """
    z1, z2, t, truth = imbalanced(40, 320)
    critic = Table(2, 2, 2)
    r = score_pairs(critic, z1, z2, t, form=form).ratio.item()
    fit(critic, lambda: score_pairs(critic, z1, z2, t, form=form).objective / (1 + r))
    offset = math.log((1 + r) / r) if form == "nce3" else -math.log(r)
    torch.testing.assert_close(critic.table.detach() - offset, truth.expand(2, 2, 2), atol=0.07, rtol=0)
    result = score_pairs(critic, z1, z2, t, form=form)
    expected = truth[z1[:, 0].long(), z2[:, 0].long()].mean()
    assert result.information.item() == pytest.approx(expected.item(), abs=0.02)


def test_weighting_by_pairs_shifts_the_logits_of_small_contexts() -> None:
    """The documented shift log(r/(K-1)): the reason for weighting by anchors."""
    z1, z2, t, truth = imbalanced(40, 320)
    critic = Table(2, 2, 2)
    positive, negative = pair_masks(t)
    r = (negative.sum() / positive.sum()).item()
    fit(critic, lambda: conditional_nce(critic(z1, z2, t), positive, negative) / (1 + r))
    for c, size in enumerate((40, 320)):
        expected = truth + math.log((1 + r) / r) + math.log(r / (size - 1))
        torch.testing.assert_close(critic.table.detach()[c], expected, atol=0.07, rtol=0)
    assert math.log(r / 39) > 1.9


def test_samples_without_negatives() -> None:
    """Weighted by anchors they leave the objective alone; their pointwise information is given."""
    critic, (z1, z2) = critic_for(LearnedContext(9)), batch()
    alone = CONTEXTS.clone()
    alone[0] = 8
    result = score_pairs(critic, z1, z2, alone)
    keep = [i for i in range(14) if i not in (0, 8)]
    fewer = score_pairs(critic, z1[keep], z2[keep], alone[keep])
    torch.testing.assert_close(result.objective, fewer.objective)
    torch.testing.assert_close(result.ratio, fewer.ratio)
    torch.testing.assert_close(result.pointwise[keep], fewer.pointwise)
    assert result.pointwise.shape == (14,)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("context", [[0], [0, 1, 2], [1, 1, 1], [0, 0, 2]])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_never_nan(form: str, context: list[int], dtype: torch.dtype) -> None:
    """Batches of one, contexts of one sample, one context, half-precision features, logits of 1e4."""
    critic = make_critic("bilinear", (5, 3), LearnedContext(3))
    t = torch.tensor(context)
    for scale in (1.0, 1e4):
        nn.init.constant_(critic.weight, scale)
        z1 = torch.ones(len(t), 5, dtype=dtype, requires_grad=True)
        z2 = -torch.ones(len(t), 3, dtype=dtype)
        result = score_pairs(critic, z1, z2, t, form=form)
        result.objective.backward()
        assert result.objective.dtype == torch.float32
        assert result.objective.isfinite()
        assert result.information.isfinite()
        assert z1.grad is not None
        assert z1.grad.isfinite().all()


def test_memory_adds_negatives_where_there_are_few() -> None:
    """The batch and the memory as one literal loop."""
    critic, (z1, z2) = critic_for(LearnedContext(4)), batch()
    memory = FeatureMemory(4, 5, 2, 5, minimum=2).double()
    old1, old2 = batch(6)
    old = torch.tensor([1, 1, 2, 0, 0, 3])
    present = torch.ones(6, 2, dtype=torch.bool)
    present[0, 1] = False  # context 1 remembers two of the first modality, one of the second
    memory.push(padded(old1, old2), old, present)
    result = score_pairs(critic, z1, z2, CONTEXTS, memory=cut(memory.pair(0, 1)), block=2)
    positives, negatives, count = [], [], 0
    everyone = torch.cat([CONTEXTS, old])
    left, right = critic.embed(torch.cat([z1, old1]), torch.cat([z2, old2]), everyone)
    scores = critic.pair(left, right)
    for i in range(14):
        own = [j for j in range(14) if CONTEXTS[j] == CONTEXTS[i] and j != i]
        extra = [14 + j for j in range(6) if old[j] == CONTEXTS[i]] if len(own) < 2 else []
        for row in (True, False):
            others = own + [j for j in extra if present[j - 14, 1 if row else 0]]
            values = [scores[i, j] if row else scores[j, i] for j in others]
            positives.append(torch.nn.functional.logsigmoid(scores[i, i]))
            negatives.append(sum(torch.nn.functional.logsigmoid(-s) for s in values) / len(values))
            count += len(values)
    r = count / 28
    expected = (1 + r) * sum(positives) / 28 + r * sum(negatives) / 28
    torch.testing.assert_close(result.objective, expected)
    assert result.ratio.item() == pytest.approx(r)


def test_continuous_contexts_without_kernel() -> None:
    critic, t = critic_for(ContinuousContext(1)), torch.rand(14, dtype=torch.float64)
    z1, z2 = batch()
    result = score_pairs(critic, z1, z2, t)
    equal = score_pairs(critic, z1, z2, t, kernel=lambda a, b: torch.ones(len(a), len(b)))
    torch.testing.assert_close(result.objective, equal.objective)


def test_refusals() -> None:
    critic, (z1, z2) = critic_for(None), batch()
    with pytest.raises(InputError, match="'context': 3"):
        score_pairs(critic, z1, z2, CONTEXTS[:3])
    with pytest.raises(InputError, match="did you mean 'nce3'"):
        score_pairs(critic, z1, z2, form="nce4")  # type: ignore[arg-type]
    for context in (None, CONTEXTS):
        with pytest.raises(InputError, match="pass context as floats"):
            score_pairs(critic, z1, z2, context, kernel=closeness)
    with pytest.raises(InputError, match="integer contexts"):
        score_pairs(critic, z1, z2, memory=FeatureMemory(2, 2, 2, 5).pair(0, 1))


def test_names_of_the_first_version_still_work() -> None:
    critic, (z1, z2) = critic_for(None), batch()
    for earlier, now in (("three", "nce3"), ("two", "nce2")):
        with pytest.warns(DeprecationWarning, match=f"'{earlier}' is called '{now}'"):
            found = score_pairs(critic, z1, z2, form=earlier)  # type: ignore[arg-type]
        assert torch.equal(found.objective, score_pairs(critic, z1, z2, form=now).objective)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_is_judged_by_the_functions_that_judge_a_matrix(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one reads under the name of an objective is what training runs."""
    asked = []

    def watched(sums: PairSums) -> Tensor:
        asked.append(sums)
        return FORMS[form](sums)

    monkeypatch.setitem(OBJECTIVES, form, watched)  # type: ignore[arg-type]
    critic, (z1, z2) = critic_for(LearnedContext(4)), batch()
    result = score_pairs(critic, z1, z2, CONTEXTS, form=form)
    [sums] = asked
    assert torch.equal(result.objective, FORMS[form](sums))
    assert OBJECTIVES.keys() == FORMS.keys()
