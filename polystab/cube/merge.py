"""Joining cubes; nothing is overwritten unless a rule says so, and the audit says what was."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, Literal, get_args, overload

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab._version import __version__
from polystab.cube.audit import AuditLog, audit_entries
from polystab.cube.build import MAX_CELLS, concatenated, documented
from polystab.cube.labels import model_order
from polystab.cube.specs import DIMS, DTYPES, SPECS, VariableSpec
from polystab.cube.validate import as_cube, check_cube
from polystab.errors import SHOWN_LABELS, ConflictError, CubeTooLargeError, UnknownNameError, did_you_mean, shown

Rule = Literal["error", "latest", "earliest", "first", "last"]


@overload
def merge_cubes(cubes: Sequence[xr.Dataset]) -> xr.Dataset: ...
@overload
def merge_cubes(cubes: Sequence[xr.Dataset | xr.DataTree], *, on_conflict: Rule = ...) -> xr.Dataset | xr.DataTree: ...


def merge_cubes(
    cubes: Sequence[xr.Dataset] | Sequence[xr.Dataset | xr.DataTree], *, on_conflict: Rule = "error"
) -> xr.Dataset | xr.DataTree:
    """Join cubes over the union of their labels.

    Parameters
    ----------
    cubes : sequence of xarray.Dataset or xarray.DataTree
        At least one; none is changed. Trees bring their detail groups along.
    on_conflict : {"error", "latest", "earliest", "first", "last"}
        What to do where two cubes hold different values for one cell: refuse, keep
        the value of the cube with the latest or earliest ``created`` attribute, or of
        the first or last cube given. Equal values never conflict, and a cell that is
        NaN in one cube takes the other's value. ``stderr`` always comes from the cube
        that gave the value.

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        A Dataset if Datasets were given and the rule is ``"error"``; otherwise a tree,
        because what a rule replaced is recorded in its ``audit`` group. ``created`` is
        the latest of the inputs, so that merging is reproducible.

    Raises
    ------
    ConflictError
        Cells, coordinates or detail groups contradict each other.
    InvalidCubeError
        One of the cubes is not valid.
    UnknownNameError
        ``on_conflict`` is not one of the rules.
    CubeTooLargeError
        The union spans too many cells.
    """
    if on_conflict not in get_args(Rule):
        raise UnknownNameError(
            f"no rule {on_conflict!r} for conflicts. {did_you_mean(str(on_conflict), get_args(Rule))}"
        )
    if not cubes:
        raise ConflictError("nothing to merge: give at least one cube.")
    for number, cube in enumerate(cubes):
        check_cube(cube, where=f"cube {number} ({as_cube(cube).attrs.get('title') or 'untitled'})")
    data = [as_cube(cube) for cube in cubes]
    labels = _union_labels(data)
    log = AuditLog()
    merged = _merge_values(data, labels, on_conflict, log)
    merged = _merge_coordinates(merged, data, labels)
    merged.attrs = _merge_attrs(data)
    merged = documented(merged)
    if on_conflict == "error" and all(isinstance(cube, xr.Dataset) for cube in cubes):
        return merged
    return _with_groups(merged, [cube for cube in cubes if isinstance(cube, xr.DataTree)], log)


def _union_labels(cubes: Sequence[xr.Dataset]) -> dict[str, npt.NDArray[Any]]:
    labels: dict[str, npt.NDArray[Any]] = {}
    for dim in DIMS:
        union = {label for cube in cubes for label in cube[dim].values.tolist()}
        ordered = sorted(union, key=model_order) if dim == "model" else sorted(union)
        labels[dim] = np.array(ordered, dtype=np.int64 if dim in ("seed", "step") else np.str_)
    cells = int(np.prod([float(len(labels[dim])) for dim in DIMS]))
    if cells > MAX_CELLS:
        raise CubeTooLargeError(
            f"the union has {cells:,} cells, over the limit of {MAX_CELLS:,}; merge fewer models at a time."
        )
    return labels


def _positions(
    cube: xr.Dataset, labels: dict[str, npt.NDArray[Any]], dims: Sequence[str]
) -> tuple[npt.NDArray[np.intp], ...]:
    """Open mesh of where ``cube``'s labels stand among ``labels``."""
    where = []
    for dim in dims:
        place = {label: i for i, label in enumerate(labels[dim].tolist())}
        where.append(np.array([place[label] for label in cube[dim].values.tolist()], dtype=np.intp))
    return np.ix_(*where)


def _merge_values(
    cubes: Sequence[xr.Dataset], labels: dict[str, npt.NDArray[Any]], rule: Rule, log: AuditLog
) -> xr.Dataset:
    shape = tuple(len(labels[dim]) for dim in DIMS)
    value = np.full(shape, np.nan)
    stderr = np.full(shape, np.nan) if any("stderr" in cube for cube in cubes) else None
    owner = np.full(shape, -1, dtype=np.int32)
    for number in _by_precedence(cubes, rule):
        cube = cubes[number]
        where = _positions(cube, labels, DIMS)
        new = np.asarray(cube["value"].values, dtype=np.float64)
        old = value[where]
        clash = ~np.isnan(new) & ~np.isnan(old) & (new != old)
        if clash.any():
            _settle(cubes, number, np.argwhere(clash), old[clash], owner[where][clash], rule, log)
        take = ~np.isnan(new)
        value[where] = np.where(take, new, old)
        if stderr is not None:
            given = cube["stderr"].values if "stderr" in cube else np.full(new.shape, np.nan)
            # Equal values without a standard error of their own keep the one already known.
            keep = np.isnan(given) & (new == old)
            stderr[where] = np.where(take & ~keep, given, stderr[where])
        owner[where] = np.where(take, number, owner[where])
    variables = {"value": (DIMS, value)}
    if stderr is not None:
        variables["stderr"] = (DIMS, stderr)
    return xr.Dataset(variables, coords={dim: labels[dim] for dim in DIMS})


def _by_precedence(cubes: Sequence[xr.Dataset], rule: Rule) -> list[int]:
    """Cube numbers in the order in which they are laid down: the winner comes last."""
    order = list(range(len(cubes)))
    if rule == "first":
        return order[::-1]
    if rule in ("latest", "earliest"):
        moments = [datetime.datetime.fromisoformat(str(cube.attrs["created"])) for cube in cubes]
        stamps = [moment.timestamp() for moment in moments]
        if len(set(stamps)) < len(stamps):
            raise ConflictError(f"rule {rule!r} needs cubes with different `created` times; use 'first' or 'last'.")
        return sorted(order, key=lambda i: stamps[i], reverse=rule == "earliest")
    return order


def _settle(
    cubes: Sequence[xr.Dataset],
    winner: int,
    cells: npt.NDArray[np.intp],
    lost: npt.NDArray[np.float64],
    losers: npt.NDArray[np.int32],
    rule: Rule,
    log: AuditLog,
) -> None:
    """Refuse clashing cells, or record what they lose."""
    cube = cubes[winner]
    own = {dim: cube[dim].values for dim in DIMS}

    def name(cell: npt.NDArray[np.intp]) -> str:
        return "|".join(str(own[dim][i]) for dim, i in zip(DIMS, cell, strict=True))

    if rule == "error":
        raise ConflictError(
            f"{len(cells)} cells differ between cube {winner} and an earlier one: "
            f"{shown([name(cell) for cell in cells[:SHOWN_LABELS]], total=len(cells))}. "
            "Choose on_conflict='latest', 'earliest', 'first' or 'last'; what gives way is kept in the audit."
        )
    for loser in np.unique(losers).tolist():
        mine = losers == loser
        values = {name(cell): float(v) for cell, v in zip(cells[mine], lost[mine], strict=True)}
        log.replace(_cube_name(cubes[loser], loser), rule, values, by=_cube_name(cube, winner))


def _cube_name(cube: xr.Dataset, number: int) -> str:
    return f"cube {number}: {cube.attrs.get('title') or 'untitled'}"


def _merge_coordinates(
    merged: xr.Dataset, cubes: Sequence[xr.Dataset], labels: dict[str, npt.NDArray[Any]]
) -> xr.Dataset:
    for spec in SPECS.values():
        if spec.dims == DIMS or not any(spec.name in cube.variables for cube in cubes):
            continue
        array = _merge_coordinate(spec, cubes, labels)
        if spec.name in ("weight_seed", "data_seed"):
            merged = merged.assign({spec.name: (spec.dims, array)})
        else:
            merged = merged.assign_coords({spec.name: (spec.dims, array)})
    return merged


def _merge_coordinate(
    spec: VariableSpec, cubes: Sequence[xr.Dataset], labels: dict[str, npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    """One coordinate over the union; an unknown entry takes a known one, two known ones must agree."""
    shape = tuple(len(labels[dim]) for dim in spec.dims)
    dtype: Any = object if spec.kind == "U" else DTYPES[spec.kind]
    array = np.full(shape, spec.fill, dtype=dtype)
    for cube in cubes:
        if spec.name not in cube.variables:
            continue
        where = _positions(cube, labels, spec.dims)
        new, old = cube[spec.name].values.astype(dtype), array[where]
        clash = ~_unknown(new, spec) & ~_unknown(old, spec) & (new != old)
        if clash.any():
            first = tuple(np.argwhere(clash)[0])
            at = {dim: cube[dim].values[i].item() for dim, i in zip(spec.dims, first, strict=True)}
            raise ConflictError(
                f"coordinate {spec.name!r} differs at {at}: {old[first]!r} and {new[first]!r}. "
                "These are not the same thing measured twice; rename one, or correct the coordinate."
            )
        array[where] = np.where(_unknown(new, spec), old, new)
    return array.astype(np.str_) if spec.kind == "U" else array


def _unknown(array: npt.NDArray[Any], spec: VariableSpec) -> npt.NDArray[np.bool_]:
    return np.isnan(array) if spec.kind == "f" else np.asarray(array == spec.fill)


def _merge_attrs(cubes: Sequence[xr.Dataset]) -> dict[str, Any]:
    attrs = dict(cubes[0].attrs)
    for name in ("title", "summary", "source", "license", "references", "history"):
        attrs[name] = concatenated(str(cube.attrs.get(name, "")) for cube in cubes)
    attrs["title"] = attrs["title"].replace("\n", " + ")
    attrs["created"] = max((str(cube.attrs["created"]) for cube in cubes), key=datetime.datetime.fromisoformat)
    attrs["history"] = concatenated([attrs["history"], f"merged {len(cubes)} cubes with polystab {__version__}"])
    return attrs


def _with_groups(merged: xr.Dataset, trees: Sequence[xr.DataTree], log: AuditLog) -> xr.DataTree:
    log.entries.extend(entry for tree in trees for entry in audit_entries(tree))
    groups: dict[str, xr.Dataset] = {"/": merged, "/audit": log.dataset()}
    names = sorted({name for tree in trees for name in tree.children} - {"audit"})
    for name in names:
        parts = [tree.children[name].to_dataset() for tree in trees if name in tree.children]
        try:
            joined = xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")
        except (xr.MergeError, ValueError) as error:
            raise ConflictError(f"detail group {name!r} differs between the cubes: {error}") from error
        shared = {dim: merged[dim] for dim in DIMS if dim in joined.dims}
        groups[f"/{name}"] = joined.reindex(shared) if shared else joined
    return xr.DataTree.from_dict(groups)
