"""Conditions of modalities: from every door, saved, read again at prediction, refused where they cannot be meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import StackDataset

from modalign.data.dataset import MultimodalData
from modalign.data.info import DataInfo
from modalign.data.load import load_data
from modalign.data.media.manifest_media import prepare_manifest
from modalign.data.samples import describe_inputs, read_samples
from modalign.data.tables.conditions import Condition
from modalign.errors import DataError
from modalign.settings import DataSettings

N = 40


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    return {
        "audio": rng.normal(size=(N, 3)), "video": rng.normal(size=(N, 2)), "snr": np.arange(N) / 4.0,
        "event": np.array(["rain", "wind", "talk", "talk"])[np.arange(N) // 2 % 4], "y": y,
    }  # fmt: skip


NAMED = {"audio": ["snr", "event"]}


def load(source: Any = None, **settings: Any) -> MultimodalData:
    given = {"target": "y", "modalities": ["audio", "video"], "conditions": NAMED}
    return load_data(arrays() if source is None else source, **given | settings)


def whole(split: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = split.__getitems__(list(range(len(split)))).conditions
    return found


def test_numbers_are_standardized_on_training_and_texts_are_one_hot() -> None:
    data = load()
    (name, train), info = next(iter(whole(data.train).items())), DataInfo.of(data)
    assert (name, train.shape[1], list(whole(data.test))) == ("audio", 4, ["audio"])
    torch.testing.assert_close(train[:, 0].mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(train[:, 0].std(unbiased=False), torch.tensor(1.0))
    rows = [int(i) for i in data.train.ids]
    assert train[:, 1:].argmax(1).tolist() == [["rain", "talk", "wind"].index(arrays()["event"][r]) for r in rows]
    assert (info.modalities["audio"].conditions, info.modalities["video"].conditions) == (4, 0)
    assert DataInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info


def test_every_door_gives_the_same_conditions(tmp_path: Path) -> None:
    expected = whole(load().test)["audio"]
    table = {"audio_0": arrays()["audio"][:, 0], "audio_1": arrays()["audio"][:, 1], "video_0": arrays()["video"][:, 0]}
    frame = pd.DataFrame(table | {k: arrays()[k] for k in ("snr", "event", "y")} | {"id": [str(i) for i in range(N)]})
    frame.rename(columns={"y": "label"}).to_csv(tmp_path / "clinic.csv", index=False)
    about = "modalities: {audio: numbers, video: numbers}\nconditions: {audio: [snr, event]}\n"
    (tmp_path / "clinic.yaml").write_text(about)
    np.savez(tmp_path / "arrays.npz", **arrays())
    # A data set of dictionaries reads the conditions with its other columns, and never takes them for modalities.
    items = StackDataset(**{k: v if k == "event" else torch.from_numpy(v) for k, v in arrays().items()})
    for data in (
        load(frame),
        load(items),
        load_data(tmp_path / "clinic.csv"),
        load(str(tmp_path / "arrays.npz")),
        load(DataSettings(path=str(tmp_path / "arrays.npz"), label="y", conditions=NAMED), target=None, modalities=None,
             conditions=None),
    ):  # fmt: skip
        assert list(data.modalities) == ["audio", "video"]
        torch.testing.assert_close(whole(data.test)["audio"], expected)


def test_conditions_go_with_raw_files_that_are_prepared(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(N):
        Image.fromarray(rng.integers(0, 200, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    given = {"face": [f"{i}.png" for i in range(N)], "labs": rng.normal(size=N), "snr": arrays()["snr"]}
    pd.DataFrame(given | {"id": range(N), "label": arrays()["y"]}).to_csv(tmp_path / "study.csv", index=False)
    about = "modalities: {face: {kind: image, size: 8}, labs: numbers}\nconditions: {face: [snr]}\n"
    (tmp_path / "study.yaml").write_text(about)
    prepare_manifest(tmp_path / "study.csv", tmp_path / "prepared")
    data = load_data(tmp_path / "prepared")
    snr = {str(i): value for i, value in enumerate(arrays()["snr"])}
    train = np.array([snr[i] for i in data.train.ids])
    expected = [(snr[i] - train.mean()) / train.std() for i in data.test.ids]
    assert whole(data.test)["face"][:, 0].tolist() == pytest.approx(expected, abs=1e-5)
    saved = json.loads(json.dumps(describe_inputs(data)))
    with pytest.raises(DataError, match="condition 'snr' of 'face' is not given"):
        read_samples({"face": data.test.__getitems__([0]).inputs["face"].numpy()}, saved)


def test_a_condition_that_is_not_known_is_zeros() -> None:
    source = arrays()
    source["snr"][:4], source["event"][4] = np.nan, ""
    data = load(source)
    every = torch.cat([whole(part)["audio"] for part in (data.train, data.valid, data.test)])
    ids = [int(i) for part in (data.train, data.valid, data.test) for i in part.ids]
    assert {i for i, row in zip(ids, every, strict=True) if row[0] == 0} == {0, 1, 2, 3}
    assert {i for i, row in zip(ids, every, strict=True) if not row[1:].any()} == {4}
    assert Condition("x", mean=(1.0, 2.0), std=(0.0, 1.0), shape=(2,)).apply(np.full((1, 2), 3.0)).tolist() == [[0, 1]]


def test_conditions_are_read_again_at_prediction() -> None:
    data = load()
    saved = json.loads(json.dumps(describe_inputs(data)))
    rows = [int(i) for i in data.test.ids]
    new = {name: arrays()[name][rows] for name in ("audio", "video", "snr", "event")}
    torch.testing.assert_close(whole(read_samples(new, saved))["audio"], whole(data.test)["audio"])
    unknown = {**new, "snr": np.full(len(rows), np.nan), "event": np.array(["hail"] * len(rows))}
    assert not whole(read_samples(unknown, saved))["audio"].any()
    assert not whole(read_samples({"video": new["video"]}, saved))["audio"].any()  # nor are they needed without audio
    with pytest.raises(DataError, match=r"condition 'event' of 'audio' is not given; expected a column of that name"):
        read_samples({k: v for k, v in new.items() if k != "event"}, saved)
    with pytest.raises(DataError, match=r"condition 'snr' has samples of shape \(2,\); expected \(\)"):
        read_samples({**new, "snr": np.ones((len(rows), 2))}, saved)
    with pytest.raises(DataError, match=r"'snr' has 2 rows; expected"):
        read_samples({**new, "snr": np.ones(2)}, saved)


@pytest.mark.parametrize(
    ("change", "named", "said"),
    [
        ({}, {"odio": ["snr"]}, "unknown modality in conditions: 'odio'; did you mean 'audio'"),
        ({}, {"audio": ["snt"]}, "unknown condition of 'audio': 'snt'; did you mean 'snr'"),
        ({}, {"audio": ["y"]}, "condition 'y' of 'audio' is the label"),
        ({"copy": np.array(["no", "yes"])[np.arange(N) % 2]}, {"audio": ["copy"]}, "is the label under another name"),
        ({"snr": np.ones(N)}, {"audio": ["snr"]}, "condition 'snr' has one value in the training rows"),
        ({"snr": np.full(N, np.inf)}, {"audio": ["snr"]}, "condition 'snr' is infinite in rows 0, 1"),
    ],
)
def test_conditions_that_cannot_be_meant(change: dict[str, Any], named: dict[str, list[str]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        load(arrays() | change, conditions=named)


def test_values_outside_training_are_noted() -> None:
    source = arrays()
    source["event"] = source["event"].astype(object)
    source["split"] = np.array(["train", "train", "valid", "test"])[np.arange(N) // 2 % 4]
    source["event"][6] = "hail"
    assert "condition event: 20 rows outside training have values that training has not (hail, talk)" in " ".join(
        load(source).notes
    )


def test_the_group_is_a_column_that_the_description_names() -> None:
    source = arrays() | {"speaker": np.array(list("abcdefgh"))[np.arange(N) // 5]}
    info = DataInfo.of(load(source, group="speaker"))
    assert info.group == "speaker"
    assert sum(map(sum, info.columns["speaker"].counts)) == info.samples
    assert DataInfo.of(load()).group is None
