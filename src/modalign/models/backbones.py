"""Large networks as encoders: any ``transformers`` backbone, pretrained or from scratch.

``transformers`` is imported when a backbone is built, not before.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modalign.data.batch import Modality
from modalign.domains import Width
from modalign.errors import InputError, unknown


@dataclass(frozen=True)
class Alias:
    """A network with a short name: where its weights are, and its configuration from scratch."""

    source: str
    model_type: str
    config: Mapping[str, Any] = field(default_factory=dict)


ALIASES: dict[str, Alias] = {
    "resnet18": Alias(
        "microsoft/resnet-18",
        "resnet",
        {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
    ),
    "resnet50": Alias("microsoft/resnet-50", "resnet"),
    "vit_b_16": Alias("google/vit-base-patch16-224-in21k", "vit"),
    "bert_base": Alias("google-bert/bert-base-uncased", "bert"),
}


IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
"""Mean and standard deviation of ImageNet's pictures in [0, 1], red, green and blue."""
ASKED = {**IMAGENET, "of": "ImageNet, as asked for"}

# Entries that a configuration works out from its others; they would contradict changed ones.
_DERIVED = ("model_type", "stage_names", "out_features", "out_indices", "_out_features", "_out_indices")


class Backbone(nn.Module):
    """A ``transformers`` network as an encoder.

    Maps of convolutional networks are averaged over space; token sequences are read at the class token where
    the network has one (ViT, BERT) and averaged otherwise. A clip (B, T, C, H, W) runs frame by frame through
    the 2-D network and is averaged over frames. Text attends where ids differ from ``modality.padding``.
    What a frozen network gives for a sample never changes: it can be computed once by ``features``, and a batch
    that holds it (``Batch.encoded``) passes ``project`` alone.

    Attributes:
        hidden: number of features that the network itself gives.
        width: number of features D, after the projection if there is one.
        frozen: whether the network gives fixed features (no gradient, evaluation mode always).
        normalization: ``mean`` and ``std`` by channel that scale pictures in [0, 1], and ``of``, whose they are; None
            where pictures are scaled by those of the training split.
    """

    def __init__(
        self,
        modality: Modality,
        net: nn.Module,
        *,
        frozen: bool,
        project: int | None,
        normalization: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.normalization = normalization
        self.modality = modality
        self.net = net
        self.frozen = frozen
        config: Any = net.config
        self.hidden = int(config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size)
        self.width = project or self.hidden
        self.project = nn.Linear(self.hidden, project) if project else nn.Identity()
        self.class_token = modality.kind == "text" or any(
            name.endswith(("cls_token", "class_embedding")) for name, _ in net.named_parameters()
        )
        self.arguments = self._fixed_arguments()
        if frozen:
            net.requires_grad_(False)
            net.eval()

    def _fixed_arguments(self) -> dict[str, Any]:
        """Ask for resized position embeddings where pictures are not of the size trained on."""
        size: Any = getattr(self.net.config, "image_size", None)
        if size is None or "interpolate_pos_encoding" not in inspect.signature(self.net.forward).parameters:
            return {}
        expected = (size, size) if isinstance(size, int) else tuple(size)
        return {"interpolate_pos_encoding": True} if expected != self.modality.shape[-2:] else {}

    def train(self, mode: bool = True) -> Backbone:
        """Training mode, except of a frozen network."""
        super().train(mode)
        if self.frozen:
            self.net.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, D) of raw inputs (B, *shape)."""
        projected: Tensor = self.project(self.features(x))
        return projected

    def features(self, x: Tensor) -> Tensor:
        """(B, *shape) to (B, hidden): what the network gives, before the projection."""
        with torch.no_grad() if self.frozen else contextlib.nullcontext():
            if self.modality.kind == "clip":
                frames = self._pooled(x.flatten(0, 1))
                return frames.unflatten(0, x.shape[:2]).mean(1)
            return self._pooled(x)

    def _pooled(self, x: Tensor) -> Tensor:
        """(N, hidden) of N pictures, sequences or texts."""
        if self.modality.kind == "text":
            hidden = self.net(**self._tokens(x)).last_hidden_state
        else:
            name: Any = self.net.main_input_name
            hidden = self.net(**{name: x.float()}, **self.arguments).last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean((2, 3))
        return hidden[:, 0] if self.class_token else hidden.mean(1)

    def _tokens(self, ids: Tensor) -> dict[str, Tensor]:
        """Ids and attention mask. An empty text attends to its first position, so that the softmax exists."""
        mask = ids != self.modality.padding
        padding: Any = getattr(self.net.config, "pad_token_id", None)
        if padding is not None:
            ids = ids.masked_fill(~mask, padding)
        mask = mask.clone()
        mask[:, 0] = True
        return {"input_ids": ids, "attention_mask": mask.long()}


def build_backbone(
    modality: Modality,
    name: str,
    *,
    pretrained: bool | str = False,
    config: Mapping[str, Any] | None = None,
    frozen: bool = False,
    gradient_checkpointing: bool = False,
    project: Width | None = None,
    normalize: Literal["auto", "data", "imagenet"] = "auto",
    network: Mapping[str, Any] | None = None,
) -> Backbone:
    """Return a ``transformers`` network for ``modality``.

    From scratch, ResNets start from Kaiming-normal convolutions (fan-out) and batch norms of one and zero,
    transformers from their own scheme.

    Args:
        modality: what is encoded. Networks take its number of channels: where pretrained weights have another,
            the first convolution's kernels are averaged over their channels and rescaled.
        name: ``resnet18``, ``resnet50``, ``vit_b_16``, ``bert_base``, or ``hf:`` and a model's name on the
            Hugging Face hub or a local folder.
        pretrained: True for the weights of the hub (or of the folder in ``name``); a folder to take them from
            there; False for random weights.
        config: entries of the network's configuration to change, for random weights only.
        frozen: give fixed features, which training computes once and keeps (``training.frozen``). Combine with
            ``pretrained``.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third slower.
        project: add a linear layer to this many features; None keeps the network's own width.
        normalize: mean and deviation that scale pictures (bytes, or numbers in [0, 1]; of one channel by the mean of
            the three): ``auto`` takes those that pretrained weights were trained with (their
            ``preprocessor_config.json``, else ImageNet's) and the data's own from scratch; ``data`` always the data's
            own, ``imagenet`` always ImageNet's. Other numbers, spectrograms among them, have the data's own.
        network: its whole configuration, as a run keeps it: built from that alone, without weights.

    Raises:
        InputError: the weights cannot be found, an unknown configuration entry, or an input that the network
            cannot take (too small a picture, too long a text, too large a vocabulary).
    """
    if name not in ALIASES and not name.startswith("hf:"):
        raise unknown("backbone", name, [*ALIASES, "hf:<name or folder>"])
    if pretrained and config:
        raise InputError(
            f"backbone {name!r}: 'config' changes a network with random weights, but 'pretrained' is set. "
            "Leave one of them out."
        )
    if network is not None:
        net = _configured(network)
    else:
        net = _load(name, pretrained) if pretrained else _scratch(modality, name, config or {})
    _check_fit(modality, name, net)
    if modality.kind in ("image", "clip"):
        _adapt_channels(net, modality.shape[-3])
    if gradient_checkpointing:
        _checkpoint(name, net)
    own = None if network is None else network.get("normalization")
    if network is None and modality.kind in ("image", "clip"):
        if normalize == "imagenet":
            own = {**ASKED}
        elif normalize == "auto" and pretrained:
            own = _trained_with(_source(name) if pretrained is True else str(pretrained))
    return Backbone(modality, net, frozen=frozen, project=project, normalization=own)


def _trained_with(source: str) -> dict[str, Any]:
    """Return mean and deviation that the weights of ``source`` were trained with."""
    from transformers.image_processing_utils import BaseImageProcessor

    with contextlib.suppress(OSError, ValueError):  # there is no such file
        said = BaseImageProcessor.get_image_processor_dict(source)[0]
        mean, std = said.get("image_mean"), said.get("image_std")
        if isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std) == 3:
            return {"mean": mean, "std": std, "of": f"preprocessor_config.json of {source}"}
    return {**IMAGENET, "of": f"ImageNet, for {source} has no preprocessor_config.json"}


def _load(name: str, pretrained: bool | str) -> nn.Module:
    """Return the pretrained network."""
    from transformers import AutoModel

    source = _source(name) if pretrained is True else str(pretrained)
    with _explained(source, "pretrained weights"):
        net: nn.Module = AutoModel.from_pretrained(source)
    return net


def _scratch(modality: Modality, name: str, changes: Mapping[str, Any]) -> nn.Module:
    """Return the network with random weights, its configuration fitted to the modality."""
    from transformers import AutoConfig, AutoModel

    if name in ALIASES:
        kind, base = ALIASES[name].model_type, dict(ALIASES[name].config)
    else:
        with _explained(_source(name), "configuration"):
            stored = AutoConfig.from_pretrained(_source(name))
        kind, base = stored.model_type, {k: v for k, v in stored.to_dict().items() if k not in _DERIVED}
    known = AutoConfig.for_model(kind).to_dict()
    for key in changes:
        if key not in known:
            raise unknown(f"configuration entry of backbone {name!r}:", key, known)
    fitting = {key: value for key, value in _fitting(modality).items() if key in known}
    config = AutoConfig.for_model(kind, **{**base, **fitting, **changes})
    net: nn.Module = AutoModel.from_config(config)
    return net


def _configured(network: Mapping[str, Any]) -> nn.Module:
    """Return the network of a configuration as ``to_dict`` gives it, its weights at random."""
    from transformers import AutoConfig, AutoModel

    entries = {key: value for key, value in network.items() if key not in (*_DERIVED, "normalization")}
    net: nn.Module = AutoModel.from_config(AutoConfig.for_model(network["model_type"], **entries))
    return net


def _fitting(modality: Modality) -> dict[str, Any]:
    """Configuration entries, where a network has them, that follow from what is encoded."""
    if modality.kind == "text":
        return {"vocab_size": modality.vocabulary, "pad_token_id": modality.padding}
    if modality.kind == "sequence":
        return {"max_length": modality.shape[0], "num_mel_bins": modality.shape[1]}
    height, width = modality.shape[-2:]
    return {
        "num_channels": modality.shape[-3],
        "image_size": height if height == width else [height, width],
    }


def _source(name: str) -> str:
    """Return where weights and configuration are: a name on the hub or a folder."""
    return ALIASES[name].source if name in ALIASES else name.removeprefix("hf:")


@contextlib.contextmanager
def _explained(source: str, what: str) -> Any:
    """Turn the many errors of a failed download into one that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = "no such folder here, and no such model could be reached on the hub"
        if Path(source).is_dir():
            where = "the folder exists but does not hold it"
        raise InputError(
            f"the {what} of {source!r} could not be loaded: {where} ({reason}). Without network, fetch it once "
            f"on a machine that has one (hf download {source} --local-dir FOLDER) and name the folder: "
            "'pretrained: FOLDER', or 'name: hf:FOLDER'."
        ) from error


def _check_fit(modality: Modality, name: str, net: nn.Module) -> None:
    """Refuse inputs that would fail deep inside the network."""
    config: Any = net.config
    if modality.kind == "text":
        length, vocabulary = modality.shape[0], modality.vocabulary
        longest = getattr(config, "max_position_embeddings", length)
        if length > longest:
            raise InputError(
                f"modality {modality.name!r} has {length} tokens, backbone {name!r} takes at most {longest}. "
                "Cut the texts when they are tokenized."
            )
        if vocabulary > config.vocab_size:
            raise InputError(
                f"modality {modality.name!r} has {vocabulary} token ids, backbone {name!r} knows "
                f"{config.vocab_size}. Tokenize with the tokenizer that belongs to the backbone."
            )
        return
    patch: Any = getattr(config, "patch_size", None)
    if isinstance(patch, int) and min(modality.shape[-2:]) < patch:
        raise InputError(
            f"modality {modality.name!r} has pictures of {modality.shape[-2]} x {modality.shape[-1]}, backbone "
            f"{name!r} needs at least its patch of {patch} x {patch}. Prepare larger pictures."
        )


def _adapt_channels(net: nn.Module, channels: int) -> None:
    """Make the first convolution take ``channels`` input channels, keeping the scale of what it gives."""
    holder, key, first = next(
        (module, key, child)
        for module in net.modules()
        for key, child in module.named_children()
        if isinstance(child, nn.Conv2d)
    )
    if first.in_channels == channels:
        return
    adapted = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        stride=first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    with torch.no_grad():
        kernel = first.weight.mean(1, keepdim=True) * (first.in_channels / channels)
        adapted.weight.copy_(kernel.expand_as(adapted.weight))
        if first.bias is not None and adapted.bias is not None:
            adapted.bias.copy_(first.bias)
    setattr(holder, key, adapted)
    # transformers compares its inputs with copies of this number.
    for module in (net.config, *net.modules()):
        if hasattr(module, "num_channels"):
            module.num_channels = channels


def _checkpoint(name: str, net: Any) -> None:
    """Switch gradient checkpointing on."""
    if not net.supports_gradient_checkpointing:
        raise InputError(
            f"backbone {name!r} has no gradient checkpointing (recomputing would count batch statistics twice). "
            "Leave the option out; use a smaller batch with 'accumulate', or bf16."
        )
    # Not the reentrant kind: that one loses gradients where the input needs none, and fails with autograd.grad.
    # Older releases of transformers know only the second name, newer ones deprecate it.
    current = getattr(net, "activation_checkpointing_enable", None)
    (current or net.gradient_checkpointing_enable)({"use_reentrant": False})
