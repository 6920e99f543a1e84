"""A look at a netCDF file of unknown origin before this process opens it.

netCDF-C and HDF5 can crash over a damaged file, or loop for ever. Another process can
be ended, so it looks first.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from polystab.errors import printable

# How long the look may take, in seconds of the processor: a loop without end uses them up, a busy machine does not.
# Reading 64 MiB takes less than one. Where processes cannot be limited so, and in any case, it ends by the clock.
PATIENCE, BY_THE_CLOCK = 5, 60

# Bytes that the look may take beyond what it starts with.
MOST_MEMORY = 2**31

# Labels and texts are read when a cube is opened; more than this, in bytes, are those of no cube.
MOST_LABELS = 2**28

_HDF5 = b"\x89HDF\r\n\x1a\n"

# What the other process does. It has one file open and may open no other one: HDF5 would follow links to any file, and
# read values from any file that this one names as the place of a contiguous variable (kind of storage 1). Virtual
# variables (a kind above 2) are put together from other files; where one is missing there is NaN, and no error.
_LOOK = """
import ctypes, math, os, sys
import netCDF4

def limit():
    try:
        import resource
    except ImportError:
        return
    spare = os.open(sys.argv[1], os.O_RDONLY)
    os.close(spare)
    limits = {"CPU": PATIENCE, "NOFILE": spare + 1}
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as stream:
            limits["AS"] = int(stream.read().split()[0]) * resource.getpagesize() + MEMORY
    for name, most in limits.items():
        try:
            resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most + (name == "CPU")))
        except (ValueError, OSError):
            pass

def storage(group, variable):
    kind = ctypes.c_int(1)
    if asked is not None:
        asked(group._grpid, variable._varid, ctypes.byref(kind), None)
    return kind.value

def look(group, everything):
    for name in group.ncattrs():
        group.getncattr(name)
    for name, variable in group.variables.items():
        for attribute in variable.ncattrs():
            variable.getncattr(attribute)
        width = 8 if variable.dtype is str else variable.dtype.itemsize
        size = math.prod(variable.shape) * width
        text = variable.dtype is str or variable.dtype.kind == "S"
        label = text or variable.dimensions == (name,) or (group.parent is None and len(variable.dimensions) < 4)
        if label and size > MOST:
            sys.exit(f"{group.path} {name} would take {size:,} bytes as labels")
        kind = storage(group, variable)
        if kind > 2:
            sys.exit(f"{group.path} {name} is put together from other files")
        try:
            if label or (everything and size <= MOST):
                variable[...]
            elif kind == 1:
                variable[(slice(0, 1),) * variable.ndim]
        except RuntimeError as error:
            sys.exit(f"{group.path} {name} cannot be read ({error}): it is damaged, or lies in another file")
    for inner in group.groups.values():
        look(inner, everything)

asked = getattr(ctypes.CDLL(netCDF4._netCDF4.__file__), "nc_inq_var_chunking", None)
limit()
with netCDF4.Dataset(sys.argv[1]) as file:
    file.set_auto_maskandscale(False)
    look(file, sys.argv[2] == "everything")
"""


def check_netcdf(path: Path, *, key: str, everything: bool) -> None:
    """Read the labels of a file, or all of it, in another process.

    Parameters
    ----------
    path : path
        Of the file.
    key : str
        What it is known by, see :func:`polystab.cube.known_files.file_key`: of one key, one look.
    everything : bool
        Read the values too; else of variables that are no labels only what may lie in another file.

    Raises
    ------
    ValueError
        That process found the file broken, crashed over it, or did not come to an end; or
        the file names other files, to be read as if they were part of it.
    OSError
        The file cannot be looked at.
    """
    with path.open("rb") as stream:
        start = stream.read(48)
    size, end = path.stat().st_size, _stated_end(start)
    if size < end:
        raise ValueError(f"it is cut off, {size:,} of {end:,} bytes are there")
    fault = _fault(str(path.absolute()), key, everything)
    if fault:
        raise ValueError(fault)


def _stated_end(start: bytes) -> int:
    """The length that an HDF5 file says it has in its superblock (of version 0, 2 or 3); 0 if it does not say."""
    place = {0: 40, 2: 28, 3: 28}.get(start[8]) if start.startswith(_HDF5) and len(start) == 48 else None
    return 0 if place is None else int.from_bytes(start[place : place + 8], "little")


@lru_cache(maxsize=256)
def _fault(path: str, key: str, everything: bool) -> str:  # noqa: ARG001  a changed file has another key
    if not sys.executable:  # an embedded interpreter has no way to start another
        return ""
    try:
        status, said = _look_apart(path, "everything" if everything else "labels")
    except subprocess.TimeoutExpired:
        return f"reading it did not come to an end within {BY_THE_CLOCK} seconds"
    if status < 0:
        if -status in (signal.SIGXCPU, signal.SIGKILL):
            return f"reading it did not come to an end within {PATIENCE} seconds of the processor"
        return f"reading it crashes netCDF-C (signal {-status})"
    if status:
        lines = said.decode("utf-8", "replace").strip().splitlines()
        return printable(lines[-1] if lines else f"reading it failed ({status})")[:300]
    return ""


def _look_apart(path: str, depth: str) -> tuple[int, bytes]:
    """Exit status of the process that looks, negative for a signal, and what it said."""
    # -P: a module that lies in the current folder is not imported.
    command = [sys.executable, "-P", "-c", _script(), path, depth]
    done = subprocess.run(  # noqa: S603  our own words
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=BY_THE_CLOCK, check=False
    )
    return done.returncode, done.stderr


def _script() -> str:
    words = {"MOST": MOST_LABELS, "PATIENCE": PATIENCE, "MEMORY": MOST_MEMORY}
    return re.sub("|".join(words), lambda word: str(words[word[0]]), _LOOK)
