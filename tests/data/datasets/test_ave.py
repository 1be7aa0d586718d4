"""AVE from a miniature of its official download, defects included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modalign.cli import main
from modalign.data.datasets.ave import read_list
from modalign.data.load import load_data
from modalign.data.media.prepare import prepare
from modalign.errors import InputError
from modalign.settings import DataSettings

SPEECH, BELL = "Male speech, man speaking", "Church bell"
TRAIN = [
    f"{BELL}&-bell_01&good&0&2",
    f"{SPEECH}&speech&2&good&1&3".replace("speech&2", "speech-2"),
    f"{BELL}&twice&good&0&2",
    f"{SPEECH}&twice&good&0&2",
    f"{BELL}&in_test&good&0&2",
    f"{SPEECH}&in_valid&good&0&2",
    f"{BELL}&VWi2ENBuTbw&good&0&0",
    f"{SPEECH}&absent&good&0&2",
    f"{BELL}&broken&good&0&2",
]
VALID = [f"{SPEECH}&in_valid&good&0&2", f"{BELL}&bell_v&good&0&2"]
TEST = [f"{SPEECH}&speech_t&good&1&3", f"{BELL}&in_test&good&1&3"]
SMALL = {"size": 16, "workers": 1}


@pytest.fixture(scope="module")
def raw(tmp_path_factory, write_video, tone_of, ramp_of, cut) -> Path:
    """Nine videos of three seconds, of which one is broken; the sound rises from 400 to 800 Hz after a second."""
    root = tmp_path_factory.mktemp("raw") / "AVE_Dataset"
    sound = np.concatenate([tone_of(1, 22_050, 400), tone_of(2, 22_050, 800)])
    videos = {line.split("&")[1] for line in TRAIN + VALID + TEST} - {"absent"}
    for video in videos:
        write_video(root / "AVE" / f"{video}.mp4", ramp_of(30), sound)
    cut(root / "AVE" / "broken.mp4")
    header = "Category&VideoID&Quality&StartTime&EndTime\n"
    (root / "trainSet.txt").write_text(header + "\n".join(TRAIN) + "\n")
    (root / "valSet.txt").write_text("\n".join(VALID))
    (root / "testSet.txt").write_text("\n".join(TEST) + "\n\n")
    return root


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "ave"
    return out, prepare("ave", raw, out, **SMALL)


def test_every_event_that_can_be_read_is_there(prepared):
    out, report = prepared
    assert report.counts == {"train": 6, "valid": 2, "test": 2}
    reasons = {entry["id"]: entry["reason"] for entry in report.unreadable}
    assert set(reasons) == {"VWi2ENBuTbw", "absent", "broken"}
    assert "range of no length" in reasons["VWi2ENBuTbw"]
    assert "no such file" in reasons["absent"]
    assert np.load(out / "audio.npy").shape == (10, 1, 257, 1004)
    assert np.load(out / "video.npy").shape == (10, 4, 3, 16, 16)
    assert report.warnings[0] == "9 events in trainSet.txt; officially 3339"


def test_classes_are_in_the_order_of_the_test_list(prepared):
    data = load_data(DataSettings(name="ave", path=str(prepared[0])))
    assert data.task.classes == (SPEECH, BELL)
    assert [data.task.classes[y] for y in data.test.target] == [SPEECH, BELL]
    assert "twice" in data.train.ids
    assert "twice#2" in data.train.ids
    labels = dict(zip(data.train.ids, data.train.target.tolist(), strict=True))
    assert (labels["twice"], labels["twice#2"]) == (1, 0)


def test_sound_and_frames_are_of_the_event(prepared):
    data = load_data(DataSettings(name="ave", path=str(prepared[0])))
    batch = data.test.__getitems__([0])  # from 1 s to 3 s of the video
    sound = batch.inputs["audio"][0, 0]
    assert abs(int(sound.mean(1).argmax()) - 800 * 512 / 16_000) <= 1
    np.testing.assert_allclose([sound.mean(), sound.std()], [0, 1], atol=1e-3)
    frames = batch.inputs["video"][0].float().mean((1, 2, 3))
    np.testing.assert_allclose(frames, np.array([12, 17, 22, 27]) * 250 // 29, atol=6)


def test_leaks_stay_unless_dropped(prepared):
    official = load_data(DataSettings(name="ave", path=str(prepared[0])))
    assert {"in_test", "in_valid"} <= set(official.train.ids)
    clean = load_data(DataSettings(name="ave", path=str(prepared[0]), options={"drop_leaks": True}))
    assert not {"in_test", "in_valid"} & set(clean.train.ids)
    assert (len(clean.train), len(clean.valid), len(clean.test)) == (4, 2, 2)
    groups = [set(split.groups) for split in (clean.train, clean.valid, clean.test)]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert any("leak" in note for note in clean.notes)


def test_twice_the_same_bytes(raw, prepared, tmp_path, same_bytes):
    prepare("ave", raw, tmp_path / "again", **SMALL)
    same_bytes(prepared[0], tmp_path / "again")


def test_a_list_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("Bark&a&good&0&1\nBark&b&good\nBark&c&good&x&1\n")
    with pytest.raises(InputError, match=r"2 lines are no .*line 2: Bark&b&good; line 3"):
        read_list(tmp_path / "list.txt")
    with pytest.raises(InputError, match=r"trainSet.txt .list of 3,339 events."):
        prepare("ave", tmp_path, tmp_path / "out")


@pytest.mark.slow
def test_from_download_to_results_by_the_command_line(raw, tmp_path, by_command, capsys):
    out = tmp_path / "prepared"
    main(["prepare", "ave", "--raw", str(raw), "--out", str(out), "--options.size", "16", "--workers", "1"])
    assert "3 unreadable and left out" in capsys.readouterr().out
    for strategy in ("joint", "modalign"):
        result = by_command("ave", out, tmp_path / strategy, strategy)
        assert result["predictions"]["ids"].tolist() == ["speech_t", "in_test#2"]
        assert result["predictions"]["classes"].tolist() == [SPEECH, BELL]
