"""What holds a public project together: versions, workflows, templates agree with each other."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib import import_module

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def pinned(root):
    """Reads a file of exact versions."""

    def read(name: str) -> dict[str, Version]:
        lines = [line for line in (root / name).read_text().splitlines() if line and not line.startswith("#")]
        split = [line.split("==") for line in lines]
        return {str(canonicalize_name(package)): Version(version) for package, version in split}

    return read


def test_every_dependency_has_a_lower_bound_and_both_files_of_versions_have_it(project, pinned):
    newest, oldest = pinned("constraints.txt"), pinned("constraints-oldest.txt")
    for requirement in map(Requirement, project["dependencies"]):
        name = str(canonicalize_name(requirement.name))
        bound = next((Version(s.version) for s in requirement.specifier if s.operator == ">="), None)
        assert bound is not None, f"{name} has no lower bound"
        assert newest.get(name, Version("0")) >= bound, f"{name} is not in constraints.txt"
        assert oldest.get(name) == bound, f"write constraints-oldest.txt anew, as its first line says ({name})"


def test_everything_that_is_installed_for_development_has_a_version(project, pinned):
    newest = pinned("constraints.txt")
    for extra in project["optional-dependencies"].values():
        for requirement in map(Requirement, extra):
            own = requirement.name == project["name"]  # an extra that contains another
            assert own or str(canonicalize_name(requirement.name)) in newest, requirement.name


def test_workflows_test_every_python_that_the_package_claims(root, project):
    claimed = {c.rsplit(" ", 1)[1] for c in project["classifiers"] if re.search(r"Python :: 3\.\d+$", c)}
    workflow = yaml.safe_load((root / ".github" / "workflows" / "ci.yml").read_text())
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert set(matrix["python"]) == claimed
    assert [job["dependencies"] for job in matrix["include"]] == ["oldest"]


def test_yaml_of_the_project_is_yaml(root):
    files = [*(root / ".github").rglob("*.yml"), root / ".pre-commit-config.yaml"]
    assert len(files) > 5
    for path in files:
        assert isinstance(yaml.safe_load(path.read_text()), dict), path


def test_the_changelog_has_a_place_for_what_comes_next(root):
    headings = re.findall(r"^## \[(.+?)\]", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1:] == sorted(headings[1:], key=Version, reverse=True)


def test_what_benchmarks_import_of_the_package_exists(root):
    """No test runs them, for they take minutes: a name that was moved would be found by the next who measures."""
    for path in sorted((root / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("modalign"):
                module = import_module(str(node.module))
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        import_module(f"{node.module}.{alias.name}")
