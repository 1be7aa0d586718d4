"""What is predicted: the loss, the probabilities and the shape of the target of each kind of task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

TaskKind = Literal["classification", "regression", "survival"]


@dataclass(frozen=True)
class Task:
    """A prediction task.

    Attributes:
        kind: ``classification`` (one of C classes), ``regression`` (one number), ``survival`` (log risk).
        classes: names of the classes, in the order of their indices; empty for the other kinds.

    >>> Task("classification", ("no", "yes")).loss(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]))
    tensor(0.6931)
    """

    kind: TaskKind = "classification"
    classes: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Width C of the heads."""
        return len(self.classes) if self.kind == "classification" else 1

    def loss(self, scores: Tensor, target: Tensor, reduction: Literal["mean", "sum", "none"] = "mean") -> Tensor:
        """Loss of ``scores`` (B, C) against ``target``, in fp32.

        Cross-entropy in nats for classification, squared error for regression, and for survival the
        negative Cox partial log-likelihood with Breslow ties, in O(B log B) (``none`` gives each sample's own term,
        zero for censored samples).
        """
        scores = scores.float()
        if self.kind == "classification":
            return functional.cross_entropy(scores, target, reduction=reduction)
        if self.kind == "regression":
            return functional.mse_loss(scores.squeeze(-1), target.float(), reduction=reduction)
        risk, time, event = scores.squeeze(-1), target[:, 0], target[:, 1].bool()
        latest_first = time.argsort(descending=True, stable=True)
        sums = risk[latest_first].logcumsumexp(0)
        # At risk are all with a time no earlier: of equal times the last in this order has all of them.
        at_risk = torch.searchsorted(-time[latest_first], -time, right=True) - 1
        denominator = sums[at_risk]
        terms = torch.where(event, denominator - risk, torch.zeros_like(risk))
        if reduction == "none":
            return terms
        total = terms.sum()
        return total / target[:, 1].sum().clamp(min=1) if reduction == "mean" else total

    def log_probability(self, scores: Tensor) -> Tensor:
        """Log-probabilities of the classes (B, C) in fp32; for other tasks the scores themselves."""
        scores = scores.float()
        return scores.log_softmax(-1) if self.kind == "classification" else scores


def classification(classes: Sequence[object]) -> Task:
    """Return a classification task over ``classes``.

    >>> classification(["no", "yes"]).outputs
    2
    """
    return Task("classification", tuple(str(name) for name in classes))
