"""Runs whose way through the states of training is unlikely, judged by a map of their siblings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, described, labels
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.options import Rng, check_whole, generator_of
from polystab.cube.validate import as_cube

# A run and the three others that a map needs at least.
LEAST_RUNS = 4
TRIED_STATES = (2, 3, 4, 5, 6)

_DOCS = {
    "surprise": "minus the log-likelihood per checkpoint under the map of the model's other runs",
    "path_surprise": "mean of minus the log probability of each transition on the most likely path, under that map",
    "p_rank": "share of the model's runs at least as surprising",
    "path_p_rank": "share of the model's runs whose path is at least as surprising",
    "state": "state on the most likely path, numbered by the map of the others, -1 where not decoded",
    "distance": "root mean square over metrics of the distance to the state's mean, in its standard deviations",
    "n_checkpoints": "checkpoints that were decoded",
    "n_states": "states of the maps",
    "smallest_p_rank": "smallest rank p that so many runs allow",
}


def unlikely_paths(
    cube: xr.Dataset | xr.DataTree,
    *,
    metrics: Sequence[str] | None = None,
    n_states: int | None = None,
    n_restarts: int = 4,
    rng: Rng = 0,
) -> xr.Dataset:
    """How unlikely each run is under a hidden Markov map of its siblings.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    metrics : sequence of str, optional
        What the states are made of, as in :func:`polystab.analysis.fit_training_map`.
    n_states : int, optional
        Number of states; by default, for each model, the one of 2 to 6 that BIC chooses for all of its runs.
    n_restarts : int, optional
        Fits from different beginnings for each map.
    rng : int, numpy.random.Generator or None, optional
        For the beginnings of the fits.

    Returns
    -------
    xarray.Dataset
        Over (model, seed): ``surprise`` and ``path_surprise`` (nats), ``p_rank``, ``path_p_rank``, ``n_checkpoints``;
        over (model, seed, step): ``state``, ``distance``; over model: ``n_states``, ``smallest_p_rank`` (one over the
        number of judged runs).

    Raises
    ------
    AnalysisError
        A metric is not in the cube, or an argument out of range.

    Notes
    -----
    For each run a map is fitted to the *other* runs of its model, scale included, and the run is decoded with it, so
    that it cannot make its own states. ``surprise`` is large where its values are strange or come in a strange order;
    ``path_surprise`` looks at the order of states alone. Ranks are valid if the runs are exchangeable, whatever the
    map is worth: with ten runs the smallest is 0.1, and the first of ten is always there.

    Copies of other runs are neither fitted nor judged. Checkpoints that lack a metric, or where one is infinite, are
    passed over. With fewer than four runs of a model everything of it is NaN, and -1 for states.

    Examples
    --------
    >>> import polystab as ps
    >>> found = unlikely_paths(ps.load_cube("demo").sel(model=["toy-8m"]), n_states=3, n_restarts=1)
    >>> found["p_rank"].dims, round(float(found["smallest_p_rank"][0]), 2)
    (('model', 'seed'), 0.1)
    """
    from polystab.analysis.training_maps import fit_training_map

    cube = as_cube(cube)
    check_whole("n_restarts", n_restarts, 1)
    if n_states is not None:
        check_whole("n_states", n_states, 1)
    generator = generator_of(rng)
    shape = (cube.sizes["model"], cube.sizes["seed"])
    surprise, path = np.full(shape, np.nan), np.full(shape, np.nan)
    used, states = np.zeros(shape, dtype=np.int64), np.zeros(shape[0], dtype=np.int64)
    distance = np.full((*shape, cube.sizes["step"]), np.nan)
    state = np.full(distance.shape, -1, dtype=np.int64)
    counts = np.isfinite(counted_cells(cube)[0]).sum(axis=(2, 3)) > 0
    for m in range(shape[0]):
        there = np.flatnonzero(counts[m])
        if len(there) < LEAST_RUNS:
            continue
        runs = cube.isel(model=[m], seed=there)
        whole = fit_training_map(
            runs, metrics=metrics, n_states=n_states or TRIED_STATES, n_restarts=n_restarts, rng=generator
        )
        states[m] = whole.n_states
        for place, seed in enumerate(there.tolist()):
            others = runs.drop_isel(seed=place)
            own_map = fit_training_map(
                others, metrics=list(whole.metrics), n_states=whole.n_states, n_restarts=n_restarts, rng=generator
            )
            read = own_map.decode(runs.isel(seed=[place])).isel(model=0, seed=0)
            used[m, seed] = int(read["n_checkpoints"])
            if used[m, seed]:
                surprise[m, seed] = -float(read["log_likelihood"]) / used[m, seed]
                path[m, seed] = _path_surprise(read["state"].values, own_map.parameters["transition"].values)
                state[m, seed], distance[m, seed] = read["state"].values, read["distance"].values
    run = ("model", "seed")
    judged = np.isfinite(surprise).sum(axis=1)
    result = xr.Dataset(
        {
            "surprise": (run, surprise),
            "path_surprise": (run, path),
            "p_rank": (run, _ranks(surprise)),
            "path_p_rank": (run, _ranks(path)),
            "state": ((*run, "step"), state),
            "distance": ((*run, "step"), distance),
            "n_checkpoints": (run, used),
            "n_states": ("model", states),
            "smallest_p_rank": ("model", np.where(judged > 0, 1 / np.maximum(judged, 1), np.nan)),
        },
        coords=labels(cube, "model", "seed", "step"),
    )
    return described(result, _DOCS)


def _path_surprise(state: Ints, transition: Floats) -> float:
    """Mean of minus the log probability of the steps of a path; NaN for a path of one checkpoint."""
    taken = state[state >= 0]
    if len(taken) < 2:
        return float("nan")
    return float(-np.mean(np.log(np.maximum(transition[taken[:-1], taken[1:]], np.finfo(np.float64).tiny))))


def _ranks(values: Floats) -> Floats:
    """Share of the runs of a model that have at least this value, NaN for NaN."""
    known = np.isfinite(values)
    above = (values[:, None, :] >= values[:, :, None]).sum(axis=2)
    return np.where(known, above / np.maximum(known.sum(axis=1, keepdims=True), 1), np.nan)
