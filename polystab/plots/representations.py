"""Singular directions and outlier dimensions over training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch

from polystab.analysis.arrays import Floats
from polystab.analysis.representations.dimensions import outlier_persistence
from polystab.analysis.representations.directions import direction_overlap as overlaps_of
from polystab.analysis.representations.groups import read_group
from polystab.errors import SelectionError, did_you_mean
from polystab.plots.bands import as_result, largest_model, place_of, say, texts_of
from polystab.plots.bars import bars
from polystab.plots.embeddings import against_words
from polystab.plots.given import whole_result
from polystab.plots.maps import Level
from polystab.plots.panels import curve_panels, mini_cube
from polystab.plots.steps import ordinal_ticks
from polystab.plots.style import FULL, MUTED, TEXT, canvas, language, nothing
from polystab.words import number, percent, plural, short_name

WIDTH = 4.6

OVERLAPS = {
    "exact": "top tokens in the same place",
    "shared": "top tokens in common",
    "best": "top tokens shared with best match",
}

RATIO_LEVELS = (
    Level(0.0, "up to 2", 0.14),
    Level(2.0, "2 to 4", 0.27),
    Level(4.0, "4 to 6", 0.4),
    Level(6.0, "above 6", 0.6),
)

# A dimension's number is written where it stays for so many checkpoints a digit.
_ROOM = 0.9


def direction_overlap(
    data: xr.Dataset | xr.DataTree,
    *,
    overlap: str = "shared",
    matrices: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    against: str | int = "last",
    limit: int = 12,
    columns: int = 2,
    legend: bool = True,
    title: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Draw how far the singular directions of each matrix point to the same tokens as those of another checkpoint.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        Result of :func:`polystab.analysis.direction_overlap`, or what it takes.
    overlap : {"shared", "exact", "best"}, optional
        Which overlap, as explained there.
    matrices : sequence of str, optional
        Which matrices, a panel each; by default all.
    models : sequence of str, optional
        Which models.
    against : {"last", "seeds"} or int, optional
        As there; of no use to a result.
    limit : int, optional
        At most so many panels, evenly from all.
    columns : int, optional
        Panels side by side.
    legend, title : bool, optional
        Whether to draw them.
    ax : matplotlib.axes.Axes, optional
        In whose place to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure: medians and middle halves over the runs of each model; the dotted line is
        what random tokens would share (of the smallest vocabulary, where they differ).

    Raises
    ------
    AnalysisError
        There is no group ``directions``.
    SelectionError
        No such overlap, matrix or model.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> group = ps.load_tree("nano")["directions"].to_dataset().sel(model=["nano-33k"], step=[0, 1000])
    >>> figure = plots.direction_overlap(group, matrices=["layers.0.mlp.dense_h_to_4h"])
    >>> figure.axes[0].get_title(loc="left")
    'layers.0.mlp.dense_h_to_4h'
    """
    if overlap not in OVERLAPS:
        raise SelectionError(f"no overlap is called {overlap!r}. {did_you_mean(overlap, OVERLAPS)}")
    if (result := as_result(data, "shared")) is None:
        result = overlaps_of(data, against=against)
    needed = {overlap: ("model", "seed", "step", "matrix"), f"chance_{overlap}": ("model",)}
    result = whole_result(result, needed, "direction_overlap")
    known = texts_of(result["matrix"])
    for name in matrices or ():
        place_of(name, known, "matrix")
    chance = result[f"chance_{overlap}"].values
    cube = mini_cube(result[overlap], "matrix", chance=float(np.max(chance, initial=0.0, where=~np.isnan(chance))))
    return curve_panels(
        cube,
        known if matrices is None else list(matrices),
        head=f"{OVERLAPS[overlap]}, {against_words(result)}",
        ax=ax,
        models=models,
        limit=limit,
        columns=columns,
        legend=legend,
        title=title,
        label="share of tokens",
        span=(0, 1.02),
    )


def outlier_dimensions(
    data: xr.Dataset | xr.DataTree,
    *,
    site: str | None = None,
    model: str | None = None,
    title: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Draw which dimension of the residual stream is largest in each run, and how far it stands out.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        The group ``dimensions``, or a tree that has it.
    site : str, optional
        Where in the network, such as ``layers.3.residual``; by default the last.
    model : str, optional
        Which model; by default the last.
    title : bool, optional
        Whether to draw one.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. A row a run, a cell a checkpoint; the darker, the larger its root mean
        square over that of the median dimension. Upright lines are where another dimension
        becomes the largest; its number stands where there is room. Numbers of dimensions
        mean nothing across runs. At the right, at how many checkpoints it is the same as at
        the one before (``largest_persistence`` of :func:`polystab.analysis.outlier_persistence`).

    Raises
    ------
    AnalysisError
        There is no such group.
    SelectionError
        It has no such site or model.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> figure = plots.outlier_dimensions(ps.load_tree("nano"), site="layers.3.residual")
    >>> len(figure.axes[0].get_yticks())
    10
    """
    group, _ = read_group(data, "dimensions", ("dimension", "ratio"))
    name = largest_model(group, model)
    m, sites = texts_of(group["model"]).index(name), texts_of(group["site"])
    here = len(sites) - 1 if site is None else place_of(site, sites, "site")
    part = group.isel(model=[m], site=[here])
    largest, ratio = _largest(part)
    rows, used = np.flatnonzero((ratio > 0).any(axis=1)), np.flatnonzero((ratio > 0).any(axis=0))
    largest, ratio = largest[np.ix_(rows, used)], ratio[np.ix_(rows, used)]
    steps, seeds = group["step"].values[used], group["seed"].values[rows].tolist()
    stays = outlier_persistence(part)["largest_persistence"].values[0, rows, 0]
    head = f"largest dimension, {sites[here]}, {name}"
    with language():
        figure, ax = canvas(ax, (WIDTH, 1.15 + 0.21 * max(len(rows), 2)))
        ax.grid(visible=False)
        level = np.searchsorted([item.above for item in RATIO_LEVELS], ratio, side="left")
        for k, item in enumerate(RATIO_LEVELS, start=1):
            ax.add_patch(PathPatch(bars(level, k), facecolor=FULL.light, alpha=item.alpha, linewidth=0))
        for y, row in enumerate(largest):
            _draw_stretches(ax, y, row)
            ax.text(len(steps) - 0.3, y, percent(float(stays[y])), va="center", ha="left", size=8, color=MUTED.light)
        ax.text(len(steps) - 0.3, -0.7, "stays", va="center", ha="left", size=8, color=MUTED.light)
        if not len(rows):
            nothing(ax)
        ax.set_xlim(-0.5, max(len(steps), 1) - 0.5)
        ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        ax.set_yticks(range(len(rows)), [f"seed {seed}" for seed in seeds])
        if len(steps):
            ax.set_xticks(*ordinal_ticks(steps, most=7))
        ax.set_xlabel("checkpoint (training step)")
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.legend(
            handles=[Patch(facecolor=FULL.light, alpha=item.alpha, label=item.label) for item in RATIO_LEVELS],
            title="times the median dimension:",
            title_fontsize=8.5,
            alignment="left",
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(RATIO_LEVELS),
            handlelength=1.1,
            columnspacing=1.2,
            borderaxespad=0.1,
        )
        if title:
            ax.set_title(short_name(head, 60), loc="left", pad=36)
        said = [
            f"seed {seed}: dimension {int(row[-1])}, {number(float(size[-1]), digits=3)} times the median, at the end."
            for seed, row, size in zip(seeds, largest, ratio, strict=True)
            if row[-1] >= 0
        ]
        say(
            ax,
            f"{head[0].upper()}{head[1:]}, {plural(len(rows), 'run')} by {plural(len(steps), 'checkpoint')}. {' '.join(said)}",
        )
    return figure


def _largest(part: xr.Dataset) -> tuple[Floats, Floats]:
    """Number and ratio (seed, step) of the largest dimension; -1 and 0 where nothing was measured."""
    numbers, ratios = (
        np.asarray(part[name].transpose("model", "site", "seed", "step", "rank").values[0, 0], dtype=np.float64)
        for name in ("dimension", "ratio")
    )
    known = (numbers >= 0) & ~np.isnan(ratios)
    place = np.where(known, ratios, -np.inf).argmax(axis=-1)[..., None]
    there = known.any(axis=-1)
    largest = np.where(there, np.take_along_axis(numbers, place, axis=-1)[..., 0], -1.0)
    return largest, np.where(there, np.take_along_axis(ratios, place, axis=-1)[..., 0], 0.0)


def _draw_stretches(ax: Axes, y: int, row: npt.NDArray[Any]) -> None:
    """Upright lines where the largest dimension changes, and its number where there is room."""
    edges = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), len(row)]
    for start, stop in pairwise(edges):
        if start:
            ax.plot([start - 0.5] * 2, [y - 0.38, y + 0.38], color=TEXT.light, linewidth=0.8, solid_capstyle="butt")
        text = f"{int(row[start])}"
        if row[start] >= 0 and stop - start >= _ROOM * len(text) * max(len(row) / 31, 1):
            ax.text((start + stop - 1) / 2, y, text, ha="center", va="center", size=7.5, color=TEXT.light)
