"""Several small pictures in one: curves of the models, a panel for each metric, with one legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polystab.analysis.trajectories import seed_band
from polystab.cube.specs import DIMS
from polystab.errors import AnalysisError, SelectionError
from polystab.plots.bands import SIZE, head_and_legend, place_of, say, spread, texts_of
from polystab.plots.describe import describe_curves, legend_title, with_thin_lines
from polystab.plots.lines import MAX_MODELS, curves
from polystab.plots.style import Ink, Picture, language, legend_columns, model_inks, nothing
from polystab.words import short_name

# Inches of one of several panels; two stand side by side on a phone.
PANEL = (2.6, 1.9)

# Inches under panels for their legend, and above them for their title.
_LEGEND = 0.5
_TITLE = 0.3
_LINE = 0.17

# Models side by side in a legend.
_ENTRIES = 4


def mini_cube(values: xr.DataArray, along: str, *, chance: float | None = None) -> xr.Dataset:
    """A measure of runs as a cube that :func:`polystab.plots.curves` draws.

    Parameters
    ----------
    values : xarray.DataArray
        Over model, seed, step, and ``along``, whose labels become metrics.
    along : str
    chance : float, optional
        What is expected by chance, of all metrics.
    """
    array = np.asarray(values.transpose("model", "seed", "step", along).values, dtype=np.float64)
    names = np.array(texts_of(values[along]))
    labels: dict[str, Any] = {"model": np.array(texts_of(values["model"])), "metric": names}
    labels |= {dim: values[dim].values for dim in ("seed", "step")}
    if chance is not None:
        labels["chance"] = ("metric", np.full(len(names), chance))
    return xr.Dataset({"value": (DIMS, array)}, coords=labels)


def panels(
    n: int, ax: Axes | None, *, columns: int = 2, title: str = "", below: float = 0.0, size: tuple[float, float] = PANEL
) -> tuple[Figure, list[Axes]]:
    """A figure with n panels, or n panels in the place of ``ax``.

    Parameters
    ----------
    n : int
    ax : matplotlib.axes.Axes or None
    columns : int, optional
        Panels side by side.
    title : str, optional
        Above all panels of a new figure.
    below : float, optional
        Inches left under the panels of a new figure, for a legend.
    size : (float, float), optional
        Inches of a panel of a new figure.

    Raises
    ------
    AnalysisError
        ``ax`` cannot be divided, or columns is less than 1.
    """
    if columns < 1:
        raise AnalysisError(f"columns is {columns}; there is at least one.")
    columns = min(columns, n)
    rows = -(-n // columns)
    if ax is None:
        height = size[1] * rows + (_TITLE if title else 0) + below
        figure: Figure = Picture(figsize=(size[0] * columns, height), layout="constrained")
        if title:
            figure.suptitle(short_name(title, 60), x=0.01, ha="left", size=10)
        return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(n)]
    found, spec = ax.get_figure(root=True), ax.get_subplotspec()
    if found is None or (spec is None and n > 1):
        raise AnalysisError(
            "several panels need the place of an ax that was made with figure.add_subplot() or subplots()."
        )
    if n == 1 or spec is None:
        return found, [ax]
    grid = spec.subgridspec(rows, columns)
    ax.remove()
    return found, [found.add_subplot(grid[i // columns, i % columns]) for i in range(n)]


def curve_panels(
    cube: xr.Dataset,
    metrics: Sequence[str],
    *,
    ax: Axes | None,
    head: str = "",
    names: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    limit: int = 12,
    columns: int = 2,
    legend: bool = True,
    title: bool = True,
    label: str = "",
    span: tuple[float | None, float | None] = (None, None),
) -> Figure:
    """Some metrics of a cube as :func:`polystab.plots.curves`, a panel each, with one legend.

    Parameters
    ----------
    cube : xarray.Dataset
    metrics : sequence of str
        One panel each.
    ax : matplotlib.axes.Axes or None
        In whose place to draw.
    head : str, optional
        Title of the whole; a single panel has its name otherwise.
    names : sequence of str, optional
        Titles of the panels; by default the metrics.
    models : sequence of str, optional
        Which models; by default the first ten.
    limit, columns : int, optional
        Panels at most, evenly from all, and side by side.
    legend, title : bool, optional
    label : str, optional
        Of the y axis; by default the measure and its unit, where the cube names them.
    span : (float or None, float or None), optional
        Ends of the y axis.

    Raises
    ------
    SelectionError
        No metric is asked for, or no such model.
    """
    if not metrics:
        raise SelectionError("nothing is asked for; name one part, task or matrix at least, or none for all of them.")
    chosen = _models_of(cube, models)
    kept = spread(len(metrics), max(limit, 1))
    known = texts_of(cube["metric"])
    part = cube.isel(metric=[known.index(metrics[i]) for i in kept]).sel(model=chosen)
    part = part.isel(model=_measured_models(part))
    band, inks = seed_band(part), _inks_of(part, chosen)
    # Thin lines everywhere or nowhere, as the one legend says.
    thin = part if any(with_thin_lines(band)) else None
    told = legend_title(band)
    left_out = f", {len(kept)} of {len(metrics)}" if len(kept) < len(metrics) else ""
    alone = len(kept) == 1
    shown = [short_name(name) for name in texts_of(part["model"])]
    beside = legend_columns(shown, PANEL[0] * min(columns, len(kept)), _ENTRIES)
    with language():
        figure, axes = panels(
            len(kept),
            ax,
            columns=columns,
            title=f"{head}{left_out}" if title else "",
            below=_LEGEND + _LINE * (-(-len(shown) // beside) - 1) if legend and not alone else 0,
            size=SIZE if alone else PANEL,
        )
        for k, (i, panel) in enumerate(zip(kept, axes, strict=True)):
            name = metrics[i] if names is None else names[i]
            if band["n"].sel(metric=metrics[i]).any():
                curves(band, metric=metrics[i], runs=thin, inks=inks, legend=False, title=False, ax=panel)
            else:
                nothing(panel)
            said = describe_curves(band, metric=metrics[i])
            if k + columns < len(axes) + (-len(axes)) % columns:
                panel.set_xlabel("")  # the last row has it
            panel.set_ylim(*span)
            if label:
                panel.set_ylabel(label)
            if k % columns:
                panel.set_ylabel("")  # the first column has it
            say(panel, f"{f'{head}: ' if head and not k else ''}{name}. {said}")
            if alone:
                head_and_legend(panel, name, told, title=title, legend=legend)
            elif title:
                panel.set_title(short_name(name, 30), loc="left", size=9)
        if legend and not alone:
            handles, labels = max(
                (panel.get_legend_handles_labels() for panel in axes), key=lambda found: len(found[1])
            )
            if ax is None and labels:
                figure.legend(handles, labels, title=told, loc="outside lower center", ncols=min(len(labels), beside))
            elif labels:
                axes[0].legend(handles, labels, title=told)
    return figure


def _inks_of(part: xr.Dataset, chosen: Sequence[str]) -> list[Ink]:
    """Colours of the models that are drawn, which keep those they have beside all that were chosen."""
    inks = model_inks(len(chosen))
    return [inks[list(chosen).index(name)] for name in texts_of(part["model"])]


def _measured_models(cube: xr.Dataset) -> list[int]:
    """Models that were measured on some metric; all if none was."""
    there = cube["value"].notnull().any([dim for dim in cube["value"].dims if dim != "model"]).values
    return [int(i) for i in np.flatnonzero(there)] if there.any() else list(range(len(there)))


def _models_of(cube: xr.Dataset, models: Sequence[str] | None) -> list[str]:
    known = texts_of(cube["model"])
    for name in models or ():
        place_of(name, known, "model")
    return known[:MAX_MODELS] if models is None else [name for name in known if name in models]
