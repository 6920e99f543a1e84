"""Resampling runs and test items, on plain arrays: draws, weighted scores, intervals.

Scores are (cell, run, item) or, where a score is made of several numbers per item,
(cell, run, item, part). One resample is two sets of counts, how often each run and
each item was drawn, so that scoring all resamples is a matrix product.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Bools, Floats, Ints, scaled
from polystab.errors import AnalysisError
from polystab.progress_bars import Bar

Counts = npt.NDArray[np.float32]
Score = Callable[[npt.NDArray[Any]], npt.ArrayLike]

# Numbers drawn at a time: they stay in the processor's cache, and the draws do not depend on the chunk.
_DRAWN = 2**17

# Below this many, counts are drawn one by one.
_FEW = 64

# Whole numbers up to here are exact in single precision, sums included.
_EXACT = 2**24


def count_blocks(n: int, n_resamples: int, rng: np.random.Generator) -> Iterator[Counts]:
    """How often each of ``n`` things is drawn in ``n`` draws with replacement, (resample, thing) in blocks of rows."""
    rows = max(1, _DRAWN // n)
    for start in range(0, n_resamples, rows):
        yield _drawn_counts(n, min(rows, n_resamples - start), rng)


def all_counts(n: int, n_resamples: int, rng: np.random.Generator) -> Floats:
    """The same as one (resample, thing) array, for few things."""
    return np.concatenate(list(count_blocks(n, n_resamples, rng))).astype(np.float64)


def _drawn_counts(n: int, rows: int, rng: np.random.Generator) -> Counts:
    """Multinomial counts of ``n`` draws from ``n`` things.

    Independent Poisson numbers are multinomial once their sum is known. So they are drawn
    with a mean a little below one, a row that went over ``n`` is drawn again, and what is
    short of ``n`` is drawn one by one. That takes a third of the time of n draws.
    """
    starts = np.arange(rows) * n
    if n < _FEW:
        drawn = (rng.integers(0, n, (rows, n)) + starts[:, None]).ravel()
        return np.bincount(drawn, minlength=rows * n).astype(np.float32).reshape(rows, n)
    # At this mean one row in 160 goes over.
    edges, ones = _poisson_edges(1 - 2.5 / math.sqrt(n)), np.ones(n, dtype=np.float32)
    counts = _poisson(edges, rows * n, rng).reshape(rows, n)
    total = counts @ ones
    while (over := np.flatnonzero(total > n)).size:
        counts[over] = _poisson(edges, over.size * n, rng).reshape(over.size, n)
        total[over] = counts[over] @ ones
    short = (n - total).astype(np.int64)
    place = rng.integers(0, n, int(short.sum())) + np.repeat(starts, short)
    np.add.at(counts.reshape(-1), place, np.float32(1))
    return counts


@functools.cache
def _poisson_edges(mean: float) -> Floats:
    """The cumulative probabilities of a Poisson number, in units of 2^-16."""
    terms = np.cumprod(np.r_[math.exp(-mean), mean / np.arange(1, 20)])
    return np.asarray(2.0**16 * np.cumsum(terms), dtype=np.float64)


def _poisson(edges: Floats, size: int, rng: np.random.Generator) -> Counts:
    """Poisson numbers from 16 random bits each.

    An edge that is no whole number is rounded up with the chance that makes every
    number's probability right; one rounding serves all numbers of a call.
    """
    words = rng.integers(0, 2**64, -(-size // 4), dtype=np.uint64).view(np.uint16)[:size]
    whole = np.floor(edges + rng.random(len(edges)))
    counts, beyond = np.zeros(size, dtype=np.uint8), np.empty(size, dtype=np.bool_)
    for edge in whole[whole < 2**16].astype(np.uint16):
        np.greater_equal(words, edge, out=beyond)
        np.add(counts, beyond.view(np.uint8), out=counts)
    return counts.astype(np.float32)


@dataclass
class Side:
    """The scores of one side, ready to be weighted.

    ``totals(counts)`` gives (resample, cell, run): the sum over items of the drawn scores,
    or with ``score`` what that makes of them; ``scale`` is what to divide by.
    """

    values: Floats
    score: Score | None
    parts: bool

    def __post_init__(self) -> None:
        self.n_cell, self.n_run, self.n_item = self.values.shape[:3]
        self.scale = 1.0 if self.score else float(self.n_item)
        self.dtype: type[np.float32] | type[np.float64] = np.float64
        if self.score and not self.parts:
            return
        whole = bool((self.values == np.rint(self.values)).all())
        if whole and float(np.abs(self.values).max(initial=0.0)) * self.n_item < _EXACT:
            self.dtype = np.float32
        # One row per (cell, run[, part]): the product is quickest that way round.
        self.rows: npt.NDArray[np.floating[Any]] = np.ascontiguousarray(
            np.moveaxis(self.values, 2, -1).reshape(-1, self.n_item), dtype=self.dtype
        )

    def totals(self, counts: npt.NDArray[np.floating[Any]]) -> Floats:
        if self.score and not self.parts:
            return self._called(counts, self.score)
        # Counts are exact in single precision, other weights are not.
        weights = counts if counts.dtype == self.dtype else counts.astype(np.float64)
        sums = np.asarray(weights @ self.rows.T, dtype=np.float64)
        sums = sums.reshape(len(counts), *self.values.shape[:2], *self.values.shape[3:])
        return sums if self.score is None else scored(self.score, sums / self.n_item, sums.shape[:3])

    def _called(self, counts: npt.NDArray[np.floating[Any]], score: Score) -> Floats:
        result = np.empty((len(counts), self.n_cell, self.n_run))
        for row, count in zip(result, counts, strict=True):
            drawn = np.repeat(np.arange(self.n_item), count.astype(np.intp))
            row[...] = scored(score, self.values[:, :, drawn], row.shape)
        return result


class Summed(Side):
    """Runs added up beforehand; they still count as so many."""

    def __init__(self, side: Side) -> None:
        super().__init__(side.values.sum(axis=1, keepdims=True), None, False)
        self.n_run = side.n_run


def centred(base: Floats, other: Floats, score: Score | None) -> tuple[tuple[Floats, Floats], Floats, Ints]:
    """Values less one of them and in units that keep squares in range, that value, and the power of two.

    So a large offset costs no digits and equal scores have a spread of exactly zero. Only
    a mean may be moved like that.
    """
    n_cell = len(base)
    if score is not None:
        return (base, other), np.zeros(n_cell), np.zeros(n_cell, dtype=np.int64)
    with np.errstate(over="ignore"):
        centre = base[:, 0, 0]
        moved = [values - centre[:, None, None] for values in (base, other)]
    if not all(np.isfinite(values).all() for values in moved):  # +-1e308: no room to subtract
        centre, moved = np.zeros(n_cell), [base, other]
    both = np.concatenate([values.reshape(n_cell, -1) for values in moved], axis=1)
    if (both == np.rint(both)).all() and np.abs(both).max(initial=0.0) < 2**24:
        return (moved[0], moved[1]), centre, np.zeros(n_cell, dtype=np.int64)
    _, exponent = scaled(both, axis=1)
    down = -exponent[:, None, None]
    return (np.ldexp(moved[0], down), np.ldexp(moved[1], down)), centre, exponent.astype(np.int64)


def scored(score: Score, values: Floats, shape: tuple[int, ...]) -> Floats:
    """What a caller's score makes of the values."""
    found = np.asarray(score(values), dtype=np.float64)
    if found.shape != shape:
        raise AnalysisError(
            f"score gives an array of shape {found.shape} for one of {np.shape(values)}; "
            f"it is to take away the last dimension only, which leaves {shape}."
        )
    return found


def resampled(
    sides: tuple[Side, Side],
    run_counts: tuple[Floats | None, Floats | None],
    items: Iterator[npt.NDArray[Any]] | None,
    *,
    n_resamples: int,
    chunk: int,
) -> Floats:
    """Scores of base, other, and their difference in every resample, (3, resample, cell).

    ``run_counts`` are (resample, run), None where all runs count once; ``items`` yields
    blocks of (resample, item) in order, None where every item counts once. At most
    ``chunk`` resamples are scored at a time. Sums are divided last, so that whole-number
    scores have no rounding error and equal draws tie.
    """
    result = np.empty((3, n_resamples, sides[0].n_cell))
    once = [side.totals(np.ones((1, side.n_item))) for side in sides] if items is None else []
    with Bar("resampling", unit="resample", total=n_resamples) as bar:
        for start, stop, counts in _chunks(items, n_resamples, chunk):
            for k, (side, runs) in enumerate(zip(sides, run_counts, strict=True)):
                totals = once[k] if once else side.totals(counts)
                result[k, start:stop] = _over_runs(totals, None if runs is None else runs[start:stop])
            bar.to(stop)
    (base, other), (b, o) = sides, result[:2]
    n_base, n_other = base.n_run * base.scale, other.n_run * other.scale
    result[2] = (o * n_base - b * n_other) / (n_base * n_other)
    b /= n_base
    o /= n_other
    return result


def _chunks(
    blocks: Iterator[npt.NDArray[Any]] | None, n_resamples: int, chunk: int
) -> Iterator[tuple[int, int, npt.NDArray[Any]]]:
    """Counts of at most ``chunk`` resamples, with the numbers of the first and of the one after the last."""
    start = 0
    for block in [np.empty((n_resamples, 0))] if blocks is None else blocks:
        for row in range(0, len(block), chunk):
            part = block[row : row + chunk]
            yield start, start + len(part), part
            start += len(part)


def _over_runs(totals: Floats, counts: Floats | None) -> Floats:
    """(resample, cell): the totals of the drawn runs, added up."""
    if counts is None:
        return np.asarray(totals.sum(axis=2))
    if len(totals) == 1:
        return np.asarray(counts @ totals[0].T)
    return np.asarray(np.einsum("br,bcr->bc", counts, totals))


def pseudo_values(side: Side, *, n_groups: int = 200) -> Floats:
    """What each group of items stands for in each run's score, (cell, run, group).

    The mean over groups is close to the run's score; for a mean score the groups are the
    items themselves. For others these are the pseudo-values of a jackknife that leaves
    out every ``n_groups``-th item.
    """
    if side.score is None:
        return side.values
    n = min(side.n_item, n_groups)
    group = np.arange(side.n_item) % n
    if n < 2:
        return np.full((side.n_cell, side.n_run, n), np.nan)
    whole = side.totals(np.ones((1, side.n_item)))[0]
    left = np.empty((n, side.n_cell, side.n_run))
    for k in range(n):
        kept = (group != k).astype(np.float64)[None]
        if side.parts:  # means of parts are over all items: give the kept ones their weight
            kept *= side.n_item / kept.sum()
        left[k] = side.totals(kept)[0]
    return np.moveaxis(n * whole - (n - 1) * left, 0, -1)


def same_patterns(known: Bools) -> list[Ints]:
    """Cells (first axis) grouped by equal patterns of what is known."""
    if (known == known[0]).all():
        return [np.arange(len(known))]
    flat = np.packbits(known.reshape(len(known), -1), axis=1)
    _, group = np.unique(flat, axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    return [
        np.sort(part).astype(np.int64) for part in np.split(order, np.flatnonzero(np.diff(group.ravel()[order])) + 1)
    ]
