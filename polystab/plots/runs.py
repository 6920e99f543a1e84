"""Single runs among their siblings: how far from them on one metric, and on all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polystab.analysis.arrays import Bools, Floats
from polystab.analysis.outliers.distances import joint_distance
from polystab.analysis.outliers.scores import outlier_scores
from polystab.cube.specs import DIMS
from polystab.errors import SelectionError
from polystab.plots.bands import (
    SIZE,
    as_result,
    head_and_legend,
    largest_model,
    place_of,
    say,
    texts_of,
)
from polystab.plots.given import whole_cube, whole_result
from polystab.plots.lines import LOG_VALUES
from polystab.plots.steps import set_step_axis
from polystab.plots.style import ALARM, FULL, MUTED, OCHRE, PURPLE, TEAL, canvas, language, log_axis, nothing
from polystab.words import count, number, plural

# Runs that are told apart by colour; each has its own dashes too.
_NAMED = (
    (ALARM, "solid"),
    (FULL, (0, (5, 1.5))),
    (TEAL, (0, (1.5, 1.2))),
    (PURPLE, (0, (6, 1.2, 1.2, 1.2))),
    (OCHRE, (0, (3, 1, 1, 1, 1, 1))),
)

# Scores are linear up to the threshold and logarithmic beyond where they go further than so many times that.
_FAR = 4.0


def run_scores(
    data: xr.Dataset | xr.DataTree,
    *,
    metric: str,
    model: str | None = None,
    runs: Sequence[int] | None = None,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw how far each run is from its siblings on one metric, step by step.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        Result of :func:`polystab.analysis.outlier_scores`, or a cube.
    metric : str
        Which metric.
    model : str, optional
        Which model; by default the last.
    runs : sequence of int, optional
        Seeds to name and colour, up to five; by default those beyond the threshold at most
        checkpoints, three of them.
    legend, title : bool, optional
        Whether to draw them.
    size : (float, float), optional
        Width and height of a new figure, in inches.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure: a line a run; dashed lines are the threshold. A run that diverged
        (infinite score) is a triangle at the edge. This is where to look; what it means
        :func:`polystab.analysis.outlier_runs` says.

    Raises
    ------
    SelectionError
        No such metric, model or seed, or more seeds than can be told apart.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> cube = ps.load_cube("nano-edge")
    >>> plots.run_scores(cube, metric="loss/train/cross_entropy").axes[0].get_ylabel()
    'robust z'
    """
    if (scores := as_result(data, "score")) is None:  # of this metric only: of all of them it would take far longer
        cube = whole_cube(data)
        chosen = cube.isel(metric=[place_of(metric, texts_of(cube["metric"]), "metric")])
        scores = outlier_scores(chosen.sel(model=[largest_model(cube, model)]))
    scores = whole_result(scores, {"score": DIMS}, "outlier_scores")
    place = place_of(metric, texts_of(scores["metric"]), "metric")
    model = largest_model(scores, model)
    score = scores["score"].isel(metric=place).sel(model=model).transpose("seed", "step").values
    threshold = float(scores.attrs["threshold"])
    beyond = np.abs(np.nan_to_num(score, nan=0.0, posinf=np.inf, neginf=-np.inf)) > threshold
    seeds, steps = scores["seed"].values.tolist(), scores["step"].values
    named = _named(runs, seeds, beyond.sum(axis=1), at_most=3, only_positive=True)
    label = {"leave_one_out": "t", "z": "z"}.get(str(scores.attrs.get("method", "")), "robust z")
    with language():
        figure, ax = canvas(ax, size)
        _draw_runs(ax, score, steps, seeds, named)
        for side in (-threshold, threshold):
            ax.axhline(side, color=MUTED.light, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
        finite = np.abs(score[np.isfinite(score)])
        if finite.max(initial=0) > _FAR * threshold:
            ax.set_yscale("symlog", linthresh=threshold, linscale=1.5)
            ax.yaxis.set_major_formatter(lambda value, _: number(value, digits=1))
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, -1.2 * threshold), max(high, 1.2 * threshold))
        _draw_diverged(ax, score, steps, named)
        ax.set_ylabel(label)
        told = f"{plural(_measured(score), 'run')}; dashed: threshold {threshold:g}"
        head_and_legend(ax, f"{metric}, {model}", told, title=title, legend=legend)
        said = [
            f"seed {seeds[i]}: beyond at {plural(int(beyond[i].sum()), 'checkpoint')}, from step {count(steps[beyond[i]][0])}."
            for i in np.argsort(-beyond.sum(axis=1), kind="stable")[:5].tolist()
            if beyond[i].any()
        ]
        none = "No run is beyond it."
        say(
            ax,
            f"{label} of {metric}, {model}, threshold {threshold:g}, {plural(_measured(score), 'run')}. {' '.join(said) or none}",
        )
    return figure


def run_distances(
    data: xr.Dataset | xr.DataTree,
    *,
    model: str | None = None,
    runs: Sequence[int] | None = None,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw how far each run is from its siblings over all metrics, step by step.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        Result of :func:`polystab.analysis.joint_distance`, or a cube.
    model : str, optional
        Which model; by default the last.
    runs : sequence of int, optional
        Seeds to name and colour, up to five; by default the three whose largest distance
        is largest.
    legend, title : bool, optional
        Whether to draw them.
    size : (float, float), optional
        Width and height of a new figure, in inches.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure: a line a run, typically near 1.

    Raises
    ------
    SelectionError
        No such model or seed, or more seeds than can be told apart.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> plots.run_distances(ps.load_cube("nano-edge")).axes[0].get_ylabel()
    'distance'
    """
    over = ""
    if (result := as_result(data, "distance")) is None:
        cube = whole_cube(data)
        over = f" over {plural(cube.sizes['metric'], 'metric')}"
        result = joint_distance(cube.sel(model=[largest_model(cube, model)]))
    result = whole_result(result, {"distance": ("model", "seed", "step")}, "joint_distance")
    model = largest_model(result, model)
    distance = result["distance"].sel(model=model).transpose("seed", "step").values
    seeds, steps = result["seed"].values.tolist(), result["step"].values
    largest = np.max(distance, axis=1, initial=0.0, where=~np.isnan(distance))
    named = _named(runs, seeds, largest, at_most=3)
    head = f"distance from siblings{over}, {model}"
    with language():
        figure, ax = canvas(ax, size)
        _draw_runs(ax, distance, steps, seeds, named)
        positive = distance[distance > 0]
        if len(positive) and positive.max() > LOG_VALUES * np.median(positive):
            log_axis(ax, "y")
        ax.set_ylabel("distance")
        head_and_legend(ax, head, f"{plural(_measured(distance), 'run')}", title=title, legend=legend)
        said = []
        for i in named:
            there = np.flatnonzero(~np.isnan(distance[i]))
            if len(there):
                at = there[int(np.argmax(distance[i, there]))]
                said.append(f"seed {seeds[i]}: {number(float(distance[i, at]), digits=3)} at step {count(steps[at])}.")
        say(ax, f"Distance of the runs of {model} from their siblings{over}: largest of {' '.join(said) or 'none.'}")
    return figure


def _measured(values: Floats) -> int:
    return int((~np.isnan(values)).any(axis=1).sum())


def _named(
    runs: Sequence[int] | None,
    seeds: list[int],
    how_far: npt.NDArray[np.generic],
    *,
    at_most: int,
    only_positive: bool = False,
) -> list[int]:
    """Places of the runs that have a colour: those asked for, or those furthest off."""
    if runs is None:
        order = np.argsort(-how_far.astype(np.float64), kind="stable")[:at_most].tolist()
        return sorted(i for i in order if how_far[i] > 0 or not only_positive)
    if len(runs) > len(_NAMED):
        raise SelectionError(f"{len(runs)} runs are asked for; up to {len(_NAMED)} can be told apart.")
    return [place_of(seed, seeds, "seed") for seed in runs]


def _draw_runs(ax: Axes, values: Floats, steps: npt.NDArray[np.int64], seeds: list[int], named: list[int]) -> None:
    """A thin line for each run, and a coloured one for those named."""
    known: Bools = np.isfinite(values)
    rest = [i for i in range(len(values)) if i not in named and known[i].any()]
    for i in rest:
        label = "other runs" if i == rest[0] else None
        ax.plot(
            steps[known[i]], values[i, known[i]], color=MUTED.light, linewidth=0.6, alpha=0.6, zorder=2, label=label
        )
    for i, (ink, dash) in zip(named, _NAMED, strict=False):
        ax.plot(
            steps[known[i]],
            values[i, known[i]],
            color=ink.light,
            linestyle=dash,
            linewidth=1.4,
            zorder=3,
            label=f"seed {seeds[i]}",
        )
    if not known.any():
        nothing(ax)
    used = ~np.isnan(values).all(axis=0)
    set_step_axis(ax, steps[used] if used.any() else steps)


def _draw_diverged(ax: Axes, score: Floats, steps: npt.NDArray[np.int64], named: list[int]) -> None:
    """Triangles at the edge for infinite scores."""
    colours = {i: ink.light for i, (ink, _) in zip(named, _NAMED, strict=False)}
    for sign, marker, edge in ((1, "^", 0.97), (-1, "v", 0.03)):
        for i in np.flatnonzero((score == sign * np.inf).any(axis=1)).tolist():
            at = steps[score[i] == sign * np.inf]
            ax.plot(
                at,
                np.full(len(at), edge),
                linestyle="",
                marker=marker,
                markersize=4,
                color=colours.get(i, MUTED.light),
                transform=ax.get_xaxis_transform(),
                zorder=4,
            )
