"""New samples: prepared, joined and decoded as those of training were, whatever they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, StackDataset

from modalign.data.batch import Batch
from modalign.data.dataset import MultimodalData
from modalign.data.load import load_data
from modalign.data.media import decoders
from modalign.data.media.manifest_media import prepare_manifest
from modalign.data.samples import describe_inputs, read_samples
from modalign.data.tables.array_split import ArraySplit
from modalign.data.tables.arrays import from_arrays
from modalign.errors import DataError, InputError, RunFolderError, SettingsError
from modalign.settings import DataSettings

N = 24


def saved(data: MultimodalData) -> dict[str, Any]:
    """What a run folder keeps: through JSON, as it does."""
    kept: dict[str, Any] = json.loads(json.dumps(describe_inputs(data)))
    return kept


def whole(split: ArraySplit) -> Batch:
    return split.__getitems__(list(range(len(split))))


def arrays(n: int = 80) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    texts = np.array(["red fox", "blue whale", "red whale", "old oak"])[np.arange(n) % 4]
    return {"a": rng.normal(size=(n, 3)), "b": rng.normal(size=(n, 5)), "text": texts, "y": np.arange(n) % 2}


def test_arrays_are_prepared_as_training_was() -> None:
    data = from_arrays(arrays(), ["a", "b", "text"], kinds={"text": "text"})
    words = data.train.preparations["text"].words
    fresh = {"b": np.ones((3, 5)), "text": np.array(["red oak", "", "green fox"])}
    fresh["b"][0] = np.nan
    batch = whole(read_samples(fresh, saved(data)))
    assert list(batch.inputs) == ["a", "b", "text"]
    assert batch.present.tolist() == [[False, False, True], [False, True, False], [False, True, True]]
    assert batch.inputs["a"].shape == (3, 3)
    assert batch.inputs["text"][2].tolist() == [1, 2 + words.index("fox")]
    only = whole(read_samples(fresh, saved(data), ["b"]))
    assert only.present.tolist() == [[False, False, False], [False, True, False], [False, True, False]]
    with pytest.raises(InputError, match=r"no modality is given; expected at least one of a, b, text"):
        read_samples({"c": np.ones(3)}, saved(data))
    with pytest.raises(InputError, match=r"'b' has samples of shape \(4,\); expected \(5,\)"):
        read_samples({"b": np.ones((3, 4))}, saved(data))
    with pytest.raises(InputError, match=r"'b' has 2 rows; expected 3"):
        read_samples({"a": np.ones((3, 3)), "b": np.ones((2, 5))}, saved(data))
    with pytest.raises(SettingsError, match=r"unknown modality 'c'"):
        read_samples(fresh, saved(data), ["c"])
    with pytest.raises(DataError, match=r"new samples is 7; expected a dict of arrays"):
        read_samples(7, saved(data))
    with pytest.raises(RunFolderError, match="does not say how its inputs are prepared"):
        read_samples(fresh, {"preparations": None})


def test_columns_are_joined_as_in_training(tmp_path: Path) -> None:
    n = np.arange(40)
    frame = pd.DataFrame(
        {"age": n, "sex": n % 2, "title": [f"kind {i % 9}" for i in n], "ecg_1": n, "ecg_2": -n, "y": n % 2}
    )
    made_of = {"table": ["age", "sex"], "text": "title", "ecg": []}
    data = load_data(frame, modalities=made_of, kinds={"text": "text"})
    new = pd.DataFrame(
        {"sex": [1, 0], "ecg_0": [9, 9], "ecg_2": [5, 6], "ecg_1": [3, 4], "title": ["kind 3", ""], "age": [7, 8]}
    )
    new.to_csv(tmp_path / "new.csv", index=False)
    for source in (new, tmp_path / "new.csv"):
        batch = whole(read_samples(source, saved(data)))
        assert batch.inputs["table"].tolist() == [[7, 1], [8, 0]]
        assert batch.inputs["ecg"].tolist() == [[3, 5], [4, 6]], "in the order of training"
        assert batch.present.tolist() == [[True, True, True], [True, False, True]]


def test_torch_data_sets_and_loaders_are_read_when_needed() -> None:
    image, labs = torch.rand(40, 3, 6, 6), torch.rand(40, 4)
    data = load_data(StackDataset(image=image, labs=labs, y=torch.arange(40) % 2))
    new = StackDataset(image=image[:5], labs=labs[:5])
    for source in (new, DataLoader(new, batch_size=2)):
        split = read_samples(source, saved(data))
        assert len(split) == 5
        assert torch.equal(whole(split).inputs["image"], image[:5])
        assert whole(split).present.all()
    without = read_samples(StackDataset(labs=labs[:5]), saved(data))
    assert whole(without).present.tolist() == [[False, True]] * 5
    wide = read_samples(StackDataset(labs=torch.rand(5, 9)), saved(data))
    with pytest.raises(DataError, match=r"samples of shape \(9,\); expected \(4,\)"):
        whole(wide)


def test_a_renamed_array_of_a_torch_data_set_is_found_again() -> None:
    image = torch.rand(40, 3, 6, 6)
    data = load_data(StackDataset(x=image, y=torch.arange(40) % 2), modalities={"image": "x"})
    assert torch.equal(whole(read_samples(StackDataset(x=image[:3]), saved(data))).inputs["image"], image[:3])


FILES = ("cough", "walk", "face", "gait")
ABOUT = """
modalities:
  cough: {kind: audio, recipe: digit}
  walk: {kind: video, frames: 2, size: 16}
  face: {kind: image, size: 8}
  gait: {kind: frames, frames: 2, size: 4}
  said: {kind: text, vocabulary: VOCABULARY, length: 6}
  note: text
  labs: numbers
  site: categories
"""


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory,
    write_wav: Any,
    write_video: Any,
    write_image: Any,
    tone_of: Any,
    ramp_of: Any,
) -> Path:
    """A folder of raw files with a manifest, and what ``prepare`` made of it."""
    folder = tmp_path_factory.mktemp("files")
    words = decoders.build_vocabulary(["cold and tired", "felt fine"] * 5, folder / "words" / "vocab.txt")
    for i in range(N):
        write_wav(folder / f"c{i}.wav", tone_of(0.5, 8000, 200 + 20 * i), 8000)
        write_video(folder / f"w{i}.mp4", ramp_of(6) // 4 + 4 * i, None)
        write_image(folder / f"f{i}.png" if i % 2 else folder / f"f{i}.jpg", (9 * i, 0, 99))
        write_image(folder / f"g{i}" / "1.png", (i, i, i))
    rows = pd.DataFrame(
        {
            "id": [f"s{i}" for i in range(N)],
            "label": np.array(["ill", "well"])[np.arange(N) % 2],
            "cough": [f"c{i}.wav" if i % 4 else None for i in range(N)],
            "walk": [f"w{i}.mp4" for i in range(N)],
            "face": [f"f{i}.png" if i % 2 else f"f{i}.jpg" for i in range(N)],
            "gait": [f"g{i}" for i in range(N)],
            "said": [f"felt {'fine' if i % 2 else 'tired'}" for i in range(N)],
            "note": [f"number {i}" for i in range(N)],
            "labs_a": np.arange(N) * 1.0,
            "labs_b": 1.0,
            "site": np.array(["north", "south"])[np.arange(N) % 2],
        }
    )
    rows.to_csv(folder / "my.csv", index=False)
    (folder / "my.yaml").write_text(ABOUT.replace("VOCABULARY", str(words)))
    prepare_manifest(folder / "my.csv", folder / "out", workers=1)
    return folder


def test_raw_files_are_decoded_as_those_of_training_were(files: Path, tmp_path: Path) -> None:
    data = load_data(DataSettings(path=str(files / "out")))
    kept = saved(data)
    rows = pd.read_csv(files / "my.csv").drop(columns="label")
    (files / "words" / "vocab.txt").rename(files / "moved.txt")  # a run keeps the words it was trained with
    rows.to_csv(files / "new.csv", index=False)
    rows.to_parquet(files / "new.parquet")
    paths = {m: [str(files / x) if isinstance(x, str) else None for x in rows[m]] for m in FILES}
    there = rows.assign(**paths)
    try:
        found = [
            whole(read_samples(source, kept))
            for source in (files / "new.csv", str(files / "new.parquet"), files / "my.yaml", files / "out", there)
        ]
    finally:
        (files / "moved.txt").rename(files / "words" / "vocab.txt")
    split = read_samples(files / "new.csv", kept)
    assert list(split.ids) == [f"s{i}" for i in range(N)]
    at = {key: i for i, key in enumerate(split.ids)}
    for part in (data.train, data.valid, data.test):
        expected = whole(part)
        chosen = [at[key] for key in part.ids]
        for batch in found:
            assert torch.equal(batch.present[chosen], expected.present)
            for m, values in expected.inputs.items():
                assert torch.equal(batch.inputs[m][chosen], values), m


def test_rows_that_cannot_be_read_are_all_named(files: Path, cut: Any) -> None:
    kept = saved(load_data(DataSettings(path=str(files / "out"))))
    (files / "broken.png").write_bytes(b"no picture")
    rows = pd.read_csv(files / "my.csv")[["id", "face", "walk", "labs_a", "labs_b"]]
    rows.loc[3, "face"] = "broken.png"
    rows.loc[5, "face"] = "nowhere.png"
    rows.loc[7, "walk"] = "c1.wav"
    rows.loc[2, "labs_a"] = np.inf
    rows.to_csv(files / "bad.csv", index=False)
    with pytest.raises(DataError) as error:
        read_samples(files / "bad.csv", kept)
    said = str(error.value)
    for part in (
        "new samples: 3 problems",
        "2 rows of 'face' cannot be read",
        "row 3 (id s3): not a readable image",
        f"row 5 (id s5): no such file: {files / 'nowhere.png'}",
        f"row 7 (id s7): no video stream: {files / 'c1.wav'}",
        "infinite or enormous values in 1 rows (2)",
    ):
        assert part in said


def test_files_for_a_model_that_was_trained_on_arrays() -> None:
    data = from_arrays({"face": np.zeros((20, 3, 8, 8)), "y": np.arange(20) % 2})
    with pytest.raises(DataError, match=r"'face' holds texts such as 'a.png', but .* arrays of shape \(3, 8, 8\)"):
        read_samples({"face": np.array(["a.png", "b.png"])}, saved(data))


def test_a_folder_that_was_prepared_otherwise_is_refused(files: Path, tmp_path: Path) -> None:
    kept = saved(load_data(DataSettings(path=str(files / "out"))))
    about = ABOUT.replace("VOCABULARY", str(files / "words" / "vocab.txt"))
    (files / "other.yaml").write_text(
        about.replace("size: 8", "size: 12").replace("frames: 2, size: 4", "frames: 1, size: 4")
    )
    (files / "other.csv").write_bytes((files / "my.csv").read_bytes())
    prepare_manifest(files / "other.csv", tmp_path / "other", workers=1)
    with pytest.raises(
        DataError, match=r"(?s)2 problems.*'face' was decoded to .*\(3, 12, 12\).*expected .*\(3, 8, 8\)"
    ):
        read_samples(tmp_path / "other", kept)
    with pytest.raises(DataError, match="no file or folder 'nowhere'"):
        read_samples("nowhere", kept)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is no finished prepared folder"):
        read_samples(tmp_path / "empty", kept)
