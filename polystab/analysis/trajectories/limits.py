"""What curves tend to: asymptotes with intervals, or that the data do not say."""

from __future__ import annotations

import functools

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, described, labels, unscaled
from polystab.analysis.chunked import in_fixed_parts
from polystab.analysis.options import check_shares, check_whole, flagged
from polystab.analysis.trajectories.curves import (
    LOOKED_AT,
    REASONS,
    TOO_FEW,
    centred,
    curves_of,
    over_runs,
    same_steps,
)
from polystab.analysis.trajectories.decays import FORMS, MIN_POINTS, Decays, decay_left, fit_decays
from polystab.analysis.trajectories.peaks import turns
from polystab.analysis.trajectories.spread import MIN_RUNS
from polystab.cube.validate import as_cube

STILL_MOVING, TURNS = len(REASONS), len(REASONS) + 1

# A curve that has a peak or a trough with such a p is no decay.
TURNS_P = 0.01

# A curve is fitted from this share of its training on, unless the caller says otherwise.
FROM = 0.1

_DOCS = {
    "asymptote": "what the curve tends to",
    "lower": "lower end of the interval of the asymptote",
    "upper": "upper end of the interval of the asymptote",
    "left": "asymptote minus the fitted value at the last checkpoint",
    "form": "form of the fitted curve",
    "scale": "steps in which the decay slows down: s of the power law, time constant of the exponential",
    "power": "exponent c of the power law",
    "noise": "standard deviation of the noise around the fit",
    "noise_rho": "lag-1 correlation of that noise",
    "n_steps": "checkpoints that were fitted",
    "reason": "why there is no asymptote",
    "runs_asymptote": "mean asymptote of the runs",
    "runs_lower": "lower end of the interval of runs_asymptote",
    "runs_upper": "upper end of the interval of runs_asymptote",
    "n_asymptotes": "runs with an asymptote",
    "n_looked_at": "runs that were fitted",
}


def asymptotes(cube: xr.Dataset | xr.DataTree, *, since: int | None = None, level: float = 0.95) -> xr.Dataset:
    """What each curve tends to as training goes on, with an interval, or that the data do not say.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    since : int, optional
        The first step that is fitted; by default a tenth of the curve's last.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        Over (model, seed, metric): ``asymptote``, ``lower``, ``upper`` and ``left`` in the metric's units;
        ``form``, an integer code (``attrs["flag_meanings"]``: constant, exponential, power; -1 where nothing was fitted);
        ``scale`` in steps and ``power``, NaN where the form has none; ``noise`` and ``noise_rho``; ``n_steps``; ``reason``, a code, 0 where there is an asymptote.

        Over (model, metric): ``runs_asymptote`` with Student's interval ``runs_lower``, ``runs_upper`` over runs, if
        three or more have an asymptote and those are more than half of them; ``n_asymptotes`` and ``n_looked_at``.

    Raises
    ------
    AnalysisError
        ``since`` is not a whole number from 0; ``level`` is not between 0 and 1.

    Notes
    -----
    With u the steps since the first checkpoint that is fitted, a curve is a constant, ``a + b exp(-u / s)``, or ``a + b
    (1 + u / s)^-c`` (the same as ``a + b' (t + t0)^-c``), by AICc; ``a`` is the asymptote. Least squares with noise that is
    first-order autoregressive from checkpoint to checkpoint, its correlation by restricted likelihood, one standard error up.

    The interval is that of the profile likelihood over both families (the exponential is the limit of
    the power law for large c), joined with the linearised one. Two more limits of the family have no asymptote, the logarithm (c to
    0) and the straight line (s to infinity). If one of these is within reach of the interval, the data do
    not say where the curve ends: reason ``still_moving``, and NaN. A curve that moves too little to be told from a constant has
    that for its asymptote: a drift that is slow compared with its noise is not seen. Reason ``turns``: the curve, or the mean over runs, has a
    peak or a trough there with ``p`` of at most 0.01 (:func:`curve_peaks`), so that it is no decay; give a later ``since``.

    In simulations of exponentials, power laws and constants the nominal 95 % cover 91-100 % with noise of correlation 0 to 0.6
    at 22 and at 130 checkpoints; with 0.9 they cover 95-98 % at 130, but 70-87 % at 22, where the
    interval over runs is the one to trust. It speaks of runs with an asymptote only: look at ``n_asymptotes``.

    Fewer than ten checkpoints are too few. NaN and infinite values are not measured, constant curves and copies of other runs
    have no fit (``reason``).

    References
    ----------
    Hurvich, C. M. and Tsai, C.-L. (1989). Regression and time series model selection in small samples.
    Biometrika 76, 297-307. https://doi.org/10.1093/biomet/76.2.297

    Venzon, D. J. and Moolgavkar, S. H. (1988). A method for computing profile-likelihood-based confidence
    intervals. Applied Statistics 37, 87-94. https://doi.org/10.2307/2347496

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.trajectories.limits import asymptotes
    >>> found = asymptotes(ps.load_cube("nano").sel(metric=["loss/validation/cross_entropy"]))
    >>> found["asymptote"].dims, found["runs_asymptote"].dims
    (('model', 'seed', 'metric'), ('model', 'metric'))
    """
    cube = as_cube(cube)
    check_shares(level=level)
    if since is not None:
        check_whole("since", since, 0)
    return in_fixed_parts(functools.partial(_of_metrics, since=since, level=level), cube)


def _of_metrics(cube: xr.Dataset, *, since: int | None, level: float) -> xr.Dataset:
    curves, reason = curves_of(cube)
    steps = np.asarray(cube["step"].values, dtype=np.float64)
    data = centred(curves)
    names = ("asymptote", "lower", "upper", "left", "scale", "power", "noise", "noise_rho")
    found = {name: np.full(reason.shape, np.nan) for name in names}
    form, n_steps = np.full(reason.shape, -1, dtype=np.int8), np.zeros(reason.shape, dtype=np.int64)
    where = np.argwhere(reason == LOOKED_AT)
    turning = turns(np.where(_used(data.curves, steps, since), data.curves, np.nan), reason) <= TURNS_P
    for rows, places, fit in decays_of(data.curves[tuple(where.T)], steps, since, level=level):
        at = tuple(where[rows].T)
        n_steps[at] = len(places)
        if fit is None:
            reason[at] = TOO_FEW
            continue
        reason[at] = np.where(turning[at], TURNS, np.where(fit.bounded, LOOKED_AT, STILL_MOVING))
        form[at] = fit.form
        span = steps[places[-1]] - steps[places[0]]
        values = (fit.value, fit.lower, fit.upper, -fit.change * decay_left(fit))
        for name, numbers in zip(names, values, strict=False):
            found[name][at] = np.where(reason[at] == LOOKED_AT, numbers, np.nan)
        found["scale"][at], found["power"][at] = fit.scale * span, np.where(np.isinf(fit.power), np.nan, fit.power)
        found["noise"][at], found["noise_rho"][at] = fit.noise, fit.rho
    for name in ("asymptote", "lower", "upper", "left", "noise"):
        level_ = data.level[:, None] if name in ("asymptote", "lower", "upper") else 0.0
        found[name] = unscaled(found[name], data.exponent[:, None]) + level_
    return _labelled(cube, found | {"form": form, "n_steps": n_steps, "reason": reason.astype(np.int8)}, level)


def _used(curves: Floats, steps: Floats, since: int | None) -> Bools:
    """Which steps (..., step) of each curve are fitted; of the default, a share of the last one that is measured."""
    if since is not None:
        return np.broadcast_to(steps >= since, curves.shape)
    last = np.max(np.where(np.isnan(curves), 0.0, steps), axis=-1, keepdims=True)
    return np.asarray(steps >= FROM * last)


def decays_of(
    curves: Floats, steps: Floats, since: int | None, *, target: float = np.inf, level: float
) -> list[tuple[Ints, Ints, Decays | None]]:
    """Decays of curves (curve, step) that are alike in what is fitted: their rows, the places of the steps, the fits.

    ``target`` is the step at which the value is wanted. No fit where there are too few steps.
    """
    found: list[tuple[Ints, Ints, Decays | None]] = []
    for rows, places in same_steps(curves) if len(curves) else ():
        used = places[_used(curves[rows[0]], steps, since)[places]]
        if len(used) < MIN_POINTS:
            found.append((rows, used, None))
            continue
        start, span = steps[used[0]], steps[used[-1]] - steps[used[0]]
        fit = fit_decays(
            curves[np.ix_(rows, used)], (steps[used] - start) / span, target=(target - start) / span, level=level
        )
        found.append((rows, used, fit))
    return found


def _labelled(cube: xr.Dataset, found: dict[str, Floats | Ints], level: float) -> xr.Dataset:
    asymptote, lower, upper, n = over_runs(np.asarray(found["asymptote"], dtype=np.float64), level)
    looked = np.sum(np.isin(found["reason"], (LOOKED_AT, STILL_MOVING, TURNS)), axis=1)
    enough = (n >= MIN_RUNS) & (2 * n > looked)
    runs = {"runs_asymptote": asymptote, "runs_lower": lower, "runs_upper": upper}
    result = xr.Dataset(
        {name: (("model", "seed", "metric"), found[name]) for name in _DOCS if name in found}
        | {name: (("model", "metric"), np.where(enough, values, np.nan)) for name, values in runs.items()}
        | {"n_asymptotes": (("model", "metric"), n), "n_looked_at": (("model", "metric"), looked)},
        coords=labels(cube, "model", "seed", "metric"),
        attrs={"level": level},
    )
    words = {"reason": (*REASONS, "still_moving", "turns"), "form": FORMS}
    return flagged(described(result, _DOCS, {"scale": "step"}), words)
