"""The contract of a training method: a ``Strategy`` says what one step is, the engine does everything else.

A new method is one file in this folder with one subclass of ``Strategy``; its name on the command line is
the file's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from modalign.data.batch import Batch, Output
from modalign.data.dataset import MultimodalData
from modalign.models.multimodal import MultimodalModel


class Stepper(Protocol):
    """What the engine hands to a strategy. It hides precision, accumulation and the number of processes.

    A loss is a mean over the samples of this process's batch. Gradients written to ``.grad`` are averaged over
    processes (weighted by their share of the samples), clipped and applied by the engine after ``step``.

    Attributes:
        epoch: epochs begun so far, from 0; epochs: how many the budget has.
        step_index: optimizer steps so far; progress: share of the whole training done, 0 to 1.
        device: where tensors live.
        world_scale: factor for a loss that is a mean over the samples of *all* processes in which only this
            process's rows have a graph (``gather_live``): it makes the gradient that of one process.
        rank, world: this process and how many there are.
        seed: seed of the run; draw shared randomness from a generator seeded with it, the same on all ranks.
    """

    device: torch.device
    rank: int
    world: int
    seed: int
    epochs: int

    @property
    def epoch(self) -> int: ...

    @property
    def step_index(self) -> int: ...

    @property
    def progress(self) -> float: ...

    @property
    def world_scale(self) -> float: ...

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """Accumulate the gradient of ``loss`` (scaled for precision, accumulation and process share)."""

    def gradients(self, loss: Tensor, wrt: Sequence[Tensor], retain_graph: bool = False) -> list[Tensor]:
        """The same scaled gradient, returned instead of accumulated; zeros where ``loss`` does not depend."""

    def backward_from(self, tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Continue a backward pass from ``gradients`` (as ``gradients`` returned them) at ``tensors``."""

    def update(self, group: str) -> None:
        """Apply the accumulated gradients of a parameter group now, before the step goes on (Algorithm 1)."""

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Rows of all processes in the order of one process, without gradient; numbers of rows may differ."""

    def all_gather_live(self, tensor: Tensor) -> Tensor:
        """The same, but this process's own rows keep their graph."""

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over processes, without gradient."""

    def train_batches(self, limit: float = 1.0) -> Iterator[Batch]:
        """This process's part of (a share ``limit`` of) the training split, in order, not augmented."""

    def valid_batches(self) -> Iterator[Batch]:
        """This process's part of the validation split."""


@dataclass(frozen=True)
class NoOptions:
    """A method without options."""


class Strategy(nn.Module):
    """A training method around a ``MultimodalModel``.

    It is a module, so whatever it needs to remember (critics, prototypes, initial weights) is a parameter or
    buffer and is saved and resumed with no code of its own.

    Class attributes:
        title: the name in tables, as in the literature.
        Options: frozen dataclass of the method's options; its docstring describes each (shown by the CLI).
        main_option: the one setting that ``--tune`` searches beside the learning rate, and the values tried.
        minimum_modalities: 2 for methods that relate modalities.
        tasks: kinds of task the method is defined for.
        trains_unimodal: whether the heads of single modalities are trained, so that their scores mean something.
    """

    title: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    main_option: ClassVar[tuple[str, tuple[float, ...]] | None] = None
    minimum_modalities: ClassVar[int] = 1
    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression", "survival")
    trains_unimodal: ClassVar[bool] = False

    def __init__(self, model: MultimodalModel, data: MultimodalData, options: object) -> None:
        """Build around ``model``; ``data`` gives the task, class counts and columns, never samples."""
        super().__init__()
        self.model = model
        self.task = data.task
        self.options = options

    def forward(self, batch: Batch) -> Output:
        """What the trained system says of a batch; overridden where inference is not the plain model."""
        output: Output = self.model(batch)
        return output

    def predict(self, output: Output) -> Tensor:
        """The final scores (B, C) from an output: the joint head unless a method combines more."""
        return output.logits

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """One training step up to the gradients; returns the named loss terms (scalars) for the log."""
        raise NotImplementedError(f"{type(self).__name__} must define step")

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by optimizer: ``main`` (the recipe's) and, where there is one, ``critic`` (AdamW 1e-3)."""
        return {"main": list(self.parameters())}

    # Hooks, called in this order; each may do nothing.

    def on_train_start(self, stepper: Stepper) -> None:
        """Once, before the first step of a new run (not when resumed)."""

    def on_epoch_start(self, stepper: Stepper) -> None:
        """Before the first step of each epoch."""

    def before_update(self, stepper: Stepper) -> None:
        """After gradients are averaged over processes and unscaled, before clipping and the optimizer."""

    def on_epoch_end(self, stepper: Stepper) -> None:
        """After the last step of each epoch, before validation."""

    def calibrate(self, output: Output, target: Tensor) -> None:
        """Given the outputs on the whole validation split (the same on all processes), each epoch."""

    def metrics(self) -> dict[str, float]:
        """Numbers worth keeping in the log of each epoch (activity of the margin, lambda, coefficients)."""
        return {}
