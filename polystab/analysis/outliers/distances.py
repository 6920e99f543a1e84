"""How remote whole runs are: depth of curves among curves, and one distance for all metrics."""

from __future__ import annotations

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, cells, described, divided, labels, mean
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.options import check_whole
from polystab.analysis.outliers.zscores import MIN_RUNS, robust_z
from polystab.cube.validate import as_cube

# A robust z beyond this is remote whatever it is; it keeps a diverged run from making NaN of a product.
_FAR = 1e6


def curve_depth(cube: xr.Dataset | xr.DataTree) -> xr.Dataset:
    """How deep the curve of each run lies among the curves of its model: modified band depth.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.

    Returns
    -------
    xarray.Dataset
        ``depth(model, seed, metric)``, 0 to 1: low for a curve that lies outside the others
        most of the time; ``mean_depth(model, seed)`` over metrics; ``p_rank(model, seed)``,
        share of the runs of the model, itself included, whose mean depth is as low. NaN with
        fewer than three runs, and where nothing was measured.

    Notes
    -----
    At each step, the share of pairs of runs between whose values the run's own value lies (ends
    and pairs with itself included), averaged over the steps at which three or more runs are measured.
    With n runs it is at least 2 / n. It counts order only: the level of a curve in no metric's
    units, and not how far out it is. Infinite values are the most remote there are. Copies of other runs make no pairs.

    References
    ----------
    Lopez-Pintado, S. and Romo, J. (2009). On the concept of depth for functional data. Journal
    of the American Statistical Association 104, 718-734. https://doi.org/10.1198/jasa.2009.0108

    Sun, Y., Genton, M. G. and Nychka, D. W. (2012). Exact fast computation of band depth for
    large functional datasets. Stat 1, 68-74. https://doi.org/10.1002/sta4.8

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis.outliers.distances import curve_depth
    >>> depth = curve_depth(polystab.testing.demo_cube())["mean_depth"]
    >>> bool((depth > 0).all() and (depth < 1).all())
    True
    """
    cube = as_cube(cube)
    depth = band_depth(cells(cube), counted_cells(cube)[0])
    total = mean(depth, axis=2)
    with np.errstate(invalid="ignore"):
        as_low = np.sum(total[:, None, :] <= total[:, :, None] + 1e-12, axis=2)
    rank = np.where(np.isnan(total), np.nan, divided(as_low, np.sum(~np.isnan(total), axis=1, keepdims=True)))
    result = xr.Dataset(
        {
            "depth": (("model", "seed", "metric"), depth),
            "mean_depth": (("model", "seed"), total),
            "p_rank": (("model", "seed"), rank),
        },
        coords=labels(cube, "model", "seed", "metric"),
    )
    return described(
        result,
        {
            "depth": "modified band depth of the curve among those of the model",
            "mean_depth": "mean over metrics",
            "p_rank": "share of the runs, itself included, whose mean depth is as low",
        },
    )


def band_depth(values: Floats, counted: Floats) -> Floats:
    """Modified band depth (model, seed, metric) of curves (model, seed, step, metric) among ``counted`` ones."""
    n = np.sum(~np.isnan(counted), axis=1)
    pairs = n * (n - 1) / 2
    depth = np.full((values.shape[0], values.shape[1], values.shape[3]), np.nan)
    for run in range(values.shape[1]):
        own = values[:, run : run + 1]
        below, above = np.sum(counted < own, axis=1), np.sum(counted > own, axis=1)
        share = divided(pairs - below * (below - 1) / 2 - above * (above - 1) / 2, pairs)
        share = np.where((n >= MIN_RUNS) & ~np.isnan(own[:, 0]), share, np.nan)
        depth[:, run] = mean(share, axis=1)
    return depth


def joint_distance(cube: xr.Dataset | xr.DataTree, *, factors: int = 3) -> xr.Dataset:
    """One distance of each run from its siblings at each step, over all metrics.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    factors : int, optional
        Directions in the space of metrics along which runs differ most; fewer where there
        are fewer than three runs per factor, at least one.

    Returns
    -------
    xarray.Dataset
        ``distance(model, seed, step)``, without units, typically near 1; NaN with fewer than
        three runs and where the run was not measured. ``n_factors(model, step)``.

    Raises
    ------
    AnalysisError
        ``factors`` is less than 1.

    Notes
    -----
    Robust z of every metric; factors are the leading eigenvectors of the covariance of the
    runs' directions (each run's z scaled to length 1, so that a remote run counts as any other);
    the run's coordinates on the factors and its distance from their plane become robust z
    again; ``distance`` is the root mean square of these. Metrics that a run lacks count as the
    median. A thousand metrics cost no more than their inner products.

    References
    ----------
    Locantore, N. et al. (1999). Robust principal component analysis for functional data.
    Test 8, 1-73. https://doi.org/10.1007/BF02595862

    Hubert, M., Rousseeuw, P. J. and Vanden Branden, K. (2005). ROBPCA: a new approach to
    robust principal component analysis. Technometrics 47, 64-79.
    https://doi.org/10.1198/004017004000000563

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis.outliers.distances import joint_distance
    >>> joint_distance(polystab.testing.demo_cube())["distance"].dims
    ('model', 'seed', 'step')
    """
    check_whole("factors", factors, 1)
    cube = as_cube(cube)
    values, (counted, copies) = cells(cube), counted_cells(cube)
    score, _ = robust_z(values, counted)
    counts: Bools = np.asarray(~copies.all(axis=2))
    distance = np.full(score.shape[:3], np.nan)
    n_factors = np.zeros((score.shape[0], score.shape[2]), dtype=np.int64)
    for model in range(len(score)):
        z = np.moveaxis(np.clip(score[model], -_FAR, _FAR), 1, 0)
        distance[model], n_factors[model] = _distances(z, counts[model], factors)
    result = xr.Dataset(
        {"distance": (("model", "seed", "step"), distance), "n_factors": (("model", "step"), n_factors)},
        coords=labels(cube, "model", "seed", "step"),
    )
    return described(
        result,
        {
            "distance": "root mean square robust z over robust factors of all metrics and the rest",
            "n_factors": "factors used",
        },
    )


def _distances(z: Floats, counts: Bools, factors: int) -> tuple[Floats, Ints]:
    """Distances (run, step) of robust z (step, run, metric), and the number of factors at each step."""
    n_step, n_run, n_metric = z.shape
    known: Bools = np.asarray(~np.isnan(z).all(axis=2))
    z = np.nan_to_num(z)
    distance, used = np.full((n_run, n_step), np.nan), np.zeros(n_step, dtype=np.int64)
    for t in range(n_step):
        measured, making = known[t], known[t] & counts
        n = int(making.sum())
        if n < MIN_RUNS:
            continue
        inner = z[t] @ z[t].T
        length = np.sqrt(np.diagonal(inner))
        direction = divided(1.0, length)
        among = np.flatnonzero(making & (length > 0))
        if not len(among):
            distance[measured, t] = 0.0
            continue
        size, vector = np.linalg.eigh(inner[np.ix_(among, among)] * np.outer(direction[among], direction[among]))
        q = min(factors, n_metric, max(1, n // 3), int(np.sum(size > 1e-9 * size[-1])))
        # Coordinates of every run on the factors, from inner products alone.
        weight = direction[among, None] * vector[:, -q:] / np.sqrt(size[-q:])
        coordinate = inner[:, among] @ weight
        rest = np.sqrt(np.maximum(length**2 - np.sum(coordinate**2, axis=1), 0.0))
        rest[rest <= 1e-6 * length.max()] = 0.0
        parts = np.column_stack([coordinate, rest])
        score, _ = robust_z(parts[None], np.where(making[:, None], parts, np.nan)[None])
        square = np.minimum(np.abs(score[0]), _FAR) ** 2
        distance[measured, t] = np.sqrt(square.mean(axis=1))[measured]
        used[t] = q
    return distance, used
