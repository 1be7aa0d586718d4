"""The exceptions users meet, and the helpers that make their messages useful."""

from __future__ import annotations

import difflib
import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class InputError(ValueError):
    """Something the user gave cannot be used: the message says what was given, what was expected, what to do.

    The command line prints it without a traceback and exits with status 2.

    >>> issubclass(SettingsError, InputError) and issubclass(InputError, ValueError)
    True
    """


class SettingsError(InputError):
    """A setting, an option, a name or an object that cannot be used.

    >>> import modalign
    >>> try:
    ...     modalign.load_strategy("modaling")
    ... except SettingsError as error:
    ...     print(str(error)[:45])
    unknown strategy 'modaling'; did you mean 'mo
    """


class Undefined(SettingsError):
    """A method that is not defined for the data: too few modalities, or another task."""


class DataError(InputError):
    """Data that cannot be used: a file, a column, rows, shapes, labels.

    >>> import modalign
    >>> try:
    ...     modalign.load_data("nowhere.npz")
    ... except DataError as error:
    ...     print("nowhere.npz" in str(error))
    True
    """


class RunFolderError(InputError):
    """A folder that is no run, not a finished one, or one of other settings or data.

    >>> import modalign
    >>> try:
    ...     modalign.load_run("nowhere")
    ... except RunFolderError as error:
    ...     print(error)
    nowhere is not a run folder: it has no recipe.yaml
    """


class RunError(RuntimeError):
    """A training that did not come to its end, for a reason that the message gives.

    The command line prints it without a traceback and exits with status 1.

    >>> issubclass(Diverged, RunError) and issubclass(Interrupted, RunError)
    True
    """


class Diverged(RunError):
    """A loss term is no longer finite; the last good checkpoint is kept."""


class RunsFailed(RunError):
    """Some runs of many diverged; the others are kept.

    Args:
        message: what that means.
        failed: the runs, a line each, which are added to the message.
    """

    def __init__(self, message: str, failed: Sequence[str] = ()) -> None:
        super().__init__("\n".join([message, *failed]))
        self.failed = list(failed)


class Interrupted(RunError):
    """The run was stopped by a signal after leaving a checkpoint to resume from."""


_SPOKEN: ContextVar[str] = ContextVar("interface", default="")  # of this thread
_INTERFACE = "MODALIGN_INTERFACE"  # in the environment, so that worker processes of the command line speak as it does
_PARAMETERS = ("modalities", "encoders", "fusion", "options", "epochs", "batch_size", "lr", "optimizer", "width",
               "valid_fraction")  # fmt: skip


@contextmanager
def speaking(interface: Literal["command line", "estimator", "manifest"]) -> Iterator[None]:
    """Let messages name options as an interface takes them; as Python functions take them without it."""
    token = _SPOKEN.set(interface)
    if interface == "command line":
        os.environ[_INTERFACE] = interface
    try:
        yield
    finally:
        _SPOKEN.reset(token)
        if interface == "command line":
            os.environ.pop(_INTERFACE, None)


def option(name: str, value: object = None) -> str:
    """Return an option in the words of the interface in use, so that a remedy can be followed as it stands.

    Args:
        name: on the command line, such as ``data.options.drop``; the last part is its name in Python.
        value: what it is to be set to; None where the message names the option only.

    >>> option("data.options.drop", "y<0"), option("training.lr"), option("resume", True)
    ("drop='y<0'", 'lr', 'resume=True')
    >>> with speaking("command line"):
    ...     option("data.options.drop", "y<0"), option("training.lr"), option("resume", True)
    ("--data.options.drop 'y<0'", '--training.lr', '--resume')
    >>> with speaking("estimator"):
    ...     option("data.options.drop", "y<0"), option("training.lr")
    ("settings={'drop': 'y<0'}", 'lr')
    """
    interface, last = _SPOKEN.get() or os.environ.get(_INTERFACE), name.rpartition(".")[2]
    if interface == "command line" or (interface == "manifest" and last not in ("impute", "task")):
        text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
        return f"--{name}" + (f" {shlex.quote(text)}" if text and (value is not True or "." in name) else "")
    if interface == "manifest":
        return f"{last}: {value} in the .yaml beside the table"
    if interface == "estimator" and last not in _PARAMETERS:
        return f"settings={{{last!r}: {'...' if value is None else repr(value)}}}"
    return last if value is None else f"{last}={value!r}"


def nearest(given: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest of ``known``, or an empty string if none is close."""
    match = difflib.get_close_matches(given[:200], list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def unknown(kind: str, given: str, known: Iterable[str]) -> SettingsError:
    """Error for a name that does not exist: names the nearest and lists all.

    >>> str(unknown("strategy", "modaling", ["joint", "modalign"]))
    "unknown strategy 'modaling'; did you mean 'modalign'? Known: joint, modalign."
    """
    names = list(known)
    hint = nearest(str(given), names) or ";"
    return SettingsError(f"unknown {kind} {given!r}{hint} Known: {', '.join(names) or 'none'}.")


class Problems(list[str]):
    """Problems found so far with ``subject``.

    >>> inner, outer = Problems("age"), Problems("table")
    >>> inner += ["no number", "no unit"]
    >>> outer.trying(inner.stop)
    >>> outer          # a line each, however deep they were found
    ['age: no number', 'age: no unit']
    """

    def __init__(self, subject: str) -> None:
        super().__init__()
        self.subject = subject

    def trying(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Result of ``function``, or None after its ``InputError`` has been noted."""
        try:
            return function(*args, **kwargs)
        except InputError as error:
            head, *lines = str(error).split("\n- ")
            subject, count, _ = head.rpartition(f"{len(lines)} problems")
            self += [f"{subject}{line}" for line in lines] if count and lines else [str(error)]
            return None

    def stop(self, error: type[InputError] = DataError) -> None:
        """Raise what was found.

        Raises:
            InputError: ``error``, where there is at least one problem; the message has them all.
        """
        subject = f"{self.subject}: " if self.subject else ""
        if len(self) == 1:
            raise error(f"{subject}{self[0]}")
        if self:
            raise error(f"{subject}{len(self)} problems\n" + "\n".join(f"- {line}" for line in self))
