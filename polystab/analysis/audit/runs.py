"""Runs that count once: trajectories that stand under two seeds of a model.

Everything else that an audit looks for is in :mod:`polystab.analysis.audit.checks`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, cells, described, labels
from polystab.cube.parts import value_parts
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError

# Trajectories that agree in every cell are taken for copies once this many different values
# stand in them. With fewer, honest coincidence is common: a flat curve, accuracies of a task
# with 100 items at one checkpoint, a loss logged with four digits.
MIN_DISTINCT = 5

# What duplicate_runs finds. A part of a cube may carry it, see polystab.analysis.chunked.
COPIES = {
    "duplicate": "the trajectory repeats that of an earlier seed of the model",
    "duplicate_of": "the seed whose trajectory it repeats, or its own",
    "duplicate_run": "all metrics together repeat an earlier seed of the model",
    "duplicate_run_of": "the seed that the run repeats, or its own",
}

# Parts of a run are hashed one by one; any odd number will do.
_ODD = np.uint64(0x9E3779B97F4A7C15)


def duplicate_runs(cube: xr.Dataset | xr.DataTree) -> xr.Dataset:
    """Which trajectories of a model repeat those of another of its seeds.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.

    Returns
    -------
    xarray.Dataset
        ``duplicate(model, seed, metric)``, bool: this trajectory stands under an
        earlier seed of the same model already; ``duplicate_of(model, seed, metric)``:
        that seed, or the run's own seed where it is no copy; and the same for whole
        runs, ``duplicate_run(model, seed)`` and ``duplicate_run_of(model, seed)``.

    Notes
    -----
    Two trajectories are copies if the same steps are measured in both, all values are
    equal to the last bit, and at least ``MIN_DISTINCT`` (5) different values are among
    them. A run is a copy if that holds for all its metrics taken together, so that a
    cube with a single step can have copied runs too; all metrics of such a run are
    copies. The run with the lowest position along ``seed`` is the one that counts. A
    single seed, a flat trajectory and a trajectory without values are never copies.
    Results whose unit is the run (DESIGN: "identical trajectories count once") leave
    copies out.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis import duplicate_runs
    >>> cube = polystab.testing.synthetic_cube(rng=0)
    >>> int(duplicate_runs(cube)["duplicate_run"].sum())
    0
    """
    cube = as_cube(cube)
    if all(name in cube.data_vars for name in COPIES):
        # A part of a cube, of which the whole was looked at.
        known = {name: cube[name].transpose("model", "seed", ...).variable for name in COPIES}
        return xr.Dataset(known, coords=labels(cube, "model", "seed", "metric"))
    first, first_run = _first_equal(cube)
    own = np.arange(cube.sizes["seed"])
    copied = first_run != own
    first = np.where(copied[:, :, None], first_run[:, :, None], first)
    seeds = cube["seed"].values
    return described(
        xr.Dataset(
            {
                "duplicate": (("model", "seed", "metric"), first != own[:, None]),
                "duplicate_of": (("model", "seed", "metric"), seeds[first]),
                "duplicate_run": (("model", "seed"), copied),
                "duplicate_run_of": (("model", "seed"), seeds[first_run]),
            },
            coords=labels(cube, "model", "seed", "metric"),
        ),
        COPIES,
    )


def check_not_empty(cube: xr.Dataset) -> None:
    """Raise an AnalysisError for a cube without models, seeds or steps."""
    empty = [f"{dim}s" for dim in ("model", "seed", "step") if not cube.sizes[dim]]
    if empty:
        raise AnalysisError(f"the cube has no {' and no '.join(empty)}; was nothing left by a selection?")


def counted_cells(cube: xr.Dataset) -> tuple[Floats, Bools]:
    """Values (model, seed, step, metric) with copies as not measured, and which (model, seed, metric) those are.

    Raises
    ------
    AnalysisError
        There is no model, seed or step, so that there is nothing to count.
    """
    check_not_empty(cube)
    copies = np.asarray(duplicate_runs(cube)["duplicate"].values)
    values = cells(cube)
    if copies.any():
        values = np.where(copies[:, :, None, :], np.nan, values)
    return values, copies


def _first_equal(cube: xr.Dataset) -> tuple[Ints, Ints]:
    """The first seed of the model with an equal trajectory, (model, seed, metric), and with an equal run, (model, seed)."""
    n_model, n_seed = cube.sizes["model"], cube.sizes["seed"]
    first = np.empty((n_model, n_seed, cube.sizes["metric"]), dtype=np.int64)
    keys = np.zeros((n_model, n_seed), dtype=np.uint64)
    empty = np.ones((n_model, n_seed), dtype=np.bool_)
    for place, values in value_parts(cube):
        for m in range(n_model):
            if np.isnan(values[m]).all():  # of a cube with many models, most
                first[m, :, place] = np.arange(n_seed)[:, None]
                continue
            block = np.moveaxis(values[m], 2, 1)  # seed, metric, step
            first[m, :, place] = first_alike(np.moveaxis(block, 1, 0)).T
            row = block.reshape(n_seed, -1)
            keys[m] = keys[m] * _ODD + hashed(row)
            empty[m] &= np.isnan(row).all(axis=1)
    own = np.broadcast_to(np.arange(n_seed), keys.shape)
    first_run = np.where(empty, own, np.argmax(keys[:, :, None] == keys[:, None, :], axis=2)).astype(np.int64)
    for m, s in _unproven(cube, first_run):
        first_run[m, s] = s
    return first, first_run


def _unproven(cube: xr.Dataset, first: Ints) -> list[tuple[int, int]]:
    """(model, seed) of runs that are not equal to the one with the same fingerprint, or flat."""
    pairs = [(m, s) for m, s in np.argwhere(first != np.arange(first.shape[1])).tolist()]
    seen: dict[tuple[int, int], Floats] = {pair: np.empty(0) for pair in pairs}
    differ: set[tuple[int, int]] = set()
    for _, values in value_parts(cube) if pairs else ():
        for m, s in pairs:
            run = values[m, s]
            if not np.array_equal(run, values[m, first[m, s]], equal_nan=True):
                differ.add((m, s))
            elif len(seen[m, s]) < MIN_DISTINCT:
                seen[m, s] = np.union1d(seen[m, s], run[~np.isnan(run)])[:MIN_DISTINCT]
    return [pair for pair in pairs if pair in differ or len(seen[pair]) < MIN_DISTINCT]


def first_alike(rows: Floats, *, min_distinct: int = MIN_DISTINCT) -> Ints:
    """For each row of each group, the first row of the group that is equal to it.

    Parameters
    ----------
    rows : (group, row, cell) array
        NaN means not measured and is equal to NaN.
    min_distinct : int
        Rows with fewer different numbers are alike to none but themselves.

    Returns
    -------
    (group, row) array of int
        Index of the first equal row, or the row's own.
    """
    n_group, n_row, _ = rows.shape
    own = np.broadcast_to(np.arange(n_row), (n_group, n_row))
    if n_row < 2:
        return own.astype(np.int64)
    keys = hashed(rows)
    same = keys[:, :, None] == keys[:, None, :]
    first: Ints = np.argmax(same, axis=2).astype(np.int64)
    first = np.where(np.isnan(rows).all(axis=2), own, first)
    for g, r in np.argwhere(first != own).tolist():
        row, other = rows[g, r], rows[g, first[g, r]]
        numbers = row[~np.isnan(row)]
        # A hash may collide and a flat row proves nothing: look at the few candidates themselves.
        if not np.array_equal(row, other, equal_nan=True) or len(np.unique(numbers)) < min_distinct:
            first[g, r] = r
    return first


def hashed(rows: Floats) -> npt.NDArray[Any]:
    """A 64-bit fingerprint of each row: a fixed random combination of the bits of its cells."""
    plain = np.where(np.isnan(rows), np.nan, rows + 0.0)  # one NaN, and 0.0 for -0.0
    bits = plain.view(np.uint64)
    mixed = (bits ^ (bits >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    odd = np.random.default_rng(0).integers(0, 2**63, rows.shape[-1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return np.asarray(np.sum((mixed ^ (mixed >> np.uint64(29))) * odd, axis=-1, dtype=np.uint64))
