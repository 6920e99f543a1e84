"""Runs that go wrong and tell so beforehand, and others that do not. A module and not a conftest, of which only one may be collected."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr
from cubes_of_arrays import make_cube

UPDATES = 160
STEPS = (0, 20, 40, 60, 80, 100, 120, 140, 160)
METRICS = ("eval/task/acc", "weight/layers.0.mlp/norm", "weight/layers.1.mlp/norm")


def make_runs(
    *,
    n_models: int = 2,
    n_seeds: int = 16,
    share_wrong: float = 0.5,
    signal: float = 3.0,
    weights: float = 0.0,
    rate: float = 1.0,
    rng: int = 0,
) -> tuple[xr.DataTree, xr.Dataset]:
    """A tree with a log, and labels as :func:`failed_runs` gives them.

    Gradient norms of a run that goes wrong at update 140 rise by ``signal`` standard deviations from update 40 to 100, and
    the norms of its weights by ``weights``; losses spike at 140 only. Each model has a level that is ``rate`` above the one before.
    """
    generator = np.random.default_rng(rng)
    shape = (n_models, n_seeds)
    wrong: npt.NDArray[np.bool_] = np.zeros(shape, dtype=bool)
    for m in range(n_models):
        wrong[m, generator.permutation(n_seeds)[: round(share_wrong * n_seeds)]] = True
    level = rate * np.arange(n_models)[:, None, None]
    at = np.arange(1, UPDATES + 1)
    rise = np.clip((at - 40) / 60, 0, 1) * wrong[:, :, None]
    loss = 3.0 + level + 0.05 * generator.standard_normal((*shape, UPDATES)) + 5.0 * (wrong[:, :, None] & (at >= 140))
    norm = np.exp(level + 0.3 * generator.standard_normal((*shape, UPDATES)) + 0.3 * signal * rise)
    value = generator.standard_normal((*shape, len(STEPS), len(METRICS))) * 0.1 + 1.0
    value[:, :, 1:, 1:] += 0.1 * weights * rise[:, :, np.asarray(STEPS[1:]) - 1, None]
    cube = make_cube(value, steps=STEPS, metrics=METRICS)
    dims = ("model", "seed", "update")
    log = xr.Dataset(
        {"loss": (dims, loss), "grad_norm": (dims, norm)},
        coords={"update": at},
    )
    run = ("model", "seed")
    labels = xr.Dataset(
        {
            "wrong": (run, wrong),
            "known": (run, np.ones(shape, dtype=bool)),
            "seen_at": (run, np.where(wrong, 140.0, np.nan)),
        },
        coords={"model": cube["model"].values, "seed": cube["seed"].values},
    )
    return tree_of(cube, log), labels


def tree_of(cube: xr.Dataset, log: xr.Dataset) -> xr.DataTree:
    """A tree of a cube and the log of its runs, whatever coordinates of another cube the log inherited."""
    bare = xr.Dataset(
        {name: (log[name].dims, log[name].values) for name in log.data_vars}, coords={"update": log["update"].values}
    )
    return xr.DataTree.from_dict({"/": cube, "/log": bare})


def with_log(tree: xr.DataTree, **changed: npt.ArrayLike) -> xr.DataTree:
    """The tree with other values in its log."""
    log = tree["log"].to_dataset().copy(deep=True)
    for name, values in changed.items():
        log[name] = (("model", "seed", "update"), np.asarray(values))
    return tree_of(tree.to_dataset(), log)
