"""Whether a phase comes earlier in larger models."""

from __future__ import annotations

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, described, divided, labels, mean, median, moments
from polystab.analysis.phases.curves import change_points
from polystab.errors import AnalysisError, did_you_mean

WHICH = ("largest", "first", "last")

_DOCS = {
    "slope": "log10 of the step per log10 of the number of parameters; below 0: larger models are earlier",
    "lower": "lower end of the interval of the slope",
    "upper": "upper end of the interval of the slope",
    "p": "chance of so steep a slope, were there none; not corrected for many tests",
    "df": "degrees of freedom",
    "n_models": "models with a change in some run and a known number of parameters",
    "n_runs": "runs with a change, in these models",
    "step": "median over the runs of the step of the change",
    "n_with": "runs with a change",
    "n_without": "runs that were looked at and have no change",
}


def phase_size_trend(
    data: xr.Dataset | xr.DataTree,
    *,
    which: str = "largest",
    level: float = 0.95,
    rng: int | np.random.Generator | None = None,
) -> xr.Dataset:
    """Does a phase come earlier in larger models? Step of the change against number of parameters.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        Result of :func:`change_points`, or a cube, to which it is applied with its defaults.
    which : {'largest', 'first', 'last'}, optional
        The change of each run that counts.
    level : float, optional
        Confidence level of the interval, between 0 and 1.
    rng : int, numpy.random.Generator or None, optional
        Source of chance, if ``data`` is a cube.

    Returns
    -------
    xarray.Dataset
        Over metric: ``slope``, ``lower``, ``upper``, ``p``, ``df``, ``n_models``, ``n_runs``. Over (model,
        metric): ``step``, the median over runs; ``n_with`` and ``n_without``. A joint
        segmentation has no ``metric``. NaN where there is nothing to say.

    Raises
    ------
    AnalysisError
        The models have no ``n_parameters``; no such ``which``, or ``'largest'`` of a joint
        segmentation, whose changes have no single size; ``level`` is not between 0 and 1.

    Notes
    -----
    Least squares over the runs, of the log of the step on the log of the number of
    parameters. A slope of -0.3 is twice as early for ten times the parameters. The interval
    comes from the spread of the runs within each model, which may differ between models, and
    Student's t with Satterthwaite's degrees of freedom: it speaks of more runs of these models, not of other
    models, and holds even where the points do not lie on a line. Where
    all runs of a model change between the same two checkpoints, the width of that bracket (at most
    a factor of ten) is added, which more runs do not make narrower. Runs without a change are left out, which makes late phases look earlier: look at ``n_without``. Seeds with the
    same data order in all models are taken as independent; if they go together the
    interval is too wide rather than too narrow. No interval with fewer than two
    runs in each of two models.

    References
    ----------
    Satterthwaite, F. E. (1946). An approximate distribution of estimates of variance
    components. Biometrics Bulletin 2, 110-114. https://doi.org/10.2307/3002019

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.phases.sizes import phase_size_trend
    >>> trend = phase_size_trend(ps.load_cube("nano").sel(metric=["eval/nano_induction/acc"]), rng=0)
    >>> trend["slope"].dims, int(trend["n_models"].item())
    (('metric',), 3)
    """
    if which not in WHICH:
        raise AnalysisError(f"there is no {which!r} change. {did_you_mean(str(which), WHICH)}")
    if not 0 < level < 1:
        raise AnalysisError(f"level is {level}; a confidence level lies between 0 and 1, e.g. 0.95.")
    if isinstance(data, xr.DataTree) or "n_changes" not in data.data_vars:
        data = change_points(data, rng=rng)
    if "n_parameters" not in data.coords:
        raise AnalysisError(
            "the models have no n_parameters; add it: cube.assign_coords(n_parameters=('model', [...]))."
        )
    joint = "metric" not in data["n_changes"].dims
    if joint and which == "largest":
        raise AnalysisError("a change of many metrics at once has no single size; take which='first' or 'last'.")
    step, before = _chosen_steps(data, which, joint)
    parameters = np.asarray(data["n_parameters"].values, dtype=np.float64)
    looked_at = data["n_changes"].transpose("model", "seed", ...).values.reshape(step.shape) >= 0
    result = xr.Dataset(
        {name: ("metric", column) for name, column in slopes(step, before, parameters, level=level).items()}
        | {
            "step": (("model", "metric"), median(step, axis=1)),
            "n_with": (("model", "metric"), np.sum(~np.isnan(step), axis=1)),
            "n_without": (("model", "metric"), np.sum(looked_at & np.isnan(step), axis=1)),
        },
        coords=labels(data, "model") if joint else labels(data, "model", "metric"),
        attrs={"which": which, "level": level},
    )
    return described(result.squeeze("metric") if joint else result, _DOCS)


def _chosen_steps(data: xr.Dataset, which: str, joint: bool) -> tuple[Floats, Floats]:
    """The bracket of the change that counts, first step after it and last before it, (model, seed, metric); NaN for none."""
    dims = ("model", "seed", "change") if joint else ("model", "seed", "metric", "change")
    both = np.stack([data[name].transpose(*dims).values.astype(np.float64) for name in ("step", "before")])
    both = both[:, :, :, None] if joint else both
    if not both.shape[-1]:
        return np.full(both.shape[1:-1], np.nan), np.full(both.shape[1:-1], np.nan)
    if which == "largest":
        size = np.abs(data["size"].transpose(*dims).values)
        place = np.argmax(np.where(np.isnan(size), -1.0, size), axis=-1)
    else:
        place = np.zeros(both.shape[1:-1], dtype=np.int64) if which == "first" else np.argmax(both[0], axis=-1)
    step, before = np.take_along_axis(both, place[None, ..., None], axis=-1)[..., 0]
    return np.where(step > 0, step, np.nan), np.where(step > 0, before, np.nan)


def slopes(step: Floats, before: Floats, parameters: Floats, *, level: float) -> dict[str, Floats | Ints]:
    """Slope of the log of the step on the log of the parameters, with its interval.

    Parameters
    ----------
    step, before : (model, seed, metric) array
        The bracket of the change; NaN for none.
    parameters : (model,) array
    level : float

    Returns
    -------
    dict of (metric,) array
    """
    from scipy.special import stdtr, stdtrit

    y = np.where((parameters > 0)[:, None, None], np.log10(step), np.nan)
    x = np.log10(np.where(parameters > 0, parameters, 1.0))[:, None]  # model, 1
    centre, sd, n = moments(y, axis=1)  # model, metric
    total = n.sum(axis=0)
    off = x - divided((n * x).sum(axis=0), total)
    squares = (n * off**2).sum(axis=0)
    weight = np.where(n > 0, divided(n * off, np.where(squares > 0, squares, np.nan)), 0.0)
    # The slope is a weighted sum of the models' means.
    slope = np.where(squares > 0, np.sum(weight * np.where(n > 0, centre, 0.0), axis=0), np.nan)
    part = np.where(weight == 0, 0.0, weight**2 * divided(sd**2, n))
    # Within its bracket a change may be anywhere. That is the same way off in all runs of a model if all
    # change in one bracket, and averages out as soon as they spread over several (Sheppard's correction is the
    # same argument).
    width = mean(y - np.log10(np.maximum(before, step / 10)), axis=1)
    spread = np.maximum(np.nan_to_num(sd) ** 2 - width**2 / 12, 0.0)
    shared = (
        width**2 / 12 * np.exp(-4 * np.pi**2 * divided(spread, width**2), where=width > 0, out=np.zeros(width.shape))
    )
    grid = np.where(weight == 0, 0.0, weight**2 * shared)
    variance = np.sum(part + grid, axis=0)
    enough = np.sum(n > 1, axis=0) > 1
    variance = np.where(enough, variance, np.nan)
    df = divided(variance**2, np.sum(divided(part**2, np.where(n > 1, n - 1, np.nan)), axis=0, where=n > 1))
    df = np.where(enough & np.isnan(df), np.inf, df)
    df = np.where(np.isnan(variance), np.nan, np.minimum(df, 1e6))
    reach = stdtrit(df, (1 + level) / 2) * np.sqrt(variance)
    return {
        "slope": slope,
        "lower": slope - reach,
        "upper": slope + reach,
        "p": 2 * stdtr(df, -divided(np.abs(slope), np.sqrt(variance))),
        "df": df,
        "n_models": np.sum(n > 0, axis=0),
        "n_runs": total,
    }
