"""Expressions, stratified and group-disjoint parts."""

from __future__ import annotations

import numpy as np
import pytest

from modalign.data.tables.splits import assign_splits, check_groups, hold_out, outer_fold, select_rows
from modalign.errors import InputError

COLUMNS = {
    "rep": np.array([1, 2, 3, 3]),
    "age": np.array([1.5, 2.0, 30.0, 4.0]),
    "who": np.array(["Anya", "Bill", "Faye", "Bill"]),
    "is_test": np.array([True, False, False, True]),
    "pair": np.zeros((4, 2)),
}


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("rep==3", [2, 3]),
        (" rep != 3 ", [0, 1]),
        ("age<2", [0]),
        ("age<=2.0", [0, 1]),
        ("age>2", [2, 3]),
        ("age>=4", [2, 3]),
        ("who==Bill", [1, 3]),
        ("who=='Bill'", [1, 3]),
        ("who in Anya|Faye", [0, 2]),
        ("rep in 1 | 2", [0, 1]),
        ("is_test==True", [0, 3]),
        ("is_test==0", [1, 2]),
        ("is_test!=true", [1, 2]),
        ("rep==3 and who=='Bill'", [3]),
        ("age<2 or (rep==3 and not is_test)", [0, 2]),
        ("who in ['Anya', 'Faye'] and age > 2", [2]),
        ("1 < rep and age <= 4", [1, 3]),
    ],
)
def test_expressions(expression: str, rows: list[int]) -> None:
    assert np.flatnonzero(select_rows(expression, COLUMNS)).tolist() == rows


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("rep", r"cannot read the expression 'rep'; expected COLUMN==VALUE"),
        ("reps==3", r"unknown column in 'reps==3': 'reps'; did you mean 'rep'"),
        ("rep==4", r"holds for no row; 'rep' has the values 1, 2, 3: choose of these"),
        ("rep>0", r"holds for every row; 'rep' has the values"),
        ("rep==three", r"'three' in 'rep==three' cannot be compared with the column; expected a number"),
        ("is_test==maybe", r"expected True or False"),
        ("who<B", r"holds text, which '<' cannot order"),
        ("pair==0", r"has shape \(4, 2\); expected one value a row"),
        ("rep==3 and whom=='Bill'", r"unknown column in .*: 'whom'; did you mean 'who'"),
        ("rep==3 and who.str.len() > 3", r"cannot read the expression .*calls are not allowed.*expected comparisons"),
        ("rep==3 and @__import__('os')", r"cannot read the expression"),
        ("rep==3 and age > 900", r"holds for no row"),
    ],
)
def test_expressions_that_cannot_be_used(expression: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select_rows(expression, COLUMNS)


def test_random_parts_are_stratified_and_depend_on_the_seed_alone() -> None:
    strata = np.repeat(np.arange(4), [400, 200, 40, 20])
    parts = assign_splits({}, strata, None, None, 0.15, 0)
    for part, share in (("train", 0.6), ("valid", 0.15), ("test", 0.25)):
        for code in range(4):
            total = (strata == code).sum()
            assert abs((parts[strata == code] == part).sum() - share * total) <= 2
    assert (parts == assign_splits({}, strata, None, None, 0.15, 0)).all()
    assert (parts != assign_splits({}, strata, None, None, 0.15, 1)).any()


def test_every_row_is_held_out_alike_often() -> None:
    strata = np.repeat(np.arange(3), [7, 5, 30])
    held = np.mean([hold_out(strata, None, 0.25, np.random.default_rng(s), "test") for s in range(400)], 0)
    assert abs(held - 0.25).max() < 0.1


@pytest.mark.parametrize("seed", range(20))
def test_small_classes_stay_in_training(seed: int) -> None:
    strata = np.array([0] * 30 + [1] * 30 + [2, 2, 3])
    parts = assign_splits({}, strata, None, None, 0.15, seed)
    assert set(strata[parts == "train"]) == {0, 1, 2, 3}
    assert parts[-1] == "train", "a class of one sample is never held out"


@pytest.mark.parametrize("seed", range(10))
def test_groups_are_never_divided_and_every_class_is_trained(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(25, size=300)
    strata = np.where(groups == 3, 2, rng.integers(2, size=300))  # class 2 lives in one group
    parts = assign_splits({}, strata, groups, None, 0.15, seed)
    assert check_groups(parts, groups, None) == []
    assert set(strata[parts == "train"]) == {0, 1, 2}
    assert abs((parts == "test").mean() - 0.25) < 0.05
    assert abs((parts == "valid").mean() - 0.15) < 0.05


def test_groups_are_stratified_as_well_as_they_allow() -> None:
    groups = np.repeat(np.arange(20), 10)
    strata = (groups % 2).astype(int)  # every group has one class
    parts = assign_splits({}, strata, groups, None, 0.2, 0)
    assert abs(strata[parts == "test"].mean() - 0.5) <= 0.1
    assert abs(strata[parts == "train"].mean() - 0.5) <= 0.1


def test_validation_comes_out_of_training_where_test_is_named() -> None:
    columns = {"rep": np.tile([1, 2, 3], 60)}
    parts = assign_splits(columns, np.repeat([0, 1], 90), None, "rep==3", 0.2, 0)
    assert ((parts == "test") == (columns["rep"] == 3)).all()
    assert (parts == "valid").sum() == 24


def test_a_column_that_names_the_splits_is_taken_as_it_is() -> None:
    named = np.array(["train", "Train", "val", "dev", "test", "validation"])
    parts = assign_splits({"split": named}, np.zeros(6), None, None, 0.2, 0)
    assert parts.tolist() == ["train", "train", "valid", "valid", "test", "valid"]
    assert (assign_splits({"fold": named}, np.zeros(6), None, "fold", 0.2, 0) == parts).all()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["train", "tset", "test"], r"'split' has values that name no split: 'tset'; expected train, valid or test"),
        (["train", "", "test"], r"name no split: ''"),
        (["train", "valid", "valid"], r"names no row 'test'; expected train and test"),
        (["test", "valid", "valid"], r"names no row 'train'"),
    ],
)
def test_strange_split_columns(column: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        assign_splits({"split": np.array(column)}, np.zeros(3), None, None, 0.2, 0)


def test_divided_groups_are_refused_unless_all_are_by_design() -> None:
    rep, speaker = np.tile([1, 2, 3], 20), np.repeat(np.arange(20), 3)
    parts = np.where(rep == 3, "test", "train")
    assert "divides every one of the 20 groups" in check_groups(parts, speaker, "rep==3")[0]
    with pytest.raises(InputError, match=r"20 groups stand in more than one split: 0, 1.*expected each in one"):
        check_groups(parts, speaker, "split")
    parts[speaker == 4] = "train"
    with pytest.raises(InputError, match=r"19 groups stand in more than one split"):
        check_groups(parts, speaker, "rep==3")


@pytest.mark.parametrize(
    ("strata", "groups", "fraction", "message"),
    [
        (np.arange(5), None, 0.25, r"cannot hold 25% of 5 rows out as 'test' and keep every class in training"),
        (np.zeros(50), np.zeros(50), 0.25, r"50 rows in 1 groups out as 'test'.*give no group"),
        (np.zeros(50), None, 0.0, r"share of 'test' is 0.0; expected a number between 0 and 1"),
    ],
)
def test_nothing_to_hold_out(strata, groups, fraction: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hold_out(strata, groups, fraction, np.random.default_rng(0), "test")


def test_a_value_may_have_the_words_of_an_expression_in_it() -> None:
    kinds = {"kind": np.array(["rock and roll", "not (yet) named", "pop"])}
    assert select_rows("kind==rock and roll", kinds).tolist() == [True, False, False]
    assert select_rows("kind in pop|not (yet) named", kinds).tolist() == [False, True, True]


def test_every_repetition_of_cross_validation_draws_other_folds():
    first, again = (outer_fold({}, np.arange(40) % 2, None, fold, 4, 0) for fold in (0, 4))
    assert not np.array_equal(first, again)


def test_every_validation_seed_has_a_part_of_its_own_and_leaves_the_test_rows():
    rows = {"part": np.repeat([1, 2], 40)}
    one, two = (assign_splits(rows, np.arange(80) % 2, None, "part==2", 0.25, 0, valid_seed=seed) for seed in (0, 1))
    assert not np.array_equal(one, two)
    assert np.array_equal(one == "test", two == "test")
