"""Contexts T: where they come from, and which pairs share them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modalign.errors import InputError, unknown

SOURCES = ("none", "label", "column:NAME", "predicted", "cluster", "continuous:NAME", "label*column:NAME")


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


def product_cells(counts: Tensor, minimum: int) -> Tensor:
    """Return the codes of a product of two contexts, (F, S) int64, made from the training samples in each cell.

    A cell of at least ``minimum`` samples is a context of its own, F + 0, 1, ...; a smaller one has too few pairs, and
    falls back to the first context alone, 0 .. F-1.

    >>> product_cells(torch.tensor([[9, 1], [8, 0]]), minimum=8).tolist()
    [[2, 0], [3, 1]]
    """
    enough = counts >= minimum
    cells = torch.arange(len(counts), device=counts.device)[:, None].repeat(1, counts.shape[1])
    cells[enough] = len(counts) + torch.arange(int(enough.sum()), device=counts.device)
    return cells


class ContextSource(nn.Module):
    """What T is, decided by one word; a module, because cluster centers are remembered with the model.

    ``none``: no context. ``label``: the target. ``predicted``: the class that scores highest. ``cluster``:
    the nearest center of the features; set ``centers`` first, (contexts, D). ``column:NAME``: integer codes
    of a column of the data (speaker, site). ``continuous:NAME``: a column of numbers. ``label*column:NAME`` (or the
    other way round): both at once, the first alone where too few samples share both (``product_cells``).

    Args:
        source: one of these.
        contexts, features: shape of ``centers`` (``cluster`` only).
        cells: codes of a product (F, S).

    Raises:
        InputError: the word is unknown, or a product of something else than the label and one column.

    >>> ContextSource("predicted")(scores=torch.tensor([[0.1, 0.9]]))
    tensor([1])
    """

    centers: Tensor
    cells: Tensor

    def __init__(self, source: str = "none", contexts: int = 0, features: int = 0, cells: Tensor | None = None) -> None:
        super().__init__()
        self.kind: str
        self.parts = tuple(ContextSource(part.strip()) for part in source.split("*")) if "*" in source else ()
        if self.parts and sorted(part.kind for part in self.parts) != ["column", "label"]:
            raise InputError(
                f"context {source!r} is no product of the label and one column; expected label*column:NAME"
            )
        self.kind, _, self.column = ("product", "", "") if self.parts else source.partition(":")
        plain = {name.partition(":")[0]: ":" in name for name in SOURCES if "*" not in name}
        if not self.parts and (self.kind not in plain or plain[self.kind] != bool(self.column)):
            raise unknown("context", source, SOURCES)
        nothing = torch.zeros(0, 0, dtype=torch.int64)
        self.register_buffer("cells", nothing if cells is None else cells, persistent=False)
        self.register_buffer("centers", torch.zeros(contexts, features))

    @property
    def discrete(self) -> bool:
        """Whether T is an integer code."""
        return self.kind in ("label", "column", "predicted", "cluster", "product")

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
        if self.parts:
            first, second = (part(target, columns) for part in self.parts)
            return self.cells[first, second]
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
