"""Every example in a docstring gives what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from modalign.reporting import style

SOURCE = Path(__file__).resolve().parents[1] / "src"
MODULES = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((SOURCE / "modalign").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_of(module, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # an example may write without saying where
    monkeypatch.setattr(style, "KINDS", ("svg",))  # for speed
    found = doctest.testmod(importlib.import_module(module), verbose=False)
    assert found.attempted > 0, f"{module} has '>>> ' outside of docstrings only"
    assert found.failed == 0, capsys.readouterr().out
