"""Runs that answer the same test items, on plain arrays: mean squares, their expectations, intervals, tests.

Values are (model, seed, item, cell); NaN is not answered. The components are, in this
order, ``model``, ``item``, ``model:item``, ``seed`` (runs within a model) and
``residual`` (seed x item, with error). A single model has no first and no third.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Bools, Floats, Ints, divided

# Singular values below this share of the largest count as zero: rank of a design.
_RANK = 1e-9

# Weights of mean squares below this share of the largest are rounding error.
_TINY = 1e-9

# Mean squares that are sums over items: of items, model:item and residual.
OF_ITEMS = (1, 2, 4)

# Quantiles of fewer degrees of freedom say nothing (three runs have two).
_MIN_DF = 2.0

# Degrees of freedom of what does not vary at all; chi-square quantiles of more are not to be had.
_MOST_DF = 1e9


@dataclass(frozen=True)
class ItemStrata:
    """Mean squares of some cells and what they are made of.

    ``mean_square`` and ``df`` are (component, cell). ``mix[cell, j, k]`` is how often the
    component k is in the expectation of the mean square j; ``weights[cell, k, j]`` undoes
    that, NaN where a component cannot be told from others. ``by_items`` is the covariance
    of the mean squares that are sums over items (``OF_ITEMS``), from how unequal the items
    are in what they add to them: it supposes no shape of the scores.
    """

    mean_square: Floats
    df: Ints
    by_items: Floats
    mix: Floats
    weights: Floats

    @property
    def estimate(self) -> Floats:
        """Unbiased estimates, (component, cell)."""
        plain = np.where(np.isnan(self.mean_square), 0.0, self.mean_square)
        return np.asarray(np.einsum("ckj,jc->kc", self.weights, plain))


def item_strata(values: Floats) -> ItemStrata:
    """Analysis of variance of (model, seed, item, cell).

    All but ``model`` come from fits of runs and items together, so that a run that answered
    only hard items is not taken for a bad one; ``model`` comes from means. All expectations
    are those of the answers given, so the estimates are unbiased for any that are missing;
    with none missing they are the classical ones.
    """
    known = ~np.isnan(values)
    y = np.where(known, values, 0.0)
    y = np.where(known, y - _over(y.sum((0, 1, 2)), known.sum((0, 1, 2))), 0.0)
    counts = _Counts(known)
    squares, freedom, left, own = _adjusted(y, known, counts)
    of_models, of_items, crossed = _between(y, counts)
    df = np.maximum(np.vstack([counts.a - 1, freedom]), 0)
    mean_square = divided(np.vstack([of_models, squares]), df)
    shares = zip((of_items, crossed, left), counts.item_expectations(), OF_ITEMS, strict=True)
    influence = np.stack(
        [_over(part - expected * mean_square[row], df[row].astype(np.float64)) for part, expected, row in shares]
    )
    influence = np.where(np.isnan(influence), 0.0, influence)
    by_items = np.einsum("jic,kic->jkc", influence, influence) * _over(counts.b, counts.b - 1.0)
    mix = counts.mix(df, own)
    mix[counts.a <= 1, :, :3:2] = 0.0  # of one model: its items, and nothing between models
    return ItemStrata(mean_square, df, by_items, mix, _unmixing(mix))


class _Counts:
    """How many answers there are, and what follows from that for expectations."""

    def __init__(self, known: Bools) -> None:
        self.run = known.sum(2).astype(np.float64)  # model, seed, cell
        self.cell = known.sum(1).astype(np.float64)  # model, item, cell
        self.model = self.cell.sum(1)  # model, cell
        self.item = self.cell.sum(0)  # item, cell
        self.n = self.model.sum(0)
        self.a = (self.model > 0).sum(0)
        self.b = (self.item > 0).sum(0)
        self.cells = (self.cell > 0).sum((0, 1))

    def mix(self, df: Ints, own: Floats) -> Floats:
        """Expectations of the mean squares, (cell, mean square, component)."""
        item_model = _over(self.cell**2, self.model[:, None]).sum((0, 1))  # items within models
        seed_model = _over(self.run**2, self.model[:, None]).sum((0, 1))
        m, i, mi, s = (
            _over((part**2).reshape(-1, len(self.n)).sum(0), self.n)
            for part in (self.model, self.item, self.cell, self.run)
        )
        n, zero = self.n, np.zeros_like(self.n)
        free = n - (self.run > 0).sum((0, 1))
        rows = [
            [n - m, item_model - i, item_model - mi, seed_model - s, df[0]],
            [zero, free, free - own, zero, df[1]],
            [zero, zero, own, zero, df[2]],
            [zero, zero, zero, n - self.cells, df[3]],
            [zero, zero, zero, zero, df[4]],
        ]
        table = np.moveaxis(np.array(rows, dtype=np.float64), 2, 0)
        table[np.abs(table) < _TINY * np.maximum(n, 1.0)[:, None, None]] = 0.0
        return np.where(df.T[:, :, None] > 0, table / np.maximum(df.T, 1)[:, :, None], 0.0)

    def item_expectations(self) -> tuple[Floats, Floats, Floats]:
        """Degrees of freedom that each item has in the mean squares of items, model:item and residual."""
        some = (self.item > 0).astype(np.float64)
        return some, np.maximum((self.cell > 0).sum(0) - 1.0, 0.0), self.item - (self.cell > 0).sum(0)


@dataclass(frozen=True)
class _Fit:
    """Runs and items fitted together: (run, item, cell)."""

    of_runs: Floats  # sum of squares of the runs, adjusted for items, (cell,)
    left: Floats  # squares of what is left, (item, cell)
    rank: Ints  # degrees of freedom of the runs, (cell,)
    inverse: Floats  # of the normal equations of the runs, (cell, run, run)


def _fitted(y: Floats, known: Bools) -> _Fit:
    per_item, per_run = known.sum(0).astype(np.float64), known.sum(1).astype(np.float64)
    centred = np.where(known, y - _over(y.sum(0), per_item), 0.0)
    total = centred.sum(1)  # run, cell
    # Normal equations of the runs once the items are taken out, one small matrix for each cell.
    share = _first(known / np.sqrt(np.maximum(per_item, 1.0)))
    matrix = -share @ share.transpose(0, 2, 1)
    runs = np.arange(len(y))
    matrix[:, runs, runs] += per_run.T
    inverse = np.linalg.pinv(matrix, rcond=_RANK, hermitian=True)
    largest = np.maximum(per_run.max(0, initial=1.0), 1.0)
    rank = np.linalg.matrix_rank(matrix, tol=_RANK * largest, hermitian=True)
    effect = np.einsum("cst,tc->sc", inverse, total)
    model = effect[:, None] - _over((known * effect[:, None]).sum(0), per_item)
    left = np.where(known, centred - model, 0.0) ** 2
    return _Fit((effect * total).sum(0), left.sum(0), np.asarray(rank, dtype=np.int64), np.asarray(inverse, np.float64))


def _adjusted(y: Floats, known: Bools, counts: _Counts) -> tuple[Floats, Ints, Floats, Floats]:
    """Sums of squares of item, model:item, seed and residual, and their degrees of freedom, (4, cell).

    Items are adjusted for runs; model:item and seed for all else. Also the squares of the
    residuals by item, and how often model:item is in its own sum.
    """
    fits = [_fitted(block, there) for block, there in zip(y, known, strict=True)]
    by_item = sum((fit.left for fit in fits), np.zeros(y.shape[2:]))
    seed = sum((fit.of_runs for fit in fits), np.zeros(y.shape[3]))
    rank = sum((fit.rank for fit in fits), np.zeros(y.shape[3], dtype=np.int64))
    left, n = by_item.sum(0), counts.n.astype(np.int64)
    # Without model:item all runs are one set: what that fit leaves over and above is its sum of squares.
    flat, there = y.reshape(-1, *y.shape[2:]), known.reshape(-1, *y.shape[2:])
    whole = _fitted(flat, there) if len(y) > 1 else fits[0]
    per_run = there.sum(1)
    centred = np.where(there, flat - _over(flat.sum(1), per_run.astype(np.float64))[:, None], 0.0)
    of_whole = whole.left.sum(0)
    squares = [(centred**2).sum((0, 1)) - of_whole, of_whole - left, seed, left]
    df, whole_df = n - counts.cells - rank, n - counts.b - whole.rank
    freedom = [n - (per_run > 0).sum(0) - whole_df, whole_df - df, rank, df]
    size = (y**2).sum((0, 1, 2))
    own = _own_expectation(there, counts, whole.inverse, len(y)) if len(y) > 1 else np.zeros_like(size)
    return _cleaned(np.stack(squares), size), np.stack(freedom), by_item, own


def _own_expectation(known: Bools, counts: _Counts, inverse: Floats, n_model: int) -> Floats:
    """Trace of model:item once items and runs are taken out, per cell."""
    part = _over(counts.cell, counts.item[None])  # share of a model in the answers to an item
    model = np.repeat(np.arange(n_model), len(known) // n_model)
    there = _first(known.astype(np.float64))
    with_share = _first(np.where(known, part[model], 0.0))
    with_square = _first(known * (part**2).sum(0))
    half = with_share @ there.transpose(0, 2, 1)
    same = np.equal.outer(model, model)
    product = np.where(same, there @ there.transpose(0, 2, 1), 0.0)
    product += with_square @ there.transpose(0, 2, 1) - half - half.transpose(0, 2, 1)
    total = counts.n - (counts.cell * part).sum((0, 1))
    return np.asarray(total - np.einsum("cst,cst->c", inverse, product))


def _between(y: Floats, counts: _Counts) -> tuple[Floats, Floats, Floats]:
    """Sum of squares of models; squares of items and of model x item, by item."""
    sums = y.sum(1)  # model, item, cell
    cell = _over(sums, counts.cell)
    item = _over(sums.sum(0), counts.item)
    model = _over(sums.sum(1), counts.model)
    grand = _over(sums.sum((0, 1)), counts.n)
    of_models = (counts.model * (model - grand) ** 2).sum(0)
    crossed = counts.cell * (cell - item - model[:, None] + grand) ** 2
    return _cleaned(of_models, (y**2).sum((0, 1, 2))), counts.item * (item - grand) ** 2, crossed.sum(0)


def _unmixing(mix: Floats) -> Floats:
    """Weights of the mean squares that make each component, (cell, component, mean square); NaN if none do."""
    largest = np.abs(mix).max(axis=2, initial=0.0)
    row = np.where(largest > 0, largest, 1.0)
    inverse = np.linalg.pinv(mix / row[:, :, None], rcond=_RANK)
    reached = inverse @ (mix / row[:, :, None])
    told = np.abs(reached - np.eye(mix.shape[2])).max(axis=2, initial=0.0) < 1e-6
    weights = inverse / row[:, None, :]
    weights[np.abs(weights) < _TINY * np.abs(weights).max(axis=2, initial=0.0)[:, :, None]] = 0.0
    return np.where(told[:, :, None], weights, np.nan)


def normal_interval(strata: ItemStrata, weights: Floats, level: float) -> tuple[Floats, Floats, Floats]:
    """Interval of a sum of the expected mean squares, if all effects are normal; NaN for its own degrees of freedom."""
    lower, upper = combination_interval(weights, strata.mean_square, strata.df.astype(np.float64), level)
    return lower, upper, np.full(lower.shape, np.nan)


def item_interval(strata: ItemStrata, weights: Floats, level: float) -> tuple[Floats, Floats, Floats]:
    """Interval of a sum of the expected mean squares that leaves the shape of the items' effects open.

    The mean squares that are sums over items are taken as one, whose variance is that
    found over items; it has the chi-square shape of the same mean and variance. Returns
    its degrees of freedom too.
    """
    rows = list(OF_ITEMS)
    share = np.where(np.isnan(weights), 0.0, weights)[rows]
    terms = share * np.nan_to_num(strata.mean_square[rows])
    plus, minus = np.where(terms > 0, terms, 0.0).sum(0), -np.where(terms < 0, terms, 0.0).sum(0)
    own = np.abs(share) * np.stack([strata.mix[:, row, row] for row in rows])
    sign = np.take_along_axis(np.sign(share), np.argmax(own, axis=0)[None], axis=0)[0]
    size = np.where(sign > 0, plus, minus)
    variance = np.einsum("jc,jkc,kc->c", share, strata.by_items, share)
    df = np.where(variance > 0, divided(2 * size**2, variance), np.where(size > 0, _MOST_DF, np.nan))
    df = np.minimum(df, _MOST_DF)
    others = [0, 3]
    reduced = np.vstack([weights[others], np.where(np.isnan(weights).any(0), np.nan, np.where(size > 0, sign, 0.0))])
    squares = np.vstack([strata.mean_square[others], size])
    lower, upper = combination_interval(reduced, squares, np.vstack([strata.df[others], df]), level)
    moved = terms.sum(0) - sign * size
    return lower + moved, upper + moved, df


def combination_interval(weights: Floats, mean_square: Floats, df: Floats, level: float) -> tuple[Floats, Floats]:
    """Interval of ``sum_j weights[j] E(mean_square[j])``, each (stratum, cell): modified large-sample.

    Ting et al. (1990) where weights differ in sign, Graybill and Wang (1980) where not.
    NaN where a mean square that counts has fewer than two degrees of freedom.
    """
    used = (weights != 0) & ~np.isnan(weights)
    bad = np.isnan(weights).any(0) | (used & ~((df >= _MIN_DF) & ~np.isnan(mean_square))).any(0) | ~used.any(0)
    used &= ~bad
    terms = np.where(used, weights * np.where(np.isnan(mean_square), 0.0, mean_square), 0.0)
    freedom = np.where(used, df, _MIN_DF)
    low, high = _factors(freedom, level)
    g, h = 1 - low, high - 1
    plus, minus = used & (weights > 0), used & (weights < 0)
    down = (np.where(plus, g, h) * terms) ** 2
    up = (np.where(plus, h, g) * terms) ** 2
    lower, upper = down.sum(0), up.sum(0)
    n_plus, n_minus = plus.sum(0), minus.sum(0)
    for q in range(len(terms)):
        for r in range(len(terms)):
            across = plus[q] & minus[r]
            if across.any():
                below, above = _cross_factors(freedom[q, across], freedom[r, across], level)
                product = np.abs(terms[q] * terms[r])[across]
                lower[across] += below * product
                upper[across] += above * product
            for side, count, end in ((plus, n_plus, lower), (minus, n_minus, upper)):
                same = side[q] & side[r] & (q < r) & (n_plus > 0) & (n_minus > 0)
                if same.any():
                    star = _star(freedom[q, same], freedom[r, same], level)
                    end[same] += star * np.abs(terms[q] * terms[r])[same] / (count[same] - 1)
    point = terms.sum(0)
    ends = point - np.sqrt(np.maximum(lower, 0.0)), point + np.sqrt(np.maximum(upper, 0.0))
    return np.where(bad, np.nan, ends[0]), np.where(bad, np.nan, ends[1])


def component_tests(strata: ItemStrata) -> Floats:
    """Chance of so large a component, were it zero, (component, cell); NaN for the residual.

    The mean square of the component against what it would be expected to be without it:
    the exact F test where one mean square says that, otherwise Satterthwaite's
    approximation, with mean squares of negative weight moved above the line.
    """
    from scipy.special import fdtrc

    df = strata.df.astype(np.float64)
    result = np.full(strata.mean_square.shape, np.nan)
    plain = np.where(np.isnan(strata.mean_square), 0.0, strata.mean_square)
    for k in range(len(result) - 1):
        rest = -strata.mix[:, k, k] * strata.weights[:, k].T
        rest[k] += 1.0
        rest[np.abs(rest) < 1e-7] = 0.0
        above, below = np.where(rest < 0, -rest, 0.0), np.where(rest > 0, rest, 0.0)
        above[k] += 1.0
        top, top_df = _satterthwaite(above, plain, df)
        bottom, bottom_df = _satterthwaite(below, plain, df)
        fit = ~np.isnan(strata.weights[:, k]).any(1) & (top_df > 0) & (bottom_df > 0) & ((top > 0) | (bottom > 0))
        ratio = np.where((bottom == 0) & (top > 0), np.inf, divided(top, bottom))
        result[k, fit] = fdtrc(top_df[fit], bottom_df[fit], np.maximum(ratio[fit], 0.0))
    return result


def _satterthwaite(weights: Floats, mean_square: Floats, df: Floats) -> tuple[Floats, Floats]:
    """A sum of mean squares and its degrees of freedom; the plain ones where all are zero."""
    used = weights > 0
    terms = np.where(used, weights * mean_square, 0.0)
    total = terms.sum(0)
    spread = np.where(used, divided(terms**2, df), 0.0).sum(0)
    least = np.where(used, df, np.inf).min(0, initial=np.inf)
    least = np.where(np.isfinite(least), least, 0.0)
    return total, np.where(spread > 0, divided(total**2, spread), least)


def _factors(df: Floats, level: float) -> tuple[Floats, Floats]:
    """``df / quantile`` of chi-square at both ends."""
    from scipy.special import gammaincinv

    tail = (1 - level) / 2
    return df / (2 * gammaincinv(df / 2, 1 - tail)), df / (2 * gammaincinv(df / 2, tail))


def _cross_factors(first: Floats, second: Floats, level: float) -> tuple[Floats, Floats]:
    """Factors that make the interval of a difference of two mean squares touch zero where their F test does."""
    from scipy.special import fdtri

    tail = (1 - level) / 2
    top, bottom = fdtri(first, second, 1 - tail), fdtri(first, second, tail)
    (low1, high1), (low2, high2) = _factors(first, level), _factors(second, level)
    below = ((top - 1) ** 2 - ((1 - low1) * top) ** 2 - (high2 - 1) ** 2) / top
    above = ((1 - bottom) ** 2 - ((high1 - 1) * bottom) ** 2 - (1 - low2) ** 2) / bottom
    return below, above


def _star(first: Floats, second: Floats, level: float) -> Floats:
    """Factor of two mean squares on one side of a difference."""
    both = first + second
    g, g1, g2 = (1 - _factors(df, level)[0] for df in (both, first, second))
    return np.asarray((g * both) ** 2 / (first * second) - g1**2 * first / second - g2**2 * second / first)


def _first(table: npt.NDArray[Any]) -> Floats:
    """Cells first, as stacks of matrices want it."""
    return np.ascontiguousarray(np.moveaxis(table, -1, 0), dtype=np.float64)


def _over(top: Floats, bottom: Floats) -> Floats:
    """``top / bottom``, 0 where nothing was counted."""
    return np.asarray(np.where(bottom > 0, top / np.maximum(bottom, 1.0), 0.0))


def _cleaned(squares: Floats, size: Floats) -> Floats:
    """Sums of squares that are rounding error of the whole are none."""
    return np.where(np.abs(squares) <= 1e-13 * size, 0.0, squares)
