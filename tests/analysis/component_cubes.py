"""Cubes with known variance components, and how often intervals hold them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr
from cubes_of_arrays import make_cube

Floats = npt.NDArray[np.float64]


def cube_of(values: Floats, missing: float = 0.0, rng: np.random.Generator | None = None) -> xr.Dataset:
    """A cube of one step from (model, seed, metric)."""
    if rng is not None:
        values = np.where(rng.random(values.shape) < missing, np.nan, values)
    return make_cube(values[:, :, None, :])


def nested_cube(
    rng: np.random.Generator, n_model: int = 4, n_seed: int = 5, n: int = 30, sd: float = 2.0
) -> xr.Dataset:
    return cube_of(sd * rng.standard_normal((n_model, 1, n)) + rng.standard_normal((n_model, n_seed, n)))


def factorial_cube(
    rng: np.random.Generator,
    shape: tuple[int, int, int] = (4, 3, 1),
    n: int = 30,
    sd: tuple[float, ...] = (2.0, 1.0, 0.0),
) -> xr.Dataset:
    """One model with initialisations x orders x replicates; SD of the first two and of their interaction."""
    a, b, r = shape
    values = rng.standard_normal((a, b, r, n)) + sd[0] * rng.standard_normal((a, 1, 1, n))
    values += sd[1] * rng.standard_normal((1, b, 1, n)) + sd[2] * rng.standard_normal((a, b, 1, n))
    weight, data, _ = np.unravel_index(np.arange(a * b * r), shape)
    return with_seeds(cube_of(values.reshape(1, a * b * r, n)), weight, data)


def with_seeds(cube: xr.Dataset, weight: npt.ArrayLike, data: npt.ArrayLike) -> xr.Dataset:
    size = (cube.sizes["model"], cube.sizes["seed"])
    for name, seeds in (("weight_seed", weight), ("data_seed", data)):
        cube[name] = (("model", "seed"), np.broadcast_to(np.asarray(seeds, dtype=np.int64), size).copy())
    return cube


def of(result: xr.Dataset, name: str, component: str) -> Floats:
    return np.asarray(result[name].sel(component=component).values).ravel()


def coverage(found: xr.Dataset, truth: dict[str, float]) -> dict[str, float]:
    return {
        name: float(np.mean((of(found, "lower", name) <= value) & (value <= of(found, "upper", name))))
        for name, value in truth.items()
    }
