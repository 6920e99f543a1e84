"""A fitted model and what it says of runs, as labelled Datasets; and the notes that go with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, described, labels
from polystab.analysis.maps.choice import Split, Tried
from polystab.analysis.maps.inputs import Rows, Scale
from polystab.analysis.maps.kernels import Decoded, Parameters, decode, packed
from polystab.errors import shown

# Fewer restarts than this share at the best optimum, and other maps fit nearly as well: said in a note.
FEW_AT_OPTIMUM = 0.3

_STATES = {
    "state": "state on the most likely path of the run, -1 where not decoded",
    "state_online": "most likely state given the checkpoints up to there, -1 where not decoded",
    "posterior": "probability of the state given the whole run",
    "posterior_online": "probability of the state given the checkpoints up to there",
    "distance": "root mean square over metrics of the distance to the state's mean, in its standard deviations",
    "log_likelihood": "log-likelihood of the run's checkpoints",
    "n_checkpoints": "checkpoints decoded",
    "n_incomplete": "checkpoints left out because a metric is not measured",
    "n_nonfinite": "checkpoints left out because a metric is infinite",
    "role": "what the run was to the fit: fitted, held out, copy, or empty",
}

_PARAMETERS = {
    "start": "probability of the state at the first checkpoint",
    "transition": "probability of the state at the next checkpoint",
    "mean": "mean of the scaled metric in the state",
    "variance": "variance of the scaled metric in the state",
    "covariance": "covariance of the scaled metrics in the state",
    "centre": "mean of the metric over the reference runs",
    "spread": "standard deviation (ddof 0) of the metric over the reference runs",
}


def labelled_parameters(
    cube: xr.Dataset, rows: Rows, scale: Scale, model: Parameters, attrs: dict[str, Any]
) -> xr.Dataset:
    """The model and the scale of its metrics, with labels."""
    across = ("map_state", "metric")
    data: dict[str, Any] = {
        "start": ("map_state", model.start),
        "transition": (("map_state", "to_state"), model.transition),
        "mean": (across, model.mean),
        "variance": (across, model.variance),
        "centre": (("model", "metric"), scale.centre),
        "spread": (("model", "metric"), scale.spread),
    }
    if model.kind != "diag":
        full = np.broadcast_to(model.covariance, (model.n_states, *model.covariance.shape[-2:]))
        data["covariance"] = ((*across, "other_metric"), np.array(full))
    part = cube.sel(metric=list(rows.metrics))
    result = xr.Dataset(data, coords=labels(part, "model", "metric"), attrs=attrs)
    numbers = np.arange(model.n_states)
    result = result.assign_coords(map_state=numbers, to_state=numbers)
    if "covariance" in result:
        result = result.assign_coords(other_metric=result["metric"].values)
    return described(result, {name: text for name, text in _PARAMETERS.items() if name in result})


def decoded(rows: Rows, z: Floats, model: Parameters, *, joined: bool) -> Decoded:
    """What the model makes of every checkpoint, back at (run, step)."""
    n_run, n_step, n_metric = z.shape
    used = rows.used
    if joined:
        z, used = z.reshape(1, n_run * n_step, n_metric), used.reshape(1, n_run * n_step)
    x, lengths, place = packed(z, used)
    found = decode(x, lengths, model)
    run, time = np.nonzero(place >= 0)
    step = place[run, time]
    path: Ints = np.full(used.shape, -1, dtype=np.int64)
    smoothed = np.full((*used.shape, model.n_states), np.nan)
    filtered = smoothed.copy()
    path[run, step] = found.viterbi[run, time]
    smoothed[run, step], filtered[run, step] = found.smoothed[run, time], found.filtered[run, time]
    shape = (n_run, n_step)
    per_state = (*shape, model.n_states)
    likelihood = np.full(n_run, np.nan) if joined else found.log_likelihood
    return Decoded(path.reshape(shape), smoothed.reshape(per_state), filtered.reshape(per_state), likelihood)


def labelled_states(
    cube: xr.Dataset, rows: Rows, z: Floats, model: Parameters, *, joined: bool, role: list[str] | None = None
) -> xr.Dataset:
    """Decode and put the runs back at their places in the cube."""
    found = decoded(rows, z, model, joined=joined)
    online = np.where(rows.used, np.argmax(np.nan_to_num(found.filtered), axis=2), -1)
    own = np.maximum(found.viterbi, 0)
    away = (z - model.mean[own]) ** 2 / model.variance[own]
    used = rows.used.sum(axis=1)
    shape = (cube.sizes["model"], cube.sizes["seed"])

    def placed(values: Any, fill: Any) -> Any:
        full = np.full((*shape, *np.shape(values)[1:]), fill, dtype=np.asarray(values).dtype)
        full[rows.model, rows.seed] = values
        return full

    run, cell = ("model", "seed"), ("model", "seed", "step")
    result = xr.Dataset(
        {
            "state": (cell, placed(found.viterbi, -1)),
            "state_online": (cell, placed(online.astype(np.int64), -1)),
            "posterior": ((*cell, "map_state"), placed(found.smoothed, np.nan)),
            "posterior_online": ((*cell, "map_state"), placed(found.filtered, np.nan)),
            "distance": (cell, placed(np.sqrt(away.mean(axis=2)), np.nan)),
            "log_likelihood": (run, placed(np.where(used > 0, found.log_likelihood, np.nan), np.nan)),
            "n_checkpoints": (run, placed(used.astype(np.int64), 0)),
            "n_incomplete": (run, placed(rows.incomplete, 0)),
            "n_nonfinite": (run, placed(rows.nonfinite, 0)),
            "role": (run, placed(np.array(role or [""] * rows.n_runs, dtype="U8"), "")),
        },
        coords={**labels(cube, "model", "seed", "step"), "map_state": np.arange(model.n_states)},
        attrs={"n_states": model.n_states},
    )
    return described(result, _STATES)


def roles(rows: Rows, main: Split) -> list[str]:
    fitted, tested = main.fitted_runs, main.tested_runs
    return [
        "fitted" if fit else "held out" if test else "copy" if copy else ""
        for fit, test, copy in zip(fitted, tested, rows.copies, strict=True)
    ]


def notes_on_rows(rows: Rows) -> list[str]:
    notes = []
    left_out = int(rows.incomplete.sum() + rows.nonfinite.sum())
    if left_out:
        notes.append(
            f"{left_out} of {left_out + int(rows.used.sum())} checkpoints are left out: at {int(rows.incomplete.sum())} "
            f"a metric is not measured, at {int(rows.nonfinite.sum())} one is infinite."
        )
    if rows.copies.any():
        notes.append(f"{int(rows.copies.sum())} runs are copies of others and are decoded but not fitted.")
    return notes


def notes_on_fit(tried: Tried, best: int, several: bool, main: Split) -> list[str]:
    notes = []
    line = tried.table.sel(n_states=best)
    refused = tried.table["refused"]
    if (refused != "").any():
        left = tried.table["n_states"].values[refused.values != ""].tolist()
        notes.append(
            f"not fitted for lack of checkpoints: {shown(left, 8)} states ({refused.values[refused.values != ''][0]})."
        )
    if several and best == max(tried.fits):
        notes.append(
            f"{best} states came out best, the most that were tried: the criterion sets no number, and more states "
            "only cut the same drift finer."
        )
    if not bool(line["converged"]):
        notes.append(f"the fit of {best} states did not converge; its states may still move.")
    share = float(line["optimum_share"])
    if best > 1 and share < FEW_AT_OPTIMUM:
        notes.append(
            f"{share:.0%} of the restarts reached the best fit: other maps fit nearly as well, or more restarts find better."
        )
    if int(line["n_unvisited"]):
        notes.append(f"{int(line['n_unvisited'])} of {best} states are visited by no fitted checkpoint.")
    if int(main.fitted_runs.sum()) == 1:
        notes.append("one run is fitted: nothing tells its own ways from those of training.")
    return notes


def note_on_joining(joined: xr.Dataset, apart: xr.Dataset) -> str:
    """What it does to decode all runs as one sequence."""
    changed = int((joined["state"].values != apart["state"].values).sum())
    n = int(joined["n_checkpoints"].sum())
    return (
        f"runs are decoded as one long sequence, as the recipe does; that changes {changed} of {n} states. "
        "decode(cube, one_sequence=False) reads them one by one."
    )
