"""Everything the report says, computed by the analyses when it is first asked for, and once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import xarray as xr

from polystab.analysis.audit.runs import duplicate_runs
from polystab.analysis.components.at_end import final_components
from polystab.analysis.components.fractions import variance_fractions
from polystab.analysis.components.split import variance_components
from polystab.analysis.coverage import cube_coverage, fingerprint
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
from polystab.report.results.bounded import Searched, for_changes, for_map, for_reading, restarts_for
from polystab.report.results.compared import Against, Compared, compare
from polystab.report.results.judged import Judged, judge
from polystab.report.results.networks import Networks, analyse_networks
from polystab.report.results.warned import Warned, warn

# More lines than this in one panel cannot be told apart.
MAX_MODELS = 10

MAX_PANELS = 12

# Pictures of who is responsible for the spread.
MAX_SHARES = 6

# The training map: numbers of states tried, and pictures of its graph.
MAP_STATES = (1, 2, 3, 4, 5, 6)


MAX_GRAPHS = 6

# Of every simulation behind the page, which says it.
RNG = 0


@dataclass(frozen=True, eq=False)
class Results:
    """A cube and what the analyses say of it; what no section asks for is not computed.

    Attributes
    ----------
    given : xarray.Dataset or xarray.DataTree
        What the report is about, with its groups.
    cube : xarray.Dataset
        The cube of it, in memory; of a large one, some metrics.
    against : Against, optional
        Another cube to compare it with.
    notes : tuple of str
        What was left out of a large cube, in sentences.
    """

    given: xr.Dataset | xr.DataTree
    cube: xr.Dataset
    against: Against | None = None
    notes: tuple[str, ...] = ()

    @property
    def whole(self) -> xr.Dataset:
        """The cube with all its metrics, which may be too large for memory."""
        return as_cube(self.given) if self.notes else self.cube

    @cached_property
    def compared(self) -> Compared | None:
        """How it differs from another cube; None without one."""
        return None if self.against is None else compare(self.given, self.against, rng=RNG)

    @cached_property
    def audit(self) -> tuple[AuditEntry, ...] | None:
        """What was noted on reading; None without an audit."""
        given = self.given
        return tuple(audit_entries(given)) if isinstance(given, xr.DataTree) and "audit" in given.children else None

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.whole)

    @cached_property
    def cover(self) -> xr.Dataset:
        return cube_coverage(self.whole)

    @cached_property
    def copies(self) -> xr.Dataset:
        return duplicate_runs(self.cube)

    @cached_property
    def band(self) -> xr.Dataset:
        return seed_band(self.cube)

    @cached_property
    def spread(self) -> xr.Dataset:
        return seed_spread(self.cube)

    @cached_property
    def overview(self) -> xr.Dataset:
        return spread_overview(self.spread, movement=self.ranked["movement"])

    @cached_property
    def ranked(self) -> xr.Dataset:
        return rank_metrics(self.cube)

    @cached_property
    def panels(self) -> tuple[str, ...]:
        """The metrics that get a panel, in order of their rank: those with more than one step."""
        ordered = self.ranked.isel(metric=self.ranked["rank"].argsort().values)
        names = ordered["metric"].values[ordered["signal"].notnull().values]
        return tuple(str(name) for name in names[:MAX_PANELS])

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The models that are drawn."""
        return tuple(pick_models(self.spread, limit=MAX_MODELS))

    @cached_property
    def _components(self) -> xr.Dataset:
        return variance_components(self.cube)

    @cached_property
    def fractions(self) -> xr.Dataset:
        return variance_fractions(self._components)

    @cached_property
    def at_end(self) -> xr.Dataset:
        return final_components(self._components, self.fractions)

    @cached_property
    def shares(self) -> tuple[str, ...]:
        """The metrics whose shares over training are drawn, in order of their rank: those with more than one part."""
        order = self.ranked["rank"].argsort().values
        wanted = (self.ranked["signal"].notnull().values & self.at_end["informative"].values)[order]
        return tuple(str(name) for name in self.ranked["metric"].values[order][wanted][:MAX_SHARES])

    @cached_property
    def searched(self) -> Searched | None:
        """Where changes are looked for; None without a metric that has steps."""
        return for_changes(self.cube, self.panels) if self.panels else None

    @cached_property
    def changes(self) -> xr.Dataset | None:
        found = self.searched
        return None if found is None else change_points(found.cube, metrics=found.metrics, rng=RNG)

    @cached_property
    def shared(self) -> xr.Dataset | None:
        """The changes that the seeds of a model share."""
        return None if self.changes is None else consensus_change_points(self.changes, rng=RNG)

    @cached_property
    def mapped(self) -> Searched | None:
        """Of what a map is made: the 14 weight features if the cube has them, else the metrics with panels."""
        metrics = hu2023_metrics(self.cube) or self.panels
        return for_map(self.cube, metrics, self.models) if metrics else None

    @cached_property
    def map(self) -> TrainingMap | str:
        """A training map, or why there is none."""
        part = self.mapped
        if part is None:
            return "no metric was measured at two steps or more"
        try:
            return fit_training_map(
                part.cube, metrics=part.metrics, n_states=MAP_STATES, n_restarts=restarts_for(part.cube), rng=RNG
            )
        except AnalysisError as error:
            return str(error)

    @cached_property
    def transitions(self) -> xr.Dataset | None:
        return None if isinstance(self.map, str) else state_transitions(self.map.states)

    @cached_property
    def scores(self) -> xr.Dataset:
        return outlier_scores(self.cube, rng=RNG)

    @cached_property
    def judged(self) -> Judged:
        return judge(
            self.given, self.cube, self.ranked["metric"].values[self.ranked["rank"].argsort().values].tolist(), rng=RNG
        )

    @cached_property
    def networks(self) -> Networks:
        return analyse_networks(self.given, self.cube, rng=RNG)

    @cached_property
    def warned(self) -> Warned | None:
        """Which runs went wrong, and whether that could be told early; None without training logs."""
        return warn(self.given, rng=RNG)


def analyse(cube: xr.Dataset | xr.DataTree, other: Against | None = None) -> Results:
    """A cube, checked, about which results can be asked for.

    Raises
    ------
    NotACubeError
        The argument is no cube.
    InvalidCubeError
        It breaks a rule of the cube; every violation is listed.
    """
    whole = as_cube(cube)
    check_cube(whole, values=False)
    found = for_reading(whole)
    data = found.cube.compute()
    check_cube(data)
    return Results(cube, data, other, found.notes)
