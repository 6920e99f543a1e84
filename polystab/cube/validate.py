"""Checking a cube against its specs: every violation at once, each with the fix."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.cube.labels import is_writable, parse_metric_id
from polystab.cube.parts import value_parts
from polystab.cube.specs import ATTRIBUTES, BETTER, DIMENSIONS, DIMS, FAMILIES, GROUPS, SCHEMA_VERSION, SPECS
from polystab.errors import InvalidCubeError, NewerSchemaError, NotACubeError, RecordsError, Violation, shown

_KIND_NAMES = {"U": "text", "i": "integer", "f": "floating point"}


def as_cube(cube: xr.Dataset | xr.DataTree) -> xr.Dataset:
    """The cube itself, of a Dataset or of a tree that carries detail groups.

    Raises
    ------
    NotACubeError
        The argument is neither, or has no variable ``value``.
    """
    if isinstance(cube, xr.DataTree):
        cube = cube.to_dataset()
    if not isinstance(cube, xr.Dataset):
        hint = " Open files with ps.open_cube(path)." if isinstance(cube, str) else ""
        raise NotACubeError(f"expected a cube (xarray Dataset or DataTree), got {type(cube).__name__}.{hint}")
    if "value" not in cube.data_vars:
        raise NotACubeError(
            f"no variable 'value' in this dataset (it has {shown(list(cube.data_vars))}); make a cube with ps.cube_from_records(frame)."
        )
    return cube


def validate_cube(cube: xr.Dataset | xr.DataTree, *, values: bool = True) -> list[Violation]:
    """List every way in which a dataset breaks the rules of the cube.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        What to check; never changed. Of a tree, the known detail groups are checked too.
    values : bool, optional
        Also look at the values (``stderr`` below zero or infinite). This reads the
        variable; ``False`` keeps a lazily opened cube lazy.

    Returns
    -------
    list of Violation
        Empty if the cube is valid. NaN values, one seed and one model are all
        valid: NaN means not measured. Infinite values are valid too: a diverged
        run was measured.

    Examples
    --------
    >>> import polystab as ps, polystab.testing
    >>> ps.validate_cube(polystab.testing.synthetic_cube(rng=0))
    []
    """
    data = cube.to_dataset() if isinstance(cube, xr.DataTree) else cube
    if not isinstance(data, xr.Dataset):
        return [
            Violation(
                "not-a-dataset",
                "cube",
                f"got {type(cube).__name__}.",
                "pass an xarray Dataset or DataTree; ps.open_cube opens a file.",
            )
        ]
    return [
        *_check_attributes(data),
        *_check_dimensions(data),
        *_check_variables(data),
        *_check_metric_coordinates(data),
        *(_check_values(data) if values else ()),
        *(_check_groups(cube) if isinstance(cube, xr.DataTree) else ()),
    ]


def check_cube(cube: xr.Dataset | xr.DataTree, *, values: bool = True, where: str = "cube") -> None:
    """Raise unless ``cube`` is valid; the error lists every violation."""
    violations = validate_cube(cube, values=values)
    if violations:
        listed = "\n".join(f"  {violation}" for violation in violations)
        count = "1 violation" if len(violations) == 1 else f"{len(violations)} violations"
        raise InvalidCubeError(f"{where} is not a valid cube ({count}):\n{listed}", violations)


def check_schema(attrs: dict[object, object], *, where: str) -> None:
    """Raise if the attributes say that this is not a cube, or one of a newer schema."""
    version = attrs.get("polystab_schema")
    if version is None:
        raise NotACubeError(
            f"{where} is not a cube: it has no attribute polystab_schema. To make one from a table use `polystab read table`."
        )
    if isinstance(version, (int, np.integer)) and int(version) > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{where} has schema {int(version)}, written by polystab {attrs.get('polystab_version', '?')}; "
            f"this polystab reads schemas up to {SCHEMA_VERSION}. Upgrade: pip install -U polystab."
        )


def _check_attributes(cube: xr.Dataset) -> Iterator[Violation]:
    for spec in ATTRIBUTES:
        if spec.name not in cube.attrs:
            if spec.required:
                yield Violation(
                    "missing-attribute",
                    f"attribute {spec.name}",
                    f"not there ({spec.doc}).",
                    f"set cube.attrs[{spec.name!r}].",
                )
            continue
        value = cube.attrs[spec.name]
        wanted = (int, np.integer) if spec.type is int else spec.type
        if isinstance(value, bool) or not isinstance(value, wanted):
            yield Violation(
                "attribute-type",
                f"attribute {spec.name}",
                f"is {type(value).__name__}, not {spec.type.__name__}.",
                f"use {spec.doc}.",
            )
    known = {spec.name for spec in ATTRIBUTES}
    for name, value in cube.attrs.items():
        if isinstance(value, str) and not is_writable(value):
            yield _unwritable(f"attribute {name}", [value])
        if name in known:
            continue
        if isinstance(value, bool) or not isinstance(value, (str, int, float, np.integer, np.floating)):
            yield Violation(
                "attribute-type",
                f"attribute {name}",
                f"is {type(value).__name__}, which netCDF does not keep.",
                "use text or a number; json.dumps anything structured.",
            )
    version = cube.attrs.get("polystab_schema")
    if isinstance(version, (int, np.integer)) and not 1 <= int(version) <= SCHEMA_VERSION:
        yield Violation(
            "unknown-schema",
            "attribute polystab_schema",
            f"is {int(version)}; this polystab knows 1 to {SCHEMA_VERSION}.",
            "upgrade polystab, or make the cube again.",
        )
    created = cube.attrs.get("created")
    if isinstance(created, str):
        try:
            datetime.datetime.fromisoformat(created)
        except ValueError:
            yield Violation(
                "attribute-value",
                "attribute created",
                f"{created!r} is not ISO 8601.",
                "write it like 2026-01-31T12:00:00+00:00.",
            )


def _check_dimensions(cube: xr.Dataset) -> Iterator[Violation]:
    for spec in DIMENSIONS:
        place = f"dimension {spec.name}"
        if spec.name not in cube.dims:
            yield Violation("missing-dimension", place, f"not there ({spec.doc}).", f"expand_dims({spec.name}=[...]).")
            continue
        if spec.name not in cube.coords:
            yield Violation("missing-labels", place, "has no labels.", f"assign_coords({spec.name}=[...]).")
            continue
        if cube.sizes[spec.name] == 0:
            yield Violation(
                "empty-dimension", place, "has no labels along it.", "a cube holds at least one run, step and metric."
            )
            continue
        labels = cube[spec.name].values
        if _kind(labels) != spec.kind:
            yield Violation(
                "label-type",
                place,
                f"labels are {labels.dtype}, not {_KIND_NAMES[spec.kind]}.",
                f"convert them to {_KIND_NAMES[spec.kind]}.",
            )
            continue
        yield from _check_labels(spec.name, place, labels)


def _check_labels(name: str, place: str, labels: npt.NDArray[np.generic]) -> Iterator[Violation]:
    unique, counts = np.unique(labels, return_counts=True)
    if len(unique) < len(labels):
        yield Violation(
            "duplicate-labels",
            place,
            f"{shown(unique[counts > 1].tolist())} stand more than once.",
            "keep one entry for each label.",
        )
    if name == "step":
        negative = [label for label in labels.tolist() if label < 0]
        if negative:
            yield Violation("negative-step", place, f"{shown(negative)} are below 0.", "count steps from 0.")
        if len(unique) == len(labels) and not (unique == labels).all():
            yield Violation("unsorted-step", place, "labels do not increase.", "cube.sortby('step').")
    if name in ("model", "metric") and (blank := [label for label in labels.tolist() if not str(label).strip()]):
        yield Violation("blank-label", place, f"{len(blank)} labels are empty.", "name every label.")
    if labels.dtype.kind != "i" and (bad := [label for label in labels.tolist() if not is_writable(str(label))]):
        yield _unwritable(place, bad)


def _check_variables(cube: xr.Dataset) -> Iterator[Violation]:
    for spec in SPECS.values():
        kind = "coordinate" if spec.dims != DIMS and spec.name not in ("weight_seed", "data_seed") else "variable"
        place = f"{kind} {spec.name}"
        if spec.name not in cube.variables:
            if spec.required:
                yield Violation(
                    f"missing-{kind}",
                    place,
                    f"not there ({spec.doc}).",
                    f"add it with dimensions {spec.dims}; ps.cube_from_records does.",
                )
            continue
        variable = cube[spec.name]
        if set(variable.dims) != set(spec.dims) or len(variable.dims) != len(spec.dims):
            yield Violation(
                "wrong-dimensions",
                place,
                f"has dimensions {variable.dims}, not {spec.dims}.",
                f"transpose or expand to {spec.dims}.",
            )
        elif variable.dims != spec.dims:
            yield Violation(
                "dimension-order", place, f"dimensions are ordered {variable.dims}.", f"transpose{spec.dims}."
            )
        if _kind(variable) != spec.kind:
            yield Violation(
                "wrong-type",
                place,
                f"is {variable.dtype}, not {_KIND_NAMES[spec.kind]}.",
                f"convert it to {_KIND_NAMES[spec.kind]}.",
            )
        elif spec.kind == "U" and (bad := [text for text in variable.values.ravel().tolist() if not is_writable(text)]):
            yield _unwritable(place, bad)
        if kind == "coordinate" and spec.name not in cube.coords:
            yield Violation("not-a-coordinate", place, "is a data variable.", f"cube.set_coords({spec.name!r}).")
        if kind == "variable" and spec.name in cube.coords:
            yield Violation("not-a-variable", place, "is a coordinate.", f"cube.reset_coords({spec.name!r}).")


def _check_metric_coordinates(cube: xr.Dataset) -> Iterator[Violation]:
    if "metric" not in cube.coords or _kind(cube["metric"]) != "U" or cube["metric"].dims != ("metric",):
        return
    parts, malformed = [], []
    for label in cube["metric"].values.tolist():
        try:
            parts.append(parse_metric_id(label))
        except RecordsError:
            malformed.append(label)
    if malformed:
        yield Violation(
            "metric-id",
            "dimension metric",
            f"{shown(malformed)} do not read <family>/<subject>/<measure>.",
            f"start each id with one of {', '.join(FAMILIES)}.",
        )
        return
    labels = cube["metric"].values.tolist()
    for name in ("family", "subject", "measure", "shots", "filter"):
        if name not in cube.coords or cube[name].dims != ("metric",) or _kind(cube[name]) != SPECS[name].kind:
            continue
        said = cube[name].values.tolist()
        # -1 shots means "does not apply", which an id cannot say.
        wrong = [
            label
            for label, part, value in zip(labels, parts, said, strict=True)
            if value != getattr(part, name) and not (name == "shots" and value == -1 and part.shots == 0)
        ]
        if wrong:
            yield Violation(
                "metric-id",
                f"coordinate {name}",
                f"disagrees with the ids {shown(wrong)}.",
                "rename the metric or correct it.",
            )
    if "better" in cube.coords and cube["better"].dims == ("metric",):
        unknown = sorted({str(value) for value in cube["better"].values.tolist()} - set(BETTER))
        if unknown:
            yield Violation(
                "coordinate-value", "coordinate better", f"has {shown(unknown)}.", "use 'higher', 'lower' or ''."
            )


def _check_values(cube: xr.Dataset) -> Iterator[Violation]:
    if "stderr" not in cube.data_vars or _kind(cube["stderr"]) != "f":
        return
    negative = infinite = 0
    for part in _parts(cube):
        negative += int((part < 0).sum())
        infinite += int(np.isinf(part).sum())
    for code, bad, fix in (
        ("negative-stderr", negative, "a standard error is zero or more; NaN if unknown."),
        ("infinite-stderr", infinite, "use NaN where it is unknown."),
    ):
        if bad:
            yield Violation(code, "variable stderr", f"{bad} cells are {code.split('-')[0]}.", fix)


def _parts(cube: xr.Dataset) -> Iterator[npt.NDArray[np.floating]]:
    """The standard errors; of a cube of the right shape, which may be large, some metrics at a time."""
    if set(cube["stderr"].dims) == set(DIMS):
        for _, values in value_parts(cube, "stderr"):
            yield values
    else:
        yield cube["stderr"].values


def _check_groups(tree: xr.DataTree) -> Iterator[Violation]:
    for group in GROUPS:
        if group.name not in tree.children:
            continue
        data = tree.children[group.name].to_dataset()
        for spec in group.variables:
            place = f"group {group.name}, variable {spec.name}"
            if spec.name not in data.variables:
                if spec.required:
                    yield Violation(
                        "missing-variable", place, f"not there ({spec.doc}).", f"add it with dimensions {spec.dims}."
                    )
                continue
            variable = data[spec.name]
            if variable.dims != spec.dims:
                yield Violation(
                    "wrong-dimensions",
                    place,
                    f"has dimensions {variable.dims}, not {spec.dims}.",
                    f"transpose or expand to {spec.dims}.",
                )
            if _kind(variable) != spec.kind:
                wanted = _KIND_NAMES[spec.kind]
                yield Violation("wrong-type", place, f"is {variable.dtype}, not {wanted}.", f"convert it to {wanted}.")


def _unwritable(place: str, texts: list[str]) -> Violation:
    return Violation(
        "unwritable-text",
        place,
        f"{shown(texts)} hold a NUL or half of a surrogate pair, which netCDF does not keep.",
        "remove it; polystab.cube.labels.writable escapes it.",
    )


def _kind(array: xr.DataArray | npt.NDArray[np.generic]) -> str:
    """dtype kind with all texts as ``U`` and all integers as ``i``; ``O`` if not plain text."""
    kind = array.dtype.kind
    if kind in ("T", "U"):
        return "U"
    if kind in ("i", "u"):
        return "i"
    if kind == "O":
        return "U" if all(isinstance(item, str) for item in np.asarray(array).ravel().tolist()) else "O"
    return kind
