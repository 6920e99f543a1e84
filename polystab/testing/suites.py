"""Training suites drawn from a recipe."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.cube.build import finished
from polystab.cube.specs import DIMS
from polystab.errors import RecipeError, did_you_mean, shown
from polystab.testing.drawing import Array, Rng, Steps, bare_cube, forgotten, synthetic_attrs, wandering
from polystab.testing.recipes import EVAL_STEPS, Event, Made, Recipe

# How one unit of effect (logits of ability) shows elsewhere.
LOSS_PER_LOGIT = 0.1  # nats
WEIGHT_PER_LOGIT = 0.05  # relative change

TOKENS_PER_STEP = 2**16


def synthetic_cube(*, rng: Rng = None, **recipe: Any) -> xr.Dataset:
    """A cube that looks like a training suite, drawn from a :class:`Recipe`.

    Parameters
    ----------
    rng : int, numpy.random.Generator or None
        Source of chance; the same ``rng`` and recipe give the same cube.
    **recipe
        What :class:`Recipe` takes: ``n_models``, ``n_seeds``, ``steps``, ``tasks``,
        ``n_items``, ``sd_seed``, ``events``, ``missing``, ...

    Returns
    -------
    xarray.Dataset
        A valid cube; ``Recipe(...).make(rng)`` gives the truth with it.

    Raises
    ------
    RecipeError
        An argument does not exist or makes no sense.

    Examples
    --------
    >>> import polystab as ps
    >>> cube = synthetic_cube(n_models=1, n_seeds=5, events=[Event.outlier(seed=3, step=13_000)], rng=0)
    >>> dict(cube.sizes)
    {'model': 1, 'seed': 5, 'step': 27, 'metric': 8}
    >>> ps.validate_cube(cube)
    []
    """
    known = {field.name for field in dataclasses.fields(Recipe)}
    if unknown := sorted(set(recipe) - known):
        raise RecipeError(f"a recipe has no {shown(unknown)}. {did_you_mean(unknown[0], known)}")
    return Recipe(**recipe).make(rng).cube


def demo_cube() -> xr.Dataset:
    """The bundled cube ``demo``, made anew: three toy models, ten seeds each, one of them going wrong.

    Returns
    -------
    xarray.Dataset
        What ``ps.load_cube("demo")`` opens. None of it was measured.

    Examples
    --------
    >>> demo_cube().attrs["title"]
    'Demo (synthetic): three toy models, ten seeds each'
    """
    recipe = Recipe(
        tasks=("recall", "grammar", "reading", "arithmetic"),
        chance=(0.25, 0.5, 0.25, 0.0),
        n_items=1000,
        sd_seed=0.12,
        sd_seed_step=0.05,
        phase_steps=(23_000,),
        phase_size=0.25,
        sd_phase=0.3,
        events=(Event.outlier(seed=7, step=63_000, model=1, drop=1.2), Event.spike(step=33_000, model=2, loss=0.4)),
        missing=1 / (3 * 10 * len(EVAL_STEPS)),
    )
    cube = recipe.make(20_250_312).cube
    cube.attrs["title"] = "Demo (synthetic): three toy models, ten seeds each"
    cube.attrs["summary"] = (
        "SYNTHETIC: drawn from a random number generator, measured on nothing. Run toy-8m seed 7 was made to go wrong "
        "at step 63000, every run of toy-32m has a loss spike at step 33000, and one checkpoint is missing."
    )
    cube.attrs["license"] = "Apache-2.0"
    return cube


def made(recipe: Recipe, generator: np.random.Generator, rng: Rng = None) -> Made:
    """Draw a suite; ``rng`` is only what the cube says it was drawn with."""
    metrics = _metrics(recipe)
    ids = [metric.id for metric in metrics]
    grid = np.array(recipe.grid, dtype=np.int64)
    runs = (recipe.n_models, recipe.n_seeds)
    shape = (*runs, len(grid), len(metrics))

    # Everything random but the binomial is drawn in full and scaled after, so that one SD or event can be
    # changed while the rest of the cube stays as it was.
    common = generator.standard_normal((*runs, 1))
    single = generator.standard_normal((*runs, len(metrics)))
    seed_effect = recipe.sd_seed * (math.sqrt(recipe.shared) * common + math.sqrt(1 - recipe.shared) * single)
    wander = recipe.sd_seed_step * wandering(shape, recipe.correlation, generator)
    noise = recipe.sd_checkpoint * generator.standard_normal(shape)
    phase_step = _phase_steps(recipe, grid, generator.standard_normal((*runs, len(recipe.phase_steps))))
    for model, seed, of in recipe.duplicates:
        for drawn in (seed_effect, wander, noise, phase_step):
            drawn[model, seed] = drawn[model, of]

    level = recipe.phase_size * (grid[:, None] >= phase_step[..., None, :]).sum(-1)[..., None]
    drop, loss, norm = _events(recipe, grid, single_runs=True)
    steady = seed_effect[:, :, None, :] + wander + level
    expected = _values(recipe, metrics, grid, steady - drop, loss, norm)
    value = _values(recipe, metrics, grid, steady - drop + noise, loss, norm)

    usual = recipe.phase_size * (grid[:, None] >= on_grid(recipe.phase_steps, grid)).sum(-1)[None, None, :, None]
    drop, loss, norm = _events(recipe, grid, single_runs=False)
    average = _values(recipe, metrics, grid, np.broadcast_to(usual, shape) - drop, loss, norm)[:, 0]

    gone = forgotten(shape[:3], recipe.missing, generator)
    stderr = _sample_items(recipe, metrics, value, generator)
    value[gone] = np.nan
    models = [_model_name(i) for i in range(recipe.n_models)]
    cube = bare_cube(value, models, grid, ids)
    if stderr is not None:
        stderr[gone] = np.nan
        cube["stderr"] = (DIMS, stderr)
    cube = _described(cube, recipe, metrics)
    cube = finished(cube, synthetic_attrs("Synthetic training suite", "synthetic_cube", _changed(recipe), rng))
    truth = _truth(cube, recipe, expected, average, seed_effect, phase_step)
    return Made(cube, truth)


class _Metric(NamedTuple):
    id: str
    kind: str  # task, loss, l2_norm or kurtosis
    number: int  # of the task or weight subject, as listed in the recipe


def _metrics(recipe: Recipe) -> list[_Metric]:
    """The metrics in the order of their names, which is that of every cube."""
    found = [_Metric(f"eval/{task}/acc", "task", i) for i, task in enumerate(recipe.tasks)]
    found.append(_Metric("loss/validation/cross_entropy", "loss", 0))
    for i, subject in enumerate(recipe.weights):
        found += [_Metric(f"weight/{subject}/{kind}", kind, i) for kind in ("kurtosis", "l2_norm")]
    return sorted(found)


def _values(recipe: Recipe, metrics: Sequence[_Metric], grid: Steps, effect: Array, loss: Array, norm: Array) -> Array:
    """Values (model, seed, step, metric) of effects in logits and of what events add."""
    value = np.empty(effect.shape)
    log_step = np.log2(1.0 + grid)
    size = np.arange(recipe.n_models)[:, None, None]
    spread = np.linspace(-1.0, 1.0, len(recipe.tasks)) if len(recipe.tasks) > 1 else np.zeros(1)
    for k, metric in enumerate(metrics):
        e = effect[..., k]
        if metric.kind == "task":
            difficulty, chance = spread[metric.number], recipe.chances[metric.number]
            learnt = _sigmoid(log_step - 10.0 - difficulty) * (grid > 0)
            ability = 2.0 * (1 - 0.7 ** (size + 1)) - difficulty
            value[..., k] = chance + (1 - chance) * learnt * _sigmoid(ability + e)
        elif metric.kind == "loss":
            floor = 2.0 + 1.6 * 0.75**size
            curve = floor + (math.log(50_000) - floor) / (1 + (grid / 200.0) ** 0.6)
            value[..., k] = curve - LOSS_PER_LOGIT * e + loss
        else:
            growth = np.log1p(grid / 1000.0) * (0.3 if metric.kind == "l2_norm" else 1.5)
            start = 40.0 * 2.0**size / (1 + metric.number) if metric.kind == "l2_norm" else 0.1
            base = start * (1 + growth) if metric.kind == "l2_norm" else start + growth
            value[..., k] = base * np.exp(WEIGHT_PER_LOGIT * e) * (1 + norm)
    return value


def _events(recipe: Recipe, grid: Steps, *, single_runs: bool) -> tuple[Array, Array, Array]:
    """What the events take from ability and add to loss and weights; without those of single runs if told so."""
    shape = (recipe.n_models, recipe.n_seeds, len(grid))
    drop, loss, norm = np.zeros((*shape, 1)), np.zeros(shape), np.zeros(shape)
    for event in recipe.events:
        if event.seed is not None and not single_runs:
            continue
        model = slice(None) if event.model is None else slice(event.model, event.model + 1)
        seed = slice(None) if event.seed is None else slice(event.seed, event.seed + 1)
        when = (grid >= event.step) & (grid <= (grid[-1] if event.until is None else event.until))
        drop[model, seed, when] += event.drop
        loss[model, seed, when] += event.loss
        norm[model, seed, when] += event.norm
    for model_, seed_, of in recipe.duplicates if single_runs else ():
        for array in (drop, loss, norm):
            array[model_, seed_] = array[model_, of]
    return drop, loss, norm


def _sample_items(recipe: Recipe, metrics: Sequence[_Metric], value: Array, rng: np.random.Generator) -> Array | None:
    """Replace accuracies by shares of items answered correctly; their standard errors, with n - 1 as the harness has it."""
    if recipe.n_items == 0:
        return None
    stderr = np.full(value.shape, np.nan)
    for k, metric in enumerate(metrics):
        if metric.kind != "task":
            continue
        share = rng.binomial(recipe.n_items, np.clip(value[..., k], 0.0, 1.0)) / recipe.n_items
        for model, seed, of in recipe.duplicates:
            share[model, seed] = share[model, of]
        value[..., k] = share
        stderr[..., k] = np.sqrt(share * (1 - share) / max(recipe.n_items - 1, 1))
    return stderr


def _described(cube: xr.Dataset, recipe: Recipe, metrics: Sequence[_Metric]) -> xr.Dataset:
    """The cube with what is known about its models, steps and metrics."""
    places = [re.fullmatch(r"weight/layers\.(\d+)\.(.+)/\w+", metric.id) for metric in metrics]
    is_task = [metric.kind == "task" for metric in metrics]
    units = {"task": "1", "loss": "nats"}
    better = {"task": "higher", "loss": "lower"}
    numbers = np.arange(recipe.n_models)
    seeds = np.broadcast_to(cube["seed"].values, (recipe.n_models, recipe.n_seeds)).copy()
    cube = cube.assign(weight_seed=(("model", "seed"), seeds), data_seed=(("model", "seed"), seeds.copy()))
    return cube.assign_coords(
        units=("metric", np.array([units.get(metric.kind, "") for metric in metrics], dtype=np.str_)),
        better=("metric", np.array([better.get(metric.kind, "") for metric in metrics], dtype=np.str_)),
        component=("metric", np.array([place[2] if place else "" for place in places], dtype=np.str_)),
        layer=("metric", np.array([int(place[1]) if place else -1 for place in places], dtype=np.int64)),
        n_items=("metric", np.where(is_task, recipe.n_items or -1, -1).astype(np.int64)),
        chance=("metric", np.array([recipe.chances[m.number] if m.kind == "task" else np.nan for m in metrics])),
        n_parameters=("model", np.array([_parameters(i) for i in range(recipe.n_models)], dtype=np.int64)),
        n_layers=("model", (2 + numbers).astype(np.int64)),
        hidden_size=("model", (64 * 2**numbers).astype(np.int64)),
        tokens=("step", cube["step"].values * TOKENS_PER_STEP),
    )


def _truth(
    cube: xr.Dataset,
    recipe: Recipe,
    expected: Array,
    average: Array,
    seed_effect: Array,
    phase_step: Steps,
) -> xr.Dataset:
    runs = ("model", "seed")
    outlier_step = np.full((recipe.n_models, recipe.n_seeds), -1, dtype=np.int64)
    for event in recipe.events:
        if event.is_outlier:
            models = range(recipe.n_models) if event.model is None else (event.model,)
            for model in models:
                outlier_step[model, event.seed] = event.step
    duplicate_of = np.full_like(outlier_step, -1)
    for model, seed, of in recipe.duplicates:
        duplicate_of[model, seed] = of
        outlier_step[model, seed] = outlier_step[model, of]
    return xr.Dataset(
        {
            "expected": (DIMS, expected),
            "average": (("model", "step", "metric"), average),
            "seed_effect": ((*runs, "metric"), seed_effect),
            "phase_step": ((*runs, "phase"), phase_step),
            "outlier_step": (runs, outlier_step),
            "duplicate_of": (runs, duplicate_of),
        },
        coords={dim: cube[dim].values for dim in DIMS},
    )


def _phase_steps(recipe: Recipe, grid: Steps, jitter: Array) -> Steps:
    """Each run's own first checkpoint of each phase (model, seed, phase)."""
    return on_grid(np.array(recipe.phase_steps, dtype=np.float64) * 2.0 ** (recipe.sd_phase * jitter), grid)


def on_grid(steps: npt.ArrayLike, grid: Steps) -> Steps:
    return grid[np.minimum(np.searchsorted(grid, np.asarray(steps, dtype=np.float64)), len(grid) - 1)]


def _changed(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that are not left at their default."""
    fields = dataclasses.fields(recipe)
    return {field.name: getattr(recipe, field.name) for field in fields if getattr(recipe, field.name) != field.default}


def _parameters(number: int) -> int:
    return int(2_000_000 * 4**number)


def _model_name(number: int) -> str:
    millions = _parameters(number) // 1_000_000
    return f"toy-{millions}m" if millions < 1000 else f"toy-{millions / 1000:.12g}b"


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))
