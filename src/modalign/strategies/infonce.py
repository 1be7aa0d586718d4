"""InfoNCE: joint training with an unconditional contrastive loss between the modalities.

Paper: van den Oord et al., "Representation learning with contrastive predictive coding", 2018, eq. 4, in the symmetric
form of CLIP (Radford et al., 2021). The ModAlign paper lists it as [45] with no code; as decided here: projections
u_m = normalized MLP d -> 512 -> 128 of z_m, temperature .07, for M > 2 the mean over pairs of modalities. The
projections are not used in prediction. Negatives come from the batches of all processes. Cost per step: that of joint
training, M small perceptrons and a B x B matrix for each pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.data.batch import Batch
from modalign.data.info import DataInfo
from modalign.domains import Checked, NonNegative, Positive, Width
from modalign.information.objectives import info_nce
from modalign.models.multimodal import MultimodalModel
from modalign.strategies.base import Stepper, Strategy


@dataclass(frozen=True)
class InfoNCEOptions(Checked):
    """Options of InfoNCE.

    Args:
        weight: weight of the contrastive loss against the cross-entropy.
        temperature: divides the cosine similarities.
        hidden: width of the hidden layer of the projections.
        width: width of the projections.
    """

    weight: NonNegative = 0.5
    temperature: Positive = 0.07
    hidden: Width = 512
    width: Width = 128


class InfoNCE(Strategy):
    """L = CE(p_J, y) - weight * mean over pairs of the InfoNCE objective."""

    title = "InfoNCE"
    Options = InfoNCEOptions
    space = {"weight": (0.03, 1.0), "temperature": (0.03, 0.3)}
    minimum_modalities = 2
    options: InfoNCEOptions

    def __init__(self, model: MultimodalModel, info: DataInfo, options: InfoNCEOptions | None = None) -> None:
        super().__init__(model, info, options)
        options = self.options
        self.projections = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Linear(d, options.hidden), nn.ReLU(), nn.Linear(options.hidden, options.width))
                for m, d in model.dims.items()
            }
        )

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Take one step."""
        output = self.model(batch)
        task = self.task.loss(output.logits, batch.target)
        contrast = self._contrast(output.features, output.present, stepper)
        stepper.backward(task + self.options.weight * contrast)
        return {"task": task, "contrast": contrast}

    def _contrast(self, features: dict[str, Tensor], present: Tensor, stepper: Stepper) -> Tensor:
        """Return the mean over pairs of modalities of the loss on the samples of all processes that have both."""
        projected = {
            m: stepper.all_gather(functional.normalize(self.projections[m](z).float(), dim=-1), grad=True)
            for m, z in features.items()
        }
        here = stepper.all_gather(present)
        columns = {m: i for i, m in enumerate(features)}
        losses = []
        for a, b in combinations(features, 2):
            both = here[:, columns[a]] & here[:, columns[b]]
            scores = projected[a][both] @ projected[b][both].T / self.options.temperature
            positive = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
            losses.append(-info_nce(scores, positive, ~positive))
        return torch.stack(losses).mean()
