"""ModAlign: multimodal learning by conditional information, with a protective margin.

The public names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modalign.data.load import load_data
    from modalign.data.tables.arrays import from_arrays
    from modalign.errors import InputError
    from modalign.estimators.estimate import estimate
    from modalign.experiments.bench import run_bench
    from modalign.recipes import load_recipe
    from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings
    from modalign.training.train import train

_HOME = {
    "DataSettings": "settings",
    "InputError": "errors",
    "ModelSettings": "settings",
    "Recipe": "settings",
    "TrainingSettings": "settings",
    "estimate": "estimators.estimate",
    "from_arrays": "data.tables.arrays",
    "load_data": "data.load",
    "load_recipe": "recipes",
    "run_bench": "experiments.bench",
    "train": "training.train",
}

__all__ = [
    "DataSettings",
    "InputError",
    "ModelSettings",
    "Recipe",
    "TrainingSettings",
    "estimate",
    "from_arrays",
    "load_data",
    "load_recipe",
    "run_bench",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
