"""DGL: encoders learn from the modalities' own losses only, the fusion from the joint loss only.

Paper: Wei, Luo and Luo, "Boosting Multimodal Learning via Disentangled Gradient Learning", ICCV 2025.
Reference implementation: shicaiwei123/ICCV2025-GDL.

With f the fusion and its head, f(z) the joint logits and f(z_m) the same with all modalities but m absent:

    encoder of m       alpha grad CE(f(z_m), y)            f is a constant: it takes no gradient from this
    fusion and head    grad CE(f(z), y)                    z is a constant: encoders take no gradient from this

so that the joint loss, whose gradient on a slow modality fades as the fast one fits, no longer reaches any encoder,
and the fusion is not pulled towards answering from one modality. Inference is that of joint training; the scores of
single modalities are f(z_m). Any number of modalities, any fusion; classification, as in the paper (under a squared
error f shrinks until the parts add up to y, each encoder grows until its part alone is y, and training diverges).
Choices and deviations:

- With concatenation f(z_m) = W_m z_m + b, the code's pass with zeros for the other modality. For gated and film the
  code has formulas of its own for f(z_m) (a modality gates itself); here it is the fusion with the others absent.
- alpha is 4 or 5 in the published commands (CREMA-D, learning rate .002), with gradients clipped to a norm of 40.
  Here it is 1, and nothing is clipped unless the recipe says so: alpha multiplies the learning rate of the encoders.
- A sample that lacks m adds nothing to the loss of m.

Cost of a step over joint training: M more passes through fusion and head (about 1.05).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modalign.data.batch import Batch, Output
from modalign.domains import Checked, Positive
from modalign.strategies.base import Stepper, Strategy
from modalign.strategies.joint_unimodal import unimodal_losses


@dataclass(frozen=True)
class DglOptions(Checked):
    """Options of DGL.

    Args:
        alpha: factor of the encoders' gradient; published commands use 4 and 5 at a learning rate of .002.
    """

    alpha: Positive = 1.0


class Dgl(Strategy):
    """Disentangled gradient learning."""

    title = "DGL"
    Options = DglOptions
    space = {"alpha": (0.5, 5.0)}
    minimum_modalities = 2
    tasks = ("classification",)
    trains_unimodal = True
    options: DglOptions

    def forward(self, batch: Batch) -> Output:
        """Return the joint model's output, with the fusion's answer from one modality as the unimodal scores."""
        features = self.model.encode(batch)
        alone = self._alone(features, batch.present)
        return Output(features, alone, self.model.fuse(features, batch.present, batch.conditions), batch.present)

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """One backward pass into the encoders, one into the fusion."""
        features = self.model.encode(batch)
        fixed = {m: z.detach() for m, z in features.items()}
        logits = self.model.fuse(fixed, batch.present, batch.conditions)
        joint = self.task.loss(logits, batch.target)
        stepper.backward(joint)
        alone = self._alone(features, batch.present)
        own = unimodal_losses(self.task, Output(features, alone, logits, batch.present), batch)
        leaves = [z for z in features.values() if z.requires_grad]
        if leaves:
            loss = self.options.alpha * torch.stack([*own.values()]).sum()
            # With respect to the features alone, so that nothing is added to the fusion and its head.
            stepper.backward_from(leaves, stepper.gradients(loss, leaves))
        return {"task": joint, **own}

    def _alone(self, features: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        """Return f(z_m), (B, C) by modality."""
        only = torch.eye(len(features), dtype=torch.bool, device=present.device)
        return {m: self.model.fuse(features, present & only[i]) for i, m in enumerate(features)}
