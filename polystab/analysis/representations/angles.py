"""Angles between the subspaces that probes read: from step to step, between seeds, and by chance."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Floats, described
from polystab.errors import AnalysisError, did_you_mean, shown

GROUP = "probes"
BETWEEN = ("steps", "seeds")


def subspace_angles(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Floats:
    """Principal angles between the column spaces of matrices, in degrees, smallest first.

    Parameters
    ----------
    a, b : ndarray, shape (..., d, p) and (..., d, q)
        Columns span the subspaces; ``d`` is at least ``p`` and ``q``. Leading axes broadcast.

    Returns
    -------
    ndarray, shape (..., min(p, q))
        0 where a direction is shared, 90 where it is orthogonal to all of the other
        subspace. NaN where a matrix is not finite or its columns are not independent (the
        subspace is then smaller than it seems, and its angles are not comparable).

    Notes
    -----
    With orthonormal bases Q_a, Q_b the cosines are the singular values of ``Q_a' Q_b``;
    small angles are taken from the sines, as rounding leaves nothing of a cosine near 1
    [1]_. ``scipy.linalg.subspace_angles`` gives the same for one pair, largest first.

    References
    ----------
    .. [1] A. V. Knyazev, M. E. Argentati, Principal angles between subspaces in an
       A-based scalar product, SIAM J. Sci. Comput. 23 (2002), doi:10.1137/S1064827500377332.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    >>> subspace_angles(a, b).round(3).tolist()
    [58.189, 65.362, 87.34]
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    d, p, q = a.shape[-2], a.shape[-1], b.shape[-1]
    if b.shape[-2] != d or not 1 <= max(p, q) <= d or not min(p, q):
        raise AnalysisError(
            f"subspaces of {p} and {q} columns with {d} and {b.shape[-2]} rows have no angles; rows must agree, and be "
            "at least as many as columns."
        )
    (basis_a, good_a), (basis_b, good_b) = _basis(a), _basis(b)
    if q > p:  # the sines are of the smaller subspace's part outside the larger one
        basis_a, basis_b = basis_b, basis_a
    inside = np.swapaxes(basis_a, -1, -2) @ basis_b
    cosine = np.linalg.svd(inside, compute_uv=False)
    sine = np.linalg.svd(basis_b - basis_a @ inside, compute_uv=False)[..., ::-1]
    angle = np.where(cosine**2 < 0.5, np.arccos(np.clip(cosine, 0, 1)), np.arcsin(np.clip(sine, 0, 1)))
    good = (good_a & good_b)[..., None]
    return np.asarray(np.where(good, np.rad2deg(angle), np.nan))


def _basis(a: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Orthonormal columns with the same span, and whether there are as many as columns."""
    known: npt.NDArray[np.bool_] = np.asarray(np.isfinite(a).all(axis=(-2, -1)))
    # Lengths of columns do not matter to their span, and would to its numerical rank.
    length = np.linalg.norm(np.where(known[..., None, None], a, 0.0), axis=-2, keepdims=True)
    safe = np.where(known[..., None, None], a, 0.0) / np.where(length > 0, length, 1.0)
    u, s, _ = np.linalg.svd(safe, full_matrices=False)
    full = s[..., -1] > s[..., 0] * max(a.shape[-2:]) * np.finfo(np.float64).eps
    return u, known & full


def random_subspace_angle(
    p: int, q: int, d: int, *, samples: int = 1000, rng: int | np.random.Generator | None = None
) -> float:
    """Mean principal angle expected between random subspaces of dimensions p and q in d dimensions, in degrees.

    Parameters
    ----------
    p, q, d : int
        1 to d.
    samples : int, optional
        Random pairs (columns of normal numbers, whose span is uniform).
    rng : int or numpy.random.Generator, optional

    Examples
    --------
    >>> round(random_subspace_angle(1, 1, 2, rng=0, samples=20_000))
    45
    """
    generator = np.random.default_rng(rng)
    p, q = sorted((p, q))
    if not 1 <= p <= q <= d or samples < 1:
        raise AnalysisError(f"no random subspaces of {p} and {q} dimensions in {d}; give 1 to {d}.")
    # One of the two may as well be fixed: its first q coordinates.
    drawn = np.linalg.qr(generator.normal(size=(samples, d, p)))[0][:, :q]
    return float(np.rad2deg(np.arccos(np.clip(np.linalg.svd(drawn, compute_uv=False), 0, 1))).mean())


def probe_angles(
    tree: xr.DataTree,
    *,
    between: str = "steps",
    centred: bool = True,
    samples: int = 1000,
    rng: int | np.random.Generator | None = 0,
) -> xr.Dataset:
    """Angles between the subspaces that probes of a task and layer read.

    Parameters
    ----------
    tree : xarray.DataTree
        A cube with the group ``probes`` and its ``weights``.
    between : {"steps", "seeds"}, optional
        ``steps``: each measured step of a run and the one measured before it. ``seeds``:
        every two runs of a model at a step.
    centred : bool, optional
        Take away what the weights of all classes of a probe have in common, which
        changes no prediction: it leaves C - 1 dimensions for C classes. Without it, the
        subspaces are those of the weights as they are, and one direction of them says
        nothing.
    samples : int, optional
        Random pairs behind ``expected``.
    rng : int or numpy.random.Generator, optional
        Of ``expected``.

    Returns
    -------
    xarray.Dataset
        Over ``(model, seed, step, task, layer)``, or ``(model, step, pair, task, layer)`` with
        ``seed_a`` and ``seed_b`` along ``pair``: ``mean_angle`` and ``max_angle`` (degrees),
        ``grassmann`` (root of the summed squares of the angles, radians) and ``chordal`` (the
        same of their sines). With ``steps`` also ``since``, the step before, -1 where
        there is none. ``expected`` over ``(model, task)`` is the mean angle of random
        subspaces of that size, ``dimensions`` over ``task`` theirs.

    Raises
    ------
    AnalysisError
        There are no weights, or no two runs or steps to compare.

    Notes
    -----
    Two runs whose probes do equally well may read different directions: coordinates of
    a hidden space mean nothing across initialisations, and angles between seeds lie
    near ``expected``. Where they are at it, they say only that.

    NaN: a run, or a layer of it, was not measured; a probe's columns are not independent;
    or a task has more dimensions than a layer. A single seed has no pairs.
    """
    if between not in BETWEEN:
        raise AnalysisError(f"angles between {between!r} are not known. {did_you_mean(between, BETWEEN)}")
    weights = _weights(tree)
    tasks = list(dict.fromkeys(weights["probe_task"].values.tolist()))
    owner = weights["probe_task"].values
    values = weights.values
    pairs = list(combinations(range(weights.sizes["seed"]), 2))
    if between == "seeds" and not pairs:
        raise AnalysisError("angles between seeds need two seeds; the cube has one.")
    names = ("mean_angle", "max_angle", "grassmann", "chordal")
    second = len(pairs) if between == "seeds" else weights.sizes["seed"]
    n_model, _, n_step, n_layer = values.shape[:4]
    shape = (n_model, second, n_step, len(tasks), n_layer)
    found = {name: np.full(shape, np.nan) for name in names}
    since = np.full((n_model, weights.sizes["seed"], n_step), -1, dtype=np.int64)
    dimensions = np.array([int((owner == task).sum()) - centred for task in tasks])
    expected = np.full((n_model, len(tasks)), np.nan)
    generator = np.random.default_rng(rng)
    for m in range(n_model):
        block, width = _of_model(values[m])
        done: npt.NDArray[np.bool_] = np.asarray(np.isfinite(block).any(axis=(2, 3, 4)))
        before = _before(done)
        since[m] = np.where(before >= 0, weights["step"].values[before], -1)
        for t, task in enumerate(tasks):
            if not 1 <= dimensions[t] <= width:
                continue
            expected[m, t] = random_subspace_angle(
                int(dimensions[t]), int(dimensions[t]), width, samples=samples, rng=generator
            )
            columns = _columns(block[..., owner == task, :], centred)
            for i, angle in _compared(columns, before, pairs, between):
                for name, number in _summaries(angle).items():
                    found[name][m, i, :, t, :] = number
    dims = ("model", "seed", "step", "task", "layer")
    coords: dict[str, Any] = {name: weights[name].values for name in ("model", "step", "layer")} | {"task": tasks}
    extra: dict[str, Any] = {}
    if between == "seeds":
        dims = ("model", "pair", "step", "task", "layer")
        seeds = weights["seed"].values
        coords |= {"seed_a": ("pair", seeds[[i for i, _ in pairs]]), "seed_b": ("pair", seeds[[j for _, j in pairs]])}
    else:
        coords["seed"] = weights["seed"].values
        extra["since"] = (dims[:3], since)
    result = xr.Dataset(
        {name: (dims, found[name]) for name in names}
        | extra
        | {"expected": (("model", "task"), expected), "dimensions": ("task", dimensions)},
        coords=coords,
    )
    docs = {
        "mean_angle": "mean principal angle",
        "max_angle": "largest principal angle",
        "grassmann": "Grassmann distance",
        "chordal": "chordal distance",
        "since": "the step compared with; -1 none",
        "expected": "mean principal angle expected between random subspaces",
        "dimensions": "dimensions of a probe's subspace",
    }
    units = {"mean_angle": "degree", "max_angle": "degree", "expected": "degree", "grassmann": "rad", "chordal": "1"}
    return described(result, {name: docs[name] for name in docs if name in result}, units)


def _weights(tree: xr.DataTree) -> xr.DataArray:
    if not isinstance(tree, xr.DataTree) or GROUP not in tree.children or "weights" not in tree[GROUP].data_vars:
        raise AnalysisError(
            f"angles need the weights of probes, the group {GROUP!r} of a cube opened as a tree (open_tree); it is kept by: "
            "polystab fill probes -O probes.keep_weights=true."
        )
    data = tree[GROUP].to_dataset()["weights"]
    if missing := {"model", "seed", "step", "layer", "probe_class", "hidden"} - {str(dim) for dim in data.dims}:
        raise AnalysisError(f"weights of the group {GROUP!r} lack the dimensions {shown(sorted(missing))}.")
    return data.transpose("model", "seed", "step", "layer", "probe_class", "hidden")


def _of_model(values: npt.NDArray[Any]) -> tuple[Floats, int]:
    """The weights of a model without the inputs that only wider models have, and its width."""
    block = values.astype(np.float64)
    used = np.isfinite(block).any(axis=(0, 1, 2, 3))
    return block[..., used], int(used.sum())


def _columns(weights: Floats, centred: bool) -> Floats:
    """Weights (..., C, d) as columns (..., d, C), or C - 1 differences that span what is left after centring."""
    if centred:
        weights = weights[..., :-1, :] - weights[..., -1:, :]
    return np.swapaxes(weights, -1, -2)


def _before(done: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """For each run and step the place of the last step measured before; -1 where there is none, or it was not measured."""
    place = np.where(done, np.arange(done.shape[1]), -1)
    last = np.maximum.accumulate(place, axis=1)
    shifted = np.concatenate([np.full((len(done), 1), -1), last[:, :-1]], axis=1)
    return np.where(done, shifted, -1)


def _compared(
    columns: Floats, before: npt.NDArray[np.int64], pairs: list[tuple[int, int]], between: str
) -> list[tuple[int, Floats]]:
    """Angles (step, layer, angle) for each seed or pair; columns are (seed, step, layer, d, C)."""
    if between == "seeds":
        return [(i, subspace_angles(columns[a], columns[b])) for i, (a, b) in enumerate(pairs)]
    found = []
    for seed in range(len(columns)):
        angle = subspace_angles(columns[seed], columns[seed][before[seed]])
        found.append((seed, np.where(before[seed][:, None, None] >= 0, angle, np.nan)))
    return found


def _summaries(angle: Floats) -> dict[str, Floats]:
    radians = np.deg2rad(angle)
    return {
        "mean_angle": angle.mean(-1),
        "max_angle": angle.max(-1),
        "grassmann": np.sqrt((radians**2).sum(-1)),
        "chordal": np.sqrt((np.sin(radians) ** 2).sum(-1)),
    }
