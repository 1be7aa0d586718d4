"""Linear, elastic net: no encoder, one penalized linear map of all inputs side by side; for survival a Cox net.

Zou and Hastie, "Regularization and variable selection via the elastic net", JRSS B 2005; Simon, Friedman, Hastie and
Tibshirani, "Regularization paths for Cox's proportional hazards model via coordinate descent", Journal of Statistical
Software 2011. The baseline of clinic and omics: with far more columns than patients an encoder may have nothing to add.
With x all inputs, flattened, each column of mean 0 and variance 1 over the training samples that have it,

    min over W, b of  L(x W + b, y) + penalty [ l1_ratio ||W||_1 + (1 - l1_ratio) / 2 ||W||^2 ],

L being the loss of the task over the whole training split. A column is 0 where its modality is absent, and beyond its
range in training it counts as its end, or one that hardly varied there could outweigh all others. Each epoch is one
penalty, from just below the smallest that leaves no column down to ``smallest`` times it, evenly in logarithms, and
starts from the solution before; validation selects the penalty as it selects the epoch of every method. Solved by FISTA
with backtracking and restarts (Beck and Teboulle 2009; O'Donoghue and Candes 2015): batches, learning rate and
encoders play no part, but that a frozen pretrained network is kept, and the map is on what it gives. Text without one
is refused, for token numbers are no quantities. Cost: at most 500 passes over the training split in memory an epoch,
without any network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modalign.data.batch import Batch, Output
from modalign.data.info import DataInfo
from modalign.domains import Checked, Part
from modalign.errors import Undefined
from modalign.models.backbones import Backbone
from modalign.models.multimodal import MultimodalModel
from modalign.strategies.base import Stepper, Strategy

_LARGEST = 2**28  # numbers of the training inputs, which are held in memory: a gigabyte
_ITERATIONS = 500
_TOLERANCE = 1e-4  # largest change of a coefficient in an iteration, of the largest coefficient


@dataclass(frozen=True)
class LinearOptions(Checked):
    """Options of the elastic net.

    Args:
        l1_ratio: share of the absolute penalty, which leaves columns out; the rest is squared.
        smallest: the last penalty of the path, of the smallest that leaves no column.
    """

    l1_ratio: Part = 0.5
    smallest: Part = 0.01


class Linear(Strategy):
    """F = x W + b with an elastic-net penalty; the evidence of a modality is its own columns' part of F."""

    title = "Linear, elastic net"
    Options = LinearOptions
    space = {"l1_ratio": (0.1, 0.9)}
    fits_itself = True
    options: LinearOptions
    mean: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    start: Tensor
    penalty: Tensor

    def __init__(self, model: MultimodalModel, info: DataInfo, options: LinearOptions | None = None) -> None:
        super().__init__(model, info, options)
        self.widths: dict[str, int] = {}
        for name, modality in info.modalities.items():
            encoder = model.encoders[name]
            frozen = isinstance(encoder, Backbone) and encoder.frozen
            if modality.kind == "text" and not frozen:
                raise Undefined(
                    f"strategy 'linear' needs numbers, and modality {name!r} of data set {info.name!r} is text: give "
                    "it a frozen pretrained encoder (model.encoders), or numbers such as counts of words"
                )
            self.widths[name] = int(encoder.hidden) if frozen else math.prod(modality.shape)  # type: ignore[arg-type]
        width = sum(self.widths.values())
        if width * info.samples > _LARGEST:
            raise Undefined(
                f"strategy 'linear' holds all training inputs in memory, and data set {info.name!r} has {width:,} "
                f"numbers in each of {info.samples:,} samples; expected at most {_LARGEST:,} in all: give fewer "
                "modalities or coarser inputs, or a frozen pretrained encoder"
            )
        self.weight = nn.Parameter(torch.zeros(width, self.task.outputs))
        self.bias = nn.Parameter(torch.zeros(self.task.outputs))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("low", torch.full((width,), -torch.inf))
        self.register_buffer("high", torch.full((width,), torch.inf))
        self.register_buffer("start", torch.zeros(()))  # the smallest penalty that leaves no column
        self.register_buffer("penalty", torch.zeros(()))
        self._train: tuple[Tensor, Tensor] | None = None  # all training inputs and targets: read once a session

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The map alone; it is solved for, and never has a gradient."""
        return {"main": [self.weight, self.bias]}

    def forward(self, batch: Batch) -> Output:
        """Each modality's part of the score as its features, and their sum as the joint score."""
        widths = [*self.widths.values()]
        columns = self._columns(self._inputs(batch), batch.present).split(widths, 1)
        parts = [x @ w for x, w in zip(columns, self.weight.split(widths), strict=True)]
        scores = torch.stack(parts).sum(0) + self.bias
        features = dict(zip(self.widths, parts, strict=True))
        return Output(features, {m: z + self.bias for m, z in features.items()}, scores, batch.present)

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Score a batch for the log: what is to be learned was solved for when the epoch began."""
        with torch.no_grad():
            return {"task": self.task.loss(self(batch).logits, batch.target)}

    @torch.no_grad()
    def on_epoch_start(self, stepper: Stepper) -> None:
        """Solve for the penalty of this epoch, from the solution before."""
        x, target = self._training(stepper)
        # Solved once and shared: its rounding may differ between machines.
        if stepper.epoch == 0:
            self.start.copy_(stepper.broadcast(lambda: self._largest_penalty(x, target)))
        self.penalty.copy_(self.start * self.options.smallest ** ((stepper.epoch + 1) / stepper.epochs))
        l1 = self.options.l1_ratio * float(self.penalty)
        l2 = float(self.penalty) - l1
        solution = stepper.broadcast(lambda: torch.cat(self._solve(x, target, l1, l2)))
        self.weight.copy_(solution[:-1])
        self.bias.copy_(solution[-1])

    def metrics(self) -> dict[str, float]:
        """The penalty, and how many columns have a part in the score."""
        return {"penalty": float(self.penalty), "columns": float(self.weight.any(1).sum())}

    def _inputs(self, batch: Batch) -> Tensor:
        """Inputs of a batch side by side (B, P), whatever stands where a modality is absent."""
        found = []
        for name in self.widths:
            x, encoder = batch.inputs[name], self.model.encoders[name]
            if isinstance(encoder, Backbone) and encoder.frozen and name not in batch.encoded:
                x = encoder.features(self.model.standardized(name, x))
            found.append(x.float().flatten(1))
        return torch.cat(found, 1)

    def _there(self, present: Tensor) -> Tensor:
        """Which columns of each sample are there, (B, P)."""
        return torch.cat(
            [column[:, None].expand(-1, w) for column, w in zip(present.T, self.widths.values(), strict=True)], 1
        )

    def _columns(self, inputs: Tensor, present: Tensor) -> Tensor:
        """Return inputs as the map takes them."""
        columns = ((inputs - self.mean) / self.scale).clamp(self.low, self.high)
        return columns.where(self._there(present), 0.0)

    def _training(self, stepper: Stepper) -> tuple[Tensor, Tensor]:
        """Return columns (N, P) and targets of the whole training split; at the start of a run fit mean and scale."""
        if self._train is not None:
            return self._train
        batches = [(self._inputs(b), b.present, b.target) for b in stepper.train_batches()]
        x, present, target = (stepper.all_gather(torch.cat(part)) for part in zip(*batches, strict=True))
        if stepper.epoch == 0:
            there, real = self._there(present), x.double()
            count = there.sum(0).clamp(min=1)
            mean = real.where(there, 0.0).sum(0) / count
            deviation = ((real - mean).where(there, 0.0).square().sum(0) / count).sqrt()
            varies = deviation > 1e-6 * (1e-6 + mean.abs())
            self.mean.copy_(mean)
            self.scale.copy_(torch.where(varies, deviation, 1.0))
            columns = self._columns(x, present)
            self.low.copy_(columns.amin(0))
            self.high.copy_(columns.amax(0))
        self._train = self._columns(x, present), target
        return self._train

    def _largest_penalty(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the smallest penalty at which no column has a part, at the best constant score."""
        weight, bias = self._solve(x, target, math.inf, 0.0)
        gradient = _gradient(self.task.loss, x, target, weight, bias, 0.0)[1]
        return gradient.abs().max() / self.options.l1_ratio

    def _solve(self, x: Tensor, target: Tensor, l1: float, l2: float) -> tuple[Tensor, Tensor]:
        """Return the map (P, C) and the constant (1, C) that minimize the loss with both penalties."""
        weight, bias = self.weight.detach().clone(), self.bias.detach().clone().unsqueeze(0)
        ahead, step, momentum = (weight, bias), 1.0, 1.0
        for _ in range(_ITERATIONS):
            loss, *slopes = _gradient(self.task.loss, x, target, *ahead, l2)
            while True:
                moved = ahead[0] - step * slopes[0]
                new = moved.sign() * (moved.abs() - step * l1).clamp(min=0), ahead[1] - step * slopes[1]
                change = [a - b for a, b in zip(new, ahead, strict=True)]
                bound = sum((s * d).sum() + d.square().sum() / (2 * step) for s, d in zip(slopes, change, strict=True))
                value = self.task.loss(torch.addmm(new[1], x, new[0]), target) + l2 / 2 * new[0].square().sum()
                if value <= loss + bound + 1e-6 * loss.abs() or step < 1e-12:  # fp32 tells no more apart
                    break
                step /= 2
            done = [a - b for a, b in zip(new, (weight, bias), strict=True)]
            uphill = sum((-d * e).sum() for d, e in zip(change, done, strict=True)) > 0
            following = 1.0 if uphill else (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            share = 0.0 if uphill else (momentum - 1) / following
            ahead = new[0] + share * done[0], new[1] + share * done[1]
            momentum, (weight, bias) = following, new
            largest = max(float(v.abs().max()) for v in new)
            if max(float(d.abs().max()) for d in done) <= _TOLERANCE * max(largest, 1e-6):
                break
            step *= 1.1
        return weight, bias


def _gradient(
    loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, l2: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss with the squared penalty, and its slopes by map and constant."""
    scores = torch.addmm(bias, x, weight).requires_grad_()
    with torch.enable_grad():
        value = loss(scores, target)
        (slope,) = torch.autograd.grad(value, scores)
    return value.detach() + l2 / 2 * weight.square().sum(), x.T @ slope + l2 * weight, slope.sum(0, keepdim=True)
