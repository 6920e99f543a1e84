"""How alike two partitions are, from the counts of what they have in common."""

from __future__ import annotations

import numpy as np

from polystab.analysis.arrays import Floats, Ints, divided


def rand_of_counts(count: Ints | Floats) -> Floats:
    """Adjusted Rand index of tables of counts (..., part, other part); NaN for empty ones.

    Two partitions into a single part, or into single elements, agree: 1.
    """
    table = count.astype(np.float64)
    n = table.sum(axis=(-2, -1))
    together = _pairs(table).sum(axis=(-2, -1))
    rows, columns = _pairs(table.sum(axis=-1)).sum(axis=-1), _pairs(table.sum(axis=-2)).sum(axis=-1)
    expected = divided(rows * columns, _pairs(n))
    largest = (rows + columns) / 2
    result = divided(together - expected, largest - expected)
    same = (rows == columns) & (together == rows)
    return np.where(n == 0, np.nan, np.where(same, 1.0, result))


def _pairs(n: Floats) -> Floats:
    return n * (n - 1) / 2
