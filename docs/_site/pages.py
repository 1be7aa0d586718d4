"""Pages made while the site is built: one a method, one a public module, the glossary, and the project's own files.

Run by mkdocs-gen-files. Sources are read as text and never imported, so that the site builds without torch.
"""

import ast
import re
from pathlib import Path

import mkdocs_gen_files
import yaml

ROOT = Path(mkdocs_gen_files.config["config_file_path"]).parent
PACKAGE = ROOT / "src" / "modalign"
# What the API reference shows: the names in ``__all__`` of each, or all its modules where it has no such list.
REFERENCE = ("", "information", "estimators", "strategies", "models", "data", "evaluation")


def write(path: str, text: str) -> None:
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)


def public_names(package: Path) -> list[str]:
    """The names in ``__all__`` of a package, without importing it."""
    for node in ast.parse((package / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["__all__"]:
            return [name for name in ast.literal_eval(node.value) if not name.startswith("__")]
    return []


def strategy(path: Path) -> tuple[str, str] | None:
    """Class and title of the method in a file: the class that has a ``title``."""
    for node in ast.parse(path.read_text()).body:
        for line in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "title":
                return node.name, ast.literal_eval(line.value)
    return None


def method_pages() -> None:
    found = {path.stem: strategy(path) for path in sorted((PACKAGE / "strategies").glob("*.py"))}
    methods = {name: entry for name, entry in found.items() if entry is not None}
    # In the order of README's table, then others by name.
    readme = (ROOT / "README.md").read_text()
    order = sorted(methods, key=lambda name: (readme.find(f"`{name}`") % (len(readme) + 1), name))
    rows = ["| name | in tables | |", "|---|---|---|"]
    for name in order:
        title = methods[name][1]
        says = ast.get_docstring(ast.parse((PACKAGE / "strategies" / f"{name}.py").read_text())) or ""
        about = says.splitlines()[0].split(": ", 1)[-1] if says else ""
        rows.append(f"| [`{name}`]({name}.md) | {title} | {about} |")
        write(
            f"methods/{name}.md",
            f"# {title}\n\n```sh\nmodalign train digits --strategy {name}\n```\n\n"
            f"::: modalign.strategies.{name}\n    options:\n      show_root_heading: false\n"
            "      show_root_toc_entry: false\n      heading_level: 2\n",
        )
    index = (ROOT / "docs" / "methods" / "index.md").read_text()
    write("methods/index.md", index.replace("<!-- methods -->", "\n".join(rows)))
    lines = ["* [All methods](index.md)"] + [f"* [{methods[name][1]}]({name}.md)" for name in order]
    write("methods/SUMMARY.md", "\n".join(lines))


def reference_pages() -> None:
    lines = ["* [What it is](index.md)"]
    # Each name is shown once, or references to it are ambiguous: what ``modalign`` passes on, at its home.
    homes = {name: part for part in reversed(REFERENCE) if part for name in public_names(PACKAGE / part)}
    for part in REFERENCE:
        package, shown = PACKAGE / part, f"modalign.{part}".rstrip(".")
        names = public_names(package)
        if not names:
            modules = sorted(path.stem for path in package.glob("*.py") if not path.stem.startswith("_"))
            names = [name for name in modules if part]
        about = (ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or "").splitlines()
        elsewhere = [] if part else [name for name in names if name in homes]
        links = [f"[`{name}`](modalign.{homes[name]}.md#modalign.{homes[name]}.{name})" for name in elsewhere]
        also = f"Also here, described where they are at home: {', '.join(links)}." if links else ""
        entries = "\n\n".join(f"::: {shown}.{name}" for name in names if name not in elsewhere)
        write(f"api/{shown}.md", f"# `{shown}`\n\n{about[0] if about else ''}\n\n{also}\n\n{entries}\n")
        lines.append(f"* [{shown}]({shown}.md)")
    write("api/SUMMARY.md", "\n".join(lines))


def project_pages() -> None:
    """Files of the repository's root, their links made to fit."""
    for name in ("CONTRIBUTING", "SECURITY", "CHANGELOG"):
        text = (ROOT / f"{name}.md").read_text()
        text = re.sub(r"\]\(docs/", "](", text)
        text = re.sub(
            r"\]\((\w+)\.md\)", lambda link: f"]({link[1].lower()}.md)" if link[1].isupper() else link[0], text
        )
        write(f"{name.lower()}.md", text)


def glossary_page() -> None:
    """What the report says of its numbers, in the place of a mark on the page."""
    lines = []
    for group, terms in yaml.safe_load((PACKAGE / "reporting" / "glossary.yaml").read_text()).items():
        lines += [f"## {group}", "", "| Number | How to read it |", "|---|---|"]
        lines += [f"| **{term}** | {meaning} |" for term, meaning in terms.items()] + [""]
    page = (ROOT / "docs" / "glossary.md").read_text()
    write("glossary.md", page.replace("<!-- glossary -->", "\n".join(lines)))


method_pages()
glossary_page()
reference_pages()
project_pages()
