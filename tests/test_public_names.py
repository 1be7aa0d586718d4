"""Every public name says what it is and shows it."""

from __future__ import annotations

import importlib
import pkgutil
from typing import get_args

import pytest

import modalign


@pytest.mark.parametrize(
    "package", ["modalign", *(f"modalign.{part}" for part in ("information", "estimators", "strategies"))]
)
def test_every_public_name_has_a_docstring_with_an_example(package):
    room = importlib.import_module(package)
    assert room.__all__
    without = []
    for name in room.__all__:
        value = getattr(room, name)
        if get_args(value) or isinstance(value, (str, tuple)):  # an alias of types, a version, a list of words
            continue
        text = value.__doc__ or ""
        if ">>> " not in text:
            without.append(f"{name}: {'no example' if text else 'no docstring'}")
    assert not without, "\n".join([package, *without])


def test_public_names_are_listed_and_there():
    for part in pkgutil.iter_modules(modalign.__path__):
        if part.ispkg:
            room = importlib.import_module(f"modalign.{part.name}")
            names = getattr(room, "__all__", [])
            assert len(set(names)) == len(names)
            assert not [name for name in names if not hasattr(room, name)], part.name
