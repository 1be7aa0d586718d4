"""OPM: drop the features of the modality that is ahead, more often the further it is ahead.

Paper: Wei, Hu, Du and Wen, "On-the-fly Modulation for Balanced Multimodal Learning", TPAMI 2024 (the journal version of
OGM-GE, whose forward counterpart this is).
Reference implementation: GeWu-Lab/BML_TPAMI2024.

With rho_m as in OGM-GE, who is ahead by the evidence for the true class, each step after a warm-up:

    q_m  = base (1 + rise tanh(rho_m - 1))  if rho_m > 1,  else 0         probability to drop modality m
    in a share ``active`` of the steps:
        k_im ~ Bernoulli(1 - q_m)                                         for each sample i
        z_im <- k_im z_im / (1 - theta),   theta = sum_m d_m q_m / sum_m d_m
        L    =  mean of CE(joint) over the samples that keep a modality

Inference is that of joint training. Deviations, and choices where paper and code differ:

- The code drops once epoch 5 of 100 is over; here that is a share of the budget.
- A dropped modality counts as absent, which is zeros under concatenation, as in the code; its norm statistics take in
  the sample all the same. A sample that comes without any modality stays in the loss.
- q is clipped to 1, as in the code. For more than two modalities rho_m is the mean of the pairwise ratios, as in
  ``ogm_ge``, whose evidence is used here.
- What is dropped depends on seed, step and sample, not on the number of processes.

Cost of a step over joint training: M + 1 small matrix products without gradient (1.00 to 1.02).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modalign.data.batch import Batch
from modalign.data.info import DataInfo
from modalign.domains import Checked, NonNegative, Share
from modalign.models.multimodal import MultimodalModel
from modalign.strategies.base import Stepper, Strategy
from modalign.strategies.ogm_ge import lead, paired_evidence, true_class_probability


def drop_probabilities(evidence: Tensor, base: float, rise: float) -> Tensor:
    """q_m (M,) from ``paired_evidence`` (M, M)."""
    rho = lead(evidence)
    return torch.where(rho > 1, base * (1 + rise * torch.tanh(rho - 1)), 0.0).clamp(max=1)


@dataclass(frozen=True)
class OpmOptions(Checked):
    """Options of OPM; the defaults are those of the published command.

    Args:
        base: probability to drop a modality that is just ahead.
        rise: by what share it rises with the lead.
        active: share of the steps in which anything is dropped.
        warmup: share of the epochs before the first drop, the last of them included.
    """

    base: Share = 0.5
    rise: NonNegative = 0.5
    active: Share = 0.7
    warmup: Share = 0.05


class Opm(Strategy):
    """On-the-fly prediction modulation."""

    title = "OPM"
    Options = OpmOptions
    space = {"base": (0.2, 0.8), "rise": (0.1, 1.0)}
    minimum_modalities = 2
    tasks = ("classification",)
    options: OpmOptions
    dropped: Tensor

    def __init__(self, model: MultimodalModel, info: DataInfo, options: OpmOptions | None = None) -> None:
        super().__init__(model, info, options)
        self.register_buffer("dropped", torch.zeros(len(model.modalities)))

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Joint loss on what is left of the batch."""
        features = self.model.encode(batch)
        if stepper.epoch <= self.options.warmup * stepper.epochs:
            loss = self.task.loss(self.model.fuse(features, batch.present, batch.conditions), batch.target)
        else:
            loss = self._thinned(features, batch, stepper)
        stepper.backward(loss)
        return {"task": loss}

    def metrics(self) -> dict[str, float]:
        """Return the latest probability to drop each modality."""
        values = self.dropped.tolist()
        return {f"drop_{name}": value for name, value in zip(self.model.modalities, values, strict=True)}

    def _thinned(self, features: dict[str, Tensor], batch: Batch, stepper: Stepper) -> Tensor:
        """Return the joint loss after dropping; a mean over the samples that are left on all processes."""
        probability = true_class_probability(self.model, features, batch)
        evidence = stepper.all_reduce(paired_evidence(probability, batch.present))
        q = drop_probabilities(evidence, self.options.base, self.options.rise)
        self.dropped.copy_(q)
        kept, share = self._draw(q.cpu(), batch, stepper)
        widths = q.new_tensor(list(self.model.dims.values()))
        scale = 1 / (1 - (widths * q).sum() / widths.sum()) if kept is not None else 1.0
        present = batch.present if kept is None else batch.present & kept
        logits = self.model.fuse({m: z * scale for m, z in features.items()}, present)
        counts = present.any(1) | ~batch.present.any(1)
        losses: Tensor = self.task.loss(logits, batch.target, reduction="none") * counts
        return losses.mean() / share

    def _draw(self, q: Tensor, batch: Batch, stepper: Stepper) -> tuple[Tensor | None, float]:
        """Return which modalities each sample keeps (B, M), and the share of all samples that keep one."""
        index, present = stepper.all_gather(batch.index).cpu(), stepper.all_gather(batch.present).cpu()
        seed = np.random.SeedSequence([stepper.seed, stepper.step_index, int(index[0])]).generate_state(1)
        generator = torch.Generator().manual_seed(int(seed[0]))
        if torch.rand((), generator=generator) >= self.options.active:
            return None, 1.0
        kept = torch.rand(len(index), len(q), generator=generator) >= q
        left = (present & kept).any(1) | ~present.any(1)
        mine = torch.searchsorted(index, batch.index.cpu(), sorter=index.argsort())
        return kept[index.argsort()[mine]].to(batch.present.device), max(float(left.float().mean()), 1 / len(left))
