"""Pictures in words: the text alternatives, written from the same results that are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.errors import SelectionError, did_you_mean
from polystab.plots.given import whole_result
from polystab.words import count, listed, number, percent, plural, short_name

# A map has at most so many rows, and a picture of phases.
MAX_ROWS = 30
MAX_PHASE_ROWS = 40

# Single runs are drawn as thin lines as long as the eye can follow them: of one model, and of all.
MAX_THIN = 12
MAX_THIN_IN_ALL = 24

Array = npt.NDArray[Any]

# Variables that are drawn, of each kind of result, and their dimensions.
_Needed = dict[str, tuple[str, ...]]
_PLACE, _CHANGE, _PAIR = ("model", "step", "metric"), ("model", "metric", "change"), ("model", "map_state", "to_state")
BAND: _Needed = {"value": (*_PLACE, "quantile"), "n": _PLACE, "shared": _PLACE}
COVER: _Needed = {
    **dict.fromkeys(("n_runs", "n_steps", "share_model"), ("model",)),
    "share_at": ("model", "step"),
    "share_at_family": ("model", "step", "family"),
}
SCORES: _Needed = {"share_beyond": ("model", "seed"), "share_beyond_at": ("model", "seed", "step")}
STATES: _Needed = {"state": ("model", "seed", "step")}
TRANSITIONS: _Needed = dict.fromkeys(("n_runs", "count", "median_step"), _PAIR)
CHANGES: _Needed = {
    **dict.fromkeys(("n_changes", "n_looked_at"), ("model", "metric")),
    **dict.fromkeys(("step", "lower", "upper", "n_runs"), _CHANGE),
    "member_step": (*_CHANGE, "seed"),
}


def describe_curves(band: xr.Dataset, *, metric: str, models: Sequence[str] | None = None) -> str:
    """What :func:`curves` shows, in words: the text alternative of the picture.

    Parameters
    ----------
    band : xarray.Dataset
        Result of :func:`polystab.analysis.seed_band`.
    metric : str
        Which metric.
    models : sequence of str, optional
        Which models.

    Returns
    -------
    str
        One sentence a model: first and last median, and the middle half at the end.
    """
    band = chosen(band, metric=metric, models=models)
    steps = band["step"].values
    said = []
    for i, name in enumerate(band["model"].values.tolist()):
        low, middle, high = quartiles(band.isel(model=i))
        where = np.flatnonzero(~np.isnan(middle) & band["shared"].values[i, :, 0])
        if not len(where):
            said.append(f"{name}: not measured.")
            continue
        first, last = int(where[0]), int(where[-1])
        n = int(band["n"].values[i, last, 0])
        what = "median" if n > 1 else "value"
        text = f"{name}: {what} {number(middle[first])} at step {count(steps[first])}"
        if last > first:
            text += f", {number(middle[last])} at step {count(steps[last])}"
        if not np.isnan(low[last]):
            text += f" (middle half of {plural(n, 'run')} there: {number(low[last])} to {number(high[last])})"
        said.append(text + ".")
    return " ".join(said)


def legend_title(band: xr.Dataset) -> str:
    """What lines and bands are, with the number of runs where it is the same everywhere."""
    most = band["n"].values.max(axis=(1, 2))
    most = most[most > 0]
    if not len(most) or most.max() == 1:
        return "single runs"
    runs = f"{most.max()} runs" if most.min() == most.max() else f"{most.min()} to {most.max()} runs"
    said = f"median and middle half of {runs}" if most.max() >= 3 else f"median of {runs}"
    return f"{said}; thin lines are single runs" if any(with_thin_lines(band)) else said


def with_thin_lines(band: xr.Dataset) -> list[bool]:
    """For each model, whether its single runs are drawn as well: where they are few enough to be followed."""
    runs = band["n"].values.max(axis=(1, 2))
    return [bool(2 <= n <= MAX_THIN and runs.sum() <= MAX_THIN_IN_ALL) for n in runs.tolist()]


def chosen(band: xr.Dataset, *, metric: str, models: Sequence[str] | None) -> xr.Dataset:
    """The part of a band that is drawn, with a metric dimension of length one."""
    band = whole_result(band, BAND, "seed_band")
    known = [str(name) for name in band["metric"].values.tolist()]
    if metric not in known:
        raise SelectionError(f"no metric is called {metric!r}. {did_you_mean(metric, known)}")
    part = band.isel(metric=[known.index(metric)])
    if models is None:
        return part
    present = [str(name) for name in band["model"].values.tolist()]
    for name in models:
        if name not in present:
            raise SelectionError(f"no model is called {name!r}. {did_you_mean(name, present)}")
    return part.isel(model=[i for i, name in enumerate(present) if name in models])


def quartiles(band: xr.Dataset) -> tuple[Array, Array, Array]:
    """Lower quartile, median and upper quartile of one model and metric, by step."""
    value = band["value"].isel(metric=0)
    low, middle, high = (value.sel(quantile=q).values for q in (0.25, 0.5, 0.75))
    return low, middle, high


def describe_coverage(cover: xr.Dataset, *, limit: int = MAX_ROWS) -> str:
    """What :func:`coverage` shows, in words.

    Parameters
    ----------
    cover : xarray.Dataset
        Result of :func:`polystab.analysis.cube_coverage`.
    limit : int, optional
        As for the picture.

    Returns
    -------
    str
        A sentence on the whole and, for up to ten models, one each.
    """
    cover = whole_result(cover, COVER, "cube_coverage")
    said = [
        f"{plural(cover.sizes['model'], 'model')} by {plural(cover.sizes['step'], 'checkpoint')}; "
        f"{percent(float(cover['share']))} of all cells are measured."
    ]
    shown = shown_models(cover, limit)
    for i in shown[:10]:
        model = cover.isel(model=i)
        said.append(
            f"{model['model'].item()}: {plural(int(model['n_runs']), 'run')}, {plural(int(model['n_steps']), 'step')}, "
            f"{percent(float(model['share_model']))} of its runs × steps × metrics."
        )
    if len(shown) > 10:
        said.append(f"{plural(len(shown) - 10, 'further model')} drawn; the table lists them.")
    if len(shown) < cover.sizes["model"]:
        said.append(f"{plural(cover.sizes['model'] - len(shown), 'model')} not drawn.")
    return " ".join(said)


def shown_models(cover: xr.Dataset, limit: int = MAX_ROWS) -> list[int]:
    """Which models have a row: all, or else those with most runs, in the order of the cube."""
    runs = cover["n_runs"].values
    most = sorted(range(len(runs)), key=lambda i: (-runs[i], i))[:limit]
    return sorted(most)


def describe_outliers(scores: xr.Dataset, *, runs: Sequence[tuple[str, int]]) -> str:
    """What :func:`outliers` shows, in words.

    Parameters
    ----------
    scores : xarray.Dataset
        Result of :func:`polystab.analysis.outlier_scores`.
    runs : sequence of (model, seed)
        The runs drawn.

    Returns
    -------
    str
        For up to five runs: share beyond the threshold, and between which steps.
    """
    scores = whole_result(scores, SCORES, "outlier_scores")
    threshold = f"{scores.attrs['threshold']:g}"
    steps = scores["step"].values
    said = [f"{plural(len(runs), 'run')} by {plural(len(steps), 'checkpoint')}."]
    for (model, seed), (m, s) in zip(list(runs)[:5], run_places(scores, runs)[:5], strict=True):
        run = scores.isel(model=m, seed=s)
        where = np.flatnonzero(run["share_beyond_at"].values > 0)
        text = f"{model} seed {seed}: {percent(float(run['share_beyond']))} of cells beyond {threshold}"
        if len(where):
            text += f", between steps {count(steps[where[0]])} and {count(steps[where[-1]])}"
        said.append(text + ".")
    if len(runs) > 5:
        said.append(f"Further rows: {listed([f'{model} seed {seed}' for model, seed in list(runs)[5:]], 5)}.")
    return " ".join(said)


def run_places(scores: xr.Dataset, runs: Sequence[tuple[str, int]]) -> list[tuple[int, int]]:
    """Positions along model and seed of runs given by name."""
    models, seeds = scores["model"].values.tolist(), scores["seed"].values.tolist()
    return [(models.index(model), seeds.index(seed)) for model, seed in runs]


@dataclass(frozen=True)
class Part:
    """What a component is called in pictures, tables and sentences, and the name of its colour."""

    label: str
    ink: str


PARTS = {
    "model": Part("models", "full"),
    "seed": Part("seeds", "alarm"),
    "items": Part("test items", "muted"),
    "item": Part("items", "teal"),
    "model:item": Part("models × items", "purple"),
    "step": Part("steps", "teal"),
    "model:step": Part("models × steps", "purple"),
    "model:seed": Part("models × seeds", "alarm"),
    "seed:step": Part("checkpoint noise", "ochre"),
    "initialisation": Part("initialisation", "teal"),
    "order": Part("data order", "purple"),
    "interaction": Part("initialisation × order", "ochre"),
    "run": Part("run noise", "alarm"),
    "residual": Part("the rest", "muted"),
}


def describe_shares(fractions: xr.Dataset, *, metric: str) -> str:
    """What :func:`variance_shares` shows, in words.

    Parameters
    ----------
    fractions : xarray.Dataset
        Result of :func:`polystab.analysis.variance_fractions`.
    metric : str
        Which metric.

    Returns
    -------
    str
        A sentence for the first and the last step with a total above zero, and one for the
        step at which the largest part is largest.
    """
    names, shares, steps = stacked(fractions, metric=metric)
    where = np.flatnonzero(~np.isnan(shares).all(axis=0))
    if not len(where):
        return "There is no variance to share out at any step."
    largest = int(np.nanargmax(np.nanmax(shares, axis=1)))
    peak = int(np.nanargmax(shares[largest]))
    said = []
    for i in sorted({int(where[0]), peak, int(where[-1])}):
        parts = [
            f"{PARTS[name].label} {percent(float(share))}"
            for name, share in zip(names, shares[:, i], strict=True)
            if not np.isnan(share)
        ]
        said.append(f"At step {count(steps[i])}: {listed(parts, len(parts))}.")
    return " ".join(said)


def stacked(fractions: xr.Dataset, *, metric: str) -> tuple[list[str], Array, Array]:
    """The parts of the total that are known at some step, their shares (part, step), and the steps."""
    fractions = whole_result(fractions, {"fraction": ("component", "metric", "step")}, "variance_fractions")
    known = [str(name) for name in fractions["metric"].values.tolist()]
    if metric not in known:
        raise SelectionError(f"no metric is called {metric!r}. {did_you_mean(metric, known)}")
    one = fractions["fraction"].isel(metric=known.index(metric)).transpose("component", "step")
    shares = one.values[one["part"].values]
    names = one["component"].values[one["part"].values]
    there = ~np.isnan(shares).all(axis=1)
    return [str(name) for name in names[there]], shares[there], one["step"].values


def state_runs(states: xr.Dataset, models: Sequence[str] | None, limit: int) -> tuple[Array, list[str]]:
    """The states (run, step) of the runs that are drawn, -1 where there is none, and their names."""
    states = whole_result(states, STATES, "fit_training_map(...).states")
    known = [str(name) for name in states["model"].values.tolist()]
    for name in models or ():
        if name not in known:
            raise SelectionError(f"no model is called {name!r}. {did_you_mean(name, known)}")
    table = states["state"].transpose("model", "seed", "step").values
    wanted = [m for m, name in enumerate(known) if models is None or name in models]
    runs = {m: np.flatnonzero((table[m] >= 0).any(axis=1)).tolist() for m in wanted}
    while sum(map(len, runs.values())) > limit:  # take from the model that has most
        runs[max(runs, key=lambda m: len(runs[m]))].pop()
    places = [(m, s) for m, seeds in runs.items() for s in seeds]
    names = [f"{short_name(known[m], 28)} seed {states['seed'].values[s]}" for m, s in places]
    return np.array([table[m, s] for m, s in places]).reshape(len(places), table.shape[2]), names


def describe_change_points(consensus: xr.Dataset) -> str:
    """What :func:`change_points` shows, in words.

    Parameters
    ----------
    consensus : xarray.Dataset
        Result of :func:`polystab.analysis.consensus_change_points`.

    Returns
    -------
    str
        A sentence for each of the first ten models and metrics with a shared change.
    """
    consensus = whole_result(consensus, CHANGES, "consensus_change_points")
    said = []
    for metric, model in ((k, m) for k in range(consensus.sizes["metric"]) for m in range(consensus.sizes["model"])):
        part = consensus.isel(metric=metric, model=model)
        places = [part.isel(change=i) for i in range(int(part["n_changes"]))]
        if places:
            steps = [
                f"{count(float(place['step']))} ({count(int(place['n_runs']))} of {plural(int(part['n_looked_at']), 'seed')})"
                for place in places
            ]
            said.append(f"{part['metric'].item()}, {part['model'].item()}: at step {listed(steps, 8)}.")
    if len(said) > 10:
        said[10:] = [f"{count(len(said) - 10)} further rows."]
    return " ".join(said) or "No change is shared by the seeds of a model."


def describe_map(states: xr.Dataset) -> str:
    """What :func:`map_strips` shows, in words.

    Parameters
    ----------
    states : xarray.Dataset
        ``TrainingMap.states``, or what ``TrainingMap.decode`` gives.

    Returns
    -------
    str
        For each model, how many runs are ever in each state and where they first are.
    """
    states = whole_result(states, STATES, "fit_training_map(...).states")
    table = states["state"].transpose("model", "seed", "step").values
    steps = states["step"].values
    said = [f"{plural(states.sizes['map_state'], 'state')}."]
    for m, model in enumerate(states["model"].values.tolist()[:10]):
        n = int((table[m] >= 0).any(axis=1).sum())
        parts = []
        for k in range(states.sizes["map_state"]):
            here = table[m] == k
            runs = here.any(axis=1)
            if runs.any():
                first = np.median(steps[np.argmax(here[runs], axis=1)])
                parts.append(f"{k} from step {count(first)} ({count(int(runs.sum()))} of {plural(n, 'run')})")
        said.append(f"{model}: state {listed(parts, len(parts))}." if parts else f"{model}: not decoded.")
    if states.sizes["model"] > 10:
        said.append(f"{plural(states.sizes['model'] - 10, 'further model')}.")
    return " ".join(said)


def describe_transitions(transitions: xr.Dataset, *, model: str) -> str:
    """What :func:`transition_graph` shows, in words.

    Parameters
    ----------
    transitions : xarray.Dataset
        Result of :func:`polystab.analysis.maps.reading.state_transitions`.
    model : str
        Which model.

    Returns
    -------
    str
        Every transition between different states: how many runs take it, and when.
    """
    part = whole_result(transitions, TRANSITIONS, "state_transitions").sel(model=model)
    n_runs = part["n_runs"].transpose("map_state", "to_state").values
    when = part["median_step"].transpose("map_state", "to_state").values
    said = [
        f"{a} to {b} in {plural(int(n_runs[a, b]), 'run')} (at step {count(when[a, b])} in the median)"
        for a, b in np.argwhere(n_runs > 0).tolist()
        if a != b
    ]
    return f"{model}: {listed(said, 12)}." if said else f"{model}: no run leaves its state."
