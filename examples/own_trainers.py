"""ModAlign's objective in Lightning and in the Trainer of Hugging Face, which want a single loss.

The margin bounds gradients at the features. A bounded gradient g becomes a loss whose gradient it is: <g, z>.

Run: python examples/own_trainers.py (pip install pytorch-lightning accelerate)
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, StackDataset

from modalign.information import LearnedContext, SeparableCritic, guarded_gradients, ramp, score_pairs

images, labels = (torch.as_tensor(a) for a in (load_digits().images, load_digits().target))
halves = images.split(4, 2)
train = StackDataset(left=halves[0].flatten(1).float() / 16, right=halves[1].flatten(1).float() / 16, labels=labels)


class Aligned(nn.Module):
    """Encoders, head and critic; ``forward`` gives loss and logits, as the Trainer of Hugging Face expects."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)) for _ in "lr"])
        self.head = nn.Linear(64, 10)
        self.critic = SeparableCritic((32, 32), LearnedContext(10))
        self.steps, self.step = steps, 0

    def forward(self, left: Tensor, right: Tensor, labels: Tensor) -> dict[str, Tensor]:
        z = [encoder(x) for encoder, x in zip(self.encoders, (left, right), strict=True)]
        logits = self.head(torch.cat(z, 1))
        loss = nn.functional.cross_entropy(logits, labels)
        if self.training:
            self.step += 1
            seen = score_pairs(self.critic, z[0].detach(), z[1].detach(), context=labels)  # h learns from these alone
            pairs = score_pairs(self.critic, z[0], z[1], context=labels)
            pull = -ramp(min(1.0, self.step / self.steps)) * pairs.objective / (1 + pairs.ratio)
            bounded = guarded_gradients(z, pull, loss, rho=0.3).gradients  # of z only: h does not learn from the pull
            loss = (
                loss - seen.objective / (1 + seen.ratio) + sum((g * f).sum() for g, f in zip(bounded, z, strict=True))
            )
        return {"loss": loss, "logits": logits}


def accuracy(model: nn.Module) -> float:
    """Of the training data, which is enough to see that it learns."""
    with torch.no_grad():
        return float((model.eval()(**train.datasets)["logits"].argmax(1) == labels).float().mean())


def with_lightning(steps: int = 150) -> float:
    import pytorch_lightning as lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Aligned(steps)

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            return self.model(**batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=3e-3)

    module = Module()
    trainer = lightning.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(train, 128, shuffle=True))
    return accuracy(module.model)


def with_hugging_face(steps: int = 150) -> float:
    from transformers import Trainer, TrainingArguments

    model = Aligned(steps)
    arguments = TrainingArguments(
        tempfile.mkdtemp(), max_steps=steps, per_device_train_batch_size=128, learning_rate=3e-3, use_cpu=True,
        save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=train).train()
    return accuracy(model)


if __name__ == "__main__":
    torch.manual_seed(0)
    print(f"Lightning: accuracy {with_lightning():.3f}")
    print(f"Hugging Face Trainer: accuracy {with_hugging_face():.3f}")
