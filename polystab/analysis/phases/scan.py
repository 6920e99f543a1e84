"""Where change points of several runs lie closer together than chance would put them; on plain arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Bools, Floats, Ints

# Cells of the largest array of shifted change points.
_BLOCK = 20_000_000


@dataclass(frozen=True)
class Shared:
    """A stretch of checkpoints in which more runs change than by chance.

    Attributes
    ----------
    first, last : int
        First and last place of the changes that make it, both included.
    n_runs : int
        Runs with a change there.
    expected : float
        Runs with a change in so long a stretch by chance.
    p : float
        Chance that some stretch would stand out as much.
    """

    first: int
    last: int
    n_runs: int
    expected: float
    p: float


def densest(
    places: Sequence[Ints], n_places: int, *, least: int, n_resamples: int, rng: np.random.Generator
) -> Shared | None:
    """The stretch that most runs change in, relative to chance.

    Parameters
    ----------
    places : one array for each run
        Where the run changes, from 0 to ``n_places - 1``; may be empty.
    n_places : int
        Places at which a change is possible.
    least : int
        Runs that a stretch needs to be looked at.
    n_resamples : int
        Random shifts for ``p``.
    rng : numpy.random.Generator

    Returns
    -------
    Shared or None
        None where no stretch has changes of ``least`` runs.

    Notes
    -----
    By chance, every run's changes are moved round by an amount of its own, all amounts
    equally likely; distances between the changes of a run stay. Stretches of up to a
    quarter of the places are tried, in a dozen lengths. For a given length the
    number of runs is a sum of independent draws, whose upper tail is known exactly; the
    stretch with the smallest tail is taken, and its tail is compared with the smallest of
    all stretches in every shifted set. Trying many stretches is thus paid for.
    """
    changed = np.zeros((len(places), 1, n_places), dtype=np.bool_)
    for run, own in enumerate(places):
        changed[run, 0, own] = True
    widths = _widths(n_places)
    chances = np.array([[_chance(own, n_places, width) for own in places] for width in widths])
    tails = np.array([_upper_tail(row) for row in chances])
    counts = [count[0] for count in _counts(changed, widths)]
    best = np.array(
        [tail[count.max()] if count.max() >= least else np.inf for tail, count in zip(tails, counts, strict=True)]
    )
    chosen = int(np.argmin(best))
    if not np.isfinite(best[chosen]):
        return None
    start = int(np.argmax(counts[chosen]))
    inside = np.flatnonzero(changed[:, 0, start : start + widths[chosen]].any(axis=0))
    as_small, drawn = 0, 0
    # Where the first tenth says that nothing stands out, the rest would say so more exactly.
    for more in (n_resamples // 10, n_resamples - n_resamples // 10):
        if as_small <= 0.2 * drawn:
            by_chance = _smallest_tails(places, n_places, widths, tails, least, more, rng)
            # Rounding must not tell equal tails apart.
            as_small += int(np.count_nonzero(by_chance <= best[chosen] * (1 + 1e-9)))
            drawn += more
    return Shared(
        first=start + int(inside[0]),
        last=start + int(inside[-1]),
        n_runs=int(counts[chosen].max()),
        expected=float(chances[chosen].sum()),
        p=(1 + as_small) / (1 + drawn),
    )


def _widths(n_places: int) -> list[int]:
    """Lengths of stretches: all short ones, then each half as long again, up to a quarter of the places."""
    widths, width = [], 1
    while width <= max(n_places // 4, 1):
        widths.append(width)
        width = max(width + 1, width * 3 // 2)
    return widths


def _chance(own: Ints, n_places: int, width: int) -> float:
    """Chance that a run, shifted round at random, changes in a stretch of ``width`` places."""
    if not own.size:
        return 0.0
    gaps = np.diff(np.append(np.sort(own), own.min() + n_places))
    return float(np.minimum(gaps, width).sum()) / n_places


def _upper_tail(chances: Floats) -> Floats:
    """P(at least k of independent events), k = 0 to their number."""
    exactly = np.zeros(len(chances) + 1)
    exactly[0] = 1.0
    for chance in chances:
        exactly[1:] = exactly[1:] * (1 - chance) + exactly[:-1] * chance
        exactly[0] *= 1 - chance
    return np.asarray(np.cumsum(exactly[::-1])[::-1])


def _counts(changed: Bools, widths: Sequence[int]) -> Iterator[npt.NDArray[np.int16]]:
    """Runs with a change in each stretch of every width, widths rising: (run, set, place) to (set, start) each."""
    n_places = changed.shape[2]
    seen = changed.copy()
    for offset in range(widths[-1]):
        seen = seen[:, :, : n_places - offset]
        seen |= changed[:, :, offset:]
        if offset + 1 in widths:
            yield np.asarray(seen.sum(axis=0, dtype=np.int16))


def _smallest_tails(
    places: Sequence[Ints],
    n_places: int,
    widths: list[int],
    tails: Floats,
    least: int,
    n_resamples: int,
    rng: np.random.Generator,
) -> Floats:
    """The smallest tail of all stretches in each of many shifted sets; infinite where none has enough runs."""
    run = np.repeat(np.arange(len(places)), [own.size for own in places])
    place = np.concatenate(places).astype(np.int64)
    found = np.full(n_resamples, np.inf)
    size = max(_BLOCK // (len(places) * n_places), 1)
    for begin in range(0, n_resamples, size):
        shifts = rng.integers(0, n_places, (min(size, n_resamples - begin), len(places)))
        sets = np.arange(len(shifts))[:, None]
        changed = np.zeros((len(places), len(shifts), n_places), dtype=np.bool_)
        changed[run, sets, (place + shifts[:, run]) % n_places] = True
        for tail, count in zip(tails, _counts(changed, widths), strict=True):
            most = count.max(axis=1)
            smallest = np.where(most >= least, tail[most], np.inf)
            found[begin : begin + size] = np.minimum(found[begin : begin + size], smallest)
    return found
