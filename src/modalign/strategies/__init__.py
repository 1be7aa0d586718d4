"""The training methods, one file each. A file's name is the method's name on the command line."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from modalign.classes import import_class, is_own, short_name
from modalign.domains import check_values
from modalign.errors import SettingsError, unknown
from modalign.recipes import plain_type
from modalign.strategies.base import Stepper, Strategy

# Order of the rows of the paper's Table 1, the plain baselines that it leaves out beside their relatives, newer
# methods after the older.
_ORDER = (
    "linear", "unimodal", "ensemble", "late_fusion", "joint", "joint_long", "joint_mlp", "joint_unimodal", "infonce",
    "mmpareto", "diagnose_relearn", "reconboost", "ogm_ge", "pmr", "opm", "mla", "dgl", "modalign",
)  # fmt: skip


def strategy_names() -> list[str]:
    """Return the names of all methods: in the order of the paper's Table 1, then others by name.

    >>> strategy_names()[0], strategy_names()[-1]
    ('linear', 'modalign')
    """
    found = {module.name for module in pkgutil.iter_modules(__path__)} - {"base", "pair_critics"}
    others = sorted(found - set(_ORDER))
    return [name for name in _ORDER if name in found and name != "modalign"] + others + ["modalign"]


def load_strategy(strategy: str | type[Strategy]) -> type[Strategy]:
    """Return the class of a method.

    Args:
        strategy: a name of this package, ``file.py`` or ``file.py:Class``, ``package.module.Class``, or the class.

    Raises:
        SettingsError: no such method, or a file that does not define exactly one.

    >>> load_strategy("joint").title
    'Joint-Train'
    """
    if isinstance(strategy, type) and issubclass(strategy, Strategy):
        return strategy
    if not isinstance(strategy, str):
        raise SettingsError(
            f"strategy {strategy!r} is a {type(strategy).__name__}; expected a name ({', '.join(strategy_names())}), a "
            "subclass of modalign.Strategy, or its import path"
        )
    if strategy in strategy_names():
        module = importlib.import_module(f"{__name__}.{strategy}")
        return next(
            entry
            for entry in vars(module).values()
            if isinstance(entry, type) and issubclass(entry, Strategy) and entry.__module__ == module.__name__
        )
    if is_own(strategy) or strategy.startswith("modalign."):
        kind: type[Strategy] = import_class(strategy, "strategy", Strategy)
        return kind
    raise unknown("strategy", strategy, strategy_names())


def strategy_name(strategy: str | type[Strategy] | Strategy) -> str:
    """Return what a method is called in recipes and tables: its name here, or the path of a class of one's own.

    >>> from modalign.strategies.joint import Joint
    >>> strategy_name(Joint)
    'joint'
    """
    if isinstance(strategy, str):
        return strategy
    kind = strategy if isinstance(strategy, type) else type(strategy)
    package, _, name = kind.__module__.rpartition(".")
    return name if package == __name__ else f"{kind.__module__}.{kind.__qualname__}"


def make_options(strategy: type[Strategy], given: dict[str, Any]) -> Any:
    """Return the method's ``Options`` made of plain values, each checked against its domain (``modalign.domains``).

    Raises:
        SettingsError: an option that the method does not have (the nearest is named), or has no more (``removed`` of
            the options says what to use), or a value outside its domain.

    >>> make_options(load_strategy("infonce"), {"weight": 0.1}).weight
    0.1
    """
    removed: dict[str, str] = getattr(strategy.Options, "removed", {})
    for name in given:
        if name in removed:
            raise SettingsError(f"option {name!r} of strategy {strategy.title} was removed: {removed[name]}")
    check_values(strategy.Options, given, "options.", f"option of strategy {strategy.title}")
    hints = get_type_hints(strategy.Options)
    options = {f.name: plain_type(hints[f.name]) for f in dataclasses.fields(strategy.Options)}
    parser = ArgumentParser(exit_on_error=False)
    for name, kind in options.items():
        parser.add_argument(f"--{name}", type=kind)
    try:
        parsed = parser.parse_object(given, defaults=False)
    except ArgumentError as error:
        raise SettingsError(f"options of strategy {strategy.title}: {error}") from error
    return strategy.Options(**vars(parsed))


__all__ = ["Stepper", "Strategy", "load_strategy", "make_options", "short_name", "strategy_name", "strategy_names"]
