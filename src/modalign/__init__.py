"""ModAlign: multimodal learning by conditional information, with a protective margin.

The public names are loaded when they are first used, so that importing the package costs nothing.

>>> import modalign
>>> modalign.load_recipe("digits").data.name
'digits'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from modalign.api import Bench, Run, bench, evaluate, from_pretrained, load_run, predict, report, train, tune
    from modalign.data.batch import Batch, Modality, Output
    from modalign.data.dataset import MultimodalData
    from modalign.data.info import DataInfo
    from modalign.data.load import load_data
    from modalign.data.tables.arrays import from_arrays
    from modalign.data.task import Task
    from modalign.errors import DataError, InputError, RunError, RunFolderError, SettingsError
    from modalign.estimators.estimate import estimate
    from modalign.experiments.bench import run_bench
    from modalign.information import (
        LearnedContext,
        SeparableCritic,
        conditional_nce,
        guarded_gradients,
        info_nce,
        pointwise_information,
        ramp,
        score_pairs,
        two_term_nce,
    )
    from modalign.learn import MultimodalClassifier, MultimodalRegressor, MultimodalSurvival
    from modalign.models.multimodal import MultimodalModel
    from modalign.recipes import load_recipe
    from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings
    from modalign.strategies import Stepper, Strategy, load_strategy, strategy_names

_HOME = {
    "Batch": "data.batch",
    "Bench": "api",
    "DataError": "errors",
    "DataInfo": "data.info",
    "DataSettings": "settings",
    "InputError": "errors",
    "LearnedContext": "information",
    "Modality": "data.batch",
    "ModelSettings": "settings",
    "MultimodalClassifier": "learn",
    "MultimodalData": "data.dataset",
    "MultimodalModel": "models.multimodal",
    "MultimodalRegressor": "learn",
    "MultimodalSurvival": "learn",
    "Output": "data.batch",
    "Recipe": "settings",
    "Run": "api",
    "RunError": "errors",
    "RunFolderError": "errors",
    "SeparableCritic": "information",
    "SettingsError": "errors",
    "Stepper": "strategies",
    "Strategy": "strategies",
    "Task": "data.task",
    "TrainingSettings": "settings",
    "bench": "api",
    "conditional_nce": "information",
    "estimate": "estimators.estimate",
    "evaluate": "api",
    "from_arrays": "data.tables.arrays",
    "from_pretrained": "api",
    "guarded_gradients": "information",
    "info_nce": "information",
    "load_data": "data.load",
    "load_recipe": "recipes",
    "load_run": "api",
    "load_strategy": "strategies",
    "pointwise_information": "information",
    "predict": "api",
    "ramp": "information",
    "report": "api",
    "run_bench": "experiments.bench",
    "score_pairs": "information",
    "strategy_names": "strategies",
    "train": "api",
    "tune": "api",
    "two_term_nce": "information",
}

__all__ = [
    "Batch",
    "Bench",
    "DataError",
    "DataInfo",
    "DataSettings",
    "InputError",
    "LearnedContext",
    "Modality",
    "ModelSettings",
    "MultimodalClassifier",
    "MultimodalData",
    "MultimodalModel",
    "MultimodalRegressor",
    "MultimodalSurvival",
    "Output",
    "Recipe",
    "Run",
    "RunError",
    "RunFolderError",
    "SeparableCritic",
    "SettingsError",
    "Stepper",
    "Strategy",
    "Task",
    "TrainingSettings",
    "bench",
    "conditional_nce",
    "estimate",
    "evaluate",
    "from_arrays",
    "from_pretrained",
    "guarded_gradients",
    "info_nce",
    "load_data",
    "load_recipe",
    "load_run",
    "load_strategy",
    "pointwise_information",
    "predict",
    "ramp",
    "report",
    "run_bench",
    "score_pairs",
    "strategy_names",
    "train",
    "tune",
    "two_term_nce",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
