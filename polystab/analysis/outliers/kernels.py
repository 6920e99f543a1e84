"""Is one of the runs unlike the others? A rotation test on curves, with numpy arrays.

If runs are independent draws of one normal distribution (any mean, any covariance over steps and metrics), then rotating
the runs' deviations from their mean within their space of n - 1 dimensions gives data that were as likely. So the null of any
statistic, with the autocorrelation and the correlation between metrics that these runs have, comes from random rotations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints

# A deviation shorter than this many checkpoints is none of the run.
LEAST = 3

# Places from which a window to the end of training may begin, where there are more steps than MANY_STEPS.
SUFFIXES = 16
MANY_STEPS = 32

# Differences of a few units in the last place are rounding.
ROUNDING = 8 * np.finfo(np.float64).eps

# Numbers held at once while rotating.
_CHUNK = 2_000_000


@dataclass(frozen=True, eq=False)
class Unlike:
    """How unlike the others each run is.

    Attributes
    ----------
    p : numpy.ndarray
        Share of rotated sets of runs in which any run is as unlike the rest, (runs,).
    strength : numpy.ndarray
        The statistic: largest standardised log ratio over windows and groups of metrics.
    first, last : numpy.ndarray of int
        The window in which it is largest, as indices of steps, both included.
    group : numpy.ndarray of int
        The group of metrics in which it is.
    """

    p: Floats
    strength: Floats
    first: Ints
    last: Ints
    group: Ints


def running_median(values: Floats) -> Floats:
    """Median of three neighbours along axis 1; a single bad checkpoint leaves no trace.

    The first and last points take the median of the three at their end. A point with NaN
    among the three stays as it is; so does everything where there are fewer than three.
    """
    if values.shape[1] < 3:
        return values
    a, b, c = values[:, :-2], values[:, 1:-1], values[:, 2:]
    middle = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    smooth = np.concatenate([middle[:, :1], middle, middle[:, -1:]], axis=1)
    return np.where(np.isnan(smooth) | np.isnan(values), values, smooth)


def windows(n_step: int) -> list[tuple[int, int]]:
    """Stretches of steps (first, behind the last) that are looked at.

    Those that last to the end (from every step, or from :data:`SUFFIXES` geometrically
    spaced ones), and overlapping ones of a half, a quarter and an eighth of the length.
    None is shorter than a tenth of all steps, so that heavy tails average out.
    """
    least = max(LEAST, n_step // 10)
    if n_step < least:
        return []
    if n_step <= MANY_STEPS:
        starts = list(range(n_step - least + 1))
    else:
        starts = np.unique(np.round(n_step - np.geomspace(least, n_step, SUFFIXES)).astype(np.int64)).tolist()
    found = {(start, n_step) for start in starts}
    length = n_step // 2
    while length >= max(least, n_step // 8):
        found |= {(start, start + length) for start in range(0, n_step - length + 1, max(1, length // 2))}
        length //= 2
    return sorted(found)


def contrasts(n: int) -> Floats:
    """Orthonormal columns (n, n - 1) that are orthogonal to the vector of ones (Helmert)."""
    basis = np.zeros((n, n - 1))
    for k in range(1, n):
        basis[:k, k - 1] = 1 / np.sqrt(k * (k + 1))
        basis[k, k - 1] = -np.sqrt(k / (k + 1))
    return basis


def rotations(n: int, draws: int, rng: np.random.Generator) -> Floats:
    """Random orthogonal matrices (draws, n, n), uniform (Haar): QR of normal draws with the signs of R put back."""
    q, r = np.linalg.qr(rng.standard_normal((draws, n, n)))
    return np.asarray(q * np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, None, :])


def log_ratios(gram: Floats, floor: Floats | float = 0.0) -> Floats:
    """How far each run is from the majority, against what is usual, of Gram matrices (..., n, n).

    The squared distance that half of the other runs are within, over the mean of these
    distances among the 70 % of runs that are least remote; its logarithm, (..., n). Up
    to 30 % of remote runs change neither the distances of the others nor the usual one much.
    ``floor`` is added to both: what a squared distance can be for lack of resolution.
    """
    n = gram.shape[-1]
    floor = np.asarray(floor)[..., None]
    square = np.diagonal(gram, axis1=-2, axis2=-1)
    distance = square[..., :, None] + square[..., None, :] - 2 * gram
    # Its own 0 comes first, so place n // 2 is the (lower) median of the others.
    half = np.partition(distance, n // 2, axis=-1)[..., n // 2]
    kept = n - max(1, 3 * n // 10)
    usual = np.partition(half, kept - 1, axis=-1)[..., :kept].mean(axis=-1, keepdims=True)
    tiny = np.finfo(np.float64).tiny
    return np.asarray(np.log(np.maximum(half + floor, tiny)) - np.log(np.maximum(usual + floor, tiny)))


def window_grams(
    values: Floats, resolution: Floats, groups: list[Ints], spans: list[tuple[int, int]]
) -> tuple[Floats, Floats]:
    """Inner products of the runs' mean deviations in windows, in the n - 1 dimensions of contrasts.

    Parameters
    ----------
    values : numpy.ndarray
        (runs, steps, metrics), without NaN; every cell is divided by its standard deviation
        over runs (with that of the resolution), and one in which all runs are equal says nothing.
    resolution : numpy.ndarray
        The smallest difference each metric can have, (metrics,): one test item more or less.
    groups : list of numpy.ndarray of int
        Metrics that are taken together.
    spans : list of (int, int)
        Windows.

    Returns
    -------
    grams : numpy.ndarray
        (windows, groups, runs - 1, runs - 1). Means and not sums of squares: a run that
        lies on one side for long counts, and not one whose values merely scatter.
    floors : numpy.ndarray
        (windows, groups), what the resolution alone adds to a squared distance.
    """
    basis = contrasts(len(values))
    largest = np.max(np.abs(values), axis=0)
    unit = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
    part = np.einsum("rk,rtm->tkm", basis, unit, optimize=True)
    grain = np.divide(resolution, largest, out=np.zeros_like(largest), where=largest > 0) ** 2
    size = np.sum(part**2, axis=1) / (len(values) - 1) + grain
    part = np.divide(part, np.sqrt(size)[:, None], out=np.zeros_like(part), where=size[:, None] > 0)
    grain = np.divide(grain, size, out=np.zeros_like(grain), where=size > 0)
    total = np.concatenate([np.zeros((1, *part.shape[1:])), np.cumsum(part, axis=0)])
    grains = np.concatenate([np.zeros((1, grain.shape[1])), np.cumsum(grain, axis=0)])
    grams: list[Floats] = []
    floors: list[float] = []
    for first, behind in spans:
        mean = (total[behind] - total[first]) / (behind - first)
        floor = (grains[behind] - grains[first]) / (behind - first)
        grams.extend(mean[:, group] @ mean[:, group].T for group in groups)
        floors.extend(2 * float(floor[group].sum()) for group in groups)
    shape = len(spans), len(groups)
    return np.array(grams).reshape(*shape, len(basis) - 1, len(basis) - 1), np.array(floors).reshape(shape)


def rotation_test(
    values: Floats, groups: list[Ints], *, resolution: Floats | None = None, draws: int, rng: np.random.Generator
) -> Unlike:
    """How unlike the others each run is, in its most unusual window and group of metrics.

    Parameters
    ----------
    values : numpy.ndarray
        (runs, steps, metrics), at least three runs, without NaN.
    groups : list of numpy.ndarray of int
        Metrics that are looked at together.
    resolution : numpy.ndarray, optional
        The smallest difference each metric can have, (metrics,); 0 by default.
    draws : int
        Rotations; the smallest p is ``1 / (draws + 1)``.
    rng : numpy.random.Generator

    Returns
    -------
    Unlike
        Its p-values hold for all runs, windows and groups together (single-step max).

    Notes
    -----
    In each window and group: :func:`log_ratios`, its maximum over runs, and the mean and
    standard deviation of that over rotated sets (the set itself is one of them), with which all are
    standardised so that no window or group rules. The test is exact for normal runs: the set
    and its rotations are exchangeable.

    References
    ----------
    Langsrud, O. (2005). Rotation tests. Statistics and Computing 15, 53-60.
    https://doi.org/10.1007/s11222-005-4789-5

    Westfall, P. H. and Young, S. S. (1993). Resampling-Based Multiple Testing. Wiley.
    """
    n, n_step, _ = values.shape
    spans = windows(n_step)
    grain = np.zeros(values.shape[2]) if resolution is None else resolution
    grams, floor = window_grams(values, grain, groups, spans)
    grams, floor = grams.reshape(-1, n - 1, n - 1), floor.ravel()
    # A window and group in which all runs are equal.
    used = np.flatnonzero(np.trace(grams, axis1=1, axis2=2) > 0)
    if not len(used):
        nothing = np.zeros(n, dtype=np.int64)
        return Unlike(np.ones(n), np.zeros(n), nothing, nothing, nothing)
    grams, floor, basis = grams[used], floor[used], contrasts(n)
    seen = log_ratios(_turned(basis[None], grams)[0], floor)
    null = np.empty((draws + 1, len(used)))
    null[-1] = seen.max(axis=1)
    chunk = max(1, _CHUNK // (len(used) * n * n))
    for begin in range(0, draws, chunk):
        turned = basis @ rotations(n - 1, min(chunk, draws - begin), rng)
        null[begin : begin + len(turned)] = log_ratios(_turned(turned, grams), floor).max(axis=-1)
    centre, spread = null.mean(axis=0), np.maximum(null.std(axis=0), 1e-12)
    largest = ((null - centre) / spread).max(axis=1)
    standard = (seen - centre[:, None]) / spread[:, None]
    strength, place = standard.max(axis=0), used[standard.argmax(axis=0)]
    # Of a statistic equal up to rounding the rotated one counts as large.
    as_large = largest[:-1, None] >= strength - 1e-9
    span = np.array(spans)[place // len(groups)]
    return Unlike(
        p=(1 + as_large.sum(axis=0)) / (draws + 1),
        strength=strength,
        first=span[:, 0],
        last=span[:, 1] - 1,
        group=place % len(groups),
    )


def _turned(turn: Floats, grams: Floats) -> Floats:
    """``turn @ gram @ turn.T`` for every turn (t, n, k) and Gram matrix (g, k, k), as (t, g, n, n) in two products."""
    (t, n, k), g = turn.shape, len(grams)
    left = turn.reshape(t * n, k) @ grams.transpose(1, 0, 2).reshape(k, g * k)
    left = left.reshape(t, n, g, k).swapaxes(1, 2).reshape(t, g * n, k)
    return np.asarray(left @ turn.swapaxes(1, 2)).reshape(t, g, n, n)


def resolutions(values: Floats) -> Floats:
    """Smallest difference between two different values of each metric, (runs, steps, metrics); 0 with fewer than two."""
    flat = np.sort(values.reshape(-1, values.shape[-1]), axis=0)  # NaN last
    gap = np.diff(flat, axis=0)
    real = gap > ROUNDING * np.maximum(np.abs(flat[1:]), np.abs(flat[:-1]))
    smallest = np.min(gap, axis=0, initial=np.inf, where=real)
    return np.where(np.isfinite(smallest), smallest, 0.0)


def filled(values: Floats) -> Floats:
    """Gaps along axis 1 that have numbers on both sides, filled on a straight line between those."""
    n = values.shape[1]
    known = ~np.isnan(values)
    if known.all():
        return values
    place = np.arange(n).reshape(1, n, 1)
    before = np.maximum.accumulate(np.where(known, place, -1), axis=1)
    after = np.flip(np.minimum.accumulate(np.flip(np.where(known, place, n), axis=1), axis=1), axis=1)
    inside = ~known & (before >= 0) & (after < n)
    low, high = np.maximum(before, 0), np.minimum(after, n - 1)
    weight = (place - low) / np.maximum(high - low, 1)
    line = (1 - weight) * np.take_along_axis(values, low, 1) + weight * np.take_along_axis(values, high, 1)
    return np.where(inside, line, values)


def stretch(flags: Bools, first: int, last: int) -> tuple[int, int] | None:
    """The run of true flags (single false ones between two true ones on each side allowed) that covers most of first..last."""
    closed = flags.copy()
    closed[2:-2] |= flags[:-4] & flags[1:-3] & flags[3:-1] & flags[4:]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], closed, [False]]).astype(np.int8)))
    begins, ends = edges[::2], edges[1::2] - 1
    overlap = np.minimum(ends, last) - np.maximum(begins, first) + 1
    if not len(overlap) or overlap.max() <= 0:
        return None
    best = int(overlap.argmax())
    return int(begins[best]), int(ends[best])
