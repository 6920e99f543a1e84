"""The keyword ``exclude`` of the analyses: leave out what an audit says does not belong where it stands."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, cells
from polystab.analysis.audit.findings import KINDS, excluded_boxes, excluded_cells, without_excluded
from polystab.analysis.audit.masking import mask_of
from polystab.cube.parts import value_parts
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError

Exclude = Literal["audit"] | xr.Dataset | None

# A code that says that nothing was answered.
_NO_ANSWER = -1
_RUN_DIMS = ("model", "seed", "step")


def leave_out(cube: xr.Dataset | xr.DataTree, exclude: Exclude) -> tuple[xr.Dataset, dict[str, Any]]:
    """The cube with NaN in the cells that are left out, and what its result should say of them.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    exclude : 'audit', xarray.Dataset or None
        ``audit``: what :func:`polystab.analysis.audit_cube` finds in this cube; a Dataset: the findings
        of an audit made before, or some of them. None leaves nothing out. Kinds and cells:
        :func:`polystab.analysis.excluded_cells`.

    Returns
    -------
    xarray.Dataset
        The cube itself where nothing is left out.
    dict
        Empty for None, else for the attributes of a result: ``excluded_values``, how many measured values
        were left out, ``excluded_share`` of those measured, and ``excluded_by``, the kinds of findings.

    Raises
    ------
    AnalysisError
        ``exclude`` is something else.
    """
    data = as_cube(cube)
    if exclude is None:
        return data, {}
    findings = _findings(cube, exclude)
    boxes, n_left, n_measured = excluded_boxes(data, findings), 0, 0
    for place, values in value_parts(data):
        measured = ~np.isnan(values)
        n_left += int(np.sum(measured & mask_of(boxes, place, values.shape)))
        n_measured += int(measured.sum())
    return without_excluded(data, findings), _said(n_left, n_measured, findings)


def leave_out_items(
    items: xr.Dataset | xr.DataTree, exclude: Exclude
) -> tuple[xr.Dataset | xr.DataTree, dict[str, Any]]:
    """The same for answers to test items.

    Parameters
    ----------
    items : xarray.Dataset or xarray.DataTree
        A tree with a cube and the group ``items``; the group alone goes with None only.
    exclude : 'audit', xarray.Dataset or None
        See :func:`leave_out`.

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        A tree whose answers are missing at the checkpoints where a score of their task is left out, or,
        of a task without scores, all that was measured.
    dict
        See :func:`leave_out`; the values are answers.

    Raises
    ------
    AnalysisError
        There is no cube to audit, or ``exclude`` is something else.
    """
    if exclude is None:
        return items, {}
    if not isinstance(items, xr.DataTree) or "value" not in items.root.to_dataset().data_vars:
        raise AnalysisError(
            "exclude needs the cube that was audited: give the tree (ps.open_tree), not its group items alone."
        )
    root = items.root
    cube = root.to_dataset()
    if "items" not in root.children:
        return items, {}
    findings = _findings(root, exclude)
    mask: Bools = np.asarray(excluded_cells(cube, findings).values)
    measured = ~np.isnan(cells(cube))
    group = root.children["items"].to_dataset(inherit=False)
    tasks = np.asarray(group["task"].values).astype(np.str_)
    subject = np.asarray(cube["subject"].values).astype(np.str_)
    left: Bools = np.zeros((*mask.shape[:3], len(tasks)), dtype=bool)
    for task in np.unique(tasks).tolist():
        own = subject == task
        if own.any():
            left[..., tasks == task] = mask[..., own].any(axis=3, keepdims=True)
        else:
            every = (mask | ~measured).all(axis=3, keepdims=True)
            left[..., tasks == task] = every & mask.any(axis=3, keepdims=True)
    where = xr.DataArray(left, dims=(*_RUN_DIMS, "item"), coords={name: cube[name].values for name in _RUN_DIMS})
    full = root.children["items"].to_dataset()
    where = where.reindex({name: full[name].values for name in _RUN_DIMS}, fill_value=False)
    answered: Bools = np.zeros(where.shape, dtype=bool)
    for name in ("choice", "correct"):
        if name in group:
            array = full[name].transpose(*where.dims)
            answered |= np.asarray(array.values >= 0)
            group[name] = (array.dims, np.where(where.values, _NO_ANSWER, array.values), array.attrs)
    tree = xr.DataTree.from_dict({"/": leave_out(root, findings)[0], "/items": group})
    left = np.asarray(where.values)[answered]
    return tree, _said(int(left.sum()), left.size, findings)


def _findings(cube: xr.Dataset | xr.DataTree, exclude: Exclude) -> xr.Dataset:
    if isinstance(exclude, xr.Dataset):
        return exclude
    if exclude != "audit":
        raise AnalysisError(f"exclude is {exclude!r}; it is 'audit', what audit_cube(cube) returned, or None.")
    from polystab.analysis.audit.checks import audit_cube

    return audit_cube(cube)


def _said(n_left: int, n_measured: int, findings: xr.Dataset) -> dict[str, Any]:
    """Attributes of a result, from how many of the measured values are left out."""
    kinds = Counter(kind for kind in findings["kind"].values.tolist() if KINDS[kind].excluded)
    return {
        "excluded_values": n_left,
        "excluded_share": n_left / n_measured if n_measured else 0.0,
        "excluded_by": ", ".join(f"{kind} ({n})" for kind, n in kinds.items()),
    }
