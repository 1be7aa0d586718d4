"""CREMA-D from a miniature of its official download, defects included."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from modalign.cli import main
from modalign.data.datasets.cremad import CLASSES, read_list
from modalign.data.load import load_data
from modalign.data.media.prepare import prepare
from modalign.errors import InputError
from modalign.settings import DataSettings

ACTORS = [f"10{i:02d}" for i in range(1, 7)]
EMOTIONS = ("ANG", "HAP", "SAD")
IDS = [f"{actor}_DFA_{emotion}_XX" for actor in ACTORS for emotion in EMOTIONS] + ["1040_ITH_SAD_X"]
SMALL = {"frames": 3, "size": 16, "workers": 1}


@pytest.fixture(scope="module")
def raw(tmp_path_factory, write_wav, write_video, tone_of, ramp_of, pointer, cut) -> Path:
    """19 clips of one second; five of them defective."""
    root = tmp_path_factory.mktemp("raw") / "CREMA-D"
    for number, key in enumerate(IDS):
        write_wav(root / "AudioWAV" / f"{key}.wav", tone_of(1, 16_000, 300 + 10 * number))
        write_video(root / "VideoFlash" / f"{key}.flv", ramp_of(12), tone_of(1.2, 22_050))
    pointer(root / "AudioWAV" / f"{IDS[0]}.wav")
    cut(root / "VideoFlash" / f"{IDS[4]}.flv")
    (root / "VideoFlash" / f"{IDS[8]}.flv").write_bytes(b"")
    (root / "AudioWAV" / f"{IDS[9]}.wav").unlink()
    write_wav(root / "AudioWAV" / f"{IDS[10]}.wav", np.zeros(16_000))
    test = [IDS[2], IDS[6], IDS[13], IDS[15]]
    train = [key for key in IDS if key not in test]
    lines = [f"{key},{key[9:12]}" for key in train]
    (root / "train.csv").write_bytes(("\ufeffname,label\r\n" + "\r\n".join(lines)).encode())
    (root / "test.csv").write_text("".join(f"{key},{key[9:12]}\n" for key in test))
    return root


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "cremad"
    return out, prepare("cremad", raw.parent, out, **SMALL)


def test_everything_that_can_be_read_is_there(prepared):
    out, report = prepared
    assert report.counts == {"train": 11, "test": 4}
    reasons = {entry["id"]: (entry["modality"], entry["reason"]) for entry in report.unreadable}
    assert list(reasons) == [IDS[0], IDS[4], IDS[8], IDS[9]]
    assert "git-LFS pointer" in reasons[IDS[0]][1]
    assert reasons[IDS[4]][0] == "video"
    assert "empty file" in reasons[IDS[8]][1]
    assert "no such file" in reasons[IDS[9]][1]
    assert [entry["id"] for entry in report.remarks] == [IDS[10]]
    assert report.warnings[:2] == ["15 ids in train.csv; officially 6698", "4 ids in test.csv; officially 744"]
    assert report.warnings[2].startswith(
        "4 of 19 samples cannot be read (1 a git-LFS pointer, not the file itself, 1 cut"
    )
    audio, video = np.load(out / "audio.npy"), np.load(out / "video.npy")
    assert (audio.shape, audio.dtype) == ((15, 1, 257, 188), np.float32)
    assert (video.shape, video.dtype) == ((15, 3, 3, 16, 16), np.uint8)


def test_values_are_those_of_the_files(prepared):
    out, _ = prepared
    data = load_data(DataSettings(name="cremad", path=str(out)))
    everything = {
        key: (split.__getitems__([i]), split)
        for split in (data.train, data.valid, data.test)
        for i, key in enumerate(split.ids)
    }
    assert set(everything) == set(IDS) - {IDS[0], IDS[4], IDS[8], IDS[9]}
    silent = everything[IDS[10]][0].inputs["audio"]
    np.testing.assert_allclose(silent, math.log(1e-7), rtol=1e-6)
    heard = everything[IDS[5]][0].inputs["audio"][0, 0]
    assert abs(int(heard.mean(1).argmax()) - 350 * 512 / 22_050) <= 1
    frames = everything[IDS[5]][0].inputs["video"][0].float().mean((1, 2, 3))
    np.testing.assert_allclose(frames, np.array([2, 6, 10]) * 250 // 11, atol=8)
    for key, (batch, _) in everything.items():
        assert data.task.classes[batch.target[0]] == key[9:12]
    assert data.task.classes == CLASSES == tuple(sorted(CLASSES))


def test_official_split_has_validation_carved_from_train(prepared):
    data = load_data(DataSettings(name="cremad", path=str(prepared[0]), valid_fraction=0.3))
    assert set(data.test.ids) == {IDS[2], IDS[6], IDS[13], IDS[15]}
    assert len(data.valid) in (2, 3, 4)
    assert len(data.train) + len(data.valid) == 11
    assert data.modalities["audio"].kind == "image"
    assert data.modalities["video"].shape == (3, 3, 16, 16)


def test_no_actor_stands_in_two_parts_of_the_actor_split(prepared):
    settings = DataSettings(name="cremad", path=str(prepared[0]), split="actor", options={"test_actors": 2})
    data = load_data(settings)
    actors = [{key[:4] for key in split.ids} for split in (data.train, data.valid, data.test)]
    assert sum(map(len, actors)) == len(set().union(*actors))
    assert len(actors[2]) == 2
    other = load_data(DataSettings(name="cremad", path=str(prepared[0]), split="actor", options={"test_actors": 2}))
    assert other.fingerprint == data.fingerprint
    with pytest.raises(InputError, match="cannot hold 18 of 7"):
        load_data(DataSettings(name="cremad", path=str(prepared[0]), split="actor"))


def test_twice_the_same_bytes_and_other_recipes(raw, prepared, tmp_path, same_bytes):
    prepare("cremad", raw, tmp_path / "again", **SMALL)
    same_bytes(prepared[0], tmp_path / "again")
    prepare("cremad", raw, tmp_path / "fbank", audio="fbank", frames=1, size=8, workers=1)
    assert np.load(tmp_path / "fbank" / "audio.npy").shape[1:] == (1, 1024, 128)


def test_lists_that_cannot_be_meant_are_refused(raw, tmp_path):
    (tmp_path / "a.csv").write_text("1001_DFA_ANG_XX,HAP\nnonsense\n1002_DFA_SAD_XX,SAD\n")
    with pytest.raises(InputError, match=r"2 lines are no 'id,LABEL'.*1001_DFA_ANG_XX,HAP; entry 2: nonsense"):
        read_list(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"lacks .*VideoFlash"):
        prepare("cremad", raw / "AudioWAV", tmp_path / "out")
    with pytest.raises(InputError, match=r"15 ids in train.csv; officially 6698"):
        prepare("cremad", raw, tmp_path / "out", strict=True)
    with pytest.raises(InputError, match="has no path"):
        load_data(DataSettings(name="cremad"))


def test_from_download_to_results_by_the_command_line(raw, tmp_path, by_command, capsys):
    out = tmp_path / "prepared"
    small = ["--options.size", "16", "--options.frames", "2", "--workers", "1"]
    main(["prepare", "cremad", "--raw", str(raw), "--out", str(out), *small])
    assert "4 unreadable and left out" in capsys.readouterr().out
    for strategy in ("joint", "modalign"):
        result = by_command("cremad", out, tmp_path / strategy, strategy, "--data.valid_fraction", "0.3")
        assert sorted(result["predictions"]["ids"]) == sorted([IDS[2], IDS[6], IDS[13], IDS[15]])
        assert result["predictions"]["classes"].tolist() == list(CLASSES)
    held = ("--split", "actor", "--data.options.test_actors", "2")
    assert len(by_command("cremad", out, tmp_path / "actor", "joint", *held)["predictions"]["ids"]) >= 4
