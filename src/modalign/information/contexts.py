"""Contexts T: where they come from, and which pairs share them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modalign.errors import InputError, unknown

SOURCES = ("none", "label", "column:NAME", "predicted", "cluster", "continuous:NAME")


def same_context(context: Tensor) -> Tensor:
    """Return (B, B) bool: which pairs of samples share their discrete context, (B,) int64.

    >>> same_context(torch.tensor([0, 1])).tolist()
    [[True, False], [False, True]]
    """
    return context[:, None] == context[None, :]


def pair_masks(context: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, B) masks: positives, the diagonal, and negatives, the others of the same context, (B,) int64.

    >>> positive, negative = pair_masks(torch.tensor([0, 0, 1]))
    >>> positive.sum().item(), negative.sum().item()
    (3, 2)
    """
    positive = torch.eye(len(context), dtype=torch.bool, device=context.device)
    return positive, same_context(context) & ~positive


class ContextSource(nn.Module):
    """What T is, decided by one word; a module, because cluster centers are remembered with the model.

    ``none``: no context. ``label``: the target. ``predicted``: the class that scores highest. ``cluster``:
    the nearest center of the features; set ``centers`` first, (contexts, D). ``column:NAME``: integer codes
    of a column of the data (speaker, site). ``continuous:NAME``: a column of numbers.

    Args:
        source: one of these.
        contexts, features: shape of ``centers`` (``cluster`` only).

    Raises:
        InputError: the word is unknown.

    >>> ContextSource("predicted")(scores=torch.tensor([[0.1, 0.9]]))
    tensor([1])
    """

    centers: Tensor

    def __init__(self, source: str = "none", contexts: int = 0, features: int = 0) -> None:
        super().__init__()
        self.kind, _, self.column = source.partition(":")
        plain = {name.partition(":")[0]: ":" in name for name in SOURCES}
        if self.kind not in plain or plain[self.kind] != bool(self.column):
            raise unknown("context", source, SOURCES)
        self.register_buffer("centers", torch.zeros(contexts, features))

    @property
    def discrete(self) -> bool:
        """Whether T is an integer code."""
        return self.kind in ("label", "column", "predicted", "cluster")

    def forward(
        self,
        target: Tensor | None = None,
        columns: Mapping[str, Tensor] | None = None,
        scores: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor | None:
        """Return T of B samples, without gradient; only what the source needs has to be given.

        Args:
            target: (B,) int64 labels.
            columns: further columns of the data by name.
            scores: (B, C) class scores.
            features: (B, D).

        Returns:
            (B,) int64, (B,) or (B, F) float, or None.

        Raises:
            InputError: what the source needs is missing, or is not of the kind it should be.
        """
        if self.kind == "none":
            return None
        given = {"label": target, "predicted": scores, "cluster": features}
        value = (columns or {}).get(self.column) if self.column else given[self.kind]
        if value is None:
            if self.column:
                raise unknown("context column", self.column, columns or {})
            raise InputError(f"the context {self.kind!r} needs what it is computed from, and it was not given.")
        if self.kind == "predicted":
            return value.detach().argmax(-1)
        if self.kind == "cluster":
            return torch.cdist(value.detach().to(self.centers.dtype), self.centers).argmin(-1)
        if self.discrete == value.is_floating_point():
            expected, other = ("integer codes", "continuous") if self.discrete else ("numbers", "column")
            raise InputError(
                f"the context {self.kind}:{self.column} expects {expected} and got {value.dtype}; "
                f"use {other}:{self.column}."
            )
        return value
