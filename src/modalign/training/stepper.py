"""The engine's stepper: what strategies call, over any number of processes and in any precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modalign.data.batch import Batch
from modalign.data.dataset import MultimodalData, Split
from modalign.settings import TrainingSettings
from modalign.strategies.base import Stepper, Strategy, drawn_rows
from modalign.training.distributed import Devices
from modalign.training.forward import load_batches
from modalign.training.optimizers import clip, make_optimizers


@dataclass
class State:
    """Where a run stands; all of it is in every checkpoint."""

    epoch: int = 0
    window: int = 0  # optimizer steps done within the epoch
    step: int = 0
    encoder_updates: int = 0  # one for each encoder that an optimizer step moved
    sums: dict[str, float] = field(default_factory=dict)  # loss terms x samples of the epoch so far
    samples: int = 0
    best: dict[str, Any] | None = None  # {"epoch", "metrics"} of the weights that are scored
    top: dict[str, float] | None = None  # the best metrics on validation so far, for patience
    stale: int = 0  # epochs since the best
    seconds: float = 0.0


class EngineStepper(Stepper):
    """Apply gradients of a strategy's steps; see ``Stepper`` for what each method promises.

    Args:
        devices: processes and precision.
        strategy: what is trained; it is moved to the device.
        data: its training and validation split serve ``train_batches`` and ``valid_batches``.
        settings: optimizer, clipping, batch size, workers.
        seed: seed of the run.
        windows: optimizer steps of an epoch.
        state: where the run stands; the trainer advances it.
    """

    def __init__(
        self,
        devices: Devices,
        strategy: Strategy,
        data: MultimodalData,
        settings: TrainingSettings,
        seed: int,
        windows: int,
        state: State,
    ) -> None:
        self.devices, self.data, self.settings, self.state = devices, data, settings, state
        self.device = devices.device
        self.strategy = strategy.to(self.device)
        self.seed, self.epochs, self._windows = seed, settings.epochs, windows
        self.groups = strategy.parameter_groups()
        self.optimizers = make_optimizers(strategy, settings)
        self.scaler = devices.scaler()
        self.trained: set[int] = set()  # parameters that ever had a gradient, or are solved for, by id
        self._share = 1.0  # of the samples of an optimizer step, times the number of processes
        self._gathered_share = 1.0  # samples of the batch over all processes, by those of this process

    @property
    def epoch(self) -> int:  # type: ignore[override]
        return self.state.epoch

    @property
    def step_index(self) -> int:  # type: ignore[override]
        return self.state.step

    @property
    def progress(self) -> float:
        return self.state.step / max(1, self.epochs * self._windows)

    def forward_backward(self, batch: Batch, size: int, window_size: int) -> dict[str, Tensor]:
        """Take the gradients of one batch, of which this is one process's part, and return its loss terms.

        Args:
            batch: this process's samples.
            size: samples of the batch over all processes.
            window_size: samples of all batches that make one optimizer step.
        """
        self._share = len(batch) * self.devices.world / window_size
        self._gathered_share = size / len(batch)
        with self.devices.autocast():
            return self.strategy.step(batch, self)

    def update(self, group: str) -> None:
        optimizer, parameters = self.optimizers[group], self.groups[group]
        self.devices.average_gradients(parameters)
        self.trained.update(id(p) for p in parameters if p.grad is not None or self.strategy.fits_itself)
        if group == "main" and any(p.grad is not None for p in parameters):
            self.state.encoder_updates += sum(
                any(p.grad is not None for p in encoder.parameters())
                for encoder in self.strategy.model.encoders.values()
            )
            self.scaler.unscale_(optimizer)
            self.strategy.before_update(self)
            clip(parameters, self.settings.clip)
            self.scaler.step(optimizer)
            if self.scaler.is_enabled():
                self.scaler.update()
        elif group != "main":
            # The scaler counts one update a step, and this may come more often.
            gradients = [p.grad for p in parameters if p.grad is not None]
            if self.scaler.is_enabled():
                torch._foreach_mul_(gradients, 1 / self.scaler.get_scale())
            if not self.scaler.is_enabled() or all(torch.isfinite(g).all() for g in gradients):
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def all_gather(self, tensor: Tensor, grad: bool = False) -> Tensor:
        gathered = self.devices.all_gather(tensor)
        if not grad or self.devices.world == 1:
            return tensor if grad else gathered
        # A loss over all rows is taken in every process, and each weighs in with its share of the rows.
        own = _ScaleGradient.apply(tensor, self._gathered_share)
        rows = torch.arange(self.devices.rank, len(gathered), self.devices.world, device=gathered.device)
        return gathered.index_copy(0, rows, own)

    def all_reduce(self, tensor: Tensor, op: Literal["sum", "mean"] = "sum") -> Tensor:
        total = self.devices.all_reduce(tensor)
        return total / self.devices.world if op == "mean" else total

    def broadcast(self, compute: Callable[[], Tensor]) -> Tensor:
        found: Tensor = self.devices.broadcast(compute() if self.devices.rank == 0 else None)
        return found

    def train_batches(self, limit: float = 1.0, draw: int | None = None) -> Iterator[Batch]:
        self.data.train.set_epoch(None)
        # Spread over the split, which may be sorted by class.
        rows = drawn_rows(len(self.data.train), limit, self.seed, draw, least=self.devices.world)
        yield from self.ordered(self.data.train, rows)

    def valid_batches(self) -> Iterator[Batch]:
        yield from self.ordered(self.data.valid)

    def ordered(self, split: Split, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield this process's part of a split (or of some ``rows``), every ``world``-th, in batches."""
        mine = list(range(len(split)) if rows is None else rows)[self.devices.rank :: self.devices.world]
        size = 2 * self.settings.batch_size
        batches = [mine[i : i + size] for i in range(0, len(mine), size)]
        for batch in load_batches(split, batches, self.settings.workers, self.device):
            yield batch.to(self.device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of optimizers and precision."""
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
            "trained": [id(p) in self.trained for p in self.strategy.parameters()],
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        self.scaler.load_state_dict(saved["scaler"])
        parameters: list[nn.Parameter] = list(self.strategy.parameters())
        self.trained = {id(p) for p, was in zip(parameters, saved["trained"], strict=True) if was}

    def _scaled(self, loss: Tensor) -> Tensor:
        return self.scaler.scale(loss * self._share)


class _ScaleGradient(torch.autograd.Function):
    """The same values, a gradient times ``factor``."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None
