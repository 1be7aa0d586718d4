"""The floors of the house: a module imports only from floors below its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

# From the ground up; rooms of one floor do not know each other.
FLOORS = [
    {"errors"},
    {"domains"},
    {"settings"},
    {"classes", "files", "protocols"},
    {"information", "data", "recipes"},
    {"estimators", "models"},
    {"strategies", "evaluation"},
    {"training"},
    {"experiments"},
    {"reporting"},
    {"api"},
    {"learn"},
    {"cli", "__init__"},
    {"__main__"},
]


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, at any depth of its code, but for type checking."""
    found = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "modalign":
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.split(".")[0] == "modalign"}
    return found


def test_imports_only_run_down(root):
    level = {name: i for i, floor in enumerate(FLOORS) for name in floor}
    package = root / "src" / "modalign"
    wrong = []
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        own = parts[0]
        for module in imports(path):
            other = room(module)
            if other != own and level[other] >= level[own]:
                wrong.append(f"{'/'.join(parts)} imports {module}")
    assert not wrong


def test_information_knows_only_torch_and_errors(root):
    """The mathematics can be taken into any loop: of the package it needs only the error class."""
    for path in (root / "src" / "modalign" / "information").glob("*.py"):
        assert {room(m) for m in imports(path)} <= {"information", "errors"}, path.name


def test_information_needs_nothing_but_torch(root):
    """No SciPy, NumPy, scikit-learn or pandas: of other people's packages the mathematics needs PyTorch alone."""
    for path in (root / "src" / "modalign" / "information").rglob("*.py"):
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path.name} has a relative import"
                found.add((node.module or "").split(".")[0])
        assert found - sys.stdlib_module_names <= {"torch", "modalign"}, path.name


def test_only_one_module_knows_the_distributed_library(root):
    users = [path.name for path in (root / "src").rglob("*.py") if "lightning_fabric" in path.read_text()]
    assert users == ["distributed.py"]


def test_importing_the_package_is_immediate():
    code = "import modalign, sys; print(sorted({'torch', 'numpy', 'transformers', 'pandas'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
