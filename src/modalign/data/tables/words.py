"""Text as word numbers: a small tokenizer whose vocabulary comes from the training rows only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np

from modalign.data.media.decoders import tokenizer

PADDING, UNKNOWN = 0, 1
LARGEST, LONGEST = 20_000, 256


def split_words(text: str) -> list[str]:
    """Lower-case words and marks of punctuation.

    >>> split_words("It's GOOD!")
    ['it', "'", 's', 'good', '!']
    """
    return re.findall(r"\w+|[^\w\s]", text.lower())


def build_vocabulary(texts: Iterable[str]) -> tuple[str, ...]:
    """The words of ``texts``, the most frequent first (ties by alphabet), 20,000 at most."""
    counts = Counter(word for text in texts for word in split_words(text))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(word for word, _ in ranked[:LARGEST])


def encode(texts: Sequence[str], vocabulary: Sequence[str], length: int) -> np.ndarray:
    """Word numbers (N, length) int64: 0 pads, 1 is a word outside ``vocabulary``, word k has number k + 2."""
    number = {word: k + 2 for k, word in enumerate(vocabulary)}
    ids = np.full((len(texts), length), PADDING, np.int64)
    for row, text in enumerate(texts):
        words = split_words(text)[:length]
        ids[row, : len(words)] = [number.get(word, UNKNOWN) for word in words]
    return ids


def longest(texts: Iterable[str]) -> int:
    """Number of words of the longest text, between 1 and 256: the length to pad to."""
    return min(LONGEST, max([1, *(len(split_words(text)) for text in texts)]))


@lru_cache(maxsize=4)
def token_reader(vocabulary: str) -> Callable[[list[int]], str] | None:
    """What turns the token ids of a pretrained tokenizer back into text, without its marks of begin and end.

    Args:
        vocabulary: as for ``media.tokenizer``: name of a pretrained model, local folder, or ``vocab.txt``.

    Returns:
        The reader; None where the vocabulary is not on this machine, for nothing is fetched to show a text.
    """
    try:
        known = tokenizer(vocabulary, fetch=False)
    except (OSError, ValueError):
        return None
    return lambda ids: str(known.decode(ids, skip_special_tokens=True))
