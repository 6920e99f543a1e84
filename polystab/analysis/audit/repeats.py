"""Checkpoints of a run that are equal to each other: frozen, or copied to another step."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Bools, Floats, Ints
from polystab.analysis.audit.copies import CHANCE
from polystab.analysis.audit.findings import Finding, Labels, counted, listed_steps
from polystab.analysis.audit.rows import Alike, Different, Rows, measured_steps
from polystab.analysis.audit.weighing import Weights

# Numbers that are looked at together.
_BLOCK = 2**22


@dataclass(eq=False)
class _Group:
    """Steps of one run whose cells agree, in all metrics (``metrics`` None) or in those of a family."""

    run: int
    columns: Bools
    metrics: tuple[int, ...] | None
    pairs: Ints
    measured: Ints
    repeated: list[list[int]] = field(default_factory=list)


def repeated_checkpoints(rows: Rows, labels: Labels, weights: Weights, family: npt.NDArray[np.str_]) -> list[Finding]:
    """Checkpoints of one run that equal each other, over all metrics or over those of a family."""
    groups = _alike_steps(rows, family)
    groups = _heavy_enough(groups, rows, weights)
    _gather(groups, rows)
    said: dict[int, list[set[int]]] = defaultdict(list)
    repeats: list[tuple[_Group, list[int]]] = []
    for group in groups:
        for steps in group.repeated:
            if not any(set(steps) <= other for other in said[group.run]):
                said[group.run].append(set(steps))
                repeats.append((group, steps))
    return _repeats(repeats, rows, labels)


def _alike_steps(rows: Rows, family: npt.NDArray[np.str_]) -> list[_Group]:
    """For each run, all metrics and then each family: steps that agree wherever both are measured."""
    names = list(dict.fromkeys(family.tolist()))
    places = [np.flatnonzero(there) for there in measured_steps(rows)]
    alike = [Alike(places) for _ in names]
    measured = np.zeros((len(names), rows.n_run, rows.n_step), dtype=bool)
    for metrics, values in rows:
        for f, name in enumerate(names):
            part = values[..., family[metrics] == name]
            known = ~np.isnan(part)
            measured[f] |= known.any(axis=2)
            # A metric that never changes tells no checkpoint from another.
            low = np.min(part, axis=1, initial=np.inf, where=known)
            high = np.max(part, axis=1, initial=-np.inf, where=known)
            for r in range(rows.n_run):
                alike[f].add(r, part[r][:, low[r] < high[r]])
    found: list[_Group] = []
    for r in range(rows.n_run):
        tables = [one.tables(r) for one in alike]
        agree, meet = np.all([t[0] for t in tables], axis=0), np.any([t[1] for t in tables], axis=0)
        together = places[r][np.argwhere(np.triu(agree & meet, 1))]
        there = np.flatnonzero(measured[:, r].any(axis=0))
        every = np.ones(rows.n_metric, dtype=bool)
        found.append(_Group(r, every, None, together, there))
        for f, name in enumerate(names if len(names) > 1 else ()):
            own: Bools = np.asarray(family == name)
            pairs, there = alike[f].pairs(r), np.flatnonzero(measured[f, r])
            found.append(_Group(r, own, tuple(np.flatnonzero(own).tolist()), pairs, there))
    return [group for group in found if len(group.pairs)]


def _heavy_enough(groups: list[_Group], rows: Rows, weights: Weights) -> list[_Group]:
    """The groups with those of their pairs whose agreement is no coincidence."""
    enough = np.log(rows.n_run * rows.n_step**2 / 2 / CHANCE)
    total = [np.zeros(len(group.pairs)) for group in groups]
    for metrics, values in rows if groups else ():
        weight = weights.at(metrics)
        for group, sums in zip(groups, total, strict=True):
            part, own = _varying(values[group.run], group.columns[metrics]), weight[:, group.columns[metrics]]
            known = ~np.isnan(part)
            for start in range(0, len(sums), size := max(1, _BLOCK // max(1, part.shape[1]))):
                one, other = group.pairs[start : start + size].T
                sums[start : start + size] += np.sum(
                    np.minimum(own[one], own[other]), axis=1, where=known[one] & known[other]
                )
    for group, sums in zip(groups, total, strict=True):
        group.pairs = group.pairs[sums >= enough]
    return [group for group in groups if len(group.pairs)]


def _varying(part: Floats, columns: Bools) -> Floats:
    """Some metrics of a run (step, metric), with NaN in those that never change."""
    part = part[:, columns]
    known = ~np.isnan(part)
    low, high = np.min(part, axis=0, initial=np.inf, where=known), np.max(part, axis=0, initial=-np.inf, where=known)
    return np.where(low < high, part, np.nan)


def _gather(groups: list[_Group], rows: Rows) -> None:
    """Steps that are the same checkpoint, from pairs that agree in enough different numbers."""
    different = [[Different() for _ in group.pairs] for group in groups]
    for metrics, values in rows if groups else ():
        for group, several in zip(groups, different, strict=True):
            part = _varying(values[group.run], group.columns[metrics])
            known = ~np.isnan(part)
            for (one, other), numbers in zip(group.pairs.tolist(), several, strict=True):
                if not numbers.enough:
                    numbers.add(part[one, known[one] & known[other]])
    for group, several in zip(groups, different, strict=True):
        leader = np.arange(rows.n_step)
        for (one, other), numbers in zip(group.pairs.tolist(), several, strict=True):
            if numbers.enough:
                leader[other] = min(leader[other], leader[one])
        members: dict[int, list[int]] = defaultdict(list)
        for step, head in enumerate(leader.tolist()):
            members[head].append(step)
        group.repeated = [steps for steps in members.values() if len(steps) > 1]


def _repeats(repeats: list[tuple[_Group, list[int]]], rows: Rows, labels: Labels) -> list[Finding]:
    """Findings on steps that are the same checkpoint; of those with others in between, by their neighbours."""
    n_cells = [0] * len(repeats)
    near: list[list[Floats]] = [[] for _ in repeats]
    scale: list[list[Floats]] = [[] for _ in repeats]
    places = [_near(group, steps) for group, steps in repeats]
    for metrics, values in rows if repeats else ():
        for i, (group, steps) in enumerate(repeats):
            part = values[group.run][:, group.columns[metrics]]
            n_cells[i] += int((~np.isnan(part[steps[0]])).sum())
            near[i].append(part[places[i]])
            # Of what was never measured the range is negative, and says nothing.
            known = ~np.isnan(part)
            high = np.max(part, axis=0, initial=-np.inf, where=known)
            scale[i].append(high - np.min(part, axis=0, initial=np.inf, where=known))
    found = []
    for i, (group, steps) in enumerate(repeats):
        around = dict(zip(places[i], np.concatenate(near[i], axis=1), strict=True))
        run = int(rows.chosen[group.run])
        found.append(_repeat(group, steps, n_cells[i], around, np.concatenate(scale[i]), labels, run))
    return found


def _near(group: _Group, steps: list[int]) -> list[int]:
    """The steps and their neighbours, if something else was measured in between; none if not."""
    at = np.searchsorted(group.measured, steps)
    if (np.diff(at) == 1).all():
        return []
    return sorted({t for k in at.tolist() for t in group.measured[max(k - 2, 0) : k + 3].tolist()})


def _repeat(
    group: _Group,
    steps: list[int],
    n_cells: int,
    around: dict[int, Floats],
    scale: Floats,
    labels: Labels,
    run: int,
) -> Finding:
    """Frozen if nothing else was measured in between, else a copy out of place."""
    model, seed = labels.run(run)
    shown = [labels.steps[t] for t in steps]
    what = "" if group.metrics is None else f" of {counted(len(group.metrics), 'metric')}"
    tail = f"all {n_cells:,} values{what} are equal to the last bit"
    if not around:
        said = f"{labels.name(run)} is the same checkpoint at {listed_steps(shown)}: {tail}."
        # The first of them stays: the state was reached, and counts once.
        return Finding("frozen-checkpoint", said, model, seed, steps=steps[1:], metrics=group.metrics)
    wrong = _out_of_place(around, scale, steps, group.measured)
    said = f"{labels.name(run)} has one checkpoint at {listed_steps(shown)}, with others in between: {tail}"
    if len(wrong) < len(steps):
        said += f"; by its neighbours it belongs to {listed_steps([t for t in shown if labels.steps.index(t) not in wrong])}"
    return Finding("copied-checkpoint", f"{said}.", model, seed, steps=wrong, metrics=group.metrics)


def _out_of_place(part: dict[int, Floats], scale: Floats, steps: list[int], measured: Ints) -> list[int]:
    """The steps whose neighbours are further from the common values than those of the step that fits best.

    ``part`` has the values of the steps and of their neighbours, ``scale`` the range of each metric over the run.
    """
    away = []
    for step in steps:
        at = int(np.searchsorted(measured, step))
        near = [t for t in measured[max(at - 2, 0) : at + 3].tolist() if t not in steps]
        gaps = np.abs(np.array([part[t] for t in near]).reshape(-1, len(part[step])) - part[step])
        good = ~np.isnan(gaps) & (scale > 0)
        away.append(float(np.median((gaps / np.where(scale > 0, scale, 1.0))[good])) if good.any() else np.inf)
    best = int(np.argmin(away))
    blocks = np.cumsum([0, *(np.diff(np.searchsorted(measured, steps)) != 1)])
    fits = [int(block) == int(blocks[best]) for block in blocks]
    if not np.isfinite(away[best]) or min(a for a, fit in zip(away, fits, strict=True) if not fit) < 2 * away[best]:
        return steps
    return [step for step, fit in zip(steps, fits, strict=True) if not fit]
