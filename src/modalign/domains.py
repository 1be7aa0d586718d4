"""Domains: what a setting may be stands in its type, beside its default, and one function checks all of them.

``alpha: NonNegative = 1.0`` declares a finite number of 0 or more; types without a domain are checked by type. The
domains are notes in ``typing.Annotated``, which everything else (parsers, type checkers, help) reads as the plain type.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from modalign.errors import Problems, SettingsError, nearest, unknown

LARGEST = 2**63 - 1
"""No number of a setting is beyond it: what is larger overflows somewhere."""


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, which belong to it unless they are ``above`` and ``below``.

    >>> str(Range(above=0, most=1)), Range(above=0, most=1).holds(0.0)
    ('above 0 and at most 1', False)
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Return whether a number lies between the bounds."""
        low = (self.least is None or value >= self.least) and (self.above is None or value > self.above)
        return low and (self.most is None or value <= self.most) and (self.below is None or value < self.below)

    def __str__(self) -> str:
        bounds = {"of at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {bound:,}" for word, bound in bounds.items() if bound is not None)


@dataclass(frozen=True)
class Words:
    """Some words; ``column:NAME`` among them, in capitals, stands for ``column:`` and any name.

    Args:
        words: all of them.
        gone: words of earlier versions and what to use instead.

    >>> Words(("label", "column:NAME")).holds("column:age")
    True
    """

    words: Sequence[str]
    gone: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def holds(self, value: str) -> bool:
        """Return whether it is one of the words."""
        kind, _, name = value.partition(":")
        parts = [word.partition(":") for word in self.words]
        return any(kind == word and (bool(name) if of.isupper() else name == of) for word, _, of in parts)

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


Positive = Annotated[float, Range(above=0, most=10**6)]
NonNegative = Annotated[float, Range(least=0, most=10**6)]
Share = Annotated[float, Range(least=0, most=1)]
Part = Annotated[float, Range(above=0, most=1)]  # a share that is not nothing
Decay = Annotated[float, Range(least=0, below=1)]  # momentum, dropout: all of it would be nothing
Count = Annotated[int, Range(least=1, most=2**31 - 1)]
Whole = Annotated[int, Range(least=0, most=2**31 - 1)]
Width = Annotated[int, Range(least=1, most=2**16)]  # features, channels: squares of them are held in memory
Seed = Annotated[int, Range(least=0, most=2**32 - 1)]


def check_values(
    of: Callable[..., Any], values: Mapping[str, Any], prefix: str = "", what: str = "", skip: Collection[str] = ()
) -> None:
    """Refuse values outside the domains that a dataclass or the arguments of a function declare, all at once.

    Args:
        of: dataclass, class or function.
        values: name to value.
        prefix: what stands before names in messages.
        what: what a name is, in the message of one that ``of`` does not have; empty where the names are its own.
        skip: arguments that are no settings.

    Raises:
        SettingsError: says of each value what was given and what is expected.

    >>> def train(lr: Positive = 0.02, epochs: Count = 30): ...
    >>> check_values(train, {"lr": -1}, "training.")
    Traceback (most recent call last):
        ...
    modalign.errors.SettingsError: training.lr is -1; expected a number above 0 and at most 1,000,000, such as 0.02
    """
    known = declared(of)
    problems = Problems("")
    for name, value in values.items():
        if name in known and name not in skip:
            problems += wrong(prefix + name, value, *known[name])
        elif what and "**" not in known:
            problems.append(str(unknown(what, name, [one for one in known if one not in skip])))
    problems.stop(SettingsError)


class Checked:
    """Dataclasses whose values are checked when they are made; ``where`` stands before their names in messages."""

    where: ClassVar[str] = "options."

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            SettingsError: see ``check_values``.
        """
        check_instance(self, self.where)


def check_instance(settings: Any, prefix: str) -> None:
    """Refuse a dataclass's instance by ``check_values``; its fields may have been set after it was made."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    check_values(type(settings), values, prefix)


def declared(of: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return name to type and default (``inspect.Parameter.empty`` where there is none) of what ``of`` takes.

    ``**`` is among the names where any name is taken.

    >>> declared(Range)["least"]
    (float | None, None)
    """
    nothing, found = inspect.Parameter.empty, dict[str, tuple[Any, Any]]()
    try:
        plain = inspect.isclass(of) and not dataclasses.is_dataclass(of)
        hints = get_type_hints(of.__init__ if plain else of, include_extras=True)
    except (NameError, TypeError, AttributeError):  # types that only its own author can name
        hints = {}
    if dataclasses.is_dataclass(of):
        # By name: a class that was pickled with its code brings a constant of its own.
        missing = type(dataclasses.MISSING).__name__
        for field in dataclasses.fields(of):
            default = field.default_factory() if callable(field.default_factory) else field.default
            found[field.name] = hints.get(field.name, Any), nothing if type(default).__name__ == missing else default
        return found
    for name, parameter in inspect.signature(of).parameters.items():
        name = "**" if parameter.kind is parameter.VAR_KEYWORD else name
        if parameter.kind is not parameter.VAR_POSITIONAL:
            found[name] = hints.get(name, Any), parameter.default
    return found


def wrong(name: str, value: Any, hint: Any, default: Any = inspect.Parameter.empty) -> list[str]:
    """Return what is wrong with a value, a line each: nothing, or what was given, what is expected, and an example.

    >>> wrong("training.encoder_lr", {"left": 1, "right": "fast"}, dict[str, NonNegative])
    ["training.encoder_lr.right is 'fast'; expected a number of at least 0 and at most 1,000,000"]
    """
    if fits(value, hint):
        return []
    for kind in _alternatives(hint):
        if get_origin(kind) is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return [line for key, one in value.items() for line in wrong(f"{name}.{key}", one, get_args(kind)[1])]
    hints = [note for note in _notes(hint) if isinstance(note, Words)]
    gone = next((note.gone[value] for note in hints if isinstance(value, str) and value in note.gone), "")
    near = nearest(value, [word for note in hints for word in note.words]) if isinstance(value, str) else ""
    such = default is not inspect.Parameter.empty and default not in (None, "") and fits(default, hint)
    said = repr(value)
    said = said if len(said) <= 60 else f"{said[:57]}..."
    expected = f"{name} is {said}; expected {describe(hint)}{f', such as {default!r}' if such else ''}"
    return [f"{name} {value!r} is gone; {gone}" if gone else expected + near]


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of a type and in its domain; of types that are not plain only the class is looked at.

    A truth value is no number, a whole number is one, and infinities and NaN are not.

    >>> fits(True, int), fits(1, float), fits(float("nan"), float), fits([1], list[Count]), fits(None, int | None)
    (False, True, False, True, True)
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        notes = [note for note in args[1:] if isinstance(note, (Range, Words))]
        return fits(value, args[0]) and all(note.holds(value) for note in notes)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in args)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in args)
    if hint in (None, types.NoneType):
        return value is None
    if hint is int or hint is float:
        number = isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
        return number and abs(value) <= (LARGEST if isinstance(value, int) else math.inf) and math.isfinite(value)
    if hint in (bool, str):
        return isinstance(value, hint)
    kind = origin or hint
    if dataclasses.is_dataclass(kind):
        return isinstance(value, (kind, dict))  # type: ignore[arg-type]
    if kind in (dict, Mapping):
        return isinstance(value, Mapping) and (
            not args or all(fits(key, args[0]) and fits(one, args[1]) for key, one in value.items())
        )
    if kind in (list, tuple, Sequence, Collection):
        if not isinstance(value, (list, tuple)):
            return False
        if kind is tuple and args and Ellipsis not in args:
            return len(value) == len(args) and all(map(fits, value, args))
        return not args or all(fits(one, args[0]) for one in value)
    return True


def describe(hint: Any) -> str:
    """Return what is expected, in words.

    >>> describe(dict[str, NonNegative] | None), describe(Literal["a", "b"]), describe(Count)[:28]
    ('a number of at least 0 and at most 1,000,000 by name, or null', 'one of a, b', 'a whole number of at least 1')
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        words = [str(note) for note in args[1:] if isinstance(note, Words)]
        return " ".join(words or [describe(args[0]), *(str(note) for note in args[1:] if isinstance(note, Range))])
    if origin in (Union, types.UnionType):
        return ", or ".join(describe(one) for one in args)
    if origin is Literal:
        return f"one of {', '.join(str(one) for one in args)}"
    kind = origin or hint
    if kind in (dict, Mapping):
        return f"{describe(args[1]) if args else 'values'} by name"
    if kind in (list, tuple, Sequence, Collection):
        return "a list" if not args or args[0] is Any else f"a list, each entry {describe(args[0])}"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Any: "settings"}
    return plain.get(hint, "null" if hint in (None, types.NoneType) else getattr(hint, "__name__", str(hint)))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _notes(hint: Any) -> list[Any]:
    return [note for one in _alternatives(hint) if get_origin(one) is Annotated for note in get_args(one)[1:]]
