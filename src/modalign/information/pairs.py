"""The objective of a batch: which pairs are scored, in what pieces, and the sums that the objectives need.

Where contexts partition the batch, samples are sorted by context and only the scores within contexts are
computed, in padded groups of similar size; otherwise all pairs are scored. Either way at most about ``block``
squared scores are held at once: where there are more, pieces are recomputed in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from modalign.errors import SettingsError
from modalign.information.critics import Critic, Side
from modalign.information.objectives import (
    FLOOR,
    OBJECTIVES,
    Form,
    PairSums,
    checked_form,
    infonce_terms,
    log_not_h,
    log_sum_exp,
    pointwise_information,
)
from modalign.information.queue import RecentFeatures

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

    >>> half = torch.tensor(0.5)
    >>> PairResult(half, torch.ones(()), torch.zeros(3), torch.zeros(())).objective.item()
    0.5
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
    form: Form = "nce3",
    kernel: Kernel | None = None,
    memory: RecentFeatures | None = None,
    block: int = 1024,
) -> PairResult:
    """Compute the pair objective of a batch: positives are a sample's modalities, negatives pairs that share its T.

    Kinds of context:

    - discrete, (B,) integers: the negatives of a sample are the others of its context;
    - None: all others;
    - continuous, (B, F) or (B,) floats: all others, weighted by ``kernel``; the critic is given the anchor's
      T, and both choices of the anchor are averaged, so that swapping the modalities changes nothing. Without
      a kernel all others weigh the same, and I(Z1,T;Z2) is measured, not I(Z1;Z2|T).

    Every sample counts once, and its negatives together count once. A context then weighs the same among positives and
    negatives, so that s* = log(p_pos/p_neg) + log((1+r)/r) in every context, with the one r of the batch (were every
    pair to count once, s* would be shifted by log(r/(K-1)) in a context of K samples). A sample without negatives has
    no part in the objective: among the positives alone it would only teach h to say yes. Its pointwise information is
    still given.

    Args:
        critic: gives the logits; it may ignore the context.
        z1: (B, D1) features of one modality, of any floating type.
        z2: (B, D2) features of the other.
        context: T, see above.
        form: objective: ``nce3`` or ``nce2`` (conditional NCE with three or two terms), or ``infonce``.
        kernel: k(T_i, T_j) in [0, 1] of continuous contexts: those of n and of m samples -> (n, m).
        memory: recent features, further negatives for discrete contexts with few.
        block: about ``block`` squared scores are held at once.

    Returns:
        The objective (``conditional_nce``, ``two_term_nce`` or ``info_nce`` of the sums over the batch) and the
        estimates. Without any negative the objective is 0, with a graph.

    Raises:
        SettingsError: lengths disagree, a name is unknown, a kernel without a continuous context, or a memory without
            a discrete one.

    Source: InfoBridge (ICCV 2025), conditional NCE; the weighting and the memory are this package's.

    >>> from modalign.information import LearnedContext, SeparableCritic
    >>> critic, z1, z2 = SeparableCritic((4, 3), LearnedContext(2)), torch.randn(8, 4), torch.randn(8, 3)
    >>> result = score_pairs(critic, z1, z2, context=torch.arange(8) % 2)
    >>> result.ratio.item(), result.pointwise.shape     # each sample meets the three others of its context
    (3.0, torch.Size([8]))
    """
    form, batch = checked_form(form), len(z1)
    discrete = context is not None and not context.is_floating_point()
    _check(z1, z2, context, kernel, memory)
    valid: tuple[Tensor | None, Tensor | None] = (None, None)
    if context is not None and discrete:
        pieces, few = _within_contexts(context, memory)
        if memory is not None:
            z1, z2, context, valid = _with_memory(z1, z2, context, few, memory)
        tables = [critic.embed(z1, z2, context)]
        # In a partition without memory the sums over a context are the same from both sides: one is enough.
        if form == "infonce" or memory is not None:
            tables = tables * 2
    else:
        everyone = torch.arange(batch, device=z1.device)[None]
        pieces = [_Piece(everyone, everyone)]
        anchors: tuple[Side, ...] = ("left",) if context is None else ("left", "right")
        tables = [critic.embed(z1, z2, context, side) for side in anchors]
        if context is None and form == "infonce":
            tables = tables * 2
    sides = [
        _Side(critic, table[flipped], table[1 - flipped], bool(flipped), form, kernel, context, valid[flipped])
        for flipped, table in enumerate(tables)
    ]
    scans = [_scan(side, pieces, batch, block * block) for side in sides]
    negatives, weight, count = (torch.stack(parts) for parts in zip(*scans, strict=True))
    left, right = tables[0]
    sums = PairSums(critic.diagonal(left[:batch], right[:batch]), negatives, weight, count)
    objective, ratio = OBJECTIVES[form](sums), sums.ratio
    if form == "infonce":
        pointwise = infonce_terms(sums.score, negatives, weight).mean(0)
    else:
        pointwise = pointwise_information(sums.score, ratio, form)
    return PairResult(objective, ratio, pointwise, pointwise.sum() / max(batch, 1))


class _Piece(NamedTuple):
    """Anchors (G, n) and the samples (G, m) that they are compared with, by number; -1 is nobody."""

    rows: Tensor
    columns: Tensor


def _within_contexts(context: Tensor, memory: RecentFeatures | None) -> tuple[list[_Piece], Tensor]:
    """Return groups of contexts of similar size (at most twice the smallest), and the contexts that draw on the memory.

    What the memory has of these is numbered from B on, context by context.
    """
    codes, inverse, counts = torch.unique(context, return_inverse=True, return_counts=True)
    order = torch.argsort(inverse, stable=True)
    starts = counts.cumsum(0) - counts
    sizes = counts.cpu()  # the one wait for the accelerator
    size, minimum = (0, 0) if memory is None else (memory.left.shape[1], memory.minimum)
    few = sizes <= minimum
    first_recent = (few.cumsum(0) - 1) * size + len(context)
    level = sizes.double().log2().ceil()
    pieces = []
    for value in level.unique().tolist():
        group = (level == value).nonzero().squeeze(1)
        there = group.to(context.device)
        members = _numbers(starts[there], counts[there], int(sizes[group].max()))
        rows = columns = torch.where(members < 0, -1, order[members.clamp(min=0)])
        if bool(few[group].any()):
            recent = _numbers(first_recent[group], few[group] * size, size)
            columns = torch.cat([rows, recent.to(context.device)], dim=1)
        if columns.shape[1] > 1:
            pieces.append(_Piece(rows, columns))
    return pieces, codes[few.to(context.device)]


def _with_memory(
    z1: Tensor, z2: Tensor, context: Tensor, few: Tensor, memory: RecentFeatures
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The batch, then what is remembered of contexts ``few``, and which of all these a left or right anchor sees."""
    older1, older2 = (bank[few].flatten(0, 1).to(z1.dtype) for bank in (memory.left, memory.right))
    slots = (valid[few].flatten() for valid in (memory.right_valid, memory.left_valid))
    from_left, from_right = (torch.cat([s.new_ones(len(z1)), s]) for s in slots)
    repeated = few.repeat_interleave(memory.left.shape[1])
    return torch.cat([z1, older1]), torch.cat([z2, older2]), torch.cat([context, repeated]), (from_left, from_right)


def _numbers(starts: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Return (G, width): row g is starts[g], starts[g] + 1, ... for lengths[g] entries, then -1."""
    slot = torch.arange(width, device=starts.device)
    return torch.where(slot < lengths[:, None], starts[:, None] + slot, -1)


@dataclass(frozen=True)
class _Side:
    """Anchors of one side against all others of the other side.

    ``anchor`` and ``other`` are tables of embedded samples; ``flipped`` where the anchors are the right side.
    """

    critic: Critic
    anchor: Tensor
    other: Tensor
    flipped: bool
    form: Form
    kernel: Kernel | None
    context: Tensor | None
    valid: Tensor | None

    def reduce(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``negatives``, ``weight`` and ``count`` of ``PairSums`` for each anchor (G, n)."""
        anchors, others = _take(self.anchor, rows), _take(self.other, columns)
        scores = self.critic.pair(others, anchors).mT if self.flipped else self.critic.pair(anchors, others)
        hidden = (columns < 0)[:, None] | (columns[:, None] == rows[..., None])
        if self.valid is not None:
            hidden = hidden | ~self.valid[columns.clamp(min=0)][:, None]
        if self.kernel is None or self.context is None:
            count = columns.shape[1] - hidden.sum(-1)
            scores = scores.masked_fill(hidden, FLOOR)  # log(1-h) = 0 and e^s = 0 there
            sums = torch.logsumexp(scores, -1) if self.form == "infonce" else log_not_h(scores).sum(-1)
            return sums, count.to(sums.dtype), count
        with torch.no_grad():
            near = [self.kernel(self.context[r], self.context[c]) for r, c in zip(rows, columns, strict=True)]
            weight = torch.stack(near).to(scores.dtype).masked_fill(hidden, 0.0)
        if self.form == "infonce":
            sums = log_sum_exp(scores, weight, -1).squeeze(-1)
        else:
            sums = (weight * log_not_h(scores)).sum(-1)
        return sums, weight.sum(-1), (weight > 0).sum(-1)


def _take(table: Tensor, numbers: Tensor) -> Tensor:
    """Return rows (G, n, K') of a table (N, K'); for nobody (-1) the first, which is masked later."""
    return table.index_select(0, numbers.clamp(min=0).flatten()).view(*numbers.shape, -1)


def _scan(side: _Side, pieces: list[_Piece], batch: int, held: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``side.reduce`` over all pieces, put in the order of the batch: three tensors (B,)."""
    recompute = torch.is_grad_enabled() and sum(p.rows.numel() * p.columns.shape[1] for p in pieces) > held
    parts, numbers = [], []
    for rows, columns in pieces:
        # In smaller ones of at most ``held`` scores (or one row).
        groups = max(1, held // (rows.shape[1] * columns.shape[1]))
        anchors = max(1, held // (groups * columns.shape[1]))
        for some, others in zip(rows.split(groups), columns.split(groups), strict=True):
            for few in some.split(anchors, dim=1):
                if recompute:
                    part = checkpoint(side.reduce, few, others, use_reentrant=False, preserve_rng_state=False)
                else:
                    part = side.reduce(few, others)
                parts.append([value.flatten() for value in part])
                numbers.append(few.flatten())
    empty = side.anchor.new_full((batch + 1,), FLOOR if side.form == "infonce" else 0.0)
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


def _check(
    z1: Tensor, z2: Tensor, context: Tensor | None, kernel: Kernel | None, memory: RecentFeatures | None
) -> None:
    lengths = {"z1": len(z1), "z2": len(z2)} | ({} if context is None else {"context": len(context)})
    if len(set(lengths.values())) > 1:
        raise SettingsError(f"z1, z2 and context describe the same samples, but have {lengths} rows.")
    if kernel is not None and (context is None or not context.is_floating_point()):
        raise SettingsError("a kernel compares continuous contexts; pass context as floats, or no kernel.")
    if memory is not None and (context is None or context.is_floating_point()):
        raise SettingsError("a memory holds features by discrete context; pass integer contexts.")
