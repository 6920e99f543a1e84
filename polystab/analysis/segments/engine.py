"""How many changes: by a calibrated likelihood, by a criterion with a name, or by a penalty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from polystab.analysis.arrays import Floats, Ints
from polystab.analysis.segments.details import knot_paths
from polystab.analysis.segments.null import TRUE_RHOS, Null, simulated, tabulated
from polystab.analysis.segments.profile import (
    MIN_SIZES,
    RHOS,
    Model,
    autocorrelation,
    batches,
    best_paths,
    strength,
)
from polystab.analysis.segments.search import best_for_penalty

# Numbers of changes tried before it is known whether there are any; more only where they are used up.
FIRST_CHANGES = 6

# Numbers of changes for which the path is shown where it did not decide.
SHOWN_CHANGES = 10

WHITE = np.zeros(1)


@dataclass
class Cut:
    """A segmentation of one series in its group's own points and units.

    Attributes
    ----------
    changes : numpy.ndarray
        First index of every segment but the first.
    penalty : float
        What each change cost.
    path : numpy.ndarray
        Cost with 0, 1, ... changes.
    segments : list of numpy.ndarray
        The best changes of each number.
    rho : float
        Autocorrelation fitted along with the changes.
    strength : float
        The largest penalty at which there would be a change; NaN where it was not looked for.
    """

    changes: Ints
    penalty: float
    path: Floats
    segments: list[Ints]
    rho: float = 0.0
    strength: float = np.nan


# (deviances or costs of 0 to K changes, coefficients, the changes of each number) of every series of a batch
Path = tuple[Floats, Floats, list[Ints]]


def by_likelihood(model: Model, y: Floats, penalty: Floats, most: int) -> list[Cut]:
    """The likeliest segmentations, autocorrelation included, at a penalty for each series."""
    cuts = _grown(y, penalty, most, lambda part, k: _paths(model, part, k, RHOS))
    for cut in cuts:
        cut.strength = float(strength(cut.path[None])[0])
    return cuts


def by_name(model: Model, y: Floats, name: str, most: int) -> list[Cut]:
    """Segmentations by a criterion, the noise taken for white."""
    n, n_columns = y.shape[1:]
    # What a change adds: its place, and for every column a mean, and a variance or slope.
    parameters = 1 + n_columns * {"l2": 1, "meanvar": 2, "linear": 2, "continuous": 1}[model.kind]
    each = {"aic": 2.0 * parameters, "bic": parameters * np.log(n), "mbic": 3 * np.log(n)}[name]

    def paths(part: Floats, k: int) -> Iterator[Path]:
        for path, rho, segments in _paths(model, part, k, WHITE):
            if name == "mbic":
                shares = [float(np.sum(np.log(np.diff(np.concatenate([[0], s, [n]])) / n))) for s in segments]
                path = path + np.pad(shares, (0, k + 1 - len(shares)))
            yield path, rho, segments

    return _grown(y, np.full(len(y), each), most, paths)


def by_penalty(model: Model, y: Floats, penalty: float, most: int, *, limited: bool) -> Cut:
    """The segmentation of one series, (n, columns), that minimises cost + ``penalty`` x changes."""
    shown = min(most, SHOWN_CHANGES)
    if limited or model.kind == "continuous":
        return _grown(y[None], np.array([penalty]), most, lambda part, k: _paths(model, part, k, WHITE, plain=True))[0]
    path, _, segments = next(iter(_paths(model, y[None], shown, WHITE, plain=True)))
    changes = best_for_penalty(model.costs(y[None], WHITE), penalty, model.min_size)
    return Cut(changes, penalty, path, segments)


def null_of(model: Model, y: Floats, *, seed: int, rho: float | None, exact: bool) -> Null:
    """What strengths series without changes have that are like these, (series, n, columns)."""
    n, n_columns = y.shape[1:]
    table = tabulated(model.kind, n)
    if n_columns == 1 and rho is None and (model.min_size == MIN_SIZES[model.kind] or not exact):
        return table
    if n_columns == 1:
        return simulated(model, seed=seed, rho=rho)
    if rho is None:
        rho = float(np.interp(autocorrelation(model, y)[0], table.knots, TRUE_RHOS))
    return simulated(model, seed=seed, rho=rho, mixing=_mixing(y[0]))


def _grown(y: Floats, penalty: Floats, most: int, paths: Callable[[Floats, int], Iterator[Path]]) -> list[Cut]:
    """Segmentations at a penalty; the path is made longer for series that use it up."""
    cuts: dict[int, Cut] = {}
    left = np.arange(len(y))
    k = min(most, FIRST_CHANGES)
    while len(left):
        for part in batches(len(left), y.shape[1], k):
            for i, (path, rho, segments) in zip(left[part].tolist(), paths(y[left[part]], k), strict=True):
                best = int(np.argmin(path + penalty[i] * np.arange(len(path))))
                cuts[i] = Cut(segments[best], float(penalty[i]), path, segments, float(rho[best]))
        left = np.array([i for i in left.tolist() if len(cuts[i].changes) >= k - 1 and k < most], dtype=np.int64)
        k = min(most, 2 * k)
    return [cuts[i] for i in range(len(y))]


def _paths(model: Model, y: Floats, n_changes: int, rhos: Floats, *, plain: bool = False) -> Iterator[Path]:
    """The path of every series; ``plain`` costs are those of white noise, not deviances."""
    if model.kind == "continuous":
        for series in y:
            deviance, cost, rho, knots = knot_paths(model, series[:, 0], n_changes, rhos)
            yield cost if plain else deviance, rho, knots
        return
    found = best_paths(model, y, n_changes, rhos)
    for i in range(len(y)):
        path = found.cost[i] if plain else found.deviance[i]
        yield path, rhos[found.rho[i]], [found.changes(i, k) for k in range(n_changes + 1) if path[k] < np.inf]


def _mixing(y: Floats) -> Floats:
    """A root of the correlation matrix of the columns' noise.

    From differences, large ones cut off, so that a change does not count as correlation.
    """
    steps = np.diff(y, axis=0)
    limit = 3 * np.median(np.abs(steps), axis=0) / 0.6745
    steps = np.clip(steps, -limit, limit)
    spread = np.sqrt(np.mean(steps**2, axis=0))
    steps = steps / np.where(spread > 0, spread, 1.0)
    values, vectors = np.linalg.eigh(steps.T @ steps / len(steps) + np.diag(np.where(spread > 0, 0.0, 1.0)))
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
