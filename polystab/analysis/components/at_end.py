"""Variance components at the end of training, one row a metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import described, quantiles
from polystab.errors import AnalysisError, shown

_BY_COMPONENT = ("variance", "estimate", "lower", "upper", "p", "df", "reason")
_BY_METRIC = ("n_runs", "n_models", "method")
_SHARES = {"fraction": "fraction", "lower": "fraction_lower", "upper": "fraction_upper"}

_DOCS = {
    "step": "last step that more than half of the runs share, -1 for none",
    "fraction": "share of the total variance",
    "fraction_lower": "lower end of the interval of the share",
    "fraction_upper": "upper end of the interval of the share",
    "informative": "whether at least two parts of the total are known, so that shares say something",
    "n_metrics": "informative metrics in which the share is known",
    "fraction_least": "smallest share over these metrics",
    "fraction_median": "median share over these metrics",
    "fraction_largest": "largest share over these metrics",
}


def final_components(components: xr.Dataset, fractions: xr.Dataset) -> xr.Dataset:
    """Variance components and their shares at the final step of every metric.

    Parameters
    ----------
    components : xarray.Dataset
        Result of :func:`variance_components`.
    fractions : xarray.Dataset
        Result of :func:`variance_fractions` for them.

    Returns
    -------
    xarray.Dataset
        Over (component, metric): ``variance``, ``estimate``, ``lower``, ``upper``, ``p``,
        ``df`` and ``reason`` as in ``components`` (squared units of the metric), and
        ``fraction``, ``fraction_lower`` and ``fraction_upper`` (shares of the total). Over
        (metric): ``step``, ``n_runs``, ``n_models``, ``method``, and ``informative``, true
        where at least two parts are estimated and the total is not zero. Over (component), of the
        informative metrics whose share is known: their number ``n_metrics``, and ``fraction_least``,
        ``fraction_median`` and ``fraction_largest``; NaN where there is none.

    Raises
    ------
    AnalysisError
        The two do not belong together: their components, steps or metrics differ.

    Notes
    -----
    The final step of a metric is the last one at which more than half as many runs count
    as at the step where most do. A metric that was measured nowhere has step -1 and NaN.

    Examples
    --------
    >>> import polystab as ps, polystab.testing
    >>> from polystab.analysis import final_components, variance_fractions
    >>> found = ps.variance_components(polystab.testing.variance_cube(n_steps=3, rng=0))
    >>> final_components(found, variance_fractions(found))["step"].values.tolist()
    [3000]
    """
    for name, given, needed in (
        ("components", components, (*_BY_COMPONENT, *_BY_METRIC, "component", "step", "metric")),
        ("fractions", fractions, (*_SHARES, "component", "step", "metric")),
    ):
        missing = [part for part in needed if part not in given.data_vars and part not in given.dims]
        if missing:
            raise AnalysisError(
                f"{name} has no {shown(missing)}; give results of variance_components and variance_fractions at all steps."
            )
    for dim in ("component", "step", "metric"):
        if not np.array_equal(components[dim].values, fractions[dim].values):
            raise AnalysisError(
                f"components and fractions differ along {dim}: they are not of the same cube and design."
            )
    runs = components["n_runs"].transpose("step", "metric").values
    shared = 2 * runs > runs.max(axis=0, initial=0)
    known = xr.DataArray(shared.any(axis=0), dims="metric")
    last = xr.DataArray(len(runs) - 1 - np.argmax(shared[::-1], axis=0), dims="metric")
    each = xr.DataArray(np.arange(runs.shape[1]), dims="metric")
    shares = {new: fractions[name] for name, new in _SHARES.items()}
    result = components[[*_BY_COMPONENT, *_BY_METRIC]].assign(shares).isel(step=last, metric=each)
    steps = result["step"].where(known, -1)
    result = result.drop_vars("step").assign(step=steps)
    parts = result["fraction"].where(result["part"]).notnull().sum("component")
    result = result.assign(informative=parts >= 2)
    return described(result.assign(_over_metrics(result)), _DOCS)


def _over_metrics(found: xr.Dataset) -> dict[str, tuple[str, npt.NDArray[Any]]]:
    """What a component explains of most metrics, which the one that is looked at may be unlike."""
    share = found["fraction"].where(found["informative"]).transpose("component", "metric").values
    (least, middle, largest), n = quantiles(share, (0.0, 0.5, 1.0), axis=1)
    columns = {"n_metrics": n, "fraction_least": least, "fraction_median": middle, "fraction_largest": largest}
    return {name: ("component", column) for name, column in columns.items()}
