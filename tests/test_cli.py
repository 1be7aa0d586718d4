"""The command line: help without waiting, fixed forms that scripts rely on, errors that help."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from modalign import cli


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
    assert cli._summary(cli.COMMANDS[command]).split(".")[0].split(":")[0][:30] in " ".join(shown.split())


def test_every_option_of_every_command_is_described():
    import inspect

    for name, command in cli.COMMANDS.items():
        described = cli._described(command.__doc__ or "")
        for option in inspect.signature(command).parameters:
            assert described.get(option), f"{name}: {option}"


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
    import yaml

    plain = yaml.safe_load((out / "recipe.yaml").read_text())["recipe"]
    assert plain["training"]["batch_size"] == 128
    assert plain["model"]["width"] == 8


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
