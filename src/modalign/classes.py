"""Classes of the user's own, by import path or file: the one place where code that is not the package's is loaded."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from modalign.errors import SettingsError
from modalign.settings import Recipe


def is_own(name: object) -> bool:
    """Whether a name stands for code outside the package: ``file.py``, ``file.py:Class`` or ``package.module.Class``.

    >>> is_own("joint"), is_own("mine.py"), is_own("lab.nets.Net"), is_own("modalign.strategies.joint.Joint")
    (False, True, True, False)
    """
    if not isinstance(name, str) or name.startswith(("modalign.", "hf:")):
        return False
    return ".py" in (name[-3:], name.partition(":")[0][-3:]) or ("." in name and "/" not in name)


def short_name(strategy: str) -> str:
    """Return what the folder and the row of a method are called: a class by its name, a file by its stem.

    >>> [short_name(name) for name in ("joint", "lab/mine.py", "mine.py:Net", "lab.methods.Mine")]
    ['joint', 'mine', 'Net', 'Mine']
    """
    file, _, inside = strategy.partition(":")
    return inside or (Path(file).stem if file.endswith(".py") else strategy.rpartition(".")[2])


def own_classes(recipe: Recipe) -> list[str]:
    """Return what a recipe names that is code outside the package.

    >>> from modalign.settings import ModelSettings
    >>> own_classes(Recipe(model=ModelSettings(encoders={"image": {"class_path": "lab.nets.Net"}})))
    ['lab.nets.Net']
    """
    named = [name for name in (recipe.model.fusion, *recipe.strategies) if is_own(name)]
    # Any class path counts, for it comes with arguments, and with these a function of the package can run other code.
    paths = [recipe.data.class_path, *(settings.get("class_path") for settings in recipe.model.encoders.values())]
    return [str(path) for path in paths if path] + named


def ask_first(recipe: Recipe, origin: str, trust_code: bool) -> None:
    """Refuse a recipe that was read from a file and names code of its own, unless that is trusted.

    Raises:
        SettingsError: it does; the message names the code.
    """
    found = own_classes(recipe)
    if found and not trust_code:
        raise SettingsError(
            f"recipe {origin} names code of its own: {', '.join(found)}. Look at it, and if you trust it add "
            "--allow-code (trust_code=True from Python)"
        )


def import_class(path: str, what: str, kind: type | None = None) -> Any:
    """Import a class or function by its path. This runs the code of its module.

    Args:
        path: ``package.module.Class``, ``file.py:Class``, or ``file.py`` that defines exactly one subclass of ``kind``.
        what: what it is used as, for messages (``encoder of modality 'image'``).
        kind: what a class must be a subclass of; any callable if None.

    Raises:
        SettingsError: nothing can be imported from there, or it is of another kind.

    >>> import_class("collections.OrderedDict", "example", dict).__name__
    'OrderedDict'
    """
    example = f"expected such as my_package.module.{kind.__name__ if kind else 'Class'}, or my_file.py:Class"
    file, colon, name = path.partition(":")
    if file.endswith(".py"):
        module = _module_of_file(Path(file), what)
        if not colon:
            return _only_subclass(module, file, what, kind)
    else:
        parent, _, name = path.rpartition(".")
        if not parent:
            raise SettingsError(f"{what}: {path!r} is no import path; {example}")
        module = _import(parent, path, what)
    found = getattr(module, name, None)
    if found is None:
        raise SettingsError(f"{what}: {module.__name__!r} has no {name!r} ({path!r}); {example}")
    if not callable(found) or (kind is not None and isinstance(found, type) and not issubclass(found, kind)):
        wanted = f"a subclass of {kind.__module__}.{kind.__name__}" if kind else "a class or function"
        raise SettingsError(f"{what}: {path!r} is {found!r}; expected {wanted}")
    return found


def _import(module: str, path: str, what: str) -> ModuleType:
    here = str(Path.cwd())
    try:
        if here not in sys.path:
            sys.path.append(here)  # a file beside the recipe is found as it would be by `python -m`
        return importlib.import_module(module)
    except Exception as error:
        raise SettingsError(
            f"{what}: {path!r} cannot be imported ({type(error).__name__}: {error}); expected package.module.Class of "
            f"an installed package or of a file in {here}, or file.py:Class"
        ) from error


def _module_of_file(file: Path, what: str) -> ModuleType:
    if not file.is_file():
        raise SettingsError(f"{what}: file {file} does not exist; expected a Python file")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    name = f"_modalign_{file.stem}_{digest}"  # by its contents: its classes can be pickled and found
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise SettingsError(f"{what}: {file} cannot be loaded ({type(error).__name__}: {error})") from error
    cloudpickle.register_pickle_by_value(module)  # other processes know no such module
    return module


def _only_subclass(module: ModuleType, file: str, what: str, kind: type | None) -> type:
    found = [
        entry
        for entry in vars(module).values()
        if isinstance(entry, type) and entry.__module__ == module.__name__ and issubclass(entry, kind or object)
    ]
    if len(found) != 1:
        name = kind.__name__ if kind else "object"
        raise SettingsError(
            f"{what}: file {file} defines {len(found)} subclasses of {name}; expected exactly one, or {file}:Class"
        )
    return found[0]
