"""Is the data what it says? Everything the audit looks for, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools
from polystab.analysis.audit.checkpoints import checkpoint_findings
from polystab.analysis.audit.copies import copy_findings
from polystab.analysis.audit.findings import Finding, Labels, findings_dataset
from polystab.analysis.audit.known import known_issue_findings
from polystab.analysis.audit.reading import reading_findings
from polystab.analysis.audit.restarts import restart_findings
from polystab.analysis.audit.rows import Rows, Seen
from polystab.analysis.audit.values import coverage_findings, value_findings
from polystab.analysis.audit.weights import lineage_findings
from polystab.cube.audit import audit_entries
from polystab.cube.parts import bytes_of_one
from polystab.cube.specs import DIMS
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError
from polystab.progress_bars import tracked

# Findings on weights that concern all of the run from there on.
ONWARD = ("weights-restart", "weights-splice")


def audit_cube(cube: xr.Dataset | xr.DataTree, *, lineage: xr.Dataset | None = None) -> xr.Dataset:
    """Whatever says that the data is not what it seems, before any statistics.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube; of a tree, what was noted on reading (its group ``audit``) is carried over.
    lineage : xarray.Dataset, optional
        How the weights of the runs descend from each other, from
        :func:`polystab.sources.lineage.weight_lineage`; its steps need not be those of the cube.

    Returns
    -------
    xarray.Dataset
        One row along ``finding``, errors first: ``kind``, ``severity`` (error, warning,
        info), ``model``, ``seed``, ``other_model``, ``other_seed`` (the run it was compared
        with), ``first_step``, ``last_step``, ``metrics`` and ``n_metrics``, ``evidence``
        and ``advice`` in words. Empty text and -1 mean none in particular.
        ``at_step(finding, step)`` and ``at_metric(finding, metric)`` say exactly what is
        concerned; :func:`polystab.analysis.excluded_cells` makes a mask of them.

    Raises
    ------
    NotACubeError
        The argument is no cube.
    AnalysisError
        A dimension is empty, or ``lineage`` is not one.

    Notes
    -----
    What is looked for:

    - *identical-run*, *identical-until*, *identical-stretch*, *same-start*: the values of
      one run stand under another name, of the same model or another, in all metrics or in
      some, from first to last, up to a step, or in between. A stretch counts if chance would
      give one in a million such cubes: coarse metrics have to agree for longer. The run that
      comes first in the cube keeps the values.
    - *frozen-checkpoint*, *copied-checkpoint*: checkpoints of a run that are equal in all
      metrics (or all of a family), one after the other, or with others in between;
      *misplaced-checkpoint*, *shifted-values*, *repeated-stretch*: values of one step at
      another, in another run or the same. At least 5 different values must agree.
    - *restart*, *collapse*: a run falls back to a level that it left long ago, and climbs
      anew, or does not. Clean simulated cubes of 10 runs, 27 steps and 10 metrics give one
      in at most 2 % of cases; so do sets of 3 to 10 runs of the bundled cube ``nano``, with all metrics or those of
      one family.
    - *weights-...*: the same from the weights, where a lineage is given.
    - *impossible-value*, *diverged*, *mixed-items*, *mixed-shots*, *mixed-versions*,
      *mixed-tokenizers*.
    - *coverage-hole*, *ends-early*, *no-values*: what most siblings of a run have.
    - *label-mismatch*, *refused-files*, *replaced-values*, *reading-note*: from reading.
    - *known-issue*: publicly reported faults of checkpoints with these names.

    A cube that is larger than memory is read in parts, some ten to twenty times.

    One run alone is only compared with itself; NaN is not measured; infinite values are
    diverged runs and never evidence of a copy.

    Examples
    --------
    >>> import polystab.testing
    >>> cube = polystab.testing.synthetic_cube(n_seeds=4, rng=0)
    >>> audit_cube(cube).sizes["finding"]
    0
    >>> cube["value"][0, 3, :9] = cube["value"][0, 1, :9]
    >>> found = audit_cube(cube)
    >>> found["kind"].item(), found["seed"].item(), found["other_seed"].item(), found["last_step"].item()
    ('identical-until', 3, 1, 128)
    """
    entries = audit_entries(cube) if isinstance(cube, xr.DataTree) else []
    cube = as_cube(cube)
    if empty := [dim for dim in DIMS if not cube.sizes[dim]]:
        raise AnalysisError(f"the cube has nothing along {', '.join(empty)}: there is nothing to audit.")
    labels = Labels.of(cube)
    bytes_of_one(cube)
    seen = Seen.of(cube)
    rows = Rows.of_cube(cube, np.flatnonzero(seen.finite.any(axis=2)), seen.numbered)
    weight_seed = np.asarray(cube["weight_seed"].values) if "weight_seed" in cube.data_vars else None
    checks: list[Callable[[], Iterable[Finding]]] = [
        lambda: copy_findings(rows, labels, weight_seed),
        lambda: checkpoint_findings(rows, labels, cube["family"].values.astype(str)),
        lambda: restart_findings(rows, labels),
        lambda: value_findings(cube, labels, seen),
        lambda: coverage_findings(cube, labels, seen),
        lambda: reading_findings(entries, labels),
    ]
    found = [finding for check in tracked(checks, "auditing", unit="check") for finding in check()]
    if lineage is not None:
        labels, found = _with_lineage(labels, found, lineage)
    found += _known(found, seen.any, Labels.of(cube), labels)
    return findings_dataset(found, labels)


def _with_lineage(labels: Labels, found: list[Finding], lineage: xr.Dataset) -> tuple[Labels, list[Finding]]:
    """Labels whose steps include those of the kept checkpoints, and all findings at their places there."""
    judged = lineage_findings(lineage)
    kept = lineage["step"].values.tolist()
    wider = labels._replace(steps=sorted({*labels.steps, *kept}))
    moved = _moved(judged, kept, wider.steps)
    # Whatever was measured after a restart is of another run, whether its weights were kept or not.
    onward = [replace(f, steps=range(min(f.steps or ()), len(wider.steps))) if f.kind in ONWARD else f for f in moved]
    return wider, [*_moved(found, labels.steps, wider.steps), *onward]


def _known(found: list[Finding], measured: Bools, own: Labels, labels: Labels) -> list[Finding]:
    """Known issues of the measured checkpoints, judged among all findings."""
    wide = np.zeros((*measured.shape[:2], len(labels.steps)), dtype=bool)
    wide[:, :, np.searchsorted(labels.steps, own.steps)] = measured
    return known_issue_findings(wide, labels, found)


def _moved(found: list[Finding], old: list[int], new: list[int]) -> list[Finding]:
    place = np.searchsorted(new, old)
    return [
        replace(finding, steps=place[list(range(len(old)) if finding.steps is None else finding.steps)].tolist())
        for finding in found
    ]
