"""Files that are read run no code: a recipe or a run folder that names code asks first, and then runs it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import modalign
from modalign import cli
from modalign.errors import InputError
from modalign.strategies import make_options

RUN = {"epochs": 1, "quiet": True, "accelerator": "cpu", "width": 4}


@pytest.fixture
def evil(tmp_path, monkeypatch) -> Path:
    """Marker file that appears when ``evil.py`` of the working folder, which is on the path, is run."""
    marker = tmp_path / "it ran"
    (tmp_path / "evil.py").write_text(
        f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
        "from torch import nn\nimport modalign\n"
        "class Net(nn.Linear):\n    pass\n"
        "class Method(modalign.Strategy):\n    title = 'Evil'\n"
        "def load(**anything):\n    return {}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return marker


@pytest.fixture(scope="module")
def harmless(tmp_path_factory) -> Path:
    """A finished run on digits."""
    return modalign.train("digits", "joint", out=tmp_path_factory.mktemp("run") / "run", **RUN).folder


NET = {"class_path": "evil.Net", "init_args": {"in_features": 32, "out_features": 4}}
LOADER = {"class_path": "modalign.classes.import_class", "init_args": {"path": "evil.py:Net", "what": "encoder"}}


def refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "recipe",
    [
        {"data": {"class_path": "evil.load"}},
        {"data": {"class_path": "evil.py:load"}},
        {"data": {"class_path": LOADER["class_path"], "init_args": LOADER["init_args"]}},
        {"data": {"name": "digits"}, "model": {"encoders": {"left": NET}}},
        {"data": {"name": "digits"}, "model": {"encoders": {"left": {**NET, "class_path": "evil.py:Net"}}}},
        {"data": {"name": "digits"}, "model": {"encoders": {"left": LOADER}}},
        {"data": {"name": "digits"}, "model": {"fusion": "evil.Net"}},
        {"data": {"name": "digits"}, "strategies": {"evil.Method": {}}},
        {"data": {"name": "digits"}, "strategies": {"evil.py": {}}},
    ],
)
def test_a_recipe_that_names_code_asks_before_it_runs(evil, recipe):
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    refused(["train", "recipe.yaml", "--strategy", "joint", "--out", "run"])
    with pytest.raises(InputError, match="trust_code=True"):
        modalign.train("recipe.yaml", "joint", out="run", **RUN)
    assert not evil.exists()


@pytest.mark.parametrize("command", ["bench", "ablate", "tradeoff"])
def test_every_command_that_trains_asks(evil, command):
    Path("recipe.yaml").write_text(yaml.safe_dump({"data": {"name": "digits"}, "model": {"encoders": {"left": NET}}}))
    refused([command, "recipe.yaml", "--seeds", "1", "--out", "out"])
    assert not evil.exists()


@pytest.mark.parametrize(
    "recipe",
    [
        {"data": {"name": "digits", "options": {"class_path": "evil.load", "init_args": {}}}},
        {"data": {"name": "digits", "kinds": {"class_path": "evil.load"}}},
        {"data": {"name": "digits"}, "model": {"fusion_options": {"class_path": "evil.Net"}}},
        {"data": {"name": "digits"}, "model": {"class_path": "evil.Net"}},
        {"data": {"name": "digits"}, "model": {"encoders": {"left": {"name": "evil.Net"}}}},
        {"data": {"name": "digits"}, "training": {"class_path": "evil.Net"}},
        {"data": {"name": "digits"}, "strategies": {"joint": {"class_path": "evil.Method"}}},
    ],
)
def test_class_paths_where_none_belongs_are_refused_even_with_trust(evil, recipe):
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    refused(["train", "recipe.yaml", "--strategy", "joint", "--out", "run", "--allow-code"])
    assert not evil.exists()


@dataclass(frozen=True)
class AnyOptions:
    """Options that take anything.

    Args:
        anything: whatever.
    """

    anything: Any = None


class Open(modalign.Strategy):
    """A method whose option takes anything."""

    title = "Open"
    Options = AnyOptions


@pytest.mark.parametrize(
    "value", ["evil.Net", {"class_path": "evil.Net"}, [{"class_path": "evil.Net", "init_args": {}}]]
)
def test_options_of_any_type_import_nothing(evil, value):
    assert make_options(Open, {"anything": value}).anything == value
    assert not evil.exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"strategy": "evil.py"},
        {"strategy": "evil.py:Method"},
        {"strategy": "evil.Method"},
        {"recipe": {"data": {"class_path": "evil.load", "name": "made"}}},
        {"recipe": {"data": {"class_path": LOADER["class_path"], "init_args": LOADER["init_args"], "name": "made"}}},
        {"recipe": {"model": {"encoders": {"left": NET}}}},
        {"recipe": {"model": {"encoders": {"left": LOADER}}}},
        {"recipe": {"model": {"fusion": "evil.Net"}}},
        {"recipe": {"model": {"fusion_options": {"class_path": "evil.Net"}}}},
        {"recipe": {"data": {"options": {"class_path": "evil.load"}}}},
        {"options": {"class_path": "evil.Net"}},
    ],
)
def test_a_run_that_names_code_asks_before_it_runs(evil, harmless, changed):
    shutil.copytree(harmless, "run")
    plain = yaml.safe_load(Path("run/recipe.yaml").read_text())
    for part, values in changed.pop("recipe", {}).items():
        plain["recipe"][part] |= values
    Path("run/recipe.yaml").write_text(yaml.safe_dump(plain | changed))
    with pytest.raises(InputError):
        modalign.evaluate("run", information=False)
    with pytest.raises(InputError):
        modalign.load_run("run").data  # noqa: B018
    with pytest.raises(InputError):
        modalign.load_run("run", encoders={"left": nn.Identity}).data  # noqa: B018
    assert not evil.exists()


def test_packed_objects_of_a_run_are_not_opened_without_trust(evil, harmless):
    shutil.copytree(harmless, "run")
    Path("run/code").mkdir()
    bomb = b"cos\nsystem\n(S'touch \"it ran\"'\ntR."
    Path("run/code/objects.pkl").write_bytes(bomb)
    about = {"strategy": {"class": "lab.Mine"}, "objects.pkl": {"sha256": hashlib.sha256(bomb).hexdigest()}}
    Path("run/code/code.json").write_text(json.dumps(about))
    refused(["evaluate", "run", "--quick"])
    refused(["predict", "run", "new.npz", "--out", "p.csv"])
    cli.main(["report", "run", "--html", "report.html"])
    assert not evil.exists()


def test_a_checkpoint_is_not_unpickled(evil, harmless):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (evil,)

    shutil.copytree(harmless, "run")
    torch.save({"strategy": Bomb()}, "run/checkpoints/best.pt")
    with pytest.raises(InputError):
        modalign.load_run("run").strategy  # noqa: B018
    assert not evil.exists()


@pytest.mark.parametrize(
    "expression",
    [
        "speaker.__class__.__init__.__globals__['sys'].modules['os'].system('touch \"it ran\"') == 0 and speaker >= 8",
        "(speaker.to_csv('it ran') == 1) | (speaker >= 8)",
        "(@pd.compat.os.system('touch \"it ran\"') == speaker) | (speaker >= 8)",
        "(`speaker`.to_csv('it ran') == speaker) | (speaker >= 8)",
        "(__import__('evil') == speaker) | (speaker >= 8)",
    ],
)
def test_an_expression_that_splits_rows_calls_nothing(evil, expression):
    rows = np.arange(60)
    data = {"a": rows[:, None] * [1.0, 2.0], "y": rows % 2, "speaker": rows // 6}
    with pytest.raises(InputError, match=r"expression|unknown column"):
        modalign.load_data(data, target="y", split=expression)
    assert not evil.exists()


# Places -------------------------------------------------------------------------------------------------------------


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> Path:
    """A manifest of 20 pictures with a modality of a dangerous name, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for i in range(20):
        Image.new("RGB", (8, 8), (10 * i, 0, 0)).save(tmp_path / f"face{i}.png")
    rows = pd.DataFrame(
        {
            "id": [f"=s{i}" for i in range(20)],
            "label": ["a", "b"] * 10,
            "/deep/face": [f"face{i}.png" for i in range(20)],
        }
    )
    rows.to_csv("my.csv", index=False)
    Path("my.yaml").write_text("name: '[/bold] =x'\nmodalities:\n  /deep/face: {kind: image, size: 4}\n")
    return tmp_path


@pytest.mark.parametrize(
    "title", ["../../up[/x]", "/absolute", "a/b", "=1+1", '"><img src=x onerror=alert(1)>', "x" * 400]
)
def test_titles_write_nothing_outside_the_output_folder(tmp_path, monkeypatch, title):
    inner = tmp_path / "deep" / "deeper"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    words = ["--training.epochs", "1", "--data.title", title]
    cli.main(["bench", "digits", "--strategies", "joint", "--seeds", "1", "--jobs", "1", "--out", "b", *words])
    cli.main(["report", "b", "--html", "r.html", "--tables", "t"])
    assert {path.parts[0] for path in map(Path, everything(inner))} == {"b", "r.html", "t"}
    assert everything(tmp_path) == {"deep", "deep/deeper", *(f"deep/deeper/{path}" for path in everything(inner))}
    assert "<img src=x" not in Path("r.html").read_text()
    # Shown as it is, but for what a spreadsheet would compute.
    assert pd.read_csv("b/table.csv")["dataset"].tolist() == [f"'{title}" if title.startswith("=") else title]


def test_a_modality_of_a_dangerous_name_is_prepared_and_read_inside_the_folder(pictures):
    before = everything(pictures)
    cli.main(["prepare", "my.csv", "--out", "out/in", "--workers", "1"])
    new = everything(pictures) - before
    assert all(path == "out" or path.startswith("out/in") for path in new)
    data = modalign.load_data("out/in")
    assert list(data.modalities) == ["/deep/face"]


def test_preparing_leaves_foreign_folders_and_links_alone(pictures):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    refused(["prepare", "my.csv", "--out", "mine", "--fresh"])
    assert everything(pictures / "mine") == {"thesis.txt"}
    cli.main(["prepare", "my.csv", "--out", "out", "--workers", "1"])
    array = next(Path("out").glob("*face*.npy"))
    target = pictures / "target.npy"
    array.rename(target)
    content = target.read_bytes()
    array.symlink_to(target)
    refused(["prepare", "my.csv", "--out", "out", "--fresh"])
    with pytest.raises(InputError, match="symbolic link"):
        modalign.load_data("out")
    assert target.read_bytes() == content


def test_a_prepared_array_that_has_changed_is_not_trained_on(pictures):
    cli.main(["prepare", "my.csv", "--out", "out", "--workers", "1"])
    array = next(Path("out").glob("*face*.npy"))
    stored = np.load(array, mmap_mode="r+")
    stored[:] = 0
    stored.flush()
    with pytest.raises(InputError, match=r"is not what prepare wrote .* run prepare again"):
        modalign.load_data("out")


def test_a_link_in_a_run_folder_is_not_written_through(tmp_path, harmless):
    run, foreign = tmp_path / "run", tmp_path / "foreign"
    shutil.copytree(harmless, run)
    foreign.mkdir()
    (run / "done").unlink()
    (run / "metrics.jsonl").unlink()
    (foreign / "log").write_text("")
    (run / "metrics.jsonl").symlink_to(foreign / "log")
    with pytest.raises(InputError, match="symbolic link"):
        modalign.train("digits", "joint", out=run, resume=True, **RUN)
    assert (foreign / "log").read_text() == ""


def test_changed_bytes_of_a_checkpoint_are_noticed(tmp_path, harmless):
    shutil.copytree(harmless, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "best.pt"
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
    content = bytearray(path.read_bytes())
    at = largest.header_offset + 30 + len(largest.filename) + largest.file_size // 2
    content[at : at + 64] = bytes(64 * [7])
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"best\.pt cannot be read .*another checksum|Bad CRC"):
        modalign.load_run(tmp_path / "run").strategy  # noqa: B018


def test_predictions_hold_no_formulas_unless_asked_for(tmp_path, harmless, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shapes = [m.shape for m in modalign.load_data("digits").modalities.values()]
    np.savez("new.npz", left=np.zeros((3, *shapes[0])), right=np.zeros((3, *shapes[1])), id=["=1+1", "-5", "@x"])
    cli.main(["predict", str(harmless), "new.npz", "--out", "p.csv"])
    cli.main(["predict", str(harmless), "new.npz", "--out", "raw.csv", "--formulas"])
    assert pd.read_csv("p.csv", dtype=str)["id"].tolist() == ["'=1+1", "-5", "'@x"]
    assert pd.read_csv("raw.csv", dtype=str)["id"].tolist() == ["=1+1", "-5", "@x"]


def test_a_strategy_of_an_absolute_path_is_a_row_called_by_its_stem(evil):
    Path("mine.py").write_text("from modalign.strategies.joint import Joint\nclass Mine(Joint):\n    title = '[/x]'\n")
    path = str(Path("mine.py").resolve())
    words = ["--seeds", "1", "--training.epochs", "1", "--jobs", "1", "--out", "b"]
    cli.main(["bench", "digits", "--strategies", f"{path},joint", *words])
    assert {folder.name for folder in Path("b/runs/digits").iterdir()} == {"mine", "joint"}


# Runs and data that are damaged --------------------------------------------------------------------------------------


FILES = ["recipe.yaml", "environment.json", "data.json", "network.json", "metrics.jsonl", "result.json",
         "checkpoints/best.pt", "predictions_test.npz"]  # fmt: skip
DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "binary": lambda content: b"\xff\xfe\x00" + content,
    "list": lambda content: b"[1, 2]",
    "number": lambda content: b"3",
    "deep": lambda content: b"[" * 3000,
    "keys": lambda content: b"{}",
    "types": lambda content: (
        b'{"strategy": 3, "seed": "x", "recipe": [], "info": 4, "inputs": 5, "metrics": {"test": 3}, "preparations": 2,'
        b'"fingerprint": [], "left": 9, "options": "a", "title": {}, "packages": 3, "task": "x"}'
    ),
}  # fmt: skip


COMMANDS = [
    ["predict", "run", "new.npz", "--out", "p.csv"],
    ["evaluate", "run", "--quick"],
    ["report", "run", "--html", "r.html"],
    ["train", "digits", "--strategy", "joint", "--out", "run", "--resume", "--model.width", "4",
     "--training.epochs", "1", "--training.accelerator", "cpu"],
]  # fmt: skip
EVERY = [(file, damage, words[0]) for file in FILES for damage in DAMAGES for words in COMMANDS]


@pytest.mark.parametrize(
    ("file", "damage", "command"), EVERY if os.environ.get("MODALIGN_LONG_TESTS") else EVERY[:: len(EVERY) // 19]
)
def test_a_damaged_run_is_refused_in_words(tmp_path, harmless, capsys, monkeypatch, file, damage, command):
    """All 256 with MODALIGN_LONG_TESTS set, every thirteenth without."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(harmless, "run")
    path = Path("run", file)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    np.savez("new.npz", left=np.zeros((3, 1, 8, 4)), right=np.zeros((3, 1, 8, 4)))
    if command == "train":
        Path("run/done").unlink()
    status = 0
    try:
        cli.main(next(words for words in COMMANDS if words[0] == command))
    except SystemExit as stop:
        status = int(stop.code or 0)
    said = capsys.readouterr().err
    assert status in (0, 1, 2)
    assert "Traceback" not in said
    assert "mistake of modalign" not in said
    assert status == 0 or "expected" in said or "train" in said, said


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7f\x85\x85R.",  # an array made of its shape
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\xff\xff\xff\x7f\x85U\x01b\x87R.",
        b"\x80\x02N" + b"r\xff\xff\xff\xff.",  # a memo of 2^32 entries: 64 GB where C reads it
        b"\x80\x05\x96\x00\x00\x00\x00\x00\x00\x00\x7f.",  # bytes of 2^63
        b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00.",
        b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        b"(" * 100_000,
        b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    ],
)
def test_a_pickle_that_claims_more_than_it_holds_is_refused(tmp_path, pickled):
    from modalign.data.datasets.gbmlgg import read_splits

    path = tmp_path / "splits.pkl"
    path.write_bytes(pickled)
    with pytest.raises(InputError, match="published form"):
        read_splits(path)


def test_an_image_that_claims_too_many_pixels_is_unreadable(tmp_path):
    from modalign.data.media.decoders import Unreadable, decode_image

    chunk = lambda kind, body: len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")  # noqa: E731
    head = chunk(b"IHDR", (12_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00")
    (tmp_path / "big.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    with pytest.raises(Unreadable, match="image of 12000 x 12000 pixels; expected at most"):
        decode_image(tmp_path / "big.png", 8)
