"""Difference of two groups of runs, on plain arrays: t tests, effect sizes, equivalence.

Groups are (run, ...) arrays with NaN where nothing was measured; every cell is tested by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints, divided, finite, moments, scaled, unscaled
from polystab.analysis.components.kernels import rounding
from polystab.analysis.variance import MIN_RUNS

# How a cell was tested, as a code and a word.
METHODS = ("none", "welch", "paired", "borrowed")
NONE, WELCH, PAIRED, BORROWED = range(4)

# Why a cell was not tested.
REASONS = ("given", "not_measured", "few_seeds", "no_spread", "same_runs")
GIVEN, NOT_MEASURED, FEW_SEEDS, NO_SPREAD, SAME_RUNS = range(5)


@dataclass(frozen=True)
class Contrast:
    """Other minus this, cell by cell.

    ``mean``, ``sd`` (ddof 1) and ``n`` are (side, ...) with this side first; all else has the shape of a cell.
    ``spread`` is the seed standard deviation that effects are counted in, ``spread_df`` its degrees of freedom.
    """

    mean: Floats
    sd: Floats
    n: Ints
    difference: Floats
    stderr: Floats
    df: Floats
    spread: Floats
    spread_df: Floats
    method: Ints
    reason: Ints

    @property
    def t(self) -> Floats:
        """The t statistic; NaN where nothing was tested."""
        return divided(self.difference, self.stderr)


def contrast(this: Floats, other: Floats, *, paired: bool = False, same: Bools | None = None) -> Contrast:
    """Compare two groups (run, ...) in every cell; of pairs, run k of one belongs to run k of the other.

    Cells in which the two are the ``same`` runs are not tested.
    """
    this, other = finite(this), finite(other)
    if paired:
        both = ~np.isnan(this) & ~np.isnan(other)
        this, other = np.where(both, this, np.nan), np.where(both, other, np.nan)
    joined, exponent = scaled(np.concatenate([this, other]), axis=0)
    noise = np.sqrt(rounding(joined.reshape(len(joined), -1)).reshape(joined.shape[1:]))
    small = joined[: len(this)], joined[len(this) :]
    (mean_a, sd_a, n_a), (mean_b, sd_b, n_b) = (moments(side, axis=0) for side in small)
    mean, sd, n = np.stack([mean_a, mean_b]), np.stack([sd_a, sd_b]), np.stack([n_a, n_b])
    sd = np.where(sd <= noise, np.where(np.isnan(sd), np.nan, 0.0), sd)
    if paired:
        difference, error, df, between = _paired(small[0], small[1], noise)
        method = np.where(n[0] >= MIN_RUNS, PAIRED, NONE)
    else:
        difference, error, df = _independent(mean, sd, n)
        between = np.zeros_like(difference)
        most, least = n.max(axis=0), n.min(axis=0)
        method = np.where(least >= MIN_RUNS, WELCH, np.where((least > 0) & (most >= MIN_RUNS), BORROWED, NONE))
    if same is not None:
        method = np.where(same, NONE, method)
    tested = (method != NONE) & (error > 0)
    reason = np.where(
        tested, GIVEN, np.where(method != NONE, NO_SPREAD, np.where((n > 0).all(0), FEW_SEEDS, NOT_MEASURED))
    )
    spread, spread_df = _spread(sd, n, between)
    return Contrast(
        unscaled(mean, exponent),
        unscaled(sd, exponent),
        n,
        unscaled(difference, exponent),
        np.where(tested, unscaled(error, exponent), np.nan),
        np.where(tested, df, np.nan),
        unscaled(spread, exponent),
        spread_df,
        np.where(tested, method, NONE),
        reason,
    )


def _independent(mean: Floats, sd: Floats, n: Ints) -> tuple[Floats, Floats, Floats]:
    """Difference, its standard error and degrees of freedom of two independent groups.

    A group of fewer than three runs has no spread of its own that can be trusted: it takes that of the other.
    """
    enough = n >= MIN_RUNS
    part = np.where(enough, sd**2 / np.maximum(n, 1), 0.0)
    variance = part.sum(axis=0)
    df = divided(variance**2, (part**2 / np.maximum(n - 1, 1)).sum(axis=0))
    lone = enough.sum(axis=0) == 1
    whole = np.where(enough, sd, 0.0).max(axis=0)
    borrowed = whole * np.sqrt((1 / np.maximum(n, 1)).sum(axis=0))
    error = np.where(lone, borrowed, np.sqrt(variance))
    return mean[1] - mean[0], error, np.where(lone, np.where(enough, n - 1, 0).max(axis=0), df)


def _paired(this: Floats, other: Floats, noise: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """The same of pairs, and the squared correlation of the sides times the product of their variances."""
    gap = other - this
    difference, sd, n = moments(gap, axis=0)
    sd = np.where(sd <= 2 * noise, 0.0, sd)
    centred = [side - moments(side, axis=0)[0] for side in (this, other)]
    covariance = divided(np.nansum(centred[0] * centred[1], axis=0), n - 1.0)
    return difference, divided(sd, np.sqrt(n)), np.asarray(n - 1.0), covariance**2


def _spread(sd: Floats, n: Ints, between: Floats) -> tuple[Floats, Floats]:
    """Root mean variance of the sides with three runs or more, and its degrees of freedom (Satterthwaite).

    ``between`` is the squared covariance of the sides, which makes their variances go together.
    """
    enough = n >= MIN_RUNS
    square = np.where(enough, sd**2, 0.0)
    count = enough.sum(axis=0)
    total = square.sum(axis=0)
    noise = (square**2 / np.maximum(n - 1, 1)).sum(axis=0) + 2 * between / np.maximum(n[0] - 1, 1)
    return np.sqrt(divided(total, count)), divided(total**2, noise)


def t_interval(found: Contrast, level: float) -> tuple[Floats, Floats]:
    """Ends of the interval of the difference."""
    from scipy.special import stdtrit

    known = ~np.isnan(found.df)
    reach = np.where(known, stdtrit(np.where(known, found.df, 1.0), 0.5 + level / 2), np.nan) * found.stderr
    return found.difference - reach, found.difference + reach


def t_p(found: Contrast) -> Floats:
    """Two-sided p of no difference."""
    from scipy.special import stdtr

    known = ~np.isnan(found.t)
    p = 2 * stdtr(np.where(known, found.df, 1.0), -np.abs(np.where(known, found.t, 0.0)))
    return np.where(known, p, np.nan)


def effect_size(found: Contrast, level: float) -> tuple[Floats, Floats, Floats]:
    """Difference in seed standard deviations without its bias (Hedges' g), and the ends of its interval."""
    from scipy.special import gammaln

    t = found.t
    unit = divided(found.stderr, found.spread)
    df = np.where(found.spread_df > 1, found.spread_df, np.nan)
    bias = np.exp(gammaln(df / 2) - gammaln((df - 1) / 2)) / np.sqrt(df / 2)
    tail = (1 - level) / 2
    size = np.abs(t)
    near, far = noncentrality(found.df, 1 - tail, size) * unit, noncentrality(found.df, tail, size) * unit
    # Worked out for a positive difference and turned round for a negative one, so that the two mirror each other.
    turned = t < 0
    return bias * t * unit, np.where(turned, -far, near), np.where(turned, -near, far)


def noncentrality(df: Floats, share: float, t: Floats) -> Floats:
    """The noncentrality for which a t variable lies below ``t`` with the probability ``share``."""
    from scipy.special import nctdtrinc

    known = ~np.isnan(df) & ~np.isnan(t)
    found = nctdtrinc(np.where(known, df, 1.0), share, np.where(known, t, 0.0))
    return np.where(known, found, np.nan)


def detectable(df: Floats, stderr: Floats, *, power: float, alpha: Floats | float) -> Floats:
    """The true difference that a two-sided t test with this standard error finds with the power asked for."""
    from scipy.special import stdtrit

    known = ~np.isnan(df)
    critical = np.where(known, stdtrit(np.where(known, df, 1.0), 1 - np.asarray(alpha) / 2), np.nan)
    return noncentrality(df, 1 - power, critical) * stderr


def equivalence_p(found: Contrast, margin: Floats, *, standardised: Bools) -> Floats:
    """p of a difference of at least ``margin``: the larger of two one-sided tests.

    A margin in units of the metric shifts the difference. One that is a number of seed standard deviations is itself
    estimated, and the test is one of a noncentral t; of pairs it takes the standard error of independent sides, because
    what pairing saves is estimated too.
    """
    from scipy.special import nctdtr, stdtr

    usable = ((found.method == WELCH) | (found.method == PAIRED)) & (margin > 0)
    df, error = np.where(usable, found.df, 1.0), np.where(usable, found.stderr, 1.0)
    plain = stdtr(df, (np.abs(np.where(usable, found.difference, 0.0)) - margin) / error)
    by_spread = usable & standardised & (found.spread > 0)
    unit = np.where(by_spread, found.spread, 1.0)
    sd = np.where(by_spread, found.sd / unit, 1.0)
    _, apart, freedom = _independent(sd, sd, found.n)
    apart, freedom = np.where(by_spread, apart, 1.0), np.where(by_spread, freedom, 1.0)
    gap = np.where(by_spread, np.abs(found.difference) / unit, 0.0)
    moved = nctdtr(freedom, np.where(by_spread, margin / unit, 1.0) / apart, gap / apart)
    # Far below its centre the noncentral t has chances too small for a number.
    return np.where(usable, np.where(standardised, np.nan_to_num(moved), plain), np.nan)
