"""Whether runs answer alike, what their states tell, and what their networks look like: analysed and summed up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.agreement.runs import agreement
from polystab.analysis.arrays import median
from polystab.analysis.representations.angles import probe_angles
from polystab.analysis.representations.codelengths import probe_codelengths
from polystab.analysis.trajectories import seed_band
from polystab.cube.specs import DIMS
from polystab.errors import AnalysisError
from polystab.plots.describe import chosen, describe_curves, quartiles
from polystab.report.bounded import for_agreement

Summary = dict[str, Any]

# Families whose metrics are of the network itself, metrics of each in the table, and tasks of probes with a picture.
NETWORK = ("weight", "activation", "gradient")
MAX_METRICS = 3
MAX_TASKS = 3


@dataclass(frozen=True)
class Networks:
    """Results, None where the cube has nothing to make them of; the bands are what is drawn."""

    agreement: xr.Dataset | None
    kappa: xr.Dataset | None
    no_agreement: str
    agreement_notes: tuple[str, ...]
    probes: xr.Dataset | None
    compression: xr.Dataset | None
    angles: xr.Dataset | None


def analyse_networks(cube: xr.Dataset | xr.DataTree, data: xr.Dataset, *, rng: int) -> Networks:
    """Agreement of answers, codelengths of probes and the angles between them, where the cube has such."""
    found, why, notes = _agreement(cube)
    kappa = None
    if found is not None:
        pooled = found["run_kappa"].sel(comparison="all_pairs", task="pooled")
        kappa = seed_band(_as_cube(pooled, "answer", data))
    probes = compression = None
    if isinstance(cube, xr.DataTree) and "probe" in data["family"].values:
        try:
            probes = probe_codelengths(cube)
        except AnalysisError:
            probes = None  # probes without codelengths: F1 alone, say
    if probes is not None:
        compression = seed_band(_as_cube(probes["compression"].stack(probe=("task", "layer")), "probe", data))
    return Networks(found, kappa, why, notes, probes, compression, _angles(cube, probes, rng))


def _agreement(cube: xr.Dataset | xr.DataTree) -> tuple[xr.Dataset | None, str, tuple[str, ...]]:
    """Agreement of the runs, or why there is none, and what was left out."""
    if not isinstance(cube, xr.DataTree) or "items" not in cube.children:
        return None, "the cube has no answers to single test items", ()
    items = cube["items"].to_dataset()
    steps, notes = for_agreement(items)
    try:
        found = agreement(cube.sel(step=steps) if len(steps) < items.sizes["step"] else cube)
    except AnalysisError as error:
        return None, str(error), ()
    return found, "", notes


def _angles(cube: xr.Dataset | xr.DataTree, probes: xr.Dataset | None, rng: int) -> xr.Dataset | None:
    """Angles between the probes of every two runs at the last step."""
    if probes is None or not isinstance(cube, xr.DataTree) or "probes" not in cube.children:
        return None
    try:
        return probe_angles(cube.isel(step=[-1]), between="seeds", rng=rng)
    except AnalysisError:
        return None  # codelengths without the weights of the probes


def _as_cube(values: xr.DataArray, along: str, data: xr.Dataset) -> xr.Dataset:
    """Values (model, seed, step, along) with the labels of a cube, so that bands can be made and drawn of them."""
    values = values.transpose("model", "seed", "step", along)
    names: npt.NDArray[np.str_] = np.array(
        [
            " layer ".join(map(str, name)) if isinstance(name, tuple) else str(name)
            for name in values[along].values.tolist()
        ],
        dtype=np.str_,
    )
    coords = {dim: values[dim].values for dim in ("model", "seed", "step")} | {"metric": names}
    made = xr.Dataset({"value": (DIMS, np.asarray(values.values, np.float64))}, coords=coords)
    blank = np.full(len(names), "", dtype=np.str_)
    made = made.assign_coords(dict.fromkeys(("family", "subject", "measure", "units", "better"), ("metric", blank)))
    parameters = data["n_parameters"].sel(model=coords["model"]).values if "n_parameters" in data.coords else None
    return made if parameters is None else made.assign_coords(n_parameters=("model", parameters))


def agreement_summary(networks: Networks, models: Sequence[str]) -> Summary:
    """Do runs give the same answers; see :mod:`polystab.report.summary`."""
    found = networks.agreement
    if found is None or networks.kappa is None:
        return {"reason": networks.no_agreement, "notes": [], "rows": [], "picture": None}
    rows = []
    for answer in found["answer"].values.tolist():
        for model in found["model"].values.tolist():
            for task in found["task"].values.tolist():
                here = found.sel(answer=answer, model=model, task=task)
                known = np.flatnonzero(here["agreement"].sel(statistic="all_pairs").notnull().values)
                if len(known):
                    rows.append(_agreement_row(here.isel(step=int(known[-1])), answer, model, task))
    answer = "correct" if "correct" in found["answer"].values else str(found["answer"].values[0])
    drawn = _drawn(networks.kappa, models)
    return {
        "reason": "" if rows else "no two runs of a model answered the same items",
        "level": found.attrs.get("level"),
        "min_runs": found.attrs["min_runs"],
        "notes": list(networks.agreement_notes),
        "rows": rows,
        "picture": {
            "answer": answer,
            "models": drawn,
            "picture": describe_curves(networks.kappa, metric=answer, models=drawn),
        }
        if rows
        else None,
    }


def _agreement_row(here: xr.Dataset, answer: str, model: str, task: str) -> Summary:
    pairs = here.sel(statistic="all_pairs")
    return {
        "answer": answer,
        "model": model,
        "task": task,
        "step": here["step"].item(),
        "n_items": here["n_task_items"].item(),
        **{name: pairs[name].item() for name in ("agreement", "lower", "upper", "p_o", "p_e", "n_runs")},
        "fleiss": here["agreement"].sel(statistic="fleiss").item(),
    }


def _drawn(band: xr.Dataset, models: Sequence[str]) -> list[str]:
    there = band["value"].notnull().any(("step", "metric", "quantile"))
    return [name for name in models if name in there["model"].values and bool(there.sel(model=name))]


def representations_summary(networks: Networks, models: Sequence[str]) -> Summary:
    """What probes read; see :mod:`polystab.report.summary`."""
    probes, band = networks.probes, networks.compression
    if probes is None or band is None:
        return {"rows": [], "pictures": []}
    rows = []
    for task in probes["task"].values.tolist():
        for model in probes["model"].values.tolist():
            for layer in probes["layer"].values.tolist():
                row = _probe_row(band, networks.angles, task, model, layer)
                if row is not None:
                    rows.append(row)
    pictures: list[Summary] = []
    for task, members in groupby(rows, key=lambda row: str(row["task"])):
        own = list(members)
        # The layer that is read best in the last model, the largest as a rule.
        best = max((row for row in own if row["model"] == own[-1]["model"]), key=lambda row: float(row["compression"]))
        metric = f"{task} layer {best['layer']}"
        drawn = _drawn(band.sel(metric=[metric]), models)
        if drawn and len(pictures) < MAX_TASKS:
            said = describe_curves(band, metric=metric, models=drawn)
            pictures.append({"metric": metric, "models": drawn, "picture": said})
    return {"rows": rows, "pictures": pictures}


def _probe_row(band: xr.Dataset, angles: xr.Dataset | None, task: str, model: str, layer: int) -> Summary | None:
    """One layer at the last step at which it was measured."""
    part = chosen(band, metric=f"{task} layer {layer}", models=[model]).isel(model=0)
    low, middle, high = quartiles(part)
    known = np.flatnonzero(~np.isnan(middle))
    if not len(known):
        return None
    t = int(known[-1])
    row: Summary = {
        "task": task, "model": model, "layer": layer, "step": part["step"].values[t], "n_runs": part["n"].values[t, 0],
        "compression": middle[t], "lower": low[t], "upper": high[t], "angle": None, "expected": None,
    }  # fmt: skip
    if angles is not None and task in angles["task"].values and layer in angles["layer"].values:
        between = angles["mean_angle"].sel(model=model, task=task, layer=layer).values.reshape(-1)
        row |= {
            "angle": median(between, axis=0).item(),
            "expected": angles["expected"].sel(model=model, task=task).item(),
        }
    return row


def network_summary(band: xr.Dataset, spread: xr.Dataset, ranked: xr.Dataset, models: Sequence[str]) -> Summary:
    """Weights, activations and gradients; see :mod:`polystab.report.summary`."""
    order = ranked.isel(metric=np.argsort(ranked["rank"].values))
    families = []
    for family in NETWORK:
        mine = order["metric"].values[order["family"].values == family].tolist()
        moving = [name for name in mine if bool(ranked["signal"].sel(metric=name).notnull())]
        if mine:
            # One metric of each measure: the first would all be of the same.
            kinds = {str(ranked["measure"].sel(metric=name).item()): name for name in reversed(moving or mine)}
            shown = sorted(kinds.values(), key=(moving or mine).index)[:MAX_METRICS]
            picture = moving[0] if moving else ""
            families.append(
                {
                    "family": family,
                    "metrics": len(mine),
                    "rows": [row for name in shown for row in _ends(band, spread, name, models)],
                    "metric": picture,
                    "picture": describe_curves(band, metric=picture, models=models) if picture else "",
                }
            )
    return {
        "models": list(models),
        "families": families,
        "lacking": [name for name in NETWORK if name not in [f["family"] for f in families]],
    }


def _ends(band: xr.Dataset, spread: xr.Dataset, metric: str, models: Sequence[str]) -> list[Summary]:
    """First and last median of a metric, and the spread over seeds at the end, by model."""
    rows = []
    for model in models:
        part = chosen(band, metric=metric, models=[model]).isel(model=0)
        middle = quartiles(part)[1]
        known = np.flatnonzero(~np.isnan(middle) & part["shared"].values[:, 0])
        if len(known):
            first, last = int(known[0]), int(known[-1])
            rows.append(
                {
                    "metric": metric,
                    "model": model,
                    "first_step": part["step"].values[first],
                    "first": middle[first],
                    "last_step": part["step"].values[last],
                    "last": middle[last],
                    "sd": spread["sd_c4"].sel(model=model, metric=metric).item(),
                }
            )
    return rows
