"""Reading a training map: occupancy, transitions, paths, and what moves at a transition.

Every function takes what :meth:`TrainingMap.decode` gives, or states over (seed, step) made
elsewhere, with or without a dimension ``model``.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Ints, described, divided, labels, median
from polystab.analysis.maps.model import TrainingMap
from polystab.analysis.maps.states import CELL, States, as_states, one_hot, path_text, sequence


def state_occupancy(states: States, *, n_states: int | None = None) -> xr.Dataset:
    """How much of each run is spent in each state ("bag of states"), and which states are detours.

    Parameters
    ----------
    states : xarray.Dataset or xarray.DataArray
        Decoded runs, or states over (seed, step).
    n_states : int, optional
        How many states there are, where ``states`` does not say.

    Returns
    -------
    xarray.Dataset
        ``occupancy(model, seed, map_state)``, share of the run's checkpoints (they sum to 1; NaN
        for a run without any); ``first_step``, where the run first is in the state, -1 for never;
        ``n_checkpoints(model, seed)``; ``n_visiting(model, map_state)``, runs that are ever in
        it; ``detour(model, map_state)``, bool: some runs are, some never.

    Notes
    -----
    Checkpoints count, not steps: on a grid that is dense early, early states weigh more.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from polystab.analysis.maps.reading import state_occupancy
    >>> states = xr.DataArray([[0, 0, 1, 2], [0, 0, 2, 2]], dims=("seed", "step"), coords={"seed": [0, 1], "step": [0, 1, 2, 4]})
    >>> read = state_occupancy(states)
    >>> read["occupancy"].values.tolist(), read["detour"].values.tolist()
    ([[[0.5, 0.25, 0.25], [0.5, 0.0, 0.5]]], [[False, True, False]])
    """
    table, k = as_states(states, n_states=n_states)
    here = one_hot(table.values, k)  # model, seed, step, state
    n = (table.values >= 0).sum(axis=2)
    visited = here.any(axis=2)
    first = np.where(visited, table["step"].values[np.argmax(here, axis=2)], -1)
    runs = (n > 0).sum(axis=1)[:, None]
    visiting = visited.sum(axis=1)
    per_run, per_state = ("model", "seed", "map_state"), ("model", "map_state")
    return described(
        xr.Dataset(
            {
                "occupancy": (per_run, divided(here.sum(axis=2), n[:, :, None])),
                "first_step": (per_run, first),
                "n_checkpoints": (("model", "seed"), n),
                "n_visiting": (per_state, visiting),
                "detour": (per_state, (visiting > 0) & (visiting < runs)),
            },
            coords={**_labels(table, "model", "seed"), "map_state": np.arange(k)},
        ),
        {
            "occupancy": "share of the run's checkpoints in the state",
            "first_step": "first step in the state, -1 for never",
            "n_checkpoints": "checkpoints with a state",
            "n_visiting": "runs that are ever in the state",
            "detour": "some runs are ever in the state, some never",
        },
    )


def state_transitions(states: States, *, n_states: int | None = None) -> xr.Dataset:
    """The transition graph: which states follow which, in how many runs, and when.

    Parameters
    ----------
    states : xarray.Dataset or xarray.DataArray
        Decoded runs, or states over (seed, step).
    n_states : int, optional
        How many states there are, where ``states`` does not say.

    Returns
    -------
    xarray.Dataset
        ``count(model, seed, map_state, to_state)``: pairs of neighbouring checkpoints, staying
        included; over (model, map_state, to_state) ``total``, ``probability`` (share of the
        pairs that begin in ``map_state``, NaN where none does), ``n_runs`` (that ever take it)
        and ``median_step``, median over those runs of the step at which they first arrive (NaN
        for none).

    Notes
    -----
    Checkpoints without a state are passed over: the ones before and after are neighbours. A run
    of one checkpoint has no transition.
    """
    table, k = as_states(states, n_states=n_states)
    n_model, n_seed, _ = table.shape
    count = np.zeros((n_model, n_seed, k, k), dtype=np.int64)
    first = np.full(count.shape, np.nan)
    steps = table["step"].values
    for m, s in np.ndindex(n_model, n_seed):
        place = np.flatnonzero(table.values[m, s] >= 0)
        own = table.values[m, s, place]
        np.add.at(count[m, s], (own[:-1], own[1:]), 1)
        # From the end, so that the earliest arrival is written last.
        first[m, s, own[:-1][::-1], own[1:][::-1]] = steps[place[1:]][::-1]
    total = count.sum(axis=1)
    pair, graph = ("model", "seed", "map_state", "to_state"), ("model", "map_state", "to_state")
    return described(
        xr.Dataset(
            {
                "count": (pair, count),
                "total": (graph, total),
                "probability": (graph, divided(total, total.sum(axis=2, keepdims=True))),
                "n_runs": (graph, (count > 0).sum(axis=1)),
                "median_step": (graph, median(first, axis=1)),
            },
            coords={**_labels(table, "model", "seed"), "map_state": np.arange(k), "to_state": np.arange(k)},
        ),
        {
            "count": "neighbouring checkpoints of the run in these states",
            "total": "sum of count over runs",
            "probability": "share of the pairs that begin in map_state",
            "n_runs": "runs that ever take the transition",
            "median_step": "median over runs of the step of first arrival",
        },
    )


def state_paths(states: States, *, n_states: int | None = None) -> xr.Dataset:
    """The way each run takes through the states, the way most of them take, and where runs fork from it.

    Parameters
    ----------
    states : xarray.Dataset or xarray.DataArray
        Decoded runs, or states over (seed, step).
    n_states : int, optional
        How many states there are, where ``states`` does not say.

    Returns
    -------
    xarray.Dataset
        Over (model, seed): ``path`` (text such as ``"0 > 1 > 3"``, stays taken together, empty
        for a run without states), ``on_modal_path``, and, where the run leaves the modal path,
        ``fork_step``, ``fork_from`` and ``fork_to``, the first state that is not the modal one;
        -1 where it does not. Over model: ``modal_path`` and ``n_modal``, the runs that take it.
        Over (model, step): ``modal_state``, the state of most runs there, -1 for none.

    Notes
    -----
    The modal path is the one that most runs take; among equals, the one whose transitions more
    runs share. Where ``n_modal`` is small there is no way that most runs take, and forks from it
    mean little. A run that ends early but on the modal path has no fork.
    """
    table, k = as_states(states, n_states=n_states)
    n_model, n_seed, _ = table.shape
    steps = table["step"].values
    fork: Ints = np.full((n_model, n_seed, 3), -1, dtype=np.int64)
    on_path: Bools = np.zeros((n_model, n_seed), dtype=np.bool_)
    texts, modal_texts = np.full((n_model, n_seed), "", dtype=object), []
    n_modal = np.zeros(n_model, dtype=np.int64)
    for m in range(n_model):
        walks = [sequence(row) for row in table.values[m]]
        modal = _modal_path([path for path, _ in walks if path])
        modal_texts.append(path_text(modal))
        for s, (path, begins) in enumerate(walks):
            texts[m, s] = path_text(path)
            on_path[m, s] = path == modal and bool(path)
            i = next((i for i, state in enumerate(path) if i >= len(modal) or state != modal[i]), None)
            if i is not None:
                fork[m, s] = steps[begins[i]], path[i - 1] if i else -1, path[i]
        n_modal[m] = on_path[m].sum()
    here = one_hot(table.values, k).sum(axis=1)  # model, step, state
    run = ("model", "seed")
    return described(
        xr.Dataset(
            {
                "path": (run, texts.astype(np.str_)),
                "on_modal_path": (run, on_path),
                "fork_step": (run, fork[:, :, 0]),
                "fork_from": (run, fork[:, :, 1]),
                "fork_to": (run, fork[:, :, 2]),
                "modal_path": ("model", np.array(modal_texts, dtype=np.str_)),
                "n_modal": ("model", n_modal),
                "modal_state": (("model", "step"), np.where(here.any(axis=2), np.argmax(here, axis=2), -1)),
            },
            coords=_labels(table, *CELL),
        ),
        {
            "path": "states that the run passes through",
            "on_modal_path": "the run takes the way that most runs take",
            "fork_step": "step at which the run leaves the modal path, -1 for never",
            "fork_from": "state before it leaves, -1 for none",
            "fork_to": "state that it goes to instead, -1 for none",
            "modal_path": "the path that most runs take",
            "n_modal": "runs that take it",
            "modal_state": "state of most runs at the step, -1 for none",
        },
    )


def transition_effects(fitted: TrainingMap, states: States | None = None) -> xr.Dataset:
    """Which metrics move at each transition, and by how much.

    Parameters
    ----------
    fitted : TrainingMap
        A training map.
    states : xarray.Dataset or xarray.DataArray, optional
        Runs decoded with it, to count transitions in; by default those it was fitted to.

    Returns
    -------
    xarray.Dataset
        Over (map_state, to_state, metric): ``shift``, difference of the states' means on the
        scale of the map (standard deviations of the reference); ``effect``, the same over the
        root mean square of the two states' standard deviations (Cohen's d). Over (map_state,
        to_state): ``n_transitions`` and ``n_runs`` in ``states``; ``largest_metric``, with the
        largest absolute effect, empty from a state to itself.

    Notes
    -----
    States of a drifting metric are narrow, so that effects of 5 and more are common: compare
    metrics within a transition. Metrics move together (the 14 weight features are nearly all
    functions of the same few norms), and none of this says which of them is the cause.

    References
    ----------
    Cohen, J. (1988). Statistical Power Analysis for the Behavioral Sciences, 2nd ed., section
    2.2. https://doi.org/10.4324/9780203771587
    """
    mean, variance = fitted.parameters["mean"].values, fitted.parameters["variance"].values
    shift = mean[None, :, :] - mean[:, None, :]
    effect = shift / np.sqrt((variance[None, :, :] + variance[:, None, :]) / 2)
    graph = state_transitions(fitted.states if states is None else states, n_states=fitted.n_states)
    off = ~np.eye(fitted.n_states, dtype=np.bool_)
    top = np.array(fitted.metrics)[np.argmax(np.abs(effect), axis=2)]
    pair = ("map_state", "to_state")
    return described(
        xr.Dataset(
            {
                "shift": ((*pair, "metric"), shift),
                "effect": ((*pair, "metric"), effect),
                "n_transitions": (pair, graph["total"].values.sum(axis=0)),
                "n_runs": (pair, graph["n_runs"].values.sum(axis=0)),
                "largest_metric": (pair, np.where(off, top, "")),
            },
            coords={
                **labels(fitted.parameters, "metric"),
                "map_state": np.arange(fitted.n_states),
                "to_state": np.arange(fitted.n_states),
            },
        ),
        {
            "shift": "change of the mean, on the scale of the map",
            "effect": "change of the mean over the pooled standard deviation of the states",
            "n_transitions": "neighbouring checkpoints in these states",
            "n_runs": "runs that ever take the transition",
            "largest_metric": "metric with the largest absolute effect",
        },
    )


def _modal_path(paths: list[list[int]]) -> list[int]:
    """The most frequent path; among equals the one whose transitions more runs share, then the first by number."""
    if not paths:
        return []
    often: Counter[tuple[int, ...]] = Counter(tuple(path) for path in paths)
    shared = Counter(pair for path in paths for pair in set(itertools.pairwise(path)))

    def rank(path: tuple[int, ...]) -> tuple[float, float, tuple[int, ...]]:
        pairs = list(itertools.pairwise(path))
        support = sum(shared[pair] for pair in pairs) / len(pairs) if pairs else 0.0
        return (-often[path], -support, path)

    chosen = min(often, key=rank)
    return list(chosen)


def _labels(table: xr.DataArray, *dims: str) -> dict[str, xr.DataArray]:
    return labels(table.to_dataset(name="state"), *dims)
