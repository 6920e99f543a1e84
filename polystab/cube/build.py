"""From a tidy table to a cube."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab._version import __version__
from polystab.cube.labels import model_order, parse_metric_id
from polystab.cube.specs import ATTRIBUTES, DIMS, DTYPES, METRIC_COORDINATES, SPECS, VariableSpec
from polystab.cube.validate import check_cube
from polystab.errors import SHOWN_LABELS, ConflictError, CubeTooLargeError, RecordsError, shown

if TYPE_CHECKING:
    import pandas as pd

Labels = npt.NDArray[Any]

# 4 GiB of float64: more than this is a mistake in the labels far more often than a wish.
MAX_CELLS = 2**29

_ALONG = {name: spec.dims for name, spec in SPECS.items() if spec.dims != DIMS}


def cube_from_records(frame: pd.DataFrame, **attrs: str) -> xr.Dataset:
    """Make a cube from a tidy table, one row per measured cell.

    Parameters
    ----------
    frame : pandas.DataFrame
        Columns ``model``, ``seed``, ``step``, ``metric``, ``value`` and, if known,
        ``stderr``. Any coordinate of the cube may be a further column and must then
        be constant along its own labels: ``units``, ``better``, ``component``,
        ``layer``, ``n_items``, ``chance`` (per metric), ``n_parameters``, ``n_layers``,
        ``hidden_size`` (per model), ``tokens`` (per step), ``weight_seed``,
        ``data_seed``, ``run_name`` (per model and seed). The order of rows does not
        matter. A NaN value is a cell that was not measured.
    **attrs : str
        File attributes: ``title``, ``summary``, ``source``, ``license``,
        ``references``, ``history``, ``created``. ``created`` is now unless it is
        given or ``SOURCE_DATE_EPOCH`` is set.

    Returns
    -------
    xarray.Dataset
        ``value(model, seed, step, metric)`` float64 and, if there was such a column,
        ``stderr`` with the same dimensions. Models are ordered by size, metrics by
        name. One seed, one step and one model are fine.

    Raises
    ------
    RecordsError
        A column is missing or unknown, a label is empty or not an integer where one
        is needed, a value is text, or a coordinate contradicts itself.
    ConflictError
        Two rows give different values for one cell. Equal repetitions are accepted.
    CubeTooLargeError
        The labels span more than ``MAX_CELLS`` cells.
    InvalidCubeError
        What the columns or attributes say is not allowed in a cube, e.g. a negative
        ``stderr`` or a ``family`` that is not the id's.

    Examples
    --------
    >>> import pandas as pd, polystab as ps
    >>> cube = ps.cube_from_records(pd.DataFrame({
    ...     "model": "pythia-14m", "seed": [0, 1], "step": 1000,
    ...     "metric": "eval/arc_easy/acc", "value": [0.31, 0.33]}))
    >>> dict(cube.sizes)
    {'model': 1, 'seed': 2, 'step': 1, 'metric': 1}
    """
    frame = _checked_frame(frame)
    labels: dict[str, Labels] = {}
    codes: dict[str, npt.NDArray[np.intp]] = {}
    for dim in DIMS:
        codes[dim], labels[dim] = _coded(frame[dim], dim)
    value = frame["value"].to_numpy(dtype=np.float64)
    stderr = frame["stderr"].to_numpy(dtype=np.float64) if "stderr" in frame else None
    cube = assemble(codes, labels, value, stderr)
    for name in frame.columns.intersection(list(_ALONG)):
        cube = _with_coordinate(cube, SPECS[name], frame[name], codes)
    cube = finished(cube, attrs)
    check_cube(cube, where="the cube made from these records")
    return cube


def assemble(
    codes: Mapping[str, npt.NDArray[np.intp]],
    labels: Mapping[str, Labels],
    value: npt.NDArray[np.float64],
    stderr: npt.NDArray[np.float64] | None = None,
) -> xr.Dataset:
    """Scatter values into a dense cube; ``codes[dim]`` indexes ``labels[dim]``.

    Raises
    ------
    ConflictError
        Two different values, or standard errors, for one cell.
    CubeTooLargeError
        More than ``MAX_CELLS`` cells.
    """
    shape = tuple(len(labels[dim]) for dim in DIMS)
    cells = int(np.prod([float(n) for n in shape]))
    if cells > MAX_CELLS:
        sizes = " x ".join(f"{n} {dim}s" for n, dim in zip(shape, DIMS, strict=True))
        raise CubeTooLargeError(
            f"{sizes} is {cells:,} cells, over the limit of {MAX_CELLS:,}, for {len(value):,} values. "
            "Where models do not share a step grid, make one cube per model (--split model)."
        )
    flat = np.ravel_multi_index(tuple(codes[dim] for dim in DIMS), shape) if len(value) else np.empty(0, np.intp)
    variables = {"value": (DIMS, _scatter(flat, value, shape, labels, "values"))}
    if stderr is not None and not np.isnan(stderr).all():
        variables["stderr"] = (DIMS, _scatter(flat, stderr, shape, labels, "standard errors"))
    return xr.Dataset(variables, coords={dim: labels[dim] for dim in DIMS})


def finished(cube: xr.Dataset, attrs: Mapping[str, str] | None = None) -> xr.Dataset:
    """Give a bare cube the coordinates along ``metric``, its documentation and attributes."""
    ids = [parse_metric_id(label) for label in cube["metric"].values.tolist()]
    made: dict[str, tuple[str, Labels]] = {}
    for spec in METRIC_COORDINATES:
        if spec.name in cube.coords:
            continue
        if spec.name == "shots":
            array = np.array([part.shots if part.family == "eval" else -1 for part in ids], dtype=np.int64)
        elif hasattr(ids[0], spec.name):
            array = np.array([getattr(part, spec.name) for part in ids], dtype=np.str_)
        else:
            array = np.full(len(ids), spec.fill, dtype=DTYPES[spec.kind])
        made[spec.name] = ("metric", array)
    cube = cube.assign_coords(made)
    given = dict(attrs or {})
    unknown = sorted(set(given) - {spec.name for spec in ATTRIBUTES})
    if unknown:
        raise RecordsError(
            f"unknown attributes {shown(unknown)}; a cube has {shown([a.name for a in ATTRIBUTES], 12)}."
        )
    defaults = {"created": timestamp(), "polystab_version": __version__}
    cube = cube.assign_attrs({a.name: given.get(a.name, defaults.get(a.name, a.default)) for a in ATTRIBUTES})
    return documented(cube)


def documented(cube: xr.Dataset) -> xr.Dataset:
    """A copy in canonical order, with ``long_name`` from the specs on every known variable."""
    known = [name for name in SPECS if name in cube.variables]
    others = sorted(str(name) for name in cube.variables if name not in SPECS and name not in DIMS)
    cube = cube.transpose(*DIMS, ...)
    ordered = xr.Dataset(
        {name: cube[name].variable for name in (*known, *others) if name in cube.data_vars},
        coords={name: cube[name].variable for name in (*DIMS, *known, *others) if name in cube.coords},
        attrs=cube.attrs,
    )
    for name in known:
        ordered[name].attrs = {"long_name": SPECS[name].doc}
    return ordered


def timestamp() -> str:
    """Now in UTC, ISO 8601; ``SOURCE_DATE_EPOCH`` (seconds) stands in for now where it is set."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is not None and epoch.isdigit():
        moment = datetime.datetime.fromtimestamp(int(epoch), tz=datetime.UTC)
    else:
        moment = datetime.datetime.now(tz=datetime.UTC)
    return moment.replace(microsecond=0).isoformat()


def _checked_frame(frame: pd.DataFrame) -> pd.DataFrame:
    needed = (*DIMS, "value")
    repeated = frame.columns[frame.columns.duplicated()].unique()
    if len(repeated):
        raise RecordsError(f"columns {shown(repeated)} stand more than once; keep one of each.")
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise RecordsError(
            f"columns {shown(missing)} are missing; the table has {shown(frame.columns)}. Needed: {shown(needed)}."
        )
    unknown = [name for name in frame.columns if name not in (*needed, *SPECS)]
    if unknown:
        raise RecordsError(f"unknown columns {shown(unknown)}; drop them, or use one of {shown(SPECS, len(SPECS))}.")
    if len(frame) == 0:
        raise RecordsError("the table has no rows, and a cube holds at least one value.")
    for name in ("value", "stderr"):
        if name in frame and frame[name].dtype.kind not in "fiu":
            raise RecordsError(
                f"column {name!r} is {frame[name].dtype}, not numbers; convert it, with NaN for what was not measured."
            )
    return frame


def _coded(column: pd.Series[Any], dim: str) -> tuple[npt.NDArray[np.intp], Labels]:
    """Codes into the sorted unique labels of a column, with its type checked."""
    if column.isna().any():
        raise RecordsError(f"column {dim!r} has {int(column.isna().sum())} empty labels; every row needs one.")
    codes, unique = column.factorize()
    found: list[Any] = list(unique)
    if dim in ("seed", "step"):
        try:
            exact = [float(label) == int(label) for label in found]
            labels: Labels = np.array([int(label) for label in found], dtype=np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise RecordsError(f"column {dim!r} must hold integers, but has {shown(found)}.") from error
        if not all(exact) or any(isinstance(label, str) for label in found):
            raise RecordsError(
                f"column {dim!r} must hold integers, but has {shown([x for x in found if not _integral(x)])}."
            )
        if dim == "step" and (labels < 0).any():
            raise RecordsError(f"column 'step' counts from 0, but has {shown(labels[labels < 0].tolist())}.")
        order = np.argsort(labels, kind="stable")
    else:
        # Different objects may read the same, such as 1 and "1".
        place: dict[str, int] = {}
        codes = np.array([place.setdefault(str(label), len(place)) for label in found], dtype=np.intp)[codes]
        texts = list(place)
        if any(not text.strip() for text in texts):
            raise RecordsError(f"column {dim!r} has empty labels; every row needs one.")
        labels = np.array(texts, dtype=np.str_)
        order = np.array(
            sorted(range(len(texts)), key=(lambda i: model_order(texts[i])) if dim == "model" else texts.__getitem__),
            dtype=np.intp,
        )
    rank = np.empty(len(order), dtype=np.intp)
    rank[order] = np.arange(len(order))
    return rank[np.asarray(codes)], labels[order]


def _integral(label: Any) -> bool:
    return not isinstance(label, str) and float(label) == int(label)


def _scatter(
    flat: npt.NDArray[np.intp],
    value: npt.NDArray[np.float64],
    shape: tuple[int, ...],
    labels: Mapping[str, Labels],
    what: str,
) -> npt.NDArray[np.float64]:
    """A dense NaN-filled array with ``value`` at ``flat``; different values for one cell are an error."""
    dense = np.full(int(np.prod(shape)), np.nan)
    measured = ~np.isnan(value)
    flat, value = flat[measured], value[measured]
    dense[flat] = value
    lost = dense[flat] != value
    if lost.any():
        cells = np.unique(flat[lost])
        places = [cell_label(cell, shape, labels) for cell in cells[:SHOWN_LABELS].tolist()]
        raise ConflictError(
            f"{len(cells)} cells have two different {what}: {shown(places, total=len(cells))}. "
            "Remove the wrong rows, or read the files with a rule for duplicates."
        )
    return dense.reshape(shape)


def cell_label(cell: int, shape: tuple[int, ...], labels: Mapping[str, Labels]) -> str:
    """``model|seed|step|metric`` of a flat cell number."""
    index = np.unravel_index(cell, shape)
    return "|".join(str(labels[dim][i]) for dim, i in zip(DIMS, index, strict=True))


def _with_coordinate(
    cube: xr.Dataset, spec: VariableSpec, column: pd.Series[Any], codes: Mapping[str, npt.NDArray[np.intp]]
) -> xr.Dataset:
    """Spread a column that is constant along its labels into a coordinate (or small variable)."""
    shape = tuple(cube.sizes[dim] for dim in spec.dims)
    present = column.notna().to_numpy()
    where = tuple(codes[dim][present] for dim in spec.dims)
    try:
        with np.errstate(invalid="ignore"):  # infinity as an integer; found just below
            given = column[present].to_numpy().astype(DTYPES[spec.kind])
        if spec.kind == "i" and (given != column[present].to_numpy(dtype=np.float64)).any():
            raise ValueError("not whole numbers")
    except (TypeError, ValueError) as error:
        raise RecordsError(f"column {spec.name!r} does not hold what it should ({spec.doc}): {error}.") from error
    array = np.full(shape, spec.fill, dtype=given.dtype if spec.kind == "U" and len(given) else DTYPES[spec.kind])
    array[where] = given
    wrong = array[where] != given
    if spec.kind == "f":
        wrong &= ~np.isnan(given)
    if wrong.any():
        first = {dim: cube[dim].values[codes[dim][present][wrong][0]].item() for dim in spec.dims}
        raise RecordsError(
            f"column {spec.name!r} must be constant along {spec.dims}, but has several values at {first}."
        )
    if spec.name in ("weight_seed", "data_seed"):
        return cube.assign({spec.name: (spec.dims, array)})
    return cube.assign_coords({spec.name: (spec.dims, array)})


def concatenated(texts: Iterable[str]) -> str:
    """Distinct non-empty texts, joined by newlines in order of appearance."""
    return "\n".join(dict.fromkeys(text for text in texts if text))
