"""The contract of a training method: a ``Strategy`` says what one step is, a ``Stepper`` does everything around it.

A new method is one class: a file in this folder (its name on the command line is the file's name), a file of your
own, or a class handed to ``modalign.train``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from modalign.data.batch import Batch, Output
from modalign.data.dataset import Split
from modalign.data.info import DataInfo
from modalign.data.samplers import ShuffledBatchSampler
from modalign.domains import check_instance
from modalign.models.multimodal import MultimodalModel
from modalign.models.readout import fit_weights


@dataclass(frozen=True)
class NoOptions:
    """A method without options."""


class Strategy(nn.Module):
    """A training method around a ``MultimodalModel``.

    It is a module, so whatever it needs to remember (critics, prototypes, initial weights) is a parameter or
    buffer and is saved and resumed with no code of its own.

    Class attributes:
        title: the name in tables, as in the literature.
        Options: frozen dataclass of the method's options; its docstring describes each (shown by the command line).
        space: options that ``bench --tune`` searches beside the learning rate: name to a range (low, high), log-uniform
            where it does not reach zero, or to a list of choices; all are drawn jointly.
        minimum_modalities: 2 for methods that relate modalities.
        tasks: kinds of task the method is defined for.
        trains_unimodal: whether the heads of single modalities are trained, so that their scores mean something.
        epochs_factor: by what a method of this package multiplies the recipe's epochs.
        fits_itself: whether the method solves for its parameters, which then never have a gradient.

    Args:
        model: the network that is trained.
        info: description of the data: task, classes and their counts, columns; never samples.
        options: an instance of ``Options``; the defaults if None.

    >>> import torch
    >>> from modalign.data import Modality, DataInfo, classification
    >>> from modalign.settings import ModelSettings
    >>> class Plain(Strategy):
    ...     title = "Plain"
    ...     def step(self, batch, stepper):
    ...         loss = self.task.loss(self.model(batch).logits, batch.target)
    ...         stepper.backward(loss)
    ...         return {"task": loss}
    >>> info = DataInfo("toy", classification("ab"), {"x": Modality("x", "vector", (3,))}, 8, (4, 4))
    >>> plain = Plain(MultimodalModel.build(info.modalities, 2, ModelSettings(width=4)), info)
    >>> plain.task.classes
    ('a', 'b')
    """

    title: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    space: ClassVar[Mapping[str, tuple[float, float] | list[Any]]] = {}
    minimum_modalities: ClassVar[int] = 1
    tasks: ClassVar[tuple[str, ...]] = ("classification", "multilabel", "regression", "survival")
    trains_unimodal: ClassVar[bool] = False
    epochs_factor: ClassVar[int] = 1
    fits_itself: ClassVar[bool] = False
    options: Any
    temperature: Tensor

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take methods of one's own under their names of version 0.1, which would be passed over in silence."""
        super().__init_subclass__(**kwargs)
        for old, new in {"readout": "predict", "facts": "metrics"}.items():
            if old in vars(cls) and new not in vars(cls):
                _renamed(f"{cls.__name__}.{old}", new)
                setattr(cls, new, vars(cls)[old])

    def __init__(self, model: MultimodalModel, info: DataInfo, options: object | None = None) -> None:
        super().__init__()
        self.model = model
        self.info = info
        self.task = info.task
        self.options = self.Options() if options is None else options
        if is_dataclass(options):
            check_instance(options, "options.")
        self.register_buffer("temperature", torch.ones(()))

    @classmethod
    def default_fusion(cls, info: DataInfo, options: Any) -> str:
        """Return the fusion that ``model.fusion: auto`` means for this method, asked before the model is built."""
        return "concat"

    def forward(self, batch: Batch) -> Output:
        """Return what the trained system says of a batch; overridden where inference is not the plain model."""
        output: Output = self.model(batch)
        return output

    def predict(self, output: Output) -> Tensor:
        """Return the final scores (B, C) of an output: those of the joint head unless a method combines more."""
        return output.logits

    def log_probability(self, output: Output) -> Tensor:
        """Return what is reported of an output: log-probabilities (B, C) at the temperature; scores of other tasks."""
        return self.task.log_probability(self.predict(output) / self.temperature)

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Take one training step up to the gradients; return the named loss terms (scalars) for the log."""
        raise NotImplementedError(f"{type(self).__name__} must define step")

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return parameters by optimizer: ``main`` (the recipe's) and, where there is one, ``critic`` (AdamW 1e-3)."""
        return {"main": list(self.parameters())}

    # Hooks, called in this order; each may do nothing.

    def on_train_start(self, stepper: Stepper) -> None:
        """Act once, before the first step of a new run (not when resumed)."""

    def on_epoch_start(self, stepper: Stepper) -> None:
        """Act before the first step of each epoch."""

    def before_update(self, stepper: Stepper) -> None:
        """Act after gradients are averaged over processes and unscaled, before clipping and the optimizer."""

    def on_epoch_end(self, stepper: Stepper) -> None:
        """Act after the last step of each epoch, before validation."""

    def calibrate(self, output: Output, target: Tensor, groups: Tensor | None = None) -> None:
        """Take in the outputs on the validation samples that calibrate (the same on all processes), each epoch.

        ``groups`` (N,) are codes of the samples' groups, where the data has groups that no split divides.
        """

    @torch.no_grad()
    def fit_temperature(self, output: Output, target: Tensor) -> None:
        """Fit the temperature by which scores of classes or labels are divided, after ``calibrate``.

        To held-out likelihood: Guo et al., ICML 2017, with the log-normal prior of ``models.readout.fit_weights``. It
        changes no decision.
        """
        if self.task.kind in ("classification", "multilabel"):
            scores = self.predict(output).float()
            voices = (scores if self.task.kind == "multilabel" else scores.log_softmax(1)).unsqueeze(1)
            self.temperature.copy_(1 / fit_weights(voices, target, [1.0], self.task)[0])

    def metrics(self) -> dict[str, float]:
        """Return numbers for the log of each epoch (activity of the margin, weights, coefficients)."""
        return {}


class Stepper:
    """Step a strategy in this process, without the engine: to try a method in a notebook or a test.

    It is also all that a strategy sees of the engine, whose own stepper is a subclass that hides precision,
    accumulation and processes. A loss is a mean over the samples of the batch at hand. Gradients written to ``.grad``
    are averaged over processes by the engine and applied after ``Strategy.step``. There is no number of processes to
    know: ``all_gather`` with ``grad=True`` scales its own gradient, so that a loss over the samples of all processes
    has the gradient that one process would have.

    Args:
        strategy: what is trained.
        train: training split, or its batches in order.
        valid: validation split, or its batches.
        epochs: epochs of the whole training, as the strategy sees it.
        batch_size: samples of a batch, where a split is given.
        optimizer: makes an optimizer of a group's parameters; AdamW 1e-3 by default.
        seed: seed of the order of samples, and of what a strategy draws.
        accumulate: batches an optimizer step.

    Attributes:
        epoch: epochs begun so far, from 0; epochs: how many the budget has.
        step_index: optimizer steps so far; progress: share of the whole training done, 0 to 1.
        device: where tensors live.
        seed: seed of the run; draw what all processes must draw alike from a generator seeded with it.

    >>> import numpy as np
    >>> from modalign.data import DataInfo, from_arrays
    >>> from modalign.settings import ModelSettings
    >>> from modalign.strategies.joint import Joint
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(80) % 2
    >>> data = from_arrays({"a": rng.normal(size=(80, 4)) + y[:, None], "b": rng.normal(size=(80, 3)), "y": y})
    >>> model = MultimodalModel.build(data.modalities, data.task.outputs, ModelSettings(width=8))
    >>> stepper = Stepper(Joint(model, DataInfo.of(data)), data.train, data.valid, epochs=5, batch_size=16)
    >>> log = stepper.fit()
    >>> log[-1]["task"] < log[0]["task"]
    True
    """

    def __init__(
        self,
        strategy: Strategy,
        train: Split | Sequence[Batch] = (),
        valid: Split | Sequence[Batch] = (),
        *,
        epochs: int = 1,
        batch_size: int = 64,
        optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
        seed: int = 0,
        accumulate: int = 1,
    ) -> None:
        self.strategy, self.epochs, self.seed, self.accumulate = strategy, epochs, seed, accumulate
        self.epoch = self.step_index = 0
        self.device = next((p.device for p in strategy.parameters()), torch.device("cpu"))
        self.groups = strategy.parameter_groups()
        self._train, self._valid, self._batch_size = train, valid, batch_size
        self._share = 1.0 / accumulate  # of this batch in its optimizer step
        count = len(train) if isinstance(train, Sequence) else len(ShuffledBatchSampler(len(train), batch_size))
        self._windows = math.ceil(count / accumulate)  # optimizer steps of an epoch
        make = optimizer or (lambda parameters: AdamW(parameters, lr=1e-3))
        self.optimizers = {name: make(parameters) for name, parameters in self.groups.items() if parameters}

    @property
    def progress(self) -> float:
        """Share of all steps done, 0 to 1."""
        return self.step_index / max(1, self.epochs * self._windows)

    # What strategies call -----------------------------------------------------------------------------------

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """Accumulate the gradient of ``loss`` (scaled for precision, accumulation and the process's share)."""
        self._scaled(loss).backward(retain_graph=retain_graph)

    def gradients(self, loss: Tensor, wrt: Sequence[Tensor], retain_graph: bool = False) -> list[Tensor]:
        """Return the same scaled gradient instead of accumulating it; zeros where ``loss`` does not depend."""
        if not loss.requires_grad:
            return [torch.zeros_like(x) for x in wrt]
        found = torch.autograd.grad(self._scaled(loss), wrt, retain_graph=retain_graph, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(wrt, found, strict=True)]

    def backward_from(self, tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Continue a backward pass from ``gradients`` (as ``gradients`` returned them) at ``tensors``."""
        pairs = [(x, g) for x, g in zip(tensors, gradients, strict=True) if x.requires_grad]
        if pairs:
            torch.autograd.backward([x for x, _ in pairs], [g for _, g in pairs])

    def update(self, group: str) -> None:
        """Apply the accumulated gradients of a parameter group now, before the step goes on (Algorithm 1)."""
        if group == "main":
            self.strategy.before_update(self)
        self.optimizers[group].step()
        self.optimizers[group].zero_grad(set_to_none=True)

    def all_gather(self, tensor: Tensor, grad: bool = False) -> Tensor:
        """Return the rows of all processes in the order of one process; numbers of rows may differ.

        Args:
            tensor: rows of this process.
            grad: let a loss over the rows of all processes, taken on each of them, reach this process's rows with the
                gradient that it would have in one process; without it the result has no gradient.
        """
        return tensor if grad else tensor.detach()

    def all_reduce(self, tensor: Tensor, op: Literal["sum", "mean"] = "sum") -> Tensor:
        """Return the sum or the mean over processes, without gradient."""
        return tensor.detach()

    def broadcast(self, compute: Callable[[], Tensor]) -> Tensor:
        """Return what ``compute`` gives in one process, the same in all: for what rounds differently elsewhere."""
        return compute()

    def train_batches(self, limit: float = 1.0, draw: int | None = None) -> Iterator[Batch]:
        """Yield this process's part of (a share ``limit`` of) the training split, in order, not augmented.

        Args:
            limit: share of the split, evenly spread over it.
            draw: number of a draw: the share is drawn at random instead, the same for the same number and seed.
        """
        if isinstance(self._train, Sequence):  # batches as they were given
            rows = drawn_rows(len(self._train), limit, self.seed, draw)
            yield from (self._train[i] for i in rows)
        else:
            self._train.set_epoch(None)
            rows = drawn_rows(len(self._train), limit, self.seed, draw)
            for i in range(0, len(rows), self._batch_size):
                yield self._train.__getitems__(rows[i : i + self._batch_size])

    def valid_batches(self) -> Iterator[Batch]:
        """Yield this process's part of the validation split."""
        yield from _in_order(self._valid, self._batch_size)

    def __getattr__(self, name: str) -> Any:
        """Answer to the names of version 0.1 for one version more, and say what those are for that are gone."""
        if name in _OLD_STEPPER:
            new, arguments = _OLD_STEPPER[name]
            _renamed(f"stepper.{name}", f"{new}({', '.join(f'{k}={v}' for k, v in arguments.items())})")
            return partial(getattr(self, new), **arguments)
        if name == "world_scale":
            _renamed("stepper.world_scale", "nothing: all_gather(grad=True) scales its own gradient")
            return 1.0
        gone = {"rank": "broadcast(compute) for what one process does", "world": "all_reduce(x, 'mean') for means"}
        hint = f"; use {gone[name]}" if name in gone else ""
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")

    # What a person calls ------------------------------------------------------------------------------------

    def step(self, batch: Batch) -> dict[str, float]:
        """Take one whole step on a batch, update included, and return its loss terms."""
        self.strategy.train()
        losses = self.strategy.step(batch.to(self.device), self)
        self._finish_step()
        return {name: float(value.detach()) for name, value in losses.items()}

    def fit(self, epochs: int | None = None) -> list[dict[str, float]]:
        """Train some epochs (by default all that are left) with all hooks; return the loss terms of each batch."""
        log = []
        if self.step_index == 0:
            self.strategy.on_train_start(self)
        for _ in range(self.epochs - self.epoch if epochs is None else epochs):
            self.strategy.train()
            self.strategy.on_epoch_start(self)
            batches = self._epoch_batches()
            for i, batch in enumerate(batches, 1):
                losses = self.strategy.step(self._read(batch), self)
                log.append({name: float(value.detach()) for name, value in losses.items()})
                if i % self.accumulate == 0 or i == len(batches):
                    self._finish_step()
            self.strategy.on_epoch_end(self)
            self.epoch += 1
        return log

    # Small parts --------------------------------------------------------------------------------------------

    def _finish_step(self) -> None:
        self.update("main")
        self.step_index += 1

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss * self._share

    def _epoch_batches(self) -> Sequence[Batch | list[int]]:
        """Return the batches of this epoch: as given, or positions in the split."""
        if isinstance(self._train, Sequence):
            return self._train
        sampler = ShuffledBatchSampler(len(self._train), self._batch_size, seed=self.seed)
        sampler.set_epoch(self.epoch)
        return sampler.global_batches()

    def _read(self, batch: Batch | list[int]) -> Batch:
        if isinstance(batch, Batch):
            return batch.to(self.device)
        assert not isinstance(self._train, Sequence)
        self._train.set_epoch(self.epoch)
        return self._train.__getitems__(batch).to(self.device)


_OLD_STEPPER: dict[str, tuple[str, dict[str, Any]]] = {
    "total": ("all_reduce", {}),
    "gather": ("all_gather", {}),
    "gather_live": ("all_gather", {"grad": True}),
}


def _renamed(old: str, new: str) -> None:
    message = f"{old} is {new} since version 0.2; the old name goes with 0.3"
    warnings.warn(message, DeprecationWarning, stacklevel=3)


def drawn_rows(total: int, share: float, seed: int, draw: int | None = None, least: int = 1) -> list[int]:
    """Return a share of 0 .. total - 1 in order: evenly spread, or the ``draw``-th draw of a seed.

    >>> drawn_rows(6, 0.5, seed=0)
    [0, 2, 4]
    """
    count = min(total, max(least, round(share * total)))
    if draw is None or count == total:
        return [k * total // count for k in range(count)]
    return sorted(np.random.default_rng([seed, draw]).choice(total, count, replace=False).tolist())


def _in_order(split: Split | Sequence[Batch], size: int) -> Sequence[Batch]:
    if isinstance(split, Sequence):
        return split
    split.set_epoch(None)
    return [split.__getitems__(list(range(i, min(i + size, len(split))))) for i in range(0, len(split), size)]
