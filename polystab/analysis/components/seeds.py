"""Whether the seeds of one model spread more than those of another."""

from __future__ import annotations

import functools

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, described, divided, finite, labels, moments, scaled
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.chunked import in_parts
from polystab.analysis.multiplicity import adjusted_p
from polystab.analysis.options import check_shares
from polystab.analysis.variance import MIN_RUNS, sd_factors
from polystab.cube.validate import as_cube

_DOCS = {
    "variance": "variance over the seeds of the model, ddof 1",
    "lower": "lower end of the chi-square interval of the variance",
    "upper": "upper end of the chi-square interval of the variance",
    "n_seeds": "runs that count: measured, finite, and no copy of another",
    "p": "chance of so unequal spreads, were the variances equal; not corrected for many tests",
    "p_adjusted": "p corrected for the number of tests (false discovery rate)",
    "n_compared": "models compared: those with at least three runs",
    "n_tests": "tests, over steps and metrics",
}


def seed_variances(cube: xr.Dataset | xr.DataTree, *, level: float = 0.95) -> xr.Dataset:
    """Variance over the seeds of each model at every step, and a test that all are equal.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        Over (model, step, metric): ``variance`` (ddof 1), ``lower`` and ``upper``, in
        squared units of the metric, and ``n_seeds``. Over (step, metric): ``p``,
        ``p_adjusted`` for the number of steps and metrics tested (Benjamini and Hochberg),
        which is ``n_tests``, and ``n_compared``, the number of models behind it.

    Raises
    ------
    AnalysisError
        ``level`` is not between 0 and 1.

    Notes
    -----
    The interval is the exact chi-square one of normal data, for one model at a time. The
    variance of one run is NaN, and nothing with fewer than three gets an interval or
    enters the test. Test items are not taken out. Infinite values are not measured;
    copies of other runs (:func:`duplicate_runs`) count once.

    The test is that of Brown and Forsythe: analysis of variance of the distances from
    each model's median. The smallest distance of each model is left out, which for an odd
    number of runs is always 0; with few runs the test would otherwise almost never
    reject (Hines and Hines). At the 5 % level it then rejects equal variances 2-5 % of the
    time for 3 to 10 seeds, normal or heavy-tailed; Bartlett's test rejects up to 48 %. Few
    seeds give little power: not rejected does not mean equal. ``p`` is NaN with fewer than
    two models to compare and where no model has any spread.

    References
    ----------
    Brown, M. B. and Forsythe, A. B. (1974). Robust tests for the equality of variances.
    Journal of the American Statistical Association 69, 364-367.
    https://doi.org/10.1080/01621459.1974.10482955

    Hines, W. G. S. and Hines, R. J. O'H. (2000). Increased power with modified forms of
    the Levene (Med) test for heterogeneity of variance. Biometrics 56, 451-454.
    https://doi.org/10.1111/j.0006-341X.2000.00451.x

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis import seed_variances
    >>> spread = seed_variances(ps.load_cube("nano")).isel(step=-1).sel(metric="loss/validation/cross_entropy")
    >>> spread["variance"].dims, int(spread["n_compared"])
    (('model',), 3)
    """
    cube = as_cube(cube)
    check_shares(level=level)
    result = in_parts(functools.partial(_of_metrics, level=level), cube)
    adjusted, n_tests = adjusted_p(result["p"].values)
    result = result.assign(p_adjusted=(result["p"].dims, adjusted), n_tests=((), n_tests))
    return described(result, _DOCS)


def _of_metrics(cube: xr.Dataset, *, level: float) -> xr.Dataset:
    """What needs no other metrics."""
    values = finite(counted_cells(cube)[0])
    _, sd, n = moments(values, axis=1)
    low, high = sd_factors(n, level=level)
    p, compared = equal_spread(values)
    with np.errstate(over="ignore"):  # the square of 1e200 is infinite
        columns = {"variance": sd**2, "lower": (sd * low) ** 2, "upper": (sd * high) ** 2, "n_seeds": n}
    return xr.Dataset(
        {name: (("model", "step", "metric"), column) for name, column in columns.items()}
        | {name: (("step", "metric"), column) for name, column in (("p", p), ("n_compared", compared))},
        coords=labels(cube, "model", "step", "metric"),
        attrs={"level": float(level), "min_runs": MIN_RUNS},
    )


def equal_spread(values: Floats) -> tuple[Floats, Ints]:
    """Test of equal spread of the rows (group, row, ...): p and the number of groups compared."""
    from scipy.special import fdtrc

    small = scaled(values.reshape(values.shape[0] * values.shape[1], *values.shape[2:]), axis=0)[0]
    distance = _distances(small.reshape(values.shape))
    known = ~np.isnan(distance)
    count = known.sum(axis=1)
    used = count > 0
    groups, rows = used.sum(axis=0), count.sum(axis=0)
    plain = np.where(known, distance, 0.0)
    mean = np.where(used, divided(plain.sum(axis=1), count), 0.0)
    grand = divided(plain.sum(axis=(0, 1)), rows)
    between = np.sum(np.where(used, count * (mean - grand) ** 2, 0.0), axis=0)
    within = np.sum(np.where(known, distance - mean[:, None], 0.0) ** 2, axis=(0, 1))
    fit = (groups > 1) & (within > 0)
    statistic = divided(between * (rows - groups), np.where(fit, within * (groups - 1), np.nan))
    p = np.full(fit.shape, np.nan)
    p[fit] = fdtrc(groups[fit] - 1, (rows - groups)[fit], statistic[fit])
    return p, groups


def _distances(values: Floats) -> Floats:
    """Distances from the median of each group without the smallest; NaN for groups with fewer than three rows."""
    count = (~np.isnan(values)).sum(axis=1, keepdims=True)
    ordered = np.sort(values, axis=1)  # NaN last
    last = np.maximum(count - 1, 0)
    low, high = (np.take_along_axis(ordered, place, axis=1) for place in (last // 2, (last + 1) // 2))
    distance = np.sort(np.abs(values - (low + (high - low) / 2)), axis=1)
    return np.where(count >= MIN_RUNS, distance, np.nan)[:, 1:]
