"""Is a new run further out than each past run was? A contest between runs, with numpy arrays.

Every past run in turn is set aside, and the rest make a band: median and spread at every step. The run set
aside and the new run are both measured against that same band, by how far they stay outside of it over several
values in a row. A run that is further out than all n past runs has beaten each of them in a contest that
treats both sides alike. Of n + 1 exchangeable runs at most one can beat all others, so that a healthy new
run does so with probability 1 / (n + 1) at most, however long training is and however values depend on each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Floats, median

# Which side of the band is bad.
UP, DOWN, BOTH = 1, -1, 0

# The spread at a step is averaged over so many steps on each side: that of a few runs at one step is noise.
_SMOOTH = 8

# The spread is at least this share of its mean over training, and of the level (rounding).
_LEAST_SPREAD = 0.1
_ROUNDING = 1e-9

# A unit below one standard deviation would turn noise of a metric that hardly varies into the largest of all.
_LEAST_UNIT = 1.0


@dataclass(frozen=True, eq=False)
class Bands:
    """What each past run, and a new one set against it, is measured with.

    Attributes
    ----------
    centre, spread : numpy.ndarray
        Median of the other past runs, and their robust standard deviation, (runs, steps).
    reached : numpy.ndarray
        How far out each past run got against its band, in its units, (runs,).
    unit : numpy.ndarray
        How far out the others typically got against the same band, (runs,): makes metrics comparable.
    """

    centre: Floats
    spread: Floats
    reached: Floats
    unit: Floats


def bands(values: Floats, *, side: int, sustain: int) -> Bands:
    """Leave-one-out bands of the past runs of one metric.

    Parameters
    ----------
    values : numpy.ndarray
        (runs, steps), at least three runs; NaN where not measured, no infinities.
    side : {1, -1, 0}
        Whether above, below or both is bad.
    sustain : int
        Values in a row.

    Returns
    -------
    Bands
    """
    n, n_step = values.shape
    centre, spread = np.empty((n, n_step)), np.empty((n, n_step))
    reached, unit = np.empty(n), np.empty(n)
    for i in range(n):
        others = np.delete(values, i, axis=0)
        centre[i] = median(others, axis=0)
        spread[i] = _spread(others, centre[i])
        out = furthest((values - centre[i]) / spread[i], side=side, sustain=sustain)
        unit[i] = max(float(np.median(np.delete(out, i))), _LEAST_UNIT)
        reached[i] = out[i] / unit[i]
    return Bands(centre, spread, reached, unit)


def furthest(scores: Floats, *, side: int, sustain: int) -> Floats:
    """The largest score that ``sustain`` values in a row (last axis) all reach; -inf where there are not as many."""
    return np.asarray(np.max(lasting(scores, side=side, sustain=sustain), axis=-1, initial=-np.inf))


def lasting(scores: Floats, *, side: int, sustain: int) -> Floats:
    """What the last ``sustain`` values at each place from the first possible on all reach; -inf with NaN among them."""
    if scores.shape[-1] < sustain:
        return np.empty((*scores.shape[:-1], 0))
    return held(np.lib.stride_tricks.sliding_window_view(scores, sustain, axis=-1), side=side)


def held(scores: Floats, *, side: int) -> Floats:
    """What all values of the last axis reach on the bad side; -inf with NaN among them."""
    low, high = scores.min(axis=-1), scores.max(axis=-1)
    result = {UP: low, DOWN: -high, BOTH: np.maximum(low, -high)}[side]
    return np.where(np.isnan(result), -np.inf, result)


def allowed_losses(n_runs: int, false_alarm: float) -> int:
    """How many of the contests a run may lose and still be an outlier at this rate; -1 if the runs are too few.

    In a tournament at most ``2 k + 1`` players lose ``k`` games or fewer, so that the rate is
    ``(2 k + 1) / (n + 1)``.
    """
    return int(np.floor((false_alarm * (n_runs + 1) * (1 + 1e-12) - 1) / 2))


def rate_of(n_runs: int, losses: int) -> float:
    """The share of healthy runs, at most, that lose so many contests or fewer at any time of training."""
    return (2 * losses + 1) / (n_runs + 1)


def anticipated(seen: npt.NDArray[np.intp], n_step: int) -> npt.NDArray[np.intp]:
    """Places of the reference's steps at which a run is measured: those so far, and on at their usual distance."""
    stride = max(1, int(np.median(np.diff(seen[-16:])))) if len(seen) > 1 else 1
    return np.concatenate([seen, np.arange(seen[-1] + stride, n_step, stride)])


def _spread(others: Floats, centre: Floats) -> Floats:
    """Robust standard deviation around the median at every step, smoothed over neighbours, never zero."""
    raw = 1.4826 * median(np.abs(others - centre), axis=0)
    known = ~np.isnan(raw)
    if not known.any():
        return np.full(raw.shape, np.nan)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, raw, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    place = np.arange(len(raw))
    low, high = np.maximum(place - _SMOOTH, 0), np.minimum(place + _SMOOTH + 1, len(raw))
    smooth = (total[high] - total[low]) / np.maximum(count[high] - count[low], 1)
    floor = _LEAST_SPREAD * float(raw[known].mean()) + _ROUNDING * np.abs(centre) + np.finfo(np.float64).tiny
    return np.where(known, np.maximum(smooth, floor), np.nan)
