"""What is predicted: the loss, the probabilities and the shape of the target of each kind of task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

TaskKind = Literal["classification", "multilabel", "regression", "survival"]


@dataclass(frozen=True)
class Task:
    """A prediction task.

    Attributes:
        kind: ``classification`` (one of C classes), ``multilabel`` (any of C labels), ``regression`` (one number, or
            C), ``survival`` (log risk).
        classes: names of the classes in the order of their indices, of the labels, or of several numbers; else empty.
        center, scale: means and standard deviations of several numbers. Scores are in these, so that no unit counts for
            more; ``log_probability`` gives numbers as they are.

    >>> Task("multilabel", ("cough", "fever")).loss(torch.zeros(1, 2), torch.tensor([[1.0, torch.nan]]))
    tensor(0.3466)
    >>> Task("classification", ("no", "yes")).loss(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]))
    tensor(0.6931)
    """

    kind: TaskKind = "classification"
    classes: tuple[str, ...] = ()
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def outputs(self) -> int:
        """Width C of the heads."""
        return len(self.classes) if self.classes or self.kind == "classification" else 1

    @property
    def several(self) -> bool:
        """Whether the target is (B, C), labels or numbers, of which those that are NaN are not known."""
        return self.kind == "multilabel" or (self.kind == "regression" and bool(self.classes))

    def loss(self, scores: Tensor, target: Tensor, reduction: Literal["mean", "sum", "none"] = "mean") -> Tensor:
        """Loss of ``scores`` (B, C) against ``target``, in fp32.

        Cross-entropy in nats for classification, squared error for regression; of several labels (binary
        cross-entropy) or numbers the mean over all, in which those not known count zero. For survival the negative Cox
        partial log-likelihood with Breslow ties, in O(B log B) (``none`` gives each sample's own term, zero for
        censored samples).
        """
        scores = scores.float()
        if self.several:
            known = ~target.isnan()
            if self.kind == "multilabel":
                filled = target.nan_to_num().to(scores)
                each = functional.binary_cross_entropy_with_logits(scores, filled, reduction="none")
            else:
                center, scale = target.new_tensor([self.center, self.scale])
                each = (scores - ((target - center) / scale).nan_to_num().to(scores)).square()
            own = (each * known).mean(1)
            return own if reduction == "none" else own.sum() if reduction == "sum" else own.mean()
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
        """Return what is reported of scores (B, C), in fp32.

        Log-probabilities of the classes, or of each label; several numbers in their own units; for other tasks the
        scores themselves.
        """
        scores = scores.float()
        if self.kind == "multilabel":
            return functional.logsigmoid(scores)
        if self.several:
            center, scale = scores.new_tensor([self.center, self.scale])
            return center + scale * scores
        return scores.log_softmax(-1) if self.kind == "classification" else scores


def classification(classes: Sequence[object]) -> Task:
    """Return a classification task over ``classes``.

    >>> classification(["no", "yes"]).outputs
    2
    """
    return Task("classification", tuple(str(name) for name in classes))
