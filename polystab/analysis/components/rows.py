"""Rows of a variance decomposition: strata, test items and the total."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polystab.analysis.arrays import Bools, Floats, divided


@dataclass(frozen=True)
class Row:
    """One component of some cells; every array is (cell,)."""

    variance: Floats
    estimate: Floats
    lower: Floats
    upper: Floats
    p: Floats
    df: Floats
    mean_square: Floats
    size: Floats


def mean_square_error(stderr: Floats, known: Bools, n_model: int) -> Floats:
    """Mean squared standard error of the runs, weighted as their spread within models is."""
    square = np.where(known & np.isfinite(stderr), stderr, np.nan) ** 2
    square = square.reshape(n_model, len(square) // max(n_model, 1), square.shape[1])
    count = known.reshape(square.shape).sum(axis=1)
    per_model = divided(np.nansum(square, axis=1), (~np.isnan(square)).sum(axis=1))
    weight = np.maximum(count - 1, 0)
    weight = np.where(weight.sum(axis=0) > 0, weight, count)
    counted = np.where(weight > 0, weight * per_model, 0.0)
    return divided(counted.sum(axis=0), weight.sum(axis=0))


def split_items(within: Row, items: Floats) -> list[Row]:
    """Seed net of items, items, and the two together; where items are unknown, seed is all of it."""
    from scipy.special import gammaincc

    nan = np.full(items.shape, np.nan)
    taken = np.where(np.isnan(items), 0.0, items)
    estimate = within.estimate - taken
    known = ~np.isnan(items) & ~np.isnan(within.estimate)
    half = np.where(known, within.df, 2.0) / 2
    with np.errstate(over="ignore"):
        ratio = np.where((items == 0) & (within.estimate > 0), np.inf, divided(within.estimate, items))
    usable = known & ~np.isnan(ratio)
    p = np.full(items.shape, np.nan)
    p[usable] = gammaincc(half[usable], half[usable] * ratio[usable])
    seed = Row(
        np.maximum(within.variance - taken, 0.0),
        estimate,
        np.maximum(within.lower - taken, 0.0),
        np.maximum(within.upper - taken, 0.0),
        p,
        within.df,
        within.mean_square,
        within.size,
    )
    shown = np.fmin(items, np.where(np.isnan(items), np.nan, within.variance))
    return [seed, Row(shown, items, nan, nan, nan, nan, items, np.ones_like(items)), within]


def total_row(parts: list[Row], lower: Floats, upper: Floats) -> Row:
    """The sum of the parts that are known, where the last one is."""
    known = ~np.isnan(parts[-1].estimate)
    estimate, variance = (
        np.where(known, np.nansum(np.stack([getattr(row, name) for row in parts]), axis=0), np.nan)
        for name in ("estimate", "variance")
    )
    nan = np.full(estimate.shape, np.nan)
    return Row(variance, estimate, lower, upper, nan, nan, nan, nan)
