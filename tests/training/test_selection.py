"""Which weights are scored: the last, the best on validation, or an average; resumed bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from modalign.training.build import load_with_data
from modalign.training.run import RunFolder, RunSpec
from modalign.training.train import train_spec
from modalign.training.trainer import Average, Hooks, _better


class Stop(Exception):
    """Ends a training after an epoch."""


def weights(folder, name="best"):
    return {key: value for key, value in RunFolder(folder).load(name)["strategy"].items() if value.is_floating_point()}


@pytest.fixture
def fit(small_data, small_recipe, tmp_path):
    data = small_data()

    def make(selection: str, folder: str, stop_after: int | None = None, resume: bool = False, **settings):
        recipe = small_recipe(**{"epochs": 4, "lr": 0.1, "selection": selection} | settings)

        def watch(record):
            if record["epoch"] + 1 == stop_after:
                raise Stop

        spec = RunSpec("joint", 0, replace(recipe, strategies={}), {})
        return train_spec(spec, tmp_path / folder, resume=resume, data=data, quiet=True, hooks=Hooks(on_epoch=watch))

    return make


def test_the_last_epoch_is_scored_where_it_is_asked_for(fit, tmp_path):
    result = fit("last", "last")
    assert (result["selection"], result["selected_epoch"]) == ("last", 3)
    assert result["metrics"]["test"] == result["metrics"]["test_last"]
    last, best = weights(tmp_path / "last", "last"), weights(tmp_path / "last")
    assert all(torch.equal(best[key], value) for key, value in last.items())


def test_the_test_split_is_scored_with_the_selected_epoch_not_the_last(fit, small_data, tmp_path):
    result = fit("best", "best", epochs=8, lr=0.3, schedule="constant")
    assert result["selected_epoch"] < 7
    strategy, data, _ = load_with_data(tmp_path / "best", data=small_data())
    batch = data.test.__getitems__(list(range(len(data.test))))
    with torch.no_grad():
        nll = torch.nn.functional.nll_loss(strategy.log_probability(strategy(batch)), batch.target)
    scores = result["metrics"]
    assert scores["test"]["nll"] == pytest.approx(float(nll), abs=1e-5)
    assert scores["test"]["nll"] != pytest.approx(scores["test_last"]["nll"], abs=1e-3)


@pytest.mark.parametrize(("metric", "better"), [("accuracy", 0.9), ("mae", 0.7), ("rmse", 0.7)])
def test_of_two_epochs_the_one_with_less_error_is_better(metric, better):
    assert _better({metric: better}, {metric: 0.8}, metric)
    assert not _better({metric: 0.8}, {metric: better}, metric)


def test_the_average_is_that_of_the_steps_and_training_goes_on_as_without_it(fit, tmp_path, monkeypatch):
    steps: list[torch.Tensor] = []
    original = Average.update

    def update(self):
        if not steps:
            steps.append(self.mean["model.head.weight"].clone())
        original(self)
        steps.append(self.live["model.head.weight"].clone())

    monkeypatch.setattr(Average, "update", update)
    fit("average", "average")
    fit("last", "last")
    averaged, plain = weights(tmp_path / "average", "last"), weights(tmp_path / "last", "last")
    plain.pop("temperature")  # fitted to what is scored: the average there
    assert all(torch.equal(averaged[key], value) for key, value in plain.items())
    mean, total = steps[0], len(steps) - 1
    for count, value in enumerate(steps[1:], 1):
        decay = min(max(0.0, 1 - 10 / total), count / (9 + count))
        mean = decay * mean + (1 - decay) * value
    scored = weights(tmp_path / "average")["model.head.weight"]
    assert torch.allclose(scored, mean, atol=1e-6)
    assert not torch.allclose(scored, steps[-1], atol=1e-4)


@pytest.mark.parametrize("selection", ["last", "average"])
def test_an_interrupted_run_goes_on_bit_for_bit(fit, tmp_path, selection):
    fit(selection, "whole")
    with pytest.raises(Stop):
        fit(selection, "parts", stop_after=2)
    fit(selection, "parts", resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(parts[key], value) for key, value in whole.items())


def test_patience_looks_at_validation_whatever_is_scored(fit):
    result = fit("last", "stopped", epochs=30, patience=2)
    assert result["epochs"] < 30
    assert result["selected_epoch"] == result["epochs"] - 1
