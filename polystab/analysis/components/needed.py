"""How many seeds it takes to find a difference, and what difference the seeds at hand can show."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, described, divided, finite, labels, moments
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.chunked import by_metric
from polystab.analysis.options import check_shares, numbers
from polystab.analysis.variance import MIN_RUNS, sd_factors
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, did_you_mean, shown

# The number of runs is looked up to here; beyond, the t test is a normal one with a constant correction.
_TABLE = 1000

# So few runs are far from normal.
_FEW = 30

_SEEDS_DOCS = {
    "needed": "runs of each of two models for the power asked for, were the spread as found",
    "lower": "the same at the lower end of the interval of the spread",
    "upper": "the same at the upper end of the interval of the spread",
    "difference": "difference of means that is to be found",
    "sd": "standard deviation over runs, ddof 1",
    "n_seeds": "runs behind the spread",
}

_FLOOR_DOCS = {
    "floor": "smallest significant difference between the means of two models",
    "lower": "the same at the lower end of the interval of the spread",
    "upper": "the same at the upper end of the interval of the spread",
    "sd": "standard deviation over runs, ddof 1",
    "n_seeds": "runs behind the spread",
    "n_compared": "runs of each model in the comparison",
}


def seeds_needed(
    cube: xr.Dataset | xr.DataTree,
    *,
    difference: float | Mapping[str, float] | xr.DataArray,
    power: float = 0.8,
    alpha: float = 0.05,
    level: float = 0.95,
) -> xr.Dataset:
    """How many seeds of each of two models it takes to find a difference between them.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    difference : float, mapping of metric to float, or DataArray
        True difference of the two means that is to be found, in units of the metric; one
        for all metrics, one for each, or an array along dimensions of the cube. With a
        mapping, the result has these metrics only.
    power : float, optional
        Wanted chance of finding it.
    alpha : float, optional
        Level of the two-sided t test, between 0 and 1.
    level : float, optional
        Confidence level of the interval, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        Over (model, step, metric): ``needed``, a whole number (as a float: it may be
        infinite); ``lower`` and ``upper``; ``difference`` and ``sd`` in units of the metric; and
        ``n_seeds``, the runs behind ``sd``.

    Raises
    ------
    AnalysisError
        ``power``, ``alpha`` or ``level`` is not between 0 and 1, ``power`` is not above ``alpha``;
        a difference is zero or not finite, or for a metric that is not in the cube.

    Notes
    -----
    The smallest n for which the two-sided t test with 2 n - 2 degrees of freedom has the
    power (noncentral t with noncentrality ``difference / sd * sqrt(n / 2)``), if both models
    spread as this one does and runs are independent and normal. Above 1,000 it is that of
    the normal test plus what the t test needs more at 1,000, which is off by one at most.

    ``sd`` comes from few runs: ``lower`` and ``upper`` are the numbers at the ends of its exact
    chi-square interval. With ten runs the upper is some three times ``needed``; plan by it to
    be safe. Both are NaN for fewer than three runs, all three for one run. Runs that are
    all equal need 2, the fewest that a t test takes. Infinite values are not measured;
    copies of other runs count once.

    References
    ----------
    Cohen, J. (1988). Statistical Power Analysis for the Behavioral Sciences, 2nd edition,
    chapter 2. https://doi.org/10.4324/9780203771587

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.components.needed import seeds_needed
    >>> loss = "loss/validation/cross_entropy"
    >>> found = seeds_needed(ps.load_cube("nano"), difference={loss: 0.02}).isel(model=-1, step=-1).squeeze()
    >>> bool(found["lower"] <= found["needed"] <= found["upper"])
    True
    """
    cube = as_cube(cube)
    check_shares(level=level, alpha=alpha, power=power)
    if power <= alpha:
        raise AnalysisError(f"power={power} is not above alpha={alpha}, which no test falls below.")
    wanted = _differences(cube, difference)
    if isinstance(difference, Mapping):
        cube = cube.sel(metric=list(difference))
    _, sd, n = moments(finite(counted_cells(cube)[0]), axis=1)
    low, high = sd_factors(n, level=level)
    size = np.broadcast_to(wanted.transpose("model", "step", "metric").values, sd.shape)
    columns: dict[str, npt.NDArray[np.generic]] = {
        name: needed_for(_effect(size, spread), power=power, alpha=alpha)
        for name, spread in (("needed", sd), ("lower", sd * low), ("upper", sd * high))
    }
    columns |= {"difference": size.copy(), "sd": sd, "n_seeds": n}
    result = xr.Dataset(
        {name: (("model", "step", "metric"), column) for name, column in columns.items()},
        coords=labels(cube, "model", "step", "metric"),
        attrs={"power": float(power), "alpha": float(alpha), "level": float(level), "min_runs": MIN_RUNS},
    )
    return described(result, _SEEDS_DOCS)


@by_metric()
def noise_floor(
    cube: xr.Dataset | xr.DataTree, *, n_seeds: int | None = None, alpha: float = 0.05, level: float = 0.95
) -> xr.Dataset:
    """The smallest difference between two models that seeds alone do not explain.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    n_seeds : int, optional
        Runs of each of the two models; by default as many as this model has.
    alpha : float, optional
        Level of the two-sided t test, between 0 and 1.
    level : float, optional
        Confidence level of the interval, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        Over (model, step, metric), in units of the metric: ``floor`` with ``lower`` and ``upper``,
        and ``sd``; ``n_seeds``, the runs behind ``sd``, and ``n_compared``.

    Raises
    ------
    AnalysisError
        ``n_seeds`` is below 1; ``alpha`` or ``level`` is not between 0 and 1.

    Notes
    -----
    ``t(1 - alpha / 2; 2 n - 2) sd sqrt(2 / n)``, the least significant difference of two
    means of n independent normal runs whose spread is that of this model. For ``n_seeds=1``,
    two single runs, the spread cannot come from them: t has the degrees of freedom of
    ``sd``, and the floor is that of two new runs. The interval is that of ``sd`` (exact, chi-square).
    A difference at the floor is found half of the time only: see :func:`seeds_needed`.

    NaN for one run; no interval for fewer than three. Zero where all runs are equal. Infinite
    values are not measured; copies of other runs count once.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.components.needed import noise_floor
    >>> floor = noise_floor(ps.load_cube("nano"), n_seeds=1)["floor"]
    >>> floor.dims
    ('model', 'step', 'metric')
    """
    cube = as_cube(cube)
    check_shares(level=level, alpha=alpha)
    if n_seeds is not None and (not isinstance(n_seeds, (int, np.integer)) or n_seeds < 1):
        raise AnalysisError(f"n_seeds={n_seeds!r} is not a whole number from 1 on.")
    _, sd, n = moments(finite(counted_cells(cube)[0]), axis=1)
    low, high = sd_factors(n, level=level)
    compared = n if n_seeds is None else np.full(n.shape, n_seeds)
    factor = _floor_factor(compared, n, alpha)
    with np.errstate(over="ignore"):  # beyond the largest float
        ends = {"floor": sd * factor, "lower": sd * low * factor, "upper": sd * high * factor}
    columns = {**ends, "sd": sd, "n_seeds": n, "n_compared": compared}
    result = xr.Dataset(
        {name: (("model", "step", "metric"), column) for name, column in columns.items()},
        coords=labels(cube, "model", "step", "metric"),
        attrs={"alpha": float(alpha), "level": float(level), "min_runs": MIN_RUNS},
    )
    return described(result, _FLOOR_DOCS)


def needed_for(effect: Floats, *, power: float, alpha: float) -> Floats:
    """Runs in each of two groups that a two-sided t test needs to find a standardised difference."""
    table, shift = _smallest_effects(power, alpha)
    known = ~np.isnan(effect)
    size = np.where(known, effect, np.inf)
    # Effects of the table fall with the number of runs, which starts at 2.
    inside = 2.0 + np.searchsorted(-table, -size, side="left")
    with np.errstate(divide="ignore", over="ignore"):
        beyond = np.ceil(2 * (shift / size) ** 2 + _TABLE - 2 * (shift / table[-1]) ** 2)
    result = np.where(size >= table[-1], inside, np.maximum(beyond, _TABLE + 1.0))
    return np.where(known, result, np.nan)


def t_test_power(effect: Floats, n: npt.ArrayLike, *, alpha: float) -> Floats:
    """Chance that a two-sided t test of two groups of n rejects at a standardised difference."""
    from scipy.special import nctdtr, stdtrit

    count = np.asarray(n, dtype=np.float64)
    df, shift = 2 * count - 2, effect * np.sqrt(count / 2)
    critical = stdtrit(df, 1 - alpha / 2)
    # Chances of the wrong side too small for a number come back as NaN.
    wrong = np.nan_to_num(1 - nctdtr(df, -shift, critical))
    return np.asarray(1 - nctdtr(df, shift, critical) + wrong)


@functools.lru_cache(maxsize=16)
def _smallest_effects(power: float, alpha: float) -> tuple[Floats, float]:
    """The standardised difference found with the power by two groups of 2, 3, ... runs.

    And what it comes to, times ``sqrt(n / 2)``, for ever more runs.
    """
    from scipy.special import ndtr, ndtri

    n = np.arange(2, _TABLE + 1, dtype=np.float64)
    critical = ndtri(1 - alpha / 2)
    shift = float(_crossing(lambda z: ndtr(z - critical) + ndtr(-z - critical), np.ones(1), power)[0])
    few = n <= _FEW
    first = _crossing(lambda d: t_test_power(d, n[few], alpha=alpha), np.ones(few.sum()), power)
    # As a normal quantile the power of more runs is nearly a line: a few steps of the secant method are exact.
    old = shift * np.sqrt(2 / n[~few])
    new = old * (1 + 1 / n[~few])
    missed = ndtri(t_test_power(old, n[~few], alpha=alpha)) - ndtri(power)
    for _ in range(6):
        miss = ndtri(t_test_power(new, n[~few], alpha=alpha)) - ndtri(power)
        step = np.where(miss == missed, 0.0, miss * divided(new - old, miss - missed))
        old, missed, new = new, miss, new - step
    table = np.concatenate([first, new])
    table.flags.writeable = False
    return table, shift


def _crossing(rising: Callable[[Floats], Floats], start: Floats, wanted: float) -> Floats:
    """Where a rising function from 0 on reaches a value, by bisection."""
    low, high = np.zeros_like(start), start.copy()
    while (short := rising(high) < wanted).any():
        high = np.where(short, 2 * high, high)
    for _ in range(60):
        middle = (low + high) / 2
        short = rising(middle) < wanted
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return high


def _effect(difference: Floats, sd: Floats) -> Floats:
    """Standardised difference, infinite where runs do not differ."""
    return np.where(sd == 0, np.inf, np.abs(divided(difference, sd)))


def _floor_factor(compared: Ints, n: Ints, alpha: float) -> Floats:
    from scipy.special import stdtrit

    df = np.where(compared > 1, 2 * compared - 2, n - 1)
    known = (n > 1) & (df > 0) & (compared > 0)
    quantile = stdtrit(np.where(known, df, 1).astype(np.float64), 1 - alpha / 2)
    return np.where(known, quantile * np.sqrt(2 / np.maximum(compared, 1)), np.nan)


def _differences(cube: xr.Dataset, given: float | Mapping[str, float] | xr.DataArray) -> xr.DataArray:
    """Differences over (model, step, metric), dimensions of length one where they are all the same."""
    if isinstance(given, xr.DataArray):
        wanted = given.copy(data=numbers(given.values, "difference"))
        other = sorted(str(name) for name in set(wanted.dims) - {"model", "step", "metric"})
        if other:
            raise AnalysisError(f"difference has the dimensions {shown(other)}; allowed are model, step and metric.")
        for name in wanted.dims:
            if name in wanted.coords and not wanted[name].to_index().equals(cube[name].to_index()):
                raise AnalysisError(
                    f"difference has other labels along {name!r} than the cube; use .reindex_like(cube)."
                )
            if wanted.sizes[name] != cube.sizes[name]:
                raise AnalysisError(
                    f"difference has {wanted.sizes[name]} entries along {name!r}, the cube {cube.sizes[name]}."
                )
    elif isinstance(given, Mapping):
        names = cube["metric"].values.tolist()
        absent = [name for name in given if name not in names]
        if absent or not given:
            hint = did_you_mean(str(absent[0]), names) if absent else "Name at least one."
            raise AnalysisError(f"difference is given for {shown(absent) or 'no metric'}, not in the cube. {hint}")
        wanted = xr.DataArray(numbers(list(given.values()), "difference"), dims="metric")
    elif isinstance(given, (int, float, np.integer, np.floating)):
        wanted = xr.DataArray(np.asarray(given, dtype=np.float64))
    else:
        raise AnalysisError(
            f"difference={given!r} is none: give a number, a mapping from metric to number, or a DataArray."
        )
    if not np.isfinite(wanted.values).all() or (wanted.values == 0).any():
        raise AnalysisError("difference must be finite and not zero: what is the smallest one that matters to you?")
    missing = [name for name in ("model", "step", "metric") if name not in wanted.dims]
    return wanted.drop_vars(list(wanted.coords)).expand_dims(missing)
