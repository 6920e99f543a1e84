"""Curves over training: the median of the seeds and their middle half, one line a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polystab.analysis.trajectories import pick_models, seed_band
from polystab.analysis.variance import seed_spread
from polystab.errors import AnalysisError
from polystab.plots.describe import BAND, chosen, legend_title, quartiles, with_thin_lines
from polystab.plots.given import whole_cube, whole_result
from polystab.plots.steps import is_logarithmic, set_step_axis
from polystab.plots.style import (
    MUTED,
    Ink,
    canvas,
    dashes,
    language,
    log_axis,
    model_inks,
    nothing,
    outside,
    room_for_legend,
    value_label,
)
from polystab.words import number, short_name

Array = npt.NDArray[Any]

SIZE = (4.6, 3.0)

# More lines than this cannot be told apart.
MAX_MODELS = 10

# Measured points are marked where there are few of them.
MAX_MARKED = 8

# Positive values that span more than this get a logarithmic axis.
LOG_VALUES = 50.0

# On a linear step axis the first part is left out of the y range if the rest is this many times narrower.
START = 0.25
FALL = 4.0
MIN_LATE = 6


def curves(
    cube: xr.Dataset | xr.DataTree,
    *,
    metric: str,
    models: Sequence[str] | None = None,
    runs: xr.Dataset | None = None,
    inks: Sequence[Ink] | None = None,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw one metric over training: median and middle half of the seeds of each model.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube, or a result of :func:`polystab.analysis.seed_band` with the quantiles
        0.25, 0.5 and 0.75.
    metric : str
        Which metric.
    models : sequence of str, optional
        Which models, in the cube's order. By default all, or of more than ten the ten whose
        seeds differ most at the end (:func:`polystab.analysis.pick_models`; of a band, the
        ten with most runs). The legend says how many there are.
    runs : xarray.Dataset, optional
        The cube, if ``cube`` is a band: where models have few runs, each is drawn thinly.
    inks : sequence of Ink, optional
        Colours of the models; by default by position among ``models``.
    legend, title : bool, optional
        Whether to draw them.
    size : (float, float), optional
        Width and height of a new figure, in inches.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    SelectionError
        No such metric or model.

    Notes
    -----
    The line passes through the steps that more than half of a model's runs share; other
    steps have too few runs to be compared with them. With fewer than three runs there is
    no band. The y axis is logarithmic where positive values span more than a factor of 50;
    else, on a linear step axis, values of the first quarter of training that would press
    all others flat are left outside, and the picture says so.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab import plots
    >>> cube = polystab.testing.synthetic_cube(rng=0)
    >>> plots.curves(cube, metric=cube["metric"].values[0]).axes[0].get_xlabel()
    'training step'
    """
    band, runs = _band(cube, runs)
    of = band.sizes["model"]
    band = chosen(band, metric=metric, models=models if models is not None else _few_models(band, runs))
    names = [str(name) for name in band["model"].values.tolist()]
    colours = list(inks) if inks is not None else model_inks(len(names))
    with language():
        figure, ax = canvas(ax, size)
        thin = _thin(runs, band, metric)
        for i, name in enumerate(names):
            _draw_model(ax, band.isel(model=i), thin.get(name), colours[i], i, len(names))
        _finish_axes(ax, band, metric, title=title)
        if not band["n"].values.any():
            nothing(ax, "nothing was measured")
        elif legend:
            left_out = f"{len(names)} of {of} models; " if models is None and len(names) < of else ""
            ax.legend(
                title=left_out + legend_title(band),
                title_fontsize=8.5,
                handlelength=2.2,
                bbox_to_anchor=room_for_legend(ax),
            )
    return figure


def _band(cube: xr.Dataset | xr.DataTree, runs: xr.Dataset | None) -> tuple[xr.Dataset, xr.Dataset | None]:
    if isinstance(cube, xr.Dataset) and "quantile" in cube.dims:
        cube = whole_result(cube, BAND, "seed_band")
        if not {0.25, 0.5, 0.75} <= set(cube["quantile"].values.tolist()):
            raise AnalysisError("this band lacks the quantiles 0.25, 0.5 and 0.75 that are drawn.")
        return cube, runs
    data = whole_cube(cube)
    return seed_band(data), data


def _few_models(band: xr.Dataset, runs: xr.Dataset | None) -> list[str] | None:
    """The models to draw if nobody said: None for all of them."""
    names = [str(name) for name in band["model"].values.tolist()]
    if len(names) <= MAX_MODELS:
        return None
    if runs is not None:
        return pick_models(seed_spread(runs), limit=MAX_MODELS)
    most = band["n"].values.max(axis=(1, 2))
    return [names[i] for i in sorted(range(len(names)), key=lambda i: (-most[i], i))[:MAX_MODELS]]


def _thin(runs: xr.Dataset | None, band: xr.Dataset, metric: str) -> dict[str, Array]:
    """The single runs to draw, (run, step) by model; none where there are too many."""
    if runs is None:
        return {}
    lines = {}
    for name, wanted in zip(band["model"].values.tolist(), with_thin_lines(band), strict=True):
        if wanted:
            model = runs["value"].sel(metric=metric, model=name).transpose("seed", "step").values
            model = np.where(np.isfinite(model), model, np.nan)
            lines[str(name)] = model[~np.isnan(model).all(axis=1)]
    return lines


def _draw_model(ax: Axes, band: xr.Dataset, thin: Array | None, ink: Ink, i: int, n: int) -> None:
    steps = band["step"].values
    low, middle, high = quartiles(band)
    line = ~np.isnan(middle) & band["shared"].values[:, 0]
    filled = line & ~np.isnan(low)
    for run in thin if thin is not None else ():
        known = ~np.isnan(run)
        ax.plot(steps[known], run[known], color=ink.light, linewidth=0.6, alpha=0.45, zorder=2)
    if filled.any():
        ax.fill_between(steps[filled], low[filled], high[filled], color=ink.light, alpha=0.22, linewidth=0, zorder=2.5)
    ax.plot(
        steps[line],
        middle[line],
        color=ink.light,
        linestyle=dashes(i, n),
        marker="o" if line.sum() <= MAX_MARKED else None,
        markersize=3,
        zorder=3,
        label=short_name(str(band["model"].values)),
    )


def _leave_out_the_fall(ax: Axes, band: xr.Dataset) -> None:
    """Where the first checkpoints lie far off the rest, let the axis show the rest and say where they are."""
    steps = band["step"].values.astype(np.float64)
    value = np.where(band["shared"].values[..., None], band["value"].values, np.nan)[:, :, 0]
    late = value[:, steps >= steps[0] + START * (steps[-1] - steps[0])]
    if late.shape[1] < MIN_LATE or np.isnan(late).all():
        return
    low, high = float(np.nanmin(late)), float(np.nanmax(late))
    all_low, all_high = float(np.nanmin(value)), float(np.nanmax(value))
    if low == high or all_high - all_low <= FALL * (high - low):
        return
    pad = 0.08 * (high - low)
    ax.set_ylim(low - pad, high + pad)
    first = number(float(value[~np.isnan(value)][0]), digits=3)
    outside(ax, f"first values (about {first}) lie outside", above=True)


def _draw_chance(ax: Axes, chance: float) -> None:
    """What chance gives as a dotted line, or, where it would press the curves flat, in words."""
    low, high = ax.get_ylim()
    room = (FALL - 1) * (high - low) if ax.get_autoscaley_on() else 0.0
    if ax.get_yscale() == "linear" and not low - room <= chance <= high + room:
        side = "above" if chance > high else "below"
        outside(ax, f"chance: {number(chance, digits=3)}, {side} what is drawn", above=chance > high)
        return
    ax.axhline(chance, color=MUTED.light, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    ax.annotate(
        "chance",
        (1, chance),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        size=7.5,
        color=MUTED.light,
    )


def _finish_axes(ax: Axes, band: xr.Dataset, metric: str, *, title: bool) -> None:
    steps = band["step"].values
    used = band["shared"].values.any(axis=(0, 2))
    if not used.any():
        used = np.ones_like(used)
    set_step_axis(ax, steps[used])
    middle = band["value"].sel(quantile=0.5).values
    shown = middle[band["shared"].values & ~np.isnan(middle)]
    least = np.nanmin(np.where(band["shared"].values[..., None], band["value"].values, np.nan), initial=np.inf)
    if len(shown) and least > 0 and shown.max() > LOG_VALUES * shown.min():
        log_axis(ax, "y")
    elif not is_logarithmic(steps[used]):
        _leave_out_the_fall(ax, band.isel(step=used))
    chance = float(band["chance"].values[0]) if "chance" in band.coords else float("nan")
    if np.isfinite(chance):
        _draw_chance(ax, chance)
    measure, units = (str(band[name].values[0]) if name in band.coords else "" for name in ("measure", "units"))
    ax.set_ylabel(value_label(measure, units))
    if title:
        ax.set_title(short_name(metric, 60), loc="left")
