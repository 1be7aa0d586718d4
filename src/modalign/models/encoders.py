"""Encoders: one sample of one modality in, D features out.

Every encoder is an ``nn.Module`` with an attribute ``width`` (D) and ``forward(x) -> (B, D)``. Those written
here are small nets without batch statistics (group and layer norms only): a batch of one trains, a sample's
features do not depend on the others in its batch, and several processes compute what one would. The large
pretrained networks are in :mod:`modalign.models.backbones`, which is imported only when one is asked for.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.data.batch import Modality
from modalign.data.dataset import Split
from modalign.domains import Decay, Width, check_values
from modalign.errors import InputError, SettingsError, unknown


class Standardize(nn.Module):
    """Shift and scale an input to mean 0 and standard deviation 1, by statistics of the training split.

    The statistics are per feature (``vector``, ``sequence``) or per channel (``image``, ``clip``), and are
    buffers: a checkpoint applies the same transformation to new data. A feature that never varies is only
    shifted. Until ``fit`` the input is passed on unchanged, but always as fp32 (uint8 images are accepted).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        self.name = modality.name
        self.axis = 1 + {"vector": 0, "sequence": 1, "image": 0, "clip": 1}[modality.kind]
        features = modality.shape[self.axis - 1]
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the standardized input, fp32, of the shape of ``x``."""
        return (x.float() - self._beside(self.mean, x)) / self._beside(self.scale, x)

    def size(self, x: Tensor) -> Tensor:
        """Return the input in units of its root mean square in training: what is left of it is its size."""
        return x.float() / self._beside((self.mean.square() + self.scale.square()).sqrt(), x)

    def _beside(self, statistics: Tensor, x: Tensor) -> Tensor:
        """Statistics (F,) in the shape that goes with inputs."""
        return statistics.view([-1 if axis == self.axis else 1 for axis in range(x.ndim)])

    def take(self, split: Split, mean: Sequence[float], std: Sequence[float]) -> bool:
        """Scale pictures by a mean and a deviation by color, of values in [0, 1], and return whether these are such.

        Those of one channel are scaled by the mean of the three.
        """
        values = split.__getitems__(_spread(len(split), 64)).inputs[self.name]
        top = 255.0 if values.dtype == torch.uint8 else 1.0
        if len(self.mean) not in (1, 3) or (top == 1.0 and not 0 <= values.min() <= values.max() <= 1):
            return False
        for buffer, numbers in ((self.mean, mean), (self.scale, std)):
            colors = torch.tensor(numbers) * top
            buffer.copy_(colors if len(buffer) == 3 else colors.mean())
        return True

    def fit(self, split: Split, limit: int = 4096, batch_size: int = 64) -> None:
        """Take mean and standard deviation from at most ``limit`` samples spread evenly over ``split``.

        Only rows where the modality is present count. Batches are read one after the other and merged
        (Chan, Golub and LeVeque 1983), so memory does not grow with the split.

        Raises:
            InputError: if the modality is present in none of the samples read.
        """
        taken = _spread(len(split), limit)
        count, mean, squares = 0, torch.zeros(0), torch.zeros(0)
        for start in range(0, len(taken), batch_size):
            batch = split.__getitems__(taken[start : start + batch_size])
            present = batch.present[:, list(batch.inputs).index(self.name)]
            values = batch.inputs[self.name][present].double().movedim(self.axis, -1).flatten(0, -2)
            if len(values) == 0:
                continue
            batch_mean = values.mean(0)
            batch_squares = (values - batch_mean).square().sum(0)
            if count == 0:
                count, mean, squares = len(values), batch_mean, batch_squares
                continue
            total = count + len(values)
            shift = batch_mean - mean
            squares = squares + batch_squares + shift.square() * (count * len(values) / total)
            mean = mean + shift * (len(values) / total)
            count = total
        if count == 0:
            raise InputError(
                f"modality {self.name!r} is absent from all {len(taken)} training samples read; it needs at "
                "least one. Leave it out of the modalities, or check the presence column."
            )
        deviation = (squares / count).sqrt()
        # Rounding leaves a tiny deviation where a constant is large, hence the comparison with the mean.
        varies = deviation > 1e-6 * (1e-6 + mean.abs())
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(varies, deviation, torch.ones_like(deviation)))


def _spread(size: int, limit: int) -> list[int]:
    """Return at most ``limit`` indices evenly spread over ``range(size)``."""
    taken = min(size, limit)
    return [k * size // taken for k in range(taken)]


def _norm(channels: int) -> nn.GroupNorm:
    """Group norm with at most 8 groups; works for a batch of one and a map of one pixel."""
    return nn.GroupNorm(math.gcd(channels, 8) if channels >= 16 else 1, channels)


class MLPEncoder(nn.Module):
    """Multilayer perceptron for ``vector`` (B, F); other numeric inputs are flattened.

    Args:
        modality: what is encoded.
        width: number of features D.
        hidden: widths of the hidden layers.
        dropout: dropout after each hidden layer.
    """

    def __init__(
        self, modality: Modality, width: Width, *, hidden: Sequence[Width] = (128,), dropout: Decay = 0.0
    ) -> None:
        super().__init__()
        self.width = width
        sizes = [math.prod(modality.shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU(), nn.Dropout(dropout)]
        self.net = nn.Sequential(*layers, nn.Linear(sizes[-1], width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, *shape) to (B, D)."""
        features: Tensor = self.net(x.float())
        return features


class SNNEncoder(nn.Module):
    """Self-normalizing network for genomic vectors (B, F), as in PathomicFusion.

    Four layers of Linear, ELU and alpha-dropout, weights from N(0, 1/fan_in). Klambauer et al. 2017; sizes
    64-48-32-32 of Chen et al. 2020 (PathomicFusion).

    Args:
        modality: what is encoded.
        width: number of features D.
        hidden: widths of the hidden layers.
        dropout: probability of alpha-dropout.
    """

    def __init__(
        self,
        modality: Modality,
        width: Width = 32,
        *,
        hidden: Sequence[Width] = (64, 48, 32),
        dropout: Decay = 0.25,
    ) -> None:
        super().__init__()
        self.width = width
        sizes = [math.prod(modality.shape), *hidden, width]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(sizes):
            linear = nn.Linear(before, after)
            nn.init.normal_(linear.weight, std=before**-0.5)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ELU(), nn.AlphaDropout(dropout)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) to (B, D)."""
        features: Tensor = self.net(x.float())
        return features


class _Temporal(nn.Module):
    """Three 1-D convolutions over time, then the mean within a few stretches of it: (B, F, T) to (B, D)."""

    def __init__(self, features: int, width: int, channels: int, stretches: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(features, channels, 5, padding=2),
            _norm(channels),
            nn.ReLU(),
            nn.MaxPool1d(2, ceil_mode=True),
            nn.Conv1d(channels, channels, 3, padding=1),
            _norm(channels),
            nn.ReLU(),
            nn.Conv1d(channels, channels, 3, padding=1),
            _norm(channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(stretches),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(channels * stretches, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.convolutions(x)
        return features


class ConvSequenceEncoder(nn.Module):
    """1-D convolutional net for ``sequence`` (B, T, F); convolves over T.

    Args:
        modality: what is encoded.
        width: number of features D.
        channels: channels of the convolutions.
        stretches: parts of the time axis whose means are kept apart before the last layer.
        dropout: dropout before the last layer.
    """

    def __init__(
        self, modality: Modality, width: Width, *, channels: Width = 64, stretches: Width = 4, dropout: Decay = 0.0
    ) -> None:
        super().__init__()
        self.width = width
        self.net = _Temporal(modality.shape[1], width, channels, stretches, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) to (B, D)."""
        features: Tensor = self.net(x.float().transpose(1, 2))
        return features


def _picture_net(shape: tuple[int, int, int], channels: int, grid: int) -> tuple[nn.Sequential, int]:
    """Three 2-D convolutions and the mean on a coarse grid, so that position is kept; and its output size."""
    colors, height, width = shape
    small = min(height, width)
    stride = 1 if small < 16 else 2 if small < 64 else 4
    net = nn.Sequential(
        nn.Conv2d(colors, channels, 5, stride=stride, padding=2),
        _norm(channels),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        _norm(2 * channels),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(2 * channels, 2 * channels, 3, padding=1),
        _norm(2 * channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(grid),
        nn.Flatten(),
    )
    return net, 2 * channels * grid * grid


class ConvImageEncoder(nn.Module):
    """2-D convolutional net for ``image`` (B, C, H, W), uint8 or float, from one pixel to full size.

    Args:
        modality: what is encoded.
        width: number of features D.
        channels: channels of the first convolution; the others have twice as many.
        grid: side of the grid on which the last map is averaged.
        dropout: dropout before the last layer.
    """

    def __init__(
        self, modality: Modality, width: Width, *, channels: Width = 16, grid: Width = 3, dropout: Decay = 0.0
    ) -> None:
        super().__init__()
        self.width = width
        colors, height, across = modality.shape
        self.net, size = _picture_net((colors, height, across), channels, grid)
        self.net.extend([nn.Dropout(dropout), nn.Linear(size, width)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D)."""
        features: Tensor = self.net(x.float())
        return features


class ConvClipEncoder(nn.Module):
    """Factorised convolutional net for ``clip`` (B, T, C, H, W), uint8 or float.

    A 2-D net on each frame gives frame features, of which the mean over time (what does not move) goes through
    one linear layer, and what remains, normalized over time, through 1-D convolutions; the two are added. On a
    CPU this costs a fraction of 3-D convolutions, and small motion is not drowned by a large constant picture.

    Args:
        modality: what is encoded.
        width: number of features D.
        channels: channels of the first 2-D convolution.
        grid: side of the grid on which a frame's last map is averaged.
        temporal: channels of the convolutions over time.
        stretches: parts of the time axis whose means are kept apart before the last layer.
        dropout: dropout before the last layers.
    """

    def __init__(
        self,
        modality: Modality,
        width: Width,
        *,
        channels: Width = 8,
        grid: Width = 3,
        temporal: Width = 64,
        stretches: Width = 4,
        dropout: Decay = 0.0,
    ) -> None:
        super().__init__()
        self.width = width
        _, colors, height, across = modality.shape
        self.frames, size = _picture_net((colors, height, across), channels, grid)
        self.static = nn.Sequential(nn.LayerNorm(size), nn.Dropout(dropout), nn.Linear(size, width))
        self.motion = _Temporal(size, width, temporal, stretches, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C, H, W) to (B, D)."""
        frames = self.frames(x.float().flatten(0, 1)).unflatten(0, x.shape[:2]).transpose(1, 2).float()
        mean = frames.mean(2, keepdim=True)
        moving = frames - mean
        # By hand: torch's norms refuse a clip of one frame, where this is zero.
        moving = moving * (moving.square().mean(2, keepdim=True) + 1e-5).rsqrt()
        features: Tensor = self.static(mean.squeeze(2)) + self.motion(moving)
        return features


class TextEncoder(nn.Module):
    """Embedding, one convolution over neighboring tokens and their mean, for ``text`` ids (B, L).

    Ids equal to ``modality.padding`` are no tokens: they change nothing, however many there are. An empty
    text gives the features of no evidence (the bias of the last layer).

    Args:
        modality: what is encoded.
        width: number of features D.
        embedding: width of the token embeddings.
        dropout: dropout on the embeddings.
    """

    def __init__(self, modality: Modality, width: Width, *, embedding: Width = 64, dropout: Decay = 0.1) -> None:
        super().__init__()
        self.width = width
        self.padding = modality.padding
        self.embedding = nn.Embedding(modality.vocabulary, embedding)
        nn.init.normal_(self.embedding.weight, std=embedding**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.convolution = nn.Conv1d(embedding, embedding, 3, padding=1)
        self.norm = nn.LayerNorm(embedding)
        self.last = nn.Linear(2 * embedding, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L) int64 ids to (B, D)."""
        mask = (x != self.padding).unsqueeze(-1)
        words = self.dropout(self.embedding(x)) * mask
        phrases = self.norm(self.convolution(words.transpose(1, 2)).transpose(1, 2))
        tokens = torch.cat([words, functional.relu(phrases)], -1) * mask
        features: Tensor = self.last(tokens.sum(1) / mask.sum(1).clamp(min=1))
        return features


_SMALL: dict[str, dict[str, Callable[..., nn.Module]]] = {
    "vector": {"mlp": MLPEncoder, "snn": SNNEncoder},
    "sequence": {"conv": ConvSequenceEncoder, "mlp": MLPEncoder},
    "image": {"conv": ConvImageEncoder, "mlp": MLPEncoder},
    "clip": {"conv": ConvClipEncoder, "mlp": MLPEncoder},
    "text": {"text": TextEncoder},
}
# The tuple is of aliases; ``hf:`` goes for every kind in the table.
_BACKBONES: dict[str, tuple[str, ...]] = {
    "sequence": (),
    "image": ("resnet18", "resnet50", "vit_b_16"),
    "clip": ("resnet18", "resnet50", "vit_b_16"),
    "text": ("bert_base",),
}


def build_encoder(
    modality: Modality,
    width: int,
    settings: Mapping[str, Any] | None = None,
    network: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return the encoder of a modality.

    Args:
        modality: what is encoded.
        width: number of features D, unless ``settings`` has a ``width`` or the encoder says otherwise.
        settings: ``name`` (by kind where absent: ``mlp``, ``conv`` or ``text``) and the arguments of that
            encoder. ``resnet18``, ``resnet50``, ``vit_b_16``, ``bert_base`` and ``hf:<name or folder>`` are
            the networks of :func:`modalign.models.backbones.build_backbone`.
        network: configuration of a large network, which is then built without weights: a checkpoint brings them.

    Raises:
        SettingsError: the name is unknown or not for this kind of modality, or an argument does not exist.

    >>> encoder = build_encoder(Modality("image", "image", (1, 28, 28)), 32, {"name": "conv"})
    >>> encoder(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 32])
    """
    options = dict(settings or {})
    known = _SMALL[modality.kind]
    name = str(options.pop("name", next(iter(known))))
    large = _BACKBONES.get(modality.kind)
    if large is not None and (name in large or name.startswith("hf:")):
        from modalign.models import backbones

        build: Callable[..., nn.Module] = backbones.build_backbone
        options["name"] = name
        if network is not None:
            options |= {"network": network}
    elif name in known:
        build = known[name]
        options.setdefault("width", width)
    else:
        names = [*known, *(() if large is None else (*large, "hf:<name or folder>"))]
        raise unknown(f"encoder of {modality.kind} modality {modality.name!r}:", name, names)
    what = f"option of encoder {name!r} of modality {modality.name!r}:"
    check_values(build, options, f"model.encoders.{modality.name}.", what, skip=("modality",))
    return build(modality, **options)


def own_encoder(modality: Modality, given: nn.Module | Callable[[Modality], nn.Module]) -> nn.Module:
    """Return a copy of a module of one's own (or what a function makes) as the encoder of a modality.

    Its number of features is read off its answer to two samples of zeros and kept as ``width``.

    Raises:
        SettingsError: it is no module, fails on such samples, or answers with something else than (2, D).

    >>> own_encoder(Modality("a", "vector", (5,)), nn.Linear(5, 3)).width
    3
    """
    what = f"encoder of modality {modality.name!r}"
    made = copy.deepcopy(given) if isinstance(given, nn.Module) else given(modality) if callable(given) else given
    if not isinstance(made, nn.Module):
        raise SettingsError(
            f"{what}: {made!r} is a {type(made).__name__}; expected a torch.nn.Module from (B, "
            f"{', '.join(map(str, modality.shape))}) to (B, D), such as nn.Sequential(nn.Flatten(), nn.Linear(..., 64))"
        )
    zeros = torch.zeros(2, *modality.shape, dtype=torch.long if modality.kind == "text" else torch.float32)
    mode = made.training
    try:
        with torch.no_grad():
            features = made.eval()(zeros)
    except Exception as error:
        raise SettingsError(
            f"{what}: {type(made).__name__} fails on an input of shape {tuple(zeros.shape)} and type {zeros.dtype} "
            f"({type(error).__name__}: {error}); expected features (2, D)"
        ) from error
    made.train(mode)
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
        raise wrong_features(modality.name, made, features, (2, "D"))
    made.width = features.shape[1]  # type: ignore[assignment]
    return made


def wrong_features(name: str, encoder: nn.Module, found: object, expected: tuple[object, ...]) -> SettingsError:
    """Return the error for an encoder that gives something else than features of the expected shape."""
    shape = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    return SettingsError(
        f"encoder of modality {name!r}: {type(encoder).__name__} gives {shape}; expected features "
        f"({', '.join(map(str, expected))}), one row a sample: flatten or average what is left, as by nn.Flatten()"
    )
