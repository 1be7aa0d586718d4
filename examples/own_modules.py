"""An encoder and a method of one's own, from Python alone: paste the cells into a notebook, or run the file.

Run: python examples/own_modules.py
"""

# %% Data: arrays by name; all that have an axis are modalities, ``y`` is what is predicted.
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import modalign

digits = load_digits()
data = {
    "image": digits.images[:, None].astype("float32") / 16,  # (N, 1, 8, 8)
    "sums": digits.images.sum(1).astype("float32") / 64,  # (N, 8): of each column
    "y": digits.target,
}


# %% An encoder: any module from (B, *shape) to (B, D). How wide it is is seen from what it returns.
class Net(nn.Module):
    """Two convolutions."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, width, 3), nn.ReLU(), nn.Flatten()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features (B, 4 * width)."""
        return self.layers(x)


# %% A method: what one step is, in terms of the network's output. Optimizers, epochs, devices are the engine's.
@dataclass(frozen=True)
class DroppedOptions:
    """Options of ``Dropped``.

    Args:
        rate: share of the samples that are trained without one of their modalities.
    """

    rate: float = 0.3


class Dropped(modalign.Strategy):
    """Joint training in which a modality, drawn for each sample, is missing now and then."""

    title = "Dropped"
    Options = DroppedOptions
    options: DroppedOptions

    def step(self, batch: modalign.Batch, stepper: modalign.Stepper) -> dict[str, Tensor]:
        """Take one step."""
        features = self.model.encode(batch)
        present = batch.present.clone()
        rows = torch.arange(len(present), device=present.device)
        drawn = torch.randint(present.shape[1], (len(present),), device=present.device)
        present[rows, drawn] &= torch.rand(len(present), device=present.device) >= self.options.rate
        loss = self.task.loss(self.model.fuse(features, present), batch.target)
        stepper.backward(loss)
        return {"task": loss}


# %% Train: names are replaced by objects; settings go by their names in recipes.
run = modalign.train(
    data, strategy=Dropped, encoders={"image": Net()}, options={"rate": 0.2}, epochs=2, lr=3e-3, optimizer="adamw"
)
print(run.metrics["test"])

# %% What came of it: a table with one row an epoch, curves, predictions on new samples.
print(run.history.filter(["epoch", "train.task", "valid.accuracy"]))
figure = run.plot()
new = {"image": data["image"][:5], "sums": data["sums"][:5]}
print(run.predict(new)[["predicted", "confidence"]])
print(run.predict({"image": data["image"][:5]})[["predicted", "confidence"]])  # without the other modality

# %% A method of the package with the same network and seed, to compare with.
joint = modalign.train(data, "joint", encoders={"image": Net()}, epochs=2, lr=3e-3, optimizer="adamw", quiet=True)
print(f"test accuracy {run.metrics['test']['accuracy']:.3f}, joint {joint.metrics['test']['accuracy']:.3f}")
