"""Intervals, standard errors and p-values from resamples and from variance parts, on plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polystab.analysis.arrays import Floats, divided

INTERVALS = ("percentile", "bca", "t")

# Draws closer than this share of their range are equal.
_ROUNDING = 1e-11


def ends(draws: Floats, low: Floats, high: Floats) -> Floats:
    """Quantiles ``low`` and ``high`` (cell) of sorted draws (resample, cell): (2, cell), type 7."""
    result = np.empty((2, draws.shape[1]))
    for k, share in enumerate((low, high)):
        place = np.clip(share, 0.0, 1.0) * (len(draws) - 1)
        below = np.floor(place).astype(np.intp)
        above = np.minimum(below + 1, len(draws) - 1)
        a = np.take_along_axis(draws, below[None], axis=0)[0]
        b = np.take_along_axis(draws, above[None], axis=0)[0]
        result[k] = a + (place - below) * (b - a)
    return result


def percentile_interval(draws: Floats, level: float) -> Floats:
    """(2, cell) from sorted draws (resample, cell)."""
    tail = np.full(draws.shape[1], (1 - level) / 2)
    return ends(draws, tail, 1 - tail)


def bca_interval(draws: Floats, estimate: Floats, acceleration: Floats, level: float) -> Floats:
    """Bias-corrected and accelerated interval (Efron 1987), (2, cell), from sorted draws."""
    from scipy.special import ndtr, ndtri

    z0 = ndtri(share_below(draws, estimate))
    known = np.isfinite(z0)  # else all draws are on one side of the estimate: the bias has no end
    z0 = np.where(known, z0, 0.0)
    quantiles = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        moved = z0 + ndtri(tail)
        quantiles.append(ndtr(z0 + moved / (1 - acceleration * moved)))
    return np.where(known, ends(draws, quantiles[0], quantiles[1]), np.nan)


def share_below(draws: Floats, value: Floats | float) -> Floats:
    """Share of the sorted draws below a value, those equal to it counted half, (cell).

    Equal but for rounding, which would otherwise decide where scores are counts of answers.
    """
    gap = _ROUNDING * (draws[-1] - draws[0])
    return np.asarray(((draws < value - gap).mean(axis=0) + (draws <= value + gap).mean(axis=0)) / 2)


def percentile_p(draws: Floats) -> Floats:
    """Two-sided p of a difference of zero from sorted draws, at least ``2 / (resamples + 1)``."""
    n, gap = len(draws), _ROUNDING * (draws[-1] - draws[0])
    tails = [(1 + side.sum(axis=0)) / (n + 1) for side in (draws <= gap, draws >= -gap)]
    return np.asarray(np.minimum(2 * np.minimum(*tails), 1.0))


def bca_p(draws: Floats, estimate: Floats, acceleration: Floats) -> Floats:
    """Two-sided p at which an end of the BCa interval is zero, at least ``2 / (resamples + 1)``."""
    from scipy.special import ndtr, ndtri

    n, below = len(draws), share_below(draws, 0.0)
    z0 = ndtri(share_below(draws, estimate))
    known = np.isfinite(z0)
    z0 = np.where(known, z0, 0.0)
    inside = (below > 0) & (below < 1)
    far = ndtri(np.where(inside, below, 0.5)) - z0
    bend = 1 + acceleration * far
    inside &= bend > 0  # else no interval of this kind reaches as far as zero
    tail = np.where(inside, ndtr(far / np.where(inside, bend, 1.0) - z0), 0.0)
    p = np.clip(2 * np.minimum(tail, 1 - tail), 2 / (n + 1), 1.0)
    return np.where(draws[0] == draws[-1], percentile_p(draws), np.where(known, p, np.nan))


@dataclass(frozen=True)
class Shares:
    """What the variance of a mean over runs and items is made of, each (cell).

    ``runs`` and ``items`` are the variances of the mean that the spread of run means and of
    item means give; both contain ``crossed``, what run x item adds. The counts are degrees
    of freedom. NaN with a single run or item.
    """

    runs: Floats
    items: Floats
    crossed: Floats
    df: tuple[float, float, float]


def two_way(values: Floats) -> Shares:
    """Of (cell, run, item)."""
    n_run, n_item = values.shape[1:]
    run, item = values.mean(axis=2), values.mean(axis=1)
    grand = run.mean(axis=1)
    df = (n_run - 1.0, n_item - 1.0, (n_run - 1.0) * (n_item - 1.0))
    runs = divided(((run - grand[:, None]) ** 2).sum(axis=1), n_run * df[0])
    items = divided(((item - grand[:, None]) ** 2).sum(axis=1), n_item * df[1])
    square = np.einsum("crx,crx->c", values, values)
    rest = square - n_item * (run**2).sum(1) - n_run * (item**2).sum(1) + n_run * n_item * grand**2
    # Differences of large sums: below this nothing but rounding is left.
    rest = np.where(rest > 1e-13 * square, rest, 0.0)
    return Shares(runs, items, divided(rest, n_run * n_item * df[2]), df)


def t_spread(shares: list[Shares], items: Floats, item_df: float, resample: str) -> tuple[Floats, Floats]:
    """Standard error of a (difference of) mean(s) and its degrees of freedom, by Satterthwaite.

    ``shares`` are of the samples of runs; ``items`` is the variance that the items give the
    whole. Runs and items both contain run x item, which is taken off once.
    """
    runs = np.sum([share.runs for share in shares], axis=0)
    crossed = np.sum([share.crossed for share in shares], axis=0)
    terms = [share.runs**2 / share.df[0] for share in shares if share.df[0] > 0]
    if resample == "items":
        return np.sqrt(items), np.full(items.shape, item_df)
    if resample == "seeds":
        return np.sqrt(runs), divided(runs**2, np.sum(terms, axis=0))
    variance = np.maximum(runs + items - crossed, np.maximum(runs, items))
    terms += [items**2 / item_df] if item_df > 0 else []
    terms += [share.crossed**2 / share.df[2] for share in shares if share.df[2] > 0]
    return np.sqrt(variance), divided(variance**2, np.sum(terms, axis=0))


def acceleration(influence: list[Floats]) -> Floats:
    """The constant *a* of BCa from the influence of every unit of every sample, each (cell, unit).

    A sixth of the skewness of the sum: ``sum u^3 / (6 (sum u^2)^(3/2))`` (Efron 1987).
    """
    cubes = np.sum([(u**3).sum(axis=1) for u in influence], axis=0)
    squares = np.sum([(u**2).sum(axis=1) for u in influence], axis=0)
    return np.nan_to_num(divided(cubes, 6 * squares**1.5))


class Spread:
    """What the variance of each side and of the difference is made of."""

    def __init__(self, base: Floats, other: Floats, n_item: int, design: str, resample: str) -> None:
        self.n_item, self.design, self.resample = n_item, design, resample
        n_group = base.shape[2]
        means = base.mean(axis=1), other.mean(axis=1)
        b, o = two_way(base), two_way(other)
        if design == "paired":
            rest = [two_way(other - base)]
            run_means = [(other - base).mean(axis=2)]
        elif design == "fixed":
            rest = [two_way(other - means[0][:, None])]
            run_means = [other.mean(axis=2)]
        else:
            rest = [b, o]
            run_means = [base.mean(axis=2), other.mean(axis=2)]
        between = means[1] - means[0]
        gap = between - between.mean(axis=1, keepdims=True)
        df = n_group - 1.0
        items = (gap**2).sum(axis=1) / (n_group * df) if df > 0 else np.full(len(gap), np.nan)
        self.shares: list[list[Shares]] = [[b], [o], rest]
        self.items = [b.items, o.items, items]
        self.item_df = df
        self.influence = [
            self._influence([base.mean(axis=2)], means[0]),
            self._influence([other.mean(axis=2)], means[1]),
            self._influence(run_means, between, signs=(-1.0, 1.0)),
        ]

    def _influence(self, run_means: list[Floats], items: Floats, signs: tuple[float, ...] = (1.0,)) -> Floats:
        """The acceleration of BCa of one side, (cell)."""
        parts = [(items - items.mean(axis=1, keepdims=True)) / items.shape[1]]
        if self.resample == "seeds":
            parts = []
        if self.resample != "items":
            signs = signs if len(run_means) == len(signs) else (1.0,)
            parts += [
                sign * (mean - mean.mean(axis=1, keepdims=True)) / mean.shape[1]
                for sign, mean in zip(signs, run_means, strict=True)
            ]
        return acceleration(parts)

    def variance(self) -> Floats:
        """Unbiased estimates of the parts, (cell, side, part), per run and item."""
        result = np.empty((len(self.items[0]), 3, 3))
        for side, (shares, items) in enumerate(zip(self.shares, self.items, strict=True)):
            n = [share.df[0] + 1 for share in shares]
            crossed = np.sum([share.crossed for share in shares], axis=0)
            result[:, side, 0] = np.sum([k * (s.runs - s.crossed) for k, s in zip(n, shares, strict=True)], axis=0)
            result[:, side, 1] = self.n_item * (items - crossed)
            result[:, side, 2] = np.sum([k * self.n_item * s.crossed for k, s in zip(n, shares, strict=True)], axis=0)
        return result


def interval_columns(
    draws: Floats, estimate: Floats, spread: Spread, level: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """Ends (cell, end, side, interval), standard errors (cell, side, interval), df (cell, side), p (cell, interval)."""
    from scipy.special import stdtr, stdtrit

    design, resample, n_cell = spread.design, spread.resample, draws.shape[2]
    ends, stderr = np.empty((n_cell, 2, 3, 3)), np.empty((n_cell, 3, 3))
    df, p = np.empty((n_cell, 3)), np.empty((n_cell, 3))
    for side in range(3):
        ordered, value, a = np.sort(draws[side], axis=0), estimate[side], spread.influence[side]
        fixed = design == "fixed" and side == 0
        kind = "items" if fixed and resample == "both" else resample
        error, df[:, side] = t_spread(spread.shares[side], spread.items[side], spread.item_df, kind)
        if fixed and resample == "seeds":  # nothing of it is drawn
            error, df[:, side] = np.zeros(n_cell), np.nan
        reach = stdtrit(np.where(df[:, side] > 0, df[:, side], 1.0), 0.5 + level / 2) * error
        ends[:, :, side, 0] = percentile_interval(ordered, level).T
        ends[:, :, side, 1] = bca_interval(ordered, value, a, level).T
        ends[:, :, side, 2] = np.stack([value - reach, value + reach], axis=1)
        stderr[:, side, :2] = _sd(ordered)[:, None]
        stderr[:, side, 2] = error
    known = error > 0
    tail = stdtr(np.where(known, df[:, 2], 1.0), -np.abs(value) / np.where(known, error, 1.0))
    p[:, 0], p[:, 1] = percentile_p(ordered), bca_p(ordered, value, a)
    p[:, 2] = np.where(known, np.maximum(2 * tail, np.finfo(float).tiny), np.where(value == 0, 1.0, np.nan))
    return ends, stderr, df, p


def _sd(ordered: Floats) -> Floats:
    """SD (ddof 1) of sorted draws, exactly zero where all are equal."""
    if len(ordered) < 2:
        return np.full(ordered.shape[1], np.nan)
    return np.where(ordered[0] == ordered[-1], 0.0, ordered.std(axis=0, ddof=1))
