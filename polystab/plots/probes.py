"""What probes read from hidden states: how much, in which layer, and from which directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polystab.analysis.representations.angles import probe_angles as angles_of
from polystab.analysis.representations.codelengths import probe_codelengths
from polystab.errors import SelectionError, did_you_mean
from polystab.plots.bands import (
    MAX_LINES,
    SIZE,
    Series,
    as_result,
    largest_model,
    ordered_inks,
    place_of,
    spread,
    texts_of,
)
from polystab.plots.given import whole_cube, whole_result
from polystab.plots.panels import curve_panels, mini_cube
from polystab.plots.style import value_label
from polystab.plots.weights import layer_lines

CODES = {
    "codelength": "codelength",
    "codelength_bits": "codelength",
    "compression": "compression over the uniform code",
    "control_compression": "compression over shuffled labels",
    "start_compression": "compression over the start",
}
_CODED = ("model", "seed", "step", "task", "layer")

CENTRES = {
    "layer_centre": "centre of gravity",
    "expected_layer": "expected layer",
    "best_layer": "best layer",
}
ANGLES = {
    "mean_angle": "mean angle",
    "max_angle": "largest angle",
    "grassmann": "Grassmann distance",
    "chordal": "chordal distance",
}


def probe_layers(
    data: xr.Dataset | xr.DataTree,
    *,
    task: str | None = None,
    variable: str = "codelength",
    model: str | None = None,
    layers: Sequence[int] | None = None,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw how well probes read a task from each layer over training.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        Result of :func:`polystab.analysis.probe_codelengths`, or a cube with the family ``probe``.
    task : str, optional
        Which task; by default the first.
    variable : str, optional
        ``codelength``, ``codelength_bits``, ``compression``, ``control_compression`` or
        ``start_compression``, as explained there.
    model : str, optional
        Which model; by default the last.
    layers : sequence of int, optional
        Which layers, of which 0 are the embeddings; by default up to six, evenly.
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
        half; dashed is the uniform code, which knows nothing, or a compression of 1.

    Raises
    ------
    AnalysisError
        The cube has no codelengths.
    SelectionError
        No such task, variable, model or layer.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> figure = plots.probe_layers(ps.load_cube("nano"), task="nano.depth")
    >>> figure.axes[0].get_ylabel()
    'codelength (nat)'
    """
    if variable not in CODES:
        raise SelectionError(f"no codelength is called {variable!r}. {did_you_mean(variable, CODES)}")
    if (result := as_result(data, "codelength")) is None:
        result = probe_codelengths(whole_cube(data))
    result = whole_result(result, {variable: _CODED, "uniform": ("task",)}, "probe_codelengths")
    name = _task(result, task)
    uniform = float(result["uniform"].sel(task=name))
    level = {"codelength": uniform, "codelength_bits": uniform / float(np.log(2))}.get(variable, 1.0)
    series, model = _by_layer(result, variable, "seed", name, model, layers)
    label = value_label(CODES[variable].split(" over ")[0], str(result[variable].attrs.get("units", "")))
    text = "uniform code" if variable.startswith("codelength") else "no gain"
    head = f"{CODES[variable]}, {name}, {model}"
    return layer_lines(series, head, label, reference=(level, text), legend=legend, title=title, size=size, ax=ax)


def _task(result: xr.Dataset, task: str | None) -> str:
    """The task asked for, or the first."""
    known = texts_of(result["task"])
    return known[0] if task is None else known[place_of(task, known, "task")]


def _by_layer(
    result: xr.Dataset, variable: str, run: str, task: str, model: str | None, layers: Sequence[int] | None
) -> tuple[list[Series], str]:
    """A line for each layer of one task and model."""
    name = largest_model(result, model)
    values = result[variable].sel(model=name, task=task).transpose(run, "step", "layer")
    array = np.asarray(values.values, dtype=np.float64)
    array = np.where(np.isfinite(array), array, np.nan)
    there = [int(n) for n in result["layer"].values[~np.isnan(array).all(axis=(0, 1))].tolist()]
    if not there:
        raise SelectionError(f"{name} was not measured on {task}; choose another model or task.")
    kept = [there[i] for i in spread(len(there), MAX_LINES)] if layers is None else list(layers)
    for layer in kept:
        place_of(layer, there, "layer")
    every = result["layer"].values.tolist()
    return [
        Series(f"layer {layer}", result["step"].values, array[..., every.index(layer)], ink)
        for layer, ink in zip(kept, ordered_inks(len(kept)), strict=True)
    ], name


def layer_centre(
    data: xr.Dataset | xr.DataTree,
    *,
    variable: str = "layer_centre",
    tasks: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    columns: int = 2,
    limit: int = 12,
    legend: bool = True,
    title: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Draw in which layer each task is read, over training: a panel a task, a band a model.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        Result of :func:`polystab.analysis.probe_codelengths`, or a cube with the family ``probe``.
    variable : {"layer_centre", "expected_layer", "best_layer"}, optional
        Which layer, as explained there.
    tasks, models : sequence of str, optional
        Which tasks and models; by default all tasks and the first ten models.
    columns : int, optional
        Panels side by side.
    limit : int, optional
        At most so many panels, evenly from all.
    legend, title : bool, optional
        Whether to draw them.
    ax : matplotlib.axes.Axes, optional
        In whose place to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. Models of different depth have different middles.

    Raises
    ------
    AnalysisError
        The cube has no codelengths.
    SelectionError
        No such task, variable or model.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> len(plots.layer_centre(ps.load_cube("nano")).axes)
    4
    """
    if variable not in CENTRES:
        raise SelectionError(f"no layer is called {variable!r}. {did_you_mean(variable, CENTRES)}")
    if (result := as_result(data, "layer_centre")) is None:
        result = probe_codelengths(whole_cube(data))
    result = whole_result(result, {variable: _CODED[:-1]}, "probe_codelengths")
    known = texts_of(result["task"])
    for name in tasks or ():
        place_of(name, known, "task")
    return curve_panels(
        mini_cube(result[variable], "task"),
        known if tasks is None else list(tasks),
        head=f"{CENTRES[variable]} of the layers",
        ax=ax,
        models=models,
        limit=limit,
        columns=columns,
        legend=legend,
        title=title,
        label="layer",
    )


def probe_angles(
    data: xr.Dataset | xr.DataTree,
    *,
    task: str | None = None,
    variable: str = "mean_angle",
    between: str = "steps",
    model: str | None = None,
    layers: Sequence[int] | None = None,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw angles between the subspaces that probes read, layer by layer over training, beside those of chance.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        Result of :func:`polystab.analysis.probe_angles`, or the tree that it takes.
    task : str, optional
        Which task; by default the first.
    variable : {"mean_angle", "max_angle", "grassmann", "chordal"}, optional
        Which measure of the angles; the angle of random subspaces is known for the first.
    between : {"steps", "seeds"}, optional
        Each step and the one before it, or every two runs; of no use to a result.
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
        The figure: medians and middle halves over runs, or over pairs of runs, which are
        not independent. Dashed is the angle of random subspaces of that size.

    Raises
    ------
    AnalysisError
        There are no weights of probes.
    SelectionError
        No such task, variable, model or layer.

    Examples
    --------
    >>> import polystab as ps, xarray as xr
    >>> from polystab import plots
    >>> probes = ps.load_tree("nano")["probes"].to_dataset().sel(model=["nano-215k"], step=[0, 100])
    >>> figure = plots.probe_angles(xr.DataTree.from_dict({"probes": probes}), task="nano.depth", layers=[0, 4])
    >>> figure.axes[0].get_legend().get_texts()[-1].get_text()
    'random subspaces'
    """
    if variable not in ANGLES:
        raise SelectionError(f"no angle is called {variable!r}. {did_you_mean(variable, ANGLES)}")
    if (result := as_result(data, "mean_angle")) is None:
        result = angles_of(data, between=between)  # type: ignore[arg-type]  # it refuses what is no tree
    run, what = ("pair", "pair") if "pair" in result.dims else ("seed", "run")
    result = whole_result(
        result, {variable: ("model", run, "step", "task", "layer"), "expected": ("model", "task")}, "probe_angles"
    )
    name = _task(result, task)
    series, model = _by_layer(result, variable, run, name, model, layers)
    reference = None
    if variable == "mean_angle":
        reference = (float(result["expected"].sel(model=model, task=name)), "random subspaces")
    head = f"{ANGLES[variable]} between {'seeds' if run == 'pair' else 'steps'}, {name}, {model}"
    units = {"degree": "degrees", "rad": "radians"}.get(str(result[variable].attrs.get("units", "")), "")
    return layer_lines(
        series,
        head,
        value_label(ANGLES[variable], units),
        reference=reference,
        what=what,
        legend=legend,
        title=title,
        size=size,
        ax=ax,
    )
