"""Paired samples with their contexts and groups, checked once, as the estimators need them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from modalign.errors import InputError

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
Values = ArrayLike | Tensor

FEWEST = 20
FEWEST_GROUPS = 10


@dataclass(frozen=True)
class Samples:
    """N paired samples.

    Attributes:
        x, y: (N, F) and (N, G).
        codes: (N,) context of each sample, from 0; all 0 where there is none or it is continuous.
        t: (N, H) continuous context, or None.
        groups: (N,) code of the group of each sample; its own number where samples are independent.
        conditional: whether a context was given at all.

    >>> paired_samples(np.arange(30.0), np.arange(30.0), groups=np.arange(30) // 2).grouped
    True
    """

    x: Array
    y: Array
    codes: Codes
    t: Array | None
    groups: Codes
    conditional: bool

    def __len__(self) -> int:
        return len(self.x)

    @property
    def grouped(self) -> bool:
        """Whether some group holds several samples."""
        return bool(self.groups.max() + 1 < len(self))


def paired_samples(x: Values, y: Values, given: Values | None = None, groups: Values | None = None) -> Samples:
    """Check and bring into shape.

    Args:
        x, y: (N,) or (N, F), finite numbers, not constant. Features that are constant or repeat an earlier one of the
            same variable are left out, which changes no information.
        given: context T: integers, booleans or strings (N,) or (N, H) are discrete (rows are contexts); floats are
            continuous, unless every value occurs at least twice, which no continuous variable does.
        groups: (N,) samples of one group (patient, speaker) depend on each other.

    Raises:
        InputError: lengths disagree, too few samples, not finite, constant, or a context with a single sample.

    >>> samples = paired_samples(np.arange(30.0), np.arange(30.0), given=["a", "b", "b"] * 10)
    >>> samples.x.shape, samples.codes[:3]
    ((30, 1), array([0, 1, 1]))
    """
    x, y = _features("x", x), _features("y", y)
    n = len(x)
    for name, values in (("y", y), ("given", given), ("groups", groups)):
        if values is not None and (length := len(_numpy(values))) != n:
            raise InputError(f"{name} has {length} samples and x has {n}; they must be paired. Give one row a sample.")
    if n < FEWEST:
        raise InputError(f"x and y have {n} samples; at least {FEWEST} are needed. Give more samples.")
    for name, array in (("x", x), ("y", y)):
        if not np.ptp(array, axis=0).any():
            raise InputError(f"{name} is constant: it carries no information. Give an array that varies.")
    x, y = _told_once(x), _told_once(y)
    codes, t = _context(given, n)
    member = np.arange(n)
    if groups is not None:
        raw = _numpy(groups).reshape(-1)
        distinct, member = np.unique(raw.astype(str), return_inverse=True)
        if len(distinct) < FEWEST_GROUPS:
            raise InputError(
                f"groups has {len(distinct)} distinct values; at least {FEWEST_GROUPS} are needed for a standard error "
                "by groups. Give a finer grouping or leave groups out."
            )
    return Samples(x, y, codes, t, member.astype(np.int64), given is not None)


def _context(given: Values | None, n: int) -> tuple[Codes, Array | None]:
    nowhere = np.zeros(n, dtype=np.int64)
    if given is None:
        return nowhere, None
    raw = _numpy(given)
    rows = raw.reshape(n, -1)
    discrete = raw.dtype.kind not in "fc"
    if not discrete:
        rows = _features("given", raw)
    distinct, codes, counts = np.unique(
        rows.astype(str) if raw.dtype.kind == "O" else rows, axis=0, return_inverse=True, return_counts=True
    )
    if len(distinct) == 1 or (not discrete and counts.min() < 2):
        return nowhere, None if len(distinct) == 1 else rows
    if counts.min() < 2:
        lonely = distinct[counts < 2]
        raise InputError(
            f"given has {len(lonely)} context(s) with a single sample, such as {lonely[0].tolist()}; each needs at "
            "least two. Merge or leave out these contexts, or give a continuous context as floats."
        )
    return codes.reshape(-1).astype(np.int64), None


def _told_once(values: Array) -> Array:
    first = np.sort(np.unique(values, axis=1, return_index=True)[1])
    return values[:, first[np.ptp(values[:, first], axis=0) > 0]]


def _features(name: str, values: Values) -> Array:
    raw = _numpy(values)
    if raw.ndim not in (1, 2) or raw.dtype.kind not in "fiub":
        raise InputError(
            f"{name} has shape {raw.shape} and type {raw.dtype}; expected numbers (N,) or (N, features). "
            "Flatten features, encode categories as numbers."
        )
    array = raw.reshape(len(raw), -1).astype(np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        raise InputError(
            f"{name} has {int(bad.sum())} values that are NaN or infinite, the first in row "
            f"{int(bad.any(axis=1).argmax())}; expected finite numbers. Remove or impute these rows."
        )
    return array


def _numpy(values: Values) -> NDArray[Any]:
    array: NDArray[Any] = (
        values.detach().cpu().numpy() if isinstance(values, Tensor) else np.atleast_1d(np.asarray(values))
    )
    return array
