"""A cube in parts: what does not fit into memory at once is read some metrics at a time."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.cube.specs import DIMS
from polystab.errors import CubeTooLargeError

# Bytes of values that are read at a time. 5 models of 10 runs, 154 checkpoints and 1,000 metrics fit in, and
# analyses take up to some ten times as much for their work. Results do not depend on it.
PART_BYTES = 2**26

# Bytes of one metric: ten models of 1,000 runs have 27,000 checkpoints then. Such a size stands in a file that is made
# to fill the memory: cells that were never written take none in the file.
MOST_BYTES_OF_ONE = 2**31

# A single metric is added up in another order than one among several, so its last digit could differ.
LEAST_METRICS = 2


def metric_slices(
    cube: xr.Dataset, *, max_bytes: int | None = None, name: str = "value", multiple: int = 1
) -> list[slice]:
    """Stretches of metrics that are read at a time.

    Parameters
    ----------
    cube : xarray.Dataset
        A cube, of which nothing but labels is read.
    max_bytes : int, optional
        Bytes of float64 values in one part; :data:`PART_BYTES` by default. A part has two metrics in any case.
    name : str, optional
        The variable that is read.
    multiple : int, optional
        Parts begin at multiples of so many metrics, if one holds as many.

    Returns
    -------
    list of slice
        Of positions along ``metric``, without gaps. They end where chunks of the file end, if a part holds one,
        so that none is read twice.

    Raises
    ------
    CubeTooLargeError
        A single metric is larger than memory should be asked for.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.cube.parts import metric_slices
    >>> cube = polystab.testing.synthetic_cube(rng=0)
    >>> metric_slices(cube) == [slice(0, cube.sizes["metric"])]
    True
    """
    n_metric, each = cube.sizes["metric"], bytes_of_one(cube)
    most = PART_BYTES if max_bytes is None else max_bytes
    if n_metric * each <= most:
        return [slice(0, n_metric)]
    width = most // max(each, 1)
    for unit in (math.lcm(multiple, chunk_along(cube[name], "metric")), multiple):
        if width >= unit:
            width -= width % unit
            break
    width = max(width, LEAST_METRICS)
    ends = [*range(width, n_metric, width), n_metric]
    if len(ends) > 1 and ends[-1] - ends[-2] < LEAST_METRICS:
        del ends[-2]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def bytes_of_one(cube: xr.Dataset) -> int:
    """Bytes of the values of one metric.

    Raises
    ------
    CubeTooLargeError
        More than memory should be asked for.
    """
    each = 8 * math.prod(cube.sizes[dim] for dim in DIMS if dim != "metric")
    if each > MOST_BYTES_OF_ONE:
        raise CubeTooLargeError(
            f"one metric of the cube would take {each / 2**30:,.1f} GiB: {each // 8:,} cells of model, "
            "seed and step. Select fewer seeds or steps first, e.g. cube.sel(step=cube.step[::10])."
        )
    return each


def check_fits(cube: xr.Dataset, name: str = "value") -> None:
    """Raise before a variable is read at once that memory does not hold, nor what is made of it.

    Raises
    ------
    CubeTooLargeError
        One metric, or all together twice, are more than there is.
    """
    bytes_of_one(cube)
    if cube[name].variable._in_memory:
        return
    needed, most = 2 * 8 * cube[name].size, memory()
    if needed > most:
        raise CubeTooLargeError(
            f"to have all of the cube in memory and work on it takes {needed / 2**30:,.1f} GiB or more, and there are "
            f"{most / 2**30:,.1f} GiB. This needs all values at once: select metrics first, e.g. "
            "cube.isel(metric=slice(0, 200))."
        )


def memory() -> int:
    """Bytes of memory that the machine has, or that this process may use if that is less."""
    found = [2**62]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(ImportError):
        import resource

        limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
        found += [limit for limit in limits if limit != resource.RLIM_INFINITY]
    return min(number for number in found if number > 0)


def value_parts(
    cube: xr.Dataset, name: str = "value", *, wanted: npt.NDArray[np.bool_] | None = None
) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """A variable of a cube part by part, (model, seed, step, metric), each with its positions along ``metric``.

    Parts without a ``wanted`` metric are passed over.
    """
    slices = metric_slices(cube, name=name)
    for place in slices:
        if wanted is not None and not wanted[place].any():
            continue
        # All of a small cube is kept in memory once it was read; a part is a variable of its own, and is not.
        part = cube[name] if len(slices) == 1 else cube[name].isel(metric=place)
        yield place, np.asarray(part.transpose(*DIMS).values, dtype=np.float64)


def measured_runs(cube: xr.Dataset) -> npt.NDArray[np.bool_]:
    """Which runs have any value, (model, seed); an infinite one counts."""
    runs = np.zeros((cube.sizes["model"], cube.sizes["seed"]), dtype=np.bool_)
    for _, values in value_parts(cube):
        runs |= (~np.isnan(values)).any(axis=(2, 3))
    return runs


def chunk_along(variable: xr.DataArray, dim: str) -> int:
    """Length of a chunk of the file along a dimension; 1 where it is not known."""
    chunks = variable.encoding.get("chunksizes")
    if not chunks or len(chunks) != variable.ndim or dim not in variable.dims:
        return 1
    return max(int(chunks[variable.dims.index(dim)]), 1)
