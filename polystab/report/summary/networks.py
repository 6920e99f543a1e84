"""Statistics of weights, activations and gradients.

``networks``
    ``models`` (drawn); ``families``: list of ``family``, ``metrics`` (number), ``rows``: list of ``metric``, ``model``, ``first_step``,
    ``first``, ``last_step``, ``last`` (medians), ``sd`` (at the final step); ``metric`` and ``picture``; ``lacking``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from polystab.plots.describe import chosen, describe_curves, quartiles
from polystab.report.summary.schema import Summary

# Families whose metrics are of the network itself, metrics of each in the table, and tasks of probes with a picture.
NETWORK = ("weight", "activation", "gradient")


MAX_METRICS = 3


def network_summary(band: xr.Dataset, spread: xr.Dataset, ranked: xr.Dataset, models: Sequence[str]) -> Summary:
    """Weights, activations and gradients."""
    order = ranked.isel(metric=np.argsort(ranked["rank"].values))
    families = []
    for family in NETWORK:
        mine = order["metric"].values[order["family"].values == family].tolist()
        moving = [name for name in mine if bool(ranked["signal"].sel(metric=name).notnull())]
        if mine:
            # One metric of each measure: the first would all be of the same.
            kinds = {str(ranked["measure"].sel(metric=name).item()): name for name in reversed(moving or mine)}
            shown = sorted(kinds.values(), key=(moving or mine).index)[:MAX_METRICS]
            picture = moving[0] if moving else ""
            families.append(
                {
                    "family": family,
                    "metrics": len(mine),
                    "rows": [row for name in shown for row in _ends(band, spread, name, models)],
                    "metric": picture,
                    "picture": describe_curves(band, metric=picture, models=models) if picture else "",
                }
            )
    return {
        "models": list(models),
        "families": families,
        "lacking": [name for name in NETWORK if name not in [f["family"] for f in families]],
    }


def _ends(band: xr.Dataset, spread: xr.Dataset, metric: str, models: Sequence[str]) -> list[Summary]:
    """First and last median of a metric, and the spread over seeds at the end, by model."""
    rows = []
    for model in models:
        part = chosen(band, metric=metric, models=[model]).isel(model=0)
        middle = quartiles(part)[1]
        known = np.flatnonzero(~np.isnan(middle) & part["shared"].values[:, 0])
        if len(known):
            first, last = int(known[0]), int(known[-1])
            rows.append(
                {
                    "metric": metric,
                    "model": model,
                    "first_step": part["step"].values[first],
                    "first": middle[first],
                    "last_step": part["step"].values[last],
                    "last": middle[last],
                    "sd": spread["sd_c4"].sel(model=model, metric=metric).item(),
                }
            )
    return rows
