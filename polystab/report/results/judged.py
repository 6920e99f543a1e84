"""Which data to distrust and which runs: the audit and the verdicts on runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from polystab.analysis.audit.checks import audit_cube
from polystab.analysis.outliers.events import shared_events
from polystab.analysis.outliers.leads import lead_lag
from polystab.analysis.outliers.verdicts import outlier_runs
from polystab.report.results.bounded import Searched, for_judging

# Rotations behind the verdicts.
DRAWS = 499


@dataclass(frozen=True)
class Judged:
    """The findings of the audit, the verdicts, who moved first, events; and what part of the cube was looked at."""

    searched: Searched
    findings: xr.Dataset
    verdicts: xr.Dataset
    leads: xr.Dataset
    events: xr.Dataset


def judge(cube: xr.Dataset | xr.DataTree, data: xr.Dataset, ranked: Sequence[str], *, rng: int) -> Judged:
    """Audit a cube and judge its runs.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A tree brings along what was noted on reading.
    data : xarray.Dataset
        The cube itself, in memory.
    ranked : sequence of str
        All metrics, those to look at first where there are too many first.
    rng : int
        Of the verdicts.
    """
    searched = for_judging(data, ranked)
    part = searched.cube
    if isinstance(cube, xr.DataTree) and "audit" in cube.children:
        audited = xr.DataTree.from_dict({"/": part, "/audit": cube.children["audit"].to_dataset(inherit=False)})
        findings = audit_cube(audited)
    else:
        findings = audit_cube(part)
    verdicts = outlier_runs(part, draws=DRAWS, rng=rng)
    by = "family" if "family" in verdicts.coords and len(np.unique(verdicts["family"].values)) > 1 else "metric"
    return Judged(searched, findings, verdicts, lead_lag(verdicts, by=by), shared_events(part))
