"""Everything the report says, computed once by the analyses."""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

from polystab.analysis.audit.runs import duplicate_runs
from polystab.analysis.components.at_end import final_components
from polystab.analysis.components.fractions import variance_fractions
from polystab.analysis.components.split import variance_components
from polystab.analysis.coverage import cube_coverage, fingerprint
from polystab.analysis.failures import failed_runs
from polystab.analysis.maps.inputs import hu2023_metrics
from polystab.analysis.maps.reading import state_transitions
from polystab.analysis.outliers.scores import outlier_scores
from polystab.analysis.phases.consensus import consensus_change_points
from polystab.analysis.phases.curves import change_points
from polystab.analysis.training_maps import TrainingMap, fit_training_map
from polystab.analysis.trajectories import pick_models, rank_metrics, seed_band
from polystab.analysis.variance import seed_spread, spread_overview
from polystab.cube.audit import AuditEntry, audit_entries
from polystab.cube.validate import as_cube, check_cube
from polystab.errors import AnalysisError
from polystab.report.bounded import Searched, for_changes, for_map
from polystab.report.judged import Judged, judge
from polystab.report.networks import Networks, analyse_networks

# More lines than this in one panel cannot be told apart.
MAX_MODELS = 10

MAX_PANELS = 12

# Pictures of who is responsible for the spread.
MAX_SHARES = 6

# The training map: numbers of states tried, fits of each, and pictures of its graph.
MAP_STATES = (1, 2, 3, 4, 5, 6)
MAP_RESTARTS = 5
MAX_GRAPHS = 6


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
    components: xr.Dataset
    fractions: xr.Dataset
    at_end: xr.Dataset
    changes: xr.Dataset | None
    shared: xr.Dataset | None
    map: TrainingMap | None
    no_map: str
    transitions: xr.Dataset | None
    scores: xr.Dataset
    ranked: xr.Dataset
    panels: tuple[str, ...]
    models: tuple[str, ...]
    shares: tuple[str, ...]
    searched: Searched | None
    mapped: Searched | None
    judged: Judged
    networks: Networks
    failed: xr.Dataset | None


# Of every simulation behind the page, which says it.
RNG = 0


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
    components = variance_components(data)
    fractions = variance_fractions(components)
    at_end = final_components(components, fractions)
    panels = _panels(ranked)
    models = tuple(pick_models(spread, limit=MAX_MODELS))
    searched = for_changes(data, panels) if panels else None
    changes = None if searched is None else change_points(searched.cube, metrics=searched.metrics, rng=RNG)
    mapped = for_map(data, metrics, models) if (metrics := hu2023_metrics(data) or panels) else None
    training_map, no_map = _training_map(mapped)
    return Results(
        cube=data,
        audit=tuple(audit_entries(cube)) if isinstance(cube, xr.DataTree) and "audit" in cube.children else None,
        fingerprint=fingerprint(data),
        cover=cube_coverage(data),
        copies=duplicate_runs(data),
        band=seed_band(data),
        spread=spread,
        overview=spread_overview(spread, movement=ranked["movement"]),
        components=components,
        fractions=fractions,
        at_end=at_end,
        changes=changes,
        shared=None if changes is None else consensus_change_points(changes, rng=RNG),
        map=training_map,
        no_map=no_map,
        transitions=None if training_map is None else state_transitions(training_map.states),
        scores=outlier_scores(data, rng=RNG),
        ranked=ranked,
        panels=panels,
        models=models,
        shares=_shares(ranked, at_end),
        searched=searched,
        mapped=mapped,
        judged=judge(cube, data, ranked["metric"].values[ranked["rank"].argsort().values].tolist(), rng=RNG),
        networks=analyse_networks(cube, data, rng=RNG),
        failed=_failed(cube),
    )


def _failed(cube: xr.Dataset | xr.DataTree) -> xr.Dataset | None:
    """Which runs went wrong by the rules on training logs; None without logs."""
    if not isinstance(cube, xr.DataTree) or "log" not in cube.children:
        return None
    try:
        return failed_runs(cube)
    except AnalysisError:
        return None  # a log without losses


def _training_map(mapped: Searched | None) -> tuple[TrainingMap | None, str]:
    """A map from the 14 weight features if the cube has them, else from the metrics with panels; or why there is none."""
    if mapped is None:
        return None, "no metric was measured at two steps or more"
    try:
        found = fit_training_map(
            mapped.cube, metrics=mapped.metrics, n_states=MAP_STATES, n_restarts=MAP_RESTARTS, rng=RNG
        )
    except AnalysisError as error:
        return None, str(error)
    return found, ""


def _panels(ranked: xr.Dataset) -> tuple[str, ...]:
    """The metrics that get a panel, in order of their rank: those with more than one step."""
    ordered = ranked.isel(metric=ranked["rank"].argsort().values)
    names = ordered["metric"].values[ordered["signal"].notnull().values]
    return tuple(str(name) for name in names[:MAX_PANELS])


def _shares(ranked: xr.Dataset, at_end: xr.Dataset) -> tuple[str, ...]:
    """The metrics whose shares over training are drawn, in order of their rank: those with more than one part."""
    order = ranked["rank"].argsort().values
    wanted = (ranked["signal"].notnull().values & at_end["informative"].values)[order]
    return tuple(str(name) for name in ranked["metric"].values[order][wanted][:MAX_SHARES])
