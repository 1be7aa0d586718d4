"""Prepared folders: written, read through memory maps, refused when they do not agree with themselves."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from modalign.data.batch import Modality
from modalign.data.load import load_data
from modalign.data.media.folder import open_array, write_prepared
from modalign.data.task import Task, classification
from modalign.errors import InputError
from modalign.settings import DataSettings

N = 40


def content() -> tuple[dict[str, np.ndarray], pd.DataFrame, dict[str, Modality]]:
    rng = np.random.default_rng(0)
    arrays = {
        "face": rng.integers(255, size=(N, 3, 6, 5)).astype(np.uint8),
        "voice": rng.normal(size=(N, 1, 7, 4)).astype(np.float16),
        "note": rng.integers(9, size=(N, 4)).astype(np.int32),
    }
    manifest = pd.DataFrame(
        {
            "id": [f"s{i}" for i in range(N)],
            "label": np.array(["sad", "glad"])[np.arange(N) % 2],
            "split": np.array(["train", "train", "valid", "test"])[np.arange(N) % 4],
            "group": [f"p{i}" for i in range(N)],
            "present_voice": np.arange(N) % 10 != 0,
            "age": np.linspace(20, 60, N),
        }
    )
    manifest.loc[[6, 7, 11], "label"] = "sad"
    modalities = {
        "face": Modality("face", "image", (3, 6, 5)),
        "voice": Modality("voice", "image", (1, 7, 4)),
        "note": Modality("note", "text", (4,), vocabulary=9),
    }
    return arrays, manifest, modalities


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    arrays, manifest, modalities = content()
    task = classification(["sad", "glad"])
    return write_prepared(tmp_path / "p", "faces", task, modalities, manifest, arrays, about={"size": 6})


def test_what_is_written_is_read(folder: Path) -> None:
    arrays, manifest, modalities = content()
    data = load_data(DataSettings(path=str(folder), columns=["age"]))
    assert data.name == "faces"
    assert data.modalities == modalities
    assert data.task.classes == ("sad", "glad"), "the order of the classes is the folder's, not the alphabet's"
    assert (len(data.train), len(data.valid), len(data.test)) == (20, 10, 10)
    batch = data.train.__getitems__([1, 10])
    for at, position in enumerate([1, 10]):
        row = int(data.train.ids[position][1:])
        assert manifest["split"][row] == "train"
        assert torch.equal(batch.inputs["face"][at], torch.from_numpy(arrays["face"][row]))
        assert batch.inputs["note"][at].tolist() == arrays["note"][row].tolist()
        voice = arrays["voice"][row].astype(np.float32) * (row % 10 != 0)
        assert batch.inputs["voice"][at].tolist() == voice.tolist()
        assert data.task.classes[batch.target[at]] == manifest["label"][row]
        assert batch.columns["age"][at] == pytest.approx(manifest["age"][row])
    assert [v.dtype for v in batch.inputs.values()] == [torch.uint8, torch.float32, torch.int64]
    assert data.notes[0] == "voice is absent in 4 of 40 samples"


def test_arrays_filled_row_by_row_are_finished(tmp_path: Path) -> None:
    arrays, manifest, modalities = content()
    whole = write_prepared(tmp_path / "a", "faces", classification(["sad", "glad"]), modalities, manifest, arrays)
    (tmp_path / "b").mkdir()
    for name, array in arrays.items():
        rows = open_array(tmp_path / "b", name, array.shape, array.dtype)
        for row in range(N):
            rows[row] = array[row]
        rows.flush()
    by_row = write_prepared(tmp_path / "b", "faces", classification(["sad", "glad"]), modalities, manifest)
    assert (whole / "meta.yaml").read_text() == (by_row / "meta.yaml").read_text()
    prints = [load_data(DataSettings(path=str(tmp_path / f))).fingerprint for f in "ab"]
    assert prints[0] == prints[1]


def test_another_choice_of_modalities_split_and_rows(folder: Path) -> None:
    settings = DataSettings(path=str(folder), modalities=["note", "face"], split="age>50", name="mine")
    settings.options = {"drop": "age<25"}
    data = load_data(settings)
    assert data.name == "mine"
    assert list(data.modalities) == ["note", "face"]
    ages = content()[1]["age"]
    assert [int(i[1:]) for i in data.test.ids] == np.flatnonzero(ages > 50).tolist()
    assert len(data.train) + len(data.valid) + len(data.test) == (ages >= 25).sum()
    batch, arrays = data.test.__getitems__([3]), content()[0]
    assert batch.inputs["face"][0].tolist() == arrays["face"][int(data.test.ids[3][1:])].tolist()


def test_other_targets_of_the_manifest(folder: Path) -> None:
    data = load_data(DataSettings(path=str(folder), label="age", options={"task": "regression"}))
    assert data.task.kind == "regression"


def test_survival_folder(tmp_path: Path) -> None:
    arrays, manifest, modalities = content()
    manifest = manifest.drop(columns="label").assign(time=np.arange(N) + 1.0, event=np.arange(N) % 2)
    folder = write_prepared(tmp_path / "p", "cohort", Task("survival"), modalities, manifest, arrays)
    data = load_data(DataSettings(path=str(folder)))
    assert data.task.kind == "survival"
    row = int(data.test.ids[0][1:])
    assert data.test.target[0].tolist() == [row + 1.0, float(row % 2)]


def test_a_split_travels_to_another_process_without_its_arrays(folder: Path) -> None:
    data = load_data(DataSettings(path=str(folder)))
    expected = data.test.__getitems__([2])
    sent = pickle.dumps(data.test)
    assert content()[0]["face"][:5].tobytes() not in sent
    again = pickle.loads(sent).__getitems__([2])
    assert torch.equal(again.inputs["face"], expected.inputs["face"])


def test_changed_bytes_change_the_fingerprint(tmp_path: Path, folder: Path) -> None:
    arrays, manifest, modalities = content()
    arrays["face"][3, 0, 0, 0] ^= 1
    other = write_prepared(tmp_path / "q", "faces", classification(["sad", "glad"]), modalities, manifest, arrays)
    first = load_data(DataSettings(path=str(folder))).fingerprint
    assert load_data(DataSettings(path=str(other))).fingerprint != first


def test_folders_that_do_not_agree_with_themselves(tmp_path: Path, folder: Path) -> None:
    arrays, manifest, modalities = content()
    task = classification(["sad", "glad"])
    with pytest.raises(InputError, match=r"'note' has no array"):
        write_prepared(
            tmp_path / "x", "x", task, modalities, manifest, {"face": arrays["face"], "voice": arrays["voice"]}
        )
    with pytest.raises(InputError, match=r"face.npy has shape \(40, 3, 6, 5\); expected \(39, 3, 6, 5\)"):
        write_prepared(tmp_path / "y", "y", task, modalities, manifest[:-1], arrays)
    assert not (tmp_path / "y" / "meta.yaml").exists()
    with pytest.raises(InputError, match=r"no finished prepared folder; expected meta.yaml in it"):
        load_data(DataSettings(path=str(tmp_path / "y")))
    with pytest.raises(InputError, match=r"unknown modality 'fase'; did you mean 'face'"):
        load_data(DataSettings(path=str(folder), modalities=["fase"]))
    with pytest.raises(InputError, match=r"unknown column 'agee'; did you mean 'age'"):
        load_data(DataSettings(path=str(folder), columns=["agee"]))
    with pytest.raises(InputError, match=r"kinds are fixed in a prepared folder"):
        load_data(DataSettings(path=str(folder), kinds={"face": "vector"}))
    with pytest.raises(InputError, match=r"impute is for columns of numbers"):
        load_data(DataSettings(path=str(folder), options={"impute": "mean"}))
    (folder / "voice.npy").write_bytes((folder / "voice.npy").read_bytes()[:-50])
    (folder / "note.npy").unlink()
    with pytest.raises(InputError, match=r"2 problems\n.*voice.npy' cannot be read; .*\n.*note.npy' is missing"):
        load_data(DataSettings(path=str(folder)))
    meta = yaml.safe_load((folder / "meta.yaml").read_text())
    (folder / "meta.yaml").write_text(yaml.safe_dump({**meta, "version": 0}))
    with pytest.raises(InputError, match=r"has version 0; expected 1: run prepare again"):
        load_data(DataSettings(path=str(folder)))
