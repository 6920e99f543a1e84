"""The step axis: logarithmic with 0 on it where checkpoints are, linear where they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from polystab.words import step_label

# A grid is logarithmic if it spans two decades and its gaps differ tenfold.
_MIN_RATIO = 100
_MIN_UNEVEN = 10

# Closer than this share of the axis, the label of a decade would touch the last one.
_ROOM = 0.09

Steps = npt.NDArray[np.int64]


def is_logarithmic(steps: Steps) -> bool:
    """Whether checkpoints are spaced so that a linear axis would pile them up."""
    positive = steps[steps > 0]
    if len(positive) < 3 or positive[-1] < _MIN_RATIO * positive[0]:
        return False
    gaps = np.diff(positive)
    return bool(gaps.max() >= _MIN_UNEVEN * gaps.min())


def set_step_axis(ax: Axes, steps: Steps) -> None:
    """Scale and label the x axis of a picture for these (increasing) steps.

    The logarithmic form is log(1 + step / first), with the first step above 0: it has a
    place for 0, and is a plain logarithm from a few steps on.
    """
    if is_logarithmic(steps):
        first = float(steps[steps > 0][0])
        ax.set_xscale("function", functions=(lambda x: _forward(x, first), lambda y: _backward(y, first)))
        ticks = log_ticks(steps)
    else:
        ticks = linear_ticks(steps)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FixedFormatter([step_label(tick) for tick in ticks]))
    ax.xaxis.set_minor_locator(NullLocator())
    low, high = float(steps[0]), float(steps[-1])
    if is_logarithmic(steps):
        edges = _forward(np.array([low, high]), first)
        pad = 0.02 * (edges[1] - edges[0])
        low = float(_backward(edges[:1] - min(pad, 0.9 * float(edges[0]) + 0.2), first)[0])
        high = float(_backward(edges[1:] + pad, first)[0])
        ax.set_xlim(low, high)
    else:
        pad = 0.02 * (high - low) or 1.0
        ax.set_xlim(low - pad, high + pad)
    ax.set_xlabel("training step")


def log_ticks(steps: Steps) -> list[float]:
    """0 if it is there, decades from the first step above it, and the last step."""
    positive = steps[steps > 0]
    first, last = float(positive[0]), float(positive[-1])
    exponents = np.arange(np.ceil(np.log10(first)), np.floor(np.log10(last)) + 1)
    decades = [10.0**e for e in exponents]
    if len(decades) > 7:
        decades = decades[:: -(-len(decades) // 7)]
    ticks = [first, *[tick for tick in decades if tick > 1.5 * first], last]
    if steps[0] == 0:
        ticks.insert(0, 0.0)
    place = _forward(np.array(ticks), first)
    room = _ROOM * (place[-1] - place[0])
    kept = [ticks[0]]
    for tick, at in zip(ticks[1:-1], place[1:-1].tolist(), strict=True):
        if place[-1] - at >= room and at - _forward(np.array(kept[-1:]), first)[0] >= 0.5 * room:
            kept.append(tick)
    return [*kept, last]


def linear_ticks(steps: Steps) -> list[float]:
    """Round steps, about five of them, and the last one in place of a close neighbour."""
    low, high = float(steps[0]), float(steps[-1])
    if low == high:
        return [low]
    rough = (high - low) / 4
    power = 10.0 ** np.floor(np.log10(rough))
    width = max(next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough), 1.0)
    ticks = [float(tick) for tick in np.arange(np.ceil(low / width) * width, high, width) if tick == int(tick)]
    return [*[tick for tick in ticks if high - tick >= 1.5 * _ROOM * (high - low)], high]


def ordinal_ticks(steps: Steps, *, most: int = 9) -> tuple[list[int], list[str]]:
    """Positions and labels where every checkpoint has the same width."""
    n = len(steps)
    places = sorted({round(i) for i in np.linspace(0, n - 1, min(n, most)).tolist()})
    return places, [step_label(float(steps[i])) for i in places]


def _forward(x: npt.ArrayLike, first: float) -> npt.NDArray[np.float64]:
    return np.log1p(np.maximum(np.asarray(x, dtype=np.float64), -0.999 * first) / first)


def _backward(y: npt.ArrayLike, first: float) -> npt.NDArray[np.float64]:
    return np.expm1(np.asarray(y, dtype=np.float64)) * first
