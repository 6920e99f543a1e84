"""Joining cubes; nothing is overwritten unless a rule says so, and the audit says what was."""

from __future__ import annotations

import datetime
from collections.abc import Hashable, Sequence
from typing import Any, Literal, get_args, overload

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab._version import __version__
from polystab.cube.audit import AuditLog, audit_entries
from polystab.cube.build import MAX_CELLS, concatenated, documented
from polystab.cube.labels import model_order
from polystab.cube.specs import DIMS, DTYPES, GROUPS, SCHEMA_VERSION, SPECS, VariableSpec
from polystab.cube.validate import as_cube, check_cube
from polystab.errors import SHOWN_LABELS, ConflictError, CubeTooLargeError, UnknownNameError, did_you_mean, shown
from polystab.redaction import without_secrets_in

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
        that gave the value; two standard errors for one value conflict like values do.

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
    merged = _merge_others(merged, data)
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
            known = stderr[where]
            clash = (new == old) & ~np.isnan(given) & ~np.isnan(known) & (given != known)
            if clash.any():
                _settle(cubes, number, np.argwhere(clash), known[clash], owner[where][clash], rule, log, "|stderr")
            # Equal values without a standard error of their own keep the one already known.
            keep = np.isnan(given) & (new == old)
            stderr[where] = np.where(take & ~keep, given, known)
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
        return sorted(order, key=lambda i: _created(cubes[i]), reverse=rule == "earliest")
    return order


def _created(cube: xr.Dataset) -> datetime.datetime:
    """When the cube was first made; UTC where it does not say."""
    moment = datetime.datetime.fromisoformat(str(cube.attrs["created"]))
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _settle(
    cubes: Sequence[xr.Dataset],
    winner: int,
    cells: npt.NDArray[np.intp],
    lost: npt.NDArray[np.float64],
    losers: npt.NDArray[np.int32],
    rule: Rule,
    log: AuditLog,
    what: str = "",
) -> None:
    """Refuse clashing cells, or record what they lose (``what`` is added to the cell's name)."""
    cube = cubes[winner]
    own = {dim: cube[dim].values for dim in DIMS}

    def name(cell: npt.NDArray[np.intp]) -> str:
        return "|".join(str(own[dim][i]) for dim, i in zip(DIMS, cell, strict=True)) + what

    if rule == "error":
        raise ConflictError(
            f"{len(cells)} cells differ between cube {winner} and an earlier one: "
            f"{shown([name(cell) for cell in cells[:SHOWN_LABELS]], total=len(cells))}. "
            "Choose on_conflict='latest', 'earliest', 'first' or 'last'; what gives way is kept in the audit."
        )
    for loser in np.unique(losers).tolist():
        mine = losers == loser
        if rule in ("latest", "earliest") and _created(cubes[loser]) == _created(cube):
            raise ConflictError(
                f"cubes {loser} and {winner} differ in {int(mine.sum())} cells and were created at the same time, "
                f"{cube.attrs['created']}, so that {rule!r} cannot decide; use 'first' or 'last'."
            )
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


def _merge_others(merged: xr.Dataset, cubes: Sequence[xr.Dataset]) -> xr.Dataset:
    """Add the variables and coordinates that the specs do not know, so that none is lost."""
    parts = []
    for cube in cubes:
        names = [name for name in cube.variables if name not in SPECS and name not in DIMS]
        known = [name for name in cube.variables if name in SPECS]
        if names:
            parts.append(cube.drop_vars(known))
    if not parts:
        return merged
    joined = _joined(parts, merged, "variables outside the schema")
    return merged.assign_coords(joined.coords).assign(joined.data_vars)


def _joined(parts: Sequence[xr.Dataset], merged: xr.Dataset, what: str) -> xr.Dataset:
    """Datasets over the union of their labels, as long as they do not contradict each other."""
    try:
        joined = xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")
    except (xr.MergeError, ValueError) as error:
        raise ConflictError(f"{what} differ between the cubes: {error}") from error
    joined = joined.reindex({dim: merged[dim] for dim in DIMS if dim in joined.dims and dim in joined.indexes})
    for name, variable in joined.variables.items():
        if variable.dtype.kind == "O":  # text that was filled with NaN
            joined[name] = (variable.dims, np.where(variable.isnull(), "", variable.values), variable.attrs)
    return joined


def _unknown(array: npt.NDArray[Any], spec: VariableSpec) -> npt.NDArray[np.bool_]:
    return np.isnan(array) if spec.kind == "f" else np.asarray(array == spec.fill)


def _merge_attrs(cubes: Sequence[xr.Dataset]) -> dict[str, Any]:
    attrs: dict[str, Any] = {}
    for cube in reversed(cubes):
        attrs |= cube.attrs
    for name in ("title", "summary", "source", "license", "references", "history"):
        attrs[name] = concatenated(str(cube.attrs.get(name, "")) for cube in cubes)
    attrs["title"] = attrs["title"].replace("\n", " + ")
    attrs["created"] = str(max(cubes, key=_created).attrs["created"])
    attrs["history"] = concatenated([attrs["history"], f"merged {len(cubes)} cubes with polystab {__version__}"])
    attrs["polystab_schema"] = SCHEMA_VERSION
    attrs["polystab_version"] = __version__
    cleaned: dict[str, Any] = without_secrets_in(attrs)
    return cleaned


def _with_groups(merged: xr.Dataset, trees: Sequence[xr.DataTree], log: AuditLog) -> xr.DataTree:
    entries = dict.fromkeys(entry for tree in trees for entry in audit_entries(tree))
    log.entries.extend(entries)
    groups: dict[str, xr.Dataset] = {"/": merged, "/audit": log.dataset()}
    details: dict[str, list[xr.Dataset]] = {}
    types: dict[str, list[dict[Hashable, np.dtype[Any]]]] = {}
    for tree in trees:
        for node in tree.subtree:
            if node.has_data and node.path not in groups:
                types.setdefault(node.path, []).append({name: data.dtype for name, data in node.data_vars.items()})
                details.setdefault(node.path, []).append(_detail(node))
    for path in sorted(details):
        joined = _joined(details[path], merged, f"detail group {path.strip('/')!r}")
        for name, spec in _integers(path).items():
            if name in joined:
                widest = np.result_type(*(its[name] for its in types[path] if name in its))
                joined[name] = joined[name].fillna(spec.fill).astype(widest)
        groups[path] = joined
    return xr.DataTree.from_dict(groups)


def _detail(node: xr.DataTree) -> xr.Dataset:
    """A group with the labels of its own dimensions, and NaN where an integer says unknown."""
    data = node.to_dataset()
    used = {dim for variable in data.data_vars.values() for dim in variable.dims}
    data = data.drop_vars([str(name) for name in data.indexes if name not in used])
    for name, spec in _integers(node.path).items():
        if name in data:
            data[name] = data[name].where(data[name] != spec.fill)
    return data


def _integers(path: str) -> dict[str, VariableSpec]:
    """The integer variables that the schema knows in a group; joining would turn their gaps into NaN."""
    known = {group.name: group for group in GROUPS}.get(path.strip("/"))
    return {spec.name: spec for spec in known.variables if spec.kind == "i"} if known else {}
