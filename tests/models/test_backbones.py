"""Backbones of transformers, in miniature: random configurations, and weights from local folders."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modalign.data.batch import Batch, Modality
from modalign.errors import InputError
from modalign.models.backbones import build_backbone
from modalign.models.encoders import build_encoder
from modalign.models.multimodal import MultimodalModel
from modalign.settings import ModelSettings

SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]},
    "resnet50": {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]},
    "vit_b_16": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "patch_size": 8,
    },
    "bert_base": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 12,
    },
}
PAIRS = [(n, k) for n in ("resnet18", "resnet50", "vit_b_16") for k in ("image", "clip")] + [("bert_base", "text")]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_alias(name: str, kind: str, modalities: dict[str, Modality], draw: Callable[..., Tensor]) -> None:
    encoder = build_encoder(modalities[kind], 99, {"name": name, "config": SMALL[name]})
    features = encoder(draw(modalities[kind], 3))
    assert encoder.width == (12 if "resnet" in name else 16)
    assert features.shape == (3, encoder.width)
    features.square().sum().backward()
    silent = [n for n, p in encoder.named_parameters() if p.grad is None and "pooler" not in n]
    assert silent == []


@pytest.mark.parametrize(("name", "millions"), [("resnet18", 11.2), ("resnet50", 23.5)])
def test_full_size(name: str, millions: float) -> None:
    """The published number of parameters (without classifier) and widths, on a meta device: no memory."""
    with torch.device("meta"):
        encoder = build_backbone(Modality("x", "image", (3, 224, 224)), name)
    assert encoder.width == {"resnet18": 512, "resnet50": 2048}[name]
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_resnet_starts_kaiming_normal() -> None:
    config = {"embedding_size": 64, "hidden_sizes": [64], "depths": [1]}
    encoder = build_backbone(Modality("x", "image", (1, 32, 32)), "resnet18", config=config)
    first = next(module for module in encoder.modules() if isinstance(module, nn.Conv2d))
    assert first.weight.shape == (64, 1, 7, 7), "of spectrograms, as published"
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_clip_is_the_mean_over_frames(modalities: dict[str, Modality], draw: Callable[..., Tensor]) -> None:
    encoder = build_backbone(modalities["clip"], "resnet18", config=SMALL["resnet18"]).eval()
    x = draw(modalities["clip"], 2)
    frames = torch.stack([encoder.net(x[:, t]).last_hidden_state.mean((2, 3)) for t in range(4)])
    torch.testing.assert_close(encoder(x), frames.mean(0), rtol=1e-4, atol=1e-5)
    # The published loaders pool the maps of all frames at once, over time, height and width: the same mean.
    maps = encoder.net(x.flatten(0, 1)).last_hidden_state.unflatten(0, (2, 4)).transpose(1, 2)
    pooled = nn.functional.adaptive_avg_pool3d(maps, 1).flatten(1)
    torch.testing.assert_close(encoder(x), pooled, rtol=1e-4, atol=1e-5)


def test_projection(modalities: dict[str, Modality], draw: Callable[..., Tensor]) -> None:
    encoder = build_backbone(modalities["image"], "resnet18", config=SMALL["resnet18"], project=5)
    assert encoder.width == 5
    assert encoder(draw(modalities["image"], 3)).shape == (3, 5)


def test_bert_mask(modalities: dict[str, Modality]) -> None:
    """Padding of whatever length changes nothing; words do; an empty text is finite."""
    encoder = build_backbone(modalities["text"], "bert_base", config=SMALL["bert_base"]).eval()
    words = torch.tensor([[5, 9, 4]])
    padded = torch.cat([words, torch.full((1, 5), 2)], 1)
    torch.testing.assert_close(encoder(words), encoder(padded), rtol=1e-4, atol=1e-5)
    assert (encoder(words) - encoder(torch.tensor([[5, 9, 6]]))).abs().max() > 1e-4
    assert encoder(torch.full((1, 6), 2)).isfinite().all()


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16"])
def test_frozen(name: str, modalities: dict[str, Modality], draw: Callable[..., Tensor]) -> None:
    """No gradient, no batch statistics, no dropout; the projection on it learns."""
    encoder = build_backbone(modalities["image"], name, config=SMALL[name], frozen=True, project=4)
    before = {key: value.clone() for key, value in encoder.net.state_dict().items()}
    encoder.train()
    assert not any(module.training for module in encoder.net.modules())
    features = encoder(draw(modalities["image"], 3))
    features.sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.requires_grad] == ["project.weight", "project.bias"]
    assert all(torch.equal(before[key], value) for key, value in encoder.net.state_dict().items())
    assert encoder.project.weight.grad is not None


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_computed_features_stand_for_raw_inputs(
    name: str, kind: str, modalities: dict[str, Modality], draw: Callable[..., Tensor]
) -> None:
    encoder = build_backbone(modalities[kind], name, config=SMALL[name], frozen=True, project=4)
    x = draw(modalities[kind], 3)
    features = encoder.features(x)
    assert features.shape == (3, encoder.hidden)
    assert not features.requires_grad
    torch.testing.assert_close(encoder.project(features), encoder(x))


def test_computed_features_are_not_standardized(
    modalities: dict[str, Modality], make_batch: Callable[..., Batch]
) -> None:
    two = {name: modalities[name] for name in ("image", "text")}
    frozen = {"image": {"name": "resnet18", "config": SMALL["resnet18"], "frozen": True}}
    model = MultimodalModel.build(two, 3, ModelSettings(encoders=frozen)).eval()
    standardize = model.standardize["image"]
    standardize.mean.fill_(0.5)
    standardize.scale.fill_(2.0)
    batch = make_batch(two, present=torch.tensor([[True, True], [False, True], [True, True]]), size=3)
    expected = model(batch).logits
    encoder = model.encoders["image"]
    batch.inputs["image"] = encoder.features(model.standardized("image", batch.inputs["image"]))
    batch.encoded = frozenset({"image"})
    torch.testing.assert_close(model(batch).logits, expected)


@pytest.mark.parametrize(("name", "kind"), [("vit_b_16", "image"), ("bert_base", "text")])
def test_gradient_checkpointing(
    name: str, kind: str, modalities: dict[str, Modality], draw: Callable[..., Tensor]
) -> None:
    """The same gradients, from a forward that is run again."""
    config = {**SMALL[name], "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    gradients, calls = [], []
    x = draw(modalities[kind], 2)
    for on in (False, True):
        torch.manual_seed(0)
        encoder = build_backbone(modalities[kind], name, config=config, gradient_checkpointing=on).train()
        count = [0]
        layer = next(m for n, m in encoder.named_modules() if n.endswith(("layer.1", "layers.1")))
        norm = next(m for m in layer.modules() if isinstance(m, nn.LayerNorm))
        norm.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        encoder(x).square().sum().backward()
        gradients.append([p.grad for n, p in encoder.named_parameters() if "pooler" not in n])
        calls.append(count[0])
    assert calls == [1, 2]
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize(("name", "kind"), [("resnet18", "image"), ("vit_b_16", "clip"), ("bert_base", "text")])
def test_weights_from_a_folder(
    name: str, kind: str, modalities: dict[str, Modality], draw: Callable[..., Tensor], tmp_path: Path
) -> None:
    source = build_backbone(modalities[kind], name, config=SMALL[name]).eval()
    source.net.save_pretrained(tmp_path)
    x = draw(modalities[kind], 2)
    for settings in (
        {"name": name, "pretrained": str(tmp_path)},
        {"name": f"hf:{tmp_path}", "pretrained": True},
    ):
        loaded = build_encoder(modalities[kind], 8, settings).eval()
        torch.testing.assert_close(loaded(x), source(x))
    random = build_encoder(modalities[kind], 8, {"name": f"hf:{tmp_path}"}).eval()
    assert random(x).shape == source(x).shape
    assert (random(x) - source(x)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16"])
def test_pretrained_colors_on_one_channel(name: str, tmp_path: Path) -> None:
    """On a gray picture the adapted network gives what the original gives with the gray in each color."""
    color = build_backbone(Modality("x", "image", (3, 24, 24)), name, config=SMALL[name]).eval()
    color.net.save_pretrained(tmp_path)
    gray = build_backbone(Modality("x", "image", (1, 24, 24)), name, pretrained=str(tmp_path)).eval()
    x = torch.randn(2, 1, 24, 24)
    torch.testing.assert_close(gray(x), color(x.expand(2, 3, 24, 24)), rtol=1e-4, atol=1e-5)


def test_pretrained_vit_on_another_size(tmp_path: Path) -> None:
    build_backbone(Modality("x", "image", (3, 16, 16)), "vit_b_16", config=SMALL["vit_b_16"]).net.save_pretrained(
        tmp_path
    )
    wide = build_backbone(Modality("x", "image", (3, 24, 40)), "vit_b_16", pretrained=str(tmp_path))
    assert wide(torch.randn(2, 3, 24, 40)).shape == (2, 16)


def test_other_networks_by_name(tmp_path: Path) -> None:
    """An audio transformer on sequences, and a vision transformer without class token (averaged)."""
    from transformers import ASTConfig, AutoModel, SwinConfig

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    audio = ASTConfig(**shape, max_length=32, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8)
    AutoModel.from_config(audio).save_pretrained(tmp_path / "ast")
    encoder = build_encoder(Modality("x", "sequence", (40, 24)), 8, {"name": f"hf:{tmp_path / 'ast'}"})
    assert encoder(torch.randn(2, 40, 24)).shape == (2, 16)

    swin = SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)
    AutoModel.from_config(swin).save_pretrained(tmp_path / "swin")
    picture = Modality("x", "image", (3, 16, 16))
    encoder = build_encoder(picture, 8, {"name": f"hf:{tmp_path / 'swin'}", "pretrained": True}).eval()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(encoder(x), encoder.net(x).last_hidden_state.mean(1))


def test_bytes_and_a_batch_of_one_in_a_model(modalities: dict[str, Modality], make_batch: Callable[..., Batch]) -> None:
    two = {name: modalities[name] for name in ("clip", "text")}
    encoders = {
        "clip": {"name": "resnet18", "config": SMALL["resnet18"]},
        "text": {"name": "bert_base", "config": SMALL["bert_base"]},
    }
    model = MultimodalModel.build(two, 3, ModelSettings(encoders=encoders))
    batch = make_batch(two, size=1)
    batch.inputs["clip"] = torch.randint(0, 256, (1, 4, 1, 18, 20), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.train()(batch).logits
    assert logits.isfinite().all()


def test_no_network_says_how_to_use_a_folder(
    modalities: dict[str, Modality], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from transformers import AutoModel

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand more")

    monkeypatch.setattr(AutoModel, "from_pretrained", unreachable)
    with pytest.raises(InputError) as error:
        build_backbone(modalities["image"], "resnet18", pretrained=True)
    assert "'microsoft/resnet-18' could not be loaded" in str(error.value)
    assert "couldn't connect" in str(error.value)
    assert "pretrained: FOLDER" in str(error.value)
    monkeypatch.undo()
    with pytest.raises(InputError, match="the folder exists but does not hold it"):
        build_backbone(modalities["image"], "resnet18", pretrained=str(tmp_path))


@pytest.mark.parametrize(
    ("modality", "name", "options", "said"),
    [
        (Modality("x", "image", (3, 32, 32)), "resnet", {}, "did you mean 'resnet"),
        (Modality("x", "image", (3, 32, 32)), "resnet18", {"config": {"dephts": [1]}}, "did you mean 'depths'"),
        (Modality("x", "image", (3, 32, 32)), "resnet18", {"config": {"depths": [1]}, "pretrained": True}, "Leave one"),
        (
            Modality("x", "image", (3, 32, 32)),
            "resnet18",
            {"config": SMALL["resnet18"], "gradient_checkpointing": True},
            "no gradient checkpointing",
        ),
        (Modality("x", "image", (3, 6, 6)), "vit_b_16", {"config": SMALL["vit_b_16"]}, "at least its patch of 8 x 8"),
        (
            Modality("x", "text", (20,), vocabulary=30),
            "bert_base",
            {"config": SMALL["bert_base"]},
            "takes at most 12",
        ),
    ],
)
def test_bad_requests(modality: Modality, name: str, options: dict, said: str) -> None:
    with pytest.raises(InputError) as error:
        build_backbone(modality, name, **options)
    assert said in str(error.value)


def test_vocabulary_of_another_tokenizer(modalities: dict[str, Modality], tmp_path: Path) -> None:
    build_backbone(modalities["text"], "bert_base", config=SMALL["bert_base"]).net.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has 500 token ids"):
        build_backbone(Modality("x", "text", (6,), vocabulary=500), "bert_base", pretrained=str(tmp_path))


def test_padding_becomes_that_of_the_backbone(tmp_path: Path) -> None:
    """The data's padding id may be a word, or no id at all, for a pretrained network."""
    source = Modality("x", "text", (6,), vocabulary=30, padding=0)
    build_backbone(source, "bert_base", config=SMALL["bert_base"]).net.save_pretrained(tmp_path)
    encoder = build_backbone(
        Modality("x", "text", (6,), vocabulary=30, padding=-1), "bert_base", pretrained=str(tmp_path)
    )
    ids = torch.tensor([[5, 9, -1, -1, -1, -1]])
    assert encoder._tokens(ids)["input_ids"].tolist() == [[5, 9, 0, 0, 0, 0]]
    assert encoder(ids).isfinite().all()
