"""The page: self-contained, complete with broken runs in the folder, and sound in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from modalign.data.task import classification
from modalign.evaluation.diagnosis import evaluate_model
from modalign.report.html import write_report

MakeRun = Callable[..., Path]
VOID = {"meta", "link", "img", "br", "hr"}


class Outline(HTMLParser):
    """Headings, ids, tags in balance, and figures with their texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.labels: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in found:
            self.ids.append(found["id"] or "")
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if found.get("role") == "img" or tag == "img":
            self.labels.append(found.get("aria-label") or found.get("alt") or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.handle_starttag(tag, attrs)
            self.handle_endtag(tag)
        else:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class Half:
    value, stderr, kind, method, trusted, warnings = 0.5, 0.1, "plug-in", "constant", False, ("near log N",)


@pytest.fixture(scope="module")
def page(module_bench: Path) -> Path:
    """The report of the bench, one run with an evaluation and pictures, and a sweep."""
    bench = module_bench
    run = bench / "runs/letters/modalign/seed0"
    with np.load(run / "predictions_test.npz") as p:
        heads, target, classes, groups = p["unimodal"], p["target"], p["classes"], p["groups"]
    names = ["audio", "video"]
    found = evaluate_model(
        classification(classes),
        lambda keep: sum((h for n, h in zip(names, heads, strict=True) if n in keep), 0 * heads[0]),
        names,
        target,
        heads=heads,
        groups=groups,
        features=dict(zip(names, heads, strict=True)),
        estimate=lambda *data, groups: Half(),
        repeats=20,
    )
    (run / "evaluation.json").write_text(json.dumps(found))
    (run / "examples.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"></svg>')
    points = [
        {"alpha": a, "margin": m, "seed": s, "fusibility": a, "complementarity": 1.0, "accuracy": 0.7}
        for a in (0.0, 1.0)
        for m in (True, False)
        for s in (0, 1)
    ]
    (bench / "tradeoff.json").write_text(json.dumps({"default": 1.0, "points": points}))
    return write_report([bench], bench / "out" / "report.html")


def test_page_is_complete_and_self_contained(page: Path) -> None:
    text = page.read_text()
    outline = Outline(text)
    assert not outline.open
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))
    assert len(outline.labels) >= 14
    assert all(len(label) > 10 for label in outline.labels)
    addresses = re.findall(r"""(?:src|href|action)\s*=\s*["']([^"']*)""", text)
    assert all(a.startswith(("#", "data:")) for a in addresses)
    assert "@import" not in text
    for reference in re.findall(r"url\(#([^)]*)\)", text):
        assert reference in outline.ids


def test_page_says_what_matters(page: Path) -> None:
    text = page.read_text()
    assert "ModAlign has the highest test accuracy" in text
    assert "result.json cannot be read" in text
    assert "stopped after 12 epochs" in text
    assert "letters: methods have between 2 and 3 seeds" in text
    assert "letters, ModAlign: I(audio;video), I(audio;video|target) cannot be trusted: near log N" in text
    assert "22 finished of 25 runs: 4 methods on 2 data sets" in text
    assert "batch_size: 64" in text
    assert "0123abc" in text
    assert "Across data sets" in text


def test_names_are_escaped(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run", title="<script>alert(1)</script>", dataset="a & <b>", warnings=["x < y"])
    text = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    assert "x &lt; y" in text
    Outline(text)


def test_only_broken_runs_still_give_a_page(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("{")
    text = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "0 finished of 1 runs" in text
    assert "result.json cannot be read" in text


def test_other_tasks(tmp_path: Path, make_run: MakeRun) -> None:
    metrics = {split: {"mae": 0.5} for split in ("valid", "test", "test_last")}
    make_run(tmp_path / "run", task="regression", metric="mae", metrics=metrics)
    text = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "the lowest test mae" in text


FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--dump-dom",
    "--virtual-time-budget=4000",
)  # fmt: skip
PROBE = """<!doctype html><html><body>
<iframe id="wide" style="width:1280px;height:900px" srcdoc="{page}"></iframe>
<iframe id="phone" style="width:390px;height:800px" srcdoc="{page}"></iframe>
<pre id="found"></pre><script>
addEventListener("load", function () {{
  var found = {{}};
  document.querySelectorAll("iframe").forEach(function (frame) {{
    var page = frame.contentDocument, root = page.documentElement;
    page.querySelectorAll("thead button")[1].click();
    var loaded = frame.contentWindow.performance.getEntriesByType("resource").map(function (e) {{ return e.name; }});
    found[frame.id] = {{
      scroll: root.scrollWidth, width: root.clientWidth, sorted: page.querySelectorAll("[aria-sort]").length,
      requests: loaded.filter(function (name) {{ return name.indexOf("data:") !== 0; }}),
      figures: Array.from(page.querySelectorAll("figure svg")).filter(function (s) {{
        return s.getBoundingClientRect().height > 50; }}).length
    }};
  }});
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script></body></html>"""


def test_in_a_browser(page: Path, tmp_path: Path) -> None:
    """No error in the console, no request, no horizontal overflow at desktop and phone width."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium installed (Debian: apt-get install chromium)")
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(page=html.escape(page.read_text())))
    command = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    written = re.search(r'<pre id="found">(.+?)</pre>', done.stdout)
    assert written is not None
    for name, found in json.loads(html.unescape(written[1])).items():
        assert found["scroll"] <= found["width"], name
        assert found["requests"] == []
        assert found["sorted"] == 1
        assert found["figures"] >= 12
