"""Orders of the samples of an epoch: shuffled, or in batches with several samples of each context."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.data import Sampler

from modalign.errors import DataError


class ShuffledBatchSampler(Sampler[list[int]]):
    """Every sample once an epoch, in random order; each process takes its share of every batch.

    The batches are the same for any number of processes. The last batch holds what is left; with fewer than two
    samples a process it is merged into the one before.

    Args:
        length: number of samples.
        batch_size: samples of a batch over all processes.
        seed: with the epoch it decides the order.
        rank, world: this process, and how many there are.

    Raises:
        InputError: there are fewer samples, or smaller batches, than processes.

    >>> [len(batch) for batch in ShuffledBatchSampler(10, 4)]
    [4, 4, 2]
    """

    def __init__(self, length: int, batch_size: int, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        if not 1 <= world <= batch_size:
            raise DataError(
                f"a batch of {batch_size} samples cannot be shared by {world} processes; "
                "give batch_size (over all processes) of at least their number."
            )
        if length < world:
            raise DataError(f"{length} samples cannot be shared by {world} processes; use fewer processes.")
        self.length, self.batch_size, self.seed, self.rank, self.world = length, batch_size, seed, rank, world
        self.epoch = 0
        # One sample a process breaks batch normalization; avoided wherever batches are larger.
        self.smallest = min(batch_size, 2 * world)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(self.length, self.batch_size)
        return max(1, full + (rest >= self.smallest))

    def global_batches(self) -> list[list[int]]:
        """All batches of the epoch, over all processes."""
        order = torch.randperm(self.length, generator=self._generator()).tolist()
        cuts = [i * self.batch_size for i in range(len(self))] + [self.length]
        return [order[a:b] for a, b in pairwise(cuts)]

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.global_batches():
            yield batch[self.rank :: self.world]

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)


class BalancedBatchSampler(ShuffledBatchSampler):
    """Batches of about P contexts x K samples, in which every sample still comes once an epoch.

    Each context's samples are shuffled and divided into even chunks of at most ``samples_per_context`` (more
    where a single sample would be left over), and the chunks are dealt out, large ones first, to the emptiest
    batch. Batches differ in size by at most a chunk; their number and sizes are the same in every epoch.
    Within a batch samples of a chunk are neighbors, so that the processes share each context evenly.

    Args:
        context: (N,) integer codes.
        batch_size: samples of a batch over all processes, on average at most.
        samples_per_context: K, samples of a context that come together.
        seed: with the epoch it decides the order.
        rank, world: this process, and how many there are.

    Raises:
        InputError: there are fewer samples, or smaller batches, than processes, or K is below 1.

    >>> sampler = BalancedBatchSampler([0, 0, 0, 0, 1, 1, 1, 1], batch_size=4, samples_per_context=2)
    >>> [len(batch) for batch in sampler]
    [4, 4]
    """

    def __init__(
        self,
        context: Tensor | Sequence[int],
        batch_size: int,
        samples_per_context: int = 8,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        codes = torch.as_tensor(context)
        super().__init__(len(codes), batch_size, seed, rank, world)
        if samples_per_context < 1:
            raise DataError(f"samples_per_context is {samples_per_context}; give 1 or more.")
        order = torch.argsort(codes, stable=True)
        _, counts = torch.unique(codes, return_counts=True)
        self.members = order.split(counts.tolist())
        batches = -(-len(codes) // batch_size)
        largest = min(samples_per_context, max(1, len(codes) // batches))
        self.sizes = []
        for length in counts.tolist():  # even sizes of at most the largest; larger where a sample would stand alone
            parts = -(-length // largest)
            if largest > 1 and length // parts < 2:
                parts = max(1, length // 2)
            small, larger = divmod(length, parts)
            self.sizes.append([small + 1] * larger + [small] * (parts - larger))
        sizes = sorted((size for part in self.sizes for size in part), reverse=True)
        while batches > 1 and min(sum(sizes[i] for i in b) for b in _deal(sizes, batches)) < self.smallest:
            batches -= 1  # the seed has no say in it
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def global_batches(self) -> list[list[int]]:
        """All batches of the epoch, over all processes."""
        generator = self._generator()
        chunks: list[list[int]] = []
        for members, sizes in zip(self.members, self.sizes, strict=True):
            shuffled = members[torch.randperm(len(members), generator=generator)]
            chunks += [part.tolist() for part in shuffled.split(sizes)]
        order = torch.randperm(len(chunks), generator=generator).tolist()
        chunks = sorted((chunks[i] for i in order), key=len, reverse=True)
        dealt = _deal([len(chunk) for chunk in chunks], self.batches)
        filled = [[i for chunk in batch for i in chunks[chunk]] for batch in dealt]
        return [filled[i] for i in torch.randperm(len(filled), generator=generator).tolist()]


def _deal(sizes: Sequence[int], batches: int) -> list[list[int]]:
    """Give each of ``sizes`` (descending) in turn to the batch with the least; the positions each batch got."""
    dealt: list[list[int]] = [[] for _ in range(batches)]
    heap = [(0, i) for i in range(batches)]
    for position, size in enumerate(sizes):
        load, i = heap[0]
        dealt[i].append(position)
        heapq.heapreplace(heap, (load + size, i))
    return dealt
