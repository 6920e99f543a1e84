"""Standard errors over items and over runs, and intervals of a statistic that is at most 1.

The variance of a mean over runs or pairs of runs has two parts: that of drawing other
items with these runs, and that of drawing other runs with all items there could be. The
first is the infinitesimal jackknife over items. The second is the delete-one jackknife
over runs (a run leaves with all its pairs) less what the sampling of items alone
contributes to it, which is the same jackknife of what each item adds.
"""

from __future__ import annotations

import numpy as np

from polystab.analysis.arrays import Bools, Floats, divided
from polystab.analysis.variance import MIN_RUNS

# With fewer items the variance over items is hardly known.
MIN_ITEMS = 10


def run_jackknife(left_out: Floats, used: Bools) -> Floats:
    """Jackknife variance from the statistic without each run, along the last axis."""
    count = used.sum(axis=-1)
    known = used & ~np.isnan(left_out)
    plain = np.where(known, left_out, 0.0)
    mean = divided(plain.sum(axis=-1), known.sum(axis=-1))[..., None]
    square = np.sum(np.where(known, plain - mean, 0.0) ** 2, axis=-1)
    complete = (known.sum(axis=-1) == count) & (count >= MIN_RUNS)
    return np.where(complete, square * divided(count - 1, count), np.nan)


def jackknife_of_items(influence: Floats, used: Bools) -> Floats:
    """The same for what each item adds, (..., run, item), summed over the items."""
    count = used.sum(axis=-1)
    plain = np.where(used[..., None], influence, 0.0)
    mean = np.nan_to_num(divided(plain.sum(axis=-2), np.broadcast_to(count[..., None], plain[..., 0, :].shape)))
    square = np.einsum("...ri,...ri->...", plain, plain) - count * np.einsum("...i,...i->...", mean, mean)
    return np.asarray(np.maximum(square, 0.0) * np.nan_to_num(divided(count - 1, count)))


def means(each: Floats, weight: Floats, factor: int) -> tuple[Floats, Floats]:
    """Weighted mean of sums over runs (..., run), and that without each run.

    ``factor`` is 2 where ``each`` are sums over the pairs of a run, because a pair is with
    two runs, else 1.
    """
    total, of = each.sum(axis=-1), weight.sum(axis=-1)
    return divided(total, of), divided(total[..., None] - factor * each, of[..., None] - factor * weight)


def item_variances(influence: Floats, weight: Floats, factor: int) -> tuple[Floats, Floats, Floats]:
    """Variances by the sampling of items: of each run's mean, of the mean of all, of its jackknife over runs."""
    own = divided(np.einsum("...ri,...ri->...r", influence, influence), weight**2)
    total, of = influence.sum(axis=-2), weight.sum(axis=-1)
    overall = divided(np.einsum("...i,...i->...", total, total), of**2)
    rest = (of[..., None] - factor * weight)[..., None]
    left_out = np.nan_to_num(divided(total[..., None, :] - factor * influence, np.broadcast_to(rest, influence.shape)))
    return own, overall, jackknife_of_items(left_out, weight > 0)


def item_interval(
    value: Floats, by_items: Floats, n_items: Floats, p_e: Floats, *, level: float
) -> tuple[Floats, Floats]:
    """Interval over items only."""
    enough = n_items >= MIN_ITEMS
    return _ends(value, np.where(enough, by_items, np.nan), n_items - 1.0, n_items, p_e, level)


def run_interval(
    value: Floats,
    by_items: Floats,
    by_runs: Floats,
    shared: Floats,
    n_runs: Floats,
    n_items: Floats,
    p_e: Floats,
    *,
    level: float,
) -> tuple[Floats, Floats]:
    """Interval over items and runs; degrees of freedom after Satterthwaite."""
    variance = by_items + np.maximum(by_runs - shared, 0.0)
    # What the runs add is as badly known as the jackknife it is taken from, even where it comes out as 0.
    spread = divided(np.minimum(by_runs, variance) ** 2, n_runs - 1.0) + divided(by_items**2, n_items - 1.0)
    df = np.where(variance == 0, n_runs - 1.0, divided(variance**2, spread))
    enough = (n_runs >= MIN_RUNS) & (n_items >= MIN_ITEMS)
    return _ends(value, np.where(enough, variance, np.nan), df, n_items, p_e, level)


def _ends(
    value: Floats, variance: Floats, df: Floats, n_items: Floats, p_e: Floats, level: float
) -> tuple[Floats, Floats]:
    """Ends of an interval that is symmetric for log(1 - value), and so never reaches above 1.

    Where nothing disagrees the standard error is 0 and says nothing; then the lower end
    is what the exact interval of a share of 0 in ``n_items`` allows.
    """
    from scipy.special import stdtrit

    tail = (1 - level) / 2
    known = ~np.isnan(value) & ~np.isnan(variance)
    distance = np.where(known, 1 - value, 1.0)
    some = distance > 1e-12
    quantile = stdtrit(np.where(known & (df > 0), df, 1.0), 1 - tail)
    width = quantile * divided(np.sqrt(np.where(known, variance, 0.0)), np.where(some, distance, 1.0))
    most = divided(-np.expm1(np.log(tail) / np.maximum(n_items, 1.0)), 1 - p_e)
    with np.errstate(over="ignore"):
        lower = np.where(some, 1 - distance * np.exp(width), 1 - most)
    upper = np.where(some, 1 - distance * np.exp(-width), 1.0)
    return np.where(known, np.maximum(lower, -1.0), np.nan), np.where(known, upper, np.nan)
