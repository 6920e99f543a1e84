"""What the makers of synthetic cubes share: checked arguments, noise, bare cubes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.cube.specs import DIMS
from polystab.errors import RecipeError, shown

Array = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]
Rng = int | np.random.Generator | None

# A fixed date, so that the same recipe gives the same bytes.
CREATED = "1970-01-01T00:00:00+00:00"


def generator_of(rng: Rng) -> np.random.Generator:
    """The generator to draw from."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"rng={rng!r} is not an integer from 0, a numpy Generator, or None: {error}.") from error


def check(ok: bool, message: str) -> None:
    """Raise unless ``ok``."""
    if not ok:
        raise RecipeError(f"cannot make a synthetic cube: {message}")


def check_sizes(*, least: int = 1, **sizes: int) -> None:
    """Raise unless every size is a whole number, ``least`` or more."""
    for name, value in sizes.items():
        check(
            isinstance(value, (int, np.integer)) and value >= least, f"{name}={value!r} is not an integer from {least}."
        )


def check_numbers(**numbers: float) -> None:
    """Raise unless every argument is a finite number."""
    for name, value in numbers.items():
        check(isinstance(value, Real) and math.isfinite(value), f"{name}={value!r} is not a finite number.")


def check_sds(**sds: float) -> None:
    """Raise unless every SD is a finite number from 0."""
    check_numbers(**sds)
    for name, value in sds.items():
        check(value >= 0, f"{name}={value!r} is below 0.")


def check_shares(**shares: float) -> None:
    """Raise unless every share is from 0 to below 1."""
    check_numbers(**shares)
    for name, value in shares.items():
        check(0 <= value < 1, f"{name}={value!r} is not from 0 to below 1.")


def checked_steps(steps: Sequence[int], name: str = "steps") -> tuple[int, ...]:
    """Steps as plain integers, increasing from 0 or above."""
    given = list(steps)
    check(all(isinstance(step, (int, np.integer)) for step in given), f"{name}={given} are not all integers.")
    grid = tuple(int(step) for step in given)
    check(len(grid) > 0, f"{name} is empty.")
    check(grid[0] >= 0, f"{name} start at {grid[0]}, below 0.")
    check(all(a < b for a, b in itertools.pairwise(grid)), f"{name} {shown(grid)} do not increase.")
    return grid


def wandering(shape: tuple[int, int, int, int], correlation: float, generator: np.random.Generator) -> Array:
    """Stationary first-order autoregressive noise of variance 1 along the third axis."""
    noise = generator.standard_normal(shape)
    fresh = math.sqrt(1 - correlation**2)
    for t in range(1, shape[2]):
        noise[:, :, t] = correlation * noise[:, :, t - 1] + fresh * noise[:, :, t]
    return noise


def forgotten(shape: Sequence[int], share: float, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which checkpoints have no values: the rounded share of them, at least one of them kept."""
    total = math.prod(shape)
    gone = np.zeros(total, dtype=bool)
    gone[generator.permutation(total)[: min(round(share * total), total - 1)]] = True
    return gone.reshape(shape)


def bare_cube(value: Array, models: Sequence[str], steps: npt.ArrayLike, metrics: Sequence[str]) -> xr.Dataset:
    """``value`` with labels and nothing else; seeds count from 0."""
    return xr.Dataset(
        {"value": (DIMS, value)},
        coords={
            "model": np.array(models, dtype=np.str_),
            "seed": np.arange(value.shape[1], dtype=np.int64),
            "step": np.asarray(steps, dtype=np.int64),
            "metric": np.array(metrics, dtype=np.str_),
        },
    )


def synthetic_attrs(title: str, made_by: str, arguments: Mapping[str, Any], rng: Rng) -> dict[str, str]:
    """Attributes that say that nothing was measured, and how to make the cube again."""
    seed = {"rng": int(rng)} if isinstance(rng, (int, np.integer)) else {}
    listed = ", ".join(f"{name}={value!r}" for name, value in {**arguments, **seed}.items())
    return {
        "title": title,
        "summary": "SYNTHETIC: drawn from a random number generator, measured on nothing.",
        "source": f"polystab.testing.{made_by}({listed})",
        "created": CREATED,
    }
