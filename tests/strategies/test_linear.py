"""The elastic net: its solution against scikit-learn and by its optimality conditions, its path, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modalign.data.batch import Modality
from modalign.data.dataset import MultimodalData
from modalign.data.info import DataInfo
from modalign.data.tables.arrays import from_arrays
from modalign.data.task import Task
from modalign.errors import Undefined
from modalign.models import MultimodalModel
from modalign.settings import ModelSettings
from modalign.strategies.base import Stepper
from modalign.strategies.linear import Linear, LinearOptions


def made(task: str, count: int = 240, seed: int = 0) -> MultimodalData:
    """Two modalities of which two columns tell of the target."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(2, 3, size=(count, 8)), rng.normal(size=(count, 4))
    signal = (a[:, 0] - 2) / 3 - b[:, 1]
    arrays = {"a": a, "b": b, "y": 5 + signal + 0.3 * rng.normal(size=count)}
    if task == "classification":
        arrays["y"] = np.digitize(signal + 0.5 * rng.normal(size=count), [-0.5, 0.8])
    if task == "survival":
        death, lost = rng.exponential(np.exp(-signal)), rng.exponential(2.0, count)
        arrays |= {"time": np.minimum(death, lost).round(1), "event": (death <= lost).astype(int)}
    return from_arrays(arrays, ["a", "b"], "time,event" if task == "survival" else "y", task=task)


def fitted(data: MultimodalData, options: LinearOptions | None = None, epochs: int = 4) -> Linear:
    """The method after a path of some penalties."""
    torch.manual_seed(0)
    model = MultimodalModel.build(data.modalities, data.task.outputs, ModelSettings(width=4))
    strategy = Linear(model, DataInfo.of(data), options)
    Stepper(strategy, data.train, data.valid, epochs=epochs).fit()
    return strategy


def columns(data: MultimodalData) -> tuple[np.ndarray, np.ndarray]:
    """Standardized training inputs side by side, and the target."""
    batch = data.train.__getitems__(list(range(len(data.train))))
    x = torch.cat([*batch.inputs.values()], 1).double().numpy()
    return (x - x.mean(0)) / x.std(0), batch.target.numpy()


def test_regression_is_the_elastic_net_of_scikit_learn():
    from sklearn.linear_model import ElasticNet

    data = made("regression")
    found, (x, y) = fitted(data, LinearOptions(0.7)), columns(data)
    # Its loss is half the mean squared error.
    known = ElasticNet(alpha=float(found.penalty) / 2, l1_ratio=0.7, tol=1e-8).fit(x, y)
    assert found.weight[:, 0].detach().numpy() == pytest.approx(known.coef_, abs=2e-3)
    assert float(found.bias.detach()) == pytest.approx(known.intercept_, abs=2e-3)


def test_classification_is_the_penalized_logistic_regression_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    data = made("classification")
    found, (x, y) = fitted(data, LinearOptions(0.5, 0.1)), columns(data)
    strength = 1 / (float(found.penalty) * len(y))
    known = LogisticRegression(solver="saga", C=strength, l1_ratio=0.5, tol=1e-6, max_iter=5000).fit(x, y)
    weight = found.weight.detach().numpy().T
    assert weight == pytest.approx(known.coef_, abs=5e-3)
    difference = found.bias.detach().numpy() - known.intercept_
    assert difference == pytest.approx(difference.mean(), abs=5e-3)  # a constant on all classes changes nothing


@pytest.mark.parametrize("task", ["classification", "regression", "survival"])
def test_no_column_can_be_changed_to_advantage(task):
    """The conditions of Karush, Kuhn and Tucker: slopes match the penalty where a column is in."""
    data = made(task)
    found, (x, y) = fitted(data, LinearOptions(0.5, 0.05)), columns(data)
    weight = found.weight.detach().double().requires_grad_()
    loss = data.task.loss(torch.from_numpy(x) @ weight + found.bias.detach(), torch.from_numpy(y))
    (slope,) = torch.autograd.grad(loss, weight)
    penalty, inside = float(found.penalty) / 2, weight != 0
    weight = weight.detach()
    assert inside.any()
    assert not inside.all()
    assert (slope + penalty * weight)[inside].numpy() == pytest.approx(
        -penalty * weight[inside].sign(), abs=0.02 * penalty
    )
    assert float(slope[~inside].abs().max()) <= 1.02 * penalty


def test_the_path_begins_with_hardly_a_column_and_ends_at_the_smallest_penalty():
    data = made("survival")
    model = MultimodalModel.build(data.modalities, 1, ModelSettings(width=4))
    strategy = Linear(model, DataInfo.of(data), LinearOptions(smallest=0.02))
    stepper = Stepper(strategy, data.train, data.valid, epochs=10)
    path = []
    for _ in range(10):
        stepper.fit(1)
        path.append(strategy.metrics())
    penalties = [row["penalty"] for row in path]
    assert np.diff(np.log(penalties)) == pytest.approx(np.log(0.02) / 10, abs=1e-4)
    assert penalties[-1] == pytest.approx(0.02 * float(strategy.start), rel=1e-5)
    assert 1 <= path[0]["columns"] <= 2 < path[-1]["columns"]
    x, y = columns(data)
    none = data.task.loss(torch.zeros(len(y), 1, dtype=torch.double, requires_grad=True), torch.from_numpy(y))
    weight = torch.zeros(x.shape[1], 1, dtype=torch.double, requires_grad=True)
    (slope,) = torch.autograd.grad(data.task.loss(torch.from_numpy(x) @ weight, torch.from_numpy(y)), weight)
    assert torch.isfinite(none)
    assert float(strategy.start) == pytest.approx(2 * float(slope.abs().max()), rel=1e-3)


def test_an_absent_modality_adds_nothing_and_values_beyond_training_count_as_its_end():
    data = made("regression")
    strategy = fitted(data).eval()
    batch = data.test.__getitems__(list(range(5)))
    whole, alone = strategy(batch), strategy(batch.mask(["a"]))
    assert torch.allclose(alone.logits, whole.unimodal["a"])
    assert torch.allclose(whole.logits, whole.features["a"] + whole.features["b"] + strategy.bias)
    assert torch.equal(strategy(batch.mask([])).logits, strategy.bias.expand(5, 1))
    train = data.train.__getitems__(list(range(len(data.train)))).inputs["a"]
    batch.inputs["a"][:] = 1e30
    far = strategy(batch).features["a"]
    batch.inputs["a"][:] = train.amax(0)
    assert torch.allclose(far, strategy(batch).features["a"], atol=1e-5)


def test_text_and_inputs_beyond_memory_are_refused_with_what_to_do():
    info = DataInfo("toy", Task("regression"), {"t": Modality("t", "text", (5,), vocabulary=9)}, 10)
    model = MultimodalModel.build(info.modalities, 1, ModelSettings(width=4))
    with pytest.raises(Undefined, match=r"'t' of data set 'toy' is text: give it a frozen pretrained encoder"):
        Linear(model, info)
    info = DataInfo("toy", Task("regression"), {"t": Modality("t", "vector", (300,))}, 10**6)
    model = MultimodalModel.build(info.modalities, 1, ModelSettings(width=4))
    with pytest.raises(Undefined, match=r"300 numbers in each of 1,000,000 samples; expected at most 268,435,456"):
        Linear(model, info)


def test_a_frozen_network_is_kept_and_the_map_is_on_what_it_gives():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    pictures = rng.normal(size=(60, 1, 8, 8)) + y[:, None, None, None]
    data = from_arrays({"p": pictures, "y": y}, ["p"], "y", kinds={"p": "image"})
    network = {"name": "resnet18", "config": {"embedding_size": 8, "hidden_sizes": [8], "depths": [1]}, "frozen": True}
    model = MultimodalModel.build(data.modalities, 2, ModelSettings(encoders={"p": network}))
    strategy = Linear(model, DataInfo.of(data))
    assert strategy.weight.shape == (8, 2)
    Stepper(strategy, data.train, data.valid, epochs=2).fit()
    assert strategy.weight.any()
