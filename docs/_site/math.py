"""MkDocs hook: equations become MathML while the site is built, so that reading it needs no script and no network."""

import html
import re

from latex2mathml.converter import convert

_FUNCTION = re.compile(r"(<mi>(?:log|exp|max|min|arcsin)</mi>)(?=<mi|<mrow><mi|<mfrac|<msup|<msub)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: object) -> str:
    """Replace what ``pymdownx.arithmatex`` marked as a formula."""
    return _FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    display = found[2] == "["
    formula = convert(html.unescape(found[3]).strip(), display="block" if display else "inline")
    formula = _FUNCTION.sub(r'\1<mspace width="0.17em"/>', formula)  # "log h", not "logh"
    return f'<div class="formula">{formula}</div>' if display else formula
