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
from polystab.analysis.audit.equality import codes, comparisons, varied
from polystab.analysis.audit.findings import Finding, Labels, counted, listed_steps
from polystab.analysis.audit.runs import MIN_DISTINCT, hashed

# Consecutive values of one metric that are looked up elsewhere; all of them must differ.
WINDOW = 5

# Neighbours up to this many checkpoints away say how coarse a metric is, in each part of training:
# late in training a metric may hardly move.
LAGS = 5
PARTS, PART_STEPS = 8, 10


def checkpoint_findings(values: Floats, labels: Labels, family: npt.NDArray[np.str_]) -> list[Finding]:
    """Findings on checkpoints that are equal although their steps differ.

    Parameters
    ----------
    values : (model, seed, step, metric) array
        Finite, or NaN.
    labels : Labels
        Of the cube.
    family : (metric,) array of str
        A family whose checkpoints are copies is found even where others are sound.
    """
    n_step, n_metric = values.shape[2:]
    there = np.flatnonzero(~np.isnan(values).all(axis=(2, 3)).reshape(-1))
    rows = values.reshape(-1, n_step, n_metric)[there]
    if n_step < 2 or not len(rows):
        return []
    weights = _weights(rows)
    found = list(_repeated_checkpoints(rows, there, labels, weights, family))
    found += _misplaced(rows, there, labels, weights)
    return found + list(_shifted(rows, there, labels, weights, found))


def _weights(rows: Floats) -> Floats:
    """``-ln p`` per (step, metric), p the share of neighbouring values of a run that are equal: in all, or more so here.

    Pairs of checkpoints that agree in every cell are the copies looked for; they are left out.
    """
    n_step, n_metric = rows.shape[1:]
    n_part = min(PARTS, max(n_step // PART_STEPS, 1))
    part_of = np.arange(n_step) * n_part // n_step
    equal, common = np.zeros((2, n_part, n_metric))
    for lag in range(1, min(LAGS, n_step - 1) + 1):
        one, other = rows[:, lag:], rows[:, :-lag]
        both = ~np.isnan(one) & ~np.isnan(other)
        same = both & (one == other)
        if n_metric >= MIN_DISTINCT:
            both &= ~(same == both).all(axis=2, keepdims=True)
        np.add.at(equal, part_of[lag:], (same & both).sum(axis=0))
        np.add.at(common, part_of[lag:], both.sum(axis=0))
    overall = (equal.sum(axis=0) + 0.5) / (common.sum(axis=0) + 1)
    # Of a part only what a few coincidences do not explain.
    here = np.maximum(equal - 2 * np.sqrt(equal), 0) / np.maximum(common, 1)
    return np.asarray(-np.log(np.maximum(overall, here))[part_of], dtype=np.float64)


def _repeated_checkpoints(
    rows: Floats, there: Ints, labels: Labels, weights: Floats, family: npt.NDArray[np.str_]
) -> Iterator[Finding]:
    """Checkpoints of one run that equal each other, over all metrics or over those of a family."""
    families = list(dict.fromkeys(family.tolist()))
    groups = [np.arange(rows.shape[2])]
    if len(families) > 1:
        groups += [np.flatnonzero(family == name) for name in families]
    for r in range(len(rows)):
        said: list[set[int]] = []
        for number, metrics in enumerate(groups):
            part = rows[r][:, metrics]
            for steps in _equal_steps(part, weights[:, metrics], len(rows)):
                if any(set(steps) <= other for other in said):
                    continue
                said.append(set(steps))
                yield _repeat(part, steps, labels, int(there[r]), None if number == 0 else tuple(metrics.tolist()))


def _equal_steps(part: Floats, weights: Floats, n_run: int) -> list[list[int]]:
    """Groups of steps of one run whose cells all agree."""
    n_step = len(part)
    known = ~np.isnan(part)
    # A metric that never changes tells no checkpoint from another.
    low = np.min(part, axis=0, initial=np.inf, where=known)
    high = np.max(part, axis=0, initial=-np.inf, where=known)
    varies = known.any(axis=0) & (low < high)
    # Records of different lengths share a grid of steps, of which each has some.
    measured = np.flatnonzero(known[:, varies].any(axis=1))
    place = np.ix_(measured, varies)
    part, weights, known = part[place], weights[place], known[place]
    enough = np.log(n_run * n_step**2 / 2 / CHANCE)
    leader = np.arange(len(measured))
    for one, others, equal, common in comparisons(codes(part), known):
        alike = np.flatnonzero((equal == common).all(axis=1))
        weight = np.sum(np.minimum(weights[one], weights[others[alike]]), axis=1, where=common[alike])
        for i in alike[weight >= enough].tolist():
            if varied(part[one, common[i]]):
                leader[others[i]] = min(leader[others[i]], leader[one])
    groups: dict[int, list[int]] = defaultdict(list)
    for step, head in zip(measured.tolist(), leader.tolist(), strict=True):
        groups[head].append(step)
    return [steps for steps in groups.values() if len(steps) > 1]


def _repeat(part: Floats, steps: list[int], labels: Labels, run: int, metrics: tuple[int, ...] | None) -> Finding:
    """Frozen if nothing else was measured in between, else a copy out of place."""
    model, seed = labels.run(run)
    measured = np.flatnonzero((~np.isnan(part)).any(axis=1))
    place = np.searchsorted(measured, steps)
    shown = [labels.steps[t] for t in steps]
    n_cells = int((~np.isnan(part[steps[0]])).sum())
    what = "" if metrics is None else f" of {counted(len(metrics), 'metric')}"
    tail = f"all {n_cells:,} values{what} are equal to the last bit"
    if (np.diff(place) == 1).all():
        said = f"{labels.name(run)} is the same checkpoint at {listed_steps(shown)}: {tail}."
        # The first of them stays: the state was reached, and counts once.
        return Finding("frozen-checkpoint", said, model, seed, steps=steps[1:], metrics=metrics)
    wrong = _out_of_place(part, steps, measured)
    said = f"{labels.name(run)} has one checkpoint at {listed_steps(shown)}, with others in between: {tail}"
    if len(wrong) < len(steps):
        said += f"; by its neighbours it belongs to {listed_steps([t for t in shown if labels.steps.index(t) not in wrong])}"
    return Finding("copied-checkpoint", f"{said}.", model, seed, steps=wrong, metrics=metrics)


def _out_of_place(part: Floats, steps: list[int], measured: Ints) -> list[int]:
    """The steps whose neighbours are further from the common values than those of the step that fits best."""
    away = []
    for step in steps:
        at = int(np.searchsorted(measured, step))
        near = [t for t in measured[max(at - 2, 0) : at + 3].tolist() if t not in steps]
        gaps = np.abs(part[near] - part[step])
        scale = np.ptp(np.where(np.isnan(part), part[step], part), axis=0)
        good = ~np.isnan(gaps) & (scale > 0)
        away.append(float(np.median((gaps / np.where(scale > 0, scale, 1.0))[good])) if good.any() else np.inf)
    best = int(np.argmin(away))
    blocks = np.cumsum([0, *(np.diff(np.searchsorted(measured, steps)) != 1)])
    fits = [int(block) == int(blocks[best]) for block in blocks]
    if not np.isfinite(away[best]) or min(a for a, fit in zip(away, fits, strict=True) if not fit) < 2 * away[best]:
        return steps
    return [step for step, fit in zip(steps, fits, strict=True) if not fit]


def _misplaced(rows: Floats, there: Ints, labels: Labels, weights: Floats) -> list[Finding]:
    """A checkpoint of one run that stands under another step of another run."""
    n_run, n_step, n_metric = rows.shape
    if n_metric < MIN_DISTINCT:
        return []
    table = rows.reshape(n_run * n_step, n_metric)
    measured = np.flatnonzero((~np.isnan(table)).sum(axis=1) >= MIN_DISTINCT)
    keys = hashed(table[measured])
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(np.diff(keys[order]) != 0) + 1
    enough = np.log((n_run * n_step) ** 2 / 2 / CHANCE)
    pairs: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for group in np.split(measured[order], cuts):
        if len(group) < 2:
            continue
        row, least = table[group[0]], weights[group % n_step].min(axis=0)
        if least[~np.isnan(row)].sum() < enough or not varied(row[~np.isnan(row)]):
            continue
        members = [divmod(int(place), n_step) for place in sorted(group.tolist())]
        run, step = members[0]
        mine = {t for r, t in members if r == run}
        for other, t in members[1:]:
            # At a step that the first run has too it is a copied run, which is another finding.
            if other != run and t not in mine and np.array_equal(table[other * n_step + t], row, equal_nan=True):
                pairs[run, other].append((step, t))
    return [_misplacement(labels, there, pair, steps) for pair, steps in pairs.items()]


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


def _shifted(rows: Floats, there: Ints, labels: Labels, weights: Floats, found: Iterable[Finding]) -> Iterator[Finding]:
    """Stretches of single metrics that stand at other steps: in another run, or again in the same one."""
    n_run, n_step, n_metric = rows.shape
    if n_step <= WINDOW:
        return
    hits: dict[tuple[int, int, int], dict[int, set[tuple[int, int]]]] = defaultdict(lambda: defaultdict(set))
    for k in range(n_metric):
        for pair, places in _window_hits(rows[:, :, k]):
            hits[pair][k].update(places)
    enough = np.log(n_run**2 * n_step / CHANCE)
    # Every stretch might have begun anywhere, in any metric; without this charge coincidences in many metrics add up.
    charge = 1 + np.log(n_step * n_metric)
    # Values that were found to stand at a wrong step as whole checkpoints are not said again.
    said = {(f.model, f.seed, f.other_model, f.other_seed) for f in found if f.kind == "shifted-values"}
    copied = {(f.model, f.seed) for f in found if f.kind == "copied-checkpoint"}
    for (a, b, lag), hit in sorted(hits.items(), key=lambda hit: (hit[0][1], abs(hit[0][2]), hit[0])):
        proof = {k: _proof(places, weights[:, k], charge) for k, places in hit.items()}
        metrics = {k: places for k, places in hit.items() if proof[k] > 0}
        if sum(proof[k] for k in metrics) < enough:
            continue
        one, other = int(there[a]), int(there[b])
        (model, seed), (other_model, other_seed) = labels.run(other), labels.run(one)
        name = (model, seed, other_model, other_seed)
        if name in said or (a == b and (model, seed) in copied):
            continue
        said.add(name)  # the smallest shift of a pair is reported
        steps = sorted({t for places in metrics.values() for _, t in places})
        sources = sorted({s for places in metrics.values() for s, _ in places})
        what = "" if len(metrics) == n_metric else f" in {len(metrics)} of {n_metric:,} metrics"
        text = (
            f"{labels.name(other)} at {listed_steps([labels.steps[t] for t in steps])} has, value for value, what "
            f"{'it' if a == b else labels.name(one)} has at {listed_steps([labels.steps[s] for s in sources])}{what}: "
            f"shifted by {counted(abs(lag), 'checkpoint')}."
        )
        yield Finding(
            "repeated-stretch" if a == b else "shifted-values", text, model, seed, other_model, other_seed,
            steps=steps, metrics=sorted(metrics),
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
