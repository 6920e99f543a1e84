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
from typing import NamedTuple

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints
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


def equal_pairs(table: Floats) -> tuple[Ints, Ints, Ints]:
    """First row, second row (later) and column of every two equal numbers in a column; NaN equals nothing."""
    order = np.argsort(table, axis=0, kind="stable")
    ordered = np.take_along_axis(table, order, axis=0)
    found: list[tuple[Ints, Ints, Ints]] = []
    for lag in range(1, len(table)):
        at, column = np.nonzero(ordered[lag:] == ordered[:-lag])
        if not len(at):
            break
        found.append((order[at, column], order[at + lag, column], column))
    if not found:
        none = np.zeros(0, dtype=np.int64)
        return none, none, none
    first, second, columns = (np.concatenate(part) for part in zip(*found, strict=True))
    return first, second, columns


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
        if weight < enough or len(np.unique(values[b][known])) < MIN_DISTINCT:
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
    agreeing = _agreeing_steps(values)
    weights, candidates = _metric_weights(values, model_of, _copies(values, agreeing))
    enough = np.log(n_run * (n_run - 1) / 2 * n_step / CHANCE)
    whole = list(_whole_checkpoints(values, agreeing, weights, enough))
    parts = list(_single_metrics(values, weights, enough + np.log(n_metric), candidates, whole))
    return whole + parts, weights


def _metric_weights(values: Floats, model_of: Ints, copies: Ints) -> tuple[Floats, dict[int, Ints]]:
    """Weight of an equal cell of each metric, and per metric the pairs that agree often enough to look at."""
    n_run, _, n_metric = values.shape
    # Agreements by chance and comparisons per metric, of runs of one model and of all runs.
    agreed, compared = np.zeros((2, n_metric)), np.zeros((2, n_metric))
    persistence = np.zeros(n_metric)
    candidates: dict[int, Ints] = {}
    everyone = np.zeros_like(model_of)
    for k in range(n_metric):
        column = values[:, :, k]
        known = ~np.isnan(column)
        first, second, _ = equal_pairs(column)
        pairs, equal = np.unique(first * n_run + second, return_counts=True)
        a, b = np.divmod(pairs, n_run)
        often = np.flatnonzero(equal >= 2)
        common = equal.copy()
        for start in range(0, len(often), 4096):
            some = often[start : start + 4096]
            common[some] = (known[a[some]] & known[b[some]]).sum(axis=1)
        # Runs that agree most of the time are the copies looked for, not chance.
        chance = ((2 * equal <= common) | (equal == 1)) & ~np.isin(pairs, copies)
        related = model_of[a] == model_of[b]
        for row, (group, mine) in enumerate(((model_of, related), (everyone, np.ones_like(related)))):
            agreed[row, k] = equal[mine & chance].sum()
            compared[row, k] = max(_pair_cells(known, group) - common[mine & ~chance].sum(), 0)
        candidates[k] = pairs[equal >= MIN_DISTINCT]
        if len(candidates[k]):
            persistence[k] = _persistence(column)
    # A metric with few comparisons is taken to be like the others.
    pooled = (agreed.sum(axis=1, keepdims=True) + 0.5) / (compared.sum(axis=1, keepdims=True) + 1)
    rates = np.where(compared > 0, (agreed + pooled) / (compared + 1), pooled[1])
    return np.asarray(-np.log(np.minimum(np.maximum(rates.max(axis=0), persistence), 1.0))), candidates


# Agreements from which it is told how often the next value agrees too, and runs that are compared for it.
MIN_AGREEMENTS, COMPARED_RUNS = 20, 16


def _persistence(column: Floats) -> float:
    """How often two runs that agree, one of them a step late, agree at the next step too.

    A late comparison, because copies agree in step and would make themselves unremarkable.
    """
    column = column[:: max(1, len(column) // COMPARED_RUNS)]
    n_run, n_step = column.shape
    a, b, c = equal_pairs(np.concatenate([column[:, 1:], column[:, :-1]]))
    late = (a < n_run) & (b >= n_run) & (b - n_run != a) & (c < n_step - 2)
    place = ((a * n_run + b - n_run) * n_step + c)[(a < n_run) & (b >= n_run) & (b - n_run != a)]
    if late.sum() < MIN_AGREEMENTS:
        return 0.0
    begun = ((a * n_run + b - n_run) * n_step + c)[late]
    return float(np.isin(begun + 1, place).mean())


def _pair_cells(known: Bools, group: Ints) -> float:
    """How many (pair of runs of one group, step) are measured in both."""
    total = 0.0
    for name in np.unique(group):
        n = known[group == name].sum(axis=0)
        total += float((n * (n - 1) / 2).sum())
    return total


def _agreeing_steps(values: Floats) -> dict[int, list[int]]:
    """Per pair of runs (first x runs + second) the steps at which all they both have is equal."""
    n_run, n_step, _ = values.shape
    known = ~np.isnan(values)
    same: dict[int, list[int]] = defaultdict(list)
    for t in range(n_step):
        a, b, _ = equal_pairs(values[:, t])
        pairs, equal = np.unique(a * n_run + b, return_counts=True)
        for start in range(0, len(pairs), 4096):
            first, second = np.divmod(pairs[start : start + 4096], n_run)
            common = (known[first, t] & known[second, t]).sum(axis=1)
            for pair in pairs[start : start + 4096][equal[start : start + 4096] == common].tolist():
                same[pair].append(t)
    return same


def _copies(values: Floats, agreeing: dict[int, list[int]]) -> Ints:
    """Pairs of runs that agree wherever they meet, in enough values to be no coincidence."""
    found = []
    for pair, steps in agreeing.items():
        a, b = divmod(pair, len(values))
        both = ~np.isnan(values[a]) & ~np.isnan(values[b])
        if both.any(axis=1).sum() == len(steps) and len(np.unique(values[a][both])) >= MIN_DISTINCT:
            found.append(pair)
    return np.array(found, dtype=np.int64)


def _whole_checkpoints(
    values: Floats, agreeing: dict[int, list[int]], weights: Floats, enough: float
) -> Iterator[Stretch]:
    """Stretches over which all metrics that both runs have agree."""
    n_run = len(values)
    known = ~np.isnan(values)
    kept: dict[int, list[tuple[int, set[int]]]] = defaultdict(list)
    for pair in sorted(agreeing):
        a_run, b_run = divmod(pair, n_run)
        both = known[a_run] & known[b_run]
        if (both[agreeing[pair]] * weights).sum() < enough:
            continue
        common_steps = np.flatnonzero(both.any(axis=1))
        for steps in _runs_of(common_steps, agreeing[pair]):
            cells = values[a_run][steps][both[steps]]
            if (both[steps] * weights).sum() < enough or len(np.unique(cells)) < MIN_DISTINCT:
                continue
            if any(set(steps) <= other for _, other in kept[b_run]):
                continue  # the run is said to repeat an earlier one there already
            kept[b_run].append((a_run, set(steps)))
            yield Stretch(a_run, b_run, tuple(steps), None, steps[0] == common_steps[0], steps[-1] == common_steps[-1])


def _runs_of(grid: Ints, wanted: list[int]) -> list[list[int]]:
    """The wanted members of a grid as stretches without a gap in the grid."""
    place = np.searchsorted(grid, wanted)
    cuts = np.flatnonzero(np.diff(place) != 1) + 1
    return [part.tolist() for part in np.split(np.asarray(wanted), cuts)]


def _single_metrics(
    values: Floats, weights: Floats, enough: float, candidates: dict[int, Ints], whole: list[Stretch]
) -> Iterator[Stretch]:
    """Stretches of some metrics only, metrics with the same stretch together."""
    n_run, n_step, n_metric = values.shape
    explained: Bools = np.zeros((n_run, n_step), dtype=bool)
    for stretch in whole:
        explained[stretch.b, list(stretch.steps)] = True
    grouped: dict[tuple[int, int, tuple[int, ...], bool, bool], list[int]] = defaultdict(list)
    for k in range(n_metric):
        needed = max(MIN_DISTINCT, int(np.ceil(enough / max(weights[k], 1e-9))))
        if needed > n_step or not len(candidates[k]):
            continue
        column = values[:, :, k]
        kept: dict[int, list[set[int]]] = defaultdict(list)
        for start in range(0, len(candidates[k]), 4096):
            pairs = candidates[k][start : start + 4096]
            a, b = np.divmod(pairs, n_run)
            common = ~np.isnan(column[a]) & ~np.isnan(column[b])
            equal = column[a] == column[b]
            fresh = (equal & ~explained[b]).any(axis=1)
            long = fresh & (_longest(equal, common) >= needed)
            for i in np.flatnonzero(long).tolist():
                grid = np.flatnonzero(common[i])
                for steps in _runs_of(grid, np.flatnonzero(equal[i]).tolist()):
                    numbers = column[a[i], steps]
                    if len(steps) < needed or len(np.unique(numbers)) < MIN_DISTINCT:
                        continue
                    if explained[b[i], steps].all() or any(set(steps) <= other for other in kept[int(b[i])]):
                        continue
                    kept[int(b[i])].append(set(steps))
                    key = (int(a[i]), int(b[i]), tuple(steps), steps[0] == grid[0], steps[-1] == grid[-1])
                    grouped[key].append(k)
    for (a_run, b_run, steps_, starts, ends), metrics in grouped.items():
        yield Stretch(a_run, b_run, steps_, tuple(metrics), starts, ends)


def _longest(equal: Bools, common: Bools) -> Ints:
    """Longest run of equal cells in each row, cells that are not common passed over."""
    rows, columns = equal.shape
    block = np.cumsum(common & ~equal, axis=1) + np.arange(rows)[:, None] * (columns + 1)
    counts = np.bincount(block[equal], minlength=rows * (columns + 1))
    return np.asarray(counts.reshape(rows, columns + 1).max(axis=1))


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
