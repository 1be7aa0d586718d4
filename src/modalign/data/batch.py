"""What flows between data, model and strategy: a ``Batch`` in, an ``Output`` out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

Kind = Literal["vector", "sequence", "image", "clip", "text"]
KINDS: tuple[Kind, ...] = ("vector", "sequence", "image", "clip", "text")


@dataclass(frozen=True)
class Modality:
    """One modality of a data set.

    Attributes:
        name: its name; no dots (it becomes part of parameter names).
        kind: what a sample of it is, which decides the default encoder.
        shape: shape of one sample: ``vector (F,)``, ``sequence (T, F)``, ``image (C, H, W)``,
            ``clip (T, C, H, W)``, ``text (L,)`` (token ids, int64, padded with ``padding``).
        vocabulary: number of token ids (text only).
        padding: the id that marks no token (text only); the attention mask is ``ids != padding``.
        conditions: K, number of values in its further conditions (``Batch.conditions``); 0 for none.

    >>> Modality("photo", "image", (3, 32, 32)).shape
    (3, 32, 32)
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    vocabulary: int = 0
    padding: int = 0
    conditions: int = 0


@dataclass
class Batch:
    """B samples of M modalities.

    Attributes:
        inputs: modality name -> (B, *shape). Where a modality is absent its rows are zeros.
        present: (B, M) bool, columns in the order of ``inputs``; every row has at least one True.
        target: (B,) int64 class indices; (B,) float32 for regression; (B, C) float32 for labels or
            several numbers, NaN where not known; (B, 2) float32 (time, event) for survival.
        columns: further columns of the data by name, (B,) int64 codes or (B,) / (B, F) float32: sources of T.
        index: (B,) int64, position of each sample in its split.
        conditions: modality name -> (B, K) float32, what is known of it beside its inputs, at prediction too;
            standardized or one-hot, zeros where not known. Modalities without conditions have no entry.
        encoded: modalities whose inputs are (B, D) features that a frozen network gave before, not raw inputs.

    >>> ones = torch.ones(2, 1, dtype=torch.bool)
    >>> batch = Batch({"a": torch.zeros(2, 3)}, ones, torch.tensor([0, 1]), torch.arange(2))
    >>> len(batch), batch.mask([]).present.any().item()
    (2, False)
    """

    inputs: dict[str, Tensor]
    present: Tensor
    target: Tensor
    index: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)
    encoded: frozenset[str] = frozenset()
    conditions: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch on ``device``."""
        return _map(self, lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same batch in pinned memory; called by PyTorch's loader."""
        return _map(self, Tensor.pin_memory)

    def mask(self, keep: Sequence[str]) -> Self:
        """The same batch with only the modalities ``keep`` present: how a missing modality is simulated.

        A row that would be left with nothing has an all-False mask; models answer it from no evidence.
        """
        kept = torch.tensor([name in keep for name in self.inputs], device=self.present.device)
        return replace(self, present=self.present & kept)


@dataclass
class Output:
    """What a model says of a batch.

    Attributes:
        features: modality name -> (B, D_m); zeros where the modality is absent.
        unimodal: modality name -> (B, C) logits of the head on that modality alone.
        logits: (B, C) logits of the head on the fused features (C is 1 for survival and the regression of one number).
        present: (B, M) bool, as in the batch.

    >>> output = Output({"a": torch.zeros(2, 8)}, {"a": torch.zeros(2, 3)}, torch.zeros(2, 3), torch.ones(2, 1).bool())
    >>> Output.cat([output, output]).logits.shape
    torch.Size([4, 3])
    """

    features: dict[str, Tensor]
    unimodal: dict[str, Tensor]
    logits: Tensor
    present: Tensor

    def detach(self) -> Self:
        """The same output, cut from the graph."""
        return _map(self, Tensor.detach)

    def to(self, device: torch.device | str) -> Self:
        """The same output on ``device``, floating tensors in fp32."""
        return _map(self, lambda x: x.to(device, torch.float32) if x.is_floating_point() else x.to(device))

    def __getitem__(self, rows: Tensor) -> Self:
        """The output of some rows: positions (N,) int64 or a mask (B,) bool."""
        return _map(self, lambda x: x[rows])

    @classmethod
    def cat(cls, outputs: Sequence[Output]) -> Output:
        """Concatenate outputs of several batches along the samples."""
        first = outputs[0]
        return cls(
            features={m: torch.cat([o.features[m] for o in outputs]) for m in first.features},
            unimodal={m: torch.cat([o.unimodal[m] for o in outputs]) for m in first.unimodal},
            logits=torch.cat([o.logits for o in outputs]),
            present=torch.cat([o.present for o in outputs]),
        )


def _map(record: Any, function: Any) -> Any:
    """Apply ``function`` to every tensor of a dataclass of tensors and of dicts of tensors."""
    changed = {}
    for entry in fields(record):
        value = getattr(record, entry.name)
        if isinstance(value, dict):
            changed[entry.name] = {k: function(v) for k, v in value.items()}
        elif isinstance(value, Tensor):
            changed[entry.name] = function(value)
    return replace(record, **changed)
