"""A data set, an encoder, a fusion and a method of one's own, which ``own_recipe.yaml`` names by this file."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from modalign.data.batch import Batch
from modalign.strategies import Stepper, Strategy


def sums_and_pictures(noise: float = 0.1, seed: int = 0) -> dict[str, np.ndarray]:
    """Return handwritten digits as noisy pictures (N, 1, 8, 8) and as the sums of their rows and columns (N, 16)."""
    digits = load_digits()
    rng = np.random.default_rng(seed)
    pictures = digits.images[:, None] / 16
    sums = np.concatenate([digits.images.sum(1), digits.images.sum(2)], axis=1) / 64
    return {
        "picture": (pictures + noise * rng.normal(size=pictures.shape)).astype(np.float32),
        "sums": sums.astype(np.float32),
        "y": digits.target,
    }


class Patches(nn.Module):
    """Encoder: a picture (B, 1, 8, 8) as patches of 2 x 2, whose features (B, width) are averaged.

    Args:
        width: number of features.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, width, kernel_size=2, stride=2)
        self.mix = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features."""
        return self.mix(self.cut(x).relu()).relu().amax((2, 3))


class Product(nn.Module):
    """Fusion: the product of the features of all modalities, each projected to ``width``.

    Args:
        width: number of features.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.projections = nn.ModuleDict({name: nn.LazyLinear(width) for name in ("picture", "sums")})

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Compute the product (B, width)."""
        projected = [1 + self.projections[name](z) for name, z in features.items()]
        return torch.stack(projected).prod(0)


@dataclass(frozen=True)
class DistilledOptions:
    """Options of ``Distilled``.

    Args:
        weight: weight of what single modalities learn from the joint prediction.
    """

    weight: float = 1.0


class Distilled(Strategy):
    """Joint training, whose prediction the head of each modality learns: CE(p_J, y) + w sum_m KL(p_J || p_m)."""

    title = "Distilled"
    tasks = ("classification",)
    Options = DistilledOptions
    options: DistilledOptions
    trains_unimodal = True

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Take one step."""
        output = self.model(batch)
        task = self.task.loss(output.logits, batch.target)
        teacher = output.logits.detach().log_softmax(1)
        student = torch.stack([logits.log_softmax(1) for logits in output.unimodal.values()])
        taught = nn.functional.kl_div(student, teacher.expand_as(student), reduction="none", log_target=True)
        distilled = taught.sum((0, 2)).mean()
        stepper.backward(task + self.options.weight * distilled)
        return {"task": task, "distilled": distilled}
