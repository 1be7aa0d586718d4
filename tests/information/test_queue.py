"""The memory against a list for each context."""

from __future__ import annotations

from collections import defaultdict, deque

import pytest
import torch

from modalign.errors import InputError
from modalign.information.queue import FeatureMemory


def test_keeps_the_last_of_each_context() -> None:
    memory = FeatureMemory(contexts=5, size=4, modalities=2, dim=1)
    kept = [defaultdict(lambda: deque(maxlen=4)), defaultdict(lambda: deque(maxlen=4))]
    number = 0.0
    for size in (1, 7, 30, 2, 0, 12):
        context = torch.randint(0, 4, (size,))
        present = torch.rand(size, 2) > 0.3
        z = torch.arange(number, number + size)[:, None]
        number += size
        memory.push(torch.stack([z, -z]), context, present)
        for i in range(size):
            for m in range(2):
                if present[i, m]:
                    kept[m][int(context[i])].append(z[i, 0].item() * (1 if m == 0 else -1))
    recent = memory.pair(0, 1)
    for c in range(5):
        assert sorted(recent.left[c, recent.left_valid[c], 0].tolist()) == sorted(kept[0][c])
        assert sorted(recent.right[c, recent.right_valid[c], 0].tolist()) == sorted(kept[1][c])


def test_is_saved_and_holds_no_graph() -> None:
    memory = FeatureMemory(2, 3, 2, 2)
    z = torch.randn(4, 2, requires_grad=True)
    memory.push(torch.stack([z, z]), torch.tensor([0, 1, 1, 1]))
    copy = FeatureMemory(2, 3, 2, 2)
    copy.load_state_dict(memory.state_dict())
    assert torch.equal(copy.pair(0, 1).left, memory.pair(0, 1).left)
    assert torch.equal(copy.pair(0, 1).left_valid, memory.pair(0, 1).left_valid)
    assert not memory.pair(0, 1).left.requires_grad


def test_refuses_unknown_contexts() -> None:
    with pytest.raises(InputError, match="contexts 0 to 1"):
        FeatureMemory(2, 3, 1, 1).push(torch.zeros(1, 1, 1), torch.tensor([2]))


def test_forgotten_features_are_gone() -> None:
    memory = FeatureMemory(2, 3, 2, 1)
    context = torch.tensor([0, 1])
    memory.push(torch.ones(2, 2, 1), context)
    memory.forget()
    assert not memory.pair(0, 1).left_valid.any()
    memory.push(torch.full((2, 2, 1), 5.0), context)
    recent = memory.pair(0, 1)
    assert recent.left[recent.left_valid].tolist() == [[5.0], [5.0]]
