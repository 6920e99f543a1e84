"""What is said of each change of a segmentation: how sure it is, where it may lie, how large it is."""

from __future__ import annotations

import numpy as np

from polystab.analysis.arrays import Floats, Ints
from polystab.analysis.segments.continuous import best_gains, best_knots, knots_cost
from polystab.analysis.segments.null import Null
from polystab.analysis.segments.profile import RHOS, Model

# 95 % quantile of twice the log-likelihood ratio of a change's place: P(X <= x) = (1 - exp(-x / 2))^2.
PLACE_LIMIT = -2 * np.log(1 - np.sqrt(0.95))


class Fits:
    """Deviances of given segmentations of one series of shape (n, columns), each at its likeliest coefficient."""

    def __init__(self, model: Model, y: Floats) -> None:
        self.model, self.y = model, y
        self.n, self.n_columns = y.shape
        if model.kind != "continuous":
            self.costs = model.costs(np.repeat(y[None], len(RHOS), axis=0), RHOS)

    def deviances(self, changes: Ints) -> Floats:
        """Of some segmentations with the same number of changes, (segmentations, changes)."""
        k = changes.shape[1]
        if self.model.kind == "continuous":
            y, x = self.y[:, 0], self.model.x
            cost = np.array([[knots_cost(y, x, rho, row)[0] for row in changes] for rho in RHOS])
        else:
            edges = np.pad(changes, ((0, 0), (1, 1)), constant_values=((0, 0), (0, self.n)))
            flat = self.costs.between(edges[:, :-1].ravel(), edges[:, 1:].ravel())
            cost = flat.reshape(len(RHOS), len(changes), k + 1).sum(axis=-1)
        return np.asarray(self.model.deviance(cost, k, RHOS[:, None], self.n_columns).min(axis=0))


def p_values(fits: Fits, changes: Ints, null: Null, autocorrelation: float) -> Floats:
    """How often a series without changes has one as strong as each, anywhere.

    The strength of a change is how much likelier the segmentation is with it than without it.
    """
    if not len(changes):
        return np.empty(0)
    whole = fits.deviances(changes[None])[0]
    without = np.stack([np.delete(changes, i) for i in range(len(changes))])
    return null.p_value(np.maximum(fits.deviances(without) - whole, 0.0), autocorrelation)


def intervals(fits: Fits, changes: Ints, min_size: int) -> Ints:
    """First and last place of each change that are about as likely, the others held, (changes, 2)."""
    result = np.empty((len(changes), 2), dtype=np.int64)
    edges = np.concatenate([[0], changes, [fits.n]])
    for i, at in enumerate(changes):
        # min_size can forbid the place that was found only if the caller's own changes stand closer.
        places = np.arange(min(edges[i] + min_size, at), max(edges[i + 2] - min_size, at) + 1)
        moved = np.repeat(changes[None], len(places), axis=0)
        moved[:, i] = places
        deviance = fits.deviances(moved)
        likely = places[deviance - deviance.min() <= PLACE_LIMIT]
        result[i] = min(likely[0], at), max(likely[-1], at)
    return result


def fitted(model: Model, y: Floats, changes: Ints) -> tuple[Floats, Floats]:
    """Values of the segments' means or lines, (n, columns), and the size of each change, (changes, columns).

    Ordinary least squares. The size is the step at the change; for a curve that does
    not jump it is the change of its slope.
    """
    n, n_columns = y.shape
    if model.kind == "continuous" and n > 1:
        values = knots_cost(y[:, 0], model.x, 0.0, changes)[1]
        ends = np.concatenate([[0], changes, [n - 1]])
        slopes = np.diff(values[ends]) / np.diff(model.x[ends])
        return values[:, None], np.diff(slopes)[:, None]
    result = np.empty((n, n_columns))
    sizes = np.empty((len(changes), n_columns))
    edges = np.concatenate([[0], changes, [n]])
    before = None
    for i in range(len(edges) - 1 if n else 0):
        part = slice(edges[i], edges[i + 1])
        x = model.x - model.x[edges[i]]
        x = x / max(float(np.abs(x[part]).max()), np.finfo(np.float64).tiny)
        basis = np.ones((n, 1)) if model.kind != "linear" else np.stack([np.ones(n), x], axis=1)
        weights = np.linalg.lstsq(basis[part], y[part], rcond=None)[0]
        result[part] = basis[part] @ weights
        if before is not None:
            sizes[i - 1] = result[edges[i]] - before[0][edges[i]] @ before[1]
        before = basis, weights
    return result, sizes


def knot_paths(
    model: Model, y: Floats, n_changes: int, rhos: Floats = RHOS
) -> tuple[Floats, Floats, Floats, list[Ints]]:
    """Deviances, costs, coefficients and knots of the best curves of one series, (n,), that do not jump.

    More knots leave less correlation in the noise: coefficients more than one above the
    likeliest with two knots, which is quick to find, are tried with fewer knots only.
    """
    few = np.stack([best_gains(y[None], model.x, float(rho), model.min_size)[0] for rho in rhos])
    likeliest = model.deviance(few, np.arange(3), rhos[:, None], 1).argmin(axis=0)
    cost = np.full((len(rhos), n_changes + 1), np.inf)
    knots: list[list[Ints]] = [[] for _ in rhos]
    for i, rho in enumerate(rhos.tolist()):
        most = n_changes if i <= likeliest[2] + 1 else min(n_changes, 1)
        cost[i, : most + 1], knots[i] = best_knots(y, model.x, rho, most, model.min_size)
    deviance = model.deviance(cost, np.arange(n_changes + 1), rhos[:, None], 1)
    chosen = deviance.argmin(axis=0)
    k = np.arange(n_changes + 1)
    fitting = k[np.isfinite(cost[chosen, k])]
    return deviance[chosen, k], cost[chosen, k], rhos[chosen], [knots[chosen[j]][j] for j in fitting]
