"""Cubes on disk: one function writes, two open."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xarray as xr

from polystab.cube.build import documented
from polystab.cube.known_files import file_key, is_known, remember
from polystab.cube.migrations import migrated
from polystab.cube.netcdf_check import check_netcdf
from polystab.cube.specs import DIMS
from polystab.cube.validate import as_cube, check_cube, check_schema, validate_cube
from polystab.errors import NotACubeError, OutputError, PolystabError, Violation, shown
from polystab.files import atomic_path

PathLike = str | os.PathLike[str]

# Cells of one compressed chunk: 1 MiB of float64, so that one metric opens quickly.
CHUNK_CELLS = 2**17
COMPRESSED = {"zlib": True, "complevel": 4}

# Texts are kept as characters, which HDF5 compresses. As netCDF strings they would crash the process that opens one
# file twice and closes one of the two (netCDF-C 4.10 with HDF5 2.2, a segmentation fault). Only where all of them,
# each as wide as the longest, take more bytes than this are they strings nevertheless.
WIDE_TEXTS = 2**28

# Files up to this size carry a checksum that is looked at when they are opened; 64 MiB take some 30 ms.
SEALED_BYTES = 2**26
SEAL = b"polystab-crc32=%08x\n"


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

    Notes
    -----
    Files up to 64 MiB end in a checksum of what comes before, which other tools do
    not see. Opening looks at it, because netCDF-C can loop for ever over a damaged
    file, or read wrong labels from it. A tool that changes the file drops it. Larger
    files have the checksums of their compressed blocks only. A checksum is no signature:
    a file that was not written here is read by another process before it is opened for
    the first time, which takes half a second, see :func:`open_cube`.
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
            key = file_key(temporary) if _seal(temporary) else ""
        except (RuntimeError, PermissionError) as error:
            # netCDF-C reports a full disk as "HDF error", or as "Permission denied" for the file just created.
            raise OutputError(
                f"cannot write {path}: {error}. Is the disk full, or the file that the cube is read from damaged? "
                "What stood there before is untouched."
            ) from error
        except (TypeError, ValueError) as error:
            raise OutputError(
                f"cannot write {path}: netCDF cannot keep what a variable or attribute holds: {error}. "
                "What stood there before is untouched."
            ) from error
    if key:
        remember(key)


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

    Notes
    -----
    A file that was not written here is opened by another process first: netCDF-C can crash
    or hang over a forged one, or read values from other files of yours. That takes half a
    second, once: the file is then known, by its content (up to 64 MiB; a copy is known as well) or by its place
    and time of change, in the user's cache folder. Of larger files only the labels are read
    beforehand. Cubes that come with polystab are known.
    """
    source = _existing(path)
    _check_file(source)
    cube: xr.Dataset | None = None
    try:
        cube = xr.open_dataset(source, engine="netcdf4", decode_times=False)
        check_schema(dict(cube.attrs), where=str(path))
        cube = _plain_text(_newest(cube))
        check_cube(cube, values=False, where=str(path))
    except Exception as error:  # a damaged file can make xarray raise anything; close it, say which it was
        if cube is not None:
            cube.close()
        if isinstance(error, PolystabError):
            raise
        raise _unreadable(source, error) from error
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
    return _opened_tree(path, check=True)


def validate_file(path: PathLike) -> list[Violation]:
    """Every violation of the cube in a file, values included.

    Raises
    ------
    NotACubeError, NewerSchemaError
        It cannot be opened or read, or is no cube at all.
    """
    with _opened_tree(path, check=False) as tree:
        try:
            return validate_cube(tree)
        except (OSError, RuntimeError) as error:  # a damaged chunk is only met when it is read
            raise _unreadable(Path(path), error) from error


def _opened_tree(path: PathLike, *, check: bool) -> xr.DataTree:
    source = _existing(path)
    _check_file(source)
    opened: xr.DataTree | None = None
    try:
        opened = xr.open_datatree(source, engine="netcdf4", decode_times=False)
        check_schema(dict(opened.attrs), where=str(path))
        nodes = migrated({node.path: node.to_dataset(inherit=False) for node in opened.subtree})
        # Texts of the groups stay objects: one long audit detail must not widen all the others.
        nodes["/"] = _plain_text(nodes["/"])
        tree = xr.DataTree.from_dict(nodes)
        tree.set_close(opened.close)
        if check:
            check_cube(tree, values=False, where=str(path))
    except Exception as error:  # as in open_cube
        if opened is not None:
            opened.close()
        if isinstance(error, PolystabError):
            raise
        raise _unreadable(source, error) from error
    return tree


def _newest(cube: xr.Dataset) -> xr.Dataset:
    """The cube in the newest schema; closing it closes its file."""
    newest = migrated({"/": cube})["/"]
    if newest is not cube:
        newest.set_close(cube.close)
    return newest


def _write(data: xr.Dataset, path: Path, *, group: str | None) -> None:
    data = data.drop_encoding()  # widths kept there would truncate labels, see STYLE
    encoding: dict[Any, dict[str, Any]] = {}
    for name, variable in data.variables.items():
        if variable.dtype.kind in "UO" and (width := _characters(variable)):
            encoding[name] = {"dtype": "S1"}
            if variable.size:
                encoding[name] |= {"chunksizes": _chunks((*variable.shape, width)), **COMPRESSED}
        elif variable.dtype.kind in "fiub" and variable.ndim and variable.size:
            encoding[name] = {"chunksizes": _chunks(variable.shape), "shuffle": True, **COMPRESSED}
    data.to_netcdf(
        path, mode="w" if group is None else "a", group=group, engine="netcdf4", format="NETCDF4", encoding=encoding
    )


def _characters(variable: xr.Variable) -> int:
    """Bytes of the longest text, at least 1; 0 for what must be kept as strings."""
    texts = variable.values.ravel().tolist()
    if not all(isinstance(text, str) for text in texts):
        return 0
    width = max((len(text.encode("utf-8")) for text in texts), default=0) or 1
    return width if width * len(texts) <= WIDE_TEXTS else 0


def _seal(path: Path) -> bool:
    """Append the checksum of a file unless it is large.

    HDF5 does not look behind its own end, and cuts the checksum off on a later write.
    """
    size = path.stat().st_size
    if size > SEALED_BYTES:
        return False
    with path.open("r+b") as stream:
        seal = SEAL % _checksum(stream, size)
        stream.seek(size)
        stream.write(seal)
    return True


def _check_file(path: Path) -> None:
    """Refuse a damaged or forged file before netCDF-C sees it: that may crash, hang, or read wrong labels without an error.

    A checksum tells of damage, and no more: anybody can make one that is right. So a file that was neither written
    here nor looked at before is first read by another process.
    """
    try:
        key = file_key(path)
        if is_known(key):
            return
        size = path.stat().st_size
        sealed = _check_seal(path, size)
        check_netcdf(path, key=key, everything=sealed or size <= SEALED_BYTES)
        remember(key)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _check_seal(path: Path, size: int) -> bool:
    """Whether a file carries a checksum.

    Raises
    ------
    ValueError
        It is not that of its content.
    """
    body = size - len(SEAL % 0)
    if not 0 < body <= SEALED_BYTES:
        return False
    with path.open("rb") as stream:
        stream.seek(body)
        seal = stream.read()
        if not seal.startswith(SEAL[:15]):
            return False
        stream.seek(0)
        if seal != SEAL % _checksum(stream, body):
            raise ValueError("its checksum does not match its content")
    return True


def _checksum(stream: BinaryIO, length: int) -> int:
    """CRC-32 of the first bytes of a file, in pieces that need no memory to speak of."""
    checksum = 0
    while length > 0 and (piece := stream.read(min(length, 2**20))):
        checksum = zlib.crc32(piece, checksum)
        length -= len(piece)
    return checksum


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunk lengths that keep leading dimensions whole and cut from the last one."""
    chunks = list(shape)
    for axis in range(len(shape) - 1, -1, -1):
        rest = int(np.prod(chunks)) // chunks[axis]
        chunks[axis] = max(1, min(chunks[axis], CHUNK_CELLS // max(rest, 1)))
    return tuple(chunks)


def _plain_text(data: xr.Dataset) -> xr.Dataset:
    """Turn texts, which arrive as objects, into numpy text."""
    for name in list(data.variables):
        variable = data.variables[name]
        if variable.dtype.kind in "OT":
            # Through a list: numpy makes an array of empty objects one character wider.
            text = np.array(variable.values.tolist(), dtype=np.str_).reshape(variable.shape)
            data[name] = (variable.dims, text, dict(variable.attrs))
    return data


def _existing(path: PathLike) -> Path:
    source = Path(path).expanduser()
    try:
        if source.is_dir():
            raise NotACubeError(f"{source} is a folder; name the netCDF file in it.")
        if not source.exists():
            raise NotACubeError(f"{source} does not exist. `polystab cubes` lists the cubes that go by name.")
        if not source.is_file():  # reading a pipe would wait for ever
            raise NotACubeError(f"{source} is not a regular file; save it to one first.")
    except OSError as error:
        raise NotACubeError(f"{shown([str(path)[:200]])} cannot be opened: {error.strerror}.") from error
    return source


def _unreadable(path: Path, error: Exception) -> NotACubeError:
    return NotACubeError(
        f"{path} cannot be opened as netCDF: {error}. It is truncated, damaged, or not a cube; "
        f"cubes have dimensions {', '.join(DIMS)} and are written by ps.save_cube."
    )
