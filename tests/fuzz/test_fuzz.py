"""Nothing strange gets in: whatever is given is used, or refused in words: what it was, what was expected, what to do.

About a thousand cases, the same in every run. With MODALIGN_FUZZ=10 ten times as many, other ones in each run.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import modalign
from modalign import cli
from modalign.data.load import load_data
from modalign.data.media.manifest_media import prepare_manifest
from modalign.domains import declared
from modalign.errors import InputError, RunError
from modalign.files import explained
from modalign.recipes import GROUPS, load_recipe
from modalign.strategies import load_strategy, strategy_names

MORE = int(os.environ.get("MODALIGN_FUZZ", "1"))
# What a refusal must have beside what is wrong: what was expected, or what to do.
REMEDY = re.compile(
    r"expected|Known:|did you mean|See modalign|"
    r"\b(give|set|choose|check|repeat|restore|leave|train|run|correct|lower|install)\b",
    re.IGNORECASE,
)


def cases(count: int) -> Callable[[Any], Any]:
    """So many examples, drawn alike in every run unless more are asked for."""
    return settings(
        max_examples=count * MORE, derandomize=MORE == 1, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def used_or_refused(action: Callable[[], Any]) -> bool:
    """Whether it was used; if it was refused, the words are looked at."""
    try:
        action()
    except (InputError, RunError) as error:
        said = str(error)
    except OSError as error:  # the command line says it in words
        said = str(explained(error))
    else:
        return True
    assert len(said) > 15, said
    assert REMEDY.search(said), said
    assert "Traceback" not in said
    return False


def files_in(folder: Path) -> set[str]:
    """Everything that lies in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# What is given ------------------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([10**30, -(10**9), 2**63]), st.floats(width=64),
    st.sampled_from(["", "x", "../up", "/etc/passwd", "a\x00b", "ä€😀", "[/x]", "=1+1", "nan", "1e999", "y" * 300]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["a", "name", "x.y", ""]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file that was cut, overwritten, turned into another encoding, or has bytes that are others now."""
    kind = draw(st.sampled_from(["cut", "zeros", "bits", "encoding", "twice", "text", "deep", "empty"]))
    at = draw(st.integers(0, max(0, len(content) - 1)))
    if kind == "cut":
        return content[:at]
    if kind == "zeros":
        return content[:at] + bytes(min(64, len(content) - at)) + content[at + 64 :]
    if kind == "bits":
        changed = bytearray(content or b"\0")
        for place in draw(st.lists(st.integers(0, len(changed) - 1), min_size=1, max_size=8)):
            changed[place] ^= draw(st.integers(1, 255))
        return bytes(changed)
    if kind == "encoding":
        return content.decode("latin-1").encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-8-sig"])))
    if kind == "twice":
        return content + content
    if kind == "text":
        return draw(st.text(max_size=40)).encode("utf-8", "surrogatepass")
    return b"[" * 5000 if kind == "deep" else b""


@st.composite
def changed(draw: st.DrawFn, plain: dict[str, Any]) -> dict[str, Any]:
    """Settings of which some have another value, or another name."""
    found: dict[str, Any] = json.loads(json.dumps(plain))
    for _ in range(draw(st.integers(1, 2))):
        level: Any = found
        while True:
            key = draw(st.sampled_from([*level, "unknown"]) if level else st.just("unknown"))
            if isinstance(level.get(key), dict) and draw(st.booleans()):
                level = level[key]
                continue
            level[key] = draw(VALUES)
            break
    return found


# Recipes and settings -----------------------------------------------------------------------------------------------

RECIPE = yaml.safe_load(
    "data: {name: digits, valid_fraction: 0.2, split_seed: 0, columns: []}\n"
    "model: {width: 8, fusion: concat, encoders: {left: {name: mlp}}, dropout: 0.0}\n"
    "training: {epochs: 1, batch_size: 32, optimizer: sgd, lr: 0.1, schedule: cosine, encoder_lr: {left: 0.5}}\n"
    "strategies: {modalign: {alpha: 1.0, context: label}}\n"
)


@cases(120)
@given(changed(RECIPE))
def test_recipes_with_other_values(tmp_path_factory: pytest.TempPathFactory, plain: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain, allow_unicode=True), encoding="utf-8")
    used_or_refused(lambda: load_recipe(str(path)))


@cases(80)
@given(damaged(yaml.safe_dump(RECIPE).encode()))
@pytest.mark.slow
def test_recipes_that_are_damaged(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_bytes(content)
    used_or_refused(lambda: load_recipe(str(path)))


OPTIONS = [(name, option) for name in strategy_names() for option in declared(load_strategy(name).Options)]


@cases(200)
@given(st.sampled_from(OPTIONS), VALUES)
def test_options_of_methods(option: tuple[str, str], value: Any) -> None:
    kind = load_strategy(option[0])
    used_or_refused(lambda: kind.Options(**{option[1]: value}))


SETTINGS = [(group, option) for group, kind in GROUPS.items() for option in declared(kind)]


@cases(150)
@given(st.sampled_from(SETTINGS), VALUES)
def test_settings_from_python(option: tuple[str, str], value: Any) -> None:
    used_or_refused(lambda: GROUPS[option[0]](**{option[1]: value}))


WORDS = ["--seed", "--out", "--strategy", "--training.epochs", "--data.group", "--model.encoders", "--options.alpha",
         "--resume", "--nothing", "--training.lr=", "--seeds", "--strategies", "--split", "--label"]  # fmt: skip


@cases(30)
@given(
    st.sampled_from([*cli.COMMANDS, "trian", ""]),
    st.lists(st.sampled_from([*WORDS, "digits", "-1", "1e9", "{", "[a", "null", "no", "ä\x00", "="]), max_size=4),
)  # fmt: skip
def test_lines_of_words(command: str, words: list[str]) -> None:
    if "--help" not in words:
        used_or_refused(lambda: cli.parse([command, *words]))


# Data ---------------------------------------------------------------------------------------------------------------


def arrays() -> dict[str, np.ndarray]:
    """A small data set that can be used."""
    rng = np.random.default_rng(0)
    return {
        "a": rng.normal(size=(24, 3)).astype(np.float32), "b": rng.normal(size=(24, 4, 2)).astype(np.float32),
        "y": np.arange(24) % 2, "who": np.repeat(np.arange(8), 3), "split": np.array(["train", "valid", "test"] * 8),
    }  # fmt: skip


SHAPES = st.sampled_from(
    [(24,), (24, 3), (24, 1), (23, 3), (0, 3), (), (24, 0), (24, 2, 2), (24, 3, 2, 2, 2, 2), (1, 3)]
)
KINDS = st.sampled_from(["f4", "f8", "f2", "i8", "i1", "u1", "?", "U3", "S3", "c8", "M8[s]", "O"])


@st.composite
def strange_arrays(draw: st.DrawFn) -> dict[str, Any]:
    """Arrays of which one or two are of another shape, type or content."""
    found: dict[str, Any] = arrays()
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    for name in draw(st.lists(st.sampled_from([*found, "present_a", "id"]), min_size=1, max_size=2)):
        values = np.asarray(2 * rng.normal(size=draw(SHAPES))).astype("i4").astype(draw(KINDS))
        if values.size and values.dtype.kind == "f" and draw(st.booleans()):
            values[(rng.integers(len(values)),) if values.ndim else ()] = draw(
                st.sampled_from([np.nan, np.inf, -np.inf, 1e30])
            )
        found[name] = values
    return found


@cases(160)
@given(strange_arrays(), st.sampled_from([{}, {"group": "who"}, {"modalities": ["a"]}, {"columns": ["b"]}]))
def test_arrays_of_other_shapes_types_and_values(found: dict[str, Any], more: dict[str, Any]) -> None:
    used_or_refused(lambda: load_data(found, **{"target": "y", "modalities": ["a", "b"]} | more))


def stored(kind: str) -> bytes:
    """The arrays, or a table of them, as a file."""
    stream, found = io.BytesIO(), arrays()
    if kind == "npz":
        np.savez(stream, **found)  # type: ignore[arg-type]
    else:
        frame = pd.DataFrame(
            {"x_0": found["a"][:, 0], "x_1": found["a"][:, 1], "y": found["y"], "z": found["b"][:, 0, 0]}
        )
        stream.write(frame.to_csv(index=False).encode()) if kind == "csv" else frame.to_parquet(stream)
    return stream.getvalue()


FILES = {kind: stored(kind) for kind in ("npz", "csv", "parquet")}


@cases(150)
@given(st.data(), st.sampled_from(list(FILES)))
def test_files_of_data_that_are_damaged(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    folder = tmp_path_factory.mktemp("data")
    (folder / f"data.{kind}").write_bytes(data.draw(damaged(FILES[kind])))
    named = ["a", "b"] if kind == "npz" else ["x", "z"]
    used_or_refused(lambda: load_data(str(folder / f"data.{kind}"), target="y", modalities=named))
    assert files_in(folder) == {f"data.{kind}"}


MANIFEST = {
    "name": "clinic", "label": "label", "group": "who", "columns": ["site"],
    "modalities": {"face": {"kind": "image", "size": 8}, "note": "text", "age": "numbers"},
}  # fmt: skip
PLAIN = MANIFEST | {"modalities": {"note": "text", "age": "numbers"}}  # nothing to decode
ROWS = [
    {"id": i, "face": f"{i}.png", "note": ["well", "short of breath"][i % 2], "age": 40 + i % 9, "site": "ab"[i % 2],
     "who": i // 2, "label": ["no", "yes"][i % 2]}
    for i in range(24)
]  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with pictures, and the folder that was prepared of it."""
    folder = tmp_path_factory.mktemp("clinic")
    for i in range(len(ROWS)):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    pd.DataFrame(ROWS).to_csv(folder / "clinic.csv", index=False)
    (folder / "clinic.yaml").write_text(yaml.safe_dump(MANIFEST))
    prepare_manifest(folder / "clinic.csv", folder / "prepared")
    return folder


@cases(60)
@given(changed(PLAIN))
def test_manifests_with_another_description(manifest: Path, plain: dict[str, Any]) -> None:
    before = files_in(manifest)
    (manifest / "other.csv").write_bytes((manifest / "clinic.csv").read_bytes())
    (manifest / "other.yaml").write_text(yaml.safe_dump(plain, allow_unicode=True), encoding="utf-8")
    used_or_refused(lambda: load_data(str(manifest / "other.csv")))
    assert files_in(manifest) == before | {"other.csv", "other.yaml"}


@cases(60)
@given(damaged((pd.DataFrame(ROWS).to_csv(index=False)).encode()))
def test_manifests_that_are_damaged(manifest: Path, content: bytes) -> None:
    (manifest / "other.csv").write_bytes(content)
    (manifest / "other.yaml").write_text(yaml.safe_dump(PLAIN))
    used_or_refused(lambda: load_data(str(manifest / "other.csv")))


@cases(60)
@given(st.data())
def test_prepared_folders_that_are_damaged(manifest: Path, data: st.DataObject) -> None:
    whole, other = manifest / "prepared", manifest / "damaged"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(whole, other)
    path = other / data.draw(st.sampled_from(sorted(p.name for p in whole.iterdir() if p.is_file())))
    path.write_bytes(data.draw(damaged(path.read_bytes())))

    def read() -> None:
        split = load_data(str(other)).train
        split.__getitems__(list(range(len(split))))

    used_or_refused(read)


# Runs ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the arrays."""
    folder = tmp_path_factory.mktemp("run")
    np.savez(folder / "data.npz", **arrays())  # type: ignore[arg-type]
    modalign.train(
        str(folder / "data.npz"), "late_fusion", target="y", modalities=["a", "b"], epochs=1, width=4,
        out=folder / "run", quiet=True,
    )  # fmt: skip
    return folder


@cases(60)
@given(st.data())
@pytest.mark.slow
def test_runs_that_are_damaged(run: Path, data: st.DataObject) -> None:
    other = run / "damaged"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(run / "run", other)
    before = files_in(run)
    files = sorted(str(p.relative_to(other)) for p in other.rglob("*") if p.is_file() and p.stat().st_size)
    path = other / data.draw(st.sampled_from(files))
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    used_or_refused(lambda: modalign.load_run(other).predict({"a": arrays()["a"][:2]}))
    assert files_in(run) == before


@functools.cache
def trained(folder: str) -> modalign.Run:
    """A run that is read once."""
    return modalign.load_run(folder)


@cases(60)
@given(strange_arrays())
def test_new_samples_of_other_shapes_types_and_values(run: Path, found: dict[str, Any]) -> None:
    new = {name: found[name] for name in ("a", "b", "id") if name in found}
    used_or_refused(lambda: trained(str(run / "run")).predict(new))


@cases(12)
@given(st.data())
def test_lines_that_train(run: Path, data: st.DataObject) -> None:
    """By the whole command line: what is not refused trains to its end."""
    group, option = data.draw(st.sampled_from([one for one in SETTINGS if one[0] != "data"]))
    value = data.draw(
        st.sampled_from(["1", "0", "-1", "2.5", "true", "null", "{}", "[]", "nan", "1e30", "adamw", "last", "x y"])
    )
    if option in ("epochs", "devices", "batch_size", "width", "workers", "accumulate"):
        value = data.draw(st.sampled_from(["1", "2", "0", "-1", "x"]))
    out = run / "trained"
    shutil.rmtree(out, ignore_errors=True)
    before = files_in(run)
    line = ["train", str(run / "data.npz"), "--modalities", "a,b", "--label", "y", "--strategy", "joint",
            "--out", str(out), "--training.epochs", "1", "--training.accelerator", "cpu",
            f"--{group}.{option}", value]  # fmt: skip
    if not used_or_refused(lambda: cli.run(line)):
        assert not (out / "done").exists()
    assert {name for name in files_in(run) if not name.startswith("trained")} == before
