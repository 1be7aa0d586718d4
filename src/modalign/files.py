"""Files, as everything here writes and reads them: whole, inside their folder, one process at a time, with a limit.

What the user names is opened as it is. What a file names (a title, a modality, a link in a folder) never decides where
something is written, and what it claims (a shape, a size, a depth) is looked at before memory is given to it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import yaml

from modalign.errors import DataError, InputError, RunError, RunFolderError, option

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_LONGEST = 100  # bytes of a folder's name; file systems take 255, and endings are added
_DEEPEST, _NODES, _TEXT = 50, 1_000_000, 64 * 2**20  # of a settings file: depth, values (links followed), bytes
_WAIT = 10.0  # seconds for which a killed process's workers may still hold its folder
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


# Names --------------------------------------------------------------------------------------------------------------


def folder_name(text: str) -> str:
    """Return the name of a file or folder for a title, which may hold anything: one part of a path, never hidden.

    A harmless name stays as it is; another is followed by a part of its hash, so that different titles stay different.

    >>> folder_name("digits-halves"), folder_name("alpha0.1-gradient")
    ('digits-halves', 'alpha0.1-gradient')
    >>> folder_name("../../etc"), folder_name("a/b"), folder_name("a:b")
    ('etc-74ccf3c5', 'a_b-c14cddc0', 'a_b-6783a31e')
    """
    safe = re.sub(r"[^\w .,+=()-]", "_", unicodedata.normalize("NFC", text)).lstrip("._- ").rstrip(". ")
    if safe and safe == text and len(safe.encode()) <= _LONGEST:
        return safe
    cut = safe.encode()[: _LONGEST - 9].decode(errors="ignore").rstrip(". ")
    return f"{cut}{'-' if cut else ''}{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def check_inside(folder: Path, *paths: Path) -> None:
    """See that paths in a folder lead to places in that folder.

    Raises:
        RunFolderError: one is, or goes through, a symbolic link to somewhere else.
    """
    root = folder.resolve()
    for path in paths:
        if not path.resolve().is_relative_to(root):
            raise RunFolderError(
                f"{path} is a symbolic link that leads out of {folder}, to {path.resolve()}; expected files of its "
                "own there: remove the link, or choose another folder"
            )


# Writing ------------------------------------------------------------------------------------------------------------


def write_whole(path: str | Path, content: str | bytes | Callable[[BinaryIO], object]) -> Path:
    """Write a file; a kill at any moment leaves the former one or the new one, and a link is replaced, not followed.

    Args:
        path: where; its folder is made.
        content: text (UTF-8), bytes, or a function that writes to a stream.

    Returns:
        The path.

    Raises:
        InputError: nothing can be written there.
        RunError: the disk is full, or the folder was taken away.

    >>> import tempfile
    >>> write_whole(Path(tempfile.mkdtemp()) / "a.txt", "whole").read_text()
    'whole'
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        try:
            with partial.open("xb") as stream:
                if callable(content):
                    content(stream)
                else:
                    stream.write(content.encode() if isinstance(content, str) else content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn an error of the file system into one that says what to do."""
    try:
        yield
    except OSError as error:
        raise explained(error, path) from error


def explained(error: OSError, path: str | Path | None = None) -> InputError | RunError:
    """Return the error for one of the file system: what it was about, why it failed and what to do.

    >>> print(explained(OSError(errno.ENOSPC, "No space left on device"), "last.pt"))
    last.pt cannot be written: the disk is full. Free some space and repeat the command (a training with resume=True)
    """
    where = path if path is not None else error.filename if error.filename is not None else "a file"
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if error.errno in full:
        return RunError(
            f"{where} cannot be written: the disk is full. Free some space and repeat the command (a training with "
            f"{option('resume', True)})"
        )
    why = error.strerror or str(error)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InputError(f"{where}: {why}; expected a place that may be read and written: choose another path")
    if error.errno in (errno.ENOENT, errno.ESTALE) and path is not None and not Path(path).parent.exists():
        return RunError(f"{where} cannot be written: its folder was removed meanwhile. Repeat the command")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ELOOP):
        return InputError(f"{_cut(where)}: {why}; expected the path of a file or folder that can be: correct it")
    return RunError(f"{where}: {why}; the file system failed: see that it is there and repeat the command")


class Busy(RunFolderError):
    """A folder in which another process works."""


@contextlib.contextmanager
def locked(folder: str | Path, wait: float = _WAIT) -> Iterator[None]:
    """Make the folder and be the only process that works in it; what dies lets go of it.

    Args:
        folder: where work is done.
        wait: seconds to wait for another process.

    Raises:
        Busy: another process works in it.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        check_inside(folder, folder / ".lock")
        lock = FileLock(folder / ".lock", is_singleton=True)  # this process may hold it already: a bench that trains
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            raise Busy(
                f"{folder} is in use: another process works in it. Wait until that has ended, or choose another "
                f"{option('out')}"
            ) from None
    try:
        yield
    finally:
        lock.release()


def in_use(folder: Path) -> bool:
    """Return whether a folder holds anything but a lock."""
    return folder.is_dir() and any(entry.name != ".lock" for entry in folder.iterdir())


def plain_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table in which no text is a formula to a spreadsheet: it begins with an apostrophe instead.

    Texts that begin with ``=``, ``+``, ``-``, ``@``, a tab or a line end are changed, names of columns too; numbers are
    not, and neither are texts that are one.

    >>> import pandas as pd
    >>> plain_cells(pd.DataFrame({"id": ["=1+1", "-5", "a"], "p": [-1.0, 2.0, 3.0]})).values.tolist()
    [["'=1+1", -1.0], ['-5', 2.0], ['a', 3.0]]
    """

    def plain(value: Any) -> Any:
        risky = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
        return f"'{value}" if risky and not _NUMBER.fullmatch(value) else value

    shown = table.copy()
    for name in [name for name, column in table.items() if column.dtype.kind not in "biufc"]:
        shown[name] = table[name].map(plain)
    return shown.rename(columns=plain)


def write_csv(path: Path, table: pd.DataFrame, formulas: bool = False, **how: Any) -> Path:
    """Write a table as CSV, whole; without formulas, unless they are asked for."""
    shown = table if formulas else plain_cells(table)
    return write_whole(path, lambda stream: shown.to_csv(stream, index=False, encoding="utf-8", **how))


# Reading ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reading(
    path: str | Path, expected: str, kind: type[InputError] = DataError, remedy: str = "restore or replace it"
) -> Iterator[None]:
    """Turn whatever a reader raises on a damaged file into one error that says file, place, expectation and remedy.

    Readers of damaged files raise nearly anything; what our own checks say of it is passed on.
    """
    try:
        yield
    except (InputError, RunError):
        raise
    except FileNotFoundError:
        raise kind(f"file {_cut(path)} does not exist; expected {expected}: {remedy}") from None
    except Exception as error:
        line = _cut(str(error).partition("\n")[0], 200)
        raise kind(
            f"{_cut(path)} cannot be read ({type(error).__name__}: {line}); expected {expected}: {remedy}"
        ) from error


def read_text(path: str | Path, expected: str, kind: type[InputError] = DataError) -> str:
    """Return a text file (UTF-8, with or without a mark at its beginning).

    Raises:
        InputError: it is not there, is not UTF-8 (the place is named), or is beyond any text written by hand.
    """
    path = Path(path)
    with reading(path, expected, kind):
        if (size := path.stat().st_size) > _TEXT:
            raise kind(f"{path} has {size:,} bytes; expected {expected}, at most {_TEXT:,} bytes: is it another file?")
        content = path.read_bytes()
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise kind(
                f"{path} is not UTF-8: byte {content[error.start]:#04x} in line {line}; expected {expected}: save it "
                "as UTF-8"
            ) from None


class _Loader(yaml.SafeLoader):
    """Reads ``1e-3`` as the number that it is in YAML 1.2."""


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, [*"-+.0123456789"])


def read_settings(path: str | Path, expected: str, kind: type[InputError] = DataError) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file; one that is empty is an empty mapping.

    Raises:
        InputError: it cannot be read, is damaged, holds no mapping, or is deeper or larger than settings are.
    """
    path = Path(path)
    text = read_text(path, expected, kind)
    try:
        loaded = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise kind(f"{path} is no YAML: {error}; expected {expected}: correct it") from None
    except RecursionError:
        raise kind(f"{path} is nested too deeply to be read; expected {expected}: correct it") from None
    except ValueError as error:
        what = "JSON" if path.suffix == ".json" else "YAML"
        raise kind(f"{path} is no {what}: {error}; expected {expected}: correct it") from None
    if loaded is None and path.suffix != ".json":
        return {}
    if not isinstance(loaded, dict):
        raise kind(f"{path} holds {_named(loaded)}; expected {expected}: settings by name")
    for name in loaded:
        if not isinstance(name, str):
            raise kind(f"{path} has the name {name!r}, {_named(name)}; expected {expected}, with words as names")
    _check_size(loaded, path, expected, kind)
    return loaded


def _check_size(loaded: Any, path: Path, expected: str, kind: type[InputError]) -> None:
    """Refuse what is deep, or large once its links are followed (a few lines of YAML can stand for gigabytes)."""
    level, depth, seen = [loaded], 0, 0
    while level:
        depth, seen = depth + 1, seen + len(level)
        if depth > _DEEPEST or seen > _NODES:
            what = f"is nested more than {_DEEPEST} deep" if depth > _DEEPEST else f"holds over {_NODES:,} values"
            raise kind(f"{path} {what}; expected {expected}: correct it")
        below: list[Any] = []
        for entry in level:
            if isinstance(entry, dict | list):
                below.extend(entry.values() if isinstance(entry, dict) else entry)
            if len(below) > _NODES:
                break
        level = below


def _named(value: Any) -> str:
    names: dict[type, str] = {list: "a list", str: "text", int: "a number", float: "a number", type(None): "nothing"}
    return names.get(type(value), f"a {type(value).__name__}")


def _cut(text: object, length: int = 300) -> str:
    shown = str(text)
    return shown if len(shown) <= length else f"{shown[:length]}..."


def read_archive(path: Path, wanted: Callable[[Mapping[str, int]], set[str]] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file by name.

    Args:
        path: the file.
        wanted: as in ``data.tables.files.read_arrays``.

    Raises:
        DataError: it is damaged, an array holds Python objects, or what is needed claims more than the memory.
    """
    import numpy as np

    with reading(path, "an .npz file as numpy.savez writes it"), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        heads = {name: _head(archive, info, name, path) for name, info in members.items()}
        if wanted is None or not (chosen := wanted({name: head.ndim for name, head in heads.items()})) <= {*heads}:
            chosen = {*heads} if wanted is None else set()
        check_claim(sum(heads[name].nbytes for name in chosen), f"{path} ({', '.join(sorted(chosen))})")
        arrays = {}
        for name, head in heads.items():  # those that nobody asks for are not decompressed: zeros that take no memory
            arrays[name] = head
            if name in chosen:
                with archive.open(members[name]) as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, path: Path) -> np.ndarray:
    """Return an array of the shape and type of a member, which takes no memory.

    Raises:
        DataError: the member holds Python objects, or another number of bytes than its head claims.
    """
    import numpy as np

    with reading(f"array {name!r} of {path}", "an array as numpy.savez writes it"), archive.open(info) as stream:
        shape, dtype = _read_head(stream)
        if dtype.hasobject:
            raise DataError(
                f"array {name!r} of {str(path)!r} holds Python objects, which are never unpickled; "
                "save it as numbers or as fixed-width text (array.astype(str))"
            )
        size = info.file_size - stream.tell()
        if math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f"its head claims {shape} of {dtype}, and it holds {size} bytes")
        return np.broadcast_to(np.zeros((), dtype), shape)


def _read_head(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    import numpy as np

    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def read_array(path: str | Path) -> np.ndarray:
    """Return the array of a ``.npy`` file.

    Raises:
        DataError: it cannot be read, holds Python objects, or less than its head claims.
    """
    import numpy as np

    with reading(path, "a plain .npy array, as numpy.save writes it"):
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # compares head and size before memory is asked for
        if not isinstance(mapped, np.ndarray):
            raise ValueError("it is an archive of several arrays")
        check_claim(mapped.nbytes, str(path))
        return np.array(mapped)


# Claims and hashes --------------------------------------------------------------------------------------------------


def memory_limit() -> int:
    """Return the bytes that one thing may ask for: the memory of this machine, or of the group of this process."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else [2**34]
    with contextlib.suppress(OSError, ValueError):
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found)


def check_claim(size: int, what: str, kind: type[InputError] = DataError) -> None:
    """Refuse what claims more bytes than there are, before they are asked for.

    Raises:
        InputError: it does.
    """
    limit = memory_limit()
    if size > limit:
        raise kind(
            f"{what} claims {size / 2**30:,.1f} GiB; expected at most the {limit / 2**30:,.1f} GiB of memory here: is "
            "it damaged? Larger data can be prepared once (modalign prepare), and stays on disk"
        )


def cache_folder() -> Path:
    """``MODALIGN_CACHE`` of the environment, by default ``~/.cache/modalign``."""
    return Path(os.environ.get("MODALIGN_CACHE") or "~/.cache/modalign").expanduser()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; that of a file that has not changed since is not computed again.

    What is remembered lies in the cache: size and times of the file, of which the last cannot be set by hand.
    """
    path = path.resolve()
    about = path.stat()
    state = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
    kept = cache_folder() / "hashes" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        found = json.loads(kept.read_text("utf-8"))
        if found["state"] == state:
            return str(found["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with contextlib.suppress(OSError, InputError, RunError):  # a memory is a comfort
        if about.st_size > 2**16:
            write_whole(kept, json.dumps({"state": state, "sha256": digest}))
    return digest


# Processes ----------------------------------------------------------------------------------------------------------


def end_with_parent() -> None:
    """End this process when the one that started it is gone, however that died: it would work for nobody."""
    import threading
    import time

    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if not any(thread.name == "end_with_parent" for thread in threading.enumerate()):
        threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
