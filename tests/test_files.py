"""Files are written whole and inside their folder, read with a limit, and one process works in a folder at a time."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modalign import cli
from modalign.data.load import load_data
from modalign.data.tables.files import read_arrays
from modalign.errors import DataError, InputError, RunError, RunFolderError, SettingsError
from modalign.files import (
    Busy,
    check_inside,
    explained,
    file_digest,
    folder_name,
    locked,
    memory_limit,
    plain_cells,
    read_archive,
    read_array,
    read_settings,
    write_whole,
)

STRANGE = ["../up", "/abs/olute", "a/b", "..", ".", "", "x" * 500, "é" * 200, "a\0b", "-x", "\ud800", ".hidden", "[/x]"]


@pytest.mark.parametrize("title", STRANGE)
def test_a_title_becomes_one_part_of_a_path(title):
    name = folder_name(title)
    assert name == folder_name(name)
    assert Path(name).parts == (name,)
    assert len(name.encode()) <= 100
    assert not name.startswith((".", "-"))


def test_different_titles_stay_different_and_harmless_ones_stay_what_they_are():
    assert len({folder_name(title) for title in STRANGE}) == len(STRANGE)
    assert folder_name("a/b") != folder_name("a:b")
    for title in ("digits", "CREMA-D (speakers)", "alpha0.1-gradient", "Göttingen 2"):
        assert folder_name(title) == title


def test_a_write_that_fails_leaves_the_former_file_and_nothing_else(tmp_path):
    path = write_whole(tmp_path / "deep" / "a.txt", "first")

    def fails(stream):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match=r"a\.txt cannot be written: the disk is full\. Free some space"):
        write_whole(path, fails)
    assert path.read_text() == "first"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "foreign").write_text("foreign")
    (tmp_path / "a.txt").symlink_to(tmp_path / "foreign")
    write_whole(tmp_path / "a.txt", "own")
    assert (tmp_path / "foreign").read_text() == "foreign"
    assert not (tmp_path / "a.txt").is_symlink()


def test_links_that_lead_out_of_a_folder_are_refused(tmp_path):
    inner = tmp_path / "run"
    inner.mkdir()
    (inner / "out").symlink_to(tmp_path)
    check_inside(inner, inner / "in" / "deep")
    with pytest.raises(RunFolderError, match=r"symbolic link that leads out"):
        check_inside(inner, inner / "out" / "file")


@pytest.mark.parametrize(
    ("path", "number", "kind", "said"),
    [
        ("place", errno.ENOSPC, RunError, "the disk is full"),
        ("place", errno.EROFS, InputError, "choose another path"),
        ("place", errno.EACCES, InputError, "choose another path"),
        ("gone/place", errno.ENOENT, RunError, "its folder was removed"),
        ("place", errno.ENOENT, InputError, "correct it"),  # as in /proc, where nothing can be made
        ("place", errno.ENAMETOOLONG, InputError, "correct it"),
        ("place", errno.EIO, RunError, "the file system failed"),
    ],
)
def test_every_error_of_the_file_system_says_what_to_do(path, number, kind, said):
    found = explained(OSError(number, os.strerror(number)), path)
    assert isinstance(found, kind)
    assert "place" in str(found)
    assert said in str(found)


HOLD = """
import sys, time
from modalign.files import locked
with locked(sys.argv[1]):
    print(1, flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_until_it_is_gone(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(Busy, match="another process works in it"), locked(tmp_path, wait=0):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path, wait=5), locked(tmp_path, wait=0):  # twice in one process: a bench that trains
        pass


def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    child = "import time; from modalign.files import *; end_with_parent(); print(1, flush=True); time.sleep(60)"
    parent = f"""
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE)
        child.stdout.readline()
        print(child.pid, flush=True)
        time.sleep(60)
    """
    started = subprocess.Popen([sys.executable, "-c", textwrap.dedent(parent)], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    pid = int(started.stdout.readline())
    started.kill()
    started.wait()
    for _ in range(200):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    pytest.fail("the child works on")


def test_texts_are_no_formulas_and_numbers_stay_numbers():
    table = pd.DataFrame(
        {"=id": ["=1+1", "+cmd|x", "-2", "-2e-3", "-x", "@sum", "\t=1", "plain", None], "score": -np.arange(9.0)}
    )
    shown = plain_cells(table)
    assert shown["'=id"].tolist()[:8] == ["'=1+1", "'+cmd|x", "-2", "-2e-3", "'-x", "'@sum", "'\t=1", "plain"]
    assert shown["score"].tolist() == table["score"].tolist()


# Reading ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: \xff\xfe", "is not UTF-8: byte 0xff in line 1"),
        (b"a: 1\nb: caf\xe9", "is not UTF-8: byte 0xe9 in line 2"),
        (b"[" * 1200, "nested too deeply"),
        (b"a: " + b"[" * 60 + b"]" * 60, "nested more than 50 deep"),
        (b"- a\n- b", "holds a list"),
        (b"3", "holds a number"),
        (b"a: [", "is no YAML"),
        (b"1: 2", "has the name 1"),
        (b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
            b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(8)
        ), "holds over 1,000,000 values"),
    ],
)  # fmt: skip
def test_strange_settings_are_refused_with_their_place(tmp_path, content, said):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"recipe\.yaml") as found:
        read_settings(path, "a recipe", SettingsError)
    assert said in str(found.value)
    assert "expected a recipe" in str(found.value)


def claiming(path: Path, shape: str) -> Path:
    """Write an archive of which the head of one array claims any shape."""
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(64))
    return path


def test_an_array_that_claims_more_than_it_holds_is_refused_before_memory_is_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"its head claims \(100000000000000,\) of float64, and it holds 64 bytes"):
        read_archive(claiming(tmp_path / "d.npz", "(100000000000000,)"))
    with zipfile.ZipFile(tmp_path / "d.npz") as archive:
        (tmp_path / "a.npy").write_bytes(archive.read("a.npy"))
    with pytest.raises(DataError, match=r"a\.npy cannot be read .*expected a plain .npy array"):
        read_array(tmp_path / "a.npy")


def test_arrays_that_nobody_asks_for_are_not_decompressed(tmp_path, monkeypatch):
    y = np.arange(40) % 2
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in {
            "a": np.random.default_rng(0).normal(size=(40, 3)),
            "y": y,
            "junk": np.zeros(10**6),
        }.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, array)
    monkeypatch.setattr("modalign.files.memory_limit", lambda: 100_000)
    assert list(load_data(tmp_path / "d.npz").modalities) == ["a"]
    with pytest.raises(DataError, match=r"claims .* GiB; expected at most"):
        read_arrays(tmp_path / "d.npz")
    with pytest.raises(DataError, match=r"unknown modality 'b'.*Known: a, y, junk"):
        load_data(tmp_path / "d.npz", modalities=["b"])


@pytest.mark.parametrize("position", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_damaged_archives_are_refused_in_words(tmp_path, position):
    np.savez_compressed(tmp_path / "d.npz", a=np.random.default_rng(0).normal(size=(40, 3)), y=np.arange(40) % 2)
    content = bytearray((tmp_path / "d.npz").read_bytes())
    at = int(position * len(content))
    content[at : at + 8] = bytes(255 - byte for byte in content[at : at + 8])
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(InputError, match="expected"):
        load_data(tmp_path / "d.npz")


def test_a_hash_is_computed_again_when_a_file_has_changed(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(200_000))
    about, first = path.stat(), file_digest(path)
    path.write_bytes(bytes(199_999) + b"x")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))  # as a copy that keeps times would have it
    assert file_digest(path) != first
    assert file_digest(path) == file_digest(path)


def test_the_limit_is_the_memory_there_is():
    assert 2**28 < memory_limit() < 2**50


# The boundary -------------------------------------------------------------------------------------------------------


def ended(capsys, words: list[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    return int(stop.value.code or 0), capsys.readouterr().err


def test_a_mistake_of_the_package_says_so_and_keeps_its_traceback(tmp_path, monkeypatch, capsys):
    def wrong() -> None:
        """Fail."""
        raise ZeroDivisionError("a mistake")

    monkeypatch.setitem(cli.COMMANDS, "datasets", wrong)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    status, said = ended(capsys, ["datasets"])
    assert status == 1
    assert "ZeroDivisionError: a mistake\nThis is a mistake of modalign" in said
    assert "Traceback" not in said
    assert "in wrong" in (tmp_path / "modalign-error.txt").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["train", "x" * 5000],
        ["train", "x" * 5000 + ".yaml"],
        ["train", "digits", "--out", "y" * 5000],
        ["train", "a\0b.yaml"],
        ["train", "digits", "--out", "file/run"],
        ["report", "file"],
        ["predict", "file", "file.npz"],
        ["evaluate", "z" * 5000],
    ],
)
def test_paths_that_cannot_be_are_refused_in_words(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    status, said = ended(capsys, words)
    assert (status, "Traceback" in said, "mistake of modalign" in said) == (2, False, False), said


def test_a_full_disk_is_explained(tmp_path, monkeypatch, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    monkeypatch.chdir(tmp_path)
    real = os.fsync

    def full(number: int) -> None:
        if "last.pt" in os.readlink(f"/proc/self/fd/{number}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    monkeypatch.setattr(os, "fsync", full)
    status, said = ended(capsys, ["train", "digits", "--strategy", "joint", "--training.epochs", "1", "--out", "run"])
    assert (status, "Traceback" in said) == (1, False)
    assert "last.pt cannot be written: the disk is full" in said
    assert not list((tmp_path / "run").rglob("*.partial"))
    monkeypatch.setattr(os, "fsync", real)
    cli.main(["train", "digits", "--strategy", "joint", "--training.epochs", "1", "--out", "run", "--resume"])
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 1
