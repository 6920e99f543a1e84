"""Fixed effects of a variance decomposition: what is known of models and runs and taken out first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats
from polystab.analysis.components.designs import Design
from polystab.analysis.components.kernels import degrees_of_freedom
from polystab.analysis.reml.inputs import fixed_columns, fixed_matrix
from polystab.cube.parts import measured_runs
from polystab.cube.specs import COORDINATES, VARIABLES
from polystab.errors import AnalysisError, did_you_mean, shown

_RUN_DIMS = ("model", "seed")

Fixed = str | Iterable[str] | Mapping[str, Any] | None


def with_fixed(plan: Design, cube: xr.Dataset, fixed: Fixed) -> Design:
    """The design with the fixed effects that the caller named.

    Raises
    ------
    AnalysisError
        No such coordinate; its values do not fit; effects that cannot be estimated, or
        that leave no degrees of freedom for a component.
    """
    named = _named(cube, fixed)
    if not named:
        return plan
    columns, known = fixed_columns({name: column[plan.rows] for name, column in named.items()}, len(plan.rows))
    measured = measured_runs(cube).ravel()
    kept = known & (measured[plan.rows] | ~measured.any())
    if not kept.any():
        raise AnalysisError(
            f"no measured run has all of the fixed effects {shown(named)}; leave out those that are not known."
        )
    coded, _ = fixed_matrix(columns, kept)
    matrix = np.full((len(plan.rows), coded.shape[1]), np.nan)
    # Around 0 and of size 1, so that numbers of parameters stand beside ones.
    centred = coded - coded.mean(axis=0)
    matrix[kept] = centred / np.maximum(np.abs(centred).max(axis=0), np.finfo(np.float64).tiny)
    planned = replace(plan, covariates={name: column[plan.rows] for name, column in named.items()}, matrix=matrix)
    _check_room(planned, kept, list(named))
    return planned


def _named(cube: xr.Dataset, fixed: Fixed) -> dict[str, npt.NDArray[Any]]:
    """Every fixed effect as one value for every run, in the order of the flattened (model, seed)."""
    if fixed is None:
        return {}
    if isinstance(fixed, Mapping):
        return {str(name): _flat(cube, str(name), values) for name, values in fixed.items()}
    if not isinstance(fixed, Iterable):
        raise AnalysisError(f"fixed is {fixed!r}; give names of coordinates, or a mapping of name to values.")
    names = [fixed] if isinstance(fixed, str) else list(fixed)
    known = {
        str(name): variable
        for name, variable in cube.variables.items()
        if variable.dims and set(variable.dims) <= set(_RUN_DIMS)
    }
    for name in names:
        if name not in known:
            why = f"lies along {shown(cube[name].dims)}" if name in cube else "is not in the cube"
            raise AnalysisError(
                f"the fixed effect {name!r} {why}; it must be a coordinate along model, or (model, seed). "
                f"{did_you_mean(str(name), known)}"
            )
    return {name: _flat(cube, name, _without_fill(cube[name])) for name in names}


def _without_fill(values: xr.DataArray) -> xr.DataArray:
    """The values with NaN (numbers) or None (text) where the cube's own mark says unknown."""
    fill = {spec.name: spec.fill for spec in (*COORDINATES, *VARIABLES)}.get(str(values.name), "")
    if values.dtype.kind in "OUST":
        return values.astype(object).where(values != "", None)
    return values.where(values != fill) if isinstance(fill, int) else values


def _flat(cube: xr.Dataset, name: str, values: Any) -> npt.NDArray[Any]:
    shape = (cube.sizes["model"], cube.sizes["seed"])
    if isinstance(values, xr.DataArray):
        if not values.dims or not set(values.dims) <= set(_RUN_DIMS):
            raise AnalysisError(f"the fixed effect {name!r} lies along {shown(values.dims)}; allowed: model, seed.")
        labelled = {dim: cube[dim] for dim in values.dims if dim in values.coords}
        values = values.reindex(labelled)
        unlabelled = [dim for dim in values.dims if values.sizes[dim] != cube.sizes[str(dim)]]
        if unlabelled:
            raise AnalysisError(
                f"the fixed effect {name!r} has {values.sizes[unlabelled[0]]} values along {unlabelled[0]} and no labels; "
                f"the cube has {cube.sizes[str(unlabelled[0])]}."
            )
        template = xr.DataArray(np.zeros(shape), dims=_RUN_DIMS)
        return np.asarray(values.drop_vars(values.coords).broadcast_like(template).transpose(*_RUN_DIMS).values).ravel()
    array = np.asarray(values)
    if array.shape not in (shape[:1], shape):
        raise AnalysisError(
            f"the fixed effect {name!r} has shape {array.shape}; give one value for every model, {shape[:1]}, or for "
            f"every (model, seed), {shape}."
        )
    return np.array(np.broadcast_to(array.reshape(*array.shape, *[1] * (2 - array.ndim)), shape)).ravel()


def _check_room(plan: Design, kept: Bools, names: Sequence[str]) -> None:
    """Refuse what has no effect, or leaves a component without degrees of freedom."""
    factors, fixed = [labels[kept] for labels in plan.factors], plan.fixed[kept]
    matrix = np.asarray(plan.matrix)[kept]
    varying = matrix[:, np.abs(matrix).max(axis=0) > 0]
    groups = np.equal.outer(fixed, np.unique(fixed)).astype(np.float64)
    if not varying.shape[1]:
        raise AnalysisError(f"the fixed effects {shown(names)} are the same for all measured runs; leave them out.")
    if np.linalg.matrix_rank(np.hstack([groups, varying])) < groups.shape[1] + varying.shape[1]:
        raise AnalysisError(
            f"not all of the fixed effects {shown(names)} vary within models, and the {plan.name} design takes out the "
            "mean of every model anyway; leave those out that do not."
        )
    before = degrees_of_freedom(factors, fixed, plan.below)
    after = degrees_of_freedom(factors, fixed, plan.below, matrix)
    empty = [name for name, was, now in zip(plan.components, before, after, strict=True) if was > 0 and now == 0]
    if empty:
        room = ", ".join(f"{name} {count}" for name, count in zip(plan.components, before.tolist(), strict=True))
        raise AnalysisError(
            f"the fixed effects {shown(names)} leave no degrees of freedom for {shown(empty)} "
            f"(without them there are: {room}); leave some out or add runs."
        )


def coded_rows(plan: Design, values: Floats) -> tuple[Floats, Floats | None]:
    """Values (run, cell) without the runs whose fixed effects are not known, and the columns of all runs."""
    if plan.matrix is None:
        return values, None
    unknown = np.asarray(np.isnan(plan.matrix).any(axis=1))
    return np.where(unknown[:, None], np.nan, values), np.nan_to_num(plan.matrix)
