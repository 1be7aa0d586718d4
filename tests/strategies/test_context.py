"""What T is for a data set, and what conditions do for the fusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modalign.data.dataset import MultimodalData
from modalign.data.info import DataInfo
from modalign.data.load import load_data
from modalign.errors import InputError
from modalign.experiments.bench import ABLATION
from modalign.experiments.predict import predict
from modalign.information.contexts import ContextSource, product_cells
from modalign.models.fusion import ConcatFusion, ContextFusion
from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings
from modalign.strategies import Strategy
from modalign.strategies.modalign import ModAlign, ModAlignOptions, context_source
from modalign.training.build import build_strategy
from modalign.training.run import RunFolder, RunSpec
from modalign.training.train import train_spec

N = 96


def grouped(speakers: int = 6, **more: Any) -> MultimodalData:
    """Samples of two classes by some speakers, none of whom is in two splits."""
    rng = np.random.default_rng(0)
    split = np.array(["train", "train", "train", "train", "valid", "test"])[np.arange(N) % 6]
    arrays = {"a": rng.normal(size=(N, 3)), "b": rng.normal(size=(N, 3)), "y": np.arange(N) // 6 % 2, "split": split}
    arrays["speaker"] = np.array([f"s{i % speakers}" for i in range(N)])
    return load_data(arrays | more, target="y", modalities=["a", "b"], group="speaker")


def build(info: DataInfo, **options: Any) -> Strategy:
    recipe = Recipe(model=ModelSettings(width=4))
    return build_strategy(RunSpec("modalign", 0, recipe, options), info)


def test_the_group_is_the_context_where_enough_samples_share_it() -> None:
    info = DataInfo.of(grouped())
    assert [context_source(word, info, 8) for word in ("auto", "group", "label*group", "label")] == [
        "column:speaker", "column:speaker", "label*column:speaker", "label"
    ]  # fmt: skip
    assert context_source("auto", info, 17) == "label"  # 16 training samples of each speaker
    assert context_source("auto", DataInfo.of(load_data("digits")), 8) == "label"
    with pytest.raises(InputError, match=r"context 'group': data set 'digits' names no group.*expected data.group"):
        build(DataInfo.of(load_data("digits")), context="group")


def test_small_cells_of_a_product_fall_back_to_the_first_context() -> None:
    cells = product_cells(torch.tensor([[9, 1, 8], [0, 2, 8]]), minimum=8)
    assert cells.tolist() == [[2, 0, 3], [1, 1, 4]]
    source = ContextSource("label*column:who", cells=cells)
    columns = {"who": torch.tensor([0, 1, 1, 2])}
    assert source(torch.tensor([0, 0, 1, 1]), columns).tolist() == [2, 0, 1, 4]
    first = ContextSource("column:who*label", cells=cells.T.contiguous())
    assert first(torch.tensor([0, 0, 1, 1]), columns).tolist() == [2, 0, 1, 4]
    for wrong in ("label*label", "label*column:a*column:b", "label*none"):
        with pytest.raises(InputError, match="no product of the label and one column"):
            ContextSource(wrong)


@pytest.mark.parametrize(("context", "contexts"), [("label*group", 2 + 8), ("group*label", 6 + 8), ("group", 6)])
def test_every_training_sample_has_a_context_that_the_critics_know(context: str, contexts: int) -> None:
    data = grouped()
    strategy = build(DataInfo.of(data), context=context)
    assert isinstance(strategy, ModAlign)
    assert strategy.alignment is not None
    assert strategy.alignment.contexts == contexts
    batch = data.train.__getitems__(list(range(len(data.train))))
    codes = strategy.context(target=batch.target, columns=batch.columns)
    assert codes is not None
    assert codes.bincount().max() <= 16
    assert int(codes.max()) < contexts


def test_contexts_that_tell_nothing_are_refused_and_few_samples_are_not() -> None:
    one = {"site": np.array(["north"] * N)}
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(N, 3)), "b": rng.normal(size=(N, 3)), "y": np.arange(N) % 2} | one
    data = load_data(arrays, target="y", modalities=["a", "b"], columns=["site"])
    with pytest.raises(InputError, match=r"context 'column:site': every training sample has the value 'north'"):
        build(DataInfo.of(data), context="column:site")
    with pytest.raises(InputError, match="in 1 groups"):  # nor can a split divide it
        load_data(arrays, target="y", modalities=["a", "b"], group="site")


@pytest.mark.parametrize("context", ["label", "group", "label*group"])
def test_a_class_of_one_sample_and_speakers_never_seen_in_training(context: str, tmp_path: Path) -> None:
    target = np.arange(N) // 6 % 2
    target[0] = 2  # once, in training; the speakers of validation and test are new
    recipe = Recipe(DataSettings("x"), ModelSettings(width=4), TrainingSettings(epochs=1, batch_size=16))
    spec = RunSpec("modalign", 0, recipe, {"context": context})
    train_spec(spec, tmp_path / "run", data=grouped(y=target), quiet=True)
    assert np.isfinite(RunFolder(tmp_path / "run").result()["metrics"]["test"]["nll"])


def noisy(permuted: bool) -> tuple[dict[str, np.ndarray], MultimodalData]:
    """The audio names the class, or as clearly a wrong one; only its quality tells which. The video is weak.

    Args:
        permuted: whether the quality is that of other samples, which leaves everything else as it is.
    """
    rng, n, classes = np.random.default_rng(0), 2000, 4
    a, v = np.random.default_rng(9).normal(size=(2, classes, 8))
    y, good = rng.integers(classes, size=n), rng.random(n) < 0.5
    heard = np.where(good, y, rng.integers(classes, size=n))
    arrays = {"audio": 2 * a[heard] + rng.normal(size=(n, 8)), "video": 0.7 * v[y] + rng.normal(size=(n, 8)), "y": y}
    arrays["quality"] = np.where(rng.permutation(good) if permuted else good, "clear", "noisy")
    return arrays, load_data(arrays, target="y", modalities=["audio", "video"], conditions={"audio": ["quality"]})


def test_a_condition_tells_which_modality_to_trust(tmp_path: Path) -> None:
    training = TrainingSettings(epochs=8, batch_size=128, optimizer="adamw", lr=1e-2)
    quick = {"objective": "none", "readout_critic": False}  # neither has a part in this
    found = {}
    for name, permuted, fusion in (("told", False, "auto"), ("permuted", True, "auto"), ("untold", False, "concat")):
        arrays, data = noisy(permuted)
        recipe = Recipe(DataSettings("noisy"), ModelSettings(width=16, fusion=fusion), training)
        train_spec(RunSpec("modalign", 0, recipe, quick), tmp_path / name, data=data, quiet=True)
        found[name] = RunFolder(tmp_path / name).result()["metrics"]["test"]["accuracy"]
    assert found["told"] > max(found["permuted"], found["untold"]) + 0.03, found
    # At prediction the condition has to be given, and turns the answer.
    new = {key: values[:200] for key, values in arrays.items() if key != "y"}
    clear, lost = (predict(tmp_path / "told", new | {"quality": np.array([said] * 200)}) for said in ("clear", "noisy"))
    assert (clear["predicted"] != lost["predicted"]).mean() > 0.1
    with pytest.raises(InputError, match="condition 'quality' of 'audio' is not given"):
        predict(tmp_path / "told", {key: new[key] for key in ("audio", "video")})


def test_conditions_call_for_the_context_fusion_and_go_with_the_prior() -> None:
    info, plain = DataInfo.of(noisy(False)[1]), DataInfo.of(grouped())
    assert isinstance(build(info).model.fusion, ContextFusion)
    assert isinstance(build(plain).model.fusion, ConcatFusion)
    rows = {row.name: row.options for row in ABLATION}
    assert isinstance(build(info, **rows["no_prior"]).model.fusion, ConcatFusion)
    assert isinstance(build(info, **rows["no_heads"]).model.fusion, ConcatFusion)
    joint = build_strategy(RunSpec("joint", 0, Recipe()), info)
    assert isinstance(joint.model.fusion, ConcatFusion)
    with_critic, without = build(plain), build(plain, **rows["no_readout_critic"])
    assert isinstance(with_critic, ModAlign)
    assert isinstance(without, ModAlign)
    assert (len(with_critic.weights), len(without.weights)) == (4, 3)
    assert ModAlignOptions().readout_critic
