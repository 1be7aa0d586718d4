"""Small data, small models and a stepper of one process, for tests of strategies without the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modalign.data.batch import Batch, Modality
from modalign.data.dataset import Column, MultimodalData
from modalign.data.info import DataInfo
from modalign.data.task import Task, classification
from modalign.models.multimodal import MultimodalModel
from modalign.settings import ModelSettings
from modalign.strategies.base import Stepper, Strategy


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


class SgdStepper(Stepper):
    """The public one-process stepper around plain SGD, on batches of the training split in order.

    Args:
        lr: learning rate.
        loss_scale: factor on all gradients until they are applied, as under half precision.
    """

    def __init__(
        self,
        strategy: Strategy,
        train: Sequence[Batch],
        valid: Sequence[Batch] = (),
        epochs: int = 4,
        lr: float = 0.05,
        seed: int = 0,
        accumulate: int = 1,
        loss_scale: float = 1.0,
    ) -> None:
        def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=lr, momentum=0.9)

        super().__init__(strategy, train, valid, epochs=epochs, optimizer=sgd, seed=seed, accumulate=accumulate)
        self.batches, self.valid, self.loss_scale = train, valid, loss_scale
        self._share *= loss_scale

    def update(self, group: str) -> None:
        for p in self.groups[group]:
            if p.grad is not None:
                p.grad /= self.loss_scale
        super().update(group)


@pytest.fixture
def make_stepper() -> type[SgdStepper]:
    """``make_stepper(strategy, batches, valid, epochs=, ...)``: a ``SgdStepper``."""
    return SgdStepper


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
def check_trains(case: MultimodalData, make_model: Callable[..., MultimodalModel]) -> Callable[..., SgdStepper]:
    """``check_trains(Strategy, **options)``: finite losses, moved parameters, right shapes on ``case``."""

    def check(kind: type[Strategy], **options: Any) -> SgdStepper:
        strategy = kind(make_model(case), DataInfo.of(case), kind.Options(**options))
        before = {name: p.detach().clone() for name, p in strategy.named_parameters()}
        trained = {id(p) for group in strategy.parameter_groups().values() for p in group}
        # Most methods train encoders, whose heads may stand still; one that does not must move what it has.
        own = strategy.model.encoders.parameters()
        moving = {id(p) for p in own if id(p) in trained} or trained
        stepper = SgdStepper(strategy, case.train.batches(10), case.valid.batches(10), epochs=4)
        losses = stepper.fit()
        assert losses
        assert all(torch.isfinite(torch.tensor(value)) for terms in losses for value in terms.values())
        for name, p in strategy.named_parameters():
            assert torch.isfinite(p).all(), name
            assert id(p) not in moving or not torch.equal(p, before[name]), f"{name} did not move"
            assert id(p) in trained or torch.equal(p, before[name]), f"{name} moved, but is in no group"
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
