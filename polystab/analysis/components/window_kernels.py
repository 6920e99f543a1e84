"""Variance components of runs x checkpoints from mean squares: estimates, intervals and tests.

Cells (metrics) lie along the last axis; noise may be correlated from checkpoint to checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints, divided
from polystab.analysis.components.window_noise import NoiseTable, uncertain_df
from polystab.analysis.components.window_squares import DESIGNS, Squares

# What lasts in a run, or in a seed of all models, and the noise that passes: only correlation tells them apart.
SIBLINGS = {"nested": ((1, 4),), "crossed": ((1, 5), (2, 6))}

# Nothing with fewer gets an interval: three models, three runs of one model (DESIGN, honest statistics, 2).
_LEAST_DF = 2


_CANCELS = 1e-12


@dataclass(frozen=True)
class Parts:
    """Components (component, cell) and their total, the last row; ``rho`` and ``n_effective`` of every cell."""

    estimate: Floats
    lower: Floats
    upper: Floats
    p: Floats
    df: Floats
    rho: Floats
    n_effective: Floats


@dataclass(frozen=True)
class _Noise:
    """Noise of every cell; white where its correlation cannot be told."""

    told: Bools
    rho: Floats
    of_mean: Floats
    of_rest: Floats
    table: NoiseTable | None

    @staticmethod
    def of(found: Squares) -> _Noise:
        table, told = found.table, ~np.isnan(found.ratio)
        white = np.ones(len(told))
        if table is None:
            return _Noise(told, 0 * white, white, white, None)
        rho = np.where(told, table.solved(found.ratio), 0.0)
        return _Noise(told, rho, table.at("of_mean", rho), table.at("of_rest", rho), table)


def components(found: Squares, design: str, n_steps: int, level: float) -> Parts:
    """Components from mean squares, with noise as correlated as it was found to be."""
    strata = list(DESIGNS[design].values())
    noise = _Noise.of(found)
    weights = _solved(_coloured(found.mix, strata, noise), found.df)
    estimate = np.einsum("kqc,qc->kc", weights, np.where(found.df[:, None] > 0, found.mean_square, 0.0))
    hidden = _hidden(strata, found.df, n_steps)
    estimate[hidden] = np.nan
    df = _effective_df(found, strata, estimate, noise)
    shape = (len(strata) + 1, len(noise.rho))
    lower, upper, p, shown_df = (np.full(shape, np.nan) for _ in range(4))
    for k in np.flatnonzero(~hidden).tolist():
        own = df
        if noise.told.any() and strata[k] in ("s", "ms", "st", "mst"):
            # Only the correlation tells these from each other.
            excess = _excess(k, design, weights[k] * found.mean_square, estimate)
            lower[k], upper[k], own = _uncertain(found, strata, k, weights[k], df, noise, excess, level)
        else:
            lower[k], upper[k] = linear_interval(weights[k], found.mean_square, (df, df), found.df, level)
            if noise.table is not None:
                absent = np.where(np.arange(len(strata))[:, None] == k, 0.0, estimate)
                own = _effective_df(found, strata, absent, noise)
        p[k] = ratio_test(weights[k], found.mean_square, own)
        shown_df[k] = df[k]
    for lasting, passing in SIBLINGS[design]:
        if noise.table is not None and not hidden[[lasting, passing]].any():
            both = weights[lasting] + weights[passing]
            least, most = linear_interval(both, found.mean_square, (df, df), found.df, level)
            # Noise is no more than the two together, at neither end.
            lower[passing], upper[passing] = np.fmin(lower[passing], least), np.fmin(upper[passing], most)
    total = np.full(shape[1], np.nan)
    if not hidden[strata.index("mst" if n_steps > 1 else "ms")]:
        total = np.where(hidden[:, None], 0.0, estimate).sum(axis=0)
        both = weights[~hidden].sum(axis=0)
        lower[-1], upper[-1] = linear_interval(both, found.mean_square, (df, df), found.df, level)
    return Parts(
        np.vstack([estimate, total]),
        np.maximum(lower, 0.0),
        np.maximum(upper, 0.0),
        p,
        shown_df,
        np.where(noise.told, noise.rho, np.nan),
        np.where(noise.told, n_steps / noise.of_mean, np.nan),
    )


def truncated(estimate: Floats, design: str) -> Floats:
    """At least zero; noise at most all of the spread between siblings; the total is that of the parts."""
    variance = np.maximum(estimate, 0.0)
    for lasting, passing in SIBLINGS[design]:
        both = estimate[lasting] + estimate[passing]
        variance[passing] = np.where(both >= 0, np.minimum(variance[passing], both), variance[passing])
    variance[-1] = np.where(np.isnan(estimate[-1]), np.nan, np.nansum(variance[:-1], axis=0))
    return variance


def _coloured(mix: Floats, strata: Sequence[str], noise: _Noise) -> Floats:
    """Expectations (cell, stratum, component): noise counts more in means over checkpoints, less about them."""
    result = np.repeat(mix[None], len(noise.rho), axis=0)
    for j, component in enumerate(strata):
        if component in ("st", "mst"):
            for k, factors in enumerate(strata):
                result[:, k, j] *= noise.of_rest if "t" in factors else noise.of_mean
    return result


def _solved(mix: Floats, df: Ints) -> Floats:
    """Weights (component, stratum, cell) of the mean squares in every component, among the strata that are there."""
    there = np.flatnonzero(df > 0)
    result = np.zeros((mix.shape[1], mix.shape[1], len(mix)))
    weights = np.moveaxis(np.linalg.inv(mix[:, there][:, :, there]), 0, -1)
    # Weights that cancel do so exactly: what rounding leaves of them is no mean square that enters.
    result[np.ix_(there, there)] = np.where(
        np.abs(weights) > _CANCELS * np.abs(weights).max(axis=1, keepdims=True, initial=0.0), weights, 0.0
    )
    return result


def _hidden(strata: Sequence[str], df: Ints, n_steps: int) -> Bools:
    """Components that cannot be estimated: without degrees of freedom, or not apart from one that has none.

    A single checkpoint has nothing but what persists.
    """
    result = df <= 0
    for k, factors in enumerate(strata):
        finer = [j for j, other in enumerate(strata) if set(factors) < set(other)]
        below = [df[j] > 0 for j in finer if not (n_steps == 1 and "t" in strata[j])]
        # What all runs share at a step can be told from any difference between them.
        result[k] |= bool(below) and not (any(below) if factors == "t" else all(below))
    return result


def _effective_df(found: Squares, strata: Sequence[str], estimate: Floats, noise: _Noise) -> Floats:
    """Degrees of freedom (stratum, cell): those within runs lose some where noise is correlated."""
    df = np.repeat(found.df[:, None].astype(np.float64), len(noise.rho), axis=1)
    if noise.table is None:
        return df
    trace, squared = (noise.table.at(name, noise.rho) for name in ("trace", "trace_squared"))
    left = divided(trace, noise.of_rest)
    size = divided(np.where(np.isnan(found.mean_square[-1]), 0.0, found.mean_square[-1]), noise.of_rest)
    for k in (k for k, factors in enumerate(strata) if "t" in factors):
        # Beside the noise there are effects of the steps themselves, which are white.
        white = np.zeros(len(size))
        for j in (j for j, component in enumerate(strata) if component in ("t", "mt")):
            white += found.mix[k, j] * np.maximum(np.nan_to_num(estimate[j]), 0.0)
        top = (white * left + size * trace) ** 2
        bottom = white**2 * left + 2 * white * size * trace + size**2 * squared
        df[k] *= np.where(bottom > 0, divided(top, bottom * left), 1.0)
    return df


def _excess(k: int, design: str, terms: Floats, estimate: Floats) -> Floats:
    """How many times more noise than spread there is, where component ``k`` is told by noise alone; at least 1."""
    made, room = np.ones(terms.shape[1]), np.ones(terms.shape[1])
    for lasting, passing in SIBLINGS[design]:
        if k == passing:
            made, room = estimate[passing], estimate[passing] + estimate[lasting]
        elif k == lasting:
            made, room = np.sum(-terms, axis=0, where=terms < 0), np.sum(terms, axis=0, where=terms > 0)
    ratio = np.where((room <= 0) & (made > 0), np.inf, divided(made, room))
    return np.where(ratio > 1, ratio, 1.0)


def _uncertain(
    found: Squares,
    strata: Sequence[str],
    k: int,
    weights: Floats,
    df: Floats,
    noise: _Noise,
    excess: Floats,
    level: float,
) -> tuple[Floats, Floats, Floats]:
    """Interval of a component whose weights hang on the correlation found, and degrees of freedom for its test."""
    down, up, lowered = df.copy(), df.copy(), weights.copy()
    ratio = np.where(noise.told, found.ratio, 0.0)
    size = "of_rest" if "t" in strata[k] else "of_mean"
    if noise.table is not None:
        for j in (j for j, factors in enumerate(strata) if factors in ("st", "mst") and found.df[j] > 0):
            told = uncertain_df(noise.table, size, ratio, df[j], found.n_series, level, excess)
            down[j], up[j] = (np.where(noise.told, known, df[j]) for known in told[:2])
            lowered[j] *= np.where(noise.told, told[2], 1.0)
    ends = [linear_interval(used, found.mean_square, (down, up), found.df, level) for used in (weights, lowered)]
    # Less noise means more that lasts: it is the upper end of that, and the lower end of the noise.
    low, high = (1, 0) if size == "of_rest" else (0, 1)
    return ends[low][0], ends[high][1], up


def linear_interval(
    weights: Floats, mean_square: Floats, df: tuple[Floats, Floats], counted: Ints, level: float
) -> tuple[Floats, Floats]:
    """Modified large-sample interval of sums and differences of mean squares, (stratum, cell).

    Ting et al. 1990. With a single mean square it is the chi-square interval. The degrees of
    freedom are those that tell how far down, and how far up, a mean square may be from what it
    should be. NaN where one that enters has fewer than two (``counted``).
    """
    from scipy.special import fdtri, gammaincinv

    tail = (1 - level) / 2
    used = [k for k in range(len(weights)) if counted[k] > 0 and (weights[k] != 0).any()]
    n_cells = mean_square.shape[1]
    if not used or min(int(counted[k]) for k in used) < _LEAST_DF:
        return np.full(n_cells, np.nan), np.full(n_cells, np.nan)
    term = {k: np.abs(weights[k]) * mean_square[k] for k in used}
    plus = {k: weights[k] > 0 for k in used}
    below, above = df
    # Shares of a mean square that its interval reaches down and up.
    down = {k: 1 - below[k] / (2 * gammaincinv(below[k] / 2, 1 - tail)) for k in used}
    up = {k: above[k] / np.maximum(2 * gammaincinv(above[k] / 2, tail), 1e-100) - 1 for k in used}
    lower, upper = np.zeros(n_cells), np.zeros(n_cells)
    signs = len({bool(sign) for k in used for sign in np.unique(plus[k])})
    for k in used:
        lower += (np.where(plus[k], down[k], up[k]) * term[k]) ** 2
        upper += (np.where(plus[k], up[k], down[k]) * term[k]) ** 2
    for k in used:
        for j in used:
            product = term[k] * term[j]
            opposite = plus[k] & ~plus[j] & (product > 0)
            if opposite.any():
                high = np.minimum(fdtri(below[k], above[j], 1 - tail), 1e100)
                low = np.maximum(fdtri(above[k], below[j], tail), 1e-100)
                g = ((high - 1) ** 2 - (down[k] * high) ** 2 - up[j] ** 2) / high
                h = ((1 - low) ** 2 - (up[k] * low) ** 2 - down[j] ** 2) / low
                lower += np.where(opposite, g * product, 0.0)
                upper += np.where(opposite, h * product, 0.0)
            if j > k and signs > 1:  # a plain sum has none of these (Graybill and Wang 1980)
                both = _same_sign(below[k], below[j], down[k], down[j], tail) * product
                lower += np.where(plus[k] & plus[j], both / _others(plus, used, True), 0.0)
                upper += np.where(
                    ~plus[k] & ~plus[j] & (weights[k] * weights[j] > 0), both / _others(plus, used, False), 0.0
                )
    point = np.sum([weights[k] * mean_square[k] for k in used], axis=0)
    # What is taken away is not below zero, however badly it is known.
    added = np.sum([np.where(plus[k], term[k], 0.0) for k in used], axis=0)
    most = added + np.sqrt(np.sum([np.where(plus[k], up[k] * term[k], 0.0) ** 2 for k in used], axis=0))
    upper = np.minimum(point + np.sqrt(np.maximum(upper, 0.0)), most)
    return point - np.sqrt(np.maximum(lower, 0.0)), upper


def _same_sign(a: Floats, b: Floats, down_a: Floats, down_b: Floats, tail: float) -> Floats:
    """What two mean squares of one sign have to their joint error beyond their own squares."""
    from scipy.special import gammaincinv

    joint = 1 - (a + b) / (2 * gammaincinv((a + b) / 2, 1 - tail))
    return np.asarray((joint * (a + b)) ** 2 / (a * b) - down_a**2 * a / b - down_b**2 * b / a)


def _others(plus: dict[int, Bools], used: Sequence[int], sign: bool) -> Floats:
    """How many other mean squares have the same sign, at least 1."""
    return np.asarray(np.maximum(np.sum([plus[k] == sign for k in used], axis=0) - 1.0, 1.0))


def ratio_test(weights: Floats, mean_square: Floats, df: Floats) -> Floats:
    """Chance of so large a ratio of the mean squares with positive weight to those with negative weight.

    Exact F where one stands on each side, else Satterthwaite's degrees of freedom. NaN
    where nothing stands below, and where nothing varies.
    """
    from scipy.special import fdtrc

    term = weights * np.where(np.isnan(mean_square), 0.0, mean_square)
    sides = []
    for sign in (1, -1):
        part = np.where(sign * weights > 0, sign * term, 0.0)
        sides.append(
            (part.sum(axis=0), divided(part.sum(axis=0) ** 2, divided(part**2, df).sum(axis=0, where=part > 0)))
        )
    (top, df_top), (bottom, df_bottom) = sides
    below = (weights < 0).any(axis=0)
    result = np.where(below & (bottom == 0) & (top > 0), 0.0, np.nan)
    result = np.where(below & (top == 0) & (bottom > 0), 1.0, result)
    usable = below & (top > 0) & (bottom > 0)
    result[usable] = fdtrc(df_top[usable], df_bottom[usable], (top / np.where(usable, bottom, 1.0))[usable])
    return result
