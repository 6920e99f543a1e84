"""How full a cube is, as a number and in words."""

from __future__ import annotations

import xarray as xr

from polystab.cube.specs import DIMS
from polystab.cube.validate import as_cube


def fullness(cube: xr.Dataset | xr.DataTree) -> float:
    """The share of a cube's cells that are measured.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        With ``value(model, seed, step, metric)``.

    Returns
    -------
    float
        Between 0 and 1. A run that does not exist counts as unmeasured: the grid has to
        have room for it. One seed is fine.

    Raises
    ------
    NotACubeError
        There is no variable ``value``.

    Examples
    --------
    >>> import pandas as pd, polystab as ps
    >>> fullness(ps.cube_from_records(pd.DataFrame({
    ...     "model": "a", "seed": [0, 1], "step": [0, 5], "metric": "loss/train/cross_entropy", "value": 3.0})))
    0.5
    """
    return float(as_cube(cube)["value"].notnull().mean())


def coverage_sentence(cube: xr.Dataset | xr.DataTree) -> str:
    """One sentence that tells how many runs a cube has and how full it is.

    Examples
    --------
    >>> import pandas as pd, polystab as ps
    >>> coverage_sentence(ps.cube_from_records(pd.DataFrame({
    ...     "model": "a", "seed": [0, 1], "step": [0, 5], "metric": "loss/train/cross_entropy", "value": 3.0})))
    '2 runs; 2 of 4 cells (1 model x 2 seeds x 2 steps x 1 metric) are measured, 50 %.'
    """
    measured = as_cube(cube)["value"].notnull()
    runs = int(measured.any(("step", "metric")).sum())
    sizes = " x ".join(_count(measured.sizes[dim], dim) for dim in DIMS)
    count = int(measured.sum())
    return f"{_count(runs, 'run')}; {count:,} of {measured.size:,} cells ({sizes}) are measured, {_percent(count, measured.size)} %."


def _percent(part: int, whole: int) -> str:
    """Two digits, and 100 or 0 only where it is exactly that."""
    share = 100 * part / whole
    if part == whole:
        return "100"
    return f"{min(share, 99.9):.3g}" if share > 99 else f"{share:.2g}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
