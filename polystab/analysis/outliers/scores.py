"""How unusual each run is among its siblings, step by step. A listing, not a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import (
    Floats,
    Ints,
    cells,
    described,
    divided,
    labels,
)
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.chunked import joined, metric_parts, with_copies
from polystab.analysis.outliers.tallies import RunTally
from polystab.analysis.outliers.zscores import MIN_RUNS, leave_one_out, plain_z, robust_z
from polystab.cube.specs import DIMS
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, UnknownNameError, did_you_mean, shown

# Of Iglewicz and Hoaglin (1993).
THRESHOLD = 3.5

Method = Literal["robust_z", "leave_one_out", "reference", "z"]
METHODS: tuple[Method, ...] = get_args(Method)

# Normal draws behind each expected share; its standard error is below 0.1 percentage points.
SIMULATED = 400_000

_SCORES = {
    "robust_z": "robust z: deviation from the median of the model's runs in robust standard deviations",
    "leave_one_out": "t: deviation from the mean of the model's other runs in their standard deviations (for a new run)",
    "reference": "robust z: deviation from the median of the reference runs in robust standard deviations",
    "z": "z: deviation from the mean of the model's runs in their standard deviations (ddof 1)",
}

_DOCS = {
    "n": "runs that the score compares with or among: finite and no copies",
    "n_cells": "scored cells of the run",
    "n_beyond": "cells beyond the threshold, diverged ones included",
    "n_nonfinite": "infinite values of the run, scored or not: it diverged",
    "share_beyond": "n_beyond / n_cells",
    "share_beyond_at": "share of the metrics scored at the step that are beyond the threshold",
    "expected_share": "share beyond the threshold in clean Gaussian noise with as many runs",
    "excess": "share_beyond / expected_share",
    "largest": "score furthest from 0, with its sign",
    "largest_step": "step of the score furthest from 0, -1 for none",
    "largest_metric": "metric of the score furthest from 0",
    "first_step": "first step from which a metric is beyond the threshold twice in a row, -1 for none",
    "first_metric": "that metric",
    "n_sustained": "metrics beyond the threshold at two or more checkpoints in a row",
    "n_metrics": "metrics that are scored at all",
}


def outlier_scores(
    cube: xr.Dataset | xr.DataTree,
    *,
    method: Method = "robust_z",
    reference: Sequence[int] | xr.Dataset | xr.DataTree | None = None,
    threshold: float = THRESHOLD,
    rng: int | np.random.Generator | None = 0,
    keep_scores: bool = True,
) -> xr.Dataset:
    """How unusual each run is at each step against the other runs of its model, per metric.

    This is a listing of where to look, not a verdict on runs: nothing is corrected for
    the number of cells looked at, cells of one run are not independent, and with few
    runs clean noise exceeds the threshold often. ``expected_share`` says how often. The
    verdict is :func:`polystab.analysis.outlier_runs`.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    method : {'robust_z', 'leave_one_out', 'reference', 'z'}, optional
        How to score; see Notes.
    reference : sequence of int, or a cube, optional
        For ``reference``: the seeds of the cube that are known to be good, or a cube with such
        runs of the same models; its steps and metrics that this cube lacks are passed over.
    threshold : float, optional
        Absolute score beyond which a cell is counted.
    rng : int, numpy.random.Generator or None, optional
        For the simulation of ``expected_share`` only.
    keep_scores : bool, optional
        False leaves ``score`` and ``n`` out, which take more space than the cube; what remains is small,
        however many metrics there are.

    Returns
    -------
    xarray.Dataset
        ``score(model, seed, step, metric)``, without units, positive above the median,
        infinite for a run that diverged (infinite value), NaN where nothing was measured
        or fewer than three runs can be compared; ``n(model, step, metric)`` runs compared.

        Per run (model, seed): ``n_cells`` (scored), ``n_beyond``, ``n_nonfinite``,
        ``share_beyond`` and ``excess`` (its ratio to ``expected_share``); ``largest``,
        ``largest_step``, ``largest_metric``; ``n_metrics`` (scored) and ``n_sustained``
        (beyond the threshold, on the same side, at two or more consecutive measured
        checkpoints); ``first_step`` and ``first_metric``, where the earliest such stretch
        begins. Steps are -1 and names empty where there is none.

        ``share_beyond_at(model, seed, step)`` and ``expected_share(model)``. The
        threshold and method are in ``attrs``.

    Raises
    ------
    UnknownNameError
        No such method.
    AnalysisError
        ``threshold`` is not a positive number; ``reference`` is missing, not asked for, or
        names seeds or models that are not there.

    Notes
    -----
    With the median and the median absolute deviation (MAD) over the runs of a model at a
    step, the robust z of a value x is ``0.6745 (x - median) / MAD``. Where the MAD is 0
    (more than half of the runs are equal) it is ``(x - median) / (1.253314 meanAD)``
    with the mean absolute deviation; where all runs are equal it is 0. Differences of a
    few units in the last place count as equal. Unlike ``mean +- 2 SD`` (``method="z",
    threshold=2``, the rule of PolyPythias) it does not let two outliers hide each other; a
    plain z of n runs cannot exceed (n - 1) / sqrt(n), which is 2.85 for ten.

    ``leave_one_out`` compares with the other runs only: with their mean m and standard
    deviation s (ddof 1), ``(x - m) / (s sqrt(1 + 1 / (n - 1)))``, which for n normal runs
    is t distributed with n - 2 degrees of freedom. It finds a single outlier surely; two hide
    each other, as each is in the other's s. ``reference`` is the robust z with median and MAD of
    the reference runs; a reference run is compared with a set that holds itself.

    Infinite values take no part in median and MAD and are scored infinite. Copies of
    other runs (:func:`polystab.analysis.duplicate_runs`) are scored but do not count.

    ``expected_share`` is that of independent normal runs, as many as are compared, averaged
    over the cells of the model (see :func:`expected_share`); with ``reference``, of a
    run that is none of them.

    References
    ----------
    Iglewicz, B. and Hoaglin, D. C. (1993). How to Detect and Handle Outliers. ASQC
    Basic References in Quality Control 16.

    Leys, C. et al. (2013). Detecting outliers. Journal of Experimental Social
    Psychology 49, 764-766. https://doi.org/10.1016/j.jesp.2013.03.013

    Examples
    --------
    >>> import pandas as pd, polystab as ps
    >>> cube = ps.cube_from_records(pd.DataFrame({
    ...     "model": "a", "seed": range(5), "step": 1000, "metric": "loss/val/ce",
    ...     "value": [2.34, 2.35, 2.33, 2.36, 2.86]}))
    >>> ps.outlier_scores(cube)["score"].squeeze().round(1).values.tolist()
    [-0.7, 0.0, -1.3, 0.7, 34.4]
    """
    cube = as_cube(cube)
    if method not in METHODS:
        raise UnknownNameError(f"no outlier method is called {method!r}. {did_you_mean(method, METHODS)}")
    if not threshold > 0:
        raise AnalysisError(f"threshold is {threshold}; it must be above 0, e.g. {THRESHOLD}.")
    if (reference is not None) != (method == "reference"):
        raise AnalysisError("reference and method='reference' go together: give both or neither.")
    if isinstance(reference, (xr.Dataset, xr.DataTree)):
        reference = _checked_reference(cube, reference)
    tally = RunTally([cube.sizes[dim] for dim in DIMS], threshold)
    kept: list[xr.Dataset] = []
    for part in metric_parts(cube):
        score, n = _scored(part, method, reference)
        tally.add(cells(part), score, n)
        if keep_scores:
            variables = {"score": (("model", "seed", "step", "metric"), score), "n": (("model", "step", "metric"), n)}
            kept.append(xr.Dataset(variables, coords=labels(part, "metric")))
    expected = tally.expected(expected_share(tally.sizes(), method=method, threshold=threshold, rng=rng))
    summary = tally.summary(cube["step"].values, cube["metric"].values)
    summary["excess"] = divided(summary["share_beyond"], expected[:, None])
    per_run = {
        **{name: (("model", "seed"), column) for name, column in summary.items()},
        "share_beyond_at": (("model", "seed", "step"), tally.share_beyond_at()),
        "expected_share": ("model", expected),
    }
    dims = ("model", "seed", "step", "metric") if keep_scores else ("model", "seed", "step")
    result = xr.Dataset(
        {**(joined(kept).data_vars if keep_scores else {}), **per_run},
        coords=labels(cube, *dims),
        attrs={"method": method, "threshold": float(threshold), "min_runs": MIN_RUNS},
    )
    docs = {"score": _SCORES[method]} | _DOCS
    return described(result, {str(name): docs[str(name)] for name in result.data_vars})


def _scored(
    cube: xr.Dataset, method: Method, reference: Sequence[int] | xr.Dataset | xr.DataTree | None
) -> tuple[Floats, Ints]:
    """The score of every cell, and by how many runs (model, step, metric)."""
    counted, _ = counted_cells(cube)
    if method == "leave_one_out":
        return leave_one_out(cells(cube), counted)
    if method == "z":
        return plain_z(cells(cube), counted)
    return robust_z(cells(cube), counted if reference is None else _reference_cells(cube, counted, reference))


def _checked_reference(cube: xr.Dataset, reference: xr.Dataset | xr.DataTree) -> xr.Dataset:
    """A reference cube that has the models, and knows which of its runs are copies."""
    other = as_cube(reference)
    missing = [name for name in cube["model"].values.tolist() if name not in set(other["model"].values.tolist())]
    if missing:
        raise AnalysisError(f"the reference has no runs of {shown(missing)}; select the models it has.")
    return with_copies(other)


def _reference_cells(cube: xr.Dataset, counted: Floats, reference: Sequence[int] | xr.Dataset | xr.DataTree) -> Floats:
    """Values (model, reference run, step, metric) on the grid of the cube."""
    if isinstance(reference, (xr.Dataset, xr.DataTree)):
        other = as_cube(reference)
        other = other.isel(metric=other["metric"].isin(cube["metric"].values).values)
        values = xr.Dataset({"value": (("model", "seed", "step", "metric"), counted_cells(other)[0])})
        values = values.assign_coords({str(name): other[name].values for name in values.dims})
        return cells(values.reindex({name: cube[name].values for name in ("model", "step", "metric")}))
    seeds = cube["seed"].values.tolist()
    unknown = [seed for seed in reference if seed not in seeds]
    if unknown or not len(reference):
        raise AnalysisError(f"reference needs seeds of the cube ({shown(seeds)}), got {shown(unknown) or 'none'}.")
    return counted[:, np.isin(cube["seed"].values, list(reference))]


def rank_runs(scores: xr.Dataset, *, limit: int) -> list[tuple[str, int]]:
    """(model, seed) of the runs with the largest share beyond the threshold, largest first.

    Parameters
    ----------
    scores : xarray.Dataset
        Result of :func:`outlier_scores`.
    limit : int
        At most so many.

    Returns
    -------
    list of (str, int)
        Runs without a score are not among them; ties keep the order of the cube.
    """
    share = np.nan_to_num(scores["share_beyond"].transpose("model", "seed").values, nan=-1.0)
    order = np.argsort(-share, axis=None, kind="stable")[:limit]
    places = np.stack(np.unravel_index(order, share.shape), axis=1).tolist()
    models, seeds = scores["model"].values, scores["seed"].values
    return [(str(models[m]), int(seeds[s])) for m, s in places if share[m, s] >= 0]


def expected_share(
    n: npt.ArrayLike,
    *,
    method: Method = "robust_z",
    threshold: float = THRESHOLD,
    rng: int | np.random.Generator | None = 0,
) -> Floats:
    """Share of cells beyond the threshold when n runs are nothing but Gaussian noise.

    Parameters
    ----------
    n : array of int
        Number of runs compared.
    method : {'robust_z', 'leave_one_out', 'reference', 'z'}, optional
        Of :func:`outlier_scores`.
    threshold : float, optional
        Absolute score.
    rng : int, numpy.random.Generator or None, optional
        Source of the simulated runs; by default always the same.

    Returns
    -------
    numpy.ndarray
        Shares between 0 and 1, like ``n``; NaN for fewer than three runs. Each is found
        from about 400,000 draws, so its standard error is below 0.1 percentage points; that of
        ``leave_one_out`` is exact, and so is that of ``z``: z^2 n / (n - 1)^2 of normal runs has a
        Beta(1/2, (n - 2)/2) distribution.

    Examples
    --------
    >>> from polystab.analysis import expected_share
    >>> share = expected_share([3, 10, 20])
    >>> bool(share[0] > share[1] > share[2] > 0)
    True
    """
    generator = np.random.default_rng(rng)
    counts = np.asarray(n, dtype=np.int64)
    shares = np.full(counts.shape, np.nan)
    for count in np.unique(counts[counts >= MIN_RUNS]).tolist():
        shares[counts == count] = _share_of_noise(count, method, threshold, generator)
    return shares


def _share_of_noise(n: int, method: str, threshold: float, rng: np.random.Generator) -> float:
    if method == "leave_one_out":
        from scipy.special import stdtr

        return 2 * float(stdtr(n - 2, -threshold))
    if method == "z":
        from scipy.special import betaincc

        return float(betaincc(0.5, (n - 2) / 2, min(n * threshold**2 / (n - 1) ** 2, 1.0)))
    draws = rng.standard_normal((-(-SIMULATED // n), n))
    fresh = draws if method == "robust_z" else rng.standard_normal(draws.shape)
    return float(np.mean(np.abs(robust_z(fresh, draws)[0]) > threshold))
