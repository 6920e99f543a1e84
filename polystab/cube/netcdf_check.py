"""A look at a netCDF file of unknown origin before this process opens it.

netCDF-C and HDF5 can crash over a damaged file, or loop for ever. Another process can
be ended, so it looks first. What it has seen is remembered as long as the file is the same.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

# How long the look may take, in seconds of the processor: a loop without end uses them up, a busy machine does not.
# Reading 64 MiB takes less than one. Where processes cannot be limited so, and in any case, it ends by the clock.
PATIENCE, BY_THE_CLOCK = 8, 60

# Labels and texts are read when a cube is opened; more than this, in bytes, are those of no cube.
MOST_LABELS = 2**28

_HDF5 = b"\x89HDF\r\n\x1a\n"

_LOOK = """
import math, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE + 1))
except (ImportError, ValueError, OSError):
    pass
import netCDF4

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
        if label or (everything and size <= MOST):
            variable[...]
    for inner in group.groups.values():
        look(inner, everything)

with netCDF4.Dataset(sys.argv[1]) as file:
    file.set_auto_maskandscale(False)
    look(file, sys.argv[2] == "everything")
"""


def check_netcdf(path: Path, *, everything: bool) -> None:
    """Read the labels of a file, or all of it, in another process.

    Raises
    ------
    ValueError
        That process found the file broken, crashed over it, or did not come to an end.
    OSError
        The file cannot be looked at.
    """
    status = path.stat()
    with path.open("rb") as stream:
        start = stream.read(48)
    end = _stated_end(start)
    if status.st_size < end:
        raise ValueError(f"it is cut off, {status.st_size:,} of {end:,} bytes are there")
    fault = _fault(str(path.absolute()), status.st_size, status.st_mtime_ns, everything)
    if fault:
        raise ValueError(fault)


def _stated_end(start: bytes) -> int:
    """The length that an HDF5 file says it has in its superblock (of version 0, 2 or 3); 0 if it does not say."""
    place = {0: 40, 2: 28, 3: 28}.get(start[8]) if start.startswith(_HDF5) and len(start) == 48 else None
    return 0 if place is None else int.from_bytes(start[place : place + 8], "little")


@lru_cache(maxsize=256)
def _fault(path: str, size: int, changed: int, everything: bool) -> str:  # noqa: ARG001  a changed file is another one
    if not sys.executable:  # an embedded interpreter has no way to start another
        return ""
    script = _LOOK.replace("MOST", str(MOST_LABELS)).replace("PATIENCE", str(PATIENCE))
    # -P: a module that lies in the current folder is not imported.
    command = [sys.executable, "-P", "-c", script, path, "everything" if everything else "labels"]
    try:
        done = subprocess.run(  # noqa: S603  our own words
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=BY_THE_CLOCK, check=False
        )
    except subprocess.TimeoutExpired:
        return f"reading it did not come to an end within {BY_THE_CLOCK} seconds"
    if done.returncode < 0:
        if -done.returncode in (signal.SIGXCPU, signal.SIGKILL):
            return f"reading it did not come to an end within {PATIENCE} seconds of the processor"
        return f"reading it crashes netCDF-C (signal {-done.returncode})"
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return (lines[-1] if lines else f"reading it failed ({done.returncode})")[:300]
    return ""
