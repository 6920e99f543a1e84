"""The smallest REML criterion over variance ratios that may not be negative, for many responses at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints

# Ratios beyond this cannot be told from a residual variance of zero in double precision.
LARGEST_RATIO = 1e12

_ITERATIONS = 200
_HALVINGS = 40


@dataclass(frozen=True)
class Pieces:
    """What the criterion is made of, at one set of ratios per response.

    With W the covariance of the error contrasts over the residual variance and
    C_k its part per unit of ratio k:

    Attributes
    ----------
    logdet : numpy.ndarray
        log det W, shape (responses,).
    rest : numpy.ndarray
        y' W^-1 y, shape (responses,).
    trace : numpy.ndarray
        tr(W^-1 C_k), shape (responses, factors).
    score : numpy.ndarray
        y' W^-1 C_k W^-1 y.
    product : numpy.ndarray
        y' W^-1 C_k W^-1 C_l W^-1 y, shape (responses, factors, factors).
    traces : numpy.ndarray or None
        tr(W^-1 C_k W^-1 C_l), where it is cheap.
    """

    logdet: Floats
    rest: Floats
    trace: Floats
    score: Floats
    product: Floats
    traces: Floats | None


class Engine(Protocol):
    """Evaluates the criterion of some responses."""

    @property
    def df(self) -> Floats:
        """Rows less fixed effects, per response."""
        ...

    def evaluate(self, ratio: Floats, which: Ints) -> Pieces:
        """Pieces at ``ratio``, shape (len(which), factors), of the responses ``which``."""
        ...


@dataclass(frozen=True)
class Optimum:
    """Ratios with the smallest criterion, the pieces there, and whether the search ended."""

    ratio: Floats
    pieces: Pieces
    converged: Bools


def criterion(pieces: Pieces, df: Floats) -> Floats:
    """log det W + df log(y' W^-1 y / df): the criterion up to a constant."""
    return np.asarray(pieces.logdet + df * np.log(pieces.rest / df))


def minimise(engine: Engine, start: Floats, *, unit: Floats, tolerance: float) -> Optimum:
    """Projected Newton steps from ``start`` until the next one would change nothing.

    Parameters
    ----------
    engine : Engine
        The criterion.
    start : numpy.ndarray
        Ratios, shape (responses, factors).
    unit : numpy.ndarray
        A ratio that matters (about one over the rows of a level), shape (responses, factors).
    tolerance : float
        Newton decrement at which to stop: the square of the distance to the optimum in
        standard errors.

    Notes
    -----
    A ratio at zero whose derivative says that it would go below stays there, exactly.
    The rest takes a Newton step with the observed information, or with the average
    information of Gilmour, Thompson and Cullis (1995) where the observed one has no
    minimum or is not known; steps are halved until the criterion falls.
    """
    ratio = start.copy()
    which = np.arange(len(ratio))
    state = engine.evaluate(ratio, which)
    value = criterion(state, engine.df)
    converged = np.zeros(len(ratio), dtype=np.bool_)
    todo = which
    for _ in range(_ITERATIONS):
        here = _rows(state, todo)
        direction, decrement, slope = _newton(here, engine.df[todo], ratio[todo], unit[todo])
        small = decrement <= tolerance
        converged[todo[small]] = True
        # The last step is still taken: it is what makes the error its square.
        step, moved, moved_state = _search(
            engine, todo, ratio[todo], value[todo], direction, slope, unit[todo], sure=decrement <= 1e-6
        )
        ratio[todo] = step
        value[todo[moved]] = criterion(_rows(moved_state, np.flatnonzero(moved)), engine.df[todo[moved]])
        _put(state, todo, moved_state)
        # A response whose criterion can fall no further is done as well as it can be.
        stuck = ~moved & ~small
        converged[todo[stuck]] = decrement[stuck] <= 1e-6
        todo = todo[~small & ~stuck]
        if not len(todo):
            break
    return Optimum(ratio, state, converged)


def _newton(pieces: Pieces, df: Floats, ratio: Floats, unit: Floats) -> tuple[Floats, Floats, Floats]:
    """Direction, Newton decrement and derivative per response; zero in coordinates held at their bound."""
    weight = (df / pieces.rest)[:, None]
    slope = pieces.trace - weight * pieces.score
    held = (ratio <= 0) & (slope >= 0)
    outer = pieces.score[:, :, None] * pieces.score[:, None, :] * (weight**2 / df[:, None])[:, :, None]
    average = weight[:, :, None] * pieces.product - outer
    # In units of each ratio, so that tolerances mean the same for all of them.
    size = np.maximum(ratio, unit)
    scale = size[:, :, None] * size[:, None, :]
    free = np.where(held, 0.0, slope * size)
    both = ~held[:, :, None] & ~held[:, None, :]
    identity = np.eye(ratio.shape[1])
    blank = identity * held[:, :, None]
    floor = 1e-6 * (1 + (pieces.trace * size).max(axis=1))[:, None, None]
    hessian = np.where(both, average * scale, 0.0) + blank + identity * floor
    if pieces.traces is not None:
        observed = np.where(both, (2 * average + outer - pieces.traces) * scale, 0.0) + blank
        lowest = np.linalg.eigvalsh(observed)[:, 0]
        usable = lowest > 1e-3 * np.minimum(np.diagonal(hessian, axis1=1, axis2=2).min(axis=1), 1.0)
        hessian = np.where(usable[:, None, None], observed, hessian)
    direction = -np.linalg.solve(hessian, free[:, :, None])[:, :, 0]
    decrement = -(direction * free).sum(axis=1)
    # A step that only leads out of the allowed region moves nothing: count what is left of it.
    inside = np.maximum(ratio + direction * size, 0.0) - ratio
    real = np.abs(inside * np.where(held, 0.0, slope)).sum(axis=1)
    return direction * size, np.minimum(np.abs(decrement), real), np.where(held, 0.0, slope)


def _search(
    engine: Engine,
    which: Ints,
    ratio: Floats,
    value: Floats,
    direction: Floats,
    slope: Floats,
    unit: Floats,
    *,
    sure: Bools,
) -> tuple[Floats, Bools, Pieces]:
    """Halve the step until the criterion falls enough; where it never does, nothing moves."""
    most = np.minimum(10 * ratio + 10 * unit, LARGEST_RATIO)
    length = np.ones(len(which))
    best = ratio.copy()
    done = np.zeros(len(which), dtype=np.bool_)
    result: Pieces | None = None
    for _ in range(_HALVINGS):
        todo = np.flatnonzero(~done)
        trial = np.clip(ratio[todo] + length[todo, None] * direction[todo], 0.0, most[todo])
        pieces = engine.evaluate(trial, which[todo])
        new = criterion(pieces, engine.df[which[todo]])
        gain = ((trial - ratio[todo]) * slope[todo]).sum(axis=1)
        # Near the optimum the criterion changes by less than its rounding error.
        noise = 1e-12 * (1 + np.abs(value[todo]) + engine.df[which[todo]]) * np.where(sure[todo], 100.0, 1.0)
        ok = new <= value[todo] + 1e-4 * np.minimum(gain, 0) + noise
        best[todo[ok]] = trial[ok]
        if result is None:
            result = pieces
        else:
            _put(result, todo[ok], _rows(pieces, np.flatnonzero(ok)))
        done[todo[ok]] = True
        if done.all():
            break
        length[~done] /= 2
    assert result is not None  # noqa: S101 - the loop runs at least once
    if not done.all():
        left = np.flatnonzero(~done)
        _put(result, left, engine.evaluate(best[left], which[left]))
    return best, done, result


def _rows(pieces: Pieces, rows: Ints) -> Pieces:
    return Pieces(
        pieces.logdet[rows],
        pieces.rest[rows],
        pieces.trace[rows],
        pieces.score[rows],
        pieces.product[rows],
        None if pieces.traces is None else pieces.traces[rows],
    )


def _put(pieces: Pieces, rows: Ints, new: Pieces) -> None:
    for name in ("logdet", "rest", "trace", "score", "product", "traces"):
        into = getattr(pieces, name)
        if into is not None:
            into[rows] = getattr(new, name)
