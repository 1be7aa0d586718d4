"""Several labels or numbers as a target: how they are read, which of them may be missing, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modalign.data.info import DataInfo
from modalign.data.tables.arrays import from_arrays
from modalign.data.tables.labels import read_labels
from modalign.errors import InputError


def made(count: int = 60, **more: object) -> dict[str, np.ndarray]:
    """One modality and three labels in columns, of which the last is text with gaps."""
    rng = np.random.default_rng(0)
    found = {"a": rng.normal(size=(count, 3)), "p": rng.integers(0, 2, count), "q": rng.integers(0, 2, count) * 1.0}
    found["r"] = np.array(["0", "1", ""] * (count // 3))
    return found | more  # type: ignore[return-value]


def test_columns_and_one_array_give_the_same_target() -> None:
    arrays = made()
    columns = [arrays["p"], arrays["q"], arrays["r"]]
    found = read_labels("p, q,r", columns, "multilabel")
    assert found.task.classes == ("p", "q", "r")
    assert found.target[:3, 2].isnan().tolist() == [False, False, True]
    whole = np.stack([arrays["p"], arrays["q"], found.target[:, 2].numpy()], 1)
    again = read_labels("tags", [whole], "multilabel", ["p", "q", "r"])
    assert again.task == found.task
    assert torch.equal(again.target.nan_to_num(-1), found.target.nan_to_num(-1))
    assert read_labels("tags", [whole], "multilabel").task.classes == ("tags_0", "tags_1", "tags_2")


def test_several_numbers_bring_their_mean_and_spread() -> None:
    rng = np.random.default_rng(0)
    h, k = rng.normal(100, 20, 50), rng.normal(5, 0.1, 50)
    h[3] = np.nan
    task = read_labels("h,k", [h, k], "regression").task
    assert task.center == pytest.approx((np.nanmean(h), k.mean()))
    assert task.scale == pytest.approx((np.nanstd(h), k.std()))
    numbers = np.stack([h, k], 1)
    scores = torch.tensor((numbers - task.center) / task.scale)
    assert task.log_probability(scores)[:3].numpy() == pytest.approx(numbers[:3], rel=1e-5)
    assert float(task.loss(scores.nan_to_num(), torch.tensor(numbers))) == pytest.approx(0, abs=1e-8)


def test_rows_without_any_label_are_refused_or_left_out_and_those_with_some_stay() -> None:
    tags = np.array([[0, 1], [1, 0], [np.nan, 1], [np.nan, np.nan]] * 15)
    with pytest.raises(InputError, match=r"no label of 'tags' is known in .*3, 7, .*drop_unlabelled"):
        from_arrays(made(tags=tags), ["a"], "tags", task="multilabel")
    data = from_arrays(made(tags=tags), ["a"], "tags", task="multilabel", drop_unlabelled=True)
    assert len(data.train) + len(data.valid) + len(data.test) == 45


@pytest.mark.parametrize(
    ("more", "label", "task", "message"),
    [
        ({"q": np.zeros(60)}, "p,q", "multilabel", r"label 'q' is 0 in every row; expected at least two values"),
        ({"q": np.arange(60) % 3}, "p,q", "multilabel", r"label 'q' is neither 0 nor 1 in rows 2, 5"),
        ({"q": np.array(["x", "1"] * 30)}, "p,q", "multilabel", r"label 'q' holds text; expected numbers"),
        ({"q": np.full(60, np.nan)}, "p,q", "regression", r"label 'q' is not known in any row"),
        ({}, "p,p", "multilabel", r"names p more than once"),
        ({}, "p,q", None, r"names 2 columns; expected one, or a task for several: task='survival', or multilabel"),
        ({"q": np.zeros((60, 2))}, "p,q", "multilabel", r"label 'q' has shape \(60, 2\); expected one value a row"),
    ],
)
def test_what_is_no_label_is_refused_with_what_to_do(more, label, task, message) -> None:
    with pytest.raises(InputError, match=message):
        from_arrays(made(**more), ["a"], label, task=task)


def test_a_modality_that_is_one_of_the_labels_is_refused() -> None:
    arrays = made(copy=made()["q"][:, None])
    with pytest.raises(InputError, match="modality 'copy' is a copy of the label"):
        from_arrays(arrays, ["a", "copy"], "p,q", task="multilabel")


def test_a_label_without_a_training_sample_is_told() -> None:
    part = np.array(["train"] * 30 + ["valid"] * 15 + ["test"] * 15)
    rare = (np.arange(60) > 50).astype(int)
    data = from_arrays(made(part=part, rare=rare), ["a"], "p,rare", task="multilabel", split="part")
    assert any("nothing is learned: rare" in note for note in data.notes)


def test_sets_of_labels_are_contexts_and_those_not_seen_share_one() -> None:
    tags = np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0]] * 20)
    tags[:, 2] = np.arange(60) % 2
    info = DataInfo.of(from_arrays(made(tags=tags), ["a"], "tags", task="multilabel"))
    assert DataInfo.from_dict(info.to_dict()) == info
    assert info.target_contexts == len(info.label_sets) + 1 == 5
    given = torch.tensor([[0.0, 1, 0], [0, 1, torch.nan], [1, 1, 1]])
    same, unknown, unseen = info.target_bins(given).tolist()
    assert same == unknown == info.label_sets.index((0, 1, 0))  # a label that is not known counts as absent
    assert unseen == 4


def test_scored_groups_may_lack_the_same_label() -> None:
    tags = np.repeat(np.array([[0, 1], [1, np.nan], [np.nan, 1], [1, 0]] * 5), 3, 0)
    who = np.repeat(np.arange(20), 3).astype(str)
    data = from_arrays(made(tags=tags, who=who), ["a"], "tags", task="multilabel", group="who")
    data.scored = "groups"
    assert len(data.sample_groups(data.train).first) == len(data.train) // 3
