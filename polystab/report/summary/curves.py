"""Curves over training.

``curves``
    ``metrics``: list of ``metric``, ``family``, ``units``, ``better``, ``signal``, ``picture`` (in
    words), ``models``: list of ``model``, ``steps``, ``median``, ``lower``, ``upper``, ``n``;
    ``others``: metrics without a panel; ``models_shown``, ``models_left_out``; ``legend``.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from polystab.plots.describe import (
    chosen,
    describe_curves,
    legend_title,
    quartiles,
)
from polystab.report.results.computed import Results
from polystab.report.summary.schema import Summary


def curves_summary(results: Results) -> Summary:
    band, ranked = results.band, results.ranked
    models = list(results.models)
    names = [str(name) for name in ranked["metric"].values.tolist()]
    order = [names[i] for i in np.argsort(ranked["rank"].values)]
    metrics = []
    for metric in results.panels:
        part = chosen(band, metric=metric, models=models)
        about = ranked[["signal"]].sel(metric=metric)
        metrics.append(
            {
                "metric": metric,
                "family": str(about["family"].item()),
                "units": str(about["units"].item()),
                "better": str(about["better"].item()),
                "signal": about["signal"].item(),
                "picture": describe_curves(part, metric=metric),
                "models": [_one_curve(part.isel(model=i)) for i in range(part.sizes["model"])],
            }
        )
    everything = [str(name) for name in band["model"].values.tolist()]
    return {
        "metrics": metrics,
        "others": [name for name in order if name not in results.panels],
        "models_shown": models,
        "models_left_out": [name for name in everything if name not in models],
        "legend": legend_title(band.sel(model=models)),
    }


def _one_curve(part: xr.Dataset) -> Summary:
    low, middle, high = quartiles(part)
    keep = part["shared"].values[:, 0] & ~np.isnan(middle)
    return {
        "model": str(part["model"].item()),
        "steps": part["step"].values[keep].tolist(),
        "median": middle[keep].tolist(),
        "lower": low[keep].tolist(),
        "upper": high[keep].tolist(),
        "n": part["n"].values[keep, 0].tolist(),
    }
