"""How alike the singular directions of two checkpoints are, by the tokens that they point to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, described
from polystab.analysis.representations.groups import RUN_DIMS, check_against, compared_cells, read_group
from polystab.errors import AnalysisError

_DOCS = {
    "exact": "share of tokens that are equal place by place, directions compared by rank",
    "shared": "share of tokens in common, in any order, directions compared by rank",
    "best": "share of tokens in common with whichever direction has most",
    "n_compared": "checkpoints that each was compared with",
    "chance_exact": "exact, expected of random tokens",
    "chance_shared": "shared, expected of random tokens",
    "chance_best": "best, expected of random tokens",
}


def direction_overlap(directions: xr.Dataset | xr.DataTree, *, against: str | int = "last") -> xr.Dataset:
    """How many top tokens the directions of each matrix share with those of another checkpoint.

    Parameters
    ----------
    directions : xarray.Dataset or xarray.DataTree
        The group ``directions``, or a tree that has it: ``token(model, seed, step, matrix,
        direction, place)`` and ``vocabulary(model, seed, step)``.
    against : {"last", "seeds"} or int, optional
        What each checkpoint is compared with: the last of its run, the other seeds of its
        model at the same step (mean over them), or a step of its run.

    Returns
    -------
    xarray.Dataset
        Over (model, seed, step, matrix), means over directions, from 0 to 1:
        ``exact``, ``shared`` and ``best``. ``n_compared(model, seed, step)``. Over
        (model): ``chance_exact``, ``chance_shared``, ``chance_best``, what is expected of
        tokens drawn at random, without which no overlap of a small vocabulary can be read.
        NaN where a checkpoint or matrix was not measured; with a single seed, all of it
        for ``"seeds"``. Copies of runs, which the cube at the root of a tree tells, are
        left out.

    Raises
    ------
    AnalysisError
        There is no such group, or no such step in it.

    Notes
    -----
    Direction i of one checkpoint is compared with direction i of the other. Two directions
    of nearly equal singular values may change places, or turn in the plane that they
    span; ``best`` allows for the first. With K tokens of V, chance is 1/V place by place
    and K/V in any order; of the best of D directions it is the mean of the largest of D
    hypergeometric counts, taken as independent, over K.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> token = np.array([[[4, 7], [1, 2]], [[4, 7], [2, 1]]]).reshape(1, 1, 2, 1, 2, 2)
    >>> dims = ("model", "seed", "step", "matrix", "direction", "place")
    >>> group = xr.Dataset(
    ...     {"token": (dims, token), "vocabulary": (dims[:3], np.full((1, 1, 2), 100))},
    ...     coords={"model": ["tiny"], "seed": [0], "step": [0, 10], "matrix": ["layers.0.mlp.dense_4h_to_h"]},
    ... )
    >>> found = direction_overlap(group).sel(step=0).squeeze()
    >>> found["exact"].item(), found["shared"].item()
    (0.5, 1.0)
    """
    group, copies = read_group(directions, "directions", ("token", "vocabulary"))
    check_against(group, against)
    token = _tokens(group)
    measured: Bools = np.any(token >= 0, axis=(3, 4, 5))
    shape = token.shape[:4]
    sums = {name: np.zeros(shape) for name in ("exact", "shared", "best")}
    counts, n_compared = np.zeros(shape, dtype=np.int64), np.zeros(shape[:3], dtype=np.int64)
    done: dict[frozenset[tuple[int, int, int]], tuple[Floats, Floats, Floats]] = {}
    for cell, other in compared_cells(measured, copies, group["step"].values.tolist(), against):
        pair = frozenset((cell, other))
        # Exact and shared do not mind the order; the best match does, so that its mean of both ways is taken.
        found = done.pop(pair, None)
        if found is None:
            found = _overlap(token[cell], token[other])
            if against == "seeds":
                done[pair] = found
        known = ~np.isnan(found[0])
        for name, values in zip(sums, found, strict=True):
            sums[name][cell][known] += values[known]
        counts[cell] += known
        n_compared[cell] += 1
    data = {
        name: ((*RUN_DIMS, "matrix"), np.where(counts > 0, total / np.maximum(counts, 1), np.nan))
        for name, total in sums.items()
    }
    chances = _chances(token, np.asarray(group["vocabulary"].values, dtype=np.float64), measured)
    coords = {name: coord for name, coord in group.coords.items() if set(coord.dims) <= {*RUN_DIMS, "matrix"}}
    result = xr.Dataset(
        data
        | {"n_compared": (RUN_DIMS, n_compared)}
        | {f"chance_{name}": ("model", chances[:, i]) for i, name in enumerate(sums)},
        coords=coords,
        attrs={"against": str(against)},
    )
    return described(result, _DOCS, dict.fromkeys(_DOCS, "1"))


def _tokens(group: xr.Dataset) -> Ints:
    wanted = (*RUN_DIMS, "matrix", "direction", "place")
    if set(group["token"].dims) != set(wanted):
        raise AnalysisError(f"token of the group directions lies along {group['token'].dims}, not along {wanted}.")
    values = np.asarray(group["token"].transpose(*wanted).values)
    # xarray decodes integers with a fill value as numbers with NaN.
    return np.where(np.isfinite(values) & (values >= 0), values, -1).astype(np.int64)


def _overlap(one: Ints, other: Ints) -> tuple[Floats, Floats, Floats]:
    """Exact, shared and best overlap of each matrix, from tokens (matrix, direction, place); NaN where there is nothing."""
    known = (one >= 0) & (other >= 0)
    n = known.sum(axis=2)
    exact = _mean((known & (one == other)).sum(axis=2), n)
    shared, best = np.full(len(one), np.nan), np.full(len(one), np.nan)
    for number in range(len(one)):
        common = _in_common(one[number], other[number])
        shared[number] = _mean(np.diagonal(common)[None], n[number][None])[0]
        ours, theirs = (one[number] >= 0).sum(axis=1), (other[number] >= 0).sum(axis=1)
        if theirs.any() and ours.any():
            best[number] = 0.5 * (
                _mean(common.max(axis=1)[None], ours[None])[0] + _mean(common.max(axis=0)[None], theirs[None])[0]
            )
    return exact, shared, best


def _in_common(one: Ints, other: Ints) -> npt.NDArray[np.int64]:
    """How many tokens each direction of one has in common with each of the other."""
    labels, place = np.unique(np.concatenate([one, other]), return_inverse=True)
    place = place.reshape(2, *one.shape)
    marks = np.zeros((2, len(one), len(labels)), dtype=np.float32)
    for side in (0, 1):
        np.put_along_axis(marks[side], place[side], 1.0, axis=1)
    marks[:, :, labels < 0] = 0
    return np.asarray(np.rint(marks[0] @ marks[1].T), dtype=np.int64)


def _mean(count: npt.NDArray[np.integer], n: npt.NDArray[np.integer]) -> Floats:
    """Mean over the last axis of count / n, where n is above 0; NaN without any."""
    known = n > 0
    share = np.where(known, count / np.maximum(n, 1), 0.0)
    total = known.sum(axis=-1)
    return np.where(total > 0, share.sum(axis=-1) / np.maximum(total, 1), np.nan)


def _chances(token: Ints, vocabulary: Floats, measured: Bools) -> Floats:
    """What is expected of random tokens, (model, 3)."""
    from scipy.stats import hypergeom

    directions = int((token >= 0).any(axis=5).sum(axis=4).max(initial=0))
    k = token.shape[5]
    result = np.full((len(token), 3), np.nan)
    for i in range(len(token)):
        sizes = np.unique(vocabulary[i][measured[i] & (vocabulary[i] > 0)])
        if len(sizes) != 1:
            continue  # not measured, or of several vocabularies
        v = int(sizes[0])
        top = min(k, v)
        below = hypergeom(v, top, top).cdf(np.arange(top)) ** directions
        result[i] = 1 / v, top / v, float((1 - below).sum()) / top
    return result
