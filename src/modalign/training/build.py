"""Build the strategy of a run: from names or objects before training, from the run folder alone afterwards."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modalign.classes import is_own
from modalign.data.dataset import MultimodalData, Split
from modalign.data.info import DataInfo
from modalign.data.load import load_data
from modalign.domains import check_instance, wrong
from modalign.errors import RunFolderError, SettingsError, Undefined, option, unknown
from modalign.evaluation.metrics import compute_metrics
from modalign.evaluation.survival import SurvivalModel
from modalign.files import reading
from modalign.models.multimodal import MultimodalModel
from modalign.recipes import recipe_from_plain
from modalign.settings import Recipe
from modalign.strategies import Strategy, load_strategy, make_options, strategy_names
from modalign.training.optimizers import make_optimizers
from modalign.training.own_code import Objects, load_objects
from modalign.training.run import RunFolder, RunSpec
from modalign.training.scales import Scale
from modalign.training.trainer import make_sampler


def method_spec(
    recipe: Recipe,
    strategy: str,
    seed: int,
    options: Mapping[str, Any] | None = None,
    variant: str = "",
    title: str = "",
) -> RunSpec:
    """Return what determines a run of one method; what the recipe says of other methods is no part of it.

    Under ``training`` among a method's options stand training settings of its own, over those of the recipe.

    Raises:
        SettingsError: such a setting is unknown or of a wrong type.

    >>> recipe = Recipe(strategies={"modalign": {"alpha": 2.0, "training": {"sampler": "balanced"}}})
    >>> [method_spec(recipe, name, 0).recipe.training.sampler for name in ("modalign", "joint")]
    ['balanced', 'shuffle']
    >>> method_spec(recipe, "joint_long", 0).recipe.training.epochs
    90
    """
    chosen = {**recipe.strategies.get(strategy, {}), **(options or {})}
    own, training = chosen.pop("training", {}), recipe.training
    if strategy in strategy_names():
        training = replace(training, epochs=training.epochs * load_strategy(strategy).epochs_factor)
    if lines := wrong(f"strategies.{strategy}.training", own, dict[str, Any]):
        raise SettingsError(lines[0])
    if own:
        plain = {"training": {**asdict(training), **own}}
        training = recipe_from_plain(plain, f"recipe: strategies: {strategy}").training
    return RunSpec(strategy, seed, replace(recipe, training=training, strategies={}), chosen, variant, title)


def build_strategy(
    spec: RunSpec,
    info: DataInfo,
    train: Split | None = None,
    objects: Objects | None = None,
    networks: Mapping[str, Any] | None = None,
) -> Strategy:
    """Return the untrained strategy of a run: the same seed gives the same initial network for every method.

    Args:
        spec: the run.
        info: what its data is.
        train: training split, to which the standardization of inputs is fitted; None where a checkpoint brings it.
        objects: objects in place of names.
        networks: modality name to the configuration of its large network (``network.json``): no weights are loaded.

    Raises:
        SettingsError: the strategy, an option, an encoder or the fusion is unknown, or does not fit the data.
    """
    objects = objects or Objects()
    given = objects.strategy if objects.strategy is not None else spec.strategy
    kind = type(given) if isinstance(given, Strategy) else load_strategy(given)
    if len(info.modalities) < kind.minimum_modalities:
        raise Undefined(
            f"strategy {spec.strategy!r} relates modalities and needs at least {kind.minimum_modalities}; "
            f"data set {info.name!r} has {len(info.modalities)} ({', '.join(info.modalities)}). "
            f"Use unimodal or joint, or give more {option('modalities')}"
        )
    if info.task.kind not in kind.tasks:
        raise Undefined(
            f"strategy {spec.strategy!r} is defined for {', '.join(kind.tasks)}; "
            f"data set {info.name!r} is {info.task.kind}"
        )
    torch.manual_seed(spec.seed)
    if isinstance(given, Strategy):
        if given.model.modalities != tuple(info.modalities) or given.task != info.task:
            raise SettingsError(
                f"strategy {spec.strategy!r} was built for modalities {', '.join(given.model.modalities)} and "
                f"{given.task.kind} of {given.task.outputs} outputs; data set {info.name!r} has "
                f"{', '.join(info.modalities)} and {info.task.kind} of {info.task.outputs}. Hand in the class instead"
            )
        strategy = copy.deepcopy(given)
    else:
        options, settings = make_options(kind, spec.options), spec.recipe.model
        if settings.fusion == "auto":
            settings = replace(settings, fusion=kind.default_fusion(info, options))
        model = MultimodalModel.build(
            info.modalities, info.task.outputs, settings, objects.encoders, objects.fusion, networks
        )
        strategy = kind(model, info, options)
    if train is not None:
        strategy.model.fit_standardization(train)
    return strategy


def check_run(spec: RunSpec, data: MultimodalData, strategy: Strategy) -> None:
    """See that everything can work, so that what cannot is said before anything is written or started.

    Raises:
        SettingsError: a budget, a sampler or a metric that cannot be used.
    """
    settings = spec.recipe.training
    for part in (spec.recipe.data, spec.recipe.model, settings):  # they may have been changed after they were made
        check_instance(part, part.where)
    if settings.batch_size < settings.devices:
        raise SettingsError(
            f"training.batch_size {settings.batch_size} is over all processes and less than their number "
            f"{settings.devices}; raise it"
        )
    for name, split in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        if len(split) < settings.devices and (name != "test" or len(split)):
            raise SettingsError(
                f"the {name} split has {len(split)} sample(s), fewer than the {settings.devices} processes"
            )
    data.sample_groups(data.valid)
    make_sampler(data, spec)
    if settings.metric is not None:
        rows = np.zeros((2, data.task.outputs)), data.valid.target[:2].numpy()
        known = compute_metrics(data.task, *rows)
        if settings.metric not in known:
            raise unknown("metric", settings.metric, known)
    make_optimizers(strategy, settings)


# From a run folder --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A trained strategy, rebuilt from its run folder alone.

    Attributes:
        strategy: in evaluation mode, with the weights of the checkpoint.
        spec: what determined the run.
        info: what its data was.
        inputs: how raw rows become inputs (``data.load.describe_inputs``).
        survival: how log risks become survival curves; None for other tasks.
        scales: what rows of training were like, by modality; empty where an earlier version trained.
    """

    strategy: Strategy
    spec: RunSpec
    info: DataInfo
    inputs: dict[str, Any]
    survival: SurvivalModel | None = None
    scales: Mapping[str, Scale] = field(default_factory=dict)


def load_trained(
    folder: str | Path, checkpoint: str = "best", *, objects: Objects | None = None, trust_code: bool = False
) -> Trained:
    """Return the trained strategy of a run. Nothing is downloaded, and no data is read.

    Args:
        folder: the run.
        checkpoint: ``best`` (the weights that ``training.selection`` kept) or ``last``.
        objects: the objects of one's own that the run was trained with, if they are at hand.
        trust_code: load classes of one's own from the copy in the run: this runs code of the folder.

    Raises:
        RunFolderError: the folder is no run, has no such checkpoint, or needs code that is not trusted.
    """
    run = RunFolder(folder)
    spec = RunSpec.from_plain(run.spec())
    if objects is None and (run.folder / "code").exists():
        objects = load_objects(run.folder, trust_code)
    if is_own(spec.strategy) and (objects is None or objects.strategy is None) and not trust_code:
        raise untrusted(folder, spec.strategy)
    state, about = run.load(checkpoint), run.about("data.json")
    if "info" not in about:
        raise RunFolderError(
            f"{folder} was written by modalign 0.1, whose description of data this version cannot build a network "
            "from; load it with that version (environment.json names it), or train again"
        )
    whole, remedy = "files that training wrote together", "restore them, or train again"
    with reading(f"run {folder}: its recipe.yaml, data.json and network.json", whole, RunFolderError, remedy):
        info, inputs = DataInfo.from_dict(about["info"]), dict(about["inputs"])
        strategy = build_strategy(spec, info, objects=objects, networks=run.about("network.json"))
        restore(strategy, state, folder)
        fitted = (run.folder / "survival.json").exists()
        survival = SurvivalModel.from_dict(run.about("survival.json")) if fitted else None
        scales = {name: Scale(**values) for name, values in about.get("scales", {}).items()}
    return Trained(strategy.eval(), spec, info, inputs, survival, scales)


def load_with_data(
    folder: str | Path,
    checkpoint: str = "best",
    data: MultimodalData | None = None,
    *,
    objects: Objects | None = None,
    trust_code: bool = False,
) -> tuple[Strategy, MultimodalData, RunSpec]:
    """Return the trained strategy of a run, the data it was trained on, and what determined it.

    Args:
        folder, checkpoint, objects, trust_code: as in ``load_trained``.
        data: the data in memory that the run was trained on, if it was.

    Raises:
        RunFolderError: see ``load_trained``; or the data is in memory and not given, or is not what it was.
    """
    trained = load_trained(folder, checkpoint, objects=objects, trust_code=trust_code)
    run, own = RunFolder(folder), trained.spec.recipe.data.class_path
    if data is None and run.about("data.json").get("in_memory"):
        raise RunFolderError(f"{folder} was trained on data in memory; give the same data again (data=...)")
    if data is None and own and not trust_code:
        raise untrusted(folder, own)
    data = load_data(trained.spec.recipe.data) if data is None else data
    check_same_data(run, data)
    return trained.strategy, data, trained.spec


def check_same_data(run: RunFolder, data: MultimodalData) -> None:
    """See that data are those that a run was, or is being, trained on.

    Raises:
        RunFolderError: they are others; the message says what of them has changed.
    """
    before, told = run.about("environment.json").get("fingerprint"), run.about("data.json").get("parts")
    if before == data.fingerprint:
        return
    now, old = data.parts, told if isinstance(told, dict) else {}
    changed = [name for name, value in now.items() if old and old.get(name) != value]
    what = " and ".join([", ".join(changed[:-1]), changed[-1]] if len(changed) > 1 else changed) or "the way it is read"
    raise RunFolderError(
        f"the data of {run.folder} has changed since it was trained: {what} differ (fingerprint "
        f"{data.fingerprint[:12] or 'none'}, it was {str(before)[:12] or 'none'}). Give it the data that it began "
        "with, or train again into another folder"
    )


def untrusted(folder: str | Path, name: str) -> RunFolderError:
    """Return the error for a run that names code of its own, which was not trusted."""
    return RunFolderError(
        f"{folder} names code of its own: {name}. Look at it, and if you trust it add --allow-code (trust_code=True "
        "from Python), or hand in the same object again"
    )


def restore(strategy: Strategy, state: dict[str, Any], folder: str | Path) -> None:
    """Load a checkpoint's weights.

    Raises:
        RunFolderError: the checkpoint is of another network, because the package or the settings have changed.
    """
    try:
        strategy.load_state_dict(state["strategy"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"the checkpoint in {folder} does not fit the network that its recipe builds now ({error}); "
            "use the version of the package that wrote it (environment.json names it), or train again"
        ) from error
