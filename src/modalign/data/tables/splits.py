"""Which rows train, which validate, which test: by a named column, by an expression, or at random.

Random parts are stratified by class. With groups (patients, speakers, videos) no group is divided. In both
cases every class keeps at least one sample in training: a class of one sample is never held out, a class of
two gives at most one of them away at a time.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import numpy as np

from modalign.data.tables.modalities import as_strings, is_text, show
from modalign.errors import DataError, InputError, option, unknown

SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "test": "test"}
TEST_FRACTION = 0.25
FOLDS = 4  # of a repetition: as large a share for the test as where it is drawn at random
ORDERS_TIMES_GROUPS = 2000
_COMPARE = {"==": eq, "!=": ne, "<=": le, ">=": ge, "<": lt, ">": gt}


def select_rows(expression: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the rows (N,) bool for which an expression holds.

    ``COLUMN==VALUE``, also ``!= < <= > >=`` and ``COLUMN in a|b|c``, text without quotation marks; or several
    comparisons with ``and``, ``or``, ``not`` and brackets, as ``pandas.DataFrame.query`` reads them.

    Raises:
        InputError: no such form, no such column, a value of another type, or it holds for no row or all rows.

    >>> columns = {"rep": np.array([1, 2, 3]), "who": np.array(["Anya", "Bill", "Faye"])}
    >>> select_rows("who in Anya|Faye", columns).tolist()
    [True, False, True]
    >>> select_rows("rep > 1 and not who == 'Bill'", columns).tolist()
    [False, False, True]
    """
    match = re.fullmatch(r"\s*(.+?)\s*(==|!=|<=|>=|<|>|\sin\s)\s*(.*?)\s*", expression)
    if not match:
        raise DataError(
            f"cannot read the expression {expression!r}; expected COLUMN==VALUE (or != < <= > >=) or COLUMN in a|b|c"
        )
    column, sign, text = match[1], match[2].strip(), match[3]
    joined = re.search(r"\b(and|or|not)\b|[()&~\[]", text if column in arrays else expression)
    stripped = [part.strip() for part in text.split("|")]
    itself = column in arrays and is_text(arrays[column]) and {*stripped} & {*as_strings(arrays[column]).tolist()}
    if joined and not itself:  # a text with "and" or brackets in it may be a value of the column
        rows, known = _query(expression, arrays), "their columns have others"
    elif column not in arrays:
        raise unknown(f"column in {expression!r}:", column, arrays)
    else:
        values = np.asarray(arrays[column])
        if values.ndim != 1:
            raise DataError(f"column {column!r} of {expression!r} has shape {values.shape}; expected one value a row")
        texts = is_text(values)
        if texts and sign not in ("==", "!=", "in"):
            raise DataError(f"column {column!r} holds text, which {sign!r} cannot order; use ==, != or in")
        values = as_strings(values).astype(str) if texts else values
        given: list[Any] = [part.strip("'\"") for part in (stripped if sign == "in" else [text])]
        if not texts:
            truth = {"true": True, "1": True, "false": False, "0": False}
            for place, part in enumerate(given):
                try:
                    given[place] = truth[part.lower()] if values.dtype == bool else float(part)
                except (KeyError, ValueError):
                    expected = "True or False" if values.dtype == bool else "a number"
                    raise DataError(
                        f"{part!r} in {expression!r} cannot be compared with the column; expected {expected}"
                    ) from None
        rows = np.isin(values, given) if sign == "in" else np.asarray(_COMPARE[sign](values, given[0]))
        known = f"{column!r} has the values {show(np.unique(values).tolist())}: choose of these"
    if rows.all() or not rows.any():
        raise DataError(f"{expression!r} holds for {'every row' if rows.all() else 'no row'}; {known}")
    return rows


def _query(expression: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Rows by ``DataFrame.query``, held to comparisons of columns: a recipe runs no code."""
    import pandas as pd

    flat = {key: a for key, a in arrays.items() if np.ndim(a) == 1}
    table = pd.DataFrame({key: as_strings(a) if is_text(a) else a for key, a in flat.items()})
    try:
        parts = [*ast.walk(ast.parse(expression, mode="eval"))]
        for name in [part.id for part in parts if isinstance(part, ast.Name) and part.id not in table]:
            raise unknown(f"column in {expression!r}:", name, flat)
        if any(isinstance(part, (ast.Call, ast.Attribute, ast.Subscript)) for part in parts):
            raise SyntaxError("calls are not allowed")
        return np.asarray(table.eval(expression, engine="python", local_dict={}, global_dict={}), bool)
    except (SyntaxError, TypeError, ValueError, NotImplementedError) as error:
        if isinstance(error, InputError):
            raise
        raise DataError(
            f"cannot read the expression {expression!r} ({error}); expected comparisons such as rep==3 and "
            "speaker=='Anya', joined by and, or, not"
        ) from None


def assign_splits(
    arrays: Mapping[str, np.ndarray],
    strata: np.ndarray,
    groups: np.ndarray | None,
    split: str | None,
    valid_fraction: float,
    seed: int,
    fold: int | None = None,
    folds: int | str | None = None,
    valid_seed: int | None = None,
) -> np.ndarray:
    """Return the name of the split of each row: (N,) of ``train``, ``valid``, ``test``.

    Args:
        arrays: the columns an expression may name.
        strata: (N,) codes to stratify by (classes, or bins of the target).
        groups: (N,) values that no random part divides, or None; see ``check_groups`` for named ones.
        split: an expression that names the test rows; the name of a column of ``train``/``valid``/``test``;
            ``none`` for no test rows; or None for the column ``split`` if there is one, else 25 % test at random.
        valid_fraction: share of validation where none is named: of the training rows, or of all rows if
            everything is at random (which makes 60/15/25 by default).
        seed: of the random parts.
        fold, folds: an outer split in place of ``split`` (see ``outer_fold``).
        valid_seed: of the random validation part, if it is to have one of its own.

    Raises:
        InputError: see ``select_rows``; also values that name no split, or too few rows or groups for a part.

    >>> assign_splits({"rep": np.array([1, 1, 2, 2, 3, 3])}, np.zeros(6, int), None, "rep==3", 0.25, 0).tolist()
    ['train', 'train', 'train', 'valid', 'test', 'test']
    """
    rng = np.random.default_rng(seed if fold is None else [seed, fold])
    if split is None and "split" in arrays:
        split = "split"
    if fold is not None:
        held = outer_fold(arrays, strata, groups, fold, FOLDS if folds is None else folds, seed)
        parts = np.where(held, "test", "train").astype("<U5")
    elif split == "none" and split not in arrays:
        parts = np.full(len(strata), "train", dtype="<U5")
    elif split is None:
        parts = np.full(len(strata), "train", dtype="<U5")
        parts[hold_out(strata, groups, TEST_FRACTION, rng, "test")] = "test"
        valid_fraction /= 1 - TEST_FRACTION
    elif split in arrays:
        texts = as_strings(arrays[split]).tolist()
        strange = sorted({text for text in texts if text.lower() not in SPLITS})
        if strange:
            raise DataError(
                f"the column {split!r} has values that name no split: {show([repr(s) for s in strange])}; expected "
                "train, valid or test in every row, or an expression such as COLUMN==VALUE for the test rows"
            )
        parts = np.array([SPLITS[text.lower()] for text in texts], "<U5")
        for part in [part for part in ("train", "test") if part not in parts]:
            raise DataError(f"the column {split!r} names no row {part!r}; expected train and test, and best valid")
    else:
        parts = np.where(select_rows(split, arrays), "test", "train").astype("<U5")
    if not (parts == "valid").any():
        pool = np.flatnonzero(parts == "train")
        kept = None if groups is None else groups[pool]
        if valid_seed is not None:
            rng = np.random.default_rng([seed, 0 if fold is None else fold, valid_seed])
        parts[pool[hold_out(strata[pool], kept, valid_fraction, rng, "valid")]] = "valid"
    return parts


def outer_fold(
    arrays: Mapping[str, np.ndarray],
    strata: np.ndarray,
    groups: np.ndarray | None,
    fold: int,
    folds: int | str,
    seed: int,
) -> np.ndarray:
    """Return the rows (N,) bool that one outer split tests: a fold of repeated cross-validation.

    Any number of splits can be added later: fold ``folds`` is the first of the second repetition, and no fold depends
    on how many there are in all. Random folds are stratified and divide no group.

    Args:
        arrays, strata, groups, seed: as in ``assign_splits``.
        fold: number of the split, from 0.
        folds: folds of a repetition; or the name of a column each of whose values, sorted, is a fold.

    Raises:
        DataError: no such fold or column, or fewer groups, or rows of a class, than folds.

    >>> held = [outer_fold({}, np.arange(8) % 2, None, fold, 4, 0) for fold in range(4)]
    >>> np.sum(held, axis=0).tolist()
    [1, 1, 1, 1, 1, 1, 1, 1]
    >>> outer_fold({"rep": np.array([1, 2, 3, 1])}, np.zeros(4), None, 2, "rep", 0).tolist()
    [False, False, True, False]
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if isinstance(folds, str):
        if folds not in arrays:
            raise unknown("column of folds", folds, arrays)
        column = as_strings(arrays[folds]) if is_text(arrays[folds]) else np.asarray(arrays[folds])
        values = np.unique(column)
        if not 0 <= fold < len(values):
            raise DataError(
                f"there is no fold {fold}: the column {folds!r} has {len(values)} values, which are folds 0 to "
                f"{len(values) - 1}; expected at most {len(values)} splits"
            )
        return np.asarray(column == values[fold])
    if folds < 2 or fold < 0:
        raise DataError(f"fold {fold} of {folds} cannot be; expected 2 folds or more, and a fold from 0 on")
    codes = np.unique(strata, return_inverse=True)[1]
    units, what = (np.arange(len(codes)), "rows") if groups is None else (groups, "groups")
    if len(np.unique(units)) < folds:
        raise DataError(
            f"{len(np.unique(units))} {what} for {folds} folds; expected as many at least: lower "
            f"{option('data.folds')}, or name a column of folds"
        )
    spread = [len(np.unique(units[codes == code])) for code in range(codes.max() + 1)]
    if min(spread) < folds:
        raise DataError(
            f"the rarest class (or bin of the target) is in {min(spread)} {what}, fewer than {folds} folds, and cannot "
            f"be tested in each: lower {option('data.folds')}, or leave the class out with "
            f"{option('data.options.drop')}"
        )
    repetition, place = divmod(fold, folds)
    drawn = int(np.random.SeedSequence([seed, repetition]).generate_state(1)[0])
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    parts = kind(folds, shuffle=True, random_state=drawn).split(codes, codes, groups)
    held = np.zeros(len(codes), bool)
    held[[test for _, test in parts][place]] = True
    return held


def check_groups(parts: np.ndarray, groups: np.ndarray, split: str | None) -> list[str]:
    """Refuse groups that stand in more than one split; a note if that is so by design.

    It is by design where an expression, not a list of splits, divides *every* group between training and test
    (one of the repetitions of each speaker).

    Raises:
        InputError: names the divided groups.

    >>> check_groups(np.array(["train", "test"]), np.array(["anna", "bill"]), None)
    []
    """
    tested, trained = set(groups[parts == "test"]), set(groups[parts != "test"])
    names = sorted(set(groups))
    if split is not None and re.search(r"[=<>]| in ", split) and all(g in tested and g in trained for g in names):
        return [
            f"{split!r} divides every one of the {len(names)} groups: each is both trained on and tested, so "
            "test scores say nothing of new groups; validation holds whole groups out"
        ]
    divided = [str(g) for g in names if len(set(parts[groups == g])) > 1]
    if divided:
        raise DataError(
            f"{len(divided)} groups stand in more than one split: {show(divided)}; expected each in one: choose "
            "a split by group, drop those rows, or give no group if groups may be divided"
        )
    return []


def hold_out(
    strata: np.ndarray, groups: np.ndarray | None, fraction: float, rng: np.random.Generator, part: str
) -> np.ndarray:
    """Return rows (N,) bool to hold out as ``part``: about ``fraction``, stratified, no group divided.

    Raises:
        InputError: nothing can be held out without emptying a class in training.

    >>> int(hold_out(np.arange(20) % 2, None, 0.2, np.random.default_rng(0), "test").sum())
    4
    """
    if not 0 < fraction < 1:
        raise DataError(f"the share of {part!r} is {fraction}; expected a number between 0 and 1")
    codes = np.unique(strata, return_inverse=True)[1]
    if groups is not None:
        held = _hold_groups(codes, groups, fraction, rng)
    else:  # systematic sampling along the rows sorted by class: each class is within one row of its share
        order = rng.permutation(len(codes))
        order = order[np.argsort(codes[order], kind="stable")]
        marks = np.floor(np.arange(len(codes) + 1) * fraction + rng.random())
        held = np.zeros(len(codes), bool)
        held[order[np.diff(marks) > 0]] = True
        held[(np.bincount(codes) == np.bincount(codes, weights=held))[codes]] = False
    if not held.any():
        units = "rows" if groups is None else f"rows in {len(np.unique(groups))} groups"
        raise DataError(
            f"cannot hold {fraction:.0%} of {len(strata)} {units} out as {part!r} and keep every class in "
            "training; expected more rows or groups: add data, name the split, or give no group"
        )
    return held


def _hold_groups(codes: np.ndarray, groups: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Greedy over random orders: the set of groups whose class counts come nearest to the wanted share."""
    names, member = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), codes.max() + 1))
    np.add.at(counts, (member, codes), 1)
    total = counts.sum(0)
    best, best_distance = np.zeros(len(names), bool), np.inf
    for _ in range(int(np.clip(ORDERS_TIMES_GROUPS / len(names), 4, 64))):
        chosen, reached = np.zeros(len(names), bool), np.zeros_like(total)
        distance = ((fraction * total) ** 2 / total).sum()
        for g in rng.permutation(len(names)):
            proposal = reached + counts[g]
            proposed = ((proposal - fraction * total) ** 2 / total).sum()
            if (proposal < total).all() and (proposed < distance or not chosen.any()):
                chosen[g], reached, distance = True, proposal, proposed
        if chosen.any() and distance < best_distance:
            best, best_distance = chosen, distance
    return best[member]
