"""How alike curves are, on plain arrays: mean correlations over pairs, their intervals and their null.

Curves are made vectors of length 1, so that the mean correlation over pairs of runs follows from the
sums of these vectors, and leaving a run out costs nothing.
"""

from __future__ import annotations

import numpy as np

from polystab.analysis.arrays import Floats, Ints, divided

KINDS = ("level", "detrended", "increments")

# Numbers of the curves whose nulls are drawn together: about what stays in a core's cache.
_BLOCK = 2**15


def unit_curves(curves: Floats, x: Floats) -> Floats:
    """Curves (..., step) as they are, without their line over ``x``, and their increments, each centred and of length 1.

    Shape (3, ..., step); the increments have a last entry of 0. NaN where nothing is left.
    """
    changes = np.diff(curves, axis=-1)
    changes = changes - changes.mean(axis=-1, keepdims=True)
    padded = np.concatenate([changes, np.zeros_like(curves[..., :1])], axis=-1)
    level = curves - curves.mean(axis=-1, keepdims=True)
    slope = x - x.mean()
    slope = slope / np.sqrt(slope @ slope)
    found = np.stack([level, level - (level @ slope)[..., None] * slope, padded])
    lengths = np.sqrt(np.sum(found**2, axis=-1, keepdims=True))
    # What is left of a straight line is rounding.
    floor = 1e-12 * np.max(np.abs(curves), axis=-1, keepdims=True)
    return np.asarray(divided(found, np.where(lengths > floor, lengths, np.nan)))


def pair_means(vectors: Floats, groups: Ints) -> tuple[Floats, Floats]:
    """Mean correlation over the pairs within each group, (..., group), and over all pairs across groups, (...).

    Parameters
    ----------
    vectors : (..., run, step) array of length 1 each
    groups : (run,) array of int

    Notes
    -----
    Pairs of groups count alike, however many runs they have. NaN where there is no pair.
    """
    member = members(groups)
    return pair_means_of_sums(member @ vectors, member.sum(axis=1))


def members(groups: Ints) -> Floats:
    """Which run is in which group, (group, run)."""
    return np.equal.outer(np.arange(groups.max() + 1), groups).astype(np.float64)


def pair_means_of_sums(sums: Floats, n: Floats) -> tuple[Floats, Floats]:
    """:func:`pair_means` from the sums over each group (..., group, step) and the runs ``n`` of the groups."""
    squares = np.sum(sums**2, axis=-1)
    within = divided(squares - n, n * (n - 1))
    means = sums / n[:, None]
    total = np.sum(means.sum(axis=-2) ** 2, axis=-1)
    pairs = float(len(n) * (len(n) - 1))
    return within, divided(total - np.sum(squares / n**2, axis=-1), pairs)


def likeness(vectors: Floats, groups: Ints) -> Floats:
    """Mean over the groups with pairs of the correlation within them, and the mean across, (..., 2)."""
    return _both(*pair_means(vectors, groups), np.bincount(groups))


def _both(within: Floats, across: Floats, n: Floats | Ints) -> Floats:
    several = within[..., n > 1]
    own = several.mean(axis=-1) if several.shape[-1] else np.full(across.shape, np.nan)
    return np.stack([own, across], axis=-1)


def jackknife(vectors: Floats, groups: Ints) -> tuple[Floats, Floats]:
    """Standard error of :func:`likeness` on Fisher's scale, over runs, and its degrees of freedom, both (..., 2).

    Runs of each group are left out one at a time (Arvesen). NaN where a group has fewer than three runs.
    """
    counts = np.bincount(groups)
    if counts.min() < 3:
        shape = (*vectors.shape[:-2], 2)
        return np.full(shape, np.nan), np.full(shape, np.nan)
    parts = []
    for group, n in enumerate(counts):
        left = np.stack(
            [
                _fisher(likeness(np.delete(vectors, run, axis=-2), np.delete(groups, run)))
                for run in np.flatnonzero(groups == group)
            ]
        )
        parts.append((n - 1) / n * np.sum((left - left.mean(axis=0)) ** 2, axis=0))
    variance = np.sum(parts, axis=0)
    shares = np.sum([divided(part**2, n - 1) for part, n in zip(parts, counts, strict=True)], axis=0)
    return np.sqrt(variance), divided(variance**2, shares)


def _fisher(r: Floats) -> Floats:
    return np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))


def interval(r: Floats, error: Floats, df: Floats, level: float) -> tuple[Floats, Floats]:
    """Student's interval on Fisher's scale."""
    from scipy.special import stdtrit

    reach = stdtrit(np.where(df > 0, df, np.nan), (1 + level) / 2) * error
    return np.tanh(_fisher(r) - reach), np.tanh(_fisher(r) + reach)


def null_likeness(curves: Floats, x: Floats, groups: Ints, n_draws: int, rng: np.random.Generator) -> Floats:
    """Likeness of curves with the same increments in the same order that begin anywhere, (draw, kind, metric, 2).

    Parameters
    ----------
    curves : (metric, run, step) array
    """
    n_metrics, n_runs, n = curves.shape
    # The same rotations for all metrics: what is random is the run.
    starts = rng.integers(0, n - 1, (n_draws, n_runs))
    found = np.empty((n_draws, len(KINDS), n_metrics, 2))
    size = max(1, _BLOCK // (n_runs * n))
    for start in range(0, n_metrics, size):
        part = slice(start, start + size)
        found[:, :, part] = _null_of(curves[part], x, groups, starts)
    return found


def _null_of(curves: Floats, x: Floats, groups: Ints, starts: Ints) -> Floats:
    member, n = members(groups), curves.shape[2]
    counts, slope = member.sum(axis=1), (x - x.mean()) / np.sqrt(np.sum((x - x.mean()) ** 2))
    # A curve with rotated increments is a stretch of the curve that is followed by itself, from where it ended on.
    twice = np.concatenate([curves, curves[..., 1:] + (curves[..., -1:] - curves[..., :1])], axis=-1)
    changes = np.diff(curves, axis=-1)
    changes = changes - changes.mean(axis=-1, keepdims=True)
    changes = np.nan_to_num(divided(changes, np.sqrt(np.sum(changes**2, axis=-1, keepdims=True))))
    changes = np.concatenate([changes, changes], axis=-1)
    found = np.empty((len(starts), len(KINDS), len(curves), 2))
    turned, stretch = np.empty(curves.shape), np.empty((*curves.shape[:2], n - 1))
    for draw, places in enumerate(starts.tolist()):
        for run, place in enumerate(places):
            turned[:, run] = twice[:, run, place : place + n]
            stretch[:, run] = changes[:, run, place : place + n - 1]
        turned -= turned.mean(axis=-1, keepdims=True)
        along = turned @ slope
        square = np.einsum("mrt,mrt->mr", turned, turned)
        level = member * np.sqrt(_inverse(square))[:, None]
        detrended = member * np.sqrt(_inverse(square - along**2))[:, None]
        off_line = (detrended @ along[..., None]) * slope
        for kind, sums in enumerate((level @ turned, detrended @ turned - off_line, member @ stretch)):
            found[draw, kind] = _both(*pair_means_of_sums(sums, counts), counts)
    return found


def _inverse(square: Floats) -> Floats:
    return np.nan_to_num(divided(1.0, np.where(square > 0, square, np.nan)))


def p_of(r: Floats, null: Floats) -> Floats:
    """Share of the null, itself counted, that is at least as alike."""
    beyond = np.sum(null >= r - 1e-12, axis=0)
    return np.where(np.isnan(r), np.nan, (1 + beyond) / (1 + len(null)))
