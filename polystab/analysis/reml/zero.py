"""Is a variance component zero? The restricted likelihood ratio test, its distribution by simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from polystab.analysis.arrays import Floats, Ints
from polystab.analysis.components.kernels import patterns
from polystab.analysis.reml.fit import estimate
from polystab.analysis.reml.inputs import Inputs

# Differences of two criteria below this are rounding error: the component is zero in both fits.
_SAME = 1e-7

# Simulated values held at a time.
_BLOCK = 2_000_000


def zero_test(
    inputs: Inputs, place: int, criterion: Floats, n_simulations: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Statistic and p of every response; NaN for those without estimates or without spread.

    Parameters
    ----------
    inputs : Inputs
        What was fitted.
    place : int
        The factor whose variance is zero under the null hypothesis.
    criterion : (response,) array
        The criterion of the fit of ``inputs``.
    n_simulations : int
        Draws for every response. Without another factor the distribution depends on the
        rows alone, and responses with the same rows share their draws.
    rng : numpy.random.Generator
        Source of chance.
    """
    null = _without(inputs, place)
    statistic, p = (np.full(len(criterion), np.nan) for _ in range(2))
    wanted = np.flatnonzero(np.isfinite(criterion))
    if not len(wanted):
        return statistic, p
    lower, ratio = _null_fit(null, inputs.y[:, wanted])
    statistic[wanted] = np.maximum(lower - criterion[wanted], 0.0)
    for rows, places in patterns(~np.isnan(inputs.y[:, wanted])):
        for together in [places] if not null.factors else places[:, None]:
            drawn = _simulated(inputs, null, rows, ratio[together[0]], n_simulations, rng)
            drawn = np.sort(drawn[~np.isnan(drawn)])
            found = statistic[wanted[together]]
            as_large = len(drawn) - np.searchsorted(drawn, found - _SAME)
            p[wanted[together]] = np.where(np.isnan(found), np.nan, (1 + as_large) / (1 + len(drawn)))
    return statistic, p


def _simulated(
    inputs: Inputs,
    null: Inputs,
    rows: Ints,
    ratio: Floats,
    count: int,
    rng: np.random.Generator,
) -> Floats:
    """Statistics of responses drawn under the null; neither fixed effects nor the scale matter to them."""
    result = np.full(count, np.nan)
    width = max(_BLOCK // len(inputs.y), 1)
    for start in range(0, count, width):
        size = min(width, count - start)
        drawn = rng.standard_normal((len(rows), size))
        for sd, codes, levels in zip(np.sqrt(ratio), null.codes[rows].T, null.levels, strict=True):
            drawn += sd * rng.standard_normal((levels, size))[codes]
        y = np.full((len(inputs.y), size), np.nan)
        y[rows] = drawn
        fit = estimate(replace(inputs, y=y))
        gain = np.maximum(_null_fit(null, y)[0] - fit.criterion, 0.0)
        result[start : start + size] = np.where(fit.converged, gain, np.nan)
    return result


def _without(inputs: Inputs, place: int) -> Inputs:
    kept = [k for k in range(len(inputs.factors)) if k != place]
    return replace(
        inputs,
        codes=inputs.codes[:, kept],
        factors=tuple(inputs.factors[k] for k in kept),
        levels=tuple(inputs.levels[k] for k in kept),
    )


def _null_fit(null: Inputs, y: Floats) -> tuple[Floats, Floats]:
    """Criterion (response,) without the factor, and ratios (response, factor) of the others to the residual."""
    if null.factors:
        fit = estimate(replace(null, y=y))
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = fit.variance[:, :-1] / fit.variance[:, -1:]
        return fit.criterion, np.nan_to_num(ratio)
    criterion = np.empty(y.shape[1])
    for rows, columns in patterns(~np.isnan(y)):
        basis, corner = np.linalg.qr(null.matrix[rows])
        values = y[np.ix_(rows, columns)]
        rest = values - basis @ (basis.T @ values)
        df = len(rows) - basis.shape[1]
        squares = np.sum((rest - basis @ (basis.T @ rest)) ** 2, axis=0)
        constant = 2 * np.log(np.abs(np.diagonal(corner))).sum() + df * (1 + np.log(2 * np.pi / df))
        criterion[columns] = constant + df * np.log(squares)
    return criterion, np.empty((y.shape[1], 0))
