"""How often seeds change a ranking of models, on plain arrays (model, seed, cell); NaN is not measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polystab.analysis.agreement.intervals import means, run_jackknife
from polystab.analysis.agreement.kernels import some
from polystab.analysis.arrays import Bools, Floats, divided


@dataclass(frozen=True)
class RankCounts:
    """Statistics of some cells; ``win`` is (model, cell), the others (cell,)."""

    win: Floats
    flips: Floats
    flips_variance: Floats
    tau: Floats
    tau_variance: Floats
    n_draws: Floats
    n_models: Floats


def nested_ranks(values: Floats, winner: Floats) -> RankCounts:
    """Draws of one run of each model, independent of each other; exact, over all draws there are.

    ``winner`` is the number of the model (cell,) whose losses are flips, NaN for none.
    """
    known = ~np.isnan(values)
    n = known.sum(axis=1).astype(np.float64)  # model, cell
    there = n > 0
    pairs = known[:, None, :, None] & known[None, :, None, :]  # model, model, run, run, cell
    sign = np.where(pairs, _signs(values, known), 0.0)
    worse, level = (divided(part.sum(axis=3), n[None, :, None]) for part in (sign > 0, (sign == 0) & pairs))
    best = _best(worse, level, there)  # model, run, cell
    win = np.where(there, divided(np.sum(np.where(known, best, 0.0), axis=1), n), np.nan)
    flips, variance = np.full((2, values.shape[2]), np.nan)
    for w in range(len(values)):
        cell = np.flatnonzero((winner == w) & (there.sum(axis=0) >= 2))
        if len(cell):
            flips[cell] = 1 - win[w, cell]
            part = (sign[w][..., cell], pairs[w][..., cell], best[w][..., cell], known[..., cell])
            variance[cell] = _flip_variance(w, *part)
    tau, tau_variance = _nested_tau(sign, known)
    n_draws = np.where(there.any(axis=0), np.min(n, axis=0, initial=np.inf, where=there), 0.0)
    return RankCounts(win, flips, variance, tau, tau_variance, n_draws, there.sum(axis=0).astype(np.float64))


def _signs(values: Floats, known: Bools) -> Floats:
    """1, 0 or -1: a run of the first model is above, level with or below one of the second."""
    plain = np.where(known, values, 0.0)
    one, other = plain[:, None, :, None], plain[None, :, None, :]
    return (one > other).astype(np.float64) - (one < other)


def _best(worse: Floats, level: Floats, there: Bools) -> Floats:
    """Chance that each run is the best of a draw, which equal bests share, (model, run, cell).

    With m equal ones each has 1 / (1 + m), the integral of u^m from 0 to 1; so the
    chance is the integral of the product of ``worse + level u`` over the other models, which
    Gauss-Legendre points give exactly.
    """
    own = np.eye(len(worse), dtype=bool)[:, :, None, None] | ~there[None, :, None]
    result = np.zeros(np.delete(worse.shape, 1))
    for point, weight in _points(len(worse)):
        result += weight * np.prod(np.where(own, 1.0, worse + point * level), axis=1)
    return result


def _points(n_model: int) -> list[tuple[float, float]]:
    points, weights = np.polynomial.legendre.leggauss(n_model // 2 + 1)
    return list(zip(((points + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))


def _flip_variance(w: int, sign: Floats, pairs: Bools, best: Floats, known: Bools) -> Floats:
    """Jackknife variance of the share of draws that model ``w`` wins, each run of each model left out in turn.

    ``sign`` and ``pairs`` are (other model, run, other run, cell), ``best`` is (run, cell).
    """
    n = known.sum(axis=1).astype(np.float64)
    total = np.sum(np.where(known[w], best, 0.0), axis=0)
    result = run_jackknife(divided(total - best, n[w] - 1).T, known[w].T)
    level = np.asarray((sign == 0) & pairs)
    others = [k for k in range(len(sign)) if k != w]
    shares = {}
    for point, _ in _points(len(sign)):
        half = (sign > 0) + point * level
        shares[point] = half, np.where((n > 0)[:, None], divided(half.sum(axis=2), n[:, None]), 1.0)
    for k in others:
        left_out = np.zeros(known[k].shape)
        for point, weight in _points(len(sign)):
            half, share = shares[point]
            rest = np.prod(share[[other for other in others if other != k]], axis=0)  # run, cell
            without = divided(half[k].sum(axis=1)[:, None] - half[k], n[k] - 1)  # run, run left out, cell
            left_out += weight * np.sum(np.where(known[w][:, None], rest[:, None] * without, 0.0), axis=0)
        variance = run_jackknife(divided(left_out, n[w]).T, known[k].T)
        result += np.where(n[k] > 0, variance, 0.0)
    return result


def _nested_tau(sign: Floats, known: Bools) -> tuple[Floats, Floats]:
    """Expected concordance of two independent draws, of the share of untied pairs; and its jackknife variance.

    The mean of ``s s'`` over draws that share no run comes from the sums of ``s`` in a table
    of runs by runs: all of it squared, less rows squared, less columns squared, plus squares.
    """
    n = known.sum(axis=1).astype(np.float64)
    n = np.where(n >= 2, n, np.nan)
    table = n[:, None] * n[None]
    free = (n[:, None] - 1) * (n[None] - 1)
    rows, squares = sign.sum(axis=3), (sign**2).sum(axis=3)
    columns = sign.sum(axis=2)
    all_of, square = rows.sum(axis=2), squares.sum(axis=2)
    row_squares, column_squares = (rows**2).sum(axis=2), (columns**2).sum(axis=2)
    alike = _off_diagonal((all_of**2 - row_squares - column_squares + square) / (table * free))
    untied = _off_diagonal(square / table)
    # The same without one run of the first model, (model, model, run, cell).
    part = np.einsum("jkabc,jkbc->jkac", sign, columns)
    less = (table - n[None])[:, :, None], (free * (n[:, None] - 2) / (n[:, None] - 1))[:, :, None]
    one, ones, all_ones = rows, squares, all_of[:, :, None]
    top = (all_ones - one) ** 2 - (row_squares[:, :, None] - one**2) + square[:, :, None] - ones
    top -= column_squares[:, :, None] - 2 * part + ones
    gone_alike = _off_diagonal(divided(top, less[0] * less[1]))
    gone_untied = _off_diagonal(divided(square[:, :, None] - ones, less[0]))
    both = alike.sum(axis=(0, 1)) / 2, untied.sum(axis=(0, 1)) / 2
    left_out = divided(
        both[0] - alike.sum(axis=1)[:, None] + gone_alike.sum(axis=1),
        both[1] - untied.sum(axis=1)[:, None] + gone_untied.sum(axis=1),
    )
    variance = run_jackknife(np.moveaxis(left_out, 1, -1), np.moveaxis(known & ~np.isnan(n)[:, None], 1, -1))
    return divided(*both), np.sum(np.where(np.isnan(n), 0.0, variance), axis=0)


def _off_diagonal(array: Floats) -> Floats:
    """Without a model beside itself, and 0 where there are not two runs of both."""
    array = np.nan_to_num(array, nan=0.0)
    array[np.arange(len(array)), np.arange(len(array))] = 0.0
    return array


def crossed_ranks(values: Floats, winner: Floats) -> RankCounts:
    """One draw for each seed that all models of the cell have."""
    known = ~np.isnan(values)
    there = some(known, axis=1)  # model, cell
    used = np.asarray((known | ~there[:, None]).all(axis=0) & there.any(axis=0))  # run, cell
    n_draws = used.sum(axis=0).astype(np.float64)
    several = there.sum(axis=0) >= 2
    shown = np.where(known & used, values, -np.inf)
    best = np.asarray((shown == shown.max(axis=0)) & used)
    share = divided(best, best.sum(axis=0))
    win = np.where(there, divided(np.nansum(share, axis=1), n_draws), np.nan)
    flips = np.full(n_draws.shape, np.nan)
    usable = several & ~np.isnan(winner) & (n_draws > 0)
    flips[usable] = 1 - win[winner[usable].astype(np.intp), np.flatnonzero(usable)]
    tau, tau_variance = _crossed_tau(values, used)
    variance = flips * (1 - flips) / np.maximum(n_draws - 1, 1)
    return RankCounts(win, flips, variance, tau, tau_variance, n_draws, there.sum(axis=0).astype(np.float64))


def _crossed_tau(values: Floats, used: Bools) -> tuple[Floats, Floats]:
    """Mean of Kendall's tau-b over all pairs of seeds, and its jackknife variance."""
    first, second = np.triu_indices(len(values), 1)
    sign = np.sign(values[first] - values[second])  # pair of models, run, cell
    sign = np.moveaxis(np.where(used & ~np.isnan(sign), sign, 0.0), -1, 0)
    squares = np.sum(sign**2, axis=1)
    tau = divided(np.swapaxes(sign, 1, 2) @ sign, np.sqrt(squares[:, :, None] * squares[:, None]))
    known = ~np.isnan(tau) & ~np.eye(tau.shape[1], dtype=bool)
    each, count = np.sum(tau, axis=2, where=known), known.sum(axis=2).astype(np.float64)
    mean, left_out = means(each, count, 2)
    return mean, run_jackknife(left_out, count > 0)


def share_interval(share: Floats, variance: Floats, least: Floats, most: Floats, level: float) -> tuple[Floats, Floats]:
    """Interval of a share that behaves like one of as many draws as its variance says (Korn and Graubard).

    The exact (Clopper and Pearson) interval of a share of ``share (1 - share) / variance``
    draws, at least ``least``, which is how many share no run, and at most ``most``.
    """
    from scipy.special import betaincinv

    draws = np.clip(np.nan_to_num(divided(share * (1 - share), variance), nan=0.0), least, np.maximum(most, least))
    known = ~np.isnan(share) & (least >= 1)
    p, n = np.where(known, np.clip(share, 0.0, 1.0), 0.5), np.where(known, draws, 1.0)
    hits, tail = p * n, (1 - level) / 2
    lower = np.where(hits > 0, betaincinv(np.maximum(hits, 1e-9), n - hits + 1, tail), 0.0)
    upper = np.where(n - hits > 0, betaincinv(hits + 1, np.maximum(n - hits, 1e-9), 1 - tail), 1.0)
    return np.where(known, lower, np.nan), np.where(known, upper, np.nan)
