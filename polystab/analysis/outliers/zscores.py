"""z of values among runs: robust, with the run itself left out, and plain."""

from __future__ import annotations

import numpy as np

from polystab.analysis.arrays import Floats, Ints, divided, finite, mean, median, moments, scaled
from polystab.analysis.outliers.kernels import ROUNDING

# 0.6745 x deviation / MAD: Iglewicz and Hoaglin (1993). 0.6745 and sqrt(pi / 2) = 1.253314 make
# the MAD and the mean absolute deviation estimates of a normal standard deviation.
NORMAL_MAD = 0.6745
NORMAL_MEAN_AD = 1.253314

# With two runs each is as far from the median as the other.
MIN_RUNS = 3


def robust_z(values: Floats, reference: Floats | None = None) -> tuple[Floats, Ints]:
    """Robust z of each value among the runs along axis 1, and how many runs there were.

    Parameters
    ----------
    values : (model, seed, ...) array
        NaN for not measured, infinite for diverged.
    reference : array of the same shape, optional
        The values that make median and MAD, if not all of them do.

    Returns
    -------
    score : array of the same shape
        NaN where not measured, or with fewer than three finite reference runs. Infinite
        values are scored infinite wherever at least three runs are measured.
    n : array without axis 1
        Finite reference runs.
    """
    # A z does not change with the units; in these, differences of huge values do not overflow.
    small, exponent = scaled(finite(values), axis=1)
    base = small if reference is None else np.ldexp(finite(reference), -exponent[:, None])
    centre = median(base, axis=1)[:, None]
    deviation = _without_rounding(base - centre, centre)
    spread = np.abs(deviation)
    scale = median(spread, axis=1) / NORMAL_MAD
    fallback = mean(spread, axis=1) * NORMAL_MEAN_AD
    scale = np.where(scale > 0, scale, fallback)[:, None]
    off = _without_rounding(small - centre, centre)
    score = np.where(off == 0, np.where(np.isnan(scale), np.nan, 0.0), divided(off, scale))
    # A scale of 0 with a deviation can only be a run outside the reference.
    score = np.where((off != 0) & (scale == 0), np.copysign(np.inf, off), score)
    n = np.sum(~np.isnan(base), axis=1).astype(np.int64)
    score = np.where((n >= MIN_RUNS)[:, None] & ~np.isnan(values), score, np.nan)
    diverged = np.isinf(values) & (np.sum(~np.isnan(values), axis=1) >= MIN_RUNS)[:, None]
    return np.where(diverged, values, score), n


def leave_one_out(values: Floats, counted: Floats) -> tuple[Floats, Ints]:
    """t of each value against the other runs along axis 1, and how many runs there were.

    Parameters
    ----------
    values : (model, seed, ...) array
        NaN for not measured, infinite for diverged.
    counted : array of the same shape
        The values that make mean and standard deviation; NaN for copies.

    Returns
    -------
    score : array of the same shape
        NaN where not measured or with fewer than two others; infinite where the others are all
        equal and the run is not, and for infinite values if three or more runs are measured.
    n : array without axis 1
        Finite runs that count.
    """
    small, exponent = scaled(finite(values), axis=1)
    base = np.ldexp(finite(counted), -exponent[:, None])
    centre = median(base, axis=1)[:, None]
    off = _without_rounding(small - centre, centre)
    base = _without_rounding(base - centre, centre)
    score = np.full(values.shape, np.nan)
    for run in range(values.shape[1]):
        others = np.delete(base, run, axis=1)
        known = ~np.isnan(others)
        n_others = known.sum(axis=1)
        middle = divided(np.sum(others, axis=1, where=known), n_others)
        # Two passes: a difference of sums of squares would lose the others beside one huge run.
        squares = np.sum((others - middle[:, None]) ** 2, axis=1, where=known)
        spread = np.sqrt(divided(squares, n_others - 1.0) * (1 + divided(1.0, n_others)))
        gap = off[:, run] - middle
        t = np.where(gap == 0, 0.0, np.where(spread == 0, np.copysign(np.inf, gap), divided(gap, spread)))
        score[:, run] = np.where((n_others >= MIN_RUNS - 1) & ~np.isnan(gap), t, np.nan)
    diverged = np.isinf(values) & (np.sum(~np.isnan(values), axis=1) >= MIN_RUNS)[:, None]
    return np.where(diverged, values, score), np.sum(~np.isnan(base), axis=1).astype(np.int64)


def plain_z(values: Floats, counted: Floats) -> tuple[Floats, Ints]:
    """z of each value: deviation from the mean of all runs along axis 1 over their SD (ddof 1), and how many there were.

    Parameters and Returns are those of :func:`leave_one_out`; with fewer than three runs a score is NaN.
    """
    centre = median(finite(counted), axis=1)[:, None]
    off = _without_rounding(finite(values) - centre, centre)
    middle, spread, n = moments(_without_rounding(finite(counted) - centre, centre), axis=1)
    gap = off - middle[:, None]
    score = np.where(
        spread[:, None] == 0, np.where(gap == 0, 0.0, np.copysign(np.inf, gap)), divided(gap, spread[:, None])
    )
    score = np.where((n >= MIN_RUNS)[:, None] & ~np.isnan(gap), score, np.nan)
    diverged = np.isinf(values) & (np.sum(~np.isnan(values), axis=1) >= MIN_RUNS)[:, None]
    return np.where(diverged, values, score), n


def _without_rounding(deviation: Floats, centre: Floats) -> Floats:
    return np.where(np.abs(deviation) <= ROUNDING * np.abs(centre), 0.0, deviation)
