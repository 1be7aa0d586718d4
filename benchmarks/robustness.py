"""Ask again everything that was once insecure, silent or a traceback, and write down what is said now.

    python benchmarks/robustness.py docs/results/robustness.md

replaces the table in the page. Each line is a command (or Python) in a folder of its own; a traceback, or silence where
words are expected, ends the program with an error. A minute on one core.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import modalign
from modalign import cli
from modalign.domains import declared
from modalign.errors import InputError, RunError
from modalign.strategies import load_strategy, strategy_names

SHORT = ["--training.epochs", "1", "--training.accelerator", "cpu", "--model.width", "4"]
rows: list[tuple[str, str, str, str]] = []
failed: list[str] = []


def said(action: Callable[[], Any]) -> tuple[str, str]:
    """What an action comes to (``refused``, ``runs`` or ``traceback``) and what it says."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            found = action()
        except SystemExit as stop:
            words = err.getvalue().strip()
            if stop.code in (0, None):
                return "runs", words
            return ("traceback" if "Traceback" in words or "a bug" in words else "refused"), words
        except (InputError, RunError) as error:
            return "refused", f"error: {error}"
        except Exception:
            return "traceback", traceback.format_exc()
    return "runs", str(found) if isinstance(found, str) else out.getvalue()


def ask(item: str, what: str, before: str, action: Callable[[], Any], expected: str = "refused") -> None:
    """Add a line to the table; ``expected`` is ``refused``, ``runs``, or words that must be among what is said."""
    state, words = said(action)
    if state != expected and not (expected not in ("refused", "runs") and expected in words and state != "traceback"):
        failed.append(f"{item}: {what}: {state}: {words[-600:]}")
    found = next((x for x in words.splitlines() if state == "runs" and expected in x), words)
    shown = re.sub(r"\s+|y{40,}", " ", found.replace(str(Path.cwd()), ".")).removeprefix("error: ").strip()
    cut = shown if len(shown) < 170 else f"{shown[:165]} ..."
    rows.append((item, what, before, f"{'refused: ' if state == 'refused' else ''}{cut}"))


def line(words: str) -> Callable[[], Any]:
    """A line of the command line."""
    return lambda: cli.main(words.split())


def train(words: str = "", data: str = "d.npz", out: str = "run") -> str:
    """A line that trains on small data."""
    return f"train {data} --strategy joint --out {out} {' '.join(SHORT)} {words}"


def arrays(**more: Any) -> dict[str, Any]:
    """Sixty rows with two classes, of twenty speakers."""
    rng, y = np.random.default_rng(0), np.arange(60) % 2
    found = {"a": rng.normal(size=(60, 3)) + y[:, None], "b": rng.normal(size=(60, 2)), "y": y}
    return found | {"who": np.repeat(np.arange(20), 3), "split": np.array(["train"] * 36 + ["valid"] * 12 + ["test"] * 12)} | more  # fmt: skip  # noqa: E501


def strip_tags(page: Path) -> str:
    """The texts of a page, line by line."""
    return re.sub(r"<[^>]*>", "\n", page.read_text())


def security() -> None:
    """Item 1."""
    Path("evil.py").write_text(
        "import pathlib\npathlib.Path('ran').touch()\nfrom modalign.strategies.joint import Joint\n"
        "class Evil(Joint):\n    title = 'Evil'\n"
    )
    cli.main(train(out="safe").split())
    shutil.copytree("safe", "stranger")
    plain = yaml.safe_load(Path("stranger/recipe.yaml").read_text())
    for path in ("evil.py", str(Path("evil.py").resolve()), "evil.Evil"):
        Path("stranger/recipe.yaml").write_text(yaml.safe_dump(plain | {"strategy": path}))
        for command in ("predict stranger d.npz --out p.csv", "evaluate stranger --quick"):
            named = "/…/evil.py" if path.startswith("/") else path
            ask("1", f"{command.split(' --')[0]}, recipe.yaml names {named}", "the file ran", line(command))
    assert not Path("ran").exists()
    cli.main(f"train d.npz --strategy evil.py --out own {' '.join(SHORT)}".split())
    Path("ran").unlink()
    ask("1", "evaluate own --quick (a run of one's own evil.py)", "ran", line("evaluate own --quick"))
    ask("1", "the same --allow-code", "ran", line("evaluate own --quick --allow-code"), "accuracy")
    for title in ("../../up", "/absolute"):
        words = f"bench d.npz --strategies joint --seeds 1 --jobs 1 --out b{len(title)} --data.title {title}"
        ask("1", words, "written outside", line(f"{words} {' '.join(SHORT)}"), "joint")
    outside = {p.name for p in Path.cwd().parent.iterdir()} - {Path.cwd().name}
    assert not [name for name in outside if name == "up"]
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("x")
    Path("m.csv").write_text("id,label,face\n" + "".join(f"{i},{'ab'[i % 2]},{i}.png\n" for i in range(20)))
    Path("m.yaml").write_text("modalities:\n  face: {kind: image, size: 4}\n")
    ask("1", "prepare m.csv --out mine (a thesis in it)", "overwritten", line("prepare m.csv --out mine --fresh"))
    np.savez("new.npz", a=arrays()["a"][:2], b=arrays()["b"][:2], id=["=1+1", "@x"])
    ask(
        "1",
        "predict safe new.npz (id =1+1)",
        "a formula in 316 cells",
        lambda: [cli.main(["predict", "safe", "new.npz", "--out", "f.csv"]), Path("f.csv").read_text()][1],
        "'=1+1",
    )
    shutil.copytree("safe", "page")
    result = json.loads(Path("page/result.json").read_text())
    Path("page/result.json").write_text(json.dumps(result | {"strategy": '"><img src=x onerror=alert(1)>'}))
    ask(
        "1",
        'report page (strategy: "&gt;&lt;img onerror=…)',
        "ran in the browser",
        line("report page --html r.html"),
        "runs",
    )
    assert "<img src=x" not in Path("r.html").read_text()
    claimed = np.lib.format.header_data_from_array_1_0(np.zeros(1)) | {"shape": (10**12,)}
    with zipfile.ZipFile("huge.npz", "w") as archive, archive.open("a.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, claimed)
    ask(
        "1", "train huge.npz (an array that claims 8 TB)", "asked for the memory", line(train(data="huge.npz", out="h"))
    )


def changes() -> None:
    """Item 2."""
    cli.main(train("--training.epochs 2", out="done").split())
    bench = f"bench d.npz --strategies joint --seeds 1 --jobs 1 --out bb {' '.join(SHORT)}"
    cli.main(bench.split())
    shutil.copytree("done", "half")
    Path("half/done").unlink()
    kept = Path("d.npz").read_bytes()
    base = arrays()
    swapped = base["split"].copy()
    swapped[[0, 59]] = swapped[[59, 0]]
    for name, changed in {
        "values": arrays(a=base["a"] + 1e-3), "rows": {k: v[::-1] for k, v in base.items()},
        "labels": arrays(y=np.r_[1 - base["y"][:2], base["y"][2:]]), "split": arrays(split=swapped),
    }.items():  # fmt: skip
        np.savez("d.npz", **changed)
        ask("2", f"{name} changed, train --resume", "went on", line(train("--training.epochs 2 --resume", out="half")))
        for what, words in {
            "evaluate": "evaluate done --quick",
            "bench completed": bench.replace("--seeds 1", "--seeds 2"),
            "report": "report bb --html r2.html",
        }.items():
            if name in ("values", "labels"):
                ask("2", f"{name} changed, {what}", "went on", line(words))
    Path("d.npz").write_bytes(kept)


def domains() -> None:
    """Item 3."""
    options = {"alpha": -1, "eta": -1, "rho": -1, "ramp": -1, "memory": -1, "critic_width": 0}
    for name, value in options.items():
        words = f"train d.npz --strategy modalign --options.{name} {value} --out x {' '.join(SHORT)}"
        ask("3", f"modalign --options.{name} {value}", "silent", line(words))
    for strategy, name, value in (("infonce", "weight", -1), ("infonce", "temperature", -1), ("pmr", "momentum", 2)):
        words = f"train d.npz --strategy {strategy} --options.{name} {value} --out x {' '.join(SHORT)}"
        ask("3", f"{strategy} --options.{name} {value}", "silent", line(words))
    for name, value in (
        ("training.momentum", 2), ("training.weight_decay", -5), ("training.warmup", 5), ("training.warmup", -1),
        ("training.clip", 0), ("training.clip", -1), ("training.checkpoint_minutes", -1), ("training.patience", 0),
        ("training.samples_per_context", 0), ("model.dropout", 1.0), ("training.encoder_lr", '{"a":-1}'),
    ):  # fmt: skip
        ask("3", f"--{name} {value}", "silent", line(f"{train()} --{name} {value}"))
    ask(
        "3",
        "train synthetic --data.options {'correlation':1e30}",
        "silent",
        line(f"train synthetic --out x --strategy joint {' '.join(SHORT)} --data.options {{'correlation':1e30}}"),
    )
    count, wrong = 0, []
    for strategy in strategy_names():
        kind = load_strategy(strategy).Options
        for name in declared(kind):
            for value in ("x", [1, "a"], {"a": 1}, float("nan"), 10**400, float("inf"), -(10**30), b"\0"):
                count += 1
                if said(lambda: kind(**{name: value}))[0] == "traceback":  # noqa: B023
                    wrong.append(f"{strategy}.{name}={value!r}")
    failed.extend(f"3: traceback: {one}" for one in wrong)
    rows.append(("3", f"every option of every method, 8 values of other types ({count} cases)", "a traceback in 39 options", f"{len(wrong)} tracebacks"))  # fmt: skip  # noqa: E501


def meaning() -> None:
    """Item 4."""

    def notes(d: dict[str, Any], **how: Any) -> Callable[[], str]:
        how = {"target": "y", "modalities": ["a", "b"]} | how
        return lambda: "\n".join(modalign.load_data(d, **how).notes)

    base = arrays()
    a, b, y, part = base["a"], base["b"], base["y"], base["split"]
    three = np.arange(60) % 3
    copied = np.r_[a[:48], a[:12]]
    ask("4", "the label is a modality", "silent", notes(base, modalities=["a", "y"]))
    ask("4", "the label's copy is a modality", "silent", notes(arrays(c=y[:, None] * 1.0), modalities=["a", "c"]))
    ask("4", "the group is a modality", "silent", notes(base, modalities=["a", "who"], group="who"))
    ask("4", "the split column is a modality", "silent", notes(arrays(hold=1 * (part == "test")), modalities=["a", "hold"], split="hold==1"), "decides which rows")  # fmt: skip  # noqa: E501
    ask("4", "as many classes as samples", "silent", notes(arrays(y=np.array([f"p{i}" for i in range(60)]))))
    ask("4", "targets that count rows", "silent", notes(arrays(y=np.arange(60) + 100), task="regression"), "rows")
    ask("4", "every test row a copy of a training row", "silent", notes(arrays(a=copied, b=np.r_[b[:48], b[:12]])))
    ask("4", "copies in one modality", "silent", notes(arrays(a=copied)), "'a' of 100%")
    ask("4", "a constant modality", "silent", notes(arrays(a=np.ones((60, 3)))), "tells nothing")
    ask(
        "4",
        "constant in training only",
        "silent",
        notes(arrays(a=np.r_[np.ones((36, 3)), a[36:]])),
        "nothing is learned",
    )
    ask("4", "two identical modalities", "silent", notes(arrays(b=a)), "are the same")
    ask("4", "a class absent from validation", "silent", notes(arrays(y=np.where((part == "valid") & (three == 2), 1, three))), "validation")  # fmt: skip  # noqa: E501
    ask("4", "a class absent from test", "silent", notes(arrays(y=np.where((part == "test") & (three == 2), 1, three))), "test")  # fmt: skip  # noqa: E501
    ask("4", "validation of one class", "silent", notes(arrays(y=np.where(part == "valid", 0, y))), "one class alone")
    one = part.copy()
    one[37:48] = "train"
    ask("4", "validation of one row", "silent", notes(arrays(split=one)), "one validation row")
    one = part.copy()
    one[49:] = "train"
    ask("4", "a test of one row", "silent", notes(arrays(split=one)), "one test row")
    ask("4", "1e38", "silent", notes(arrays(a=np.where(np.arange(180).reshape(60, 3) == 7, 1e38, a))))
    ask("4", "whole numbers beyond 2^24", "silent", notes(arrays(a=np.arange(180).reshape(60, 3) + 2**24)), "digits")
    ask("4", "presence as text", "silent", notes(arrays(present_a=np.array(["maybe"] * 60))))
    ask("4", "presence as NaN", "silent", notes(arrays(present_a=np.where(y == 0, np.nan, 1.0))))
    ask(
        "4",
        "labels that differ by a blank",
        "silent",
        notes(arrays(y=np.array(["cat", "dog", "cat "])[three])),
        "blanks",
    )
    ask("4", "labels that differ by case", "silent", notes(arrays(y=np.array(["cat", "dog", "Cat"])[three])), "case")
    ask(
        "4",
        "one wild regression target",
        "silent",
        notes(arrays(y=np.r_[1e6, a[1:, 0]]), task="regression"),
        "far from",
    )
    ask("4", "classes given twice", "silent", notes(base, classes=["0", "1", "1"]))
    ask("4", "a class that never occurs", "silent", notes(base, classes=["0", "1", "2"]), "without a single row")


def boundary() -> None:
    """Item 5."""
    for name, content in {
        "not UTF-8": "data: {name: digits}\n".encode("utf-16"),
        "of another shape": b"- 1\n- 2\n",
        "5,000 deep": b"[" * 5000,
        "with a bomb of links": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n".encode() for i in range(9)),
    }.items():
        Path("r.yaml").write_bytes(content)
        ask("5", f"train r.yaml, {name}", "a traceback", line(train(data="r.yaml", out="x")))
    Path("m.csv").write_bytes("id,label,note\n1,a,ä\n".encode("utf-16"))
    ask("5", "prepare m.csv, not UTF-8", "a traceback", line("prepare m.csv --out pp"))
    content = bytearray(Path("d.npz").read_bytes())
    content[200:260] = bytes(60)
    Path("bad.npz").write_bytes(content)
    ask("5", "train bad.npz, a damaged member", "a traceback", line(train(data="bad.npz", out="x")))
    np.save("names.npy", np.array(["a", {"b": 1}], dtype=object), allow_pickle=True)
    np.savez("pickled.npz", **arrays(y=np.array(["a", {"b": 1}] * 30, dtype=object)))  # type: ignore[arg-type]
    ask("5", "train pickled.npz, pickled labels", "a traceback", line(train(data="pickled.npz", out="x")))
    np.savez("mixed.npz", **arrays(split=np.array([1, 2, 3] * 20)))
    ask("5", "train mixed.npz, splits 1, 2, 3", "a traceback", line(train(data="mixed.npz", out="x")))
    for path, change in {
        "checkpoints/best.pt": b"",
        "result.json": b"[1, 2]",
        "network.json": b"[1]",
        "data.json": b"3",
    }.items():
        shutil.rmtree("broken", ignore_errors=True)
        shutil.copytree("safe", "broken")
        Path("broken", path).write_bytes(change)
        command = "report broken --html r3.html" if path == "result.json" else "predict broken d.npz --out p9.csv"
        what = f"{command.split(' --')[0]}, {path} is {change.decode() or 'empty'}"
        if path == "result.json":
            cli.main(command.split())
            ask("5", what, "a traceback", lambda: strip_tags(Path("r3.html")), "result.json")
        else:
            ask("5", what, "a traceback", line(command))
    ask("5", "bench --strategies no/such.py", "a traceback", line("bench d.npz --strategies no/such.py --out x"))
    ask("5", "train --out of 300 letters", "a traceback", line(train(out="y" * 300)))
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 4; {sys.executable} -m modalign {train(out='small')}"],
        capture_output=True,
        text=True,
    )
    ask("5", "train, the disk is full (ulimit -f 4)", "a traceback", lambda: done.stderr, "the disk is full")
    assert "Traceback" not in done.stderr


def folders() -> None:
    """Item 6."""
    from modalign.files import locked

    with locked("busy"):
        command = [sys.executable, "-m", "modalign", *train(out="busy").split()]
        done = subprocess.run(command, capture_output=True, text=True)
    ask("6", "two trainings at once in one folder", "mixed files", lambda: done.stderr, "is in use")
    ask("6", "train into a finished run", "–", line(train(out="safe")))
    shutil.copytree("safe", "changed")
    path = Path("changed/checkpoints/best.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64 * [7])
    path.write_bytes(content)
    ask("6", "predict, 64 bytes of best.pt changed", "other predictions", line("predict changed d.npz --out p7.csv"))
    diverging = "--training.lr 1e6 --training.warmup 0 --training.epochs 5"
    words = f"bench d.npz --strategies joint,unimodal --seeds 1 --jobs 1 --out dv {' '.join(SHORT)} {diverging}"
    ask("6", "bench, every run diverges (--training.lr 1e6)", "an error of the statistics", line(words))
    ask("6", "bench --strategies /…/evil.py,joint", "NotADirectoryError",
        line(f"bench d.npz --strategies {Path('evil.py').resolve()},joint --seeds 1 --jobs 1 --out ab {' '.join(SHORT)}"), "evil")  # fmt: skip  # noqa: E501


def main(page: Path) -> None:
    """Ask everything; replace the table of the page."""
    page = page.resolve()
    with tempfile.TemporaryDirectory() as folder:
        inner = Path(folder) / "deep" / "er"
        inner.mkdir(parents=True)
        os.chdir(inner)
        np.savez("d.npz", **arrays())
        for part in (security, changes, domains, meaning, boundary, folders):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                part()
        os.chdir("/")
    escaped = [[cell.replace("|", r"\|").replace("<", "&lt;") for cell in row] for row in rows]
    table = ["| item | command | before | now |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in escaped)]
    start, end = "<!-- robustness:begin -->\n", "<!-- robustness:end -->"
    old = page.read_text()
    page.write_text(old[: old.index(start) + len(start)] + "\n".join(table) + "\n" + old[old.index(end) :])
    print(f"{len(rows)} lines, {len(failed)} not as they should be", *failed, sep="\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
