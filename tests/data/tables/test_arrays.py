"""Arrays as modalities: kinds, missing values, labels, errors, and the real files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from modalign.data.batch import Batch
from modalign.data.dataset import MultimodalData, Split, is_augmented
from modalign.data.load import load_data
from modalign.data.tables.array_split import FeatureSplit
from modalign.data.tables.arrays import ArraySplit, from_arrays
from modalign.data.tables.modalities import Preparation, arrange
from modalign.errors import InputError
from modalign.evaluation.metrics import compute_metrics
from modalign.settings import DataSettings


def made(n: int = 80, **more: object) -> dict[str, object]:
    """Two vectors and a label of four classes."""
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(n, 3)), "b": rng.normal(size=(n, 5)), "y": np.arange(n) % 4}
    return {**arrays, **more}


def test_a_batch_has_the_rows_of_the_arrays() -> None:
    arrays = made(col=np.array(["u", "v"] * 40), age=np.linspace(0, 1, 80), id=[f"s{i}" for i in range(80)])
    data = from_arrays(arrays, ["a", "b"], columns=["col", "age"], group=None)
    assert isinstance(data.train, Split)
    batch = data.test.__getitems__([3, 0])
    for at, position in enumerate([3, 0]):
        row = int(data.test.ids[position][1:])
        np.testing.assert_allclose(batch.inputs["a"][at], arrays["a"][row], rtol=1e-6)
        assert batch.target[at] == row % 4
        assert data.test.columns["col"].names[batch.columns["col"][at]] == "uv"[row % 2]
        assert batch.columns["age"][at] == pytest.approx(row / 79)
    assert batch.index.tolist() == [3, 0]
    assert batch.present.all()
    every = [*data.train.ids, *data.valid.ids, *data.test.ids]
    assert sorted(every) == sorted(arrays["id"])


class Sealed:
    """Rows that must not be read."""

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        raise AssertionError("the raw rows were read")


class OwnSplit:
    """A split of a user's own class around another."""

    def __init__(self, split: Split) -> None:
        self.split, self.target, self.columns = split, split.target, split.columns
        self.ids, self.groups, self.epoch = split.ids, split.groups, -1

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, index: list[int]) -> Batch:
        return self.split.__getitems__(index)

    def set_epoch(self, epoch: int | None) -> None:
        self.epoch = epoch


@pytest.mark.parametrize("own", [False, True])
def test_computed_features_replace_inputs(own: bool) -> None:
    split = from_arrays(made(), ["a", "b"]).test
    features = np.arange(2.0 * len(split), dtype=np.float32).reshape(-1, 2)
    source = OwnSplit(split) if own else split
    changed = FeatureSplit(source, {"b": features})
    assert isinstance(changed, Split)
    plain, batch = split.__getitems__([5, 0, 2]), changed.__getitems__([5, 0, 2])
    assert list(batch.inputs) == ["a", "b"]
    assert batch.inputs["b"].tolist() == [[10, 11], [0, 1], [4, 5]]
    assert torch.equal(batch.inputs["a"], plain.inputs["a"])
    assert torch.equal(batch.target, plain.target)
    assert split.__getitems__([5]).inputs["b"].shape == (1, 5)
    both = FeatureSplit(changed, {"a": features[::-1].copy()})
    assert both.__getitems__([0]).inputs["b"].tolist() == [[0, 1]]
    assert both.__getitems__([0]).inputs["a"].tolist() == features[-1:].tolist()
    changed.set_epoch(3)
    assert (source if own else changed.split).epoch == 3  # type: ignore[attr-defined]


def test_replaced_inputs_are_not_read() -> None:
    split = from_arrays(made(), ["a", "b"]).test
    assert isinstance(split, ArraySplit)
    split.stored = {**split.stored, "b": Sealed()}
    changed = FeatureSplit(split, {"b": np.zeros((len(split), 2), np.float32)})
    assert changed.__getitems__([0, 1]).inputs["b"].shape == (2, 2)
    with pytest.raises(AssertionError, match="raw rows"):
        split.__getitems__([0, 1])


def test_what_may_differ_between_epochs() -> None:
    arrays = made(p=np.zeros((80, 3, 8, 8), np.float32), q=np.zeros((80, 3, 8, 8), np.float32))
    data = from_arrays(arrays, ["p", "q"], augment=["p"])
    assert [is_augmented(data.train, m) for m in ("p", "q")] == [True, False]
    assert not is_augmented(data.valid, "p")
    assert is_augmented(OwnSplit(data.valid), "q")


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "found", "expected"),
    [
        ((), "f8", None, "vector", (1,)),
        ((7,), "f8", None, "vector", (7,)),
        ((7, 2), "f4", None, "sequence", (7, 2)),
        ((7, 2), "f4", "vector", "vector", (14,)),
        ((7,), "f4", "sequence", "sequence", (7, 1)),
        ((8, 6), "u1", None, "image", (1, 8, 6)),
        ((8, 6), "f4", "image", "image", (1, 8, 6)),
        ((3, 8, 6), "f4", None, "image", (3, 8, 6)),
        ((8, 6, 3), "u1", None, "image", (3, 8, 6)),
        ((8, 6, 3), "f4", "image", "image", (3, 8, 6)),
        ((5, 8, 6), "u1", None, "clip", (5, 1, 8, 6)),
        ((5, 3, 8, 6), "f4", None, "clip", (5, 3, 8, 6)),
        ((5, 8, 6, 3), "u1", None, "clip", (5, 3, 8, 6)),
        ((9,), "i8", "text", "text", (9,)),
    ],
)
def test_kinds_follow_from_shapes(shape, dtype, kind, found, expected) -> None:
    array = np.random.default_rng(0).integers(9, size=(4, *shape)).astype(dtype)
    got, arranged = arrange("m", array, kind)
    assert (got, arranged.shape[1:]) == (found, expected)
    assert np.sort(arranged.ravel()).tolist() == np.sort(array.ravel()).tolist()


def test_channels_last_pixels_keep_their_place() -> None:
    array = np.random.default_rng(0).integers(9, size=(4, 8, 6, 3)).astype("u1")
    assert (arrange("m", array, None)[1][2, 1] == array[2, :, :, 1]).all()


@pytest.mark.parametrize(("shape", "kind"), [((2, 3, 4), "sequence"), ((3,), "image"), ((1, 2, 3, 4, 5), None)])
def test_a_shape_that_fits_no_kind(shape, kind) -> None:
    with pytest.raises(InputError, match=r"'m' has samples of shape .* expected vector .* name its kind"):
        arrange("m", np.zeros((4, *shape)), kind)


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'image'"):
        from_arrays(made(), ["a", "b"], kinds={"a": "imge"})


def test_pixels_stay_bytes_and_integers_become_floats() -> None:
    pixels = np.arange(80 * 12, dtype=np.uint8).reshape(80, 1, 3, 4)
    data = from_arrays(made(p=pixels, i=np.ones((80, 2), np.int8), t=np.ones((80, 2), bool)), ["p", "i", "t"])
    batch = data.train.__getitems__([0, 1])
    assert [batch.inputs[m].dtype for m in "pit"] == [torch.uint8, torch.float32, torch.float32]


def test_six_modalities_with_gaps_strings_and_a_class_of_two() -> None:
    n, rng = 120, np.random.default_rng(1)
    arrays = {f"m{k}": rng.normal(size=(n, k + 2)) for k in range(4)}
    for k in range(3):
        arrays[f"m{k}"][rng.random(n) < 0.3] = np.nan
    words = np.array(["fine weather", "rain, rain and storm", "", "a clear sky tonight"])
    arrays["note"] = np.array([f"{words[i % 4]} {'x' * (i % 4 != 2)}".strip() for i in range(n)])
    arrays["site"] = np.array(["north", "south", "east"])[np.arange(n) % 3]
    arrays["who"] = np.array(["cat", "dog", "owl"])[(np.arange(n) < 80).astype(int)]
    arrays["who"][[5, 100]] = "owl"
    names = [*(f"m{k}" for k in range(4)), "note", "site"]
    data = from_arrays(arrays, names, "who", kinds={"note": "text"})
    assert data.task.classes == ("cat", "dog", "owl")
    assert (data.train.target == 2).any()
    assert {m: data.modalities[m].kind for m in ("m0", "note", "site")} == {
        "m0": "vector",
        "note": "text",
        "site": "vector",
    }
    assert any(note.startswith("m0 is absent in") for note in data.notes)
    assert any(note == "note is absent in 30 of 120 samples" for note in data.notes)
    batch = data.train.__getitems__(list(range(len(data.train))))
    for m, name in enumerate(names):
        assert torch.isfinite(batch.inputs[name].float()).all()
        assert (batch.inputs[name][~batch.present[:, m]] == 0).all()
    absent = np.isnan(arrays["m0"]).all(1)
    assert batch.present[:, 0].tolist() == [not absent[int(i)] for i in data.train.ids]
    assert batch.inputs["site"].sum(1).tolist() == [1.0] * len(batch)


def test_the_vocabulary_comes_from_training_rows_alone() -> None:
    n = 60
    test = np.arange(n) >= 40
    texts = np.array([f"word{i} common" for i in range(n)])
    data = from_arrays(made(n, text=texts, test=test), ["a", "text"], split="test==True")
    assert data.modalities["text"].kind == "text"
    assert data.modalities["text"].vocabulary == 2 + 1 + len(data.train)
    ids = data.test.__getitems__([0]).inputs["text"][0]
    assert ids.dtype == torch.int64
    assert ids[0] == 1, "a word never seen in training is unknown"
    assert ids[1] == 2, "the most frequent word comes first"


def test_category_not_seen_in_training_is_all_zero() -> None:
    n = 60
    site = np.array(["n", "s"])[np.arange(n) % 2].astype("U5")
    test = np.arange(n) >= 40
    site[-1] = "moon"
    data = from_arrays(made(n, site=site, test=test), ["a", "site"], split="test==True")
    assert data.modalities["site"].shape == (2,)
    assert data.test.__getitems__([19]).inputs["site"].tolist() == [[0.0, 0.0]]


def test_numbers_as_categories_and_as_tokens() -> None:
    arrays = made(code=np.arange(80) % 3, ids=np.arange(320).reshape(80, 4) % 11)
    data = from_arrays(arrays, ["code", "ids"], kinds={"code": "categories", "ids": "text"})
    assert data.modalities["code"].shape == (3,)
    assert (data.modalities["ids"].vocabulary, data.modalities["ids"].padding) == (11, 0)


def test_imputation_uses_the_training_mean() -> None:
    arrays = made(test=np.arange(80) >= 60)
    arrays["a"][[2, 70], 1] = np.nan
    with pytest.raises(InputError, match=r"'a' has NaN in a part of 2 rows \(2, 70\).*impute='mean'"):
        from_arrays(arrays, ["a", "b"], split="test==True")
    data = from_arrays(arrays, ["a", "b"], split="test==True", impute="mean")
    train = [int(i) for i in data.train.ids]
    mean = np.nanmean(arrays["a"][train, 1])
    assert data.test.__getitems__([10]).inputs["a"][0, 1] == pytest.approx(mean, rel=1e-5)


def test_marked_absence_hides_what_the_row_holds() -> None:
    arrays = made(present_a=np.arange(80) % 5 != 0)
    arrays["a"][5] = np.inf
    data = from_arrays(arrays, ["a", "b"])
    batch = data.train.__getitems__(list(range(len(data.train))))
    assert batch.present[:, 0].tolist() == [int(i) % 5 != 0 for i in data.train.ids]
    assert batch.inputs["a"].isfinite().all()


def test_regression_and_survival() -> None:
    arrays = made(score=np.linspace(0, 1, 80), time=np.arange(80.0), event=np.arange(80) % 2)
    data = from_arrays(arrays, ["a", "b"], "score", task="regression")
    assert data.task.outputs == 1
    assert data.train.__getitems__([0]).target.dtype == torch.float32
    data = from_arrays(arrays, ["a", "b"], "time,event", task="survival")
    row = int(data.test.ids[4])
    assert data.test.__getitems__([4]).target.tolist() == [[float(row), float(row % 2)]]
    everyone = from_arrays(arrays | {"event": np.ones(80)}, ["a", "b"], "time,event", task="survival")
    assert (everyone.train.target[:, 1] == 1).all()


def test_a_time_of_zero_is_the_first_of_all() -> None:
    """Cox's partial likelihood and concordance know the order of times alone."""
    arrays = made(time=np.arange(80.0), event=np.arange(80) % 2)
    data = from_arrays(arrays, ["a", "b"], "time,event", task="survival")
    risk = torch.linspace(1, -1, 80)[:, None]
    target = torch.from_numpy(np.stack([arrays["time"], arrays["event"]], 1)).float()
    assert (target[:, 0] == 0).any()
    later = target + torch.tensor([1.0, 0.0])
    assert torch.equal(data.task.loss(risk, target), data.task.loss(risk, later))
    assert compute_metrics(data.task, risk.numpy(), target.numpy(), ["c_index"]) == {"c_index": 1.0}


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (np.array([3, 7, 9, 3] * 20), ("3", "7", "9")),
        (np.array(["b", "a "] * 40), ("a", "b")),
        (np.array([True, False] * 40), ("False", "True")),
        (np.array([2.0, 10.0] * 40), ("2", "10")),
        (np.array([-1, 1] * 40), ("-1", "1")),
    ],
)
def test_classes_are_sorted_values(values, classes) -> None:
    data = from_arrays(made(y=values), ["a", "b"])
    assert data.task.classes == classes
    row = int(data.test.ids[0])
    assert data.task.classes[data.test.target[0]] == str(values[row]).strip().removesuffix(".0")


def test_given_classes_fix_order_and_range() -> None:
    data = from_arrays(made(y=np.array(["lo", "hi"] * 40)), ["a", "b"], classes=["lo", "hi"])
    assert data.task.classes == ("lo", "hi")
    assert data.train.target[0] == int(data.train.ids[0]) % 2
    with pytest.raises(InputError, match=r"outside its range in rows 3, 7.*expected one of x, y, z"):
        from_arrays(made(), ["a", "b"], classes=["x", "y", "z"])


def test_the_fingerprint_follows_contents_and_splits() -> None:
    first = from_arrays(made(), ["a", "b"]).fingerprint
    assert from_arrays(made(), ["a", "b"]).fingerprint == first
    changed = made()
    changed["b"][70, 2] += 1e-3
    assert from_arrays(changed, ["a", "b"]).fingerprint != first
    assert from_arrays(made(), ["a", "b"], split_seed=1).fingerprint != first
    assert from_arrays(made(), ["b", "a"]).fingerprint != first


def bad_label() -> dict[str, object]:
    return made(y=np.array(["x", ""] * 40))


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        (made(), {"modalities": ["a", "bb"]}, r"unknown modality 'bb'; did you mean 'b'"),
        (made(), {"label": "z"}, r"unknown label 'z'"),
        (made(), {"group": "patient"}, r"unknown group 'patient'"),
        (made(), {"columns": ["sitee"]}, r"unknown column 'sitee'"),
        (made(b=np.zeros((79, 2))), {}, r"different numbers of rows: a 80, b 79, y 80; expected the same"),
        (made(0), {}, r"no rows; expected at least one sample"),
        (bad_label(), {}, r"label 'y' is missing in 40 rows \(1, 3, .*\(40 in all\)\).*drop_unlabelled"),
        (made(y=np.linspace(0, 1, 80)), {}, r"80 different values with fractions.*task='regression'"),
        (made(y=np.arange(80) % 4 - 1), {}, r"negative in rows 0, 4.*drop='y<0'"),
        (made(y=np.zeros(80, int)), {}, r"one class only, '0'; expected at least two"),
        (made(y=np.zeros((80, 2), int)), {}, r"label 'y' has shape \(80, 2\); expected one value a row"),
        (made(c=np.full((80, 2), np.nan)), {"modalities": ["a", "c"]}, r"'c' is absent everywhere.*leave it out"),
        (made(id=["s"] * 80), {}, r"ids stand more than once: s; expected one row a sample"),
        (made(g=np.array(["", "p"] * 40)), {"group": "g"}, r"group 'g' is missing in rows 0, 2"),
        (made(o=np.array([{}] * 80)), {"modalities": ["a", "o"]}, r"'o' holds objects of type dict; expected"),
        (made(), {"impute": "median"}, r"unknown way to impute 'median'"),
        (made(), {"augment": ["a"]}, r"unknown image or clip to augment 'a'"),
        (made(), {"drop": "y>=0"}, r"'y>=0' holds for every row"),
        (made(), {"task": "survival"}, r"names 1 column\(s\); survival expects two: 'TIME,EVENT'"),
        (made(), {"task": "ranking"}, r"unknown task 'ranking'"),
        (made(e=np.arange(80)), {"label": "y,e", "task": "survival"}, r"neither 0 nor 1 in rows 2, 3"),
        (made(e=np.zeros(80)), {"label": "y,e", "task": "survival"}, r"'e' never happened"),
        (made(t=np.arange(80) - 2.0, e=np.ones(80)), {"label": "t,e", "task": "survival"}, r"negative in rows 0, 1"),
        (made(age=np.array([np.nan, 1.0] * 40)), {"columns": ["age"]}, r"column 'age' is NaN or infinite in rows 0"),
        (made(y=np.array(["a", "b"] * 40)), {"task": "regression"}, r"label 'y' holds text; expected numbers"),
    ],
)
def test_bad_arrays_end_with_what_to_do(arrays, options, message) -> None:
    with pytest.raises(InputError, match=message):
        from_arrays(arrays, **{"modalities": ["a", "b"], **options})


def test_all_problems_are_said_at_once() -> None:
    arrays = made(c=np.full((80, 2), np.nan), id=["s"] * 80)
    arrays["a"][3] = np.inf
    arrays["a"][4, 0] = np.nan
    arrays["y"] = np.where(np.arange(80) == 7, "", "k")
    with pytest.raises(InputError) as error:
        from_arrays(arrays, ["a", "b", "c"])
    text = str(error.value)
    for part in ("arrays: 4 problems", "part of 1 rows (4)", "1 rows (3)", "missing in 1 rows (7)", "stand more"):
        assert part in text


def test_a_sample_without_any_modality_and_one_absent_in_training() -> None:
    arrays = made(test=np.arange(80) >= 60)
    arrays["a"][9], arrays["b"][9] = np.nan, np.nan
    with pytest.raises(InputError, match=r"rows 9 have no modality at all; expected at least one"):
        from_arrays(arrays, ["a", "b"], split="test==True")
    arrays = made(test=np.arange(80) >= 60)
    arrays["a"][:60] = np.nan
    with pytest.raises(InputError, match=r"'a' is absent in the whole training split"):
        from_arrays(arrays, ["a", "b"], split="test==True")


def test_class_that_is_only_tested() -> None:
    arrays = made(test=np.arange(80) >= 60, y=np.where(np.arange(80) < 60, np.arange(80) % 2, 2))
    with pytest.raises(InputError, match=r"classes without a training sample: 2; expected at least one of each"):
        from_arrays(arrays, ["a", "b"], split="test==True")


def test_dropped_rows_are_counted_and_the_rest_keeps_its_values() -> None:
    arrays = made(id=np.arange(80))
    data = from_arrays(arrays, ["a", "b"], drop="y==0")
    assert data.task.classes == ("1", "2", "3")
    assert "20 of 80 rows left out: y==0" in data.notes
    batch = data.test.__getitems__([0])
    np.testing.assert_allclose(batch.inputs["b"][0], arrays["b"][int(data.test.ids[0])], rtol=1e-6)
    nameless = from_arrays(made(), ["a", "b"], drop="y==0")
    assert "1" in {*nameless.train.ids, *nameless.valid.ids, *nameless.test.ids}
    assert "4" not in {*nameless.train.ids, *nameless.valid.ids, *nameless.test.ids}, "ids are rows of the file"
    lost = made(y=np.array([0.0, 1.0, np.nan, 1.0] * 20))
    assert len(from_arrays(lost, ["a", "b"], drop_unlabelled=True).task.classes) == 2


def test_a_preparation_survives_as_plain_values_and_treats_new_rows_alike() -> None:
    texts = np.array(["red fox", "blue whale", "red whale", "old oak"] * 20)
    data = from_arrays(made(text=texts), ["a", "text"], kinds={"text": "text"})
    for preparation in data.train.preparations.values():
        again = Preparation.from_dict(asdict(preparation))
        assert again == preparation
    ids = data.train.preparations["text"].apply(np.array(["whale of a red fox"]))
    assert ids.shape == (1, 2)
    assert ids[0].tolist() == [2 + data.train.preparations["text"].words.index("whale"), 1]
    with pytest.raises(InputError, match=r"'a' has samples of shape \(4,\); expected \(3,\)"):
        data.train.preparations["a"].apply(np.zeros((2, 4)))


def test_augmentation_depends_on_epoch_and_sample_only() -> None:
    pixels = np.random.default_rng(0).integers(255, size=(80, 3, 12, 12)).astype(np.uint8)
    data = from_arrays(made(p=pixels), ["a", "p"], augment=["p"])
    plain = data.train.__getitems__([0, 1]).inputs["p"]
    data.train.set_epoch(0)
    first = data.train.__getitems__([0, 1]).inputs["p"]
    assert first.dtype == torch.uint8
    assert not torch.equal(first, plain)
    assert torch.equal(data.train.__getitems__([1]).inputs["p"][0], first[1])
    data.train.set_epoch(1)
    assert not torch.equal(data.train.__getitems__([0, 1]).inputs["p"], first)
    data.train.set_epoch(None)
    assert torch.equal(data.train.__getitems__([0, 1]).inputs["p"], plain)
    kept = data.test.__getitems__([0]).inputs["p"]
    data.test.set_epoch(0)
    assert torch.equal(data.test.__getitems__([0]).inputs["p"], kept)


def avletters(shared: Path, **more: object) -> MultimodalData:
    path = str(shared / "avletters" / "avletters.npz")
    return load_data(DataSettings(path=path, modalities=["audio", "video"], label="y", **more))


@pytest.mark.shared
def test_avletters_by_repetition_and_by_speaker(shared: Path) -> None:
    data = avletters(shared, split="rep==3", columns=["speaker"])
    assert (len(data.train), len(data.valid), len(data.test)) == (442, 78, 260)
    assert {m: (v.kind, v.shape) for m, v in data.modalities.items()} == {
        "audio": ("sequence", (32, 26)),
        "video": ("clip", (16, 1, 30, 40)),
    }
    assert data.train.__getitems__([0]).inputs["video"].dtype == torch.uint8
    assert len(data.train.columns["speaker"].names) == 10
    data = avletters(shared, split="speaker in Anya|Bill|Faye", group="speaker")
    assert set(data.test.groups) == {"Anya", "Bill", "Faye"}
    assert len(data.test) == 234
    assert not set(data.valid.groups) & set(data.train.groups)
    data = avletters(shared, split="rep==3", group="speaker")
    assert any("divides every one of the 10 groups" in note for note in data.notes)
    assert not set(data.valid.groups) & set(data.train.groups)


@pytest.mark.shared
def test_mosi_by_its_own_split_and_video(shared: Path) -> None:
    data = load_data(
        DataSettings(
            path=str(shared / "mosi" / "mosi.npz"),
            modalities=["text", "audio", "video", "transcript"],
            split="is_test==True",
            group="utt_id",
            options={"group_pattern": "(.*)_"},
        )
    )
    assert len(data.train) + len(data.valid) == 1447
    assert len(data.test) == 752
    assert data.modalities["transcript"].kind == "text"
    parts = [set(part.groups) for part in (data.train, data.valid, data.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 93


@pytest.mark.shared
def test_gbmlgg_without_unknown_grades_and_as_survival(shared: Path) -> None:
    settings = DataSettings(
        path=str(shared / "gbmlgg_genomic" / "gbmlgg_genomic.npz"),
        modalities=["rna", "cnv", "mut"],
        label="grade",
        group="case_id",
        columns=["site", "age", "is_female"],
        options={"drop": "grade==0"},
    )
    data = load_data(settings)
    assert data.task.classes == ("2", "3", "4")
    assert len(data.train) + len(data.valid) + len(data.test) == 441
    assert data.train.columns["site"].discrete
    assert not data.train.columns["age"].discrete
    assert data.train.columns["is_female"].names == ("0", "1")
    settings.label, settings.options = "survival_months,event", {"task": "survival"}
    assert load_data(settings).task.kind == "survival"
