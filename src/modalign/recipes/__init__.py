"""Recipes: YAML files that hold everything that determines a run, by name or by path."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from modalign.errors import InputError, unknown
from modalign.settings import DataSettings, Recipe

_FOLDER = Path(__file__).parent
_DATA_FILES = (".npz", ".parquet", ".csv")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """The recipe of that name, of a YAML file, or the default recipe for a file or folder of data.

    Args:
        name: ``digits`` (a recipe of the package), ``my/recipe.yaml``, ``data.npz``, ``data.parquet``, ``data.csv``, or
            a folder that ``modalign prepare`` wrote.

    Raises:
        InputError: there is no such recipe or file; a setting is unknown (the nearest is named) or of a wrong type.
    """
    path = Path(name)
    # A recipe's name is a recipe, also where a folder is called so; ./NAME is the folder.
    if name in recipe_names() or path.suffix in (".yaml", ".yml"):
        path = _FOLDER / f"{name}.yaml" if name in recipe_names() else path
        if not path.is_file():
            raise InputError(f"recipe file {path} does not exist")
        try:
            plain = yaml.safe_load(path.read_text()) or {}
        except yaml.YAMLError as error:
            raise InputError(f"recipe {path} is not valid YAML: {error}") from error
        if not isinstance(plain, dict):
            raise InputError(f"recipe {path} holds a {type(plain).__name__}; expected settings by name")
        if set(plain) & {"table", "modalities"} and "data" not in plain:  # the description of a manifest
            return Recipe(data=DataSettings(name=path.stem, path=str(path)))
        return recipe_from_plain(plain, str(path))
    if path.suffix in _DATA_FILES or path.is_dir():
        if not path.exists():
            raise InputError(f"data file {path} does not exist")
        return Recipe(data=DataSettings(name=path.stem, path=str(path)))
    raise unknown("recipe", name, [*recipe_names(), "FILE.yaml", "FILE.npz", "FILE.parquet", "FILE.csv", "FOLDER"])


def recipe_from_plain(plain: dict[str, Any], origin: str = "recipe") -> Recipe:
    """A recipe from nested dicts, every name and type checked.

    Raises:
        InputError: a name that is no setting, or a value of a wrong type.
    """
    _check_names(plain, Recipe, origin)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe)
    try:
        parsed = parser.instantiate(parser.parse_object(plain))
    except ArgumentError as error:
        raise InputError(f"{origin}: {error}") from error
    return Recipe(**vars(parsed))


def _check_names(plain: dict[str, Any], kind: type, origin: str) -> None:
    """Refuse names that are no fields of the dataclass ``kind``, at any depth, naming the nearest."""
    hints = get_type_hints(kind)
    for name, value in plain.items():
        if name not in hints:
            raise unknown(f"setting in {origin}:", name, hints)
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, dict):
            _check_names(value, hints[name], f"{origin}: {name}")


__all__ = ["load_recipe", "recipe_from_plain", "recipe_names"]
