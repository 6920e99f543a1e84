"""Cubes on disk: one function writes, two open."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from polystab.cube.build import documented
from polystab.cube.specs import DIMS
from polystab.cube.validate import as_cube, check_cube, check_schema
from polystab.errors import NotACubeError, OutputError
from polystab.files import atomic_path

PathLike = str | os.PathLike[str]

# Cells of one compressed chunk: 1 MiB of float64, so that one metric opens quickly.
CHUNK_CELLS = 2**17


def save_cube(cube: xr.Dataset | xr.DataTree, path: PathLike, *, overwrite: bool = True) -> None:
    """Write a cube, with its detail groups if it is a tree, as one netCDF-4 file.

    The file is written beside ``path`` and moved into place when it is complete, so
    a failure leaves the old file as it was. Nothing in it depends on the clock or
    the machine: the same cube gives the same bytes.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A valid cube; variables are written compressed, in canonical order.
    path : path
        Where to; conventionally ends in ``.nc``.
    overwrite : bool, optional
        Replace a file that stands there.

    Raises
    ------
    InvalidCubeError
        The cube breaks a rule; nothing is written.
    OutputError
        The path cannot be written, or exists and ``overwrite`` is false.
    """
    check_cube(as_cube(cube))
    groups: dict[str, xr.Dataset] = {}
    if isinstance(cube, xr.DataTree):
        groups = {
            node.path.strip("/"): node.to_dataset(inherit=False)
            for node in cube.subtree
            if node.path != "/" and node.has_data
        }
    with atomic_path(path, overwrite=overwrite) as temporary:
        try:
            _write(documented(as_cube(cube)), temporary, group=None)
            for name in sorted(groups):
                _write(groups[name], temporary, group=name)
        except (RuntimeError, TypeError, ValueError) as error:
            # netCDF-C reports a full disk as RuntimeError("NetCDF: HDF error").
            raise OutputError(
                f"cannot write {path}: {error}. Is the disk full? What stood there before is untouched."
            ) from error


def open_cube(path: PathLike) -> xr.Dataset:
    """Open a cube lazily: labels are read, values stay on disk until they are used.

    Parameters
    ----------
    path : path
        A netCDF file written by :func:`save_cube`.

    Returns
    -------
    xarray.Dataset
        The cube without its detail groups (:func:`open_tree` has those). Close it
        with ``cube.close()`` or use it in a ``with`` block.

    Raises
    ------
    NotACubeError
        No such file, not netCDF, truncated, or netCDF that is not a cube.
    NewerSchemaError
        The cube was written by a newer polystab.
    InvalidCubeError
        Labels or structure break a rule; every violation is listed. Values are not
        read for this; ``validate_cube`` on the result looks at them too.
    """
    source = _existing(path)
    try:
        cube = xr.open_dataset(source, engine="netcdf4", decode_times=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(source, error) from error
    try:
        check_schema(dict(cube.attrs), where=str(path))
        cube = _plain_text(cube)
        check_cube(cube, values=False, where=str(path))
    except Exception:
        cube.close()
        raise
    return cube


def open_tree(path: PathLike) -> xr.DataTree:
    """Open a cube with its detail groups (``audit``, ``items``, ...) lazily.

    Returns
    -------
    xarray.DataTree
        The cube at the root and one child per group. Every function that takes a
        cube takes such a tree as well.

    Raises
    ------
    NotACubeError, NewerSchemaError, InvalidCubeError
        As :func:`open_cube`.
    """
    source = _existing(path)
    try:
        tree = xr.open_datatree(source, engine="netcdf4", decode_times=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(source, error) from error
    try:
        check_schema(dict(tree.attrs), where=str(path))
        closer = tree.close
        tree = xr.DataTree.from_dict({node.path: _plain_text(node.to_dataset(inherit=False)) for node in tree.subtree})
        tree.set_close(closer)
        check_cube(tree, values=False, where=str(path))
    except Exception:
        tree.close()
        raise
    return tree


def _write(data: xr.Dataset, path: Path, *, group: str | None) -> None:
    data = data.drop_encoding()  # widths kept there would truncate labels, see STYLE
    encoding: dict[Any, dict[str, Any]] = {}
    for name, variable in data.variables.items():
        if variable.dtype.kind in "fiub" and variable.ndim and variable.size:
            encoding[name] = {"zlib": True, "complevel": 4, "shuffle": True, "chunksizes": _chunks(variable.shape)}
    data.to_netcdf(
        path, mode="w" if group is None else "a", group=group, engine="netcdf4", format="NETCDF4", encoding=encoding
    )


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunk lengths that keep leading dimensions whole and cut from the last one."""
    chunks = list(shape)
    for axis in range(len(shape) - 1, -1, -1):
        rest = int(np.prod(chunks)) // chunks[axis]
        chunks[axis] = max(1, min(chunks[axis], CHUNK_CELLS // max(rest, 1)))
    return tuple(chunks)


def _plain_text(data: xr.Dataset) -> xr.Dataset:
    """Turn variable-length strings, which arrive as objects, into numpy text."""
    for name in list(data.variables):
        variable = data.variables[name]
        if variable.dtype.kind in "OT":
            attrs = dict(variable.attrs)
            data[name] = (variable.dims, np.array(variable.values, dtype=np.str_), attrs)
    return data


def _existing(path: PathLike) -> Path:
    source = Path(path).expanduser()
    if source.is_dir():
        raise NotACubeError(f"{source} is a folder; name the netCDF file in it.")
    if not source.exists():
        raise NotACubeError(f"{source} does not exist. `polystab cubes` lists the cubes that go by name.")
    return source


def _unreadable(path: Path, error: Exception) -> NotACubeError:
    return NotACubeError(
        f"{path} cannot be opened as netCDF: {error}. It is truncated, damaged, or not a cube; "
        f"cubes have dimensions {', '.join(DIMS)} and are written by ps.save_cube."
    )
