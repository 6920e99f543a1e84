"""What a stretch of a series costs: squared residuals around its own mean or line, or a log-likelihood.

Every stretch is taken for a stationary AR(1) series of its own with coefficient ``rho``
(0 is white noise), and the costs are those of generalised least squares. They come from
running sums, so that all stretches that end at one point cost a few array operations.
The first axis of every array is the series, the last the point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from polystab.analysis.arrays import Floats, Ints

# A sum of squares below this share of the whole is rounding of the running sums, not signal.
ROUNDING = 64 * np.finfo(np.float64).eps


class Costs(Protocol):
    """Costs of stretches of some series of one length."""

    @property
    def n(self) -> int:
        """Points of a series."""

    def ending(self, end: int, low: int, high: int) -> Floats:
        """Costs of the stretches that end before ``end`` and start at ``low`` to ``high - 1``, (series, starts)."""

    def between(self, starts: Ints, ends: Ints) -> Floats:
        """Costs of any stretches, (series, stretches)."""


@dataclass(frozen=True)
class LevelCosts:
    """A mean for every stretch, and with ``own_variance`` a variance too.

    Attributes
    ----------
    first_square, first_value : numpy.ndarray
        What the first point of a stretch adds to the sums, less the running sums up to it, (series, n, columns).
    squares, values : numpy.ndarray
        Running sums of the whitened series, (series, n + 1, columns).
    inverse : numpy.ndarray
        One over the squared length of the whitened constant, by length of the stretch, longest first.
    floor : numpy.ndarray
        Sums of squares below this are rounding, (series, 1, columns).
    """

    first_square: Floats
    first_value: Floats
    squares: Floats
    values: Floats
    inverse: Floats
    floor: Floats
    own_variance: bool

    @property
    def n(self) -> int:
        return int(self.first_value.shape[-1])

    def ending(self, end: int, low: int, high: int) -> Floats:
        inverse = self.inverse[:, self.n - end + low : self.n - end + high]
        total = np.zeros((len(inverse), high - low))
        for c in range(len(self.squares)):
            rest = self.first_value[c, :, low:high] + self.values[c, :, end, None]
            rest *= rest
            rest *= inverse
            np.subtract(self.first_square[c, :, low:high], rest, out=rest)
            rest += self.squares[c, :, end, None]
            total += self._priced(c, rest, np.arange(end - low, end - high, -1.0))
        return total

    def between(self, starts: Ints, ends: Ints) -> Floats:
        inverse = self.inverse[:, self.n - (ends - starts)]
        total = np.zeros((len(inverse), len(starts)))
        for c in range(len(self.squares)):
            value = self.first_value[c][:, starts] + self.values[c][:, ends]
            rest = self.first_square[c][:, starts] + self.squares[c][:, ends] - value**2 * inverse
            total += self._priced(c, rest, (ends - starts).astype(np.float64))
        return total

    def _priced(self, column: int, rest: Floats, length: Floats) -> Floats:
        if not self.own_variance:
            np.maximum(rest, self.floor[column], out=rest)
            return rest
        rest /= length
        np.maximum(
            rest, self.floor[column] / self.n, out=rest
        )  # of the variance: where it rules, all cuts cost the same
        np.log(rest, out=rest)
        rest *= length
        return rest


@dataclass(frozen=True)
class LineCosts:
    """A line over ``x`` for every stretch, which need not meet the next one.

    ``sums`` are running sums of the whitened products 1 1, 1 x, x x, then for every
    column y y, 1 y, x y, shape (products, series, n + 1); ``first`` is what the first
    point of a stretch adds, less the running sums up to it, (products, series, n).
    """

    first: Floats
    sums: Floats
    floor: Floats

    @property
    def n(self) -> int:
        return int(self.first.shape[-1])

    def ending(self, end: int, low: int, high: int) -> Floats:
        return self._priced(self.first[:, :, low:high] + self.sums[:, :, end, None])

    def between(self, starts: Ints, ends: Ints) -> Floats:
        return self._priced(self.first[:, :, starts] + self.sums[:, :, ends])

    def _priced(self, sums: Floats) -> Floats:
        ones, lean, spread = sums[0], sums[1] / sums[0], sums[2] - sums[1] ** 2 / sums[0]
        # A stretch of one point has no slope.
        spread = np.where(spread > ROUNDING * sums[2], spread, np.inf)
        total = np.zeros(ones.shape)
        for c, (squares, level, slope) in enumerate(sums[3:].reshape(-1, 3, *ones.shape)):
            rest = squares - level**2 / ones - (slope - lean * level) ** 2 / spread
            total += np.maximum(rest, self.floor[c])
        return total


def level_costs(y: Floats, rho: Floats, *, own_variance: bool = False) -> LevelCosts:
    """Costs of a mean per stretch for series of shape (series, n, columns), each with its own ``rho``."""
    y = np.moveaxis(y, -1, 0)
    r = rho[:, None]
    share = 1 - r**2
    whitened = _whitened(y, r)
    squares = _running(whitened**2)
    values = _running((1 - r) * whitened)
    n = y.shape[-1]
    inverse = 1 / (share + np.arange(n - 1, -1, -1) * (1 - r) ** 2)
    inverse = np.concatenate([inverse, np.zeros((len(inverse), 1))], axis=1)
    return LevelCosts(
        share * y**2 - squares[..., 1:],
        share * y - values[..., 1:],
        squares,
        values,
        inverse,
        _floor(squares, share * y[..., :1] ** 2),
        own_variance,
    )


def line_costs(y: Floats, x: Floats, rho: Floats) -> LineCosts:
    """Costs of a line per stretch over positions ``x`` for series of shape (series, n, columns)."""
    y = np.moveaxis(y, -1, 0)
    r = rho[:, None]
    x = np.broadcast_to(x, y.shape[1:])
    one = np.ones_like(x)
    pairs = [(one, one), (one, x), (x, x)]
    for column in y:
        pairs += [(column, column), (one, column), (x, column)]
    white = {id(v): _whitened(v, r) for pair in pairs for v in pair}
    sums = np.stack([_running(white[id(a)] * white[id(b)]) for a, b in pairs])
    first = np.stack([(1 - r**2) * a * b for a, b in pairs])
    return LineCosts(first - sums[..., 1:], sums, _floor(sums[3::3], first[3::3, :, :1]))


def _whitened(values: Floats, r: Floats) -> Floats:
    """Each value less ``r`` times the one before; 0 for the first, which every stretch treats by itself."""
    result = np.zeros(np.broadcast_shapes(values.shape, r.shape))
    result[..., 1:] = values[..., 1:] - r * values[..., :-1]
    return result


def _running(values: Floats) -> Floats:
    """Sums of all values before each point, one longer than the values."""
    return np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)


def _floor(squares: Floats, first: Floats) -> Floats:
    return ROUNDING * (squares[..., -1:] + first) + np.finfo(np.float64).tiny
