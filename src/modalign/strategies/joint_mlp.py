"""Joint perceptron: one cross-entropy on a perceptron over the features of all modalities side by side.

With concatenation and a linear head, as in most published comparisons, the logits are sum_m W_m z_m + b: additive in
the modalities, so that no label that depends on them together (as an exclusive or does) is in reach of the head. Here
it is F = W_2 relu(W_1 [z_1 .. z_M] + b_1) + b_2. The plain baseline for methods whose gain might be that of a head
that is not additive. The concatenation is the strategy's own: the model's fusion and heads play no part. Cost per
step: that of joint training and a small perceptron.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modalign.data.batch import Batch, Output
from modalign.data.info import DataInfo
from modalign.domains import Checked, Width
from modalign.models.multimodal import MultimodalModel
from modalign.strategies.base import Stepper, Strategy


@dataclass(frozen=True)
class JointMlpOptions(Checked):
    """Options of the joint perceptron.

    Args:
        hidden: width of its hidden layer.
    """

    hidden: Width = 256


class JointMlp(Strategy):
    """L = CE(MLP([z_1 .. z_M]), y)."""

    title = "Joint-Train, perceptron"
    Options = JointMlpOptions
    options: JointMlpOptions

    def __init__(self, model: MultimodalModel, info: DataInfo, options: JointMlpOptions | None = None) -> None:
        super().__init__(model, info, options)
        width, hidden = sum(model.dims.values()), self.options.hidden
        self.perceptron = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, self.task.outputs))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Encoders and perceptron; the model's own fusion and heads play no part."""
        return {"main": [*self.model.encoders.parameters(), *self.perceptron.parameters()]}

    def forward(self, batch: Batch) -> Output:
        """Return the model's output with the perceptron's logits as the joint ones."""
        features = self.model.encode(batch)
        output = self.model.heads(features, batch.present, batch.conditions)
        output.logits = self._score(features)
        return output

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Take one step of joint training."""
        loss = self.task.loss(self._score(self.model.encode(batch)), batch.target)
        stepper.backward(loss)
        return {"task": loss}

    def _score(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, C) of features that are zeros where absent."""
        logits: Tensor = self.perceptron(self.model.dropout(torch.cat(list(features.values()), 1)))
        return logits
