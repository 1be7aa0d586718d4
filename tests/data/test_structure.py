"""The modules of ``data`` depend on one another one way."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest


def imports(path: Path, package: Path) -> set[str]:
    """Modules of ``modalign.data`` that a file imports at any depth, also inside functions; not for types alone."""
    tree = ast.parse(path.read_text())
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            block.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modalign.data."):
            inside = str(node.module).removeprefix("modalign.")
            folder = package.joinpath(*inside.split(".")[1:])
            found |= {f"{inside}.{name.name}" for name in node.names} if folder.is_dir() else {inside}
    return found


def graph(root: Path) -> dict[str, set[str]]:
    package = root / "src" / "modalign" / "data"
    modules = [path for path in package.rglob("*.py") if path.name != "__init__.py"]
    return {".".join(("data", *p.relative_to(package).with_suffix("").parts)): imports(p, package) for p in modules}


def test_no_circle_between_modules(root: Path) -> None:
    found = graph(root)
    assert "data.tables.reader" in found["data.tables.manifest"], "the graph is read"
    assert "data.tables.reader" in found["data.media.folder"]
    TopologicalSorter(found).prepare()
    with pytest.raises(CycleError):
        TopologicalSorter({**found, "data.tables.reader": {"data.media.folder"}}).prepare()


def test_tables_know_neither_files_to_decode_nor_data_sets(root: Path) -> None:
    for module, known in graph(root).items():
        if module.startswith("data.tables."):
            assert not any(name.startswith(("data.media.", "data.datasets.", "data.objects")) for name in known), module
