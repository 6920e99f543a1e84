"""What is no outlier run: glitches, events that all runs share, and whose spikes the spikes of a loss are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, cells, described, divided, finite, labels, median
from polystab.analysis.audit.runs import counted_cells, first_alike
from polystab.analysis.failures import loss_spikes
from polystab.analysis.segments.glitches import glitches
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, UnknownNameError, did_you_mean

#: (window, standard deviations) by name: the rule of the OLMo-core StabilityMonitor, and that of the OLMo 2 report.
SPIKE_RULES = {"6 sd of 128": (128, 6.0), "7 sd of 1000": (1000, 7.0)}

# Series looked for glitches at once.
_CHUNK = 4_000


def shared_events(cube: xr.Dataset | xr.DataTree, *, share: float = 0.5) -> xr.Dataset:
    """Isolated bad checkpoints: those of one run alone, and those of most runs at the same step.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    share : float, optional
        An event is shared if at least this share of the runs measured there (two or more) have it.

    Returns
    -------
    xarray.Dataset
        ``shared(model, step, metric)``, bool; ``glitch(model, seed, step, metric)``, bool, of
        this run and not shared; ``n_glitches(model, seed)`` and ``n_shared(model)``.

    Raises
    ------
    AnalysisError
        ``share`` does not lie above 0 up to 1.

    Notes
    -----
    One or two checkpoints off in one direction while the three before and the three after agree,
    by more than 3.5 robust standard deviations of the curve's differences. A shared event is
    looked for in the curves, a glitch in their deviations from the siblings' median. Neither makes
    an outlier run. What lasts longer than two checkpoints is neither, nor are the first and last two
    points. NaN is passed over. Copies do not count among the runs that share an event.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis.outliers.events import shared_events
    >>> cube = polystab.testing.synthetic_cube(
    ...     n_models=1, events=[polystab.testing.Event.glitch(2, 63_000)], rng=0)
    >>> found = shared_events(cube)
    >>> int(found["n_glitches"].argmax("seed")[0]), int(found["n_shared"].sum())
    (2, 0)
    """
    if not 0 < share <= 1:
        raise AnalysisError(f"share is {share}; it must lie above 0 up to 1.")
    cube = as_cube(cube)
    values, counted = finite(cells(cube)), finite(counted_cells(cube)[0])
    known = ~np.isnan(counted)
    n_with = np.sum(curve_glitches(counted) & known, axis=1)
    shared: Bools = (n_with >= 2) & (n_with >= share * known.sum(axis=1))
    alone = (
        curve_glitches(values - median(counted, axis=1)[:, None]) & ~shared[:, None] & (known.sum(axis=1) > 2)[:, None]
    )
    result = xr.Dataset(
        {
            "shared": (("model", "step", "metric"), shared),
            "glitch": (("model", "seed", "step", "metric"), alone),
            "n_glitches": (("model", "seed"), alone.sum(axis=(2, 3))),
            "n_shared": ("model", shared.sum(axis=(1, 2))),
        },
        coords=labels(cube, "model", "seed", "step", "metric"),
    )
    return described(
        result,
        {
            "shared": "most runs are off at this checkpoint and at no neighbour",
            "glitch": "this run alone is off at this checkpoint and at no neighbour",
            "n_glitches": "glitches of the run, over steps and metrics",
            "n_shared": "shared events of the model, over steps and metrics",
        },
    )


def curve_glitches(values: Floats) -> Bools:
    """Glitches of the curves along axis 2 of (model, seed, step, metric)."""
    rows = np.moveaxis(values, 2, 3)
    flat = rows.reshape(-1, values.shape[2], 1)
    found = [glitches(flat[begin : begin + _CHUNK]) for begin in range(0, len(flat), _CHUNK)]
    joined = np.concatenate(found) if found else np.zeros(flat.shape[:2], dtype=np.bool_)
    return np.asarray(np.moveaxis(joined.reshape(rows.shape), 3, 2))


def spike_scores(
    cube: xr.Dataset | xr.DataTree, *, metric: str | None = None, share: float = 0.5, within: int = 4
) -> xr.Dataset:
    """How often the loss of each run spikes, and how many of these spikes its siblings have too.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A tree with the group ``log`` (``loss(model, seed, update)``), or a cube whose steps are single updates.
    metric : str, optional
        The loss in the cube; by default that of the log, or else the first metric of family ``loss``.
    share : float, optional
        A spike is shared if at least this share of the siblings that are measured there have one too.
    within : int, optional
        At most so many updates away.

    Returns
    -------
    xarray.Dataset
        Per run and rule (model, seed, rule): ``n_spikes`` updates that spike, ``n_shared`` of
        these, ``n_own`` the others, ``first_own`` the first of those (-1 for none), and
        ``spike_score``, spikes per update that could be one (NaN with none).

    Raises
    ------
    AnalysisError
        There is no loss, or a number is out of range.
    UnknownNameError
        The cube has no such metric.

    Notes
    -----
    The rules: 6 standard deviations over the mean of the previous 128 values, and 7 over 1,000
    (:func:`polystab.analysis.loss_spikes`). A spike at the same update in most runs of one recipe
    comes from the data, and says nothing about a run. A run without siblings shares none.
    Updates at which no run of a model is measured are passed over. Copies are looked at, but are nobody's siblings.

    References
    ----------
    OLMo Team (2025). 2 OLMo 2 Furious. https://arxiv.org/abs/2501.00656

    Examples
    --------
    >>> import numpy as np, pandas as pd, polystab as ps
    >>> loss = 3 + 0.01 * np.random.default_rng(0).normal(size=(3, 300))
    >>> loss[:, 200] += 1  # the data
    >>> loss[1, 250] += 1  # the run
    >>> cube = ps.cube_from_records(pd.DataFrame({
    ...     "model": "a", "seed": np.repeat(range(3), 300), "step": np.tile(range(300), 3),
    ...     "metric": "loss/train/ce", "value": loss.ravel()}))
    >>> found = spike_scores(cube).isel(model=0).sel(rule="6 sd of 128")
    >>> found["n_shared"].values.tolist(), found["first_own"].values.tolist()
    ([1, 1, 1], [-1, 250, -1])
    """
    if not 0 < share <= 1 or within < 0:
        raise AnalysisError(f"share is {share} and within {within}; they lie above 0 up to 1, and not below 0.")
    loss, updates = _loss(cube, metric)
    data = as_cube(cube)
    copies = _copied_curves(loss)
    shape = (*loss.shape[:2], len(SPIKE_RULES))
    columns: dict[str, npt.NDArray[Any]] = {
        name: np.zeros(shape, dtype=np.int64) for name in ("n_spikes", "n_shared", "n_own")
    }
    columns["first_own"] = np.full(shape, -1, dtype=np.int64)
    columns["spike_score"] = np.full(shape, np.nan)
    for m, model in enumerate(loss):
        seen = ~np.isnan(model).all(axis=0)
        curves, at = model[:, seen], updates[seen]
        for r, (window, sd) in enumerate(SPIKE_RULES.values()):
            spikes = loss_spikes(curves, window=window, sd=sd)
            shared = spikes & _shared(spikes, np.isfinite(curves), ~copies[m], share, within)
            own = spikes & ~shared
            columns["n_spikes"][m, :, r] = spikes.sum(axis=1)
            columns["n_shared"][m, :, r] = shared.sum(axis=1)
            columns["n_own"][m, :, r] = own.sum(axis=1)
            if own.size:
                columns["first_own"][m, :, r] = np.where(own.any(axis=1), at[own.argmax(axis=1)], -1)
            could = np.isfinite(curves[:, window:]).sum(axis=1)
            columns["spike_score"][m, :, r] = divided(spikes.sum(axis=1), could)
    result = xr.Dataset(
        {name: (("model", "seed", "rule"), column) for name, column in columns.items()},
        coords={**labels(data, "model", "seed"), "rule": list(SPIKE_RULES)},
    )
    return described(
        result,
        {
            "n_spikes": "updates whose loss spikes",
            "n_shared": "of these, updates at which most siblings spike too",
            "n_own": "spikes of this run alone",
            "first_own": "first update with a spike of this run alone, -1 for none",
            "spike_score": "spikes per update that could be one",
        },
    )


def _loss(cube: xr.Dataset | xr.DataTree, metric: str | None) -> tuple[Floats, Ints]:
    """Losses (model, seed, update) and the updates."""
    if metric is None and isinstance(cube, xr.DataTree) and "log" in cube.children:
        log = cube["log"].to_dataset()
        if "loss" not in log:
            raise AnalysisError("the group 'log' has no variable 'loss'.")
        return np.asarray(log["loss"].transpose("model", "seed", "update").values, np.float64), log["update"].values
    data = as_cube(cube)
    names = data["metric"].values.tolist()
    if metric is None:
        family = data["family"].values if "family" in data.coords else np.full(len(names), "")
        losses = [name for name, of in zip(names, family.tolist(), strict=True) if of == "loss"]
        if not losses:
            raise AnalysisError("no metric of family 'loss' and no group 'log' with the loss; name a metric.")
        metric = str(losses[0])
    if metric not in names:
        raise UnknownNameError(f"no metric is called {metric!r}. {did_you_mean(metric, names)}")
    return cells(data)[..., names.index(metric)], data["step"].values


def _copied_curves(loss: Floats) -> Bools:
    """Curves (model, seed) that repeat an earlier one of the model."""
    return np.asarray(first_alike(loss) != np.arange(loss.shape[1]))


def _shared(spikes: Bools, known: Bools, counts: Bools, share: float, within: int) -> Bools:
    """Where enough of the other runs (run, update) have a spike at most ``within`` updates away."""
    near = spikes.copy()
    for shift in range(1, within + 1):
        near[:, shift:] |= spikes[:, :-shift]
        near[:, :-shift] |= spikes[:, shift:]
    near, known = near & known & counts[:, None], known & counts[:, None]
    others = known.sum(axis=0) - known
    having = near.sum(axis=0) - near
    return np.asarray((others > 0) & (having >= share * others))
