"""A manifest with files, decoded into a prepared folder; the files are made here."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from modalign.cli import main
from modalign.data.load import load_data
from modalign.data.media import decoders, prepare
from modalign.data.media.decoders import decode_folder
from modalign.data.media.manifest_media import prepare_manifest
from modalign.errors import InputError
from modalign.settings import DataSettings

N = 32
ABOUT = """
modalities:
  face: {kind: image, size: 8}
  walk: {kind: frames, frames: 2, size: 6}
  cough: {kind: audio, recipe: digit}
  note: text
  site: categories
columns: [site]
"""


def gray(i: int) -> int:
    return 5 * i


def make(folder: Path) -> Path:
    """A table of 32 samples with pictures, folders of frames and recordings; some cells empty, one file broken."""
    for i in range(N):
        Image.new("RGB", (20, 10), (gray(i), 0, 255)).save(folder / f"face{i}.png")
        (folder / f"walk{i}").mkdir()
        for k in (10, 9, 1):
            Image.new("L", (5, 5), 10 * k).save(folder / f"walk{i}" / f"{k:03}.png")
        with wave.open(str(folder / f"cough{i}.wav"), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes((np.sin(np.arange(4000) * (i + 1) / 9) * 9000).astype("<i2").tobytes())
    (folder / "face5.png").write_bytes(b"no picture")
    frame = pd.DataFrame(
        {
            "id": [f"s{i:02}" for i in range(N)],
            "label": np.array(["ill", "well"])[np.arange(N) % 2],
            "group": [f"g{i // 2:02}" for i in range(N)],
            "face": [f"face{i}.png" for i in range(N)],
            "walk": [f"walk{i}" for i in range(N)],
            "cough": [f"cough{i}.wav" if i % 4 else None for i in range(N)],
            "note": [f"number {i}" for i in range(N)],
            "site": np.array(["north", "south"])[np.arange(N) % 2],
        }
    )
    frame.to_csv(folder / "my.csv", index=False)
    (folder / "my.yaml").write_text(ABOUT)
    return folder / "my.csv"


def test_files_are_decoded_once_and_read_by_every_command(tmp_path: Path) -> None:
    path = make(tmp_path)
    report = prepare_manifest(path, tmp_path / "out", workers=1)
    assert report.samples == N - 1
    assert [entry["id"] for entry in report.unreadable] == ["s05"]
    data = load_data(DataSettings(path=str(tmp_path / "out")))
    assert data.name == "my"
    assert {m: (v.kind, v.shape) for m, v in data.modalities.items()} == {
        "face": ("image", (3, 8, 8)),
        "walk": ("clip", (2, 3, 6, 6)),
        "cough": ("image", (1, 40, 50)),
        "note": ("text", (2,)),
        "site": ("vector", (2,)),
    }
    assert "cough is absent in 8 of 31 samples" in data.notes
    for part in (data.train, data.valid, data.test):
        batch = part.__getitems__(list(range(len(part))))
        for row, key in enumerate(part.ids):
            i = int(key[1:])
            assert batch.inputs["face"][row, 0].unique().tolist() == [gray(i)]
            assert batch.inputs["walk"][row, :, 0, 0, 0].tolist() == [10, 100], "sorted by name, then by segment"
            assert batch.present[row].tolist() == [True, True, i % 4 != 0, True, True]
            assert (batch.inputs["cough"][row].abs().sum() > 0) == (i % 4 != 0)
            assert data.task.classes[batch.target[row]] == ["ill", "well"][i % 2]
    groups = [set(part.groups) for part in (data.train, data.valid, data.test)]
    assert sum(map(len, groups)) == len(set.union(*groups))
    again = prepare_manifest(path, tmp_path / "out", workers=1)
    assert again.resumed == N - 1
    assert load_data(DataSettings(path=str(tmp_path / "out"))).fingerprint == data.fingerprint


@pytest.mark.slow
def test_workers_follow_the_working_folder_from_call_to_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        path = make(tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        report = prepare_manifest(path.relative_to(tmp_path / name), "out", workers=2)
        assert report.samples == N - 1
        assert np.load(tmp_path / name / "out" / "face.npy").any(axis=(1, 2, 3)).all()


def test_regression_targets_survive(tmp_path: Path) -> None:
    path = make(tmp_path)
    frame = pd.read_csv(path).assign(label=np.linspace(0, 1, N))
    frame.to_csv(path, index=False)
    (tmp_path / "my.yaml").write_text("task: regression\nmodalities: {face: {kind: image, size: 8}, note: text}\n")
    prepare_manifest(path, tmp_path / "out", workers=1)
    data = load_data(DataSettings(path=str(tmp_path / "out")))
    assert data.task.kind == "regression"
    assert data.test.target[0] == pytest.approx(int(data.test.ids[0][1:]) / (N - 1))


def test_several_labels_survive_and_what_is_not_known_stays_so(tmp_path: Path) -> None:
    path = make(tmp_path)
    frame = pd.read_csv(path).drop(columns="label").assign(ill=np.arange(N) % 2, tired=np.arange(N) // 3 % 2)
    frame.assign(tired=frame["tired"].where(frame.index % 5 > 0)).to_csv(path, index=False)
    modalities = "modalities: {face: {kind: image, size: 8}, note: text}\n"
    (tmp_path / "my.yaml").write_text(f"task: multilabel\nlabel: ill,tired\n{modalities}")
    prepare_manifest(path, tmp_path / "out", workers=1)
    data = load_data(DataSettings(path=str(tmp_path / "out")))
    assert data.task.classes == ("ill", "tired")
    for key, target in zip(data.train.ids, data.train.target, strict=True):
        i = int(key[1:])
        assert target.nan_to_num(-1).tolist() == [i % 2, i // 3 % 2 if i % 5 else -1]


def test_every_problem_before_anything_is_decoded(tmp_path: Path) -> None:
    path = make(tmp_path)
    (tmp_path / "face3.png").unlink()
    about = (
        ABOUT.replace("size: 8", "siez: 8").replace("recipe: digit", "recipe: digits").replace("frames: 2", "frames: 0")
    )
    (tmp_path / "my.yaml").write_text(about)
    with pytest.raises(InputError) as error:
        prepare_manifest(path, tmp_path / "out")
    for part in (
        "option of image modality 'face': 'siez'; did you mean 'size'",
        "unknown audio recipe 'digits'; did you mean 'digit'",
        "frames of modality 'walk' is 0; expected a whole number from 1",
        "'face' names files that are missing or empty in rows 3",
    ):
        assert part in str(error.value)
    assert not (tmp_path / "out").exists()


def test_nothing_to_decode(tmp_path: Path) -> None:
    path = make(tmp_path)
    (tmp_path / "my.yaml").write_text("modalities: {note: text}\n")
    with pytest.raises(InputError, match="has no files to decode; every command reads it as it is"):
        prepare_manifest(path, tmp_path / "out")


def test_frames_are_in_the_order_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(6):
        Image.new("L", (5, 5), 10 * k).save(tmp_path / f"{k:03}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    listed = [
        tmp_path / name for name in ("004.png", "notes.txt", "000.png", "005.png", "001.png", "003.png", "002.png")
    ]
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(listed))
    frames, remark = decode_folder(tmp_path, frames=3, size=4)
    assert frames[:, 0, 0, 0].tolist() == [10, 30, 50]
    assert remark == ""
    assert decode_folder(tmp_path, frames=7, size=4)[1] == "only 6 frames"


def test_text_for_a_pretrained_network_and_video_are_decoded_too(tmp_path: Path, write_video, tone_of, ramp_of) -> None:
    words = decoders.build_vocabulary(["cold and tired", "felt fine"] * 5, tmp_path / "vocab.txt")
    for i in range(N):
        write_video(tmp_path / f"walk{i}.mp4", ramp_of(8) // 4 + 4 * i, None)
    note = [f"felt {'fine' if i % 2 else 'tired'}" for i in range(N)]
    frame = pd.DataFrame({"id": range(N), "label": np.arange(N) % 2, "walk": [f"walk{i}.mp4" for i in range(N)]})
    frame.assign(note=[None, *note[1:]]).to_csv(tmp_path / "my.csv", index=False)
    (tmp_path / "my.yaml").write_text(
        "modalities:\n  walk: {kind: video, frames: 2, size: 16}\n"
        f"  note: {{kind: text, vocabulary: {words}, length: 6}}\n"
    )
    report = prepare_manifest(tmp_path / "my.csv", tmp_path / "out", workers=1)
    assert (report.samples, report.unreadable) == (N, [])
    data = load_data(DataSettings(path=str(tmp_path / "out")))
    known = decoders.tokenizer(str(words))
    text = data.modalities["note"]
    assert (text.kind, text.shape, text.vocabulary) == ("text", (6,), len(known))
    assert (data.modalities["walk"].kind, data.modalities["walk"].shape) == ("clip", (2, 3, 16, 16))
    batch = data.train.__getitems__(list(range(len(data.train))))
    for row, key in enumerate(data.train.ids):
        i = int(key)
        tokens = known.convert_ids_to_tokens(batch.inputs["note"][row].tolist())
        assert tokens[:4] == (["[CLS]", *note[i].split(), "[SEP]"] if i else ["[PAD]"] * 4)
        greys = np.array([2, 6]) * 250 // 7 // 4 + 4 * i
        np.testing.assert_allclose(batch.inputs["walk"][row].float().mean((1, 2, 3)), greys, atol=4)


def test_a_finished_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = make(tmp_path), tmp_path / "out"
    first = prepare_manifest(path, out, workers=1)
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in out.iterdir()}

    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(decoders, "decode_image", never)
    again = prepare_manifest(path, out, workers=1)
    assert (again.samples, again.unreadable, again.resumed) == (first.samples, first.unreadable, first.samples)
    assert {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in out.iterdir()} == before
    (tmp_path / "my.yaml").write_text(ABOUT.replace("columns: [site]", ""))
    with pytest.raises(InputError, match=r"in use: it holds my, prepared with another columns.*resume=False"):
        prepare_manifest(path, out, workers=1)
    with pytest.raises(AssertionError, match=r"decoded again"):
        prepare_manifest(path, out, workers=1, resume=False)


def test_a_folder_is_finished_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = make(tmp_path), tmp_path / "out"
    written = prepare.write_prepared

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "write_prepared", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_manifest(path, out, workers=1)
    with pytest.raises(InputError, match="no finished prepared folder"):
        load_data(DataSettings(path=str(out)))

    def last(*args: object, **kwargs: object) -> None:
        written(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "write_prepared", last)
    with pytest.raises(KeyboardInterrupt):
        prepare_manifest(path, out, workers=1)
    assert list(load_data(DataSettings(path=str(out))).modalities) == ["face", "walk", "cough", "note", "site"]
    assert prepare_manifest(path, out, workers=1).resumed == N - 1


def test_groups_contexts_and_survival_go_by_the_names_of_the_yaml(tmp_path: Path) -> None:
    path = make(tmp_path)
    frame = pd.read_csv(path).drop(columns=["label"]).rename(columns={"group": "patient"})
    frame = frame.assign(months=np.arange(N) / 2 + 1, died=np.arange(N) % 2)
    frame.to_csv(path, index=False)
    about = "task: survival\nlabel: months,died\ngroup: patient\ncolumns: [site]\n"
    (tmp_path / "my.yaml").write_text(about + "modalities: {face: {kind: image, size: 8}, note: text}\n")
    prepare_manifest(path, tmp_path / "out", workers=1)
    data = load_data(DataSettings(path=str(tmp_path / "out")))
    assert data.task.kind == "survival"
    assert data.train.columns["site"].names == ("north", "south")
    for part in (data.train, data.valid, data.test):
        for key, group, target in zip(part.ids, part.groups, part.target.tolist(), strict=True):
            assert (group, target) == (f"g{int(key[1:]) // 2:02}", [int(key[1:]) / 2 + 1, int(key[1:]) % 2])


def test_from_a_table_to_results_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = make(tmp_path), tmp_path / "out"
    frame = pd.read_csv(path).assign(labs_a=np.linspace(0, 1, N), labs_b=1.0)
    frame.loc[[2, 3], ["labs_a", "labs_b"]] = np.nan
    frame.loc[4, "note"] = None
    frame.to_csv(path, index=False)
    (tmp_path / "my.yaml").write_text(ABOUT.replace("site: categories", "labs: numbers\n  site: categories"))
    main(["prepare", str(path), "--out", str(out), "--workers", "1"])
    assert "s05 [face]" in capsys.readouterr().out
    small = ["--training.epochs", "2", "--model.width", "8", "--training.accelerator", "cpu"]
    for strategy in ("joint", "modalign"):
        run = tmp_path / strategy
        main(["train", str(out), "--strategy", strategy, "--out", str(run), *small])
        result = json.loads((run / "result.json").read_text())
        assert (result["dataset"], result["epochs"]) == ("out", 2)
        assert np.isfinite(list(result["metrics"]["test"].values())).all()
        with np.load(run / "predictions_test.npz") as found:
            samples = len(found["ids"])
            assert (found["scores"].shape, found["unimodal"].shape) == ((samples, 2), (6, samples, 2))
            known = dict(zip(found["ids"].tolist(), found["present"][:, 2].tolist(), strict=True))
        assert known == {key: int(key[1:]) % 4 != 0 for key in known}, "coughs are missing where the cell was empty"


def test_every_problem_of_a_table_is_said_by_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path)
    frame = pd.read_csv(path)
    frame.loc[1, "id"] = "s00"
    frame.loc[2, "label"] = None
    frame.loc[3, "note"] = "  "
    frame.loc[4, "face"] = "nowhere.png"
    frame.to_csv(path, index=False)
    with pytest.raises(SystemExit) as stop:
        main(["prepare", str(path), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    for part in (
        "ids stand more than once: s00",
        "label 'label' is missing in 1 rows (2)",
        "'note' has texts without a word in rows 3",
        "'face' names files that are missing or empty in rows 4",
    ):
        assert part in said
    with pytest.raises(SystemExit):
        main(["prepare", str(path), "--out", str(tmp_path / "out"), "--raw", "x", "--options.size", "8"])
    assert "--raw, --options" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
