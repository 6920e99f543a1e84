"""Final values and the spread over seeds.

``final``
    ``level``, ``rows``: list of ``metric``, ``family``, ``units``, ``better``, ``model`` and every
    variable of :func:`polystab.analysis.seed_spread`, metrics in order of their rank;
    ``factors``: list of ``n``, ``lower``, ``upper``; ``models``: list of ``model`` and every
    variable of :func:`polystab.analysis.spread_overview`.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from polystab.report.results.computed import Results
from polystab.report.summary.schema import Summary


def final_summary(results: Results) -> Summary:
    spread, ranked, overview = results.spread, results.ranked, results.overview
    columns = {str(name): spread[name].values for name in spread.data_vars}
    about = {name: spread[name].values for name in ("metric", "family", "units", "better")}
    models = spread["model"].values
    rows = [
        {
            **{name: str(column[k]) for name, column in about.items()},
            "model": str(models[m]),
            **{name: column[m, k] for name, column in columns.items()},
        }
        for k in np.argsort(ranked["rank"].values).tolist()
        for m in np.flatnonzero(columns["n_runs"][:, k] > 0).tolist()
    ]
    sizes, first = np.unique(columns["n_seeds"], return_index=True)
    factors = [
        {"n": n, "lower": columns["factor_lower"].flat[i], "upper": columns["factor_upper"].flat[i]}
        for n, i in zip(sizes.tolist(), first.tolist(), strict=True)
        if n >= spread.attrs["min_runs"]
    ]
    return {
        "level": spread.attrs["level"],
        "min_runs": spread.attrs["min_runs"],
        "rows": rows,
        "factors": factors,
        "models": _records(overview, "model"),
    }


def _records(data: xr.Dataset, dim: str) -> list[Summary]:
    """The variables along one dimension as a list of dicts."""
    columns = {str(name): data[name].values for name in data.data_vars if data[name].dims == (dim,)}
    return [
        {dim: str(label), **{name: column[i] for name, column in columns.items()}}
        for i, label in enumerate(data[dim].values.tolist())
    ]
