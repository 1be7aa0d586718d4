"""A torch ``Dataset`` of one's own with a picture and a table: train, evaluate what each modality gives, plot.

Run: python examples/torch_dataset.py
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset

import modalign


class Patients(Dataset):
    """Samples as dictionaries: modalities, the target ``y``, further columns. An item is read when it is needed.

    Args:
        rows: samples of this split.
    """

    def __init__(self, rows: np.ndarray) -> None:
        digits = load_digits()
        self.rows, self.pictures, self.targets = rows, digits.images, digits.target[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, object]:
        picture = torch.tensor(self.pictures[self.rows[i]], dtype=torch.float32)
        table = None if i % 7 == 0 else torch.cat([picture.mean(0), picture.mean(1)])  # a missing modality is None
        return {"picture": picture[None] / 16, "table": table, "y": int(self.targets[i])}


order = np.random.default_rng(0).permutation(1797)
splits = {"train": Patients(order[:1000]), "valid": Patients(order[1000:1300]), "test": Patients(order[1300:])}

run = modalign.train(splits, "modalign", epochs=3, optimizer="adamw", lr=3e-3, name="patients")
print(run.metrics["test"])

found = run.evaluate(information=False)  # with information=True also what the modalities share, in nats
for name, value in found["shapley"]["values"].items():
    low, mean, high = (100 * value[key] for key in ("low", "mean", "high"))
    print(f"{name} adds {mean:.1f} points of accuracy [{low:.1f}, {high:.1f}]")

run.plot().savefig(run.folder / "curves.png")
print(f"curves: {run.folder / 'curves.png'}")
