"""Whether the seeds of one recipe spread more than those of another, and less with size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, described, divided, finite, labels, moments
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.chunked import by_metric
from polystab.analysis.options import check_shares, numbers
from polystab.analysis.variance import MIN_RUNS
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, did_you_mean, shown

_RATIO_DOCS = {
    "sd_ratio": "standard deviation over the seeds of the first model over that of the second",
    "sd_lower": "lower end of the F interval of the ratio of standard deviations",
    "sd_upper": "upper end of the F interval of the ratio of standard deviations",
    "variance_ratio": "variance over the seeds of the first model over that of the second",
    "lower": "lower end of the F interval of the ratio of variances",
    "upper": "upper end of the F interval of the ratio of variances",
    "p": "chance of so unequal a ratio, were the variances equal; two-sided, not corrected for many tests",
    "n_first": "runs of the first model that count",
    "n_second": "runs of the second model that count",
}

_TREND_DOCS = {
    "slope": "slope of log variance over log size: variance goes as size to this power",
    "lower": "lower end of the interval of slope",
    "upper": "upper end of the interval of slope",
    "p": "chance of so steep a slope, were it 0; two-sided, not corrected for many tests",
    "variance": "variance over seeds at the reference size, on the fitted line",
    "p_fit": "chance of variances so far off the line, were it true",
    "n_models": "models on the line: three seeds or more, and some spread",
    "n_constant": "models left out because their runs are all equal",
}


@by_metric()
def variance_ratio(
    cube: xr.Dataset | xr.DataTree, *, models: tuple[str, str] | None = None, level: float = 0.95
) -> xr.Dataset:
    """Ratio of the seed variances of two models, at every step and for every metric.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    models : pair of str, optional
        The two models, the first over the second; not needed if the cube has just two.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        Over (step, metric), without unit: ``sd_ratio`` with ``sd_lower`` and ``sd_upper``;
        ``variance_ratio`` with ``lower`` and ``upper``; ``p``; ``n_first`` and ``n_second``. The
        names of the models are in ``attrs["models"]``.

    Raises
    ------
    AnalysisError
        A model is not in the cube, or the two are one; ``level`` is not between 0 and 1.

    Notes
    -----
    For independent normal runs, the ratio of variances (ddof 1) over its true value has an F
    distribution with n1 - 1 and n2 - 1 degrees of freedom, which gives exact intervals
    and the exact two-sided test. They are sensitive to heavy tails; for a test that is
    not, of all models at once, see :func:`seed_variances`. Runs of two models that share
    seeds and are alike for it make the interval too wide. The two standard deviations
    carry no c4: with unequal numbers of runs their ratio is not unbiased.

    No interval and no ``p`` for fewer than three runs of either model. ``sd_ratio`` is NaN
    where the second model has no spread, and ``p`` where either has none. Infinite values
    are not measured; copies of other runs (:func:`duplicate_runs`) count once.

    References
    ----------
    NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.5.9.
    https://doi.org/10.18434/M32189

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.components.comparison import variance_ratio
    >>> ratio = variance_ratio(ps.load_cube("nano"), models=("nano-33k", "nano-215k")).isel(step=-1)
    >>> loss = ratio.sel(metric="loss/train/cross_entropy")
    >>> [round(float(loss[name]), 2) for name in ("sd_ratio", "sd_lower", "sd_upper")]
    [0.99, 0.49, 1.99]
    """
    cube = as_cube(cube)
    check_shares(level=level)
    names = cube["model"].values.tolist()
    if models is None:
        if len(names) != 2:
            raise AnalysisError(f"the cube has {len(names)} models ({shown(names)}): name two, models=(first, second).")
        models = (names[0], names[1])
    if isinstance(models, str) or not isinstance(models, Sequence) or len(models) != 2 or models[0] == models[1]:
        raise AnalysisError(f"models={models!r} are not two different models; give models=(first, second).")
    place = [model_place(cube, name) for name in models]
    values = finite(counted_cells(cube)[0][place])
    _, sd, n = moments(values, axis=1)
    low, high = f_factors(n[0] - 1, n[1] - 1, level=level)
    ratio = divided(sd[0], sd[1])
    with np.errstate(over="ignore"):
        columns = {
            "sd_ratio": ratio,
            "sd_lower": ratio * np.sqrt(low),
            "sd_upper": ratio * np.sqrt(high),
            "variance_ratio": ratio**2,
            "lower": ratio**2 * low,
            "upper": ratio**2 * high,
            "p": two_sided_f(np.where(sd[0] > 0, ratio**2, np.nan), n[0] - 1.0, n[1] - 1.0),
            "n_first": n[0],
            "n_second": n[1],
        }
    result = xr.Dataset(
        {name: (("step", "metric"), column) for name, column in columns.items()},
        coords=labels(cube, "step", "metric"),
        attrs={"models": " / ".join(models), "level": float(level), "min_runs": MIN_RUNS},
    )
    return described(result, _RATIO_DOCS)


@by_metric()
def variance_by_size(
    cube: xr.Dataset | xr.DataTree, *, size: str | Mapping[str, float] = "n_parameters", level: float = 0.95
) -> xr.Dataset:
    """Whether the spread over seeds falls with size: log variance on log size.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    size : str or mapping of str to float, optional
        A coordinate along ``model``, or a number for each model.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        Over (step, metric): ``slope``, ``lower`` and ``upper``, without unit (-1: ten times the
        size, a tenth of the variance); ``p``; ``variance``, in squared units of the metric, on the
        line at the size ``attrs["reference_size"]``; ``p_fit``; ``n_models`` and ``n_constant``.

    Raises
    ------
    AnalysisError
        There is no such coordinate, or a size is not known, not positive or infinite.

    Notes
    -----
    The logarithm of the variance of n normal runs is that of the true one plus
    ``digamma(d / 2) - log(d / 2)`` on average, with d = n - 1, and has the variance
    ``trigamma(d / 2)``, whatever the truth (Bartlett and Kendall). With the first taken off
    and one over the second as weights, the line is fitted by least squares; as the
    weights are known, the interval is normal. In simulations with 3, 5 and 10 seeds and 3 to 5
    sizes, 95 % intervals cover 94-95 %. Ten seeds of each of five sizes that span a factor of
    100 leave the slope unsure by 0.27 either way, three seeds by 0.69.

    That holds if the variances lie on a line. ``p_fit`` (chi-square, at least three sizes)
    says whether they may (it rejects 5-7 % of true lines at the 5 % level); where it is small,
    read the interval as too short. A metric
    with a ceiling often spreads less for large models because it is at the ceiling.

    Models with fewer than three seeds take no part, nor do those without spread
    (``n_constant``), where the logarithm has no value. NaN below two sizes. Infinite values
    are not measured; copies of other runs count once.

    References
    ----------
    Bartlett, M. S. and Kendall, D. G. (1946). The statistical analysis of
    variance-heterogeneity and the logarithmic transformation. Supplement to the Journal
    of the Royal Statistical Society 8, 128-138. https://doi.org/10.2307/2983618

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.components.comparison import variance_by_size
    >>> trend = variance_by_size(ps.load_cube("nano")).isel(step=-1)
    >>> trend["slope"].dims, int(trend["n_models"].max())
    (('metric',), 3)
    """
    cube = as_cube(cube)
    check_shares(level=level)
    _, sd, n = moments(finite(counted_cells(cube)[0]), axis=1)
    log_size = np.log(_sizes(cube, size))
    reference = float(log_size.mean())
    columns = log_trend(sd, n, log_size - reference, level=level)
    result = xr.Dataset(
        {name: (("step", "metric"), column) for name, column in columns.items()},
        coords=labels(cube, "step", "metric"),
        attrs={
            "size": size if isinstance(size, str) else "given",
            "reference_size": float(np.exp(reference)),
            "level": float(level),
            "min_runs": MIN_RUNS,
        },
    )
    return described(result, _TREND_DOCS)


def f_factors(df_first: npt.ArrayLike, df_second: npt.ArrayLike, *, level: float) -> tuple[Floats, Floats]:
    """Ends of the interval of a ratio of variances, as factors; NaN below two degrees of freedom."""
    from scipy.special import fdtri

    first, second = np.broadcast_arrays(np.asarray(df_first, np.float64), np.asarray(df_second, np.float64))
    known = (first >= MIN_RUNS - 1) & (second >= MIN_RUNS - 1)
    first, second = np.where(known, first, 2.0), np.where(known, second, 2.0)
    tail = (1 - level) / 2
    low, high = 1 / fdtri(first, second, 1 - tail), fdtri(second, first, 1 - tail)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


def log_trend(sd: Floats, n: Ints, x: Floats, *, level: float) -> dict[str, npt.NDArray[np.generic]]:
    """Weighted line of log variance on x: ``sd`` and ``n`` are (model, ...), x (model,)."""
    from scipy.special import chdtrc, digamma, ndtr, ndtri, polygamma

    enough = n >= MIN_RUNS
    used = enough & (sd > 0)
    half = np.where(used, n - 1, 2) / 2
    y = np.where(used, 2 * np.log(np.where(used, sd, 1.0)) - digamma(half) + np.log(half), 0.0)
    weight = np.where(used, 1 / polygamma(1, half), 0.0)
    column = x.reshape(-1, *(1,) * (sd.ndim - 1))
    total = weight.sum(axis=0)
    middle_x, middle_y = (divided((weight * part).sum(axis=0), total) for part in (column, y))
    off = np.where(used, column - middle_x, 0.0)
    spread = (weight * off**2).sum(axis=0)
    spread = np.where(spread > 1e-12 * total, spread, 0.0)  # models of one size
    slope = divided((weight * off * y).sum(axis=0), spread)
    error = np.sqrt(divided(1.0, spread))
    reach = ndtri(0.5 + level / 2) * error
    rest = np.where(used, y - middle_y - slope * off, 0.0)
    count = used.sum(axis=0)
    misfit = np.where((count > 2) & ~np.isnan(slope), (weight * rest**2).sum(axis=0), np.nan)
    p_fit = np.where(np.isnan(misfit), np.nan, chdtrc(np.maximum(count - 2, 1), np.nan_to_num(misfit)))
    with np.errstate(over="ignore", under="ignore"):
        variance = np.exp(middle_y - slope * middle_x)
    return {
        "slope": slope,
        "lower": slope - reach,
        "upper": slope + reach,
        "p": 2 * ndtr(-np.abs(divided(slope, error))),
        "variance": variance,
        "p_fit": p_fit,
        "n_models": count,
        "n_constant": (enough & (sd == 0)).sum(axis=0),
    }


def two_sided_f(ratio: Floats, first: Floats, second: Floats) -> Floats:
    """Two-sided p of an F ratio; NaN below two degrees of freedom and for no ratio."""
    from scipy.special import fdtr, fdtrc

    fit = (ratio >= 0) & (first >= MIN_RUNS - 1) & (second >= MIN_RUNS - 1)
    result = np.full(ratio.shape, np.nan)
    known = first[fit], second[fit], ratio[fit]
    result[fit] = np.minimum(2 * np.minimum(fdtr(*known), fdtrc(*known)), 1.0)
    return result


def model_place(cube: xr.Dataset, name: str) -> int:
    """Position of a model along ``model``; an error says which there are."""
    names = cube["model"].values.tolist()
    if name not in names:
        raise AnalysisError(f"no model {name!r} in the cube. {did_you_mean(str(name), names)}")
    return int(names.index(name))


def _sizes(cube: xr.Dataset, size: str | Mapping[str, float]) -> Floats:
    names = cube["model"].values.tolist()
    if isinstance(size, str):
        known = [
            str(name) for name, coord in cube.coords.items() if coord.dims == ("model",) and coord.dtype.kind in "if"
        ]
        if size not in known:
            raise AnalysisError(
                f"no size {size!r} along model. {did_you_mean(size, known)} Or give a mapping from model to size."
            )
        sizes = cube[size].values.astype(np.float64)
    elif not isinstance(size, Mapping):
        raise AnalysisError(
            f"size={size!r} is none: name a coordinate along model, or give a mapping of model to size."
        )
    else:
        absent = [name for name in names if name not in size]
        if absent:
            raise AnalysisError(f"no size is given for the models {shown(absent)}.")
        sizes = numbers([size[name] for name in names], "size")
    bad = [f"{name}: {value:g}" for name, value in zip(names, sizes, strict=True) if not 0 < value < np.inf]
    if bad:
        raise AnalysisError(
            f"sizes must be positive and finite, but are not for {shown(bad)} (-1 is unknown). Leave these models out "
            "with cube.sel(model=...), or give size={model: number}."
        )
    return sizes
