"""Text as word numbers: a small tokenizer whose vocabulary comes from the training rows only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

PADDING, UNKNOWN = 0, 1
LARGEST, LONGEST = 20_000, 256


def split_words(text: str) -> list[str]:
    """Lower-case words and marks of punctuation.

    >>> split_words("It's GOOD!")
    ['it', "'", 's', 'good', '!']
    """
    return re.findall(r"\w+|[^\w\s]", text.lower())


def build_vocabulary(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the words of ``texts``, the most frequent first (ties by alphabet), 20,000 at most.

    >>> build_vocabulary(["red fox", "red oak"])
    ('red', 'fox', 'oak')
    """
    counts = Counter(word for text in texts for word in split_words(text))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(word for word, _ in ranked[:LARGEST])


def encode(texts: Sequence[str], vocabulary: Sequence[str], length: int) -> np.ndarray:
    """Return word numbers (N, length) int64: 0 pads, 1 is a word outside ``vocabulary``, word k has number k + 2.

    >>> encode(["red cat"], ("red", "fox"), 3).tolist()
    [[2, 1, 0]]
    """
    number = {word: k + 2 for k, word in enumerate(vocabulary)}
    ids = np.full((len(texts), length), PADDING, np.int64)
    for row, text in enumerate(texts):
        words = split_words(text)[:length]
        ids[row, : len(words)] = [number.get(word, UNKNOWN) for word in words]
    return ids
