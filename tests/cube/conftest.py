"""Small cubes for the tests of the floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import polystab as ps
from polystab.cube.audit import AuditLog

CREATED = "2026-01-31T12:00:00+00:00"


@pytest.fixture
def records() -> pd.DataFrame:
    """2 models x 3 seeds x 2 steps x 2 metrics with a standard error and what is known about them."""
    rows = [
        {
            "model": model,
            "seed": seed,
            "step": step,
            "metric": metric,
            "value": 0.1 + 0.01 * seed + step / 10_000 + (0.2 if model == "pythia-1b" else 0.0),
            "stderr": 0.01 + 0.001 * seed,
            "units": "1" if metric.endswith("acc") else "nats",
            "n_parameters": 1_000_000_000 if model == "pythia-1b" else 70_000_000,
            "weight_seed": 100 + seed,
            "run_name": f"run-{seed}",
            "tokens": step * 2_097_152,
        }
        for model in ("pythia-1b", "pythia-70m")
        for seed in range(3)
        for step in (0, 1000)
        for metric in ("eval/arc_easy/acc", "loss/validation/cross_entropy")
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def cube(records: pd.DataFrame) -> xr.Dataset:
    return ps.cube_from_records(records, title="test", created=CREATED)


@pytest.fixture
def tree(cube: xr.Dataset) -> xr.DataTree:
    """A cube with an audit of three files, and a nested group of details."""
    log = AuditLog()
    log.read("a.json", sha256="aa")
    log.refuse("b.json", "label-mismatch", "says pythia-70m", sha256="bb")
    log.replace("c.json", "latest", {"pythia-70m|0|0|eval/arc_easy/acc": 0.5}, by="a.json", sha256="cc")
    spectra = xr.Dataset({"singular": (("model", "rank"), np.arange(6.0).reshape(2, 3))})
    return xr.DataTree.from_dict({"/": cube, "/audit": log.dataset(), "/spectra/layers.0": spectra})


Make = Callable[..., xr.Dataset]


@pytest.fixture
def one() -> Make:
    """Makes a cube of few cells: one(0.5, seed=3, stderr=0.1, created=...)."""

    def make(value: Any = 0.5, **columns: Any) -> xr.Dataset:
        attrs = {name: str(columns.pop(name)) for name in ("title", "created", "history") if name in columns}
        base = {"model": "m", "seed": 0, "step": 10, "metric": "eval/arc/acc", "value": value}
        frame = pd.DataFrame({**base, **columns}, index=[0] if np.isscalar(value) else range(len(value)))
        return ps.cube_from_records(frame, **{"created": CREATED, **attrs})

    return make
