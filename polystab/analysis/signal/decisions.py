"""How often a cheap or early score puts models in the right order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import described, finite, labels, mean
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.options import numbers
from polystab.analysis.signal.kernels import pair_agreement
from polystab.analysis.trajectories import final_steps
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, shown


def decision_accuracy(
    scores: xr.Dataset | xr.DataTree | xr.DataArray | npt.ArrayLike,
    target: xr.DataArray | npt.ArrayLike | None = None,
) -> xr.Dataset:
    """How often a cheap score puts two models in the same order as the target does.

    Parameters
    ----------
    scores : cube, xarray.DataArray, or array (model)
        Scores to decide by. Of a cube: the values of every run at every step.
    target : xarray.DataArray or array (model), optional
        What decides who is better, for scores that are no cube: e.g. the scores of the
        same recipes at a larger size. DataArrays are joined on ``model``.

    Returns
    -------
    xarray.Dataset
        ``accuracy``, the share of pairs of models in the same order, from 0 to 1 with 0.5
        expected by chance; ``accuracy_strict``, the same as Heineman et al. count ties; and
        ``n_pairs``. Of a cube: over (step, metric), means over seeds, with ``n_seeds``;
        otherwise over the further dimensions.

    Raises
    ------
    AnalysisError
        Fewer than two models, none in common, or arrays of different length.

    Notes
    -----
    A pair counts 1 if both order it alike, 0 if not, and 1/2 if either has a tie. Heineman
    et al. count ``(s_i > s_j) == (t_i > t_j)``, for which a tie is the same as "not
    better": their number depends on the order of models where there are ties.

    Of a cube, the target for the runs with seed *s* is the mean of each model's *other* runs
    at its final step, so that no run is compared with itself; models with a single run are
    left out. Pairs share models, so the share is known much less well than ``n_pairs`` says.
    NaN and infinite values are not measured; copies of other runs count once.

    References
    ----------
    Heineman, D. et al. (2025). Signal and noise: a framework for reducing uncertainty in
    language model evaluation. https://doi.org/10.48550/arXiv.2508.13144

    Examples
    --------
    >>> from polystab.analysis.signal.decisions import decision_accuracy
    >>> round(float(decision_accuracy([0.1, 0.3, 0.2], [1.0, 2.0, 3.0])["accuracy"]), 3)
    0.667
    """
    if isinstance(scores, xr.Dataset | xr.DataTree):
        if target is not None:
            raise AnalysisError("target goes with scores of models; of a cube it is the final step of the other runs.")
        return _decisions_of_cube(as_cube(scores))
    if target is None:
        raise AnalysisError("pass a target: the scores of the same models that decide who is better.")
    one, two = _joined_models(scores, target)
    one, two = xr.broadcast(one, two)
    dims = tuple(dim for dim in one.dims if dim != "model")
    order = (*dims, "model")
    share, strict, pairs = pair_agreement(
        *(finite(np.asarray(side.transpose(*order).values, dtype=np.float64)) for side in (one, two))
    )
    coords = {name: coord.variable for name, coord in one.coords.items() if set(coord.dims) <= set(dims)}
    columns = {"accuracy": share, "accuracy_strict": strict, "n_pairs": pairs}
    return described(
        xr.Dataset({name: (dims, column) for name, column in columns.items()}, coords=coords), _DECISION_DOCS
    )


_DECISION_DOCS = {
    "accuracy": "share of pairs of models in the order of the target, ties counted half",
    "accuracy_strict": "the same with ties taken for 'not better'",
    "n_pairs": "pairs of models compared",
}


def _joined_models(scores: Any, target: Any) -> tuple[xr.DataArray, xr.DataArray]:
    sides = []
    for name, given in (("scores", scores), ("target", target)):
        side = given
        if not isinstance(side, xr.DataArray):
            plain = numbers(side, name)
            if plain.ndim != 1:
                raise AnalysisError(f"{name} has {plain.ndim} dimensions; a plain array is one score per model.")
            side = xr.DataArray(plain, dims="model")
        if "model" not in side.dims:
            raise AnalysisError(f"{name} has no dimension 'model' (it has {shown(side.dims)}).")
        sides.append(side)
    one, two = sides
    if "model" in one.indexes and "model" in two.indexes:
        shared = one.indexes["model"].intersection(two.indexes["model"], sort=False)
        if shared.empty:
            raise AnalysisError("scores and target have no model in common.")
        one, two = one.sel(model=shared), two.sel(model=shared)
    elif one.sizes["model"] != two.sizes["model"]:
        raise AnalysisError(
            f"scores has {one.sizes['model']} models and target {two.sizes['model']}; label both with a coordinate 'model'."
        )
    else:
        one, two = one.drop_vars("model", errors="ignore"), two.drop_vars("model", errors="ignore")
    if one.sizes["model"] < 2:
        raise AnalysisError("a decision is between two models, and there is one.")
    return one, two


def _decisions_of_cube(cube: xr.Dataset) -> xr.Dataset:
    if cube.sizes["model"] < 2:
        raise AnalysisError("a decision is between two models, and this cube has one.")
    values = finite(counted_cells(cube)[0])
    final = np.asarray(final_steps(cube)["step"].values)
    place = np.minimum(np.searchsorted(cube["step"].values, final), values.shape[2] - 1)
    at_end = np.take_along_axis(values, place[:, None, None, :], axis=2)[:, :, 0]
    at_end = np.where((final == -1)[:, None], np.nan, at_end)  # model, seed, metric
    shape = (values.shape[1], values.shape[2], values.shape[3])
    shares, stricts, pairs = np.empty(shape), np.empty(shape), np.empty(shape)
    for s in range(shape[0]):
        others = mean(np.delete(at_end, s, axis=1), axis=1) if shape[0] > 1 else np.full(at_end[:, 0].shape, np.nan)
        truth = np.broadcast_to(others[:, None], values[:, s].shape)
        shares[s], stricts[s], pairs[s] = pair_agreement(np.moveaxis(values[:, s], 0, -1), np.moveaxis(truth, 0, -1))
    used = pairs > 0
    columns = {
        "accuracy": mean(shares, axis=0),
        "accuracy_strict": mean(stricts, axis=0),
        "n_pairs": pairs.max(axis=0).astype(np.int64),
        "n_seeds": used.sum(axis=0),
    }
    result = xr.Dataset(
        {name: (("step", "metric"), column) for name, column in columns.items()},
        coords=labels(cube, "step", "metric"),
    )
    return described(result, _DECISION_DOCS | {"n_seeds": "seeds whose runs were put in order"})
