"""Statistics of activations and gradients as plain arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polystab.sources.weights.fits import fit_all, grouped
from polystab.sources.weights.moments import Moments, array_moments, pooled

Array = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# What is said of a list of numbers.
SIZES = ("max_abs", "rms", "norm", "kurtosis", "t_nu")


@dataclass(frozen=True, eq=False)
class Outliers:
    """Dimensions of the residual stream that are far larger than the others.

    Attributes
    ----------
    count : float
        How many; NaN where that cannot be said.
    largest : float
        Root mean square of the largest dimension over that of the median one.
    dimensions : ndarray of int, shape (keep,)
        The largest dimensions, largest first; -1 where there are fewer.
    ratios : ndarray, shape (keep,)
        Of each, as ``largest``; NaN where there are fewer.
    """

    count: float
    largest: float
    dimensions: Ints
    ratios: Floats


def sizes(arrays: Mapping[str, Array], measures: Sequence[str] = SIZES) -> dict[str, dict[str, float]]:
    """Statistics of each of several arrays.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Of any shape, float32 or float64.
    measures : sequence of str, optional
        Of these: ``max_abs``; ``rms``, the root mean square; ``norm``, the root of the sum of
        squares; ``kurtosis``, the excess over that of the normal distribution (ddof 0);
        ``t_nu``, the degrees of freedom of Student's t, see
        :func:`~polystab.sources.weights.fits.fit_all`.

    Returns
    -------
    dict of str to dict of str to float
        An array with NaN or infinity has an infinite ``max_abs``, and NaN for all else, which
        a constant array has for ``kurtosis`` and ``t_nu``.
    """
    moments = {name: array_moments(np.ascontiguousarray(array)) for name, array in arrays.items()}
    found = {name: _size(moment) for name, moment in moments.items()}
    if "t_nu" in measures:
        for name, nu in tails({name: arrays[name] for name, moment in moments.items() if moment.finite}).items():
            found[name]["t_nu"] = nu
    return {name: {measure: said[measure] for measure in measures} for name, said in found.items()}


def pooled_sizes(arrays: Mapping[str, Array], measures: Sequence[str] = SIZES) -> dict[str, float]:
    """The same of all arrays as if they were one, but for ``t_nu``, which is left out."""
    found = _size(pooled(array_moments(np.ascontiguousarray(array)) for array in arrays.values()))
    return {measure: found[measure] for measure in measures if measure != "t_nu"}


def _size(moments: Moments) -> dict[str, float]:
    if not moments.finite or not moments.n:
        return {"max_abs": math.inf if moments.n else math.nan} | dict.fromkeys(SIZES[1:], math.nan)
    said = moments.measures()
    norm = said["l2"]
    return {
        "max_abs": said["max_abs"],
        "rms": norm / math.sqrt(moments.n),
        "norm": norm,
        "kurtosis": said["kurtosis"],
        "t_nu": math.nan,
    }


def tails(arrays: Mapping[str, Array]) -> dict[str, float]:
    """Degrees of freedom of Student's t for each array of finite values; NaN where there are too few, or no spread."""
    ready = {name: grouped(np.sort(array, axis=None)) for name, array in arrays.items()}
    known = [name for name, groups in ready.items() if groups is not None]
    fits = fit_all([groups for groups in ready.values() if groups is not None])
    return dict.fromkeys(arrays, math.nan) | {name: fit["t_nu"] for name, fit in zip(known, fits, strict=True)}


def outlier_dimensions(states: Array, *, factor: float, keep: int) -> Outliers:
    """Which dimensions of a residual stream stand out.

    Parameters
    ----------
    states : ndarray, shape (tokens, width)
    factor : float
        A dimension is an outlier if its root mean square over the tokens is more than this
        many times that of the median dimension.
    keep : int
        How many of the largest dimensions are named, outliers or not.

    Examples
    --------
    >>> import numpy as np
    >>> states = np.random.default_rng(0).normal(size=(500, 32))
    >>> states[:, 7] *= 20
    >>> found = outlier_dimensions(states, factor=6.0, keep=2)
    >>> found.count, found.dimensions[0].item()
    (1.0, 7)
    """
    dimensions, ratios = np.full(keep, -1, dtype=np.int64), np.full(keep, np.nan)
    nothing = Outliers(math.nan, math.nan, dimensions, ratios)
    if not states.size or not np.isfinite(states).all():
        return nothing
    # By the largest value, so that squares neither overflow nor vanish.
    largest = float(np.abs(states).max())
    if not largest:
        return nothing
    scaled = np.divide(states, largest, dtype=np.float64)
    rms = np.sqrt(np.einsum("td,td->d", scaled, scaled) / len(scaled))
    middle = float(np.median(rms))
    if not middle:
        return nothing
    against = rms / middle
    order = np.argsort(-against, kind="stable")[:keep]
    dimensions[: len(order)], ratios[: len(order)] = order, against[order]
    return Outliers(float((against > factor).sum()), float(against.max()), dimensions, ratios)
