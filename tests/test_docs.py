"""What the pages say holds: commands parse, links lead somewhere, names exist."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from modalign import cli
from modalign.recipes import load_recipe, recipe_names
from modalign.strategies import strategy_names

ROOT = Path(__file__).resolve().parents[1]
HOW_TO = sorted(f"docs/howto/{path.name}" for path in (ROOT / "docs" / "howto").glob("*.md"))
PAGES = ["README.md", "docs/index.md", "docs/reproduce.md", "docs/diagnosis.md", *HOW_TO]


def commands(page: Path) -> list[str]:
    """The ``modalign ...`` lines of a page's code blocks, without comments and prompts."""
    found = []
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.split(r"\s+#", line.strip())[0].removesuffix(" &").removeprefix("srun ")
            line = re.sub(r"^(CUDA_VISIBLE_DEVICES=\d|torchrun .*? -m (?=modalign ))\s*", "", line)
            if line.startswith("modalign ") and "..." not in line and line.split()[1] in cli.COMMANDS:
                found.append(line)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(root, page):
    lines = commands(root / page)
    assert lines
    for line in lines:
        words = shlex.split(line.replace("$k", "1"))[1:]
        if "--help" not in words:
            cli.parse(words)


@pytest.mark.parametrize("page", [*HOW_TO, "docs/index.md", "README.md"])
def test_python_of_a_page_runs_from_top_to_bottom(root, tmp_path, monkeypatch, page):
    blocks = re.findall(r"^```python\n(.*?)^```", (root / page).read_text(), re.DOTALL | re.MULTILINE)
    if not blocks:
        assert page in (
            "docs/howto/compare.md",
            "docs/howto/several-gpus.md",
            "docs/howto/slurm.md",
            "docs/howto/worked-example.md",
        )
        return
    for module in ("anndata", "mudata"):
        if f"import {module}" in "\n".join(blocks):
            pytest.importorskip(module, reason="needs pip install 'modalign[omics]'")
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(blocks))
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="MkDocs is not installed (make docs installs it)"
)
def test_the_site_builds_without_a_warning(root, tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    for name in strategy_names():
        assert (tmp_path / "site" / "methods" / name / "index.html").exists()
    assert "<math" in (tmp_path / "site" / "method" / "index.html").read_text()
    assert "Selection gap" in (tmp_path / "site" / "glossary" / "index.html").read_text()


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs"])
def test_links_lead_somewhere(root, page):
    pages = sorted((root / page).rglob("*.md")) if (root / page).is_dir() else [root / page]
    for path in pages:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path}: {target}"


def test_readme_names_every_method(root):
    text = (root / "README.md").read_text()
    for name in strategy_names():
        assert f"`{name}`" in text


@pytest.mark.parametrize("page", ["README.md", "docs/method.md"])
def test_equations_are_where_a_page_says(root, page):
    text = (root / page).read_text()
    assert "conditional_nce" in text
    for file, function in re.findall(r"\| `([\w/]+\.py)` \| `([\w.]+)` \|", text):
        source = (root / "src" / "modalign" / file).read_text()
        assert all(re.search(rf"(def|class) {part}\b", source) for part in function.split("."))


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_commented_and_parse(root, name):
    recipe = load_recipe(name)
    assert recipe.data.shown == name
    path = root / "src" / "modalign" / "recipes" / f"{name}.yaml"
    assert path.read_text().startswith("#")
    assert set(recipe.strategies) <= set(strategy_names())


def test_a_recipes_name_is_the_recipe_also_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert load_recipe("digits").model.width == 32
    assert load_recipe("./digits").data.path == "digits"
