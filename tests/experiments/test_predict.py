"""A run folder is all one needs: new raw files, prepared folders and objects, without the training data."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import StackDataset

from modalign.cli import main
from modalign.data.load import load_data
from modalign.data.media.manifest_media import prepare_manifest
from modalign.errors import RunError
from modalign.experiments.predict import predict
from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings
from modalign.training.train import train

N = 40
SMALL = Recipe(model=ModelSettings(width=8), training=TrainingSettings(epochs=1, batch_size=10, accelerator="cpu"))


def write_files(folder: Path, rows: range) -> pd.DataFrame:
    """A recording, a video, a picture and a text of each row, and the table that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in rows:
        with wave.open(str(folder / f"{i}.wav"), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes((np.sin(np.arange(4000) * (i + 1) / 9) * 9000).astype("<i2").tobytes())
        with av.open(str(folder / f"{i}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for k in range(5):
                picture = np.full((32, 32, 3), 40 * k + i, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
        Image.new("RGB", (9, 9), (6 * i, 0, 255 - 6 * i)).save(folder / f"{i}.png")
    return pd.DataFrame(
        {
            "id": [f"s{i}" for i in rows],
            "cough": [f"{i}.wav" for i in rows],
            "walk": [f"{i}.mp4" if i % 5 else None for i in rows],
            "face": [f"{i}.png" for i in rows],
            "note": [f"feels {'ill' if i % 2 else 'well'}" for i in rows],
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on raw files, and a copy of the files; the folder that the run was trained on is gone."""
    folder = tmp_path_factory.mktemp("raw")
    rows = write_files(folder / "data", range(N)).assign(label=np.array(["sick", "fit"])[np.arange(N) % 2])
    rows.to_csv(folder / "data" / "my.csv", index=False)
    (folder / "data" / "my.yaml").write_text(
        "modalities:\n  cough: {kind: audio, recipe: digit}\n  walk: {kind: video, frames: 2, size: 16}\n"
        "  face: {kind: image, size: 8}\n  note: text\n"
    )
    prepare_manifest(folder / "data" / "my.csv", folder / "prepared", workers=1)
    main(["train", str(folder / "prepared"), "--strategy", "joint_unimodal", "--out", str(folder / "run"),
          "--training.epochs", "1", "--model.width", "8", "--training.accelerator", "cpu"])  # fmt: skip
    shutil.move(folder / "prepared", folder / "elsewhere")
    return folder / "run", folder


def test_new_raw_files_and_a_prepared_folder_are_predicted_alike(trained: tuple[Path, Path]) -> None:
    run, folder = trained
    with np.load(run / "predictions_test.npz") as kept:
        expected = pd.DataFrame(np.exp(kept["scores"]), kept["ids"], [f"p_{c}" for c in kept["classes"]])
    raw = predict(run, folder / "data" / "my.csv").set_index("id")
    prepared = predict(run, folder / "elsewhere").set_index("id")
    for table in (raw, prepared):
        found = table.loc[expected.index, expected.columns].to_numpy()
        assert found == pytest.approx(expected.to_numpy(), abs=1e-5)
        assert table["walk_present"].tolist() == [i % 5 != 0 for i in range(N)]
    only = predict(run, folder / "data" / "my.csv", ["face"])
    assert not only["cough_present"].any()
    assert only["face_present"].all()


def test_new_raw_files_by_the_command_line(trained: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    run, _ = trained
    rows = write_files(tmp_path / "new", range(3, 7))
    rows.to_csv(tmp_path / "new" / "these.csv", index=False)
    main(["predict", str(run), str(tmp_path / "new" / "these.csv"), "--out", str(tmp_path / "said.csv")])
    table = pd.read_csv(tmp_path / "said.csv")
    assert table["id"].tolist() == ["s3", "s4", "s5", "s6"]
    assert set(table["predicted"]) <= {"sick", "fit"}
    (tmp_path / "new" / "4.wav").write_bytes(b"")
    (tmp_path / "new" / "6.mp4").unlink()
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(run), str(tmp_path / "new" / "these.csv"), "--out", str(tmp_path / "again.csv")])
    assert stop.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "row 1 (id s4): empty file" in said
    assert "row 3 (id s6): no such file" in said


def test_a_run_on_a_torch_data_set_predicts_another(tmp_path: Path) -> None:
    image, table = torch.rand(N, 3, 8, 8), torch.rand(N, 4)
    data = load_data(StackDataset(image=image, table=table, y=torch.arange(N) % 2), name="pairs")
    train(SMALL, "joint", out=tmp_path / "run", data=data, quiet=True)
    new = StackDataset(image=image[:6], table=table[:6])
    lazy, memory = predict(tmp_path / "run", new), predict(tmp_path / "run", {"image": image[:6], "table": table[:6]})
    pd.testing.assert_frame_equal(lazy, memory)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["dataset"] == "pairs"


def test_an_error_in_a_late_batch_leaves_what_was_trained_resumable(tmp_path: Path) -> None:
    class Pairs(StackDataset):
        broken, row = False, -1

        def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
            item = super().__getitem__(i)
            return {**item, "extra": torch.ones(1)} if self.broken and i == self.row else item

    source = Pairs(image=torch.rand(N, 3, 8, 8), table=torch.rand(N, 4), y=torch.arange(N) % 2)
    data = load_data(source)
    epochs = Recipe(model=SMALL.model, training=TrainingSettings(epochs=3, batch_size=10, accelerator="cpu"))
    set_epoch = type(data.train).set_epoch

    def breaks(split, epoch):
        source.broken = epoch is not None and epoch >= 1
        set_epoch(split, epoch)

    data.train.set_epoch = breaks.__get__(data.train)
    source.row = int(data.train.ids[-1])
    with pytest.raises(RunError, match=f"sample {source.row} has the key 'extra'"):
        train(epochs, "joint", out=tmp_path / "run", data=data, quiet=True)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    del data.train.set_epoch
    source.broken = False
    result = train(epochs, "joint", out=tmp_path / "run", data=data, quiet=True, resume=True)
    assert result["epochs"] == 3


def test_settings_name_a_class_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_wards.py").write_text(
        "import numpy as np\n\ndef wards(n=40):\n"
        "    return {'a': np.random.default_rng(0).normal(size=(n, 3)), 'y': np.arange(n) % 2}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = Recipe(DataSettings(class_path="my_wards.wards", init_args={"n": 60}), SMALL.model, SMALL.training)
    train(recipe, "joint", out=tmp_path / "run", quiet=True)
    assert len(predict(tmp_path / "run", {"a": np.zeros((2, 3))})) == 2
