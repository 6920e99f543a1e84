"""First-order autocorrelated noise in short windows: its correlation, and what it does to mean squares.

A series of K checkpoints has covariance ``s^2 R`` with ``R[i, j] = rho^|x_i - x_j|``. What was
fitted to it (its mean, or a line) is projected out. Expectations and variances of quadratic
forms of the rest are exact; they are tabulated over rho once for each set of positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from polystab.analysis.arrays import Floats, divided

# Correlations of the table. A walk without return (rho = 1) has no variance of its own, so it ends below.
_LOWEST, _HIGHEST, _POINTS = -0.9, 0.98, 161


@dataclass(frozen=True)
class NoiseTable:
    """What the noise of one series does, over a grid of correlations ``rho``.

    Attributes
    ----------
    rho : numpy.ndarray
        Correlations, increasing.
    ratio : numpy.ndarray
        Expectation of the lag-1 sum of products of the residuals over that of their squares.
    of_mean : numpy.ndarray
        K times the variance of the mean of the series, over ``s^2``; 1 for white noise.
    of_rest : numpy.ndarray
        Expected residual mean square over ``s^2``; 1 for white noise.
    trace, trace_squared : numpy.ndarray
        Traces of the covariance of the residuals and of its square, over ``s^2``, ``s^4``.
    tie : numpy.ndarray
        Correlation of the ratio with the sum of squares.
    ratio_sd, error : numpy.ndarray
        Standard errors of the ratio and of the correlation found from it, times the root of the
        number of series.
    """

    rho: Floats
    ratio: Floats
    of_mean: Floats
    of_rest: Floats
    trace: Floats
    trace_squared: Floats
    ratio_sd: Floats
    tie: Floats
    error: Floats

    def solved(self, ratio: Floats) -> Floats:
        """The correlation at which the ratio found is the one expected; an end of the table beyond it."""
        return np.where(np.isnan(ratio), np.nan, np.interp(ratio, self.ratio, self.rho))

    def at(self, name: str, rho: Floats) -> Floats:
        """A column of the table at given correlations."""
        return np.asarray(np.interp(rho, self.rho, getattr(self, name)))


def noise_table(positions: Floats, *, line: bool = False) -> NoiseTable | None:
    """The table of series at increasing ``positions`` whose mean, or straight line, was taken out.

    None where fewer than two degrees of freedom are left: correlation cannot be told there.
    """
    return _table(tuple(positions.tolist()), line)


@lru_cache(maxsize=64)  # patterns of gaps are many, sets of checkpoints few
def _table(given: tuple[float, ...], line: bool) -> NoiseTable | None:
    positions = np.array(given)
    left = len(positions) - 1 - line
    if left < 2:
        return None
    fitted = np.linalg.qr(np.vander(positions - positions.mean(), 1 + line))[0]
    apart = np.abs(np.subtract.outer(positions, positions))
    whole = np.array_equal(apart, np.round(apart))
    # Negative numbers have no fractional powers.
    grid = np.tanh(np.linspace(np.arctanh(_LOWEST if whole else 0.0), np.arctanh(_HIGHEST), _POINTS))
    rows = np.array([_traces(rho**apart if rho else (apart == 0).astype(float), fitted) for rho in grid])
    trace, lagged, trace_squared, crossed, lag_squared, of_mean = rows.T
    ratio = lagged / trace
    # To first order the ratio found is off by (r'Lr - ratio r'r) / trace, for residuals r.
    variance = 2 * (lag_squared - 2 * ratio * crossed + ratio**2 * trace_squared) / trace**2
    return NoiseTable(
        rho=grid,
        ratio=np.maximum.accumulate(ratio),
        of_mean=of_mean,
        of_rest=trace / left,
        trace=trace,
        trace_squared=trace_squared,
        ratio_sd=np.sqrt(variance),
        tie=(crossed - ratio * trace_squared) / trace * np.sqrt(2 / trace_squared / variance),
        error=np.sqrt(variance) / np.gradient(ratio, grid),
    )


def _traces(covariance: Floats, fitted: Floats) -> tuple[float, ...]:
    """Traces of C, LC, CC, LCC and LCLC of the residual covariance C; the variance of the mean times K."""
    rest = covariance - fitted @ (fitted.T @ covariance)
    rest = rest - (rest @ fitted) @ fitted.T
    shifted = np.zeros_like(rest)
    shifted[1:] += rest[:-1] / 2
    shifted[:-1] += rest[1:] / 2
    return (
        float(np.trace(rest)),
        float(np.trace(shifted)),
        float(np.sum(rest**2)),
        float(np.sum(shifted * rest)),
        float(np.sum(shifted * shifted.T)),
        float(covariance.sum() / len(covariance)),
    )


def uncertain_df(
    table: NoiseTable, name: str, ratio: Floats, df: Floats, n_series: int, level: float, excess: Floats
) -> tuple[Floats, Floats, Floats]:
    """Degrees of freedom that stand for the error of noise made with an estimated correlation.

    Parameters
    ----------
    name : {'of_mean', 'of_rest'}
        What is made: the noise of means, or the variance of the noise itself.
    ratio : (cell,) array
        Lag-1 ratio found.
    df : (cell,) array
        Degrees of freedom of the residual mean square.
    excess : (cell,) array
        How many times more noise was made than there is spread to hold it, at least 1.

    Returns
    -------
    down, up : (cell,) arrays
        A chi-square with so many reaches as far below, and above, its mean as the noise does:
        the limits of the correlation (all those at which the ratio found is no surprise), and
        those of the mean square, put together on a log scale as two normal errors would be.
    share : (cell,) array
        What is left of the noise once the correlation is lowered, within its limits, for the
        excess to go; ``down`` is counted from there.
    """
    from scipy.special import ndtri

    tail = (1 - level) / 2
    surprise = -ndtri(tail) * table.ratio_sd / np.sqrt(n_series)
    size = (np.log(table.of_mean) if name == "of_mean" else 0.0) - np.log(table.of_rest)
    here = np.interp(table.solved(ratio), table.rho, size)
    grid, *reaches = _reaches(tail)
    found = []
    for sign, reach in zip((1, -1), reaches, strict=True):
        bound = table.ratio + sign * surprise
        increasing = np.maximum.accumulate(bound) if sign > 0 else np.minimum.accumulate(bound[::-1])[::-1]
        limit = np.interp(ratio, increasing, table.rho)
        moved = np.maximum(sign * (here - np.interp(limit, table.rho, size)), 0.0)
        if sign > 0:
            taken = np.minimum(np.log(excess), moved)
            moved = moved - taken
        else:
            moved = np.where(limit >= table.rho[-1], np.inf, moved)
        own = np.interp(np.log(df), np.log(grid), reach)
        shared = 2 * table.at("tie", limit) * own * np.where(moved < np.inf, moved, 0.0)
        both = own - np.abs(own) + np.sqrt(np.maximum(own**2 + moved**2 + shared, 0.0))
        found.append(np.exp(np.interp(-both, -reach, np.log(grid))))
    return found[0], found[1], np.exp(-taken)


@lru_cache(maxsize=8)
def _reaches(tail: float) -> tuple[Floats, Floats, Floats]:
    """Degrees of freedom, and how far below and above its mean a chi-square reaches, as logarithms of a factor."""
    from scipy.special import gammaincinv

    df = np.geomspace(0.05, 1e7, 2000)
    below = np.log(2 * gammaincinv(df / 2, 1 - tail) / df)
    above = np.log(df / np.maximum(2 * gammaincinv(df / 2, tail), 1e-300))
    start = int(np.argmax(below))  # with fewer, hardly anything lies above the mean at all
    return df[start:], below[start:], above[start:]


def lag_ratio(rest: Floats, *, axis: int) -> Floats:
    """Sum of products of neighbouring residuals over the sum of squares; NaN cells are gaps.

    Taken along ``axis`` and over the axes before it. With gaps, both are means times the numbers
    without gaps. NaN where all residuals are zero.
    """
    rest = np.moveaxis(rest, axis, 0)
    n = len(rest)
    product, square = rest[1:] * rest[:-1], rest**2
    over = tuple(range(axis + 1))
    lagged = divided(np.nansum(product, axis=over), (~np.isnan(product)).sum(axis=over)) * (n - 1)
    total = divided(np.nansum(square, axis=over), (~np.isnan(square)).sum(axis=over)) * n
    return divided(lagged, total)


def two_way_residuals(values: Floats, *, sweeps: int = 50) -> Floats:
    """Residuals of (group, run, step, cell) after means of runs and of steps within groups, NaN for gaps.

    Alternating means converge to the least-squares fit; without gaps one sweep is exact.
    """
    known = ~np.isnan(values)
    rest = np.where(known, values, 0.0)
    count = [known.sum(axis=axis, keepdims=True) for axis in (1, 2)]
    full = bool((known.all(axis=(1, 2)) | ~known.any(axis=(1, 2))).all())
    for _ in range(1 if full else sweeps):
        moved = 0.0
        for axis, n in zip((1, 2), count, strict=True):
            mean = rest.sum(axis=axis, keepdims=True) / np.maximum(n, 1)
            rest = np.where(known, rest - mean, 0.0)
            moved = float(np.max(np.abs(mean), initial=0.0))
        if moved <= 1e-12 * float(np.max(np.abs(rest), initial=0.0)):
            break
    return np.where(known, rest, np.nan)
