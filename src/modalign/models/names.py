"""Class names as vectors: the semantic context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from modalign.errors import InputError
from modalign.files import read_array


@torch.no_grad()
def embed_names(names: Sequence[str], source: str) -> Tensor:
    """Vectors (C, E) of the names of C classes.

    Args:
        names: the classes, in the order of their indices.
        source: a ``.npy`` file (C, E), or the name or folder of a ``transformers`` text model, whose last hidden state
            is averaged over the tokens of each name.

    Raises:
        InputError: the file has another number of rows, or the model cannot be loaded.
    """
    if source.endswith(".npy"):
        if not Path(source).is_file():
            raise InputError(f"file of class-name embeddings {source} does not exist")
        vectors = read_array(source)
        if vectors.ndim != 2 or len(vectors) != len(names):
            raise InputError(f"{source} has shape {vectors.shape}; expected one row for each of {len(names)} classes")
        if vectors.dtype.kind not in "fiu":
            raise InputError(f"{source} holds {vectors.dtype}; expected numbers, a row a class")
        return torch.from_numpy(vectors).float()

    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source).eval()
    except (OSError, ValueError) as error:
        raise InputError(
            f"text encoder {source!r} for class_names cannot be loaded ({type(error).__name__}); give the folder of a "
            "downloaded model, or a .npy file with one row a class"
        ) from error
    tokens = tokenizer([name.replace("_", " ") for name in names], padding=True, return_tensors="pt")
    hidden: Tensor = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    return (hidden * mask).sum(1) / mask.sum(1)
