"""Do two maps, two seeds or two sizes cut training into the same states?"""

from __future__ import annotations

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, described, divided
from polystab.analysis.maps.states import CELL, States, as_states, one_hot
from polystab.analysis.partitions import rand_of_counts
from polystab.errors import AnalysisError

_DOCS = {
    "ari": "adjusted Rand index of the states: 1 the same partition, 0 as by chance",
    "nmi": "normalised mutual information of the states, 0 to 1",
    "matched": "share of the checkpoints in the same state once states are matched",
    "n": "checkpoints compared",
}


def map_agreement(states: States, other: States) -> xr.Dataset:
    """How far two maps agree on the same checkpoints, and which of their states correspond.

    Parameters
    ----------
    states, other : xarray.Dataset or xarray.DataArray
        The same runs decoded by two maps, or two tables of states over (seed, step). What both
        have is compared: models, seeds and steps are joined by label. To compare two sizes, give
        them the same ``model`` label first (``assign_coords(model=["-"])``).

    Returns
    -------
    xarray.Dataset
        Scalars ``ari`` (adjusted Rand index), ``nmi`` (normalised mutual information,
        arithmetic mean), ``matched`` (share of checkpoints in corresponding states) and ``n``
        (checkpoints); the first three and ``n`` over (model, seed), one run at a time, as
        ``run_ari``, ``run_nmi``, ``run_matched`` and ``run_n``, with the same correspondence;
        ``count(map_state, other_state)``; ``corresponding(other_state)``, the state of the first
        map it is matched to, -1 for none; ``aligned(model, seed, step)``, the states of the second
        map in the numbers of the first, the unmatched ones numbered on from its last.

    Raises
    ------
    AnalysisError
        No checkpoint has a state in both.

    Notes
    -----
    States are matched one to one so that as many checkpoints as possible agree (Hungarian
    method). With states that few checkpoints are in, all three measures are high for almost any
    two maps of the same drift: read them against ``run_agreement`` of the seeds.

    References
    ----------
    Hubert, L. and Arabie, P. (1985). Comparing partitions. Journal of Classification 2, 193-218.
    https://doi.org/10.1007/BF01908075

    Vinh, N. X., Epps, J. and Bailey, J. (2010). Information theoretic measures for clusterings
    comparison. Journal of Machine Learning Research 11, 2837-2854.

    Kuhn, H. W. (1955). The Hungarian method for the assignment problem. Naval Research Logistics
    Quarterly 2, 83-97. https://doi.org/10.1002/nav.3800020109

    Examples
    --------
    >>> import xarray as xr
    >>> from polystab.analysis.maps.agreement import map_agreement
    >>> a = xr.DataArray([[0, 0, 1, 2]], dims=("seed", "step"), coords={"seed": [0], "step": [0, 1, 2, 4]})
    >>> same = map_agreement(a, 2 - a)
    >>> float(same["ari"]), same["corresponding"].values.tolist()
    (1.0, [2, 1, 0])
    """
    from scipy.optimize import linear_sum_assignment

    (first, k), (second, k_other) = as_states(states), as_states(other)
    first, second = xr.align(first, second, join="inner")
    both = (first.values >= 0) & (second.values >= 0)
    if not both.any():
        raise AnalysisError(
            "no checkpoint has a state in both tables; do their models, seeds and steps have the same labels?"
        )
    a, b = one_hot(np.where(both, first.values, -1), k), one_hot(np.where(both, second.values, -1), k_other)
    count = np.einsum("mstj,mstk->msjk", a.astype(np.int64), b.astype(np.int64))
    total = count.sum(axis=(0, 1))
    rows, columns = linear_sum_assignment(total, maximize=True)
    corresponding = np.full(k_other, -1, dtype=np.int64)
    corresponding[columns] = rows
    unmatched = np.flatnonzero(corresponding < 0)
    numbers = corresponding.copy()
    numbers[unmatched] = k + np.arange(len(unmatched))
    own = count[:, :, rows, columns].sum(axis=2)
    n = both.sum(axis=2)
    run = ("model", "seed")
    result = xr.Dataset(
        {
            "ari": rand_of_counts(total)[()],
            "nmi": normalised_information(total)[()],
            "matched": own.sum() / n.sum(),
            "n": int(n.sum()),
            "run_ari": (run, rand_of_counts(count)),
            "run_nmi": (run, normalised_information(count)),
            "run_matched": (run, divided(own, n)),
            "run_n": (run, n),
            "count": (("map_state", "other_state"), total),
            "corresponding": ("other_state", corresponding),
            "aligned": (CELL, np.where(second.values >= 0, numbers[second.values], -1)),
        },
        coords={
            **{name: first[name] for name in CELL},
            "map_state": np.arange(k),
            "other_state": np.arange(k_other),
        },
    )
    texts = _DOCS | {f"run_{name}": f"{text}; this run alone" for name, text in _DOCS.items()}
    return described(
        result,
        texts
        | {
            "count": "checkpoints in a state of the one and of the other map",
            "corresponding": "matching state of the first map, -1 for none",
            "aligned": "states of the second map in the numbers of the first, -1 for none",
        },
    )


def run_agreement(states: States) -> xr.Dataset:
    """How far each two runs, of one or several models, are in the same states at the same steps.

    Parameters
    ----------
    states : xarray.Dataset or xarray.DataArray
        Runs decoded by one map, or states over (seed, step).

    Returns
    -------
    xarray.Dataset
        Over (run, other_run): ``ari``, ``nmi``, ``same`` (share of checkpoints in the same state)
        and ``n`` (steps at which both have a state; the others are NaN where it is 0). ``model``
        and ``seed`` of each run are coordinates; runs without states are left out.

    Notes
    -----
    ``ari`` asks whether two runs are cut at the same steps, whatever the states are called;
    ``same`` whether the states are the same ones as well.
    """
    table, k = as_states(states)
    n_model, n_seed, n_step = table.shape
    flat = table.values.reshape(n_model * n_seed, n_step)
    there = np.flatnonzero((flat >= 0).any(axis=1))
    here = one_hot(flat[there], k).astype(np.float64)  # run, step, state
    columns = here.transpose(1, 0, 2).reshape(n_step, -1)
    count = np.empty((len(there), len(there), k, k))
    for i in range(len(there)):
        count[i] = (here[i].T @ columns).reshape(k, len(there), k).transpose(1, 0, 2)
    whole: Ints = np.round(count).astype(np.int64)
    n = whole.sum(axis=(2, 3))
    pair = ("run", "other_run")
    model, seed = table["model"].values[there // n_seed], table["seed"].values[there % n_seed]
    return described(
        xr.Dataset(
            {
                "ari": (pair, rand_of_counts(whole)),
                "nmi": (pair, normalised_information(whole)),
                "same": (pair, divided(np.trace(whole, axis1=2, axis2=3), n)),
                "n": (pair, n),
            },
            coords={
                "model": ("run", model),
                "seed": ("run", seed),
                "other_model": ("other_run", model),
                "other_seed": ("other_run", seed),
            },
        ),
        {name: text for name, text in _DOCS.items() if name != "matched"}
        | {"same": "share of the checkpoints in the same state"},
    )


def normalised_information(count: Ints) -> Floats:
    """Mutual information over the mean of the two entropies, of tables (..., state, other state)."""
    n = count.sum(axis=(-2, -1))
    share = divided(count, n[..., None, None])
    rows, columns = share.sum(axis=-1), share.sum(axis=-2)
    h_rows, h_columns, h_both = _entropy(rows), _entropy(columns), _entropy(share.reshape(*n.shape, -1))
    mean = (h_rows + h_columns) / 2
    # Two partitions into a single part are the same one.
    result = np.where(mean == 0, 1.0, divided(h_rows + h_columns - h_both, mean))
    return np.where(n == 0, np.nan, np.clip(result, 0.0, 1.0))


def _entropy(share: Floats) -> Floats:
    safe = np.where(share > 0, share, 1.0)
    return np.asarray(-np.sum(safe * np.log(safe), axis=-1))
