"""Data that can be read but hardly meant: refused, or remarked before training and kept with the run."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import modalign
from modalign.data.load import load_data
from modalign.data.tables.arrays import from_arrays
from modalign.errors import DataError

N = 80
Arrays = dict[str, Any]


def arrays() -> Arrays:
    """Two continuous modalities; 48 training, 12 validation and 20 test rows."""
    rng = np.random.default_rng(0)
    return {
        "a": rng.normal(size=(N, 3)).astype(np.float32), "b": rng.normal(size=(N, 2)).astype(np.float32),
        "y": np.arange(N) % 2, "who": np.repeat(np.arange(N // 4), 4),
        "part": np.array(["train"] * 48 + ["valid"] * 12 + ["test"] * 20),
    }  # fmt: skip


def load(change: Callable[[Arrays], Any], **settings: Any) -> modalign.MultimodalData:
    given = arrays()
    change(given)
    return load_data(given, **{"target": "y", "modalities": ["a", "b"], "split": "part"} | settings)


def put(name: str, values: Any, rows: slice = slice(None)) -> Callable[[Arrays], None]:
    """A change of some rows of one array."""

    def change(given: Arrays) -> None:
        given[name][rows] = values(given) if callable(values) else values

    return change


def new(name: str, make: Callable[[Arrays], Any]) -> Callable[[Arrays], None]:
    """An array of its own."""

    def change(given: Arrays) -> None:
        given[name] = make(given)

    return change


def nothing(given: Arrays) -> None:
    """As it is."""


def copied(*names: str, rows: int = 20) -> Callable[[Arrays], None]:
    """The first test rows are the first training rows."""

    def change(given: Arrays) -> None:
        for name in names:
            given[name][60 : 60 + rows] = given[name][:rows]

    return change


REFUSED: dict[str, tuple[Callable[[Arrays], Any], dict[str, Any], str]] = {
    "the label as a modality": (nothing, {"modalities": ["a", "y"]}, "modality 'y' is the label 'y'"),
    "the group as a modality": (nothing, {"modalities": ["a", "who"], "group": "who", "split": None}, "is the group"),
    "a copy of the label": (new("b", lambda g: g["y"].astype(float)), {}, "modality 'b' is a copy of the label"),
    "names of rows for a label": (
        new("y", lambda g: np.array([f"p{i}" for i in range(N)])), {"split": None}, "80 classes in 80 rows: it names",
    ),
    "a test split that was learned from": (copied("a", "b"), {}, "every test row is an exact copy of a training row"),
    "placeholders": (put("a", 1e38, slice(3, 4)), {}, r"numbers beyond 1e\+18 in rows 3; expected measurements"),
    "placeholders below zero": (put("a", -1e38, slice(3, 4)), {}, r"numbers beyond 1e\+18 in rows 3"),
    "presence in words": (new("present_a", lambda g: np.array(["yes"] * N)), {}, "no mark of presence.*: yes; exp"),
    "presence that is NaN": (
        new("present_a", lambda g: np.where(np.arange(N) == 5, np.nan, 1.0)), {}, "no mark of presence in rows 5",
    ),
    "classes given twice": (nothing, {"classes": ["0", "1", "1"]}, "classes are given twice: 1; expected each once"),
    "classes that differ by blanks": (
        nothing, {"classes": ["0", "1", "1 "]}, "classes differ by blanks alone",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused(case: str) -> None:
    change, settings, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        load(change, **settings)


REMARKED: dict[str, tuple[Callable[[Arrays], Any], dict[str, Any], str]] = {
    "the label in other words": (new("b", lambda g: np.eye(2)[g["y"]]), {}, "it is the label in other words"),
    "numbers of rows for a target": (new("y", lambda g: np.arange(N) + 9), {"task": "regression"}, "consecutive whole"),
    "a modality that chooses the test rows": (
        new("age", lambda g: np.arange(N, dtype=float)), {"modalities": ["a", "age"], "split": "age>=60"},
        "modality 'age' decides which rows are tested",
    ),
    "some copies": (copied("a", "b", rows=4), {}, r"4 of 20 test rows are exact copies .*\(row 60, 61, 62, 63\)"),
    "copies in one modality": (copied("a"), {}, "'a' of 100% of the test rows is that of a training row too"),
    "a constant modality": (put("a", 1.0), {}, "modality 'a' is the same in all rows"),
    "one that is constant in training": (put("a", 1.0, slice(48)), {}, "'a' is the same in all training rows"),
    "two modalities that are one": (new("b", lambda g: g["a"].copy()), {}, "modalities 'a' and 'b' are the same"),
    "a class that is not in validation": (
        put("y", lambda g: np.r_[np.full(24, 2), np.arange(24) % 2], slice(48)), {}, "without a validation row: 2",
    ),
    "one validation row": (put("part", "train", slice(49, 60)), {}, "one validation row: selection and calibration"),
    "one class in validation": (put("y", 0, slice(48, 60)), {}, "validation rows are of one class alone"),
    "one test row": (put("part", "train", slice(61, None)), {}, "one test row: every score rests on it alone"),
    "numbers that float32 cannot tell apart": (
        new("a", lambda g: 1e9 + np.arange(N * 3).reshape(N, 3)), {}, r"does not tell apart \(column 0, 1, 2\)",
    ),
    "whole numbers that float32 rounds": (
        new("a", lambda g: 2**24 + np.arange(N * 3).reshape(N, 3)), {}, r"last digits float32 loses \(column 0, 1, 2\)",
    ),
    "labels that differ by blanks": (
        new("y", lambda g: np.where(np.arange(N) % 4 == 0, "cat ", np.where(np.arange(N) % 2, "cat", "dog"))), {},
        "differ by blanks are read as one: 'cat '",
    ),
    "labels that differ by case": (
        new("y", lambda g: np.where(np.arange(N) % 3 == 0, "cat", np.where(np.arange(N) % 3 == 1, "Cat", "dog"))), {},
        "differ by case alone: Cat, cat",
    ),
    "one wild target": (
        new("y", lambda g: np.where(np.arange(N) == 3, 1e6, g["a"][:, 0])), {"task": "regression"},
        r"far from all others .* in rows 3: 1e\+06",
    ),
    "a class without a row": (nothing, {"classes": ["0", "1", "2"]}, "classes without a single row: 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", REMARKED)
def test_what_can_be_meant_is_remarked(case: str) -> None:
    change, settings, message = REMARKED[case]
    notes = load(change, **settings).notes
    assert any(re.search(message, note) for note in notes), notes


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(DataError) as error:
        load(put("a", 1e38, slice(3, 4)), modalities=["a", "b"], classes=["0", "1", "1"])
    assert "classes are given twice" in str(error.value)
    assert "numbers beyond" in str(error.value)


def test_plain_data_get_no_remark() -> None:
    assert load(nothing).notes == []
    assert load_data("digits").notes == []


def test_half_precision_is_looked_at_without_an_overflow() -> None:
    arrays = {"a": np.random.default_rng(0).normal(size=(60, 4)).astype(np.float16), "y": np.arange(60) % 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(from_arrays(arrays).train) == 36


def test_an_empty_name_of_a_group_is_none() -> None:
    assert load(nothing, group="").group is None


def test_few_possible_values_recur_without_a_word() -> None:
    """Answers of a questionnaire are equal by chance."""
    rng = np.random.default_rng(0)
    change = new("a", lambda g: rng.integers(2, size=(N, 2)))
    assert load(change, modalities=["a"]).notes == []


def test_columns_of_a_table_that_are_put_together_are_looked_at_too() -> None:
    frame = pd.DataFrame({"age": np.arange(N) % 7, "bmi": np.arange(N) / 7, "y": np.arange(N) % 2})
    with pytest.raises(DataError, match="modality 'table' has the label 'y'"):
        load_data(frame, target="y", modalities={"table": ["age", "y"], "other": ["bmi"]})


def test_remarks_are_kept_with_the_run(tmp_path: Path) -> None:
    given = arrays()
    given["a"][:] = 1.0
    modalign.train(
        given, "late_fusion", target="y", modalities=["a", "b"], split="part", epochs=1, width=4, out=tmp_path / "run",
        quiet=True,
    )  # fmt: skip
    kept = json.loads((tmp_path / "run" / "environment.json").read_text())["notes"]
    assert any("'a' is the same in all rows" in note for note in kept)
