"""Kernels on plain arrays that several analyses share; none of them knows xarray's labels.

All of them take runs along one axis, treat NaN as not measured, never warn on a
slice without numbers, and leave their input as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.cube.parts import check_fits
from polystab.cube.specs import DIMS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def cells(cube: xr.Dataset, name: str = "value") -> Floats:
    """A variable of a cube as a (model, seed, step, metric) array, read if it was lazy and memory holds it."""
    check_fits(cube, name)
    return np.asarray(cube[name].transpose(*DIMS).values, dtype=np.float64)


def labels(cube: xr.Dataset, *dims: str) -> dict[str, xr.DataArray]:
    """The coordinates of a cube that lie along ``dims`` only, for use on a result."""
    return {
        str(name): coord.variable.copy(deep=False)
        for name, coord in cube.coords.items()
        if set(coord.dims) <= set(dims) and coord.dims
    }


def better_of(cube: xr.Dataset) -> npt.NDArray[np.str_]:
    """``higher``, ``lower`` or nothing (not known) for every metric."""
    if "better" not in cube.coords:
        return np.full(cube.sizes["metric"], "", dtype=np.str_)
    return np.asarray(cube["better"].values.astype(np.str_))


def described(data: xr.Dataset, docs: dict[str, str], units: dict[str, str] | None = None) -> xr.Dataset:
    """Put ``long_name`` (and ``units``) on every variable of a result."""
    for name, text in docs.items():
        data[name].attrs = {"long_name": text} | ({"units": units[name]} if units and name in units else {})
    return data


def finite(values: Floats) -> Floats:
    """The values with NaN in place of infinities: a diverged run has no place in a mean."""
    return np.where(np.isfinite(values), values, np.nan)


def quantiles(values: Floats, q: Sequence[float], *, axis: int) -> tuple[Floats, Ints]:
    """Quantiles of the numbers along an axis, and how many numbers there were.

    Linear interpolation between order statistics (numpy's default, type 7 of
    Hyndman and Fan). The quantiles come first in the result; a slice without
    numbers gives NaN. Infinities count as not measured.
    """
    ordered = np.sort(finite(np.moveaxis(values, axis, -1)), axis=-1)
    n = np.sum(~np.isnan(ordered), axis=-1)
    if not ordered.shape[-1]:
        return np.full((len(q), *n.shape), np.nan), n.astype(np.int64)
    last = np.maximum(n - 1, 0)
    result = np.empty((len(q), *n.shape))
    for i, share in enumerate(q):
        place = last * share
        low = np.floor(place).astype(np.intp)
        high = np.minimum(low + 1, last)
        below = np.take_along_axis(ordered, low[..., None], axis=-1)[..., 0]
        above = np.take_along_axis(ordered, high[..., None], axis=-1)[..., 0]
        # below + w * (above - below) would overflow for +-1e308; this form cannot.
        weight = place - low
        result[i] = np.where(below == above, below, (1 - weight) * below + weight * above)
    return result, n.astype(np.int64)


def median(values: Floats, *, axis: int) -> Floats:
    """Median of the numbers along an axis; NaN where there are none."""
    return np.asarray(quantiles(values, (0.5,), axis=axis)[0][0])


def mean(values: Floats, *, axis: int) -> Floats:
    """Mean of the finite numbers along an axis; NaN where there are none."""
    small, exponent = scaled(finite(values), axis=axis)
    used = ~np.isnan(small)
    total = np.sum(small, axis=axis, where=used)
    return unscaled(divided(total, used.sum(axis=axis)), exponent)


def scaled(values: Floats, *, axis: int) -> tuple[Floats, npt.NDArray[np.int32]]:
    """The values times a power of two that brings the largest size along an axis to 1/2 to 1.

    Sums and squares of the result neither overflow nor vanish, and nothing is lost in
    undoing it: :func:`unscaled`. NaN stays NaN; infinities must be gone.
    """
    largest = np.max(np.abs(values), axis=axis, keepdims=True, initial=0.0, where=~np.isnan(values))
    exponent = np.frexp(largest)[1]
    return np.ldexp(values, -exponent), np.squeeze(exponent, axis=axis)


def unscaled(values: Floats, exponent: npt.NDArray[np.integer]) -> Floats:
    """``values * 2**exponent``, infinite beyond the largest float: the square of 1e200 is."""
    with np.errstate(over="ignore"):
        return np.asarray(np.ldexp(values, exponent))


def divided(top: npt.NDArray[Any] | float, bottom: npt.NDArray[Any] | float) -> Floats:
    """``top / bottom`` with NaN where ``bottom`` is zero or NaN."""
    top, bottom = np.broadcast_arrays(np.asarray(top, np.float64), np.asarray(bottom, np.float64))
    result = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=result, where=(bottom != 0) & ~np.isnan(bottom))
    return result


def moments(values: Floats, *, axis: int) -> tuple[Floats, Floats, Ints]:
    """Mean, standard deviation (ddof 1) and count of the finite numbers along an axis.

    Deviations are taken from the median first, so that equal values have a spread
    of exactly 0, and are scaled by a power of two, so that their squares neither
    overflow nor vanish. The mean of none, and the spread of fewer than two, is NaN.
    """
    values, exponent = scaled(finite(np.moveaxis(values, axis, -1)), axis=-1)
    known = ~np.isnan(values)
    n = known.sum(axis=-1)
    centre = median(values, axis=-1)
    deviation = np.where(known, values - centre[..., None], 0.0)
    shift = divided(deviation.sum(axis=-1), n)
    rest = np.where(known, deviation - shift[..., None], 0.0)
    sd = np.sqrt(divided(np.sum(rest**2, axis=-1), np.maximum(n - 1, 0)))
    return unscaled(centre + shift, exponent), unscaled(sd, exponent), n.astype(np.int64)


def rms(values: Floats, *, axis: int) -> Floats:
    """Root mean square of the finite numbers along an axis; NaN where there are none."""
    small, exponent = scaled(finite(values), axis=axis)
    used = ~np.isnan(small)
    squares = np.sum(small**2, axis=axis, where=used)
    return unscaled(np.sqrt(divided(squares, used.sum(axis=axis))), exponent)
