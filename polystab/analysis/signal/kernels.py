"""Trends, orders and ranges on plain arrays; NaN is not measured."""

from __future__ import annotations

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints, divided, scaled


def spread_of(values: Floats, *, axis: int) -> Floats:
    """Largest minus smallest number along an axis; NaN for fewer than two."""
    known = ~np.isnan(values)
    high = np.max(values, axis=axis, initial=-np.inf, where=known)
    low = np.min(values, axis=axis, initial=np.inf, where=known)
    with np.errstate(over="ignore"):
        return np.where(known.sum(axis=axis) > 1, high - low, np.nan)


def expected_range(n: Ints) -> Floats:
    """Mean range of n standard normal numbers (Tippett's d2), NaN below two."""
    from scipy.special import ndtr

    x = np.linspace(-9.0, 9.0, 4001)
    below = ndtr(x)
    sizes, which = np.unique(n, return_inverse=True)
    # The integrand vanishes with all its derivatives at both ends, where a plain sum is exact.
    table = [
        np.sum(1 - below**size - ndtr(-x) ** size) * (x[1] - x[0]) if size > 1 else np.nan for size in sizes.tolist()
    ]
    return np.asarray(np.array(table)[which.reshape(np.shape(n))])


def pair_agreement(scores: Floats, target: Floats) -> tuple[Floats, Floats, Ints]:
    """Share of pairs along the last axis that both put in the same order.

    Returns the share with ties counted half, the share with a tie taken for "not above",
    and the number of pairs; NaN where there is none.
    """
    shape = scores.shape[:-1]
    half, strict, pairs = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int64)
    for i in range(scores.shape[-1]):
        for j in range(i + 1, scores.shape[-1]):
            (s, s_known), (t, t_known) = (_order(side[..., i], side[..., j]) for side in (scores, target))
            known = s_known & t_known
            half += np.where(known, (1 + s * t) / 2, 0.0)
            strict += known & ((s > 0) == (t > 0))
            pairs += known
    return divided(half, pairs), divided(strict, pairs), pairs


def _order(a: Floats, b: Floats) -> tuple[Ints, Bools]:
    """1 where a is above b, -1 where below, else 0, and where both are known."""
    return (a > b).astype(np.int64) - (a < b), ~np.isnan(a) & ~np.isnan(b)


def rank_trends(series: Floats) -> dict[str, Floats]:
    """Kendall's tau-b and Spearman's correlation of each row (series, step) with the order of its steps.

    All pairs of steps are compared, one distance between them at a time; the same
    comparisons give the ranks.
    """
    values = np.ascontiguousarray(series.T)
    earlier, later, untied = (np.zeros(values.shape, dtype=np.int32) for _ in range(3))
    for lag in range(1, len(values)):  # a comparison with NaN is never true
        sign = (values[lag:] > values[:-lag]).view(np.int8) - (values[lag:] < values[:-lag]).view(np.int8)
        earlier[lag:] += sign
        later[:-lag] += sign
        untied[lag:] += sign & 1
    known = ~np.isnan(series)
    # Twice the mean rank, less a constant: how many are smaller minus how many are larger.
    rank = (earlier - later).T.astype(np.float64)
    balance, pairs_untied = earlier.sum(axis=0), untied.sum(axis=0)
    order = np.where(known, np.cumsum(known, axis=1), 0.0)
    n = known.sum(axis=1)
    order = np.where(known, order - (n[:, None] + 1) / 2, 0.0)
    covariance = (rank * order).sum(axis=1)
    return {
        "kendall": divided(balance, np.sqrt(n * (n - 1) / 2 * pairs_untied)),
        "spearman": divided(covariance, np.sqrt((rank**2).sum(axis=1) * (order**2).sum(axis=1))),
        "n": n.astype(np.float64),
    }


def drifts(series: Floats) -> dict[str, Floats]:
    """Signs and sizes of the changes from one number to the next in each row (series, step)."""
    known = ~np.isnan(series)
    packed = np.take_along_axis(series, np.argsort(~known, axis=1, kind="stable"), axis=1)
    n = known.sum(axis=1)
    change = np.diff(packed, axis=1)  # NaN beyond the last number
    up, down = (change > 0).sum(axis=1), (change < 0).sum(axis=1)
    total = np.where(np.isnan(change), 0.0, np.abs(change)).sum(axis=1)
    if not series.shape[1]:
        last = first = np.full(len(series), np.nan)
    else:
        first, last = packed[:, 0], np.take_along_axis(packed, np.maximum(n - 1, 0)[:, None], axis=1)[:, 0]
    steps = np.maximum(n - 1, 0)
    variation = divided(total, steps)
    return {
        "sign": divided(up - down, up + down),
        "total_variation": variation,
        "excess_variation": np.maximum(divided(total - np.abs(last - first), steps), 0.0),
        "relative_variation": divided(variation, spread_of(series, axis=1)),
    }


def leave_one_out_variances(sd: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Without each run in turn: mean square of ``sd``, and variance (ddof 1) of ``values``, (model, seed, metric).

    Both have gaps at the same runs; a run with a gap gets what all others give.
    """
    known = ~np.isnan(values)
    n = known.sum(axis=1, keepdims=True) - known
    # In one unit for both, so that neither squares overflow nor their ratio changes.
    n_run = sd.shape[1]
    both = scaled(np.concatenate([sd, values], axis=1), axis=1)[0]
    sd, values = both[:, :n_run], both[:, n_run:]
    squares = np.where(known, sd, 0.0) ** 2
    own = divided(squares.sum(axis=1, keepdims=True) - squares, n)
    centre = divided(np.where(known, values, 0.0).sum(axis=1, keepdims=True), known.sum(axis=1, keepdims=True))
    rest = np.where(known, values - centre, 0.0)
    total, square = rest.sum(axis=1, keepdims=True) - rest, (rest**2).sum(axis=1, keepdims=True) - rest**2
    variance = divided(square - divided(total**2, n), np.maximum(n - 1, 0))
    return own, np.maximum(variance, 0.0)
