"""Griffe extension: docstrings are written to be read as text; this makes Markdown of them."""

import re

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)
_ANGLE = re.compile(r"(`[^`]*`)|<(?=\w)")


class Docstrings(griffe.Extension):
    """Fence examples (``>>>`` would be quotations) and keep scalar products <a, b> from being taken for HTML."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Called for each object when its tree has been read."""
        if obj.docstring is not None:
            text = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```", obj.docstring.value)
            obj.docstring.value = "\n".join(_escaped(text.splitlines()))


def _escaped(lines: list[str]) -> list[str]:
    fenced, escaped = False, []
    for line in lines:
        fenced ^= line.startswith("```")
        code = fenced or line.startswith("    ")  # indented blocks are equations
        escaped.append(line if code else _ANGLE.sub(lambda found: found[1] or "&lt;", line))
    return escaped
