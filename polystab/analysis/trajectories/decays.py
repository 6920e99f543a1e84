"""Where decaying curves are heading, on plain arrays: power laws and exponentials by profile likelihood.

A curve is ``a + b g(u)``, u from 0 at its first checkpoint to 1 at its last, with ``g = (1 + u / s)^-c``, or
``exp(-u / s)``, to which that tends for large c. Given s and c, a and b are linear: all of a fixed set of
shapes are fitted to all curves by a few matrix products. The noise is first-order autoregressive from
checkpoint to checkpoint. What a curve without an asymptote looks like are two more limits of that family, the
logarithm (c to 0) and the straight line (s to infinity).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints, divided

FORMS = ("constant", "exponential", "power")
CONSTANT_FORM, EXPONENTIAL, POWER = range(len(FORMS))

# A fit of four numbers leaves this many for the noise.
MIN_POINTS = 10

_PARAMETERS = 4
_RHOS = (0.0, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97)
_SCALES = np.geomspace(0.003, 30, 22)
_POWERS = np.geomspace(0.1, 8, 10)
# Scale and power may be refined to beyond the grid by so much.
_LEAST, _MOST = np.array([_SCALES[0], _POWERS[0]]) / 3, np.array([_SCALES[-1], _POWERS[-1]]) * 3
_ROUNDS = 10

# Curves that are fitted at a time: what their products with all shapes take is then some ten megabytes.
_BLOCK = 2048


@dataclass(frozen=True)
class Shapes:
    """Shapes at some positions; ``power`` is infinite for exponentials, 0 for logarithms and lines (``scale`` infinite).

    Attributes
    ----------
    scale, power : (shape,) array
    values : (shape, position) array
    target : (shape,) array
        Value where the curves are wanted; NaN where it is infinite.
    """

    scale: Floats
    power: Floats
    values: Floats
    target: Floats


def shapes_at(u: Floats, target: float) -> Shapes:
    """All shapes at positions ``u``; ``target`` may be infinite."""
    # The shapes without an asymptote are not refined later, and so are many.
    logarithms = np.geomspace(_SCALES[0], _SCALES[-1], 8 * len(_SCALES))
    scale = np.concatenate([np.repeat(_SCALES, len(_POWERS)), _SCALES, logarithms, [np.inf]])
    endless = np.zeros(len(logarithms) + 1)
    power = np.concatenate([np.tile(_POWERS, len(_SCALES)), np.full(len(_SCALES), np.inf), endless])
    several = np.append(u, target)
    values = np.empty((len(scale), len(several)))
    for i, (s, c) in enumerate(zip(scale, power, strict=True)):
        values[i] = several if np.isinf(s) else np.log1p(several / s) if c == 0 else _shape(several, s, c)
    values[:, -1] = np.where(np.isinf(values[:, -1]), np.nan, values[:, -1])
    return Shapes(scale, power, values[:, :-1], values[:, -1])


def _shape(u: Floats, scale: Floats | float, power: Floats | float) -> Floats:
    exponential = np.isinf(power)
    with np.errstate(under="ignore"):
        return np.where(
            exponential, np.exp(-u / scale), np.exp(-np.where(exponential, 1.0, power) * np.log1p(u / scale))
        )


@dataclass
class Decays:
    """What the curves tend to, each (curve,).

    Attributes
    ----------
    value, lower, upper : array
        Where the curve without its noise is at the target; NaN where the data do not say it.
    form : array of int
        Place in :data:`FORMS`.
    scale, power : array
        s and c; infinite c for exponentials, NaN for constants.
    change : array
        b.
    noise : array
        Standard deviation of the noise.
    rho : array
        Its lag-1 correlation.
    bounded : array of bool
        Whether the interval ends on both sides.
    """

    value: Floats
    lower: Floats
    upper: Floats
    form: Ints
    scale: Floats
    power: Floats
    change: Floats
    noise: Floats
    rho: Floats
    bounded: Bools


def fit_decays(curves: Floats, u: Floats, *, target: float = np.inf, level: float = 0.95) -> Decays:
    """Fit curves (curve, position) that are measured at the same positions ``u``, 0 to 1, at least ``MIN_POINTS``.

    ``target`` is the position at which the value is wanted, infinity for the asymptote.
    """
    shapes = shapes_at(u, target)
    parts = [_fit(curves[start : start + _BLOCK], u, shapes, target, level) for start in range(0, len(curves), _BLOCK)]
    return Decays(*(np.concatenate([getattr(part, name) for part in parts]) for name in Decays.__dataclass_fields__))


@dataclass(frozen=True)
class _Grid:
    """Fits of all shapes with one correlation of the noise: (curve, shape) but for ``flat``, ``level`` (curve,)."""

    rho: float
    square: Floats
    change: Floats
    value: Floats
    variance: Floats
    flat: Floats
    level: Floats
    level_variance: float
    information: Floats


def whitened(rows: Floats, rho: float) -> Floats:
    """Rows with the correlation of AR(1) noise taken out; their noise has the variance of the innovations."""
    first = np.sqrt(1 - rho**2) * rows[:, :1]
    return np.concatenate([first, rows[:, 1:] - rho * rows[:, :-1]], axis=1)


def _grid(curves: Floats, shapes: Shapes, rho: float) -> _Grid:
    y, one, g = whitened(curves, rho), whitened(np.ones((1, curves.shape[1])), rho)[0], whitened(shapes.values, rho)
    length = float(np.sqrt(one @ one))
    q = one / length
    y_level, g_level = y @ q, g @ q
    y, g = y - y_level[:, None] * q, g - g_level[:, None] * q
    squares = np.sum(g**2, axis=1)
    flat = np.sum(y**2, axis=1)
    change = y @ (g / squares[:, None]).T
    # Seen from the target the shape is 0 there, and the constant is the value.
    off = g_level / length - shapes.target
    value = (y_level / length)[:, None] - change * off
    return _Grid(
        rho, np.maximum(flat[:, None] - change**2 * squares, 0.0), change, value, 1 / length**2 + off**2 / squares,
        flat, y_level / length, 1 / length**2, np.log(length**2 * squares),
    )  # fmt: skip


def _fit(curves: Floats, u: Floats, shapes: Shapes, target: float, level: float) -> Decays:
    grids = [_grid(curves, shapes, rho) for rho in _RHOS]
    chosen = _correlations(curves, u, shapes, grids)
    parts = [np.flatnonzero(chosen == code) for code in range(len(_RHOS))]
    found = [
        _at_rho(curves[rows], u, shapes, _rows(grids[code], rows), target, level)
        for code, rows in enumerate(parts)
        if rows.size
    ]
    back = np.argsort(np.concatenate(parts))
    return Decays(
        *(np.concatenate([getattr(part, name) for part in found])[back] for name in Decays.__dataclass_fields__)
    )


def _correlations(curves: Floats, u: Floats, shapes: Shapes, grids: list[_Grid]) -> Ints:
    """Place in ``_RHOS`` of the correlation of each curve's noise, by restricted likelihood.

    The shapes of the grid alone would not do: where there is hardly any noise, what they miss looks like it.
    """
    n, every = curves.shape[1], np.arange(len(curves))
    bounded = np.flatnonzero(shapes.power > 0)
    near = [
        _refined(curves, u, shapes.scale[best], shapes.power[best], 0.0, np.inf)
        for kind in (bounded[np.isinf(shapes.power[bounded])], bounded[np.isfinite(shapes.power[bounded])])
        for best in [kind[np.argmin(grids[0].square[:, kind], axis=1)]]
    ]
    closest = near[0].replaced(near[1], near[1].square < near[0].square)
    g = _shape(u, closest.scale[:, None], closest.power[:, None])
    criteria = []
    for grid in grids:
        place = np.argmin(grid.square, axis=1)
        exact = _linear_square(whitened(curves, grid.rho), whitened(g, grid.rho), grid.rho)
        square = np.maximum(np.minimum(grid.square[every, place], exact), np.finfo(float).tiny)
        information = grid.information[place] - grids[0].information[place]
        criteria.append((n - _PARAMETERS) * np.log(square) - np.log1p(-(grid.rho**2)) + information)
    likeliest = np.array(_RHOS)[np.argmin(criteria, axis=0)]
    # One standard error up: in short curves it comes out too small, and intervals with it.
    higher = likeliest + np.sqrt((1 - likeliest**2) / n)
    return np.asarray(np.argmin(np.abs(np.array(_RHOS)[:, None] - higher), axis=0), dtype=np.int64)


def _linear_square(y: Floats, g: Floats, rho: float) -> Floats:
    """What a constant and one shape for each curve leave, all of them whitened."""
    one = whitened(np.ones((1, y.shape[1])), rho)[0]
    q = one / np.sqrt(one @ one)
    y, g = y - (y @ q)[:, None] * q, g - (g @ q)[:, None] * q
    product = np.sum(y * g, axis=1)
    return np.asarray(np.sum(y**2, axis=1) - np.nan_to_num(divided(product**2, np.sum(g**2, axis=1))))


def _rows(grid: _Grid, rows: Ints) -> _Grid:
    several = {name: getattr(grid, name)[rows] for name in ("square", "change", "value", "flat", "level")}
    return _Grid(
        rho=grid.rho,
        variance=grid.variance,
        level_variance=grid.level_variance,
        information=grid.information,
        **several,
    )


def _at_rho(curves: Floats, u: Floats, shapes: Shapes, grid: _Grid, target: float, level: float) -> Decays:
    from scipy.special import stdtrit

    n, kinds = (
        curves.shape[1],
        {EXPONENTIAL: np.isinf(shapes.power), POWER: (shapes.power > 0) & np.isfinite(shapes.power)},
    )
    refined = {}
    for form, kind in kinds.items():
        best = np.where(kind, grid.square, np.inf).argmin(axis=1)
        refined[form] = _refined(curves, u, shapes.scale[best], shapes.power[best], grid.rho, target)
    squares = np.stack([grid.flat, refined[EXPONENTIAL].square, refined[POWER].square], axis=1)
    # Constant, variance and correlation, then b, s and c.
    form = np.argmin(_aicc(squares, n, np.array([3, 5, 6])), axis=1)
    flat = form == CONSTANT_FORM
    fit = refined[EXPONENTIAL].replaced(refined[POWER], form == POWER)
    square = np.take_along_axis(squares, form[:, None], axis=1)[:, 0]
    free = np.where(flat, n - 1, n - _PARAMETERS)
    variance = square / free
    reach = stdtrit(free, (1 + level) / 2)
    value = np.where(flat, grid.level, fit.value)
    wald = reach * np.sqrt(variance * np.where(flat, grid.level_variance, fit.variance))
    limit = (np.minimum(squares.min(axis=1), grid.square.min(axis=1)) * (1 + reach**2 / (n - _PARAMETERS)))[:, None]
    with np.errstate(invalid="ignore"):
        room = np.sqrt(np.where(grid.square <= limit, (limit - grid.square) * grid.variance, np.nan))
    # At the edge of the search a decay is as good as a logarithm or a line.
    at_edge = (fit.power < 1.01 * _LEAST[1]) | (fit.scale > 0.99 * _MOST[0])
    bounded = flat | ~(at_edge | np.any(np.isnan(grid.value) & (grid.square <= limit), axis=1))
    low = np.fmin(np.fmin.reduce(grid.value - room, axis=1), value - wald)
    high = np.fmax(np.fmax.reduce(grid.value + room, axis=1), value + wald)
    # A constant has an asymptote; where it is read off at a step it may still be the beginning of a slow decay.
    alone = flat & np.isinf(target)
    low, high = np.where(alone, value - wald, low), np.where(alone, value + wald, high)
    return Decays(
        value, low, high, form, np.where(flat, np.nan, fit.scale), np.where(flat, np.nan, fit.power),
        np.where(flat, 0.0, fit.change), np.sqrt(variance / (1 - grid.rho**2)), np.full(len(curves), grid.rho), bounded,
    )  # fmt: skip


def _aicc(square: Floats, n: int, k: Ints) -> Floats:
    """Akaike's criterion for few points, of least squares with ``k`` parameters."""
    return np.asarray(n * np.log(np.maximum(square, np.finfo(float).tiny)) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


class _Picked:
    """Results of many curves of which some can be taken from another."""

    def replaced(self, other: Self, where: Bools) -> Self:
        def pick(name: str) -> Floats:
            mine: Floats = getattr(self, name)
            yours: Floats = getattr(other, name)
            return np.where(where.reshape(-1, *(1,) * (mine.ndim - 1)), yours, mine)

        return type(self)(*(pick(field.name) for field in fields(self)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Refined(_Picked):
    square: Floats
    value: Floats
    variance: Floats
    scale: Floats
    power: Floats
    change: Floats


def _refined(curves: Floats, u: Floats, scale: Floats, power: Floats, rho: float, target: float) -> _Refined:
    """Least squares from the best shape on, all curves at once (Levenberg and Marquardt).

    The variance is that of the value at the target, for innovations of variance 1, with s and c not known.
    """
    y = whitened(curves, rho)
    theta = np.stack([np.log(scale), np.log(np.where(np.isinf(power), 1.0, power))], axis=1)
    fixed = np.isinf(power)
    damping = np.full(len(curves), 1e-3)
    now = _linearised(y, u, theta, fixed, rho, target)
    for _ in range(_ROUNDS):
        normal = now.normal + damping[:, None, None] * np.eye(_PARAMETERS)
        step = np.linalg.solve(normal, now.gradient[..., None])[..., 0][:, 2:]
        step = np.clip(step / now.lengths[:, 2:], -1, 1)
        new_theta = np.clip(theta + step, np.log(_LEAST), np.log(_MOST))
        new = _linearised(y, u, new_theta, fixed, rho, target)
        better = new.square < now.square
        theta = np.where(better[:, None], new_theta, theta)
        damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-12, 1e6)
        now = now.replaced(new, better)
    normal = now.normal + 1e-12 * np.eye(_PARAMETERS)
    unit = np.zeros(_PARAMETERS)
    unit[0] = 1.0
    variance = np.linalg.solve(normal, np.broadcast_to(unit, (len(curves), _PARAMETERS))[..., None])[:, 0, 0]
    return _Refined(
        now.square, now.value, np.maximum(variance, 0.0) / now.lengths[:, 0] ** 2, np.exp(theta[:, 0]),
        np.where(fixed, np.inf, np.exp(theta[:, 1])), now.change,
    )  # fmt: skip


@dataclass(frozen=True)
class _Linear(_Picked):
    """The fit around one pair of s and c for each curve; columns of the design have length 1."""

    square: Floats
    value: Floats
    change: Floats
    normal: Floats
    gradient: Floats
    lengths: Floats


def _linearised(y: Floats, u: Floats, theta: Floats, fixed: Bools, rho: float, target: float) -> _Linear:
    s, c = np.exp(theta).T[..., None]
    where = np.append(u, target) if np.isfinite(target) else u
    g = _shape(where, s, np.where(fixed[:, None], np.inf, c))
    with np.errstate(under="ignore"):
        by_s = np.where(fixed[:, None], where / s * g, c * (where / s) / (1 + where / s) * g)
        by_c = np.where(fixed[:, None], 0.0, -c * np.log1p(where / s) * g)
    if np.isfinite(target):
        g, by_s, by_c = ((part - part[:, -1:])[:, :-1] for part in (g, by_s, by_c))
    one, g, by_s, by_c = (whitened(part, rho) for part in (np.ones_like(g), g, by_s, by_c))
    # a and b are linear.
    oo, og, gg = np.sum(one**2, axis=1), np.sum(one * g, axis=1), np.sum(g**2, axis=1)
    oy, gy = np.sum(one * y, axis=1), np.sum(g * y, axis=1)
    change = np.nan_to_num(divided(oo * gy - og * oy, oo * gg - og**2))
    value = (oy - og * change) / oo
    rest = y - value[:, None] * one - change[:, None] * g
    design = np.stack([one, g, change[:, None] * by_s, change[:, None] * by_c], axis=1)
    lengths = np.sqrt(np.sum(design**2, axis=2))
    lengths = np.where(lengths > 0, lengths, 1.0)
    design /= lengths[..., None]
    normal = design @ np.swapaxes(design, 1, 2)
    return _Linear(np.sum(rest**2, axis=1), value, change, normal, np.einsum("cpn,cn->cp", design, rest), lengths)


def decay_left(fit: Decays) -> Floats:
    """Share of ``change`` that is left at the last checkpoint; 0 for constants."""
    constant = fit.form == CONSTANT_FORM
    left = _shape(np.ones(1), np.where(constant, 1.0, fit.scale), np.where(constant, 1.0, fit.power))
    return np.where(constant, 0.0, left)
