"""The command line: help without waiting, fixed forms that scripts rely on, errors that help."""

from __future__ import annotations

import contextlib
import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

from modalign import cli
from modalign.errors import RunError, SettingsError
from modalign.recipes import load_recipe, recipe_from_plain


@pytest.fixture
def call(capsys):
    """``call(*arguments)``: exit status, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = 0
        try:
            cli.main(arguments)
        except SystemExit as stop:
            status = int(stop.code or 0)
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


@pytest.fixture
def arrays(tmp_path):
    """A small ``.npz`` of three modalities, text labels, repetitions and speakers."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    parts = {m: rng.normal(size=(3, 6))[y] + rng.normal(size=(120, 6)) for m in ("audio", "video", "text")}
    names = np.array(["angry", "calm", "sad"])[y]
    np.savez(tmp_path / "data.npz", **parts, y=names, rep=np.arange(120) // 3 % 4, speaker=np.arange(120) // 12)
    return str(tmp_path / "data.npz")


TINY = ("--training.epochs", "1", "--model.width", "8", "--training.accelerator", "cpu")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_describes_every_option_and_imports_nothing_heavy(command):
    code = f"from modalign import cli; cli.main(['{command}', '--help'])"
    check = (
        "import sys, atexit; atexit.register(lambda: print('HEAVY', sorted({'torch', 'numpy', 'pandas'} & "
        f"set(sys.modules)))); {code}"
    )
    shown = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in shown
    assert (cli.COMMANDS[command].__doc__ or "")[:30] in " ".join(shown.split())


def test_every_option_of_every_command_is_described():
    for name in cli.COMMANDS:
        for option, description in cli.options_of(name).items():
            assert description, f"{name}: {option}"


def test_help_shows_what_settings_mean_and_their_defaults(call):
    shown = " ".join(call("train", "--help")[1].split())
    assert "--training.lr LR peak learning rate. (type: float, default: 0.001)" in shown
    assert "--allow-code" in shown


def test_the_overview_imports_nothing_heavy():
    check = "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); from modalign import cli"
    code = f"{check}; cli.main(['--help'])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(name in shown for name in cli.COMMANDS)
    assert shown.endswith("False\n")


def test_overview_and_version(call):
    status, shown, _ = call()
    assert status == 0
    assert all(name in shown for name in cli.COMMANDS)
    assert call("--version")[1].startswith("modalign ")


def test_train_has_its_fixed_form(call, tmp_path):
    out = tmp_path / "run"
    status, shown, _ = call("train", "digits", "--strategy", "joint", "--seed", "3", "--out", str(out), *TINY)
    assert status == 0
    assert f"results in {out}" in shown
    result = json.loads((out / "result.json").read_text())
    assert (result["strategy"], result["seed"], result["dataset"]) == ("joint", 3, "digits")
    assert result["epochs"] == 1


def test_bench_on_arrays_has_its_fixed_form(call, arrays, tmp_path):
    out = tmp_path / "bench"
    status, shown, error = call(
        "bench", arrays, "--modalities", "audio,video", "--label", "y", "--split", "rep==3", "--group", "speaker",
        "--strategies", "joint,modalign", "--seeds", "2", "--jobs", "1", "--out", str(out), *TINY,
    )  # fmt: skip
    assert status == 0, error
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert {"dataset", "strategy", "metric", "mean", "ci_low", "ci_high", "seeds", "seconds"} <= rows[0].keys()
    assert [row["dataset"] for row in rows] == ["data", "data"]
    assert "ModAlign" in shown
    assert (out / "comparison.png").stat().st_size > 1000
    with np.load(out / "runs/data/joint/seed0/predictions_test.npz") as saved:
        assert len(saved["target"]) == 30  # the named rows are the test split
        assert saved["modalities"].tolist() == ["audio", "video"]


def test_estimate_has_its_fixed_form(call, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x + rng.normal(size=(400, 1)))
    np.save(tmp_path / "t.npy", np.arange(400) % 2)
    x_path, y_path, t_path = (str(tmp_path / f"{n}.npy") for n in "xyt")
    status, shown, _ = call("estimate", "--x", x_path, "--y", y_path, "--method", "ksg", "--json")
    found = json.loads(shown)
    assert status == 0
    assert {"value", "stderr", "unit", "kind", "method"} <= found.keys()
    assert (found["unit"], found["method"]) == ("nats", "ksg")
    assert found["value"] == pytest.approx(0.5 * np.log(2), abs=0.12)
    given = call("estimate", "--x", x_path, "--y", y_path, "--given", t_path, "--method", "ksg")
    assert given[1].startswith("I(X;Y|T) = ")


def test_recipe_settings_are_defaults_under_the_command_line(call, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "data: {name: digits}\nmodel: {width: 8}\ntraining: {epochs: 1, lr: 0.5, batch_size: 128}\n"
        "strategies: {infonce: {weight: 0.25}}\n"
    )
    out = tmp_path / "run"
    status, _, error = call(
        "train", str(recipe), "--strategy", "infonce", "--training.lr", "0.01", "--options.temperature", "0.2",
        "--out", str(out),
    )  # fmt: skip
    assert status == 0, error
    result = json.loads((out / "result.json").read_text())
    assert result["lr"] == 0.01
    assert result["options"] == {"weight": 0.25, "temperature": 0.2}
    plain = yaml.safe_load((out / "recipe.yaml").read_text())["recipe"]
    assert plain["training"]["batch_size"] == 128
    assert plain["model"]["width"] == 8


@pytest.fixture
def planned(monkeypatch):
    """``planned(*arguments)``: the recipes that a command would train, by what tables call their data."""
    seen = {}
    monkeypatch.setattr("modalign.training.train.train", lambda recipe, *_, **__: seen.update({"": recipe}))

    def run_bench(recipes, *_, **__):
        seen.update(recipes)
        raise RunError("planned")

    monkeypatch.setattr("modalign.experiments.bench.run_bench", run_bench)

    def run(*arguments: str):
        with contextlib.suppress(RunError):
            cli.run(arguments)
        return seen

    return run


MINE = """
data: {name: digits, columns: [speaker], options: {a: 1, b: 2}}
model: {encoders: {left: {name: mlp, hidden: 8}, right: {name: mlp}}}
training: {lr: 0.5, clip: 1.0, epochs: 7}
"""


@pytest.mark.parametrize("first", [True, False], ids=["recipe first", "recipe last"])
def test_the_command_line_is_above_the_recipe_wherever_the_recipe_stands(planned, tmp_path, first):
    (tmp_path / "mine.yaml").write_text(MINE)
    recipe, options = [str(tmp_path / "mine.yaml")], ["--training.lr", "0.02", "--training.clip", "null"]
    got = planned("train", *(recipe + options if first else options + recipe))[""]
    assert (got.training.lr, got.training.clip, got.training.epochs) == (0.02, None, 7), "0.02 is a default"


@pytest.mark.parametrize(
    ("arguments", "options", "encoders", "columns"),
    [
        (["--data.options.b", "3"], {"a": 1, "b": 3}, ["left", "right"], ["speaker"]),
        (["--data.options", "{c: 3}"], {"c": 3}, ["left", "right"], ["speaker"]),
        (["--data.options={c: 3}", "--data.options.d", "4"], {"c": 3, "d": 4}, ["left", "right"], ["speaker"]),
        (["--data", "{options: {c: 3}}"], {"c": 3}, ["left", "right"], ["speaker"]),
        (["--model.encoders.third", "{name: mlp}"], {"a": 1, "b": 2}, ["left", "right", "third"], ["speaker"]),
        (["--model.encoders", "{third: {name: mlp}}"], {"a": 1, "b": 2}, ["third"], ["speaker"]),
        (["--data.columns+", "day"], {"a": 1, "b": 2}, ["left", "right"], ["speaker", "day"]),
        (["--data.columns", "[day]"], {"a": 1, "b": 2}, ["left", "right"], ["day"]),
    ],
)
def test_entries_are_added_to_the_recipes_and_whole_values_replace_them(
    planned, tmp_path, arguments, options, encoders, columns
):
    (tmp_path / "mine.yaml").write_text(MINE)
    got = planned("train", str(tmp_path / "mine.yaml"), *arguments)[""]
    assert got.data.options == options
    assert list(got.model.encoders) == encoders
    assert got.data.columns == columns


def test_a_part_of_the_settings_can_be_a_file(planned, tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE)
    (tmp_path / "budget.yaml").write_text("epochs: 9\n")
    got = planned("train", str(tmp_path / "mine.yaml"), "--training", str(tmp_path / "budget.yaml"))[""]
    assert (got.training.epochs, got.training.lr) == (9, 0.5)


def test_what_a_bench_line_says_holds_for_all_its_recipes_and_the_line_is_parsed_once(
    planned, arrays, tmp_path, monkeypatch
):
    parsed = []
    parse = cli.parse
    monkeypatch.setattr(cli, "parse", lambda words: parsed.append(words) or parse(words))
    (tmp_path / "mine.yaml").write_text(MINE)
    got = planned(
        "bench", arrays, str(tmp_path / "mine.yaml"), "--training.lr", "0.3", "--modalities", "a, b", "--label", "y"
    )
    assert len(parsed) == 1
    assert [recipe.training.lr for recipe in got.values()] == [0.3, 0.3]
    assert [recipe.training.epochs for recipe in got.values()] == [30, 7]
    assert [recipe.data.modalities for recipe in got.values()] == [["a", "b"], ["a", "b"]]
    assert [recipe.data.label for recipe in got.values()] == ["y", "y"]


def test_two_recipes_of_one_name_are_refused(call, arrays):
    status, _, error = call("bench", arrays, arrays, "--strategies", "joint")
    assert status == 2
    assert "two recipes have data called 'data'" in error


@pytest.mark.parametrize("command", ["train", "bench", "ablate", "tradeoff", "evaluate", "predict"])
def test_code_named_by_files_is_allowed_by_a_flag(command):
    words = {"predict": ["predict", "run", "new.npz"]}.get(command, [command, "digits"])
    assert cli.parse([*words, "--allow-code"])[1]["allow_code"] is True
    assert "allow_code" not in cli.parse(words)[1]


@pytest.mark.parametrize(
    "plain",
    [
        {"data": {"class_path": "own.Thing", "init_args": {"size": 3}}},
        {"data": {"class_path": "own.Thing", "init_args": {"inner": {"class_path": "own.Thing"}}}},
        {"model": {"encoders": {"image": {"class_path": "own.Thing", "init_args": {"size": 3}}}}},
        {"model": {"encoders": {"image": {"name": "mlp", "inner": {"class_path": "own.Thing"}}}}},
        {"model": {"fusion": "own.Thing", "fusion_options": {"inner": {"class_path": "own.Thing"}}}},
        {"strategies": {"modalign": {"inner": [{"class_path": "own.Thing"}]}}},
    ],
)
def test_reading_a_recipe_imports_no_code_that_it_names(tmp_path, monkeypatch, plain):
    (tmp_path / "own.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(plain))
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    for part, settings in plain.items():
        for name, value in settings.items():
            found = recipe.strategies[name] if part == "strategies" else getattr(getattr(recipe, part), name)
            assert found == value


def test_data_of_a_class_is_called_as_the_class_where_it_has_no_name():
    assert recipe_from_plain({"data": {"class_path": "own.things.Letters"}}).data.shown == "Letters"
    assert recipe_from_plain({"data": {"class_path": "own/things.py:Letters"}}).data.shown == "Letters"
    assert recipe_from_plain({"data": {"class_path": "own.things.Letters", "name": "abc"}}).data.shown == "abc"


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"trainin": {}}, "did you mean 'training'"),
        ({"data": {"nme": "digits"}}, "did you mean 'name'"),
        ({"training": {"lr": "fast"}}, "fast"),
        ({"training": 3}, "training is 3; expected settings by name"),
        ({"strategies": {"joint": 3}}, "strategies"),
    ],
)
def test_a_wrong_setting_of_a_recipe_is_named(plain, message):
    with pytest.raises(SettingsError, match=message):
        recipe_from_plain(plain, "mine.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean 'train'"),
        (["train", "digitz"], "did you mean 'digits'"),
        (["train", "digits", "--straategy", "joint"], "did you mean '--strategy'"),
        (["train", "digits", "--training.epoch", "3"], "did you mean '--training.epochs'"),
        (["train", "digits", "--strategy", "jiont"], "did you mean 'joint'"),
        (["train", "digits", "--options.alhpa", "3"], "did you mean 'alpha'"),
        (["train", "digits", "--training.epochs", "many"], "many"),
        (["train", "nowhere.npz"], "nowhere.npz does not exist"),
        (["train", "digits", "--data.columns", "[speaker]", "--options.context", "column:speaker"], "speaker"),
        (["bench", "digits", "--strategies", "joint,modalgin"], "did you mean 'modalign'"),
        (["estimate", "--x", "nowhere.npy", "--y", "nowhere.npy"], "nowhere.npy does not exist"),
        (["tradeoff", "digits", "--alphas", "0,much"], "no list of numbers"),
        (["strategies", "modaling"], "did you mean 'modalign'"),
        (["report", "nowhere"], "nowhere"),
        (["prepare", "cremad", "--out", "x"], "--raw is missing"),
    ],
)
def test_errors_name_the_thing_and_the_remedy(call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, error = call(*arguments)
    assert status == 2
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())  # nothing was written


def test_strategies_and_datasets_are_listed(call):
    shown = call("strategies")[1]
    assert [line.split()[0] for line in shown.splitlines()][-1] == "modalign"
    described = call("strategies", "modalign")[1]
    assert "ICCV 2025" in described
    assert "--options.rho (default 0.3)" in described
    assert "digits" in call("datasets")[1]
