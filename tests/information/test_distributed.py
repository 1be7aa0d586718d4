"""Two processes give the gradient of one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from modalign.information import LearnedContext, SeparableCritic, gather_with_gradient, score_pairs

SHARES = ([0, 2, 4, 6, 8], [1, 3, 5])  # processes may have different numbers of samples


def modules() -> tuple[nn.Linear, nn.Linear, SeparableCritic]:
    torch.manual_seed(1)
    return nn.Linear(4, 3), nn.Linear(5, 3), SeparableCritic((3, 3), LearnedContext(2))


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    x1, x2 = torch.randn(9, 4, generator=generator), torch.randn(9, 5, generator=generator)
    return x1, x2, torch.arange(9) % 2


def step(rows: list[int]) -> list[torch.Tensor]:
    """Gradients of the pair objective over the gathered rows."""
    encoder1, encoder2, critic = modules()
    x1, x2, context = (x[rows] for x in data())
    z1, z2 = gather_with_gradient(encoder1(x1)), gather_with_gradient(encoder2(x2))
    score_pairs(critic, z1, z2, gather_with_gradient(context)).objective.backward()
    parameters = [*encoder1.parameters(), *encoder2.parameters(), *critic.parameters()]
    return [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    gradients = step(SHARES[rank])
    for gradient in gradients:
        dist.all_reduce(gradient)
    if rank == 0:
        torch.save([g / 2 for g in gradients], f"{folder}/gradients.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_equal_one(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    running = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    assert [p.wait(timeout=60) for p in running] == [0, 0]
    for got, expected in zip(torch.load(tmp_path / "gradients.pt"), step([*SHARES[0], *SHARES[1]]), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_one_process_is_left_alone() -> None:
    x = torch.randn(3, 2)
    assert gather_with_gradient(x) is x


if __name__ == "__main__":
    process(int(sys.argv[2]), sys.argv[1])
