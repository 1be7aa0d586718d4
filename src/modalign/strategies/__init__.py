"""The training methods, one file each. A file's name is the method's name on the command line."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from modalign.errors import InputError, unknown
from modalign.strategies.base import Strategy

# Order of the rows of the paper's Table 1, the two plain baselines that it leaves out beside their relatives.
_ORDER = (
    "unimodal", "late_fusion", "joint", "joint_unimodal", "infonce", "mmpareto", "diagnose_relearn", "reconboost",
    "ogm_ge", "pmr", "modalign",
)  # fmt: skip


def strategy_names() -> list[str]:
    """Names of all methods: in the order of the paper's Table 1, then others by name.

    >>> strategy_names()[0], strategy_names()[-1]
    ('unimodal', 'modalign')
    """
    found = {module.name for module in pkgutil.iter_modules(__path__)} - {"base"}
    others = sorted(found - set(_ORDER))
    return [name for name in _ORDER if name in found and name != "modalign"] + others + ["modalign"]


def load_strategy(name: str) -> type[Strategy]:
    """The class of a method: of this package by name, or of a Python file of the user's by its path.

    Raises:
        InputError: no such method, or a file that does not define exactly one.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise InputError(f"strategy file {name} does not exist")
        spec = importlib.util.spec_from_file_location(Path(name).stem, name)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    elif name in strategy_names():
        module = importlib.import_module(f"{__name__}.{name}")
    else:
        raise unknown("strategy", name, strategy_names())
    found = [
        entry
        for entry in vars(module).values()
        if isinstance(entry, type) and issubclass(entry, Strategy) and entry.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise InputError(f"strategy file {name} defines {len(found)} subclasses of Strategy; expected exactly one")
    return found[0]


def make_options(strategy: type[Strategy], given: dict[str, Any]) -> Any:
    """The method's ``Options`` from plain values, each checked against its type.

    Raises:
        InputError: an option that the method does not have (the nearest is named), or a value of a wrong type.
    """
    known = [f.name for f in dataclasses.fields(strategy.Options)]
    for name in given:
        if name not in known:
            raise unknown(f"option of strategy {strategy.title}", name, known)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(strategy.Options)
    try:
        parsed = parser.parse_object(given)
    except ArgumentError as error:
        raise InputError(f"options of strategy {strategy.title}: {error}") from error
    return strategy.Options(**vars(parsed))


__all__ = ["Strategy", "load_strategy", "make_options", "strategy_names"]
