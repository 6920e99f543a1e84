"""What a picture is given: cubes and results, also those of which a single label was selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from polystab.cube.specs import COORDINATES, DIMS, VARIABLES
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, shown


def whole_cube(data: xr.Dataset | xr.DataTree) -> xr.Dataset:
    """A cube with the dimensions that selecting one label took away.

    Raises
    ------
    AnalysisError
        The label is gone as well.
    """
    cube = as_cube(data)
    if set(DIMS) <= set(cube["value"].dims):
        return cube
    found = _restored(cube, DIMS, "cube")
    known = [spec for spec in VARIABLES if spec.name in found.data_vars]
    return found.assign({spec.name: _with_dims(found[spec.name], spec.dims) for spec in known})


def whole_result(data: Any, needed: Mapping[str, Sequence[str]], made_by: str) -> xr.Dataset:
    """A result whose variables have, in this order and before all others, the dimensions that are needed.

    Parameters
    ----------
    data : object
        What a picture was given.
    needed : mapping of str to sequence of str
        Variables, and the dimensions of each.
    made_by : str
        What makes such a result, for the message.

    Raises
    ------
    AnalysisError
        It is no such result, or it lost a dimension together with its label.

    Examples
    --------
    >>> data = xr.Dataset({"n": ("seed", [1, 2])}, coords={"model": "a", "seed": [0, 1]})
    >>> whole_result(data.isel(seed=0), {"n": ("model", "seed")}, "that")["n"].dims
    ('model', 'seed')
    """
    if not isinstance(data, xr.Dataset):
        raise AnalysisError(f"expected what {made_by} gives (an xarray Dataset), got {type(data).__name__}.")
    if lacking := [name for name in needed if name not in data.data_vars]:
        raise AnalysisError(f"this is not what {made_by} gives: it lacks {shown(lacking)}.")
    if all(data[name].dims[: len(dims)] == tuple(dims) for name, dims in needed.items()):
        return data
    found = _restored(data, list(dict.fromkeys(dim for dims in needed.values() for dim in dims)), "result")
    return found.assign({name: _with_dims(found[name], dims) for name, dims in needed.items()})


def _with_dims(values: xr.DataArray, dims: Sequence[str]) -> xr.DataArray:
    return values.expand_dims([dim for dim in dims if dim not in values.dims]).transpose(*dims, ...)


def _restored(data: xr.Dataset, dims: Sequence[str], what: str) -> xr.Dataset:
    """The same with scalar labels made to coordinates of length one; variables stay as they are."""
    lost = [dim for dim in dims if dim not in data.dims]
    if gone := [dim for dim in lost if dim not in data.coords]:
        kept = ", ".join(f"{dim}=[0]" for dim in gone)
        raise AnalysisError(
            f"this {what} has no dimension {shown(gone)}, nor the label that was selected. Keep it when selecting: isel({kept})."
        )
    found = data.drop_vars(lost).assign_coords({dim: [data[dim].item()] for dim in lost})
    # What is known of a label, such as the units of a metric, stands along it again.
    about = [
        spec for spec in COORDINATES if spec.dims[0] in lost and spec.name in found.coords and spec.name not in lost
    ]
    return found.assign_coords({spec.name: found[spec.name].expand_dims(spec.dims[0]) for spec in about})
