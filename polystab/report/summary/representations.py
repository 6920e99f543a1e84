"""What probes read in the states of the networks.

``representations``
    ``rows``: list of ``task``, ``model``, ``layer``, ``step``, ``n_runs``, ``compression``, ``lower``, ``upper`` (median and
    middle half of runs), ``angle`` (degrees, median over pairs of runs), ``expected`` (of random subspaces);
    ``pictures``: list of ``metric`` (task and layer), ``models``, ``picture``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import xarray as xr

from polystab.analysis.arrays import median
from polystab.plots.describe import chosen, describe_curves, quartiles
from polystab.report.results.networks import Networks
from polystab.report.summary.agreement import drawn_models
from polystab.report.summary.schema import Summary

MAX_TASKS = 3


def representations_summary(networks: Networks, models: Sequence[str]) -> Summary:
    """What probes read."""
    probes, band = networks.probes, networks.compression
    if probes is None or band is None:
        return {"rows": [], "pictures": []}
    rows = []
    for task in probes["task"].values.tolist():
        for model in probes["model"].values.tolist():
            for layer in probes["layer"].values.tolist():
                row = _probe_row(band, networks.angles, task, model, layer)
                if row is not None:
                    rows.append(row)
    pictures: list[Summary] = []
    for task, members in groupby(rows, key=lambda row: str(row["task"])):
        own = list(members)
        # The layer that is read best in the last model, the largest as a rule.
        best = max((row for row in own if row["model"] == own[-1]["model"]), key=lambda row: float(row["compression"]))
        metric = f"{task} layer {best['layer']}"
        drawn = drawn_models(band.sel(metric=[metric]), models)
        if drawn and len(pictures) < MAX_TASKS:
            said = describe_curves(band, metric=metric, models=drawn)
            pictures.append({"metric": metric, "models": drawn, "picture": said})
    return {"rows": rows, "pictures": pictures}


def _probe_row(band: xr.Dataset, angles: xr.Dataset | None, task: str, model: str, layer: int) -> Summary | None:
    """One layer at the last step at which it was measured."""
    part = chosen(band, metric=f"{task} layer {layer}", models=[model]).isel(model=0)
    low, middle, high = quartiles(part)
    known = np.flatnonzero(~np.isnan(middle))
    if not len(known):
        return None
    t = int(known[-1])
    row: Summary = {
        "task": task, "model": model, "layer": layer, "step": part["step"].values[t], "n_runs": part["n"].values[t, 0],
        "compression": middle[t], "lower": low[t], "upper": high[t], "angle": None, "expected": None,
    }  # fmt: skip
    if angles is not None and task in angles["task"].values and layer in angles["layer"].values:
        between = angles["mean_angle"].sel(model=model, task=task, layer=layer).values.reshape(-1)
        row |= {
            "angle": median(between, axis=0).item(),
            "expected": angles["expected"].sel(model=model, task=task).item(),
        }
    return row
