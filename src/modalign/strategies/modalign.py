"""ModAlign: conditional information between modalities, under a protective margin, with a mixed readout.

Paper: "InfoBridge: Balanced Multimodal Integration through Conditional Dependency Modeling", ICCV 2025, pp. 393-404
(its project page calls the method ModAlign). No code is published; the page prints the objective and Algorithm 1 and
gives margin, prior and overall loss in words. What is printed and what is ours:

- Conditional NCE, L_NCE = E_pos[log h] + r E_neg[log(1-h)] + r E_pos[log h] (printed): ``information.objectives``.
- Negatives from p(z1|T) p(z2|T): pairs that share the context (printed): ``information.pairs``.
- h sees z less its running mean given T (ours), which leaves the density ratio as it is: ``information.centering``.
- Algorithm 1 (printed): one forward pass of the encoders; h ascends L_NCE on detached features; encoders and classifier
  descend the overall loss against the updated h: ``ModAlign.step``.
- Overall loss (its Eq. 10 is not printed; ours): CE(p_J, y) + eta sum_m CE(p_m, y) - alpha L_NCE / (1+r).
- Protective margin (ours): the pull at z_m is bounded by rho times the task's gradient there: ``information.margin``.
- Context-aware prior (ours, lambda a rule of thumb): log p = lambda log p_J + (1-lambda) [product of experts], with
  lambda = 1 - exp(-I(Z1;Z2|Y)) estimated on validation features once an epoch: ``models.readout``.

For M > 2 every pair of modalities has its critic; the objective is their mean, and I in lambda is the heaviest spanning
tree of the pairs' estimates, a lower bound on the conditional total correlation. Labels that are not classes
(regression, survival) serve as context by their quantile.

Cost per step over joint training: the critics', twice on the features of the batch; the encoders run once forward, once
backward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from modalign.data.batch import Batch, Output
from modalign.data.info import ColumnInfo, DataInfo
from modalign.domains import Checked, Count, NonNegative, Positive, Share, Whole, Width, Words
from modalign.errors import InputError, unknown
from modalign.information.contexts import SOURCES, ContextSource
from modalign.information.critics import (
    ContextEmbedding,
    ContinuousContext,
    FixedContext,
    LearnedContext,
)
from modalign.information.margin import gradient_scale, ramp, squared_norms
from modalign.information.objectives import FORMS, checked_form
from modalign.information.pairs import Kernel
from modalign.models.multimodal import MultimodalModel
from modalign.models.readout import class_log_prior, context_aware_readout, fusion_strength, total_correlation_bound
from modalign.strategies.base import Stepper, Strategy
from modalign.strategies.joint_unimodal import unimodal_losses
from modalign.strategies.pair_critics import Features, PairCritics

# Margins of version 0.1, and what to use.
_GONE = dict.fromkeys(("log_odds", "hinge"), "use 'gradient' with its bound rho")
_CLUSTERED = 4096  # samples on which clusters are found


@dataclass(frozen=True)
class ModAlignOptions(Checked):
    """Options of ModAlign; each part can be switched off.

    Args:
        alpha: weight of the pull, -L_NCE / (1+r).
        eta: weight of each unimodal cross-entropy against the joint one.
        objective: ``nce3`` (three terms, as printed), ``nce2`` or ``infonce``; ``none`` leaves the encoders alone.
        context: T of the pull: ``label``, ``column:NAME`` or ``continuous:NAME`` (a column of the data), ``predicted``
            (label), ``cluster`` (of the features, found anew each epoch) or ``none``.
        clusters: number of clusters where context is ``cluster``.
        class_names: a ``transformers`` model or folder, or a ``.npy`` file (C, E), that embeds the names of classes:
            they then stand for the label in the critic; learned embeddings by default.
        margin: ``gradient`` (bounds the pull at the features of each modality) or ``none``.
        rho: margin's bound: largest ratio of the pull to the task's gradient at the features.
        ramp: share of training over which alpha rises from zero.
        prior: read out with the context-aware prior; the joint head alone otherwise.
        critic: ``separable``, ``bilinear`` or ``mlp``.
        critic_width: K, width of the critic.
        memory: recent features kept of each context as further negatives; 0 for none.
        memory_minimum: contexts with fewer negatives than this in a batch draw on the memory.
    """

    alpha: NonNegative = 1.0
    eta: NonNegative = 1.0
    objective: Annotated[str, Words((*FORMS, "none", "three", "two"))] = "nce3"
    context: Annotated[str, Words(SOURCES)] = "label"
    clusters: Count = 8
    class_names: str | None = None
    margin: Annotated[str, Words(("gradient", "none"), _GONE)] = "gradient"
    rho: Positive = 0.3
    ramp: Share = 0.3
    prior: bool = True
    critic: Literal["separable", "bilinear", "mlp"] = "separable"
    critic_width: Width = 128
    memory: Whole = 16
    memory_minimum: Whole = 8

    # Options of version 0.1 that are gone, and what to use.
    removed: ClassVar[dict[str, str]] = {
        "softness": "negatives are the samples that share the context; leave it out",
        "gamma": "the margin 'log_odds' is gone; use margin 'gradient' and its bound rho",
        "delta": "the margin 'hinge' is gone; use margin 'gradient' and its bound rho",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective != "none":
            object.__setattr__(self, "objective", checked_form(self.objective))


class ModAlign(Strategy):
    """Algorithm 1 of the paper with margin and prior; see the file's docstring."""

    title = "ModAlign"
    Options = ModAlignOptions
    main_option = ("alpha", (0.3, 1.0, 3.0))
    minimum_modalities = 2
    trains_unimodal = True
    options: ModAlignOptions
    log_prior: Tensor | None
    strength: Tensor
    bound: Tensor
    steps: Tensor

    def __init__(self, model: MultimodalModel, info: DataInfo, options: ModAlignOptions | None = None) -> None:
        super().__init__(model, info, options)
        options = self.options
        modalities = len(model.modalities)
        self.context = ContextSource(options.context, options.clusters, sum(model.dims.values()))
        self.clustered = min(1.0, _CLUSTERED / info.samples)
        self.alignment = self._critics(info, self.context.kind) if options.objective != "none" else None
        # lambda needs I(Z1;Z2|Y) whatever T pulls; where T is the label one critic serves both.
        shared = self.alignment is not None and options.context == "label"
        self.label_critic = self._critics(info, "label") if options.prior and not shared else None
        classify = self.task.kind == "classification"
        self.register_buffer("log_prior", class_log_prior(info.class_counts) if classify else None)
        self.register_buffer("strength", torch.ones(()))
        self.register_buffer("bound", torch.zeros(modalities))
        self.register_buffer("steps", torch.zeros(()))

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """One step of Algorithm 1."""
        options = self.options
        features = self.model.encode(batch)  # the only forward pass of the encoders
        # The graph is cut at z: what task and pull ask of it is seen, and bounded, before the encoders hear of it.
        leaves = {m: z.detach().requires_grad_() for m, z in features.items()}
        output = self.model.heads(leaves, batch.present)
        losses = {"task": self.task.loss(output.logits, batch.target)} | unimodal_losses(self.task, output, batch)
        heads = sum(value for name, value in losses.items() if name != "task")
        stepper.backward(losses["task"] + options.eta * heads)
        gradients = [torch.zeros_like(z) if z.grad is None else z.grad for z in leaves.values()]

        everywhere = {m: stepper.all_gather(z) for m, z in leaves.items()}
        present = stepper.all_gather(batch.present)
        label = self.info.target_bins(stepper.all_gather(batch.target))
        context = self._context(batch, output, stepper)
        losses |= self._update_critics(everywhere, present, context, label, stepper)
        if self.alignment is not None:
            live = {m: stepper.all_gather(z, grad=True) for m, z in leaves.items()}
            pulled = self._bounded_pull(live, leaves, present, context, gradients, stepper)
            gradients = [g + p for g, p in zip(gradients, pulled, strict=True)]
        stepper.backward_from(list(features.values()), gradients)
        for critics, given in ((self.alignment, context), (self.label_critic, label)):
            if critics is not None:
                critics.remember(everywhere, present, given)
        return losses

    def _update_critics(
        self, features: Features, present: Tensor, context: Tensor | None, label: Tensor, stepper: Stepper
    ) -> dict[str, Tensor]:
        """Ascend L_NCE over h on detached features, before the encoders see h."""
        losses = {}
        for name, critics, given in (("critic", self.alignment, context), ("critic_label", self.label_critic, label)):
            if critics is not None:
                losses[name] = -critics.objective(critics(features, present, given, training=True))
        if losses:
            stepper.backward(torch.stack(list(losses.values())).sum())
            stepper.update("critic")
        return losses

    def _bounded_pull(
        self,
        live: Features,
        leaves: Features,
        present: Tensor,
        context: Tensor | None,
        task: list[Tensor],
        stepper: Stepper,
    ) -> list[Tensor]:
        """The gradient of -alpha L_NCE / (1+r) at this process's features, within the margin."""
        assert self.alignment is not None
        options = self.options
        weight = options.alpha * ramp(stepper.progress, options.ramp)
        loss = -weight * self.alignment.objective(self.alignment(live, present, context))
        pull = stepper.gradients(loss, list(leaves.values()))
        self.steps += 1
        if options.margin == "none":
            return pull
        norms = stepper.all_reduce(torch.stack([squared_norms(task), squared_norms(pull)]))
        scales = gradient_scale(norms[0], norms[1], options.rho)
        self.bound += (scales < 1).float()
        return [scale.to(g.dtype) * g for scale, g in zip(scales, pull, strict=True)]

    def predict(self, output: Output) -> Tensor:
        """log p = lambda log p_J + (1-lambda) times the product of experts; p_J alone without the prior."""
        if not self.options.prior:
            return output.logits
        return context_aware_readout(output.logits, output.unimodal, output.present, self.strength, self.log_prior)

    @torch.no_grad()
    def calibrate(self, output: Output, target: Tensor) -> None:
        """lambda from the information between the modalities given the label, on held-out features."""
        critics = self._about_label
        if self.options.prior and critics is not None:
            critics.estimate(output.features, output.present, self.info.target_bins(target))
            self.strength.copy_(fusion_strength(total_correlation_bound(critics.information())))

    @property
    def _about_label(self) -> PairCritics | None:
        """The critics whose context is the label, on which lambda rests."""
        return self.label_critic if self.label_critic is not None else self.alignment

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The model by the recipe's optimizer, h by its own."""
        critics = [p for c in (self.alignment, self.label_critic) if c is not None for p in c.parameters()]
        return {"main": list(self.model.parameters()), "critic": critics}

    def on_epoch_start(self, stepper: Stepper) -> None:
        """Start the counts of the epoch; find clusters where they are the context."""
        self.bound.zero_()
        self.steps.zero_()
        if self.context.kind == "cluster" and self.alignment is not None:
            self._find_clusters(stepper)

    def metrics(self) -> dict[str, float]:
        """lambda, the information it rests on, and how often the margin bound, by modality."""
        values = {"lambda": float(self.strength)} if self.options.prior else {}
        for name, critics in (("pull", self.alignment), ("label", self.label_critic)):
            if critics is not None:
                values |= {f"ratio_{name}": float(critics.ratio)}
        critics = self._about_label
        if self.options.prior and critics is not None:
            values |= {f"information_{a}_{b}": value for (a, b), value in critics.information().items()}
        if self.alignment is not None and self.options.margin != "none":
            share = self.bound / self.steps.clamp(min=1)
            values |= {f"margin_{m}": float(s) for m, s in zip(self.model.modalities, share, strict=True)}
        return values

    # The context T -------------------------------------------------------------------------------------------

    def _context(self, batch: Batch, output: Output, stepper: Stepper) -> Tensor | None:
        """T of the samples of all processes."""
        context = self.context(
            target=self.info.target_bins(batch.target),
            columns=batch.columns,
            scores=self.predict(output.detach()) if self.context.kind == "predicted" else None,
            features=_side_by_side(output.features),
        )
        return None if context is None else stepper.all_gather(context)

    def _critics(self, info: DataInfo, kind: str) -> PairCritics:
        """Critics for a kind of context: how T is embedded, and which samples share it."""
        embed, contexts, kernel = _context_of(info, kind, self.options)
        return PairCritics(self.model.dims, embed, contexts, kernel, self.options)

    @torch.no_grad()
    def _find_clusters(self, stepper: Stepper) -> None:
        """k-means on the features of (at most ``_CLUSTERED``) training samples, the same on all processes."""
        from sklearn.cluster import KMeans

        self.eval()
        rows = [_side_by_side(self.model.encode(batch)) for batch in stepper.train_batches(self.clustered)]
        everywhere = stepper.all_gather(torch.cat(rows)).cpu().numpy()
        self.train()
        found = KMeans(self.options.clusters, n_init=3, random_state=stepper.seed).fit(everywhere)
        self.context.centers.copy_(torch.from_numpy(found.cluster_centers_))
        assert self.alignment is not None
        self.alignment.forget()


def _context_of(
    info: DataInfo, kind: str, options: ModAlignOptions
) -> tuple[Callable[[], ContextEmbedding] | None, int | None, Kernel | None]:
    """How a kind of context is embedded, how many contexts there are (None: no codes), and its kernel."""
    if kind == "none":
        return None, None, None
    if kind == "cluster":
        return lambda: LearnedContext(options.clusters), options.clusters, None
    if kind == "column":
        names = _column(info, options.context).names
        return lambda: LearnedContext(len(names)), len(names), None
    if kind == "continuous":
        column = _column(info, options.context)
        return lambda: ContinuousContext(len(column.mean)), None, _GaussianKernel(column)
    if kind == "predicted" and info.task.kind != "classification":
        raise InputError(f"context 'predicted' needs classes; data set {info.name!r} is {info.task.kind}: use 'label'")
    contexts = info.target_contexts
    if options.class_names is None:
        return lambda: LearnedContext(contexts), contexts, None
    vectors = _name_vectors(info, options.class_names)
    return lambda: FixedContext(vectors), contexts, None


class _GaussianKernel:
    """k(T_i, T_j) = exp(-d^2/2) of a standardized continuous context."""

    def __init__(self, column: ColumnInfo) -> None:
        self.mean, self.std = torch.tensor(column.mean), torch.tensor(column.std).clamp(min=1e-6)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = (self._standard(t) for t in (first, second))
        return torch.exp(-0.5 * torch.cdist(a, b).square())

    def _standard(self, context: Tensor) -> Tensor:
        rows = context.float().reshape(len(context), -1)
        return (rows - self.mean.to(rows.device)) / self.std.to(rows.device)


def _name_vectors(info: DataInfo, source: str) -> Tensor:
    from modalign.models.names import embed_names

    if info.task.kind != "classification":
        raise InputError(f"class_names needs classes; data set {info.name!r} is {info.task.kind}")
    return embed_names(info.task.classes, source)


def _column(info: DataInfo, context: str) -> ColumnInfo:
    """The column of the data that ``column:NAME`` or ``continuous:NAME`` names.

    Raises:
        InputError: the data has no such column, or it is of the other kind.
    """
    kind, _, name = context.partition(":")
    known = info.columns
    if name not in known:
        raise unknown("context column (columns are loaded with data.columns):", name, known)
    if known[name].discrete != (kind == "column"):
        other = "continuous" if kind == "column" else "column"
        raise InputError(f"context {context!r}: column {name!r} is not of that kind; use {other}:{name}")
    return known[name]


def _side_by_side(features: Features) -> Tensor:
    """All features of a sample in one row, without gradient: (B, sum of D_m)."""
    return torch.cat([z.detach().float() for z in features.values()], dim=1)
