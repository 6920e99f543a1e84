"""Scores of runs on tasks, from arrays or from a cube, on plain arrays."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Floats, better_of, finite
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.options import numbers
from polystab.analysis.trajectories import final_steps
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, shown

Scores = npt.ArrayLike | xr.DataArray | xr.Dataset | xr.DataTree


def task_array(scores: Scores, name: str) -> xr.DataArray:
    """Scores with the dimensions ``seed`` and ``task`` or ``metric``."""
    if isinstance(scores, xr.Dataset | xr.DataTree):
        return _final_scores(scores)
    if not isinstance(scores, xr.DataArray):
        plain = numbers(scores, name)
        if plain.ndim != 2:
            raise AnalysisError(
                f"{name} has {plain.ndim} dimensions; a plain array is (run, task). For more, pass an "
                "xarray.DataArray with named dimensions."
            )
        scores = xr.DataArray(plain, dims=("seed", "task"))
    task = [dim for dim in scores.dims if dim in ("task", "metric")]
    if "seed" not in scores.dims or len(task) != 1:
        raise AnalysisError(
            f"{name} needs the dimensions 'seed' and 'task' (or 'metric'); it has {shown(scores.dims)}."
        )
    if scores.dtype.kind not in "fiub":
        raise AnalysisError(f"{name} holds {scores.dtype}, not numbers.")
    if not scores.sizes["seed"] or not scores.sizes[task[0]]:
        raise AnalysisError(f"{name} is empty.")
    return scores


def _final_scores(cube: xr.Dataset | xr.DataTree) -> xr.DataArray:
    """Values (model, seed, metric) at the final steps, copies of runs left out."""
    data = as_cube(cube)
    if not data.sizes["metric"]:
        raise AnalysisError("the cube has no metrics; was nothing left by a selection?")
    final = final_steps(data)["step"]
    lower = data["metric"].values[better_of(data) == "lower"].tolist()
    if lower:
        raise AnalysisError(
            f"{shown(lower)} are better lower; select metrics that are better higher, or turn the scores round."
        )
    place = np.maximum(np.searchsorted(data["step"].values, final.values), 0)
    place = np.minimum(place, data.sizes["step"] - 1)
    values = np.take_along_axis(counted_cells(data)[0], place[:, None, None, :], axis=2)[:, :, 0]
    values = np.where(final.values[:, None] == -1, np.nan, values)
    return xr.DataArray(
        values,
        dims=("model", "seed", "metric"),
        coords={name: data[name] for name in ("model", "seed", "metric")},
    )


def same_tasks(x: xr.DataArray, y: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Both on the tasks, and the further labels, that they share."""
    dims = [{dim for dim in side.dims if dim != "seed"} for side in (x, y)]
    if dims[0] != dims[1]:
        raise AnalysisError(f"scores and other have different dimensions: {shown(x.dims)}; {shown(y.dims)}.")
    for dim in x.dims:
        if dim == "seed":
            continue
        if dim in x.indexes and dim in y.indexes:
            shared = x.indexes[dim].intersection(y.indexes[dim], sort=False)
            if shared.empty:
                raise AnalysisError(f"scores and other have no {dim} in common.")
            x, y = x.sel({dim: shared}), y.sel({dim: shared})
        elif x.sizes[dim] != y.sizes[dim]:
            raise AnalysisError(f"scores has {x.sizes[dim]} along {dim!r} and other {y.sizes[dim]}; label both.")
    return x, y.transpose(*x.dims)


def score_cells(scores: Scores, name: str) -> tuple[Floats, tuple[Hashable, ...], tuple[int, ...], dict[Hashable, Any]]:
    return cells_of(task_array(scores, name))


def cells_of(scores: xr.DataArray) -> tuple[Floats, tuple[Hashable, ...], tuple[int, ...], dict[Hashable, Any]]:
    """Values (cell, run, task) without infinities; dimensions, shape and coordinates of the cells."""
    task = next(dim for dim in scores.dims if dim in ("task", "metric"))
    dims = tuple(dim for dim in scores.dims if dim not in ("seed", task))
    shape = tuple(scores.sizes[dim] for dim in dims)
    values = np.asarray(scores.transpose(*dims, "seed", task).values, dtype=np.float64)
    coords = {name: coord.variable for name, coord in scores.coords.items() if set(coord.dims) <= set(dims)}
    return finite(values.reshape(-1, *values.shape[-2:])), dims, shape, coords


def counts_of(values: Floats, dims: tuple[Hashable, ...], shape: tuple[int, ...]) -> dict[str, Any]:
    known = ~np.isnan(values)
    n_runs, n_tasks = known.any(axis=2).sum(axis=1), known.any(axis=1).sum(axis=1)
    missing = (~known).sum(axis=(1, 2))
    columns = {"n_runs": n_runs, "n_tasks": n_tasks, "n_missing": missing}
    return {name: (dims, column.reshape(shape)) for name, column in columns.items()}
