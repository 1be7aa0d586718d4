"""Which validation samples select and which calibrate, and the temperature that every method is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modalign.data import from_arrays
from modalign.data.batch import Output
from modalign.data.info import DataInfo
from modalign.strategies.joint import Joint
from modalign.training.build import build_strategy
from modalign.training.run import RunFolder, RunSpec
from modalign.training.train import train
from modalign.training.trainer import divide_validation


def data_of(samples: int, groups: int = 0):
    """Two modalities, three uneven classes; about a sixth of the samples validate."""
    rng = np.random.default_rng(0)
    y = rng.choice(3, samples, p=[0.6, 0.3, 0.1])
    arrays = {"a": rng.normal(size=(samples, 4)) + y[:, None], "b": rng.normal(size=(samples, 3)), "y": y}
    if groups:
        arrays["who"] = np.arange(samples) % groups
    return from_arrays(arrays, ["a", "b"], "y", group="who" if groups else None)


def parts_of(data):
    return divide_validation(data, DataInfo.of(data))


def test_few_samples_select_and_calibrate_both():
    data = data_of(1_000)
    parts = parts_of(data)
    assert parts.select.tolist() == parts.calibrate.tolist() == list(range(len(data.valid)))
    assert f"for {len(data.valid)} are fewer than 600" in parts.note


def test_many_are_divided_by_class_and_always_alike():
    data = data_of(4_200)
    parts, again = parts_of(data), parts_of(data)
    assert len(data.valid) >= 600
    assert sorted([*parts.select.tolist(), *parts.calibrate.tolist()]) == list(range(len(data.valid)))
    assert len(parts.calibrate) == pytest.approx(len(data.valid) / 3, abs=2)
    shares = [data.valid.target[rows].bincount() / len(rows) for rows in (parts.select, parts.calibrate)]
    torch.testing.assert_close(*shares, rtol=0, atol=0.01)
    assert torch.equal(parts.calibrate, again.calibrate)


def test_groups_stay_whole_and_few_groups_are_not_divided():
    data = data_of(4_200, groups=120)
    parts = parts_of(data)
    select, calibrate = (set(data.valid.groups[rows.numpy()].tolist()) for rows in (parts.select, parts.calibrate))
    assert select
    assert calibrate
    assert not select & calibrate
    few = parts_of(data_of(4_200, groups=20))
    assert len(few.select) == len(few.calibrate)
    assert "fewer than 12 groups" in few.note


def test_a_method_is_calibrated_on_one_part_and_selected_on_the_other(small_recipe, tmp_path, monkeypatch):
    data, seen = data_of(4_200), []
    monkeypatch.setattr(
        Joint, "calibrate", lambda self, output, target, groups: seen.append((len(output.logits), target))
    )
    result = train(small_recipe(epochs=1), "joint", data=data, out=tmp_path / "run", quiet=True)
    parts = parts_of(data)
    assert [n for n, _ in seen] == [len(parts.calibrate)]
    assert torch.equal(seen[0][1], data.valid.target[parts.calibrate])
    with np.load(tmp_path / "run" / "predictions_valid.npz") as kept:
        right = kept["scores"].argmax(1) == kept["target"]
    assert result["metrics"]["valid"]["accuracy"] == pytest.approx(right[parts.select.numpy()].mean())
    assert right[parts.select.numpy()].mean() != right.mean()


def sharp(strategy, n: int = 500) -> tuple[Output, torch.Tensor]:
    """Logits three times as sharp as the classes drawn from them warrant."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, 3, generator=generator)
    target = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    return Output({}, {}, 3 * logits, torch.ones(n, 2, dtype=torch.bool)), target


def test_the_temperature_is_found_changes_no_decision_and_is_kept(small_recipe):
    data = data_of(200)
    strategy = build_strategy(RunSpec("joint", 0, small_recipe()), DataInfo.of(data))
    output, target = sharp(strategy)
    before = strategy.log_probability(output)
    strategy.fit_temperature(output, target)
    assert float(strategy.temperature) == pytest.approx(3.0, rel=0.2)
    after = strategy.log_probability(output)
    assert torch.equal(before.argmax(1), after.argmax(1))
    nll = [-float(said[torch.arange(500), target].mean()) for said in (before, after)]
    assert nll[1] < nll[0] - 0.2
    again = build_strategy(RunSpec("joint", 1, small_recipe()), DataInfo.of(data))
    again.load_state_dict(strategy.state_dict())
    assert torch.equal(again.log_probability(output), after)
    strategy.fit_temperature(output, torch.zeros_like(target))
    assert float(strategy.temperature) == 1.0, "a single class can tell nothing"


@pytest.mark.parametrize(("on", "strategy"), [(True, "joint"), (False, "joint"), (True, "modalign")])
def test_the_setting_decides_and_the_pool_of_modalign_needs_none(small_recipe, tmp_path, on, strategy):
    train(small_recipe(epochs=1, temperature=on), strategy, data=data_of(300), out=tmp_path / "run", quiet=True)
    temperature = RunFolder(tmp_path / "run").metrics()[0]["log"]["temperature"]
    assert (temperature != 1.0) == (on and strategy == "joint")
