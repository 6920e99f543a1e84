"""What a classifier is given: statistics of prefixes, which of them can be scored, and what is known of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats
from polystab.analysis.early_warning.curves import Curves, read_curves
from polystab.analysis.early_warning.features import Table, ended_by, tabulate
from polystab.analysis.early_warning.relative import Texts
from polystab.errors import AnalysisError

STATUS = ("scored", "too_short", "ended", "diverged")
SCORED, TOO_SHORT, ENDED, DIVERGED = range(4)

# Prefixes are looked at this often, at most, unless steps are given.
MANY_STEPS = 40


@dataclass(frozen=True, eq=False)
class Material:
    """Prefixes of runs.

    Attributes
    ----------
    table : Table
    status : (run, step) array of int
        Index into ``STATUS``.
    model, key : (run,) array of str
    copies : (run,) array of bool
    data : xarray.Dataset or xarray.DataTree
        What it was made from, of which ``rows`` are positions of runs, model by model.
    rows : (run,) array of int
    """

    table: Table
    status: npt.NDArray[np.int8]
    model: Texts
    key: Texts
    copies: Bools
    data: xr.Dataset | xr.DataTree
    rows: npt.NDArray[np.intp]

    @property
    def steps(self) -> Floats:
        return self.table.steps

    @property
    def scored(self) -> Bools:
        """Which prefixes (run, step) can be scored."""
        return np.asarray(self.status == SCORED)

    def take(self, chosen: npt.NDArray[np.intp] | Bools) -> Material:
        """Some of the runs."""
        return replace(
            self,
            table=replace(self.table, values=self.table.values[chosen]),
            status=self.status[chosen],
            model=self.model[chosen],
            key=self.key[chosen],
            copies=self.copies[chosen],
            rows=self.rows[chosen],
        )

    def aligned(self, names: Sequence[str], like: Table) -> Material:
        """With the features ``names`` of another table: those missing are NaN, those it lacks are left out."""
        if self.table.names == tuple(names):
            return self
        place = {name: i for i, name in enumerate(self.table.names)}
        index = np.array([place.get(name, -1) for name in names])
        values = np.where(index >= 0, self.table.values[:, :, index], np.nan)
        return replace(self, table=replace(like, values=values, steps=self.table.steps))


def gather(
    data: xr.Dataset | xr.DataTree,
    *,
    steps: Sequence[int] | Floats | None,
    families: Sequence[str] | None,
    metrics: Sequence[str] | None,
    min_points: int,
) -> Material:
    """Read a cube once; everything told at a step comes from values up to it."""
    curves = read_curves(data, families=families, metrics=metrics)
    grid = default_steps(curves, min_points) if steps is None else np.unique(np.asarray(steps, dtype=np.float64))
    if not len(grid):
        raise AnalysisError(
            f"no prefix is long enough: no run has {min_points} values of any curve. Lower min_points, or add the log."
        )
    status = np.full((curves.n_runs, len(grid)), SCORED, dtype=np.int8)
    status[ended_by(curves, grid)] = ENDED
    short = np.stack([curves.points(t) < min_points for t in grid], axis=1)
    status[short] = TOO_SHORT
    status[curves.diverged_at()[:, None] <= grid] = DIVERGED
    model = np.array(curves.models, dtype=np.str_)[curves.model]
    seed = np.asarray(curves.seeds)[curves.seed]
    key = np.array([f"{m} seed {s}" for m, s in zip(model.tolist(), seed.tolist(), strict=True)], dtype=np.str_)
    return Material(
        tabulate(curves, grid), status, model, key, curves.copies, data, np.arange(curves.n_runs, dtype=np.intp)
    )


def default_steps(curves: Curves, min_points: int) -> Floats:
    """Steps of the cube (updates of the log without any) at which most runs have told enough, at most 40 of them."""
    times = curves.blocks[0].times
    there = (~np.isnan(curves.blocks[0].values)).any(axis=(0, 2))
    enough = np.array([np.median(curves.points(t)) >= min_points for t in times], dtype=bool)
    good = times[there & enough & (times > 0)]
    if len(good) <= MANY_STEPS:
        return np.asarray(good)
    return np.asarray(good[np.unique(np.linspace(0, len(good) - 1, MANY_STEPS).round().astype(np.intp))])
