"""The calibrated held-out estimate that sets lambda."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modalign.estimators.calibration import heldout_information
from modalign.information.critics import Critic


class ExactGaussian(Critic):
    """gain * log p(a, b) / p(a) p(b) of standard Gaussians with correlation rho, plus an offset."""

    def __init__(self, rho: float, gain: float = 1.0, offset: float = 0.0) -> None:
        super().__init__()
        self.rho, self.gain, self.offset = rho, gain, offset
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def _embed(self, z1: Tensor, z2: Tensor, vector: Tensor | None, anchor: str) -> tuple[Tensor, Tensor]:
        return z1, z2

    def _pair(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = left[..., :, None, 0], right[..., None, :, 0]
        r = self.rho
        exact = -0.5 * math.log(1 - r**2) + (r * a * b - 0.5 * r**2 * (a**2 + b**2)) / (1 - r**2)
        return self.gain * exact + self.offset


def pairs(rho: float, samples: int = 3000, contexts: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    a = torch.randn(samples, 1)
    return a, rho * a + math.sqrt(1 - rho**2) * torch.randn(samples, 1), torch.arange(samples) % contexts


@pytest.mark.parametrize("form", ["nce3", "nce2"])
@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (6.0, -9.0), (0.1, 40.0)])
def test_recovers_the_truth_whatever_the_critics_confidence(form, gain, offset):
    z1, z2, context = pairs(0.8)
    found = heldout_information(ExactGaussian(0.8, gain, offset), z1, z2, context, form)
    assert float(found) == pytest.approx(-0.5 * math.log(1 - 0.8**2), abs=0.05)


def test_a_critic_that_is_worth_nothing_gives_zero():
    z1, _, context = pairs(0.8)
    independent = torch.randn(len(z1), 1)
    assert float(heldout_information(ExactGaussian(0.8, 8.0), z1, independent, context)) == pytest.approx(0, abs=0.01)
    opposed = -z1  # the critic's evidence points the wrong way
    assert float(heldout_information(ExactGaussian(0.8), z1, opposed, context)) == 0.0


def test_contexts_of_one_sample_and_separable_pairs_stay_finite():
    z1, z2, _ = pairs(0.8, samples=6)
    assert float(heldout_information(ExactGaussian(0.8), z1, z2, torch.arange(6))) == 0.0
    same = torch.tensor([[-3.0], [3.0]])
    found = heldout_information(ExactGaussian(0.999, 50.0), same, same, torch.zeros(2, dtype=torch.long))
    assert torch.isfinite(found)
