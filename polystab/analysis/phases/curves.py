"""When training changes character: the change points of every run of a cube."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, described, divided, finite, labels, mean, median
from polystab.analysis.audit.exclude import Exclude, leave_out
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.change_points import Segmentation, segment_many
from polystab.analysis.chunked import in_parts, with_copies
from polystab.analysis.multiplicity import adjusted_p
from polystab.analysis.phases.joint import segment_jointly
from polystab.analysis.segments.profile import MIN_SIZES
from polystab.errors import AnalysisError, did_you_mean

POSITIONS = ("index", "step", "log_step")

# Why no change was looked for in a curve, as a code and a word.
REASONS = ("looked_at", "not_measured", "copy", "too_few_points", "constant")
LOOKED_AT, NOT_MEASURED, COPY, TOO_FEW, CONSTANT = range(len(REASONS))

_DOCS = {
    "step": "first checkpoint of the new phase",
    "before": "last checkpoint of the old phase; the change lies between the two",
    "lower": "earliest checkpoint at which the new phase may begin",
    "upper": "latest checkpoint at which the new phase may begin",
    "size": "size of the change",
    "p": "chance of such a change in a curve without any; not corrected for many curves",
    "p_none": "chance of changes as strong as this curve's in a curve without any; not corrected for many curves",
    "q": "p_none adjusted for the number of curves looked at (Benjamini and Hochberg)",
    "n_changes": "change points of the curve, -1 where none was looked for",
    "glitch": "isolated bad checkpoint whose neighbours agree; not a phase",
    "measured": "the curve has a finite value at the checkpoint",
    "n_steps": "checkpoints with a finite value",
    "n_nonfinite": "checkpoints left out because the value is infinite: the run diverged",
    "reason": "why no change was looked for",
    "used": "the metric takes part in the joint segmentation of the run",
}


class _Curves(NamedTuple):
    """What is segmented; the first three dimensions are model, seed and metric (joint: one)."""

    values: Floats  # with step and column
    measured: Bools  # with step
    n_nonfinite: Ints
    reason: Ints
    used: Bools | None = None  # joint: model, seed and metric
    scale: Floats | None = None


def change_points(
    cube: xr.Dataset | xr.DataTree,
    *,
    metrics: str | Iterable[str] | None = None,
    joint: bool = False,
    cost: str = "l2",
    x: str = "index",
    false_alarm: float = 0.05,
    penalty: float | str | None = None,
    min_size: int | None = None,
    max_changes: int | None = None,
    rng: int | np.random.Generator | None = None,
    exclude: Exclude = None,
) -> xr.Dataset:
    """When each run changes: the change points of every curve, or of many metrics jointly.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    metrics : str or iterable of str, optional
        Which metrics; all if not given.
    joint : bool, optional
        One segmentation for each run from all of ``metrics`` together.
    cost : {'l2', 'meanvar', 'linear', 'continuous'}, optional
        What changes: the level; level and variance; a line; a line without jumps.
    x : {'index', 'step', 'log_step'}, optional
        What lines are straight over: the number of the checkpoint, the step, or
        ``log(1 + step)``. Levels do not depend on it.
    false_alarm : float, optional
        Share of curves without any change that are to be given one, for each curve.
    penalty : float or {'bic', 'mbic', 'aic'}, optional
        In place of ``false_alarm``, see :func:`polystab.analysis.change_points.segment`;
        for white noise. If joint, a number is in squared units of the noise.
    min_size : int, optional
        Fewest checkpoints of a phase.
    max_changes : int, optional
        Most changes of a curve.
    rng : int, numpy.random.Generator or None, optional
        Source of chance.
    exclude : 'audit', xarray.Dataset or None, optional
        Leave out the values that an audit says do not belong where they stand: ``audit`` makes one, a
        Dataset holds the findings of one. See :func:`polystab.analysis.excluded_cells`; how much was
        left out is in ``attrs`` (``excluded_values``, ``excluded_share``, ``excluded_by``).

    Returns
    -------
    xarray.Dataset
        Over (model, seed, metric, change), in the order of training: ``step`` and
        ``before``, the checkpoints that bracket the change; ``lower`` and ``upper``, the
        first and last checkpoint at which the new phase may begin; ``size``, in the
        metric's units; ``p``. Steps are -1, the others NaN, where a curve has fewer changes.
        Over (model, seed, metric): ``n_changes`` (0 is an answer, -1 says that none was
        looked for), ``p_none``, ``q``, ``reason`` (an integer code, ``attrs["flag_meanings"]``, 0 where it was
        looked for), ``n_steps`` and ``n_nonfinite``. Over (model, seed, metric, checkpoint),
        where the coordinate ``checkpoint`` holds the cube's steps: ``measured`` and ``glitch``.

        If joint, nothing has ``metric`` but ``size`` and ``used(model, seed, metric)``.

        The arguments, ``n_curves`` looked at, ``n_curves_with_changes`` and
        ``n_expected_by_chance`` are in ``attrs``.

    Raises
    ------
    AnalysisError
        No such metric, cost or ``x``; ``false_alarm`` is not between 0 and 1.

    Notes
    -----
    Every curve is segmented on the checkpoints at which it is measured: NaN is passed
    over, and so is an infinite value (the run diverged). ``false_alarm`` is kept with the
    curve's own autocorrelation (:func:`polystab.analysis.change_points.segment`). It holds for
    each curve: of 200 metrics of a run that never changes about ten are given a change.
    ``n_expected_by_chance`` says how many of the curves looked at that would be; compare it with
    ``n_curves_with_changes``. ``q`` is for all curves at once: of the curves with ``q`` of at most 0.05, at
    most 5 % are expected to have no change.

    Smooth curves have no change points, but may be given some. A level cut into steps is how ``l2`` describes a
    rise that goes on; if the rise itself is one phase, take ``linear`` or ``continuous``.

    *Joint.* Each metric is divided by the robust scale of its noise (median absolute
    difference of neighbours), so that a metric counts by how clearly it changes and not
    by its unit. Checkpoints count at which all of the run's metrics are finite; a metric
    that is constant or was never measured is left out (``used``). How strong the changes of noise are is
    simulated once for the runs of a model, with their correlation between metrics and in time; for 14 metrics
    at 154 checkpoints that takes about as long as 1,000 single curves. In simulations with 5 and 8 metrics
    4-6 % of runs of noise have a joint change.

    *None looked for.* A curve with too few points for two phases; a constant curve; a
    copy of another run (:func:`duplicate_runs`), which counts once.

    References
    ----------
    Jackson, B. et al. (2005). An algorithm for optimal partitioning of data on an interval.
    IEEE Signal Processing Letters 12, 105-108. https://doi.org/10.1109/LSP.2001.838216

    Examples
    --------
    >>> import polystab as ps, polystab.testing
    >>> from polystab.analysis.phases import change_points
    >>> cube = polystab.testing.phase_cube(changes=[20_000], n_seeds=3, n_metrics=1, jump=6.0, rng=0)
    >>> found = change_points(cube, rng=0).squeeze()
    >>> found["before"].values.tolist(), found["step"].values.tolist()
    ([19000, 19000, 19000], [20000, 20000, 20000])
    """
    cube, left_out = leave_out(cube, exclude)
    if x not in POSITIONS:
        raise AnalysisError(f"there is no x {x!r}. {did_you_mean(str(x), POSITIONS)}")
    # Which runs are copies is told from all metrics, of which only some are looked at.
    cube = with_copies(cube).isel(metric=_chosen(cube, metrics))
    options = {
        "cost": cost,
        "false_alarm": false_alarm,
        "penalty": penalty,
        "min_size": min_size,
        "max_changes": max_changes,
    }
    found = functools.partial(_of_metrics, joint=joint, x=x, options=options)
    chance = np.random.default_rng(rng)
    result = found(cube, rng=chance) if joint else in_parts(found, cube, rng=chance)
    result["q"] = result["p_none"].dims, adjusted_p(result["p_none"].values)[0], result["q"].attrs
    n_looked = int(np.sum(result["reason"].values == LOOKED_AT))
    result.attrs = {
        **{name: value for name, value in options.items() if value is not None},
        "min_size": MIN_SIZES[cost] if min_size is None else min_size,
        "x": x,
        "joint": int(joint),
        "n_curves": n_looked,
        "n_curves_with_changes": int(np.sum(result["n_changes"].values > 0)),
        **left_out,
    }
    if penalty is None:
        result.attrs["n_expected_by_chance"] = false_alarm * n_looked
    else:
        del result.attrs["false_alarm"]
    return result


def _of_metrics(
    cube: xr.Dataset, *, joint: bool, x: str, options: Mapping[str, Any], rng: np.random.Generator
) -> xr.Dataset:
    """What the curves of some metrics say, but for what takes all curves together."""
    steps = np.asarray(cube["step"].values, dtype=np.int64)
    values, copies = counted_cells(cube)
    curves = (_joint_curves if joint else _own_curves)(np.moveaxis(values, 2, 3), copies)
    found = _segmented(curves, positions(steps, x), {**options, "rng": rng})
    return _labelled(cube, steps, curves._replace(reason=_reasons(curves, found)), found)


def positions(steps: Ints, x: str) -> Floats:
    """Where the checkpoints lie on the axis over which lines are straight."""
    if x == "index":
        return np.arange(len(steps), dtype=np.float64)
    return np.log1p(steps.astype(np.float64)) if x == "log_step" else steps.astype(np.float64)


def _chosen(cube: xr.Dataset, metrics: str | Iterable[str] | None) -> list[int]:
    known = [str(name) for name in cube["metric"].values]
    wanted = known if metrics is None else [metrics] if isinstance(metrics, str) else list(metrics)
    for name in wanted:
        if name not in known:
            raise AnalysisError(f"the cube has no metric {name!r}. {did_you_mean(str(name), known)}")
    if not wanted:
        raise AnalysisError("no metrics were asked for; leave metrics out for all of them.")
    return [known.index(name) for name in wanted]


def _own_curves(values: Floats, copies: Bools) -> _Curves:
    """Every metric of every run by itself, (model, seed, metric, step, 1)."""
    known = np.isfinite(values)
    reason = np.where(_varies(values), LOOKED_AT, CONSTANT)
    reason = np.where(known.any(axis=3), reason, NOT_MEASURED)
    return _Curves(finite(values)[..., None], known, np.isinf(values).sum(axis=3), np.where(copies, COPY, reason))


def _joint_curves(values: Floats, copies: Bools) -> _Curves:
    """All metrics of every run together in units of their noise, (model, seed, 1, step, metric)."""
    known = np.isfinite(values)
    used: Bools = _varies(values)
    complete = np.all(known | ~used[..., None], axis=2, keepdims=True) & np.any(used, axis=2)[:, :, None, None]
    plain = np.where(complete & used[..., None], values, np.nan)
    plain = plain - median(plain, axis=3)[..., None]  # levels far from zero would cost digits
    used = np.logical_and(used, _varies(plain))  # where all are measured, some are constant
    scale = np.where(used, noise_scale(plain), np.nan)
    reason = np.where(used.any(axis=2), LOOKED_AT, CONSTANT)
    reason = np.where(known.any(axis=(2, 3)), reason, NOT_MEASURED)
    reason = np.where(copies.all(axis=2), COPY, reason)
    return _Curves(
        np.moveaxis(divided(plain, scale[..., None]), 2, 3)[:, :, None],
        complete,
        np.isinf(values).any(axis=2).sum(axis=2)[:, :, None],
        reason[:, :, None],
        used,
        scale,
    )


def _varies(values: Floats) -> Bools:
    """Whether there are two different finite numbers along the last axis."""
    known = np.isfinite(values)
    high = np.max(values, axis=-1, initial=-np.inf, where=known)
    return np.asarray(high > np.min(values, axis=-1, initial=np.inf, where=known), dtype=np.bool_)


def noise_scale(values: Floats) -> Floats:
    """Standard deviation of the noise along the last axis, from differences of neighbours; NaN if constant.

    Median absolute difference; the mean where more than half of the differences are zero.
    """
    ordered = np.take_along_axis(values, np.argsort(np.isnan(values), axis=-1, kind="stable"), axis=-1)
    if values.shape[-1] < 2:
        return np.full(values.shape[:-1], np.nan)
    steps = np.abs(np.diff(ordered, axis=-1))
    middle = median(steps, axis=-1) / (0.6745 * np.sqrt(2))
    scale = np.where(middle > 0, middle, mean(steps, axis=-1))
    return np.where(scale > 0, scale, np.nan)


def _segmented(curves: _Curves, x: Floats, options: Mapping[str, Any]) -> dict[tuple[int, ...], Segmentation]:
    """The segmentation of every curve that has any values, by its place along model, seed and metric."""
    places: list[tuple[int, ...]] = [tuple(where) for where in np.argwhere(curves.reason == LOOKED_AT).tolist()]
    if curves.used is None:
        rows = np.array([curves.values[where][:, 0] for where in places]).reshape(-1, len(x))
        return dict(zip(places, segment_many(rows, x=x, **options), strict=True))
    # Runs of a model have the same noise: one null distribution for those with the same metrics.
    alike: dict[tuple[int, bytes], list[tuple[int, ...]]] = {}
    for where in places:
        alike.setdefault((where[0], curves.used[where[:2]].tobytes()), []).append(where)
    found: dict[tuple[int, ...], Segmentation] = {}
    for runs in alike.values():
        y = np.stack([curves.values[where][:, curves.used[where[:2]]] for where in runs])
        found |= zip(runs, segment_jointly(y, x, **options), strict=True)
    return found


def _reasons(curves: _Curves, found: Mapping[tuple[int, ...], Segmentation]) -> Ints:
    """The reasons, with those that only the segmentation can tell: what is left without glitches."""
    reason = curves.reason.copy()
    for where, segmentation in found.items():
        if np.isnan(segmentation.penalty):
            left = curves.values[where][~np.isnan(segmentation.fitted.reshape(len(curves.values[where]), -1)[:, 0])]
            reason[where] = CONSTANT if len(left) > 1 and not _varies(left.T).any() else TOO_FEW
    return reason


def _labelled(
    cube: xr.Dataset, steps: Ints, curves: _Curves, found: Mapping[tuple[int, ...], Segmentation]
) -> xr.Dataset:
    shape = curves.reason.shape
    most = max(map(len, found.values()), default=0)
    marks = {name: np.full((*shape, most), -1, dtype=np.int64) for name in ("step", "before", "lower", "upper")}
    p, p_none = np.full((*shape, most), np.nan), np.full(shape, np.nan)
    size = np.full((*shape[:2], cube.sizes["metric"], most), np.nan)
    n_changes = np.where(curves.reason == LOOKED_AT, 0, -1)
    glitch = np.zeros(curves.measured.shape, dtype=np.bool_)
    for where, segmentation in found.items():
        glitch[where][segmentation.glitches] = True
        if curves.reason[where] != LOOKED_AT:
            continue
        n = n_changes[where] = len(segmentation)
        places = (segmentation.indices, segmentation.before, *segmentation.intervals.T)
        for mark, place in zip(marks.values(), places, strict=True):
            mark[where][:n] = steps[place]
        p[where][:n], p_none[where] = segmentation.p_values, segmentation.p_none
        if curves.used is None or curves.scale is None:
            size[where][:n] = segmentation.sizes
        else:
            model, seed, _ = where
            own = curves.used[model, seed]
            size[model, seed, own, :n] = segmentation.sizes.T * curves.scale[model, seed, own, None]
    per_curve = ("model", "seed", "metric")
    variables: dict[str, tuple[tuple[str, ...], Any]] = {
        **{name: ((*per_curve, "change"), array) for name, array in marks.items()},
        "size": ((*per_curve, "change"), size),
        "p": ((*per_curve, "change"), p),
        "n_changes": (per_curve, n_changes),
        "p_none": (per_curve, p_none),
        "q": (per_curve, np.full(shape, np.nan)),  # takes all curves
        "reason": (per_curve, curves.reason.astype(np.int8)),
        "n_steps": (per_curve, curves.measured.sum(axis=3)),
        "n_nonfinite": (per_curve, curves.n_nonfinite),
        "measured": ((*per_curve, "checkpoint"), curves.measured),
        "glitch": ((*per_curve, "checkpoint"), glitch),
    }
    if curves.used is not None:
        of_run = {
            name: (tuple(d for d in dims if d != "metric"), array.squeeze(2))
            for name, (dims, array) in variables.items()
            if name != "size"
        }
        variables = {**of_run, "size": variables["size"], "used": (per_curve, curves.used)}
    result = xr.Dataset(variables, coords={**labels(cube, *per_curve), "checkpoint": steps})
    result = described(result, {name: _DOCS[name] for name in variables})
    result["reason"].attrs |= {
        "flag_values": np.arange(len(REASONS), dtype=np.int8),
        "flag_meanings": " ".join(REASONS),
    }
    return result
