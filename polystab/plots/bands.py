"""Lines with the band of their runs, for pictures whose lines are steps or layers, and what such pictures share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polystab.analysis.arrays import quantiles
from polystab.analysis.variance import MIN_RUNS
from polystab.errors import SelectionError, did_you_mean, shown
from polystab.plots.lines import LOG_VALUES, MAX_MARKED
from polystab.plots.style import Ink, legend_columns, log_axis, nothing, state_inks
from polystab.words import count, number, plural, short_name

Floats = npt.NDArray[np.float64]

QUARTILES = (0.25, 0.5, 0.75)

# More lines with a band each cannot be told apart.
MAX_LINES = 6

# Inches of a picture with its legend above it.
SIZE = (4.6, 3.4)

# Entries of a legend above a picture that stand side by side.
_ENTRIES = 4


@dataclass(frozen=True)
class Series:
    """One line and its runs: ``runs`` is (run, place), NaN where a run was not measured at ``x``."""

    label: str
    x: npt.NDArray[Any]
    runs: Floats
    ink: Ink

    def band(self) -> tuple[Floats, Floats, Floats]:
        """Lower quartile, median, upper quartile; NaN where too few runs are: half of them, or two for a band."""
        (low, middle, high), n = quantiles(self.runs, QUARTILES, axis=0)
        used = (n > 0) & (2 * n > n.max(initial=0))
        banded = used & (n >= MIN_RUNS)
        return np.where(banded, low, np.nan), np.where(used, middle, np.nan), np.where(banded, high, np.nan)

    @property
    def n_runs(self) -> int:
        """Runs that are measured somewhere."""
        return int(np.isfinite(self.runs).any(axis=1).sum())


def draw_series(ax: Axes, series: Sequence[Series], *, thin: bool = False) -> None:
    """Draw the median of each, the middle half of its runs, and, if wanted, the runs themselves."""
    for one in series:
        low, middle, high = one.band()
        line, filled = ~np.isnan(middle), ~np.isnan(low)
        for run in one.runs if thin and one.n_runs > 1 else ():
            known = np.isfinite(run)
            ax.plot(one.x[known], run[known], color=one.ink.light, linewidth=0.6, alpha=0.45, zorder=2)
        if filled.any():
            ax.fill_between(
                one.x[filled], low[filled], high[filled], color=one.ink.light, alpha=0.22, linewidth=0, zorder=2.5
            )
        ax.plot(
            one.x[line],
            middle[line],
            color=one.ink.light,
            marker="o" if line.sum() <= MAX_MARKED else None,
            markersize=3,
            zorder=3,
            label=one.label,
        )
    if not any(np.isfinite(one.runs).any() for one in series):
        nothing(ax)


def head_and_legend(
    ax: Axes,
    head: str,
    told: str,
    *,
    title: bool,
    legend: bool,
    handles: Sequence[Artist] | None = None,
    columns: int | None = None,
) -> None:
    """The title of a picture and, between it and the picture where it covers nothing, its legend."""
    items = ax.get_legend_handles_labels()[0] if handles is None else list(handles)
    entries = len(items)
    if columns is None:
        most = entries if entries <= _ENTRIES else -(-entries // 2)
        columns = legend_columns([str(item.get_label()) for item in items], _inches(ax), most)
    rows = -(-entries // max(columns, 1))
    if legend and entries:
        ax.legend(
            handles=items,
            title=told,
            title_fontsize=8.5,
            alignment="left",
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=columns,
            handlelength=1.6,
            columnspacing=1.2,
            borderaxespad=0.1,
        )
    if title:
        ax.set_title(short_name(head, 60), loc="left", pad=22 + 14 * rows if legend and entries else None)


def _inches(ax: Axes) -> float:
    """Width of the figure that is not taken by the labels of the y axis."""
    figure = ax.get_figure(root=True)
    return float(figure.get_size_inches()[0]) - 0.5 if figure is not None else 4.0


def runs_title(n_runs: Sequence[int], what: str = "run") -> str:
    """What lines and bands are, with the number of runs."""
    found = sorted({n for n in n_runs if n})
    if not found or found[-1] == 1:
        return f"single {what}s"
    said = plural(found[-1], what) if len(found) == 1 else f"{found[0]} to {plural(found[-1], what)}"
    return f"median and middle half of {said}" if found[-1] >= MIN_RUNS else f"median of {said}"


def describe_series(
    series: Sequence[Series], *, at: str, written: Callable[[float], str] = count, what: str = "run"
) -> str:
    """Lines in words: of each the first and last median, and the middle half at the end."""
    said = []
    for one in series:
        low, middle, high = one.band()
        there = np.flatnonzero(~np.isnan(middle))
        if not len(there):
            said.append(f"{one.label}: not measured.")
            continue
        first, last = int(there[0]), int(there[-1])
        n = int(np.isfinite(one.runs[:, last]).sum())
        text = f"{one.label}: {'median' if n > 1 else 'value'} {number(middle[first])} at {at} {written(one.x[first])}"
        if last > first:
            text += f", {number(middle[last])} at {at} {written(one.x[last])}"
        if not np.isnan(low[last]):
            text += f" (middle half of {plural(n, what)} there: {number(low[last])} to {number(high[last])})"
        said.append(text + ".")
    return " ".join(said)


def describe_picture(figure: Figure) -> str:
    """What a picture shows, in words: its text alternative.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What a function of :mod:`polystab.plots` gave. Those that draw weights, activations,
        probes, agreement and runs leave a text with each panel; the others have a
        ``describe_`` function of their own.

    Returns
    -------
    str
        The texts of all panels; empty where there is none.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab import plots
    >>> cube = polystab.testing.synthetic_cube(n_models=1, rng=0)
    >>> figure = plots.run_distances(cube, model=cube["model"].values[0])
    >>> plots.describe_picture(figure).split(":")[0]
    'Distance of the runs of toy-2m from their siblings over 8 metrics'
    """
    return " ".join(text for ax in figure.axes if (text := str(ax.get_label())) and not text.startswith("<"))


def say(ax: Axes, text: str) -> None:
    """Leave a panel's text alternative with it."""
    ax.set_label(text)


def as_result(data: Any, variable: str) -> xr.Dataset | None:
    """``data`` if it is a result that has the variable; None if it is what such a result is made from."""
    return data if isinstance(data, xr.Dataset) and variable in data.data_vars else None


def place_of(name: Any, known: Sequence[Any], what: str) -> int:
    """Where a label is among those known.

    Raises
    ------
    SelectionError
        It is not there.
    """
    if name in known:
        return known.index(name)
    if all(isinstance(label, str) for label in known):
        raise SelectionError(f"no {what} is called {name!r}. {did_you_mean(str(name), known)}")
    raise SelectionError(f"no {what} {name!r} here; there is {shown(known)}.")


def texts_of(labels: xr.DataArray) -> list[str]:
    """Labels as plain text."""
    return [str(label) for label in labels.values.tolist()]


def largest_model(data: xr.Dataset, model: str | None) -> str:
    """The model asked for, or else the last, which is the largest where models are in their order.

    Raises
    ------
    SelectionError
        There is no such model.
    """
    known = texts_of(data["model"])
    return known[-1] if model is None else known[place_of(model, known, "model")]


def spread(n: int, most: int) -> list[int]:
    """``most`` of n places, evenly, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, n - 1, min(n, most)).tolist()})


def chosen_steps(measured: npt.NDArray[np.integer], steps: Sequence[int] | None, most: int = 4) -> list[int]:
    """The steps asked for, or some of those measured, evenly along the checkpoints.

    Raises
    ------
    SelectionError
        A step was not measured, or more were asked for than can be told apart.
    """
    known = [int(step) for step in measured.tolist()]
    if steps is None:
        return [known[i] for i in spread(len(known), most)]
    wanted = list(dict.fromkeys(known[place_of(step, known, "step")] for step in steps))
    if not 1 <= len(wanted) <= MAX_LINES:
        raise SelectionError(f"{len(wanted)} steps are asked for; 1 to {MAX_LINES} can be told apart.")
    return wanted


def ordered_inks(n: int) -> list[Ink]:
    """Colours of n steps or layers, in their order; models have others."""
    return state_inks(n)


def value_axis(ax: Axes, values: npt.NDArray[Any], label: str) -> None:
    """A logarithmic y axis where positive values span more than a factor of 50, and what it says."""
    there = values[np.isfinite(values)]
    if len(there) and there.min() > 0 and there.max() > LOG_VALUES * there.min():
        log_axis(ax, "y")
    ax.set_ylabel(label)
