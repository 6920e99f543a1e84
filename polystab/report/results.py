"""Everything the report says, computed once by the analyses."""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

from polystab.analysis.audit import duplicate_runs
from polystab.analysis.coverage import cube_coverage, fingerprint
from polystab.analysis.outliers import outlier_scores
from polystab.analysis.trajectories import pick_models, rank_metrics, seed_band
from polystab.analysis.variance import seed_spread, spread_overview
from polystab.cube.audit import AuditEntry, audit_entries
from polystab.cube.validate import as_cube, check_cube

# More lines than this in one panel cannot be told apart.
MAX_MODELS = 10

MAX_PANELS = 12


@dataclass(frozen=True)
class Results:
    """A cube and what the analyses say of it; see the functions that fill each field."""

    cube: xr.Dataset
    audit: tuple[AuditEntry, ...] | None
    fingerprint: str
    cover: xr.Dataset
    copies: xr.Dataset
    band: xr.Dataset
    spread: xr.Dataset
    overview: xr.Dataset
    scores: xr.Dataset
    ranked: xr.Dataset
    panels: tuple[str, ...]
    models: tuple[str, ...]


# Of the simulation of what chance puts beyond the threshold; the page says it.
CHANCE_RNG = 0


def analyse(cube: xr.Dataset | xr.DataTree) -> Results:
    """Run every analysis of the report on a cube.

    Raises
    ------
    NotACubeError
        The argument is no cube.
    InvalidCubeError
        It breaks a rule of the cube; every violation is listed.
    """
    data = as_cube(cube).compute()
    check_cube(data)
    spread = seed_spread(data)
    ranked = rank_metrics(data)
    return Results(
        cube=data,
        audit=tuple(audit_entries(cube)) if isinstance(cube, xr.DataTree) and "audit" in cube.children else None,
        fingerprint=fingerprint(data),
        cover=cube_coverage(data),
        copies=duplicate_runs(data),
        band=seed_band(data),
        spread=spread,
        overview=spread_overview(spread, movement=ranked["movement"]),
        scores=outlier_scores(data, rng=CHANCE_RNG),
        ranked=ranked,
        panels=_panels(ranked),
        models=tuple(pick_models(spread, limit=MAX_MODELS)),
    )


def _panels(ranked: xr.Dataset) -> tuple[str, ...]:
    """The metrics that get a panel, in order of their rank: those with more than one step."""
    ordered = ranked.isel(metric=ranked["rank"].argsort().values)
    names = ordered["metric"].values[ordered["signal"].notnull().values]
    return tuple(str(name) for name in names[:MAX_PANELS])
