"""Small data, small models and a stepper of one process, for tests of strategies without the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modalign.data.batch import Batch, Modality
from modalign.data.dataset import Column, MultimodalData
from modalign.data.task import Task, classification
from modalign.models.multimodal import MultimodalModel
from modalign.settings import ModelSettings
from modalign.strategies.base import Strategy


class TinySplit:
    """A split held in tensors."""

    groups = None

    def __init__(self, inputs: dict[str, Tensor], present: Tensor, target: Tensor) -> None:
        self.inputs, self.present, self.target = inputs, present, target
        self.columns: dict[str, Column] = {}
        self.ids = [str(i) for i in range(len(target))]

    def __len__(self) -> int:
        return len(self.target)

    def __getitems__(self, index: list[int]) -> Batch:
        rows = torch.tensor(index)
        inputs = {m: x[rows] for m, x in self.inputs.items()}
        return Batch(inputs, self.present[rows], self.target[rows], rows)

    def set_epoch(self, epoch: int | None) -> None:
        pass

    def batches(self, size: int) -> list[Batch]:
        """The whole split in order; the last batch may be smaller."""
        return [self.__getitems__(list(range(i, min(i + size, len(self))))) for i in range(0, len(self), size)]


def _make_split(widths: Sequence[int], samples: int, outputs: int, missing: float, used: int, seed: int) -> TinySplit:
    """Gaussian classes in each modality; of ``outputs`` classes only the first ``used`` occur."""
    names = "abcdefgh"[: len(widths)]
    centers = torch.Generator().manual_seed(99)
    noise = torch.Generator().manual_seed(seed)
    target = torch.randint(used, (samples,), generator=noise)
    present = torch.rand(samples, len(widths), generator=noise) >= missing
    present[~present.any(1), 0] = True
    inputs = {}
    for m, (name, width) in enumerate(zip(names, widths, strict=True)):
        center = torch.randn(outputs, width, generator=centers)
        x = center[target] + torch.randn(samples, width, generator=noise)
        inputs[name] = x * present[:, m, None]
    return TinySplit(inputs, present, target)


@pytest.fixture
def make_data() -> Callable[..., MultimodalData]:
    """``make_data(widths, samples=, outputs=, missing=, used=)``: one vector modality for each width."""

    def make(
        widths: Sequence[int] = (6, 5),
        samples: int = 40,
        outputs: int = 3,
        missing: float = 0.0,
        used: int | None = None,
    ) -> MultimodalData:
        names = "abcdefgh"[: len(widths)]
        modalities = {n: Modality(n, "vector", (w,)) for n, w in zip(names, widths, strict=True)}
        parts = [
            _make_split(widths, count, outputs, missing, used or outputs, seed)
            for seed, count in enumerate((samples, 16, 16))
        ]
        task: Task = classification(range(outputs))
        return MultimodalData("tiny", modalities, task, *parts, fingerprint="")

    return make


@pytest.fixture
def make_model() -> Callable[..., MultimodalModel]:
    """``make_model(data, **settings)``: width 8, small perceptrons, the same for the same seed."""

    def make(data: MultimodalData, seed: int = 0, **settings: Any) -> MultimodalModel:
        torch.manual_seed(seed)
        encoders = {m: {"hidden": [10]} for m in data.modalities}
        settings = {"width": 8, "encoders": encoders} | settings
        return MultimodalModel.build(data.modalities, data.task.outputs, ModelSettings(**settings))

    return make


class PlainStepper:
    """The ``Stepper`` of one process on the CPU in fp32, around plain SGD.

    Args:
        strategy: what is trained.
        batches: training batches of an epoch.
        valid: validation batches.
        epochs: the budget, as strategies see it.
        lr: learning rate.
        accumulate: batches a step.
        loss_scale: factor on all gradients until they are applied, as under half precision.
    """

    rank, world, world_scale = 0, 1, 1.0

    def __init__(
        self,
        strategy: Strategy,
        batches: Sequence[Batch],
        valid: Sequence[Batch] = (),
        epochs: int = 4,
        lr: float = 0.05,
        seed: int = 0,
        accumulate: int = 1,
        loss_scale: float = 1.0,
    ) -> None:
        self.strategy, self.batches, self.valid = strategy, list(batches), list(valid)
        self.epochs, self.seed, self.accumulate, self.loss_scale = epochs, seed, accumulate, loss_scale
        self.epoch = self.step_index = 0
        self.device = torch.device("cpu")
        self.groups = strategy.parameter_groups()
        self.optimizers = {
            name: torch.optim.SGD(parameters, lr=lr, momentum=0.9)
            for name, parameters in self.groups.items()
            if parameters
        }

    @property
    def progress(self) -> float:
        return self.step_index / max(1, self.epochs * len(self.batches) // self.accumulate)

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        self._scaled(loss).backward(retain_graph=retain_graph)

    def gradients(self, loss: Tensor, wrt: Sequence[Tensor], retain_graph: bool = False) -> list[Tensor]:
        found = torch.autograd.grad(self._scaled(loss), wrt, retain_graph=retain_graph, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(wrt, found, strict=True)]

    def backward_from(self, tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        torch.autograd.backward(list(tensors), list(gradients))

    def update(self, group: str) -> None:
        for p in self.groups[group]:
            if p.grad is not None:
                p.grad /= self.loss_scale
        if group == "main":
            self.strategy.before_update(self)
        self.optimizers[group].step()
        self.optimizers[group].zero_grad(set_to_none=True)

    def all_gather(self, tensor: Tensor) -> Tensor:
        return tensor.detach()

    def all_gather_live(self, tensor: Tensor) -> Tensor:
        return tensor

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor.detach()

    def train_batches(self, limit: float = 1.0) -> Iterator[Batch]:
        yield from self.batches[: max(1, round(limit * len(self.batches)))]

    def valid_batches(self) -> Iterator[Batch]:
        yield from self.valid

    def fit(self, epochs: int | None = None) -> list[dict[str, Tensor]]:
        """Train as the engine does, without validation; returns the loss terms of each batch."""
        losses = []
        if self.step_index == 0:
            self.strategy.on_train_start(self)
        for _ in range(self.epochs if epochs is None else epochs):
            self.strategy.train()
            self.strategy.on_epoch_start(self)
            for i, batch in enumerate(self.batches, 1):
                losses.append(self.strategy.step(batch, self))
                if i % self.accumulate == 0 or i == len(self.batches):
                    self.update("main")
                    self.step_index += 1
            self.strategy.on_epoch_end(self)
            self.epoch += 1
        return losses

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss * (self.loss_scale / self.accumulate)


@pytest.fixture
def make_stepper() -> type[PlainStepper]:
    """``make_stepper(strategy, batches, valid, epochs=, ...)``: a ``PlainStepper``."""
    return PlainStepper


_CASES: dict[str, dict[str, Any]] = {
    "two": {},
    "three": {"widths": (6, 5, 4)},
    "missing": {"widths": (6, 5, 4), "missing": 0.4},
    "absent-class": {"outputs": 4, "used": 2},
    "last-batch-of-one": {"samples": 41},
}


@pytest.fixture(params=_CASES, ids=str)
def case(request: pytest.FixtureRequest, make_data: Callable[..., MultimodalData]) -> MultimodalData:
    """Every small case that a strategy must train on; batches of ten."""
    return make_data(**_CASES[request.param])


@pytest.fixture
def check_trains(case: MultimodalData, make_model: Callable[..., MultimodalModel]) -> Callable[..., PlainStepper]:
    """``check_trains(Strategy, **options)``: finite losses, moved parameters, right shapes on ``case``."""

    def check(kind: type[Strategy], **options: Any) -> PlainStepper:
        strategy = kind(make_model(case), case, kind.Options(**options))
        before = {name: p.detach().clone() for name, p in strategy.model.encoders.named_parameters()}
        stepper = PlainStepper(strategy, case.train.batches(10), case.valid.batches(10), epochs=4)
        losses = stepper.fit()
        assert losses
        assert all(torch.isfinite(value) for terms in losses for value in terms.values())
        assert all(value.ndim == 0 for terms in losses for value in terms.values())
        for name, p in strategy.model.encoders.named_parameters():
            assert torch.isfinite(p).all(), name
            assert not torch.equal(p, before[name]), f"{name} did not move"
        strategy.eval()
        with torch.no_grad():
            batch = case.test.__getitems__(list(range(16)))
            output = strategy(batch)
            assert strategy.predict(output).shape == (16, case.task.outputs)
            assert output.logits.shape == (16, case.task.outputs)
            assert set(output.unimodal) == set(case.modalities)
            nothing = strategy.predict(strategy(batch.mask([])))
            assert torch.isfinite(nothing).all()
        assert all(isinstance(value, float) for value in strategy.metrics().values())
        assert all(isinstance(p, nn.Parameter) for p in strategy.parameter_groups()["main"])
        return stepper

    return check
