"""Which cells of which rows are equal to the last bit, however many of them are.

All rows are compared with all: coarse metrics agree so often that a list of the agreements would be
longer than the comparisons are. Small whole numbers stand for the values, so that a comparison is cheap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Bools, Floats, Ints
from polystab.analysis.audit.runs import MIN_DISTINCT

Codes = npt.NDArray[np.unsignedinteger[Any]]

# Cells that are compared at once.
_BLOCK = 2**25


def codes(values: Floats) -> Codes:
    """Whole numbers in place of values: equal along the first axis where, and only where, the values are.

    NaN equals nothing.
    """
    order = np.argsort(values, axis=0, kind="stable")
    ordered = np.take_along_axis(values, order, axis=0)
    new = np.ones(values.shape, dtype=np.min_scalar_type(len(values)))
    new[1:] = ordered[1:] != ordered[:-1]
    result = np.empty_like(new)
    np.put_along_axis(result, order, np.cumsum(new, axis=0, dtype=new.dtype), axis=0)
    return result


def comparisons(coded: Codes, known: Bools) -> Iterator[tuple[int, Ints, Bools, Bools]]:
    """Each row against later ones: its number, theirs, (row, ...) cells that are equal and that both have.

    Parameters
    ----------
    coded : (row, ...) array
        From :func:`codes`.
    known : (row, ...) array of bool
        Cells that are measured.
    """
    n_row = len(coded)
    size = max(1, _BLOCK // max(1, coded[0].size)) if n_row else 1
    for a in range(n_row - 1):
        for start in range(a + 1, n_row, size):
            block = slice(start, min(start + size, n_row))
            yield a, np.arange(n_row)[block], coded[a] == coded[block], known[a] & known[block]


def stretches(equal: Bools, common: Bools) -> tuple[Ints, Ints]:
    """Length of the longest stretch of equal cells along axis 1, and number of stretches; other cells than common passed over."""
    run = np.zeros((equal.shape[0], *equal.shape[2:]), dtype=np.min_scalar_type(equal.shape[1]))
    best, begun = run.copy(), run.copy()
    for t in range(equal.shape[1]):
        begun += equal[:, t] & (run == 0)
        run += equal[:, t]
        run *= equal[:, t] | ~common[:, t]
        np.maximum(best, run, out=best)
    return best.astype(np.int64), begun.astype(np.int64)


def stretches_where(where: Bools, equal: Bools, common: Bools) -> tuple[Ints, Ints]:
    """:func:`stretches` of some of the (row, metric), the others 0; mostly they are few."""
    if 4 * np.count_nonzero(where) > where.size:
        length, number = stretches(equal, common)
        return np.where(where, length, 0), np.where(where, number, 0)
    length, number = np.zeros((2, *where.shape), dtype=np.int64)
    i, k = np.nonzero(where)
    length[i, k], number[i, k] = stretches(equal[i, :, k], common[i, :, k])
    return length, number


def varied(numbers: Floats) -> bool:
    """Whether there are enough different numbers to be no coincidence."""
    # A few tell it mostly, and sorting a whole run takes long.
    return len(np.unique(numbers[:64])) >= MIN_DISTINCT or len(np.unique(numbers)) >= MIN_DISTINCT
