"""How well early warnings tell runs that will go wrong, against how much of training they have seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from polystab.errors import AnalysisError, UnknownNameError, did_you_mean
from polystab.words import count, number, percent

# The words are wanted without the picture, and matplotlib takes most of a second.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (4.6, 3.0)

# Runs are compared within their models, so that telling learning rates apart is worth nothing.
MEASURE = "auroc_within"

LABELS = {
    "auroc": "AUROC",
    "auroc_within": "AUROC within models",
    "average_precision": "average precision",
    "last_loss": "last loss",
    "loss_slope": "slope of the loss",
    "spike_count": "loss spikes so far",
    "robust_z": "robust z of the loss",
    "logistic": "learned (logistic)",
    "gradient_boosting": "learned (boosting)",
    "novelty": "novelty",
}


def warning_curves(
    evaluation: xr.Dataset,
    *,
    measure: str = MEASURE,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = SIZE,
    ax: Axes | None = None,
) -> Figure:
    """Draw how well an early warning works against step, beside the best of the simple baselines.

    Parameters
    ----------
    evaluation : xarray.Dataset
        From :func:`polystab.analysis.early_warning.evaluate_warning`. Its first method is drawn, and the baseline
        with the largest mean over the steps.
    measure : {'auroc_within', 'auroc', 'average_precision'}, optional
        What is drawn, with its intervals over runs as bands.
    legend, title : bool, optional
        Whether to draw them.
    size : (float, float), optional
        Width and height of a new figure, in inches.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. A dotted line marks what guessing gives, of AUROC 0.5. Steps without a run that is yet to go wrong
        are left out.

    Raises
    ------
    AnalysisError
        It is no evaluation.
    UnknownNameError
        No such measure.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import analysis, plots
    >>> from polystab.analysis.early_warning import EarlyWarning, evaluate_warning
    >>> tree = ps.load_tree("nano-edge")
    >>> novel = EarlyWarning(method="novelty", families=["log"], steps=[100, 200], n_folds=2)
    >>> found = evaluate_warning(tree, analysis.failed_runs(tree), methods={"novelty": novel}, n_splits=2, n_resamples=9)
    >>> plots.warning_curves(found).axes[0].get_xlabel()
    'training step'
    """
    from polystab.plots.bands import head_and_legend, say
    from polystab.plots.steps import set_step_axis
    from polystab.plots.style import ALARM, FULL, MUTED, canvas, language, nothing

    names = _drawn(evaluation, measure)
    part = evaluation.sel(measure=measure)
    steps = part["step"].values
    with language():
        figure, ax = canvas(ax, size)
        for name, ink, line in zip(names, (FULL, ALARM), ("solid", (0, (4, 1.6))), strict=False):
            value, lower, upper = (part[column].sel(warning=name).values for column in ("value", "lower", "upper"))
            known, banded = ~np.isnan(value), ~np.isnan(lower) & ~np.isnan(upper)
            ax.fill_between(steps[banded], lower[banded], upper[banded], color=ink.light, alpha=0.2, linewidth=0)
            ax.plot(
                steps[known],
                value[known],
                color=ink.light,
                linestyle=line,
                marker="o",
                markersize=3,
                label=LABELS.get(name, name),
            )
        if not ax.lines or part["value"].sel(warning=names).isnull().all():
            nothing(ax)
        set_step_axis(ax, steps)
        ax.set_ylim(0, 1)
        ax.set_ylabel(LABELS[measure])
        if measure != "average_precision":
            ax.axhline(0.5, color=MUTED.light, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        say(ax, describe_warning(evaluation, measure=measure))
        told = f"bands: {percent(evaluation.attrs['level'])} intervals over runs"
        head_and_legend(ax, "Early warning", told, title=title, legend=legend)
    return figure


def best_baseline(evaluation: xr.Dataset, *, measure: str = MEASURE) -> str:
    """The baseline with the largest mean over the steps, the one that is drawn; empty if there is none."""
    names = [str(name) for name in evaluation["baseline"].values.tolist()]
    means = evaluation["value"].sel(measure=measure, warning=names).mean("step").fillna(-1.0).values
    return names[int(np.argmax(means))] if names else ""


def describe_warning(evaluation: xr.Dataset, *, measure: str = MEASURE) -> str:
    """What :func:`warning_curves` shows, in words.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import analysis, plots
    >>> from polystab.analysis.early_warning import EarlyWarning, evaluate_warning
    >>> tree = ps.load_tree("nano-edge")
    >>> novel = EarlyWarning(method="novelty", families=["log"], steps=[100, 200], n_folds=2)
    >>> found = evaluate_warning(tree, analysis.failed_runs(tree), methods={"novelty": novel}, n_splits=2, n_resamples=9)
    >>> plots.describe_warning(found).split(":")[0]
    'AUROC within models against step. novelty'
    """
    said = []
    for name in _drawn(evaluation, measure):
        part = evaluation.sel(measure=measure, warning=name)
        points = [
            f"{number(value, digits=2)} at step {count(step)}"
            + (f" ({number(low, digits=2)} to {number(high, digits=2)})" if not np.isnan(low) else "")
            for step, value, low, high in zip(
                *(part[column].values.tolist() for column in ("step", "value", "lower", "upper")), strict=True
            )
            if not np.isnan(value)
        ]
        said.append(f"{LABELS.get(name, name)}: {', '.join(points) or 'not known'}.")
    chance = "" if measure == "average_precision" else " Guessing gives 0.5."
    return f"{LABELS[measure]} against step. {' '.join(said)}{chance}"


def _drawn(evaluation: xr.Dataset, measure: str) -> list[str]:
    """The first method and the best baseline."""
    if not {"warning", "baseline", "measure"} <= set(evaluation.dims):
        raise AnalysisError("this is no evaluation of early warnings; give what evaluate_warning returns.")
    known = [str(name) for name in evaluation["measure"].values.tolist()]
    if measure not in known:
        raise UnknownNameError(f"no measure is called {measure!r}. {did_you_mean(measure, known)}")
    first, best = str(evaluation["warning"].values[0]), best_baseline(evaluation, measure=measure)
    return [first, best] if best else [first]
