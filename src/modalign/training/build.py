"""Build the strategy of a run: from names or objects before training, from the run folder alone afterwards."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import nn

from modalign.classes import import_class, is_own
from modalign.data.batch import Modality
from modalign.data.dataset import MultimodalData, Split
from modalign.data.info import DataInfo
from modalign.data.load import load_data
from modalign.errors import RunFolderError, SettingsError, unknown
from modalign.evaluation.metrics import compute_metrics
from modalign.models.multimodal import MultimodalModel
from modalign.strategies import Strategy, load_strategy, make_options, strategy_name
from modalign.training.optimizers import make_optimizers
from modalign.training.run import RunFolder, RunSpec
from modalign.training.trainer import make_sampler

EncoderLike = nn.Module | Callable[[Modality], nn.Module]
FusionLike = nn.Module | Callable[[dict[str, int]], nn.Module]


@dataclass(frozen=True)
class Objects:
    """Objects of the user's own, in place of the names in a recipe.

    Attributes:
        strategy: a subclass of ``Strategy``, or an instance, which brings its own network.
        encoders: modality name to a module (B, *shape) -> (B, D), copied for each run, or to a function that makes
            one of the ``Modality``.
        fusion: a module that takes the features by modality, or a function that makes one of the D_m by modality.
    """

    strategy: type[Strategy] | Strategy | None = None
    encoders: Mapping[str, EncoderLike] = field(default_factory=dict)
    fusion: FusionLike | None = None

    def named(self, spec: RunSpec) -> RunSpec:
        """Return ``spec`` with the import paths of these objects written where names stand."""
        plain = copy.deepcopy(spec)
        if self.strategy is not None:
            plain.strategy = strategy_name(self.strategy)
        for name, encoder in self.encoders.items():
            plain.recipe.model.encoders[name] = {"class_path": _path(encoder)}
        if self.fusion is not None:
            plain.recipe.model.fusion, plain.recipe.model.fusion_options = _path(self.fusion), {}
        return plain

    def parts(self) -> dict[str, Any]:
        """Return what is there, by the name of its place."""
        found: dict[str, Any] = {f"encoders.{m}": encoder for m, encoder in self.encoders.items()}
        found |= {} if self.strategy is None else {"strategy": self.strategy}
        return found | ({} if self.fusion is None else {"fusion": self.fusion})


def _path(thing: object) -> str:
    kind = thing if isinstance(thing, type) or inspect.isfunction(thing) else type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


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
        raise SettingsError(
            f"strategy {spec.strategy!r} relates modalities and needs at least {kind.minimum_modalities}; "
            f"data set {info.name!r} has {len(info.modalities)} ({', '.join(info.modalities)}). "
            "Use unimodal or joint, or give more --modalities"
        )
    if info.task.kind not in kind.tasks:
        raise SettingsError(
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
        model = MultimodalModel.build(
            info.modalities, info.task.outputs, spec.recipe.model, objects.encoders, objects.fusion, networks
        )
        strategy = kind(model, info, make_options(kind, spec.options))
    if train is not None:
        strategy.model.fit_standardization(train)
    return strategy


def check_run(spec: RunSpec, data: MultimodalData, strategy: Strategy) -> None:
    """See that everything can work, so that what cannot is said before anything is written or started.

    Raises:
        SettingsError: a budget, a sampler or a metric that cannot be used.
    """
    settings = spec.recipe.training
    for name in ("epochs", "batch_size", "accumulate"):
        if getattr(settings, name) < 1:
            raise SettingsError(f"training.{name} is {getattr(settings, name)}; expected 1 or more")
    if settings.batch_size < settings.devices:
        raise SettingsError(
            f"training.batch_size {settings.batch_size} is over all processes and less than their number "
            f"{settings.devices}; raise it"
        )
    if not settings.lr > 0:
        raise SettingsError(f"training.lr is {settings.lr}; expected a positive number")
    for name, split in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        if len(split) < settings.devices:
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
    """

    strategy: Strategy
    spec: RunSpec
    info: DataInfo
    inputs: dict[str, Any]


def load_trained(
    folder: str | Path, checkpoint: str = "best", *, objects: Objects | None = None, trust_code: bool = False
) -> Trained:
    """Return the trained strategy of a run. Nothing is downloaded, and no data is read.

    Args:
        folder: the run.
        checkpoint: ``best`` (selected on validation) or ``last``.
        objects: the objects of one's own that the run was trained with, if they are at hand.
        trust_code: load classes of one's own from the copy in the run: this runs code of the folder.

    Raises:
        RunFolderError: the folder is no run, has no such checkpoint, or needs code that is not trusted.
    """
    run = RunFolder(folder)
    spec = spec_from_plain(run.spec())
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
    info = DataInfo.from_dict(about["info"])
    strategy = build_strategy(spec, info, objects=objects, networks=run.about("network.json"))
    restore(strategy, state, folder)
    return Trained(strategy.eval(), spec, info, about["inputs"])


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
    before = run.about("environment.json")["fingerprint"]
    if data.fingerprint != before:
        raise RunFolderError(
            f"the data of {folder} has changed since: fingerprint {data.fingerprint[:12] or 'none'}, it was "
            f"{before[:12] or 'none'}. Give the data that it was trained on, or train again"
        )
    return trained.strategy, data, trained.spec


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
    except RuntimeError as error:
        raise RunFolderError(
            f"the checkpoint in {folder} does not fit the network that its recipe builds now ({error}); "
            "use the version of the package that wrote it (environment.json names it), or train again"
        ) from error


def spec_from_plain(plain: dict[str, Any]) -> RunSpec:
    """Return the inverse of ``RunSpec.plain``."""
    from modalign.recipes import recipe_from_plain

    return RunSpec(**{**plain, "recipe": recipe_from_plain(plain["recipe"])})


# Code of the user's own ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Factory:
    """Make a module of a class named in a recipe; ``modality`` or ``dims`` is passed on if it asks for them."""

    kind: Callable[..., nn.Module]
    arguments: dict[str, Any]
    what: str

    def __call__(self, about: Modality | dict[str, int]) -> nn.Module:
        given = {"modality" if isinstance(about, Modality) else "dims": about}
        known = inspect.signature(self.kind).parameters
        arguments = {name: value for name, value in given.items() if name in known} | self.arguments
        try:
            return self.kind(**arguments)
        except TypeError as error:
            raise SettingsError(
                f"{self.what}: {self.kind.__name__} cannot be made with {self.arguments or 'no arguments'} ({error}); "
                f"expected init_args of {self.kind.__name__}{inspect.signature(self.kind)}"
            ) from error


def resolve(spec: RunSpec, objects: Objects | None = None) -> Objects:
    """Return ``objects`` with the classes of one's own that ``spec`` names by their path. This imports their modules.

    Raises:
        SettingsError: a class cannot be imported, or is of another kind.
    """
    objects, model = objects or Objects(), spec.recipe.model
    strategy, encoders, fusion = objects.strategy, dict(objects.encoders), objects.fusion
    if strategy is None and is_own(spec.strategy):
        strategy = load_strategy(spec.strategy)
    for name, settings in model.encoders.items():
        if name not in encoders and "class_path" in settings:
            what = f"encoder of modality {name!r}"
            if unknown_keys := set(settings) - {"class_path", "init_args"}:
                raise SettingsError(f"{what}: {', '.join(sorted(unknown_keys))} beside class_path; expected init_args")
            kind = import_class(settings["class_path"], what, nn.Module)
            encoders[name] = Factory(kind, settings.get("init_args") or {}, what)
    if fusion is None and is_own(model.fusion):
        fusion = Factory(import_class(model.fusion, "fusion", nn.Module), model.fusion_options, "fusion")
    return Objects(strategy, encoders, fusion)


def save_objects(folder: Path, objects: Objects) -> None:
    """Keep what is the user's own in ``code/``: the objects, a copy of their sources, and the hashes of both."""
    parts = objects.parts()
    if not parts:
        return
    code = folder / "code"
    code.mkdir(exist_ok=True)
    described: dict[str, dict[str, str]] = {}
    modules = set()
    for place, part in parts.items():
        part = part.kind if isinstance(part, Factory) else part
        kind = part if isinstance(part, type) or inspect.isfunction(part) else type(part)
        described[place] = {"class": f"{kind.__module__}.{kind.__qualname__}"}
        try:
            source = Path(inspect.getsourcefile(kind) or "")
            text = source.read_text("utf-8") if source.is_file() else inspect.getsource(kind)
        except (OSError, TypeError):  # typed into an interpreter: there is no text to copy
            continue
        if not {"site-packages", "dist-packages"} & set(source.parts) and not kind.__module__.startswith("modalign."):
            name = f"{source.stem if source.is_file() else kind.__name__}.py"
            (code / name).write_text(text, "utf-8")
            described[place] |= {"file": name, "sha256": hashlib.sha256(text.encode()).hexdigest()}
            modules.add(kind.__module__)
    packed = _pickled(objects, [sys.modules[name] for name in modules if name in sys.modules])
    (code / "objects.pkl").write_bytes(packed)
    described["objects.pkl"] = {"sha256": hashlib.sha256(packed).hexdigest(), "python": sys.version.split()[0]}
    (code / "code.json").write_text(json.dumps(described, indent=1))


def _pickled(objects: Objects, modules: list[ModuleType]) -> bytes:
    """Pickle with the classes of ``modules`` by value, so that they need not be there when the run is loaded."""
    known = cloudpickle.list_registry_pickle_by_value()
    registered = [module for module in modules if module.__name__ not in {"__main__", *known}]
    for module in registered:
        cloudpickle.register_pickle_by_value(module)
    try:
        packed: bytes = cloudpickle.dumps(objects)
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)
    return packed


def load_objects(folder: Path, trust_code: bool) -> Objects:
    """Return what ``save_objects`` kept. This runs code of the folder.

    Raises:
        RunFolderError: it is not trusted, was changed since, or cannot be loaded here.
    """
    code = folder / "code"
    about = json.loads((code / "code.json").read_text())
    listed = ", ".join(f"{place}: {entry['class']}" for place, entry in about.items() if "class" in entry)
    if not trust_code:
        raise RunFolderError(
            f"{folder} was trained with code that is not of this package ({listed}); its text is in {code}. Look at "
            "it, and if you trust it add --allow-code (trust_code=True from Python), or hand in the same objects again"
        )
    packed = (code / "objects.pkl").read_bytes()
    if hashlib.sha256(packed).hexdigest() != about["objects.pkl"]["sha256"]:
        raise RunFolderError(f"{code / 'objects.pkl'} is not what the run wrote: its hash differs; it is not loaded")
    try:
        objects: Objects = cloudpickle.loads(packed)
    except Exception as error:
        raise RunFolderError(
            f"the code of {folder} cannot be loaded here ({type(error).__name__}: {error}); it was kept under Python "
            f"{about['objects.pkl']['python']}. Hand in the same objects again: {listed}"
        ) from error
    return objects
