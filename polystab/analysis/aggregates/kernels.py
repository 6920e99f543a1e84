"""Aggregates over runs and tasks on plain arrays, whose last two axes are (run, task); NaN is not measured."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Floats, divided, mean, median
from polystab.analysis.options import numbers

STATISTICS = ("iqm", "mean", "median", "optimality_gap")

# First and last resample of a block, and the scores drawn (resample, cell, run, task).
Draw = tuple[int, int, Floats]

# Scores held at a time.
_BLOCK = 2**21


def statistic(values: Floats, name: str, threshold: float) -> Floats:
    """One of ``STATISTICS`` over the last two axes."""
    if name == "median":
        return median(mean(values, axis=-2), axis=-1)
    flat = values.reshape(*values.shape[:-2], -1)
    if name == "iqm":
        return interquartile_mean(flat)
    if name == "optimality_gap":
        return threshold - mean(np.minimum(flat, threshold), axis=-1)
    return mean(flat, axis=-1)


def interquartile_mean(values: npt.ArrayLike) -> Floats:
    """Mean of the middle half of the numbers along the last axis.

    ``floor(n / 4)`` are taken off each end, as ``scipy.stats.trim_mean(x, 0.25)`` does. NaN
    is not measured; without numbers the result is NaN.

    Examples
    --------
    >>> float(interquartile_mean(range(10)))
    4.5
    """
    ordered = np.sort(np.atleast_1d(numbers(values, "values")), axis=-1)
    n = (~np.isnan(ordered)).sum(axis=-1, keepdims=True)
    cut, place = n // 4, np.arange(ordered.shape[-1])
    kept = (place >= cut) & (place < n - cut)
    return mean(np.where(kept, ordered, np.nan), axis=-1)


def improvement(x: Floats, y: Floats) -> Floats:
    """Share of pairs of runs in which x is above y, equal ones counted half, per task (..., task)."""
    above = np.zeros((*x.shape[:-2], x.shape[-1]))
    for row in range(y.shape[-2]):  # one run of y at a time keeps the work space as small as x
        rival = y[..., row : row + 1, :]
        above += (x > rival).sum(axis=-2) + 0.5 * (x == rival).sum(axis=-2)
    pairs = (~np.isnan(x)).sum(axis=-2) * (~np.isnan(y)).sum(axis=-2)
    return divided(above, pairs)


def profile(values: Floats, thresholds: Floats) -> Floats:
    """Mean over tasks of the share of runs above each threshold, (..., threshold)."""
    n = (~np.isnan(values)).sum(axis=-2)
    result = np.empty((*values.shape[:-2], len(thresholds)))
    for k, threshold in enumerate(thresholds):
        result[..., k] = mean(divided((values > threshold).sum(axis=-2), n), axis=-1)
    return result


def drawn_blocks(
    values: Floats, by_task: bool, n_resamples: int, rng: np.random.Generator, size: int
) -> Iterator[Draw]:
    """Runs drawn with replacement, in blocks of resamples that hold about as many numbers as fit.

    With ``by_task`` the measured runs of every cell and task are drawn separately, as many
    as there are; else whole runs, the same for all tasks, of those that have any score.
    """
    n_cell, n_run, n_task = values.shape
    rows = max(1, _BLOCK // max(size, 1))
    if by_task:
        packed = np.sort(values, axis=1)  # NaN last: the measured runs stand first
        n = (~np.isnan(values)).sum(axis=1)[None, :, None, :]
        shape: tuple[int, ...] = (n_cell, n_run, n_task)
    else:
        ever = (~np.isnan(values)).any(axis=2)
        packed = np.take_along_axis(values, np.argsort(~ever, axis=1, kind="stable")[:, :, None], axis=1)
        n = ever.sum(axis=1)[None, :, None, None]
        shape = (n_cell, n_run, 1)
    order = np.arange(n_run)[:, None]
    for start in range(0, n_resamples, rows):
        stop = min(start + rows, n_resamples)
        place = (rng.random((stop - start, *shape)) * n).astype(np.intp)
        drawn = np.take_along_axis(packed[None], np.broadcast_to(place, (stop - start, *values.shape)), axis=2)
        yield start, stop, np.where(order < n, drawn, np.nan)
