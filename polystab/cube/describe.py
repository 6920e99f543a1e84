"""What is in a cube, as facts and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.cube.parts import chunk_along, value_parts
from polystab.cube.specs import DIMS
from polystab.cube.validate import as_cube
from polystab.errors import printable
from polystab.redaction import without_secrets_in

# Bytes of values that are all read to describe a cube, and how many are read of a larger one. A GiB takes seconds.
READ_WHOLE, READ_SOME = 2**30, 2**28


def fullness(cube: xr.Dataset | xr.DataTree) -> float:
    """The share of a cube's cells that are measured.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        With ``value(model, seed, step, metric)``.

    Returns
    -------
    float
        Between 0 and 1. A run that does not exist counts as unmeasured: the grid has to
        have room for it. One seed is fine.

    Raises
    ------
    NotACubeError
        There is no variable ``value``.

    Examples
    --------
    >>> import pandas as pd, polystab as ps
    >>> from polystab.cube.describe import fullness
    >>> fullness(ps.cube_from_records(pd.DataFrame({
    ...     "model": "a", "seed": [0, 1], "step": [0, 5], "metric": "loss/train/cross_entropy", "value": 3.0})))
    0.5
    """
    return float(as_cube(cube)["value"].notnull().mean())


def coverage_sentence(cube: xr.Dataset | xr.DataTree) -> str:
    """One sentence that tells how many runs a cube has and how full it is.

    Examples
    --------
    >>> import pandas as pd, polystab as ps
    >>> from polystab.cube.describe import coverage_sentence
    >>> coverage_sentence(ps.cube_from_records(pd.DataFrame({
    ...     "model": "a", "seed": [0, 1], "step": [0, 5], "metric": "loss/train/cross_entropy", "value": 3.0})))
    '2 runs; 2 of 4 cells (1 model x 2 seeds x 2 steps x 1 metric) are measured, 50 %.'
    """
    measured = as_cube(cube)["value"].notnull()
    runs = int(measured.any(("step", "metric")).sum())
    sizes = " x ".join(_count(measured.sizes[dim], dim) for dim in DIMS)
    count = int(measured.sum())
    return f"{_count(runs, 'run')}; {count:,} of {measured.size:,} cells ({sizes}) are measured, {_percent(count, measured.size)} %."


def cube_facts(cube: xr.Dataset | xr.DataTree) -> dict[str, Any]:
    """What ``polystab info --json`` prints: labels, families, how full the cube is.

    Returns
    -------
    dict
        ``dims`` (name -> length), ``models``, ``seeds``, ``steps``, ``families`` and
        ``metrics`` (lists of labels), ``coverage`` (share of all cells that are measured),
        ``coverage_by_family``, ``runs`` (per model, the seeds that have any value),
        ``looked_at`` (how many metrics these three are told from), ``groups`` (detail groups)
        and ``attrs``.

    Notes
    -----
    Values of up to 1 GiB are all looked at. Of a larger cube some metrics are, evenly spaced and at least one of
    every family, so that the answer comes in seconds; :func:`polystab.analysis.cube_coverage` counts all.
    """
    data = as_cube(cube)
    looked = looked_at(data)
    by_metric, present = _measured(data, looked)
    family = data["family"].values[looked]
    families = list(dict.fromkeys(data["family"].values.tolist()))
    seeds = data["seed"].values.tolist()
    return {
        "dims": {dim: data.sizes[dim] for dim in DIMS},
        "models": data["model"].values.tolist(),
        "seeds": seeds,
        "steps": data["step"].values.tolist(),
        "families": families,
        "metrics": data["metric"].values.tolist(),
        "coverage": float(by_metric.mean()),
        "coverage_by_family": {name: float(by_metric[family == name].mean()) for name in families},
        "runs": {
            str(model): [seed for seed, there in zip(seeds, row.tolist(), strict=True) if there]
            for model, row in zip(data["model"].values, present, strict=True)
        },
        "looked_at": len(looked),
        "groups": sorted(cube.children) if isinstance(cube, xr.DataTree) else [],
        "attrs": {
            str(name): value.item() if isinstance(value, np.generic) else without_secrets_in(value)
            for name, value in data.attrs.items()
        },
    }


def looked_at(cube: xr.Dataset) -> npt.NDArray[np.intp]:
    """Positions of the metrics that :func:`cube_facts` reads."""
    n = cube.sizes["metric"]
    each = 8 * math.prod(cube.sizes[dim] for dim in DIMS if dim != "metric")
    if n * each <= READ_WHOLE:
        return np.arange(n)
    # Every one of them takes the chunk of the file that it lies in.
    some = max(READ_SOME // (each * chunk_along(cube["value"], "metric")), 2)
    firsts = np.unique(cube["family"].values.astype(np.str_), return_index=True)[1]
    return np.union1d(np.linspace(0, n - 1, min(some, n)).round().astype(np.intp), firsts)


def _measured(cube: xr.Dataset, looked: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Share of measured cells of every metric looked at, and which runs (model, seed) have any value in them."""
    present = np.zeros((cube.sizes["model"], cube.sizes["seed"]), dtype=np.bool_)
    shares = []
    whole = len(looked) == cube.sizes["metric"]
    one_by_one = ((k, cube["value"].isel(metric=slice(k, k + 1)).transpose(*DIMS).values) for k in looked.tolist())
    for _, values in value_parts(cube) if whole else one_by_one:
        measured = ~np.isnan(values)
        present |= measured.any(axis=(2, 3))
        shares.append(measured.mean(axis=(0, 1, 2)))
    return np.concatenate(shares), present


def cube_text(facts: Mapping[str, Any]) -> str:
    """The facts of :func:`cube_facts` for a person."""
    metrics = [metric.split("/", 1)[0] for metric in facts["metrics"]]
    steps = facts["steps"]
    runs = ", ".join(f"{model} ({_count(len(seeds), 'seed')})" for model, seeds in facts["runs"].items())
    looked, n_metric = facts["looked_at"], len(metrics)
    about = "" if looked == n_metric else "about "
    of_some = f", seen in {looked:,} of {n_metric:,} metrics: it is large" if about else ""
    families = ", ".join(
        f"{name} ({_count(metrics.count(name), 'metric')}, {about}{100 * facts['coverage_by_family'][name]:.3g} % measured)"
        for name in facts["families"]
    )
    lines = {
        "title": facts["attrs"].get("title") or "(untitled)",
        "size": " x ".join(_count(size, dim) for dim, size in facts["dims"].items()),
        "runs": runs,
        "steps": f"{steps[0]:,} to {steps[-1]:,}" if len(steps) > 1 else f"{steps[0]:,}",
        "families": families,
        "measured": f"{about}{100 * facts['coverage']:.3g} % of all cells{of_some}",
        "groups": ", ".join(facts["groups"]) or "none",
        **{name: facts["attrs"][name] for name in ("source", "license", "created") if facts["attrs"].get(name)},
    }
    return printable("\n".join(f"{name + ':':<10} {text}" for name, text in lines.items()))


def _percent(part: int, whole: int) -> str:
    """Two digits, and 100 or 0 only where it is exactly that."""
    share = 100 * part / whole
    if part == whole:
        return "100"
    return f"{min(share, 99.9):.3g}" if share > 99 else f"{share:.2g}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
