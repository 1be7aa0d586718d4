"""Files that are read run no code: a recipe or a run folder that names code asks first, and then runs it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
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
