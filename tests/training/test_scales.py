"""Rows in other units than those of training are warned of, and others are not."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import modalign
from modalign.cli import main
from modalign.data.dataset import MultimodalData
from modalign.data.tables.arrays import from_arrays
from modalign.errors import RunFolderError
from modalign.models.multimodal import MultimodalModel
from modalign.training.scales import describe_scales, warn_of_scales

PIXELS = load_digits().images[:, None]
NEW = {"left": PIXELS[:40, ..., :4], "right": PIXELS[:40, ..., 4:]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> modalign.Run:
    folder = tmp_path_factory.mktemp("scales") / "run"
    return modalign.train("digits", "joint", epochs=1, width=8, quiet=True, out=folder)


def said(data: MultimodalData, rows: Any = None) -> list[str]:
    """What is said of the test split of data, or of some rows of it, under the scales of its training split."""
    model = MultimodalModel.build(data.modalities, data.task.outputs)
    model.fit_standardization(data.train)
    split = data.test
    if rows is not None:
        split.rows, split.present = split.rows[rows], split.present[rows]  # type: ignore[attr-defined]
        split.target = split.target[rows]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_scales(model, split, describe_scales(model, data.train))
    return [str(one.message) for one in caught]


def test_pixels_from_0_to_1_are_not_pixels_from_0_to_16(run: modalign.Run) -> None:
    words = (
        r"'left' lies far outside the scale of training: its values are 0 to 1 here and were 0 to 16 there; a typical "
        r"row is 0\.06\d? times as large\. What is predicted from it means little: give it in the units of training"
    )
    with pytest.warns(UserWarning, match=words) as caught:
        run.predict(NEW | {"left": NEW["left"] / 16})
    assert len(caught) == 1  # nothing of the right half, which is as it was
    for rows in (1, 8):
        with pytest.warns(UserWarning, match="'left'"):
            modalign.predict(run, {"left": NEW["left"][:rows] / 16})


def test_rows_as_in_training_are_predicted_in_silence(run: modalign.Run) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.predict(NEW)
        run.predict({"right": NEW["right"][:1]})
        run.predict({name: x / 16 for name, x in NEW.items()} | {"left": NEW["left"]}, modalities=["left"])


def test_the_command_line_and_estimators_warn_as_well(run: modalign.Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("new.npz", right=NEW["right"] / 255)
    with pytest.warns(UserWarning, match=r"'right' lies far outside .* 0 to 0\.06\d* here and were 0 to 16 there"):
        main(["predict", str(run.folder), "new.npz", "--out", "p.csv"])
    x = PIXELS.reshape(-1, 64)
    halves = {"a": slice(0, 32), "b": slice(32, 64)}
    model = modalign.MultimodalClassifier("joint", modalities=halves, epochs=1, width=4).fit(x, load_digits().target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(x)
    with pytest.warns(UserWarning, match="'a' lies far outside the scale of training"):
        model.predict((x - x.mean(0)) / (x.std(0) + 1))  # what a user scales, the model scales again


def test_an_offset_shows_where_the_size_does_not() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    celsius = 20 + 5 * rng.normal(size=(120, 3))
    celsius[y == 1] += 4
    split = np.where(np.arange(120) < 80, "train", np.where(np.arange(120) < 100, "valid", "test"))
    fahrenheit = np.where((split == "test")[:, None], celsius * 1.8 + 32, celsius)
    (told,) = said(from_arrays({"t": fahrenheit, "y": y, "split": split}))
    assert "a typical row is" in told
    assert "far from the mean" in told
    assert not said(from_arrays({"t": celsius, "y": y, "split": split}))


def test_rows_of_one_rare_class_and_sparse_counts_are_not_strange() -> None:
    rng = np.random.default_rng(0)
    rare = rng.random(2000) < 0.1
    motion = rare[:, None] * rng.poisson(3, (2000, 4)).astype(float)
    split = np.where(np.arange(2000) < 1000, "train", np.where(np.arange(2000) < 1200, "valid", "test"))
    data = from_arrays({"motion": motion, "y": rare.astype(int), "split": split})
    assert not said(data, np.flatnonzero(rare[1200:]))


def test_a_run_of_an_earlier_version_is_silent_and_a_damaged_one_is_refused(run: modalign.Run, tmp_path: Path) -> None:
    for name, change in (
        ("old", lambda about: about.pop("scales")),
        ("damaged", lambda about: about["scales"]["left"]["size"].pop()),
    ):
        shutil.copytree(run.folder, tmp_path / name)
        about = json.loads((tmp_path / name / "data.json").read_text())
        change(about)
        (tmp_path / name / "data.json").write_text(json.dumps(about))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        modalign.predict(tmp_path / "old", {"left": NEW["left"] / 16})
    with pytest.raises(RunFolderError, match="40 and 41 quantiles; expected 41"):
        modalign.predict(tmp_path / "damaged", NEW)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("sets/gasdrift.npz", {"modalities": [f"array{k}" for k in (1, 2, 3, 4)], "split": "is_test==1"}),
        ("sets/occupancy.npz", {"modalities": ["temperature", "light", "sound", "co2", "motion"], "split": "fold==0"}),
        ("sets/mfeat.npz", {"modalities": ["pix", "fou", "fac", "zer", "kar", "mor"], "split": "fold==0"}),
        ("sets/dermatology.npz", {"modalities": ["clinical", "histology"], "split": "fold==0"}),
        ("sets/isl_emg.npz", {"modalities": ["emg", "imu"], "split": "session==09/07/20"}),
        ("sets/natops.npz", {"modalities": ["left", "right"], "split": "is_test==1"}),
        ("sets/racketsports.npz", {"modalities": ["acc", "gyro"], "split": "is_test==1"}),
        ("mosi/mosi.npz", {"modalities": ["text", "audio", "video"], "split": "is_test==1"}),
    ],
)  # fmt: skip
def test_test_splits_of_real_sets_are_in_their_scale(shared: Path, file: str, settings: dict[str, Any]) -> None:
    """Later batches of drifting sensors and another day among them; whole, and eight rows at a time."""
    data = modalign.load_data(shared / file, **settings)
    assert not said(data)
    rows = np.random.default_rng(0).permutation(len(data.test))[:8]
    assert not said(data, rows)
