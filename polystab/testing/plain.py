"""Plain synthetic cubes: linear and Gaussian, or piecewise linear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from polystab.cube.build import finished
from polystab.errors import shown
from polystab.testing.drawing import (
    Rng,
    Steps,
    bare_cube,
    check,
    check_numbers,
    check_sds,
    check_shares,
    check_sizes,
    checked_steps,
    forgotten,
    generator_of,
    synthetic_attrs,
    wandering,
)


def variance_cube(
    *,
    n_models: int = 3,
    n_seeds: int = 10,
    n_steps: int = 8,
    n_metrics: int = 1,
    mean: float = 0.0,
    sd_model: float = 1.0,
    sd_step: float = 0.0,
    sd_model_step: float = 0.0,
    sd_seed: float = 1.0,
    sd_seed_shared: float = 0.0,
    sd_residual: float = 1.0,
    sd_item: float = 0.0,
    missing: float = 0.0,
    rng: Rng = None,
) -> xr.Dataset:
    """A cube whose variance components are exactly the ones given.

    ``value = mean + model + step + model:step + seed + seed:model + residual + item``, all
    terms independent, Gaussian and centred, and drawn anew for every metric.

    Parameters
    ----------
    n_models, n_seeds, n_steps, n_metrics : int
        At least one each. Metrics are ``eval/synthetic_<k>/score``.
    mean : float
        Grand mean.
    sd_model, sd_step, sd_model_step : float
        SDs of the model, of the step, and of their interaction.
    sd_seed : float
        SD of runs within a model (seeds nested in models).
    sd_seed_shared : float
        SD of a seed's effect that is the same in every model, as where seed *k* has
        the same data order everywhere (seeds crossed with models).
    sd_residual : float
        SD of what is independent at every checkpoint.
    sd_item : float
        SD of item sampling: independent at every checkpoint as well, but reported in
        ``stderr``. 0 gives a cube without ``stderr``.
    missing : float
        Share of checkpoints without values.
    rng : int, numpy.random.Generator or None
        Source of chance.

    Returns
    -------
    xarray.Dataset
        A valid cube.

    Raises
    ------
    RecipeError
        A size below one, an SD below zero, or a share outside 0 to 1.

    Examples
    --------
    >>> cube = variance_cube(n_models=4, n_seeds=2000, n_steps=1, sd_seed=2.0, sd_residual=0.0, rng=0)
    >>> within = cube["value"].std("seed", ddof=1)
    >>> bool((abs(within - 2.0) < 0.15).all())
    True
    """
    sds = {
        "sd_model": sd_model,
        "sd_step": sd_step,
        "sd_model_step": sd_model_step,
        "sd_seed": sd_seed,
        "sd_seed_shared": sd_seed_shared,
        "sd_residual": sd_residual,
        "sd_item": sd_item,
    }
    sizes = {"n_models": n_models, "n_seeds": n_seeds, "n_steps": n_steps, "n_metrics": n_metrics}
    check_sizes(**sizes)
    check_sds(**sds)
    check_numbers(mean=mean)
    check_shares(missing=missing)
    generator = generator_of(rng)
    shape = (n_models, n_seeds, n_steps, n_metrics)
    along = {
        "sd_model": (n_models, 1, 1, n_metrics),
        "sd_step": (1, 1, n_steps, n_metrics),
        "sd_model_step": (n_models, 1, n_steps, n_metrics),
        "sd_seed": (n_models, n_seeds, 1, n_metrics),
        "sd_seed_shared": (1, n_seeds, 1, n_metrics),
        "sd_residual": shape,
        "sd_item": shape,
    }
    value = np.full(shape, float(mean))
    for name, size in along.items():
        value += sds[name] * generator.standard_normal(size)
    gone = forgotten(shape[:3], missing, generator)
    value[gone] = np.nan
    cube = bare_cube(value, _models(n_models), 1000 * np.arange(1, n_steps + 1), _metrics(n_metrics))
    if sd_item > 0:
        cube["stderr"] = cube["value"].where(cube["value"].isnull(), sd_item)
    arguments = {**sizes, "mean": mean, **sds, "missing": missing}
    return finished(cube, synthetic_attrs("Synthetic variance components", "variance_cube", arguments, rng))


def phase_cube(
    *,
    changes: Sequence[int] | Sequence[Sequence[int]] = (20_000, 40_000),
    n_models: int = 1,
    n_seeds: int = 10,
    steps: Sequence[int] | None = None,
    n_metrics: int = 3,
    jump: float = 3.0,
    slope: float = 0.0,
    sd_seed: float = 0.0,
    sd_noise: float = 1.0,
    correlation: float = 0.0,
    rng: Rng = None,
) -> xr.Dataset:
    """A cube whose curves are straight except at known steps.

    Parameters
    ----------
    changes : sequence of int, or one such sequence for each seed
        A change at step *c* means that the checkpoint at *c* is the first of the new
        phase. An empty sequence gives pure noise.
    n_models, n_seeds, n_metrics : int
        At least one each; every metric of a run changes at the same steps.
    steps : sequence of int, optional
        Increasing; every 1,000 from 0 to 59,000 if not given.
    jump : float
        Added to the level at each change.
    slope : float
        Added to the slope at each change, in units per 1,000 steps.
    sd_seed : float
        SD over runs of a constant offset.
    sd_noise, correlation : float
        SD of stationary noise, and its correlation between neighbouring checkpoints
        (0 is white noise).
    rng : int, numpy.random.Generator or None
        Source of chance.

    Returns
    -------
    xarray.Dataset
        A valid cube with metrics ``eval/synthetic_<k>/score``.

    Raises
    ------
    RecipeError
        An argument makes no sense, or a change lies outside the steps.

    Examples
    --------
    >>> cube = phase_cube(changes=[30_000], n_seeds=1, n_metrics=1, sd_noise=0.0, rng=0)
    >>> cube["value"].sel(step=[29_000, 30_000]).values.ravel().tolist()
    [0.0, 3.0]
    """
    sizes = {"n_models": n_models, "n_seeds": n_seeds, "n_metrics": n_metrics}
    check_sizes(**sizes)
    check_sds(sd_seed=sd_seed, sd_noise=sd_noise)
    check_numbers(jump=jump, slope=slope)
    check_shares(correlation=correlation)
    grid = np.array(checked_steps(range(0, 60_000, 1000) if steps is None else steps), dtype=np.int64)
    own = _changes_by_seed(changes, n_seeds, grid)
    generator = generator_of(rng)
    offsets = sd_seed * generator.standard_normal((n_models, n_seeds, 1, n_metrics))
    noise = sd_noise * wandering((n_models, n_seeds, len(grid), n_metrics), correlation, generator)
    curve = np.zeros((n_seeds, len(grid)))
    for seed, mine in enumerate(own):
        for change in mine:
            curve[seed] += (grid >= change) * (jump + slope * (grid - change) / 1000)
    value = curve[None, :, :, None] + offsets + noise
    cube = bare_cube(value, _models(n_models), grid, _metrics(n_metrics))
    arguments = {
        "changes": own[0] if all(mine == own[0] for mine in own) else own,
        **sizes,
        "steps": None if steps is None else grid.tolist(),
        "jump": jump,
        "slope": slope,
        "sd_seed": sd_seed,
        "sd_noise": sd_noise,
        "correlation": correlation,
    }
    return finished(cube, synthetic_attrs("Synthetic phases", "phase_cube", arguments, rng))


def _models(n_models: int) -> list[str]:
    return [f"model-{i}" for i in range(n_models)]


def _metrics(n_metrics: int) -> list[str]:
    width = len(str(n_metrics - 1))
    return [f"eval/synthetic_{k:0{width}d}/score" for k in range(n_metrics)]


def _changes_by_seed(changes: Sequence[int] | Sequence[Sequence[int]], n_seeds: int, grid: Steps) -> list[list[int]]:
    nested = [[int(change) for change in mine] for mine in changes if not isinstance(mine, (int, np.integer))]
    flat = [int(change) for change in changes if isinstance(change, (int, np.integer))]
    check(not (nested and flat), "changes mixes steps and lists of steps.")
    own = nested or [flat] * n_seeds
    check(len(own) == n_seeds, f"changes has {len(own)} lists for {n_seeds} seeds.")
    outside = sorted({change for mine in own for change in mine if not grid[0] < change <= grid[-1]})
    check(not outside, f"changes {shown(outside)} are not after step {grid[0]} and up to {grid[-1]}.")
    return own
