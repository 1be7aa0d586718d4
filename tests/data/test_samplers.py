"""The batches of an epoch: every sample once, the same for any number of processes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from modalign.data.samplers import BalancedBatchSampler, ShuffledBatchSampler
from modalign.errors import InputError
from modalign.information.contexts import pair_masks

SIZES = {
    "even": [32] * 8,
    "uneven": [1, 2, 3, 9, 17, 100],
    "many": [3] * 40 + [1] * 5,
    "one": [50],
    "tiny": [3, 2],
}


def codes(name: str) -> torch.Tensor:
    context = torch.repeat_interleave(torch.arange(len(SIZES[name])), torch.tensor(SIZES[name]))
    return context[torch.randperm(len(context))]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("batch_size", [4, 16, 33, 1000])
@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("balanced", [False, True])
def test_every_sample_once_on_any_number_of_processes(name: str, batch_size: int, world: int, balanced: bool) -> None:
    context = codes(name)
    if balanced:
        ranks = [BalancedBatchSampler(context, batch_size, 8, 3, rank, world) for rank in range(world)]
    else:
        ranks = [ShuffledBatchSampler(len(context), batch_size, 3, rank, world) for rank in range(world)]
    for epoch in (0, 4):
        for sampler in ranks:
            sampler.set_epoch(epoch)
        parts = [list(sampler) for sampler in ranks]
        assert {len(part) for part in parts} == {len(ranks[0])}
        seen = [i for part in parts for batch in part for i in batch]
        assert sorted(seen) == list(range(len(context)))
        for batch, *shares in zip(ranks[0].global_batches(), *parts, strict=True):
            assert min(len(share) for share in shares) >= 1
            assert sorted(i for share in shares for i in share) == sorted(batch)


def test_batches_do_not_depend_on_the_number_of_processes() -> None:
    context = codes("even")
    for build in (
        lambda rank, world: ShuffledBatchSampler(256, 32, 1, rank, world),
        lambda rank, world: BalancedBatchSampler(context, 32, 8, 1, rank, world),
    ):
        assert build(0, 1).global_batches() == build(1, 2).global_batches() == build(3, 4).global_batches()
        assert list(build(1, 2)) == [batch[1::2] for batch in build(0, 1).global_batches()]


def test_epochs_and_seeds_differ_and_repeat() -> None:
    context = codes("even")
    for build in (
        lambda seed: ShuffledBatchSampler(256, 32, seed),
        lambda seed: BalancedBatchSampler(context, 32, 8, seed),
    ):
        one, two = build(0), build(0)
        first = list(one)
        assert first == list(two)
        one.set_epoch(1)
        assert list(one) != first
        assert list(build(1)) != first
        one.set_epoch(0)
        assert list(one) == first


def test_balanced_batches_hold_contexts_by_the_chunk() -> None:
    context = codes("even")
    for batch in BalancedBatchSampler(context, 32, 8):
        assert len(batch) == 32
        counts = Counter(context[batch].tolist())
        assert all(n % 8 == 0 for n in counts.values())


@pytest.mark.parametrize("samples_per_context", [2, 4, 8])
def test_no_sample_stands_alone_where_it_need_not(samples_per_context: int) -> None:
    context = codes("uneven")
    alone = 0
    for batch in BalancedBatchSampler(context, 24, samples_per_context):
        assert len(batch) <= 24 + samples_per_context
        counts = Counter(context[batch].tolist())
        alone += sum(n == 1 for n in counts.values())
    assert alone == 1  # the context that has only one


def test_balanced_batches_give_more_negatives_than_shuffled() -> None:
    context = torch.arange(600) % 60

    def negatives(sampler) -> float:  # type: ignore[no-untyped-def]
        return sum(pair_masks(context[b])[1].sum().item() for b in sampler) / 600

    assert negatives(BalancedBatchSampler(context, 60, 5)) >= 4
    assert negatives(ShuffledBatchSampler(600, 60)) < 1.5


@pytest.mark.parametrize("length", [64, 65, 66, 95, 3])
def test_a_last_batch_too_small_is_merged(length: int) -> None:
    sampler = ShuffledBatchSampler(length, 32, world=2)
    sizes = [len(b) for b in sampler.global_batches()]
    assert sizes == {64: [32, 32], 65: [32, 33], 66: [32, 34], 95: [32, 32, 31], 3: [3]}[length]
    assert len(sampler) == len(sizes)


def test_batches_of_one() -> None:
    assert [len(b) for b in ShuffledBatchSampler(5, 1)] == [1] * 5


def test_sampler_refusals() -> None:
    with pytest.raises(InputError, match="2 samples cannot be shared by 3"):
        ShuffledBatchSampler(2, 8, world=3)
    with pytest.raises(InputError, match="batch of 2"):
        BalancedBatchSampler([0, 1, 2], 2, world=3)
    with pytest.raises(InputError, match="samples_per_context"):
        BalancedBatchSampler([0, 1, 2], 2, 0)
