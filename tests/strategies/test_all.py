"""Every strategy, existing or to come, on every small case: finite losses, moved parameters, right shapes."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch

from modalign.data.info import DataInfo
from modalign.data.tables.arrays import from_arrays
from modalign.errors import InputError
from modalign.models import MultimodalModel
from modalign.settings import ModelSettings
from modalign.strategies import Strategy, load_strategy, make_options, strategy_names


@pytest.mark.parametrize("name", strategy_names())
def test_trains_on_every_small_case(check_trains, name):
    check_trains(load_strategy(name))


@pytest.mark.parametrize("name", strategy_names())
def test_describes_itself(name):
    """The file says where the method is from and what it costs; every option is described."""
    kind = load_strategy(name)
    text = sys.modules[kind.__module__].__doc__ or ""
    assert "ost" in text, "the cost per step is not stated"
    assert len(text) > 150
    options = kind.Options.__doc__ or ""
    for option in dataclasses.fields(kind.Options):
        assert f"{option.name}:" in options
    for option, values in kind.space.items():  # what is searched has its default inside, not at an edge
        default = getattr(kind.Options(), option)
        assert default in values if isinstance(values, list) else values[0] < default < values[1]


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'reconboost'"):
        load_strategy("reconbost")
    kind = load_strategy("infonce")
    with pytest.raises(InputError, match="did you mean 'temperature'"):
        make_options(kind, {"temprature": 0.1})


def test_a_method_of_the_users_own_is_one_file(tmp_path, root):
    kind = load_strategy(str(root / "examples" / "own_strategy.py"))
    assert kind.title == "Noisy joint"
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(InputError, match="0 subclasses of Strategy; expected exactly one"):
        load_strategy(str(tmp_path / "empty.py"))
    with pytest.raises(InputError, match="does not exist"):
        load_strategy("nowhere.py")


def test_a_method_written_for_version_0_1_still_works_and_is_told(make_data, make_model, make_stepper):
    with pytest.warns(DeprecationWarning, match=r"Old\.readout is predict since version 0\.2") as told:

        class Old(Strategy):
            title = "Old"

            def __init__(self, model, data, options):
                super().__init__(model, data, options)
                self.samples = data.class_counts

            def step(self, batch, stepper):
                features = self.model.encode(batch)
                live = stepper.gather_live(features["a"])
                loss = self.task.loss(self.model.fuse(features, batch.present), batch.target)
                loss = loss + 0 * stepper.world_scale * live.sum() + 0 * stepper.total(live).sum()
                stepper.backward(loss)
                return {"task": loss}

            def readout(self, output):
                return output.logits * 2

            def facts(self):
                return {"old": 1.0}

    assert len(told) == 2
    data = make_data()
    strategy = Old(make_model(data), DataInfo.of(data), None)
    with pytest.warns(DeprecationWarning, match=r"stepper\.gather_live is all_gather\(grad=True\)"):
        assert make_stepper(strategy, data.train.batches(10)).fit()
    output = strategy(data.test.__getitems__([0, 1]))
    assert torch.equal(strategy.predict(output), output.logits * 2)
    assert strategy.metrics() == {"old": 1.0}
    with pytest.raises(AttributeError, match=r"'world'; use all_reduce\(x, 'mean'\)"):
        _ = make_stepper(strategy, data.train.batches(10)).world
    with pytest.raises(AttributeError, match="'train': a strategy is given a description without samples"):
        _ = strategy.info.train


@pytest.mark.parametrize("name", strategy_names())
@pytest.mark.parametrize("task", ["classification", "multilabel", "regression", "several", "survival"])
def test_answers_vary_with_the_samples_and_learn_on_every_task_it_is_defined_for(name, task, make_stepper):
    kind, several = load_strategy(name), task in ("multilabel", "several")
    task = "regression" if task == "several" else task
    if task not in kind.tasks:
        pytest.skip(f"{name} is not defined for {task}")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(160, 3)), rng.normal(size=(160, 2))
    risk = a[:, 0] + b[:, 0]
    arrays = {"a": a, "b": b, "y": risk, "time": np.exp(-risk), "event": np.ones(160, int)}
    if task == "classification":
        arrays["y"] = (risk > 0).astype(int)
    if several:  # one of them is not known of every fifth sample
        arrays["v"] = np.where(
            np.arange(160) % 5, (a[:, 1] > 0) if task == "multilabel" else 100 + 20 * a[:, 1], np.nan
        )
        told = a[:, 0] + 0.3 * b[:, 0]  # so that one modality alone follows both, too
        arrays["y"] = (told > 0).astype(float) if task == "multilabel" else told
    label = "time,event" if task == "survival" else "y,v" if several else "y"
    data = from_arrays(arrays, ["a", "b"], label, task=task)
    torch.manual_seed(0)
    model = MultimodalModel.build(data.modalities, data.task.outputs, ModelSettings(width=16))
    strategy = kind(model, DataInfo.of(data))
    make_stepper(strategy, data.train, data.valid, epochs=40, lr=0.02).fit()
    strategy.eval()
    whole = range(len(data.valid))
    output = strategy(data.valid.__getitems__(list(whole)))
    strategy.calibrate(output, data.valid.target)
    with torch.no_grad():
        scores = data.task.log_probability(strategy.predict(output)).numpy()
    target = data.valid.target.numpy()
    if not several:
        scores = scores[:, 1:] - scores[:, :1] if task == "classification" else scores
        target = -np.log(target[:, :1]) if task == "survival" else target[:, None]
    for said, wanted in zip(scores.T, target.T, strict=True):
        known = ~np.isnan(wanted)
        assert said.std() > 0.1
        assert np.corrcoef(said[known], wanted[known])[0, 1] > 0.4, "the answers do not follow the target"
