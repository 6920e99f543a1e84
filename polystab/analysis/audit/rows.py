"""The runs of a cube, some metrics at a time, and what several looks at them need.

An audit compares all runs with all. What it has to know of all metrics together is gathered in one pass over the
parts, what follows from that in the next, so that no more than a part is ever in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, finite
from polystab.analysis.audit.equality import Codes, codes
from polystab.analysis.audit.runs import MIN_DISTINCT, hashed
from polystab.cube import parts
from polystab.cube.parts import value_parts
from polystab.cube.specs import DIMS

# Parts of something are hashed one by one; any odd number will do.
ODD = np.uint64(0x9E3779B97F4A7C15)

# Weights are multiples of this, so that their sums do not depend on the order of the metrics.
GRAIN = 2.0**-20

# Where fewer than one in so many pairs of rows may still be alike, these are looked at one by one.
FEW = 16

# Cells that are compared at once.
_BLOCK = 2**22


@dataclass(eq=False)
class Rows:
    """Finite values of runs, (run, step, metric), of the metrics that are measured at all.

    Attributes
    ----------
    n_run, n_step, n_metric : int
        Metrics that are not measured count.
    cube : xarray.Dataset or None
        Where the values are read.
    chosen : array of int
        The runs, as positions of (model, seed) in C order.
    used : (metric,) array of bool
        Metrics with a finite value.
    kept : list
        The parts, if one holds everything.
    """

    n_run: int
    n_step: int
    n_metric: int
    cube: xr.Dataset | None
    chosen: Ints
    used: Bools
    kept: list[tuple[Ints, Floats]] = field(default_factory=list)

    @classmethod
    def of(cls, values: Floats) -> Rows:
        """Those of an array (run, step, metric) or (model, seed, step, metric) in memory, but for runs without values."""
        flat, every = values.reshape(-1, *values.shape[-2:]), np.arange(values.shape[-1])
        there = np.flatnonzero(~np.isnan(flat).all(axis=(1, 2)))
        n_step, n_metric = flat.shape[1:]
        return cls(len(there), n_step, n_metric, None, there, every >= 0, [(every, flat[there])])

    @classmethod
    def of_cube(cls, cube: xr.Dataset, there: Ints, used: Bools) -> Rows:
        """Those of a cube: of the runs ``there``."""
        return cls(len(there), cube.sizes["step"], cube.sizes["metric"], cube, there, used)

    def take(self, some: Ints) -> Rows:
        """Some of the runs."""
        kept = [(metrics, values[some]) for metrics, values in self.kept]
        return Rows(len(some), self.n_step, self.n_metric, self.cube, self.chosen[some], self.used, kept)

    def __iter__(self) -> Iterator[tuple[Ints, Floats]]:
        """Parts (run, step, metric), each with the positions of its metrics."""
        if self.kept:
            yield from self.kept
            return
        n = 0
        for part in self._batches():
            n += 1
            yield part
        if n == 1:
            self.kept = [part]

    def _batches(self) -> Iterator[tuple[Ints, Floats]]:
        """Measured metrics, as many as a part holds."""
        if self.cube is None:
            return
        waiting: list[tuple[Ints, Floats]] = []
        room = parts.PART_BYTES
        for place, values in value_parts(self.cube, wanted=self.used):
            own = np.flatnonzero(self.used[place])
            block = finite(values[..., own]).reshape(-1, self.n_step, len(own))[self.chosen]
            if waiting and block.nbytes > room:
                yield _joined(waiting)
                waiting, room = [], parts.PART_BYTES
            waiting.append((own + place.start, block))
            room -= block.nbytes
        if waiting:
            yield _joined(waiting)


def _joined(several: list[tuple[Ints, Floats]]) -> tuple[Ints, Floats]:
    if len(several) == 1:
        return several[0]
    return np.concatenate([metrics for metrics, _ in several]), np.concatenate([block for _, block in several], axis=2)


@dataclass(eq=False)
class Seen:
    """What is measured in a cube, told in one pass.

    Attributes
    ----------
    any, finite : (model, seed, step) array of bool
        Where there is any value, and any finite one.
    measured, numbered : (metric,) array of bool
        Metrics that have any, and a finite one.
    """

    any: Bools
    finite: Bools
    measured: Bools
    numbered: Bools

    @classmethod
    def of(cls, cube: xr.Dataset) -> Seen:
        shape = tuple(cube.sizes[dim] for dim in DIMS)
        found = cls(*(np.zeros(size, dtype=bool) for size in (shape[:3], shape[:3], shape[3], shape[3])))
        for place, values in value_parts(cube):
            measured = ~np.isnan(values)
            if measured.any():
                number = np.isfinite(values)
                found.any |= measured.any(axis=3)
                found.finite |= number.any(axis=3)
                found.measured[place] = measured.any(axis=(0, 1, 2))
                found.numbered[place] = number.any(axis=(0, 1, 2))
        return found


class Different:
    """Numbers seen so far, until there are enough different ones to be no coincidence."""

    def __init__(self) -> None:
        self.numbers = np.empty(0)

    def add(self, numbers: Floats) -> None:
        """Numbers without NaN."""
        if not self.enough:
            # A few tell it mostly, and sorting a whole run takes long.
            for some in (numbers[:64], numbers):
                self.numbers = np.union1d(self.numbers, some)
                if self.enough:
                    self.numbers = self.numbers[:MIN_DISTINCT]
                    return

    @property
    def enough(self) -> bool:
        return len(self.numbers) >= MIN_DISTINCT


def first_equal(rows: Rows) -> Ints:
    """For each run the first one that is equal to it in every cell."""
    keys = np.zeros(rows.n_run, dtype=np.uint64)
    for _, values in rows:
        keys = keys * ODD + hashed(values.reshape(rows.n_run, -1))
    first = np.array([int(np.argmax(keys == key)) for key in keys], dtype=np.int64)
    pairs = [(run, other) for run, other in enumerate(first.tolist()) if run != other]
    for _, values in rows if pairs else ():
        for run, other in pairs:
            if not np.array_equal(values[run], values[other], equal_nan=True):
                first[run] = run  # a hash may collide
    return first


def measured_steps(rows: Rows) -> Bools:
    """(run, step): where a run has any value."""
    found: Bools = np.zeros((rows.n_run, rows.n_step), dtype=bool)
    for _, values in rows:
        found |= (~np.isnan(values)).any(axis=2)
    return found


class Alike:
    """Which rows agree in every cell that both have, and which have any, told metrics after metrics.

    Parameters
    ----------
    places : sequence of array of int
        Rows of each group that are measured, in order: these are compared with each other. One bit is kept for every two.
    """

    def __init__(self, places: Sequence[Ints]) -> None:
        self.places = places
        sizes = [(len(rows), -(-len(rows) // 8)) for rows in places]
        self.agree = [np.full(size, 255, dtype=np.uint8) for size in sizes]
        self.meet = [np.zeros(size, dtype=np.uint8) for size in sizes]

    def add(self, group: int, values: Floats) -> None:
        """More metrics of the rows, (row, metric)."""
        values = values[self.places[group]]
        known = ~np.isnan(values)
        rows = np.flatnonzero(known.any(axis=1))
        if len(rows) < 2:
            return
        known, coded = known[rows], codes(values[rows])
        share = known.astype(np.float32)
        agree, meet = self.tables(group)
        here = np.ix_(rows, rows)
        meet[here] |= share @ share.T > 0
        still = np.triu(agree[here], 1)
        for k in range(values.shape[1]):
            if np.count_nonzero(still) * FEW < still.size:
                _compare(still, coded[:, k:], known[:, k:])
                break
            one, there = coded[:, k], known[:, k]
            still &= (one[:, None] == one) == (there[:, None] & there)
        agree[here] = still
        self.agree[group], self.meet[group] = np.packbits(agree, axis=1), np.packbits(meet, axis=1)

    def tables(self, group: int) -> tuple[Bools, Bools]:
        """(row, row): which agree, and which have something in common."""
        n = len(self.places[group])
        agree, meet = (
            np.unpackbits(packed[group], axis=1, count=n).view(np.bool_) for packed in (self.agree, self.meet)
        )
        return agree, meet

    def pairs(self, group: int) -> Ints:
        """(pair, 2): rows of which the first comes before the second, that agree in all that they both have."""
        agree, meet = self.tables(group)
        return np.asarray(self.places[group][np.argwhere(np.triu(agree & meet, 1))], dtype=np.int64)

    def met(self, one: int, other: int) -> Bools:
        """(group,): where two rows have something in common; to be asked when all metrics are added."""
        start, width, place, bits = self._index
        i, j = place[:, one], place[:, other]
        both = (i >= 0) & (j >= 0)
        found = np.zeros(len(self.places), dtype=np.bool_)
        found[both] = bits[(start + i * width + j // 8)[both]] >> (7 - j % 8)[both] & 1
        return found

    @functools.cached_property
    def _index(self) -> tuple[Ints, Ints, Ints, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
        """Where the bits of a group begin, bytes of a row, place of each row in each group (-1 for none), all the bits."""
        width = np.array([table.shape[1] for table in self.meet], dtype=np.int64)
        start = np.cumsum([0, *(table.size for table in self.meet)])[:-1]
        place = np.full(
            (len(self.places), 1 + max((int(rows.max(initial=-1)) for rows in self.places), default=-1)), -1
        )
        for group, rows in enumerate(self.places):
            place[group, rows] = np.arange(len(rows))
        return start, width, place, np.concatenate([table.ravel() for table in self.meet])


def _compare(still: Bools, coded: Codes, known: Bools) -> None:
    """Unmark the pairs of rows that differ in a cell that both have; few are marked."""
    one, other = np.nonzero(still)
    size = max(1, _BLOCK // max(1, coded.shape[1]))
    for start in range(0, len(one), size):
        i, j = one[start : start + size], other[start : start + size]
        still[i, j] = ((coded[i] == coded[j]) == (known[i] & known[j])).all(axis=1)
