"""Segmentations with the autocorrelation fitted along with the changes.

A change inflates the autocorrelation of a series and autocorrelation looks like changes,
so that neither can be estimated before the other. Here every number of changes gets its
best segmentation at every coefficient of a grid, and the coefficient that makes it likeliest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Floats, Ints
from polystab.analysis.segments.costs import Costs, level_costs, line_costs
from polystab.analysis.segments.search import best_costs, traced

RHOS = np.array([0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.85, 0.92, 0.97])

# Fewest points of a segment by cost. Two bad checkpoints are no phase; a variance needs more points than a mean.
MIN_SIZES = {"l2": 3, "meanvar": 6, "linear": 4, "continuous": 3}

# Entries of the working array of one batch: about what stays in a core's cache.
BATCH = 2**16


@dataclass(frozen=True)
class Model:
    """What is fitted to a stretch, and between which lengths.

    Attributes
    ----------
    kind : {"l2", "meanvar", "linear", "continuous"}
        The cost.
    x : numpy.ndarray
        Positions of the points.
    min_size : int
        Fewest points of a segment.
    """

    kind: str
    x: Floats
    min_size: int

    def costs(self, y: Floats, rho: Floats) -> Costs:
        """Costs for series of shape (series, n, columns)."""
        if self.kind == "linear":
            return line_costs(y, self.x, rho)
        return level_costs(y, rho, own_variance=self.kind == "meanvar")

    def deviance(self, cost: Floats, n_changes: npt.ArrayLike, rho: npt.ArrayLike, n_columns: int) -> Floats:
        """Minus twice the log-likelihood, up to a constant, with the variance at its likeliest."""
        n = len(self.x) * n_columns
        fitted = cost if self.kind == "meanvar" else n * np.log(cost / n)
        # Every segment begins with a draw from the stationary distribution; a curve that does not jump begins once.
        begins = 1 if self.kind == "continuous" else np.asarray(n_changes) + 1
        return np.asarray(fitted - n_columns * begins * np.log1p(-(np.asarray(rho) ** 2)))


@dataclass(frozen=True)
class Paths:
    """The best segmentations of a batch of series with 0 to K changes.

    Attributes
    ----------
    deviance : numpy.ndarray
        (series, K + 1), at the likeliest coefficient.
    cost : numpy.ndarray
        The cost there, (series, K + 1).
    rho : numpy.ndarray
        Which coefficient of :data:`RHOS` that is, (series, K + 1).
    starts : list of numpy.ndarray
        For every coefficient, what :func:`polystab.analysis.segments.search.traced` takes.
    """

    deviance: Floats
    cost: Floats
    rho: Ints
    starts: list[npt.NDArray[np.int32]]

    def changes(self, series: int, n_changes: int) -> Ints:
        """Where the segments after the first begin."""
        return traced(self.starts[self.rho[series, n_changes]], series, n_changes)


def best_paths(model: Model, y: Floats, n_changes: int, rhos: Floats = RHOS) -> Paths:
    """Best segmentations with 0 to ``n_changes`` changes of series of shape (series, n, columns)."""
    cost = np.empty((len(rhos), len(y), n_changes + 1))
    starts = []
    for i, rho in enumerate(rhos):
        cost[i], found = best_costs(model.costs(y, np.full(len(y), rho)), n_changes, model.min_size)
        starts.append(found)
    deviance = model.deviance(cost, np.arange(n_changes + 1), rhos[:, None, None], y.shape[2])
    chosen = deviance.argmin(axis=0)
    return Paths(
        np.take_along_axis(deviance, chosen[None], axis=0)[0],
        np.take_along_axis(cost, chosen[None], axis=0)[0],
        chosen,
        starts,
    )


def most_changes(kind: str, n: int, min_size: int | None = None) -> int:
    """How many changes are looked for in ``n`` points: segments have two spare points each on average.

    With more, the fit would leave nothing over from which to tell the noise. 0 where
    not even two segments fit.
    """
    size = MIN_SIZES[kind] if min_size is None else min_size
    return max(n // (size + 2) - 1, int(n >= 2 * size + 2))


def batches(n_series: int, n: int, n_changes: int) -> Iterator[slice]:
    """Slices of series that are segmented together."""
    size = max(1, BATCH // (n * max(n_changes, 1)))
    return (slice(i, i + size) for i in range(0, n_series, size))


def strength(deviance: Floats) -> Floats:
    """The largest penalty at which a series still has a change: the gain per change, (series,)."""
    k = np.arange(1, deviance.shape[1])
    with np.errstate(invalid="ignore"):
        return np.asarray(((deviance[:, :1] - deviance[:, 1:]) / k).max(axis=1, initial=0.0))


def autocorrelation(model: Model, y: Floats) -> Floats:
    """Lag-1 autocorrelation of the residuals without changes, over all columns; 0 where there are none.

    It is biased towards zero in short series; :mod:`polystab.analysis.segments.null` allows for that.
    """
    basis = [np.ones(len(model.x))]
    if model.kind in ("linear", "continuous"):
        basis.append(model.x - model.x.mean())
    q = np.linalg.qr(np.stack(basis, axis=1))[0]
    residual = y - np.einsum("np,mp,bmd->bnd", q, q, y, optimize=True)
    square = np.sum(residual**2, axis=1)
    lagged = np.sum(residual[:, 1:] * residual[:, :-1], axis=1)
    return np.asarray(np.mean(np.divide(lagged, square, out=np.zeros_like(square), where=square > 0), axis=1))
