"""Fusion: features of M modalities in, one vector per sample out.

Every fusion is called as ``fusion(features, present, conditions)``: features by name (B, D_m), ``present``
(B, M) bool in the order of ``dims``, and the detached posteriors of the unimodal heads (B, C) where
``uses_conditions``. It returns (B, ``width``). Whatever the features of an absent modality hold, they do not
reach the result, so any subset is scored by masking ``present``; a row without any modality gets a finite
answer that does not depend on the inputs.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modalign.domains import Count, Width, check_values
from modalign.errors import InputError, SettingsError, unknown


class Fusion(nn.Module):
    """Fuse features of M modalities: the base of all fusions.

    Attributes:
        dims: modality name to D_m, in the order of the columns of ``present``.
        width: number of fused features.
        uses_conditions: whether ``forward`` needs the posteriors of the unimodal heads.

    >>> fusion = build_fusion("sum", {"a": 4, "b": 6}, width=8, outputs=3)
    >>> features = {"a": torch.randn(2, 4), "b": torch.randn(2, 6)}
    >>> fusion(features, present=torch.ones(2, 2, dtype=torch.bool)).shape
    torch.Size([2, 8])
    """

    uses_conditions = False

    def __init__(self, dims: Mapping[str, int], width: Width) -> None:
        super().__init__()
        self.dims = dict(dims)
        self.width = width

    def _masked(self, features: Mapping[str, Tensor], present: Tensor) -> list[Tensor]:
        """Return the features in order, zeros where absent."""
        return [features[name] * present[:, m, None] for m, name in enumerate(self.dims)]

    def _projections(self, bias: bool = True) -> nn.ModuleDict:
        """Return one linear map of each modality to the common width."""
        return nn.ModuleDict({m: nn.Linear(d, self.width, bias=bias) for m, d in self.dims.items()})

    def forward(
        self, features: Mapping[str, Tensor], present: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Fused features (B, width)."""
        raise NotImplementedError


class ConcatFusion(Fusion):
    """All features side by side, zeros where absent. ``width`` is the sum of the D_m.

    With the linear head behind it the logits are sum_m W_m z_m + b: additive in the modalities.
    """

    def __init__(self, dims: Mapping[str, int], width: Width) -> None:
        super().__init__(dims, sum(dims.values()))

    def forward(
        self, features: Mapping[str, Tensor], present: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Fused features (B, sum of D_m)."""
        return torch.cat(self._masked(features, present), 1)


class SumFusion(Fusion):
    """Sum of linear maps of the features to a common width; absent ones add nothing."""

    def __init__(self, dims: Mapping[str, int], width: Width) -> None:
        super().__init__(dims, width)
        self.projections = self._projections(bias=False)

    def forward(
        self, features: Mapping[str, Tensor], present: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Fused features (B, width)."""
        masked = zip(self.projections.values(), self._masked(features, present), strict=True)
        return torch.stack([project(z) for project, z in masked]).sum(0)


class GatedFusion(Fusion):
    """Gated multimodal unit (Arevalo et al. 2017): a mixture of tanh(W_m z_m) with weights from all features.

    The gates are a softmax over the modalities present, per fused feature (for two modalities this is the
    paper's sigmoid gate).
    """

    def __init__(self, dims: Mapping[str, int], width: Width) -> None:
        super().__init__(dims, width)
        self.projections = self._projections()
        self.gates = nn.Linear(sum(dims.values()), len(dims) * width)

    def forward(
        self, features: Mapping[str, Tensor], present: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Fused features (B, width)."""
        masked = self._masked(features, present)
        hidden = torch.stack([p(z) for p, z in zip(self.projections.values(), masked, strict=True)], 1).tanh()
        gates = self.gates(torch.cat(masked, 1)).unflatten(1, (len(self.dims), self.width))
        return (mixture_weights(gates, present) * hidden).sum(1)


class FilmFusion(Fusion):
    """Feature-wise linear modulation (Perez et al. 2018), each modality modulated by all the others.

    Fused: mean over the modalities m present of (1 + gamma_m) h_m + beta_m, where h_m = W_m z_m and
    (gamma_m, beta_m) is the sum of linear maps of the other features present. One modality alone passes
    unmodulated.
    """

    def __init__(self, dims: Mapping[str, int], width: Width) -> None:
        super().__init__(dims, width)
        self.projections = self._projections()
        pairs = [(m, n) for m in dims for n in dims if m != n]
        self.modulations = nn.ModuleDict({f"{m}<-{n}": nn.Linear(dims[n], 2 * width, bias=False) for m, n in pairs})

    def forward(
        self, features: Mapping[str, Tensor], present: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Fused features (B, width)."""
        masked = dict(zip(self.dims, self._masked(features, present), strict=True))
        modulated = []
        for m in self.dims:
            hidden = plain = self.projections[m](masked[m])
            for n in self.dims:
                if n != m:
                    gamma, beta = self.modulations[f"{m}<-{n}"](masked[n]).chunk(2, 1)
                    hidden = hidden + gamma * plain + beta
            modulated.append(hidden)
        weights = present.float() / present.sum(1, keepdim=True).clamp(min=1)
        return (torch.stack(modulated, 1) * weights.unsqueeze(-1)).sum(1)


class TensorFusion(Fusion):
    """Low-rank tensor fusion (Liu et al. 2018, Eq. 5): products between modalities of every order.

    Fused: sum_r prod_m (W_m^r [z_m; 1]) + b, which is the full outer product of the [z_m; 1] under a weight
    tensor of rank ``rank``. For an absent modality only the constant 1 is left, so the row of W_m^r that
    belongs to it is the learned embedding of absence.
    """

    def __init__(self, dims: Mapping[str, int], width: Width, *, rank: Width = 4) -> None:
        super().__init__(dims, width)
        self.rank = rank
        self.factors = nn.ModuleDict()
        for name, features in dims.items():
            factor = nn.Linear(features, rank * width)
            # Around 1, so that at the start the product is close to the sum of the modalities' own terms.
            nn.init.ones_(factor.bias)
            self.factors[name] = factor
        self.ranks = nn.Linear(rank, 1)
        nn.init.constant_(self.ranks.weight, 1 / rank)

    def forward(
        self, features: Mapping[str, Tensor], present: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Fused features (B, width)."""
        masked = zip(self.factors.values(), self._masked(features, present), strict=True)
        product = torch.stack([factor(z) for factor, z in masked]).prod(0)
        fused: Tensor = self.ranks(product.unflatten(1, (self.width, self.rank))).squeeze(-1)
        return fused


class AttentionFusion(Fusion):
    """Modalities as tokens of a transformer layer, read out at a learned token; absent ones are masked.

    Args:
        dims, width: as everywhere.
        heads: attention heads; must divide ``width``.
    """

    def __init__(self, dims: Mapping[str, int], width: Width, *, heads: Count = 4) -> None:
        super().__init__(dims, width)
        if width % heads:
            raise InputError(f"fusion 'attention': width {width} is not a multiple of its {heads} heads.")
        self.projections = self._projections()
        self.token = nn.Parameter(torch.randn(width) * 0.02)
        self.layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, features: Mapping[str, Tensor], present: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Fused features (B, width)."""
        tokens = [p(z) for p, z in zip(self.projections.values(), self._masked(features, present), strict=True)]
        first = self.token.to(tokens[0].dtype).expand(present.shape[0], -1)
        absent = torch.cat([torch.zeros_like(present[:, :1]), ~present], 1)
        mixed = self.layer(torch.stack([first, *tokens], 1), src_key_padding_mask=absent)
        fused: Tensor = self.norm(mixed[:, 0])
        return fused


class ContextFusion(Fusion):
    """ModAlign's context-aware fusion: modality-specific conditions guide how each modality is used.

    The condition c_m of a modality is [p; log C - H(p); k]: the posterior p = p(y | z_m) of its own head, without
    gradient, so that the fusion cannot be bought by making a head overconfident; the information in nats that the
    head claims to have about y; and what else is known of the modality (``Batch.conditions``, such as detected events
    or a quality score). It modulates the features (FiLM, Perez et al. 2018); fused are all of them side by side:

        (1 + gamma_m) z_m + beta_m,     (gamma_m, beta_m) = c_m V_m,     V_m = 0 at the start,

    so that training starts from ``concat``, with the same initial network, and a condition that is not known (zeros)
    modulates nothing. Use it with a strategy that trains the unimodal heads: the posterior of an untrained head is no
    condition. The paper describes this fusion in words only; the formula is ours.

    Args:
        dims, width: as everywhere; the width is the sum of the D_m.
        outputs: number of classes C.
        conditions: modality name to the number K of its further conditions.
    """

    uses_conditions = True

    def __init__(
        self, dims: Mapping[str, int], width: int, *, outputs: int, conditions: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(dims, sum(dims.values()))
        self.outputs = outputs
        rows = {m: outputs + 1 + (conditions or {}).get(m, 0) for m in dims}
        self.modulations = nn.ParameterDict({m: nn.Parameter(torch.zeros(rows[m], 2 * d)) for m, d in dims.items()})

    def forward(
        self, features: Mapping[str, Tensor], present: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Fused features (B, sum of D_m)."""
        fused = []
        for k, (m, z) in enumerate(zip(self.dims, self._masked(features, present), strict=True)):
            if conditions is not None:
                known = _with_information(conditions[m].detach(), self.outputs).to(z.dtype)
                gamma, beta = (known @ self.modulations[m].to(z.dtype)).chunk(2, 1)
                z = ((1 + gamma) * z + beta) * present[:, k, None]
            fused.append(z)
        return torch.cat(fused, 1)


def _with_information(condition: Tensor, outputs: int) -> Tensor:
    """[c; log C - H(c); rest], (B, C + 1 + K), in nats; a single output is no distribution and claims nothing."""
    own, rest = condition.float().split([outputs, condition.shape[1] - outputs], 1)
    if outputs == 1:
        information = torch.zeros_like(own)
    else:
        information = math.log(outputs) - torch.special.entr(own).sum(1, keepdim=True)
    return torch.cat([own, information, rest], 1)


def mixture_weights(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax over the modalities present: (B, M, W) scores to weights; all zeros where none is present."""
    absent = ~present.unsqueeze(-1)
    weights = scores.float().masked_fill(absent, torch.finfo(torch.float32).min).softmax(1)
    return weights.masked_fill(absent, 0.0)


FUSIONS: dict[str, Callable[..., Fusion]] = {
    "concat": ConcatFusion,
    "sum": SumFusion,
    "gated": GatedFusion,
    "film": FilmFusion,
    "tensor": TensorFusion,
    "attention": AttentionFusion,
    "context": ContextFusion,
}


class OwnFusion(Fusion):
    """Call a module of one's own with the features by modality, zeros where absent, and perhaps ``present``.

    Args:
        dims: modality name to D_m.
        module: maps a dict of (B, D_m), and ``present`` (B, M) if its ``forward`` takes two arguments, to (B, W).

    Raises:
        SettingsError: it fails on two samples of zeros, or gives something else than (2, W).
    """

    def __init__(self, dims: Mapping[str, int], module: nn.Module) -> None:
        super().__init__(dims, 0)
        self.module = module
        self._takes_present = len(inspect.signature(module.forward).parameters) > 1
        features = {m: torch.zeros(2, d) for m, d in dims.items()}
        what, mode = f"fusion {type(module).__name__}", module.training
        try:
            with torch.no_grad():
                fused = self.eval()(features, torch.ones(2, len(dims), dtype=torch.bool))
        except Exception as error:
            raise SettingsError(
                f"{what} fails on features { ({m: tuple(z.shape) for m, z in features.items()}) } "
                f"({type(error).__name__}: {error}); expected fused features (2, W)"
            ) from error
        self.train(mode)
        if not isinstance(fused, Tensor) or fused.ndim != 2 or len(fused) != 2:
            shape = tuple(fused.shape) if isinstance(fused, Tensor) else type(fused).__name__
            raise SettingsError(f"{what} gives {shape} for two samples; expected a tensor (2, W)")
        self.width = fused.shape[1]

    def forward(
        self, features: Mapping[str, Tensor], present: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return fused features (B, width)."""
        masked = dict(zip(self.dims, self._masked(features, present), strict=True))
        fused: Tensor = self.module(masked, present) if self._takes_present else self.module(masked)
        return fused


def own_fusion(dims: dict[str, int], given: nn.Module | Callable[[dict[str, int]], nn.Module]) -> Fusion:
    """Return a copy of a module of one's own (or what a function makes of the D_m) as the fusion.

    >>> class Mean(nn.Module):
    ...     def forward(self, features):
    ...         return sum(features.values()) / len(features)
    >>> own_fusion({"a": 4, "b": 4}, Mean()).width
    4
    """
    made = copy.deepcopy(given) if isinstance(given, nn.Module) else given(dims) if callable(given) else given
    if not isinstance(made, nn.Module):
        raise SettingsError(
            f"fusion {made!r} is a {type(made).__name__}; expected a torch.nn.Module that takes a dict of features "
            "(B, D_m) by modality and gives (B, W)"
        )
    return made if isinstance(made, Fusion) else OwnFusion(dims, made)


def build_fusion(
    name: str,
    dims: Mapping[str, int],
    width: int,
    outputs: int,
    options: Mapping[str, Any] | None = None,
    conditions: Mapping[str, int] | None = None,
) -> Fusion:
    """Return a fusion by name.

    Args:
        name: a key of ``FUSIONS``.
        dims: modality name to D_m.
        width: number of fused features (``concat`` has the sum of the D_m instead).
        outputs: width C of the heads.
        options: further arguments of the fusion; ``width`` among them overrides ``width``.
        conditions: modality name to the number K of its further conditions.

    Raises:
        SettingsError: for an unknown name or option, naming the nearest.

    >>> build_fusion("concat", {"a": 4, "b": 6}, width=8, outputs=3).width
    10
    """
    if name not in FUSIONS:
        raise unknown("fusion", name, FUSIONS)
    build = FUSIONS[name]
    arguments = {"width": width, **(options or {})}
    check_values(build, arguments, "model.fusion_options.", f"option of fusion {name!r}:", skip=("dims",))
    if build is ContextFusion:
        arguments |= {"outputs": outputs, "conditions": conditions}
    return build(dims, **arguments)
