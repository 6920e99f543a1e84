"""Trajectories that stand under two names: in whole, up to a step, or over a stretch.

Two values that are equal to the last bit say little where a metric is coarse (an accuracy
over 100 items) and much where it is not. So every equal cell weighs as much as it is
surprising, ``-ln p``, where ``p`` is how often unrelated runs agree on that metric at one
step, or go on agreeing once they do; and a stretch of agreement counts if its weight exceeds what all comparisons in the
cube together would produce by chance once in a million cubes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints
from polystab.analysis.audit.equality import Codes, codes, comparisons, stretches, varied
from polystab.analysis.audit.findings import Finding, Labels, counted, listed_steps
from polystab.analysis.audit.runs import MIN_DISTINCT, hashed

# How often a cube without copies may show one.
CHANCE = 1e-6


class Stretch(NamedTuple):
    """Run ``b`` repeats the earlier run ``a`` at ``steps``, in ``metrics`` (positions; None: all that both have)."""

    a: int
    b: int
    steps: tuple[int, ...]
    metrics: tuple[int, ...] | None
    starts: bool
    ends: bool


def shared_stretches(values: Floats, model_of: Ints) -> list[Stretch]:
    """Every stretch over which one run repeats another.

    Parameters
    ----------
    values : (run, step, metric) array
        Finite, or NaN for not measured.
    model_of : (run,) array of int
        Runs of one model agree by chance more often than others.

    Returns
    -------
    list of Stretch
        Of whole checkpoints, then of single metrics that these do not explain.
    """
    if len(values) < 2:
        return []
    # Runs that are equal in every cell are set aside, so that many copies cost no more than one.
    first = _first_equal(values)
    own = np.flatnonzero(first == np.arange(len(values)))
    stretches, weights = _stretches(values[own], model_of[own])
    found = [s._replace(a=int(own[s.a]), b=int(own[s.b])) for s in stretches]
    enough = np.log(len(values) * (len(values) - 1) / 2 * values.shape[1] / CHANCE)
    for b in np.flatnonzero(first != np.arange(len(values))).tolist():
        known = ~np.isnan(values[b])
        weight = np.broadcast_to(weights, known.shape)[known].sum()
        if weight < enough or not varied(values[b][known]):
            continue
        steps = tuple(np.flatnonzero(known.any(axis=1)).tolist())
        found.append(Stretch(int(first[b]), b, steps, None, True, True))
    return found


def _first_equal(values: Floats) -> Ints:
    """For each run the first one that is equal to it in every cell."""
    first: Ints = np.arange(len(values))
    seen: dict[int, int] = {}
    for number, (key, run) in enumerate(zip(hashed(values.reshape(len(values), -1)).tolist(), values, strict=True)):
        other = seen.setdefault(key, number)
        if np.array_equal(values[other], run, equal_nan=True):
            first[number] = other
    return first


def _stretches(values: Floats, model_of: Ints) -> tuple[list[Stretch], Floats]:
    """The stretches of runs that are not equal throughout, and the weight of a cell of each metric."""
    n_run, n_step, n_metric = values.shape
    if n_run < 2:
        return [], np.full(n_metric, np.inf)
    known, coded = ~np.isnan(values), codes(values)
    agreeing, weights = _agreement(values, known, coded, model_of)
    enough = np.log(n_run * (n_run - 1) / 2 * n_step / CHANCE)
    whole = list(_whole_checkpoints(values, known, agreeing, weights, enough))
    parts = list(_single_metrics(values, known, coded, weights, enough + np.log(n_metric), whole))
    return whole + parts, weights


def _agreement(
    values: Floats, known: Bools, coded: Codes, model_of: Ints
) -> tuple[dict[tuple[int, int], list[int]], Floats]:
    """Per pair of runs the steps at which all they both have is equal, and the weight of an equal cell of each metric."""
    n_metric = values.shape[2]
    agreeing: dict[tuple[int, int], list[int]] = {}
    # Agreements by chance and comparisons per metric, of runs of one model and of all runs.
    agreed, compared = np.zeros((2, n_metric)), np.zeros((2, n_metric))
    often: Bools = np.zeros(n_metric, dtype=bool)
    ended, going_on = np.zeros((2, n_metric))
    for a, others, equal, common in comparisons(coded, known):
        same = (equal == common).all(axis=2) & common.any(axis=2)
        copies = np.zeros(len(others), dtype=bool)
        n_same = same.sum(axis=1)
        for i in np.flatnonzero(n_same).tolist():
            agreeing[a, int(others[i])] = np.flatnonzero(same[i]).tolist()
            whole = n_same[i] == common[i].any(axis=1).sum()
            copies[i] = whole and varied(values[a][common[i]])
        n_equal, n_common = equal.sum(axis=1), common.sum(axis=1)
        often |= (n_equal >= MIN_DISTINCT).any(axis=0)
        # A copy agrees over one stretch, or two; what pairs with more of them do but for their longest is chance.
        length, n_stretch = stretches(equal, common)
        loose = n_stretch >= LOOSE
        ended += np.sum(n_stretch - 1, axis=0, where=loose)
        going_on += np.sum(n_equal - length - n_stretch + 1, axis=0, where=loose)
        # Runs that agree most of the time are the copies looked for, not chance.
        chance = ((2 * n_equal <= n_common) | (n_equal == 1)) & ~copies[:, None]
        related = model_of[others] == model_of[a]
        for row, mine in enumerate((related[:, None] & chance, chance)):
            agreed[row] += n_equal.sum(axis=0, where=mine)
            compared[row] += n_common.sum(axis=0, where=mine)
    # A metric with few comparisons is taken to be like the others.
    pooled = (agreed.sum(axis=1, keepdims=True) + 0.5) / (compared.sum(axis=1, keepdims=True) + 1)
    rates = np.where(compared > 0, (agreed + pooled) / (compared + 1), pooled[1])
    persistence = np.maximum(_persistence(values), _share(going_on, ended + going_on))
    rates = np.maximum(rates.max(axis=0), np.where(often, persistence, 0.0))
    return agreeing, np.asarray(-np.log(np.minimum(rates, 1.0)))


# Agreements from which it is told how often the next value agrees too, and runs that are compared for it.
MIN_AGREEMENTS, COMPARED_RUNS = 20, 16
# Stretches of a pair of runs that agree now and then.
LOOSE = 4


def _persistence(values: Floats) -> Floats:
    """How often, in each metric, two runs that agree, one of them a step late, agree at the next step too.

    A late comparison, because copies agree in step and would make themselves unremarkable.
    """
    some = values[:: max(1, len(values) // COMPARED_RUNS)]
    begun, going_on = np.zeros((2, values.shape[2]))
    for a, b in permutations(range(len(some)), 2):
        late = some[a, 1:] == some[b, :-1]
        begun += late[:-1].sum(axis=0)
        going_on += (late[1:] & late[:-1]).sum(axis=0)
    return _share(going_on, begun)


def _share(part: Floats, whole: Floats) -> Floats:
    """The share, 0 where it rests on too little."""
    return np.where(whole >= MIN_AGREEMENTS, part / np.maximum(whole, 1), 0.0)


def _whole_checkpoints(
    values: Floats, known: Bools, agreeing: dict[tuple[int, int], list[int]], weights: Floats, enough: float
) -> Iterator[Stretch]:
    """Stretches over which all metrics that both runs have agree."""
    kept: dict[int, list[tuple[int, set[int]]]] = defaultdict(list)
    for (a_run, b_run), agreed in sorted(agreeing.items()):
        both = known[a_run] & known[b_run]
        if both[agreed].sum(axis=0) @ weights < enough:
            continue
        common_steps = np.flatnonzero(both.any(axis=1))
        for steps in _runs_of(common_steps, agreed):
            if any(set(steps) <= other for _, other in kept[b_run]):
                continue  # the run is said to repeat an earlier one there already
            if both[steps].sum(axis=0) @ weights < enough or not varied(values[a_run][steps][both[steps]]):
                continue
            kept[b_run].append((a_run, set(steps)))
            yield Stretch(a_run, b_run, tuple(steps), None, steps[0] == common_steps[0], steps[-1] == common_steps[-1])


def _runs_of(grid: Ints, wanted: list[int]) -> list[list[int]]:
    """The wanted members of a grid as stretches without a gap in the grid."""
    place = np.searchsorted(grid, wanted)
    cuts = np.flatnonzero(np.diff(place) != 1) + 1
    return [part.tolist() for part in np.split(np.asarray(wanted), cuts)]


def _single_metrics(
    values: Floats, known: Bools, coded: Codes, weights: Floats, enough: float, whole: list[Stretch]
) -> Iterator[Stretch]:
    """Stretches of some metrics only, metrics with the same stretch together."""
    needed = np.maximum(MIN_DISTINCT, np.ceil(enough / np.maximum(weights, 1e-9)))
    able = np.flatnonzero(needed <= values.shape[1])
    if not len(able):
        return
    values, known, needed = values[:, :, able], known[:, :, able], needed[able]
    # What a run is said to repeat already is not said again.
    said: Bools = np.zeros(values.shape, dtype=bool)
    for stretch in whole:
        said[stretch.b, list(stretch.steps)] = True
    grouped: dict[tuple[int, int, tuple[int, ...], bool, bool], list[int]] = defaultdict(list)
    for a, others, equal, common in comparisons(coded[:, :, able], known):
        long = (stretches(equal, common)[0] >= needed) & (equal & ~said[others]).any(axis=1)
        for i, k in np.argwhere(long).tolist():
            b, grid = int(others[i]), np.flatnonzero(common[i, :, k])
            for steps in _runs_of(grid, np.flatnonzero(equal[i, :, k]).tolist()):
                if len(steps) < needed[k] or said[b, steps, k].all() or not varied(values[a, steps, k]):
                    continue
                said[b, steps, k] = True
                grouped[a, b, tuple(steps), steps[0] == grid[0], steps[-1] == grid[-1]].append(int(able[k]))
    for (a_run, b_run, steps_, starts, ends), metrics in grouped.items():
        yield Stretch(a_run, b_run, steps_, tuple(metrics), starts, ends)


def copy_findings(values: Floats, labels: Labels, weight_seed: Ints | None = None) -> list[Finding]:
    """Findings on runs that repeat others.

    Parameters
    ----------
    values : (model, seed, step, metric) array
        Finite, or NaN.
    labels : Labels
        Of the cube.
    weight_seed : (model, seed) array of int, optional
        Runs with one initialisation may share step 0.
    """
    _, n_seed, n_step, n_metric = values.shape
    there = np.flatnonzero(~np.isnan(values).all(axis=(2, 3)).reshape(-1))
    rows = values.reshape(-1, n_step, n_metric)[there]
    found = []
    for stretch in shared_stretches(rows, there // n_seed):
        a, b = int(there[stretch.a]), int(there[stretch.b])
        starts = None if weight_seed is None else weight_seed.reshape(-1)[[a, b]].tolist()
        found.append(_finding(stretch, rows, a, b, labels, starts))
    return found


def _finding(stretch: Stretch, rows: Floats, a: int, b: int, labels: Labels, starts: list[int] | None) -> Finding:
    metrics = range(rows.shape[2]) if stretch.metrics is None else stretch.metrics
    one, other = rows[stretch.a][:, metrics], rows[stretch.b][:, metrics]
    steps = [labels.steps[t] for t in stretch.steps]
    first = one[list(stretch.steps)]
    only_start = stretch.starts and not stretch.ends and steps[0] == 0 and bool(
        ((first == first[0]) | np.isnan(first)).all()
    )  # fmt: skip
    both = ~np.isnan(one) & ~np.isnan(other)
    severity = ""
    n_cells = int(both[list(stretch.steps)].sum())
    what = "" if stretch.metrics is None else f" in {len(stretch.metrics)} of {rows.shape[2]:,} metrics"
    said = f"{labels.name(b)} has the values of {labels.name(a)} at {listed_steps(steps)}{what}"
    tail = f" ({counted(n_cells, 'cell')}, equal to the last bit)."
    if only_start:
        kind = "same-start"
        if starts is not None and min(starts) >= 0 and starts[0] != starts[1]:
            severity = "warning"
            tail = tail[:-1] + ", though weight_seed says that they start differently."
    elif stretch.starts and stretch.ends:
        kind = "identical-run"
        more = int((~np.isnan(other)).any(axis=1).sum()) - len(steps)
        tail = tail[:-1] + (", wherever both are measured." if more > 0 else ", from first to last.")
    elif stretch.starts:
        kind = "identical-until"
        after = next(t for t in range(stretch.steps[-1] + 1, len(both)) if both[t].any())
        tail = tail[:-1] + f"; they differ from step {labels.steps[after]} on."
    else:
        kind = "identical-stretch"
        tail = tail[:-1] + ", and others before."
    # Where the name is right cannot be told from values; what comes first in the cube stays.
    (model, seed), (other_model, other_seed) = labels.run(b), labels.run(a)
    return Finding(
        kind, said + tail, model, seed, other_model, other_seed,
        steps=stretch.steps, metrics=stretch.metrics, severity=severity,
    )  # fmt: skip
