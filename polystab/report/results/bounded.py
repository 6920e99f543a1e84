"""What part of a cube is searched or judged: all of most cubes, and of large ones what takes a minute or so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, cells
from polystab.analysis.chunked import with_copies
from polystab.analysis.trajectories import rank_metrics
from polystab.cube.parts import bytes_of_one
from polystab.words import count, plural

# Cells that are read at all, 256 MiB of values; of larger cubes some metrics are.
MAX_READ = 2**25

# Curves that are cut into phases, and checkpoints of each; Pythia has 154.
MAX_CURVES = 2000
MAX_CHECKPOINTS = 200

# Checkpoints of all runs together, and runs, that a training map is fitted to: every step of its fit goes through all runs.
MAX_FITTED = 3_000
MAX_MAPPED = 80

# Fits of each number of states; of many runs, each of which takes long, fewer.
MAP_RESTARTS = 5
FEW_RESTARTS = 2
MANY_RUNS = 40

# Cells that are audited and in which runs are judged: 5 models of 10 runs, 154 checkpoints and 1,000 metrics are fewer.
MAX_JUDGED = 10_000_000

# Answers to test items, of all runs and checkpoints together, that are compared.
MAX_ANSWERS = 6_000_000

# A run with fewer would hardly show a state.
MIN_CHECKPOINTS = 10


@dataclass(frozen=True)
class Searched:
    """A part of a cube, the metrics looked at there, and what was left out, in sentences."""

    cube: xr.Dataset
    metrics: tuple[str, ...]
    notes: tuple[str, ...]


def for_reading(cube: xr.Dataset) -> Searched:
    """The metrics of a cube that a report is about: all, or as many as fit into memory, of every kind those that move most.

    Copies among runs are told from all metrics nevertheless.
    """
    n, n_metric = max(8 * MAX_READ // max(bytes_of_one(cube), 1), 1), cube.sizes["metric"]
    names = [str(name) for name in cube["metric"].values.tolist()]
    if n_metric <= n:
        return Searched(cube, tuple(names), ())
    cube = with_copies(cube)
    kept = np.sort(np.argsort(rank_metrics(cube)["rank"].values)[:n])
    said = (
        f"This page is about {count(n)} of {plural(n_metric, 'metric')}, of every kind those that training moves most: "
        f"the cube is large. How much was measured, the fingerprint and which runs are copies are told from all. "
        f"Choose others with the option metrics (--metrics)."
    )
    return Searched(cube.isel(metric=kept), tuple(names[k] for k in kept.tolist()), (said,))


def for_changes(cube: xr.Dataset, metrics: Sequence[str]) -> Searched:
    """The first metrics, at so many checkpoints, that change points can be looked for in all runs."""
    part = cube.sel(metric=list(metrics))
    n_runs = _n_runs(part)
    kept = tuple(metrics[: max(MAX_CURVES // max(n_runs, 1), 1)])
    notes = []
    if len(kept) < len(metrics):
        notes.append(
            f"Of the {len(metrics)} metrics drawn above, changes are looked for in the first "
            f"{'one' if len(kept) == 1 else len(kept)}: {count(n_runs)} runs make many curves."
        )
    # All metrics stay, for they tell which runs are copies.
    thin, said = _thinned(cube, part, MAX_CHECKPOINTS)
    return Searched(thin, kept, (*notes, *said))


def for_map(cube: xr.Dataset, metrics: Sequence[str], models: Sequence[str]) -> Searched:
    """So many checkpoints, and if need be only some models and runs, that a training map can be fitted to all at once."""
    part = cube.sel(metric=list(metrics))
    notes = []
    n_runs = _n_runs(part)
    if n_runs > MAX_MAPPED and len(models) < cube.sizes["model"]:
        part = part.sel(model=list(models))
        notes.append(f"Mapped: the {plural(len(models), 'model')} drawn above, of {count(cube.sizes['model'])}.")
        n_runs = _n_runs(part)
    if n_runs > MAX_MAPPED:
        # The same number of each model, those whose seeds come first.
        there: Bools = np.asarray((~np.isnan(cells(part))).any(axis=(2, 3)))
        each = max(MAX_MAPPED // int(there.any(axis=1).sum()), 1)
        kept: Bools = there & (np.cumsum(there, axis=1) <= each)
        part = part.assign(value=part["value"].where(xr.DataArray(kept, dims=("model", "seed"))))
        notes.append(
            f"Mapped: at most {plural(each, 'run')} of each model, those with the lowest seeds, of {count(n_runs)}."
        )
        n_runs = int(kept.sum())
    thin, said = _thinned(part, part, max(MAX_FITTED // max(n_runs, 1), MIN_CHECKPOINTS))
    return Searched(thin, tuple(metrics), (*notes, *said))


def restarts_for(part: xr.Dataset) -> int:
    """Fits of a training map for each number of states."""
    return FEW_RESTARTS if _n_runs(part) > MANY_RUNS else MAP_RESTARTS


def for_judging(cube: xr.Dataset, ranked: Sequence[str]) -> Searched:
    """The first metrics in which data can be audited and runs judged."""
    each = _n_runs(cube) * cube.sizes["step"]
    n = max(MAX_JUDGED // max(each, 1), 1)
    if len(ranked) <= n:
        return Searched(cube, tuple(ranked), ())
    part = cube.sel(metric=cube["metric"].isin(list(ranked[:n])))
    said = f"Looked at: {count(n)} of {plural(len(ranked), 'metric')}, of every kind those that training moves most."
    return Searched(part, tuple(ranked[:n]), (said,))


def for_agreement(items: xr.Dataset) -> tuple[npt.NDArray[np.integer], tuple[str, ...]]:
    """The steps at which answers can be compared, evenly spaced to the last one."""
    steps: npt.NDArray[np.integer] = np.asarray(items["step"].values)
    each = items.sizes["model"] * items.sizes["seed"] * items.sizes["item"]
    n = max(MAX_ANSWERS // max(each, 1), 2)
    if len(steps) <= n:
        return steps, ()
    kept = steps[np.linspace(0, len(steps) - 1, n).round().astype(int)]
    return kept, (f"Answers are compared at {count(n)} of {plural(len(steps), 'checkpoint')}, evenly spaced.",)


def _n_runs(part: xr.Dataset) -> int:
    return int((~np.isnan(cells(part))).any(axis=(2, 3)).sum())


def _thinned(cube: xr.Dataset, part: xr.Dataset, most: int) -> tuple[xr.Dataset, tuple[str, ...]]:
    """The cube with about so many of each run's checkpoints in ``part``, evenly spaced, and what is to be said of it."""
    used: Bools = np.asarray((~np.isnan(cells(part))).any(axis=3))  # model, seed, step
    if used.sum(axis=2).max(initial=0) <= most:
        return cube, ()
    kept = np.ones((used.shape[0], used.shape[2]), dtype=np.bool_)
    for own, keep in zip(used, kept, strict=True):
        longest = int(own.sum(axis=1).max())
        if longest > most:
            # Runs of a model mostly share their checkpoints; where they do not, each keeps its part of them.
            there = np.flatnonzero(own.any(axis=0))
            n = round(most * len(there) / longest)
            keep[:] = False
            keep[there[np.linspace(0, len(there) - 1, n).round().astype(int)]] = True
    some = kept.any(axis=0)
    thin = cube.isel(step=some)
    thin = thin.assign(value=thin["value"].where(xr.DataArray(kept[:, some], dims=("model", "step"))))
    said = f"Runs with more than {count(most)} checkpoints are read at about so many, evenly spaced over all of theirs."
    return thin, (said,)
