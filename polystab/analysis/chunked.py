"""Cubes that are larger than memory: analyses that go metric by metric work on some metrics at a time.

Whether runs are copies of others is told from all metrics. So that is found out first,
part by part, and every part is told; what it then says of its metrics is what the whole
cube would say, to the last bit.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec

import numpy as np
import xarray as xr

from polystab.analysis.audit.exclude import leave_out
from polystab.analysis.audit.runs import COPIES, duplicate_runs
from polystab.analysis.options import Rng
from polystab.cube.parts import metric_slices
from polystab.cube.specs import DIMS
from polystab.cube.validate import as_cube

P = ParamSpec("P")

# Bytes of values that some analyses take at a time, of small cubes too. They are made of products of matrices,
# whose last digits depend on what else is in them: so what is in them depends on nothing but the cube.
FIXED_BYTES = 2**24


def metric_parts(
    cube: xr.Dataset | xr.DataTree, *, max_bytes: int | None = None, multiple: int = 1
) -> Iterator[xr.Dataset]:
    """A cube some metrics at a time, for whatever needs no more.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube; opened by ``ps.open_cube`` it stays on disk, but for the part at hand.
    max_bytes : int, optional
        Of the values of a part, as float64; 64 MiB by default. A part has two metrics in any case.
    multiple : int, optional
        Parts begin at multiples of so many metrics, if one holds as many.

    Yields
    ------
    xarray.Dataset
        The cube with some of its metrics, in their order. It also has the variables of
        :func:`polystab.analysis.duplicate_runs`, found in all metrics together, and every analysis goes by
        them; of a part from which runs or steps were selected, drop them
        (``part.drop_vars(polystab.analysis.audit.runs.COPIES)``).

    Notes
    -----
    Analyses that go metric by metric do so by themselves where a cube is large. What remains as large as it is
    is their result: ``seed_band`` of ten runs takes half of the space of the cube. These parts are for
    results that are kept one by one, or summed up.

    Examples
    --------
    >>> import polystab as ps, polystab.testing
    >>> from polystab.analysis.chunked import metric_parts
    >>> cube = polystab.testing.synthetic_cube(rng=0)
    >>> shares = [ps.variance_components(part).sizes["metric"] for part in metric_parts(cube, max_bytes=9_000)]
    >>> len(shares) > 1 and sum(shares) == cube.sizes["metric"]
    True
    """
    cube = as_cube(cube)
    slices = metric_slices(cube, max_bytes=max_bytes, multiple=multiple)
    cube = with_copies(cube)
    for place in slices:
        part = cube.isel(metric=place)
        # Read once, for whatever asks for it. The cube itself stays where it is.
        yield part if len(slices) == 1 else part.assign(value=part["value"].compute())


def with_copies(cube: xr.Dataset) -> xr.Dataset:
    """The cube with the variables of :func:`duplicate_runs`, so that a part of it knows what all metrics say."""
    return cube if all(name in cube.data_vars for name in COPIES) else cube.assign(duplicate_runs(cube).data_vars)


def in_parts(
    function: Callable[..., xr.Dataset],
    cube: xr.Dataset,
    *,
    multiple: int = 1,
    max_bytes: int | None = None,
    **chance: Any,
) -> xr.Dataset:
    """What a function says of a cube, asked part by part where the cube is large.

    Parameters
    ----------
    function : callable
        From a cube to a result of which nothing depends on more than one metric, but for copies.
    cube : xarray.Dataset
        A cube.
    multiple : int, optional
        The function itself goes on by so many metrics at a time, and its last digits may depend on which these are:
        so parts begin at multiples of it.
    max_bytes : int, optional
        Of the values of a part, as float64; 64 MiB by default.
    **chance : rng=int, numpy.random.Generator or None
        If given, the function gets it as well, the same for every part.

    Returns
    -------
    xarray.Dataset
        As if the function had been given all of it.
    """
    n = len(metric_slices(cube, multiple=multiple, max_bytes=max_bytes))
    if n == 1:
        return function(cube, **chance)
    options = [{name: rng} for name in chance for rng in _same(chance[name], n)] or [{}] * n
    parts = metric_parts(cube, multiple=multiple, max_bytes=max_bytes)
    return joined([function(part, **option) for part, option in zip(parts, options, strict=True)])


def in_fixed_parts(function: Callable[[xr.Dataset], xr.Dataset], cube: xr.Dataset) -> xr.Dataset:
    """:func:`in_parts` for analyses whose last digits depend on the parts: the same ones, however much memory there is."""
    return in_parts(function, cube, max_bytes=FIXED_BYTES)


def by_metric(
    multiple: Callable[[xr.Dataset], int] | None = None,
) -> Callable[[Callable[P, xr.Dataset]], Callable[P, xr.Dataset]]:
    """Let an analysis that goes metric by metric work in parts of a large cube: see :func:`in_parts`.

    The cube comes first, everything else is a keyword. What an audit says (``exclude``) is about the whole cube:
    it is made first, and every part is without what it takes out.

    Parameters
    ----------
    multiple : callable, optional
        How many metrics of a cube the analysis takes at a time.
    """

    def decorated(function: Callable[P, xr.Dataset]) -> Callable[P, xr.Dataset]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> xr.Dataset:
            if len(args) != 1:
                return function(*args, **kwargs)
            cube, left_out = leave_out(args[0], kwargs.pop("exclude", None))  # type: ignore[arg-type]
            if not set(DIMS) <= set(cube.dims):
                return function(*args, **kwargs)
            width = 1 if multiple is None else multiple(cube)
            return in_parts(functools.partial(function, **kwargs), cube, multiple=width).assign_attrs(left_out)

        return wrapper

    return decorated


def _same(rng: Rng, n: int) -> list[Rng]:
    """The same source of chance n times; a generator itself comes last, so that it moves on as it would have."""
    if rng is None:
        rng = int(np.random.default_rng().integers(2**32))
    return [rng if k == n - 1 else copy.deepcopy(rng) for k in range(n)]


def joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Results about some metrics each, as one about all of them.

    A dimension without labels (``change``) is made as long as the longest. What has no
    metric, and attributes, are taken from the first.
    """
    first = parts[0]
    sizes = {dim: max(part.sizes[dim] for part in parts) for dim in first.sizes if dim != "metric"}
    ends = np.cumsum([0, *(part.sizes["metric"] for part in parts)]).tolist()
    variables = {}
    for name, variable in first.variables.items():
        if "metric" not in variable.dims:
            variables[name] = variable
            continue
        shape = [ends[-1] if dim == "metric" else sizes[dim] for dim in variable.dims]
        dtype = np.result_type(*(part.variables[name].dtype for part in parts))
        whole = (
            np.full(shape, np.nan if dtype.kind == "f" else -1, dtype) if dtype.kind in "fi" else np.zeros(shape, dtype)
        )
        for part, start, end in zip(parts, ends, ends[1:], strict=False):
            own = part.variables[name].transpose(*variable.dims)
            at = tuple(slice(start, end) if dim == "metric" else slice(0, own.sizes[dim]) for dim in variable.dims)
            whole[at] = own.values
        variables[name] = xr.Variable(variable.dims, whole, variable.attrs)
    coords = {name: variables[name] for name in first.coords}
    return xr.Dataset({name: variables[name] for name in first.data_vars}, coords=coords, attrs=first.attrs)
