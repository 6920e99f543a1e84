"""Two cubes against each other: differences with their intervals, and both curves of a metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from polystab.analysis.arrays import Floats
from polystab.analysis.comparisons.verdicts import (
    BETTER,
    CANNOT_TELL,
    DIFFERS,
    DIFFERS_SLIGHTLY,
    NO_LARGER,
    UNTESTED,
    WORSE,
)
from polystab.analysis.trajectories import seed_band
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError
from polystab.plots.bands import say
from polystab.plots.describe import chosen, describe_curves
from polystab.plots.lines import SIZE, curves
from polystab.plots.style import ALARM, FULL, GRID, MUTED, TEXT, Ink, canvas, language, model_inks, room_for_legend
from polystab.words import MINUS, count, listed, number, plural, short_name

WIDTH = 7.6

# Rows that can be read at once.
MAX_ROWS = 30

# Effects are drawn linearly up to so many seed SDs, and logarithmically beyond where any goes further.
NEAR = 3.0

# The cube that is compared is blue, the one it is compared with orange, wherever both are drawn.
SIDE_INKS = (FULL, ALARM)

# Worst first: what got worse, what got better, what differs in either way, what cannot be told, what is alike.
_TIERS = {DIFFERS: 0, DIFFERS_SLIGHTLY: 1, CANNOT_TELL: 2, NO_LARGER: 3, UNTESTED: 4}


def ordered_rows(compared: xr.Dataset) -> list[tuple[int, int]]:
    """Places (model, metric) of the rows of a comparison, the worst news first.

    Parameters
    ----------
    compared : xarray.Dataset
        Result of :func:`polystab.analysis.compare_cubes`.

    Returns
    -------
    list of (int, int)
        Rows that differ come first, those that got worse before those that got better before those of which it is
        not known what is better, then by the size of the effect; rows that could not be tested come last.
    """
    verdict, change, effect = (
        compared[name].transpose("model", "metric").values for name in ("verdict", "change", "effect")
    )
    size = np.abs(np.nan_to_num(effect, nan=-1.0))

    def key(row: tuple[int, int]) -> tuple[int, int, float, int, int]:
        told = int(verdict[row])
        # Where no difference was shown, a direction is not either.
        way = {WORSE: 0, BETTER: 1}.get(int(change[row]), 2) if told in (DIFFERS, DIFFERS_SLIGHTLY) else 0
        return _TIERS[told], way, -float(size[row]), row[1], row[0]

    return sorted(np.ndindex(verdict.shape), key=key)


def differing_rows(compared: xr.Dataset) -> list[tuple[int, int]]:
    """Places of the rows that differ, the worst news first."""
    verdict = compared["verdict"].transpose("model", "metric").values
    return [row for row in ordered_rows(compared) if int(verdict[row]) in (DIFFERS, DIFFERS_SLIGHTLY)]


def rows_to_draw(compared: xr.Dataset, limit: int = MAX_ROWS) -> list[tuple[int, int]]:
    """The rows that a picture has room for: evaluations and losses, then the others, worst first."""
    with_effect = np.isfinite(compared["effect"].transpose("model", "metric").values)
    asked = np.isin(compared["family"].values, ("eval", "loss"))
    rows = [row for row in ordered_rows(compared) if with_effect[row]]
    return sorted(rows, key=lambda row: not asked[row[1]])[:limit]


def differences(
    compared: xr.Dataset,
    *,
    limit: int = MAX_ROWS,
    models: Sequence[str] | None = None,
    inks: Sequence[Ink] | None = None,
    legend: bool = True,
    title: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Draw the differences between two cubes with their intervals, in seed standard deviations.

    Parameters
    ----------
    compared : xarray.Dataset
        Result of :func:`polystab.analysis.compare_cubes`.
    limit : int, optional
        At most so many rows: evaluations and losses come first, then those that differ most.
    models : sequence of str, optional
        Models that have a colour of their own, in order of size; by default those of the comparison.
    inks : sequence of Ink, optional
        Their colours.
    legend, title : bool, optional
        Whether to draw them.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure: a row a metric (and model), sorted by the effect. A full mark differs after correction for
        the number of tests, a hollow one does not; a triangle points up where the other cube is better and down where
        it is worse. The grey band is the margin of one seed SD.

    Raises
    ------
    AnalysisError
        ``compared`` is no result of :func:`polystab.analysis.compare_cubes`.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> from polystab.analysis.comparisons import compare_cubes
    >>> edge = ps.select(ps.load_cube("nano-edge"), family="eval")
    >>> found = compare_cubes(edge, edge, models={"nano-96k-lr0.2": "nano-96k-lr0.5"}, rng=0)
    >>> plots.differences(found).axes[0].get_xlabel()
    'other minus this, in seed SDs'
    """
    if "effect" not in compared or "other_model" not in compared.coords:
        raise AnalysisError("differences draws a result of polystab.analysis.compare_cubes; pass that.")
    effect, low, high = (
        compared[name].transpose("model", "metric").values for name in ("effect", "effect_lower", "effect_upper")
    )
    rows = sorted(rows_to_draw(compared, limit), key=lambda row: float(effect[row]))
    names = [str(name) for name in compared["model"].values.tolist()]
    with_colour = list(models) if models is not None else names
    colours = list(inks) if inks is not None else model_inks(len(with_colour))
    verdict, change = (compared[name].transpose("model", "metric").values for name in ("verdict", "change"))
    with language():
        figure, ax = canvas(ax, (WIDTH, 1.1 + 0.235 * max(len(rows), 2)))
        ax.axvspan(-1, 1, color=GRID.light, alpha=0.5, linewidth=0, zorder=0)
        ax.axvline(0, color=MUTED.light, linewidth=0.8, zorder=1)
        for y, row in enumerate(rows):
            name = names[row[0]]
            ink = colours[with_colour.index(name)] if name in with_colour[: len(colours)] else TEXT
            marker = {BETTER: "^", WORSE: "v"}.get(int(change[row]), "o")
            full = int(verdict[row]) in (DIFFERS, DIFFERS_SLIGHTLY)
            ax.plot([low[row], high[row]], [y, y], color=ink.light, linewidth=1.4, zorder=2)
            ax.plot(
                [effect[row]], [y], marker=marker, color=ink.light, markersize=5.5, linestyle="none", zorder=3,
                markerfacecolor=ink.light if full else "none", markeredgewidth=1.2,
            )  # fmt: skip
        _finish(ax, compared, rows, (low, high))
        if legend:
            _legend(figure, {names[m] for m, _ in rows}, with_colour, colours)
        if title:
            ax.set_title("differences given the seeds", loc="left")
        if not rows:
            ax.text(0.5, 0.5, "nothing could be tested", transform=ax.transAxes, ha="center", color=MUTED.light)
        say(ax, describe_differences(compared, limit=limit))
    return figure


def _finish(ax: Axes, compared: xr.Dataset, rows: list[tuple[int, int]], ends: tuple[Floats, Floats]) -> None:
    several = compared.sizes["model"] > 1
    metrics, models = compared["metric"].values, compared["model"].values
    labels = [
        short_name(str(metrics[k]), 44) + (f" · {short_name(str(models[m]), 20)}" if several else "") for m, k in rows
    ]
    ax.set_yticks(range(len(rows)), labels)
    ax.set_ylim(-0.7, max(len(rows), 2) - 0.3)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    far = max((float(np.abs(side[row])) for side in ends for row in rows), default=0.0)
    if far > NEAR:
        ax.set_xscale("symlog", linthresh=NEAR, linscale=1.6)
        ticks = [0.0, 1.0, 2.0, NEAR, *(t for t in (10.0, 30.0, 100.0, 1000.0, 1e4, 1e5) if t <= far)]
        ax.set_xticks([*(-t for t in ticks[:0:-1]), *ticks])
        ax.xaxis.set_minor_locator(ticker.NullLocator())
    else:
        ax.set_xlim(-NEAR, NEAR)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}".replace("-", MINUS))
    ax.set_xlabel("other minus this, in seed SDs")


def _legend(figure: Figure, names: set[str], with_colour: list[str], colours: list[Ink]) -> None:
    """Marks below the picture, and the models where there are several."""
    marks = [
        ("^", MUTED.light, "other is better"), ("v", MUTED.light, "other is worse"), ("o", MUTED.light, "no better or worse known"),
        ("o", "none", "hollow: no difference shown"),
    ]  # fmt: skip
    handles = [
        Line2D(
            [], [], marker=mark, color=MUTED.light, markerfacecolor=fill, linestyle="none", markersize=5.5, label=text
        )
        for mark, fill, text in marks
    ]
    if len(names) > 1:
        handles += [
            Line2D([], [], color=ink.light, linewidth=1.6, label=short_name(name))
            for name, ink in zip(with_colour, colours, strict=False)
            if name in names
        ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, handlelength=1.2, columnspacing=1.4)


def describe_differences(compared: xr.Dataset, *, limit: int = MAX_ROWS) -> str:
    """What :func:`differences` shows, in words.

    Parameters
    ----------
    compared : xarray.Dataset
        Result of :func:`polystab.analysis.compare_cubes`.
    limit : int, optional
        As for the picture.

    Returns
    -------
    str
        How many rows are drawn, how many of them differ, and the largest effects in either direction.
    """
    rows = rows_to_draw(compared, limit)
    tested = int(np.isfinite(compared["effect"].values).sum())
    if not rows:
        return "No difference could be tested."
    effect, verdict = (compared[name].transpose("model", "metric").values for name in ("effect", "verdict"))
    several = compared.sizes["model"] > 1
    metrics, models = compared["metric"].values, compared["model"].values

    def named(row: tuple[int, int]) -> str:
        of = f" of {models[row[0]]}" if several else ""
        return f"{metrics[row[1]]}{of} ({number(float(effect[row]), digits=2)})"

    differ = [row for row in rows if int(verdict[row]) in (DIFFERS, DIFFERS_SLIGHTLY)]
    said = f"{count(len(rows))} of {plural(tested, 'difference')} in seed SDs, with intervals; {count(len(differ))} of those drawn differ."
    for sign, word in ((1, "above"), (-1, "below")):
        ordered = sorted((row for row in differ if sign * effect[row] > 0), key=lambda row: -abs(float(effect[row])))
        if ordered:
            said += f" The other cube lies {word} this one most in {listed([named(row) for row in ordered[:3]], 3)}."
    return said


def both_bands(
    cube: xr.Dataset, other: xr.Dataset, *, metric: str, model: str, other_model: str | None = None
) -> xr.Dataset:
    """The band over seeds of one metric in two cubes, as that of two models.

    Parameters
    ----------
    cube, other : xarray.Dataset
        Cubes, or results of :func:`polystab.analysis.seed_band`.
    metric, model : str
        Which metric, and which model of ``cube``.
    other_model : str, optional
        Which model of ``other``; by default the same.

    Returns
    -------
    xarray.Dataset
        Variables of :func:`polystab.analysis.seed_band`, with the models called ``this: ...`` and ``other: ...``.
    """
    parts = []
    for side, data, name in (("this", cube, model), ("other", other, other_model or model)):
        band = (
            data if "quantile" in data.dims else seed_band(as_cube(data)[["value"]].sel(metric=[metric], model=[name]))
        )
        part = chosen(band, metric=metric, models=[name])
        along_model = [key for key, coord in part.coords.items() if "model" in coord.dims and key != "model"]
        parts.append(
            part.drop_vars(along_model).drop_vars("tokens", errors="ignore").assign_coords(model=[f"{side}: {name}"])
        )
    # A step of one cube only is not measured in the other.
    steps = np.union1d(parts[0]["step"].values, parts[1]["step"].values)
    fills = {"value": np.nan, "n": 0, "n_nonfinite": 0, "shared": False}
    wide = [part[list(fills)].reindex(step=steps, fill_value=fills) for part in parts]
    return xr.concat(wide, dim="model", coords="minimal", compat="override", join="outer")


def compared_curves(
    cube: xr.Dataset,
    other: xr.Dataset,
    *,
    metric: str,
    model: str,
    other_model: str | None = None,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw one metric of a model in two cubes over training: median and middle half of the seeds of both.

    Parameters
    ----------
    cube, other, metric, model, other_model
        As in :func:`both_bands`.
    legend, title : bool, optional
        Whether to draw them.
    size : (float, float), optional
        Width and height of a new figure, in inches.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        As of :func:`polystab.plots.curves`, this cube blue and the other orange.

    Raises
    ------
    SelectionError
        No such metric or model.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> cube = ps.load_cube("nano-edge")
    >>> figure = plots.compared_curves(
    ...     cube, cube, metric="loss/train/cross_entropy", model="nano-96k-lr0.2", other_model="nano-96k-lr0.5")
    >>> figure.axes[0].get_legend_handles_labels()[1]
    ['this: nano-96k-lr0.2', 'other: nano-96k-lr0.5']
    """
    band = both_bands(cube, other, metric=metric, model=model, other_model=other_model)
    figure = curves(band, metric=metric, inks=SIDE_INKS, legend=False, title=title, size=size, ax=ax)
    panel = ax or figure.axes[0]
    if legend:
        with language():
            told = "median and middle half of the seeds"
            panel.legend(title=told, title_fontsize=8.5, handlelength=2.2, bbox_to_anchor=room_for_legend(panel))
    say(panel, describe_curves(band, metric=metric))
    return figure
