"""Cubes that make every section of a report say something. A module and not a conftest, of which only one may be collected."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import xarray as xr

import polystab as ps
import polystab.testing
from polystab.cube.audit import AuditLog

SCRIPT = "<script>alert('1')</script>&\"`|*_$x$\n\x07"


@cache
def plain_cube() -> xr.Dataset:
    return polystab.testing.synthetic_cube(n_models=3, n_seeds=5, rng=0)


@cache
def spoiled_tree() -> xr.DataTree:
    """A cube with a copied run, a diverged run, and an audit with every status."""
    cube = plain_cube()
    value = cube["value"].values.copy()
    value[0, 3] = value[0, 1]
    value[1, 2, -2:] = np.inf
    log = AuditLog()
    for i in range(40):
        log.read(f"runs/read{i}.json")
    for i in range(12):
        log.refuse(f"runs/bad{i:02d}.json", "label-mismatch", f"the path says seed {i}, the content says seed 0")
    log.refuse("runs/cut.json", "invalid-json", "not JSON: it ends in the middle")
    log.replace("runs/old.json", "latest", {"toy|0|1|eval/x/acc": 0.5}, by="runs/new.json")
    log.note("runs/odd.json", "path-ambiguous", "read as the content says")
    spoiled = cube.assign(value=(cube["value"].dims, value, cube["value"].attrs))
    return xr.DataTree.from_dict({"/": spoiled, "/audit": log.dataset()})


@cache
def single_runs() -> xr.Dataset:
    """Two models with one run each."""
    rows = [
        {
            "model": model,
            "seed": 0,
            "step": step,
            "metric": f"eval/{task}/acc",
            "value": step / 1000 + i,
            "stderr": 0.01,
        }
        for i, model in enumerate(("pythia-70m", "pythia-160m"))
        for step in (0, 10, 100, 1000)
        for task in ("a", "b")
    ]
    return ps.cube_from_records(pd.DataFrame(rows), created="2026-01-01T00:00:00+00:00")


@cache
def hostile_tree() -> xr.DataTree:
    """Markup wherever a name can stand."""
    name = SCRIPT.replace("/", "")
    rows = [
        {"model": f"m{SCRIPT}", "seed": s, "step": t, "metric": f"eval/{name}/{name}", "value": s + t, "units": SCRIPT, "run_name": f"{SCRIPT}{s}"}
        for s in range(4)
        for t in (0, 10, 100)
    ]  # fmt: skip
    rows[-1]["value"] = 1e9
    texts = dict.fromkeys(("title", "summary", "source", "license", "references", "history"), SCRIPT)
    made = ps.cube_from_records(pd.DataFrame(rows), created="2026-01-01T00:00:00+00:00", **texts)
    log = AuditLog()
    log.refuse(SCRIPT, SCRIPT, SCRIPT)
    log.replace(SCRIPT, SCRIPT, {SCRIPT: 1.0}, by=SCRIPT)
    log.note(SCRIPT, SCRIPT, SCRIPT)
    return xr.DataTree.from_dict({"/": made, "/audit": log.dataset()})
