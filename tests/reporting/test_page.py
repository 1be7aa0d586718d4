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
from typing import Any

import numpy as np
import pytest
import yaml
from markupsafe import escape

import modalign
from modalign.errors import InputError, RunFolderError
from modalign.evaluation.contributions import Example, Extremes
from modalign.reporting.diagnosis import evaluation_tables
from modalign.reporting.page import run_html, write_report

MakeRun = Callable[..., Path]
Diagnose = Callable[[Path], dict[str, Any]]
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


@pytest.fixture(scope="module")
def page(module_bench: Path, diagnose: Diagnose) -> Path:
    """The report of the bench, two runs with an evaluation, one of them with pictures, and a sweep."""
    bench = module_bench
    run = bench / "runs/letters/modalign/seed0"
    diagnose(run)
    diagnose(bench / "runs/letters/joint/seed0")
    samples = [Example(f"sample {i}", {"audio": np.eye(9), "video": "a word"}, {"audio": "says a"}) for i in (0, 1)]
    Extremes({"audio surer than video": samples}, {"audio": "sequence", "video": "text"}).save(run / "examples.npz")
    trials = [{"state": "complete", "value": v, "lr": v, "alpha": 1.0 + v} for v in (0.3, 0.2)]
    search = {"dataset": "letters", "row": "modalign", "chosen": {"lr": 0.2, "options": {"alpha": 1.2}}}
    (bench / "tune.json").write_text(json.dumps({"chosen": [search | {"trials": trials}]}))
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
    assert "letters: methods have between 2 and 3 runs" in text
    assert "I(audio;video), I(audio;video|target) cannot be trusted: near log N" in text
    assert "22 finished of 25 runs: 4 methods on 2 data sets" in text
    assert "batch_size: 64" in text
    assert "0123abc" in text
    assert "Across data sets" in text
    assert "Samples at both extremes" in text


def test_the_glossary_has_the_numbers_of_the_tables(page: Path, root: Path) -> None:
    text = page.read_text()
    groups = yaml.safe_load((root / "src/modalign/reporting/glossary.yaml").read_text())
    terms = {term: meaning for group in groups.values() for term, meaning in group.items()}
    assert text.count("<dt id=") == len(terms) > 30
    assert all(f"<dd>{escape(meaning)}</dd>" in text for meaning in terms.values())
    known = " ".join(terms).lower()
    heads = "95 % interval, p (Holm), Rank, Selection gap, Mean rank, Own head, Others masked, P(worse, same, better)"
    for head in re.findall(r"[^,(]+(?:\([^)]*\))?", heads):
        assert f">{head.strip()}<" in text
        assert head.strip().lower() in known


def test_the_main_finding_stands_before_all_else(page: Path) -> None:
    text = page.read_text()
    places = [text.index(part) for part in ("In short", "Methods compared", "Read with care", '<h2 id="data-')]
    assert places == sorted(places)
    assert text.count("Methods compared") == 1  # not once more with each data set


def test_every_figure_says_what_it_is_of(page: Path) -> None:
    text = page.read_text()
    notes = re.findall(r'</figcaption>.*?<p class="note">(.*?)</p></figure>', text, re.DOTALL)
    assert len(notes) == text.count("<figure") >= 14
    assert all(len(note) > 20 for note in notes)
    assert "95 % bootstrap intervals over 9 groups" in text
    assert "180 predictions of 1 seed" not in text
    assert "540 predictions of 3 seeds" in text
    assert "Hatched amounts are not to be trusted" in text


def test_every_method_is_shown_by_choice_and_the_headline_first(page: Path) -> None:
    text = page.read_text()
    methods = re.findall(r'<div class="methods">(.*?)</div>\s*</section>', text, re.DOTALL)
    _, letters = methods
    titles = re.findall(r'<details class="method"( open)?><summary>(.*?)</summary>', letters)
    assert titles[0] == (" open", "ModAlign")
    assert not any(opened for opened, _ in titles[1:])
    assert re.findall("<option>(.*?)</option>", letters) == [title for _, title in titles]
    for _, title in titles:
        assert f"What {title} confuses" in letters
        assert f"Can the confidence of {title} be trusted?" in letters
    assert letters.count("Samples at both extremes") == letters.count("What the search tried") == 1
    doubts = re.search(r"(\d+) more, of single models, stand with each method", text)
    assert doubts is not None
    boxes = re.findall(r'<div class="warnings">(.*?)</div>', text, re.DOTALL)
    assert sum(box.count("<li>") for box in boxes) == int(doubts[1])


def test_terms_lead_to_the_glossary(page: Path) -> None:
    """The head of a column, the title of a figure and the name of a score say what they mean, and where it stands."""
    text = page.read_text()
    for before, term in (
        ("p (Holm)</button>", "p (Holm)"),
        ("Selection gap</button>", "Selection gap"),
        ("Test accuracy (%)</button>", "Accuracy"),
        ("Difference to ModAlign</button>", "Difference, its 95 % interval"),
        ("negative log-likelihood (nats)", "NLL (nats)"),
        ("What ModAlign did in training", "Weights of the pool (lambda)"),
        ("? is not to be trusted)", "Nat"),
    ):
        found = re.search(re.escape(before) + r'<a class="hint" href="#([^"]*)" title="([^"]*)"', text)
        assert found is not None, before
        assert found[2].startswith(f"{term}: ")
        assert f'<dt id="{found[1]}">{term}</dt>' in text
    assert "Precision</button></th>" in text  # not taken for p


def test_a_damaged_file_of_samples_is_named(tmp_path: Path, make_run: MakeRun, diagnose: Diagnose) -> None:
    run = make_run(tmp_path / "run")
    diagnose(run)
    np.savez(run / "examples.npz", about=np.array("{}"))
    with pytest.raises(InputError, match=r"examples\.npz holds no samples of an evaluation.*evaluate the run anew"):
        write_report([tmp_path], tmp_path / "report.html")


def test_doubted_parts_are_marked(tmp_path: Path, make_run: MakeRun, diagnose: Diagnose) -> None:
    run = make_run(tmp_path / "run")
    found = diagnose(run)
    for doubts, marked in (([], False), (["too few"], True)):
        found["information"]["splits"][0]["decomposed"]["warnings"] = doubts
        (table,) = [table for table in evaluation_tables(found) if table.name == "decomposition"]
        assert all(cell.endswith(" ?") == marked for cell in table.frame.loc[0, "Both tell":"In all"])
        assert ("? is not to be trusted" in table.caption) == marked


@pytest.mark.slow
def test_names_are_escaped(tmp_path: Path, make_run: MakeRun, diagnose: Diagnose) -> None:
    nasty = '"><script>alert(1)</script>'
    run = make_run(tmp_path / "run", nasty, title=nasty, dataset=nasty, warnings=["x < y"], options={"a": nasty})
    found = json.loads(json.dumps(diagnose(run)).replace("class a", nasty.replace('"', "'")))
    (run / "evaluation.json").write_text(json.dumps(found | {"warnings": [nasty]}))
    text = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    assert text.count("alert(1)") > 10
    assert "x &lt; y" in text
    Outline(text)
    small = run_html(run)
    assert "<script>alert" not in small
    assert small.count("alert(1)") >= 3
    Outline(small)


def test_a_run_in_a_notebook_says_what_it_reached(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", accuracy=0.75, warnings=["more epochs may give more"])
    text = run_html(run)
    for said in ("ModAlign", "letters", "accuracy (%)", "75.0", "Validation", "epochs 12", "alpha=3.0", str(run)):
        assert said in text
    assert "more epochs may give more" in text
    (run / "done").unlink()
    assert "unfinished: stopped after 12 epochs" in run_html(run)


def test_only_broken_runs_still_give_a_page(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("{")
    text = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "0 finished of 1 runs" in text
    assert "result.json cannot be read" in text


@pytest.mark.parametrize("about", [{"modalities": [1]}, {"samples": "many"}])
def test_a_damaged_description_of_the_data_is_named(tmp_path: Path, about: dict[str, Any]) -> None:
    run = modalign.train("digits", "joint", epochs=1, out=tmp_path / "run", quiet=True)
    (run.folder / "data.json").write_text(json.dumps({"info": about}))
    with pytest.raises(RunFolderError, match=r"data\.json"):
        write_report([tmp_path], tmp_path / "report.html")


def test_other_tasks(tmp_path: Path, make_run: MakeRun) -> None:
    metrics = {split: {"mae": 0.5} for split in ("valid", "test", "test_last")}
    make_run(tmp_path / "run", task="regression", metric="mae", metrics=metrics)
    text = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "the lowest test MAE" in text


FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
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


def find_browser() -> str:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium installed (Debian: apt-get install chromium)")
    return browser


PRINTED = """<!doctype html><html><body><iframe id="paper" style="width:700px;height:900px" srcdoc="{page}"></iframe>
<pre id="found"></pre><script>
addEventListener("load", function () {{
  var page = document.getElementById("paper").contentWindow;
  var folded = function () {{ return page.document.querySelectorAll("details:not([open])").length; }};
  var found = [folded()];
  page.dispatchEvent(new Event("beforeprint")); found.push(folded());
  page.dispatchEvent(new Event("afterprint")); found.push(folded());
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script></body></html>"""


def test_what_is_folded_is_printed(page: Path, tmp_path: Path) -> None:
    probe = tmp_path / "probe.html"
    probe.write_text(PRINTED.format(page=html.escape(page.read_text())))
    flags = [*FLAGS, "--dump-dom", "--virtual-time-budget=4000", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([find_browser(), *flags, probe.as_uri()], capture_output=True, text=True, timeout=120)
    written = re.search(r'<pre id="found">(.+?)</pre>', done.stdout)
    assert written is not None
    before, printing, after = json.loads(written[1])
    assert before == after > 0
    assert printing == 0


def test_in_a_browser(page: Path, tmp_path: Path) -> None:
    """No error in the console, no request, no horizontal overflow at desktop and phone width."""
    browser = find_browser()
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(page=html.escape(page.read_text())))
    command = [
        browser,
        *FLAGS,
        "--dump-dom",
        "--virtual-time-budget=4000",
        f"--user-data-dir={tmp_path / 'profile'}",
        probe.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    written = re.search(r'<pre id="found">(.+?)</pre>', done.stdout)
    assert written is not None
    for name, found in json.loads(html.unescape(written[1])).items():
        assert found["scroll"] <= found["width"], name
        assert found["requests"] == []
        assert found["sorted"] == 1
        assert found["figures"] >= 12


def luminance(color: str) -> float:
    digits = color if len(color) == 6 else "".join(2 * c for c in color)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", [0, 1, 2], ids=["light", "dark", "printed"])
def test_contrast_is_enough(palette: int) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11: 4.5 for text, 3 for what figures draw."""
    style = (Path(modalign.__file__).parent / "reporting" / "page.css").read_text()
    block = re.findall(r"--ground:[^}]*", style)[palette]
    colors = dict(re.findall(r"--([a-z-]+): #([0-9a-f]+);", block))

    def contrast(first: str, second: str) -> float:
        low, high = sorted([luminance(colors[first]), luminance(colors[second])])
        return (high + 0.05) / (low + 0.05)

    text = [(ink, on) for ink in ("ink", "quiet", "accent") for on in ("ground", "card")]
    for ink, on in [*text, ("ink", "best"), ("warn", "warn-ground"), ("ink", "warn-ground")]:
        assert contrast(ink, on) >= 4.5, (ink, on)
    for drawn in ("axis", "blue"):
        assert contrast(drawn, "card") >= 3, drawn
