"""Critics of all pairs of modalities: what they remember of each context, and what they say of samples.

All that a step needs is computed for all modalities, pairs and contexts at once: features are one tensor (M, N, D),
each modality is embedded once for all its pairs, and a batch is one product (P, N, N), weighted by who shares T. What
does not fit that form (see ``observe``) is taken one pair after the other by ``score_pairs``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalign.estimators.calibration import calibrated_information
from modalign.information.centering import ContextMeans
from modalign.information.critics import ContextEmbedding, Critic, SeparableCritics, make_critic
from modalign.information.objectives import Form, checked_form, full_precision
from modalign.information.pairs import Kernel, score_pairs
from modalign.information.queue import FeatureMemory, RecentFeatures

if TYPE_CHECKING:
    from modalign.strategies.modalign import ModAlignOptions

Pair = tuple[str, str]
Features = Mapping[str, Tensor]

_DECAY = 0.98  # of the running mean of r
_MASKED = 2**19  # scores of a batch, all pairs of modalities together, up to which a mask is cheaper than pieces
_HELD_OUT, _PARTNERS = 512, 4  # samples on which information is estimated, and others that each is compared with
_AT_ONCE = 2**22  # numbers that ``every_context`` holds of features


class Plan(NamedTuple):
    """Weights of all scores of a batch in the objective, fixed before h and encoders move.

    ``positive`` (P, N) of the positives' s and ``weight`` (P, N, N) of softplus(s); ``ratio`` (P,); of the memory, for
    the samples ``rows`` (n,), its features ``recent`` (M, C', size, D) of some contexts, which of these is that of each
    row, ``place`` (n,), and their weights (M, n, M - 1, size).
    """

    positive: Tensor
    weight: Tensor
    ratio: Tensor
    rows: Tensor | None = None
    recent: Tensor | None = None
    place: Tensor | None = None
    recent_weight: Tensor | None = None


class PairCritics(nn.Module):
    """A critic h(z_a, z_b, T) for each pair of modalities, what they remember, and what they estimate.

    Critics see features less their running mean given T (``ContextMeans``). Features are (M, N, D), see ``stacked``.

    Args:
        dims: modality name to D_m.
        embed: makes the embedding of T for a critic; None where there is no T.
        contexts: number of discrete contexts, None for other kinds.
        kernel: how near two continuous contexts are; None for other kinds.
        options: of the strategy.
    """

    ratio: Tensor
    estimates: Tensor
    first: Tensor
    second: Tensor
    order: Tensor
    home: Tensor

    def __init__(
        self,
        dims: Mapping[str, int],
        embed: Callable[[], ContextEmbedding] | None,
        contexts: int | None,
        kernel: Kernel | None,
        options: ModAlignOptions,
    ) -> None:
        super().__init__()
        self.pairs: list[Pair] = list(combinations(dims, 2))
        self.form = checked_form("nce3" if options.objective == "none" else options.objective)
        self.kernel, self.contexts, widths = kernel, contexts or 0, list(dims.values())
        self.shared: SeparableCritics | None = None
        if options.critic == "separable":
            self.shared = SeparableCritics(widths, None if embed is None else embed(), options.critic_width)
        more = {} if options.critic == "bilinear" else {"width": options.critic_width}
        self.own = nn.ModuleList(  # critics that share nothing
            make_critic(options.critic, (max(widths),) * 2, None if embed is None else embed(), **more)
            for _ in self.pairs
            if self.shared is None
        )
        self.means = ContextMeans(contexts, len(widths), max(widths))
        self.memory = (
            FeatureMemory(contexts, options.memory, len(widths), max(widths), options.memory_minimum)
            if contexts is not None and options.memory > 0
            else None
        )
        ends = torch.tensor(list(combinations(range(len(widths)), 2))).T  # (2, P): modalities of each pair
        self.register_buffer("first", ends[0].contiguous(), persistent=False)
        self.register_buffer("second", ends[1].contiguous(), persistent=False)
        # Anchors of both sides, (2P,), by the modality that they are compared with.
        self.register_buffer("order", ends.flip(0).flatten().argsort(stable=True), persistent=False)
        self.register_buffer("home", ends.flatten().argsort(stable=True), persistent=False)
        self.register_buffer("ratio", torch.zeros(()))
        self.register_buffer("estimates", torch.zeros(len(self.pairs)))

    def critic(self, number: int) -> Critic:
        """Return the critic of one pair, of what ``keys`` gives for its two modalities."""
        return self.own[number] if self.shared is None else self.shared.pair(number)  # type: ignore[return-value]

    def keys(self, features: Tensor, context: Tensor | None) -> Tensor:
        """Return what critics compare: features (M, N, D) less their means, embedded (M, N, K) if shared."""
        return self._embed(self.means(features, context))

    def _embed(self, centered: Tensor) -> Tensor:
        """Return (M, ..., D) embedded (M, ..., K) by the perceptrons that pairs share, or as they are."""
        if self.shared is None:
            return centered
        return self.shared.embed(centered.flatten(1, -2)).unflatten(1, centered.shape[1:-1])

    @torch.no_grad()
    def observe(self, features: Tensor, present: Tensor, context: Tensor | None) -> Plan | None:
        """Take a batch into the running means, and plan how its pairs are scored, for ``forward``.

        Args:
            features: (M, N, D).
            present: (N, M) bool.
            context: T of the samples, (N,) int64, (N,) or (N, F) float, or None.
        """
        self.means.observe(features, context, present)
        codes = context is None or not context.is_floating_point()
        small = len(self.pairs) * len(present) ** 2 <= _MASKED
        if self.shared is None or self.form == "infonce" or not codes or not small:
            return None
        plan = self._plan(present, context)
        self._follow(plan.ratio)
        return plan

    def forward(self, features: Tensor, present: Tensor, context: Tensor | None, plan: Plan | None) -> Tensor:
        """Return L_NCE / (1+r) of samples, the mean over the pairs of modalities, each on the samples that have both.

        Args:
            features, present, context: as for ``observe``.
            plan: what it gave.
        """
        keys = self.keys(features, context)
        return self._one_by_one(keys, present, context) if plan is None else self._at_once(keys, context, plan)

    def _one_by_one(self, keys: Tensor, present: Tensor, context: Tensor | None) -> Tensor:
        """The objective, each pair by ``score_pairs``."""
        objectives, ratios, memories = [], [], None
        if self.memory is not None:
            memories = self._embed(self.memory.bank), self.memory.valid
        for number, (a, b) in enumerate(combinations(range(len(keys)), 2)):
            both = present[:, a] & present[:, b]
            given = None if context is None else context[both]
            memory = None
            if memories is not None and self.memory is not None:
                recent, valid = memories
                memory = RecentFeatures(recent[a], recent[b], valid[a], valid[b], self.memory.minimum)
            z1, z2, critic = keys[a][both], keys[b][both], self.critic(number)
            result = score_pairs(critic, z1, z2, given, form=self.form, kernel=self.kernel, memory=memory)
            objectives.append(result.objective / (1 + result.ratio))
            ratios.append(result.ratio)
        self._follow(torch.stack(ratios))
        return torch.stack(objectives).mean()

    @torch.no_grad()
    def _follow(self, ratio: Tensor) -> None:
        """Move the running mean of r."""
        latest = ratio.mean()
        self.ratio.copy_(torch.where(self.ratio > 0, torch.lerp(latest, self.ratio, _DECAY), latest))

    def _at_once(self, keys: Tensor, context: Tensor | None, plan: Plan) -> Tensor:
        """The same in one product for all pairs, under the weights of ``plan``."""
        assert self.shared is not None
        gain, offset = self.shared.modulate(context)
        value: Tensor = _WeighedScores.apply(keys, gain, offset, *plan[:2], self.first, self.second, self.home)
        if plan.recent is not None and plan.rows is not None:
            # Embedded by the critic as it is now: with what it once made of them it would tell pairs by their age.
            recent = self._embed(plan.recent)[:, plan.place]
            # Anchors by the modality that they are compared with: what is remembered of it is fetched once.
            gain = gain.expand(-1, keys.shape[1], -1)[:, plan.rows].repeat(2, 1, 1)
            query = keys[:, plan.rows][torch.cat([self.first, self.second])] * gain
            query = query[self.order].unflatten(0, (len(keys), -1)).transpose(1, 2)  # (M, n, M - 1, K)
            shift = offset.expand(-1, keys.shape[1])[:, plan.rows].repeat(2, 1)[self.order]
            shift = shift.unflatten(0, (len(keys), -1)).transpose(1, 2)[..., None]
            value = value - _dot(plan.recent_weight, F.softplus(query @ recent.mT + shift))
        return value

    def _plan(self, present: Tensor, context: Tensor | None) -> Plan:
        """Weigh the scores of a batch so that the objectives of ``score_pairs`` are their weighted sums.

        Every anchor counts once, and its negatives once together: those of the batch, and where they are few those of
        the memory. Each sample is an anchor twice, once in either modality.
        """
        dtype = self.ratio.dtype
        near = ~torch.eye(len(present), dtype=torch.bool, device=present.device)
        if context is not None:
            near = near & (context[:, None] == context)
        there = (present.T[self.first] & present.T[self.second]).to(dtype)  # (P, N)
        near = near.to(dtype) * there[:, None, :] * there[:, :, None]
        inside = near.sum(-1)
        count, few = inside[None], None
        if self.memory is not None and context is not None:
            few = there * (inside < self.memory.minimum)
            if few.device.type != "cpu" or few.any():  # not worth a wait for an accelerator
                filled = self.memory.pushed.clamp(max=self.memory.size)[:, context].to(dtype)  # (M, N)
                count = count + few * torch.stack([filled[self.second], filled[self.first]])
        # Of one side, or of two that the memory makes different.
        used = (count > 0) * there
        anchors = used.sum((0, 2)).clamp(min=1)
        ratio = count.sum((0, 2)) / anchors
        share = used / (anchors * len(there))[:, None]  # of each anchor, (S, P, N)
        each = share / count.clamp(min=1) * (ratio / (1 + ratio))[:, None]  # of each of its negatives
        positive = share.sum(0)
        if self.form == "nce2":
            positive = positive / (1 + ratio)[:, None]
        weight = near * each[0][:, :, None]
        if len(count) == 1:
            weight.diagonal(dim1=1, dim2=2).add_(positive)
            return Plan(positive, weight, ratio)
        weight += near * each[1][:, None, :]
        weight.diagonal(dim1=1, dim2=2).add_(positive)
        plan = Plan(positive, weight, ratio)
        assert self.memory is not None
        assert context is not None
        assert few is not None
        everyone = torch.arange(few.shape[1], device=few.device)
        rows = few.amax(0).nonzero().squeeze(1) if few.device.type == "cpu" else everyone
        slots = torch.arange(self.memory.size, device=few.device) < filled[:, rows, None]  # (M, n, size)
        weights = (each * few).flatten(0, 1)[self.order][:, rows].unflatten(0, (len(filled), -1)).transpose(1, 2)
        recent, place = self.memory.bank, context[rows]
        if few.device.type == "cpu":
            codes, place = place.unique(return_inverse=True)
            recent = recent[:, codes]
        return plan._replace(
            rows=rows, recent=recent, place=place, recent_weight=weights[..., None] * slots[:, :, None]
        )

    @torch.no_grad()
    def remember(self, features: Tensor, present: Tensor, context: Tensor | None) -> None:
        """Add the features (M, N, D) of a batch to the memory, after the step: a batch does not meet itself."""
        if self.memory is not None and context is not None:
            self.memory.push(self.means(features, context), context, present)

    @torch.no_grad()
    def estimate(self, features: Features, present: Tensor, context: Tensor) -> None:
        """Keep I(Z_a;Z_b|T) of every pair, in nats, on (a share of) samples that the critics have not seen.

        At most ``_HELD_OUT`` samples are compared with ``_PARTNERS`` others of their context each, so that the cost
        does not grow with the split; the logits are calibrated there first (``estimators.calibration``).
        """
        rows = torch.linspace(0, len(present) - 1, min(len(present), _HELD_OUT), device=present.device).round().long()
        context, present = context[rows], present[rows]
        keys = self.keys(stacked(features)[rows].transpose(0, 1), context)
        partner, valid = _partners(context)
        positive, negative = [], []
        for number, (a, b) in enumerate(combinations(range(len(keys)), 2)):
            critic = self.critic(number)
            left, right = critic.embed(keys[a], keys[b], context)
            positive.append(critic.diagonal(left, right))
            negative.append(critic.diagonal(left[:, None], right[partner]))
        there = present.T[self.first] & present.T[self.second]
        valid = valid & there[..., None] & there[:, partner]
        form: Form = "nce2" if self.form == "nce2" else "nce3"
        self.estimates.copy_(calibrated_information(torch.stack(positive), torch.stack(negative), valid, form))

    @torch.no_grad()
    def every_context(self, features: Features, present: Tensor) -> Tensor:
        """Return s(z_a, z_b, c) of each sample for every discrete context c: (B, P, C), zeros where one is absent."""
        samples, count = present.shape[0], self.contexts
        rows = stacked(features).transpose(0, 1)
        # Contexts at a time; an export is for any number of samples.
        step = count if torch.compiler.is_exporting() else max(1, _AT_ONCE // max(1, rows.numel()))
        parts = []
        for begun in range(0, count, step):
            codes = torch.arange(begun, min(begun + step, count), device=present.device)
            code = codes[:, None].expand(-1, samples).flatten()
            keys = self.keys(rows.repeat(1, len(codes), 1), code)
            if self.shared is not None:
                gain, offset = self.shared.modulate(codes)  # (P, C, K), (P, C)
                first, second = (keys[end].unflatten(1, (len(codes), samples)) for end in (self.first, self.second))
                said = torch.einsum("pcnk,pck,pcnk->npc", first, gain.expand(-1, len(codes), -1), second)
                said = said + offset.expand(-1, len(codes))
            else:
                pairs = enumerate(combinations(range(len(keys)), 2))
                scores = [c.diagonal(*c.embed(keys[a], keys[b], code)) for k, (a, b) in pairs for c in [self.critic(k)]]
                said = torch.stack(scores).unflatten(1, (len(codes), samples)).permute(2, 0, 1)
            parts.append(said.float())
        return torch.cat(parts, 2) * (present.T[self.first] & present.T[self.second]).T[..., None]

    def forget(self) -> None:
        """Drop what is known of each context, where codes have come to mean something else."""
        self.means.forget()
        if self.memory is not None:
            self.memory.forget()

    def information(self) -> dict[Pair, float]:
        """The latest estimates by pair, in nats."""
        return dict(zip(self.pairs, self.estimates.tolist(), strict=True))


def stacked(features: Features) -> Tensor:
    """Features of all modalities as one tensor (N, M, D), in fp32 at least, with zeros up to the largest D_m.

    >>> stacked({"a": torch.ones(2, 1), "b": torch.ones(2, 3)})[0].tolist()
    [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    largest = max(z.shape[1] for z in features.values())
    parts = [full_precision(z) for z in features.values()]
    return torch.stack([z if z.shape[1] == largest else F.pad(z, (0, largest - z.shape[1])) for z in parts], 1)


class _WeighedScores(torch.autograd.Function):
    """The objective of all pairs, sum positive_i s_ii - sum weight_ij softplus(s_ij), with its gradient by hand.

    For log h(s) = s - softplus(s) and log(1-h(s)) = -softplus(s). Where tensors are small the time is that of the
    calls, and autograd would make three times as many.
    """

    @staticmethod
    def forward(
        ctx: Any, keys: Tensor, gain: Tensor, offset: Tensor, positive: Tensor, weight: Tensor, *ends: Tensor
    ) -> Tensor:
        first, second, home = ends  # modalities of each pair, and where among all these each modality is
        left, right = keys[first], keys[second]
        anchor = left * gain
        scores = torch.baddbmm(offset[..., None], anchor, right.mT)  # [p, i, j]: z_a of i, z_b of j, T of i
        ctx.save_for_backward(keys, gain, offset, home, positive, weight, left, right, anchor, scores)
        return _dot(positive, scores.diagonal(dim1=1, dim2=2)) - _dot(weight, F.softplus(scores))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        keys, gain, offset, home, positive, weight, left, right, anchor, scores = ctx.saved_tensors
        slope = scores.sigmoid().mul_(weight).neg_()
        slope.diagonal(dim1=1, dim2=2).add_(positive)
        slope.mul_(gradient)
        at_anchor = torch.bmm(slope, right)
        ends = torch.cat([at_anchor * gain, torch.bmm(slope.mT, anchor)])
        at_keys = ends[home].unflatten(0, (len(keys), -1)).sum(1)  # the M - 1 ends of each modality
        at_gain = (at_anchor * left).sum_to_size(gain.shape)
        return at_keys, at_gain, slope.sum(-1).sum_to_size(offset.shape), None, None, None, None, None


def _dot(weight: Tensor | None, values: Tensor) -> Tensor:
    assert weight is not None
    return torch.dot(weight.flatten().to(values.dtype), values.flatten())


def _partners(context: Tensor) -> tuple[Tensor, Tensor]:
    """Up to ``_PARTNERS`` others of each sample's context: their numbers (N, k), and which of these there are."""
    order = context.argsort(stable=True)
    code, counts = context[order].unique_consecutive(return_inverse=True, return_counts=True)[1:]
    start, count = (counts.cumsum(0) - counts)[code], counts[code]
    rank = torch.arange(len(code), device=code.device) - start
    shift = torch.arange(1, _PARTNERS + 1, device=code.device)
    found = order[start[:, None] + (rank[:, None] + shift) % count[:, None]]
    back = order.argsort()
    return found[back], (shift < count[:, None])[back]
