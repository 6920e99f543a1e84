"""How the elements of a weight are distributed: histograms, quantiles against the normal, singular values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polystab.errors import AnalysisError
from polystab.plots.bands import (
    SIZE,
    Series,
    chosen_steps,
    describe_series,
    draw_series,
    head_and_legend,
    ordered_inks,
    runs_title,
    say,
)
from polystab.plots.elements import (
    NORMAL_QUANTILES,
    density_axes,
    density_series,
    quantile_axes,
    quantile_series,
    read_part,
    scaled_quantiles,
    spectrum_axes,
    spectrum_series,
)
from polystab.plots.style import MUTED, canvas, language
from polystab.words import number, short_name


def histogram(
    data: xr.Dataset | xr.DataTree,
    *,
    subject: str,
    model: str | None = None,
    seed: int | None = None,
    steps: Sequence[int] | None = None,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw how the elements of a weight are distributed at some steps.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        The group ``histograms``, or a tree that has it (``polystab fill weights -O
        weights.sets=["histograms"]``).
    subject : str
        Which parameter, such as ``layers.0.attention.dense``.
    model : str, optional
        Which model; by default the last.
    seed : int, optional
        Only this run; by default the band over all.
    steps : sequence of int, optional
        Which steps, up to six; by default four, evenly along the checkpoints.
    legend, title : bool, optional
        Whether to draw them.
    size : (float, float), optional
        Width and height of a new figure, in inches.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure: density of the elements on a logarithmic axis, which shows the tails; a
        normal distribution is a parabola there. The shared bins are joined where they are
        finer than the picture; elements beyond the outermost bins are told of.

    Raises
    ------
    AnalysisError
        There is no such group.
    SelectionError
        It has no such parameter, model, seed or step.
    """
    part = read_part(data, "histograms", "count", "bin", subject=subject, model=model, seed=seed)
    wanted = chosen_steps(part.measured, steps)
    series, outside = density_series(part, wanted)
    with language():
        figure, ax = canvas(ax, size)
        draw_series(ax, series)
        density_axes(ax, series)
        if outside:
            ax.annotate(
                outside, (0.98, 0.97), xycoords="axes fraction", ha="right", va="top", size=7.5, color=MUTED.light
            )
        head_and_legend(ax, part.head, runs_title([one.n_runs for one in series]), title=title, legend=legend)
        peak = [f"{one.label} {number(float(np.nanmax(one.band()[1])))}" for one in series]
        say(ax, f"Distribution of the elements of {part.head}. Highest density: {', '.join(peak)}.")
    return figure


def qq(
    data: xr.Dataset | xr.DataTree | npt.NDArray[Any],
    *,
    subject: str = "",
    model: str | None = None,
    seed: int | None = None,
    steps: Sequence[int] | None = None,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw the quantiles of a weight's elements against those of the normal distribution.

    Parameters
    ----------
    data : xarray.Dataset, xarray.DataTree or ndarray
        The group ``histograms``, or a tree that has it; or a matrix itself.
    subject : str
        Which parameter; of a matrix, only its name.
    model, seed, steps
        As for :func:`histogram`; of no use to a matrix.
    legend, title : bool, optional
        Whether to draw them.
    size : (float, float), optional
        Width and height of a new figure, in inches.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. A normal distribution lies on the dashed line whatever its mean and
        variance; heavy tails bend away from it, down at the left and up at the right.

    Raises
    ------
    AnalysisError
        There is no such group; the matrix has fewer than two finite elements.
    SelectionError
        The group has no such parameter, model, seed or step.

    Notes
    -----
    Elements are taken less their median and over their interquartile range / 1.349, so
    that tails do not change the scale. Quantiles are interpolated between the edges of the
    shared bins, and drawn as far out as an edge splits the elements. What is constant
    is not drawn.

    Examples
    --------
    >>> from polystab import plots
    >>> figure = plots.qq(np.random.default_rng(0).normal(size=(50, 40)), subject="normal numbers")
    >>> figure.axes[0].get_xlabel()
    'quantile of the normal distribution'
    """
    if isinstance(data, np.ndarray):
        if data.dtype.kind not in "fiub":
            raise AnalysisError(f"a QQ plot needs numbers, not {data.dtype}.")
        flat = np.sort(data[np.isfinite(data)].astype(np.float64).ravel())
        if len(flat) < 2:
            raise AnalysisError("a QQ plot needs a matrix with two or more finite elements.")
        # Each element once, between the shares of elements up to it and before it.
        share = (np.arange(len(flat)) + 0.5) / len(flat)
        series = [
            Series(
                short_name(subject) or "matrix",
                NORMAL_QUANTILES,
                scaled_quantiles(share, flat)[None],
                ordered_inks(2)[0],
            )
        ]
        head = subject or "matrix"
    else:
        part = read_part(data, "histograms", "count", "bin", subject=subject, model=model, seed=seed)
        wanted = chosen_steps(part.measured, steps)
        series = quantile_series(part, wanted)
        head = part.head
    with language():
        figure, ax = canvas(ax, size)
        draw_series(ax, series)
        quantile_axes(ax, series)
        head_and_legend(ax, head, runs_title([one.n_runs for one in series]), title=title, legend=legend)
        told = describe_series(series, at="normal quantile", written=lambda z: number(z, digits=3))
        say(ax, f"Quantiles of the elements of {head}, scaled by their quartiles, against the normal. {told}")
    return figure


def spectrum(
    data: xr.Dataset | xr.DataTree,
    *,
    subject: str,
    model: str | None = None,
    seed: int | None = None,
    steps: Sequence[int] | None = None,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw the singular values of a weight by rank at some steps.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        The group ``spectra``, or a tree that has it (``polystab fill weights -O
        weights.sets=["singular_values"]``).
    subject, model, seed, steps
        As for :func:`histogram`.
    legend, title : bool, optional
        Whether to draw them.
    size : (float, float), optional
        Width and height of a new figure, in inches.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, logarithmic both ways: a power law is a straight line. Singular values
        of 0 are not drawn.

    Raises
    ------
    AnalysisError
        There is no such group.
    SelectionError
        It has no such parameter, model, seed or step.
    """
    part = read_part(data, "spectra", "singular_value", "rank", subject=subject, model=model, seed=seed)
    wanted = chosen_steps(part.measured, steps)
    series = spectrum_series(part, wanted)
    with language():
        figure, ax = canvas(ax, size)
        draw_series(ax, series)
        spectrum_axes(ax)
        head_and_legend(ax, part.head, runs_title([one.n_runs for one in series]), title=title, legend=legend)
        say(ax, f"Singular values of {part.head}. {describe_series(series, at='rank')}")
    return figure
