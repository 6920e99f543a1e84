"""Selecting metrics by what they are about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from polystab.cube.validate import as_cube
from polystab.errors import SelectionError, did_you_mean

Wanted = str | int | Iterable[str | int] | None


def select(
    cube: xr.Dataset | xr.DataTree,
    *,
    family: Wanted = None,
    subject: Wanted = None,
    measure: Wanted = None,
    component: Wanted = None,
    layer: Wanted = None,
    shots: Wanted = None,
) -> xr.Dataset:
    """The part of a cube whose metrics match every criterion given.

    Models, seeds and steps are selected with ordinary xarray: ``cube.sel(model=...)``.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube; a lazily opened one stays lazy.
    family, subject, measure, component, layer, shots : str, int or iterable of them
        Wanted values of the coordinate of that name.

    Returns
    -------
    xarray.Dataset
        The same cube with fewer metrics, in the same order.

    Raises
    ------
    SelectionError
        A wanted value occurs nowhere, or no metric matches all criteria together.

    Examples
    --------
    >>> import polystab as ps, polystab.testing
    >>> cube = polystab.testing.synthetic_cube(rng=0)
    >>> ps.select(cube, family="eval", measure="acc").sizes["metric"] <= cube.sizes["metric"]
    True
    """
    cube = as_cube(cube)
    criteria: dict[str, Wanted] = {
        "family": family,
        "subject": subject,
        "measure": measure,
        "component": component,
        "layer": layer,
        "shots": shots,
    }
    keep = np.ones(cube.sizes["metric"], dtype=bool)
    asked = {name: _listed(wanted) for name, wanted in criteria.items() if wanted is not None}
    for name, wanted in asked.items():
        if name not in cube.coords:
            raise SelectionError(f"this cube has no coordinate {name!r} to select by.")
        if not wanted:
            raise SelectionError(f"{name} lists nothing to select; leave it out to take every {name}.")
        present = cube[name].values
        for item in wanted:
            if item not in present.tolist():
                if name in ("layer", "shots") and isinstance(item, str):
                    raise SelectionError(f"{name} {item!r} is text; {name} numbers are integers, e.g. {name}=0.")
                raise SelectionError(
                    f"no metric has {name} {item!r}. {did_you_mean(str(item), {str(x) for x in present.tolist()})}"
                )
        keep &= np.isin(present, wanted)
    if not keep.any():
        raise SelectionError(f"no metric matches {asked} together; each alone does.")
    return cube.isel(metric=np.flatnonzero(keep))


def _listed(wanted: str | int | Iterable[str | int]) -> list[Any]:
    if isinstance(wanted, (str, int, np.integer)):
        return [wanted]
    return list(wanted)
