"""Detail groups of a cube as plain arrays over (model, seed, step), and what each cell of one is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools
from polystab.analysis.audit.runs import duplicate_runs
from polystab.errors import AnalysisError, shown

RUN_DIMS = ("model", "seed", "step")

LAST, SEEDS = "last", "seeds"

Cell = tuple[int, int, int]


def read_group(data: xr.Dataset | xr.DataTree, name: str, needed: Sequence[str]) -> tuple[xr.Dataset, Bools]:
    """A detail group, from the group itself or from a tree that has it.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        A single model, seed or step may have been selected.
    name : str
        Of the group.
    needed : sequence of str
        Variables and coordinates that it must have.

    Returns
    -------
    group : xarray.Dataset
        With the dimensions model, seed and step, steps increasing.
    copies : ndarray of bool, shape (model, seed)
        Runs that are copies of others by the cube at the root of the tree; none without one.

    Raises
    ------
    AnalysisError
        There is no such group, or it is not sound.
    """
    root = None
    group = data
    if isinstance(data, xr.DataTree):
        top = data.root.to_dataset()
        root = top if "value" in top.data_vars else None
        group = (data[name] if name in data.children else data).to_dataset()
    if not isinstance(group, xr.Dataset):
        raise AnalysisError(f"expected the group {name} (xarray Dataset or DataTree), got {type(group).__name__}.")
    if missing := [variable for variable in needed if variable not in group.variables]:
        raise AnalysisError(
            f"no group {name!r} here: it lacks {shown(missing)}. A cube without its groups has none: open the file with "
            f"ps.open_tree(path). If the file has no such group, polystab fill makes it."
        )
    if missing := [dim for dim in RUN_DIMS if dim not in group.variables]:
        raise AnalysisError(f"the group {name} has no {shown(missing)}; it is needed along model, seed and step.")
    varying = [variable for variable in group.data_vars if set(group[variable].dims) & set(RUN_DIMS)] or needed
    group = group.expand_dims([dim for dim in RUN_DIMS if dim not in group.dims])
    group = group[[str(v) for v in varying]].transpose(*RUN_DIMS, ...)
    if empty := [dim for dim, n in group.sizes.items() if not n]:
        raise AnalysisError(f"nothing along {shown(empty)} of the group {name}.")
    for dim in RUN_DIMS:
        if len(np.unique(group[dim].values)) < group.sizes[dim]:
            raise AnalysisError(f"labels stand twice along {dim} of the group {name}; keep one entry for each.")
    if not (np.diff(group["step"].values) > 0).all():
        raise AnalysisError(f"steps of the group {name} do not increase; sort it by step.")
    return group, _copies(group, root)


def _copies(group: xr.Dataset, root: xr.Dataset | None) -> Bools:
    copies = np.zeros((group.sizes["model"], group.sizes["seed"]), dtype=bool)
    if root is None or not set(RUN_DIMS) <= set(root.dims):
        return copies
    known = duplicate_runs(root)["duplicate_run"]
    for i, model in enumerate(group["model"].values):
        for j, seed in enumerate(group["seed"].values):
            if model in known["model"].values and seed in known["seed"].values:
                copies[i, j] = bool(known.sel(model=model, seed=seed))
    return copies


def check_against(group: xr.Dataset, against: str | int) -> None:
    """Refuse a comparison that there is not: ``last``, ``seeds``, or a step of the group.

    Raises
    ------
    AnalysisError
        It is something else.
    """
    steps = group["step"].values.tolist()
    if against in (LAST, SEEDS) or (not isinstance(against, (str, bool)) and against in steps):
        return
    raise AnalysisError(f"against is {against!r}; give 'last', 'seeds', or a step of the group: {shown(steps)}.")


def compared_cells(
    measured: Bools, copies: Bools, steps: Sequence[int], against: str | int
) -> Iterator[tuple[Cell, Cell]]:
    """Each measured cell (model, seed, step) with every cell that it is compared with.

    ``last``: the last measured step of its run, itself included. A step: that of its run.
    ``seeds``: the other seeds of its model at its step. Copies of runs have no part.
    """
    usable = measured & ~copies[:, :, None]
    for i, j, k in np.argwhere(usable).tolist():
        if against == SEEDS:
            for other in np.flatnonzero(usable[i, :, k]).tolist():
                if other != j:
                    yield (i, j, k), (i, other, k)
            continue
        there = np.flatnonzero(usable[i, j]).tolist()
        last = there[-1] if against == LAST else list(steps).index(int(against))
        if last in there:
            yield (i, j, k), (i, j, last)
