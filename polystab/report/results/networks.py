"""Whether runs answer alike, and what probes read in their states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.agreement.runs import agreement
from polystab.analysis.representations.angles import probe_angles
from polystab.analysis.representations.codelengths import probe_codelengths
from polystab.analysis.trajectories import seed_band
from polystab.cube.specs import DIMS
from polystab.errors import AnalysisError
from polystab.report.results.bounded import for_agreement


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
        kappa = seed_band(_as_cube(pooled, "answer", "Cohen's kappa", data))
    probes = compression = None
    if isinstance(cube, xr.DataTree) and "probe" in data["family"].values:
        try:
            probes = probe_codelengths(cube)
        except AnalysisError:
            probes = None  # probes without codelengths: F1 alone, say
    if probes is not None:
        compression = seed_band(
            _as_cube(probes["compression"].stack(probe=("task", "layer")), "probe", "compression", data)
        )
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


def _as_cube(values: xr.DataArray, along: str, measure: str, data: xr.Dataset) -> xr.Dataset:
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
    made = made.assign_coords(dict.fromkeys(("family", "subject", "units", "better"), ("metric", blank)))
    made = made.assign_coords(measure=("metric", np.full(len(names), measure)))
    parameters = data["n_parameters"].sel(model=coords["model"]).values if "n_parameters" in data.coords else None
    return made if parameters is None else made.assign_coords(n_parameters=("model", parameters))
