"""Where curves peak, and how far they decline afterwards."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, described, divided, labels, unscaled
from polystab.analysis.bootstrap.kernels import all_counts
from polystab.analysis.chunked import in_fixed_parts
from polystab.analysis.multiplicity import adjusted_p
from polystab.analysis.options import Rng, check_choice, check_shares, check_whole, flagged, generator_of
from polystab.analysis.trajectories.curves import (
    LOOKED_AT,
    REASONS,
    TOO_FEW,
    Centred,
    centred,
    complete_blocks,
    curves_of,
    one_sided_p,
    over_runs,
    same_steps,
)
from polystab.analysis.trajectories.peak_kernels import (
    RHOS,
    Smoother,
    cross_fitted,
    cross_fitted_excess,
    find_peaks,
    noise_of,
    null_peaks,
    peak_p,
    peak_set,
)
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError

WHICH = ("peak", "trough")

# A rise, a peak and a decline of fewer checkpoints are not told from noise.
MIN_POINTS = 8

_CURVE_DOCS = {
    "step": "checkpoint at which the smoothed curve is highest (trough: lowest)",
    "before": "the checkpoint before that, -1 where there is none",
    "lower": "earliest checkpoint that the peak may be at",
    "upper": "latest checkpoint that the peak may be at",
    "height": "smoothed value at the peak",
    "rise": "height above the start of the curve (trough: depth below)",
    "decline": "height above the end of the curve (trough: depth below); 0 where the peak is at the end",
    "relative": "decline / height, sizes",
    "p": "chance of such a peak in a curve that only rises or only falls; not corrected for many curves",
    "noise": "standard deviation of the noise from checkpoint to checkpoint",
    "noise_rho": "lag-1 correlation of that noise",
    "reason": "why no peak was looked for",
}
_RUNS_DOCS = {
    "runs_step": "checkpoint at which the mean of the smoothed curves is highest (trough: lowest)",
    "runs_before": "the checkpoint before that, -1 where there is none",
    "runs_lower": "lower end of the interval of runs_step",
    "runs_upper": "upper end of the interval of runs_step",
    "runs_decline": "decline of a run after the peak of the other runs, mean",
    "runs_decline_lower": "lower end of the interval of runs_decline",
    "runs_decline_upper": "upper end of the interval of runs_decline",
    "runs_rise": "rise of a run to the peak of the other runs, mean",
    "runs_p": "chance of such a mean rise and decline over runs, were there no peak; not corrected for many metrics",
    "runs_q": "runs_p adjusted for the number of models and metrics (Benjamini and Hochberg)",
    "n_runs": "complete runs behind it",
    "n_peaks": "runs whose own p is at most 1 - level",
}


def curve_peaks(
    cube: xr.Dataset | xr.DataTree,
    *,
    which: str = "peak",
    window: int | None = None,
    level: float = 0.95,
    n_resamples: int = 999,
    rng: Rng = None,
) -> xr.Dataset:
    """Where each curve peaks, how far it declines afterwards, and whether that is more than noise.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    which : {'peak', 'trough'}, optional
        The highest point of a curve or its lowest.
    window : int, optional
        Checkpoints that are averaged, an odd number; by default two in fifteen of the curve's, at least three.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.
    n_resamples : int, optional
        Resamples of the runs for the interval of ``runs_step``.
    rng : int, numpy.random.Generator or None, optional
        Source of chance.

    Returns
    -------
    xarray.Dataset
        Over (model, seed, metric): ``step`` (-1 for none), ``before``, ``lower`` and ``upper``; ``height``, ``rise``, ``decline``
        in the metric's units; ``relative``; ``p``; ``noise`` and ``noise_rho``; ``reason``, an integer
        code (``attrs["flag_meanings"]``), 0 where a peak was looked for.

        Over (model, metric), from the complete runs, three or more: ``runs_step`` (-1 for none), ``runs_before``,
        ``runs_lower``, ``runs_upper``; ``runs_rise``, ``runs_decline``, ``runs_decline_lower``,
        ``runs_decline_upper``; ``runs_p``, ``runs_q``; ``n_runs``, ``n_peaks``.

    Raises
    ------
    AnalysisError
        No such ``which``; ``window`` is even or below 3; ``level`` is not between 0 and 1.

    Notes
    -----
    *One curve.* It is smoothed by a centred mean over checkpoints, not steps, whose window shrinks towards both ends: that
    turns no rising curve into one with a peak. The start and the end are the means of
    the first and last half window, one more than half of it. A peak rises from the start and drops to the end,
    both by more than noise: ``p`` is the larger of the two chances, from simulated flat curves, with the most
    extreme peaks of all curves that only rise or only fall. The noise is Gaussian and first-order
    autoregressive from checkpoint to checkpoint; its size and correlation come from the
    differences between the runs of the model if three are complete, and from what smoothing leaves of the
    curve itself if not, which for steep curves overstates it (a real peak is then missed). ``lower``
    and ``upper`` are the ends of the set of checkpoints whose smoothed value is not
    significantly below the peak, each tested at ``1 - level``.

    *Over runs.* The peak is sought in the mean of all other runs, and the rise and decline measured in the run
    itself, so that what is measured was not picked for being large; Student's t over the runs. It asks nothing of the
    noise within runs, but runs that share their data order share part of it. The interval
    of ``runs_step`` is of the bootstrap over runs; of simulated peaks its nominal 95 % hold 79-91 % with three
    runs and 91-99 % with ten. Complete runs are those measured at every step that
    more than half of the runs share.

    In simulations of flat, rising and saturating curves with noise of lag-1 correlation 0 to 0.9, at most 6 % have a
    ``p`` and at most 6 % a ``runs_p`` of 0.05 or less. NaN and infinite values are not measured. Fewer than eight
    checkpoints, or three more than the window, are too few; a constant curve has no peak. Copies of other runs count once.

    References
    ----------
    Berger, R. L. (1982). Multiparameter hypothesis testing and acceptance sampling.
    Technometrics 24, 295-300. https://doi.org/10.1080/00401706.1982.10487790

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.trajectories.peaks import curve_peaks
    >>> found = curve_peaks(ps.load_cube("nano").sel(metric=["eval/nano_induction/acc"]), rng=0)
    >>> found["step"].dims, found["runs_p"].dims
    (('model', 'seed', 'metric'), ('model', 'metric'))
    """
    cube = as_cube(cube)
    check_choice("kind of peak", which, WHICH)
    check_shares(level=level)
    check_whole("n_resamples", n_resamples, 1)
    if window is not None:
        check_whole("window", window, 3)
        if window % 2 == 0:
            raise AnalysisError(f"window is {window}; it is an odd number, so that it has a middle.")
    seed = int(generator_of(rng).integers(2**31))
    found = functools.partial(_of_metrics, which=which, window=window, level=level, n_resamples=n_resamples, seed=seed)
    result = in_fixed_parts(found, cube)
    result["runs_q"] = result["runs_p"].dims, adjusted_p(result["runs_p"].values)[0], result["runs_q"].attrs
    return result


def _of_metrics(
    cube: xr.Dataset, *, which: str, window: int | None, level: float, n_resamples: int, seed: int
) -> xr.Dataset:
    """What needs no other metrics."""
    curves, reason = curves_of(cube)
    data = centred(curves if which == "peak" else -curves)
    runs = _of_all_runs(data.curves, window, level, n_resamples, seed)
    own = _of_each_run(data.curves, reason, runs, window, level, seed)
    return _labelled(cube, which, level, data, own, reason, runs)


def turns(curves: Floats, reason: Ints, *, seed: int = 0) -> Floats:
    """The smaller p of a peak and a trough of each curve (model, seed, metric, step), by itself or over runs; NaN for none."""
    found = []
    for several in (curves, -curves):
        runs = _of_all_runs(several, None, 0.95, 1, seed)
        own = _of_each_run(several, reason.copy(), runs, None, 0.95, seed)
        found += [own.numbers["p"], np.broadcast_to(runs.numbers["p"][:, None], reason.shape)]
    return np.asarray(np.fmin.reduce(found))


def half_window(n: int, window: int | None) -> int | None:
    """Checkpoints on either side that are averaged; None where there are too few."""
    half = max(1, n // 15) if window is None else window // 2
    return half if n >= max(MIN_POINTS, 2 * half + 4) else None


@dataclass
class _Runs:
    """What the complete runs of a model say together, each (model, metric); places are those of steps, -1 for none."""

    numbers: dict[str, Floats]
    place: Ints
    before: Ints
    lower: Ints
    upper: Ints
    n: Ints
    rho: Ints

    @classmethod
    def none(cls, shape: tuple[int, int]) -> _Runs:
        names = ("rise", "decline", "decline_lower", "decline_upper", "p", "sd")
        places = (np.full(shape, -1, dtype=np.int64) for _ in range(6))
        found = cls({name: np.full(shape, np.nan) for name in names}, *places)
        found.n[:] = 0
        return found


def _of_all_runs(curves: Floats, window: int | None, level: float, n_resamples: int, seed: int) -> _Runs:
    found = _Runs.none((curves.shape[0], curves.shape[2]))
    for block in complete_blocks(curves):
        n, half = len(block.runs), half_window(len(block.places), window)
        at = (block.model, block.metrics)
        found.n[at] = n
        if half is None:
            continue
        smoother = Smoother(len(block.places), half)
        smooth = block.values @ smoother.mean.T
        rest = block.values - smooth
        # What is left of the differences between runs has nothing of the shape they share.
        found.rho[at], found.numbers["sd"][at] = noise_of(rest - rest.mean(axis=1, keepdims=True), half)
        place = np.argmax(smooth.mean(axis=1), axis=-1)
        found.place[at], found.before[at] = block.places[place], np.where(place > 0, block.places[place - 1], -1)
        lower, upper = _resampled_places(smooth, all_counts(n, n_resamples, np.random.default_rng(seed)), level)
        found.lower[at], found.upper[at] = block.places[lower], block.places[upper]
        rise, decline = cross_fitted(block.values, smoother)
        numbers = found.numbers
        numbers["rise"][at] = over_runs(rise, level)[0]
        numbers["decline"][at], numbers["decline_lower"][at], numbers["decline_upper"][at], _ = over_runs(
            decline, level
        )
        codes, which = np.unique(found.rho[at], return_inverse=True)
        excess = np.array([cross_fitted_excess(smoother.n, half, RHOS[code], n, seed) for code in codes])[which]
        numbers["p"][at] = np.minimum(excess * np.maximum(one_sided_p(rise), one_sided_p(decline)), 1.0)
    return found


def _resampled_places(smooth: Floats, counts: Floats, level: float) -> tuple[Ints, Ints]:
    """Range of the place of the peak of the mean curve (metric, run, place) over resamples of the runs."""
    lower, upper = np.empty(len(smooth), dtype=np.int64), np.empty(len(smooth), dtype=np.int64)
    for i, curves in enumerate(smooth):
        places = np.sort(np.argmax(counts @ curves, axis=1))
        tail = (1 - level) / 2 * len(places)
        lower[i], upper[i] = places[int(tail)], places[len(places) - 1 - int(tail)]
    return lower, upper


@dataclass
class _Each:
    """What each run says by itself, each (model, seed, metric); places are those of steps, -1 for none."""

    numbers: dict[str, Floats]
    places: dict[str, Ints]

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> _Each:
        return cls(
            {name: np.full(shape, np.nan) for name in ("height", "rise", "decline", "p", "noise", "noise_rho")},
            {name: np.full(shape, -1, dtype=np.int64) for name in ("step", "before", "lower", "upper")},
        )


def _of_each_run(curves: Floats, reason: Ints, runs: _Runs, window: int | None, level: float, seed: int) -> _Each:
    """Peak of every curve by itself; ``reason`` gains the curves with too few points."""
    found = _Each.none(reason.shape)
    where = np.argwhere(reason == LOOKED_AT)
    flat = curves[tuple(where.T)]
    for rows, places in same_steps(flat) if len(flat) else ():
        half = half_window(len(places), window)
        if half is None:
            reason[tuple(where[rows].T)] = TOO_FEW
            continue
        smoother = Smoother(len(places), half)
        y = flat[np.ix_(rows, places)]
        models, _, metrics = where[rows].T
        sd, rho, n = runs.numbers["sd"][models, metrics], runs.rho[models, metrics], runs.n[models, metrics]
        alone = np.isnan(sd)
        own_rho, own_sd = noise_of((y - y @ smoother.mean.T)[:, None], half)
        sd, rho, n = np.where(alone, own_sd, sd), np.where(alone, own_rho, rho), np.where(alone, 1, n)
        for code, several in sorted(set(zip(rho.tolist(), n.tolist(), strict=True))):
            part = np.flatnonzero((rho == code) & (n == several))
            peak = find_peaks(y[part], smoother, RHOS[code], sd[part])
            null = null_peaks(smoother.n, half, RHOS[code], several, seed)
            near = peak_set(peak, null, level)
            at = tuple(where[rows[part]].T)
            inner = smoother.inner[peak.place]
            found.places["step"][at] = places[peak.place]
            found.places["before"][at] = np.where(peak.place > 0, places[peak.place - 1], -1)
            found.places["lower"][at] = places[np.argmax(near, axis=1)]
            found.places["upper"][at] = places[smoother.n - 1 - np.argmax(near[:, ::-1], axis=1)]
            for name, values in {
                "height": peak.height,
                "rise": np.where(inner, peak.height - peak.start, 0.0),
                "decline": np.where(inner, peak.height - peak.end, 0.0),
                "p": peak_p(peak, null),
                "noise": sd[part],
                "noise_rho": np.full(len(part), RHOS[code]),
            }.items():
                found.numbers[name][at] = values
    return found


def _labelled(
    cube: xr.Dataset, which: str, level: float, data: Centred, own: _Each, reason: Ints, runs: _Runs
) -> xr.Dataset:
    steps = np.asarray(cube["step"].values, dtype=np.int64)
    sign = 1.0 if which == "peak" else -1.0

    def step_at(places: Ints) -> Ints:
        return np.where(places >= 0, steps[np.maximum(places, 0)], -1)

    numbers = own.numbers | {
        name: unscaled(own.numbers[name], data.exponent[:, None]) for name in ("height", "rise", "decline", "noise")
    }
    numbers["height"] = sign * (numbers["height"] + data.level[:, None])
    numbers["relative"] = divided(numbers["decline"], np.abs(numbers["height"]))
    per_run = (
        {name: step_at(places) for name, places in own.places.items()} | numbers | {"reason": reason.astype(np.int8)}
    )
    of_runs = {
        "runs_step": step_at(runs.place), "runs_before": step_at(runs.before),
        "runs_lower": step_at(runs.lower), "runs_upper": step_at(runs.upper),
        **{f"runs_{name}": unscaled(runs.numbers[name], data.exponent)
           for name in ("rise", "decline", "decline_lower", "decline_upper")},
        "runs_p": runs.numbers["p"], "runs_q": np.full_like(runs.numbers["p"], np.nan),
        "n_runs": runs.n, "n_peaks": np.sum(own.numbers["p"] <= 1 - level, axis=1),
    }  # fmt: skip
    result = xr.Dataset(
        {name: (("model", "seed", "metric"), values) for name, values in per_run.items()}
        | {name: (("model", "metric"), values) for name, values in of_runs.items()},
        coords=labels(cube, "model", "seed", "metric"),
        attrs={"which": which, "level": level},
    )
    return flagged(described(result, _CURVE_DOCS | _RUNS_DOCS), {"reason": REASONS})
