"""Statistics of weights, gradients and activations: part by part over training, and through the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polystab.analysis.arrays import Floats, finite
from polystab.analysis.audit.runs import counted_cells
from polystab.errors import AnalysisError, SelectionError, did_you_mean, shown
from polystab.plots.bands import (
    MAX_LINES,
    SIZE,
    Series,
    chosen_steps,
    describe_series,
    draw_series,
    head_and_legend,
    largest_model,
    ordered_inks,
    runs_title,
    say,
    spread,
    texts_of,
    value_axis,
)
from polystab.plots.given import whole_cube
from polystab.plots.panels import curve_panels
from polystab.plots.steps import set_step_axis
from polystab.plots.style import MUTED, canvas, language, outside, value_label
from polystab.words import count, number

MAX_PANELS = 12

_NEEDED = ("family", "subject", "measure", "component", "layer")

# A level further from the lines than so many times their range is not drawn.
_FAR = 1.0


def statistics(
    cube: xr.Dataset | xr.DataTree,
    *,
    measure: str,
    family: str = "weight",
    parts: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    limit: int = MAX_PANELS,
    columns: int = 2,
    legend: bool = True,
    title: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Draw one statistic of many parts of the network over training: a small panel each, a band a model.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube with weights, gradients or activations.
    measure : str
        Which statistic: of weights ``l2``, ``kurtosis``, ``t_nu`` (a fit of Student's t),
        ``distance`` and ``cosine`` (to step 0), ``update_size``, ``stable_rank``; of activations
        ``logit_max``, ``outlier_ratio``; of gradients ``rms``, and so on: the last part of
        the metrics' names.
    family : str, optional
        ``weight``, ``gradient``, ``activation``, or any other.
    parts : sequence of str, optional
        Subjects or components, one or several panels each, in this order; by default those
        without a layer, matrices first, or else all that have the statistic.
    models : sequence of str, optional
        Which models; by default the first ten.
    limit : int, optional
        At most so many panels: of layers evenly, else the first ones; the title says of how many.
    columns : int, optional
        Panels side by side; two are readable on a phone.
    legend, title : bool, optional
        Whether to draw them.
    ax : matplotlib.axes.Axes, optional
        In whose place to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. Lines are medians over runs, bands their middle half. Its words:
        :func:`polystab.plots.describe_picture`.

    Raises
    ------
    SelectionError
        The cube has no such statistic, part or model.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> figure = plots.statistics(ps.load_cube("nano"), measure="t_nu", parts=["all", "mlp.dense_h_to_4h"])
    >>> [ax.get_title(loc="left") for ax in figure.axes]
    ['all', 'mlp.dense_h_to_4h']
    """
    data = whole_cube(cube)
    found = _metrics_of_parts(data, family, measure, parts)
    if not found:
        raise SelectionError("parts names none; name one at least, or leave it out for those that the cube has.")
    of = len(_metrics_of(data, family, measure)) if parts is None else len(found)
    evenly = parts is not None or data["layer"].values[found[0]] >= 0
    kept = [found[i] for i in (spread(len(found), max(limit, 1)) if evenly else range(min(len(found), max(limit, 1))))]
    head = f"{family}: {measure}" + (f", {len(kept)} of {of} parts" if len(kept) < of else "")
    return curve_panels(
        data.isel(metric=kept),
        texts_of(data["metric"][kept]),
        head=head,
        names=texts_of(data["subject"][kept]),
        ax=ax,
        models=models,
        limit=len(kept),
        columns=columns,
        legend=legend,
        title=title,
    )


def _metrics_of_parts(cube: xr.Dataset, family: str, measure: str, parts: Sequence[str] | None) -> list[int]:
    """Places of the metrics with a statistic: of the parts asked for, or of those without a layer, or of all."""
    places = _metrics_of(cube, family, measure)
    subject, component, layer = (cube[name].values.tolist() for name in ("subject", "component", "layer"))
    if parts is None:
        pooled = [i for i in places if layer[i] < 0]
        return sorted(pooled if len(pooled) > 1 else places, key=lambda i: (layer[i], _is_list(component[i]), i))
    chosen: list[int] = []
    for part in parts:
        here = [i for i in places if part in (subject[i], component[i])]
        if not here:
            known = sorted({*(subject[i] for i in places), *(component[i] for i in places)} - {""})
            raise SelectionError(f"{measure!r} of {family} has no part {part!r}. {did_you_mean(part, known)}")
        # A whole component or subject by its own name goes before its layers.
        chosen += sorted((i for i in here if i not in chosen), key=lambda i: (subject[i] != part, layer[i]))
    return chosen


def _is_list(component: str) -> bool:
    """Whether a part is no matrix, by its name: biases and the gains of norms say least and come last."""
    return component.endswith("bias") or "norm" in component


def _metrics_of(cube: xr.Dataset, family: str, measure: str) -> list[int]:
    if missing := [name for name in _NEEDED if name not in cube.coords]:
        raise AnalysisError(f"metrics of this cube lack {shown(missing)}; ps.validate_cube(cube) says what a cube has.")
    families = cube["family"].values.astype(str)
    if family not in families:
        raise SelectionError(
            f"no metric of the family {family!r}. {did_you_mean(family, sorted(set(families.tolist())))}"
        )
    of_family = cube["measure"].values.astype(str)[families == family]
    if measure not in of_family:
        raise SelectionError(f"{family} has no {measure!r}. {did_you_mean(measure, sorted(set(of_family.tolist())))}")
    return [int(i) for i in np.flatnonzero((families == family) & (cube["measure"].values.astype(str) == measure))]


def layer_curves(
    cube: xr.Dataset | xr.DataTree,
    *,
    measure: str,
    part: str,
    family: str = "weight",
    model: str | None = None,
    layers: Sequence[int] | None = None,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw one statistic over training, a line a layer: the same part of all blocks of a model.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube with the statistic of single layers.
    measure : str
        Which statistic, as for :func:`statistics`.
    part : str
        Component, such as ``mlp.dense_h_to_4h`` or ``residual``; of probes, the task.
    family : str, optional
        ``weight``, ``gradient``, ``activation`` or ``probe``.
    model : str, optional
        Which model; by default the last.
    layers : sequence of int, optional
        Which layers; by default up to six, evenly.
    legend, title : bool, optional
        Whether to draw them.
    size : (float, float), optional
        Width and height of a new figure, in inches.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure: a line is the median over the runs of the model, its band their middle
        half; the darker, the nearer to the input.

    Raises
    ------
    SelectionError
        The cube has no such statistic, part, layer or model.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> figure = plots.layer_curves(ps.load_cube("nano"), family="gradient", measure="rms", part="mlp.dense_h_to_4h")
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['layer 0', 'layer 1', 'layer 2', 'layer 3']
    """
    values, found, steps, model, label = _by_layer(cube, family, measure, part, model)
    kept = [found[i] for i in spread(len(found), MAX_LINES)] if layers is None else list(layers)
    for layer in kept:
        if layer not in found:
            raise SelectionError(f"{part} has no {measure!r} in layer {layer}; there is {shown(found, len(found))}.")
    series = [
        Series(f"layer {layer}", steps, values[:, :, found.index(layer)], ink)
        for layer, ink in zip(kept, ordered_inks(len(kept)), strict=True)
    ]
    return layer_lines(series, f"{part}: {measure}, {model}", label, legend=legend, title=title, size=size, ax=ax)


def layer_lines(
    series: Sequence[Series],
    head: str,
    label: str,
    *,
    reference: tuple[float, str] | None = None,
    what: str = "run",
    legend: bool,
    title: bool,
    size: tuple[float, float],
    ax: Axes | None,
) -> Figure:
    """Lines over training that are not models, with a level to compare them with."""
    with language():
        figure, ax = canvas(ax, size)
        draw_series(ax, series)
        if reference is not None:
            _draw_reference(ax, series, *reference)
        value_axis(ax, np.concatenate([one.runs.ravel() for one in series]), label)
        steps = series[0].x
        used = np.any([np.isfinite(one.runs).any(axis=0) for one in series], axis=0)
        set_step_axis(ax, steps[used] if used.any() else steps)
        told = runs_title([one.n_runs for one in series], what)
        head_and_legend(ax, head, told, title=title, legend=legend)
        beside = "" if reference is None else f" {reference[1]}: {number(reference[0])}."
        say(ax, f"{head}. {describe_series(series, at='step', what=what)}{beside}")
    return figure


def _draw_reference(ax: Axes, series: Sequence[Series], level: float, text: str) -> None:
    """A level as a dashed line, or, where it would press the lines flat, in words."""
    middles = np.concatenate([one.band()[1] for one in series])
    middles = middles[~np.isnan(middles)]
    if not np.isfinite(level) or not len(middles):
        return
    low, high = float(middles.min()), float(middles.max())
    if low - _FAR * (high - low) <= level <= high + _FAR * (high - low):
        ax.axhline(level, color=MUTED.light, linewidth=1.2, linestyle=(0, (4, 2)), zorder=2, label=text)
        return
    outside(ax, f"{text}: {number(level)}, {'above' if level > high else 'below'} what is drawn", above=level > high)


def _by_layer(
    cube: xr.Dataset | xr.DataTree, family: str, measure: str, part: str, model: str | None
) -> tuple[Floats, list[int], npt.NDArray[Any], str, str]:
    """Values (seed, step, layer) of a model without copies and infinities, the layers, steps, model, and what the y axis says."""
    data = whole_cube(cube)
    name = largest_model(data, model)
    here = [i for i in _metrics_of_parts(data, family, measure, [part]) if data["layer"].values[i] >= 0]
    layers = [int(data["layer"].values[i]) for i in here]
    if not here or len(set(layers)) < len(layers):
        raise SelectionError(
            f"{measure!r} of {part} is not of single layers ({shown(data['metric'].values[here].tolist()) or 'none'}); "
            "draw its parts with plots.statistics."
        )
    chosen = data.sel(model=[name]).isel(metric=here)
    values = finite(counted_cells(chosen)[0])[0]
    label = value_label(measure, str(chosen["units"].values[0]) if "units" in chosen.coords else "")
    kept = ~np.isnan(values).all(axis=(0, 1))  # smaller models have fewer layers
    if not kept.any():
        raise SelectionError(f"{name} was not measured on {measure!r} of {part}; choose another model.")
    return values[..., kept], [n for n, k in zip(layers, kept, strict=True) if k], data["step"].values, name, label


def layer_profile(
    cube: xr.Dataset | xr.DataTree,
    *,
    measure: str,
    part: str,
    family: str = "weight",
    model: str | None = None,
    steps: Sequence[int] | None = None,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw one statistic against the layer, a line a step.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube with the statistic of single layers.
    measure, part, family, model
        As for :func:`layer_curves`.
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
        The figure: a line is the median over the runs of the model, its band their middle
        half; the lighter, the later.

    Raises
    ------
    SelectionError
        The cube has no such statistic, part, step or model.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> figure = plots.layer_profile(
    ...     ps.load_cube("nano"), family="activation", measure="rms", part="residual", steps=[0, 1000]
    ... )
    >>> figure.axes[0].get_xlabel()
    'layer'
    """
    values, layers, known, model, label = _by_layer(cube, family, measure, part, model)
    measured = ~np.isnan(values).all(axis=(0, 2))
    wanted = chosen_steps(known[measured], steps)
    series = [
        Series(f"step {count(step)}", np.array(layers), values[:, known.tolist().index(step)], ink)
        for step, ink in zip(wanted, ordered_inks(len(wanted)), strict=True)
    ]
    head = f"{part}: {measure}, {model}"
    with language():
        figure, ax = canvas(ax, size)
        draw_series(ax, series)
        value_axis(ax, np.concatenate([one.runs.ravel() for one in series]), label)
        ax.set_xlabel("layer")
        ax.set_xticks([layers[i] for i in spread(len(layers), 9)])
        told = runs_title([one.n_runs for one in series])
        head_and_legend(ax, head, told, title=title, legend=legend)
        say(ax, f"{head}. {describe_series(series, at='layer')}")
    return figure
