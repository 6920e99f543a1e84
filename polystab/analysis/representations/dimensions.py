"""Whether the large dimensions of a residual stream stay the same during training."""

from __future__ import annotations

from itertools import pairwise, takewhile

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, described
from polystab.analysis.representations.groups import RUN_DIMS, read_group
from polystab.errors import AnalysisError

_DOCS = {
    "count": "outlier dimensions among those that are kept",
    "overlap": "outlier dimensions in common with the measured step before, over those of either (Jaccard)",
    "same_largest": "1 if the largest dimension is that of the measured step before, else 0",
    "persistence": "mean of overlap over the run",
    "largest_persistence": "mean of same_largest over the run",
    "first_step": "step from which the outliers of the last step have all been outliers",
}


def outlier_persistence(dimensions: xr.Dataset | xr.DataTree, *, factor: float = 6.0) -> xr.Dataset:
    """How long the same dimensions of the residual stream stand out.

    Parameters
    ----------
    dimensions : xarray.Dataset or xarray.DataTree
        The group ``dimensions``, or a tree that has it: ``dimension`` and ``ratio`` over
        (model, seed, step, site, rank).
    factor : float, optional
        A dimension is an outlier if its root mean square is more than this many times
        that of the median dimension.

    Returns
    -------
    xarray.Dataset
        Over (model, seed, step, site): ``count``, ``overlap`` (NaN where neither step has
        an outlier), ``same_largest``; the last two compare with the measured step before
        in the same run, and are NaN at the first. Over (model, seed, site): their means
        ``persistence`` and ``largest_persistence``, and ``first_step``, NaN where the last
        measured step has no outlier. Only dimensions that the group kept are seen.

    Raises
    ------
    AnalysisError
        There is no such group; the factor is not above 1.

    Notes
    -----
    Runs are told of one by one, copies of others too: there is no statistic over seeds
    here. Numbers of dimensions mean nothing across seeds.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> dims = ("model", "seed", "step", "site", "rank")
    >>> group = xr.Dataset(
    ...     {
    ...         "dimension": (dims, np.array([[3, 1], [3, 5]]).reshape(1, 1, 2, 1, 2)),
    ...         "ratio": (dims, np.array([[9.0, 2.0], [9.0, 8.0]]).reshape(1, 1, 2, 1, 2)),
    ...     },
    ...     coords={"model": ["tiny"], "seed": [0], "step": [0, 10], "site": ["layers.0.residual"]},
    ... )
    >>> outlier_persistence(group)["overlap"].sel(step=10).item()
    0.5
    """
    if isinstance(factor, bool) or not factor > 1:
        raise AnalysisError(f"factor is {factor!r}; it must be a number above 1.")
    group, _ = read_group(dimensions, "dimensions", ("dimension", "ratio"))
    wanted = (*RUN_DIMS, "site", "rank")
    numbers = np.asarray(group["dimension"].transpose(*wanted).values, dtype=np.float64)
    ratios = np.asarray(group["ratio"].transpose(*wanted).values, dtype=np.float64)
    known = (numbers >= 0) & ~np.isnan(ratios)
    outlier = known & (ratios > factor)
    measured: Bools = np.any(known, axis=4)
    # The largest dimension of each site; ranks are not relied on.
    top = np.where(known, ratios, -np.inf).argmax(axis=4)
    largest = np.take_along_axis(numbers, top[..., None], axis=4)[..., 0]
    overlap, same_largest = np.full(measured.shape, np.nan), np.full(measured.shape, np.nan)
    runs = (measured.shape[0], measured.shape[1], measured.shape[3])
    first_step = np.full(runs, np.nan)
    steps = group["step"].values
    for i, j, site in np.ndindex(runs):
        there = np.flatnonzero(measured[i, j, :, site]).tolist()
        sets = {k: set(numbers[i, j, k, site][outlier[i, j, k, site]].tolist()) for k in there}
        for before, now in pairwise(there):
            either = sets[now] | sets[before]
            if either:
                overlap[i, j, now, site] = len(sets[now] & sets[before]) / len(either)
            same_largest[i, j, now, site] = largest[i, j, now, site] == largest[i, j, before, site]
        if there and sets[there[-1]]:
            since = takewhile(lambda k: sets[there[-1]] <= sets[k], reversed(there))  # noqa: B023  used up at once
            first_step[i, j, site] = steps[min(since)]
    result = xr.Dataset(
        {
            "count": ((*RUN_DIMS, "site"), np.where(measured, outlier.sum(axis=4), np.nan)),
            "overlap": ((*RUN_DIMS, "site"), overlap),
            "same_largest": ((*RUN_DIMS, "site"), same_largest),
            "persistence": (("model", "seed", "site"), _mean_over_steps(overlap)),
            "largest_persistence": (("model", "seed", "site"), _mean_over_steps(same_largest)),
            "first_step": (("model", "seed", "site"), first_step),
        },
        coords={name: group[name] for name in (*RUN_DIMS, "site")},
        attrs={"factor": float(factor)},
    )
    return described(result, _DOCS, dict.fromkeys(list(_DOCS)[:-1], "1"))


def _mean_over_steps(values: Floats) -> Floats:
    known = ~np.isnan(values)
    n = known.sum(axis=2)
    total = np.where(known, values, 0.0).sum(axis=2)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)
