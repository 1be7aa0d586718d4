"""Objects and classes of the user's own: in place of names, kept in the run, asked for before they are loaded."""

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
from torch import nn

from modalign.classes import import_class, is_own
from modalign.data.batch import Modality
from modalign.errors import RunFolderError, SettingsError
from modalign.files import read_settings, reading, write_whole
from modalign.strategies import Strategy, load_strategy, strategy_name
from modalign.training.run import RunSpec

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
            write_whole(code / name, text)
            described[place] |= {"file": name, "sha256": hashlib.sha256(text.encode()).hexdigest()}
            modules.add(kind.__module__)
    packed = _pickled(objects, [sys.modules[name] for name in modules if name in sys.modules])
    write_whole(code / "objects.pkl", packed)
    described["objects.pkl"] = {"sha256": hashlib.sha256(packed).hexdigest(), "python": sys.version.split()[0]}
    write_whole(code / "code.json", json.dumps(described, indent=1))


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
    about = read_settings(code / "code.json", "what training wrote of code of one's own", RunFolderError)
    with reading(code / "code.json", "what training wrote of code of one's own", RunFolderError):
        listed = ", ".join(f"{place}: {entry['class']}" for place, entry in about.items() if "class" in entry)
        digest, python = about["objects.pkl"]["sha256"], about["objects.pkl"].get("python")
    if not trust_code:
        raise RunFolderError(
            f"{folder} was trained with code that is not of this package ({listed}); its text is in {code}. Look at "
            "it, and if you trust it add --allow-code (trust_code=True from Python), or hand in the same objects again"
        )
    with reading(code / "objects.pkl", "the objects that training kept", RunFolderError):
        packed = (code / "objects.pkl").read_bytes()
    if hashlib.sha256(packed).hexdigest() != digest:
        raise RunFolderError(f"{code / 'objects.pkl'} is not what the run wrote: its hash differs; it is not loaded")
    try:
        objects: Objects = cloudpickle.loads(packed)
    except Exception as error:
        raise RunFolderError(
            f"the code of {folder} cannot be loaded here ({type(error).__name__}: {error}); it was kept under Python "
            f"{python}. Hand in the same objects again: {listed}"
        ) from error
    return objects
