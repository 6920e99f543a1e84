"""Checkpoints that stand where they do not belong: frozen, copied to another step, shifted.

Equal cells are weighed as in :mod:`polystab.analysis.audit.copies`; here ``p`` is how often
neighbouring checkpoints of a run agree on a metric by themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Bools, Floats, Ints
from polystab.analysis.audit.copies import CHANCE
from polystab.analysis.audit.findings import Finding, Labels, counted, listed_steps
from polystab.analysis.audit.repeats import repeated_checkpoints
from polystab.analysis.audit.rows import ODD, Different, Rows
from polystab.analysis.audit.runs import MIN_DISTINCT, hashed
from polystab.analysis.audit.weighing import LAGS, Weights, checkpoint_weights

# Consecutive values of one metric that are looked up elsewhere; all of them must differ.
WINDOW = 5


def checkpoint_findings(rows: Rows, labels: Labels, family: npt.NDArray[np.str_]) -> list[Finding]:
    """Findings on checkpoints that are equal although their steps differ.

    Parameters
    ----------
    rows : Rows
        Of the cube.
    labels : Labels
        Of the cube.
    family : (metric,) array of str
        A family whose checkpoints are copies is found even where others are sound.
    """
    if rows.n_step < 2 or not rows.n_run:
        return []
    weights = checkpoint_weights(rows)
    found = repeated_checkpoints(rows, labels, weights, family)
    found += _misplaced(rows, labels, weights)
    return found + list(_shifted(rows, labels, weights, found))


def _misplaced(rows: Rows, labels: Labels, weights: Weights) -> list[Finding]:
    """A checkpoint of one run that stands under another step of another run."""
    n_run, n_step, n_metric = rows.n_run, rows.n_step, rows.n_metric
    if n_metric < MIN_DISTINCT:
        return []
    keys, count = np.zeros(n_run * n_step, dtype=np.uint64), np.zeros(n_run * n_step, dtype=np.int64)
    for _, values in rows:
        table = values.reshape(n_run * n_step, -1)
        keys = keys * ODD + hashed(table)
        count += (~np.isnan(table)).sum(axis=1)
    measured = np.flatnonzero(count >= MIN_DISTINCT)
    order = np.argsort(keys[measured], kind="stable")
    cuts = np.flatnonzero(np.diff(keys[measured][order]) != 0) + 1
    groups = [np.sort(group) for group in np.split(measured[order], cuts) if len(group) > 1]
    weight, different = np.zeros(len(groups)), [Different() for _ in groups]
    equal = [np.ones(len(group), dtype=bool) for group in groups]
    for metrics, values in rows if groups else ():
        table, own = values.reshape(n_run * n_step, -1), weights.at(metrics)
        for i, group in enumerate(groups):
            row = table[group[0]]
            known = ~np.isnan(row)
            weight[i] += np.sum(own[group % n_step].min(axis=0), where=known)
            different[i].add(row[known])
            equal[i] &= ((table[group] == row) | (np.isnan(table[group]) & ~known)).all(axis=1)
    enough = np.log((n_run * n_step) ** 2 / 2 / CHANCE)
    pairs: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for i, group in enumerate(groups):
        if weight[i] < enough or not different[i].enough:
            continue
        members = [divmod(int(place), n_step) for place in group.tolist()]
        run, step = members[0]
        mine = {t for r, t in members if r == run}
        for (other, t), same in zip(members[1:], equal[i][1:].tolist(), strict=True):
            # At a step that the first run has too it is a copied run, which is another finding.
            if other != run and t not in mine and same:
                pairs[run, other].append((step, t))
    return [_misplacement(labels, rows.chosen, pair, sorted(steps)) for pair, steps in sorted(pairs.items())]


def _misplacement(labels: Labels, there: Ints, pair: tuple[int, int], steps: list[tuple[int, int]]) -> Finding:
    one, other = int(there[pair[0]]), int(there[pair[1]])
    (model, seed), (other_model, other_seed) = labels.run(other), labels.run(one)
    sources = [labels.steps[s] for s, _ in steps]
    targets = [labels.steps[t] for _, t in steps]
    same_shift = len({s - t for s, t in steps}) == 1 and len(steps) >= WINDOW
    said = (
        f"{labels.name(other)} at {listed_steps(targets)} has, value for value, "
        f"what {labels.name(one)} has at {listed_steps(sources)}."
    )
    kind = "shifted-values" if same_shift else "misplaced-checkpoint"
    return Finding(kind, said, model, seed, other_model, other_seed, steps=sorted(t for _, t in steps))


def _shifted(rows: Rows, labels: Labels, weights: Weights, found: Iterable[Finding]) -> Iterator[Finding]:
    """Stretches of single metrics that stand at other steps: in another run, or again in the same one."""
    n_run, n_step, n_metric = rows.n_run, rows.n_step, rows.n_metric
    if n_step <= WINDOW:
        return
    enough = np.log(n_run**2 * n_step / CHANCE)
    # Every stretch might have begun anywhere, in any metric; without this charge coincidences in many metrics add up.
    charge = 1 + np.log(n_step * n_metric)
    hits: dict[tuple[int, int, int], dict[int, set[tuple[int, int]]]] = defaultdict(dict)
    proof: dict[tuple[int, int, int], float] = defaultdict(float)
    for metrics, values in rows:
        own = weights.at(metrics)
        for i, k in enumerate(metrics.tolist()):
            places: dict[tuple[int, int, int], set[tuple[int, int]]] = defaultdict(set)
            for pair, some in _window_hits(values[:, :, i]):
                places[pair].update(some)
            for pair, several in places.items():
                # What proves nothing is not kept: of coarse metrics there is much of it.
                if (gain := _proof(several, own[:, i], charge)) > 0:
                    hits[pair][k] = several
                    proof[pair] += gain
    # Values that were found to stand at a wrong step as whole checkpoints are not said again.
    said = {(f.model, f.seed, f.other_model, f.other_seed) for f in found if f.kind == "shifted-values"}
    copied = {(f.model, f.seed) for f in found if f.kind == "copied-checkpoint"}
    for (a, b, lag), where in sorted(hits.items(), key=lambda hit: (hit[0][1], abs(hit[0][2]), hit[0])):
        if proof[a, b, lag] < enough:
            continue
        one, other = int(rows.chosen[a]), int(rows.chosen[b])
        (model, seed), (other_model, other_seed) = labels.run(other), labels.run(one)
        name = (model, seed, other_model, other_seed)
        if name in said or (a == b and (model, seed) in copied):
            continue
        said.add(name)  # the smallest shift of a pair is reported
        steps = sorted({t for places in where.values() for _, t in places})
        sources = sorted({s for places in where.values() for s, _ in places})
        what = "" if len(where) == n_metric else f" in {len(where)} of {n_metric:,} metrics"
        text = (
            f"{labels.name(other)} at {listed_steps([labels.steps[t] for t in steps])} has, value for value, what "
            f"{'it' if a == b else labels.name(one)} has at {listed_steps([labels.steps[s] for s in sources])}{what}: "
            f"shifted by {counted(abs(lag), 'checkpoint')}."
        )
        yield Finding(
            "repeated-stretch" if a == b else "shifted-values", text, model, seed, other_model, other_seed,
            steps=steps, metrics=sorted(where),
        )  # fmt: skip


def _proof(places: set[tuple[int, int]], weights: Floats, charge: float) -> float:
    """What equal values at some places weigh, less the charge for each stretch of them without a gap."""
    steps = np.array(sorted(places))
    weight = np.minimum(weights[steps[:, 0]], weights[steps[:, 1]]).sum()
    return float(weight - charge * (1 + (np.diff(steps[:, 0]) > LAGS).sum()))


def _window_hits(column: Floats) -> Iterator[tuple[tuple[int, int, int], list[tuple[int, int]]]]:
    """Windows of values that occur at two different places, as (run, run, shift) and the steps of both.

    A shift counts measured checkpoints of the metric; the later place comes second.
    """
    known = ~np.isnan(column)
    step_of = np.argsort(~known, axis=1, kind="stable")
    packed = np.take_along_axis(column, step_of, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(packed, WINDOW, axis=1)
    ordered = np.sort(windows, axis=-1)
    usable: Bools = ~np.isnan(ordered[..., -1]) & (np.diff(ordered, axis=-1) > 0).all(axis=-1)
    run, start = np.nonzero(usable)
    if len(run) < 2:
        return
    keys = hashed(np.ascontiguousarray(windows[run, start]))
    order = np.lexsort((run, start, keys))
    one, other = order[:-1], order[1:]
    elsewhere = (keys[one] == keys[other]) & (start[one] != start[other])
    one, other = one[elsewhere], other[elsewhere]
    same = (windows[run[one], start[one]] == windows[run[other], start[other]]).all(axis=1)
    for i, j in zip(one[same].tolist(), other[same].tolist(), strict=True):
        (a, s), (b, t) = (int(run[i]), int(start[i])), (int(run[j]), int(start[j]))
        places = zip(step_of[a, s : s + WINDOW].tolist(), step_of[b, t : t + WINDOW].tolist(), strict=True)
        yield (a, b, t - s), list(places)
