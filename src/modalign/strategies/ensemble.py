"""Unimodal ensemble: one network a modality, each trained alone; the answer is the mean of their probabilities.

The linear opinion pool (Stone, "The opinion pool", 1961) of networks that never saw each other: what any method that
trains them together must beat, and the reference of Du et al., "On uni-modal feature learning in supervised
multi-modal learning", ICML 2023 (their uni-modal ensemble averages predictions too). The networks are those of
``unimodal`` and ``late_fusion`` of the same seed, which share no parameter; they differ in how the answer is read
out. ``late_fusion`` multiplies probabilities, which is right where modalities are independent given the label; the
mean asks nothing of that kind, is never surer than its surest member, and cannot learn what only the modalities
together say. Deviation: one epoch is selected for the whole ensemble, not one a network. Cost per step: that of joint
training.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from modalign.data.batch import Output
from modalign.models.readout import product_of_experts
from modalign.strategies.base import NoOptions
from modalign.strategies.late_fusion import LateFusion


class Ensemble(LateFusion):
    """L = sum_m CE(p_m, y); predictions are the mean of the posteriors of the modalities present."""

    title = "Unimodal ensemble"
    Options = NoOptions

    def predict(self, output: Output) -> Tensor:
        """Log of the mean probability over the modalities present, the prior where none is.

        For regression and survival it is the mean score.
        """
        if self.log_prior is None:
            return product_of_experts(output.unimodal, output.present, None, self.task.kind)
        heads, absent = torch.stack([*output.unimodal.values()], 1).float(), ~output.present.unsqueeze(2)
        if self.task.kind == "multilabel":  # log-odds of the mean probability: the number of modalities cancels
            yes, no = (
                functional.logsigmoid(sign * heads).masked_fill(absent, -torch.inf).logsumexp(1) for sign in (1, -1)
            )
            mean = yes - no
        else:
            log_p = heads.log_softmax(2).masked_fill(absent, -torch.inf).logsumexp(1)
            mean = log_p - output.present.sum(1, keepdim=True).log()
        return torch.where(output.present.any(1, keepdim=True), mean, self.log_prior)
