"""Cubes from plain arrays. A module and not a conftest, of which only one may be collected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.cube.build import finished
from polystab.cube.specs import DIMS


def make_cube(
    value: npt.ArrayLike,
    *,
    steps: Sequence[int] | None = None,
    metrics: Sequence[str] | None = None,
    stderr: npt.ArrayLike | None = None,
    **coords: Any,
) -> xr.Dataset:
    """A cube with ``value`` (model, seed, step, metric) and plain labels."""
    array = np.asarray(value, dtype=np.float64)
    n_model, n_seed, n_step, n_metric = array.shape
    cube = xr.Dataset(
        {"value": (DIMS, array)} | ({} if stderr is None else {"stderr": (DIMS, np.asarray(stderr, dtype=np.float64))}),
        coords={
            "model": np.array([f"m{i}" for i in range(n_model)]),
            "seed": np.arange(n_seed),
            "step": np.arange(n_step) * 1000 if steps is None else np.asarray(steps),
            "metric": np.array(metrics or [f"eval/task{i}/acc" for i in range(n_metric)]),
        },
    )
    cube = cube.assign_coords({name: ("metric", np.asarray(values)) for name, values in coords.items()})
    return finished(cube, {"created": "2026-01-01T00:00:00+00:00"})
