"""A training method of one's own in one file: joint training with noise on the features of each modality.

Run: modalign train digits --strategy examples/own_strategy.py
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from modalign.data.batch import Batch
from modalign.strategies.base import Stepper, Strategy


@dataclass(frozen=True)
class NoisyOptions:
    """Options of noisy joint training.

    Args:
        sigma: standard deviation of the noise.
    """

    sigma: float = 0.1


class Noisy(Strategy):
    """L = CE(p_J, y) on features with Gaussian noise."""

    title = "Noisy joint"
    Options = NoisyOptions
    options: NoisyOptions

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """One step."""
        features = self.model.encode(batch)
        noisy = {m: z + self.options.sigma * torch.randn_like(z) for m, z in features.items()}
        loss = self.task.loss(self.model.fuse(noisy, batch.present), batch.target)
        stepper.backward(loss)
        return {"task": loss}
