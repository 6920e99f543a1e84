"""Do runs give the same answers: agreement over training, and which items the seed decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from polystab.analysis.agreement.items import item_stability
from polystab.analysis.agreement.runs import agreement
from polystab.errors import SelectionError, did_you_mean
from polystab.plots.bands import SIZE, as_result, head_and_legend, largest_model, place_of, say, texts_of
from polystab.plots.given import whole_result
from polystab.plots.panels import curve_panels, mini_cube
from polystab.plots.steps import set_step_axis
from polystab.plots.style import ALARM, FULL, MUTED, TEXT, Ink, canvas, language, nothing
from polystab.words import count, listed, percent, plural

COMPARISONS = {
    "all_pairs": "kappa with the other runs",
    "reference": "kappa with the reference run",
    "last_step": "kappa with the run's last step",
}

# From the bottom: what the seed decides lies on the axis, where its level can be read.
KINDS: tuple[tuple[str, Ink, float], ...] = (("unstable", ALARM, 0.8), ("hard", MUTED, 0.35), ("easy", FULL, 0.45))

# Columns into which the share over training is sorted, and areas in square points of the largest dot and of the least.
_COLUMNS = 20
_LARGEST = 180.0
_SMALLEST = 5.0


def agreement_curves(
    data: xr.Dataset | xr.DataTree,
    *,
    comparison: str = "all_pairs",
    answer: str | None = None,
    tasks: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    columns: int = 2,
    limit: int = 12,
    legend: bool = True,
    title: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Draw how far the answers of each run agree with others beyond chance, over training.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        Result of :func:`polystab.analysis.agreement.agreement`, or what it takes: the group
        ``items`` or a tree that has it.
    comparison : {"all_pairs", "reference", "last_step"}, optional
        Each run with all others (mean), with the reference run, or with its own last step.
    answer : {"choice", "correct"}, optional
        What is compared; by default the first there is.
    tasks, models : sequence of str, optional
        Which tasks, a panel each (``pooled`` for all together), and models; by default all
        tasks and the first ten models.
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
        The figure: Cohen's kappa of the runs of each model, median and middle half. The
        dotted line at 0 is chance, 1 is agreement on every item. Kappas of runs with all
        others share those others: the band is no interval; ``lower`` and ``upper`` of the result are.

    Raises
    ------
    AnalysisError
        There is no group ``items``.
    SelectionError
        No such comparison, answer, task or model.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> items = ps.load_tree("nano")["items"].to_dataset().sel(step=[0, 500, 1000])
    >>> figure = plots.agreement_curves(items, tasks=["nano_brackets"])
    >>> figure.axes[0].get_title(loc="left")
    'nano_brackets'
    """
    if comparison not in COMPARISONS:
        raise SelectionError(f"no comparison is called {comparison!r}. {did_you_mean(comparison, COMPARISONS)}")
    if (result := as_result(data, "run_kappa")) is None:
        result = agreement(data, level=None)
    dims = ("answer", "comparison", "task", "model", "seed", "step")
    result = whole_result(result, {"run_kappa": dims}, "agreement")
    answers, known = texts_of(result["answer"]), texts_of(result["task"])
    place = 0 if answer is None else place_of(answer, answers, "answer")
    for name in tasks or ():
        place_of(name, known, "task")
    at = place_of(comparison, texts_of(result["comparison"]), "comparison of this result")
    kappa = result["run_kappa"].isel(comparison=at, answer=place)
    what = {"choice": "answers", "correct": "right or wrong"}.get(answers[place], answers[place])
    return curve_panels(
        mini_cube(kappa, "task", chance=0.0),
        known if tasks is None else list(tasks),
        head=f"{COMPARISONS[comparison]}, {what}",
        ax=ax,
        models=models,
        limit=limit,
        columns=columns,
        legend=legend,
        title=title,
        label="Cohen's kappa",
        span=(None, 1.03),
    )


def item_shares(
    data: xr.Dataset | xr.DataTree,
    *,
    task: str = "pooled",
    model: str | None = None,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw how many items all runs find easy or hard, and how many the seed decides, over training.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        Result of :func:`polystab.analysis.item_stability`, or what it takes: the group
        ``items`` or a tree that has it.
    task : str, optional
        Which task; by default all together.
    model : str, optional
        Which model; by default the last.
    legend, title : bool, optional
        Whether to draw them.
    size : (float, float), optional
        Width and height of a new figure, in inches.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, at each step adding up to 100 %. The dashed line is how many items would
        be unstable were all alike: as far as the area stays below it, items matter.

    Raises
    ------
    AnalysisError
        There is no group ``items``.
    SelectionError
        No such task or model.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> figure = plots.item_shares(ps.load_tree("nano"), task="nano_brackets")
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['unstable', 'hard', 'easy', 'unstable by chance']
    """
    result, name, model = _items(data, task, model)
    part = result.sel(task=name, model=model)
    shares = np.stack([part[f"{kind}_share"].values for kind, _, _ in KINDS])
    chance, steps = part["unstable_by_chance"].values, part["step"].values
    there = ~np.isnan(shares).any(axis=0)
    head = f"items of {'all tasks' if name == 'pooled' else name}, {model}"
    with language():
        figure, ax = canvas(ax, size)
        base = np.zeros(int(there.sum()))
        for (kind, ink, alpha), share in zip(KINDS, shares[:, there], strict=True):
            top = base + share
            ax.fill_between(steps[there], base, top, color=ink.light, alpha=alpha, linewidth=0, label=kind)
            base = top
        ax.plot(
            steps[there],
            chance[there],
            color=TEXT.light,
            linewidth=1.2,
            linestyle=(0, (4, 2)),
            label="unstable by chance",
        )
        set_step_axis(ax, steps[there] if there.any() else steps)
        ax.set_ylim(0, 1)
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1], [percent(share) for share in (0, 0.25, 0.5, 0.75, 1)])
        ax.set_ylabel("share of the items")
        if not there.any():
            nothing(ax)
        most = int(part["n_items"].max())
        easy, hard = (percent(float(result.attrs[name])) for name in ("easy", "hard"))
        told = f"{plural(most, 'item')}; easy: \N{GREATER-THAN OR EQUAL TO} {easy} of runs right, hard: \N{LESS-THAN OR EQUAL TO} {hard}"
        head_and_legend(ax, head, told, title=title, legend=legend)
        say(ax, f"{head}, {plural(most, 'item')}. {_shares_in_words(shares, chance, steps, there)}")
    return figure


def _shares_in_words(
    shares: npt.NDArray[np.float64],
    chance: npt.NDArray[np.float64],
    steps: npt.NDArray[np.integer],
    there: npt.NDArray[np.bool_],
) -> str:
    said = []
    for at in sorted({int(i) for i in np.flatnonzero(there)[[0, -1]]}) if there.any() else ():
        parts = [f"{kind} {percent(float(share))}" for (kind, _, _), share in zip(KINDS, shares[:, at], strict=True)]
        said.append(f"At step {count(steps[at])}: {listed(parts)}; unstable by chance {percent(float(chance[at]))}.")
    return " ".join(said) or "Not measured."


def _items(data: xr.Dataset | xr.DataTree, task: str, model: str | None) -> tuple[xr.Dataset, str, str]:
    if (result := as_result(data, "unstable_share")) is None:
        result = item_stability(data)
    shares = dict.fromkeys(
        (*(f"{kind}_share" for kind, _, _ in KINDS), "unstable_by_chance"), ("model", "task", "step")
    )
    items = dict.fromkeys(("kind", "share_correct", "mean_share_correct"), ("model", "item"))
    result = whole_result(
        result, shares | items | {"n_items": ("model", "task", "step"), "at_step": ("model",)}, "item_stability"
    )
    known = texts_of(result["task"])
    return result, known[place_of(task, known, "task")], largest_model(result, model)


def item_map(
    data: xr.Dataset | xr.DataTree,
    *,
    task: str = "pooled",
    model: str | None = None,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw the map of the items: the share of runs that are right at the end, by the same over training.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        Result of :func:`polystab.analysis.item_stability`, or what it takes.
    task : str, optional
        Which task; by default all together.
    model : str, optional
        Which model; by default the last.
    legend, title : bool, optional
        Whether to draw them.
    size : (float, float), optional
        Width and height of a new figure, in inches.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. The area of a dot is the number of items there. At the top all runs end
        up right, at the bottom all wrong, between the seed decides; left of the diagonal
        items were learned, right of it they were lost.

    Raises
    ------
    AnalysisError
        There is no group ``items``.
    SelectionError
        No such task or model.

    Notes
    -----
    After the maps of Swayamdipta et al., doi:10.18653/v1/2020.emnlp-main.746, with runs in
    the place of epochs. The share over training is the mean over all measured steps, sorted
    into columns of 5 %.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> plots.item_map(ps.load_tree("nano"), task="nano_recall").axes[0].get_xlabel()
    'runs right, mean over training'
    """
    result, name, model = _items(data, task, model)
    part = result.sel(model=model)
    of_task = (
        np.ones(part.sizes["item"], dtype=bool) if name == "pooled" else part["item_task"].values.astype(str) == name
    )
    meanings = str(result["kind"].attrs["flag_meanings"]).split()
    kind, end, over = (part[v].values[of_task] for v in ("kind", "share_correct", "mean_share_correct"))
    there = ~np.isnan(end) & ~np.isnan(over)
    at = int(part["at_step"])
    column = np.minimum(np.floor(over[there] * _COLUMNS + 1e-9), _COLUMNS - 1)
    dots, n = np.unique(
        np.column_stack([(column + 0.5) / _COLUMNS, end[there], kind[there]]), axis=0, return_counts=True
    )
    head = f"items of {'all tasks' if name == 'pooled' else name}, {model}"
    with language():
        figure, ax = canvas(ax, size)
        ax.plot([0, 1], [0, 1], color=MUTED.light, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        said, handles = [], []
        for text, ink, _ in KINDS:
            here = dots[:, 2] == meanings.index(text) if len(dots) else np.zeros(0, dtype=bool)
            ax.scatter(
                dots[here, 0],
                dots[here, 1],
                s=np.maximum(_LARGEST * n[here] / n.max(initial=1), _SMALLEST),
                color=ink.light,
                linewidth=0,
                alpha=0.75,
            )
            said.append(f"{text} {count(n[here].sum())}")
            handles.append(Line2D([], [], marker="o", linestyle="", color=ink.light, alpha=0.75, label=f"{said[-1]}"))
        if not there.any():
            nothing(ax)
        ax.set_xlim(0, 1)
        ax.set_ylim(-0.06, 1.08)
        ticks = [0, 0.25, 0.5, 0.75, 1]
        ax.set_xticks(ticks, [percent(share) for share in ticks])
        ax.set_yticks(ticks, [percent(share) for share in ticks])
        ax.set_xlabel("runs right, mean over training")
        ax.set_ylabel(f"runs right at step {count(at)}" if at >= 0 else "runs right")
        told = f"{plural(int(there.sum()), 'item')}; largest dot {count(n.max(initial=0))}"
        head_and_legend(ax, head, told, title=title, legend=legend, handles=handles)
        say(
            ax, f"Map of the {head}, at step {count(max(at, 0))}: {listed(said)} of {plural(int(there.sum()), 'item')}."
        )
    return figure
