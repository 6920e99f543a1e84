"""How much a run scatters over its last checkpoints."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, described, divided, finite, labels, scaled, unscaled
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.chunked import by_metric
from polystab.analysis.components.window_noise import noise_table
from polystab.analysis.options import check_shares, check_whole
from polystab.cube.validate import as_cube

# A spread about a line has two degrees of freedom from here on; nothing with fewer gets an interval.
_LEAST = 4

# Distances from the line below this share of the largest value are rounding error.
_ROUNDING = 1e-15

# Values taken at a time, so that the work space stays small beside a large cube.
_BLOCK = 400_000

_DOCS = {
    "n": "checkpoints used: the last ones measured in the run",
    "first_step": "first of these steps, -1 for none",
    "last_step": "last of these steps, -1 for none",
    "mean": "mean over them",
    "sd": "standard deviation over them, ddof 1",
    "sd_detrended": "standard deviation about a straight line through them, ddof 2",
    "lower": "lower end of the interval of the spread about the line",
    "upper": "upper end of the interval of the spread about the line",
    "df": "degrees of freedom of sd_detrended, fewer where neighbours are alike",
    "autocorrelation": "correlation between neighbouring checkpoints about the line, of the run alone",
    "autocorrelation_model": "the same from all runs of the model together",
}


def metrics_at_a_time(cube: xr.Dataset) -> int:
    """How many metrics :func:`checkpoint_noise` takes at a time."""
    each = math.prod(cube.sizes[dim] for dim in ("model", "seed", "step"))
    return max(_BLOCK // max(each, 1), 1)


@by_metric(metrics_at_a_time)
def checkpoint_noise(cube: xr.Dataset | xr.DataTree, *, last: int = 10, level: float = 0.95) -> xr.Dataset:
    """How much each run scatters over its last checkpoints, with and without its trend.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    last : int, optional
        Checkpoints to use: the last so many at which the metric is measured in the run.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        Over (model, seed, metric), in the metric's units unless said otherwise: ``n``,
        ``first_step`` and ``last_step``; ``mean``; ``sd`` (ddof 1), what the literature calls
        the noise of a benchmark; ``sd_detrended`` (ddof 2), with ``lower``, ``upper`` and
        ``df``; and ``autocorrelation``. Over (model, metric): ``autocorrelation_model``.

    Raises
    ------
    AnalysisError
        ``last`` is not an integer from 2, or ``level`` is not between 0 and 1.

    Notes
    -----
    ``sd`` holds what is left of the learning curve; ``sd_detrended`` does not, but loses slow
    noise with it. The line runs over the checkpoints in order, not over steps. If noise has
    correlation rho^d at a distance of d checkpoints, the sum of squares about the line is
    chi-square with ``df = tr(C)^2 / tr(C C)`` degrees of freedom (Box), C being the
    covariance of the residuals; rho is taken from all runs of the model that have the most
    checkpoints, as that of a single run is known no better than +-1 / sqrt(n). Both
    correlations are the ones at which the lag-1 ratio of the residuals is the one expected,
    which takes away the bias of short series.

    The interval is about the spread within windows as long as this one; slower noise is in
    none of the numbers. What a run does beside its siblings, and the same for all of training,
    is the component ``seed:step`` of :func:`variance_over_windows`.

    NaN and infinite values are not measured; copies of other runs
    (:func:`polystab.analysis.duplicate_runs`) have no numbers. ``sd`` takes two
    checkpoints, ``sd_detrended`` three, and intervals and correlations four.

    References
    ----------
    Box, G. E. P. (1954). Some theorems on quadratic forms applied in the study of analysis
    of variance problems, II. Annals of Mathematical Statistics 25, 484-498.
    https://doi.org/10.1214/aoms/1177728717

    Heineman, D. et al. (2025). Signal and noise: a framework for reducing uncertainty in
    language model evaluation. They take the last 5 to 30 checkpoints, with ddof 0.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis import checkpoint_noise
    >>> cube = polystab.testing.variance_cube(n_steps=30, sd_residual=0.5, rng=0)
    >>> noise = checkpoint_noise(cube, last=20)
    >>> noise["sd_detrended"].shape, round(float(noise["sd_detrended"].mean()), 1)
    ((3, 10, 1), 0.5)
    """
    cube = as_cube(cube)
    check_shares(level=level)
    check_whole("last", last, 2)
    values = counted_cells(cube)[0]
    steps = np.asarray(cube["step"].values, dtype=np.int64)
    width = metrics_at_a_time(cube)
    blocks = [
        _last_checkpoints(values[..., start : start + width], steps, int(last), level)
        for start in range(0, max(values.shape[-1], 1), width)
    ]
    columns = {name: np.concatenate([block[name] for block in blocks], axis=-1) for name in blocks[0]}
    result = xr.Dataset(
        {
            name: (("model", "seed", "metric") if column.ndim == 3 else ("model", "metric"), column)
            for name, column in columns.items()
        },
        coords=labels(cube, "model", "seed", "metric"),
        attrs={"last": int(last), "level": float(level)},
    )
    return described(result, _DOCS)


def _last_checkpoints(values: Floats, steps: Ints, last: int, level: float) -> dict[str, npt.NDArray[np.generic]]:
    """All columns of :func:`checkpoint_noise` for some metrics."""
    n_model, n_seed, _, n_metric = values.shape
    place = np.argsort(np.isfinite(values), axis=2, kind="stable")[:, :, -last:]  # gaps first, then in order
    length = place.shape[2]
    found = finite(np.take_along_axis(values, place, axis=2))
    small, exponent = scaled(found.reshape(n_model, n_seed * length, n_metric), axis=1)
    series = np.moveaxis(small.reshape(found.shape), 2, 3).reshape(-1, length)
    count = (~np.isnan(series)).sum(axis=1)
    columns = np.full((4, len(series)), np.nan)
    for n in np.unique(count[count > 0]).tolist():
        rows = count == n
        columns[:, rows] = _about_line(series[rows, length - n :])
    shape = (n_model, n_seed, n_metric)
    n_used = count.reshape(shape)
    mean, variance, square, lagged = columns.reshape(4, *shape)
    most = n_used.max(axis=1, initial=0)
    fullest = (n_used == most[:, None]) & ~np.isnan(square)
    pooled = divided(np.sum(lagged, axis=1, where=fullest), np.sum(square, axis=1, where=fullest))
    alone, of_model = np.full(shape, np.nan), np.full(pooled.shape, np.nan)
    df = np.maximum(n_used - 2.0, 0.0)
    tables = {n: noise_table(np.arange(n, dtype=np.float64), line=True) for n in np.unique(count).tolist()}
    for n, table in tables.items():
        if table is not None:
            of_model = np.where(most == n, table.solved(pooled), of_model)
    rho = np.broadcast_to(np.nan_to_num(of_model)[:, None], shape)
    for n, table in tables.items():
        if table is not None:
            here = n_used == n
            alone[here] = table.solved(divided(lagged, square)[here])
            df[here] = table.at("trace", rho[here]) ** 2 / table.at("trace_squared", rho[here])
    detrended = np.sqrt(divided(square, np.maximum(n_used - 2, 0)))
    low, high = _chi_square_factors(df, n_used, level)
    ends = (
        np.where(n_used > 0, steps[np.take_along_axis(place, at[:, :, None], axis=2)[:, :, 0]], -1)
        for at in (np.minimum(length - n_used, length - 1), np.full(shape, length - 1))
    )
    first, final = ends
    spread = {"sd": np.sqrt(variance), "sd_detrended": detrended, "lower": detrended * low, "upper": detrended * high}
    return {
        "n": n_used,
        "first_step": first,
        "last_step": final,
        **{name: unscaled(column, exponent[:, None]) for name, column in ({"mean": mean} | spread).items()},
        "df": np.where(n_used > 2, df, np.nan),
        "autocorrelation": alone,
        "autocorrelation_model": of_model,
    }


def _about_line(series: Floats) -> tuple[Floats, ...]:
    """Mean, variance, and sums of squares and of lag-1 products about a straight line, of every row without gaps."""
    n = series.shape[1]
    shift = series[:, -1:]  # equal values then differ by exactly 0
    rest = series - shift
    middle = rest.mean(axis=1, keepdims=True)
    rest -= middle
    mean = (shift + middle)[:, 0]
    nan = np.full(len(series), np.nan)
    if n < 2:
        return mean, nan, nan, nan
    variance = np.sum(rest**2, axis=1) / (n - 1)
    if n < 3:
        return mean, variance, nan, nan
    time = np.arange(n) - (n - 1) / 2
    rest -= np.outer(rest @ time / (time @ time), time)
    rest[np.abs(rest) <= _ROUNDING * np.max(np.abs(series), axis=1, keepdims=True)] = 0.0
    return mean, variance, np.sum(rest**2, axis=1), np.sum(rest[:, 1:] * rest[:, :-1], axis=1)


def _chi_square_factors(df: Floats, n: Ints, level: float) -> tuple[Floats, Floats]:
    """What a standard deviation is multiplied with at both ends; NaN for fewer than four checkpoints."""
    from scipy.special import gammaincinv

    known = n >= _LEAST
    half = np.where(known, df, 2.0) / 2
    tail = (1 - level) / 2
    low, high = (np.sqrt(half / gammaincinv(half, chance)) for chance in (1 - tail, tail))
    return np.where(known, low, np.nan), np.where(known, high, np.nan)
