"""Unimodal: each modality alone. The headline is the modality that is best on validation; all are kept in the run.

The modalities share no parameter, so training them side by side is training them alone. Source: Table 1 of the
ModAlign paper, which does not say which modality its row shows; selection on validation is ours. Cost per step: that of
joint training for all M together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modalign.data.batch import Batch, Output
from modalign.data.info import DataInfo
from modalign.models.multimodal import MultimodalModel
from modalign.strategies.base import NoOptions, Stepper, Strategy
from modalign.strategies.joint_unimodal import unimodal_losses


class Unimodal(Strategy):
    """L = sum_m CE(p_m, y); a prediction is that of the best modality (on validation) the sample has."""

    title = "Unimodal"
    trains_unimodal = True
    quality: Tensor

    def __init__(self, model: MultimodalModel, info: DataInfo, options: NoOptions | None = None) -> None:
        super().__init__(model, info, options)
        self.register_buffer("quality", torch.zeros(len(model.modalities)))

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Take one step on all modalities."""
        losses = unimodal_losses(self.task, self.model(batch), batch)
        stepper.backward(sum(losses.values()))  # type: ignore[arg-type]
        return losses

    def calibrate(self, output: Output, target: Tensor, groups: Tensor | None = None) -> None:
        """Rank the modalities: accuracy on validation (of labels: of all known ones), less the loss for other tasks."""
        for column, logits in enumerate(output.unimodal.values()):
            here = output.present[:, column]
            if not here.any():
                self.quality[column] = -torch.inf
            elif self.task.kind == "classification":
                self.quality[column] = (logits[here].argmax(-1) == target[here]).float().mean()
            elif self.task.kind == "multilabel":
                known = ~target[here].isnan()
                self.quality[column] = ((logits[here] > 0) == (target[here] == 1))[known].float().mean()
            else:
                self.quality[column] = -self.task.loss(logits[here], target[here])

    def predict(self, output: Output) -> Tensor:
        """Scores of each sample's best present modality."""
        scores = torch.stack(list(output.unimodal.values()), dim=1)  # (B, M, C)
        best = torch.where(output.present, self.quality, -torch.inf).argmax(1)
        return scores[torch.arange(scores.shape[0], device=scores.device), best]

    def metrics(self) -> dict[str, float]:
        """Return what each modality reaches on validation."""
        return {f"quality_{m}": float(q) for m, q in zip(self.model.modalities, self.quality, strict=True)}
