"""From checked inputs to REML estimates: which engine, where to start, what cannot be estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Bools, Floats, Ints, scaled
from polystab.analysis.reml.dense import (
    Designs,
    Rotated,
    dense_engine,
    design,
    diagonal_engine,
    fixed_effects,
    rotate,
)
from polystab.analysis.reml.inputs import RESIDUAL, ROUNDING, Inputs
from polystab.analysis.reml.optimum import LARGEST_RATIO, Engine, Optimum, criterion, minimise
from polystab.analysis.reml.sparse import SparseDesign, SparseEngine, one_thread
from polystab.errors import shown

# Up to here matrices of levels x levels, and of rows x levels, are cheaper than elimination.
DENSE_LEVELS = 250
DENSE_CELLS = 4_000_000

_CHUNK_CELLS = 4_000_000

# Share of the squared length of {I, C_k} that is independent of the others, below which they are confounded.
_CONFOUNDED = 1e-9

# Newton decrements: the last step starts 1e-9 (sparse: 1e-6) of a standard error from the optimum.
_EXACT_TOLERANCE = 1e-18
_SPARSE_TOLERANCE = 1e-12

_STARTS = (0.01, 0.1, 1.0, 10.0, 100.0, 1e4)


@dataclass(frozen=True)
class Estimates:
    """Estimates of some responses; NaN where there is a ``problem``.

    ``variance`` has one column per factor and the residual last.
    """

    variance: Floats
    criterion: Floats
    effects: Floats
    errors: Floats
    singular: Bools
    converged: Bools
    n: Ints
    problem: npt.NDArray[np.object_]


def is_dense(inputs: Inputs) -> bool:
    levels = sum(inputs.levels)
    return levels <= DENSE_LEVELS and levels * len(inputs.y) <= DENSE_CELLS


def estimate(inputs: Inputs) -> Estimates:
    """Estimates of every response, with equal patterns of missing rows taken together."""
    n, count = inputs.y.shape
    present = ~np.isnan(inputs.y)
    packed = np.packbits(present, axis=0)
    order = np.lexsort(packed) if count > 1 else np.zeros(1, dtype=np.intp)
    changes = (np.diff(packed[:, order].astype(np.int16), axis=1) != 0).any(axis=0)
    pattern = np.concatenate([[0], np.cumsum(changes)])
    result = _empty(inputs, count)
    if not is_dense(inputs):
        shared: SparseDesign | str = ""
        with one_thread():
            for i, response in enumerate(order):
                if i == 0 or pattern[i] != pattern[i - 1]:
                    shared = sparse_design(inputs, present[:, response])
                _store(result, np.array([response]), _fit_sparse(inputs, int(response), shared))
        return result
    # Responses that share their rows share the design; the others bring their own. Several
    # factors that do not commute need matrices of levels x levels for every response.
    q = sum(inputs.levels)
    cells = n * (q + len(inputs.columns)) if pattern[-1] > 0 else n
    size = max(1, _CHUNK_CELLS // (cells + (len(inputs.levels) * q**2 if len(inputs.levels) > 1 else 0)))
    for start in range(0, count, size):
        members = order[start : start + size]
        _store(result, members, fit_dense(inputs, members, pattern[start : start + size]))
    return result


def _empty(inputs: Inputs, count: int) -> Estimates:
    return Estimates(
        variance=np.full((count, len(inputs.levels) + 1), np.nan),
        criterion=np.full(count, np.nan),
        effects=np.full((count, len(inputs.columns)), np.nan),
        errors=np.full((count, len(inputs.columns)), np.nan),
        singular=np.zeros(count, dtype=np.bool_),
        converged=np.zeros(count, dtype=np.bool_),
        n=np.zeros(count, dtype=np.int64),
        problem=np.full(count, "", dtype=object),
    )


def _store(into: Estimates, members: Ints, part: Estimates) -> None:
    for name in vars(part):
        getattr(into, name)[members] = getattr(part, name)


@dataclass(frozen=True)
class DenseProblem:
    """Responses of one chunk, ready for the optimiser (those without a problem, in units of their spread)."""

    designs: Designs
    rotated: Rotated
    pattern: Ints
    usable: Ints  # places in the chunk
    scale: Floats  # spread of each usable response, in units of y
    engine: Engine
    raw: Rotated  # of all responses, in units of y
    all_patterns: Ints
    constant: Bools
    problem: npt.NDArray[np.object_]


def dense_problem(inputs: Inputs, members: Ints, pattern: Ints) -> DenseProblem:
    y = inputs.y[:, members].T
    present = ~np.isnan(y)
    pattern = np.unique(pattern, return_inverse=True)[1]
    first = np.unique(pattern, return_index=True)[1]
    small, exponent = scaled(y, axis=1)
    values = np.where(present, small, 0.0)
    designs = design(inputs.codes, inputs.levels, inputs.matrix, present[first])
    rotated = rotate(designs, values, pattern)
    noise = (ROUNDING * np.abs(values).max(axis=1)) ** 2 * present.sum(axis=1)
    texts = np.array([_design_problem(inputs, designs, i) for i in range(len(first))], dtype=object)
    problem = texts[pattern]
    inner = (designs.span != 0).any(axis=1).sum(axis=1)[pattern]
    constant = (rotated.total <= noise) & (problem == "")
    exact = (rotated.rest <= noise) & (rotated.df > inner) & ~constant & (problem == "")
    problem[exact] = _exact_text(inputs)
    usable = np.flatnonzero((problem == "") & ~constant)
    scale = np.sqrt(rotated.total[usable] / rotated.df[usable])
    unit = replace(
        rotated,
        z=rotated.z[usable] / scale[:, None],
        rest=rotated.rest[usable] / scale**2,
        df=rotated.df[usable],
        fixed=rotated.fixed[usable] / scale[:, None],
        quadratic=rotated.quadratic[usable] / scale[:, None] ** 2,
        total=rotated.total[usable] / scale**2,
    )
    own = pattern[usable]
    engine: Engine
    if designs.diagonal is not None:
        engine = diagonal_engine(designs.diagonal if len(designs.mask) == 1 else designs.diagonal[own], unit)
    else:
        engine = dense_engine(designs, unit, own)
    return DenseProblem(
        designs,
        unit,
        own,
        usable,
        np.ldexp(scale, exponent[usable]),
        engine,
        _in_units(rotated, exponent),
        pattern,
        constant,
        problem,
    )


def _in_units(rotated: Rotated, exponent: npt.NDArray[np.int32]) -> Rotated:
    return replace(rotated, fixed=np.ldexp(rotated.fixed, exponent[:, None]))


def fit_dense(inputs: Inputs, members: Ints, pattern: Ints) -> Estimates:
    """Estimates of the responses ``members``, whose patterns of rows are numbered by ``pattern``."""
    made = dense_problem(inputs, members, pattern)
    result = _empty(inputs, len(members))
    result.n[:] = (~np.isnan(inputs.y[:, members])).sum(axis=0)
    result.problem[:] = made.problem
    _constant(result, made)
    if not len(made.usable):
        return result
    gram = made.designs.gram[made.pattern]
    unit = gram[:, 0, 1:] / np.diagonal(gram, axis1=1, axis2=2)[:, 1:]
    start = _best_start(made.engine, moment_ratios(gram, made.rotated.total, made.rotated.quadratic, unit), unit)
    optimum = minimise(made.engine, start, unit=unit, tolerance=_EXACT_TOLERANCE)
    variance, value = _unscaled(optimum, made.engine.df, made.scale)
    effects, errors = fixed_effects(
        made.designs, made.rotated, made.pattern, optimum.ratio, optimum.pieces.rest / made.engine.df
    )
    corner = np.abs(np.diagonal(made.designs.corner, axis1=1, axis2=2))[made.pattern]
    result.variance[made.usable] = variance
    result.criterion[made.usable] = value + 2 * np.log(corner).sum(axis=1)
    result.effects[made.usable] = effects * made.scale[:, None]
    result.errors[made.usable] = errors * made.scale[:, None]
    # Without rows to spare for it, the residual variance can be the one that is zero.
    inner = (made.designs.gram[:, 0, 0] <= (made.designs.span != 0).any(axis=1).sum(axis=1))[made.pattern]
    result.singular[made.usable] = (optimum.ratio == 0).any(axis=1) | (inner & (optimum.ratio.max(axis=1) > 1e6))
    result.converged[made.usable] = optimum.converged
    _no_maximum(result, made.usable, optimum, inputs)
    return result


def _constant(result: Estimates, made: DenseProblem) -> None:
    """Nothing outside the fixed effects: every variance is exactly 0, and so is its likelihood's limit."""
    rows = np.flatnonzero(made.constant)
    if not len(rows):
        return
    numbers = made.all_patterns[rows]
    result.variance[rows] = 0.0
    result.criterion[rows] = -np.inf
    result.effects[rows] = np.linalg.solve(made.designs.corner[numbers], made.raw.fixed[rows, :, None])[:, :, 0]
    result.errors[rows] = 0.0
    result.singular[rows] = result.converged[rows] = True


def _unscaled(optimum: Optimum, df: Floats, scale: Floats) -> tuple[Floats, Floats]:
    residual = optimum.pieces.rest / df
    with np.errstate(over="ignore"):  # the square of 1e200 is infinite
        variance = np.concatenate([optimum.ratio, np.ones((len(df), 1))], axis=1) * (residual * scale**2)[:, None]
    return variance, criterion(optimum.pieces, df) + df * (1 + np.log(2 * np.pi) + 2 * np.log(scale))


def _no_maximum(result: Estimates, rows: Ints, optimum: Optimum, inputs: Inputs) -> None:
    """A residual variance that runs to zero: there is no estimate."""
    lost = rows[(optimum.ratio >= 0.1 * LARGEST_RATIO).any(axis=1)]
    if len(lost):
        for column in (result.variance, result.effects, result.errors, result.criterion):
            column[lost] = np.nan
        result.converged[lost] = False
        result.problem[lost] = _exact_text(inputs)


def moment_ratios(gram: Floats, total: Floats, quadratic: Floats, unit: Floats) -> Floats:
    """Ratios from the quadratic forms y'Z_k Z_k'y (MINQUE with weights 0), never below a hundredth of a unit.

    In a balanced design they are those of the analysis of variance.
    """
    right = np.concatenate([total[:, None], quadratic], axis=1)
    parts = np.linalg.solve(gram, right[:, :, None])[:, :, 0]
    left = np.where(parts[:, :1] > 0, parts[:, :1], 1.0)
    return np.asarray(np.clip(parts[:, 1:] / left, 0.01 * unit, 1e8 * unit))


def _best_start(engine: Engine, moments: Floats, unit: Floats, factors: Sequence[float] = _STARTS) -> Floats:
    """The best of the moment estimate and some round ratios: the criterion can have several minima."""
    which = np.arange(len(moments))
    best, least = moments, criterion(engine.evaluate(moments, which), engine.df)
    for factor in factors:
        value = criterion(engine.evaluate(factor * unit, which), engine.df)
        better = value < least
        best = np.where(better[:, None], factor * unit, best)
        least = np.where(better, value, least)
    return best


def sparse_design(inputs: Inputs, rows: Bools) -> SparseDesign | str:
    """The design of the given rows, or why nothing can be estimated from them."""
    matrix = inputs.matrix[rows]
    if len(matrix) <= matrix.shape[1]:
        return _few_text(len(matrix), matrix.shape[1])
    corner = np.abs(np.diagonal(np.linalg.qr(matrix, mode="r")))
    if (corner <= 1e-9 * np.linalg.norm(matrix, axis=0)).any():
        return _ALIASED_TEXT
    # Levels without a row only cost time.
    coded = [np.unique(column, return_inverse=True) for column in inputs.codes[rows].T]
    codes = np.stack([inverse for _, inverse in coded], axis=1)
    made = SparseDesign(codes, [len(labels) for labels, _ in coded], inputs.factors, matrix)
    return _confounded(inputs, made.gram, len(matrix)) or made


def sparse_engine(made: SparseDesign, y: Floats) -> tuple[SparseEngine, float, bool]:
    """Engine of a response in units of its spread, the spread, and whether there is none."""
    engine = SparseEngine(made, y)
    total = float(engine.y @ engine.y)
    constant = total <= (ROUNDING * float(np.abs(y).max())) ** 2 * len(y)
    if constant:
        return engine, 0.0, True
    scale = float(np.sqrt(total / engine.df[0]))
    return SparseEngine(made, y / scale), scale, False


def _fit_sparse(inputs: Inputs, response: int, made: SparseDesign | str) -> Estimates:
    result = _empty(inputs, 1)
    rows = ~np.isnan(inputs.y[:, response])
    result.n[:] = rows.sum()
    if isinstance(made, str):
        result.problem[0] = made
        return result
    small, exponent = scaled(inputs.y[rows, response], axis=0)
    engine, scale, constant = sparse_engine(made, small)
    if constant:
        result.variance[:] = result.errors[:] = 0.0
        result.criterion[:] = -np.inf
        result.effects[0] = np.ldexp(np.linalg.solve(made.corner, engine.fixed), exponent)
        result.singular[:] = result.converged[:] = True
        return result
    gram = made.gram[None]
    unit = gram[:, 0, 1:] / np.diagonal(gram, axis1=1, axis2=2)[:, 1:]
    if sum(made.levels) < engine.df[0] and engine.unexplained(1e6 * unit[0]) <= 1e-10 * engine.df[0]:
        result.problem[0] = _exact_text(inputs)
        return result
    moments = moment_ratios(gram, np.array([engine.y @ engine.y]), engine.quadratic, unit)
    start = _best_start(engine, moments, unit, _STARTS[1:4:2])
    optimum = minimise(engine, start, unit=unit, tolerance=_SPARSE_TOLERANCE)
    spread = np.array([np.ldexp(scale, int(exponent))])
    result.variance[:], value = _unscaled(optimum, engine.df, spread)
    result.criterion[:] = value + 2 * np.log(np.abs(np.diagonal(made.corner))).sum()
    effects, errors = engine.fixed_effects(optimum.ratio[0], float(optimum.pieces.rest[0] / engine.df[0]))
    result.effects[0], result.errors[0] = effects * spread, errors * spread
    result.singular[:] = (optimum.ratio == 0).any()
    result.converged[:] = optimum.converged
    _no_maximum(result, np.zeros(1, dtype=int), optimum, inputs)
    return result


_ALIASED_TEXT = (
    "a fixed effect cannot be estimated from the rows that have a value (it does not vary, or repeats another); "
    "leave it out or fill the rows."
)


def _few_text(rows: int, columns: int) -> str:
    return (
        f"{rows} row{'s' * (rows != 1)} with a value cannot give {columns} fixed effect{'s' * (columns != 1)} (the intercept "
        "is one) and a residual variance; give more rows or fewer fixed effects."
    )


def _exact_text(inputs: Inputs) -> str:
    return (
        f"the fixed effects and {shown(inputs.factors)} explain y exactly (to a millionth of its spread): the "
        f"{RESIDUAL} variance is 0 and the likelihood has no maximum. Rows that are copies of others do this; leave the copies out."
    )


def _design_problem(inputs: Inputs, designs: Designs, pattern: int) -> str:
    rows = int(designs.mask[pattern].sum())
    if rows <= len(inputs.columns):
        return _few_text(rows, len(inputs.columns))
    if not designs.full_rank[pattern]:
        return _ALIASED_TEXT
    return _confounded(inputs, designs.gram[pattern], rows)


def _confounded(inputs: Inputs, gram: Floats, rows: int) -> str:
    """Which components cannot be told apart, in words; empty if all can.

    They can exactly if I and the C_k are linearly independent matrices.
    """
    size = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    # The trace of C_k is the rows of the factor that the fixed effects leave.
    absorbed = [name for name, left in zip(inputs.factors, gram[0, 1:], strict=True) if left <= 1e-9 * rows]
    if absorbed:
        single = [name for name in absorbed if inputs.levels[inputs.factors.index(name)] == 1]
        why = "has one level" if single else "is a combination of the fixed effects"
        return (
            f"the variance of factor {shown(single or absorbed)} cannot be estimated: it {why}, so its levels cannot "
            "be seen to differ. Leave it out."
        )
    values, vectors = np.linalg.eigh(gram / np.outer(size, size))
    if values[0] > _CONFOUNDED:
        return ""
    null = np.abs(vectors[:, values <= _CONFOUNDED]).max(axis=1)
    names = [name for name, part in zip((RESIDUAL, *inputs.factors), null, strict=True) if part > 1e-3]
    why = ""
    alone = [name for name, count in zip(inputs.factors, inputs.levels, strict=True) if count == rows]
    if RESIDUAL in names and alone:
        why = f" ({alone[0]!r} has one row for every level)"
    return (
        f"the variances of {shown(names)} cannot be told apart in this design{why}: they are confounded. "
        "Leave all but one of them out, or add rows that separate them."
    )
