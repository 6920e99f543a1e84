"""Do runs give the same answers.

``agreement``
    ``reason`` (why there is none, or empty), ``notes``, ``level``, ``min_runs``; ``rows``: list of ``answer``, ``model``,
    ``task``, ``step`` (the last), ``n_items``, ``agreement`` (Cohen's kappa over all pairs of runs), ``lower``, ``upper``,
    ``p_o``, ``p_e``, ``n_runs``, ``fleiss``; ``picture``: ``answer``, ``models``, ``picture`` (in words), or None.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from polystab.plots.describe import describe_curves
from polystab.report.results.networks import Networks
from polystab.report.summary.schema import Summary


def agreement_summary(networks: Networks, models: Sequence[str]) -> Summary:
    """Do runs give the same answers."""
    found = networks.agreement
    if found is None or networks.kappa is None:
        return {"reason": networks.no_agreement, "notes": [], "rows": [], "picture": None}
    rows = []
    for answer in found["answer"].values.tolist():
        for model in found["model"].values.tolist():
            for task in found["task"].values.tolist():
                here = found.sel(answer=answer, model=model, task=task)
                known = np.flatnonzero(here["agreement"].sel(statistic="all_pairs").notnull().values)
                if len(known):
                    rows.append(_agreement_row(here.isel(step=int(known[-1])), answer, model, task))
    answer = "correct" if "correct" in found["answer"].values else str(found["answer"].values[0])
    drawn = drawn_models(networks.kappa, models)
    return {
        "reason": "" if rows else "no two runs of a model answered the same items",
        "level": found.attrs.get("level"),
        "min_runs": found.attrs["min_runs"],
        "notes": list(networks.agreement_notes),
        "rows": rows,
        "picture": {
            "answer": answer,
            "models": drawn,
            "picture": describe_curves(networks.kappa, metric=answer, models=drawn),
        }
        if rows
        else None,
    }


def _agreement_row(here: xr.Dataset, answer: str, model: str, task: str) -> Summary:
    pairs = here.sel(statistic="all_pairs")
    return {
        "answer": answer,
        "model": model,
        "task": task,
        "step": here["step"].item(),
        "n_items": here["n_task_items"].item(),
        **{name: pairs[name].item() for name in ("agreement", "lower", "upper", "p_o", "p_e", "n_runs")},
        "fleiss": here["agreement"].sel(statistic="fleiss").item(),
    }


def drawn_models(band: xr.Dataset, models: Sequence[str]) -> list[str]:
    there = band["value"].notnull().any(("step", "metric", "quantile"))
    return [name for name in models if name in there["model"].values and bool(there.sel(model=name))]
