"""ReconBoost: modalities as learners of gradient boosting, trained in turns.

Paper: Hua, Xu, Bao, Yang and Huang, "ReconBoost: Boosting Can Achieve Modality Reconcilement", ICML 2024.
Reference implementation: huacong/ReconBoost.

Late fusion through one perceptron H (D, 256, C) shared by all modalities: f_m = H(z_m), F = b sum_m f_m
with a learned scalar b. Stage s trains modality k = s mod M, then all that have had a turn:

    boosting       q = softmax(b sum_{j != k} f_j), a constant; p_m = softmax(f_m)
                   L = -(1 - residual q_y) log p_k[y] + consolidation ||p_k - p_prev||^2 / C
                   updates the encoder of k and H; p_prev is the learner of the stage before, a constant
    rectification  L = CE(F, y), updates everything in F

Sums, F among them, run over the modalities that have had their turn: boosting begins with one learner. In the first
stage q_y is 1 (code: a softmax over a single constant; 1/C with the full target), and nothing is consolidated. After
pretraining, a share of the epochs in which each encoder is trained with a linear head of its own, all are in from
the start. All published commands pretrain (they load encoders trained alone to their best epoch, outside of the
budget; here it is part of it), and without it a modality that enters can undo the first: digits, 12 epochs, seeds 0
to 2, give .967, .969, .973 with a quarter of the epochs and .793, .964, .964 with none (AVLetters, 25 epochs, seed 0:
.873 with 8 epochs, .877). All are in from the start also where the budget has fewer than M
stages, or a modality would never be trained.

F is what is read out, so inference is not that of the concatenation model: it adds H and b, and the
model's own fusion and heads are not trained. A sample without modality m has no f_m in any sum, and no
boosting loss for it. Choices where paper and code differ, deviations:

- The paper's residual target is y - residual q over all classes (``target = "full"``); with residual = 1
  it is the negative functional gradient of CE at the other modalities' ensemble, the target of gradient
  boosting. Its entries of wrong classes are negative, so that -t log p is unbounded below: driving a
  wrong class to -infinity makes it as small as one likes. The code takes the entry of the true class only
  (``target = "true"``), which is bounded and the default.
- The code has -(1/C) (w1 - w2 q_y) log p: w1 = 5, w2 = 1 for 6 classes, 4 and 1 for 28. The factor
  shrinks the step with the number of classes; here w1 / C is 1 and residual = w2 / w1 (0.2 and 0.25
  there).
- In the code both arguments of the consolidation term are detached: it has no gradient. Here only p_prev
  is.
- The encoders that are not trained run in evaluation mode, so that their norm statistics stay; in the
  code they drift.
- Phases last one epoch here, four there (``boost_epochs``, ``rectify_epochs``): with equal totals of epochs each
  modality then gets as many turns as the budget allows. The published budget is far larger, about 100 stages of 4 + 4
  epochs after pretraining. Where the encoders' widths differ, each is projected to ``hidden`` before H.
- The code builds a new optimizer each phase. Here there is one: parameters without a gradient are not
  stepped, and go on with their former momentum in their next turn.

Cost over joint training: one encoder runs backward in a boosting epoch, all in a rectification epoch
(0.83 an epoch on average for two equal encoders). An epoch is fewer updates: (M + 1) / 2M of joint training's, 3/4 for
two modalities. Every run logs its ``encoder_updates``, so that rows can be compared at equal numbers of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.data.batch import Batch, Output
from modalign.data.info import DataInfo
from modalign.domains import Checked, Count, Decay, NonNegative, Whole, Width
from modalign.models.multimodal import MultimodalModel
from modalign.strategies.base import Stepper, Strategy
from modalign.strategies.joint_unimodal import unimodal_losses


def residual_target(others: Tensor, target: Tensor, residual: float, full: bool = False) -> Tensor:
    """Return what the learner of a stage is fitted to.

    Args:
        others: (B, C) probabilities q of the ensemble of the other modalities.
        target: (B,) true classes.
        residual: how much of q is taken off.
        full: y - residual q; otherwise its entry of the true class only, zeros elsewhere.

    Returns:
        (B, C). With ``full`` and residual = 1 minus the gradient of CE with respect to the ensemble's logits.
    """
    label = functional.one_hot(target, others.shape[1]).to(others.dtype)
    return label - residual * others if full else label * (1 - residual * others)


def boosting_loss(scores: Tensor, wanted: Tensor) -> Tensor:
    """-sum_c t_c log softmax(scores)_c (B,), in nats, for ``wanted`` t (B, C) from ``residual_target``."""
    return -(wanted * scores.float().log_softmax(1)).sum(1)


def consolidation_loss(scores: Tensor, previous: Tensor) -> Tensor:
    """Return the mean over classes of (softmax(scores) - softmax(previous))^2 (B,); only ``scores`` gets a gradient."""
    return (scores.float().softmax(1) - previous.detach().float().softmax(1)).square().mean(1)


def turn(epoch: int, modalities: int, boost_epochs: int, rectify_epochs: int) -> tuple[int, int, bool]:
    """(stage, modality of the stage, whether it is being boosted) of an epoch, all from 0."""
    stage, within = divmod(epoch, boost_epochs + rectify_epochs)
    return stage, stage % modalities, within < boost_epochs


@dataclass(frozen=True)
class ReconBoostOptions(Checked):
    """Options of ReconBoost.

    Args:
        residual: how much of the other modalities' prediction is taken off the label.
        target: ``true`` (code: entry of the true class) or ``full`` (paper: all entries; unbounded below).
        consolidation: weight of staying close to the former learner.
        boost_epochs: epochs of a boosting phase (code: 4).
        rectify_epochs: epochs of a rectification phase (code: 4).
        pretrain: share of the epochs in which each modality is first trained alone.
        hidden: width of the shared perceptron.
    """

    residual: NonNegative = 0.25
    target: Literal["true", "full"] = "true"
    consolidation: NonNegative = 0.5
    boost_epochs: Count = 1
    rectify_epochs: Whole = 1
    pretrain: Decay = 0.25
    hidden: Width = 256


class ReconBoost(Strategy):
    """Boosting that reconciles modalities."""

    title = "ReconBoost"
    Options = ReconBoostOptions
    space = {"residual": (0.1, 1.0), "consolidation": (0.1, 2.0)}
    minimum_modalities = 2
    tasks = ("classification",)
    trains_unimodal = True
    options: ReconBoostOptions
    entered: Tensor

    def __init__(self, model: MultimodalModel, info: DataInfo, options: ReconBoostOptions | None = None) -> None:
        super().__init__(model, info, options)
        options = self.options
        widths = set(model.dims.values())
        width = widths.pop() if len(widths) == 1 else options.hidden
        self.projections = nn.ModuleDict(
            {m: nn.Identity() if d == width else nn.Linear(d, width) for m, d in model.dims.items()}
        )
        self.shared = nn.Sequential(
            nn.Linear(width, options.hidden), nn.ReLU(), nn.Linear(options.hidden, self.task.outputs)
        )
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("entered", torch.ones(len(model.modalities), dtype=torch.bool))  # what F is made of

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Encoders, projections, H and b; the model's own heads in pretraining only, its fusion never."""
        parts = [self.model.encoders, self.projections, self.shared]
        if self.options.pretrain:
            parts.append(self.model.unimodal_heads)
        return {"main": [*(p for part in parts for p in part.parameters()), self.scale]}

    def forward(self, batch: Batch) -> Output:
        """Return the ensemble: ``unimodal`` are the f_m, ``logits`` is F."""
        features = self.model.encode(batch)
        scores = {m: self._score(m, self.model.dropout(z)) for m, z in features.items()}
        return Output(features, scores, self._ensemble(scores, batch.present), batch.present)

    def on_epoch_start(self, stepper: Stepper) -> None:
        """Take in the modality whose turn begins."""
        options, count = self.options, len(self.model.modalities)
        length = options.boost_epochs + options.rectify_epochs
        whole = self._pretraining(stepper) > 0 or stepper.epochs < count * length
        self.entered.copy_(torch.arange(count) <= (count if whole else stepper.epoch // length))

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Take one step of the phase that the epoch belongs to."""
        names, options = self.model.modalities, self.options
        epoch = stepper.epoch - self._pretraining(stepper)
        if epoch < 0:
            losses = unimodal_losses(self.task, self.model(batch), batch)
            stepper.backward(sum(losses.values()))  # type: ignore[arg-type]
            return losses
        stage, k, boosting = turn(epoch, len(names), options.boost_epochs, options.rectify_epochs)
        for m, name in enumerate(names):
            self.model.encoders[name].train(m == k if boosting else bool(self.entered[m]))
        if not boosting:
            features = self.model.encode(batch, only=[m for m, here in zip(names, self.entered, strict=True) if here])
            scores = {m: self._score(m, self.model.dropout(z)) for m, z in features.items()}
            loss = self.task.loss(self._ensemble(scores, batch.present), batch.target)
            stepper.backward(loss)
            return {"task": loss}
        fit, stay = self._boost(batch, k, first=stage == 0)
        loss = fit + options.consolidation * stay
        stepper.backward(loss)
        return {"boosting": fit, "consolidation": stay}

    def metrics(self) -> dict[str, float]:
        """Return the learned scale b."""
        return {"scale": float(self.scale.detach())}

    def _pretraining(self, stepper: Stepper) -> int:
        """Epochs of pretraining; at least one is left."""
        return min(round(self.options.pretrain * stepper.epochs), stepper.epochs - 1)

    def _boost(self, batch: Batch, k: int, first: bool) -> tuple[Tensor, Tensor]:
        """Boosting and consolidation loss of modality k; samples without it add zero."""
        names, present = self.model.modalities, batch.present
        others = [name for m, name in enumerate(names) if m != k and self.entered[m]]
        with torch.no_grad():
            fixed = {m: self._score(m, z) for m, z in self.model.encode(batch, only=others).items()}
            q = self._others(fixed, present)
        name = names[k]
        scores = self._score(name, self.model.dropout(self.model.encode(batch, only=[name])[name]))
        wanted = residual_target(q, batch.target, self.options.residual, self.options.target == "full")
        fit = (boosting_loss(scores, wanted) * present[:, k]).mean()
        if first:
            return fit, torch.zeros_like(fit)
        previous = (k - 1) % len(names)
        both = present[:, k] & present[:, previous]
        return fit, (consolidation_loss(scores, fixed[names[previous]]) * both).mean()

    def _others(self, fixed: dict[str, Tensor], present: Tensor) -> Tensor:
        """Return the probabilities q (B, C) of the others' ensemble, or of the constant that stands for no learner."""
        if fixed:
            return self._ensemble(fixed, present).softmax(1)
        constant = 1 / self.task.outputs if self.options.target == "full" else 1.0
        return torch.full((len(present), self.task.outputs), constant, device=present.device)

    def _score(self, name: str, features: Tensor) -> Tensor:
        """f_m (B, C) of the features of one modality, fp32."""
        scores: Tensor = self.shared(self.projections[name](features))
        return scores.float()

    def _ensemble(self, scores: dict[str, Tensor], present: Tensor) -> Tensor:
        """b times the sum of the given f_m over the modalities that have entered and are present, (B, C)."""
        columns = {name: m for m, name in enumerate(self.model.modalities)}
        here = present & self.entered
        return self.scale * torch.stack([s * here[:, columns[m], None] for m, s in scores.items()]).sum(0)
