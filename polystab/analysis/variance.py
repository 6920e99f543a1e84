"""How far apart the seeds end up: spread over runs, with what is known about it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, cells, described, divided, finite, labels, median, moments, rms
from polystab.analysis.audit.exclude import Exclude, leave_out
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.chunked import by_metric
from polystab.analysis.reml.model import RemlFit as RemlFit
from polystab.analysis.reml.model import fit_reml as fit_reml
from polystab.analysis.trajectories import final_steps
from polystab.errors import AnalysisError, shown

# Nothing with fewer runs gets an interval (DESIGN, rules of honest statistics, 2).
MIN_RUNS = 3

_DOCS = {
    "step": "step at which the runs are compared, -1 for none",
    "n_runs": "runs measured at the step",
    "n_seeds": "runs that count: measured, finite, and no copy of another",
    "n_nonfinite": "runs left out because the value is infinite: they diverged",
    "n_duplicates": "runs left out because their trajectory is a copy of another seed's",
    "mean": "mean over runs",
    "mean_lower": "lower end of the t interval of the mean",
    "mean_upper": "upper end of the t interval of the mean",
    "median": "median over runs",
    "minimum": "smallest value",
    "maximum": "largest value",
    "sd": "standard deviation over runs, ddof 1",
    "sd_c4": "standard deviation over runs divided by c4(n_seeds)",
    "sd_lower": "lower end of the chi-square interval of the standard deviation",
    "sd_upper": "upper end of the chi-square interval of the standard deviation",
    "factor_lower": "sd_lower / sd, from n_seeds alone",
    "factor_upper": "sd_upper / sd, from n_seeds alone",
    "item_stderr": "root mean square over runs of the standard error over test items",
    "sd_over_stderr": "sd_c4 / item_stderr",
}


@by_metric()
def seed_spread(
    cube: xr.Dataset | xr.DataTree, *, step: int | None = None, level: float = 0.95, exclude: Exclude = None
) -> xr.Dataset:
    """Mean and spread over the seeds of each model and metric at one step, with intervals.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    step : int, optional
        The step at which to compare; by default the final step of each model and
        metric, see :func:`polystab.analysis.final_steps`.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.
    exclude : 'audit', xarray.Dataset or None, optional
        Leave out the values that an audit says do not belong where they stand: ``audit`` makes one, a
        Dataset holds the findings of one. See :func:`polystab.analysis.excluded_cells`; how much was
        left out is in ``attrs`` (``excluded_values``, ``excluded_share``, ``excluded_by``).

    Returns
    -------
    xarray.Dataset
        Over (model, metric), in the metric's units unless said otherwise: ``step``;
        the counts ``n_runs`` (measured), ``n_seeds`` (those that enter the
        statistics), ``n_nonfinite`` and ``n_duplicates`` (those that do not);
        ``mean``, ``median``, ``minimum``, ``maximum``; ``sd`` (ddof 1); ``sd_c4``,
        which is ``sd / c4(n_seeds)``; ``sd_lower`` and ``sd_upper``; ``mean_lower`` and
        ``mean_upper``; ``factor_lower`` and ``factor_upper`` (ratios, ``sd_lower / sd``
        and ``sd_upper / sd``); ``item_stderr``; and ``sd_over_stderr`` (a ratio).
        The confidence level is in ``attrs["level"]``.

    Raises
    ------
    AnalysisError
        ``step`` is not in the cube, or ``level`` is not between 0 and 1.

    Notes
    -----
    For n independent, normally distributed runs with standard deviation s,

    - E[sd] = c4(n) s, so ``sd_c4`` is unbiased where ``sd`` is too small (by 2.7 % for
      ten runs, 11 % for three);
    - (n - 1) sd^2 / s^2 is chi-square with n - 1 degrees of freedom, so the interval
      ``sd sqrt((n - 1) / chi2)`` at its two quantiles is exact. It is not symmetric:
      for ten runs it reaches from 0.69 to 1.83 times ``sd``. It holds for normal data
      only, and a heavy tail makes it too short;
    - the mean has the t interval with n - 1 degrees of freedom.

    One run has no ``sd`` (NaN), two runs have one but no interval: nothing with fewer
    than three runs gets one. If all runs are equal the spread is exactly 0 and so is
    its interval. Infinite values are runs that diverged; they, and copies of other runs
    (:func:`polystab.analysis.duplicate_runs`), are left out and counted. ``item_stderr``
    is the error of a single run's score from having only so many test items; it is not
    part of ``sd`` where all runs answer the same items, and stands beside it for scale.

    References
    ----------
    Holtzman, W. H. (1950). The unbiased estimate of the population variance and
    standard deviation. American Journal of Psychology 63, 615-617.
    https://doi.org/10.2307/1418879

    NIST/SEMATECH e-Handbook of Statistical Methods, sections 1.3.5.8 and 6.3.2.
    https://doi.org/10.18434/M32189

    Examples
    --------
    >>> import pandas as pd, polystab as ps
    >>> from polystab.analysis import seed_spread
    >>> cube = ps.cube_from_records(pd.DataFrame({
    ...     "model": "pythia-14m", "seed": range(5), "step": 1000,
    ...     "metric": "eval/sciq/acc", "value": [0.71, 0.73, 0.70, 0.74, 0.72]}))
    >>> spread = seed_spread(cube).squeeze()
    >>> [round(float(spread[name]), 4) for name in ("mean", "sd", "sd_c4", "sd_lower", "sd_upper")]
    [0.72, 0.0158, 0.0168, 0.0095, 0.0454]
    """
    cube, left_out = leave_out(cube, exclude)
    if not 0 < level < 1:
        raise AnalysisError(f"level is {level}; a confidence level lies between 0 and 1, e.g. 0.95.")
    used, copies = counted_cells(cube)
    steps = final_steps(cube)["step"].values if step is None else _given_step(cube, step)
    place = np.searchsorted(cube["step"].values, steps)
    measured = ~np.isnan(_at(cells(cube), place))
    duplicate = copies & measured
    value = _at(used, place)
    value[np.broadcast_to((steps == -1)[:, None, :], value.shape)] = np.nan
    average, sd, n = moments(value, axis=1)
    low, high = sd_factors(n, level=level)
    half = divided(sd, np.sqrt(n)) * _t_quantile(n, level)
    enough = n >= MIN_RUNS
    item = _item_stderr(cube, value, place)
    corrected = divided(sd, c4(n))
    given = np.isfinite(value)
    columns: dict[str, npt.NDArray[np.generic]] = {
        "step": steps,
        "n_runs": measured.sum(axis=1) * (steps != -1),
        "n_seeds": n,
        "n_nonfinite": np.isinf(value).sum(axis=1),
        "n_duplicates": duplicate.sum(axis=1) * (steps != -1),
        "mean": average,
        "mean_lower": np.where(enough, average - half, np.nan),
        "mean_upper": np.where(enough, average + half, np.nan),
        "median": median(value, axis=1),
        "minimum": np.where(n > 0, np.min(value, axis=1, initial=np.inf, where=given), np.nan),
        "maximum": np.where(n > 0, np.max(value, axis=1, initial=-np.inf, where=given), np.nan),
        "sd": sd,
        "sd_c4": corrected,
        "sd_lower": sd * low,
        "sd_upper": sd * high,
        "factor_lower": low,
        "factor_upper": high,
        "item_stderr": item,
        "sd_over_stderr": divided(corrected, item),
    }
    result = xr.Dataset(
        {name: (("model", "metric"), column) for name, column in columns.items()},
        coords=labels(cube, "model", "metric"),
        attrs={"level": float(level), "min_runs": MIN_RUNS, **left_out},
    )
    return described(result, _DOCS)


def spread_overview(spread: xr.Dataset, *, movement: xr.DataArray | None = None) -> xr.Dataset:
    """What :func:`seed_spread` says of each model, over all its metrics.

    Parameters
    ----------
    spread : xarray.Dataset
        Result of :func:`seed_spread`.
    movement : xarray.DataArray, optional
        How far training moves each (model, metric), from
        :func:`polystab.analysis.rank_metrics`.

    Returns
    -------
    xarray.Dataset
        Along ``model``: ``n_runs`` and ``n_seeds`` (largest over metrics); ``n_with_sd``,
        metrics with at least three runs; ``n_constant``, those of them whose runs are all
        equal; ``sd_over_stderr``, median over metrics of that ratio, NaN where no metric
        has both; ``n_compared``, the metrics behind it; and ``sd_over_movement``, median
        over metrics of ``sd_c4`` relative to ``movement``, NaN without it.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis import seed_spread, spread_overview
    >>> spread_overview(seed_spread(polystab.testing.synthetic_cube(n_seeds=4, rng=0)))["n_seeds"].values.tolist()
    [4, 4, 4]
    """
    enough = spread["n_seeds"].values >= MIN_RUNS
    ratio = np.where(enough, spread["sd_over_stderr"].values, np.nan)
    moved = np.full(enough.shape, np.nan) if movement is None else movement.transpose("model", "metric").values
    relative = divided(np.where(enough, spread["sd_c4"].values, np.nan), moved)
    result = xr.Dataset(
        {
            "n_runs": ("model", spread["n_runs"].values.max(axis=1)),
            "n_seeds": ("model", spread["n_seeds"].values.max(axis=1)),
            "n_with_sd": ("model", enough.sum(axis=1)),
            "n_constant": ("model", (enough & (spread["sd"].values == 0)).sum(axis=1)),
            "sd_over_stderr": ("model", median(ratio, axis=1)),
            "n_compared": ("model", (~np.isnan(ratio)).sum(axis=1)),
            "sd_over_movement": ("model", median(relative, axis=1)),
        },
        coords=labels(spread, "model"),
        attrs=dict(spread.attrs),
    )
    return described(
        result,
        {
            "n_runs": "runs measured, largest over metrics",
            "n_seeds": "runs that count, largest over metrics",
            "n_with_sd": "metrics with at least three runs",
            "n_constant": "metrics whose runs are all equal",
            "sd_over_stderr": "seed SD / item-sampling error, median over metrics",
            "n_compared": "metrics that have both",
            "sd_over_movement": "seed SD / range of the median over training, median over metrics",
        },
    )


def c4(n: npt.ArrayLike) -> Floats:
    """The factor by which the standard deviation of n normal values falls short on average.

    Parameters
    ----------
    n : array of int
        Number of values.

    Returns
    -------
    numpy.ndarray
        ``sqrt(2 / (n - 1)) Gamma(n / 2) / Gamma((n - 1) / 2)``; NaN below two.

    References
    ----------
    NIST/SEMATECH e-Handbook of Statistical Methods, section 6.3.2.
    https://doi.org/10.18434/M32189

    Examples
    --------
    >>> from polystab.analysis import c4
    >>> c4([3, 10]).round(6).tolist()
    [0.886227, 0.972659]
    """
    from scipy.special import gammaln

    count = np.asarray(n, dtype=np.float64)
    known = count >= 2
    safe = np.where(known, count, 2.0)
    factor = np.sqrt(2 / (safe - 1)) * np.exp(gammaln(safe / 2) - gammaln((safe - 1) / 2))
    return np.where(known, factor, np.nan)


def sd_factors(n: npt.ArrayLike, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """How well the standard deviation of n normal values is known, as two factors.

    Parameters
    ----------
    n : array of int
        Number of values.
    level : float, optional
        Confidence level.

    Returns
    -------
    lower, upper : numpy.ndarray
        ``sqrt((n - 1) / q)`` with q the upper and the lower quantile of chi-square with
        n - 1 degrees of freedom. The interval is ``(sd * lower, sd * upper)``; NaN for
        fewer than three values.

    Examples
    --------
    >>> from polystab.analysis import sd_factors
    >>> [round(float(factor), 2) for factor in sd_factors(10)]
    [0.69, 1.83]
    """
    from scipy.special import gammaincinv

    count = np.asarray(n, dtype=np.float64)
    known = count >= MIN_RUNS
    df = np.where(known, count, MIN_RUNS) - 1
    tail = (1 - level) / 2
    upper_quantile = 2 * gammaincinv(df / 2, 1 - tail)
    lower_quantile = 2 * gammaincinv(df / 2, tail)
    return (
        np.where(known, np.sqrt(df / upper_quantile), np.nan),
        np.where(known, np.sqrt(df / lower_quantile), np.nan),
    )


def _t_quantile(n: Ints, level: float) -> Floats:
    from scipy.special import stdtrit

    known = n >= 2
    return np.where(known, stdtrit(np.where(known, n - 1, 1), 0.5 + level / 2), np.nan)


def _given_step(cube: xr.Dataset, step: int) -> Ints:
    present = cube["step"].values
    if step not in present:
        near = present[np.argsort(np.abs(present - step), kind="stable")[:5]]
        raise AnalysisError(f"step {step} is not in the cube; the nearest are {shown(sorted(near.tolist()))}.")
    return np.full((cube.sizes["model"], cube.sizes["metric"]), step, dtype=np.int64)


def _at(values: Floats, place: npt.NDArray[np.intp]) -> Floats:
    """Values (model, seed, metric) at the step number ``place`` of each (model, metric)."""
    return np.take_along_axis(values, place[:, None, None, :], axis=2)[:, :, 0, :]


def _item_stderr(cube: xr.Dataset, value: Floats, place: npt.NDArray[np.intp]) -> Floats:
    if "stderr" not in cube.data_vars:
        return np.full(place.shape, np.nan)
    return rms(np.where(np.isnan(finite(value)), np.nan, _at(cells(cube, "stderr"), place)), axis=1)
