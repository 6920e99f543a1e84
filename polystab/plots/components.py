"""Shares of the variance over training, as stacked areas."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from polystab.analysis.components.fractions import variance_fractions
from polystab.analysis.components.split import variance_components
from polystab.plots.describe import PARTS, stacked
from polystab.plots.given import whole_cube
from polystab.plots.steps import set_step_axis
from polystab.plots.style import FIXED, MUTED, canvas, language
from polystab.words import percent, short_name

SIZE = (4.6, 3.0)


def variance_shares(
    cube: xr.Dataset | xr.DataTree,
    *,
    metric: str,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw who is responsible for the spread of one metric over training, as a stacked area.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube, or a result of :func:`polystab.analysis.variance_fractions`.
    metric : str
        Which metric.
    legend, title : bool, optional
        Whether to draw them.
    size : (float, float), optional
        Width and height of a new figure, in inches.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. At every step the parts add up to 100 %; steps at which the total is
        zero or not estimated are left blank.

    Raises
    ------
    SelectionError
        No such metric.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab import plots
    >>> cube = polystab.testing.variance_cube(n_steps=5, rng=0)
    >>> plots.variance_shares(cube, metric=cube["metric"].values[0]).axes[0].get_xlabel()
    'training step'
    """
    fractions = (
        cube
        if isinstance(cube, xr.Dataset) and "fraction" in cube
        else variance_fractions(variance_components(whole_cube(cube)))
    )
    names, shares, steps = stacked(fractions, metric=metric)
    filled = ~np.isnan(shares).all(axis=0) & bool(names)
    with language():
        figure, ax = canvas(ax, size)
        colours = {ink.name: ink for ink in FIXED}
        inks = [colours[PARTS[name].ink] for name in names]
        top = np.zeros(len(steps))
        for row, ink in zip(np.nan_to_num(shares), inks, strict=True):
            ax.fill_between(steps, top, top + row, where=filled, color=ink.light, linewidth=0, alpha=0.8)
            ax.plot(steps, np.where(filled, top + row, np.nan), color=ink.light, linewidth=0.8)
            top = top + row
        set_step_axis(ax, steps[filled] if filled.any() else steps)
        ax.set_ylim(0, 1)
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1], [percent(share) for share in (0, 0.25, 0.5, 0.75, 1)])
        ax.set_ylabel("share of the variance")
        if legend and names:
            handles = [
                Patch(facecolor=ink.light, alpha=0.8, label=PARTS[name].label)
                for name, ink in zip(names, inks, strict=True)
            ]
            ax.legend(
                handles=handles[::-1], loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, handlelength=1.1
            )
        if not filled.any():
            ax.text(0.5, 0.5, "nothing to share out", transform=ax.transAxes, ha="center", color=MUTED.light)
        if title:
            ax.set_title(short_name(metric, 60), loc="left")
    return figure
