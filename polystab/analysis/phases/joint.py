"""Many metrics of each run segmented at once, with one null distribution for all runs that have the same noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Floats, Ints
from polystab.analysis.change_points import Segmentation
from polystab.analysis.segments.details import Fits, fitted, intervals, p_values
from polystab.analysis.segments.engine import Cut, by_likelihood, by_name, by_penalty
from polystab.analysis.segments.inputs import Group, Options, groups, read_options
from polystab.analysis.segments.null import (
    LEVELS,
    LONGEST_SIMULATED,
    TRUE_RHOS,
    Null,
    ar1_noise,
    null_strengths,
    tabulated,
)
from polystab.analysis.segments.profile import Model, autocorrelation
from polystab.errors import AnalysisError

# Series without changes that are simulated: the 5 % criterion is then exceeded by 3.6 to 6.4 %.
SIMULATED = 1000

NOTHING: Ints = np.empty(0, dtype=np.int64)


def segment_jointly(
    y: Floats, x: Floats, *, rng: np.random.Generator, penalty: float | str | None, **options: Any
) -> list[Segmentation]:
    """The changes of each run, common to all columns.

    The null distribution of many columns has to be simulated with their correlation, which
    takes longer than the segmentation: it is done once, with what the runs say together
    about correlation and autocorrelation.

    Parameters
    ----------
    y : (run, step, column) array
        In units of the noise of each column; NaN in all columns of a step that is not measured.
    x : (step,) array
        Increasing positions.
    rng : numpy.random.Generator
        For the simulation.
    penalty, **options
        As for :func:`polystab.analysis.change_points.segment`; a penalty by number is in
        squared units of the noise.

    Returns
    -------
    list of Segmentation
        One for each run, without a path.
    """
    checked = read_options(penalty=penalty, **options)
    if checked.cost == "continuous" and y.shape[2] > 1:
        raise AnalysisError("cost 'continuous' takes one metric at a time; use cost='linear' for a joint segmentation.")
    parts = groups(y, cleaned=penalty is None)
    seed = int(rng.integers(2**32))
    null: Null | None = None
    found: dict[int, Segmentation] = {}
    for group in sorted(parts, key=lambda part: -len(part.rows)):
        n = len(group.kept)
        model = Model(checked.cost, x[group.kept], checked.min_size)
        short = not n or (not checked.most(n) and checked.max_changes != 0)
        if not short and null is None:
            null = _common_null(model, parts, seed)
        for i, row in enumerate(group.rows.tolist()):
            cut = None
            if null is not None and not short and np.any(group.y[i]):
                # A penalty in the units of ``y``, brought to those of the group.
                own = penalty if penalty is None or isinstance(penalty, str) else penalty / group.factor[i, 0] ** 2
                cut = _cut(model, group.y[i : i + 1], replace(checked, penalty=own), null)
            found[row] = _described(group, i, model, cut, null, y.shape[1])
    return [found[row] for row in range(len(y))]


def _common_null(model: Model, parts: list[Group], seed: int) -> Null:
    """Strengths without changes at the correlation and autocorrelation of all runs, for one set of checkpoints."""
    table = tabulated(model.kind, len(model.x))
    moved, rhos = [], []
    for part in parts:
        if len(part.kept) < 3:
            continue
        own = Model(model.kind, np.arange(len(part.kept), dtype=np.float64), model.min_size)
        rhos.append(autocorrelation(own, part.y))
        steps = np.diff(part.y, axis=1)
        # Large steps are cut off, so that a change does not count as correlation.
        limit = 3 * np.median(np.abs(steps), axis=1, keepdims=True) / 0.6745
        moved.append(np.clip(steps, -limit, limit).reshape(-1, steps.shape[2]))
    noise = np.concatenate(moved)
    spread = np.sqrt(np.mean(noise**2, axis=0))
    noise /= np.where(spread > 0, spread, 1.0)
    values, vectors = np.linalg.eigh(noise.T @ noise / len(noise) + np.diag(np.where(spread > 0, 0.0, 1.0)))
    rho = float(np.interp(np.mean(np.concatenate(rhos)), table.knots, TRUE_RHOS))
    return _simulated(model, rho, vectors * np.sqrt(np.maximum(values, 0.0)), np.random.default_rng(seed))


def _simulated(model: Model, rho: float, mixing: Floats, rng: np.random.Generator) -> Null:
    """Strengths of noise that is brought to units of its own differences, as the data are."""
    n = len(model.x)
    if n > LONGEST_SIMULATED:
        at = np.linspace(0, n - 1, LONGEST_SIMULATED).round().astype(int)
        short = _simulated(
            Model(model.kind, model.x[at], min(model.min_size, LONGEST_SIMULATED // 4)), rho, mixing, rng
        )
        growth = tabulated(model.kind, n).critical[:, :1] - tabulated(model.kind, LONGEST_SIMULATED).critical[:, :1]
        return Null(short.knots, short.critical + growth)
    y = ar1_noise(rho, SIMULATED, n, rng, mixing=mixing)
    y /= np.median(np.abs(np.diff(y, axis=1)), axis=1, keepdims=True)
    return Null(np.zeros(1), np.quantile(null_strengths(model, y, 2), 1 - LEVELS)[:, None])


def _cut(model: Model, y: Floats, options: Options, null: Null) -> Cut:
    most = options.most(y.shape[1])
    if isinstance(options.penalty, str):
        return by_name(model, y, options.penalty, most)[0]
    if options.penalty is not None:
        return by_penalty(model, y[0], options.penalty, most, limited=options.max_changes is not None)
    return by_likelihood(model, y, null.criterion(options.false_alarm, autocorrelation(model, y)), most)[0]


def _described(group: Group, i: int, model: Model, cut: Cut | None, null: Null | None, n_steps: int) -> Segmentation:
    y, kept = group.y[i], group.kept
    changes = NOTHING if cut is None else cut.changes
    p: npt.ArrayLike = np.empty(0)
    places, p_none = np.empty((0, 2), dtype=np.int64), np.nan
    if cut is not None and null is not None:
        estimate = float(autocorrelation(model, y[None])[0])
        fits = Fits(model, y)
        p, places = p_values(fits, changes, null, estimate), intervals(fits, changes, model.min_size)
        if np.isfinite(cut.strength):
            p_none = float(null.p_value(np.array([cut.strength]), estimate)[0])
    values, sizes = fitted(model, y, changes)
    full = np.full((n_steps, y.shape[1]), np.nan)
    full[kept] = values * group.factor[i] + group.centre[i]
    return Segmentation(
        indices=kept[changes],
        before=kept[changes - 1],
        intervals=kept[places],
        p_values=np.asarray(p),
        sizes=sizes * group.factor[i],
        penalty=np.nan if cut is None else cut.penalty,
        cost_path=np.empty(0),
        segments=(),
        p_none=p_none,
        glitches=group.glitches,
        rho=0.0 if cut is None else cut.rho,
        fitted=full,
    )
