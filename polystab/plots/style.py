"""One visual language: colours, figures, axes.

Colour says the model, in order of size, on a sequential map that colour-blind readers
can follow; from six models on, every second line is dashed as well. Every colour has a
light and a dark form: pictures are drawn in the light one, and inside a page the
stylesheet may replace it (see :mod:`polystab.plots.svg`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polystab.errors import AnalysisError
from polystab.words import number, short_name


@dataclass(frozen=True)
class Ink:
    """A colour, what it is called in a page's stylesheet, and its form on a dark page."""

    name: str
    light: str
    dark: str


TEXT = Ink("ink", "#1f2329", "#e7e9ec")
MUTED = Ink("muted", "#5b636d", "#a3abb5")
GRID = Ink("grid", "#dde1e6", "#343a42")
FULL = Ink("full", "#2563a8", "#6aa8ec")
ALARM = Ink("alarm", "#b5420b", "#f2935c")

TEAL = Ink("teal", "#0f766e", "#3fbfae")
PURPLE = Ink("purple", "#7a3fa0", "#c08cf0")
OCHRE = Ink("ochre", "#8a6100", "#d6a63c")

FIXED = (TEXT, MUTED, GRID, FULL, ALARM, TEAL, PURPLE, OCHRE)

# Parts of the "plasma" map with at least 3:1 contrast on white and on a dark page.
_LIGHT_RANGE = (0.02, 0.62)
_DARK_RANGE = (0.40, 0.98)

# The same of "viridis", for states.
_STATES_LIGHT = (0.0, 0.72)
_STATES_DARK = (0.28, 1.0)

DASHED_FROM = 6

# rc settings of every picture; names are data, so a $ in them is a $.
RC: dict[Any, Any] = {
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "text.color": TEXT.light,
    "axes.labelcolor": MUTED.light,
    "axes.edgecolor": MUTED.light,
    "axes.titlecolor": TEXT.light,
    "xtick.color": MUTED.light,
    "ytick.color": MUTED.light,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID.light,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "path.simplify": True,
    "path.simplify_threshold": 0.2,
    "figure.facecolor": "white",
    "axes.facecolor": "none",
    "svg.hashsalt": "polystab",
    "svg.fonttype": "none",
}


def model_inks(n: int) -> list[Ink]:
    """The colours of n models, smallest first."""
    colours = mpl.colormaps["plasma"]
    return [
        Ink(f"m{i}", mpl.colors.to_hex(colours(light)), mpl.colors.to_hex(colours(dark)))
        for i, (light, dark) in enumerate(zip(_spaced(n, *_LIGHT_RANGE), _spaced(n, *_DARK_RANGE), strict=True))
    ]


def state_inks(n: int) -> list[Ink]:
    """The colours of n states of a training map, in their order."""
    colours = mpl.colormaps["viridis"]
    return [
        Ink(f"s{i}", mpl.colors.to_hex(colours(light)), mpl.colors.to_hex(colours(dark)))
        for i, (light, dark) in enumerate(zip(_spaced(n, *_STATES_LIGHT), _spaced(n, *_STATES_DARK), strict=True))
    ]


def dashes(i: int, n: int) -> str | tuple[float, Sequence[float]]:
    """The line style of the i-th of n models."""
    return (0, (4, 1.6)) if n >= DASHED_FROM and i % 2 else "solid"


@contextmanager
def language() -> Iterator[None]:
    """Draw and save in the one visual language, whatever the user's own settings of matplotlib are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


class Picture(Figure):
    """A figure that a notebook shows as the last expression of a cell, without pyplot."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        with language():
            self.savefig(stream, format="png", dpi=110)
        return stream.getvalue()


def canvas(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A new figure of so many inches, or the one that ``ax`` belongs to."""
    if ax is None:
        figure = Picture(figsize=size, layout="constrained")
        return figure, figure.add_subplot()
    figure = ax.get_figure(root=True)  # type: ignore[assignment]
    if figure is None:
        raise AnalysisError("ax belongs to no figure; make it with figure.add_subplot().")
    return figure, ax


def value_label(name: str, units: str = "") -> str:
    """What an axis of values says: what was measured, and its unit if it has one."""
    unit = "" if units == "1" else units
    return short_name(f"{name} ({unit})" if name and unit else name or unit, 30)


def log_axis(ax: Axes, which: str) -> None:
    """A logarithmic axis whose decades are written as everywhere else."""
    axis = ax.yaxis if which == "y" else ax.xaxis
    (ax.set_yscale if which == "y" else ax.set_xscale)("log")
    axis.set_major_formatter(lambda value, _: number(value, digits=1))
    axis.set_minor_formatter(lambda _value, _: "")


# What marks the texts of the next function.
_OUTSIDE = "_outside"  # with an underscore, that a legend passes over it


def outside(ax: Axes, text: str, *, above: bool) -> None:
    """Say in a corner of a picture what lies above or below its axis, and would press all that is on it flat."""
    y, side = (0.97, "top") if above else (0.03, "bottom")
    ax.annotate(
        text, (0.98, y), xycoords="axes fraction", ha="right", va=side, size=7.5, color=MUTED.light, label=_OUTSIDE
    )


def room_for_legend(ax: Axes) -> tuple[float, float, float, float]:
    """The box, in fractions of the axes, that no text of :func:`outside` stands in."""
    taken = [text.get_position()[1] for text in ax.texts if text.get_label() == _OUTSIDE]
    low, high = (0.1 if min(taken, default=1) < 0.5 else 0.0), (0.9 if max(taken, default=0) > 0.5 else 1.0)
    return 0.0, low, 1.0, high - low


def nothing(ax: Axes, text: str = "nothing to draw") -> None:
    """Say in the middle of a picture that there is nothing to draw."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=MUTED.light)


def legend_columns(names: Sequence[str], inches: float, most: int) -> int:
    """How many entries of a legend stand side by side in so many inches."""
    each = 0.45 + 0.065 * max(map(len, names), default=0)
    return max(min(int(inches / each), most), 1)


def _spaced(n: int, low: float, high: float) -> list[float]:
    if n == 1:
        return [low + 0.25 * (high - low)]
    return [float(place) for place in np.linspace(low, high, n)]
