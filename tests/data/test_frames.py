"""Data frames as they come: numbers and categories side by side, texts, and paths to files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import modalign
from modalign import MultimodalClassifier
from modalign.data.load import load_data
from modalign.data.media.manifest_media import prepare_manifest
from modalign.errors import DataError, SettingsError

PHOTO = {"column": "path", "kind": "image", "size": 16}
PARTS = {"text": "title", "photo": PHOTO, "table": ["age", "sex", "site"]}


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("frame"), np.random.default_rng(0)
    label = np.arange(80) % 2
    for i, bright in enumerate(label):
        pixels = rng.integers(80 * bright, 100 + 80 * bright, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    rows = pd.DataFrame(
        {
            "path": [str(folder / f"{i}.png") for i in range(80)],
            "title": [f"{['calm day', 'bad night'][v]} {i % 7}" for i, v in enumerate(label)],
            "age": rng.normal(size=80) + label,
            "sex": np.array(["f", "m", None], object)[rng.integers(0, 3, 80)],
            "site": np.array(["a", "b", "c"])[(label + rng.integers(0, 2, 80)) % 3],
        }
    )
    rows.loc[3, "path"] = None
    rows.loc[4, ["age", "sex", "site"]] = None
    rows.loc[5, "age"] = np.nan
    return rows, label


@pytest.fixture(scope="module")
def fitted(frame):
    rows, label = frame
    return MultimodalClassifier("joint", modalities=PARTS, epochs=3, width=16, random_state=0).fit(
        rows[:60], label[:60]
    )


def test_text_images_and_a_table_are_learned_from(frame, fitted, tmp_path):
    rows, label = frame
    assert fitted.score(rows[60:], label[60:]) > 0.8
    fitted.save(tmp_path / "kept")
    again = MultimodalClassifier.load(tmp_path / "kept")
    np.testing.assert_array_equal(again.predict_proba(rows[60:]), fitted.predict_proba(rows[60:]))


def test_numbers_and_one_hot_texts_become_one_vector_learned_from_training_rows(frame):
    rows, label = frame
    rows = rows.assign(y=label)
    parts = {"table": ["age", "sex", "site"], "text": "title"}
    data = load_data(rows, target="y", modalities=parts, split="site==c", impute="mean")
    learned = set(rows["site"].dropna()) - {"c"}
    assert data.modalities["table"].shape == (1 + 2 + len(learned),)
    mean = rows.loc[[int(i) for i in data.train.ids], "age"].mean()
    for split in (data.train, data.valid, data.test):
        found = split.__getitems__(list(range(len(split))))
        for row, values, there in zip(split.ids, found.inputs["table"], found.present[:, 0], strict=True):
            said = rows.loc[int(row)]
            assert bool(there) == (int(row) != 4)
            if there:
                age = mean if np.isnan(said["age"]) else said["age"]
                one_hot = [
                    said["sex"] == "f",
                    said["sex"] == "m",
                    *(said["site"] == level for level in sorted(learned)),
                ]
                assert values.tolist() == pytest.approx([age, *map(float, one_hot)], abs=1e-5)


def test_a_gap_among_the_numbers_is_refused_unless_it_is_to_be_filled(frame):
    rows, label = frame
    parts = {"table": ["age", "site"], "text": "title"}
    with pytest.raises(DataError, match=r"NaN in a part of 1 rows \(5\).*impute='mean'"):
        load_data(rows.assign(y=label), target="y", modalities=parts)


def test_what_new_rows_say_otherwise_is_taken_or_refused(frame, fitted):
    rows, _ = frame
    new = rows[60:64].assign(site="never seen")
    assert fitted.predict_proba(new).shape == (4, 2)
    with pytest.raises(DataError, match=r"age of modality 'table' has text in rows 0, 1, 2, 3; expected numbers"):
        fitted.predict(new.assign(age="old"))
    assert fitted.predict(new.drop(columns=["path"])).shape == (4,)


def test_every_file_that_cannot_be_read_is_named(frame, fitted, tmp_path):
    rows, label = frame
    broken = rows[60:].reset_index(drop=True)
    (tmp_path / "empty.png").write_bytes(b"")
    broken.loc[[1, 6], "path"] = [str(tmp_path / "none.png"), str(tmp_path / "empty.png")]
    for call in (lambda: fitted.predict(broken), lambda: fitted.fit(broken, label[60:])):
        with pytest.raises(DataError, match=r"(?s)2 rows of 'photo' cannot be read.*row 1 .*none.png.*row 6 .*empty"):
            call()


def test_paths_are_recognized_and_never_read_as_words(frame, tmp_path):
    rows, label = frame
    rows = rows.drop(index=3).assign(y=np.delete(label, 3))
    data = load_data(rows, target="y", modalities={"photo": "path"})
    assert data.modalities["photo"].shape == (3, 224, 224)
    as_words = load_data(rows, target="y", modalities={"photo": "path"}, kinds={"photo": "text"})
    assert as_words.modalities["photo"].kind == "text"
    rows.assign(id=range(79)).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(DataError, match=r"'path' names files such as .*png.*modalities: \{path: image\}.*kinds="):
        modalign.train(tmp_path / "rows.csv", "joint", modalities=["path"], label="y", out=tmp_path / "run")


def test_another_picture_is_other_data(frame, tmp_path):
    rows, label = frame
    rows = rows[10:50].assign(y=label[10:50]).reset_index(drop=True)
    first = load_data(rows, target="y", modalities={"photo": PHOTO}).fingerprint
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(tmp_path / "black.png")
    rows.loc[7, "path"] = str(tmp_path / "black.png")
    assert load_data(rows, target="y", modalities={"photo": PHOTO}).fingerprint != first


def test_wrong_descriptions_are_refused(frame):
    rows, label = frame
    rows = rows.assign(y=label)
    with pytest.raises(SettingsError, match=r"did you mean 'path'"):
        load_data(rows, target="y", modalities={"photo": {**PHOTO, "column": "pth"}})
    with pytest.raises(SettingsError, match=r"kind of the files of 'photo'"):
        load_data(rows, target="y", modalities={"photo": {"column": "path", "kind": "picture"}})
    many = rows.assign(site=[f"s{i}" for i in range(80)], age=1.0)
    many = pd.concat([many] * 2, ignore_index=True).assign(site=[f"s{i}" for i in range(160)])
    with pytest.raises(DataError, match=r"column 1 has \d+ different texts in"):
        load_data(many, target="y", modalities={"table": ["age", "site"], "text": "title"}, valid_fraction=0.1)


def test_a_manifest_has_a_table_beside_files_also_when_prepared(frame, tmp_path):
    rows, label = frame
    rows = rows.assign(id=[f"p{i}" for i in range(80)], label=label, age=rows["age"].fillna(0.0))
    rows.loc[4, "age"] = np.nan
    rows.to_csv(tmp_path / "study.csv", index=False)
    about = (
        "label: label\nmodalities:\n  path: {kind: image, size: 8}\n  facts: {kind: table, columns: [age, sex, site]}\n"
    )
    (tmp_path / "study.yaml").write_text(about)
    prepare_manifest(tmp_path / "study.csv", tmp_path / "out", workers=1)
    run = modalign.train(tmp_path / "out", "joint", epochs=1, quiet=True, out=tmp_path / "run")
    assert run.strategy.info.modalities["facts"].shape == (6,)
    found = run.predict(rows[:6].drop(columns=["label"]))
    assert found["facts_present"].tolist() == [True] * 4 + [False, True]
    (tmp_path / "study.yaml").write_text(about.replace("site]", "sit]"))
    with pytest.raises(DataError, match=r"column of modality 'facts'.*'sit'.*did you mean 'site'"):
        prepare_manifest(tmp_path / "study.csv", tmp_path / "out2", workers=1)


def test_a_dataset_decodes_by_itself():
    from torch.utils.data import StackDataset

    pairs = StackDataset(x=np.zeros((20, 3), np.float32), y=np.arange(20) % 2)
    with pytest.raises(SettingsError, match="a Dataset decodes by itself"):
        load_data(pairs, target="y", modalities={"x": {"column": "x", "kind": "image"}})
