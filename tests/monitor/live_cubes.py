"""Runs for the tests of the monitor: curves of one recipe, as arrays and as cubes with a log."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.testing.drawing import bare_cube

LOSS, NORM = "loss/train/cross_entropy", "gradient/all/norm"

Floats = npt.NDArray[np.float64]


def curves(runs: int, steps: int, *, rng: int | np.random.Generator, rho: float = 0.5) -> Floats:
    """Falling losses (run, step) with AR(1) noise of 0.05."""
    noise = np.random.default_rng(rng).standard_normal((runs, steps))
    for t in range(1, steps):
        noise[:, t] = rho * noise[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return 3 + 4 * np.exp(-np.arange(steps) / (steps / 8)) + 0.05 * noise


def cube_of(**by_metric: Any) -> xr.Dataset:
    """A cube of model ``a`` from arrays (run, step): ``loss``, ``norm``."""
    names = {"loss": LOSS, "norm": NORM}
    value = np.stack([by_metric[name] for name in by_metric], axis=-1)[None]
    return bare_cube(value, ["a"], np.arange(1, value.shape[2] + 1), [names.get(name, name) for name in by_metric])


def tree_of(loss: Floats, norm: Floats | None = None) -> xr.DataTree:
    """A cube of model ``a`` with a few checkpoints, and the log of every update."""
    n, steps = loss.shape
    cube = bare_cube(loss[None, :, 9::10, None], ["a"], np.arange(10, steps + 1, 10), ["loss/validation/cross_entropy"])
    log = {"loss": (("model", "seed", "update"), loss[None])}
    if norm is not None:
        log["grad_norm"] = (("model", "seed", "update"), norm[None])
    coords = {"model": ["a"], "seed": np.arange(n), "update": np.arange(1, steps + 1)}
    return xr.DataTree.from_dict({"/": cube, "/log": xr.Dataset(log, coords=coords)})
