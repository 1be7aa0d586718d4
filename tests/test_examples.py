"""Every example runs."""

from __future__ import annotations

import copy
import runpy

import pytest
import torch

from modalign import cli, load_run
from modalign.information import guarded_gradients, ramp, score_pairs


def test_own_loop(root, capsys):
    runpy.run_path(str(root / "examples" / "own_loop.py"))
    shown = capsys.readouterr().out
    assert float(shown.split("test accuracy")[1]) > 0.85


def test_lightning_and_the_hugging_face_trainer_learn_with_the_objective(root):
    pytest.importorskip("pytorch_lightning", reason="pip install pytorch-lightning")
    pytest.importorskip("accelerate", reason="pip install accelerate")
    made = runpy.run_path(str(root / "examples" / "own_trainers.py"))
    torch.manual_seed(0)
    assert made["with_lightning"](60) > 0.85
    assert made["with_hugging_face"](60) > 0.8


def test_a_single_loss_has_the_gradients_of_the_loop(root):
    made = runpy.run_path(str(root / "examples" / "own_trainers.py"))
    model = made["Aligned"](1)
    batch = {key: x[:96] for key, x in made["train"].datasets.items()}
    again, y = copy.deepcopy(model), batch["labels"]
    model(**batch)["loss"].backward()
    z = [encoder(batch[name]) for encoder, name in zip(again.encoders, ("left", "right"), strict=True)]
    task = torch.nn.functional.cross_entropy(again.head(torch.cat(z, 1)), y)
    seen = score_pairs(again.critic, z[0].detach(), z[1].detach(), context=y)
    (-seen.objective / (1 + seen.ratio)).backward()
    pairs = score_pairs(again.critic, z[0], z[1], context=y)
    bounded = guarded_gradients(z, -ramp(1.0) * pairs.objective / (1 + pairs.ratio), task, rho=0.3)
    torch.autograd.backward([task, *z], [None, *bounded.gradients])
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_the_objective_takes_about_ten_lines(root):
    text = (root / "examples" / "own_loop.py").read_text()
    between = text.split("# -- ModAlign: Algorithm 1")[1].split("\n", 1)[1].split("# ----")[0]
    assert len([line for line in between.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("name", ["torch_dataset.py", "raw_files.py"])
@pytest.mark.slow
def test_scripts_of_the_python_door(root, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(root / "examples" / name))
    shown = capsys.readouterr().out
    assert {
        "torch_dataset.py": "table adds" in shown and len(list(tmp_path.glob("runs/*/curves.png"))) == 1,
        "raw_files.py": "new2" in shown and "False" in shown.split("face_present")[1],
    }[name]


@pytest.mark.parametrize("name", ["own_strategy.py"])
def test_own_strategy(root, tmp_path, name):
    path = str(root / "examples" / name)
    cli.main(["train", "digits", "--strategy", path, "--training.epochs", "1", "--out", str(tmp_path / "run")])
    assert (tmp_path / "run" / "done").exists()


def test_own_modules(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(root / "examples" / "own_modules.py"))
    shown = capsys.readouterr().out
    assert "predicted" in shown
    assert float(shown.split("test accuracy")[1].split(",")[0]) > 0.6
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"data-Dropped-seed0", "data-joint-seed0"}


def test_own_recipe_asks_before_it_runs_code_and_then_uses_every_class(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root / "examples")
    out = str(tmp_path / "run")
    words = ["train", "own_recipe.yaml", "--strategy", "own_classes.py:Distilled", "--training.epochs", "2"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--out", out])
    assert stop.value.code == 2
    assert "own_classes.py:Patches" in capsys.readouterr().err
    cli.main([*words, "--out", out, "--allow-code"])
    run = load_run(out, trust_code=True)
    assert run.model.dims == {"picture": 48, "sums": 32}
    assert run.model.fusion.width == 24
    assert run.result["options"] == {"weight": 0.5}
    assert run.metrics["test"]["accuracy"] > 0.5


def test_a_run_answers_over_http(root, tmp_path, monkeypatch):
    pytest.importorskip("fastapi", reason="needs fastapi")
    pytest.importorskip("httpx", reason="needs httpx")
    from fastapi.testclient import TestClient

    cli.main(["train", "digits", "--strategy", "joint", "--training.epochs", "1", "--out", str(tmp_path / "run")])
    monkeypatch.setenv("MODALIGN_RUN", str(tmp_path / "run"))
    client = TestClient(runpy.run_path(str(root / "examples" / "serve.py"))["app"])
    data = load_run(tmp_path / "run").data
    batch = data.test.__getitems__([0, 1])
    whole = {name: x[0].tolist() for name, x in batch.inputs.items()}
    found = client.post("/predict", json={"samples": [whole, {"left": batch.inputs["left"][1].tolist()}]}).json()
    assert [one["right_present"] for one in found] == [True, False]
    assert sum(found[0][f"p_{digit}"] for digit in range(10)) == pytest.approx(1, abs=1e-5)
    assert client.post("/predict", json={"samples": [{"left": [[[1.0]]]}]}).status_code == 422
