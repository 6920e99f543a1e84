"""What :func:`polystab.analysis.change_points.segment` is given, checked and brought into one shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Bools, Floats, Ints, divided, median, scaled
from polystab.analysis.segments.glitches import glitches
from polystab.analysis.segments.profile import MIN_SIZES, most_changes
from polystab.errors import AnalysisError, did_you_mean, shown

COSTS = tuple(MIN_SIZES)
CRITERIA = ("aic", "bic", "mbic")
LEAST_SIZES = {"l2": 1, "meanvar": 2, "linear": 2, "continuous": 2}


@dataclass(frozen=True)
class Options:
    """The arguments of a segmentation, checked.

    Attributes
    ----------
    cost : str
        One of :data:`COSTS`.
    min_size : int
        Fewest points of a segment.
    max_changes : int or None
        The caller's limit.
    false_alarm : float
        Wanted share of series without changes that get one.
    penalty : float or str or None
        A number, one of :data:`CRITERIA`, or None for the false-alarm rate.
    """

    cost: str
    min_size: int
    max_changes: int | None
    false_alarm: float
    penalty: float | str | None

    def most(self, n: int) -> int:
        """How many changes are looked for in ``n`` points."""
        fits = most_changes(self.cost, n, self.min_size)
        if isinstance(self.penalty, float | int):
            fits = max(n // self.min_size - 1, 0)
        return fits if self.max_changes is None else min(fits, self.max_changes)


@dataclass
class Group:
    """Series that are known at the same points: what is segmented, and how to get back.

    Attributes
    ----------
    rows : numpy.ndarray
        Which of the caller's series these are.
    kept : numpy.ndarray
        Indices of their points that are used.
    y : numpy.ndarray
        (series, points, columns), around 0 and of size about 1.
    factor : numpy.ndarray
        What one unit of ``y`` is in the caller's units, (series, columns).
    centre : numpy.ndarray
        Where 0 of ``y`` is in the caller's units, (series, columns).
    glitches : numpy.ndarray
        Indices of the points left out as glitches.
    n_infinite : numpy.ndarray
        Points left out because a value is infinite, (series,).
    """

    rows: Ints
    kept: Ints
    y: Floats
    factor: Floats
    centre: Floats
    glitches: Ints
    n_infinite: Ints


def read_options(
    cost: str, min_size: int | None, max_changes: int | None, false_alarm: float, penalty: float | str | None
) -> Options:
    """Check what does not depend on the series."""
    if cost not in COSTS:
        raise AnalysisError(f"There is no cost {cost!r}. {did_you_mean(str(cost), COSTS)}")
    if isinstance(penalty, str) and penalty not in CRITERIA:
        raise AnalysisError(f"There is no penalty {penalty!r}. {did_you_mean(penalty, CRITERIA)} Or give a number.")
    if penalty is not None and not isinstance(penalty, str) and not 0 <= penalty < np.inf:
        raise AnalysisError(f"A penalty is a finite number from 0, or one of {shown(CRITERIA)}; got {penalty!r}.")
    if not 0 < false_alarm <= 0.5:
        raise AnalysisError(
            f"false_alarm is the wanted share of series without changes that get one, above 0 and at most 0.5; "
            f"got {false_alarm!r}."
        )
    size = MIN_SIZES[cost] if min_size is None else _count("min_size", min_size, LEAST_SIZES[cost])
    return Options(
        cost,
        size,
        None if max_changes is None else _count("max_changes", max_changes, 0),
        float(false_alarm),
        float(penalty) if penalty is not None and not isinstance(penalty, str) else penalty,
    )


def read_positions(x: npt.ArrayLike | None, n: int) -> Floats:
    """Positions of ``n`` points: increasing and finite."""
    if x is None:
        return np.arange(n, dtype=np.float64)
    try:
        result = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise AnalysisError(f"x holds positions of points, one number each: {error}") from error
    if result.shape != (n,):
        raise AnalysisError(f"x has shape {result.shape}, but there are {n} points. Give one position for each.")
    if not np.isfinite(result).all():
        where = np.flatnonzero(~np.isfinite(result)).tolist()
        raise AnalysisError(f"Positions must be finite; x is not at {shown(where)}.")
    if not (np.diff(result) > 0).all():
        where = (np.flatnonzero(np.diff(result) <= 0) + 1).tolist()
        raise AnalysisError(
            f"Positions must increase; x does not at {shown(where)}. Sort the series, and merge repeats."
        )
    return result


def normal_positions(x: Floats) -> tuple[Floats, float]:
    """Positions on a range of 1, and what one unit is in the given ones.

    Zero is where points lie closest, so that sums of products keep small differences apart.
    """
    if len(x) < 2:
        return np.zeros_like(x), 1.0
    unit = float(x[-1] / 2 - x[0] / 2) * 2
    return (x - x[np.argmin(np.diff(x))]) / unit, unit


def read_series(y: npt.ArrayLike) -> Floats:
    """Numbers as a float array; complex numbers, text and dates are refused."""
    try:
        values = np.asarray(y)
        if values.dtype.kind not in "fiubO":
            raise TypeError(f"values of type {values.dtype} are no series of numbers")
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise AnalysisError(f"A series holds numbers: {error}.") from error


def groups(y: Floats, *, cleaned: bool) -> list[Group]:
    """Series of shape (series, n, columns) by the points at which they are known.

    A point is known where every column is finite. With ``cleaned`` glitches are left out
    too, and several columns get the same robust spread of differences, so that all have
    a say. Otherwise series are only centred, and scaled by a power of two.
    """
    known = np.asarray(np.isfinite(y).all(axis=2))
    bad = np.zeros_like(known)
    if cleaned:
        for pattern, rows in _patterns(known):
            bad[np.ix_(rows, np.flatnonzero(pattern))] = glitches(scaled(y[np.ix_(rows, pattern)], axis=1)[0])
    n_infinite = np.isinf(y).any(axis=2).sum(axis=1)
    result = []
    for pattern, rows in _patterns(np.concatenate([known & ~bad, bad], axis=1)):
        kept, off = np.flatnonzero(pattern[: y.shape[1]]), np.flatnonzero(pattern[y.shape[1] :])
        values = _normalised(y[np.ix_(rows, kept)], apart=cleaned)
        result.append(Group(rows, kept, *values, off, n_infinite[rows]))
    return result


def _count(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise AnalysisError(f"{name} is a whole number from {least}, got {value!r}.")
    return int(value)


def _patterns(rows: Bools) -> list[tuple[Bools, Ints]]:
    """The different rows of a table, and where each occurs."""
    if not len(rows):
        return []
    kinds, which = np.unique(rows, axis=0, return_inverse=True)
    return [(kind, np.flatnonzero(which.ravel() == i)) for i, kind in enumerate(kinds)]


def _normalised(y: Floats, *, apart: bool) -> tuple[Floats, Floats, Floats]:
    """Series around 0 and of size about 1, the unit that is in the given ones, and where 0 is."""
    if not y.shape[1]:
        return y, np.ones(y[:, 0].shape if y.size else (len(y), y.shape[2])), np.zeros((len(y), y.shape[2]))
    _, exponent = scaled(y.reshape(len(y), -1), axis=1)
    exponent = exponent[:, None]
    small = np.ldexp(y, -exponent[..., None])
    centre = median(small, axis=1)
    small = small - centre[:, None]
    # A spread that is rounding of the level is none.
    spread = np.max(np.abs(small), axis=1)
    small = np.where((spread > 8 * np.finfo(np.float64).eps * np.abs(centre))[:, None], small, 0.0)
    again = np.minimum(np.frexp(spread.max(axis=1, keepdims=True))[1], 1023 - exponent)
    small = np.ldexp(small, -again[..., None])
    unit = np.ones(centre.shape)
    if apart and y.shape[2] > 1:
        steps = np.abs(np.diff(small, axis=1))
        unit = median(steps, axis=1)
        unit = np.where(unit > 0, unit, np.sqrt(np.mean(steps**2, axis=1)) if steps.shape[1] else 1.0)
        unit = np.where(unit > 0, unit, 1.0)
    return divided(small, unit[:, None]), np.ldexp(unit, exponent + again), np.ldexp(centre, exponent)
