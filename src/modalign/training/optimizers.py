"""Optimizers and the learning-rate schedule, the same for every method."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from modalign.errors import InputError, unknown
from modalign.settings import TrainingSettings
from modalign.strategies.base import Strategy

CRITIC_LR = 1e-3  # method.md section 4: h has an optimizer of its own, AdamW 1e-3


def make_optimizers(strategy: Strategy, settings: TrainingSettings) -> dict[str, Optimizer]:
    """Return one optimizer a parameter group of the strategy: ``main`` from the recipe, any other AdamW 1e-3.

    Biases and norms (tensors of fewer than two dimensions) have no weight decay. Each group of the main
    optimizer carries ``factor``, its share of the learning rate (``encoder_lr``).

    Raises:
        InputError: ``encoder_lr`` names a modality that the model does not have.
    """
    groups = strategy.parameter_groups()
    for name in settings.encoder_lr:
        if name not in strategy.model.encoders:
            raise unknown("modality in training.encoder_lr", name, strategy.model.encoders)
    factors = {
        id(p): factor
        for name, factor in settings.encoder_lr.items()
        for p in strategy.model.encoders[name].parameters()
    }
    by_kind: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for p in groups["main"]:
        factor = factors.get(id(p), 1.0)
        if p.requires_grad and factor > 0:
            by_kind.setdefault((factor, p.ndim >= 2), []).append(p)
    main = [
        {"params": params, "factor": factor, "weight_decay": settings.weight_decay if decay else 0.0}
        for (factor, decay), params in by_kind.items()
    ]
    if not main:
        raise InputError("nothing to train: every encoder is frozen and the strategy has no parameters")
    # Where tensors are many and small one kernel for all spares most of the time.
    fused = next(strategy.parameters()).device.type in ("cpu", "cuda")
    optimizers: dict[str, Optimizer] = {"main": _main(main, settings, fused)}
    for name, params in groups.items():
        if name != "main" and params:
            optimizers[name] = AdamW(params, lr=CRITIC_LR, fused=fused)
    return optimizers


def _main(groups: list[dict[str, object]], settings: TrainingSettings, fused: bool) -> Optimizer:
    match settings.optimizer:
        case "sgd":
            # Not fused: that takes no parameter whose first gradient comes later than its neighbors' (ReconBoost, MLA).
            return SGD(groups, lr=settings.lr, momentum=settings.momentum)
        case "adamw":
            return AdamW(groups, lr=settings.lr, fused=fused)
        case "adam":
            return Adam(groups, lr=settings.lr, fused=fused)
    raise unknown("optimizer", settings.optimizer, ("sgd", "adamw", "adam"))


def learning_rate(settings: TrainingSettings, progress: float) -> float:
    """Learning rate after a share ``progress`` of all steps: linear warm-up, then the schedule."""
    if progress < settings.warmup:
        return settings.lr * progress / settings.warmup
    rest = (progress - settings.warmup) / max(1e-9, 1 - settings.warmup)
    match settings.schedule:
        case "cosine":
            return settings.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))
        case "step":
            return settings.lr * settings.step_factor ** sum(progress >= share for share in settings.step_at)
        case "constant":
            return settings.lr
    raise unknown("schedule", settings.schedule, ("cosine", "step", "constant"))


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Give each group its share of ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)


def clip(parameters: list[nn.Parameter], largest: float | None) -> None:
    """Clip the norm of all gradients together, if asked for."""
    if largest is not None:
        torch.nn.utils.clip_grad_norm_(parameters, largest)
