"""Phases of training: shared change points, the states of every run, and how they follow one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch, PathPatch

from polystab.errors import SelectionError, did_you_mean
from polystab.plots.bars import bars
from polystab.plots.describe import CHANGES, MAX_PHASE_ROWS, STATES, TRANSITIONS, state_runs
from polystab.plots.given import whole_result
from polystab.plots.steps import ordinal_ticks, set_step_axis
from polystab.plots.style import ALARM, FULL, GRID, MUTED, TEXT, canvas, language, state_inks
from polystab.words import plural, short_name

WIDTH = 7.6

# A part of a graph is drawn so wide where all runs take it, and never thinner than the second.
_WIDEST = 4.0
_THINNEST = 0.6

# A graph of fewer states is drawn on the scale of one with so many.
_FEW_STATES = 4

# Height of an arc's control point over its length.
_BEND = 0.45


def change_points(
    consensus: xr.Dataset,
    *,
    metrics: Sequence[str] | None = None,
    steps: npt.ArrayLike | None = None,
    title: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Draw the changes that the seeds of a model share: when, how sure, and every seed's own step.

    Parameters
    ----------
    consensus : xarray.Dataset
        Result of :func:`polystab.analysis.consensus_change_points`, with metrics.
    metrics : sequence of str, optional
        Which metrics, from top to bottom; by default all that have a shared change.
    steps : array_like, optional
        The steps of the cube, for the axis; by default 0 and those at which something changes.
    title : bool, optional
        Whether to draw one.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. One row for each metric and model (named where there are several) with a
        shared change: a dot is a seed, the bar the interval of their median, which is the
        upright line. At most 40 rows.

    Raises
    ------
    SelectionError
        No such metric.
    """
    rows = _shared_rows(whole_result(consensus, CHANGES, "consensus_change_points"), metrics)
    with language():
        figure, ax = canvas(ax, (WIDTH, 1.0 + 0.24 * max(len(rows), 2)))
        ax.grid(visible=False)
        shown = [0]
        for y, (_, places) in enumerate(rows):
            ax.axhline(y, color=GRID.light, linewidth=0.6, zorder=0)
            for place in places:
                shown += _draw_change(ax, y, place)
        set_step_axis(ax, np.unique(shown if steps is None else np.asarray(steps)))
        ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        ax.set_yticks(range(len(rows)), [name for name, _ in rows])
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        if not rows:
            ax.text(0.5, 0.5, "no shared change", transform=ax.transAxes, ha="center", color=MUTED.light)
        if title:
            ax.set_title("shared change points", loc="left")
    return figure


def _shared_rows(consensus: xr.Dataset, metrics: Sequence[str] | None) -> list[tuple[str, list[xr.Dataset]]]:
    known = [str(name) for name in consensus["metric"].values.tolist()]
    for name in metrics or ():
        if name not in known:
            raise SelectionError(f"no metric is called {name!r}. {did_you_mean(name, known)}")
    rows = []
    for metric in known if metrics is None else metrics:
        for m, model in enumerate(consensus["model"].values.tolist()):
            part = consensus.isel(model=m, metric=known.index(metric))
            places = [part.isel(change=k) for k in range(int(part["n_changes"]))]
            if places:
                name = f"  {short_name(str(model), 24)}" if consensus.sizes["model"] > 1 else ""
                rows.append((f"{short_name(metric, 34)}{name}", places))
    return rows[:MAX_PHASE_ROWS]


def _draw_change(ax: Axes, y: int, place: xr.Dataset) -> list[int]:
    """Draw one shared change; the steps that it shows."""
    seeds = place["member_step"].values
    seeds = seeds[seeds >= 0]
    low, high, middle = (float(place[name]) for name in ("lower", "upper", "step"))
    if low >= 0 and high >= low:
        ax.plot([low, high], [y, y], color=FULL.light, alpha=0.35, linewidth=7, solid_capstyle="butt", zorder=1)
    ax.plot([middle, middle], [y - 0.33, y + 0.33], color=FULL.light, linewidth=1.6, zorder=2)
    # Seeds that change at the same checkpoint stand above one another.
    for step in np.unique(seeds):
        n = int(np.sum(seeds == step))
        ax.plot(
            [step] * n,
            y + 0.28 * (np.arange(n) - (n - 1) / 2) / max(n - 1, 1),
            ".",
            color=ALARM.light,
            markersize=3,
            zorder=3,
        )
    return [int(step) for step in (*seeds.tolist(), middle)]


def map_strips(
    states: xr.Dataset,
    *,
    models: Sequence[str] | None = None,
    title: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Draw a training map as strips: the state of every run at every checkpoint.

    Parameters
    ----------
    states : xarray.Dataset
        ``TrainingMap.states``, or what ``TrainingMap.decode`` gives.
    models : sequence of str, optional
        Which models; by default all.
    title : bool, optional
        Whether to draw one.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. Every checkpoint has the same width; blank where nothing was decoded. At
        most 40 runs, evenly from all models.
    """
    states = whole_result(states, STATES, "fit_training_map(...).states")
    rows, names = state_runs(states, models, MAX_PHASE_ROWS)
    n_states = states.sizes["map_state"]
    used = np.flatnonzero((rows >= 0).any(axis=0))
    rows, steps = rows[:, used], states["step"].values[used]
    inks = state_inks(n_states)
    with language():
        figure, ax = canvas(ax, (WIDTH, 1.05 + 0.17 * max(len(rows), 2)))
        ax.grid(visible=False)
        for k in np.unique(rows[rows >= 0]).tolist():
            ax.add_patch(PathPatch(bars(rows, k), facecolor=inks[k].light, linewidth=0))
        ax.set_xlim(-0.5, max(len(steps), 1) - 0.5)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_yticks(range(len(rows)), names)
        ax.set_xticks(*ordinal_ticks(steps, most=8))
        ax.set_xlabel("checkpoint (training step)")
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        handles = [Patch(facecolor=ink.light, label=f"{k}") for k, ink in enumerate(inks)]
        ax.legend(
            handles=handles,
            title="state:",
            alignment="left",
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(handles),
            handlelength=1.1,
            columnspacing=1.2,
            borderaxespad=0.1,
        )
        if title:
            ax.set_title("training map", loc="left", pad=36)
    return figure


def transition_graph(
    transitions: xr.Dataset,
    *,
    model: str | None = None,
    title: bool = True,
    width: float = 4.6,
    ax: Axes | None = None,
) -> Figure:
    """Draw how the states of a training map follow one another.

    Parameters
    ----------
    transitions : xarray.Dataset
        Result of :func:`polystab.analysis.maps.reading.state_transitions`.
    model : str, optional
        Which model; by default the first.
    title : bool, optional
        Whether to draw one.
    width : float, optional
        Width of a new figure, in inches; it is as high as the longest arcs of any model need.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. States from left to right in the order of their first visit; arcs above
        go on, arcs below go back; the wider, the more runs take them, with their number.

    Raises
    ------
    SelectionError
        No such model.
    """
    transitions = whole_result(transitions, TRANSITIONS, "state_transitions")
    known = [str(name) for name in transitions["model"].values.tolist()]
    model = known[0] if model is None else model
    if model not in known:
        raise SelectionError(f"no model is called {model!r}. {did_you_mean(model, known)}")
    part = transitions.isel(model=known.index(model))
    n_runs = part["n_runs"].transpose("map_state", "to_state").values
    every = int((part["count"].sum(["map_state", "to_state"]) > 0).sum())
    n = len(n_runs)
    inks = state_inks(n)
    # Of all models, so that their pictures stand beside one another.
    on, back = (_reach(transitions["n_runs"].transpose("model", "map_state", "to_state").values, s) for s in (1, -1))
    low, high = -0.5 - _BEND / 2 * back, 0.4 + _BEND / 2 * on
    with language():
        figure, ax = canvas(ax, (width, max(width * (high - low) / max(n, _FEW_STATES), 0.7) + (0.3 if title else 0.0)))
        ax.set_axis_off()
        for a, b in np.argwhere(n_runs > 0).tolist():
            if a != b:
                _draw_arc(ax, a, b, int(n_runs[a, b]), every)
        for k, ink in enumerate(inks):
            visited = bool(n_runs[k].any() or n_runs[:, k].any())
            ax.plot(k, 0, "o", color=ink.light if visited else GRID.light, markersize=15, zorder=3)
            ax.annotate(str(k), (k, -0.2), ha="center", va="top", size=9, color=TEXT.light, zorder=4)
        ax.set_aspect("equal")
        # Few states keep the size of many and stand on the left.
        ax.set_xlim(-0.5, max(n, _FEW_STATES) - 0.5)
        ax.set_ylim(low, high)
        if title:
            ax.set_title(f"{short_name(model, 40)}: {plural(every, 'run')}", loc="left")
    return figure


def _reach(n_runs: npt.NDArray[np.int64], sign: int) -> int:
    """How many states the longest arc of any model spans that goes on (1) or back (-1)."""
    return max((sign * (b - a) for _, a, b in np.argwhere(n_runs > 0).tolist() if sign * (b - a) > 0), default=0)


def _draw_arc(ax: Axes, a: int, b: int, runs: int, every: int) -> None:
    width = max(_WIDEST * runs / max(every, 1), _THINNEST)
    arrow: Any = FancyArrowPatch(
        (a, 0),
        (b, 0),
        connectionstyle=f"arc3,rad={-_BEND}",
        arrowstyle="-|>",
        mutation_scale=9,
        shrinkA=9,
        shrinkB=9,
        linewidth=width,
        color=MUTED.light,
        alpha=0.75,
        zorder=1,
    )
    ax.add_patch(arrow)
    side = 1 if b > a else -1
    height = _BEND / 2 * abs(b - a)
    ax.annotate(
        str(runs),
        ((a + b) / 2, side * height),
        xytext=(0, side * (width / 2 + 1)),
        textcoords="offset points",
        ha="center",
        va="bottom" if side > 0 else "top",
        size=8,
        color=TEXT.light,
    )
