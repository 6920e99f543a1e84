"""Can the end of a curve be told early? Forecasts of final values from prefixes, and how well they do."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, described, divided, labels, mean, median, moments, unscaled
from polystab.analysis.chunked import in_fixed_parts
from polystab.analysis.options import check_shares, numbers
from polystab.analysis.trajectories.curves import centred, complete_blocks, curves_of, one_sided_p
from polystab.analysis.trajectories.limits import decays_of
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError

PREDICTORS = ("last_value", "siblings", "drift", "regression", "curve")
BASELINES = 2

_DOCS = {
    "prediction": "predicted final value",
    "lower": "lower end of the prediction interval",
    "upper": "upper end of the prediction interval",
    "final": "final value, NaN for a run that has not got there",
    "step": "checkpoint up to which the run is known, -1 where there is none",
    "final_step": "step of the final value, -1 where there is none",
    "error": "root mean square error over runs",
    "skill_last": "1 - (error / error of last_value)^2",
    "skill_siblings": "1 - (error / error of siblings)^2",
    "p": "chance that it only seems to be nearer than the better of the two baselines; not corrected",
    "coverage": "share of the runs whose final value is in the prediction interval",
    "n": "runs that were predicted and have a final value",
}


def forecast_final(
    cube: xr.Dataset | xr.DataTree, *, at: float | Sequence[float] = (0.1, 0.25, 0.5, 0.75), level: float = 0.9
) -> xr.Dataset:
    """Predict the final value of each curve from its beginning, and see how well that would have done.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube. Runs that are not finished are predicted from those that are.
    at : float or sequence of float, optional
        How much of training is known, as shares of the final step, between 0 and 1.
    level : float, optional
        Confidence level of the prediction intervals, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        Over (model, seed, metric, at, predictor): ``prediction``, ``lower``, ``upper``. Over (model,
        seed, metric): ``final``. Over (model, metric, at, predictor), of the runs with a final value:
        ``error``, ``skill_last``, ``skill_siblings``, ``p``, ``coverage``, ``n``. Over (model, metric, at): ``step``, the last
        checkpoint that is known. Over (model, metric): ``final_step``. NaN where there is no prediction.

    Raises
    ------
    AnalysisError
        ``at`` or ``level`` is not between 0 and 1, or ``at`` does not increase.

    Notes
    -----
    The final value is that at the last step that more than half of the runs share. Nothing of the
    predicted run is used after the checkpoint; of its siblings, the other complete runs of its model, everything. The predictors:

    - ``last_value``, a baseline: the value at the checkpoint. No interval.
    - ``siblings``, a baseline: the median of the siblings' final values; interval of Student's t around their mean.
    - ``drift``: the value at the checkpoint and the siblings' mean change from there on.
    - ``regression``: least squares of the siblings' final values on those at the checkpoint.
    - ``curve``: from the run alone, the fit of :func:`asymptotes` to the prefix, read off at the final step; its interval has the noise of one value added.

    Intervals of ``siblings``, ``drift`` and ``regression`` are exact for runs that are normal draws (simulated runs that
    wander, keep their distance or decay: 89-91 % for nominal 90 %); those of ``curve`` cover 90-99 % there. ``siblings`` and
    ``drift`` need two siblings, ``regression`` four, ``curve`` ten checkpoints between a tenth of the prefix and its end.
    ``drift`` is right if runs keep the distance they have, ``siblings`` if they forget it; ``regression`` finds out in
    between and pays for it with noise if the runs are few: if the early value says nothing at all, its expected
    ``skill_siblings`` is below 0. ``skill_siblings`` is a leave-one-run-out Q squared.

    ``p`` is Student's one-sided test over the runs, of absolute errors. The predictions of a set of runs lean on each
    other, so that it is a guide.

    NaN and infinite values are not measured; copies of other runs count once and are not predicted. A single seed has ``last_value`` and ``curve`` only.

    References
    ----------
    Geisser, S. (1975). The predictive sample reuse method with applications. Journal of the American Statistical
    Association 70, 320-328. https://doi.org/10.1080/01621459.1975.10479865

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.trajectories.forecasts import forecast_final
    >>> found = forecast_final(ps.load_cube("nano").sel(metric=["weight/all/l2"]), at=0.25)
    >>> bool((found["error"].sel(predictor="drift") < found["error"].sel(predictor="last_value")).all())
    True
    """
    cube = as_cube(cube)
    shares = np.atleast_1d(numbers(at, "at"))
    if shares.ndim != 1 or not shares.size or not ((shares > 0) & (shares < 1)).all() or (np.diff(shares) <= 0).any():
        raise AnalysisError(
            f"at is {at}; it is one share of training or several that increase, between 0 and 1, e.g. 0.25."
        )
    check_shares(level=level)
    return in_fixed_parts(functools.partial(_of_metrics, shares=shares, level=level), cube)


def _of_metrics(cube: xr.Dataset, *, shares: Floats, level: float) -> xr.Dataset:
    curves, _ = curves_of(cube)
    data = centred(curves)
    steps = np.asarray(cube["step"].values, dtype=np.float64)
    n_model, n_seed, n_metric, _ = curves.shape
    predicted = np.full((3, n_model, n_seed, n_metric, len(shares), len(PREDICTORS)), np.nan)
    final = np.full((n_model, n_seed, n_metric), np.nan)
    known = np.full((n_model, n_metric, len(shares)), -1, dtype=np.int64)
    final_step = np.full((n_model, n_metric), -1, dtype=np.int64)
    for block in complete_blocks(data.curves, least=1):
        end = block.places[-1]
        own = np.moveaxis(data.curves[block.model][:, block.metrics], 0, 1)  # metric, seed, step
        final[block.model][:, block.metrics] = own[..., end].T
        final_step[block.model, block.metrics] = steps[end]
        for i, share in enumerate(shares):
            before = block.places[steps[block.places] <= share * steps[end]]
            if before.size and before[-1] < end:
                known[block.model, block.metrics, i] = steps[before[-1]]
                found = _from_siblings(own[..., before[-1]], own[..., end], block.runs, level)
                found[:, PREDICTORS.index("curve")] = _from_curve(own[..., : before[-1] + 1], steps, steps[end], level)
                predicted[:, block.model, :, block.metrics, i] = found.transpose(2, 0, 3, 1)
    exponent, middle = data.exponent[:, None], data.level[:, None]
    scores, n = _scores(predicted, final)
    scores["error"] = unscaled(scores["error"], data.exponent[..., None, None])
    predicted = unscaled(predicted, exponent[..., None, None]) + middle[..., None, None]
    cells = ("model", "seed", "metric")
    result = xr.Dataset(
        {name: ((*cells, "at", "predictor"), part) for name, part in zip(("prediction", "lower", "upper"), predicted, strict=True)}
        | {"final": (cells, unscaled(final, exponent) + middle)}
        | {"step": (("model", "metric", "at"), known), "final_step": (("model", "metric"), final_step)}
        | {name: (("model", "metric", "at", "predictor"), values) for name, values in (scores | {"n": n}).items()},
        coords={**labels(cube, *cells), "at": shares, "predictor": np.array(PREDICTORS)},
        attrs={"level": level},
    )  # fmt: skip
    return described(result, _DOCS)


def _from_siblings(now: Floats, final: Floats, complete: Ints, level: float) -> Floats:
    """Predictions (3, predictor, metric, run) from values (metric, run) at the checkpoint and the end; lower and upper after them."""
    found = np.full((3, len(PREDICTORS), *now.shape), np.nan)
    found[0, PREDICTORS.index("last_value")] = now
    for run in range(now.shape[1]):
        siblings = complete[complete != run]
        x, y, own = now[:, siblings], final[:, siblings], now[:, run]
        missing = np.isnan(own)
        if len(siblings) >= 2:
            found[:, 1, :, run] = _around_mean(y, level)
            found[0, 1, :, run] = median(y, axis=1)
            found[:, 2, :, run] = own + _around_mean(y - x, level)
        elif len(siblings):
            found[0, 1, :, run], found[0, 2, :, run] = y[:, 0], own + y[:, 0] - x[:, 0]
        if len(siblings) >= 4:
            found[:, 3, :, run] = _on_line(x, y, own, level)
        found[:, :, missing, run] = np.nan
    return found


def _around_mean(values: Floats, level: float) -> Floats:
    """Mean of (metric, run) and Student's interval for one more, (3, metric)."""
    from scipy.special import stdtrit

    centre, sd, n = moments(values, axis=1)
    reach = stdtrit(n - 1, (1 + level) / 2) * sd * np.sqrt(1 + 1 / n)
    return np.stack([centre, centre - reach, centre + reach])


def _on_line(x: Floats, y: Floats, at: Floats, level: float) -> Floats:
    """Least squares line through (metric, run), read at one more, with its prediction interval, (3, metric)."""
    from scipy.special import stdtrit

    n = x.shape[1]
    x_mean, y_mean = x.mean(axis=1), y.mean(axis=1)
    dx, dy = x - x_mean[:, None], y - y_mean[:, None]
    square = np.sum(dx**2, axis=1)
    slope = divided(np.sum(dx * dy, axis=1), square)
    variance = np.sum((dy - slope[:, None] * dx) ** 2, axis=1) / (n - 2)
    off = at - x_mean
    centre = y_mean + slope * off
    reach = stdtrit(n - 2, (1 + level) / 2) * np.sqrt(variance * (1 + 1 / n + divided(off**2, square)))
    return np.stack([centre, centre - reach, centre + reach])


def _from_curve(prefix: Floats, steps: Floats, end: float, level: float) -> Floats:
    """Predictions (3, metric, run) from prefixes (metric, run, step), each by itself."""
    from scipy.special import stdtrit

    flat = prefix.reshape(-1, prefix.shape[-1])
    found = np.full((3, len(flat)), np.nan)
    rows_known = np.flatnonzero((~np.isnan(flat)).any(axis=1))
    for rows, places, fit in decays_of(flat[rows_known], steps[: flat.shape[1]], None, target=end, level=level):
        if fit is not None and places[-1] == prefix.shape[-1] - 1:
            noise = stdtrit(len(places) - 4, (1 + level) / 2) * fit.noise
            low, high = np.hypot(fit.value - fit.lower, noise), np.hypot(fit.upper - fit.value, noise)
            found[:, rows_known[rows]] = fit.value, fit.value - low, fit.value + high
    return found.reshape(3, *prefix.shape[:-1])


def _scores(predicted: Floats, final: Floats) -> tuple[dict[str, Floats], Ints]:
    """How the predictions (3, model, seed, metric, at, predictor) did, each (model, metric, at, predictor)."""
    target = final[..., None, None]
    off = np.abs(predicted[0] - target)
    square = mean(off**2, axis=1)
    inside = np.where(
        np.isnan(predicted[1]) | np.isnan(target), np.nan, (predicted[1] <= target) & (target <= predicted[2])
    )
    better = np.nanmin(np.where(np.isnan(square), np.inf, square)[..., :BASELINES], axis=-1)
    baseline = np.where(better == square[..., 0], 0, 1)[:, None, ..., None]
    of_baseline = np.take_along_axis(off, np.broadcast_to(baseline, (*off.shape[:-1], 1)), axis=-1)
    return {
        "error": np.sqrt(square),
        "skill_last": 1 - divided(square, square[..., :1]),
        "skill_siblings": 1 - divided(square, square[..., 1:2]),
        "p": one_sided_p(of_baseline - off),
        "coverage": mean(inside, axis=1),
    }, np.sum(~np.isnan(off), axis=1)
