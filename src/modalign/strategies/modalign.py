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
- Protective margin (ours): the pull at z_m is bounded by rho times the task's gradient there, or a hinge holds the loss
  of each modality's own head at the best it had reached: ``information.margin``.
- Context-aware prior and fusion operator E_h (ours, from Bayes' rule): the class posterior is the product of the
  unimodal posteriors times the density ratio given the class, which is what h(z1, z2, T = class) estimates. Answers are
  a log-opinion pool of joint head, unimodal heads and critics, its weights fitted to validation: ``models.readout``.

For M > 2 every pair of modalities has its critic; the objective is their mean. Labels that are not classes (regression,
survival) serve as context by their quantile; their pool is a mean of the heads' scores with fitted weights, no critic.

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
from modalign.errors import InputError, option, unknown
from modalign.information.contexts import SOURCES, ContextSource, product_cells
from modalign.information.critics import (
    ContextEmbedding,
    ContinuousContext,
    FixedContext,
    LearnedContext,
)
from modalign.information.margin import LossHinge, gradient_scale, ramp
from modalign.information.objectives import FORMS, checked_form
from modalign.information.pairs import Kernel
from modalign.models.multimodal import MultimodalModel
from modalign.models.readout import evidence, fit_weights, log_prior_of, pool
from modalign.strategies.base import Stepper, Strategy
from modalign.strategies.joint_unimodal import unimodal_losses
from modalign.strategies.pair_critics import Features, PairCritics, stacked

# A margin of version 0.1, and what to use.
_GONE = {"log_odds": "use 'gradient' with its bound rho"}
_CLUSTERED = 4096  # samples on which clusters are found
_START = 0.4, 0.4, 0.1  # weights of the pool before the fit: joint head, unimodal heads together, critics


@dataclass(frozen=True)
class ModAlignOptions(Checked):
    """Options of ModAlign; each part can be switched off.

    Args:
        alpha: weight of the pull, -L_NCE / (1+r).
        eta: weight of each unimodal cross-entropy against the joint one.
        objective: ``nce3`` (three terms, as printed), ``nce2`` or ``infonce``; ``none`` leaves the encoders alone.
        context: T of the pull: ``label`` (class, set of labels, octile of a number), ``label:NAME`` (one of several
            labels), ``column:NAME`` or ``continuous:NAME`` (a column of the data), ``group`` (the
            column that ``data.group`` names), ``label*column:NAME`` or ``label*group`` (both at once), ``predicted``
            (label), ``cluster`` (of the features, found anew each epoch), ``none``, or ``auto``: the group where the
            data names one that enough samples share, else the label.
        context_minimum: training samples that a cell of a product needs to be a context of its own, and a group to
            count for ``auto``; smaller cells fall back to the first context of the product alone.
        clusters: number of clusters where context is ``cluster``.
        class_names: a ``transformers`` model or folder, or a ``.npy`` file (C, E), that embeds the names of classes:
            they then stand for the label in the critic; learned embeddings by default.
        margin: ``gradient`` (bounds the pull at the features of each modality), ``hinge`` (a term: what its own head
            has lost against the best it had reached), ``both`` or ``none``.
        rho: bound of ``gradient``: largest ratio of the pull to the task's gradient at the features.
        hinge: weight of ``hinge``.
        ramp: share of training over which alpha rises from zero; under ``hinge`` it stays zero for as long before.
        prior: answer with the pool of joint head, unimodal heads and critics; the joint head alone otherwise.
        readout_critic: let the readout hear what the critic says of every class.
        critic: ``separable``, ``bilinear`` or ``mlp``.
        critic_width: K, width of the critic.
        memory: recent features kept of each context as further negatives; 0 for none.
        memory_minimum: contexts with fewer negatives than this in a batch draw on the memory.
    """

    alpha: NonNegative = 1.0
    eta: NonNegative = 1.0
    objective: Annotated[str, Words((*FORMS, "none", "three", "two"))] = "nce3"
    context: Annotated[str, Words((*SOURCES, "label:NAME", "group", "label*group", "group*label", "auto"))] = "label"
    context_minimum: Count = 8
    clusters: Count = 8
    class_names: str | None = None
    margin: Annotated[str, Words(("gradient", "hinge", "both", "none"), _GONE)] = "gradient"
    rho: Positive = 0.3
    hinge: NonNegative = 3.0
    ramp: Share = 0.3
    prior: bool = True
    readout_critic: bool = True
    critic: Literal["separable", "bilinear", "mlp"] = "separable"
    critic_width: Width = 128
    memory: Whole = 16
    memory_minimum: Whole = 4

    # Options of version 0.1 that are gone, and what to use.
    removed: ClassVar[dict[str, str]] = {
        "softness": "negatives are the samples that share the context; leave it out",
        "gamma": "the margin 'log_odds' is gone; use margin 'gradient' and its bound rho",
        "delta": "the margin 'hinge' is another one now, on the loss of each modality's own head; its weight is hinge",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective != "none":
            object.__setattr__(self, "objective", checked_form(self.objective))


class ModAlign(Strategy):
    """Algorithm 1 of the paper with margin and prior; see the file's docstring."""

    title = "ModAlign"
    Options = ModAlignOptions
    space = {"rho": (0.1, 1.0), "eta": (0.3, 3.0)}
    minimum_modalities = 2
    trains_unimodal = True
    options: ModAlignOptions
    log_prior: Tensor | None
    weights: Tensor
    bound: Tensor
    lost: Tensor
    steps: Tensor

    def __init__(self, model: MultimodalModel, info: DataInfo, options: ModAlignOptions | None = None) -> None:
        super().__init__(model, info, options)
        options = self.options
        modalities = len(model.modalities)
        source = context_source(options.context, info, options.context_minimum)
        self.chosen = _chosen_label(info, source)
        plain = source if self.chosen is None else "label"
        self.context = ContextSource(plain, options.clusters, sum(model.dims.values()), _cells(info, plain, options))
        self.clustered = min(1.0, _CLUSTERED / info.samples)
        self.alignment = self._critics(info, source) if options.objective != "none" else None
        # The pool asks h about classes whatever T pulls; where T is the label one critic serves both.
        shared = self.alignment is not None and source == "label"
        classify = self.task.kind == "classification"
        self.critic_speaks = classify and options.prior and options.readout_critic
        self.label_critic = self._critics(info, "label") if self.critic_speaks and not shared else None
        self.register_buffer("log_prior", log_prior_of(info))
        self.start = _START[0], *[_START[1] / modalities] * modalities, *[_START[2]] * self.critic_speaks
        self.register_buffer("weights", torch.tensor(self.start))
        self.bounded = options.margin in ("gradient", "both") and self.alignment is not None
        hinged = options.margin in ("hinge", "both") and self.alignment is not None
        self.hinge = LossHinge(modalities) if hinged else None
        self.register_buffer("bound", torch.zeros(modalities))
        self.register_buffer("lost", torch.zeros(modalities))
        self.register_buffer("steps", torch.zeros(()))

    @classmethod
    def default_fusion(cls, info: DataInfo, options: ModAlignOptions) -> str:
        """``context`` where the data has conditions; their use goes with the prior, and needs trained heads."""
        told = any(modality.conditions for modality in info.modalities.values())
        return "context" if told and options.prior and options.eta > 0 else "concat"

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """One step of Algorithm 1."""
        options = self.options
        features = self.model.encode(batch)  # the only forward pass of the encoders
        # The graph is cut at z: what task and pull ask of it is seen, and bounded, before the encoders hear of it.
        z = stacked(features).detach().requires_grad_()
        leaves = {m: z[:, i, : part.shape[1]] for i, (m, part) in enumerate(features.items())}
        output = self.model.heads(leaves, batch.present, batch.conditions)
        losses = {"task": self.task.loss(output.logits, batch.target)} | unimodal_losses(self.task, output, batch)
        heads = torch.stack([value for name, value in losses.items() if name != "task"])
        if self.hinge is not None:
            losses["hinge"] = self._hinge(heads, len(z), stepper)
        stepper.backward(losses["task"] + options.eta * heads.sum() + options.hinge * losses.get("hinge", 0))
        gradient = torch.zeros_like(z) if z.grad is None else z.grad

        everywhere = stepper.all_gather(z).transpose(0, 1)
        present = stepper.all_gather(batch.present)
        label = self.info.target_bins(stepper.all_gather(batch.target))
        context = self._context(batch, output, stepper)
        # Step 2: h ascends on detached features.
        plans, terms = {}, {}
        for name, critics, given in (("critic", self.alignment, context), ("critic_label", self.label_critic, label)):
            if critics is not None:
                plans[name] = critics.observe(everywhere, present, given)
                terms[name] = -critics(everywhere, present, given, plans[name])
        if terms:
            stepper.backward(torch.stack(list(terms.values())).sum())
            stepper.update("critic")
        # Step 3: the encoders descend against the updated h.
        if self.alignment is not None:
            live = stepper.all_gather(z, grad=True).transpose(0, 1)
            objective = self.alignment(live, present, context, plans["critic"])
            gradient = gradient + self._bounded_pull(objective, z, gradient, stepper)
            self.alignment.remember(everywhere, present, context)
        if self.label_critic is not None:
            self.label_critic.remember(everywhere, present, label)
        parts = [gradient[:, i, : part.shape[1]].to(part.dtype) for i, part in enumerate(features.values())]
        stepper.backward_from(list(features.values()), parts)
        return losses | terms

    def _hinge(self, heads: Tensor, samples: int, stepper: Stepper) -> Tensor:
        """The hinge on what the heads of the modalities lost, (M,) losses of ``samples`` of this process."""
        assert self.hinge is not None
        *totals, count = stepper.all_reduce(torch.cat([heads.detach(), heads.new_ones(1)]) * samples)
        terms = self.hinge(heads, torch.stack(totals) / count)
        self.lost += terms.detach() > 0
        return terms.sum()

    def _bounded_pull(self, objective: Tensor, z: Tensor, task: Tensor, stepper: Stepper) -> Tensor:
        """The gradient of -alpha L_NCE / (1+r) at this process's features z (N, M, D), within the margin."""
        options = self.options
        # Under the hinge the pull waits while the heads reach what they can without it.
        wait = options.ramp if self.hinge is not None else 0.0
        weight = options.alpha * ramp(max(0.0, stepper.progress - wait), options.ramp)
        (pull,) = stepper.gradients(-weight * objective, [z])
        self.steps += 1
        if not self.bounded:
            return pull
        norms = stepper.all_reduce(torch.stack([task, pull]).square().sum((1, 3)))  # (2, M)
        scales = gradient_scale(norms[0], norms[1], options.rho)
        self.bound += scales < 1
        return scales[:, None] * pull

    def predict(self, output: Output) -> Tensor:
        """The pool of joint head, unimodal heads and critics; the joint head alone without the prior."""
        if not self.options.prior:
            return output.logits
        # Critics that are silent need not be asked; an export takes no branch that depends on numbers.
        heard = self.critic_speaks and (torch.compiler.is_exporting() or bool(self.weights[-1] > 0))
        voices = self._voices(output, self._about_label if heard else None)
        return pool(voices, self.weights[: voices.shape[1]], self.log_prior, self.task.kind)

    @torch.no_grad()
    def calibrate(self, output: Output, target: Tensor, groups: Tensor | None = None) -> None:
        """Fit the weights of the pool, and estimate information given the label, on held-out features."""
        if self.options.prior:
            voices = self._voices(output, self._about_label)
            optional = int(self.critic_speaks)  # a critic that is sure of too much does harm
            fit = fit_weights(voices, target, self.start, self.task, self.log_prior, optional=optional, groups=groups)
            self.weights.copy_(fit)
            if self._about_label is not None:
                self._about_label.estimate(output.features, output.present, target)

    def fit_temperature(self, output: Output, target: Tensor) -> None:
        """Fit none to the pool: its weights, which need not add up to one, are a temperature already."""
        if not self.options.prior:
            super().fit_temperature(output, target)

    def _voices(self, output: Output, critics: PairCritics | None) -> Tensor:
        """What joint head, unimodal heads and critics, if there are any, say: (B, K, C)."""
        scores = None if critics is None else critics.every_context(output.features, output.present)
        heads = output.logits, output.unimodal
        return evidence(*heads, output.present, self.log_prior, scores, self.task.kind)

    @property
    def _about_label(self) -> PairCritics | None:
        """The critics whose context is the label, which the pool asks about every class; None where it asks none."""
        if not self.critic_speaks:
            return None
        return self.label_critic if self.label_critic is not None else self.alignment

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The model by the recipe's optimizer, h by its own."""
        critics = [p for c in (self.alignment, self.label_critic) if c is not None for p in c.parameters()]
        return {"main": list(self.model.parameters()), "critic": critics}

    def on_epoch_start(self, stepper: Stepper) -> None:
        """Start the counts of the epoch; find clusters where they are the context."""
        self.bound.zero_()
        self.lost.zero_()
        self.steps.zero_()
        if self.context.kind == "cluster" and self.alignment is not None:
            self._find_clusters(stepper)

    def metrics(self) -> dict[str, float]:
        """Weights of the pool, information given the label, and how often the margin bound, by modality."""
        names = ["joint", *self.model.modalities, "critic"] if self.options.prior else []
        values = {f"weight_{name}": float(w) for name, w in zip(names, self.weights, strict=False)}
        for name, critics in (("pull", self.alignment), ("label", self.label_critic)):
            if critics is not None:
                values |= {f"ratio_{name}": float(critics.ratio)}
        if self._about_label is not None:
            values |= {f"information_{a}_{b}": value for (a, b), value in self._about_label.information().items()}
        for name, given, counts in (("margin", self.bounded, self.bound), ("hinge", self.hinge is not None, self.lost)):
            if given:
                share = (counts / self.steps.clamp(min=1)).tolist()
                values |= {f"{name}_{m}": s for m, s in zip(self.model.modalities, share, strict=True)}
        return values

    # The context T -------------------------------------------------------------------------------------------

    def _context(self, batch: Batch, output: Output, stepper: Stepper) -> Tensor | None:
        """T of the samples of all processes."""
        context = self.context(
            target=self.info.target_bins(batch.target)
            if self.chosen is None
            else _states(batch.target[:, self.chosen]),
            columns=batch.columns,
            scores=self.predict(output.detach()) if self.context.kind == "predicted" else None,
            features=_side_by_side(output.features),
        )
        return None if context is None else stepper.all_gather(context)

    def _critics(self, info: DataInfo, source: str) -> PairCritics:
        """Critics for a context: how T is embedded, and which samples share it."""
        embed, contexts, kernel = _context_of(info, source, self.options)
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


def context_source(word: str, info: DataInfo, minimum: int) -> str:
    """Return the context that ``word`` means for a data set: ``auto`` and ``group`` replaced by what they stand for.

    ``auto`` is the column of groups where the training split has at least two and half of its samples are in groups of
    at least ``minimum``, else the label.

    Raises:
        InputError: ``group`` where the data names none.

    >>> from modalign.data import Modality, classification
    >>> info = DataInfo("toy", classification("ab"), {"x": Modality("x", "vector", (3,))}, 8, (4, 4))
    >>> context_source("auto", info, 8)
    'label'
    """
    if word == "auto":
        sizes = [sum(row) for row in info.columns[info.group].counts] if info.group is not None else []
        shared = sum(size for size in sizes if size >= minimum)
        return f"column:{info.group}" if sum(s > 0 for s in sizes) > 1 and 2 * shared >= info.samples else "label"
    parts = [part.strip() for part in word.split("*")]
    if "group" in parts and info.group is None:
        raise InputError(
            f"context {word!r}: data set {info.name!r} names no group, or more than 1000; expected data.group, the "
            "column of speakers, sites or patients: name it, or use context 'label'"
        )
    return "*".join(f"column:{info.group}" if part == "group" else part for part in parts)


STATES = 3
"""States of one label: absent, present, not known."""


def _states(label: Tensor) -> Tensor:
    """Return one label (B,) of which NaN is not known as a discrete context."""
    return label.nan_to_num(2.0).long()


def _chosen_label(info: DataInfo, source: str) -> int | None:
    """Return the position of the label that ``label:NAME`` names; None for other contexts.

    Raises:
        InputError: there is no such label.
    """
    kind, _, name = source.partition(":")
    if kind != "label" or not name:
        return None
    if info.task.kind != "multilabel":
        raise InputError(f"context {source!r} needs several labels; data set {info.name!r} is {info.task.kind}")
    if name not in info.task.classes:
        raise unknown("label in the context:", name, info.task.classes)
    return info.task.classes.index(name)


def _cells(info: DataInfo, source: str, options: ModAlignOptions) -> Tensor | None:
    """Codes of a product of label and column; None for other contexts."""
    names = [part for part in source.split("*") if part != "label"]
    if "*" not in source or len(names) != 1:
        return None
    counts = torch.tensor(_column(info, names[0]).counts)
    return product_cells(counts.T if source.startswith("label") else counts, options.context_minimum)


def _context_of(
    info: DataInfo, source: str, options: ModAlignOptions
) -> tuple[Callable[[], ContextEmbedding] | None, int | None, Kernel | None]:
    """How a context is embedded, how many contexts there are (None: no codes), and its kernel."""
    kind = source.partition(":")[0]
    cells = _cells(info, source, options)
    if cells is not None:
        count = int(cells.max()) + 1
        return lambda: LearnedContext(count), count, None
    if kind == "none":
        return None, None, None
    if kind == "cluster":
        return lambda: LearnedContext(options.clusters), options.clusters, None
    if kind == "column":
        names = _column(info, source).names
        return lambda: LearnedContext(len(names)), len(names), None
    if kind == "continuous":
        column = _column(info, source)
        return lambda: ContinuousContext(len(column.mean)), None, _GaussianKernel(column)
    if kind == "predicted" and info.task.kind != "classification":
        raise InputError(f"context 'predicted' needs classes; data set {info.name!r} is {info.task.kind}: use 'label'")
    contexts = info.target_contexts if ":" not in source else STATES
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
        raise unknown(f"context column (columns are loaded with {option('data.columns', [name])}):", name, known)
    if known[name].discrete != (kind == "column"):
        other = "continuous" if kind == "column" else "column"
        raise InputError(f"context {context!r}: column {name!r} is not of that kind; use {other}:{name}")
    found = [said for said, row in zip(known[name].names, known[name].counts, strict=False) if any(row)]
    if len(found) == 1:
        raise InputError(
            f"context {context!r}: every training sample has the value {found[0]!r}, so that T would tell nothing; "
            "expected a column of several values: use context 'label', or 'none'"
        )
    return known[name]


def _side_by_side(features: Features) -> Tensor:
    """All features of a sample in one row, without gradient: (B, sum of D_m)."""
    return torch.cat([z.detach().float() for z in features.values()], dim=1)
