"""How large the spread over seeds is beside the mean, and beside the differences between models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, described, divided, finite, labels, moments, scaled
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.chunked import by_metric
from polystab.analysis.components.kernels import nested_strata
from polystab.analysis.options import check_shares
from polystab.analysis.variance import MIN_RUNS, sd_factors
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError

_CV_DOCS = {
    "cv": "standard deviation over runs relative to the size of their mean",
    "lower": "lower end of the interval of the coefficient of variation",
    "upper": "upper end of the interval of the coefficient of variation, infinite where there is none",
    "n_seeds": "runs that count: measured, finite, and no copy of another",
}

_RELIABILITY_DOCS = {
    "reliability": "share of the variance between models in that of the mean over n_seeds runs",
    "lower": "lower end of the interval of the reliability",
    "upper": "upper end of the interval of the reliability",
    "n_models": "models with a run",
    "n_runs": "runs that count: measured, finite, and no copy of another",
}


@by_metric()
def coefficient_of_variation(cube: xr.Dataset | xr.DataTree, *, level: float = 0.95) -> xr.Dataset:
    """Spread over seeds relative to the mean, with an interval.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        Over (model, step, metric), without unit: ``cv`` = sd / abs(mean) (ddof 1, no c4), ``lower``
        and ``upper``; and ``n_seeds``.

    Raises
    ------
    AnalysisError
        ``level`` is not between 0 and 1.

    Notes
    -----
    It means something for metrics with a true zero (a loss, a norm), not for an accuracy
    with a chance level. The interval is McKay's as modified by Vangel, for normal data
    and a coefficient up to about a third: there, with 3, 5 and 10 runs, 95 % intervals cover
    94-96 % in simulations. Larger ones may have no upper end: ``upper`` is then infinite. NaN
    where the mean is zero and for one run; no interval for fewer than three. Infinite
    values are not measured; copies of other runs count once.

    References
    ----------
    Vangel, M. G. (1996). Confidence intervals for a normal coefficient of variation. The
    American Statistician 50, 21-26. https://doi.org/10.1080/00031305.1996.10473537

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.components.reliability import coefficient_of_variation
    >>> loss = coefficient_of_variation(ps.load_cube("nano")).sel(metric="loss/train/cross_entropy").isel(step=-1)
    >>> bool((loss["lower"] < loss["cv"]).all() & (loss["cv"] < loss["upper"]).all())
    True
    """
    cube = as_cube(cube)
    check_shares(level=level)
    mean, sd, n = moments(finite(counted_cells(cube)[0]), axis=1)
    cv = divided(sd, np.abs(mean))
    lower, upper = cv_interval(cv, n, level=level)
    result = xr.Dataset(
        {
            name: (("model", "step", "metric"), column)
            for name, column in (("cv", cv), ("lower", lower), ("upper", upper), ("n_seeds", n))
        },
        coords=labels(cube, "model", "step", "metric"),
        attrs={"level": float(level), "min_runs": MIN_RUNS},
    )
    return described(result, _CV_DOCS)


@by_metric()
def seed_reliability(
    cube: xr.Dataset | xr.DataTree, *, n_seeds: int | Sequence[int] = (1, 3, 5, 10), level: float = 0.95
) -> xr.Dataset:
    """How reliably the mean over some seeds tells the models apart; for one seed the intraclass correlation.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    n_seeds : int or sequence of int, optional
        Runs that are averaged for each model.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        Over (n_seeds, step, metric), 0 to 1: ``reliability``, ``lower`` and ``upper``. Over (step,
        metric): ``n_models`` and ``n_runs``.

    Raises
    ------
    AnalysisError
        A number in ``n_seeds`` is below 1; ``level`` is not between 0 and 1.

    Notes
    -----
    ``k model / (k model + seed)`` with the variance components of the nested design (analysis of
    variance, cut at zero) and k seeds: by Spearman and Brown's formula from the intraclass
    correlation, which is the one of k = 1. It is a property of these models: far apart,
    any number of seeds tells them from each other. The interval is the exact one from the F
    ratio where all models have as many runs; elsewhere it rests on unweighted means
    (Thomas and Hultquist) and is approximate. In simulations with 3, 5 and 10 seeds and 3 to 5
    models, 95 % intervals cover 94-96 %, and as much with 10 % of the runs missing.

    NaN with one model or with one seed for each; no interval below three models or two
    degrees of freedom within models. NaN where nothing varies. Infinite values are not
    measured; copies of other runs count once.

    References
    ----------
    Shrout, P. E. and Fleiss, J. L. (1979). Intraclass correlations: uses in assessing rater
    reliability. Psychological Bulletin 86, 420-428. https://doi.org/10.1037/0033-2909.86.2.420

    Thomas, J. D. and Hultquist, R. A. (1978). Interval estimation for the unbalanced case
    of the one-way random effects model. Annals of Statistics 6, 582-587.
    https://doi.org/10.1214/aos/1176344202

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis.components.reliability import seed_reliability
    >>> cube = polystab.testing.variance_cube(n_models=8, sd_model=3.0, n_steps=1, rng=0)
    >>> seed_reliability(cube)["reliability"].squeeze().round(2).values.tolist()
    [0.65, 0.85, 0.9, 0.95]
    """
    cube = as_cube(cube)
    check_shares(level=level)
    seeds = np.atleast_1d(np.asarray(n_seeds))
    if seeds.dtype.kind not in "iu" or seeds.ndim != 1 or not len(seeds) or (seeds < 1).any():
        raise AnalysisError(f"n_seeds={n_seeds!r} is not one or more whole numbers from 1 on.")
    values = finite(counted_cells(cube)[0])
    shape = values.shape
    small = scaled(values.reshape(shape[0] * shape[1], -1), axis=0)[0]
    known = ~np.isnan(small)
    # From the first run on, so that a large common part costs no digits.
    small = small - np.take_along_axis(small, np.argmax(known, axis=0)[None], axis=0)
    point, lower, upper = variance_odds(small.reshape(shape[0], shape[1], -1), level=level)
    columns = {
        name: _reliability(odds, seeds).reshape(len(seeds), *shape[2:])
        for name, odds in (("reliability", point), ("lower", lower), ("upper", upper))
    }
    runs = known.reshape(*shape)
    result = xr.Dataset(
        {name: (("n_seeds", "step", "metric"), column) for name, column in columns.items()}
        | {
            "n_models": (("step", "metric"), runs.any(axis=1).sum(axis=0)),
            "n_runs": (("step", "metric"), runs.sum(axis=(0, 1))),
        },
        coords={"n_seeds": seeds} | labels(cube, "step", "metric"),
        attrs={"level": float(level)},
    )
    return described(result, _RELIABILITY_DOCS)


def cv_interval(cv: Floats, n: Ints, *, level: float) -> tuple[Floats, Floats]:
    """McKay's interval of a coefficient of variation, as modified by Vangel; NaN below three runs."""
    low, high = sd_factors(n, level=level)  # sqrt(df / quantile)
    count = np.maximum(n, 2).astype(np.float64)
    ends = []
    for factor in (low, high):
        quantile = (count - 1) / factor**2
        inside = ((quantile + 2) / count - 1) * cv**2 + quantile / (count - 1)
        root = np.sqrt(np.where(inside > 0, inside, 1.0))
        ends.append(np.where(inside > 0, cv / root, np.where(np.isnan(inside), np.nan, np.inf)))
    return ends[0], ends[1]


def variance_odds(values: Floats, *, level: float) -> tuple[Floats, Floats, Floats]:
    """Variance between models over that between runs, (model, seed, cell), cut at zero: estimate and interval."""
    from scipy.special import fdtri

    strata = nested_strata(values)
    between, within = strata.mean_square
    size = strata.size[0]
    ratio = np.where((within == 0) & (between > 0), np.inf, divided(between, within))
    first, second = (np.where(df >= MIN_RUNS - 1, df, MIN_RUNS - 1).astype(np.float64) for df in strata.df)
    enough = (strata.df >= MIN_RUNS - 1).all(axis=0)
    tail = (1 - level) / 2
    ends = [
        np.where(enough, np.maximum(divided(ratio / fdtri(first, second, chance) - 1, size), 0.0), np.nan)
        for chance in (1 - tail, tail)
    ]
    return np.maximum(divided(ratio - 1, size), 0.0), ends[0], ends[1]


def _reliability(odds: Floats, seeds: Ints) -> Floats:
    scale = seeds[:, None] * odds
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(scale), 1.0, scale / (1 + scale))
