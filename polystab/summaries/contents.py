"""What is in a cube, as a short table: one row a model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from polystab.cube.describe import coverage_sentence
from polystab.cube.parts import value_parts
from polystab.cube.validate import as_cube
from polystab.summaries.table import Column, Summary
from polystab.words import percent, plural, ranges

_DOCS = {
    "model": "the recipe",
    "parameters": "number of parameters",
    "runs": "seeds with any value",
    "seeds": "which",
    "steps": "steps with any value",
    "first_step": "the first of them",
    "last_step": "the last of them",
    "metrics": "metrics with any value",
    "measured": "share of the cells of these runs, steps and metrics that are measured",
}


def summary_of_cube(cube: xr.Dataset | xr.DataTree, *, rows: int) -> Summary:
    """How many runs, steps and metrics each model has, and how much of that is measured."""
    data = as_cube(cube)
    measured = np.concatenate([~np.isnan(values) for _, values in value_parts(data)], axis=3)
    steps, seeds = data["step"].values, data["seed"].values
    size = data["n_parameters"].values if "n_parameters" in data.coords else np.zeros(data.sizes["model"])
    lines = []
    for name, own, parameters in zip(data["model"].values.tolist(), measured, size.tolist(), strict=True):
        run, step, metric = (own.any(axis=axes) for axes in ((1, 2), (0, 2), (0, 1)))
        at = steps[step].tolist()
        cells = int(run.sum() * step.sum() * metric.sum())
        lines.append(
            {
                "model": str(name),
                "parameters": int(parameters) if parameters > 0 else -1,
                "runs": int(run.sum()),
                "seeds": ranges(seeds[run].tolist()),
                "steps": len(at),
                "first_step": at[0] if at else -1,
                "last_step": at[-1] if at else -1,
                "metrics": int(metric.sum()),
                "measured": float(own.sum() / cells) if cells else float("nan"),
            }
        )
    table = pd.DataFrame(lines, columns=list(_DOCS))
    known = table.columns if (table["parameters"] > 0).any() else table.columns.drop("parameters")
    columns = tuple(Column(str(name), (str(name),), _DOCS[str(name)], missing=-1) for name in known)
    return Summary(table, columns, str(data.attrs.get("title", "")), tuple(_notes(cube, data, measured)), rows)


def _notes(cube: xr.Dataset | xr.DataTree, data: xr.Dataset, measured: npt.NDArray[np.bool_]) -> list[str]:
    family = data["family"].values.astype(str) if "family" in data.coords else np.array([])
    families = [
        f"{name} ({plural((family == name).sum(), 'metric')}, {percent(float(measured[..., family == name].mean()))} measured)"
        for name in dict.fromkeys(family.tolist())
    ]
    return [
        coverage_sentence(cube),
        *([f"Families: {', '.join(families)}."] if families else []),
        *([f"Groups: {', '.join(sorted(cube.children))}."] if isinstance(cube, xr.DataTree) and cube.children else []),
    ]
