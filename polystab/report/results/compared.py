"""The cube that a report compares its own with, and what the comparison says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import xarray as xr

from polystab.analysis.comparisons.cubes import compare_cubes
from polystab.analysis.trajectories import seed_band
from polystab.cube.validate import as_cube, check_cube

# Pictures of both curves.
MAX_CURVES = 6


@dataclass(frozen=True, eq=False)
class Against:
    """Another cube, in memory, and how its models and seeds belong to those of the report's."""

    given: xr.Dataset | xr.DataTree
    cube: xr.Dataset
    models: Mapping[str, str] | None = None
    paired: bool = False


@dataclass(frozen=True, eq=False)
class Compared:
    """The comparison, and the bands of the other cube for the rows (metric, model, other model) that are drawn."""

    table: xr.Dataset
    drawn: tuple[tuple[str, str, str], ...]
    bands: xr.Dataset | None


def against(
    other: xr.Dataset | xr.DataTree, *, models: Mapping[str, str] | None = None, paired: bool = False
) -> Against:
    """A cube to compare with, checked.

    Raises
    ------
    NotACubeError, InvalidCubeError
        It is no cube, or breaks a rule of it.
    """
    data = as_cube(other).compute()
    check_cube(data, where="the cube to compare with")
    return Against(other, data, models, paired)


def compare(given: xr.Dataset | xr.DataTree, other: Against, *, rng: int) -> Compared:
    """Compare two cubes, and pick what is drawn: rows that differ and have several steps, worst first.

    Raises
    ------
    AnalysisError
        The cubes have nothing in common, or say different things of one metric.
    """
    from polystab.plots.comparisons import differing_rows  # it imports matplotlib

    table = compare_cubes(given, other.given, models=other.models, paired=other.paired, rng=rng)
    if as_cube(given).sizes["step"] < 2 or other.cube.sizes["step"] < 2:
        return Compared(table, (), None)
    metrics, models, others = (table[name].values for name in ("metric", "model", "other_model"))
    drawn = tuple((str(metrics[k]), str(models[m]), str(others[m])) for m, k in differing_rows(table)[:MAX_CURVES])
    if not drawn:
        return Compared(table, (), None)
    part = other.cube.sel(metric=list(dict.fromkeys(metric for metric, _, _ in drawn)))
    return Compared(table, drawn, seed_band(part))
