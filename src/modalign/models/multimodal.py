"""The network that every strategy trains: an encoder and a head per modality, a fusion and a joint head."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modalign.data.batch import Batch, Modality, Output
from modalign.data.dataset import Split
from modalign.errors import InputError, SettingsError, unknown
from modalign.models.backbones import ASKED, Backbone
from modalign.models.encoders import Standardize, build_encoder, own_encoder, wrong_features
from modalign.models.fusion import Fusion, build_fusion, own_fusion
from modalign.settings import ModelSettings


class MultimodalModel(nn.Module):
    """Encode, fuse and score samples of which any modality may be absent: encoders, fusion, joint and unimodal heads.

    All parameters exist whatever the strategy and are created in one order, so a seed gives every strategy
    the same initial weights.

    Attributes:
        modalities: their names, in the order of the columns of ``Batch.present``.
        outputs: width C of the heads.
        dims: modality name to D_m.
        standardize: modality name to ``Standardize`` (text has none).
        encoders, unimodal_heads: modality name to module; a head is Linear(D_m, C).
        fusion, head: the fusion, and Linear(fusion.width, C) on it.

    >>> modalities = {"a": Modality("a", "vector", (5,)), "b": Modality("b", "vector", (3,))}
    >>> model = MultimodalModel.build(modalities, outputs=2)
    >>> inputs = {"a": torch.randn(4, 5), "b": torch.randn(4, 3)}
    >>> target, index = torch.zeros(4, dtype=torch.long), torch.arange(4)
    >>> output = model(Batch(inputs, torch.ones(4, 2, dtype=torch.bool), target, index))
    >>> output.logits.shape, output.unimodal["b"].shape
    (torch.Size([4, 2]), torch.Size([4, 2]))
    """

    head: nn.Linear
    fusion: Fusion

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        encoders: Mapping[str, nn.Module],
        fusion: Fusion,
        outputs: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.outputs = outputs
        self.dims = dict(fusion.dims)
        self.standardize = nn.ModuleDict(
            {name: Standardize(modality) for name, modality in modalities.items() if modality.kind != "text"}
        )
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion
        self.further = {name: modality.conditions for name, modality in modalities.items()}
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(fusion.width, outputs)
        self.unimodal_heads = nn.ModuleDict({m: nn.Linear(d, outputs) for m, d in self.dims.items()})

    @classmethod
    def build(
        cls,
        modalities: Mapping[str, Modality],
        outputs: int,
        settings: ModelSettings | None = None,
        encoders: Mapping[str, nn.Module | Callable[[Modality], nn.Module]] | None = None,
        fusion: nn.Module | Callable[[dict[str, int]], nn.Module] | None = None,
        networks: Mapping[str, Any] | None = None,
    ) -> MultimodalModel:
        """Return the model that ``settings`` describe, or that is put together from modules of one's own.

        Args:
            modalities: name to what it is, in the order of the batches.
            outputs: width C of the heads (``Task.outputs``).
            settings: encoders, fusion and heads; the defaults if None.
            encoders: modality name to a module (B, *shape) -> (B, D), which is copied, or to a function that makes
                one of the ``Modality``; other modalities by ``settings``.
            fusion: a module of the features by modality, or a function that makes one of the D_m by modality.
            networks: what ``networks`` gave of the same model before: large networks are then built without weights.

        Raises:
            SettingsError: no modality; a name that cannot be part of a parameter's name; settings for a modality
                that is not there; a module that gives another shape; anything that ``build_encoder`` or
                ``build_fusion`` refuses.

        >>> from torch import nn
        >>> modalities = {"a": Modality("a", "vector", (5,)), "b": Modality("b", "image", (1, 8, 8))}
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12))
        >>> model = MultimodalModel.build(modalities, 3, ModelSettings(width=16), encoders={"b": net})
        >>> model.dims
        {'a': 16, 'b': 12}
        """
        settings = settings or ModelSettings()
        own = dict(encoders or {})
        _check(modalities, settings, own)
        built = {
            name: own_encoder(modality, own[name])
            if name in own
            else build_encoder(modality, settings.width, settings.encoders.get(name), (networks or {}).get(name))
            for name, modality in modalities.items()
        }
        dims = {name: int(encoder.width) for name, encoder in built.items()}  # type: ignore[arg-type]
        if fusion is None:
            name = "concat" if settings.fusion == "auto" else settings.fusion  # a strategy may ask for another
            known = {m: modality.conditions for m, modality in modalities.items()}
            fused = build_fusion(name, dims, settings.width, outputs, settings.fusion_options, known)
        else:
            fused = own_fusion(dims, fusion)
        return cls(modalities, built, fused, outputs, settings.dropout)

    def networks(self) -> dict[str, Any]:
        """Return the configuration of each large network by modality, from which ``build`` needs no weights.

        ``normalization`` in it is what scales its pictures where that is not the data's own.
        """
        return {
            name: encoder.net.config.to_dict()  # type: ignore[union-attr, operator]
            | ({"normalization": encoder.normalization} if encoder.normalization else {})
            for name, encoder in self.encoders.items()
            if isinstance(encoder, Backbone)
        }

    def fit_standardization(self, split: Split, limit: int = 4096) -> None:
        """Fit each ``Standardize`` to at most ``limit`` samples of ``split`` (training), augmentation off.

        Pictures of a network that brings its own ``normalization`` are scaled by that.

        Raises:
            InputError: ImageNet's was asked for what are no pictures.
        """
        split.set_epoch(None)
        for name, standardize in self.standardize.items():
            encoder = self.encoders[name]
            own = encoder.normalization if isinstance(encoder, Backbone) else None
            if own and standardize.take(split, own["mean"], own["std"]):  # type: ignore[operator]
                continue
            if own == ASKED:
                raise InputError(
                    f"model.encoders.{name}.normalize is 'imagenet', but {name} holds no pictures of one or three "
                    "channels in bytes or numbers from 0 to 1; leave it out, or prepare it as such"
                )
            if isinstance(encoder, Backbone):
                encoder.normalization = None
            standardize.fit(split, limit)  # type: ignore[operator]

    def encode(self, batch: Batch, only: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return the features by modality, (B, D_m), zeros where absent.

        An encoder sees only the rows where its modality is present, and does not run if there are none: what
        fills the gaps influences neither features nor normalization.

        Args:
            batch: the samples.
            only: modalities to encode; the others are left out of the result.
        """
        chosen = [(m, name) for m, name in enumerate(self.modalities) if only is None or name in only]
        if torch.compiler.is_exporting():  # no branch may depend on the data; in evaluation rows do not meet
            return {
                name: torch.where(batch.present[:, m, None], self._features(name, batch.inputs[name], False), 0.0)
                for m, name in chosen
            }
        counts = batch.present.sum(0).tolist()
        return {
            name: self._encode_one(name, batch.inputs[name], batch.present[:, m], int(counts[m]), name in batch.encoded)
            for m, name in chosen
        }

    def _encode_one(self, name: str, x: Tensor, present: Tensor, count: int, encoded: bool) -> Tensor:
        if count == 0:
            return torch.zeros(len(x), self.dims[name], device=x.device)
        if count == len(x):
            return self._features(name, x, encoded)
        features = self._features(name, x[present], encoded)
        return features.new_zeros(len(x), self.dims[name]).masked_scatter(present.unsqueeze(1), features)

    def _features(self, name: str, x: Tensor, encoded: bool) -> Tensor:
        """Return features of rows that are all present: of raw inputs, or of what a frozen network gave."""
        encoder = self.encoders[name]
        features: Tensor
        if encoded:
            assert isinstance(encoder, Backbone)
            features = encoder.project(x)
        else:
            features = encoder(self.standardized(name, x))
        if not isinstance(features, Tensor) or features.shape != (x.shape[0], self.dims[name]):
            raise wrong_features(name, encoder, features, (len(x), self.dims[name]))
        return features

    def standardized(self, name: str, x: Tensor) -> Tensor:
        """Raw inputs (B, *shape) of a modality as its encoder takes them."""
        return self.standardize[name](x) if name in self.standardize else x

    def fuse(
        self, features: Mapping[str, Tensor], present: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Joint logits (B, C) of features by modality (B, D_m), of which ``present`` (B, M) count.

        ``conditions`` are those of the batch (``Batch.conditions``); without them nothing further is known.
        """
        fused = self.fusion(features, present, self._conditions(features, conditions))
        logits: Tensor = self.head(self.dropout(fused))
        return logits

    def heads(
        self, features: Mapping[str, Tensor], present: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Output:
        """Return all heads on features of all modalities; a strategy may hand in detached or changed features.

        The unimodal logits of a sample that lacks the modality are the head's bias; mask them with
        ``present`` in losses.
        """
        unimodal = {m: self.unimodal_heads[m](self.dropout(features[m])) for m in self.modalities}
        return Output(dict(features), unimodal, self.fuse(features, present, conditions), present)

    def decide(self, features: Mapping[str, Tensor], present: Tensor) -> Output:
        """Return ``heads``, by its name of version 0.1."""
        message = "model.decide is heads since version 0.2; the old name goes with 0.3"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.heads(features, present)

    def forward(self, batch: Batch) -> Output:
        """Features, unimodal logits and joint logits of a batch."""
        return self.heads(self.encode(batch), batch.present, batch.conditions)

    def score_subset(
        self,
        features: Mapping[str, Tensor],
        present: Tensor,
        keep: Collection[str],
        conditions: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Joint logits (B, C) from the modalities ``keep`` only, under any fusion and without dropout.

        For ``concat`` and keep = {m} this is exactly W_m z_m + b, with W_m the modality's block of the joint
        head. (The code published with OGM-GE has b / M instead of b, so that the parts add up.)

        Raises:
            SettingsError: if ``keep`` names a modality that the model does not have.
        """
        for name in keep:
            if name not in self.modalities:
                raise SettingsError(f"unknown modality {name!r}; the model has {', '.join(self.modalities)}.")
        kept = torch.tensor([name in keep for name in self.modalities], device=present.device)
        fused = self.fusion(features, present & kept, self._conditions(features, conditions))
        logits: Tensor = self.head(fused)
        return logits

    def _conditions(
        self, features: Mapping[str, Tensor], further: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor] | None:
        """Return (B, C + K) by modality: the posterior of its own head, without gradient or dropout, and what is known.

        Further conditions that are not given are zeros, which modulate nothing.
        """
        if not self.fusion.uses_conditions:
            return None
        conditions = {}
        for m, width in self.further.items():
            with torch.no_grad():
                scores = self.unimodal_heads[m](features[m]).float()
            own = scores if self.outputs == 1 else scores.softmax(1)
            rest = (further or {}).get(m)
            conditions[m] = torch.cat([own, own.new_zeros(own.shape[0], width) if rest is None else rest], 1)
        return conditions


def _check(modalities: Mapping[str, Modality], settings: ModelSettings, own: Mapping[str, Any]) -> None:
    """Refuse what would otherwise fail deep inside torch."""
    if not modalities:
        raise SettingsError("the model has no modality; expected at least one.")
    taken = nn.ModuleDict()
    for name in modalities:
        if not name or "." in name or hasattr(taken, name):
            raise SettingsError(
                f"{name!r} cannot name a modality: it becomes part of parameter names, so it must not be empty, "
                "contain a dot, or be an attribute of torch modules. Rename it, for instance to "
                f"'x_{name.replace('.', '_')}'."
            )
    for name in (*settings.encoders, *own):
        if name not in modalities:
            raise unknown("modality in the encoders:", name, modalities)
