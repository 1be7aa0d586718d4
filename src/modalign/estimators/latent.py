"""Codes of few dimensions under which nearest neighbors see what two variables of many dimensions share.

Encoders of x and of y make codes from which decoders predict the other variable and, with a small weight, the variable
itself; ``ksg`` then measures the codes of samples that no encoder was trained on. The idea is of Gowri, Lun, Klein and
Yin, "Approximating mutual information of high-dimensional variables using learned representations" (NeurIPS 2024).
They weigh both predictions alike; here what one variable has by itself, which costs nearest neighbors precision,
weighs ``ITSELF``. Given T, encoders and decoders see T, and codes are compared given T.

Codes are functions of the variables, so that they share no more than these; what shows in the other variable
neither in its mean nor nearby is lost, and so is what needs more than ``CODES`` dimensions.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalign.estimators.neural import Prepared
from modalign.estimators.samples import Array

CODES = 4
ITSELF = 0.1
STEPS, CHECK, PATIENCE, BATCH = 800, 20, 4, 256


class CrossPredictor(nn.Module):
    """Encoders x, T -> (n, ``codes``) and y, T -> (n, ``codes``), and decoders of each code, with T, to x and y.

    Args:
        dims: (F, G).
        t_features: how many numbers describe T; 0 for none.
        codes: dimensions of either code.

    >>> x, y = CrossPredictor((5, 6), t_features=0).codes(torch.zeros(3, 5), torch.zeros(3, 6), torch.zeros(3, 0))
    >>> x.shape, y.shape
    (torch.Size([3, 4]), torch.Size([3, 4]))
    """

    def __init__(self, dims: tuple[int, int], t_features: int, codes: int = CODES) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(_perceptron(d + t_features, codes) for d in dims)
        self.decoders = nn.ModuleList(_perceptron(codes + t_features, sum(dims)) for _ in dims)
        self.dims = list(dims)

    def codes(self, x: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return both codes."""
        of_x, of_y = self.encoders
        return of_x(torch.cat([x, t], 1)), of_y(torch.cat([y, t], 1))

    def errors(self, x: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean squared errors of predicting the other variable, and the variable itself, both sides added."""
        both = [
            decode(torch.cat([code, t], 1)).split(self.dims, dim=1)
            for decode, code in zip(self.decoders, self.codes(x, y, t), strict=True)
        ]
        (x_of_x, y_of_x), (x_of_y, y_of_y) = both
        return F.mse_loss(y_of_x, y) + F.mse_loss(x_of_y, x), F.mse_loss(x_of_x, x) + F.mse_loss(y_of_y, y)


def learned_codes(parts: list[Prepared], random: np.random.Generator) -> tuple[list[tuple[Array, Array]], float]:
    """Train on the first part, stop by the second, and return the codes of every part.

    Args:
        parts: samples as ``prepare`` gives them; normal scores are read.
        random: seeds.

    Returns:
        x and y codes of each part, and the share of the other's variance that the second part's codes predict, both
        sides added: about 0 where neither variable says anything of the other's mean.
    """
    torch.manual_seed(int(random.integers(2**31)))
    contexts = max(int(part.codes.max()) for part in parts) + 1

    def arrays(part: Prepared) -> tuple[Tensor, Tensor, Tensor]:
        if part.t is not None:
            t = torch.as_tensor(part.t).float()
        else:
            t = F.one_hot(torch.as_tensor(part.codes), contexts).float()[:, : contexts if contexts > 1 else 0]
        return part.plain_x, part.plain_y, t

    train, valid, *_ = seen = [arrays(part) for part in parts]
    net = CrossPredictor((train[0].shape[1], train[1].shape[1]), train[2].shape[1])
    best, best_value, predicted, waited = copy.deepcopy(net.state_dict()), math.inf, 0.0, 0
    nothing = float((valid[0] ** 2).mean() + (valid[1] ** 2).mean())
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2, fused=True)
    for step in range(STEPS):
        if step % CHECK == 0:
            with torch.no_grad():
                cross, own = net.errors(*valid)
            value = float(cross + ITSELF * own)
            if value < best_value - 1e-3:
                best, best_value, waited = copy.deepcopy(net.state_dict()), value, -1
                predicted = 1 - float(cross) / max(nothing, 1e-12)
            waited += 1
            if waited > PATIENCE:
                break
        rows = torch.randperm(len(train[0]))[:BATCH]
        cross, own = net.errors(*(v[rows] for v in train))
        optimizer.zero_grad()
        (cross + ITSELF * own).backward()
        optimizer.step()
    net.load_state_dict(best)
    with torch.no_grad():
        codes = [net.codes(*part) for part in seen]
    return [(a.double().numpy(), b.double().numpy()) for a, b in codes], predicted


def _perceptron(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, outputs))
