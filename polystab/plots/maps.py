"""Maps of rows by checkpoints: what was measured, and which runs stand out when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch

from polystab.analysis.coverage import cube_coverage
from polystab.analysis.outliers.scores import outlier_scores, rank_runs
from polystab.plots.bars import bars
from polystab.plots.describe import COVER, MAX_ROWS, SCORES, run_places, shown_models
from polystab.plots.given import whole_cube, whole_result
from polystab.plots.steps import ordinal_ticks
from polystab.plots.style import ALARM, FULL, GRID, MUTED, Ink, canvas, language, nothing
from polystab.words import percent, plural, short_name

Floats = npt.NDArray[np.float64]

WIDTH = 7.6


@dataclass(frozen=True)
class Level:
    """A class of shares: those above ``above`` and up to the next level, and how it is drawn."""

    above: float
    label: str
    alpha: float


COVERAGE_LEVELS = (
    Level(0.0, "up to half", 0.25),
    Level(0.5, "more than half", 0.5),
    Level(0.9, "more than 90 %", 0.75),
    Level(1 - 1e-12, "everything", 1.0),
)

OUTLIER_LEVELS = (
    Level(0.0, "up to 5 %", 0.18),
    Level(0.05, "5 to 20 %", 0.4),
    Level(0.2, "20 to 50 %", 0.7),
    Level(0.5, "more than half", 1.0),
)


def coverage(
    cube: xr.Dataset | xr.DataTree, *, limit: int = MAX_ROWS, title: bool = True, ax: Axes | None = None
) -> Figure:
    """Draw what was measured: models (and families, if they fit) by checkpoints.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube, or a result of :func:`polystab.analysis.cube_coverage`.
    limit : int, optional
        At most so many rows, the models with most runs first.
    title : bool, optional
        Whether to draw one.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. Every checkpoint has the same width; the darker a cell, the larger the
        share of the model's runs x metrics that was measured there.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab import plots
    >>> len(plots.coverage(polystab.testing.synthetic_cube(rng=0)).axes)
    1
    """
    cover = cube if isinstance(cube, xr.Dataset) and "share_at" in cube else cube_coverage(whole_cube(cube))
    cover = whole_result(cover, COVER, "cube_coverage")
    rows, names, ends = _coverage_rows(cover, limit)
    label = "share of the model's runs × metrics measured:"
    return _draw(
        rows,
        names,
        ends,
        cover["step"].values,
        COVERAGE_LEVELS,
        FULL,
        label,
        "coverage" if title else "",
        ax,
        dense=True,
    )


def outliers(
    cube: xr.Dataset | xr.DataTree,
    *,
    runs: Sequence[tuple[str, int]] | None = None,
    limit: int = MAX_ROWS,
    title: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Draw when runs stand out: runs by checkpoints, share of metrics beyond the threshold.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube, or a result of :func:`polystab.analysis.outlier_scores`.
    runs : sequence of (model, seed), optional
        Which runs, from top to bottom; by default those with the largest share beyond the
        threshold, ``limit`` of them.
    limit : int, optional
        At most so many rows.
    title : bool, optional
        Whether to draw one.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. It lists where to look; it is not a verdict on runs.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab import plots
    >>> len(plots.outliers(polystab.testing.synthetic_cube(rng=0), limit=5).axes)
    1
    """
    scores = cube if isinstance(cube, xr.Dataset) and "share_beyond_at" in cube else outlier_scores(whole_cube(cube))
    scores = whole_result(scores, SCORES, "outlier_scores")
    wanted = list(runs)[:limit] if runs is not None else rank_runs(scores, limit=limit)
    place = run_places(scores, wanted)
    share = scores["share_beyond_at"].transpose("model", "seed", "step").values
    rows = np.array([share[m, s] for m, s in place]).reshape(len(place), share.shape[2])
    names = [f"{short_name(model, 28)} seed {seed}" for model, seed in wanted]
    overall = scores["share_beyond"].transpose("model", "seed").values
    ends = [percent(float(overall[m, s])) for m, s in place]
    threshold = f"{scores.attrs['threshold']:g}"
    single = scores.sizes["metric"] == 1
    label = "robust z:" if single else f"share of metrics beyond {threshold}:"
    levels = (Level(0.0, f"beyond {threshold}", 1.0),) if single else OUTLIER_LEVELS
    return _draw(
        rows,
        names,
        ends,
        scores["step"].values,
        levels,
        ALARM,
        label,
        "runs that stand out" if title else "",
        ax,
    )


def _coverage_rows(cover: xr.Dataset, limit: int) -> tuple[Floats, list[str], list[str]]:
    """Shares (row, step), the name of each row, and its number of runs."""
    shown = shown_models(cover, limit)
    families = cover["family"].values.tolist()
    rows: list[Any] = []
    names: list[str] = []
    ends: list[str] = []
    split = len(families) > 1 and len(shown) * len(families) <= limit
    for i in shown:
        model = cover.isel(model=i)
        name = short_name(str(model["model"].item()), 32)
        runs = plural(int(model["n_runs"]), "run")
        if not split:
            rows.append(model["share_at"].values)
            names.append(name)
            ends.append(runs)
            continue
        for j, family in enumerate(families):
            rows.append(model["share_at_family"].values[:, j])
            names.append(f"{name}  {family}" if j == 0 else family)
            ends.append(runs if j == 0 else "")
    return np.array(rows, dtype=np.float64), names, ends


def _draw(
    rows: Floats,
    names: list[str],
    ends: list[str],
    steps: npt.NDArray[np.int64],
    levels: Sequence[Level],
    ink: Ink,
    label: str,
    title: str,
    ax: Axes | None,
    *,
    dense: bool = False,
) -> Figure:
    """One bar of cells per row; cells of one level and row that touch become one rectangle.

    ``dense`` leaves out checkpoints at which no row has anything.
    """
    used_steps = np.flatnonzero((np.nan_to_num(rows) > 0).any(axis=0)) if dense else np.arange(len(steps))
    if len(used_steps):
        rows, steps = rows[:, used_steps], steps[used_steps]
    n_row, n_step = rows.shape
    level = np.searchsorted([item.above for item in levels], np.nan_to_num(rows), side="left")
    with language():
        figure, ax = canvas(ax, (WIDTH, 1.05 + 0.21 * max(n_row, 2)))
        ax.grid(visible=False)
        ax.add_patch(PathPatch(bars(np.ones_like(level), 1), facecolor=GRID.light, alpha=0.45, linewidth=0))
        used = [k for k in range(1, len(levels) + 1) if (level == k).any()]
        for k in used:
            ax.add_patch(PathPatch(bars(level, k), facecolor=ink.light, alpha=levels[k - 1].alpha, linewidth=0))
        for y, text in enumerate(ends):
            ax.text(n_step + 0.01 * n_step, y, text, va="center", ha="left", size=8, color=MUTED.light)
        ax.set_xlim(-0.5, n_step - 0.5)
        if not n_row:
            nothing(ax, "no run to draw")
        ax.set_ylim(max(n_row, 1) - 0.5, -0.5)
        ax.set_yticks(range(n_row), names)
        places, texts = ordinal_ticks(steps, most=8)
        ax.set_xticks(places, texts)
        ax.set_xlabel("checkpoint (training step)")
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        _level_legend(ax, [levels[k - 1] for k in used], ink, label)
        if title:
            ax.set_title(title, loc="left", pad=36)
    return figure


def _level_legend(ax: Axes, levels: Sequence[Level], ink: Ink, label: str) -> None:
    handles = [Patch(facecolor=ink.light, alpha=item.alpha, label=item.label) for item in levels]
    handles.append(Patch(facecolor=GRID.light, alpha=0.45, label="nothing"))
    ax.legend(
        handles=handles,
        title=label,
        alignment="left",
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(handles),
        handlelength=1.1,
        columnspacing=1.2,
        borderaxespad=0.1,
    )
