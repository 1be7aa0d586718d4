"""Joint + unimodal heads: a cross-entropy on each modality's own head beside the joint one.

The plain baseline that most comparisons leave out (multi-task or "uni-modal teacher-free" training; compare the
sum of losses that MMPareto, Wei & Hu, ICML 2024, starts from). Cost per step: that of joint training plus M linear
heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modalign.data.batch import Batch, Output
from modalign.data.task import Task
from modalign.domains import Checked, NonNegative
from modalign.strategies.base import Stepper, Strategy


@dataclass(frozen=True)
class JointUnimodalOptions(Checked):
    """Options of joint training with unimodal heads.

    Args:
        eta: weight of each unimodal cross-entropy against the joint one.
    """

    eta: NonNegative = 1.0


class JointUnimodal(Strategy):
    """L = CE(p_J, y) + eta * sum_m CE(p_m, y); predictions are the joint head's."""

    title = "Joint + unimodal heads"
    Options = JointUnimodalOptions
    space = {"eta": (0.3, 3.0)}
    trains_unimodal = True
    options: JointUnimodalOptions

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Take one step."""
        output = self.model(batch)
        losses = {"task": self.task.loss(output.logits, batch.target)}
        losses |= unimodal_losses(self.task, output, batch)
        unimodal = sum(value for name, value in losses.items() if name != "task")
        stepper.backward(losses["task"] + self.options.eta * unimodal)
        return losses


def unimodal_losses(task: Task, output: Output, batch: Batch) -> dict[str, Tensor]:
    """CE(p_m, y) of each modality as ``task_<m>``: means over the batch in which absent samples count zero.

    Dividing by the whole batch, not by those present, keeps the mean over processes equal to one process's.
    """
    if task.kind == "survival":  # the partial likelihood is over the risk set of those present
        losses = {}
        for (name, logits), here in zip(output.unimodal.items(), output.present.T, strict=True):
            loss = task.loss(logits[here], batch.target[here]) if here.any() else logits.sum() * 0
            losses[f"task_{name}"] = loss
        return losses
    heads, samples = len(output.unimodal), len(batch.target)
    scores = torch.stack(list(output.unimodal.values())).flatten(0, 1)  # all heads at once
    target = batch.target.repeat(heads, *[1] * (batch.target.ndim - 1))
    terms = task.loss(scores, target, reduction="none").view(heads, samples)
    means = (terms * output.present.T).sum(1) / samples
    return {f"task_{name}": loss for name, loss in zip(output.unimodal, means.unbind(), strict=True)}
