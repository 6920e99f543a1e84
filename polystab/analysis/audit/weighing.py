"""How much it says that two checkpoints agree on a metric: by how often neighbours do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints
from polystab.analysis.audit.rows import GRAIN, Rows
from polystab.analysis.audit.runs import MIN_DISTINCT

# Neighbours up to this many checkpoints away say how coarse a metric is, in each part of training:
# late in training a metric may hardly move.
LAGS = 5
PARTS, PART_STEPS = 8, 10


@dataclass(frozen=True, eq=False)
class Weights:
    """``-ln p`` per (part of training, metric), p the share of neighbouring values of a run that are equal."""

    table: Floats
    part_of: Ints

    def at(self, metrics: Ints) -> Floats:
        """(step, metric)."""
        return np.asarray(self.table[:, metrics][self.part_of])


def checkpoint_weights(rows: Rows) -> Weights:
    """What equal cells weigh, by how often neighbours are equal in all of training, or more so here.

    Pairs of checkpoints that agree in every cell are the copies looked for; they are left out.
    """
    n_step, n_metric = rows.n_step, rows.n_metric
    n_part = min(PARTS, max(n_step // PART_STEPS, 1))
    part_of = np.arange(n_step) * n_part // n_step
    lags = range(1, min(LAGS, n_step - 1) + 1)
    copied = {lag: np.full((rows.n_run, n_step - lag), n_metric >= MIN_DISTINCT) for lag in lags}
    for _, values in rows if n_metric >= MIN_DISTINCT else ():
        for lag, same, both in _neighbours(values, lags):
            copied[lag] &= (same == both).all(axis=2)
    equal, common = np.zeros((2, n_part, n_metric))
    for metrics, values in rows:
        for lag, same, both in _neighbours(values, lags):
            both &= ~copied[lag][..., None]
            for total, cells in ((equal, same & both), (common, both)):
                count = np.zeros((n_part, len(metrics)))
                np.add.at(count, part_of[lag:], cells.sum(axis=0))
                total[:, metrics] += count
    overall = (equal.sum(axis=0) + 0.5) / (common.sum(axis=0) + 1)
    # Of a part only what a few coincidences do not explain.
    here = np.maximum(equal - 2 * np.sqrt(equal), 0) / np.maximum(common, 1)
    return Weights(GRAIN * np.round(-np.log(np.maximum(overall, here)) / GRAIN), part_of)


def _neighbours(values: Floats, lags: range) -> Iterator[tuple[int, Bools, Bools]]:
    """Cells (run, later step, metric) that are equal so many checkpoints apart, and that both are measured."""
    for lag in lags:
        one, other = values[:, lag:], values[:, :-lag]
        both = ~np.isnan(one) & ~np.isnan(other)
        yield lag, both & (one == other), both
