"""What :func:`polystab.analysis.variance.fit_reml` is given, checked and turned into arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from polystab.analysis.arrays import Bools, Floats, Ints
from polystab.errors import AnalysisError, shown

RESIDUAL = "residual"
INTERCEPT = "intercept"

# A column whose part outside the columns before it is smaller than this share of it adds nothing.
ALIASED = 1e-9

# Differences below this share of the largest value are rounding error of y itself.
ROUNDING = 4e-16


@dataclass(frozen=True)
class Inputs:
    """Rows whose labels and fixed effects are all known, and what was left out.

    Attributes
    ----------
    y : numpy.ndarray
        Responses, shape (rows, responses); NaN is missing.
    shape : tuple of int
        Shape of the results: that of the given y without its first axis.
    codes : numpy.ndarray
        Level of every factor, shape (rows, factors), from 0.
    factors, columns : tuple of str
        Names of the factors and of the columns of ``matrix``.
    levels : tuple of int
        Number of levels of every factor.
    matrix : numpy.ndarray
        Fixed effects, shape (rows, columns), of full column rank.
    n_dropped : int
        Rows without a label or a fixed effect.
    offset : numpy.ndarray
        What was taken off the responses, shape (responses,), so that a large common part
        costs no digits; it belongs to the intercept.
    """

    y: Floats
    shape: tuple[int, ...]
    codes: Ints
    factors: tuple[str, ...]
    levels: tuple[int, ...]
    matrix: Floats
    columns: tuple[str, ...]
    n_dropped: int
    offset: Floats


def read_inputs(y: Any, factors: Any, fixed: Any) -> Inputs:
    """Check the arguments of ``fit_reml``; anything that cannot be meant is an AnalysisError."""
    values, shape = _responses(y)
    n = len(values)
    labels = _factor_codes(factors, n)
    columns, known = fixed_columns(fixed, n)
    codes = np.stack(list(labels.values()), axis=1)
    kept = known & (codes >= 0).all(axis=1) & ~np.isnan(values).all(axis=1)
    given = known & (codes >= 0).all(axis=1)
    if not kept.any():
        raise AnalysisError("no row has a value, a label of every factor and all fixed effects; nothing can be fitted.")
    coded = [pd.factorize(column)[0].astype(np.int64) for column in codes[kept].T]
    matrix, names = fixed_matrix(columns, kept)
    values, offset = values[kept], np.zeros(values.shape[1])
    if INTERCEPT in names:
        first = np.argmax(~np.isnan(values), axis=0)[None]
        offset = np.nan_to_num(np.take_along_axis(values, first, axis=0)[0])
        with np.errstate(over="ignore"):
            moved = values - offset
        moved[np.abs(moved) <= ROUNDING * np.max(np.abs(values), axis=0, initial=0.0, where=~np.isnan(values))] = 0.0
        fits = ~np.isinf(moved).any(axis=0)  # not where values are +-1e308
        values, offset = np.where(fits, moved, values), np.where(fits, offset, 0.0)
    return Inputs(
        y=np.ascontiguousarray(values),
        shape=shape,
        codes=np.stack(coded, axis=1),
        factors=tuple(labels),
        levels=tuple(int(column.max()) + 1 for column in coded),
        matrix=matrix,
        columns=names,
        n_dropped=int((~given).sum()),
        offset=offset,
    )


def _responses(y: Any) -> tuple[Floats, tuple[int, ...]]:
    if isinstance(y, (pd.Series, pd.DataFrame)):
        y = np.where(pd.isna(y), np.nan, y.to_numpy(dtype=object))  # pandas' own missing value is no number
    array = np.asarray(y)
    if array.dtype.kind not in "fiub" and not (array.dtype.kind == "O" and _numbers(array)):
        raise AnalysisError(
            f"y holds {array.dtype}, not real numbers; give floats, with NaN where nothing was measured."
        )
    values = array.astype(np.float64)
    if values.ndim == 0 or values.shape[0] == 0 or 0 in values.shape:
        raise AnalysisError(f"y has shape {values.shape}; it must be (rows,) or (rows, responses), and not empty.")
    flat = values.reshape(len(values), -1)
    infinite = np.isinf(flat)
    if infinite.any():
        rows = np.flatnonzero(infinite.any(axis=1))
        raise AnalysisError(
            f"y is infinite in {shown(rows[:5].tolist(), total=len(rows))} (row numbers). A run that diverged has no "
            "variance to split: set these values to NaN to leave them out."
        )
    return flat, values.shape[1:]


def _numbers(array: npt.NDArray[Any]) -> bool:
    try:
        array.astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True


def _named(columns: Any, what: str, allowed: str) -> dict[str, Any]:
    """A mapping or a data frame as name -> column; names must be text."""
    if isinstance(columns, pd.DataFrame):
        if not columns.columns.is_unique:
            raise AnalysisError(f"{what} has repeated column names; every name may stand once.")
        columns = {name: columns[name] for name in columns.columns}
    if not isinstance(columns, Mapping):
        raise AnalysisError(f"{what} is a {type(columns).__name__}; {allowed}")
    wrong = [name for name in columns if not isinstance(name, str) or not name]
    if wrong:
        raise AnalysisError(f"{what} has the name {shown(wrong)}; names are text.")
    return dict(columns)


def _factor_codes(factors: Any, n: int) -> dict[str, Ints]:
    named = _named(factors, "factors", "give a mapping of name to labels, or a data frame.")
    if not named:
        raise AnalysisError("factors is empty; name at least one grouping factor.")
    if RESIDUAL in named:
        raise AnalysisError(f"a factor is called {RESIDUAL!r}, which is the name of what is left over; rename it.")
    return {name: _codes(labels, name, n) for name, labels in named.items()}


def _codes(labels: Any, name: str, n: int) -> Ints:
    column = _one_column(labels, f"factor {name!r}", n)
    try:
        codes = pd.factorize(column)[0]
    except TypeError as error:
        raise AnalysisError(f"factor {name!r} has labels that cannot be told apart ({error}); use text.") from error
    return np.asarray(codes, dtype=np.int64)


def _one_column(labels: Any, what: str, n: int) -> Any:
    """Labels as a one-dimensional array; tuples stay labels and do not become a second dimension."""
    if isinstance(labels, (str, bytes)) or not isinstance(labels, Iterable):
        raise AnalysisError(f"{what} is {labels!r}; give one label for every row of y.")
    if isinstance(labels, (pd.Series, pd.Index, pd.Categorical)):
        column: Any = np.asarray(labels)
    elif isinstance(labels, np.ndarray) or hasattr(labels, "__array__"):
        column = np.asarray(labels)
    else:
        listed = list(labels)
        column = pd.Series(listed, dtype=object).infer_objects().to_numpy()
    if column.ndim != 1 or len(column) != n:
        raise AnalysisError(f"{what} has shape {column.shape}; y has {n} rows, so it must be ({n},).")
    return column


def fixed_columns(fixed: Any, n: int) -> tuple[dict[str, Any], Bools]:
    """Columns of the fixed effects, numbers or labels, and the rows where all of them are known."""
    if fixed is None:
        return {}, np.ones(n, dtype=np.bool_)
    if isinstance(fixed, tuple) and len(fixed) == 2:
        matrix, names = np.asarray(fixed[0]), [str(name) for name in fixed[1]]
        if matrix.ndim != 2 or matrix.shape[1] != len(names) or len(set(names)) != len(names):
            raise AnalysisError(
                f"fixed is a matrix of shape {matrix.shape} with the names {shown(names)}; "
                "give one name, and no name twice, for every column."
            )
        fixed = dict(zip(names, matrix.T, strict=True))
    allowed = "give a mapping of name to column, a data frame, or a pair (matrix, names of its columns)."
    columns = {
        name: _one_column(column, f"fixed effect {name!r}", n)
        for name, column in _named(fixed, "fixed", allowed).items()
    }
    known = np.ones(n, dtype=np.bool_)
    for name, column in columns.items():
        column = _as_numbers(column)
        if column.dtype.kind in "fiub":
            columns[name] = column = column.astype(np.float64)
            if np.isinf(column).any():
                raise AnalysisError(
                    f"fixed effect {name!r} is infinite in {int(np.isinf(column).sum())} rows; set these to NaN to leave "
                    "the rows out."
                )
        elif column.dtype.kind not in "OUST":
            raise AnalysisError(f"fixed effect {name!r} holds {column.dtype}; numbers and text are allowed.")
        known &= ~np.asarray(pd.isna(column), dtype=np.bool_)
    return columns, known


def fixed_matrix(columns: dict[str, Any], kept: Bools) -> tuple[Floats, tuple[str, ...]]:
    """The matrix of fixed effects: the intercept unless it is spanned, numbers as they are, labels in treatment coding."""
    n = int(kept.sum())
    parts: list[tuple[str, Floats]] = []
    for name, column in columns.items():
        if column.dtype.kind == "f":
            parts.append((name, column[kept]))
            continue
        codes, levels = pd.factorize(column[kept])
        order = _sorted_places(list(levels))
        parts.extend((f"{name}[{levels[i]}]", (codes == i).astype(np.float64)) for i in order[1:])
    matrix = np.stack([part for _, part in parts], axis=1) if parts else np.empty((n, 0))
    names = [name for name, _ in parts]
    ones = np.ones((n, 1))
    if not parts or not _spanned(matrix, ones[:, 0]):
        matrix, names = np.concatenate([ones, matrix], axis=1), [INTERCEPT, *names]
    if len(set(names)) != len(names):
        raise AnalysisError(f"two fixed effects have the same name among {shown(names)}; rename one.")
    aliased = [names[i] for i in aliased_columns(matrix)]
    if aliased:
        raise AnalysisError(
            f"the fixed effects {shown(aliased)} are combinations of the others (or of the intercept) and cannot be "
            "estimated; leave them out."
        )
    return matrix, tuple(names)


def _as_numbers(column: Any) -> Any:
    """Objects that are all numbers or missing, as numbers: they are not labels."""
    if column.dtype.kind != "O":
        return column
    known = ~np.asarray(pd.isna(column), dtype=np.bool_)
    if not all(isinstance(value, (int, float, np.number, np.bool_)) for value in column[known]):
        return column
    numbers = np.full(len(column), np.nan)
    numbers[known] = column[known].astype(np.float64)
    return numbers


def _sorted_places(levels: list[Any]) -> list[int]:
    return sorted(range(len(levels)), key=lambda i: (type(levels[i]).__name__, levels[i]))


def _spanned(matrix: Floats, column: Floats) -> bool:
    scale = np.linalg.norm(matrix, axis=0)
    basis = matrix / np.where(scale > 0, scale, 1.0)
    rest = column - basis @ np.linalg.lstsq(basis, column, rcond=None)[0]
    return bool(np.linalg.norm(rest) <= ALIASED * np.linalg.norm(column))


def aliased_columns(matrix: Floats) -> list[int]:
    """Columns that are combinations of those before them."""
    scale = np.linalg.norm(matrix, axis=0)
    if matrix.shape[1] > matrix.shape[0]:
        return list(range(matrix.shape[0], matrix.shape[1]))
    corner = np.abs(np.diagonal(np.linalg.qr(matrix / np.where(scale > 0, scale, 1.0), mode="r")))
    return [i for i in range(matrix.shape[1]) if corner[i] <= ALIASED or scale[i] == 0]
