"""MMPareto: a common descent direction for the joint loss and the loss of each modality.

Paper: Wei and Hu, "MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance", ICML 2024.
Reference implementation: GeWu-Lab/MMPareto_ICML2024.

Every modality has a head of its own: L_0 = loss of the joint head, L_m = loss of the head on z_m. For the
parameters of each encoder, with g_0 = grad L_0 and g_m = grad L_m:

    no conflict (<g_0, g_m> > 0):  a = (1/2, 1/2)
    conflict:                      a = argmin ||a_0 g_0 + a_m g_m||, a_0 + a_m = 1, that is
                                   a_0 = (||g_m||^2 - <g_0, g_m>) / ||g_0 - g_m||^2
    h = 2 a_0 g_0 + 2 a_m g_m,     gradient = gamma max(1, ||g_0 + g_m|| / ||h||) h

Heads and fusion take the plain gradient of L_0 + sum_m L_m. Inference is that of joint training. Any
number of modalities (each encoder has its own pair), any fusion, any task. Choices where paper and code
differ:

- ``rescale = "tensor"`` (code, what the published numbers were made with) takes the norms tensor by tensor, which
  turns h: its product with g_0 or g_m may then become negative, so what Pareto integration is for no longer
  holds. ``"encoder"`` (paper) takes them over a whole encoder.
- gamma also acts without conflict, so encoders run at gamma times the learning rate of the heads.
- Where one of the gradients is zero (a modality absent from the batch) there is no conflict; the formula
  taken literally would give h = 0 and 0/0.
- Gradients are averaged over processes before they are compared; with gradient accumulation each batch is
  combined by itself.

Cost of a step over joint training: a second backward pass through the encoders, two sets of encoder
gradients (about 1.7 times the time). The reference makes four backward passes for the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modalign.data.batch import Batch
from modalign.data.info import DataInfo
from modalign.domains import Checked, Positive
from modalign.models.multimodal import MultimodalModel
from modalign.strategies.base import Stepper, Strategy
from modalign.strategies.joint_unimodal import unimodal_losses


def joint_share(joint: Tensor, own: Tensor) -> Tensor:
    """a_0, the share of the joint gradient: 1/2 without conflict, else of the shortest convex combination.

    Args:
        joint: (N,) gradient of the joint loss over one encoder.
        own: (N,) gradient of the modality's own loss.

    Returns:
        Scalar from 0 to 1.
    """
    inner, joint_square, own_square = (joint * own).sum(), joint.square().sum(), own.square().sum()
    conflict = (inner <= 0) & (joint_square > 0) & (own_square > 0)
    distance = joint_square + own_square - 2 * inner
    return torch.where(conflict, (own_square - inner) / torch.where(conflict, distance, 1.0), 0.5)


def rescaled(direction: Tensor, plain: Tensor, gamma: float) -> Tensor:
    """gamma max(1, ||plain|| / ||direction||) direction: no shorter than the plain sum would be."""
    length = direction.norm()
    ratio = torch.where(length > 0, plain.norm() / torch.where(length > 0, length, 1.0), 1.0)
    return direction * (gamma * ratio.clamp_min(1.0))


def combined(joint: Tensor, own: Tensor, gamma: float, sizes: Sequence[int] | None = None) -> Tensor:
    """Return the gradient that an encoder takes instead of the plain sum.

    Args:
        joint, own: (N,) gradients of one encoder.
        gamma: factor of the result.
        sizes: numbers of elements of its tensors, to rescale each by itself; None rescales them together.

    Returns:
        (N,).
    """
    share = joint_share(joint, own)
    direction, plain = 2 * share * joint + 2 * (1 - share) * own, joint + own
    if sizes is None:
        return rescaled(direction, plain, gamma)
    parts = zip(direction.split(list(sizes)), plain.split(list(sizes)), strict=True)
    return torch.cat([rescaled(d, p, gamma) for d, p in parts])


@dataclass(frozen=True)
class MMParetoOptions(Checked):
    """Options of MMPareto.

    Args:
        gamma: factor of the encoders' gradient (paper: 1.5).
        rescale: over what norms are taken: ``tensor`` (code) or ``encoder`` (paper).
    """

    gamma: Positive = 1.5
    rescale: Literal["tensor", "encoder"] = "tensor"


class MMPareto(Strategy):
    """Pareto integration of joint and unimodal gradients."""

    title = "MMPareto"
    Options = MMParetoOptions
    space = {"gamma": (0.75, 3.0)}
    minimum_modalities = 2
    trains_unimodal = True
    options: MMParetoOptions
    conflicts: Tensor
    steps: Tensor

    def __init__(self, model: MultimodalModel, info: DataInfo, options: MMParetoOptions | None = None) -> None:
        super().__init__(model, info, options)
        self.register_buffer("conflicts", torch.zeros(len(model.modalities)))
        self.register_buffer("steps", torch.zeros(()))

    def on_epoch_start(self, stepper: Stepper) -> None:
        """Count conflicts anew."""
        self.conflicts.zero_()
        self.steps.zero_()

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Two backward passes from one forward pass, joined encoder by encoder."""
        output = self.model(batch)
        joint = self.task.loss(output.logits, batch.target)
        own = unimodal_losses(self.task, output, batch)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        from_joint = dict(zip(parameters, stepper.gradients(joint, parameters, retain_graph=True), strict=True))
        from_own = dict(zip(parameters, stepper.gradients(torch.stack([*own.values()]).sum(), parameters), strict=True))
        for m, name in enumerate(self.model.modalities):
            encoder = [p for p in self.model.encoders[name].parameters() if p.requires_grad]
            if encoder:
                self._integrate(m, encoder, from_joint, from_own, stepper)
                for p in encoder:
                    del from_joint[p], from_own[p]
        for p, gradient in from_joint.items():
            _accumulate(p, gradient + from_own[p])
        self.steps += 1
        return {"task": joint, **own}

    def metrics(self) -> dict[str, float]:
        """Share of the epoch's steps with conflicting gradients, for each encoder."""
        shares = (self.conflicts / self.steps.clamp(min=1)).tolist()
        return {f"conflicts_{name}": share for name, share in zip(self.model.modalities, shares, strict=True)}

    def _integrate(
        self,
        modality: int,
        encoder: Sequence[nn.Parameter],
        from_joint: dict[nn.Parameter, Tensor],
        from_own: dict[nn.Parameter, Tensor],
        stepper: Stepper,
    ) -> None:
        """Add the combined gradient of one encoder; the same in all processes."""
        pair = torch.stack([torch.cat([g[p].flatten() for p in encoder]) for g in (from_joint, from_own)])
        joint, own = stepper.all_reduce(pair, "mean")
        self.conflicts[modality] += (joint * own).sum() < 0
        sizes = [p.numel() for p in encoder]
        whole = combined(joint, own, self.options.gamma, sizes if self.options.rescale == "tensor" else None)
        for p, gradient in zip(encoder, whole.split(sizes), strict=True):
            _accumulate(p, gradient.view_as(p))


def _accumulate(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Add to ``.grad`` as a backward pass would."""
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
