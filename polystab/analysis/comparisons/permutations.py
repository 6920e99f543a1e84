"""Permutation tests of two groups of runs: every arrangement where there are few, else a sample of them."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np

from polystab.analysis.arrays import Bools, Floats, finite, scaled
from polystab.analysis.components.kernels import from_first, patterns, rounding
from polystab.analysis.variance import MIN_RUNS

# Values held at a time.
_BLOCK = 2_000_000

# Statistics that differ by less, relatively, are of arrangements that are the same.
_SAME = 1e-9


def permutation_p(
    this: Floats, other: Floats, *, paired: bool, n_permutations: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """p of two groups (run, cell), and the smallest that their numbers of runs allow.

    Independent groups are dealt out again and judged by the size of Welch's t, or of the difference of means where a
    group is too small for a variance; pairs have the signs of their differences drawn. NaN where nothing varies.
    """
    p, least = np.full(this.shape[1], np.nan), np.full(this.shape[1], np.nan)
    joined = scaled(finite(np.concatenate([this, other])), axis=0)[0]
    noise = rounding(joined)
    joined = from_first(joined)
    if paired:
        gap = joined[len(this) :] - joined[: len(this)]
        for rows, cells in patterns(~np.isnan(gap)):
            if len(rows) >= 2:
                values = gap[np.ix_(rows, cells)]
                p[cells], least[cells] = _signs(values, n_permutations, rng)
                p[cells[(values**2).sum(axis=0) <= 4 * noise[cells]]] = np.nan
        return p, least
    for rows, cells in patterns(~np.isnan(joined)):
        first = int((rows < len(this)).sum())
        if min(first, len(rows) - first) >= 1 and len(rows) > 2:
            values = joined[np.ix_(rows, cells)]
            values -= values.mean(axis=0)
            p[cells], least[cells] = _groups(values, first, n_permutations, rng)
            p[cells[(values**2).sum(axis=0) <= noise[cells]]] = np.nan
    return p, least


def _groups(values: Floats, first: int, n_permutations: int, rng: np.random.Generator) -> tuple[Floats, float]:
    """p of the first ``first`` rows against the others, (cell), from centred values."""
    n = len(values)
    members, exact = group_members(n, first, n_permutations, rng)
    found = _separation(members[:1], values)[0]
    as_large = np.zeros(values.shape[1], dtype=np.int64)
    step = max(_BLOCK // max(values.shape[1], n), 1)
    for start in range(0, len(members), step):
        as_large += (_separation(members[start : start + step], values) >= found * (1 - _SAME)).sum(axis=0)
    # Groups of the same size can be exchanged: the mirror image is as far apart.
    smallest = (2 if 2 * first == n else 1) / comb(n, first) if exact else 1 / len(members)
    return as_large / len(members), smallest


def group_members(n: int, first: int, n_permutations: int, rng: np.random.Generator) -> tuple[Bools, bool]:
    """Which of n rows are in the first group, (arrangement, row), the one found first; and whether that is all of them."""
    exact = comb(n, first) <= n_permutations + 1
    if exact:
        places = np.array(list(combinations(range(n), first)), dtype=np.intp)
    else:
        drawn = np.argsort(rng.random((n_permutations, n)), axis=1)[:, :first]
        places = np.concatenate([np.arange(first)[None], drawn])
    members = np.zeros((len(places), n), dtype=bool)
    np.put_along_axis(members, places, True, axis=1)
    return members, exact


def _separation(members: Bools, values: Floats) -> Floats:
    """How far apart two groups are, (arrangement, cell): the square of Welch's t, or of the difference of means."""
    a = members.astype(np.float64)
    n, m = int(members[0].sum()), int((~members[0]).sum())
    total, squares = values.sum(axis=0), (values**2).sum(axis=0)
    sum_a = a @ values
    gap = (sum_a / n - (total - sum_a) / m) ** 2
    if min(n, m) < MIN_RUNS:
        return np.asarray(gap)
    square_a = a @ values**2
    within = (square_a - sum_a**2 / n) / (n * (n - 1))
    within += (squares - square_a - (total - sum_a) ** 2 / m) / (m * (m - 1))
    # Groups of equal runs each are as far apart as can be; what is left of their spread is rounding.
    floor = 1e-13 * squares / (n + m)
    return np.asarray(gap / np.maximum(within, np.where(floor > 0, floor, 1.0)))


def _signs(gaps: Floats, n_permutations: int, rng: np.random.Generator) -> tuple[Floats, float]:
    """p of differences (pair, cell) whose signs are drawn."""
    n = len(gaps)
    exact = 2**n <= n_permutations + 1
    if exact:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.concatenate([np.ones((1, n)), rng.choice([-1.0, 1.0], size=(n_permutations, n))])
    limit = np.abs(gaps.sum(axis=0)) * (1 - _SAME)
    as_large = np.zeros(gaps.shape[1], dtype=np.int64)
    step = max(_BLOCK // max(gaps.shape[1], n), 1)
    for start in range(0, len(signs), step):
        as_large += (np.abs(signs[start : start + step] @ gaps) >= limit).sum(axis=0)
    return as_large / len(signs), (2 / 2**n if exact else 1 / len(signs))
