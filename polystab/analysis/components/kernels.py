"""Variance components on plain arrays: mean squares, intervals and F tests of many cells at once.

Runs lie along the first axis (or the first two), cells along the last one. NaN is
not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints, divided
from polystab.analysis.variance import sd_factors

# Sums of squares below (this x largest value)^2 per run are rounding error, not spread.
_ROUNDING = 1e-15

# Singular values below this share of the largest belong to labels that are not independent.
_RANK = 1e-9


@dataclass(frozen=True)
class Strata:
    """The analysis of variance of some cells; one row per component, the lowest last.

    ``mean_square`` has expectation ``size x component + `` that of the stratum
    ``below``, exactly in ``balanced`` cells. ``size`` is NaN where no interval can be
    built on that, ``statistic`` (F) where no exact test is known.
    """

    estimate: Floats
    mean_square: Floats
    df: Ints
    size: Floats
    statistic: Floats
    below: tuple[int, ...]
    balanced: Bools

    def total_weights(self) -> Floats:
        """Weights of the mean squares whose sum is the sum of the estimates."""
        share = np.where(self.df > 0, 1.0 / np.where(self.df > 0, self.size, 1.0), 0.0)
        weights = share.copy()
        for k, low in enumerate(self.below[:-1]):
            weights[low] -= share[k]
        return weights


def nested_strata(values: Floats) -> Strata:
    """Runs within models, (model, seed, cell): any numbers of runs, all cells at once."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    has = count > 0
    n_models, n_runs = has.sum(axis=0), count.sum(axis=0)
    plain = np.where(known, values, 0.0)
    mean = np.where(has, divided(plain.sum(axis=1), count), 0.0)
    ss_within = np.sum(np.where(known, values - mean[:, None], 0.0) ** 2, axis=(0, 1))
    grand = divided(plain.sum(axis=(0, 1)), n_runs)
    middle = divided(mean.sum(axis=0), n_models)
    size = divided(n_models, divided(1.0, count).sum(axis=0, where=has))
    ss_weighted = np.sum(np.where(has, count * (mean - grand) ** 2, 0.0), axis=0)
    ss_plain = size * np.sum(np.where(has, (mean - middle) ** 2, 0.0), axis=0)
    small = rounding(values.reshape(values.shape[0] * values.shape[1], values.shape[2]))
    df = np.maximum(np.stack([n_models - 1, n_runs - n_models]), 0)
    within = divided(_cleaned(ss_within, small), df[1])
    between = divided(_cleaned(ss_plain, small), df[0])
    weighted = divided(_cleaned(ss_weighted, small), df[0])
    return Strata(
        estimate=np.stack([divided(between - within, size), within]),
        mean_square=np.stack([between, within]),
        df=df,
        size=np.stack([size, np.ones_like(size)]),
        statistic=np.stack([_ratio(weighted, within), np.full(size.shape, np.nan)]),
        below=(1, -1),
        balanced=np.where(has, count, 0).max(axis=0, initial=0) * n_models == n_runs,
    )


def table_strata(
    values: Floats, factors: Sequence[Ints], fixed: Ints, below: tuple[int, ...], matrix: Floats | None = None
) -> Strata:
    """Crossed factors, (run, cell): one set of projections for every pattern of missing runs.

    Parameters
    ----------
    values : (run, cell) array
    factors : sequence of (run,) arrays of int
        Labels of every component but the lowest. One whose ``below`` is not the lowest
        contains the finer one that stands there.
    fixed : (run,) array of int
        Labels of groups whose means are taken out first.
    below : tuple of int
        The stratum that each component is tested against, -1 for the lowest.
    matrix : (run, column) array, optional
        Covariates that are taken out first too, of a size near 1.
    """
    shape = (len(below), values.shape[1])
    estimate, mean_square, size, statistic = (np.full(shape, np.nan) for _ in range(4))
    df = np.zeros(shape, dtype=np.int64)
    balanced = np.zeros(shape[1], dtype=np.bool_)
    small = rounding(values)
    for rows, cells in patterns(~np.isnan(values)):
        if not len(rows):
            continue
        extra = None if matrix is None else matrix[rows]
        table = _Table([labels[rows] for labels in factors], fixed[rows], below, extra)
        y = values[np.ix_(rows, cells)]
        squares = np.stack([_cleaned(row, small[cells]) for row in table.squares(y)])
        df[:, cells] = table.df[:, None]
        found = divided(squares, table.df[:, None])
        mean_square[:, cells] = found
        size[:, cells] = table.size[:, None]
        balanced[cells] = table.balanced
        if table.df[-1] > 0:
            estimate[:, cells] = table.unmixed(found)
        for k, low in enumerate(below[:-1]):
            if low == len(below) - 1 or table.balanced:
                statistic[k, cells] = _ratio(found[k], found[low])
    return Strata(estimate, mean_square, df, size, statistic, below, balanced)


class _Table:
    """Projections of one pattern of measured runs: every factor adjusted for those not inside it."""

    def __init__(
        self, factors: Sequence[Ints], fixed: Ints, below: tuple[int, ...], matrix: Floats | None = None
    ) -> None:
        lowest = len(below) - 1
        blocks = [_indicators(labels) for labels in factors]
        start = np.hstack([_indicators(fixed), *([] if matrix is None else [matrix])])
        main = [k for k in range(lowest) if k not in below]
        self.bases = []
        for k, block in enumerate(blocks):
            others = [blocks[j] for j in range(lowest) if j != k and (k in below or j not in below)]
            self.bases.append(_adjusted(block, np.hstack([start, *others])))
        self.whole = _span(np.hstack([start, *blocks]))
        self.df = np.array([*(q.shape[1] for q in self.bases), len(fixed) - self.whole.shape[1]])
        # Expectation of each mean square, in terms of the components.
        shared = [[q.T @ z for z in blocks] for q in self.bases]
        self.mix = np.array([[np.sum(a**2) / max(a.shape[0], 1) for a in row] for row in shared]).reshape(
            lowest, lowest
        )
        even = all(
            np.allclose(a @ a.T, self.mix[k, j] * np.eye(a.shape[0]))
            for k, row in enumerate(shared)
            for j, a in enumerate(row)
        )
        apart = all(np.allclose(self.bases[j].T @ self.bases[k], 0.0) for j in main for k in main if j < k)
        self.balanced = bool(even and apart)
        exact = [self.balanced or low in (lowest, -1) for low in below]
        self.size = np.where(exact, [*np.diag(self.mix), 1.0], np.nan)

    def squares(self, y: Floats) -> Iterator[Floats]:
        """Sum of squares of each stratum, for every cell."""
        for basis in self.bases:
            yield np.sum((basis.T @ y) ** 2, axis=0)
        rest = y - self.whole @ (self.whole.T @ y)
        rest -= self.whole @ (self.whole.T @ rest)  # twice is enough: what is left is left
        yield np.sum(rest**2, axis=0)

    def unmixed(self, mean_square: Floats) -> Floats:
        """Components from mean squares: those whose expectations the mean squares equal."""
        result = np.full(mean_square.shape, np.nan)
        result[-1] = mean_square[-1]
        there = np.flatnonzero(self.df[:-1] > 0)
        excess = mean_square[there] - mean_square[-1]
        result[there] = np.linalg.solve(self.mix[np.ix_(there, there)], excess)
        return result


def degrees_of_freedom(
    factors: Sequence[Ints], fixed: Ints, below: tuple[int, ...], matrix: Floats | None = None
) -> Ints:
    """Degrees of freedom of every stratum of :func:`table_strata` where no run is missing."""
    return np.asarray(_Table(factors, fixed, below, matrix).df)


def adjusted_basis(labels: Ints, others: Sequence[Ints]) -> Floats:
    """Orthonormal columns of what a factor explains beyond the others, (run, degree of freedom)."""
    return _adjusted(_indicators(labels), np.hstack([_indicators(other) for other in others]))


def intervals(strata: Strata, level: float) -> tuple[Floats, Floats]:
    """Interval of every component, (component, cell), before it is cut at zero.

    Chi-square for the lowest, modified large-sample (Ting et al. 1990) for the others.
    """
    low, high = _chi_square_factors(strata.df, level)
    lower = strata.mean_square * low
    upper = strata.mean_square * high
    for k, under in enumerate(strata.below[:-1]):
        ms, base = strata.mean_square[k], strata.mean_square[under]
        top, bottom = f_quantiles(strata.df[k], strata.df[under], level)
        g1, h1 = 1 - low[k], high[k] - 1
        g2, h2 = 1 - low[under], high[under] - 1
        g12 = ((top - 1) ** 2 - (g1 * top) ** 2 - h2**2) / top
        h12 = ((1 - bottom) ** 2 - (h1 * bottom) ** 2 - g2**2) / bottom
        down = (g1 * ms) ** 2 + (h2 * base) ** 2 + g12 * ms * base
        up = (h1 * ms) ** 2 + (g2 * base) ** 2 + h12 * ms * base
        lower[k] = (ms - base - np.sqrt(np.maximum(down, 0.0))) / strata.size[k]
        upper[k] = (ms - base + np.sqrt(np.maximum(up, 0.0))) / strata.size[k]
    return lower, upper


def total_interval(strata: Strata, level: float) -> tuple[Floats, Floats]:
    """Interval of the sum of the components (Graybill and Wang 1980), per cell."""
    low, high = _chi_square_factors(strata.df, level)
    there = strata.df > 0
    terms = np.where(there, strata.total_weights() * strata.mean_square, 0.0)
    down = np.where(there, (1 - low) * terms, 0.0)
    up = np.where(there, (high - 1) * terms, 0.0)
    point = np.where(there[-1], terms.sum(axis=0), np.nan)
    return (
        np.maximum(point - np.sqrt(np.sum(down**2, axis=0)), 0.0),
        point + np.sqrt(np.sum(up**2, axis=0)),
    )


def f_test(strata: Strata) -> Floats:
    """Chance of an F as large as found, were the component zero: (component, cell), NaN for the lowest."""
    from scipy.special import fdtrc

    result = np.full(strata.statistic.shape, np.nan)
    for k, under in enumerate(strata.below[:-1]):
        usable = ~np.isnan(strata.statistic[k]) & (strata.df[k] > 0) & (strata.df[under] > 0)
        result[k, usable] = fdtrc(strata.df[k, usable], strata.df[under, usable], strata.statistic[k, usable])
    return result


def patterns(known: Bools) -> Iterator[tuple[Ints, Ints]]:
    """Measured rows, and the cells that have just these, for every pattern among the cells."""
    packed = np.ascontiguousarray(np.packbits(known, axis=0).T)
    keys = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(group.ravel()))
    for i, end in enumerate(ends.tolist()):
        start = 0 if i == 0 else int(ends[i - 1])
        yield np.flatnonzero(known[:, first[i]]), order[start:end]


def _chi_square_factors(df: Ints, level: float) -> tuple[Floats, Floats]:
    """``df / quantile`` at both ends; NaN below two degrees of freedom, which is fewer than three runs."""
    low, high = sd_factors(np.arange(int(df.max(initial=0)) + 1) + 1, level=level)
    return (low**2)[df], (high**2)[df]


def f_quantiles(df1: Ints, df2: Ints, level: float) -> tuple[Floats, Floats]:
    """Upper and lower quantile of F; NaN without degrees of freedom."""
    from scipy.special import fdtri

    span = int(df2.max(initial=0)) + 1
    pairs, where = np.unique(df1 * span + df2, return_inverse=True)
    first, second = np.divmod(pairs, span)
    known = (first > 0) & (second > 0)
    tail = (1 - level) / 2
    ends = []
    for chance in (1 - tail, tail):
        quantile = np.full(pairs.shape, np.nan)
        quantile[known] = fdtri(first[known], second[known], chance)
        ends.append(quantile[where.ravel()])
    return ends[0], ends[1]


def from_first(values: Floats) -> Floats:
    """Differences from the first known run of each cell, (run, cell): equal runs are exactly 0.

    A large common part then costs no digits.
    """
    place = np.argmax(~np.isnan(values), axis=0)
    return values - np.take_along_axis(values, place[None], axis=0)


def rounding(values: Floats) -> Floats:
    """Sum of squares, per cell, that rounding alone can make."""
    known = ~np.isnan(values)
    largest = np.max(np.abs(values), axis=0, initial=0.0, where=known)
    return np.asarray((_ROUNDING * largest) ** 2 * known.sum(axis=0))


def _cleaned(squares: Floats, small: Floats) -> Floats:
    return np.where(squares <= small, 0.0, squares)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """F, infinite where only the bottom is zero."""
    return np.where((bottom == 0) & (top > 0), np.inf, divided(top, bottom))


def _indicators(labels: Ints) -> Floats:
    return np.equal.outer(labels, np.unique(labels)).astype(np.float64)


def _span(columns: Floats) -> Floats:
    """Orthonormal basis of what the columns span."""
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, sizes > _RANK * sizes.max(initial=1.0)])


def _adjusted(columns: Floats, others: Floats) -> Floats:
    """Orthonormal basis of what the columns span outside the span of the others."""
    base = _span(others)
    rest = columns - base @ (base.T @ columns)
    return _span(rest)
