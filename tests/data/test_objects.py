"""Objects as data sets: arrays, frames, torch data sets and loaders, and splits of these."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    StackDataset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

import modalign
from modalign.data.dataset import MultimodalData, is_augmented
from modalign.data.load import load_data
from modalign.data.tables.arrays import from_arrays
from modalign.errors import DataError, InputError, SettingsError
from modalign.models.multimodal import MultimodalModel
from modalign.settings import DataSettings, ModelSettings

N = 40


class Patients(Dataset[dict[str, Any]]):
    """Images and numbers of patients; ``change`` alters the item of a row."""

    def __init__(self, n: int = N, change: Callable[[int, dict[str, Any]], dict[str, Any]] | None = None) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 255, (n, 3, 8, 8)).astype(np.uint8)
        self.labs = torch.from_numpy(rng.normal(size=(n, 4))).float()
        self.change, self.reads = change, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Any]:
        self.reads += 1
        item = {"image": self.images[i], "labs": self.labs[i], "age": 30.0 + i, "note": f"case {i % 3}", "y": i % 2}
        return self.change(i, item) if self.change else item


def whole(data: MultimodalData, part: str = "train") -> Any:
    split = getattr(data, part)
    return split.__getitems__(list(range(len(split))))


def test_a_torch_data_set_of_an_image_a_table_and_a_text() -> None:
    source = Patients()
    data = load_data(source, modalities=["image", "labs", "age", "note"], columns=["age"], name="clinic")
    assert (len(data.train), len(data.valid), len(data.test)) == (24, 6, 10)
    assert {m: (v.kind, v.shape) for m, v in data.modalities.items()} == {
        "image": ("image", (3, 8, 8)),
        "labs": ("vector", (4,)),
        "age": ("vector", (1,)),
        "note": ("vector", (3,)),
    }
    batch = whole(data)
    for at, key in enumerate(data.train.ids):
        row = int(key)
        assert torch.equal(batch.inputs["image"][at], torch.from_numpy(source.images[row]))
        assert torch.equal(batch.inputs["labs"][at], source.labs[row])
        assert batch.inputs["age"][at].item() == batch.columns["age"][at] == 30 + row
        assert batch.target[at] == row % 2
    assert batch.present.all()
    assert batch.inputs["image"].dtype == torch.uint8


def test_the_splits_are_those_of_the_same_arrays() -> None:
    source = Patients()
    arrays = {"image": source.images, "labs": source.labs, "y": np.arange(N) % 2}
    lazy, memory = load_data(source, modalities=["image", "labs"]), load_data(arrays)
    assert lazy.train.ids == memory.train.ids
    assert lazy.test.ids == memory.test.ids
    for part in ("train", "valid", "test"):
        for name in ("image", "labs"):
            assert torch.equal(whole(lazy, part).inputs[name], whole(memory, part).inputs[name])


def test_items_are_read_once_to_load_and_then_when_needed() -> None:
    source = Patients()
    data = load_data(source)
    assert list(data.modalities) == ["image", "labs", "note"], "arrays and texts, not single numbers"
    first = source.reads
    assert N <= first <= N + 3
    data.train.__getitems__([0, 1, 2])
    assert source.reads == first + 3, "once an item, however many modalities"


def test_known_targets_spare_the_first_reading() -> None:
    def arrays_only(i: int, item: dict[str, Any]) -> dict[str, Any]:
        return {"image": item["image"], "labs": item["labs"] * (np.nan if i == 5 else 1)}

    source = Patients(change=arrays_only)
    source.targets = list(np.arange(N) % 2)  # type: ignore[attr-defined]
    data = load_data(source)
    assert source.reads <= 3
    assert data.train.target.tolist() == [int(key) % 2 for key in data.train.ids]
    for part in ("train", "valid", "test"):
        present = dict(zip(getattr(data, part).ids, whole(data, part).present.tolist(), strict=True))
        assert all(found == [True, key != "5"] for key, found in present.items()), "found when it is read"


def test_what_is_none_absent_or_nan_is_missing() -> None:
    def gaps(i: int, item: dict[str, Any]) -> dict[str, Any]:
        if i % 4 == 1:
            item["image"] = None
        if i % 4 == 2:
            del item["labs"]
        if i % 4 == 3:
            item |= {"labs": item["labs"] * np.nan, "note": "", "age": float("nan")}
        return item

    data = load_data(Patients(change=gaps), modalities=["image", "labs", "age", "note"])
    batch = whole(data)
    expected = {0: [1, 1, 1, 1], 1: [0, 1, 1, 1], 2: [1, 0, 1, 1], 3: [1, 0, 0, 0]}
    for at, key in enumerate(data.train.ids):
        assert batch.present[at].tolist() == expected[int(key) % 4]
        assert int(key) % 4 != 1 or batch.inputs["image"][at].sum() == 0
    assert torch.isfinite(batch.inputs["labs"]).all()
    assert any("image is absent in 10 of 40" in note for note in data.notes)


def test_a_number_may_be_missing_in_several_samples() -> None:
    def gaps(i: int, item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "age": None if i % 8 == 3 else item["age"]}

    data = load_data(Patients(change=gaps), modalities=["image", "age"])
    assert data.notes == ["age is absent in 5 of 40 samples"]


def test_standardization_reads_a_torch_data_set_as_it_reads_arrays() -> None:
    source = Patients()
    arrays = {"image": source.images, "labs": source.labs, "y": np.arange(N) % 2}
    fitted = []
    for made in (load_data(source, modalities=["image", "labs"]), load_data(arrays)):
        torch.manual_seed(0)
        model = MultimodalModel.build(made.modalities, 2, ModelSettings(width=4))
        model.fit_standardization(made.train)
        fitted.append(model.standardize["labs"].mean)
    assert torch.equal(*fitted)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "pixels": torch.stack([torch.from_numpy(item["image"]) for item in items]).float() / 255,
        "note": [item["note"] for item in items],
        "y": torch.tensor([item["y"] for item in items]),
    }


def test_a_loader_gives_its_data_set_its_collation_and_its_choice_of_samples() -> None:
    source = Patients()
    data = load_data(DataLoader(source, batch_size=7, shuffle=True, collate_fn=collate), kinds={"note": "text"})
    assert {m: v.kind for m, v in data.modalities.items()} == {"pixels": "image", "note": "text"}
    row = int(data.test.ids[3])
    batch = data.test.__getitems__([3])
    assert torch.equal(batch.inputs["pixels"][0], torch.from_numpy(source.images[row]).float() / 255)
    plain = load_data(DataLoader(source, batch_size=3), modalities=["labs", "image"])
    assert len(plain.train) + len(plain.valid) + len(plain.test) == N, "not only whole batches"
    chosen = DataLoader(source, sampler=SubsetRandomSampler(range(0, N, 2)))
    some = load_data(chosen, target="age", task="regression", modalities=["labs"])
    targets = torch.cat([some.train.target, some.valid.target, some.test.target])
    assert sorted(targets.tolist()) == [30.0 + i for i in range(0, N, 2)]


def test_streams_and_loaders_that_cannot_be_split_are_refused() -> None:
    class Stream(IterableDataset[dict[str, Any]]):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield {"x": torch.ones(2), "y": 0}

    for stream in (Stream(), DataLoader(Stream())):
        with pytest.raises(DataError, match=r"expected a map-style torch.utils.data.Dataset"):
            load_data(stream)
    again = WeightedRandomSampler(torch.ones(N), N * 3)
    with pytest.raises(DataError, match=r"draws samples more than once.*give the Dataset itself"):
        load_data(DataLoader(Patients(), sampler=again))
    with pytest.raises(DataError, match="batch_size=None"):
        load_data(DataLoader(Patients(), batch_size=None))


def test_a_frame_with_modalities_made_of_columns() -> None:
    n = np.arange(N)
    frame = pd.DataFrame(
        {"age": n * 1.0, "sex": n % 2, "title": [f"a case of kind {i}" for i in n], "ecg_0": n, "ecg_1": -n, "y": n % 2}
    )
    data = load_data(
        frame, target="y", modalities={"table": ["age", "sex"], "text": "title", "ecg": []}, kinds={"text": "text"}
    )
    assert {m: (v.kind, v.shape) for m, v in data.modalities.items()} == {
        "table": ("vector", (2,)),
        "text": ("text", (5,)),
        "ecg": ("vector", (2,)),
    }
    batch = whole(data)
    for at, key in enumerate(data.train.ids):
        assert batch.inputs["table"][at].tolist() == [int(key), int(key) % 2]
        assert batch.inputs["ecg"][at].tolist() == [int(key), -int(key)]
    beside = load_data(frame, modalities=["ecg", "age"])
    assert beside.modalities["ecg"].shape == (2,)
    with pytest.raises(InputError, match=r"unknown column of modality 'table': 'agee'; did you mean 'age'"):
        load_data(frame, modalities={"table": ["agee"]})
    with pytest.raises(DataError, match=r"'table': column 1 has \d+ different texts in \d+ training rows; expected at"):
        load_data(frame, modalities={"table": ["age", "title"]})


TABLE = {
    "note": [f"case {i} of many" for i in range(N)],
    "age": [30.0 + i % 7 for i in range(N)],
    "site": ["north" if i % 3 else "south" for i in range(N)],
    "labs": [[float(i % 5), float(i % 2)] for i in range(N)],
    "y": [i % 2 for i in range(N)],
}
MADE_OF = {"text": "note", "facts": ["age", "site"], "labs": "labs"}


class Table:
    """What polars and others give: rows and columns, and a way to pandas."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, key: object) -> object:
        raise AssertionError("a table is not read item by item")

    def to_pandas(self) -> pd.DataFrame:
        return pd.DataFrame(TABLE)


def hugging_face(**columns: Any) -> Any:
    """The table as a ``datasets.Dataset``, its target a class with a name."""
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    made = datasets.Dataset.from_dict(TABLE | columns)
    return made.cast_column("y", datasets.ClassLabel(names=["well", "ill"]))


def test_tables_of_other_libraries_are_read_as_data_frames() -> None:
    frame = load_data(pd.DataFrame(TABLE), modalities=MADE_OF)
    table = load_data(Table(), modalities=MADE_OF)
    assert table.fingerprint == frame.fingerprint
    parts = load_data({"train": Table(), "test": Table()}, modalities=MADE_OF)
    assert len(parts.test) == N


def test_a_hugging_face_data_set_is_a_table_with_names_of_classes(tmp_path: Path) -> None:
    data = load_data(hugging_face(), modalities=MADE_OF)
    assert data.task.classes == ("ill", "well")
    frame = load_data(pd.DataFrame(TABLE), modalities=MADE_OF)
    for m, x in whole(frame).inputs.items():
        assert torch.equal(whole(data).inputs[m], x), m
    run = modalign.train(
        hugging_face(), "joint", target="y", modalities=["labs"], epochs=1, width=4, quiet=True, out=tmp_path
    )
    assert {*run.predict(hugging_face().select(range(5)))["predicted"]} <= {"ill", "well"}


def test_what_a_hugging_face_data_set_decodes_itself_is_read_item_by_item() -> None:
    Image = pytest.importorskip("PIL.Image")
    made = hugging_face(photo=[Image.new("RGB", (6, 6), (i, 0, 0)) for i in range(N)])
    data = load_data(made, modalities=["photo", "labs"])
    assert data.modalities["photo"].shape == (3, 6, 6)
    assert type(data.train).__name__ == "DatasetSplit"
    changed = hugging_face().with_transform(lambda batch: batch | {"labs": [[9.0, 9.0, 9.0] for _ in batch["labs"]]})
    assert load_data(changed, modalities=["labs"]).modalities["labs"].shape == (3,)


@pytest.mark.parametrize("wrap", ["arrays", "frame", "dataset", "mixed"])
def test_splits_of_the_user_are_kept(wrap: str) -> None:
    rng = np.random.default_rng(0)

    def part(n: int, shift: float) -> dict[str, Any]:
        return {"a": rng.normal(size=(n, 3)) + shift, "b": rng.normal(size=n), "y": np.arange(n) % 2}

    def made(arrays: dict[str, Any], as_data_set: bool) -> Any:
        if wrap == "frame":
            return pd.DataFrame(
                {"a_0": arrays["a"][:, 0], "a_1": arrays["a"][:, 1], "b": arrays["b"], "y": arrays["y"]}
            )
        tensors = {key: torch.as_tensor(value) for key, value in arrays.items()}
        return StackDataset(**tensors) if as_data_set else arrays

    parts = {"train": part(20, 100.0), "val": part(8, 200.0), "test": part(12, 300.0)}
    source = {
        key: made(arrays, wrap == "dataset" or (wrap == "mixed" and key == "test")) for key, arrays in parts.items()
    }
    data = load_data(source, modalities=["a", "b"])
    assert (len(data.train), len(data.valid), len(data.test)) == (20, 8, 12)
    for name, shift in (("train", 100), ("valid", 200), ("test", 300)):
        assert (whole(data, name).inputs["a"].mean(1) - shift).abs().max() < 10
    carved = load_data({"train": source["train"], "test": source["test"]}, modalities=["a", "b"])
    assert (len(carved.train), len(carved.valid), len(carved.test)) == (17, 3, 12)
    assert not set(carved.train.ids) & set(carved.valid.ids)


def test_splits_that_cannot_be_used() -> None:
    arrays = {"a": np.ones((20, 2)), "y": np.arange(20) % 2}
    with pytest.raises(DataError, match=r"the parts train, valid; expected train and test"):
        load_data({"train": arrays, "valid": arrays})
    with pytest.raises(SettingsError, match=r"split already into train, test; leave the setting split out"):
        load_data({"train": arrays, "test": arrays}, split="y==0")
    wide = {"a": np.ones((20, 3)), "y": np.arange(20) % 2}
    with pytest.raises(DataError, match=r"'a' of test has samples of shape \(3,\).*expected \(2,\)"):
        load_data({"train": arrays, "test": wide})


def test_data_that_is_ready_is_returned_as_it_is() -> None:
    data = from_arrays({"a": np.ones((20, 2)) * np.arange(20)[:, None], "y": np.arange(20) % 2})
    assert load_data(data) is data
    with pytest.raises(SettingsError, match=r"split, columns: not for MultimodalData"):
        load_data(data, split="y==0", columns=["a"])
    with pytest.raises(SettingsError, match=r"target is 'y' and label is 'z'"):
        load_data({"a": np.ones(3)}, target="y", label="z")


@pytest.mark.parametrize("source", [[1, 2, 3], 7, np.ones((3, 2)), torch.ones(3), (np.ones(3), np.ones(3))])
def test_objects_of_a_wrong_kind(source: object) -> None:
    with pytest.raises(
        DataError, match=r"expected a dict of arrays, a data frame, a Hugging Face Dataset, a map-style"
    ):
        load_data(source)


def test_items_of_a_wrong_kind() -> None:
    pairs = torch.utils.data.TensorDataset(torch.ones(4, 2), torch.ones(4))
    with pytest.raises(DataError, match=r"data \(TensorDataset\): sample 0 is a tuple; expected a dictionary.*'image'"):
        load_data(pairs)
    with pytest.raises(InputError, match=r"unknown label 'outcome'"):
        load_data(Patients(), target="outcome")


def changed(row: int, **entries: Any) -> Patients:
    """A data set of arrays, read through once it is loaded, whose row then changes."""

    def change(i: int, item: dict[str, Any]) -> dict[str, Any]:
        item = {"image": item["image"], "labs": item["labs"]}
        return item | (entries if i == row and source.broken else {})

    source = Patients(change=change)
    source.targets, source.broken = np.arange(N) % 2, False  # type: ignore[attr-defined]
    return source


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"imgae": 1},
            r"clinic \(Patients\): sample 17 has the key 'imgae'; expected id, image, labs, y: yield the same",
        ),
        ({"labs": torch.ones(5)}, r"'labs' of sample 17 is float32 of shape \(5,\); expected numbers of shape \(4,\)"),
        ({"image": torch.ones(3, 8, 8)}, r"'image' of sample 17 is float32 .*; expected bytes of shape \(3, 8, 8\)"),
        ({"labs": "many"}, r"'labs' of sample 17 is 'many'; expected numbers of shape"),
        ({"labs": torch.tensor([1, 2, 3, np.nan])}, r"'labs' has NaN in a part of 1 rows \(17\)"),
        ({"labs": torch.tensor([1, 2, 3, np.inf])}, r"infinite or enormous values in 1 rows \(17\)"),
        ({"image": None, "labs": None}, r"samples 17 have no modality at all"),
    ],
)
def test_a_batch_that_differs_from_those_before(entries: dict[str, Any], message: str) -> None:
    source = changed(17, **entries)
    data = load_data(source, name="clinic")
    part = next(split for split in (data.train, data.valid, data.test) if "17" in split.ids)
    at = list(part.ids).index("17")
    part.__getitems__([0, at])
    source.broken = True  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=message):
        part.__getitems__([0, at])


def test_samples_that_differ_are_found_when_the_data_is_read_first() -> None:
    def odd(i: int, item: dict[str, Any]) -> dict[str, Any]:
        return item | ({"labs": torch.ones(5)} if i == 21 else {}) | ({"extra": 1} if i == 22 else {})

    with pytest.raises(DataError, match=r"(?s)2 problems.*sample 21 is .*sample 22 has the key 'extra'"):
        load_data(Patients(change=odd))
    mixed = Patients(change=lambda i, item: item | {"age": "old" if i == 30 else 1.0})
    with pytest.raises(DataError, match=r"'age' is 1.0 and 'old' in different samples"):
        load_data(mixed)


def test_rows_of_a_part_are_named_by_their_place_in_it() -> None:
    source = changed(3, imgae=1)
    parts = {"train": changed(-1), "test": source}
    loaded = load_data(parts)
    source.broken = True  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="sample 3 of test has the key 'imgae'"):
        loaded.test.__getitems__([3])


def test_features_of_a_torch_data_set_are_never_taken_as_fixed() -> None:
    assert is_augmented(load_data(Patients()).train, "image")


def test_token_ids_are_kept_to_know_the_largest() -> None:
    ids = torch.randint(0, 50, (N, 6))
    ids[3, 0] = 77
    data = load_data(StackDataset(note=ids, y=torch.arange(N) % 2), kinds={"note": "text"})
    assert (data.modalities["note"].kind, data.modalities["note"].vocabulary) == ("text", 78)


def test_survival_from_two_keys() -> None:
    source = StackDataset(x=torch.rand(N, 2), time=torch.rand(N), event=torch.arange(N) % 2)
    data = load_data(source, target="time,event", task="survival")
    assert data.task.kind == "survival"
    row = int(data.test.ids[0])
    assert data.test.target[0].tolist() == [source[row]["time"].item(), row % 2]


def test_the_fingerprint_tells_other_targets_apart() -> None:
    one = load_data(StackDataset(x=torch.rand(N, 2), y=torch.arange(N) % 2))
    two = load_data(StackDataset(x=torch.rand(N, 2), y=torch.arange(N) % 2))
    other = load_data(StackDataset(x=torch.rand(N, 2), y=torch.arange(N) // 2 % 2))
    assert one.fingerprint == two.fingerprint, "arrays are not read for it"
    assert one.fingerprint != other.fingerprint


def test_names_and_paths_go_through_the_same_door(tmp_path: Path) -> None:
    assert load_data("digits", name="mine").name == "mine"
    np.savez(tmp_path / "d.npz", a=np.random.default_rng(0).normal(size=(N, 2)), g=np.arange(N) % 2)
    data = load_data(tmp_path / "d.npz", target="g")
    assert (data.name, list(data.modalities)) == ("d", ["a"])
    with pytest.raises(SettingsError, match=r"unknown option .* 'inpute'; did you mean 'impute'"):
        load_data({"a": np.ones(3)}, inpute="mean")


OWN = """
import numpy as np
import torch
from torch.utils.data import StackDataset


def arrays(n=40):
    a = np.random.default_rng(0).normal(size=(n, 2))
    return {"a": a, "a_0": a[:, 0], "y": np.arange(n) % 2}


class Pairs(StackDataset):
    def __init__(self, n: int = 40):
        super().__init__(x=torch.rand(n, 3), y=torch.arange(n) % 2)
"""


def test_a_recipe_names_a_data_set_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rooms.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = load_data(DataSettings(class_path="my_rooms.Pairs", init_args={"n": 20}, title="rooms"))
    assert (data.name, len(data.train), list(data.modalities)) == ("rooms", 12, ["x"])
    assert load_data(DataSettings(class_path="my_rooms.arrays", name="mine", split="a_0>0")).name == "mine"
    with pytest.raises(InputError, match=r"'my_rooms.Pears'"):
        load_data(DataSettings(class_path="my_rooms.Pears"))
    with pytest.raises(SettingsError, match=r"unknown option of the data 'my_rooms.Pairs': 'm'"):
        load_data(DataSettings(class_path="my_rooms.Pairs", init_args={"m": 20}))
    sys.modules.pop("my_rooms")
