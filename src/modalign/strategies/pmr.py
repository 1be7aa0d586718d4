"""PMR: pull the features of the slower modality towards the prototypes of their classes.

Paper: Fan, Xu, Wang, Wang and Guo, "PMR: Prototypical Modal Rebalance for Multimodal Learning", CVPR
2023.
Reference implementation: fanyunfeng-bit/Modal-Imbalance-PMR.

With c^m_k the prototype (mean feature) of class k in modality m, a constant between two computations:

    p_m   = softmax_k(-||z_m - c^m_k||),    PCE_m = -log p_m[y],    s_m = sum_i p_m(y_i)
    L     = CE(joint) + alpha sum_m w_m PCE_m - entropy sum_m v_m H(p_m)
    w_m   = clip(max_j s_j / s_m - 1, 0, 1)      how far m is behind (the paper's beta and gamma for M = 2)
    v_m   = clip(max_j s_m / s_j - 1, 0, 1)      how far m is ahead

Prototypes are class means over a share of the training split in evaluation mode, drawn anew before training and
after each epoch: c <- (1 - momentum) new + momentum old, where the first two computations overwrite.
Inference is that of joint training. Deviations, and choices where paper and code differ:

- ``weights = "clip"`` is the paper's; ``weights = "weakest"`` is the code's: weight 1 for the modality
  with the smallest s, 0 for the others.
- The entropy term (PER) is in the paper, absent from the code, and its size and duration are in neither:
  it is off (``entropy = 0``) unless asked for.
- The share is a tenth (code), but at least ten samples a class on average, and so the whole split where it is small: a
  prototype of one or two samples is their noise, and pulls towards it.
- A class not seen in the share keeps its former prototype; one never seen is left out of the softmax, and
  its samples out of PCE and s. (The code divides 0 by 0.)
- More than two modalities by the maxima above; ratios use the samples that have both modalities.
- Distances of features of different widths do not compare. ``distance = "auto"`` takes them as they are
  where all widths agree (paper), otherwise of features divided by their standard deviation and the root
  of their width.
- The reference makes prototypes from augmented samples; here they are not augmented. It modulates during
  epochs 0 to 70 of 130 (AVE); here that is a share of the budget.

Cost over joint training: B x C distances a step and a forward pass over the share an epoch (about 1.03).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.data.batch import Batch
from modalign.data.info import DataInfo
from modalign.domains import Checked, Decay, NonNegative, Part, Share
from modalign.models.multimodal import MultimodalModel
from modalign.strategies.base import Stepper, Strategy
from modalign.strategies.ogm_ge import evidence_ratios, paired_evidence

_ROUNDING = 1e-5  # of the length of two features, about 100 times the precision of fp32
_NEVER = -1e9  # similarity to a class without prototype; finite, so that no 0 * inf arises


def similarities(features: Tensor, prototypes: Tensor, known: Tensor) -> Tensor:
    """Return minus the Euclidean distance to each prototype.

    Args:
        features: (B, D).
        prototypes: (C, D).
        known: (C,) bool, which classes have a prototype; the others get -1e9.

    Returns:
        (B, C) fp32; its gradient is zero at a prototype, and where nothing but rounding parts the two.
    """
    features = features.float()
    # The form by matrix products cancels for close points.
    distance = torch.cdist(features, prototypes, compute_mode="donot_use_mm_for_euclid_dist")
    # The only sample of a class is its own prototype: what lies between them is rounding, and has no direction.
    rounding = _ROUNDING * (features.norm(dim=1, keepdim=True) + prototypes.norm(dim=1))
    distance = torch.where(distance > rounding, distance, distance.detach())
    return (-distance).masked_fill(~known, _NEVER)


def clip_weights(evidence: Tensor) -> tuple[Tensor, Tensor]:
    """(w, v), each (M,): how far each modality is behind and ahead, from ``paired_evidence`` (M, M)."""
    ratios = evidence_ratios(evidence)
    return (ratios.amax(0) - 1).clamp(0, 1), (ratios.amax(1) - 1).clamp(0, 1)


def weakest_weights(evidence: Tensor) -> Tensor:
    """(M,): 1 for the modality that is furthest behind another, else 0; all 0 where none is behind."""
    behind = evidence_ratios(evidence).amax(0)
    return functional.one_hot(behind.argmax(), len(behind)) * (behind.amax() > 1).float()


def entropy(similarity: Tensor) -> Tensor:
    """Return the entropy (B,) in nats of softmax(similarity)."""
    log_p = similarity.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def blended(old: Tensor, known: Tensor, sums: Tensor, counts: Tensor, momentum: float) -> Tensor:
    """New prototypes (C, D): class means blended with the old; absent classes keep theirs, new overwrite.

    Args:
        old: (C, D) former prototypes.
        known: (C,) bool, which of them exist.
        sums: (C, D) sums of the features of each class.
        counts: (C,) number of samples in them.
        momentum: share of the old.
    """
    means = sums / counts.clamp(min=1).unsqueeze(1)
    share = torch.where(known, momentum, 0.0)
    share = torch.where(counts > 0, share, 1.0).unsqueeze(1)
    return torch.lerp(means.to(old.dtype), old, share.to(old.dtype))


class Prototypes(nn.Module):
    """Prototypes of one modality, with the scale that makes distances comparable.

    Attributes:
        prototypes: (C, D) class means of the features as they are.
        known: (C,) bool, classes that have one.
        scale: (D,) what features and prototypes are divided by before their distance is taken.
    """

    prototypes: Tensor
    known: Tensor
    scale: Tensor

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("prototypes", torch.zeros(classes, width))
        self.register_buffer("known", torch.zeros(classes, dtype=torch.bool))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, features: Tensor) -> Tensor:
        """Return the similarities (B, C) of features (B, D)."""
        return similarities(features.float() / self.scale, self.prototypes / self.scale, self.known)


@dataclass(frozen=True)
class PmrOptions(Checked):
    """Options of PMR.

    Args:
        alpha: weight of the prototype cross-entropy; published commands use 2 (concat), 3 and 5 (sum).
        weights: ``clip`` (paper) or ``weakest`` (code).
        momentum: share of the old prototypes; nearly all published commands use 0.
        share: share of the training split from which prototypes are made, raised to ten samples a class.
        until: share of the epochs during which the method acts, the last of them included.
        entropy: weight of the entropy term of the paper, 0 for none.
        entropy_until: share of the epochs during which the entropy term acts.
        distance: ``raw``, ``standardized``, or ``auto``: standardized only where widths differ.
    """

    alpha: NonNegative = 2.0
    weights: Literal["clip", "weakest"] = "clip"
    momentum: Decay = 0.0
    share: Part = 0.1
    until: Share = 0.54
    entropy: NonNegative = 0.0
    entropy_until: Share = 0.1
    distance: Literal["auto", "raw", "standardized"] = "auto"


class Pmr(Strategy):
    """Prototypical modal rebalance."""

    title = "PMR"
    Options = PmrOptions
    space = {"alpha": (0.5, 5.0)}
    minimum_modalities = 2
    tasks = ("classification",)
    options: PmrOptions
    computations: Tensor
    weight: Tensor

    def __init__(self, model: MultimodalModel, info: DataInfo, options: PmrOptions | None = None) -> None:
        super().__init__(model, info, options)
        options = self.options
        widths = model.dims
        self.prototypes = nn.ModuleDict({m: Prototypes(self.task.outputs, d) for m, d in widths.items()})
        different = len(set(widths.values())) > 1
        self._standardize = options.distance == "standardized" or (options.distance == "auto" and different)
        self.register_buffer("computations", torch.zeros((), dtype=torch.long))
        self.register_buffer("weight", torch.zeros(len(widths)))

    def on_train_start(self, stepper: Stepper) -> None:
        """Prototypes of the untrained features."""
        self._compute(stepper)

    def on_epoch_end(self, stepper: Stepper) -> None:
        """Prototypes for the next epoch, if the method still acts in it."""
        if stepper.epoch + 1 <= self.options.until * stepper.epochs:
            self._compute(stepper)

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Joint loss, and the prototype cross-entropy of the modalities that are behind."""
        features = self.model.encode(batch)
        joint = self.task.loss(self.model.fuse(features, batch.present, batch.conditions), batch.target)
        if stepper.epoch > self.options.until * stepper.epochs:
            stepper.backward(joint)
            return {"task": joint}
        pull = self._pull(features, batch, stepper)
        stepper.backward(joint + pull)
        return {"task": joint, "prototype": pull}

    def metrics(self) -> dict[str, float]:
        """Return the latest weight of each modality."""
        values = self.weight.tolist()
        return {f"weight_{name}": value for name, value in zip(self.model.modalities, values, strict=True)}

    def _prototypes(self, name: str) -> Prototypes:
        return cast(Prototypes, self.prototypes[name])

    def _pull(self, features: dict[str, Tensor], batch: Batch, stepper: Stepper) -> Tensor:
        """alpha sum_m w_m PCE_m - entropy sum_m v_m H(p_m); a sample without the modality adds zero."""
        scores = torch.stack([self.prototypes[m](features[m]) for m in self.model.modalities], 1)
        known = torch.stack([self._prototypes(m).known for m in self.model.modalities], 1)
        usable = batch.present & known[batch.target]
        loss = -scores.log_softmax(2).take_along_dim(batch.target.view(-1, 1, 1), 2).squeeze(2)
        loss = torch.where(usable, loss, 0.0)
        evidence = stepper.all_reduce(paired_evidence((-loss).exp().detach(), usable))
        behind, ahead = clip_weights(evidence)
        self.weight.copy_(behind if self.options.weights == "clip" else weakest_weights(evidence))
        pull = self.options.alpha * (loss.mean(0) * self.weight.clone()).sum()
        if self.options.entropy > 0 and stepper.epoch <= self.options.entropy_until * stepper.epochs:
            spread = torch.stack([entropy(s) for s in scores.unbind(1)], 1)
            pull = pull - self.options.entropy * ((spread * batch.present).mean(0) * ahead).sum()
        return pull

    @torch.no_grad()
    def _compute(self, stepper: Stepper) -> None:
        """Compute the prototypes anew from a share of the training split, over all processes."""
        self.model.eval()
        classes, sums = self.task.outputs, {}
        for m, width in self.model.dims.items():
            # By class: sum of features, sum of their squares, count.
            sums[m] = torch.zeros(classes, 2 * width + 1, device=self.weight.device)
        occurring = sum(count > 0 for count in self.info.class_counts)
        share = max(self.options.share, 10 * occurring / max(1, sum(self.info.class_counts)))
        for batch in stepper.train_batches(min(1.0, share), draw=int(self.computations)):
            for present, (m, z) in zip(batch.present.T, self.model.encode(batch).items(), strict=True):
                rows = torch.cat([z, z.square(), torch.ones_like(z[:, :1])], 1).float() * present.unsqueeze(1)
                sums[m].index_add_(0, batch.target, rows)
        momentum = self.options.momentum if self.computations >= 2 else 0.0
        for m, width in self.model.dims.items():
            features, squares, counts = stepper.all_reduce(sums[m]).split([width, width, 1], 1)
            self._replace(m, features, squares, counts.squeeze(1), momentum)
        self.computations += 1
        self.model.train()

    def _replace(self, name: str, sums: Tensor, squares: Tensor, counts: Tensor, momentum: float) -> None:
        """Set prototypes and scale of one modality from class sums."""
        state = self._prototypes(name)
        state.prototypes.copy_(blended(state.prototypes, state.known, sums, counts, momentum))
        state.known |= counts > 0
        if self._standardize and counts.sum() > 0:
            mean = sums.sum(0) / counts.sum()
            deviation = (squares.sum(0) / counts.sum() - mean.square()).clamp_min(0).sqrt()
            varying = torch.where(deviation > 1e-3 * deviation.amax().clamp_min(1e-6), deviation, 1.0)
            # Distances grow with the root of the width: bring all modalities to their mean width.
            mean_width = sum(self.model.dims.values()) / len(self.model.dims)
            state.scale.copy_(varying * (len(mean) / mean_width) ** 0.5)
