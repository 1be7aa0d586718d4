"""Critics h(z1, z2, T): which give the logit of a pair being drawn from p(z1, z2|T) and not p(z1|T) p(z2|T).

A critic first embeds samples one by one (``embed``), then scores pairs of embedded samples (``pair``), so
that the cost of a pair is small and any set of pairs can be asked for. T enters one side of the pair,
``anchor``; on pairs that share T (all that conditional NCE asks for) the side makes no difference. Always in
fp32 or float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalign.errors import InputError, unknown

Side = Literal["left", "right"]


class ContextEmbedding(Protocol):
    """A module that maps contexts T to vectors (B, ``width``).

    >>> embedding: ContextEmbedding = LearnedContext(10, width=32)
    >>> embedding(torch.tensor([3, 7])).shape
    torch.Size([2, 32])
    """

    width: int

    def __call__(self, context: Tensor) -> Tensor: ...


class LearnedContext(nn.Module):
    """A learned vector for each of ``contexts`` discrete contexts; T is (B,) int64.

    >>> LearnedContext(10)(torch.tensor([3, 7])).shape
    torch.Size([2, 32])
    """

    def __init__(self, contexts: int, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.table = nn.Embedding(contexts, width)

    def forward(self, context: Tensor) -> Tensor:
        """Map (B,) codes to (B, width)."""
        return cast(Tensor, self.table(context))


class FixedContext(nn.Module):
    """Given vectors (contexts, E), such as a text encoder's embeddings of class names, projected.

    >>> FixedContext(torch.eye(10))(torch.tensor([3, 7])).shape
    torch.Size([2, 32])
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("vectors", vectors.detach().clone().float())
        self.project = nn.Linear(vectors.shape[1], width)

    def forward(self, context: Tensor) -> Tensor:
        """Map (B,) codes to (B, width)."""
        return cast(Tensor, self.project(self.vectors[context]))


class ContinuousContext(nn.Module):
    """A perceptron on T itself: (B, ``features``) float, or (B,) for one feature.

    >>> ContinuousContext(2)(torch.zeros(5, 2)).shape
    torch.Size([5, 32])
    """

    def __init__(self, features: int, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.net = nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, context: Tensor) -> Tensor:
        """Map (B, features) to (B, width)."""
        rows = context.reshape(len(context), -1)
        return cast(Tensor, self.net(rows.to(next(self.parameters()).dtype)))


class Critic(nn.Module):
    """Logits of pairs: subclasses define ``_embed`` and may override ``_pair`` and ``_diagonal``.

    Args:
        context: embedding of T; None for a critic that does not look at T (it ignores the T it is given).

    >>> critic = SeparableCritic((4, 3))
    >>> left, right = critic.embed(torch.zeros(6, 4), torch.zeros(6, 3))
    >>> critic.pair(left, right).shape, critic.diagonal(left, right).shape
    (torch.Size([6, 6]), torch.Size([6]))
    """

    def __init__(self, context: ContextEmbedding | None = None) -> None:
        super().__init__()
        self.context = cast("nn.Module | None", context)

    def embed(
        self, z1: Tensor, z2: Tensor, context: Tensor | None = None, anchor: Side = "left"
    ) -> tuple[Tensor, Tensor]:
        """Embed B samples of both modalities.

        Args:
            z1, z2: (B, D1) and (B, D2).
            context: (B,) int64 or (B, F) float, as the context embedding expects.
            anchor: the side of the pair whose T counts, where the two samples of a pair differ in T.

        Returns:
            ``left`` and ``right``, both (B, K').

        Raises:
            InputError: the critic needs T and got none.
        """
        dtype = next(self.parameters()).dtype
        if self.context is not None and context is None:
            raise InputError("this critic looks at the context T and got none; pass context, or build it without one.")
        with self._full_precision():
            vector = None if self.context is None else self.context(context)
            return self._embed(z1.to(dtype), z2.to(dtype), vector, anchor)

    def pair(self, left: Tensor, right: Tensor) -> Tensor:
        """Return logits of all pairs: (..., n, K') and (..., m, K') -> (..., n, m)."""
        with self._full_precision():
            return self._pair(left, right)

    def diagonal(self, left: Tensor, right: Tensor) -> Tensor:
        """Return logits of the pairs (i, i): (B, K') and (B, K') -> (B,)."""
        with self._full_precision():
            return self._diagonal(left, right)

    def forward(self, z1: Tensor, z2: Tensor, context: Tensor | None = None) -> Tensor:
        """Return all pairs (B, B): entry (i, j) is s(z1_i, z2_j, T_i)."""
        return self.pair(*self.embed(z1, z2, context))

    def _full_precision(self) -> torch.autocast:
        """Return what ends autocast: logits in half precision would lose what they carry."""
        return torch.autocast(next(self.parameters()).device.type, enabled=False)

    def _embed(self, z1: Tensor, z2: Tensor, vector: Tensor | None, anchor: Side) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} must define _embed")

    def _pair(self, left: Tensor, right: Tensor) -> Tensor:
        return left @ right.mT

    def _diagonal(self, left: Tensor, right: Tensor) -> Tensor:
        return (left * right).sum(-1)


class SeparableCritic(Critic):
    """s = e^a <g1(z1) * w_T, g2(z2)> + b_T + b: all pairs of a context in one matrix product (the default).

    g1, g2 are perceptrons with one hidden layer and outputs of length one; w_T = 1 and b_T = 0 at the start,
    when the critic does not depend on T.

    Args:
        dims: (D1, D2).
        context: embedding of T, or None.
        width: K, the number of embedded features.
        scale: e^a at the start, the largest logit that it can give then. Small, so that a critic that has learned
            nothing says so: where its scores are large and random, encoders that follow them do best to erase
            what it looks at.

    >>> SeparableCritic((4, 3), LearnedContext(2))(torch.zeros(6, 4), torch.zeros(6, 3), torch.arange(6) % 2).shape
    torch.Size([6, 6])
    """

    def __init__(
        self, dims: tuple[int, int], context: ContextEmbedding | None = None, width: int = 128, scale: float = 1.0
    ) -> None:
        super().__init__(context)
        self.g1, self.g2 = (
            nn.Sequential(nn.Linear(d, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width)) for d in dims
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.zeros(()))
        self.modulation = zero_linear(context.width, width + 1) if context is not None else None

    def _embed(self, z1: Tensor, z2: Tensor, vector: Tensor | None, anchor: Side) -> tuple[Tensor, Tensor]:
        left = F.normalize(self.g1(z1), dim=-1) * self.log_scale.exp()
        right = F.normalize(self.g2(z2), dim=-1)
        offset = self.bias.expand(len(z1), 1)
        if self.modulation is not None:
            weight, shift = self.modulation(vector).split([left.shape[-1], 1], dim=-1)
            offset = offset + shift
            if anchor == "left":
                left = left * (1 + weight)
            else:
                right = right * (1 + weight)
        return _with_offset(left, right, offset, anchor)


class SeparableCritics(nn.Module):
    """Separable critics of all pairs of M modalities with shared perceptrons g_m: M embeddings for M(M-1)/2 pairs.

    Of the pair (a, b): s = <g_a(z_a) * w_ab,T, g_b(z_b)> + b_ab,T, with w = 1 and b = 0 at the start, when critics
    do not depend on T. Weights of all modalities, and of all pairs, lie in one tensor: one product serves them all.

    Args:
        dims: D_m of each modality; features are padded with zeros to the largest, D.
        context: embedding of T, one for all pairs, or None.
        width: K, the number of embedded features and of hidden units.

    >>> critics = SeparableCritics([4, 3, 4], LearnedContext(2))
    >>> keys, context = critics.embed(torch.randn(3, 6, 4)), torch.arange(6) % 2     # M, N, D
    >>> gain, offset = critics.modulate(context)
    >>> keys.shape, gain.shape, offset.shape           # of 3 modalities, and of 3 pairs
    (torch.Size([3, 6, 128]), torch.Size([3, 6, 128]), torch.Size([3, 6]))
    >>> of_0_and_2 = critics.pair(1)
    >>> said = of_0_and_2.diagonal(*of_0_and_2.embed(keys[0], keys[2], context))
    >>> torch.allclose(said, (keys[0] * gain[1] * keys[2]).sum(-1) + offset[1], atol=1e-6)
    True
    """

    def __init__(self, dims: Sequence[int], context: ContextEmbedding | None = None, width: int = 128) -> None:
        super().__init__()
        self.pairs, self.width = list(combinations(range(len(dims)), 2)), width
        self.context = cast("nn.Module | None", context)
        layers = [(nn.Linear(d, width), nn.Linear(width, width)) for d in dims]
        # With biases of zero a rectified g_m of length one would see directions, and not how large a feature is.
        biases = (torch.stack([layer.bias.detach()[None] for layer in each]) for each in zip(*layers, strict=True))
        self.first_bias, self.second_bias = map(nn.Parameter, biases)
        first = [F.pad(one.weight.detach().T, (0, 0, 0, max(dims) - one.in_features)) for one, _ in layers]
        self.first = nn.Parameter(torch.stack(first))
        self.second = nn.Parameter(torch.stack([two.weight.detach().T for _, two in layers]))
        start = torch.cat([torch.ones(width), torch.zeros(1)]).repeat(len(self.pairs))
        self.modulation_bias = nn.Parameter(start)  # w and b of each pair, and what T changes of them
        self.modulation = nn.Parameter(torch.zeros(len(start), context.width)) if context is not None else None

    def embed(self, features: Tensor) -> Tensor:
        """Embed features (M, N, D): (M, N, K), of length one, in fp32 (or float64)."""
        with torch.autocast(features.device.type, enabled=False):
            hidden = torch.baddbmm(self.first_bias, features.to(self.first.dtype), self.first).relu()
            unit: Tensor = _Unit.apply(torch.baddbmm(self.second_bias, hidden, self.second))
            return unit

    def modulate(self, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what T does to each pair: factors w_T (P, N, K), and offsets b_T (P, N); N is 1 without T."""
        if self.context is None or self.modulation is None:
            rows = self.modulation_bias[None]
        else:
            if context is None:
                raise InputError("these critics look at the context T and got none; pass context.")
            with torch.autocast(self.modulation.device.type, enabled=False):
                rows = F.linear(self.context(context), self.modulation, self.modulation_bias)
        rows = rows.unflatten(1, (len(self.pairs), self.width + 1)).transpose(0, 1)
        return rows[..., :-1], rows[..., -1]

    def pair(self, number: int) -> Critic:
        """Return one pair's critic, of *embedded* features: for ``score_pairs``, and for equations."""
        return _OnePair(self, number)


class _Unit(torch.autograd.Function):
    """Rows of length one, as ``F.normalize``, in a third of autograd's calls."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_(min=1e-12)
        unit = x / length
        ctx.save_for_backward(unit, length)
        return unit

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        unit, length = ctx.saved_tensors
        along = (gradient * unit).sum(-1, keepdim=True)
        return torch.addcmul(gradient, unit, along, value=-1).div_(length)


class _OnePair(Critic):
    """The critic of one pair among ``SeparableCritics``, on the rows of their ``embed``."""

    def __init__(self, critics: SeparableCritics, number: int) -> None:
        super().__init__()
        self.critics, self.number = critics, number

    def embed(
        self, z1: Tensor, z2: Tensor, context: Tensor | None = None, anchor: Side = "left"
    ) -> tuple[Tensor, Tensor]:
        gain, offset = (part[self.number] for part in self.critics.modulate(context))
        left, right = (z1 * gain, z2) if anchor == "left" else (z1, z2 * gain)
        return _with_offset(left, right, offset.expand(len(z1))[:, None], anchor)


class BilinearCritic(Critic):
    """s = <A (z1 - u_T), z2 - v_T> + b_T; u_T = v_T = 0 and b_T = 0 at the start.

    Args:
        dims: (D1, D2).
        context: embedding of T, or None.

    >>> BilinearCritic((4, 3))(torch.zeros(6, 4), torch.zeros(6, 3)).shape
    torch.Size([6, 6])
    """

    def __init__(self, dims: tuple[int, int], context: ContextEmbedding | None = None) -> None:
        super().__init__(context)
        self.dims = list(dims)
        self.weight = nn.Parameter(torch.randn(dims) / math.sqrt(dims[0] * dims[1]))
        self.bias = nn.Parameter(torch.zeros(()))
        self.modulation = zero_linear(context.width, sum(dims) + 1) if context is not None else None

    def _embed(self, z1: Tensor, z2: Tensor, vector: Tensor | None, anchor: Side) -> tuple[Tensor, Tensor]:
        offset = self.bias.expand(len(z1), 1)
        u, v = torch.zeros_like(z1), torch.zeros_like(z2)
        if self.modulation is not None:
            u, v, shift = self.modulation(vector).split([*self.dims, 1], dim=-1)
            offset = offset + shift
        if anchor == "left":
            left = (z1 - u) @ self.weight
            return _with_offset(left, z2, offset - (left * v).sum(-1, keepdim=True), anchor)
        right = (z2 - v) @ self.weight.mT
        return _with_offset(z1, right, offset - (right * u).sum(-1, keepdim=True), anchor)


class MLPCritic(Critic):
    """A perceptron on the concatenation of z1, z2 and T, with two hidden layers.

    The first layer is a sum of one linear map for each part, computed once a sample; the rest once a pair,
    which costs n m ``width`` numbers of memory.

    Args:
        dims: (D1, D2).
        context: embedding of T, or None.
        width: K, the width of the hidden layers.

    >>> MLPCritic((4, 3))(torch.zeros(6, 4), torch.zeros(6, 3)).shape
    torch.Size([6, 6])
    """

    def __init__(self, dims: tuple[int, int], context: ContextEmbedding | None = None, width: int = 128) -> None:
        super().__init__(context)
        self.first = nn.ModuleList([nn.Linear(dims[0], width), nn.Linear(dims[1], width, bias=False)])
        self.modulation = zero_linear(context.width, width) if context is not None else None
        self.rest = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))

    def _embed(self, z1: Tensor, z2: Tensor, vector: Tensor | None, anchor: Side) -> tuple[Tensor, Tensor]:
        left, right = self.first[0](z1), self.first[1](z2)
        if self.modulation is None:
            return left, right
        shift = self.modulation(vector)
        return (left + shift, right) if anchor == "left" else (left, right + shift)

    def _pair(self, left: Tensor, right: Tensor) -> Tensor:
        return cast(Tensor, self.rest(left.unsqueeze(-2) + right.unsqueeze(-3)).squeeze(-1))

    def _diagonal(self, left: Tensor, right: Tensor) -> Tensor:
        return cast(Tensor, self.rest(left + right).squeeze(-1))


CRITICS: dict[str, type[Critic]] = {"separable": SeparableCritic, "bilinear": BilinearCritic, "mlp": MLPCritic}


def make_critic(name: str, dims: Sequence[int], context: ContextEmbedding | None = None, **options: Any) -> Critic:
    """Return a critic by name: ``separable``, ``bilinear`` or ``mlp``.

    Args:
        name: which.
        dims: (D1, D2), the numbers of features of the two modalities.
        context: embedding of T (``LearnedContext``, ``FixedContext``, ``ContinuousContext``) or None.
        options: further arguments of that critic, such as ``width``.

    Raises:
        InputError: there is no critic of that name, or ``dims`` are not two numbers.

    >>> type(make_critic("bilinear", (4, 3))).__name__
    'BilinearCritic'
    """
    if name not in CRITICS:
        raise unknown("critic", name, CRITICS)
    if len(dims) != 2:
        raise InputError(f"a critic relates two modalities and got dims {list(dims)}; give (D1, D2).")
    build = cast("Callable[..., Critic]", CRITICS[name])
    return build((dims[0], dims[1]), context, **options)


def zero_linear(features: int, outputs: int) -> nn.Linear:
    """Return a linear map that gives 0 until it is trained.

    >>> zero_linear(2, 1)(torch.ones(1, 2)).item()
    0.0
    """
    layer = nn.Linear(features, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _with_offset(left: Tensor, right: Tensor, offset: Tensor, anchor: Side) -> tuple[Tensor, Tensor]:
    """Append the offset to the anchor's side and 1 to the other, so that their product contains it."""
    one = torch.ones_like(offset)
    first, second = (offset, one) if anchor == "left" else (one, offset)
    return torch.cat([left, first], -1), torch.cat([right, second], -1)
