"""The pool against Bayes' rule on tables and Gaussians, what few samples do to it, and what its fit finds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from modalign.data.info import DataInfo
from modalign.data.task import Task, classification
from modalign.errors import InputError
from modalign.models.readout import (
    class_log_prior,
    evidence,
    fit_weights,
    log_prior_of,
    pool,
    product_of_experts,
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
    torch.testing.assert_close(given, posterior(table), rtol=0, atol=1e-9)
    voices = evidence(torch.randn_like(given).double(), experts, present, log_prior)
    pooled = pool(voices, torch.tensor([0.0, *[1.0] * len(sizes)]), log_prior)
    torch.testing.assert_close(pooled, posterior(table), rtol=0, atol=1e-9)
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
    torch.testing.assert_close(given[0], experts["m1"][0])
    torch.testing.assert_close(given[1], experts["m2"][1])
    torch.testing.assert_close(given[2], log_prior)


def table_scores(table: Tensor) -> Tensor:
    """log p(z_1..z_M | y) / prod_m p(z_m | y) of every cell for every class, as one pair: (cells, 1, C)."""
    given = table / table.flatten(1).sum(1).view(-1, *[1] * (table.ndim - 1))
    ratio = given.log()
    for m in range(1, table.ndim):
        ratio = ratio - given.sum(tuple(k for k in range(1, table.ndim) if k != m), keepdim=True).log()
    return ratio.flatten(1).T.unsqueeze(1)


def test_with_the_true_ratio_the_pool_is_the_posterior_and_with_a_modality_missing_the_marginal() -> None:
    torch.manual_seed(1)
    table = torch.rand(3, 4, 2, dtype=torch.float64) ** 3
    table /= table.sum()
    log_prior, experts = table.flatten(1).sum(1).log(), unimodal_posteriors(table)
    joint, ones = torch.randn(8, 3, dtype=torch.float64), torch.tensor([0.0, 1.0, 1.0, 1.0])
    present = torch.ones(8, 2, dtype=torch.bool)
    found = pool(evidence(joint, experts, present, log_prior, table_scores(table)), ones, log_prior)
    torch.testing.assert_close(found, posterior(table), rtol=0, atol=1e-6)
    without = pool(evidence(joint, experts, present, log_prior), ones[:3], log_prior)
    assert (without - found).abs().max() > 0.1, "modalities depend on each other here, and the critic matters"
    for m, name in enumerate(experts):
        alone = present & (torch.arange(2) == m)
        found = pool(evidence(joint, experts, alone, log_prior, torch.zeros(8, 1, 3)), ones, log_prior)
        torch.testing.assert_close(found, experts[name], rtol=0, atol=1e-6)
    nothing = pool(evidence(joint, experts, present & False, log_prior, torch.zeros(8, 1, 3)), ones + 1, log_prior)
    torch.testing.assert_close(nothing, log_prior.expand(8, 3), rtol=0, atol=1e-6)


def test_the_pool_by_hand() -> None:
    joint = torch.tensor([[0.7, 0.3]]).log() + 5
    experts = {"a": torch.tensor([[0.4, 0.6]]).log(), "b": torch.tensor([[0.9, 0.1]]).log() - 2}
    here, prior = torch.ones(1, 2, dtype=torch.bool), torch.tensor([0.2, 0.8])
    voices = evidence(joint, experts, here, prior.log(), torch.tensor([[[2.0, 4.0]]]))
    raw = torch.tensor(
        [
            0.2 * (0.7 / 0.2) ** 0.5 * (0.4 / 0.2) ** 0.3 * (0.9 / 0.2) ** 0.1 * math.exp(0.25 * 2),
            0.8 * (0.3 / 0.8) ** 0.5 * (0.6 / 0.8) ** 0.3 * (0.1 / 0.8) ** 0.1 * math.exp(0.25 * 4),
        ]
    )
    found = pool(voices, torch.tensor([0.5, 0.3, 0.1, 0.25]), prior.log())
    torch.testing.assert_close(found[0].exp(), raw / raw.sum())


def drawn(n: int, truth: list[float], classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Voices of random sharpness, and classes drawn from their pool with the weights ``truth``."""
    generator = torch.Generator().manual_seed(seed)
    voices = 2 * torch.randn(n, len(truth), classes, generator=generator, dtype=torch.float64)
    target = torch.multinomial(pool(voices, torch.tensor(truth)).exp(), 1, generator=generator).squeeze(1)
    return voices, target


CLASSES = classification(range(4))
START = [0.4, 0.2, 0.2, 0.3]


def test_the_fit_finds_the_weights_with_samples_and_stays_with_its_prior_without() -> None:
    truth = [0.9, 0.1, 0.5, 0.05]
    found = fit_weights(*drawn(4_000, truth), START, CLASSES)
    torch.testing.assert_close(found, torch.tensor(truth), rtol=0, atol=0.06)
    few = fit_weights(*drawn(3, truth), START, CLASSES)
    torch.testing.assert_close(few.log(), torch.tensor(START).log(), rtol=0, atol=0.8)
    assert fit_weights(*drawn(4_000, truth), START, CLASSES).equal(found), "the fit is deterministic"


def test_shared_nuisance_leaves_the_pool_as_it_is() -> None:
    """A ratio that is the same for every class, however large, changes neither the answer nor the other weights."""
    torch.manual_seed(0)
    table = conditionally_independent(3, 4)
    experts, log_prior = unimodal_posteriors(table), table.flatten(1).sum(1).log()
    present, joint = torch.ones(12, 2, dtype=torch.bool), torch.randn(12, 3, dtype=torch.float64)
    left, right = torch.randn(2, 12, 1, 1, dtype=torch.float64)
    shared = (left * right * 20).expand(12, 1, 3)
    voices = evidence(joint, experts, present, log_prior, shared)
    found = pool(voices, torch.tensor([0.0, 1.0, 1.0, 7.0]), log_prior)
    torch.testing.assert_close(found, posterior(table), rtol=0, atol=1e-6)
    target = torch.arange(12) % 3
    with_it = fit_weights(voices, target, START, Task("classification", ("a", "b", "c")), log_prior)
    without = fit_weights(voices[:, :3], target, START[:3], Task("classification", ("a", "b", "c")), log_prior)
    torch.testing.assert_close(with_it, torch.tensor([*without.tolist(), START[3]]), rtol=0, atol=1e-5)


def test_a_critic_that_says_nothing_of_the_class_loses_its_weight_as_samples_grow() -> None:
    """I(Z1;Z2|Y) = 0: what the critic says for each class is noise."""
    found = []
    for n in (100, 1_000, 10_000):
        voices, target = drawn(n, [0.4, 0.2, 0.2, 0.0], seed=1)
        found.append(float(fit_weights(voices, target, START, CLASSES)[3]))
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.04 < 0.06 < found[0] < 0.3


def test_the_order_of_modalities_does_not_matter() -> None:
    torch.manual_seed(0)
    n, names = 200, "abc"
    heads = {m: torch.randn(n, 4, dtype=torch.float64) for m in names}
    pairs = {pair: torch.randn(n, 4, dtype=torch.float64) for pair in itertools.combinations(names, 2)}
    joint, here, target = torch.randn(n, 4, dtype=torch.float64), torch.rand(n, 3) > 0.3, torch.randint(4, (n,))

    def fitted(order: str) -> tuple[Tensor, dict[str, float]]:
        columns = [names.index(m) for m in order]
        given = [pairs[tuple(sorted(pair))] for pair in itertools.combinations(order, 2)]
        voices = evidence(joint, {m: heads[m] for m in order}, here[:, columns], None, torch.stack(given, 1))
        weights = fit_weights(voices, target, [0.4, 0.2, 0.2, 0.2, 0.3], CLASSES)
        return pool(voices, weights), dict(zip(["joint", *order, "critic"], weights.tolist(), strict=True))

    answer, weights = fitted("abc")
    other, moved = fitted("cab")
    torch.testing.assert_close(other, answer, rtol=0, atol=1e-5)
    assert moved == pytest.approx(weights, abs=1e-5)


def test_sixty_samples_can_do_no_harm() -> None:
    """Classes drawn from the pool with its prior weights, where a fit can only lose: over 20 seeds it hardly does."""

    def loss(weights: Tensor, voices: Tensor, target: Tensor) -> float:
        return -float(pool(voices, weights)[torch.arange(len(target)), target].mean())

    lost, gained = [], []
    for seed in range(20):
        for found, truth in ((lost, START), (gained, [0.1, 0.05, 0.05, 0.01])):  # the second: over-confident voices
            fresh = drawn(2_000, truth, seed=100 + seed)
            fitted = fit_weights(*drawn(60, truth, seed=seed), START, CLASSES)
            found.append(loss(fitted, *fresh) - loss(torch.tensor(START), *fresh))
    assert sum(lost) / 20 < 0.02
    assert max(lost) < 0.08
    assert max(gained) < -0.05, "and what is far off is mended"


@pytest.mark.parametrize("kind", ["regression", "survival"])
def test_single_outputs_are_averaged_with_weights_that_the_likelihood_finds(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(300, generator=generator)
    noise = torch.randn(3, 300, generator=generator) * torch.tensor([[3.0], [0.3], [3.0]])
    joint, a, b = (truth + noise).unsqueeze(2)
    here = torch.tensor([[True, True], [True, False], [False, False]]).repeat(100, 1)
    voices = evidence(joint, {"a": a, "b": b}, here)
    weights = torch.tensor([0.5, 0.25, 0.25])
    found = pool(voices, weights).squeeze(1)
    one, two, none = 0.5 * joint[0] + 0.25 * (a[0] + b[0]), (0.5 * joint[1] + 0.25 * a[1]) / 0.75, torch.zeros(1)
    torch.testing.assert_close(found[:3], torch.cat([one, two, none]))
    target = truth if kind == "regression" else torch.stack([torch.exp(-truth), torch.ones(300)], 1)
    fitted = fit_weights(evidence(joint, {"a": a, "b": b}, torch.ones_like(here)), target, weights.tolist(), Task(kind))
    assert fitted[1] > 4 * fitted[0]
    assert fitted[1] > 4 * fitted[2]


@pytest.mark.parametrize("target", [torch.zeros(9, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)])
def test_samples_that_cannot_tell_leave_the_prior_weights(target: Tensor) -> None:
    voices = torch.randn(len(target), 4, 4)
    torch.testing.assert_close(fit_weights(voices, target, START, CLASSES), torch.tensor(START))


def test_columns_must_agree() -> None:
    with pytest.raises(InputError, match="1 heads have logits but 2 are said to be present"):
        product_of_experts({"a": torch.zeros(1, 2)}, torch.ones(1, 2, dtype=torch.bool))


def test_class_log_prior() -> None:
    given = class_log_prior((3, 0, 1)).exp()
    torch.testing.assert_close(given, torch.tensor([4 / 7, 1 / 7, 2 / 7]))


def test_labels_are_pooled_as_two_classes_each_and_numbers_averaged():
    """Log-odds of C labels are what C poolings of two classes give; an absent modality drops out of both."""
    generator = torch.Generator().manual_seed(0)
    joint, a, b = torch.randn(3, 9, 4, generator=generator, dtype=torch.double)
    here = torch.tensor([[True, True], [True, False], [False, False]] * 3)
    info = DataInfo("toy", Task("multilabel", tuple("pqrs")), {}, 9, (2, 7, 4, 5, 8, 1, 5, 4))
    prior, weights = log_prior_of(info), torch.tensor([0.5, 0.9, 0.4])
    voices = evidence(joint, {"a": a, "b": b}, here, prior, kind="multilabel")
    found = pool(voices, weights, prior, "multilabel")
    experts = product_of_experts({"a": a, "b": b}, here, prior, "multilabel")
    for c in range(4):
        two = {
            m: torch.stack([torch.zeros(9, dtype=torch.double), x[:, c]], 1)
            for m, x in (("j", joint), ("a", a), ("b", b))
        }
        own = class_log_prior(info.class_counts[2 * c : 2 * c + 2]).double()
        known = pool(evidence(two["j"], {"a": two["a"], "b": two["b"]}, here, own), weights, own)
        assert torch.allclose(found[:, c], known[:, 1] - known[:, 0])
        known = product_of_experts({"a": two["a"], "b": two["b"]}, here, own)
        assert torch.allclose(experts[:, c], known[:, 1] - known[:, 0])
    voices = evidence(joint, {"a": a, "b": b}, here, kind="regression")
    mean = pool(voices, weights, None, "regression")
    assert torch.allclose(mean[0], (weights[:, None] * torch.stack([joint[0], a[0], b[0]])).sum(0) / weights.sum())
    assert torch.allclose(mean[1], (0.5 * joint[1] + 0.9 * a[1]) / 1.4)
    assert not mean[2].any()


@pytest.mark.parametrize(("samples", "knows", "heard"), [(400, True, True), (400, False, False), (8, True, False)])
def test_a_voice_that_has_to_earn_its_part_is_silent_unless_the_evidence_is_strong(samples, knows, heard):
    rng = torch.Generator().manual_seed(0)
    target = torch.randint(2, (samples,), generator=rng)
    said = torch.randn(samples, 2, generator=rng).log_softmax(1)  # a head at chance
    truth = 2.0 * torch.nn.functional.one_hot(target, 2) if knows else torch.zeros(samples, 2)
    critic = truth + torch.randn(samples, 2, generator=rng)
    voices, task = torch.stack([said, critic], 1), Task("classification", ("a", "b"))
    weights = fit_weights(voices, target, [0.4, 0.1], task, optional=1)
    if heard:
        torch.testing.assert_close(weights, fit_weights(voices, target, [0.4, 0.1], task))
        assert weights[1] > 0.2
    else:
        assert weights[1] == 0
        torch.testing.assert_close(weights[:1], fit_weights(voices[:, :1], target, [0.4], task))


@pytest.mark.parametrize(("steady", "groups", "heard"), [(True, 6, True), (False, 6, False), (True, 1, False)])
def test_where_answers_are_for_other_groups_a_voice_must_gain_over_groups(steady, groups, heard):
    rng = torch.Generator().manual_seed(0)
    target, group = torch.randint(2, (1200,), generator=rng), torch.arange(1200) % groups
    said = torch.randn(1200, 2, generator=rng).log_softmax(1)
    helps = torch.where(steady | (group == 0), 2.0, -0.2)  # strong in one group, a little wrong in the others
    critic = helps[:, None] * torch.nn.functional.one_hot(target, 2) + torch.randn(1200, 2, generator=rng)
    voices, task = torch.stack([said, critic], 1), Task("classification", ("a", "b"))
    assert fit_weights(voices, target, [0.4, 0.1], task, optional=1)[1] > 0.05
    weights = fit_weights(voices, target, [0.4, 0.1], task, optional=1, groups=group)
    assert (weights[1] > 0.05) == heard
