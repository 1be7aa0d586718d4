"""The sweep of Figure 1(a): which models are trained, what is measured of each, and that it can be completed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from modalign.cli import main
from modalign.errors import Diverged
from modalign.evaluation.pairs import Complete
from modalign.experiments import bench, tradeoff
from modalign.experiments.tradeoff import run_tradeoff
from modalign.models.encoders import MLPEncoder
from modalign.reporting import style
from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings
from modalign.training.run import RunSpec


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    views = {m: (rng.normal(size=(2, 4))[y] + rng.normal(size=(120, 4))).astype(np.float32) for m in ("a", "b")}
    split = np.where(np.arange(120) < 60, "train", np.where(np.arange(120) < 85, "valid", "test"))
    np.savez(tmp_path / "two.npz", y=y, split=split, **views)
    return tmp_path / "two.npz"


@pytest.mark.slow
def test_a_sweep_from_the_command_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = []

    def diagnosis(given: Complete) -> tuple[float, float]:
        measured.append((len(given.y), given.classes, len(given.reference.target)))
        return 0.5, 0.25

    monkeypatch.setattr(tradeoff, "fusibility_and_complementarity", diagnosis)
    monkeypatch.setattr(style, "KINDS", ("svg",))  # for speed
    out = tmp_path / "sweep"
    command = [
        "tradeoff", str(data), "--out", str(out), "--alphas", "0,2", "--seeds", "1", "--jobs", "1",
        "--modalities", "a,b", "--label", "y", "--training.epochs", "1", "--training.accelerator", "cpu",
        "--options.rho", "0.2",
    ]  # fmt: skip
    main([*command, "--model.width", "8"])
    content = json.loads((out / "tradeoff.json").read_text())
    found = {(p["alpha"], p["margin"]): p for p in content["points"]}
    assert set(found) == {(0, True), (0, False), (2, True), (2, False)}
    # without alignment the margin has nothing to hold back: one model stands for both
    assert found[0, True]["accuracy"] == found[0, False]["accuracy"]
    assert measured == [(35, 2, 25)] * 3
    runs = {path.parent.parent.name: path.parent for path in out.glob("runs/two/*/seed0/done")}
    assert set(runs) == {"alpha0-gradient", "alpha2-gradient", "alpha2-none"}
    for name, key in (("alpha2-gradient", (2, True)), ("alpha2-none", (2, False))):
        result = json.loads((runs[name] / "result.json").read_text())
        assert found[key]["accuracy"] == result["metrics"]["test_last"]["accuracy"]
        options = yaml.safe_load((runs[name] / "recipe.yaml").read_text())["options"]
        assert (options["alpha"], options["margin"]) == (2, "gradient" if key[1] else "none")
        assert options["rho"] == 0.2
    assert {p.name for p in out.glob("*.svg")} == {"tradeoff.svg", "tradeoff_plane.svg"}
    main([*command, "--model.width", "8"])
    assert len(measured) == 3, "measured again what was kept"
    main([*command, "--model.width", "8", "--method", "ksg"])
    assert len(measured) == 6, "kept what another estimator had measured"
    shown = capsys.readouterr().out
    assert "measuring: 3 runs\n" in shown
    assert "alpha2-none seed 0: done" in shown
    assert "measuring: 0 runs, 3 done before" in shown


def test_a_strength_that_destroys_the_model_is_part_of_the_answer(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that diverged is named, one whose features collapsed has a point, and the sweep is drawn."""
    spec = bench.train_spec

    def diverging(given: RunSpec, *arguments: Any, **more: Any) -> Any:
        if given.options["alpha"] == 9:
            Path(arguments[0]).mkdir(parents=True, exist_ok=True)
            raise Diverged("'pull' became nan in epoch 1")
        return spec(given, *arguments, **more)

    monkeypatch.setattr(bench, "train_spec", diverging)
    encode = MLPEncoder.forward
    monkeypatch.setattr(MLPEncoder, "forward", lambda self, x: 0 * encode(self, x))
    recipe = Recipe(
        data=DataSettings(name="two", path=str(data), modalities=["a", "b"], label="y"),
        model=ModelSettings(width=4),
        training=TrainingSettings(epochs=1, accelerator="cpu"),
    )
    path = run_tradeoff(recipe, tmp_path / "sweep", alphas=(0, 9), seeds=1, jobs=1, method="ksg", quiet=True)
    content = json.loads(path.read_text())
    assert [(p["alpha"], p["fusibility"]) for p in content["points"]] == [(0, 0.0)] * 2
    assert len(content["failed"]) == 2
    assert all("'pull' became nan" in text for text in content["failed"])


@pytest.mark.parametrize(
    ("alphas", "message"), [("1", "two or more"), ("0,-1", "0 or more"), ("0,high", "no list of numbers")]
)
def test_bad_strengths(
    data: Path, tmp_path: Path, alphas: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["tradeoff", str(data), "--label", "y", "--alphas", alphas, "--out", str(tmp_path / "sweep")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_what_is_swept_is_no_option(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["tradeoff", str(data), "--options.margin", "log_odds", "--out", str(tmp_path / "sweep")])
    assert stopped.value.code == 2
    assert "--options.margin is what the sweep varies" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()
