"""Typical mistakes: what is said of each names what to do in the words of the interface, and doing that works.

A case is a mistake, what is said of it, and the remedy as the message words it. All of a case run in one folder, which
has ``data.npz``, ``holes.npz`` (a gap in one row) and a finished run ``runs/done``.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import modalign
from modalign import MultimodalClassifier, MultimodalSurvival
from modalign.cli import main
from modalign.data.media.manifest_media import prepare_manifest
from modalign.errors import InputError, option, speaking

N = 60
Y = np.arange(N) % 3
RNG = np.random.default_rng(0)
AUDIO, VIDEO = (RNG.normal(size=(3, width))[Y] + RNG.normal(size=(N, width)) for width in (4, 5))
ARRAYS = {"audio": AUDIO, "video": VIDEO, "y": Y, "rep": np.arange(N) // 3 % 4, "speaker": np.arange(N) // 6}
HOLES = ARRAYS | {"audio": np.where(np.arange(N)[:, None] == 5, [np.nan, 1, 1, 1], AUDIO)}
X, MATRIX = {"audio": AUDIO, "video": VIDEO}, np.c_[AUDIO, VIDEO]
QUICK = {"epochs": 1, "width": 4}
SMALL = " --training.epochs 1 --model.width 4 --training.accelerator cpu"
FRAME = pd.DataFrame({"note": np.array(["a b", "c d", "e f"])[Y], "age": np.arange(N) % 7, "y": Y})

Step = Callable[[], object] | str | None
Case = tuple[Step, str, Step]


def train(data: Any = None, strategy: str = "joint", **settings: Any) -> modalign.Run:
    settings = QUICK | {"out": settings.pop("out", "runs/new"), "quiet": True} | settings
    return modalign.train(ARRAYS if data is None else data, strategy, **settings)


def classifier(strategy: Any = "joint", **settings: Any) -> MultimodalClassifier:
    return MultimodalClassifier(strategy, **QUICK | settings)


def written(name: str, text: str) -> Callable[[], object]:
    """What writes a file, and trains on it or prepares it."""

    def write() -> None:
        Path(name).write_text(text)
        if name.endswith(".yaml") and text.startswith(("data", "path", "trainig")):
            main(f"train {name} --strategy joint --out runs/new".split())

    return write


def manifest(yaml: str, command: str, table: pd.DataFrame | None = None) -> Callable[[], object]:
    """What writes a table with its YAML, and runs a command on it."""

    def write() -> None:
        rows = FRAME.assign(id=range(N), face=[f"{i}.png" for i in range(N)], labs_a=HOLES["audio"][:, 0], labs_b=1.0)
        (rows if table is None else table).to_csv("my.csv", index=False)
        Path("my.yaml").write_text(yaml)
        main(command.split())

    return write


def pictures(yaml: str, command: str) -> Callable[[], object]:
    def draw() -> None:
        for i in range(N):
            Image.new("L", (8, 8), 40 * (i % 3)).save(f"{i}.png")
        manifest(yaml, command)()

    return draw


def prepared(size: int, **how: Any) -> Callable[[], object]:
    """What prepares pictures of a size from Python."""
    made = pictures(f"label: y\nmodalities: {{face: {{kind: image, size: {size}}}}}\n", "datasets")
    return in_turn(made, lambda: prepare_manifest("my.csv", "folder", workers=1, **how))


def in_turn(*steps: Callable[[], object] | str) -> Callable[[], object]:
    return lambda: [do(step) for step in steps]


def do(step: Step) -> None:
    if isinstance(step, str):
        main([word.strip("'") for word in step.split()])
    elif step is not None:
        step()


def saved_as(name: str, **arrays: np.ndarray) -> Callable[[], object]:
    return lambda: np.savez(name, **arrays)


NEW = " --strategy joint --out runs/new" + SMALL
LINEAR = torch.nn.Linear(4, 3)
FACES = "label: y\nmodalities: {face: {kind: image, size: 8}, labs: numbers}\n"

COMMAND_LINE: dict[str, Case] = {
    "a recipe misspelled": ("train dgits", r"unknown recipe 'dgits'; did you mean 'digits'", "strategies joint"),
    "a file that is not there": (
        "train dta.npz", r"data file dta\.npz does not exist; expected data there: check the path",
        "train data.npz" + NEW,
    ),
    "a spreadsheet": (
        in_turn(written("data.xlsx", "PK"), "train data.xlsx"),
        r"data\.xlsx is of no kind that can be read; expected \.npz, .*\.csv.*: save a table as \.csv",
        in_turn(lambda: FRAME.to_csv("data.csv"), "train data.csv --modalities note,age" + NEW),
    ),
    "a method misspelled": (
        "train data.npz --strategy modaling", r"unknown strategy 'modaling'; did you mean 'modalign'\?",
        "train data.npz --strategy modalign --out runs/new" + SMALL,
    ),
    "a setting without its group": (
        "train data.npz --epochs 1", r"--epochs 1; did you mean '--training\.epochs'", "train data.npz" + NEW,
    ),
    "a word for a number": (
        "train data.npz --training.epochs five", r"--training\.epochs is 'five'; expected a whole number .* such as 30",
        "train data.npz" + NEW,
    ),
    "a modality misspelled": (
        "train data.npz --modalities adio,video", r"unknown modality 'adio'; did you mean 'audio'\?",
        "train data.npz --modalities audio,video" + NEW,
    ),
    "no label of that name": (
        "train data.npz --label target", r"unknown label 'target'.* Known: audio, video, y, rep, speaker",
        "train data.npz --label y" + NEW,
    ),
    "one equals sign": (
        "train data.npz --split rep=3", r"cannot read the expression 'rep=3'; expected COLUMN==VALUE",
        "train data.npz --split rep==3" + NEW,
    ),
    "groups divided by the split": (
        "train data.npz --group speaker --split rep==3",
        r"groups stand in more than one split.*: choose a split by group",
        "train data.npz --group speaker --split speaker>=7" + NEW,
    ),
    "a gap in a row": (
        "train holes.npz", r"NaN in a part of 1 rows \(5\).*fill the gaps by --data\.options\.impute mean$",
        "train holes.npz --data.options.impute mean" + NEW,
    ),
    "one modality for a method of two": (
        "train data.npz --modalities audio", r"needs at least 2; .*Use unimodal or joint, or give more --modalities",
        "train data.npz --modalities audio" + NEW,
    ),
    "a label of two columns": (
        "train data.npz --label rep,y", r"names 2 columns; expected one, or .*: --data\.options\.task survival",
        "train data.npz --label rep,y --data.options.task regression" + NEW,
    ),
    "a folder in use": (
        "train data.npz --strategy joint --out runs/done" + SMALL,
        r"runs/done is in use; choose another --out, or add --resume to go on with it",
        "train data.npz --strategy joint --out runs/done --resume" + SMALL,
    ),
    "resumed with another budget": (
        "train data.npz --strategy joint --out runs/done --resume --training.epochs 9 --model.width 4",
        r"other settings: .*training\.epochs: 1 -> 9.*Resume with the same settings, or choose another --out",
        "train data.npz" + NEW,
    ),
    "a bench gone on with otherwise": (
        in_turn(
            bench := "bench data.npz --strategies joint --seeds 1 --jobs 1 --out runs/bench" + SMALL,
            bench.replace("epochs 1", "epochs 2"),
        ),
        r"other settings: .*epochs: 1 -> 2\. Choose a new folder with --out, or repeat the old settings to complete it",
        bench,
    ),
    "new samples under other names": (
        in_turn(saved_as("new.npz", sound=AUDIO), "predict runs/done new.npz"),
        r"no modality is given; expected at least one of audio, video: name them so \(there are sound\)",
        in_turn(saved_as("new.npz", audio=AUDIO), "predict runs/done new.npz"),
    ),
    "new samples of another width": (
        in_turn(saved_as("new.npz", audio=VIDEO), "predict runs/done new.npz"),
        r"'audio' has samples of shape \(5,\); expected \(4,\), as in training: prepare new rows as those were",
        in_turn(saved_as("new.npz", audio=AUDIO, video=VIDEO), "predict runs/done new.npz"),
    ),
}  # fmt: skip

YAML: dict[str, Case] = {
    "a key misspelled": (
        written("my.yaml", "data: {path: data.npz}\ntrainig: {epochs: 1}\n"),
        r"my\.yaml: unknown setting 'trainig'; did you mean 'training'\?",
        written("my.yaml", "data: {path: data.npz}\ntraining: {epochs: 1}\n"),
    ),
    "a recipe without its groups": (
        written("my.yaml", "path: data.npz\n"), r"unknown setting 'path'.*Known: data, model, training, strategies",
        written("my.yaml", "data: {path: data.npz}\ntraining: {epochs: 1}\n"),
    ),
    "a kind that there is not": (
        manifest("label: y\nmodalities: {note: words}\n", "train my.csv"),
        r"unknown kind of modality 'note': 'words'; Known: audio, image, video, frames, text, numbers",
        manifest("label: y\nmodalities: {note: text}\n", "train my.csv" + NEW),
    ),
    "raw files before they are prepared": (
        pictures("label: y\nmodalities: {face: {kind: image, size: 8}}\n", "train my.csv"),
        r"has files to decode \(face\); run modalign prepare my\.csv --out FOLDER once, and then use FOLDER in its",
        in_turn("prepare my.csv --out folder --workers 1", "train folder" + NEW),
    ),
    "a gap in the numbers beside raw files": (
        pictures(FACES, "prepare my.csv --out folder --workers 1"),
        r"'labs' has NaN in a part of 1 rows \(5\).*fill the gaps by impute: mean in the \.yaml beside the table",
        in_turn(
            pictures(FACES + "impute: mean\n", "prepare my.csv --out folder --workers 1"), "train folder" + NEW,
        ),
    ),
    "names of files as words": (
        in_turn(lambda: FRAME.assign(face="a.png").to_csv("my.csv"), "train my.csv --modalities face --label y"),
        r"describe the table in a \.yaml of its name beside it \(modalities: \{face: image\}\) and run modalign prep",
        pictures("label: y\nmodalities: {face: image}\n", "prepare my.csv --out folder --workers 1"),
    ),
    "prepared in another size before": (
        in_turn(prepared(8), pictures("label: y\nmodalities: {face: image}\n", "prepare my.csv --out folder")),
        r"prepared with another modalities\. Choose another --out, or add --fresh to prepare anew in its place",
        "prepare my.csv --out folder --workers 1 --fresh",
    ),
}  # fmt: skip

PYTHON: dict[str, Case] = {
    "arrays of different lengths": (
        lambda: train(ARRAYS | {"audio": AUDIO[:50]}),
        r"different numbers of rows: audio 50, video 60.*expected the same in all: align them", train,
    ),
    "a setting misspelled": (
        lambda: train(epoch=1), r"unknown setting 'epoch'; did you mean 'epochs'\?", lambda: train(epochs=1),
    ),
    "a gap in a row": (
        lambda: train(HOLES), r"fill the gaps by impute='mean'$", lambda: train(HOLES, impute="mean"),
    ),
    "a folder in use": (
        lambda: train(out="runs/done"), r"choose another out, or add resume=True", lambda: train(out="runs/other"),
    ),
    "a column that is not there": (
        lambda: train(FRAME, modalities={"facts": ["age", "sex"]}),
        r"unknown column of modality 'facts': 'sex'; .*note, age",
        lambda: train(FRAME, modalities={"facts": ["age", "note"]}),
    ),
    "a context that was not loaded": (
        lambda: train(strategy="modalign", options={"context": "column:speaker"}),
        r"unknown context column \(columns are loaded with columns=\['speaker'\]\)",
        lambda: train(strategy="modalign", options={"context": "column:speaker"}, columns=["speaker"]),
    ),
    "an encoder of another shape": (
        lambda: train(encoders={"audio": torch.nn.Linear(3, 3)}),
        r"encoder of modality 'audio': Linear fails on an input of shape \(2, 4\)",
        lambda: train(encoders={"audio": LINEAR}),
    ),
    "data in memory left behind": (
        lambda: modalign.load_run(train().folder).evaluate(information=False),
        r"was trained on data in memory; give the same data again \(data=\.\.\.\)",
        lambda: modalign.load_run("runs/new", data=modalign.load_data(ARRAYS)).evaluate(information=False),
    ),
    "prepared in another size before": (
        in_turn(prepared(8), prepared(6)),
        r"prepared with another modalities\. Choose another out, or add resume=False to prepare anew in its place",
        prepared(6, resume=False),
    ),
}  # fmt: skip

ESTIMATORS: dict[str, Case] = {
    "used before it is fitted": (
        lambda: classifier().predict(X), r"is not fitted yet\. Call 'fit'", lambda: classifier().fit(X, Y).predict(X),
    ),
    "one class": (
        lambda: classifier().fit(X, Y * 0), r"y has one class only, 0; expected at least two",
        lambda: classifier().fit(X, Y),
    ),
    "names where columns are asked for": (
        lambda: classifier(modalities=["a", "b"]).fit(MATRIX, Y),
        r"for a matrix, names and columns: \{'a': slice\(0, 9\)",
        lambda: classifier(modalities={"a": slice(0, 4), "b": [4, 5]}).fit(MATRIX, Y),
    ),
    "columns beyond the last": (
        lambda: classifier(modalities={"a": slice(0, 4), "b": [8, 9]}).fit(MATRIX, Y),
        r"modality 'b' is made of \[8, 9\], and X has 9 columns; expected some of 0 to 8",
        lambda: classifier(modalities={"a": slice(0, 4), "b": [7, 8]}).fit(MATRIX, Y),
    ),
    "times without events": (
        lambda: MultimodalSurvival("joint", **QUICK).fit(X, Y), r"\(N, 2\): time, and 1 where the event happened",
        lambda: MultimodalSurvival("joint", **QUICK).fit(X, np.c_[1.0 + np.arange(N), Y > 0]),
    ),
    "groups of other rows": (
        lambda: classifier().fit(X, Y, groups=np.arange(50)),
        r"target 60, groups 50; expected the same in all: align them",
        lambda: classifier().fit(X, Y, groups=np.arange(N) // 6),
    ),
    "a context that was not loaded": (
        lambda: classifier("modalign", options={"context": "column:site"}).fit(X | {"site": Y % 2}, Y),
        r"columns are loaded with settings=\{'columns': \['site'\]\}",
        lambda: classifier(
            "modalign", options={"context": "column:site"}, settings={"columns": ["site"]}, modalities=[*X]
        ).fit(X | {"site": Y % 2}, Y),
    ),
    "kept where something is": (
        lambda: classifier().fit(X, Y).save("runs"), r"runs is in use; expected a new or empty folder: choose another",
        lambda: classifier().fit(X, Y).save("kept"),
    ),
}  # fmt: skip

CASES = {
    f"{where}: {name}": case
    for where, cases in (
        ("command line", COMMAND_LINE), ("YAML", YAML), ("Python", PYTHON), ("estimators", ESTIMATORS),
    )
    for name, case in cases.items()
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    np.savez(folder / "data.npz", **ARRAYS)
    np.savez(folder / "holes.npz", **HOLES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        do("train data.npz --strategy joint --out runs/done" + SMALL)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_of_a_mistake_helps(
    name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistake, said, remedy = CASES[name]
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    if name.startswith(("command line", "YAML")):
        with pytest.raises(SystemExit, match="2"):
            do(mistake)
        text = capsys.readouterr().err.strip()
    else:
        with pytest.raises((InputError, ValueError)) as caught:
            do(mistake)
        text = str(caught.value)
    assert "Traceback" not in text
    assert re.search(said, text, re.DOTALL), text
    assert not (tmp_path / "runs" / "new" / "done").exists() or "left behind" in name
    do(remedy)


def test_they_are_more_than_thirty() -> None:
    assert len(CASES) >= 30


def test_threads_that_use_other_interfaces_do_not_disturb_each_other():
    said, inside, outside = {}, threading.Barrier(2), threading.Barrier(2)

    def fit(name: str) -> None:
        with speaking("estimator"):
            inside.wait(10)  # both are in it
            said[name] = option("data.options.drop", "y<0")
            if name == "second":
                outside.wait(10)  # the other one has left
                said["after"] = option("data.options.drop", "y<0")
        if name == "first":
            outside.wait(10)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(fit, name) for name in ("first", "second")]:
            done.result()
    assert set(said.values()) == {"settings={'drop': 'y<0'}"}
    assert option("data.options.drop", "y<0") == "drop='y<0'"
