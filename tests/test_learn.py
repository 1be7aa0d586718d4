"""The estimators in scikit-learn's shape."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import modalign
from modalign.errors import InputError
from modalign.learn import MultimodalClassifier, MultimodalRegressor, MultimodalSurvival

QUICK: dict[str, Any] = {"epochs": 2, "width": 4, "random_state": 0}


def arrays(n: int = 90) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two modalities of three classes that are easily told apart."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    return {"a": rng.normal(size=(n, 3)) + 3 * np.eye(3)[y], "b": rng.normal(size=(n, 2)) + y[:, None]}, y


# Checks that ask for what does not go together with a validation part, or with networks.
NEEDS_ROWS = "a part of the rows validates: a handful of rows cannot be divided with every class in training"
EXPECTED = {
    "check_fit2d_1sample": NEEDS_ROWS,
    "check_regressors_no_decision_function": NEEDS_ROWS,
    "check_estimators_nan_inf": "NaN is a missing modality, or filled by the mean",
    "check_methods_sample_order_invariance": "sums in another order differ in the last digits",
    "check_methods_subset_invariance": "sums of other batches differ in the last digits",
}


CHECKED = (MultimodalClassifier, MultimodalRegressor)


@parametrize_with_checks(
    [
        kind("joint", epochs=12, width=8, lr=0.02, random_state=0)
        for kind in (MultimodalClassifier, MultimodalRegressor)
    ],
    expected_failed_checks=lambda estimator: EXPECTED,
)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_a_classifier_learns_and_answers_in_the_classes_it_was_given() -> None:
    x, y = arrays()
    names = np.array(["no", "perhaps", "yes"])[y]
    model = MultimodalClassifier("late_fusion", **QUICK | {"epochs": 30, "lr": 0.01}).fit(x, names)
    assert model.classes_.tolist() == ["no", "perhaps", "yes"]
    assert model.score(x, names) > 0.9
    proba = model.predict_proba(x)
    assert proba.shape == (90, 3)
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-5)
    assert (model.classes_[proba.argmax(1)] == model.predict(x)).all()
    assert model.transform(x).shape == (90, len(model.get_feature_names_out())) == (90, 8)
    assert len(model.history_) == 30


def test_a_modality_may_be_missing_in_all_or_some_rows() -> None:
    x, y = arrays()
    x["b"][::4] = np.nan
    model = MultimodalClassifier("late_fusion", **QUICK | {"epochs": 20, "lr": 0.01}).fit(x, y)
    assert model.score({"a": x["a"]}, y) > 0.8
    assert not np.isnan(model.predict_proba(x)).any()


def test_the_same_seed_gives_the_same_and_a_copy_is_unfitted() -> None:
    x, y = arrays()
    model = MultimodalClassifier("joint", **QUICK)
    first = model.fit(x, y).predict_proba(x)
    again = clone(model)
    assert not hasattr(again, "files_")
    np.testing.assert_array_equal(again.fit(x, y).predict_proba(x), first)


def test_pickles_and_folders_answer_alike(tmp_path: Path) -> None:
    x, y = arrays()
    model = MultimodalClassifier("modalign", **QUICK).fit(x, y)
    expected = model.predict_proba(x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(x), expected)
    model.save(tmp_path / "kept")
    found = MultimodalClassifier.load(tmp_path / "kept")
    np.testing.assert_array_equal(found.predict_proba(x), expected)
    assert found.predict(x).tolist() == model.predict(x).tolist()
    assert found.get_params()["epochs"] == 2
    assert modalign.load_run(tmp_path / "kept").name == "modalign"  # it is a run folder, too
    with pytest.raises(InputError, match="in use; expected a new or empty folder"):
        model.save(tmp_path / "kept")
    with pytest.raises(InputError, match="holds a MultimodalClassifier; expected a MultimodalRegressor"):
        MultimodalRegressor.load(tmp_path / "kept")


def test_a_regressor_predicts_in_the_unit_of_the_target(tmp_path: Path) -> None:
    x, _ = arrays(200)
    y = 1000 + 50 * x["a"][:, 0]
    model = MultimodalRegressor("joint", **QUICK | {"epochs": 60, "lr": 0.01}).fit(x, y)
    assert model.score(x, y) > 0.7
    model.save(tmp_path / "kept")
    np.testing.assert_array_equal(MultimodalRegressor.load(tmp_path / "kept").predict(x), model.predict(x))


def test_survival_ranks_patients_and_gives_their_curves() -> None:
    x, _ = arrays(200)
    rng = np.random.default_rng(1)
    time = rng.exponential(np.exp(-x["a"][:, 0]))
    y = np.c_[time, rng.random(200) < 0.8]
    model = MultimodalSurvival("joint", **QUICK | {"epochs": 30, "lr": 0.01}).fit(x, y)
    assert model.score(x, y) > 0.6
    curves = model.predict_survival(x, [0.1, 1.0, 10.0])
    assert curves.shape == (200, 3)
    assert (np.diff(curves, axis=1) <= 1e-6).all()


def test_cross_validation_grid_search_and_pipelines_with_groups(tmp_path: Path) -> None:
    x, y = arrays()
    matrix, groups = np.c_[x["a"], x["b"]], np.arange(90) // 3
    model = MultimodalClassifier("late_fusion", modalities={"a": slice(0, 3), "b": [3, 4]}, **QUICK)
    scores = cross_val_score(model, matrix, y, groups=groups, cv=GroupKFold(2))
    assert scores.shape == (2,)
    search = GridSearchCV(model, {"epochs": [1, 2]}, cv=2).fit(matrix, y)
    assert search.best_params_["epochs"] in (1, 2)
    search.best_estimator_.save(tmp_path / "kept")
    found = MultimodalClassifier.load(tmp_path / "kept")  # what a modality is made of goes with it
    np.testing.assert_array_equal(found.predict_proba(matrix), search.predict_proba(matrix))
    piped = make_pipeline(StandardScaler(), model).fit(matrix, y, multimodalclassifier__groups=groups)
    assert piped.predict(matrix).shape == (90,)


def test_a_data_frame_of_text_and_numbers_in_a_few_lines() -> None:
    n = np.arange(60)
    frame = pd.DataFrame({"title": np.where(n % 2, "short of breath", "slept well"), "age": 40 + n % 9, "bmi": n % 7})
    model = MultimodalClassifier("late_fusion", modalities={"note": "title", "table": ["age", "bmi"]}, **QUICK)
    model.fit(frame, n % 2)
    assert model.predict(frame[["title"]]).shape == (60,)  # without the table
    assert model.feature_names_in_.tolist() == ["title", "age", "bmi"]
    with pytest.raises(InputError, match="unknown column of modality 'none'"):
        MultimodalClassifier("late_fusion", modalities={"none": "nothing"}, **QUICK).fit(frame, n % 2)


def test_hooks_see_a_fit_and_can_end_it() -> None:
    x, y = arrays()
    epochs: list[int] = []
    steps: list[float] = []

    def end(record: dict[str, Any]) -> bool:
        epochs.append(record["epoch"])
        return len(epochs) == 3

    model = MultimodalClassifier("joint", **QUICK | {"epochs": 10})
    model.fit(x, y, on_epoch=end, on_step=lambda told: steps.append(float(told["losses"]["task"])))
    assert epochs == [0, 1, 2]
    assert len(model.history_) == 3
    assert len(steps) == 6  # two batches an epoch
    assert "on_epoch" not in model.get_params()
    pickle.dumps(clone(model).fit(x, y, on_epoch=lambda record: True))  # what is called is no part of the model
    seen: list[int] = []
    cross_val_score(model, np.c_[x["a"], x["b"]], y, cv=2, params={"on_epoch": lambda record: seen.append(1)})
    assert len(seen) == 20


def test_a_hugging_face_data_set_fits_and_predicts_as_its_data_frame_does() -> None:
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    x, y = arrays()
    table = {"note": [f"row of {'abc'[k]}" for k in y], "age": x["a"][:, 0], "labs": x["b"].tolist()}
    rows = datasets.Dataset.from_dict(table)
    model = MultimodalClassifier("joint", modalities={"text": "note", "table": ["age"], "labs": "labs"}, **QUICK)
    said = model.fit(rows, datasets.Dataset.from_dict({"y": y})["y"]).predict_proba(rows)
    np.testing.assert_array_equal(clone(model).fit(pd.DataFrame(table), y).predict_proba(pd.DataFrame(table)), said)
    items = rows.with_transform(lambda batch: batch)
    with pytest.raises(InputError, match="X is a Dataset that is read item by item; expected arrays by name, a data f"):
        model.fit(items, y)


def test_an_encoder_of_ones_own_is_trained_and_pickled(tmp_path: Path) -> None:
    x, y = arrays()
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh())
    model = MultimodalClassifier("joint", encoders={"a": net}, **QUICK).fit(x, y)
    expected = model.predict_proba(x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(x), expected)
    model.save(tmp_path / "kept")
    found = MultimodalClassifier.load(tmp_path / "kept", encoders={"a": net})
    np.testing.assert_array_equal(found.predict_proba(x), expected)
    with pytest.raises(InputError, match="code that is not of this package"):
        MultimodalClassifier.load(tmp_path / "kept")


def test_groups_are_not_divided_and_a_context_reaches_the_method() -> None:
    x, y = arrays()
    site = np.arange(90) // 45
    model = MultimodalClassifier("modalign", options={"context": "column:context"}, **QUICK)
    model.fit(x, y, groups=np.arange(90) // 6, context=site)
    assert model._model.info.group == "groups"
    assert model.predict(x).shape == (90,)


def test_the_numbers_are_those_of_the_engine(tmp_path: Path) -> None:
    """On the rows that a run learns from and validates on, with its settings, the estimator is the run."""
    x, y = arrays()
    part = np.where(np.arange(90) < 60, "train", "test")
    given = {**x, "y": y, "part": np.where(part == "test", 1, 0)}
    settings = {"epochs": 3, "width": 4, "optimizer": "adamw", "lr": 1e-3}
    run = modalign.train(
        given, "modalign", target="y", modalities=["a", "b"], split="part==1", out=tmp_path / "run", quiet=True,
        impute="mean", **settings,
    )  # fmt: skip
    model = MultimodalClassifier("modalign", **QUICK | {"epochs": 3})
    model.fit({m: z[part == "train"] for m, z in x.items()}, y[part == "train"])
    held = {m: z[part == "test"] for m, z in x.items()}
    expected = run.predict(held)[["p_0", "p_1", "p_2"]].to_numpy()
    np.testing.assert_array_equal(model.predict_proba(held).astype(expected.dtype), expected)


def test_bad_input_is_refused_in_words() -> None:
    x, y = arrays()
    model = MultimodalClassifier("joint", **QUICK)
    with pytest.raises(InputError, match="one class only"):
        model.fit(x, np.zeros(90))
    with pytest.raises(ValueError, match="Unknown label type"):
        model.fit(x, np.random.default_rng(0).normal(size=90))
    with pytest.raises(InputError, match="different numbers of rows"):
        model.fit({"a": x["a"], "b": x["b"][:5]}, y)
    with pytest.raises(InputError, match="modalities are 3; expected, for a matrix"):
        MultimodalClassifier("joint", modalities=3, **QUICK).fit(x["a"], y)
    model.fit(x, y)
    with pytest.raises(InputError, match="no modality is given; expected at least one of a, b"):
        model.predict({"c": x["a"]})
    with pytest.raises(InputError, match="samples of shape"):
        model.predict({"a": x["a"][:, :2]})
    with pytest.raises(InputError, match=r"y has shape \(90,\); expected \(N, 2\)"):
        MultimodalSurvival("joint", **QUICK).fit(x, y)
