"""What the scores of all cells of each run come to, added up metrics after metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Bools, Floats, Ints, divided

# A place behind all others.
_NOWHERE = np.iinfo(np.int64).max


class RunTally:
    """Counts and extremes of the scores of every run.

    A place is ``step number x metrics of the cube + metric number``: the smaller of two is earlier, and of one
    step it is the metric that comes first.

    Parameters
    ----------
    shape : sequence of int
        Models, seeds, steps and metrics of the cube.
    threshold : float
        Absolute score beyond which a cell is counted.
    """

    def __init__(self, shape: Sequence[int], threshold: float) -> None:
        n_model, n_seed, n_step, self.n_metric = shape
        self.threshold, self.n_done = threshold, 0
        names = ("n_cells", "n_beyond", "n_nonfinite", "n_sustained", "n_metrics")
        self.counts = {name: np.zeros((n_model, n_seed), dtype=np.int64) for name in names}
        self.largest = np.full((n_model, n_seed), np.nan)
        self.largest_at = np.full((n_model, n_seed), _NOWHERE)
        self.first_at = np.full((n_model, n_seed), _NOWHERE)
        self.beyond_at = np.zeros((n_model, n_seed, n_step), dtype=np.int64)
        self.scored_at = np.zeros((n_model, n_seed, n_step), dtype=np.int64)
        # Scored cells of each model by the number of runs that they compare, and whether there is such a number.
        self.by_size = np.zeros((n_model, n_seed + 1), dtype=np.int64)
        self.has_size = np.zeros(n_seed + 1, dtype=np.bool_)

    def add(self, values: Floats, score: Floats, n: Ints) -> None:
        """Values and scores (model, seed, step, metric) of the next metrics, by ``n`` runs (model, step, metric)."""
        scored, size = ~np.isnan(score), np.abs(score)
        beyond, begins = size > self.threshold, sustained(score, self.threshold)
        self.counts["n_cells"] += scored.sum(axis=(2, 3))
        self.counts["n_beyond"] += beyond.sum(axis=(2, 3))
        self.counts["n_nonfinite"] += np.isinf(values).sum(axis=(2, 3))
        self.counts["n_sustained"] += begins.any(axis=2).sum(axis=2)
        self.counts["n_metrics"] += scored.any(axis=2).sum(axis=2)
        self.beyond_at += beyond.sum(axis=3)
        self.scored_at += scored.sum(axis=3)
        self._add_sizes(scored.sum(axis=1), n)
        self._add_largest(score, np.where(scored, size, -1.0))
        self._add_first(begins)
        self.n_done += score.shape[3]

    def _add_sizes(self, scored: Ints, n: Ints) -> None:
        if len(self.has_size) <= n.max(initial=0):  # a reference may have more runs than the cube
            more = int(n.max()) + 1 - len(self.has_size)
            self.has_size = np.pad(self.has_size, (0, more))
            self.by_size = np.pad(self.by_size, ((0, 0), (0, more)))
        for m in range(len(n)):
            seen = np.bincount(n[m].ravel(), minlength=len(self.has_size)) > 0
            self.has_size |= seen
            for k in np.flatnonzero(seen).tolist():
                self.by_size[m, k] += np.sum(scored[m], where=n[m] == k)

    def _add_largest(self, score: Floats, size: Floats) -> None:
        flat = (*score.shape[:2], -1)
        top = np.argmax(size.reshape(flat), axis=2)
        found = np.take_along_axis(score.reshape(flat), top[..., None], axis=2)[..., 0]
        place = self._place(top, score.shape[3])
        known = ~np.isnan(found)
        further = np.abs(found) > np.nan_to_num(np.abs(self.largest), nan=-1.0, posinf=np.inf)
        earlier = (np.abs(found) == np.abs(self.largest)) & (place < self.largest_at)
        better = known & (further | earlier)
        self.largest = np.where(better, found, self.largest)
        self.largest_at = np.where(better, place, self.largest_at)

    def _add_first(self, begins: Bools) -> None:
        first = np.argmax(begins.reshape(*begins.shape[:2], -1), axis=2)
        place = np.where(begins.any(axis=(2, 3)), self._place(first, begins.shape[3]), _NOWHERE)
        self.first_at = np.minimum(self.first_at, place)

    def _place(self, flat: npt.NDArray[np.intp], width: int) -> Ints:
        """The place in the cube of a place among ``width`` metrics."""
        return flat // max(width, 1) * self.n_metric + self.n_done + flat % max(width, 1)

    def sizes(self) -> Ints:
        """The numbers of runs that were compared, in order."""
        return np.flatnonzero(self.has_size)

    def expected(self, shares: Floats) -> Floats:
        """Expected share of each model over its scored cells, from that of each of :meth:`sizes`."""
        counts = self.by_size[:, self.has_size]
        return divided(counts @ np.nan_to_num(shares), counts.sum(axis=1))

    def share_beyond_at(self) -> Floats:
        """Share of the metrics scored at a step that are beyond the threshold, (model, seed, step)."""
        return divided(self.beyond_at, self.scored_at)

    def summary(self, steps: npt.NDArray[Any], metrics: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Everything that is said about a run, (model, seed) arrays by name."""
        return {
            "n_cells": self.counts["n_cells"],
            "n_beyond": self.counts["n_beyond"],
            "share_beyond": divided(self.counts["n_beyond"], self.counts["n_cells"]),
            "largest": self.largest,
            **self._named("largest", self.largest_at, steps, metrics),
            **self._named("first", self.first_at, steps, metrics),
            **{name: self.counts[name] for name in ("n_sustained", "n_metrics", "n_nonfinite")},
        }

    def _named(
        self, name: str, place: Ints, steps: npt.NDArray[Any], metrics: npt.NDArray[Any]
    ) -> dict[str, npt.NDArray[Any]]:
        some = place != _NOWHERE
        step, metric = np.divmod(np.where(some, place, 0), max(self.n_metric, 1))
        return {
            f"{name}_step": np.where(some, steps[step], -1),
            f"{name}_metric": np.where(some, metrics[metric], ""),
        }


def sustained(score: Floats, threshold: float) -> Bools:
    """Where a stretch of two or more scored checkpoints beyond the threshold begins.

    Both must lie on the same side; checkpoints that were not scored are passed over.

    Parameters
    ----------
    score : (model, seed, step, metric) array
    threshold : float

    Returns
    -------
    (model, seed, step, metric) array of bool
        True at the first checkpoint of each such pair.
    """
    side = np.where(np.abs(score) > threshold, np.sign(score), 0.0).astype(np.int8)
    scored = ~np.isnan(score)
    n_step = score.shape[2]
    index = np.where(scored, np.arange(n_step, dtype=np.int32)[:, None], np.int32(n_step))
    # The next scored checkpoint after each one; n_step where there is none.
    after = np.flip(np.minimum.accumulate(np.flip(index, axis=2), axis=2), axis=2)[:, :, 1:]
    following = np.take_along_axis(side, np.minimum(after, n_step - 1), axis=2)
    begins = np.zeros(score.shape, dtype=np.bool_)
    begins[:, :, :-1] = (side[:, :, :-1] != 0) & (following == side[:, :, :-1]) & (after < n_step)
    return begins
