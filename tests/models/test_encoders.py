"""Small encoders: shapes, gradients, independence between samples, and standardization."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modalign.data.batch import Batch, Modality
from modalign.errors import InputError
from modalign.models.encoders import Standardize, build_encoder

CASES = [
    ("vector", {}),
    ("vector", {"name": "mlp", "hidden": [16, 8], "dropout": 0.2}),
    ("vector", {"name": "snn"}),
    ("sequence", {}),
    ("sequence", {"name": "mlp"}),
    ("image", {}),
    ("image", {"name": "mlp"}),
    ("clip", {}),
    ("clip", {"channels": 4, "grid": 2, "temporal": 16, "stretches": 2}),
    ("text", {}),
]


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_shape_and_gradient(
    kind: str, settings: dict, modalities: dict[str, Modality], draw: Callable[..., Tensor]
) -> None:
    encoder = build_encoder(modalities[kind], 12, settings)
    features = encoder(draw(modalities[kind], 5))
    assert features.shape == (5, encoder.width) == (5, 12)
    features.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert sum(p.grad.abs().sum() for p in encoder.parameters()) > 0


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_a_sample_does_not_depend_on_the_others(
    kind: str, settings: dict, modalities: dict[str, Modality], draw: Callable[..., Tensor]
) -> None:
    """Also what makes two processes equal to one; a batch of one trains."""
    encoder = build_encoder(modalities[kind], 12, {**settings, "dropout": 0.0}).train()
    x = draw(modalities[kind], 5)
    torch.testing.assert_close(encoder(x)[2:3], encoder(x[2:3]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["image", "clip"])
def test_bytes_equal_floats(kind: str, modalities: dict[str, Modality]) -> None:
    encoder = build_encoder(modalities[kind], 8)
    x = torch.randint(0, 256, (3, *modalities[kind].shape), dtype=torch.uint8)
    torch.testing.assert_close(encoder(x), encoder(x.float()))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("sequence", (1, 3)),
        ("image", (1, 1, 1)),
        ("image", (1, 8, 4)),
        ("image", (1, 70, 90)),
        ("clip", (1, 3, 1, 1)),
        ("clip", (1, 1, 30, 40)),
        ("vector", (1,)),
    ],
)
def test_extreme_sizes(kind: str, shape: tuple[int, ...]) -> None:
    encoder = build_encoder(Modality("x", kind, shape), 8).train()
    features = encoder(torch.randn(1, *shape))
    assert features.shape == (1, 8)
    assert features.isfinite().all()


def test_a_still_clip_is_told_from_another(modalities: dict[str, Modality]) -> None:
    """What does not move counts too."""
    encoder = build_encoder(modalities["clip"], 8)
    still = torch.randn(2, 1, 1, 18, 20).expand(2, 4, 1, 18, 20)
    features = encoder(still)
    assert (features[0] - features[1]).abs().max() > 1e-3


def test_text_padding_changes_nothing(modalities: dict[str, Modality]) -> None:
    encoder = build_encoder(modalities["text"], 8).eval()
    words = torch.tensor([[5, 9, 4]])
    short = torch.cat([words, torch.full((1, 1), 2)], 1)
    long = torch.cat([words, torch.full((1, 9), 2)], 1)
    torch.testing.assert_close(encoder(short), encoder(long))
    assert (encoder(words) - encoder(words.flip(1))).abs().max() > 1e-4, "the order of words counts"
    empty = encoder(torch.full((1, 6), 2))
    torch.testing.assert_close(empty[0], encoder.last.bias)


def test_snn_initial_weights(modalities: dict[str, Modality]) -> None:
    encoder = build_encoder(replace(modalities["vector"], shape=(400,)), 32, {"name": "snn"})
    linears = [module for module in encoder.net if isinstance(module, torch.nn.Linear)]
    assert [(x.in_features, x.out_features) for x in linears] == [(400, 64), (64, 48), (48, 32), (32, 32)]
    assert linears[0].weight.std().item() == pytest.approx(400**-0.5, rel=0.05)
    assert [module.p for module in encoder.net if isinstance(module, torch.nn.AlphaDropout)] == [0.25] * 4


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("vector", {"name": "mpl"}, "did you mean 'mlp'"),
        ("vector", {"name": "resnet18"}, "vector modality 'vector'"),
        ("image", {"name": "resnet81"}, "did you mean 'resnet18'"),
        ("clip", {"chanels": 4}, "did you mean 'channels'"),
        ("clip", {"channels": 0}, "channels is 0; expected a whole number of at least 1"),
        ("vector", {"dropout": 1.5}, "dropout is 1.5"),
        ("image", {"name": "resnet18", "frosen": True}, "did you mean 'frozen'"),
    ],
)
def test_bad_settings(kind: str, settings: dict, said: str, modalities: dict[str, Modality]) -> None:
    with pytest.raises(InputError) as error:
        build_encoder(modalities[kind], 8, settings)
    assert said in str(error.value)


class Rows:
    """A split of one modality ``x`` in memory; ``read`` counts the samples asked for."""

    def __init__(self, x: Tensor, present: Tensor | None = None) -> None:
        self.x = x
        self.present = torch.ones(len(x), dtype=torch.bool) if present is None else present
        self.read = 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitems__(self, index: list[int]) -> Batch:
        self.read += len(index)
        rows = torch.tensor(index)
        return Batch({"x": self.x[rows]}, self.present[rows, None], rows, rows)


@pytest.mark.parametrize(
    ("kind", "shape", "axes"),
    [
        ("vector", (3,), (0,)),
        ("sequence", (4, 3), (0, 1)),
        ("image", (3, 4, 5), (0, 2, 3)),
        ("clip", (2, 3, 4, 5), (0, 1, 3, 4)),
    ],
)
def test_standardize(kind: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """Mean 0 and deviation 1 over the present rows, whatever lies in the others."""
    scale = torch.tensor([1.0, 10.0, 1e4]).view([-1 if size == 3 else 1 for size in shape])
    x = torch.randn(150, *shape) * scale + 3 * scale
    present = torch.arange(150) % 3 != 0
    x[~present] = 1e9
    standardize = Standardize(Modality("x", kind, shape))
    standardize.fit(Rows(x, present), batch_size=16)
    given = standardize(x[present])
    torch.testing.assert_close(given.mean(axes), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(given.std(axes, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_standardize_bytes_constants_and_limit() -> None:
    x = torch.randint(0, 256, (1000, 2, 3, 3), dtype=torch.uint8)
    x[:, 1] = 200
    split = Rows(x)
    standardize = Standardize(Modality("x", "image", (2, 3, 3)))
    assert standardize(x).dtype == torch.float32
    standardize.fit(split, limit=100)
    assert split.read == 100
    assert standardize.scale[1] == 1.0
    assert standardize(x)[:, 1].abs().max() == 0
    restored = Standardize(Modality("x", "image", (2, 3, 3)))
    restored.load_state_dict(standardize.state_dict())
    torch.testing.assert_close(restored(x), standardize(x))


def test_standardize_reads_the_whole_range() -> None:
    """A split sorted by class must not be judged by its beginning."""
    split = Rows(torch.arange(1000.0)[:, None])
    standardize = Standardize(Modality("x", "vector", (1,)))
    standardize.fit(split, limit=50)
    assert standardize.mean.item() == pytest.approx(499.5, rel=0.03)
    assert standardize.scale.item() == pytest.approx(1000 / math.sqrt(12), rel=0.03)


def test_standardize_needs_a_sample() -> None:
    with pytest.raises(InputError, match="'x' is absent from all 4"):
        Standardize(Modality("x", "vector", (1,))).fit(Rows(torch.zeros(4, 1), torch.zeros(4, dtype=torch.bool)))
