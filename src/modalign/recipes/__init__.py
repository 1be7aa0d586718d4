"""Recipes: YAML files that hold everything that determines a run, by name or by path."""

from __future__ import annotations

import copy
import dataclasses
import re
from functools import cache, reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from modalign.domains import check_values, wrong
from modalign.errors import DataError, Problems, SettingsError, unknown
from modalign.files import read_settings
from modalign.protocols import PROTOCOLS, protocol_of
from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings

_FOLDER = Path(__file__).parent
_DATA_FILES = (".npz", ".parquet", ".csv", ".h5ad", ".h5mu")
GROUPS: dict[str, type] = {"data": DataSettings, "model": ModelSettings, "training": TrainingSettings}


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package.

    >>> "digits" in recipe_names()
    True
    """
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_recipe(name: str, protocol: str | None = None) -> Recipe:
    """Return the recipe of that name, of a YAML file, or the default recipe for a file or folder of data.

    Classes that a recipe names are not imported here.

    Args:
        name: ``digits`` (a recipe of the package), ``my/recipe.yaml``, ``data.npz``, ``data.parquet``, ``data.csv``,
            ``data.h5ad``, ``data.h5mu``, or a folder that ``modalign prepare`` wrote.
        protocol: published protocol (``modalign.protocols``) whose training settings go before those of the recipe.
            One that the recipe itself names (``data.options.protocol``) gives those that the recipe does not name.

    Raises:
        SettingsError: there is no such recipe or protocol; a setting is unknown (the nearest is named) or wrong.
        DataError: there is no such file of data.

    >>> load_recipe("digits").data.name
    'digits'
    """
    path = Path(name)
    # A recipe's name is a recipe, also where a folder is called so; ./NAME is the folder.
    if name in recipe_names() or path.suffix in (".yaml", ".yml"):
        path = _FOLDER / f"{name}.yaml" if name in recipe_names() else path
        if not path.is_file():
            raise SettingsError(f"recipe file {path} does not exist; expected a recipe there: check the path")
        plain = read_settings(path, "a recipe: settings by name, in YAML", SettingsError)
        if set(plain) & {"table", "modalities"} and "data" not in plain:  # the description of a manifest
            return Recipe(data=DataSettings(name=path.stem, path=str(path)))
        recipe = recipe_from_plain(plain, str(path))
        if protocol is None:
            return recipe
        published = copy.deepcopy(dict(protocol_of(recipe.data.name, str(protocol)).training))
        training = dataclasses.replace(recipe.training, **published)
        data = dataclasses.replace(recipe.data, options={**recipe.data.options, "protocol": protocol})
        return dataclasses.replace(recipe, data=data, training=training)
    if path.suffix in _DATA_FILES or path.is_dir():
        if not path.exists():
            raise DataError(f"data file {path} does not exist; expected data there: check the path")
        if protocol is not None:
            raise SettingsError(
                f"protocol {protocol!r} is one of a recipe, not of data at {name}; name the recipe "
                f"({', '.join(PROTOCOLS)}), and the folder as data.path"
            )
        return Recipe(data=DataSettings(name=path.stem, path=str(path)))
    if path.exists():
        known = ", ".join(_DATA_FILES)
        raise DataError(f"{path} is of no kind that can be read; expected {known} or .yaml: save a table as .csv")
    raise unknown("recipe", name, [*recipe_names(), "FILE.yaml", *(f"FILE{end}" for end in _DATA_FILES), "FOLDER"])


def recipe_from_plain(plain: dict[str, Any], origin: str = "recipe") -> Recipe:
    """Return the recipe of nested dicts, every name and domain checked; nothing that it names is imported.

    Args:
        plain: settings by name, as YAML holds them.
        origin: where they are from, for messages.

    Raises:
        SettingsError: a name that is no setting, or a value outside its domain; the message has all of them.

    >>> recipe_from_plain({"data": {"name": "digits"}, "training": {"lr": 1}}).training.lr
    1
    """
    given = {name: {} if values is None else values for name, values in copy.deepcopy(plain).items()}
    problems = Problems(origin)
    problems += [str(unknown("setting", name, (*GROUPS, "strategies"))) for name in {*given} - {*GROUPS, "strategies"}]
    made: dict[str, Any] = {}
    for name, kind in GROUPS.items():
        values = given.get(name, {})
        if not isinstance(values, dict):
            problems.append(f"{name} is {values!r}; expected settings by name")
        else:
            problems.trying(check_values, kind, values, f"{name}.", f"setting of {name}:")
            made[name] = values
    problems += wrong("strategies", given.get("strategies", {}), dict[str, dict[str, Any]])
    problems.stop(SettingsError)
    if "class_path" in made["data"] and not made["data"].get("name"):
        made["data"]["name"] = re.split("[.:]", str(made["data"]["class_path"]))[-1]
    data = DataSettings(**made["data"])
    if "protocol" in data.options and data.class_path is None and data.name in PROTOCOLS:
        published = protocol_of(data.name, str(data.options["protocol"])).training
        made["training"] = {**copy.deepcopy(dict(published)), **made["training"]}
    parts = {name: kind(**made[name]) for name, kind in GROUPS.items()}
    return Recipe(**parts, strategies=given.get("strategies", {}))


def add_settings(parser: ArgumentParser) -> None:
    """Add all settings of a recipe to a parser, as ``data.NAME``, ``model.NAME`` and ``training.NAME``."""
    for name, kind in GROUPS.items():
        parser.add_class_arguments(_plain_twin(kind), name)


def plain_type(hint: Any) -> Any:
    """Return a type with plain values (of YAML) in the place of ``Any``, which parsers would import classes for.

    >>> plain_type(dict[str, int])
    dict[str, int]
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return reduce(or_, map(plain_type, args))
    if origin is dict:
        return dict[str, plain_type(args[1])]  # type: ignore[misc]
    return bool | int | float | list | dict | None | str if hint is Any else hint


@cache
def _plain_twin(kind: type) -> type:
    """A dataclass of settings again, with plain types."""
    hints = get_type_hints(kind)
    twin = dataclasses.make_dataclass(
        kind.__name__,
        [
            (f.name, plain_type(hints[f.name]), dataclasses.field(default=f.default, default_factory=f.default_factory))
            for f in dataclasses.fields(kind)
        ],
    )
    twin.__doc__ = kind.__doc__
    return twin


__all__ = ["GROUPS", "add_settings", "load_recipe", "plain_type", "recipe_from_plain", "recipe_names"]
