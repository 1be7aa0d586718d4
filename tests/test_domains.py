"""Domains: what cannot be meant is refused by name, with what was given and expected, whichever way it came in."""

from __future__ import annotations

import functools
import math
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import yaml

import modalign
from modalign import cli
from modalign.data.datasets import synthetic
from modalign.data.info import DataInfo
from modalign.data.load import load_data
from modalign.domains import Words, check_values, declared
from modalign.errors import SettingsError
from modalign.experiments.bench import run_bench
from modalign.recipes import GROUPS, load_recipe, recipe_from_plain
from modalign.settings import DataSettings, TrainingSettings
from modalign.strategies import load_strategy, make_options, strategy_names
from modalign.training.build import build_strategy, method_spec
from modalign.training.run import RunSpec

ODD: dict[str, Any] = {
    "nan": math.nan, "inf": math.inf, "huge": 10**30, "negative": -1, "minus": -0.5, "true": True, "word": "fast",
    "list": [1, {}], "mapping": {"a": [1]}, "fraction": 1.5, "null": None,
}  # fmt: skip
# Kinds of value that a setting of a type may take; all other odd ones must be refused, whatever its domain is.
MAY: dict[Any, set[str]] = {
    int: set(), float: {"fraction"}, bool: {"true"}, str: {"word"}, Literal: set(), Words: set(),
    list: set(), dict: {"mapping"}, types.NoneType: {"null"}, Any: {*ODD},
}  # fmt: skip
# Numbers of which 0 means something (nothing of it, the first of them); of all others it is refused.
ZERO = {
    *("data.split_seed", "data.fold", "data.valid_seed", "model.dropout", "training.momentum", "training.weight_decay"),
    *("training.warmup", "training.workers", "training.checkpoint_minutes", "joint_unimodal.eta", "infonce.weight"),
    *("diagnose_relearn.strength", "diagnose_relearn.times", "reconboost.residual", "reconboost.consolidation"),
    *("reconboost.rectify_epochs", "reconboost.pretrain", "ogm_ge.alpha", "ogm_ge.until", "pmr.alpha", "pmr.momentum"),
    *("pmr.until", "pmr.entropy", "pmr.entropy_until", "opm.base", "opm.rise", "opm.active", "opm.warmup"),
    *("modalign.alpha", "modalign.eta", "modalign.hinge", "modalign.ramp", "modalign.memory"),
    "modalign.memory_minimum",
}  # fmt: skip


def may(hint: Any) -> set[str]:
    """Odd values that a type may take."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return set().union(*map(may, args))
    if origin is Annotated:
        return MAY[Words] if any(isinstance(note, Words) for note in args[1:]) else may(args[0])
    if origin is dict and args[1] is not Any:
        return set()
    return MAY[origin or hint]


def is_number(hint: Any) -> bool:
    """Whether zero is of the type."""
    return hint in (int, float) or any(map(is_number, () if get_origin(hint) in (dict, list) else get_args(hint)))


def odd(name: str, hint: Any) -> list[Any]:
    """Values that a setting must refuse."""
    refused = [value for kind, value in ODD.items() if kind not in may(hint)]
    return refused + ([0] if is_number(hint) and name not in ZERO else [])


def assert_told(message: str, name: str, value: Any) -> None:
    """A message has a line with name, given and expected."""
    given = repr(value)[:40]
    lines = [line for line in message.splitlines() if f"{name} is " in line or f"{name}." in line]
    assert any("; expected " in line and (given in line or f"{name}." in line) for line in lines), (name, message)


def refused(name: str, value: Any, call: Any, /, *arguments: Any, **named: Any) -> None:
    """See that a call is refused in words."""
    try:
        call(*arguments, **named)
    except SettingsError as error:
        assert_told(str(error), name, value)
    else:
        pytest.fail(f"{name} = {value!r} passes in silence")


SETTINGS = [(part, name, hint) for part, kind in GROUPS.items() for name, (hint, _) in declared(kind).items()]
OPTIONS = [
    (strategy, name, hint)
    for strategy in strategy_names()
    for name, (hint, _) in declared(load_strategy(strategy).Options).items()
]


@functools.cache
def info() -> DataInfo:
    """Two small modalities."""
    arrays = synthetic.generate(samples=40)
    return DataInfo.of(load_data({"x0": arrays["x1"], "x1": arrays["x2"], "y": arrays["y"]}, label="y"))


def write(path: Any, plain: dict[str, Any]) -> str:
    """A recipe file."""
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return str(path)


def test_every_setting_refuses_what_it_cannot_mean_from_python_and_from_plain_values():
    for part, name, hint in SETTINGS:
        for value in odd(f"{part}.{name}", hint):
            refused(f"{part}.{name}", value, GROUPS[part], **{name: value})
            refused(f"{part}.{name}", value, recipe_from_plain, {part: {name: value}})


def test_every_setting_refuses_what_it_cannot_mean_in_yaml_all_in_one_message(tmp_path):
    names: dict[str, list[Any]] = {f"{part}.{name}": odd(f"{part}.{name}", hint) for part, name, hint in SETTINGS}
    for turn in range(max(map(len, names.values()))):
        values = {name: of[turn] for name, of in names.items() if turn < len(of)}
        plain: dict[str, dict[str, Any]] = {part: {} for part in GROUPS}
        for name, value in values.items():
            plain[name.partition(".")[0]][name.partition(".")[2]] = value
        with pytest.raises(SettingsError) as caught:
            load_recipe(write(tmp_path / "recipe.yaml", plain))
        for name, value in values.items():
            assert_told(str(caught.value), name, value)


def test_every_option_of_every_strategy_refuses_what_it_cannot_mean():
    assert len(OPTIONS) > 40
    for strategy, name, hint in OPTIONS:
        kind = load_strategy(strategy)
        for value in odd(f"{strategy}.{name}", hint):
            refused(f"options.{name}", value, kind.Options, **{name: value})
            refused(f"options.{name}", value, make_options, kind, {name: value})


@pytest.mark.parametrize("strategy", sorted({strategy for strategy, _, _ in OPTIONS}))
def test_options_in_a_recipe_file_are_refused_all_in_one_message(tmp_path, strategy):
    values = {name: odd(f"{strategy}.{name}", hint) for of, name, hint in OPTIONS if of == strategy}
    for turn in (0, -1):
        given = {name: of[turn] for name, of in values.items()}
        recipe = load_recipe(write(tmp_path / "recipe.yaml", {"strategies": {strategy: given}}))
        with pytest.raises(SettingsError) as caught:
            build_strategy(method_spec(recipe, strategy, 0), info())
        for name, value in given.items():
            assert_told(str(caught.value), f"options.{name}", value)


# Item 3 of what passed without a word, or ended in a traceback, in 0.1.
SILENT: list[tuple[str, str, Any]] = [
    *(("modalign", name, -1) for name in ("alpha", "eta", "rho", "ramp", "memory", "hinge", "memory_minimum")),
    *(("modalign", "critic_width", 0), ("modalign", "alpha", math.nan), ("modalign", "rho", 0)),
    *(("infonce", "weight", -1), ("infonce", "temperature", -1), ("infonce", "temperature", 0)),
    *(("pmr", "momentum", 2), ("pmr", "alpha", -1), ("ogm_ge", "alpha", -1), ("joint_unimodal", "eta", -1)),
    *(("diagnose_relearn", "strength", 1e30), ("reconboost", "pretrain", 1), ("dgl", "alpha", 0)),
    *(("opm", "base", 2), ("joint_mlp", "hidden", 0), ("mmpareto", "rescale", "nothing")),
    *(("training", "momentum", 2), ("training", "weight_decay", -5), ("training", "warmup", 5)),
    *(("training", "warmup", -1), ("training", "clip", 0), ("training", "clip", -1), ("training", "patience", 0)),
    *(("training", "checkpoint_minutes", -1), ("training", "samples_per_context", 0), ("model", "dropout", 1.0)),
    *(("training", "encoder_lr", {"x0": -1}), ("training", "lr", 10**400), ("training", "sampler", "blanced")),
    *(("training", "temperature", 1), ("data", "folds", 1), ("data", "fold", -1), ("data", "valid_fraction", 1.0)),
]  # fmt: skip


@pytest.mark.parametrize(("of", "name", "value"), SILENT, ids=lambda part: str(part)[:20])
def test_what_once_passed_in_silence_is_refused_in_yaml_and_from_python(tmp_path, of, name, value):
    if of in GROUPS:
        refused(f"{of}.{name}", value, load_recipe, write(tmp_path / "r.yaml", {of: {name: value}}))
        refused(f"{of}.{name}", value, modalign.train, "digits", out=tmp_path / "run", **{name: value})
    else:
        recipe = load_recipe(write(tmp_path / "r.yaml", {"strategies": {of: {name: value}}}))
        refused(f"options.{name}", value, build_strategy, method_spec(recipe, of, 0), info())
        refused(f"options.{name}", value, load_strategy(of).Options, **{name: value})
    assert not (tmp_path / "run").exists()


def test_the_command_line_names_all_settings_beyond_their_domains_at_once():
    words, named = ["train", "digits"], []
    for part, name, hint in SETTINGS:
        if is_number(hint) and get_origin(hint) is not dict:
            words += [f"--{part}.{name}", "-1"]
            named.append(f"--{part}.{name}")
    with pytest.raises(SettingsError) as caught:
        cli.run([*words, "--training.encoder_lr.image", "-1"])
    assert len(named) > 15
    for name in [*named, "--training.encoder_lr.image"]:
        assert_told(str(caught.value), name, -1)


@pytest.mark.parametrize(
    ("option", "value", "shown"),
    [
        ("--training.lr", "fast", "'fast'"),
        ("--training.lr", ".nan", "nan"),
        ("--training.epochs", str(10**30), "1000"),
        ("--training.momentum", "true", "true"),
        ("--training.optimizer", "sdg", "'sdg'"),
        ("--seed", "-1", "-1"),
    ],
)
def test_the_command_line_says_what_it_expected_of_each_kind(option, value, shown):
    with pytest.raises(SettingsError) as caught:
        cli.run(["train", "digits", option, value])
    assert f"{option} is " in str(caught.value)
    assert shown in str(caught.value)
    assert "; expected " in str(caught.value)


def test_options_on_the_command_line_are_refused_all_at_once(tmp_path):
    arrays = synthetic.generate(samples=60)
    np.savez(tmp_path / "d.npz", x0=arrays["x1"], x1=arrays["x2"], y=arrays["y"])
    options = ["--options.alpha", "-1", "--options.memory", "fast", "--options.critic_width", "0"]
    with pytest.raises(SettingsError) as caught:
        cli.run(["train", str(tmp_path / "d.npz"), "--data.label", "y", *options, "--out", str(tmp_path / "run")])
    for name, value in (("alpha", -1), ("memory", "fast"), ("critic_width", 0)):
        assert_told(str(caught.value), f"--options.{name}", value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("seeds", 0), ("splits", "two"), ("tune", -1), ("jobs", 0), ("seeds", 1.5)]
)
def test_counts_of_a_bench_are_checked_by_the_same_mechanism(tmp_path, name, value):
    given = {"seeds": 1, name: value}
    refused(name, value, run_bench, [load_recipe("digits")], ["joint"], out=tmp_path / "bench", **given)
    assert not (tmp_path / "bench").exists()


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "one", True])
def test_seeds_are_checked(seed):
    refused("seed", seed, RunSpec, "joint", seed, load_recipe("digits"))


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        ({"encoders": {"x0": {"name": "mlp", "dropout": 1.0}}}, "model.encoders.x0.dropout", 1.0),
        ({"encoders": {"x0": {"name": "mlp", "hidden": [0]}}}, "model.encoders.x0.hidden", [0]),
        ({"encoders": {"x0": {"name": "mlp", "width": "wide"}}}, "model.encoders.x0.width", "wide"),
        ({"fusion": "tensor", "fusion_options": {"rank": 0}}, "model.fusion_options.rank", 0),
        ({"fusion": "attention", "fusion_options": {"heads": math.nan}}, "model.fusion_options.heads", math.nan),
    ],
)
def test_arguments_of_encoders_and_fusions_are_checked_when_they_are_built(model, name, value):
    recipe = recipe_from_plain({"model": model})
    refused(name, value, build_strategy, method_spec(recipe, "joint", 0), info())


@pytest.mark.parametrize(("name", "value"), [("samples", 3), ("correlation", 1.0), ("unique", -1), ("seed", "one")])
def test_options_of_data_sets_are_checked(name, value):
    settings = DataSettings(name="synthetic", options={name: value})
    refused(f"options.{name}", value, load_data, settings)


def test_settings_changed_after_they_were_made_are_checked_before_a_run(tmp_path):
    recipe = load_recipe("digits")
    recipe.training.momentum = 2.0
    refused("training.momentum", 2.0, modalign.train, recipe, "joint", out=tmp_path / "run")


def test_a_method_s_own_training_settings_are_checked():
    for own, name, value in (({"lr": -1}, "training.lr", -1), ([1], "strategies.joint.training", [1])):
        recipe = recipe_from_plain({"strategies": {"joint": {"training": own}}})
        refused(name, value, method_spec, recipe, "joint", 0)


def test_defaults_and_bounds_that_are_meant_pass():
    for strategy in strategy_names():
        kind = load_strategy(strategy)
        check_values(kind.Options, vars(kind.Options()), "options.")
    made = TrainingSettings(lr=1, momentum=0, warmup=1.0, clip=None, patience=1, workers=0, encoder_lr={"a": 0})
    assert (made.lr, made.encoder_lr) == (1, {"a": 0})
    assert recipe_from_plain({"training": {"sampler": "balanced:age", "lr": 1e-6}}).training.sampler == "balanced:age"
