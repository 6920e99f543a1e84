"""Details of many units as one group: preallocated arrays over model, seed, step and their own dimensions."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.cube.audit import AuditLog
from polystab.cube.specs import DIMS
from polystab.errors import ConflictError, CubeTooLargeError, RefusedFileError, shown
from polystab.sources.unit_files import UnitFile, open_unit
from polystab.sources.unit_keys import UNITS, folder_name

if TYPE_CHECKING:
    from polystab.sources.joining import Seen

Array = npt.NDArray[Any]
Codes = Mapping[str, npt.NDArray[np.intp]]

RUN_DIMS = DIMS[:3]
# One array of a group: more is a mistake in the labels far more often than a wish.
MAX_BYTES = 2**33


@dataclass(eq=False)
class Layout:
    """What a group of a unit looks like: variables, and the coordinates along its own dimensions.

    Units mostly share one; it is told apart by the bytes of all that it consists of.
    """

    variables: dict[str, dict[str, Any]]
    attrs: dict[str, Any]
    coordinates: dict[str, Array] = field(repr=False)

    def names(self, *, coordinates: bool) -> list[str]:
        return [name for name, said in self.variables.items() if said["coordinate"] == coordinates]

    @property
    def dims(self) -> list[str]:
        return sorted({dim for said in self.variables.values() for dim in said["dims"]})


class Layouts:
    """Every layout met so far, by group and content."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Layout] = {}

    def of(self, unit: UnitFile) -> dict[str, Layout]:
        """The layouts of a unit's detail groups."""
        found: dict[str, Layout] = {}
        for group, said in unit.details.items():
            variables = said["variables"]
            names = [name for name, variable in variables.items() if variable["coordinate"]]
            digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
            for name in names:
                digest.update(unit.detail_bytes(group, name))
            known = (group, digest.digest())
            if known not in self._known:
                coordinates = {name: unit.detail(group, name) for name in names}
                self._known[known] = Layout(variables, said["attrs"], coordinates)
            found[group] = self._known[known]
        return found


def join_details(
    root: Path, units: Sequence[Seen], labels: Mapping[str, Array], codes: Codes, log: AuditLog
) -> dict[str, xr.Dataset]:
    """One Dataset for each detail group, by its path in the tree.

    Raises
    ------
    ConflictError
        Units say different things about one label, or two sources about one cell.
    CubeTooLargeError
        An array would take more than ``MAX_BYTES``.
    """
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, unit in enumerate(units):
        for group in unit.layouts:
            numbers[group].append(number)
    groups: dict[str, _Group] = {}
    shape = tuple(len(labels[dim]) for dim in RUN_DIMS)
    for group in sorted(numbers):
        members = [units[number] for number in numbers[group]]
        groups[group] = _Group(group, members, shape)
        _note_gaps(group, members, groups[group], log)
    for number in sorted({number for several in numbers.values() for number in several}):
        unit = units[number]
        cell = tuple(int(codes[dim][number]) for dim in RUN_DIMS)
        content = _again(root, unit)
        for group, layout in unit.layouts.items():
            groups[group].place(cell, layout, content, unit.path)
    return {f"/{name}": group.dataset() for name, group in groups.items()}


def _again(root: Path, unit: Seen) -> UnitFile:
    """The unit's file once more: details of thousands of units are not kept while the labels are gathered."""
    content = open_unit(root / unit.path)
    if content.sha256 != unit.sha256:
        raise RefusedFileError("changed-unit", f"{root / unit.path} changed while it was joined; join again.")
    return content


class _Group:
    """A detail group that is being filled."""

    def __init__(self, name: str, members: Sequence[Seen], shape: tuple[int, ...]) -> None:
        self.name = name
        # In order of the units, so that the result does not depend on anything else.
        self.layouts = list(dict.fromkeys(unit.layouts[name] for unit in members))
        self.first = {layout: unit.path for unit in reversed(members) for layout in [unit.layouts[name]]}
        self.shared = len({unit.key.source for unit in members}) > 1
        self.variables = self._variables()
        self.labels = {dim: self._union(dim) for dim in sorted({d for layout in self.layouts for d in layout.dims})}
        self.positions = {layout: self._positions(layout) for layout in self.layouts}
        self.coordinates = self._coordinates()
        self.arrays = {
            name: self._empty(name, shape) for name, said in self.variables.items() if not said["coordinate"]
        }

    def _variables(self) -> dict[str, dict[str, Any]]:
        """Variables of all layouts with a type that holds them all, and the attributes that all give."""
        found: dict[str, dict[str, Any]] = {}
        for layout in self.layouts:
            for name, said in layout.variables.items():
                known = found.setdefault(name, {**said, "dtype": _joined_type(said["dtype"])})
                text = "U" in (known["dtype"], said["dtype"])
                if (known["dims"], known["coordinate"]) != (said["dims"], said["coordinate"]) or (
                    text and known["dtype"] != said["dtype"]
                ):
                    raise ConflictError(
                        f"variable {name!r} of group {self.name!r} has dimensions {known['dims']} and type "
                        f"{known['dtype']} in some units, and {said['dims']} and {said['dtype']} in {self.first[layout]}."
                    )
                if not text:
                    wider = np.promote_types(known["dtype"], _joined_type(said["dtype"]))
                    known["dtype"] = wider.str
                known["attrs"] = _agreed(known["attrs"], said["attrs"])
        return dict(sorted(found.items()))

    def _union(self, dim: str) -> Array:
        """Labels along one of the group's dimensions: as they stand where all units agree, else the union."""
        several = [layout.coordinates[dim] for layout in self.layouts if dim in layout.coordinates]
        for array in several:
            if len(set(array.tolist())) < len(array):
                twice = [label for label, count in Counter(array.tolist()).items() if count > 1]
                raise ConflictError(f"labels {shown(twice)} stand twice along {dim!r} of group {self.name!r}.")
        first = several[0]
        if all(np.array_equal(first, array) for array in several[1:]):
            return first
        union = dict.fromkeys(label for array in several for label in array.tolist())
        ordered = sorted(union) if all(array.dtype.kind in "iuf" for array in several) else list(union)
        return np.array(ordered, dtype=np.result_type(*several))

    def _positions(self, layout: Layout) -> dict[str, npt.NDArray[np.intp] | None]:
        """Where a layout's labels stand along each dimension; None where they are all of them, in order."""
        found: dict[str, npt.NDArray[np.intp] | None] = {}
        for dim in layout.dims:
            own, union = layout.coordinates[dim], self.labels[dim]
            if np.array_equal(own, union):
                found[dim] = None
                continue
            place = {label: number for number, label in enumerate(union.tolist())}
            found[dim] = np.array([place[label] for label in own.tolist()], dtype=np.intp)
        return found

    def _index(self, layout: Layout, dims: Sequence[str]) -> tuple[Any, ...]:
        where = [self.positions[layout][dim] for dim in dims]
        if all(index is None for index in where):
            return (slice(None),) * len(dims)
        whole = [
            np.arange(len(self.labels[d])) if index is None else index for d, index in zip(dims, where, strict=True)
        ]
        return np.ix_(*whole)

    def _coordinates(self) -> dict[str, tuple[tuple[str, ...], Array, dict[str, Any]]]:
        """Coordinates along the group's own dimensions; what units say of the same labels must be the same."""
        found: dict[str, tuple[tuple[str, ...], Array, dict[str, Any]]] = {}
        for name, said in self.variables.items():
            if not said["coordinate"]:
                continue
            dims = tuple(said["dims"])
            array = np.full(tuple(len(self.labels[dim]) for dim in dims), _fill(said["dtype"]), _numpy(said["dtype"]))
            known = np.zeros(array.shape, dtype=np.bool_)
            for layout in (layout for layout in self.layouts if name in layout.coordinates):
                where = self._index(layout, dims)
                new = layout.coordinates[name]
                clash = known[where] & _differ(array[where], new)
                if clash.any():
                    at = (
                        [np.asarray(self.labels[dims[0]])[where[0]].ravel()[i] for i in np.argwhere(clash)[:5, 0]]
                        if dims
                        else []
                    )
                    raise ConflictError(
                        f"units do not agree on {name!r} of group {self.name!r}"
                        + (
                            f" at {dims[0]} {shown([_item(label) for label in at], total=int(clash.sum()))}"
                            if at
                            else ""
                        )
                        + f", first in {self.first[layout]}. Labels must mean the same in every unit; "
                        "fill into another folder, or remove the wrong units."
                    )
                array[where], known[where] = new, True
            text = said["dtype"] == "U"
            found[name] = (dims, array.astype(np.str_) if text else array, said["attrs"])
        return found

    def _empty(self, name: str, shape: tuple[int, ...]) -> Array:
        said = self.variables[name]
        full = (*shape, *(len(self.labels[dim]) for dim in said["dims"]))
        dtype = _numpy(said["dtype"])
        size = math.prod(full) * dtype.itemsize
        if size > MAX_BYTES:
            sizes = " x ".join(f"{n} {dim}" for n, dim in zip(full, (*RUN_DIMS, *said["dims"]), strict=True))
            raise CubeTooLargeError(
                f"{name!r} of group {self.name!r} is {sizes}, {size / 2**30:.1f} GiB, over the limit of "
                f"{MAX_BYTES / 2**30:.0f} GiB; fill fewer models into one folder."
            )
        return np.full(full, _fill(said["dtype"]), dtype)

    def place(self, cell: tuple[int, ...], layout: Layout, content: UnitFile, path: str) -> None:
        """Put the arrays of a unit where they belong."""
        for name in layout.names(coordinates=False):
            new = content.detail(self.name, name)
            where = self._index(layout, layout.variables[name]["dims"])
            here = self.arrays[name][cell] if layout.variables[name]["dims"] else self.arrays[name][(*cell, None)]
            where = where or (slice(None),)
            if self.shared:
                old, fill = here[where], _fill(self.variables[name]["dtype"])
                unknown = old != old if isinstance(fill, float) else old == fill
                clash = ~unknown & _differ(old, np.broadcast_to(new, old.shape))
                if clash.any():
                    raise ConflictError(
                        f"two sources give {name!r} of group {self.name!r} for the same labels, and differ in "
                        f"{int(clash.sum())} places of {path}. Fill one of them into another folder."
                    )
            here[where] = new

    def dataset(self) -> xr.Dataset:
        data = {
            name: ((*RUN_DIMS, *self.variables[name]["dims"]), array, self.variables[name]["attrs"])
            for name, array in self.arrays.items()
        }
        attrs = self.layouts[0].attrs
        for layout in self.layouts[1:]:
            attrs = _agreed(attrs, layout.attrs)
        return xr.Dataset(data, coords=self.coordinates, attrs=attrs)


def _note_gaps(group: str, members: Sequence[Seen], joined: _Group, log: AuditLog) -> None:
    """Say in the audit which units of a source lack labels that other units of it have.

    Layers, matrices and what else a network is made of are compared within a model: a model of two layers
    lacks nothing that one of four has. Test items are compared between models too.
    """
    for source in sorted({unit.key.source for unit in members}):
        units = [unit for unit in members if unit.key.source == source]
        _note_lacking(group, source, units, [dim for dim in joined.labels if dim in TEST_DIMS], log)
        for model in dict.fromkeys(unit.key.model for unit in units):
            own = [unit for unit in units if unit.key.model == model]
            _note_lacking(group, source, own, [dim for dim in joined.labels if dim not in TEST_DIMS], log)


# What is measured on, which has nothing to do with the model.
TEST_DIMS = ("item", "task")


def _note_lacking(group: str, source: str, own: Sequence[Seen], dims: Sequence[str], log: AuditLog) -> None:
    layouts = list(dict.fromkeys(unit.layouts[group] for unit in own))
    if len(layouts) == 1:
        return
    for dim in dims:
        sets = {layout: set(layout.coordinates[dim].tolist()) for layout in layouts if dim in layout.coordinates}
        union = dict.fromkeys(label for layout in sets for label in layout.coordinates[dim].tolist())
        for layout, have in sets.items():
            lacking = [label for label in union if label not in have]
            if not lacking:
                continue
            paths = [unit.path for unit in own if unit.layouts[group] is layout]
            log.note(
                f"{UNITS}/{folder_name(source)}",
                "labels-differ",
                f"group {group}: {len(paths)} of {len(own)} units lack {len(lacking)} of {len(union)} labels along "
                f"{dim} ({shown(lacking)}): {shown(paths)}.",
            )


def _joined_type(dtype: str) -> str:
    """The type that holds a type and, for integers, -1."""
    kind = np.dtype(dtype).kind if dtype != "U" else "U"
    if kind == "b":
        return "|i1"
    if kind == "u":
        size = min(8, 2 * np.dtype(dtype).itemsize)
        return np.dtype(f"i{size}").str
    return dtype


def _numpy(dtype: str) -> np.dtype[Any]:
    return np.dtype(object) if dtype == "U" else np.dtype(dtype)


def _fill(dtype: str) -> Any:
    if dtype == "U":
        return ""
    return -1 if np.dtype(dtype).kind == "i" else math.nan


def _differ(old: Array, new: Array) -> npt.NDArray[np.bool_]:
    both = (old != old) & (new != new) if old.dtype.kind == "f" and new.dtype.kind == "f" else False
    return np.asarray((old != new) & ~np.asarray(both))


def _agreed(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in one.items() if name in other and other[name] == value}


def _item(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label
