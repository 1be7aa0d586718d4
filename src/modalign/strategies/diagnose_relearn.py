"""D&R: diagnose by clustering how far each encoder has overfitted, and partly unlearn it.

Paper: Wei, Li, Feng and Hu, "Diagnosing and Re-learning for Balanced Multimodal Learning", ECCV 2024.
Reference implementation: GeWu-Lab/Diagnosing_Relearning_ECCV2024.

Joint training; after some epochs, for each modality m:

    P      = 1/N sum over clusters of the size of the largest class in it     purity of KMeans(C) on z_m
    a_m    = tanh(strength |P_train - P_valid|)
    theta <- a_m theta_initial + (1 - a_m) theta              all trained parameters of the encoder

z_m is taken in evaluation mode and scaled to (-1, 1) per feature, on each split by itself. Head,
statistics of norms, frozen networks and the optimizer's momentum stay. The initial weights are those at
the start of training, pretrained or not. Inference is that of joint training. Choices and deviations:

- The reference re-learns after epochs 20, 40 and 60 of 90. Here the period is a share of the budget
  (20/90), rounded to epochs, at most ``times`` times, and never after the last epoch, which leaves
  nothing to re-learn in. A budget of one or two epochs leaves no occasion, one of three a single one.
- P_valid is of the validation split, which also selects the epoch; the test split is never seen. (Some
  ports diagnose on the test split.)
- The reference trains without augmentation by an accident of its mode names; here augmentation is on.
- Purity is taken of equally many samples of both splits, as many as the smaller has and at most ``limit``, evenly
  spread; absent modalities are left out. The reference clusters all of both: the purity of C clusters rises as N falls
  (of noise it is .14 for 442 samples in 26 clusters, .39 for 78), so that with a small validation split the gap, and
  with it the reset, measures the sizes of the splits, and most for the encoder that has learned least.
- Below 20 samples a cluster a warning is given: purity is then high whatever the features are.

Cost over joint training: a forward pass over training and validation split and KMeans at each occasion,
and a copy of the encoders (about 1.02).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modalign.data.batch import Batch
from modalign.data.info import DataInfo
from modalign.domains import Checked, Count, NonNegative, Part, Whole
from modalign.errors import InputError
from modalign.models.multimodal import MultimodalModel
from modalign.strategies.base import Stepper, Strategy


def scaled(features: Tensor) -> Tensor:
    """Each feature (column) of (N, D) brought linearly to the range -1 to 1; a constant one becomes -1."""
    low, high = features.amin(0), features.amax(0)
    width = torch.where(high > low, high - low, 1.0)
    return 2 * (features - low) / width - 1


def purity(clusters: Tensor, target: Tensor) -> float:
    """Share of the samples that belong to the largest class of their cluster.

    Args:
        clusters: (N,) int64.
        target: (N,) int64 classes.
    """
    table = torch.zeros(int(clusters.max()) + 1, int(target.max()) + 1)
    table.index_put_((clusters, target), torch.ones(len(target)), accumulate=True)
    return float(table.amax(1).sum() / len(target))


def cluster_purity(features: Tensor, target: Tensor, classes: int) -> float:
    """Purity of KMeans with one cluster a class on scaled features (N, D), on the CPU.

    Raises:
        InputError: if the features are not finite.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if not torch.isfinite(features).all():
        raise InputError("the features to be clustered are not finite: training has diverged; lower the learning rate.")
    points = scaled(features.float().cpu()).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than classes
        clusters = KMeans(min(classes, len(points)), n_init=10, random_state=0).fit_predict(points)
    return purity(torch.from_numpy(clusters).long(), target.cpu())


def reset_shares(purities: Tensor, strength: float) -> Tensor:
    """a_m (M,) from the purities (M, 2) on training and validation split; 0 where a split lacks the modality."""
    shares = torch.tanh(strength * (purities[:, 0] - purities[:, 1]).abs())
    return torch.where(purities.amin(1) > 0, shares, 0.0)


@torch.no_grad()
def blend(parameters: Iterable[nn.Parameter], initial: Tensor, share: Tensor) -> None:
    """theta <- share theta_initial + (1 - share) theta, in place and exact at 0 and 1.

    Args:
        parameters: of one encoder.
        initial: their initial values, flat, in the same order.
        share: scalar from 0 to 1.
    """
    parameters = list(parameters)
    parts = initial.split([p.numel() for p in parameters])
    for p, part in zip(parameters, parts, strict=True):
        p.lerp_(part.view_as(p), share.to(p.dtype))


def occasions(epochs: int, period: float, times: int) -> set[int]:
    """Return the epochs (from 0) at the end of which encoders are reset."""
    due = {round(k * period * epochs) for k in range(1, times + 1)}
    return {epoch for epoch in due if 0 < epoch < epochs - 1}


def trained(encoder: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that training moves: those of a frozen network are not among them."""
    return [p for p in encoder.parameters() if p.requires_grad]


@dataclass(frozen=True)
class DiagnoseRelearnOptions(Checked):
    """Options of D&R.

    Args:
        strength: how fast the share of initial weights grows with the gap in purity (code: 3).
        period: share of the epochs between two occasions (20 of 90 in the paper's schedule).
        times: number of occasions.
        limit: largest number of samples of each split that are clustered.
    """

    strength: NonNegative = 3.0
    period: Part = 20 / 90
    times: Whole = 3
    limit: Count = 5000


class DiagnoseRelearn(Strategy):
    """Diagnosing and re-learning."""

    title = "D&R"
    Options = DiagnoseRelearnOptions
    space = {"strength": (1.0, 10.0), "period": (0.1, 0.3)}
    minimum_modalities = 2
    tasks = ("classification",)
    options: DiagnoseRelearnOptions
    purities: Tensor
    shares: Tensor

    def __init__(self, model: MultimodalModel, info: DataInfo, options: DiagnoseRelearnOptions | None = None) -> None:
        super().__init__(model, info, options)
        for name in model.modalities:
            start = [p.detach().flatten() for p in trained(model.encoders[name])]
            self.register_buffer(f"initial_{name}", torch.cat(start) if start else torch.zeros(0))
        # Of the latest occasion: purity on training and validation split, share of the initial weights.
        self.register_buffer("purities", torch.zeros(len(model.modalities), 2))
        self.register_buffer("shares", torch.zeros(len(model.modalities)))
        self._warned = False

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Joint training."""
        logits = self.model.fuse(self.model.encode(batch), batch.present, batch.conditions)
        loss = self.task.loss(logits, batch.target)
        stepper.backward(loss)
        return {"task": loss}

    def on_epoch_end(self, stepper: Stepper) -> None:
        """Diagnose and reset, where it is due."""
        if stepper.epoch not in occasions(stepper.epochs, self.options.period, self.options.times):
            return
        self.model.eval()
        train = self._collect(stepper.train_batches(), stepper)
        valid = self._collect(stepper.valid_batches(), stepper)
        # Clustering is done once and shared: its rounding may differ between machines.
        self.purities.copy_(
            stepper.broadcast(lambda: torch.tensor([self._pair_of_purities(train[m], valid[m]) for m in train]))
        )
        self.shares.copy_(reset_shares(self.purities, self.options.strength))
        for name, share in zip(self.model.modalities, self.shares, strict=True):
            blend(trained(self.model.encoders[name]), getattr(self, f"initial_{name}"), share)
        self.model.train()

    def metrics(self) -> dict[str, float]:
        """Purities and share of the initial weights at the latest occasion."""
        values: dict[str, float] = {}
        for name, (train, valid), share in zip(
            self.model.modalities, self.purities.tolist(), self.shares.tolist(), strict=True
        ):
            values |= {f"purity_train_{name}": train, f"purity_valid_{name}": valid, f"reset_{name}": share}
        return values

    @torch.no_grad()
    def _collect(self, batches: Iterable[Batch], stepper: Stepper) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the features and targets of the samples that have each modality, over all processes."""
        parts = [(self.model.encode(batch), batch.present, batch.target) for batch in batches]
        present = stepper.all_gather(torch.cat([present for _, present, _ in parts]))
        target = stepper.all_gather(torch.cat([target for _, _, target in parts]))
        collected = {}
        for m, name in enumerate(self.model.modalities):
            features = stepper.all_gather(torch.cat([features[name] for features, _, _ in parts]))
            collected[name] = features[present[:, m]], target[present[:, m]]
        return collected

    def _pair_of_purities(self, *splits: tuple[Tensor, Tensor]) -> list[float]:
        """Purity of equally many samples of the training and the validation split; 0 where either has none."""
        count = min(self.options.limit, *(len(target) for _, target in splits))
        if count == 0:
            return [0.0, 0.0]
        if count < 20 * self.task.outputs and not self._warned:
            self._warned = True
            warnings.warn(
                f"D&R compares purities of {count} samples in {self.task.outputs} clusters; below about 20 a cluster "
                "they tell little of the features. Give more validation samples (data.valid_fraction)",
                stacklevel=2,
            )
        purities = []
        for features, target in splits:
            taken = torch.arange(count, device=target.device) * len(target) // count
            purities.append(cluster_purity(features[taken], target[taken], self.task.outputs))
        return purities
