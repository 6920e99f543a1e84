"""How alike the token embeddings of two checkpoints are arranged."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, described
from polystab.analysis.representations.groups import RUN_DIMS, check_against, compared_cells, read_group

# Fewer pairs of tokens say nothing about an arrangement.
_FEWEST = 3


def embedding_similarity(embedding: xr.Dataset | xr.DataTree, *, against: str | int = "last") -> xr.Dataset:
    """How alike the correlations between token embeddings are to those of another checkpoint.

    Parameters
    ----------
    embedding : xarray.Dataset or xarray.DataTree
        The group ``embedding``, or a tree that has it: ``correlation(model, seed, step, pair)``.
    against : {"last", "seeds"} or int, optional
        What each checkpoint is compared with: the last of its run, the other seeds of its
        model at the same step (mean over them), or a step of its run.

    Returns
    -------
    xarray.Dataset
        ``similarity(model, seed, step)``: Pearson's correlation, over pairs of different
        tokens, of the two checkpoints' correlations; ``n_compared(model, seed, step)``. NaN
        where a checkpoint was not measured, its correlations do not vary, or, for
        ``"seeds"``, there is no other seed. Copies of runs, which the cube at the root of
        a tree tells, are left out.

    Raises
    ------
    AnalysisError
        There is no such group, or no such step in it.

    Notes
    -----
    Seeds have embeddings in different bases; correlations between tokens do not depend on
    the basis but for a shift of single dimensions, so that seeds can be compared. This is
    representational similarity analysis [1]_ of the embedding.

    References
    ----------
    .. [1] N. Kriegeskorte, M. Mur, P. Bandettini, Representational similarity analysis,
       Frontiers in Systems Neuroscience 2 (2008), doi:10.3389/neuro.06.004.2008.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> pairs = np.array([[0.1, 0.2, 0.4], [0.2, 0.4, 0.8]]).reshape(1, 1, 2, 3)
    >>> group = xr.Dataset(
    ...     {"correlation": (("model", "seed", "step", "pair"), pairs)},
    ...     coords={"model": ["tiny"], "seed": [0], "step": [0, 10]},
    ... )
    >>> embedding_similarity(group)["similarity"].sel(step=0).round(6).item()
    1.0
    """
    group, copies = read_group(embedding, "embedding", ("correlation",))
    check_against(group, against)
    values = np.asarray(group["correlation"].transpose(*RUN_DIMS, "pair").values, dtype=np.float64)
    measured: Bools = np.any(~np.isnan(values), axis=3)
    sums, counts = np.zeros(measured.shape), np.zeros(measured.shape, dtype=np.int64)
    for cell, other in compared_cells(measured, copies, group["step"].values.tolist(), against):
        found = _correlation(values[cell], values[other])
        if not math.isnan(found):
            sums[cell] += found
            counts[cell] += 1
    result = xr.Dataset(
        {
            "similarity": (RUN_DIMS, np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)),
            "n_compared": (RUN_DIMS, counts),
        },
        coords={dim: group[dim] for dim in RUN_DIMS},
        attrs={"against": str(against)},
    )
    docs = {
        "similarity": "correlation, over pairs of tokens, of the correlations of their embeddings",
        "n_compared": "checkpoints that each was compared with",
    }
    return described(result, docs, dict.fromkeys(docs, "1"))


def embedding_matrix(embedding: xr.Dataset | xr.DataTree) -> xr.DataArray:
    """The correlations of the group ``embedding`` as square matrices.

    Parameters
    ----------
    embedding : xarray.Dataset or xarray.DataTree
        The group, or a tree that has it.

    Returns
    -------
    xarray.DataArray
        (model, seed, step, token, other_token), symmetric, 1 on the diagonal; NaN where
        nothing was measured.

    Raises
    ------
    AnalysisError
        There is no such group.
    """
    group, _ = read_group(embedding, "embedding", ("correlation", "first_token", "second_token"))
    first, second = (np.asarray(group[name].values, dtype=np.int64) for name in ("first_token", "second_token"))
    n = int(max(first.max(), second.max())) + 1
    values = np.asarray(group["correlation"].transpose(*RUN_DIMS, "pair").values, dtype=np.float64)
    square = np.full((*values.shape[:3], n, n), np.nan)
    square[..., first, second] = values
    square[..., second, first] = values
    token = np.arange(n)
    known = (~np.isnan(square)).any(axis=-1)
    square[..., token, token] = np.where(known, 1.0, np.nan)
    return xr.DataArray(
        square,
        dims=(*RUN_DIMS, "token", "other_token"),
        coords={dim: group[dim] for dim in RUN_DIMS} | {"token": token, "other_token": token},
        name="correlation",
        attrs={"long_name": "correlation of the embeddings of two tokens", "units": "1"},
    )


def _correlation(one: Floats, other: Floats) -> float:
    known = ~(np.isnan(one) | np.isnan(other))
    if known.sum() < _FEWEST:
        return math.nan
    a, b = one[known] - one[known].mean(), other[known] - other[known].mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size > 0 else math.nan
