"""The objective of a batch: which pairs are scored, in what pieces, and how they are averaged.

Where contexts partition the batch, samples are sorted by context and only the scores within contexts are
computed, in padded groups of similar size; otherwise all pairs are scored. Either way at most about ``block``
squared scores are held at once: where there are more, pieces are recomputed in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from modalign.errors import InputError, unknown
from modalign.information.critics import Critic
from modalign.information.margin import cap_negative, cap_positive
from modalign.information.objectives import (
    FLOOR,
    FORMS,
    Form,
    infonce_terms,
    log_h,
    log_not_h,
    log_sum_exp,
    mean_over,
    nce,
    pointwise_information,
)
from modalign.information.queue import RecentFeatures

Weighting = Literal["anchor", "pair"]
WEIGHTINGS: tuple[Weighting, ...] = ("anchor", "pair")
Kernel = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PairResult:
    """What a critic says of a batch, with graphs.

    Attributes:
        objective: scalar to be maximized; divide it by 1 + ``ratio`` when it is added to other losses.
        ratio: r = N0/N1, scalar.
        pointwise: (B,) pointwise conditional information of each sample's own pair, nats (three- and two-term
            form: the plug-in; InfoNCE: its term of the bound).
        information: its mean, the estimate of I(Z1;Z2|T) on this batch, nats.
    """

    objective: Tensor
    ratio: Tensor
    pointwise: Tensor
    information: Tensor


def score_pairs(
    critic: Critic,
    z1: Tensor,
    z2: Tensor,
    context: Tensor | None = None,
    *,
    form: Form = "three",
    weighting: Weighting = "anchor",
    kernel: Kernel | None = None,
    memory: RecentFeatures | None = None,
    cap: float | None = None,
    block: int = 1024,
) -> PairResult:
    """The pair objective of a batch: positives are a sample's modalities, negatives pairs that share its context.

    Kinds of context:

    - discrete, (B,) integers: the negatives of a sample are the others of its context;
    - None: all others;
    - continuous, (B, F) or (B,) floats: all others, weighted by ``kernel``; the critic is given the anchor's
      T, and both choices of the anchor are averaged, so that swapping the modalities changes nothing. Without
      a kernel all others weigh the same, and I(Z1,T;Z2) is measured, not I(Z1;Z2|T).

    How pairs are averaged (``weighting``):

    - ``anchor``: every sample counts once, and its negatives together count once. A context then weighs the
      same among positives and negatives, so that s* = log(p_pos/p_neg) + log((1+r)/r) in every context, with
      the one r of the batch. A sample without negatives has no part in the objective: among the positives
      alone it would only teach h to say yes. Its pointwise information is still given.
    - ``pair``: every pair counts once, the printed formula taken literally. A context of K samples has K
      positives but K(K-1) negatives, which shifts s* by log(r/(K-1)) there; a critic that sees T absorbs the
      shift and its estimate is biased by it.

    Args:
        critic: gives the logits; it may ignore the context.
        z1, z2: (B, D1) and (B, D2), of any floating type.
        context: T, see above.
        form: ``three`` or ``two`` (conditional NCE), or ``infonce``.
        weighting: see above.
        kernel: k(T_i, T_j) in [0, 1]: contexts of n and of m samples -> (n, m). Discrete contexts may have
            one.
        memory: recent features, further negatives for discrete contexts with few.
        cap: gamma of the ``log_odds`` margin; None for no cap.
        block: about ``block`` squared scores are held at once.

    Returns:
        The objective and the estimates. Without any negative the objective is 0, with a graph.

    Raises:
        InputError: lengths disagree, a name is unknown, or there is a memory but no discrete context.

    Source: InfoBridge (ICCV 2025), conditional NCE; the weighting and the memory are this package's.
    """
    _check(z1, z2, context, form, weighting, kernel, memory)
    batch = len(z1)
    recent = _Remembered(batch)
    if context is not None and not context.is_floating_point() and kernel is None:
        pieces, recent = _within_contexts(context, memory)
        left, right = critic.embed(*recent.extend(z1, z2, context))
        tables = [(left, right)]
    else:
        everyone = torch.arange(batch, device=z1.device)[None]
        pieces = [_Piece(everyone, everyone)]
        tables = [critic.embed(z1, z2, context, "left")]
        if context is not None:
            tables.append(critic.embed(z1, z2, context, "right"))
    # In a partition without memory the sums over a context are the same from both sides: one is enough.
    if len(tables) == 1 and (form == "infonce" or memory is not None):
        tables = tables * 2
    directions = [
        _Direction(critic, *(t if side == 0 else t[::-1]), side == 1, form, cap, kernel, context, recent.valid(side))
        for side, t in enumerate(tables)
    ]
    scans = [_scan(direction, pieces, batch, block * block) for direction in directions]
    reduced, weight, count = (torch.stack(parts) for parts in zip(*scans, strict=True))
    left, right = tables[0]
    paired = critic.diagonal(left[:batch], right[:batch])
    return _average(paired, reduced, weight, count, form, weighting, cap)


class _Piece(NamedTuple):
    """Anchors (G, n) and the samples (G, m) that they are compared with, by number; -1 is nobody."""

    rows: Tensor
    columns: Tensor


@dataclass(frozen=True)
class _Remembered:
    """Features of the memory that join a batch of ``batch`` samples; their numbers go on from ``batch``."""

    batch: int
    memory: RecentFeatures | None = None
    codes: Tensor | None = None

    def extend(self, z1: Tensor, z2: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The batch followed by the remembered features of ``codes``."""
        if self.memory is None or self.codes is None:
            return z1, z2, context
        size = self.memory.left.shape[1]
        older1, older2 = (bank[self.codes].flatten(0, 1).to(z1.dtype) for bank in self.memory[:2])
        repeated = self.codes.repeat_interleave(size)
        return torch.cat([z1, older1]), torch.cat([z2, older2]), torch.cat([context, repeated])

    def valid(self, side: int) -> Tensor | None:
        """Which numbers can be compared with, seen from the left (0) or the right (1); None for all."""
        if self.memory is None or self.codes is None:
            return None
        slots = (self.memory.left_valid if side else self.memory.right_valid)[self.codes].flatten()
        return torch.cat([slots.new_ones(self.batch), slots])


def _within_contexts(context: Tensor, memory: RecentFeatures | None) -> tuple[list[_Piece], _Remembered]:
    """Groups of contexts of similar size: each holds contexts of at most twice its smallest."""
    batch, device = len(context), context.device
    codes, inverse, counts = torch.unique(context, return_inverse=True, return_counts=True)
    order = torch.argsort(inverse, stable=True)
    starts = counts.cumsum(0) - counts
    sizes = counts.cpu()  # the one wait for the accelerator
    few = sizes <= memory.minimum if memory is not None else torch.zeros_like(sizes, dtype=torch.bool)
    first_recent = (few.cumsum(0) - 1) * (memory.left.shape[1] if memory is not None else 0) + batch
    level = sizes.double().log2().ceil()
    pieces = []
    for value in level.unique().tolist():
        group = (level == value).nonzero().squeeze(1)
        largest = int(sizes[group].max())
        members = _numbers(starts[group.to(device)], counts[group.to(device)], largest)
        rows = torch.where(members < 0, -1, order[members.clamp(min=0)])
        columns = rows
        if memory is not None and bool(few[group].any()):
            size = memory.left.shape[1]
            lengths = few[group] * size
            columns = torch.cat([rows, _numbers(first_recent[group], lengths, size).to(device)], dim=1)
        if columns.shape[1] > 1:
            pieces.append(_Piece(rows, columns))
    return pieces, _Remembered(batch, memory, codes[few.to(device)] if memory is not None else None)


def _numbers(starts: Tensor, lengths: Tensor, width: int) -> Tensor:
    """(G, width): row g is starts[g], starts[g] + 1, ... for lengths[g] entries, then -1."""
    slot = torch.arange(width, device=starts.device)
    return torch.where(slot < lengths[:, None], starts[:, None] + slot, -1)


def _split(pieces: Iterable[_Piece], held: int) -> Iterator[_Piece]:
    """The same pairs in pieces of at most ``held`` scores (or one row)."""
    for rows, columns in pieces:
        width = columns.shape[1]
        groups = max(1, held // (rows.shape[1] * width))
        anchors = max(1, held // (groups * width))
        for some, others in zip(rows.split(groups), columns.split(groups), strict=True):
            yield from (_Piece(part, others) for part in some.split(anchors, dim=1))


@dataclass(frozen=True)
class _Direction:
    """Anchors of one side against all others of the other side.

    ``anchor`` and ``other`` are tables of embedded samples; ``flipped`` where the anchors are the right side.
    """

    critic: Critic
    anchor: Tensor
    other: Tensor
    flipped: bool
    form: Form
    cap: float | None
    kernel: Kernel | None
    context: Tensor | None
    valid: Tensor | None

    def reduce(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For each anchor (G, n): the sum over its negatives, the sum of their weights, their number.

        The sum is that of w log(1-h), or for InfoNCE log of that of w e^s.
        """
        anchors, others = _take(self.anchor, rows), _take(self.other, columns)
        if self.flipped:
            scores = self.critic.pair(others, anchors).mT
        else:
            scores = self.critic.pair(anchors, others)
        scores = cap_negative(scores, self.cap)
        hidden = (columns < 0)[:, None] | (columns[:, None] == rows[..., None])
        if self.valid is not None:
            hidden = hidden | ~self.valid[columns.clamp(min=0)][:, None]
        count = columns.shape[1] - hidden.sum(-1)
        if self.kernel is None:
            scores = scores.masked_fill(hidden, FLOOR)  # log(1-h) = 0 and e^s = 0 there
            sums = torch.logsumexp(scores, -1) if self.form == "infonce" else log_not_h(scores).sum(-1)
            return sums, count.to(sums.dtype), count
        weight = self._kernel_weight(rows, columns).to(scores.dtype).masked_fill(hidden, 0.0)
        if self.form == "infonce":
            sums = log_sum_exp(scores, weight, -1).squeeze(-1)
        else:
            sums = (weight * log_not_h(scores)).sum(-1)
        return sums, weight.sum(-1), (weight > 0).sum(-1)

    @torch.no_grad()
    def _kernel_weight(self, rows: Tensor, columns: Tensor) -> Tensor:
        context, kernel = cast(Tensor, self.context), cast(Kernel, self.kernel)
        return torch.stack([kernel(context[r], context[c]) for r, c in zip(rows, columns, strict=True)])


def _take(table: Tensor, numbers: Tensor) -> Tensor:
    """Rows (G, n, K') of a table (N, K'); for nobody (-1) the first, which is masked later."""
    return table.index_select(0, numbers.clamp(min=0).flatten()).view(*numbers.shape, -1)


def _scan(direction: _Direction, pieces: list[_Piece], batch: int, held: int) -> tuple[Tensor, Tensor, Tensor]:
    """``direction.reduce`` over all pieces, put in the order of the batch: three tensors (B,)."""
    recompute = sum(p.rows.numel() * p.columns.shape[1] for p in pieces) > held
    parts, numbers = [], []
    for piece in _split(pieces, held):
        if recompute and torch.is_grad_enabled():
            part = checkpoint(direction.reduce, *piece, use_reentrant=False, preserve_rng_state=False)
        else:
            part = direction.reduce(*piece)
        parts.append([value.flatten() for value in part])
        numbers.append(piece.rows.flatten())
    empty = direction.anchor.new_full((batch + 1,), FLOOR if direction.form == "infonce" else 0.0)
    nothing = torch.zeros_like(empty)
    if not parts:
        return empty[:batch], nothing[:batch], nothing[:batch]
    sums, weight, count = (torch.cat(values) for values in zip(*parts, strict=True))
    where = torch.cat(numbers)
    where = torch.where(where < 0, batch, where)
    return (
        empty.scatter(0, where, sums)[:batch],
        nothing.scatter(0, where, weight)[:batch],
        nothing.scatter(0, where, count.to(nothing.dtype))[:batch],
    )


def _average(
    paired: Tensor,
    reduced: Tensor,
    weight: Tensor,
    count: Tensor,
    form: Form,
    weighting: Weighting,
    cap: float | None,
) -> PairResult:
    """From the positives' logits (B,) and each anchor's sums over negatives (directions, B) to the result."""
    part = (count > 0).to(paired.dtype) if weighting == "anchor" else torch.ones_like(reduced)
    number = part.sum()
    ratio = mean_over(count.sum(), number)
    positive = cap_positive(paired, cap)
    if form == "infonce":
        objective = mean_over((part * infonce_terms(positive, reduced, weight)).sum(), number)
        pointwise = infonce_terms(paired, reduced, weight).mean(0)
    else:
        if weighting == "anchor":
            e_neg = mean_over((part * mean_over(reduced, weight)).sum(), number)
        else:
            e_neg = mean_over(reduced.sum(), weight.sum())
        objective = nce(mean_over((part * log_h(positive)).sum(), number), e_neg, ratio, form)
        pointwise = pointwise_information(paired, ratio, form)
    return PairResult(objective, ratio, pointwise, pointwise.sum() / max(len(pointwise), 1))


def _check(
    z1: Tensor,
    z2: Tensor,
    context: Tensor | None,
    form: str,
    weighting: str,
    kernel: Kernel | None,
    memory: RecentFeatures | None,
) -> None:
    if form not in FORMS:
        raise unknown("form of objective", form, FORMS)
    if weighting not in WEIGHTINGS:
        raise unknown("weighting of pairs", weighting, WEIGHTINGS)
    lengths = {"z1": len(z1), "z2": len(z2)} | ({} if context is None else {"context": len(context)})
    if len(set(lengths.values())) > 1:
        raise InputError(f"z1, z2 and context describe the same samples, but have {lengths} rows.")
    if kernel is not None and context is None:
        raise InputError("a kernel compares contexts and there is none; pass context, or no kernel.")
    discrete = context is not None and not context.is_floating_point()
    if memory is not None and (kernel is not None or not discrete):
        raise InputError("a memory holds features by discrete context; pass integer contexts and no kernel.")
