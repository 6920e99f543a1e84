"""Lines that meet: the best continuous piecewise-linear curve with 0 to K knots at data points.

The cost of a curve up to a knot depends on its value there, so a table of numbers is
not enough: for every knot and number of knots the best cost is kept as a function of
that value, the lower envelope of parabolas (functional pruning as in Fearnhead,
Maidstone and Letchford 2019, https://doi.org/10.1080/10618600.2018.1512868, here for a given
number of knots). The noise is AR(1) with coefficient ``rho``, exactly, across knots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polystab.analysis.arrays import Floats, Ints
from polystab.analysis.segments.costs import ROUNDING

# Two knots whose directions coincide but for this share are one.
SAME_KNOT = 1e-11


@dataclass(frozen=True)
class _Envelope:
    """Parabolas a v^2 + b v + c in the value v of the curve at a knot, with where they came from."""

    a: Floats
    b: Floats
    c: Floats
    knot: Ints
    parent: Ints


def best_knots(y: Floats, x: Floats, rho: float, n_knots: int, min_size: int) -> tuple[Floats, list[Ints]]:
    """Least cost with 0 to ``n_knots`` knots of one series, and the knots of each.

    Knots are at least ``min_size`` points apart and away from the ends. The cost is
    infinite, and the knots are empty, where so many do not fit.
    """
    n = len(y)
    sums = _Sums(y, x, rho)
    share = 1 - rho**2
    start = _Envelope(
        np.array([share]),
        np.array([-2 * share * y[0]]),
        np.array([share * y[0] ** 2]),
        np.zeros(1, int),
        -np.ones(1, int),
    )
    layers = [start]
    cost = [_closed(_moved(start, 1, n - 1, sums))[0]]
    knots: list[Ints] = [np.empty(0, np.int64)]
    for k in range(1, n_knots + 1):
        previous = layers[-1]
        found: list[_Envelope] = []
        for t in range(k * min_size, n - min_size + 1):
            ready = int(np.searchsorted(previous.knot, t - min_size, side="right"))
            if ready:
                found.append(_lower(_moved(previous, ready, t, sums)))
        if not found:
            break
        layer = _Envelope(*(np.concatenate([getattr(e, name) for e in found]) for name in _Envelope.__annotations__))
        layers.append(layer)
        value, at = _closed(_moved(layer, len(layer.a), n - 1, sums))
        cost.append(value)
        path = []
        for level in range(k, 0, -1):
            path.append(int(layers[level].knot[at]))
            at = int(layers[level].parent[at])
        knots.append(np.array(path[::-1], dtype=np.int64))
    missing = n_knots + 1 - len(cost)
    floor = ROUNDING * sums.scale
    return np.maximum(np.array(cost + [np.inf] * missing), floor), knots + [np.empty(0, np.int64)] * missing


def best_gains(y: Floats, x: Floats, rho: float, min_size: int) -> Floats:
    """Least cost with 0, 1 and 2 knots of series of shape (series, n), by trying all pairs."""
    n = len(x)
    knots = np.arange(min_size, n - min_size + 1)
    basis = np.column_stack([np.ones(n), x, np.maximum(x[:, None] - x[knots], 0)])
    white_x, white_y = _white(basis.T, rho).T, _white(y, rho)
    q = np.linalg.qr(white_x[:, :2])[0]
    rest = white_y - (white_y @ q) @ q.T
    zero = np.sum(rest**2, axis=1)
    if not len(knots):
        return np.stack([zero, np.full_like(zero, np.inf), np.full_like(zero, np.inf)], axis=1)
    hinge = white_x[:, 2:]
    for _ in range(2):  # once more takes off what rounding left
        hinge = hinge - q @ (q.T @ hinge)
    hinge = hinge / np.linalg.norm(hinge, axis=0)
    u = rest @ hinge
    one = np.max(u**2, axis=1)
    two = np.full_like(one, -np.inf)
    overlap = hinge.T @ hinge
    for gap in range(min_size, len(knots)):
        c = np.diagonal(overlap, gap)
        left = 1 - c**2
        u1, u2 = u[:, :-gap], u[:, gap:]
        gain = (u1**2 + u2**2 - 2 * c * u1 * u2) / np.where(left > SAME_KNOT, left, np.inf)
        np.maximum(two, gain.max(axis=1), out=two)
    floor = ROUNDING * np.sum(white_y**2, axis=1) + np.finfo(np.float64).tiny
    return np.asarray(np.maximum(np.stack([zero, zero - one, zero - two], axis=1), floor[:, None]))


def knots_cost(y: Floats, x: Floats, rho: float, knots: Ints) -> tuple[float, Floats]:
    """Cost of the curve with these knots, and its fitted values."""
    basis = np.column_stack([np.ones(len(x)), x, np.maximum(x[:, None] - x[knots], 0)])
    basis = basis / np.linalg.norm(basis, axis=0)
    target = _white(y, rho)
    white = _white(basis.T, rho).T
    fit = np.linalg.lstsq(white, target, rcond=None)[0]
    floor = ROUNDING * float(target @ target) + np.finfo(np.float64).tiny
    return max(float(np.sum((target - white @ fit) ** 2)), floor), basis @ fit


class _Sums:
    """Running sums from which the cost of a line between two knots follows from its end values."""

    def __init__(self, y: Floats, x: Floats, rho: float) -> None:
        self.x, self.keep = x, 1 - rho
        z, g = y.copy(), x.copy()
        z[1:] -= rho * y[:-1]
        g[1:] -= rho * x[:-1]
        z[0] = g[0] = 0.0
        self.n = np.arange(len(y), dtype=np.float64)
        self.z, self.zz, self.g, self.gg, self.zg = (np.cumsum(v) for v in (z, z * z, g, g * g, z * g))
        self.scale = float(self.zz[-1] + y[0] ** 2) + np.finfo(np.float64).tiny

    def line(self, s: Ints, t: int) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
        """Coefficients of u^2, u v, v^2, u, v and 1 for a line from value u at ``s`` to v at ``t``."""
        span, x, keep = self.x[t] - self.x[s], self.x[s], self.keep
        m = t - s
        z, zz = self.z[t] - self.z[s], self.zz[t] - self.zz[s]
        g, gg = self.g[t] - self.g[s], self.gg[t] - self.gg[s]
        b = (g - keep * x * m) / span  # sums of the weight of v at each point, of its square, and times the series
        bb = (gg - 2 * keep * x * g + (keep * x) ** 2 * m) / span**2
        zb = (self.zg[t] - self.zg[s] - keep * x * z) / span
        return (
            keep**2 * m - 2 * keep * b + bb,
            2 * (keep * b - bb),
            bb,
            -2 * (keep * z - zb),
            -2 * zb,
            zz,
        )


def _moved(old: _Envelope, ready: int, t: int, sums: _Sums) -> _Envelope:
    """The first ``ready`` parabolas carried on to a knot at ``t``, their own values at their likeliest."""
    a, b, c, knot = old.a[:ready], old.b[:ready], old.c[:ready], old.knot[:ready]
    uu, uv, vv, u, v, rest = sums.line(knot, t)
    a, b = a + uu, b + u
    return _Envelope(
        np.maximum(vv - uv**2 / (4 * a), np.finfo(np.float64).tiny),
        v - uv * b / (2 * a),
        c + rest - b**2 / (4 * a),
        np.full(ready, t, dtype=np.int64),
        np.arange(ready),
    )


def _closed(last: _Envelope) -> tuple[float, int]:
    """The least value of any parabola, and which one."""
    least = last.c - last.b**2 / (4 * last.a)
    at = int(least.argmin())
    return float(least[at]), at


def _lower(all_of_them: _Envelope) -> _Envelope:
    """The parabolas that are lowest somewhere."""
    a, b, c = all_of_them.a, all_of_them.b, all_of_them.c
    left = np.arange(len(a))
    for _ in range(3):  # those that lie above a good one everywhere go at once
        i = left[np.argsort(c[left] - b[left] ** 2 / (4 * a[left]), kind="stable")[: _ + 1][-1]]
        da, db, dc = a[left] - a[i], b[left] - b[i], c[left] - c[i]
        left = left[~((da >= 0) & (dc > 0) & (db**2 < 4 * da * dc)) | (left == i)]
        if len(left) <= _ + 1:
            break
    # From minus infinity to the right: the lowest there, then whichever is crossed first.
    now = left[np.lexsort((c[left], -b[left], a[left]))[0]]
    kept = [int(now)]
    v = -np.inf
    others = left
    with np.errstate(divide="ignore", invalid="ignore"):
        while True:
            da, db, dc = a[others] - a[now], b[others] - b[now], c[others] - c[now]
            root = np.sqrt(np.maximum(db**2 - 4 * da * dc, 0))
            # Where the other one goes below: the smaller root if it opens upwards, the larger one if downwards.
            q = -0.5 * (db + np.where(db >= 0, root, -root))
            r1, r2 = q / da, dc / q
            low, high = np.fmin(r1, r2), np.fmax(r1, r2)
            cross = np.where(da > 0, low, np.where(da < 0, high, np.where(db < 0, -dc / db, np.nan)))
            valid = (db**2 - 4 * da * dc > 0) & (cross > v)
            if not valid.any():
                break
            others, cross = others[valid], cross[valid]
            v = float(cross.min())
            tied = others[cross == v]
            now = tied[np.argmin(2 * a[tied] * v + b[tied])]
            kept.append(int(now))
    chosen = np.unique(kept)
    return _Envelope(
        *(getattr(all_of_them, name)[chosen] for name in _Envelope.__annotations__)  # one place, one order
    )


def _white(values: Floats, rho: float) -> Floats:
    """Independent noise out of AR(1) noise along the last axis."""
    result = np.array(values, dtype=np.float64)
    result[..., 1:] -= rho * values[..., :-1]
    result[..., 0] *= np.sqrt(1 - rho**2)
    return result
