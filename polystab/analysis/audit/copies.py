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
from polystab.analysis.audit.equality import Codes, codes, comparisons, stretches_where, varied
from polystab.analysis.audit.findings import Finding, Labels, counted, listed_steps
from polystab.analysis.audit.rows import GRAIN, Alike, Different, Rows, first_equal, measured_steps
from polystab.analysis.audit.runs import MIN_DISTINCT

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


def shared_stretches(values: Floats | Rows, model_of: Ints) -> list[Stretch]:
    """Every stretch over which one run repeats another.

    Parameters
    ----------
    values : (run, step, metric) array or Rows
        Finite, or NaN for not measured.
    model_of : (run,) array of int
        Runs of one model agree by chance more often than others.

    Returns
    -------
    list of Stretch
        Of whole checkpoints, then of single metrics that these do not explain.
    """
    rows = values if isinstance(values, Rows) else Rows.of(values)
    if rows.n_run < 2:
        return []
    # Runs that are equal in every cell are set aside, so that many copies cost no more than one.
    first = first_equal(rows)
    own = np.flatnonzero(first == np.arange(rows.n_run))
    stretches, weights = _stretches(rows.take(own) if len(own) < rows.n_run else rows, model_of[own])
    found = [s._replace(a=int(own[s.a]), b=int(own[s.b])) for s in stretches]
    return found + _equal_runs(rows, first, weights, _enough(rows))


def _enough(rows: Rows) -> float:
    """Weight that agreement has by chance once in so many cubes."""
    return float(np.log(rows.n_run * (rows.n_run - 1) / 2 * rows.n_step / CHANCE))


def _equal_runs(rows: Rows, first: Ints, weights: Floats, enough: float) -> list[Stretch]:
    """Runs that are equal to their first in every cell, if that is no coincidence."""
    copies = np.flatnonzero(first != np.arange(rows.n_run)).tolist()
    weight, steps = dict.fromkeys(copies, 0.0), {b: np.zeros(rows.n_step, dtype=bool) for b in copies}
    different = {b: Different() for b in copies}
    for metrics, values in rows if copies else ():
        for b in copies:
            known = ~np.isnan(values[b])
            count = known.sum(axis=0)
            weight[b] += float(np.sum(count * weights[metrics], where=count > 0))
            steps[b] |= known.any(axis=1)
            different[b].add(values[b][known])
    return [
        Stretch(int(first[b]), b, tuple(np.flatnonzero(steps[b]).tolist()), None, True, True)
        for b in copies
        if weight[b] >= enough and different[b].enough
    ]


def _stretches(rows: Rows, model_of: Ints) -> tuple[list[Stretch], Floats]:
    """The stretches of runs that are not equal throughout, and the weight of a cell of each metric."""
    if rows.n_run < 2:
        return [], np.full(rows.n_metric, np.inf)
    alike = Alike([np.flatnonzero(there) for there in measured_steps(rows).T])
    for _, values in rows:
        for step in range(rows.n_step):
            alike.add(step, values[:, step])
    agreeing = _agreeing(alike, rows.n_step)
    weights = _weights(rows, _copies(rows, alike, agreeing), model_of)
    enough = _enough(rows)
    whole = _whole_checkpoints(rows, alike, agreeing, weights, enough)
    return whole + _single_metrics(rows, weights, enough + np.log(rows.n_metric), whole), weights


def _agreeing(alike: Alike, n_step: int) -> dict[tuple[int, int], list[int]]:
    """Per pair of runs the steps at which all they both have is equal."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for step in range(n_step):
        for a, b in alike.pairs(step).tolist():
            found[a, b].append(step)
    return dict(sorted(found.items()))


def _copies(rows: Rows, alike: Alike, agreeing: dict[tuple[int, int], list[int]]) -> Bools:
    """(run, run): pairs that agree wherever they meet, in enough different numbers."""
    whole = {pair: Different() for pair, steps in agreeing.items() if len(steps) == alike.met(*pair).sum()}
    for _, values in rows if whole else ():
        known = ~np.isnan(values)
        for (a, b), different in whole.items():
            if not different.enough:
                different.add(values[a][known[a] & known[b]])
    copies: Bools = np.zeros((rows.n_run, rows.n_run), dtype=bool)
    for pair, different in whole.items():
        copies[pair] = different.enough
    return copies


def _weights(rows: Rows, copies: Bools, model_of: Ints) -> Floats:
    """What an equal cell of each metric weighs, ``-ln p``."""
    n_metric = rows.n_metric
    # Agreements by chance and comparisons per metric, of runs of one model and of all runs.
    agreed, compared = np.zeros((2, n_metric)), np.zeros((2, n_metric))
    persistence = np.zeros(n_metric)
    for metrics, values in rows:
        known, coded = ~np.isnan(values), codes(values)
        some = (coded.max(axis=0) < len(values)).any(axis=0)
        # Most metrics are fine enough that no two runs ever agree.
        for row, groups in enumerate(([model_of == m for m in np.unique(model_of)], [model_of >= 0])):
            for group in groups:
                n = known[group][..., ~some].sum(axis=0)
                compared[row, metrics[~some]] += (n * (n - 1) // 2).sum(axis=0)
        own = metrics[some]
        agreed[:, own], compared[:, own], persistence[own] = _agreement(
            values[..., some], known[..., some], coded[..., some], copies, model_of
        )
    # A metric with few comparisons is taken to be like the others.
    pooled = (agreed.sum(axis=1, keepdims=True) + 0.5) / (compared.sum(axis=1, keepdims=True) + 1)
    rates = np.where(compared > 0, (agreed + pooled) / (compared + 1), pooled[1])
    rates = np.maximum(rates.max(axis=0), persistence)
    return np.asarray(GRAIN * np.round(-np.log(np.minimum(rates, 1.0)) / GRAIN))


def _agreement(
    values: Floats, known: Bools, coded: Codes, copies: Bools, model_of: Ints
) -> tuple[Floats, Floats, Floats]:
    """Per metric: agreements by chance and comparisons, of runs of one model and of all; how often agreement goes on."""
    n_metric = values.shape[2]
    agreed, compared = np.zeros((2, n_metric)), np.zeros((2, n_metric))
    often: Bools = np.zeros(n_metric, dtype=bool)
    ended, going_on = np.zeros((2, n_metric))
    for a, others, equal, common in comparisons(coded, known) if n_metric else ():
        n_equal, n_common = equal.sum(axis=1), common.sum(axis=1)
        often |= (n_equal >= MIN_DISTINCT).any(axis=0)
        # A copy agrees over one stretch, or two; what pairs with more of them do but for their longest is chance.
        length, n_stretch = stretches_where(n_equal >= LOOSE, equal, common)
        loose = n_stretch >= LOOSE
        ended += np.sum(n_stretch - 1, axis=0, where=loose)
        going_on += np.sum(n_equal - length - n_stretch + 1, axis=0, where=loose)
        # Runs that agree most of the time are the copies looked for, not chance.
        chance = ((2 * n_equal <= n_common) | (n_equal == 1)) & ~copies[a, others][:, None]
        related = model_of[others] == model_of[a]
        for row, mine in enumerate((related[:, None] & chance, chance)):
            agreed[row] += n_equal.sum(axis=0, where=mine)
            compared[row] += n_common.sum(axis=0, where=mine)
    persistence = np.zeros(n_metric)
    if often.any():
        late = _persistence(values[..., often])
        persistence[often] = np.maximum(late, _share(going_on, ended + going_on)[often])
    return agreed, compared, persistence


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
    rows: Rows, alike: Alike, agreeing: dict[tuple[int, int], list[int]], weights: Floats, enough: float
) -> list[Stretch]:
    """Stretches over which all metrics that both runs have agree."""
    weight = {pair: np.zeros(len(steps)) for pair, steps in agreeing.items()}
    for metrics, values in rows if agreeing else ():
        known = ~np.isnan(values)
        for (a, b), steps in agreeing.items():
            weight[a, b] += (known[a][steps] & known[b][steps]) @ weights[metrics]
    found: dict[Stretch, Different] = {}
    for (a, b), steps in agreeing.items():
        if weight[a, b].sum() < enough:
            continue
        common = np.flatnonzero(alike.met(a, b))
        for part in _runs_of(common, steps):
            if weight[a, b][np.isin(steps, part)].sum() >= enough:
                found[Stretch(a, b, tuple(part), None, part[0] == common[0], part[-1] == common[-1])] = Different()
    for _, values in rows if found else ():
        for stretch, different in found.items():
            if not different.enough:
                one, other = (values[run][list(stretch.steps)] for run in (stretch.a, stretch.b))
                different.add(one[~np.isnan(one) & ~np.isnan(other)])
    kept: list[Stretch] = []
    for stretch, different in found.items():
        # The run may be said to repeat an earlier one there already.
        said = any(other.b == stretch.b and set(stretch.steps) <= set(other.steps) for other in kept)
        if different.enough and not said:
            kept.append(stretch)
    return kept


def _runs_of(grid: Ints, wanted: list[int]) -> list[list[int]]:
    """The wanted members of a grid as stretches without a gap in the grid."""
    place = np.searchsorted(grid, wanted)
    cuts = np.flatnonzero(np.diff(place) != 1) + 1
    return [part.tolist() for part in np.split(np.asarray(wanted), cuts)]


def _single_metrics(rows: Rows, weights: Floats, enough: float, whole: list[Stretch]) -> list[Stretch]:
    """Stretches of some metrics only, metrics with the same stretch together."""
    needed = np.maximum(MIN_DISTINCT, np.ceil(enough / np.maximum(weights, 1e-9)))
    # What a run is said to repeat already is not said again.
    repeated: Bools = np.zeros((rows.n_run, rows.n_step), dtype=bool)
    for stretch in whole:
        repeated[stretch.b, list(stretch.steps)] = True
    grouped: dict[Stretch, list[int]] = defaultdict(list)
    for metrics, values in rows:
        able = needed[metrics] <= rows.n_step
        for stretch, k in _in_metrics(values[..., able], needed[metrics[able]], repeated):
            grouped[stretch].append(int(metrics[able][k]))
    return [
        stretch._replace(metrics=tuple(grouped[stretch])) for stretch in sorted(grouped, key=lambda s: (*s[:3], *s[4:]))
    ]


def _in_metrics(values: Floats, needed: Floats, repeated: Bools) -> Iterator[tuple[Stretch, int]]:
    """Stretches of each metric of a part, with its place in the part."""
    coded = codes(values)
    some = np.flatnonzero((coded.max(axis=0, initial=0) < len(values)).any(axis=0))
    values, coded, needed = values[..., some], coded[..., some], needed[some]
    said: Bools = np.broadcast_to(repeated[..., None], values.shape).copy()
    for a, others, equal, common in comparisons(coded, ~np.isnan(values)) if len(some) else ():
        long = stretches_where(equal.sum(axis=1) >= needed, equal, common)[0] >= needed
        if long.any():
            long &= (equal & ~said[others]).any(axis=1)
        for i, k in np.argwhere(long).tolist():
            b, grid = int(others[i]), np.flatnonzero(common[i, :, k])
            for steps in _runs_of(grid, np.flatnonzero(equal[i, :, k]).tolist()):
                if len(steps) < needed[k] or said[b, steps, k].all() or not varied(values[a, steps, k]):
                    continue
                said[b, steps, k] = True
                yield Stretch(a, b, tuple(steps), None, steps[0] == grid[0], steps[-1] == grid[-1]), int(some[k])


def copy_findings(rows: Rows, labels: Labels, weight_seed: Ints | None = None) -> list[Finding]:
    """Findings on runs that repeat others.

    Parameters
    ----------
    rows : Rows
        Of the cube.
    labels : Labels
        Of the cube.
    weight_seed : (model, seed) array of int, optional
        Runs with one initialisation may share step 0.
    """
    said = [_Said(stretch, rows) for stretch in shared_stretches(rows, rows.chosen // len(labels.seeds))]
    for metrics, values in rows if said else ():
        for one in said:
            one.add(metrics, values)
    return [one.finding(rows, labels, weight_seed) for one in said]


class _Said:
    """What is said of a stretch, gathered metrics after metrics."""

    def __init__(self, stretch: Stretch, rows: Rows) -> None:
        self.stretch, self.n_cells, self.constant = stretch, 0, True
        self.both, self.other = np.zeros((2, rows.n_step), dtype=bool)
        self.metrics = np.ones(rows.n_metric, dtype=bool)
        if stretch.metrics is not None:
            self.metrics[:] = False
            self.metrics[list(stretch.metrics)] = True

    def add(self, metrics: Ints, values: Floats) -> None:
        mine, steps = self.metrics[metrics], list(self.stretch.steps)
        one, other = values[self.stretch.a][:, mine], values[self.stretch.b][:, mine]
        both = ~np.isnan(one) & ~np.isnan(other)
        self.n_cells += int(both[steps].sum())
        self.both |= both.any(axis=1)
        self.other |= (~np.isnan(other)).any(axis=1)
        first = one[steps]
        self.constant &= bool(((first == first[0]) | np.isnan(first)).all())

    def finding(self, rows: Rows, labels: Labels, weight_seed: Ints | None) -> Finding:
        stretch = self.stretch
        a, b = int(rows.chosen[stretch.a]), int(rows.chosen[stretch.b])
        starts = None if weight_seed is None else weight_seed.reshape(-1)[[a, b]].tolist()
        steps = [labels.steps[t] for t in stretch.steps]
        severity = ""
        what = "" if stretch.metrics is None else f" in {len(stretch.metrics)} of {rows.n_metric:,} metrics"
        said = f"{labels.name(b)} has the values of {labels.name(a)} at {listed_steps(steps)}{what}"
        tail = f" ({counted(self.n_cells, 'cell')}, equal to the last bit)."
        if stretch.starts and not stretch.ends and steps[0] == 0 and self.constant:
            kind = "same-start"
            if starts is not None and min(starts) >= 0 and starts[0] != starts[1]:
                severity = "warning"
                tail = tail[:-1] + ", though weight_seed says that they start differently."
        elif stretch.starts and stretch.ends:
            kind = "identical-run"
            more = int(self.other.sum()) - len(steps)
            tail = tail[:-1] + (", wherever both are measured." if more > 0 else ", from first to last.")
        elif stretch.starts:
            kind = "identical-until"
            after = next(t for t in range(stretch.steps[-1] + 1, len(self.both)) if self.both[t])
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
