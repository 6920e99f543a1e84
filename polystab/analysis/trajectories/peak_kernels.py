"""Where a noisy curve is highest and whether it declines afterwards, on plain arrays.

Curves are smoothed by a centred mean whose window shrinks towards both ends. It keeps straight
lines straight and, which matters here, rising curves rising: smoothing makes no peak of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints
from polystab.analysis.segments.null import ar1_noise
from polystab.analysis.trajectories.curves import one_sided_p

# Lag-1 correlations of the noise from one checkpoint to the next that are told apart.
RHOS = (0.0, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97)

# Sets of noise curves behind each p-value.
SIMULATED = 2000


@dataclass(frozen=True)
class Smoother:
    """A centred mean over ``2 half + 1`` of ``n`` checkpoints.

    Attributes
    ----------
    n, half : int
    mean : (n, n) array
        Row k gives the smoothed value at checkpoint k.
    first, last : (n,) array
        Weights of the mean over the first, last ``half + 1`` checkpoints: where a curve starts and ends.
    """

    n: int
    half: int

    @property
    def inner(self) -> Bools:
        """Checkpoints that are neither start nor end: where a peak can be."""
        place = np.arange(self.n)
        return (place > self.half) & (place < self.n - 1 - self.half)

    @property
    def mean(self) -> Floats:
        place = np.arange(self.n)
        reach = np.minimum(np.minimum(place, self.n - 1 - place), self.half)
        inside = np.abs(place[:, None] - place) <= reach[:, None]
        return np.asarray(inside / inside.sum(axis=1, keepdims=True), dtype=np.float64)

    @property
    def first(self) -> Floats:
        return np.where(np.arange(self.n) <= self.half, 1 / (self.half + 1), 0.0)

    @property
    def last(self) -> Floats:
        return self.first[::-1]


@lru_cache(maxsize=64)
def residual_traces(n: int, half: int) -> tuple[Floats, Floats]:
    """Expected square, and product of neighbours, of what smoothing leaves of AR(1) noise of variance 1.

    Sums over the checkpoints, for each of :data:`RHOS`.
    """
    rest = np.eye(n) - Smoother(n, half).mean
    squares, products = [], []
    for rho in RHOS:
        left = rest @ correlations(n, rho) @ rest.T
        squares.append(np.trace(left))
        products.append(np.trace(left, offset=1))
    return np.array(squares), np.array(products)


def correlations(n: int, rho: float) -> Floats:
    """Of AR(1) noise at n checkpoints."""
    place = np.arange(n)
    return np.asarray(rho ** np.abs(place[:, None] - place), dtype=np.float64)


def noise_of(residual: Floats, half: int) -> tuple[Ints, Floats]:
    """Place in :data:`RHOS` and standard deviation of the noise of metrics whose curves leave these residuals.

    Parameters
    ----------
    residual : (metric, run, checkpoint) array
        What smoothing leaves of the differences of the runs from their mean, or of a single run itself.
    half : int
    """
    n_runs, n = residual.shape[1:]
    square = np.sum(residual**2, axis=(1, 2)) / max(n_runs - 1, 1)
    product = np.sum(residual[..., 1:] * residual[..., :-1], axis=(1, 2)) / max(n_runs - 1, 1)
    squares, products = residual_traces(n, half)
    ratio = np.divide(product, square, out=np.zeros_like(square), where=square > 0)
    # Rather too much noise at low frequencies than too little: of one run the next larger correlation, of several
    # the nearest one to what is a standard error higher.
    known = products / squares
    if n_runs > 1:
        ratio = ratio + 1 / np.sqrt((n_runs - 1) * n)
        known = np.append((known[1:] + known[:-1]) / 2, np.inf)
    place = np.minimum(np.searchsorted(known, ratio), len(RHOS) - 1)
    return place, np.sqrt(square / squares[place])


@dataclass(frozen=True)
class Peak:
    """The peak of each of some curves that are measured at the same n checkpoints.

    Attributes
    ----------
    place : (curve,) array of int
        Checkpoint at which the smoothed curve is highest.
    height, start, end : (curve,) array
        Smoothed value there; means over the first and last few checkpoints.
    drop, rise, below : (curve,), (curve,) and (curve, checkpoint) arrays
        The height above the end, the start and the smoothed value at each checkpoint, in
        standard errors of that difference. Of a peak at the start or end, -inf.
    """

    place: Ints
    height: Floats
    start: Floats
    end: Floats
    drop: Floats
    rise: Floats
    below: Floats


def find_peaks(curves: Floats, smoother: Smoother, rho: float, sd: Floats) -> Peak:
    """Peaks of curves (curve, checkpoint) with noise of this correlation and these standard deviations."""
    mean, ends = smoother.mean, np.stack([smoother.first, smoother.last])
    smooth, tips = curves @ mean.T, curves @ ends.T
    place = np.argmax(smooth, axis=1)
    height = np.max(smooth, axis=1)
    spread, to_ends = _difference_sds(smoother.n, smoother.half, rho)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = (height[:, None] - smooth) / (sd[:, None] * spread[place])
        outer = (height[:, None] - tips) / (sd[:, None] * to_ends[place])
    below = np.where(height[:, None] == smooth, 0.0, below)
    outer = np.where(smoother.inner[place][:, None], np.nan_to_num(outer, nan=0.0, posinf=np.inf), -np.inf)
    return Peak(place, height, tips[:, 0], tips[:, 1], outer[:, 1], outer[:, 0], below)


@lru_cache(maxsize=64)
def _difference_sds(n: int, half: int, rho: float) -> tuple[Floats, Floats]:
    """Standard deviation of the differences between smoothed values, and to start and end, with noise of variance 1."""
    smoother = Smoother(n, half)
    rows = np.concatenate([smoother.mean, smoother.first[None], smoother.last[None]])
    covariance = rows @ correlations(n, rho) @ rows.T
    variance = np.diag(covariance)
    spread = np.sqrt(np.maximum(variance[:, None] + variance - 2 * covariance, 0.0))
    return spread[:n, :n], spread[:n, n:]


@dataclass(frozen=True)
class Null:
    """Peaks of flat noise.

    Attributes
    ----------
    drop : (curve,) array
        Increasing: how far the highest checkpoint that is not at the start is above the end, in standard errors.
        Seen from the other side of the curve it is the null distribution of the rise.
    below : (curve, checkpoint) array
        As in :class:`Peak`.
    """

    drop: Floats
    below: Floats


@lru_cache(maxsize=64)
def null_peaks(n: int, half: int, rho: float, runs: int, seed: int) -> Null:
    """Peaks of flat noise whose standard deviation is estimated from so many runs, as that of the curves is.

    Of the curves that only rise, those that are up at once and then flat have the largest drops: nothing
    but the start is kept from being the peak.
    """
    smoother = Smoother(n, half)
    sets = -(-SIMULATED // runs)
    noise = ar1_noise(rho, sets * runs, n, np.random.default_rng(seed))[..., 0]
    residual = noise - noise @ smoother.mean.T
    square = np.mean(np.sum(residual**2, axis=1).reshape(sets, runs), axis=1)
    expected = residual_traces(n, half)[0][RHOS.index(rho)]
    sd = np.repeat(np.sqrt(square / expected), runs)
    below = find_peaks(noise, smoother, rho, sd).below
    noise[:, : half + 1] -= 1e6
    return Null(np.sort(find_peaks(noise, smoother, rho, sd).drop), below)


def peak_p(found: Peak, null: Null) -> Floats:
    """Chance that a curve without a peak, noise included, rises and drops as far: the larger of the two chances."""
    return np.maximum(_share_above(found.drop, null.drop), _share_above(found.rise, null.drop))


def _share_above(values: Floats, null: Floats) -> Floats:
    """Share of the increasing null that is at least as large, one of it more."""
    beyond = len(null) - np.searchsorted(null, values, side="left")
    return np.where(np.isneginf(values), 1.0, (1 + beyond) / (1 + len(null)))


def peak_set(found: Peak, null: Null, level: float) -> Bools:
    """Checkpoints (curve, checkpoint) that the true peak may be at."""
    return np.asarray(found.below <= np.quantile(null.below, level, axis=0))


def cross_fitted(curves: Floats, smoother: Smoother) -> tuple[Floats, Floats]:
    """Rise and decline of each run around the peak of the mean of the others, both (metric, run).

    Parameters
    ----------
    curves : (metric, run, checkpoint) array

    Returns
    -------
    rise, decline : (metric, run) array
        0 where the others have their peak at the start or end.
    """
    smooth = curves @ smoother.mean.T
    place = np.argmax(smooth.sum(axis=1, keepdims=True) - smooth, axis=2)
    height = np.take_along_axis(smooth, place[..., None], axis=2)[..., 0]
    inner = smoother.inner[place]
    rise, decline = (np.where(inner, height - curves @ tip, 0.0) for tip in (smoother.first, smoother.last))
    return rise, decline


@lru_cache(maxsize=64)
def cross_fitted_excess(n: int, half: int, rho: float, runs: int, seed: int) -> float:
    """How many times more often than Student's t has it flat noise has a mean decline over runs, in the tail.

    The runs' declines are not quite independent, since each has a say in where the others look.
    """
    smoother = Smoother(n, half)
    noise = ar1_noise(rho, SIMULATED * runs, n, np.random.default_rng(seed))[..., 0]
    noise[:, : half + 1] -= 1e6
    p = one_sided_p(cross_fitted(noise.reshape(SIMULATED, runs, n), smoother)[1])
    return max(1.0, *(float(np.mean(p <= tail)) / tail for tail in (0.05, 0.02)))
