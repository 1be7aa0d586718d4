"""AV-MNIST: a miniature of real formats, and the real recordings where they are."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modalign.cli import main
from modalign.data.datasets.avmnist import pair, read_idx
from modalign.data.load import load_data
from modalign.data.media.prepare import prepare
from modalign.errors import InputError
from modalign.settings import DataSettings

SPEAKERS = ("ann", "bob", "cai", "dov")


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def raw(tmp_path_factory, write_wav, tone_of) -> Path:
    """Two digits by four speakers, ten times each; 200 images whose brightness is their digit's."""
    root = tmp_path_factory.mktemp("raw")
    for digit in (3, 7):
        for number, speaker in enumerate(SPEAKERS):
            for index in range(10):
                path = root / "fsdd" / "recordings" / f"{digit}_{speaker}_{index}.wav"
                write_wav(path, tone_of(0.3, 8000, 200 * digit + 10 * number), 8000)
    digits = np.array([3, 7] * 100)
    images = np.broadcast_to((digits * 20)[:, None, None], (200, 28, 28)).copy()
    images[:, 0, 0] = np.arange(200)
    (root / "mnist").mkdir()
    (root / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), mtime=0))
    (root / "mnist" / "t10k-labels-idx1-ubyte").write_bytes(idx(digits))
    return root


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "avmnist"
    return out, prepare("avmnist", raw, out, workers=1)


def test_official_split_and_pairs_of_one_digit(prepared):
    out, report = prepared
    assert report.counts == {"train": 40, "test": 40}
    data = load_data(DataSettings(name="avmnist", path=str(out), columns=["speaker", "image_row"]))
    assert {int(key.rsplit("_", 1)[1]) for key in data.test.ids} == set(range(5))
    rows = {}
    for name, split in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        batch = split.__getitems__(list(range(len(split))))
        assert batch.inputs["audio"].shape[1:] == (1, 40, 50)
        digits = np.array([int(key[0]) for key in split.ids])
        np.testing.assert_array_equal([int(data.task.classes[y]) for y in batch.target], digits)
        np.testing.assert_allclose(batch.inputs["image"][:, 0, 5, 5], digits * 20 / 255, rtol=1e-5)
        rows[name] = set((batch.inputs["image"][:, 0, 0, 0] * 255).round().int().tolist())
    assert max(rows["train"] | rows["valid"]) < 170 <= min(rows["test"])
    assert not rows["train"] & rows["valid"]


def test_speakers_are_held_out_whole(prepared):
    data = load_data(DataSettings(name="avmnist", path=str(prepared[0]), split="speaker"))
    parts = [{key.split("_")[1] for key in split.ids} for split in (data.train, data.valid, data.test)]
    assert [len(part) for part in parts] == [1, 1, 2]
    assert set().union(*parts) == set(SPEAKERS)


def test_noise_and_few_labels(prepared):
    def load(**options):
        return load_data(DataSettings(name="avmnist", path=str(prepared[0]), options=options))

    plain, noisy, few = load(), load(noise=0.5), load(labels=0.5)
    every = list(range(40))
    difference = noisy.test.__getitems__(every).inputs["image"] - plain.test.__getitems__(every).inputs["image"]
    np.testing.assert_allclose([difference.mean(), difference.std()], [0, 0.5], atol=0.02)
    assert (len(few.train) + len(few.valid), len(few.test)) == (20, 40)
    assert "20 training recordings left out" in few.notes[-1]
    assert load(pair_seed=1).fingerprint != plain.fingerprint == load().fingerprint


def test_pairing_reuses_images_only_when_it_must():
    rng = np.random.default_rng(0)
    digits, images = np.zeros(8, int), np.zeros(20, int)
    test = np.arange(8) >= 5
    rows = pair(digits, test, images, rng)
    assert len(set(rows[:5])) == 5
    assert rows[:5].max() < 17 <= rows[5:].min()
    assert len(pair(np.zeros(50, int), np.zeros(50, bool), images, rng)) == 50
    with pytest.raises(InputError, match="no training image of the digit 1"):
        pair(np.ones(2, int), np.zeros(2, bool), images, rng)


def test_idx_files_are_checked(tmp_path):
    array = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx(array))
    np.testing.assert_array_equal(read_idx(tmp_path, "a"), array)
    (tmp_path / "b").write_bytes(idx(array)[:-1])
    with pytest.raises(InputError, match=r"do not make \(2, 3, 4\)"):
        read_idx(tmp_path, "b")
    (tmp_path / "c").write_bytes(b"version https://git-lfs")
    with pytest.raises(InputError, match="no IDX file"):
        read_idx(tmp_path, "c")
    (tmp_path / "d.gz").write_bytes(gzip.compress(idx(array))[:-9])
    with pytest.raises(InputError, match="cannot be decompressed"):
        read_idx(tmp_path, "d")
    with pytest.raises(InputError, match=r"no e\[.gz\]"):
        read_idx(tmp_path, "e")


def test_twice_the_same_bytes_and_strange_names(raw, prepared, tmp_path, same_bytes):
    prepare("avmnist", raw, tmp_path / "again", workers=1)
    same_bytes(prepared[0], tmp_path / "again")
    (tmp_path / "raw" / "fsdd" / "recordings").mkdir(parents=True)
    os.symlink(raw / "mnist", tmp_path / "raw" / "mnist")
    (tmp_path / "raw" / "fsdd" / "recordings" / "three.wav").touch()
    with pytest.raises(InputError, match=r"1 recordings are not named .*three.wav"):
        prepare("avmnist", tmp_path / "raw", tmp_path / "out")


@pytest.mark.shared
@pytest.mark.parametrize(("recipe", "strategy"), [("avmnist", "joint"), ("avmnist-speaker", "modalign")])
def test_from_files_to_results_by_the_command_line(raw, tmp_path, by_command, capsys, recipe, strategy):
    out = tmp_path / "prepared"
    main(["prepare", "avmnist", "--raw", str(raw), "--out", str(out), "--workers", "1"])
    assert "80 samples (40 train, 40 test)" in capsys.readouterr().out
    found = by_command(recipe, out, tmp_path / "run", strategy, "--model.width", "8")["predictions"]
    assert found["classes"].tolist() == list("0123456789")
    speakers = {str(name).split("_")[1] for name in found["ids"]}
    assert len(speakers) == (2 if recipe == "avmnist-speaker" else 4)


def test_real_recordings(shared, tmp_path):
    root = tmp_path / "raw"
    (root / "fsdd" / "recordings").mkdir(parents=True)
    os.symlink(shared / "raw" / "mnist", root / "mnist")
    chosen = [
        path
        for path in sorted((shared / "raw" / "fsdd" / "recordings").glob("*.wav"))
        if path.stem.split("_")[1] in ("george", "theo") and int(path.stem.split("_")[2]) < 8
    ]
    for path in chosen:
        os.symlink(path, root / "fsdd" / "recordings" / path.name)
    report = prepare("avmnist", root, tmp_path / "out", workers=1)
    assert (report.samples, report.unreadable) == (160, [])
    assert report.warnings == ["160 recordings; officially 3000"]
    manifest = pd.read_parquet(tmp_path / "out" / "manifest.parquet")
    logs = np.load(tmp_path / "out" / "audio.npy")
    assert np.isfinite(logs).all()
    # Digits differ more than recordings of one digit by one speaker do.
    means = [
        logs[((manifest["label"] == digit) & (manifest["speaker"] == "theo")).to_numpy()].mean(0)
        for digit in "0123456789"
    ]
    between = np.std(means, axis=0).mean()
    assert between > 0.3
    data = load_data(DataSettings(name="avmnist", path=str(tmp_path / "out")))
    assert len(data.test) == 100
    assert data.train.__getitems__([0]).inputs["image"].max() <= 1
