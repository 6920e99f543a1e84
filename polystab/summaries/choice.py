"""What a short table shows of a result: which variables, in which rows, which first.

Results are labelled Datasets, and the table is chosen from their labels alone, so that a new analysis has
a summary without a line of code: variables that lie over the same dimensions make the rows, ``x_lower`` and
``x_upper`` go beside ``x``, codes are spelt out from ``flag_meanings``, and -1 is none where whole numbers
(steps, seeds, counts) do not go below it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.cube.specs import DIMS
from polystab.errors import NotACubeError
from polystab.errors import shown as some
from polystab.summaries.contents import summary_of_cube
from polystab.summaries.table import Column, Summary, setting_texts, value_text
from polystab.words import count, plural

if TYPE_CHECKING:
    import pandas as pd

# Columns at most, labels included; what is beyond them is named below the table.
MAX_COLUMNS = 12

# What comes first where a result has it: by words, true before false, the largest or the smallest.
_WORSE = ("error", "warning", "info")
_LARGEST = ("excess", "strength", "share_beyond")
_SMALLEST = ("p_adjusted", "q_value", "q", "p_value", "p")

# What a column with the units of each metric is called: other columns may have none, or their own.
_UNITS = "metric_units"

# Rows are told apart by these first; by other dimensions in the order of the result.
_OUTER = ("metric", "task", "model", "seed")


def summary(result: Any, *, rows: int = 20) -> Summary:
    """A short table of a result, or of what a cube holds.

    Parameters
    ----------
    result : xarray.Dataset, xarray.DataArray, xarray.DataTree, or an object with a method ``summary``
        What an analysis gave, or a cube. Select with ordinary xarray first to ask for something else:
        ``summary(found.sel(metric="eval/arc_easy/acc"))``.
    rows : int, optional
        Rows that are shown; :attr:`Summary.table` has all.

    Returns
    -------
    Summary
        Shows itself as HTML or Markdown in a notebook, prints as text, and has the numbers as a
        ``pandas.DataFrame`` in ``table``.

    Raises
    ------
    NotACubeError
        There are no labelled results in it, or ``rows`` is no number of rows.

    Notes
    -----
    Of a result with variables over several sets of dimensions the set with the most variables is shown, over
    training at the last step that has any value. Findings, outliers and small p-values come first, everything else in its own order. An
    estimate and its interval are one column. Numbers have three significant digits; a dash is a NaN, or a
    -1 where that means none. What is equal in all rows stands below the table once.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis import seed_spread
    >>> from polystab.summaries import summary
    >>> cube = polystab.testing.synthetic_cube(n_models=2, n_seeds=5, rng=0)
    >>> told = summary(seed_spread(cube), rows=2)
    >>> list(told.table.columns[:3]), told.left_out > 0
    (['metric', 'model', 'mean'], True)
    """
    if not isinstance(rows, (int, np.integer)) or isinstance(rows, bool) or rows < 1:
        raise NotACubeError(f"rows is {rows!r}; it is a number of rows to show, at least 1.")
    if isinstance(result, xr.DataArray):
        result = result.to_dataset(name=result.name or "value")
    if not isinstance(result, (xr.Dataset, xr.DataTree)):
        own = getattr(result, "summary", None)
        if not callable(own):
            raise NotACubeError(
                f"{type(result).__name__!r} is no result of an analysis and no cube: give an xarray Dataset, DataArray or DataTree."
            )
        told: Summary = own(rows=rows)
        return told
    data = result.to_dataset(inherit=False) if isinstance(result, xr.DataTree) else result
    if "value" in data.data_vars and set(data["value"].dims) == set(DIMS):
        return summary_of_cube(result, rows=int(rows))
    if not data.data_vars:
        groups = f" Take one of its groups: {some(sorted(result.children))}." if isinstance(result, xr.DataTree) else ""
        raise NotACubeError(f"there is nothing in it: the Dataset has no variables.{groups}")
    return _summary_of_result(data, int(rows))


def _summary_of_result(data: xr.Dataset, rows: int) -> Summary:
    notes: list[str] = []
    stacked = {dim: index.names for dim, index in data.indexes.items() if dim in data.dims and index.nlevels > 1}
    for dim, levels in stacked.items():  # their labels are columns like others
        data = data.reset_index(dim).reset_coords(list(levels))
    dims = _rows_of(data)
    if "step" in dims and len(dims) > 1 and data.sizes["step"] > 1:
        data, said = _at_last_step(data, dims)
        dims = tuple(dim for dim in dims if dim != "step")
        notes.append(said)
    chosen = data[[name for name, variable in data.data_vars.items() if set(variable.dims) <= set(dims)]]
    if "metric" in dims and "units" in chosen.coords and not np.isin(chosen["units"].values, ["", "1"]).all():
        chosen = chosen.reset_coords("units").rename(units=_UNITS)
    table = _spelt_out(_frame(chosen, dims), chosen)
    told = _says_something(table, chosen, dims)
    if not told.all():
        notes.append(f"{plural((~told).sum(), 'row')} without any finding or value left out.")
    keys = _keys(table[told])
    table = _notable_first(table[told], keys, _headline(chosen, dims))
    kept, said_once, empty = _sorted_out(table, _columns(chosen))
    labels = [dim for dim in dims if dim in chosen.coords and chosen.sizes[dim] > 1]
    beyond = _without_room(kept, keys, MAX_COLUMNS - len(labels))
    once = _labels_of_all(chosen, dims) + said_once
    settings = setting_texts({str(name): value for name, value in data.attrs.items()})
    for what, texts, between in (
        ("In all rows", once if len(table) else [], "; "),
        ("Empty or 0 in all rows", empty, ", "),
        ("Also in the result", [column.name for column in beyond], ", "),
        ("Settings", settings, "; "),
    ):
        if texts:
            notes.append(f"{what}: {between.join(texts)}.")
    shown = (*(_label(chosen, dim) for dim in labels), *(column for column in kept if column not in beyond))
    first = [*labels, *(part for column in kept for part in column.parts)]
    order = [*first, *(str(name) for name in table.columns if name not in first)]
    heading = f"{count(len(table))} of " if not told.all() else ""
    heading += " x ".join(_sized(dim, chosen.sizes[dim]) for dim in dims) or "1 row"
    return Summary(table[order].reset_index(drop=True), shown if len(table) else (), heading, tuple(notes), rows)


def _headline(chosen: xr.Dataset, dims: tuple[str, ...]) -> tuple[str, int | None] | None:
    """The first variable of the rows, and what stands for none in it."""
    names = [name for name, variable in chosen.data_vars.items() if set(map(str, variable.dims)) == set(dims)]
    return (str(names[0]), _missing(chosen[names[0]])) if names else None


def _labels_of_all(chosen: xr.Dataset, dims: tuple[str, ...]) -> list[str]:
    """Labels that there is only one of, as texts."""
    single = {dim: chosen[dim].values[0] for dim in dims if dim in chosen.coords and chosen.sizes[dim] == 1}
    scalars = {str(name): value.item() for name, value in chosen.coords.items() if not value.dims}
    return setting_texts({**scalars, **single})


def _without_room(kept: list[Column], keys: list[str], room: int) -> list[Column]:
    """The columns that are left out; never those by which rows are sorted."""
    if len(kept) <= room:
        return []
    return [column for column in kept if not set(column.parts) & set(keys)][room - len(keys) :]


def _sized(dim: str, size: int) -> str:
    """``3 models``; ``3 values of n_states``, for what has no plain plural."""
    return plural(
        size,
        dim.replace("_", " ") if not dim.endswith("s") else f"value of {dim}",
        f"values of {dim}" if dim.endswith("s") else "",
    )


def _rows_of(data: xr.Dataset) -> tuple[str, ...]:
    """The dimensions over which most variables and intervals lie, the first of equals; outer ones first."""
    over: Counter[frozenset[str]] = Counter()
    for name, variable in data.data_vars.items():
        if variable.dims:  # a reader wants to see intervals
            over[frozenset(map(str, variable.dims))] += 3 if str(name).endswith("lower") else 1
    best = max(over, key=lambda dims: over[dims], default=frozenset[str]())
    names = [str(dim) for dim in data.dims]
    return tuple(sorted(best, key=lambda dim: _OUTER.index(dim) if dim in _OUTER else len(_OUTER) + names.index(dim)))


def _at_last_step(data: xr.Dataset, dims: tuple[str, ...]) -> tuple[xr.Dataset, str]:
    """The result at the last step at which it has a number."""
    at = np.zeros(data.sizes["step"], dtype=bool)
    for variable in data.data_vars.values():
        if set(map(str, variable.dims)) == set(dims) and variable.dtype.kind == "f":
            at |= variable.notnull().any([dim for dim in variable.dims if dim != "step"]).values
    last = int(np.flatnonzero(at)[-1]) if at.any() else data.sizes["step"] - 1
    one = data.isel(step=last, drop=True)
    step = data["step"].values[last] if "step" in data.coords else last
    return one, f"At step {value_text(step)}, the last with values of {plural(data.sizes['step'], 'step')}."


def _frame(chosen: xr.Dataset, dims: tuple[str, ...]) -> pd.DataFrame:
    bare = chosen.reset_coords(drop=True)
    if not dims:
        import pandas as pd

        return pd.DataFrame({str(name): [variable.values.item()] for name, variable in bare.data_vars.items()})
    frame: pd.DataFrame = bare.to_dataframe(dim_order=list(dims)).reset_index()
    return frame.drop(columns=[dim for dim in dims if dim not in chosen.coords])


def _spelt_out(table: pd.DataFrame, data: xr.Dataset) -> pd.DataFrame:
    """Codes in words."""
    for name, variable in data.data_vars.items():
        meanings = str(variable.attrs.get("flag_meanings", "")).split()
        codes = np.atleast_1d(variable.attrs.get("flag_values", np.arange(len(meanings)))).tolist()
        if meanings and len(meanings) == len(codes):
            words = dict(zip(codes, meanings, strict=True))
            table[name] = [words.get(code, str(code)) for code in table[name].tolist()]
    return table


def _says_something(table: pd.DataFrame, data: xr.Dataset, dims: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Rows in which any variable of their own is more than nothing, whatever else they repeat."""
    said = np.zeros(len(table), dtype=bool)
    for name, variable in data.data_vars.items():
        if set(map(str, variable.dims)) == set(dims) and name != _UNITS and "flag_meanings" not in variable.attrs:
            said |= ~_is_nothing(table[name], _missing(variable))
    return said


def _is_nothing(column: pd.Series[Any], missing: int | None) -> npt.NDArray[np.bool_]:
    values = column.to_numpy()
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    if values.dtype.kind in "iub":
        return np.asarray((values == 0) | (values == missing if missing is not None else False))
    return np.asarray([text in ("", None) for text in values.tolist()], dtype=bool)


def _missing(variable: xr.DataArray) -> int | None:
    return -1 if variable.dtype.kind == "i" and variable.size and int(variable.min()) == -1 else None


def _keys(table: pd.DataFrame) -> list[str]:
    """Columns by which rows are sorted, the first one first."""
    names = [str(name) for name in table.columns]
    found = [["severity"], [name for name in names if table[name].dtype == bool and name != "judged"]]
    found += [[name for name in few if name in names] for few in (_SMALLEST, _LARGEST)]
    return [several[0] for several in found if several and several[0] in names]


def _notable_first(table: pd.DataFrame, keys: list[str], first: tuple[str, int | None] | None) -> pd.DataFrame:
    """The rows that a reader should see first, and last those without what the result is about."""
    sorters: list[Any] = [] if first is None else [_is_nothing(table[first[0]], first[1])]
    for name in keys:
        values = table[name]
        if name == "severity":
            sorters.append([_WORSE.index(word) if word in _WORSE else len(_WORSE) for word in values.tolist()])
        else:
            sorters.append(values.to_numpy() if name in _SMALLEST else -values.to_numpy().astype(float))
    return table.iloc[np.lexsort(sorters[::-1])] if sorters else table


def _columns(data: xr.Dataset) -> list[Column]:
    """One column for each variable, or for an estimate and the ends of its interval."""
    names = [str(name) for name in data.data_vars]
    ends = {name: name.removesuffix("lower") for name in names if name.endswith("lower")}
    ends = {name: stem for name, stem in ends.items() if f"{stem}upper" in names}
    taken = {*ends, *(f"{stem}upper" for stem in ends.values())}
    with_ends: dict[str, str] = {}
    alone: dict[str, str] = {}
    for name, stem in ends.items():
        floats = [other for other in names if other not in taken and data[other].dtype.kind == data[name].dtype.kind]
        own = stem.removesuffix("_")
        estimate = own if own in floats else next((other for other in floats if other.startswith(stem)), None)
        if estimate is None or estimate in with_ends:
            alone[name] = stem
        else:
            with_ends[estimate] = stem
    columns = []
    for name in names:
        if name in with_ends:
            stem = with_ends[name]
            columns.append(_column(f"{name} [interval]", (name, f"{stem}lower", f"{stem}upper"), data[name]))
        elif name in alone:
            columns.append(_column(f"{name}, {alone[name]}upper", (name, f"{alone[name]}upper"), data[name]))
        elif name not in taken:
            columns.append(_column(name, (name,), data[name]))
    return columns


def _column(title: str, parts: tuple[str, ...], variable: xr.DataArray) -> Column:
    units = str(variable.attrs.get("units", ""))
    return Column(
        f"{title} ({units})" if units not in ("", "1") else title,
        parts,
        str(variable.attrs.get("long_name", "")),
        _missing(variable),
    )


def _label(data: xr.Dataset, dim: str) -> Column:
    return Column(dim, (dim,), str(data[dim].attrs.get("long_name", "")))


def _sorted_out(table: pd.DataFrame, columns: list[Column]) -> tuple[list[Column], list[str], list[str]]:
    """Columns to show, what is the same in all rows, and what is nothing in all rows."""
    kept, once, empty = [], [], []
    for column in columns:
        values = [table[part] for part in column.parts]
        if len(table) and all(_is_nothing(part, column.missing).all() for part in values):
            empty.append(column.name)
        elif len(table) > 1 and len(values) == 1 and values[0].nunique(dropna=False) == 1:
            once.append(f"{column.name} = {value_text(values[0].iloc[0], missing=column.missing)}")
        else:
            kept.append(column)
    return kept, once, empty
