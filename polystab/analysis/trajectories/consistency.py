"""Whether metrics take the same course in every seed and at every size."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, described, labels
from polystab.analysis.chunked import in_fixed_parts
from polystab.analysis.multiplicity import adjusted_p
from polystab.analysis.options import Rng, check_choice, check_shares, check_whole, generator_of
from polystab.analysis.phases.curves import POSITIONS, positions
from polystab.analysis.phases.sizes import slopes
from polystab.analysis.trajectories.curves import centred, curves_of, shared_steps
from polystab.analysis.trajectories.likeness import (
    KINDS,
    interval,
    jackknife,
    likeness,
    null_likeness,
    p_of,
    pair_means,
    unit_curves,
)
from polystab.analysis.trajectories.peaks import curve_peaks
from polystab.cube.validate import as_cube

ACROSS = ("seeds", "sizes")

# The correlation of curves over fewer steps says nothing.
MIN_STEPS = 5

_DOCS = {
    "r": "mean correlation of the curves over pairs of runs",
    "lower": "lower end of the interval of r",
    "upper": "upper end of the interval of r",
    "null_mean": "mean r of unrelated curves of the same smoothness",
    "null_upper": "r that unrelated curves of the same smoothness exceed with chance 1 - level",
    "p": "chance of so large an r, were the curves unrelated; not corrected for many metrics",
    "q": "p adjusted for the number of metrics (Benjamini and Hochberg)",
    "r_model": "mean correlation over the pairs of seeds of a model",
    "n_runs": "runs compared",
    "n_steps": "steps at which all of them are measured",
    "n_models": "models with a run among them",
    "peak_slope": "log10 of the step of the peak per log10 of the number of parameters",
    "peak_lower": "lower end of the interval of peak_slope",
    "peak_upper": "upper end of the interval of peak_slope",
    "peak_p": "chance of so steep a slope, were there none; not corrected for many metrics",
    "peak_models": "models whose runs have a peak",
    "peak_runs": "runs with a peak, in these models",
}
_NUMBERS = ("r", "lower", "upper", "null_mean", "null_upper", "p")


def curve_consistency(
    cube: xr.Dataset | xr.DataTree,
    *,
    x: str = "log_step",
    which: str = "peak",
    level: float = 0.95,
    n_draws: int = 199,
    rng: Rng = None,
) -> xr.Dataset:
    """For every metric, how alike its curves are across seeds and across sizes.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    x : {'log_step', 'step', 'index'}, optional
        Over what the line is straight that is taken out: ``log(1 + step)``, the step, or the number of the checkpoint.
    which : {'peak', 'trough'}, optional
        What is compared with the size of the model, see :func:`curve_peaks`.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.
    n_draws : int, optional
        Sets of unrelated curves for the null.
    rng : int, numpy.random.Generator or None, optional
        Source of chance.

    Returns
    -------
    xarray.Dataset
        Over (metric, across, kind): ``r``, ``lower``, ``upper``; ``null_mean``, ``null_upper``, ``p``, ``q``. ``across`` is
        ``seeds`` (pairs of runs of one model, mean over models) or ``sizes`` (pairs of runs of different models,
        mean over pairs of models); ``kind`` is ``level`` (curves as they are), ``detrended`` or ``increments``. Over (model, metric, kind): ``r_model``. Over metric: ``n_runs``,
        ``n_steps``, ``n_models``; ``peak_slope``, ``peak_lower``, ``peak_upper``, ``peak_p``, ``peak_models``, ``peak_runs``. NaN where there is nothing to compare.

    Raises
    ------
    AnalysisError
        No such ``x`` or ``which``; ``level`` is not between 0 and 1; ``n_draws`` is less than 1.

    Notes
    -----
    Pearson correlations over the steps that more than half of the runs of every model share. Any two curves that rise
    correlate, which is what ``level`` shows; ``detrended`` asks whether they leave the straight
    line alike, ``increments`` whether they go up and down at the same steps, noise included.

    The interval is over runs: Student's, from the jackknife of Fisher's z, each model's runs left out in turn; for few runs it holds better than the
    bootstrap. It takes three runs of every model, and speaks of more runs of these models, not of other models. Models with the same data order
    in a seed are taken as independent.

    The null keeps the increments of each run and their order and lets them begin anywhere (a random rotation, the
    same for all metrics of a run), so that curves stay as smooth as they are while nothing but chance
    lets them move together. It holds for curves whose increments are of one kind all along; where all of the
    change is early, it also asks whether that is early in all of them.

    ``peak_slope`` is as in :func:`polystab.analysis.phase_size_trend`, of models with ``runs_p`` of at most ``1 - level``. It needs the models' ``n_parameters``.

    NaN and infinite values are not measured; runs that miss a step or are constant are left out, and copies of other runs. With
    a single seed there is only ``sizes``, with one model only ``seeds``. Fewer than five steps are too few.

    References
    ----------
    Arvesen, J. N. (1969). Jackknifing U-statistics. Annals of Mathematical Statistics 40, 2076-2100.
    https://doi.org/10.1214/aoms/1177697287

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.trajectories.consistency import curve_consistency
    >>> table = curve_consistency(ps.load_cube("nano").sel(metric=["loss/validation/cross_entropy"]), n_draws=99, rng=0)
    >>> bool((table["r"].sel(kind="detrended") > 0.9).all())
    True
    """
    cube = as_cube(cube)
    check_choice("x", x, POSITIONS)
    check_shares(level=level)
    check_whole("n_draws", n_draws, 1)
    seed = int(generator_of(rng).integers(2**31))
    found = functools.partial(_of_metrics, x=x, which=which, level=level, n_draws=n_draws, seed=seed)
    result = in_fixed_parts(found, cube)
    result["q"] = result["p"].dims, adjusted_p(result["p"].values, axis=0)[0], result["q"].attrs
    return result


def _of_metrics(cube: xr.Dataset, *, x: str, which: str, level: float, n_draws: int, seed: int) -> xr.Dataset:
    """What needs no other metrics."""
    data = centred(curves_of(cube)[0])
    steps = np.asarray(cube["step"].values, dtype=np.int64)
    n_model, _, n_metric, _ = data.curves.shape
    found = {name: np.full((n_metric, len(ACROSS), len(KINDS)), np.nan) for name in _NUMBERS}
    of_models = np.full((n_model, n_metric, len(KINDS)), np.nan)
    counts = {name: np.zeros(n_metric, dtype=np.int64) for name in ("n_runs", "n_steps", "n_models")}
    for metrics, runs, places in _comparable(data.curves):
        models, groups = np.unique(runs[:, 0], return_inverse=True)
        curves = np.moveaxis(data.curves[runs[:, 0], runs[:, 1]][:, metrics][..., places], 0, 1)
        for name, count in zip(counts, (len(runs), len(places), len(models)), strict=True):
            counts[name][metrics] = count
        along = positions(steps, x)[places]
        for name, values in _compared(curves, along, groups.ravel(), level, n_draws, seed).items():
            found[name][metrics] = np.moveaxis(values, 0, -1)  # kind last
        within, _ = pair_means(unit_curves(curves, along), groups.ravel())
        of_models[np.ix_(models, metrics)] = np.moveaxis(within, (2, 1, 0), (0, 1, 2))
    result = xr.Dataset(
        {name: (("metric", "across", "kind"), values) for name, values in found.items()}
        | {"q": (("metric", "across", "kind"), np.full_like(found["p"], np.nan))}
        | {"r_model": (("model", "metric", "kind"), of_models)}
        | {name: ("metric", values) for name, values in (counts | _peak_slopes(cube, which, level, seed)).items()},
        coords={**labels(cube, "model", "metric"), "across": np.array(ACROSS), "kind": np.array(KINDS)},
        attrs={"x": x, "which": which, "level": level, "n_draws": n_draws},
    )
    return described(result, _DOCS)


def _comparable(curves: Floats) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Metrics that have the same runs at the same steps: their places, the runs (run, model and seed), the steps.

    Runs that are constant at these steps are left out.
    """
    shared = shared_steps(curves)
    measured: Bools = np.asarray(shared.any(axis=-1))
    common: Bools = np.asarray(
        np.all(shared | ~measured[..., None], axis=0) & np.any(shared, axis=(0, 2), keepdims=True)[0]
    )
    inside = np.where(common, curves, np.nan)
    high = np.max(inside, axis=-1, initial=-np.inf, where=common)
    low = np.min(inside, axis=-1, initial=np.inf, where=common)
    runs = np.moveaxis((high > low) & np.all(~np.isnan(curves) | ~common, axis=-1), 2, 0)  # metric, model, seed
    pattern = np.packbits(np.concatenate([common, runs.reshape(len(runs), -1)], axis=1), axis=1)
    several, group = np.unique(pattern, axis=0, return_inverse=True)
    for number in range(len(several)):
        metrics = np.flatnonzero(group.ravel() == number)
        places = np.flatnonzero(common[metrics[0]])
        own = np.argwhere(runs[metrics[0]])
        if len(places) >= MIN_STEPS and len(own) > 1:
            yield metrics, own, places


def _compared(curves: Floats, x: Floats, groups: Ints, level: float, n_draws: int, seed: int) -> dict[str, Floats]:
    """The numbers of curves (metric, run, step), each (kind, metric, across)."""
    vectors = unit_curves(curves, x)
    r = likeness(vectors, groups)
    lower, upper = interval(r, *jackknife(vectors, groups), level)
    null = null_likeness(curves, x, groups, n_draws, np.random.default_rng(seed))
    there = np.where(np.isnan(r), np.nan, 1.0)
    return {
        "r": r,
        "lower": lower,
        "upper": upper,
        "null_mean": null.mean(axis=0) * there,
        "null_upper": np.quantile(null, level, axis=0) * there,
        "p": p_of(r, null),
    }


def _peak_slopes(cube: xr.Dataset, which: str, level: float, seed: int) -> dict[str, Floats | Ints]:
    """Step of the peak against the number of parameters, by metric."""
    peaks = curve_peaks(cube, which=which, level=level, n_resamples=1, rng=seed)
    own = peaks["p"].transpose("model", "seed", "metric").values
    together = peaks["runs_p"].transpose("model", "metric").values[:, None]
    there = np.where(np.isnan(together), own, together) <= 1 - level
    there &= peaks["decline"].transpose("model", "seed", "metric").values > 0
    step, before = (
        np.where(there, peaks[name].transpose("model", "seed", "metric").values, np.nan) for name in ("step", "before")
    )
    known = "n_parameters" in cube.coords
    parameters = np.asarray(
        cube["n_parameters"].values if known else np.full(cube.sizes["model"], -1), dtype=np.float64
    )
    found = slopes(np.where(step > 0, step, np.nan), np.where(step > 0, before, np.nan), parameters, level=level)
    names = {"slope": "slope", "lower": "lower", "upper": "upper", "p": "p", "n_models": "models", "n_runs": "runs"}
    return {f"peak_{name}": found[key] for key, name in names.items()}
