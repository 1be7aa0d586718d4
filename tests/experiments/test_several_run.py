"""Runs with several labels and several numbers, from training to prediction, evaluation and the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

import modalign
from modalign.errors import InputError
from modalign.experiments.evaluate import evaluate_run
from modalign.reporting.diagnosis import evaluation_figures, evaluation_tables

TRAINING = {"epochs": 8, "width": 8, "batch_size": 32, "optimizer": "adamw", "lr": 0.01}


def made(count: int = 240, seed: int = 0) -> dict[str, np.ndarray]:
    """Two modalities; labels and numbers that one or both of them tell, an eighth of them not known."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, count, 3)).astype("float32")
    numbers = np.stack([100 * (a[:, 0] + b[:, 0]), 5 + 0.01 * b[:, 1]], 1)
    tags = np.stack([a[:, 0] + b[:, 0] > 0.5, a[:, 1] > 0, b[:, 1] > 0.5], 1).astype(float)
    unknown = rng.random(tags.shape) < 0.125
    unknown[:, 0] = False
    tags[unknown] = np.nan
    return {"a": a, "b": b, "cough": tags[:, 0], "fever": tags[:, 1], "rash": tags[:, 2],
            "height": numbers[:, 0], "load": np.where(unknown[:, 1], np.nan, numbers[:, 1])}  # fmt: skip


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> modalign.Run:
    """ModAlign, for which the context is the set of labels."""
    data = modalign.load_data(made(), label="cough,fever,rash", task="multilabel", modalities=["a", "b"])
    return modalign.train(data, "modalign", out=tmp_path_factory.mktemp("labels") / "run", quiet=True, **TRAINING)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> modalign.Run:
    data = modalign.load_data(made(), label="height,load", task="regression", modalities=["a", "b"])
    return modalign.train(data, "late_fusion", out=tmp_path_factory.mktemp("numbers") / "run", quiet=True, **TRAINING)


def test_labels_are_predicted_with_a_probability_each(labels: modalign.Run) -> None:
    new = made(60, 1)
    found = labels.predict({name: new[name] for name in ("a", "b")})
    said = found[["p_cough", "p_fever", "p_rash"]].to_numpy()
    assert ((said > 0) & (said < 1)).all()
    names = np.array(["cough", "fever", "rash"])
    assert found["predicted"].tolist() == ["|".join(names[row]) for row in said > 0.5]
    known = ~np.isnan(new["fever"])
    assert average_precision_score(new["fever"][known], said[known, 1]) > 0.7
    alone = labels.predict({"a": new["a"]})
    assert not alone["b_present"].any()
    assert np.isfinite(alone["p_cough"]).all()


def test_labels_are_evaluated_one_by_one_and_their_probabilities_drawn(labels: modalign.Run) -> None:
    found = evaluate_run(labels.folder, data=labels.data).result
    assert found["metrics"].keys() == {"map", "micro_f1", "macro_f1", "nll", "brier", "ece"}
    assert found["metrics"]["map"]["mean"] == pytest.approx(labels.metrics["test"]["map"], abs=1e-6)
    assert [row["name"] for row in found["classes"]] == ["cough", "fever", "rash"]
    assert found["metrics"]["map"]["mean"] == pytest.approx(np.mean([row["ap"] for row in found["classes"]]))
    assert found["information"] is None
    (table,) = [table for table in evaluation_tables(found) if table.name == "classes"]
    assert table.head == ["Label", "Precision", "Recall", "F1", "Average precision", "AUC", "Samples"]
    assert "reliability" in [drawn.name for drawn in evaluation_figures(found)]
    page = modalign.report(labels.folder, Path(labels.folder) / "page.html").read_text()
    assert "Can the probabilities of labels be trusted?" in page


def test_numbers_are_predicted_in_their_own_units_and_drawn(numbers: modalign.Run) -> None:
    new = made(60, 1)
    found = numbers.predict({name: new[name] for name in ("a", "b")})
    assert np.corrcoef(found["predicted_height"], new["height"])[0, 1] > 0.7
    assert found["predicted_height"].std() > 20
    assert abs(found["predicted_load"].mean() - 5) < 0.1
    assert {"a_predicted_height", "b_predicted_load"} <= {*found}
    result = evaluate_run(numbers.folder, data=numbers.data, information=False).result
    assert result["metrics"]["r2"]["mean"] == pytest.approx(numbers.metrics["test"]["r2"], abs=1e-6)
    names = [drawn.name for drawn in evaluation_figures(result)]
    assert names[:2] == ["values_height", "values_load"]
    kept = result["values"][1]
    assert len(kept["target"]) == len(numbers.data.test)
    assert None in kept["target"]


def test_one_label_may_be_the_context_and_others_are_refused(labels: modalign.Run, tmp_path: Path) -> None:
    options = {"context": "label:fever"}
    run = modalign.train(
        labels.data, "modalign", out=tmp_path / "run", options=options, quiet=True, **TRAINING | {"epochs": 1}
    )
    strategy = run.strategy
    assert strategy.chosen == 1
    assert strategy.alignment.contexts == 3
    with pytest.raises(InputError, match=r"unknown label in the context: 'fevr'; did you mean 'fever'"):
        modalign.train(labels.data, "modalign", out=tmp_path / "no", options={"context": "label:fevr"}, **TRAINING)
    single = modalign.load_data(made(), label="height", task="regression", modalities=["a", "b"])
    with pytest.raises(InputError, match=r"'label:fever' needs several labels; data set .* is regression"):
        modalign.train(single, "modalign", out=tmp_path / "no", options=options, **TRAINING)


def test_the_temperature_of_labels_lowers_the_loss_where_scores_are_too_sure(labels: modalign.Run) -> None:
    strategy = modalign.load_strategy("joint")
    data = labels.data
    model = modalign.MultimodalModel.build(data.modalities, data.task.outputs)
    joint = strategy(model, modalign.DataInfo.of(data))
    truth = data.valid.target.nan_to_num(0.5)
    logits = 8 * (truth - 0.5) * torch.where(torch.arange(len(truth))[:, None] % 4 == 0, -1.0, 1.0)
    output = modalign.Output({}, {}, logits, torch.ones(len(truth), 2, dtype=torch.bool))
    joint.fit_temperature(output, data.valid.target)
    assert joint.temperature > 2
    assert data.task.loss(logits / joint.temperature, data.valid.target) < data.task.loss(logits, data.valid.target)
