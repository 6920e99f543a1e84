"""Which runs are outliers, from which step, because of which metrics: one verdict on each run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, described, divided, finite, labels, mean, median, scaled
from polystab.analysis.audit.exclude import Exclude, leave_out
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.multiplicity import adjusted_p
from polystab.analysis.options import Rng, check_shares, check_whole, generator_of
from polystab.analysis.outliers.kernels import (
    LEAST,
    ROUNDING,
    Unlike,
    filled,
    resolutions,
    rotation_test,
    running_median,
    stretch,
)
from polystab.analysis.outliers.scores import THRESHOLD
from polystab.analysis.outliers.zscores import robust_z
from polystab.errors import AnalysisError
from polystab.progress_bars import tracked

# With three runs any of them is alone; the majority of four can be told.
MIN_JUDGED = 4

# Up to so many metrics, each is also looked at alone.
SINGLE_METRICS = 32

REASONS = 3

_DOCS = {
    "outlier": "whether the run is an outlier",
    "kind": "deviates: it left its siblings; diverged: it has infinite values where they have not; empty: no outlier",
    "p_value": "how often a set of runs like these without an outlier has one this far out",
    "q_value": "p_value adjusted for the number of runs in the cube",
    "p_any_model": "at most how often any of the models judged has a run this far out: p_value times their number",
    "p_rank": "share of the runs, itself included, that are as unlike the others",
    "smallest_p_rank": "the smallest p_rank that so many runs allow",
    "strength": "how far out, in standard deviations of the largest of a set",
    "group": "all metrics, the family or the metric in which it is furthest out",
    "from_step": "first step at which it is outside its siblings for good, -1 for none",
    "until_step": "last step of that stretch, -1 for none",
    "because": "metrics that are furthest out in that stretch",
    "because_score": "median robust z of these metrics in that stretch",
    "onset": "first step from which the metric is outside its siblings through that stretch, -1 for never",
    "n_onsets": "metrics that are",
    "judged": "whether a verdict was possible",
    "n_judged": "runs that were compared",
    "ends_at": "last step measured of the metric of the run that ends first, if siblings go on; -1 if none does",
    "n_ended": "metrics that end before those of most siblings",
    "note": "why there is no verdict, and what was left out",
}


@dataclass(eq=False)
class _Found:
    """What is known about the runs of one model; arrays over runs."""

    p: Floats
    strength: Floats
    group: Ints
    first: Ints
    last: Ints
    outlier: Bools
    judged: Bools
    notes: list[str] = field(default_factory=list)


def outlier_runs(
    cube: xr.Dataset | xr.DataTree,
    *,
    false_alarm: float = 0.05,
    draws: int = 999,
    rng: Rng = 0,
    exclude: Exclude = None,
) -> xr.Dataset:
    """Which runs are outliers among the runs of their model, from which step, because of which metrics.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    false_alarm : float, optional
        Wanted share of sets of runs (one model) without an outlier in which any is found.
    draws : int, optional
        Random rotations per model; the smallest p-value is ``1 / (draws + 1)``.
    rng : int, numpy.random.Generator or None, optional
        Source of the rotations.
    exclude : 'audit', xarray.Dataset or None, optional
        Leave out the values that an audit says do not belong where they stand: ``audit`` makes one, a
        Dataset holds the findings of one. See :func:`polystab.analysis.excluded_cells`; how much was
        left out is in ``attrs`` (``excluded_values``, ``excluded_share``, ``excluded_by``).

    Returns
    -------
    xarray.Dataset
        Per run (model, seed): ``outlier``, bool; ``kind`` (``deviates``, ``diverged`` or
        empty); ``p_value``, for the whole set of runs, steps and metrics; ``q_value``
        (Benjamini-Hochberg over the ``n_tests`` runs of the cube, in ``attrs``); ``p_any_model``
        (Bonferroni over the ``n_models`` that were judged, each of which has its false alarms);
        ``p_rank``, the conformal rank among the runs; ``strength``; ``group``; ``from_step``,
        ``until_step``; ``n_onsets``; ``judged``; ``ends_at``, ``n_ended``. ``because`` and
        ``because_score`` (model, seed, reason): three metrics. ``onset(model, seed, metric)``.
        Per model: ``n_judged``, ``smallest_p_rank``, ``note``. Steps are -1 and names empty where
        there is none, p-values NaN where there is no verdict. In ``attrs`` besides: ``smallest_p``, the smallest p-value
        of so many draws, and ``n_expected_by_chance``, models with an outlier if in truth none has one.

    Raises
    ------
    AnalysisError
        ``false_alarm`` does not lie between 0 and 1, or ``draws`` are too few for it.

    Notes
    -----
    A rank among ten runs cannot fall below 1/10, whatever the run does (``p_rank``). The verdict
    needs an assumption: that the runs of a model are independent draws of one normal
    distribution of curves, with any mean, any autocorrelation and any correlation between
    metrics. Then randomly rotated sets of runs are as likely as the set itself, and their largest statistic
    is its null distribution (:func:`polystab.analysis.outliers.kernels.rotation_test`). No
    dependence is estimated. The smoothing is not linear, so the share is not exact
    (``benchmarks/bench_outliers.py`` counts it), and heavy tails raise it. Runs known to differ (other data, other learning rate) are no set.

    *Statistic.* Deviations from the mean of the runs, so that what happens to all runs at once is
    gone, smoothed by a running median of three checkpoints, so that a glitch is no outlier. Every cell is divided by its standard deviation over runs, and averaged over windows
    of at least three checkpoints and a tenth of all. In a window, half of the other runs are within some
    distance of a run; the statistic compares this distance with that of the 70 % of the
    runs that have the smallest. So two or three outliers of ten do not mask each other. It is taken over all
    metrics, each family, and each metric if there are at most 32; the largest, standardised, counts.

    Scores of few test items are often equal in most runs. The smallest difference between two values of a
    metric counts as its resolution: it is added to the standard deviation and to both distances, so
    that one item more or less is no outlier.

    *Several outliers.* Runs found are taken out and the rest is tested again, until none is
    found (never more than half less one).

    *From step.* A run is outside at a step if it is further from the siblings' median (root mean
    square of robust z over the group's metrics) than each of the runs that are not outliers.
    ``from_step`` begins the stretch of such steps that covers most of the window found; single steps
    inside do not end it. ``onset`` is the same for each metric, if beyond 3.5 and
    for at least half of the run's stretch.

    *Missing values.* Infinite values where most siblings have none are a divergence, a verdict
    of its own without p-value; such runs take no part in the rest. Gaps inside a curve are filled with
    the deviation interpolated. A run that lacks what its siblings have (it ended early, or has another
    grid) is compared with them on what they share, alone, and its p-value counts these
    additional tests; ``ends_at`` says so. Copies of other runs are not judged. With fewer than four
    runs or three checkpoints there is no verdict, and ``note`` says so.

    References
    ----------
    Langsrud, O. (2005). Rotation tests. Statistics and Computing 15, 53-60.
    https://doi.org/10.1007/s11222-005-4789-5

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis.outliers.verdicts import outlier_runs
    >>> cube = polystab.testing.synthetic_cube(
    ...     n_models=1, n_seeds=8, events=[polystab.testing.Event.outlier(3, 50_000)], rng=0)
    >>> found = outlier_runs(cube, draws=199).isel(model=0)
    >>> found["seed"].values[found["outlier"]].tolist()
    [3]
    """
    cube, left_out = leave_out(cube, exclude)
    check_shares(false_alarm=false_alarm)
    check_whole("draws", draws, 1)
    if (draws + 1) * false_alarm < 1:
        raise AnalysisError(
            f"draws is {draws}: the smallest p-value would be 1 / {draws + 1}, above the false_alarm of "
            f"{false_alarm}; take at least {int(np.ceil(1 / false_alarm))}, better 999."
        )
    generator = generator_of(rng)
    values, _ = counted_cells(cube)
    groups, names = _groups(cube)
    models = [
        _judge_model(model, cube, groups, names, false_alarm, draws, generator)
        for model in tracked(values, "looking for outliers", unit="model")
    ]
    columns = {name: np.stack([model[name] for model in models]) for name in models[0]} if models else {}
    result = xr.Dataset(coords=labels(cube, "model", "seed", "step", "metric"))
    result.attrs = {"false_alarm": float(false_alarm), "draws": int(draws), "min_runs": MIN_JUDGED, **left_out}
    for name, column in columns.items():
        result[name] = (_dims(name, column.ndim), column)
    q_value, n_tests = adjusted_p(result["p_value"].values)
    result["q_value"] = (("model", "seed"), q_value)
    result.attrs["n_tests"] = int(n_tests)
    n_models = sum(int(model["n_judged"] > 0) for model in models)
    result["p_any_model"] = (("model", "seed"), np.minimum(result["p_value"].values * n_models, 1.0))
    result.attrs |= {
        "n_models": n_models,
        "n_expected_by_chance": false_alarm * n_models,
        "smallest_p": 1 / (draws + 1),
    }
    return described(result, _DOCS)


def _dims(name: str, n: int) -> tuple[str, ...]:
    last = "metric" if name == "onset" else "reason"
    return ("model", "seed", last)[:n]


def _groups(cube: xr.Dataset) -> tuple[list[Ints], list[str]]:
    """Sets of metrics that are looked at together, each once, and what they are called."""
    n = cube.sizes["metric"]
    found = {tuple(range(n)): "all metrics"}
    family = cube["family"].values if "family" in cube.coords else np.full(n, "")
    for name in np.unique(family).tolist():
        found.setdefault(tuple(np.flatnonzero(family == name).tolist()), str(name))
    if n <= SINGLE_METRICS:
        for m, name in enumerate(cube["metric"].values.tolist()):
            found.setdefault((m,), str(name))
    return [np.array(group, dtype=np.int64) for group in found], list(found.values())


def _judge_model(
    values: Floats,
    cube: xr.Dataset,
    groups: list[Ints],
    names: list[str],
    false_alarm: float,
    draws: int,
    rng: np.random.Generator,
) -> dict[str, npt.NDArray[Any]]:
    """All that is said about the runs of one model, (seed, step, metric)."""
    measured: Bools = np.asarray(~np.isnan(values).all(axis=(1, 2)))
    diverged, diverged_at, infinite = _diverged(values)
    off, resolution = _deviations(values)
    found = _tested(off, resolution, measured & ~diverged, groups, false_alarm, draws, rng)
    outlier = found.outlier | diverged
    steps, metrics = cube["step"].values, cube["metric"].values
    n_seed, n_step, n_metric = values.shape
    siblings = measured & ~outlier
    reference = np.where(siblings[:, None, None], values, np.nan)
    blank = np.full(n_seed, -1, dtype=np.int64)
    begin, end = blank.copy(), blank.copy()
    because = np.full((n_seed, REASONS), "", dtype=metrics.dtype)
    score, onset = np.full((n_seed, REASONS), np.nan), np.full((n_seed, n_metric), -1, dtype=np.int64)
    z = robust_z(values[None], reference[None])[0][0] if outlier.any() else np.empty(0)
    for run in np.flatnonzero(outlier).tolist():
        if diverged[run]:
            begin[run], end[run] = diverged_at[run], n_step - 1
        else:
            group = groups[found.group[run]]
            window = int(found.first[run]), int(found.last[run])
            begin[run], end[run] = stretch(_outside(z[:, :, group], run, siblings), *window) or window
        inside = slice(int(begin[run]), int(end[run]) + 1)
        typical = median(np.clip(z[run, inside], -1e300, 1e300), axis=0)
        typical = np.where(infinite[run] | (np.abs(typical) >= 1e299), np.copysign(np.inf, typical), typical)
        order = np.argsort(-np.nan_to_num(np.abs(typical), nan=-1.0), kind="stable")[:REASONS]
        told = order[np.nan_to_num(np.abs(typical[order]), nan=0.0) > 0]
        because[run, : len(told)], score[run, : len(told)] = metrics[told], typical[told]
        onset[run] = _onsets(z, run, siblings, int(begin[run]), int(end[run]))
    ends_at, n_ended = _ends(values, measured)
    notes = [*found.notes, *([f"{int(diverged.sum())} with infinite values"] if diverged.any() else [])]
    n = int(found.judged.sum())
    rank = (found.strength[None, :] >= found.strength[:, None]).sum(axis=1) / max(n, 1)
    return {
        "outlier": outlier,
        "kind": np.where(diverged, "diverged", np.where(outlier, "deviates", "")),
        "p_value": found.p,
        "p_rank": np.where(found.judged, rank, np.nan),
        "smallest_p_rank": np.array(1 / n if n else np.nan),
        "strength": found.strength,
        "group": np.where(found.group >= 0, np.array(names)[found.group], ""),
        "from_step": np.where(begin >= 0, steps[begin], -1),
        "until_step": np.where(end >= 0, steps[end], -1),
        "because": because,
        "because_score": score,
        "onset": np.where(onset >= 0, steps[onset], -1),
        "n_onsets": (onset >= 0).sum(axis=1),
        "judged": found.judged | diverged,
        "n_judged": np.array(n),
        "ends_at": np.where(ends_at >= 0, steps[ends_at], -1),
        "n_ended": n_ended,
        "note": np.array("; ".join(notes)),
    }


def _diverged(values: Floats) -> tuple[Bools, Ints, Bools]:
    """Runs with an infinite value in a cell where fewer than half of the runs have one, where first, in which metrics."""
    infinite = np.isinf(values)
    rare = infinite.sum(axis=0) * 2 < (~np.isnan(values)).sum(axis=0)
    own = infinite & rare
    at = own.any(axis=2)
    return at.any(axis=1), at.argmax(axis=1).astype(np.int64), own.any(axis=1)


def _deviations(values: Floats) -> tuple[Floats, Floats]:
    """Deviations of the runs, smooth, gaps filled, NaN where too few are measured; and each metric's resolution."""
    n_seed, n_step, n_metric = values.shape
    flat, _ = scaled(finite(values).transpose(2, 0, 1).reshape(n_metric, -1), axis=1)
    small = flat.reshape(n_metric, n_seed, n_step).transpose(1, 2, 0)
    centre = median(small, axis=0)
    off = small - centre
    off = np.where(np.abs(off) <= ROUNDING * np.abs(centre), 0.0 * off, off)
    known = ~np.isnan(small)
    runs = known.any(axis=(1, 2)).sum()
    common = 2 * known.sum(axis=0) >= runs
    off = filled(np.where(common, off, np.nan))
    # About the mean before smoothing: about the median of five runs one of them is 0 at every step, which is not normal;
    # 9 % of clean sets then had a verdict at 5 %.
    off = running_median(off - mean(off, axis=0))
    return np.where(common, off, np.nan), resolutions(small)


def _tested(
    off: Floats,
    resolution: Floats,
    taking_part: Bools,
    groups: list[Ints],
    false_alarm: float,
    draws: int,
    rng: np.random.Generator,
) -> _Found:
    """Verdicts on the runs that can be compared: those of one grid together, then each of the others with them."""
    n = len(off)
    blank, nan = np.full(n, -1, dtype=np.int64), np.full(n, np.nan)
    found = _Found(nan.copy(), nan.copy(), blank.copy(), blank.copy(), blank.copy(), blank >= 0, blank >= 0)
    if int(taking_part.sum()) < MIN_JUDGED:
        runs = int(taking_part.sum())
        found.notes.append(f"no verdict: {runs} runs that are no copies, {MIN_JUDGED} are needed")
        return found
    main = _main_runs(off, taking_part)
    if not len(main):
        found.notes.append(f"no verdict: no {MIN_JUDGED} runs share a metric at {LEAST} checkpoints")
        return found
    others = [run for run in np.flatnonzero(taking_part).tolist() if run not in set(main.tolist())]
    times = 1 + len(others)
    active, bound = main, 0.0
    while True:
        test = _rotated(off[active], resolution, groups, draws, rng)
        # Stepping down: a run found later cannot be surer than those found before it.
        p = np.maximum(np.minimum(test.p * times, 1.0), bound)
        _put(found, active, p, test, np.arange(len(active)))
        new = p <= false_alarm
        rest = active[~new]
        if not new.any() or len(rest) < MIN_JUDGED or 2 * len(rest) <= len(main):
            # More than half is no set of outliers: leave it at those that are furthest out.
            if new.any() and 2 * len(rest) > len(main):
                found.outlier[active[new]] = True
                active = rest
            elif new.any():
                found.notes.append(f"{new.sum()} of {len(active)} runs are apart from the rest, too many to name any")
            break
        found.outlier[active[new]] = True
        active, bound = rest, float(p[new].max())
    missing = 0
    for run in others:
        rows = np.append(active, run)
        complete = ~np.isnan(off[rows]).any(axis=0)
        if len(rows) < MIN_JUDGED or (complete.sum(axis=0) < LEAST).all():
            missing += 1
            continue
        test = _rotated(off[rows], resolution, groups, draws, rng)
        p = np.minimum(test.p * times, 1.0)
        _put(found, rows[-1:], p[-1:], test, np.array([len(rows) - 1]))
        found.outlier[run] = bool(p[-1] <= false_alarm)
    if others:
        found.notes.append(f"{len(others)} runs lack checkpoints of the others and were compared on what they share")
    if missing:
        found.notes.append(f"{missing} of them share too few for a verdict")
    return found


def _put(found: _Found, runs: Ints, p: Floats, test: Unlike, rows: Ints) -> None:
    found.p[runs], found.judged[runs] = p, True
    found.strength[runs], found.group[runs] = test.strength[rows], test.group[rows]
    found.first[runs], found.last[runs] = test.first[rows], test.last[rows]


def _main_runs(off: Floats, taking_part: Bools) -> Ints:
    """The runs with the most complete cells in common: number of runs times number of cells is largest."""
    known = ~np.isnan(off)
    order = np.flatnonzero(taking_part)
    order = order[np.argsort(-known[order].sum(axis=(1, 2)), kind="stable")]
    best, chosen = 0, np.empty(0, dtype=np.int64)
    together = known[order[0]].copy()
    for n, run in enumerate(order.tolist(), start=1):
        together &= known[run]
        long_enough = together.sum(axis=0) >= LEAST
        size = n * int(together[:, long_enough].sum())
        if n >= MIN_JUDGED and size and size >= best:
            best, chosen = size, np.sort(order[:n])
    return chosen


def _rotated(off: Floats, resolution: Floats, groups: list[Ints], draws: int, rng: np.random.Generator) -> Unlike:
    """Rotation test on the cells that all these runs have; steps without any are passed over."""
    complete: Bools = np.asarray(~np.isnan(off).any(axis=0))
    kept = np.flatnonzero(complete.any(axis=1))
    # A cell that one run lacks says nothing about any: 0 in all.
    off = np.where(complete, off, 0.0)[:, kept]
    test = rotation_test(off, groups, resolution=resolution, draws=draws, rng=rng)
    test.first[:], test.last[:] = kept[test.first], kept[test.last]
    return test


def _outside(z: Floats, run: int, siblings: Bools) -> Bools:
    """Steps at which a run is further from the median than each of its siblings, z of (runs, steps, metrics)."""
    square = np.minimum(np.abs(z), 1e100) ** 2
    size = np.sqrt(divided(np.nansum(square, axis=2), np.sum(~np.isnan(square), axis=2)))
    others = np.max(np.nan_to_num(size[siblings]), axis=0, initial=0.0)
    return np.asarray(np.nan_to_num(size[run]) > others)


def _onsets(z: Floats, run: int, siblings: Bools, begin: int, end: int) -> Ints:
    """For each metric, the first step of its own stretch outside, if that holds for half of begin to end; else -1."""
    size = np.nan_to_num(np.abs(z), posinf=np.inf)
    flags = (size[run] > np.max(size[siblings], axis=0, initial=0.0)) & (size[run] > THRESHOLD)
    onset = np.full(z.shape[2], -1, dtype=np.int64)
    for m in np.flatnonzero(flags[begin : end + 1].any(axis=0)).tolist():
        own = stretch(flags[:, m], begin, end)
        if own and 2 * (min(own[1], end) - max(own[0], begin) + 1) >= end - begin + 1:
            onset[m] = own[0]
    return onset


def _ends(values: Floats, measured: Bools) -> tuple[Ints, Ints]:
    """Last step of the metric that ends first before those of most siblings do (-1), and how many metrics end so."""
    n_step = values.shape[1]
    known = ~np.isnan(values)
    last = np.where(known.any(axis=1), n_step - 1 - known[:, ::-1].argmax(axis=1), -1)
    usual = median(np.where((last >= 0) & measured[:, None], last, np.nan), axis=0)
    early = (last >= 0) & (last < np.floor(np.nan_to_num(usual, nan=-1.0)))
    first = np.where(early, last, n_step).min(axis=1, initial=n_step)
    return np.where(early.any(axis=1), first, -1).astype(np.int64), early.sum(axis=1)
