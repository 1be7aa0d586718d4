"""Train one strategy with one seed into a run folder: check everything, build once, launch, fit, write the result."""

from __future__ import annotations

import functools
import hashlib
import json
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalign.data.batch import Output
from modalign.data.dataset import MultimodalData, Split
from modalign.data.info import DataInfo
from modalign.data.load import describe_inputs, file_states, load_data
from modalign.evaluation.survival import SurvivalModel, survival_scores
from modalign.files import end_with_parent, locked, write_whole
from modalign.protocols import describe_protocol
from modalign.settings import Recipe
from modalign.strategies import Strategy
from modalign.training.build import build_strategy, check_run, check_same_data, method_spec, restore
from modalign.training.distributed import Devices
from modalign.training.feature_cache import frozen_encoders, frozen_notes, with_cached_features
from modalign.training.memory import peak_mb, start_peak
from modalign.training.own_code import Objects, resolve, save_objects
from modalign.training.progress import Display
from modalign.training.run import RunFolder, RunSpec
from modalign.training.scales import describe_scales
from modalign.training.trackers import check_logger, tracked
from modalign.training.trainer import Hooks, Trainer, divide_validation


def train(
    recipe: Recipe,
    strategy: str = "modalign",
    *,
    out: str | Path,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    resume: bool = False,
    data: MultimodalData | None = None,
    objects: Objects | None = None,
    test: bool = True,
    quiet: bool = False,
    hooks: Hooks | None = None,
) -> dict[str, Any]:
    """Train one strategy with one seed and write its run folder.

    Everything that can be wrong with the input is found before the folder is made.

    Args:
        recipe: data, model and budget.
        strategy: name of the method (see ``modalign strategies``).
        out: the run folder; must be empty or new, unless ``resume``.
        seed: seed of initial weights, order of samples and dropout.
        options: options of the strategy, over those of the recipe.
        resume: go on with an interrupted run; a finished run is returned as it is.
        data: data in memory instead of what the recipe names.
        objects: objects of one's own in place of names.
        test: read the test split at the end (off while settings are searched).
        quiet: print nothing.
        hooks: what is told of steps, epochs and the end.

    Returns:
        What ``result.json`` holds: metrics by split, selected epoch, seconds, parameters, peak memory.

    Raises:
        InputError: settings or data that cannot be used.
        Diverged: a loss became NaN or infinite.
        Interrupted: stopped by Ctrl-C or SIGTERM; resumable.
    """
    spec = method_spec(recipe, strategy, seed, options)
    return train_spec(spec, out, resume=resume, data=data, objects=objects, test=test, quiet=quiet, hooks=hooks)


def train_spec(
    spec: RunSpec,
    out: str | Path,
    *,
    resume: bool = False,
    data: MultimodalData | None = None,
    objects: Objects | None = None,
    test: bool = True,
    quiet: bool = False,
    hooks: Hooks | None = None,
) -> dict[str, Any]:
    """Train as ``train`` does, with settings that are complete."""
    objects = objects or Objects()
    spec = objects.named(spec)
    run = RunFolder(out)
    run.check_free(spec, resume)
    held = start_peak()
    loaded = load_data(spec.recipe.data) if data is None else data
    if run.resumable:
        check_same_data(run, loaded)
    if resume and run.done:
        return run.result()
    settings = spec.recipe.training
    check_logger(settings.logger)
    devices = Devices(settings.accelerator, settings.devices, settings.precision)
    objects = resolve(spec, objects)
    strategy = build_strategy(spec, DataInfo.of(loaded), loaded.train, objects)
    check_run(spec, loaded, strategy)
    # Processes to be spawned read the data themselves; here it is at hand and not read twice.
    given = data if devices.spawns else loaded
    with locked(run.folder) if devices.first else nullcontext():
        if devices.first:
            run.check_free(spec, resume)  # another may have begun there since
            if resume and run.done:
                return run.result()
            run.clear_partial()
        what = spec, strategy, objects, given, data is not None, out, test, quiet, held, hooks
        result: dict[str, Any] = devices.launch(_train, *what)
    return result


def _train(
    devices: Devices,
    spec: RunSpec,
    strategy: Strategy,
    objects: Objects,
    data: MultimodalData | None,
    in_memory: bool,
    out: str | Path,
    test: bool,
    quiet: bool,
    held: float,
    hooks: Hooks | None = None,
) -> dict[str, Any]:
    """Train in each process; ``held`` is what ``start_peak`` found."""
    if devices.spawns:
        end_with_parent()
        held = start_peak()
    data = load_data(spec.recipe.data) if data is None else data
    run = RunFolder(out)
    cached = spec.recipe.training.cache_features and bool(frozen_encoders(strategy.model))
    if cached:
        data = replace(data, notes=[*data.notes, *frozen_notes(strategy.model, data)])
    scaled = [
        f"{m} is scaled by mean {said['normalization']['mean']} and deviation {said['normalization']['std']} of "
        f"pictures in [0, 1] ({said['normalization']['of']}), not by this data's own"
        for m, said in strategy.model.networks().items()
        if "normalization" in said
    ]
    protocol = describe_protocol(spec.recipe.data, spec.recipe.training)
    data = replace(data, notes=[*data.notes, *scaled, *protocol, divide_validation(data, strategy.info).note])
    display = Display(strategy.title, data, str(out), quiet or devices.rank > 0)
    if devices.rank == 0 and not run.resumable:
        about = {
            "data.json": {
                "info": DataInfo.of(data).to_dict(),
                "inputs": describe_inputs(data),
                "scales": {name: asdict(one) for name, one in describe_scales(strategy.model, data.train).items()},
                "in_memory": in_memory,
                "parts": data.parts,
                "files": {} if in_memory else file_states(spec.recipe.data),
            },
            "network.json": strategy.model.networks(),
        }
        # Only now, for processes that start on their own each look first whether the folder is free.
        run.create(spec, data.notes, data.fingerprint, about)
        save_objects(run.folder, objects)
    devices.barrier()
    if cached:
        if run.resumable:  # the source of pretrained weights may have changed since
            last = devices.broadcast(run.load("last") if devices.rank == 0 else None)
            restore(strategy, last, out)
        data = with_cached_features(strategy.model, data, spec.recipe.training, devices.device, display, test)
    with tracked(spec, run, devices.rank == 0, hooks.draw if hooks is not None else None) as tracker:
        trainer = Trainer(devices, strategy, data, spec, run, display, hooks, tracker)
        trainer.fit()
        result = _finish(trainer, test, held)
    display.result(result)
    return result


def _finish(trainer: Trainer, test: bool, held: float) -> dict[str, Any]:
    """Score the last and the selected epoch, write predictions and result; ``held`` is memory before the training."""
    test = test and len(trainer.data.test) > 0
    data, spec, state, strategy, run = trainer.data, trainer.spec, trainer.state, trainer.strategy, trainer.run
    first = trainer.devices.rank == 0
    metrics: dict[str, dict[str, float]] = {}
    warnings: list[str] = []
    curves = None
    selection, epochs = spec.recipe.training.selection, spec.recipe.training.epochs
    if test and selection != "last":
        metrics["test_last"] = trainer.metrics(data.test, trainer.outputs(data.test)[0])
    best = trainer.devices.broadcast(run.load("best") if first else None)
    strategy.load_state_dict(best["strategy"])
    for name, split in [("valid", data.valid), ("test", data.test)][: 2 if test else 1]:
        output, target = trainer.outputs(split)
        metrics[name] = trainer.metrics(split, output, curves=curves)
        for unit in data.units if name == "test" else ():
            metrics[f"test_{unit}"] = trainer.metrics(split, output, curves=curves, by=unit)
        if first:
            run.write_predictions(name, _predictions(data, split, strategy, output, target))
        if name == "valid" and data.task.kind == "survival":
            fitted, doubts = _survival_model(data, strategy.predict(output).cpu())
            warnings += doubts
            if fitted is not None:
                known = data.train.target[data.sample_groups(data.train).first].numpy()
                curves = functools.partial(survival_scores, model=fitted, train_target=known)
            if fitted is not None and first:
                write_whole(run.folder / "survival.json", json.dumps(fitted.to_dict()))
    if text := _constant(trainer, output):
        warnings.append(text)
    if test and selection == "last":
        metrics["test_last"] = metrics["test"]
    if selection == "best" and best["epoch"] == epochs - 1 and epochs > 1:
        warnings.append("the last epoch is the best on validation: more epochs may give more")
    if selection == "last" and state.stale and state.stale == spec.recipe.training.patience:
        warnings.append(
            f"patience ended the training {state.stale} epochs after the best: selection best keeps that one"
        )
    if test and trainer.metric == "accuracy" and metrics["valid"]["accuracy"] - metrics["test"]["accuracy"] > 0.1:
        gap = 100 * (metrics["valid"]["accuracy"] - metrics["test"]["accuracy"])
        warnings.append(f"selection gap: accuracy on validation is {gap:.1f} points above test")
    seconds = trainer.seconds
    result = {
        "dataset": data.name,
        "strategy": spec.strategy,
        "variant": spec.variant or None,
        "title": spec.title or strategy.title,
        "seed": spec.seed,
        "task": data.task.kind,
        "metric": trainer.metric,
        "trains_unimodal": strategy.trains_unimodal,
        "metrics": metrics,
        "selected_epoch": best["epoch"],
        "selection": selection,
        "epochs": state.epoch,
        "encoder_updates": state.encoder_updates,
        "seconds": round(seconds, 3),
        "seconds_per_epoch": round(seconds / max(1, state.epoch), 4),
        "parameters": sum(p.numel() for p in strategy.parameters() if id(p) in trainer.stepper.trained),
        "peak_memory_mb": round(peak_mb(trainer.devices.device, held), 1),
        "fingerprint": data.fingerprint,
        "contents": _whole(data),
        "sizes": {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)},
        "scored": data.scored,
        "fold": data.fold,
        "options": spec.options,
        "lr": spec.recipe.training.lr,
        "warnings": warnings,
    }
    if first:
        run.finish(result)
    trainer.devices.barrier()
    return result


def _constant(trainer: Trainer, output: Output) -> str:
    """Return a warning where the answer is the same for every sample, of the split scored last; else nothing."""
    task, scores = trainer.data.task, trainer.strategy.predict(output)
    if len(scores) < 2 or not torch.isfinite(scores).all():
        return ""
    if task.kind == "classification":
        said = scores.argmax(1)
        return f"every sample is predicted as {task.classes[int(said[0])]!r}" if (said == said[0]).all() else ""
    spread, size = float(scores.std(0).max()), float(scores.abs().max())
    return "the prediction is the same number for every sample" if spread <= 1e-6 * max(size, 1e-6) else ""


def _whole(data: MultimodalData) -> str:
    """Return a hash of all samples and labels, whatever their split; empty where the inputs are not known."""
    text = "".join(data.parts.get(name, "") for name in ("values", "rows", "labels"))
    return hashlib.sha256(text.encode()).hexdigest() if data.contents else ""


def _survival_model(data: MultimodalData, risk: Tensor) -> tuple[SurvivalModel | None, list[str]]:
    """Return what turns log risks into curves of single patients, fitted to validation, or what speaks against it."""
    groups = data.sample_groups(data.valid)
    target = data.valid.target[groups.first].numpy()
    if not target[:, 1].any():
        told = "no event happened in the validation split: predictions are log risks only, without survival curves"
        return None, [told]
    return SurvivalModel.fit(groups.mean(risk).numpy(), target), []


def _predictions(
    data: MultimodalData, split: Split, strategy: Strategy, output: Output, target: Tensor
) -> dict[str, np.ndarray]:
    """Return the content of ``predictions_<split>.npz``."""
    task = data.task
    unimodal = [task.log_probability(output.unimodal[m]) for m in data.modalities if m in output.unimodal]
    units = data.sample_groups(split)
    return {
        "ids": np.asarray([str(name) for name in split.ids]),
        "target": target.cpu().numpy(),
        "scores": strategy.log_probability(output).cpu().numpy(),
        "joint": task.log_probability(output.logits).cpu().numpy(),
        "unimodal": torch.stack(unimodal).cpu().numpy() if unimodal else np.zeros((0, len(split), task.outputs)),
        "present": output.present.cpu().numpy(),
        "groups": np.asarray([] if split.groups is None else split.groups).astype(str),
        "units": np.asarray([str(name) for name in units.names])[units.member.numpy()],
        "classes": np.asarray(task.classes, dtype=str),
        "scale": np.asarray(task.scale),
        "modalities": np.asarray(list(data.modalities)),
    }
