"""What the package says of the paper's data sets holds: its recipes build, and the commands of its pages exist."""

from __future__ import annotations

import inspect
import re
import shlex
from importlib import import_module

import pytest
import torch

from modalign import cli
from modalign.data.batch import Modality
from modalign.data.load import available, check_options
from modalign.data.media.prepare import DATASETS
from modalign.errors import SettingsError
from modalign.models.encoders import build_encoder
from modalign.models.multimodal import MultimodalModel
from modalign.recipes import load_recipe, recipe_names
from modalign.strategies import load_strategy, make_options, strategy_names
from modalign.training.build import method_spec

# What prepare gives by default; vocabularies are those of the published tokenizers.
PREPARED = {
    "cremad": [Modality("audio", "image", (1, 257, 188)), Modality("video", "clip", (3, 3, 224, 224))],
    "ave": [Modality("audio", "image", (1, 257, 1004)), Modality("video", "clip", (4, 3, 224, 224))],
    "food101": [Modality("image", "image", (3, 224, 224)), Modality("text", "text", (40,), 30_522)],
    "gbmlgg": [Modality("image", "image", (3, 224, 224)), Modality("omic", "vector", (80,))],
    "avmnist": [Modality("audio", "image", (1, 40, 50)), Modality("image", "image", (1, 28, 28))],
}
CLASSES = {"cremad": 6, "ave": 28, "food101": 101, "gbmlgg": 3, "avmnist": 10}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_names_only_what_exists(name):
    recipe = load_recipe(name)
    assert recipe.data.name, "a recipe names its data"
    if recipe.data.name in available():
        module = import_module(f"modalign.data.datasets.{recipe.data.name}")
        takes = getattr(module, "generate", module.load)  # made data is loaded by what makes it
        check_options(recipe.data.name, takes, recipe.data.options)
    for strategy, options in recipe.strategies.items():
        make_options(load_strategy(strategy), {k: v for k, v in options.items() if k != "training"})
    assert set(recipe.training.encoder_lr) <= set(recipe.model.encoders)


def test_food101_is_balanced_only_for_the_method_that_contrasts_classes():
    recipe = load_recipe("food101")
    samplers = {name: method_spec(recipe, name, 0).recipe.training.sampler for name in strategy_names()}
    assert {name for name, sampler in samplers.items() if sampler != "shuffle"} == {"modalign"}


@pytest.mark.parametrize("name", DATASETS)
def test_the_encoders_of_a_recipe_build_at_full_size(name):
    settings = load_recipe(name).model
    modalities = {modality.name: modality for modality in PREPARED[name]}
    assert set(settings.encoders) == set(modalities)
    for encoder in settings.encoders.values():
        if encoder.pop("pretrained", False):
            assert encoder["name"] in ("vit_b_16", "bert_base", "resnet50")
    with torch.device("meta"):  # shapes without the memory
        for modality in modalities.values():
            assert build_encoder(modality, settings.width, settings.encoders[modality.name]).width > 0
        model = MultimodalModel.build(modalities, CLASSES[name], settings)
    assert sum(p.numel() for p in model.parameters()) > 1000


def commands(text: str) -> list[list[str]]:
    """The arguments of every ``modalign`` line in the blocks of code of a page."""
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    lines = [line.strip() for line in blocks.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines if line.startswith("modalign ")]
    return [[word for word in words[1:] if word != "..."] for words in found]


def check_command(words: list[str]) -> None:
    """Parse a command, and look up the options of its data set, which the parser takes as they come."""
    command, given = cli.parse(words)
    if command == "prepare" and given["data"] in DATASETS:
        reader = import_module(f"modalign.data.datasets.{given['data']}").prepare
        assert set(given.get("options", {})) <= set(inspect.signature(reader).parameters) - {"raw", "out", "run"}
        assert given["raw"] is not None
    elif command == "bench":
        options = given.get("data", {}).get("options", {})
        for recipe in given["recipes"]:
            assert recipe in (*recipe_names(), "NAME")
            if recipe in available():
                check_options(recipe, import_module(f"modalign.data.datasets.{recipe}").load, options)


def test_every_command_of_the_page_on_the_papers_data_parses(root):
    found = commands((root / "docs" / "reproduce.md").read_text("utf-8"))
    assert {words[1] for words in found if words[0] == "prepare"} >= set(DATASETS)
    assert {words[1] for words in found if words[0] == "bench"} >= set(DATASETS)
    for words in found:
        check_command(words)


def test_every_option_named_on_that_page_exists(root):
    text = (root / "docs" / "reproduce.md").read_text("utf-8")
    named = set(re.findall(r"`(--[a-z_.0-9]+)(?=[ `])", text))
    known = {option for command in ("prepare", "bench", "reproduce") for option in cli.options_of(command)}
    known |= {f"--options.{name}" for name in DATASETS}  # of reproduce
    readers = [import_module(f"modalign.data.datasets.{name}") for name in DATASETS]
    known |= {f"--options.{p}" for reader in readers for p in inspect.signature(reader.prepare).parameters}
    known |= {f"--data.options.{p}" for reader in readers for p in inspect.signature(reader.load).parameters}
    assert named <= known, named - known


@pytest.mark.parametrize("wrong", ["--audio fbank", "--resume false", "--options.adio fbank"])
def test_a_wrong_command_would_be_noticed(wrong):
    text = f"```\nmodalign prepare cremad --raw A --out B {wrong}\n```\n"
    with pytest.raises((SettingsError, AssertionError)):
        check_command(commands(text)[0])


def test_values_on_the_command_line_are_read_as_what_they_are():
    words = [
        "bench",
        "gbmlgg",
        "--data.options.fold",
        "3",
        "--data.options.target",
        "survival",
        "--data.options.noise",
        "1.0",
    ]
    assert cli.parse(words)[1]["data"]["options"] == {"fold": 3, "target": "survival", "noise": 1.0}
    words = ["prepare", "gbmlgg", "--raw", "A", "--out", "B", "--options.rnaseq", "true", "--options.size", "64"]
    assert cli.parse(words)[1]["options"] == {"rnaseq": True, "size": 64}


def test_an_unknown_option_of_a_reader_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["prepare", "cremad", "--raw", str(tmp_path), "--out", str(tmp_path / "o"), "--options.adio", "fbank"])
    assert stop.value.code == 2
    assert "did you mean 'audio'" in capsys.readouterr().err


class Planned(BaseException):
    """Carries what a bench would have run."""


def test_a_bench_changes_only_what_the_command_names(monkeypatch):
    def planned(recipes, *_, **__):
        raise Planned(recipes)

    monkeypatch.setattr("modalign.experiments.bench.run_bench", planned)
    words = ["cremad", "gbmlgg", "--data.options.fold", "3", "--training.epochs", "30", "--training.precision", "fp32"]
    tiny = ["--model.encoders.image", '{"name": "resnet50", "project": 8}']
    with pytest.raises(Planned) as stop:
        cli.main(["bench", *words, *tiny])
    cremad, gbmlgg = stop.value.args[0]["cremad"], stop.value.args[0]["gbmlgg"]
    assert gbmlgg.data.options == {**load_recipe("gbmlgg").data.options, "fold": 3}
    assert gbmlgg.model.encoders == {
        "image": {"name": "resnet50", "project": 8},
        "omic": load_recipe("gbmlgg").model.encoders["omic"],
    }
    assert (cremad.training.epochs, cremad.training.precision) == (30, "fp32"), "though these are the defaults"
    assert cremad.training.lr == load_recipe("cremad").training.lr
    assert cremad.strategies == load_recipe("cremad").strategies
