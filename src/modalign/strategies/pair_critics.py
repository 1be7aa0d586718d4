"""Critics of all pairs of modalities: what they remember of each context, and what they say of samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from modalign.estimators.calibration import heldout_information
from modalign.information.centering import ContextMeans
from modalign.information.critics import ContextEmbedding, make_critic
from modalign.information.objectives import checked_form
from modalign.information.pairs import Kernel, PairResult, score_pairs
from modalign.information.queue import FeatureMemory

if TYPE_CHECKING:
    from modalign.strategies.modalign import ModAlignOptions

Pair = tuple[str, str]
Features = Mapping[str, Tensor]

_DECAY = 0.98  # of the running mean of r


class PairCritics(nn.Module):
    """A critic h(z_a, z_b, T) for each pair of modalities, what they remember, and what they estimate.

    Critics see features less their running mean given T (``ContextMeans``).

    Args:
        dims: modality name to D_m.
        embed: makes the embedding of T for a critic; None where there is no T.
        contexts: number of discrete contexts, None for other kinds.
        kernel: how near two continuous contexts are; None for other kinds.
        options: of the strategy.
    """

    ratio: Tensor
    estimates: Tensor

    def __init__(
        self,
        dims: Mapping[str, int],
        embed: Callable[[], ContextEmbedding] | None,
        contexts: int | None,
        kernel: Kernel | None,
        options: ModAlignOptions,
    ) -> None:
        super().__init__()
        self.columns = {m: i for i, m in enumerate(dims)}
        self.pairs: list[Pair] = list(combinations(dims, 2))
        self.form = checked_form("nce3" if options.objective == "none" else options.objective)
        self.kernel, self.contexts = kernel, contexts or 0
        more = {} if options.critic == "bilinear" else {"width": options.critic_width}
        self.critics = nn.ModuleList(
            make_critic(options.critic, (dims[a], dims[b]), None if embed is None else embed(), **more)
            for a, b in self.pairs
        )
        self.memory = (
            FeatureMemory(contexts, options.memory, list(dims.values()), options.memory_minimum)
            if contexts is not None and options.memory > 0
            else None
        )
        self.means = ContextMeans(contexts, list(dims.values()))
        self.register_buffer("ratio", torch.zeros(()))
        self.register_buffer("estimates", torch.zeros(len(self.pairs)))

    def forward(
        self, features: Features, present: Tensor, context: Tensor | None, training: bool = False
    ) -> dict[Pair, PairResult]:
        """The objective of every pair of modalities, on the samples that have both."""
        if training:
            self._observe(features, present, context)
        features = self._centered(features, context)
        results = {}
        for critic, (a, b) in zip(self.critics, self.pairs, strict=True):
            i, j = self.columns[a], self.columns[b]
            both = present[:, i] & present[:, j]
            results[a, b] = score_pairs(
                critic,  # type: ignore[arg-type]
                features[a][both],
                features[b][both],
                None if context is None else context[both],
                form=self.form,
                kernel=self.kernel,
                memory=None if self.memory is None else self.memory.pair(i, j),
            )
        if training:
            latest = torch.stack([result.ratio for result in results.values()]).mean()
            self.ratio.copy_(torch.where(self.ratio > 0, _DECAY * self.ratio + (1 - _DECAY) * latest, latest))
        return results

    @staticmethod
    def objective(results: Mapping[Pair, PairResult]) -> Tensor:
        """Mean over pairs of L_NCE / (1+r), to be maximized; its scale does not depend on the batch."""
        return torch.stack([result.objective / (1 + result.ratio) for result in results.values()]).mean()

    @torch.no_grad()
    def remember(self, features: Features, present: Tensor, context: Tensor | None) -> None:
        """Add the batch to the memory, after the step: a batch does not meet itself."""
        if self.memory is not None and context is not None:
            self.memory.push(list(self._centered(features, context).values()), context, present)

    @torch.no_grad()
    def estimate(self, features: Features, present: Tensor, context: Tensor) -> None:
        """Keep I(Z_a;Z_b|T) of every pair, in nats, on samples that the critics have not seen."""
        features = self._centered(features, context)
        for k, (critic, (a, b)) in enumerate(zip(self.critics, self.pairs, strict=True)):
            both = present[:, self.columns[a]] & present[:, self.columns[b]]
            if not both.any():
                self.estimates[k] = 0.0
                continue
            z1, z2, given = features[a][both], features[b][both], context[both]
            value = heldout_information(critic, z1, z2, given, "nce2" if self.form == "nce2" else "nce3")  # type: ignore[arg-type]
            self.estimates[k] = value

    @torch.no_grad()
    def every_context(self, features: Features, present: Tensor) -> Tensor:
        """Return s(z_a, z_b, c) of each sample for every discrete context c: (B, P, C), zeros where one is absent."""
        contexts = self.contexts
        scores = present.new_zeros((len(present), len(self.pairs), contexts), dtype=torch.float32)
        for c in range(contexts):
            code = torch.full((len(present),), c, dtype=torch.int64, device=present.device)
            centered = self._centered(features, code)
            for k, (critic, (a, b)) in enumerate(zip(self.critics, self.pairs, strict=True)):
                both = present[:, self.columns[a]] & present[:, self.columns[b]]
                said = critic.diagonal(*critic.embed(centered[a], centered[b], code))  # type: ignore[operator]
                scores[:, k, c] = said.float() * both
        return scores

    def forget(self) -> None:
        """Drop what is known of each context, where codes have come to mean something else."""
        self.means.forget()
        if self.memory is not None:
            self.memory.forget()

    @torch.no_grad()
    def _observe(self, features: Features, present: Tensor, context: Tensor | None) -> None:
        for i, z in enumerate(features.values()):
            there = present[:, i]
            self.means.observe(i, z[there], None if context is None else context[there])

    def _centered(self, features: Features, context: Tensor | None) -> dict[str, Tensor]:
        """Features less their means given T; rows of an absent modality are left out of every score later."""
        return {m: self.means(i, z, context) for i, (m, z) in enumerate(features.items())}

    def information(self) -> dict[Pair, float]:
        """The latest estimates by pair, in nats."""
        return dict(zip(self.pairs, self.estimates.tolist(), strict=True))
