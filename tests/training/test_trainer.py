"""The loop: seeds, selection, accumulation, precision, run folders and every kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from modalign.data.info import DataInfo
from modalign.errors import Diverged, InputError
from modalign.recipes import load_recipe
from modalign.strategies import strategy_names
from modalign.training.build import build_strategy, load_with_data, method_spec
from modalign.training.optimizers import learning_rate, make_optimizers, set_learning_rate
from modalign.training.run import RunFolder
from modalign.training.train import train


def parameters(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return RunFolder(folder).load(name)["strategy"]


def test_one_seed_gives_one_run(small_data, small_recipe, tmp_path):
    results = [
        train(small_recipe(), "modalign", seed=seed, out=tmp_path / str(i), data=small_data(), quiet=True)
        for i, seed in enumerate((3, 3, 4))
    ]
    same, again, other = (parameters(tmp_path / str(i)) for i in range(3))
    assert all(torch.equal(same[k], again[k]) for k in same)
    assert not all(torch.equal(same[k], other[k]) for k in same)
    assert results[0]["metrics"] == results[1]["metrics"]


def test_every_method_starts_from_the_same_network(small_data, small_recipe):
    from modalign.training.run import RunSpec

    info = DataInfo.of(small_data())
    first, *others = (
        build_strategy(RunSpec(name, 5, small_recipe()), info).model.state_dict() for name in strategy_names()
    )
    for other in others:
        assert all(torch.equal(first[k], other[k]) for k in first)


def test_run_folder_holds_everything(small_data, small_recipe, tmp_path):
    data = small_data()
    result = train(small_recipe(), "modalign", seed=1, out=tmp_path / "run", data=data, quiet=True)
    run = RunFolder(tmp_path / "run")
    assert run.done
    assert {p.name for p in run.folder.iterdir()} == {
        "recipe.yaml", "environment.json", "data.json", "network.json", "metrics.jsonl", "checkpoints",
        "predictions_valid.npz", "predictions_test.npz", "result.json", "done", ".lock",
    }  # fmt: skip
    assert [record["epoch"] for record in run.metrics()] == [0, 1]
    assert {"critic", "task", "task_m0", "task_m1"} == set(run.metrics()[0]["train"])
    assert {"weight_joint", "weight_m0", "weight_m1", "weight_critic", "temperature"} <= run.metrics()[0]["log"].keys()
    environment = json.loads((run.folder / "environment.json").read_text())
    assert environment["fingerprint"] == data.fingerprint
    assert environment["packages"]["torch"]
    with np.load(run.folder / "predictions_test.npz") as saved:
        accuracy = (saved["scores"].argmax(1) == saved["target"]).mean()
        assert saved["unimodal"].shape == (2, len(data.test), 3)
    assert accuracy == pytest.approx(result["metrics"]["test"]["accuracy"])
    assert result["parameters"] > 0
    assert result["peak_memory_mb"] >= 0


def test_the_selected_epoch_is_the_best_on_validation_and_can_be_loaded(small_data, small_recipe, tmp_path):
    data = small_data()
    result = train(small_recipe(epochs=6, selection="best"), "joint", out=tmp_path / "run", data=data, quiet=True)
    history = [(r["valid"]["accuracy"], -r["valid"]["nll"]) for r in RunFolder(tmp_path / "run").metrics()]
    assert result["selected_epoch"] == max(range(6), key=history.__getitem__)
    strategy, _, spec = load_with_data(tmp_path / "run", data=data)
    assert spec.strategy == "joint"
    batch = data.valid.__getitems__(list(range(len(data.valid))))
    with torch.no_grad():
        predicted = strategy.log_probability(strategy(batch)).argmax(1)
    assert (predicted == batch.target).float().mean() == pytest.approx(result["metrics"]["valid"]["accuracy"])


def test_accumulated_batches_equal_one_large_batch(small_data, small_recipe, tmp_path):
    for name, settings in {"large": {"batch_size": 20}, "small": {"batch_size": 10, "accumulate": 2}}.items():
        train(small_recipe(**settings), "joint", out=tmp_path / name, data=small_data(), quiet=True)
    large, small = parameters(tmp_path / "large"), parameters(tmp_path / "small")
    # 61 samples: batches of 20, 20, 21 and of 10 x 5 + 11; the same samples in the same order.
    for key in large:
        torch.testing.assert_close(large[key], small[key], rtol=1e-4, atol=1e-5)


def test_a_method_changes_gradients_before_they_are_applied(small_data, small_recipe, tmp_path):
    """OGM-GE, which is joint training but for that."""
    for name, options in {"joint": {}, "ogm_ge": {"noise": False}}.items():
        train(small_recipe(epochs=1), name, out=tmp_path / name, data=small_data(), options=options, quiet=True)
    joint, modulated = parameters(tmp_path / "joint"), parameters(tmp_path / "ogm_ge")
    keys = [key for key in joint if key.startswith("model.encoders") and joint[key].ndim == 2]
    assert not any(torch.allclose(joint[key], modulated[key], atol=1e-4) for key in keys[:1])


def test_clipping_bounds_what_a_step_moves(small_data, small_recipe, tmp_path):
    settings = {"epochs": 1, "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0}
    for name, more in {"still": {"lr": 1e-9}, "clipped": {"clip": 1e-4}, "free": {}}.items():
        train(small_recipe(**settings | more), "joint", out=tmp_path / name, data=small_data(), quiet=True)
    still, clipped, free = (parameters(tmp_path / name)["model.head.weight"] for name in ("still", "clipped", "free"))
    assert (clipped - still).norm() < 3 * 0.05 * 1e-4 + 1e-7  # three steps with a learning rate of 0.05 at most
    assert (free - still).norm() > 1e-3


def test_half_precision_trains_like_full(small_data, small_recipe, tmp_path):
    full, *halves = (
        train(small_recipe(epochs=8, precision=p), "modalign", out=tmp_path / p, data=small_data(), quiet=True)
        for p in ("fp32", "bf16", "fp16")
    )
    for half in halves:
        assert half["metrics"]["valid"]["nll"] == pytest.approx(full["metrics"]["valid"]["nll"], abs=0.1)


def test_half_precision_with_accumulated_batches(small_data, small_recipe, tmp_path):
    """The critic is updated in every batch, the encoders after two: the loss scale must serve both."""
    settings = small_recipe(epochs=8, batch_size=10, accumulate=2, precision="fp16")
    result = train(settings, "modalign", out=tmp_path / "run", data=small_data(), quiet=True)
    assert result["metrics"]["valid"]["accuracy"] > 0.6


def test_patience_stops_early(small_data, small_recipe, tmp_path):
    found = {}
    for word in ("best", "last"):
        settings = small_recipe(epochs=60, patience=2, selection=word)
        found[word] = train(settings, "joint", out=tmp_path / word, data=small_data(), quiet=True)
        assert found[word]["epochs"] < 60
    best, last = found["best"], found["last"]
    assert best["epochs"] == best["selected_epoch"] + 3
    assert last["epochs"] == last["selected_epoch"] + 1
    said = "patience ended the training 2 epochs after the best"
    assert not any(said in text for text in best["warnings"])
    assert any(said in text for text in last["warnings"])


def test_encoder_learning_rate_of_zero_freezes(small_data, small_recipe, tmp_path):
    train(small_recipe(encoder_lr={"m0": 0.0}), "joint", out=tmp_path / "run", data=small_data(), quiet=True)
    train(small_recipe(epochs=1), "joint", out=tmp_path / "start", data=small_data(), quiet=True)
    frozen = parameters(tmp_path / "run")
    moved = parameters(tmp_path / "start")
    key = next(k for k in frozen if k.startswith("model.encoders.m0") and frozen[k].ndim == 2)
    torch.manual_seed(0)
    assert not torch.equal(frozen[key], moved[key])
    best = RunFolder(tmp_path / "run").load("best")["strategy"]
    assert torch.equal(frozen[key], best[key])


def test_the_learning_rate_rises_to_its_peak_and_each_encoder_has_its_share(small_data, small_recipe):
    spec = method_spec(small_recipe(lr=0.1, warmup=0.2, schedule="cosine", encoder_lr={"m0": 0.5}), "joint", 0)
    settings = spec.recipe.training
    rates = [learning_rate(settings, progress) for progress in (0.05, 0.2, 0.6, 1.0)]
    assert rates == pytest.approx([0.025, 0.1, 0.05, 0.0])
    strategy = build_strategy(spec, DataInfo.of(small_data()))
    optimizer = make_optimizers(strategy, settings)["main"]
    set_learning_rate(optimizer, 0.1)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rate[id(p)] for p in strategy.model.encoders["m0"].parameters()} == {0.05}
    assert {rate[id(p)] for p in strategy.model.encoders["m1"].parameters()} == {0.1}


def test_test_split_is_not_read_while_searching(small_data, small_recipe, tmp_path):
    data = small_data()

    class Sealed:
        """Its names and targets are hashed, so that a change is noticed; no sample may be read."""

        ids, target = data.test.ids, data.test.target

        def __getattr__(self, name: str) -> object:
            raise AssertionError("the test split was read")

        def __len__(self) -> int:
            return 30

    data.test = Sealed()  # type: ignore[assignment]
    result = train(small_recipe(), "joint", out=tmp_path / "run", data=data, test=False, quiet=True)
    assert set(result["metrics"]) == {"valid"}


NAN = '''
import torch
from modalign.strategies.base import Strategy

class Breaks(Strategy):
    """Its penalty is NaN from the second epoch on."""
    title = "Breaks"

    def step(self, batch, stepper):
        loss = self.task.loss(self.model(batch).logits, batch.target)
        stepper.backward(loss)
        return {"task": loss, "penalty": loss * (float("nan") if stepper.epoch == 1 else 1.0)}
'''


def test_a_loss_that_becomes_nan_stops_the_run_and_keeps_the_last_good_checkpoint(small_data, small_recipe, tmp_path):
    (tmp_path / "breaks.py").write_text(NAN)
    recipe = small_recipe(checkpoint_minutes=1e-9)
    with pytest.raises(
        Diverged, match=r"'penalty' became nan in epoch 2, step 3, on the batch of samples \d+"
    ) as error:
        train(recipe, str(tmp_path / "breaks.py"), out=tmp_path / "run", data=small_data(), quiet=True)
    assert "Lower lr, or set clip=1" in str(error.value)
    state = RunFolder(tmp_path / "run").load("last")
    assert state["state"]["step"] == 3
    assert all(torch.isfinite(v).all() for v in state["strategy"].values())
    assert not RunFolder(tmp_path / "run").done


def test_outputs_that_are_not_finite_on_validation_stop_the_run_too(small_data, small_recipe, tmp_path):
    code = NAN.replace('"penalty": loss * (float("nan") if stepper.epoch == 1 else 1.0)', "")
    code += """
    def on_epoch_end(self, stepper):
        if stepper.epoch == 1:
            self.model.head.weight.data.fill_(float("inf"))
"""
    (tmp_path / "breaks.py").write_text(code)
    recipe = small_recipe(checkpoint_minutes=1e-9)
    with pytest.raises(Diverged, match="outputs on validation are no longer finite after epoch 2"):
        train(recipe, str(tmp_path / "breaks.py"), out=tmp_path / "run", data=small_data(), quiet=True)
    assert RunFolder(tmp_path / "run").load("last")["state"]["step"] == 6


def test_bad_input_is_said_before_anything_is_written(small_data, small_recipe, tmp_path):
    data, out = small_data(), tmp_path / "run"

    def refuse(match: str, training=None, strategy="modalign", **more):
        with pytest.raises(InputError, match=match):
            train(small_recipe(**(training or {})), strategy, **({"out": out, "data": data, "quiet": True} | more))
        assert not out.exists()

    refuse("unknown strategy 'modaling'; did you mean 'modalign'", strategy="modaling")
    refuse("unknown option of strategy ModAlign 'alfa'; did you mean 'alpha'", options={"alfa": 1})
    refuse("options.alpha is 'much'; expected a number", options={"alpha": "much"})
    refuse("needs at least 2.*has 1 \\(m0\\)", data=small_data(1))
    refuse("epochs is 0", {"epochs": 0})
    refuse("lr is -1", {"lr": -1.0})
    refuse("unknown metric 'acuracy'; did you mean 'accuracy'", {"metric": "acuracy"})
    refuse("options.context is 'colum:site'; expected", options={"context": "colum:site"})
    refuse("unknown context column .* 'sit'; did you mean 'site'", options={"context": "column:sit"})
    refuse("column 'age' is not of that kind; use continuous:age", options={"context": "column:age"})
    refuse("unknown modality in training.encoder_lr 'm9'", {"encoder_lr": {"m9": 1.0}})
    refuse("training.sampler is 'balancd'; expected", {"sampler": "balancd"})
    refuse("99 CUDA.* found", {"accelerator": "cuda", "devices": 99})


def test_output_folder_in_use_is_refused(small_data, small_recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="in use; choose another out, or add resume=True"):
        train(small_recipe(), "joint", out=tmp_path / "run", data=small_data(), quiet=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        train(small_recipe(), "joint", out=tmp_path / "file", data=small_data(), quiet=True)


def test_resume_with_other_settings_is_refused(small_data, small_recipe, tmp_path):
    train(small_recipe(), "joint", out=tmp_path / "run", data=small_data(), quiet=True)
    with pytest.raises(InputError, match=r"recipe\.training\.lr: 0\.05 -> 0\.1"):
        train(small_recipe(lr=0.1), "joint", out=tmp_path / "run", data=small_data(), resume=True, quiet=True)


def test_a_finished_run_is_not_run_again(small_data, small_recipe, tmp_path):
    first = train(small_recipe(), "joint", out=tmp_path / "run", data=small_data(), quiet=True)
    stamp = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    again = train(small_recipe(), "joint", out=tmp_path / "run", data=small_data(), resume=True, quiet=True)
    assert again == first
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("strategy", "options", "epoch"),
    [
        ("joint", {}, [2]),
        ("mla", {}, [2]),
        ("reconboost", {}, [2, 1, 2, 1]),
        ("reconboost", {"pretrain": 0.0}, [1, 1, 1, 2]),
        ("reconboost", {"pretrain": 0.0, "boost_epochs": 2, "rectify_epochs": 2}, [1, 1, 2, 2]),
    ],
)
def test_updates_of_encoders_are_counted(small_data, small_recipe, tmp_path, strategy, options, epoch):
    """One for each encoder and optimizer step (the last case has a budget too short to enter one by one)."""
    recipe = small_recipe(epochs=4)
    result = train(recipe, strategy, out=tmp_path / "run", data=small_data(), options=options, quiet=True)
    counted = [record["encoder_updates"] for record in RunFolder(tmp_path / "run").metrics()]
    steps = RunFolder(tmp_path / "run").metrics()[0]["step"]
    wanted = np.cumsum([steps * n for n in (epoch * 4)[:4]]).tolist()
    assert counted == wanted
    assert result["encoder_updates"] == wanted[-1]


def test_a_method_has_training_settings_of_its_own(small_recipe):
    recipe = small_recipe()
    recipe.strategies = {"infonce": {"weight": 0.1, "training": {"sampler": "balanced", "epochs": 7}}}
    own, other = (method_spec(recipe, name, 0) for name in ("infonce", "joint"))
    assert own.options == {"weight": 0.1}
    assert (own.recipe.training.sampler, own.recipe.training.epochs) == ("balanced", 7)
    assert other.recipe.training == recipe.training
    assert own.recipe.strategies == other.recipe.strategies == {}
    assert method_spec(recipe, "joint_long", 0).recipe.training.epochs == 3 * recipe.training.epochs
    recipe.strategies["infonce"]["training"] = {"samplr": "balanced"}
    with pytest.raises(InputError, match=r"strategies: infonce: .*'samplr'; did you mean 'sampler'"):
        method_spec(recipe, "infonce", 0)


def test_only_modalign_has_a_balanced_sampler_on_food101():
    recipe = load_recipe("food101")
    samplers = {name: method_spec(recipe, name, 0).recipe.training.sampler for name in strategy_names()}
    assert {name for name, sampler in samplers.items() if sampler != "shuffle"} == {"modalign"}
