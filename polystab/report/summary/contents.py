"""What is in the cube.

``contents``
    ``dims`` (sizes), ``first_step``, ``last_step``, ``cells``, ``measured``, ``share``;
    ``families``: list of ``family``, ``metrics``, ``measured``, ``share``; ``models``: list of
    ``model``, ``n_parameters``, ``seeds``, ``runs``, ``steps``, ``first_step``, ``last_step``,
    ``metrics``, ``share`` (of its own runs x steps x metrics); ``notes`` (what the page leaves out of a large
    cube); ``picture`` (in words).
"""

from __future__ import annotations

import numpy as np

from polystab.cube.parts import measured_runs
from polystab.plots.describe import (
    describe_coverage,
)
from polystab.report.results.computed import Results
from polystab.report.summary.schema import Summary


def contents_summary(results: Results) -> Summary:
    cube, cover = results.whole, results.cover
    steps = cube["step"].values
    seeds = cube["seed"].values
    runs = [seeds[there].tolist() for there in measured_runs(cube)]
    parameters = cube["n_parameters"].values if "n_parameters" in cube.coords else np.full(cube.sizes["model"], -1)
    models = [
        {
            "model": str(name),
            "n_parameters": int(parameters[i]) if parameters[i] > 0 else None,
            "seeds": runs[i],
            **{short: cover[long].values[i] for short, long in _MODEL_COLUMNS.items()},
        }
        for i, name in enumerate(cube["model"].values.tolist())
    ]
    families = [
        {
            "family": str(name),
            "metrics": cover["n_metrics_family"].values[i],
            "measured": cover["n_measured_family"].values[i],
            "share": cover["share_family"].values[i],
        }
        for i, name in enumerate(cover["family"].values.tolist())
    ]
    return {
        "dims": {str(dim): size for dim, size in cube.sizes.items()},
        "first_step": steps[0],
        "last_step": steps[-1],
        "cells": cover["n_cells"].item(),
        "measured": cover["n_measured"].item(),
        "share": cover["share"].item(),
        "families": families,
        "models": models,
        "notes": list(results.notes),
        "picture": describe_coverage(cover),
    }


_MODEL_COLUMNS = {
    "runs": "n_runs",
    "steps": "n_steps",
    "first_step": "first_step",
    "last_step": "last_step",
    "metrics": "n_metrics",
    "share": "share_model",
}
