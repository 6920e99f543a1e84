"""What the analyses of single curves share: which curves there are, on which steps, and means over runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, divided, finite, median, moments, scaled
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.trajectories.spread import MIN_RUNS

# Why a curve has no result, as a code and a word; each analysis may add its own after these.
REASONS = ("looked_at", "not_measured", "copy", "too_few_points", "constant")
LOOKED_AT, NOT_MEASURED, COPY, TOO_FEW, CONSTANT = range(len(REASONS))


def curves_of(cube: xr.Dataset) -> tuple[Floats, Ints]:
    """Finite values as curves (model, seed, metric, step), and the reason not to look at a curve, (model, seed, metric).

    Copies of other runs and infinite values are NaN. Too few points is for the analysis to say.
    """
    values, copies = counted_cells(cube)
    curves = finite(np.moveaxis(values, 2, 3))
    known = ~np.isnan(curves)
    high = np.max(curves, axis=-1, initial=-np.inf, where=known)
    low = np.min(curves, axis=-1, initial=np.inf, where=known)
    reason = np.where(high > low, LOOKED_AT, CONSTANT)
    reason = np.where(known.any(axis=-1), reason, NOT_MEASURED)
    return curves, np.where(copies, COPY, reason)


def same_steps(curves: Floats) -> Iterator[tuple[Ints, Ints]]:
    """Rows (curve, step) that are measured at the same steps: their numbers, and the places of the steps."""
    known = ~np.isnan(curves)
    patterns, group = np.unique(np.packbits(known, axis=1), axis=0, return_inverse=True)
    for number in range(len(patterns)):
        rows = np.flatnonzero(group.ravel() == number)
        yield rows, np.flatnonzero(known[rows[0]])


class Block(NamedTuple):
    """Complete curves of some metrics of a model, measured in the same runs at the same steps.

    Attributes
    ----------
    model : int
    metrics, runs, places : array of int
        Where the curves stand in the cube; places are those of steps.
    values : (metric, run, place) array
    """

    model: int
    metrics: Ints
    runs: Ints
    places: Ints
    values: Floats


def shared_steps(curves: Floats) -> Bools:
    """Steps (model, metric, step) at which more than half of the runs are measured, of as many as at the fullest one."""
    count = np.sum(~np.isnan(curves), axis=1)
    return np.asarray((count > 0) & (2 * count > count.max(axis=-1, keepdims=True)))


def complete_blocks(curves: Floats, *, least: int = MIN_RUNS) -> Iterator[Block]:
    """Curves (model, seed, metric, step) of runs that are measured at all steps that more than half of the runs share.

    Metrics with fewer than ``least`` such runs are left out.
    """
    steps = shared_steps(curves)
    ever = np.any(steps, axis=-1, keepdims=True)[:, None, :, 0]
    runs: Bools = np.asarray(np.all(~np.isnan(curves) | ~steps[:, None], axis=-1) & ever)
    for model in range(len(curves)):
        pattern = np.packbits(np.concatenate([steps[model], runs[model].T], axis=1), axis=1)
        several, group = np.unique(pattern, axis=0, return_inverse=True)
        for number in range(len(several)):
            metrics = np.flatnonzero(group.ravel() == number)
            own, places = np.flatnonzero(runs[model][:, metrics[0]]), np.flatnonzero(steps[model, metrics[0]])
            if len(own) >= least:
                values = curves[model][np.ix_(own, metrics, places)]
                yield Block(model, metrics, own, places, np.moveaxis(values, 0, 1))


class Centred(NamedTuple):
    """Curves without the level of their metric, in a unit that makes them neither huge nor tiny.

    Attributes
    ----------
    curves : (model, seed, metric, step) array
    level : (model, metric) array
    exponent : (model, metric) array of int
        ``curve * 2**exponent + level`` is the curve as it was; a large offset costs no digits.
    """

    curves: Floats
    level: Floats
    exponent: npt.NDArray[np.int32]


def centred(curves: Floats) -> Centred:
    """Curves (model, seed, metric, step) without the median of their model and metric; NaN stays."""
    together = np.moveaxis(curves, 1, 2)
    flat = together.reshape(*together.shape[:2], together.shape[2] * together.shape[3])
    level = median(flat, axis=-1)
    small, exponent = scaled(flat - level[..., None], axis=-1)
    return Centred(np.moveaxis(small.reshape(together.shape), 2, 1), level, exponent)


def over_runs(values: Floats, level: float) -> tuple[Floats, Floats, Floats, Ints]:
    """Mean of the runs along axis 1 with Student's interval, and their number; no interval with fewer than three."""
    from scipy.special import stdtrit

    centre, sd, n = moments(values, axis=1)
    enough = n >= MIN_RUNS
    reach = np.where(enough, stdtrit(np.maximum(n - 1, 1), (1 + level) / 2) * divided(sd, np.sqrt(n)), np.nan)
    return centre, centre - reach, centre + reach, n


def one_sided_p(values: Floats) -> Floats:
    """Student's chance of so large a mean over axis 1, were the true one not above 0; 1 where no value differs from 0."""
    from scipy.special import stdtr

    centre, sd, n = moments(values, axis=1)
    statistic = np.where(sd > 0, divided(centre, sd) * np.sqrt(n), np.where(centre > 0, np.inf, -np.inf))
    return np.where(n >= MIN_RUNS, stdtr(np.maximum(n - 1, 1), -statistic), np.nan)
