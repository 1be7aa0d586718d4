"""Devices, processes and precision: the only module that knows the distributed library (Lightning Fabric).

Gradients are not synchronised by hooks: a strategy may run several backward passes through one forward pass,
take gradients by hand and leave parameters untouched, and ``DistributedDataParallel`` is wrong in all three cases.
``Devices.average_gradients`` averages ``.grad`` once, explicitly.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import cloudpickle
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from modalign.errors import InputError, option

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Devices:
    """The processes of a run and what they exchange.

    Args:
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        count: processes to start on this machine; under ``torchrun`` its own number holds.
        precision: ``fp32``, or mixed ``bf16`` / ``fp16`` (fp16 with loss scaling).

    Raises:
        InputError: the accelerator is not there, or has fewer devices than asked for.
    """

    def __init__(self, accelerator: str = "auto", count: int = 1, precision: Precision = "fp32") -> None:
        _check(accelerator, count)
        world = int(os.environ.get("WORLD_SIZE", "1"))
        launched = "LOCAL_RANK" in os.environ and "TORCHELASTIC_RUN_ID" in os.environ
        self.precision = precision
        self.spawns = count > 1 and not launched  # whether ``launch`` starts processes of its own
        if self.spawns or (launched and world == int(os.environ.get("LOCAL_WORLD_SIZE", world))):
            _stay_on_this_machine()
        self._fabric = Fabric(
            accelerator=accelerator,
            devices=int(os.environ.get("LOCAL_WORLD_SIZE", world)) if launched else count,
            num_nodes=world // int(os.environ.get("LOCAL_WORLD_SIZE", world)) if launched else 1,
            strategy="ddp" if launched else _Spawned() if self.spawns else "auto",
        )
        self.first = not launched or os.environ.get("RANK", "0") == "0"  # of those that were started from outside

    def launch(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run ``function(self, *args)`` in every process; returns what rank 0 returns."""
        try:
            return self._fabric.launch(_Call(self, function, args))
        finally:
            if isinstance(strategy := self._fabric.strategy, _Spawned):
                shutil.rmtree(strategy.meeting, ignore_errors=True)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self._fabric.device

    @property
    def rank(self) -> int:
        """This process, from 0."""
        return self._fabric.global_rank

    @property
    def world(self) -> int:
        """Number of processes."""
        return self._fabric.world_size

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which matrix products run in the chosen precision."""
        dtype = _DTYPES.get(self.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Return loss scaler, active in fp16 only."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum over processes, without gradient; the input is left as it was."""
        if self.world == 1:
            return tensor.detach()
        total = tensor.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Rows of all processes, without gradient, dealt out in turn as they were shared: row i is of rank i mod world.

        Batches and splits are shared as ``rows[rank::world]``, so this restores the order of one process.
        """
        tensor = tensor.detach()
        if self.world == 1:
            return tensor
        sizes = torch.zeros(self.world, dtype=torch.long, device=self.device)
        sizes[self.rank] = len(tensor)
        counts: list[int] = self.all_reduce(sizes).tolist()
        # Collectives need equal shapes and know no bool.
        carried = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
        padded = carried.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = carried
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        torch.distributed.all_gather(parts, padded)
        turns = torch.stack(parts, dim=1).flatten(0, 1)  # turn 0 of every rank, turn 1 of every rank, ...
        taken = [turn < counts[rank] for turn in range(max(counts)) for rank in range(self.world)]
        return turns[torch.tensor(taken, device=tensor.device)].to(tensor.dtype)

    def broadcast(self, value: Any) -> Any:
        """Return a picklable value of rank 0, on all processes."""
        return self._fabric.broadcast(value)

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is set on any process."""
        return (self.world > 1 and bool(self.all_reduce(torch.tensor(int(flag), device=self.device)))) or flag

    def barrier(self) -> None:
        """Wait for all processes."""
        self._fabric.barrier()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every ``.grad`` by its mean over processes; None counts as zeros unless None everywhere."""
        parameters = list(parameters)
        if self.world == 1 or not parameters:
            return
        given = torch.tensor([p.grad is not None for p in parameters], device=self.device, dtype=torch.uint8)
        somewhere = self.all_reduce(given).bool().tolist()
        used = [p for p, used in zip(parameters, somewhere, strict=True) if used]
        if not used:
            return
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in used])
        torch.distributed.all_reduce(flat)
        flat /= self.world
        for p, grad in zip(used, flat.split([p.numel() for p in used]), strict=True):
            p.grad = grad.view_as(p).to(p.dtype)


@dataclass
class _Call:
    """A function with its arguments in one piece: Fabric would take loose arguments apart to look for modules."""

    devices: Devices
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by cloudpickle, for classes of a script, a notebook or a file may be among the arguments."""
        return _restored, (cloudpickle.dumps((self.devices, self.function, self.arguments)),)

    def __call__(self, fabric: Fabric) -> Any:
        self.devices._fabric = fabric  # in a spawned process the pickled copy is not the one that was set up
        return self.function(self.devices, *self.arguments)


def _restored(packed: bytes) -> _Call:
    return _Call(*cloudpickle.loads(packed))


class _Spawned(DDPStrategy):
    """Local processes that find each other through a file instead of a port that anybody could connect to."""

    def __init__(self) -> None:
        super().__init__(start_method="spawn")
        self.meeting = ""

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        self.meeting = tempfile.mkdtemp(prefix="modalign-")

    def _setup_distributed(self) -> None:
        self._set_world_ranks()
        self._process_group_backend = self._get_process_group_backend()
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                self._process_group_backend,
                init_method=f"file://{self.meeting}/meeting",
                rank=self.global_rank,
                world_size=self.world_size,
                device_id=None if self.root_device.type == "cpu" else self.root_device,
            )


def _stay_on_this_machine() -> None:
    """Have the processes of one machine listen on loopback alone."""
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)


def _check(accelerator: str, count: int) -> None:
    """Refuse devices that are not there, before anything starts."""
    if count < 1:
        raise InputError(f"devices is {count}; expected 1 or more")
    if accelerator == "cuda" and torch.cuda.device_count() < count:
        raise InputError(
            f"{count} CUDA device(s) asked for, {torch.cuda.device_count()} found; "
            f"lower {option('training.devices')} or use {option('training.accelerator', 'cpu')}"
        )
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"accelerator 'mps' is not available here; use {option('training.accelerator', 'cpu')}")
