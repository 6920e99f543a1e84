"""Runs that fall back to an earlier level of training: restarts, spliced runs, collapses.

The rule, for one run at one checkpoint, in one metric:

- *fall*: from the median of the last three checkpoints to the best of this one and the next,
  so that one bad checkpoint between good ones is no fall;
- it goes back to a level that the run has left behind since a quarter of the steps at most,
  and undoes at least 15 % of what it had learnt; metrics that the runs of the model have not
  learnt, most of them, beyond noise are left out;
- it is eight times as large as falls of that metric usually are: the scale is the median
  absolute deviation of the same difference over all runs and checkpoints, from which the
  median of the siblings at that checkpoint is taken first, so that noise that drifts, and
  falls that all runs share, do not count.

A run falls where at least half of the metrics that were learnt by then fall together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints, median
from polystab.analysis.audit.findings import Finding, Labels, counted
from polystab.analysis.audit.rows import Rows

# Checkpoints behind and ahead whose level is compared.
BEFORE, AFTER = 3, 2
# Least share of what was learnt that is lost, and least size of a fall over the noise.
LOST = 0.15
SIZE = 8.0
# The level fallen back to was last seen at this share of the steps, or before.
LONG_AGO = 0.25
# A run without siblings to compare with must lose more, in several metrics; what is usual for it
# includes what it learns, so that a fall is smaller by that measure.
ALONE_LOST, ALONE_METRICS, ALONE_SIZE = 0.5, 3, 2.0
# Least share of the metrics that are ever learnt; the larger one with three runs or fewer, of which little is known.
SHARE, FEW_SHARE = 0.25, 0.5
# Runs of a model from which the median says what is common to them.
SIBLINGS = 3

# Values that are looked at together: some twenty times as much is needed to do so.
_BLOCK = 2**21


class Falls(NamedTuple):
    """Per (run, step, metric): whether it fell, whether anything was learnt before, and the share lost."""

    fell: Bools
    learnt: Bools
    lost: Floats


def falls(values: Floats) -> Falls:
    """Falls of the runs of one model.

    Parameters
    ----------
    values : (run, step, metric) array
        Finite, or NaN. Steps that are not measured are passed over.

    Returns
    -------
    Falls
    """
    n_step = values.shape[1]
    fell = np.zeros(values.shape, dtype=bool)
    learnt = np.zeros(values.shape, dtype=bool)
    lost = np.zeros(values.shape)
    known = ~np.isnan(values)
    step_of = np.argsort(~known, axis=1, kind="stable")
    packed = np.take_along_axis(values, step_of, axis=1)  # measured checkpoints first
    count = known.sum(axis=1)
    if n_step < BEFORE + 2:
        return Falls(fell, learnt, lost)
    start = median(packed[:, :BEFORE], axis=1)
    places = np.arange(BEFORE, n_step)
    behind = np.stack([packed[:, places - lag] for lag in range(1, BEFORE + 1)])
    level = median(behind, axis=0)  # run, place, metric
    climb = level - start[:, None]
    sign = np.where(climb < 0, -1.0, 1.0)
    here = packed[:, places]
    after = np.stack([packed[:, np.minimum(places + lag, n_step - 1)] for lag in range(AFTER)])
    # The last checkpoint has no next one: it stands for itself.
    after = np.where(np.isnan(after), here, after)
    best = np.where(sign > 0, after.max(axis=0), after.min(axis=0))
    change = best - level
    aligned = _at_steps(change, step_of, BEFORE, known)
    usual = _usual(aligned)
    own = np.take_along_axis(aligned - usual, step_of[:, BEFORE:], axis=1)
    scale = np.broadcast_to(_scale(aligned - usual), known.shape)
    scale = np.take_along_axis(scale, step_of[:, BEFORE:], axis=1) * (SIZE if len(values) >= SIBLINGS else ALONE_SIZE)
    share = np.zeros(change.shape)
    np.divide(-change * sign, np.abs(climb), out=share, where=(climb != 0) & np.isfinite(climb) & np.isfinite(change))
    # What one run alone seems to have learnt may be a run of luck: most of its siblings must have.
    together = np.take_along_axis(_shared(_at_steps(climb, step_of, BEFORE, known)), step_of[:, BEFORE:], axis=1)
    with np.errstate(invalid="ignore"):
        had = np.abs(together) > scale
        down = had & (np.abs(climb) > scale) & (share >= LOST) & (-own * sign > scale)
    valid = (places[None, :, None] < count[:, None, :]) & np.isfinite(own)
    for target, source in ((fell, down & valid), (learnt, had & valid)):
        np.put_along_axis(target, step_of[:, BEFORE:], source, axis=1)
    np.put_along_axis(lost, step_of[:, BEFORE:], np.where(valid, share, 0.0), axis=1)
    return Falls(fell, learnt, lost)


def _at_steps(
    packed: Floats, step_of: np.ndarray[tuple[int, ...], np.dtype[np.int64]], skip: int, known: Bools
) -> Floats:
    """Numbers of packed places from ``skip`` on, back at their steps."""
    result = np.full(known.shape, np.nan)
    np.put_along_axis(result, step_of[:, skip:], packed, axis=1)
    return np.where(known, result, np.nan)


def _usual(change: Floats) -> Floats:
    """The median change of the runs at each step, zero where there are too few siblings."""
    enough = (~np.isnan(change)).sum(axis=0) >= SIBLINGS
    return np.where(enough, median(change, axis=0), 0.0)[None]


def _shared(climb: Floats) -> Floats:
    """The median of the runs at each step, or a run's own where it has too few siblings."""
    enough = (~np.isnan(climb)).sum(axis=0) >= SIBLINGS
    return np.where(enough, median(climb, axis=0), climb)


def _scale(change: Floats) -> Floats:
    """Median absolute change per step and metric, as a standard deviation: of all steps, or of those around if larger.

    Early in training runs differ in when they learn, and metrics of which little is known come and go.
    """
    n_run, n_step, n_metric = change.shape
    size = np.abs(change)
    usual = np.maximum(median(size.reshape(1, -1, n_metric), axis=1), np.finfo(float).tiny)
    if n_run < SIBLINGS:
        # Nothing but the fall itself would be around it.
        return np.broadcast_to(1.4826 * usual, (n_step, n_metric))
    padded = np.pad(size, ((0, 0), (1, 1), (0, 0)), constant_values=np.nan)
    around = median(np.concatenate([padded[:, lag : n_step + lag] for lag in range(3)]), axis=0)
    return np.asarray(1.4826 * np.fmax(usual, around))


def restart_findings(rows: Rows, labels: Labels) -> list[Finding]:
    """Findings on runs that fall back to an earlier level.

    Parameters
    ----------
    rows : Rows
        Of the cube.
    labels : Labels
        Of the cube.

    Notes
    -----
    Simulated clean cubes of 10 runs, 27 steps and 10 metrics (a rise, or none, and noise
    with an autocorrelation of 0 to 0.99 and normal or t(4) innovations) give any finding
    in fewer than 5 % of cases; so do sets of 4 to 6 of the 10 runs of the bundled cube, with all metrics or those
    of a family.
    """
    model_of = rows.chosen // len(labels.seeds)
    models = [np.flatnonzero(model_of == model) for model in np.unique(model_of)]
    n_learnt, measured = np.zeros((2, rows.n_run, rows.n_step), dtype=np.int64)
    deep: list[list[_Deep]] = [[] for _ in range(rows.n_run)]
    for metrics, values in rows:
        measured += (~np.isnan(values)).sum(axis=2)
        for runs in models:
            width = max(_BLOCK // (len(runs) * rows.n_step), 1)
            for start in range(0, len(metrics), width):
                block = values[runs, :, start : start + width]
                result = falls(block)
                n_learnt[runs] += result.learnt.sum(axis=2)
                hits = result.fell & (result.lost >= (ALONE_LOST if len(runs) < SIBLINGS else LOST))
                for i, t, k in np.argwhere(hits).tolist():
                    one = _deep(block[i, :, k], t, int(metrics[start + k]), labels)
                    if one is not None:
                        deep[runs[i]].append(one)
    found = [
        _finding(deep[r], n_learnt[r], np.flatnonzero(measured[r]), len(runs), int(rows.chosen[r]), labels)
        for runs in models
        for r in runs.tolist()
    ]
    return [finding for finding in found if finding is not None]


class _Deep(NamedTuple):
    """A fall of one metric of a run to a level of long ago: where, what it was back to, and what became of it."""

    place: int
    metric: int
    until: int
    again: bool | None
    share: float


def _deep(curve: Floats, t: int, metric: int, labels: Labels) -> _Deep | None:
    """What is to be said of a fall, if it is one to a level of long ago."""
    until = labels.steps[_last_so_low(curve, t)]
    if until > LONG_AGO * labels.steps[t]:
        return None
    return _Deep(t, metric, until, _climbs_again(curve, t), _share_lost(curve, t))


def _finding(
    deep: list[_Deep], n_learnt: Ints, measured: Ints, n_run: int, number: int, labels: Labels
) -> Finding | None:
    """The first fall of a run, if most of what it had learnt falls."""
    n_fell = np.bincount([one.place for one in deep], minlength=len(n_learnt))
    # Of metrics of which most are yet to be learnt, one that comes and goes is no restart.
    least = max((SHARE if n_run > SIBLINGS else FEW_SHARE) * n_learnt.max(), ALONE_METRICS if n_run < SIBLINGS else 1)
    together = (2 * n_fell >= n_learnt) & (n_fell >= least)
    if not together.any():
        return None
    # The fall may have begun one checkpoint earlier in a few metrics; it is dated where most fall.
    t = int(together.argmax())
    falling = [one for one in deep if one.place == t]
    model, seed = labels.run(number)
    share = float(np.median([one.share for one in falling]))
    # What it falls to below where it began is written as all of it.
    amount = "all" if share >= 1 else f"{100 * share:.0f} %"
    later = sum(one.again is not None for one in falling)
    climbs = sum(one.again is True for one in falling)
    if climbs * 2 > later:
        kind, tail = "restart", "and then climbs anew: this looks like a restart, or another run spliced in"
    elif later == 0:
        kind, tail = "restart", "with no later checkpoint that tells whether it climbs anew"
    else:
        kind, tail = "collapse", "and does not climb again"
    early = int(np.median([one.until for one in falling]))
    said = (
        f"at step {labels.steps[t]} {labels.name(number)} loses {amount} of what it had learnt in "
        f"{len(falling)} of {counted(int(n_learnt[t]), 'metric')}, back to its level at about step {early}, {tail}."
    )
    return Finding(kind, said, model, seed, steps=measured[measured >= t].tolist())


def _last_so_low(curve: Floats, t: int) -> int:
    """The last step before ``t`` at which the curve was no further than after the fall, at best."""
    before = np.flatnonzero(~np.isnan(curve[:t]))
    start, level = _levels(curve, t)
    next_ones = curve[t:][~np.isnan(curve[t:])][:AFTER]
    best = next_ones.max() if level >= start else next_ones.min()
    low = before[curve[before] <= best if level >= start else curve[before] >= best]
    return int(low[-1]) if len(low) else int(before[0])


def _levels(curve: Floats, t: int) -> tuple[float, float]:
    """Where a curve began, and its level just before ``t``."""
    before = curve[:t][~np.isnan(curve[:t])]
    return float(np.median(before[:BEFORE])), float(np.median(before[-BEFORE:]))


def _share_lost(curve: Floats, t: int) -> float:
    """How much of what was learnt is gone at ``t``."""
    start, level = _levels(curve, t)
    return float((level - curve[t]) / (level - start))


def _climbs_again(curve: Floats, t: int) -> bool | None:
    """Whether the curve comes at least a tenth of the lost way back; None without a later checkpoint."""
    after = curve[t + 1 :][~np.isnan(curve[t + 1 :])]
    if not len(after):
        return None
    level = _levels(curve, t)[1]
    return bool((after[-1] - curve[t]) * np.sign(level - curve[t]) >= 0.1 * abs(level - curve[t]))
