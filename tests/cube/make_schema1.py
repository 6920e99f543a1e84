"""Writes ``data/schema1.nc``, a tiny cube as schema 1 has it: run it only to see how that file was made.

The file itself is what the tests open: a cube of schema 1 opens for ever, whatever today's code writes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import polystab as ps
from polystab.cube.audit import AuditLog

FILE = Path(__file__).parent / "data" / "schema1.nc"


def schema1_tree() -> xr.DataTree:
    """One model, two seeds, three steps, two metrics, an audit and items."""
    rows = [
        {
            "model": "tiny",
            "seed": seed,
            "step": step,
            "metric": metric,
            "value": number + seed / 10 + step / 1000,
            "stderr": 0.25,
            "units": "1",
            "weight_seed": 7 + seed,
            "n_parameters": 1000,
        }
        for number, metric in enumerate(("eval/arc_easy@5shot/acc", "loss/validation/cross_entropy"))
        for seed in (0, 1)
        for step in (0, 10, 20)
        if (seed, step) != (1, 20)
    ]
    cube = ps.cube_from_records(pd.DataFrame(rows), title="a cube of schema 1", created="2026-11-22T00:00:00+00:00")
    log = AuditLog()
    log.read("a.json", sha256="ab" * 32)
    log.refuse("b.json", "label-mismatch", "says pythia-70m")
    items = xr.Dataset(
        {
            "correct": (("model", "seed", "step", "item"), np.array([[[[1, 0]] * 3, [[0, -1]] * 3]])),
            "task": (("item",), np.array(["arc_easy", "arc_easy"])),
            "doc_hash": (("item",), np.array(["h0", "h1"])),
        }
    )
    return xr.DataTree.from_dict({"/": cube, "/audit": log.dataset(), "/items": items})


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    ps.save_cube(schema1_tree(), FILE)
