"""Collect everything that is wrong with the input before saying so, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from modalign.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


class Problems(list[str]):
    """Problems found so far with ``subject``."""

    def __init__(self, subject: str) -> None:
        super().__init__()
        self.subject = subject

    def trying(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Result of ``function``, or None after its ``InputError`` has been noted."""
        try:
            return function(*args, **kwargs)
        except InputError as error:
            self.append(str(error))
            return None

    def stop(self) -> None:
        """Raise what was found.

        Raises:
            InputError: there is at least one problem; the message has them all.
        """
        if len(self) == 1:
            raise InputError(f"{self.subject}: {self[0]}")
        if self:
            raise InputError(f"{self.subject}: {len(self)} problems\n" + "\n".join(f"- {line}" for line in self))
