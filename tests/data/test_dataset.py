"""What metrics count: samples, or groups of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from modalign.data.dataset import MultimodalData
from modalign.data.tables.arrays import from_arrays
from modalign.data.task import Task, classification
from modalign.errors import InputError


def patches(label: np.ndarray | None = None) -> MultimodalData:
    """Twelve patients of three patches each, in mixed order."""
    patient = np.random.default_rng(0).permutation(np.repeat(np.arange(12), 3))
    y = patient % 2 if label is None else label
    data = from_arrays(
        {"a": np.arange(36.0), "b": np.arange(36.0), "y": y, "who": patient.astype(str)}, ["a", "b"], "y", group="who"
    )
    return replace(data, scored="groups")


def test_samples_are_left_exactly_as_they_are():
    data = replace(patches(), scored="samples")
    units = data.sample_groups(data.train)
    scores = torch.randn(len(data.train), 2).log_softmax(1)
    assert torch.equal(units.scores(data.task, scores), scores)
    assert list(units.names) == list(data.train.ids)
    single = replace(patches(), scored="groups")
    single.train.groups = np.array([f"g{i}" for i in range(len(single.train))])[::-1].copy()
    assert torch.equal(single.sample_groups(single.train).scores(data.task, scores), scores), (
        "groups of one, in any order"
    )


def test_probabilities_are_averaged_over_a_group():
    data = patches()
    units = data.sample_groups(data.train)
    scores = torch.randn(len(data.train), 2).log_softmax(1)
    found = units.scores(data.task, scores).exp()
    assert len(found) == len(set(data.train.groups)) == len(units.names)
    for name, row, first in zip(units.names, found, units.first.tolist(), strict=True):
        mine = [i for i, group in enumerate(data.train.groups) if group == name]
        assert first == mine[0]
        torch.testing.assert_close(row, scores[mine].exp().mean(0))
        assert data.train.target[first] == int(name) % 2
    assert list(units.names) == list(dict.fromkeys(data.train.groups)), "in the order in which they come"


def test_numbers_are_averaged_as_they_are():
    data = patches()
    units = data.sample_groups(data.train)
    risk = torch.randn(len(data.train), 1)
    mine = [i for i, group in enumerate(data.train.groups) if group == units.names[1]]
    torch.testing.assert_close(units.scores(Task("survival"), risk)[1], risk[mine].mean(0))
    far = torch.tensor([[-200.0, 0.0]]).expand(len(data.train), 2)
    torch.testing.assert_close(units.scores(classification("ab"), far)[:, 0], torch.full((len(units.names),), -200.0))


def test_a_unit_of_its_own_is_told_by_the_ids():
    data = patches()
    data.units = {"region": r"(.+)_\d+"}
    ids = [f"{patient}-r{i % 2}_{i}" for i, patient in enumerate(data.train.groups)]
    data.train.ids = ids
    regions = data.sample_groups(data.train, "region")
    assert list(regions.names) == list(dict.fromkeys(name.rsplit("_", 1)[0] for name in ids))
    assert [regions.names[k] for k in regions.member] == [name.rsplit("_", 1)[0] for name in ids]
    assert len(data.sample_groups(data.train).names) < len(regions.names) < len(ids)
    assert replace(data, scored="region").sample_groups(data.train).names == regions.names
    data.train.ids = [*ids[:-1], "strange"]
    with pytest.raises(InputError, match="scored by region, which the id 'strange' does not tell"):
        data.sample_groups(data.train, "region")
    data.train.ids, data.train.target = ids, torch.arange(len(ids))
    with pytest.raises(
        InputError, match=r"samples of region '.*' have different targets; expected one target a region"
    ):
        data.sample_groups(data.train, "region")


def test_a_group_has_one_target():
    data = patches(np.arange(36) % 2)
    with pytest.raises(InputError, match=r"scored by group, but samples of group '\d+' have different targets"):
        data.sample_groups(data.train)
    data.train.groups = None
    with pytest.raises(InputError, match="has no groups"):
        data.sample_groups(data.train)
