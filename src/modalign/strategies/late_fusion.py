"""Late fusion: each modality is trained alone, and their posteriors are multiplied.

The product of experts sum_m log p(y|z_m) - (n-1) log p(y) is the optimal decision when the n modalities are
independent given the label, and only then (Bayes' rule; Kittler et al., "On combining classifiers", PAMI 1998, eq. 8).
It asks nothing of a joint head and is hard to beat where I(Z1;Z2|Y) is small. Cost per step: that of joint training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from modalign.data.batch import Batch, Output
from modalign.data.info import DataInfo
from modalign.domains import Checked
from modalign.models.multimodal import MultimodalModel
from modalign.models.readout import log_prior_of, product_of_experts
from modalign.strategies.base import Stepper, Strategy
from modalign.strategies.joint_unimodal import unimodal_losses


@dataclass(frozen=True)
class LateFusionOptions(Checked):
    """Options of late fusion.

    Args:
        prior: divide by the class prior where n posteriors are multiplied, as Bayes' rule asks (classification).
    """

    prior: bool = True


class LateFusion(Strategy):
    """L = sum_m CE(p_m, y); predictions are the product of the posteriors of the modalities present."""

    title = "Late fusion"
    Options: ClassVar[type] = LateFusionOptions
    trains_unimodal = True
    options: LateFusionOptions
    log_prior: Tensor | None

    def __init__(self, model: MultimodalModel, info: DataInfo, options: LateFusionOptions | None = None) -> None:
        super().__init__(model, info, options)
        self.register_buffer("log_prior", log_prior_of(info))

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Take one step on all modalities; they share no parameter, so each is trained as if alone."""
        losses = unimodal_losses(self.task, self.model(batch), batch)
        stepper.backward(sum(losses.values()))  # type: ignore[arg-type]
        return losses

    def predict(self, output: Output) -> Tensor:
        """Return the product of experts over the modalities present; for regression and survival their mean score."""
        prior = self.log_prior if self.options.prior else None
        return product_of_experts(output.unimodal, output.present, prior, self.task.kind)
