"""What an audit found, as rows; and which cells to leave out because of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, described
from polystab.analysis.audit.masking import Box, mask_of, masked
from polystab.cube.parts import metric_slices
from polystab.cube.specs import DIMS
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, did_you_mean, shown

SEVERITIES = ("error", "warning", "info")


class Kind(NamedTuple):
    """One kind of finding: how bad it is, whether its cells are left out by default, what to do."""

    severity: str
    excluded: bool
    advice: str


# In the order in which findings of one severity are listed.
KINDS = {
    "identical-run": Kind("error", True, "Count it once; find out which of the two names is right."),
    "identical-until": Kind("error", True, "Up to that step the two are one run: count it once there."),
    "identical-stretch": Kind("error", True, "Find out whose values these are; count them once."),
    "misplaced-checkpoint": Kind("error", True, "Compare the checkpoint files; use neither until it is known."),
    "copied-checkpoint": Kind("error", True, "Compare the files of these checkpoints; leave out what is out of place."),
    "shifted-values": Kind("error", True, "Check how steps were read; count the values once."),
    "repeated-stretch": Kind("error", True, "Check the log for values that were written twice or replayed."),
    "frozen-checkpoint": Kind("warning", True, "Compare the weights; count the state once, at the first of the steps."),
    "restart": Kind("warning", False, "Compare the weights before and after; treat what follows as another run."),
    "collapse": Kind("warning", False, "Look at the loss there; the run may have diverged or been started anew."),
    "weights-restart": Kind("error", True, "The checkpoint does not continue its predecessor: leave out what follows."),
    "weights-splice": Kind("error", True, "The weights are those of another run from here on: leave out what follows."),
    "weights-jump": Kind("error", True, "Step 0 is not the start of this run: leave it out of distances and of spread."),
    "weights-order": Kind("warning", False, "Check the revisions: the order of the checkpoints is in doubt."),
    "weights-copied": Kind("error", True, "The files are copies: count them once, at the first of the steps."),
    "weights-frozen": Kind("warning", True, "Half precision cannot show updates this small; else the file is a copy."),
    "mixed-tokenizers": Kind("error", False, "Compare scores only between checkpoints with one tokenizer."),
    "impossible-value": Kind("error", True, "Correct the units, the name of the metric, or the file it came from."),
    "diverged": Kind("warning", False, "The run diverged; infinite values have no part in means and spreads."),
    "mixed-items": Kind("warning", False, "Measure again on the same items before steps or runs are compared."),
    "mixed-versions": Kind("warning", False, "Measure again with one version of the harness, or compare within one."),
    "mixed-shots": Kind("warning", False, "Compare steps only within one number of shots."),
    "label-mismatch": Kind("warning", False, "The files were not used; move them to where they belong and read again."),
    "refused-files": Kind("warning", False, "The files were not used; see the group audit for each of them."),
    "replaced-values": Kind("warning", False, "Several values claimed one cell; check that the rule took the right one."),
    "reading-note": Kind("info", False, "Nothing, if this is as it should be."),
    "known-issue": Kind("warning", False, "Read the report behind the link before using these checkpoints."),
    "no-values": Kind("warning", False, "Check what was read: there is nothing to analyse."),
    "coverage-hole": Kind("warning", False, "Measure what is missing, or compare on what all runs have."),
    "ends-early": Kind("warning", False, "Find out why it stopped: a run that diverged is not missing at random."),
    "same-start": Kind("info", False, "Nothing: the runs share their initialisation."),
}  # fmt: skip

NO_SEED = -1
NO_STEP = -1


@dataclass(frozen=True)
class Finding:
    """One finding; ``steps`` and ``metrics`` are positions in the cube, None for all of them.

    ``evidence`` and ``advice`` are sentences; an empty advice is that of the kind.
    """

    kind: str
    evidence: str
    model: str = ""
    seed: int = NO_SEED
    other_model: str = ""
    other_seed: int = NO_SEED
    steps: Sequence[int] | None = None
    metrics: Sequence[int] | None = None
    advice: str = ""
    severity: str = ""

    @property
    def weight(self) -> str:
        """Its own severity, or that of its kind."""
        return self.severity or KINDS[self.kind].severity


class Labels(NamedTuple):
    """The labels of a cube as plain lists, and its runs in order."""

    models: list[str]
    seeds: list[int]
    steps: list[int]
    metrics: list[str]
    run_names: Sequence[str] = ()

    @classmethod
    def of(cls, cube: xr.Dataset) -> Labels:
        """Read them off a cube."""
        names = cube["run_name"].values.reshape(-1).tolist() if "run_name" in cube.coords else ()
        models, seeds, steps, metrics = (cube[dim].values.tolist() for dim in DIMS)
        return cls(models, seeds, steps, metrics, names)

    def run(self, number: int) -> tuple[str, int]:
        """Model and seed of the run at a position of (model, seed) in C order."""
        model, seed = divmod(int(number), len(self.seeds))
        return self.models[model], self.seeds[seed]

    def name(self, number: int) -> str:
        """``pythia-70m seed 3``, and what the run calls itself, where that is known."""
        said = "{} seed {}".format(*self.run(number))
        own = self.run_names[number] if self.run_names else ""
        return f"{said} ({own})" if own else said


def counted(number: int, noun: str) -> str:
    """``1 step``, ``2,000 steps``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed_steps(steps: Sequence[int]) -> str:
    """``step 5``, ``steps 0, 1 and 2``, ``17 steps from 0 to 143000``."""
    if len(steps) == 1:
        return f"step {steps[0]}"
    if len(steps) <= 4:
        return f"steps {', '.join(map(str, steps[:-1]))} and {steps[-1]}"
    return f"{len(steps):,} steps from {steps[0]} to {steps[-1]}"


def findings_dataset(findings: Iterable[Finding], labels: Labels) -> xr.Dataset:
    """The rows as a Dataset along ``finding``; see :func:`polystab.analysis.audit_cube`."""
    kinds, severities = list(KINDS), list(SEVERITIES)
    place = {model: i for i, model in enumerate(labels.models)}
    rows = sorted(
        findings,
        key=lambda f: (
            severities.index(f.weight), kinds.index(f.kind), place.get(f.model, -1), f.seed, _first(f), f.evidence,
        ),
    )  # fmt: skip
    at_step: Bools = np.zeros((len(rows), len(labels.steps)), dtype=bool)
    at_metric: Bools = np.zeros((len(rows), len(labels.metrics)), dtype=bool)
    for i, row in enumerate(rows):
        at_step[i, slice(None) if row.steps is None else list(row.steps)] = True
        at_metric[i, slice(None) if row.metrics is None else list(row.metrics)] = True
    steps = np.asarray(labels.steps)
    any_step = at_step.any(axis=1)
    first = np.where(any_step, steps[at_step.argmax(axis=1)], NO_STEP)
    last = np.where(any_step, steps[len(steps) - 1 - at_step[:, ::-1].argmax(axis=1)], NO_STEP)
    texts = {
        "kind": [row.kind for row in rows],
        "severity": [row.weight for row in rows],
        "model": [row.model for row in rows],
        "other_model": [row.other_model for row in rows],
        "metrics": [_metrics(row, labels) for row in rows],
        "evidence": [row.evidence for row in rows],
        "advice": [row.advice or KINDS[row.kind].advice for row in rows],
    }
    data: dict[str, Any] = {
        # Texts are objects: one long sentence must not widen all the others.
        name: ("finding", np.array(column, dtype=object if column else np.str_))
        for name, column in texts.items()
    }
    data |= {
        "seed": ("finding", np.array([row.seed for row in rows], dtype=np.int64)),
        "other_seed": ("finding", np.array([row.other_seed for row in rows], dtype=np.int64)),
        "first_step": ("finding", first.astype(np.int64)),
        "last_step": ("finding", last.astype(np.int64)),
        "n_metrics": ("finding", at_metric.sum(axis=1)),
        "at_step": (("finding", "step"), at_step),
        "at_metric": (("finding", "metric"), at_metric),
    }
    coords = {
        "finding": np.arange(len(rows)),
        "step": steps,
        "metric": np.array(labels.metrics, dtype=np.str_),
    }
    return described(
        xr.Dataset(data, coords=coords),
        {
            "kind": "what was found",
            "severity": "error: the numbers are not what they say; warning: look at it; info: to know",
            "model": "the model it is about; empty for all",
            "seed": f"the seed it is about; {NO_SEED} for all",
            "other_model": "the model of the run it was compared with; empty where there is none",
            "other_seed": f"the seed of the run it was compared with; {NO_SEED} where there is none",
            "first_step": f"first step concerned; {NO_STEP} where it is about none",
            "last_step": f"last step concerned; {NO_STEP} where it is about none",
            "metrics": "the metrics concerned: all, or up to five and a count",
            "n_metrics": "how many metrics are concerned",
            "evidence": "what was seen, in words",
            "advice": "what to do",
            "at_step": "whether the step is concerned",
            "at_metric": "whether the metric is concerned",
        },
    )


def _first(finding: Finding) -> int:
    return int(min(finding.steps, default=0)) if finding.steps is not None else 0


def _metrics(finding: Finding, labels: Labels) -> str:
    if finding.metrics is None or len(finding.metrics) == len(labels.metrics):
        return "all"
    return shown([labels.metrics[k] for k in finding.metrics]).replace("'", "")


def excluded_cells(
    cube: xr.Dataset | xr.DataTree, findings: xr.Dataset, *, kinds: Collection[str] | None = None
) -> xr.DataArray:
    """Which cells of a cube an analysis should leave out because of an audit.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube: the one that was audited, or a selection of it.
    findings : xarray.Dataset
        From :func:`polystab.analysis.audit_cube`.
    kinds : collection of str, optional
        The kinds of findings that count; by default those that say that values do not
        belong where they stand (copies, misplaced or impossible values, weights that do not
        continue their run), and not those that ask for a look (falls that look like
        restarts, holes, mixed versions, known issues).

    Returns
    -------
    xarray.DataArray
        ``excluded(model, seed, step, metric)``, bool. Of two copies the one under the
        first name stays. A finding about all runs excludes nothing unless its kind is asked for.

    Raises
    ------
    AnalysisError
        A kind does not exist, or ``findings`` is not the result of an audit.

    Notes
    -----
    Excluded by default, always of the run that the finding is about and in the metrics it is about:

    ======================  ==========================================================
    kind                    cells
    ======================  ==========================================================
    identical-run           all that both runs have; the first run keeps its values
    identical-until         up to the step at which the runs part
    identical-stretch       the stretch
    misplaced-checkpoint    the checkpoints that stand in another run too
    copied-checkpoint       those out of place, or all that are equal if that is not known
    shifted-values          the values that stand elsewhere too
    repeated-stretch        the second time
    frozen-checkpoint       the steps after the first of them
    weights-restart         everything from that checkpoint on
    weights-splice          everything from that checkpoint on
    weights-jump            the checkpoint
    weights-copied          the checkpoints after the first of them
    weights-frozen          the checkpoints after the first of them
    impossible-value        the metric at these steps
    ======================  ==========================================================

    Everything else excludes nothing: *same-start*, *restart*, *collapse*, *weights-order*,
    *mixed-...*, *diverged*, holes, what was noted on reading and known issues. Analyses take all of
    this as ``exclude="audit"``.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis.audit.checks import audit_cube
    >>> cube = polystab.testing.synthetic_cube(n_seeds=4, rng=0)
    >>> cube["value"][0, 3] = cube["value"][0, 1]  # seed 3 is a copy of seed 1
    >>> excluded = excluded_cells(cube, audit_cube(cube))
    >>> excluded.any(("model", "step", "metric")).values.tolist()
    [False, False, False, True]
    """
    cube = as_cube(cube)
    shape = tuple(cube.sizes[dim] for dim in DIMS)
    mask = mask_of(excluded_boxes(cube, findings, kinds=kinds), slice(None), shape)
    coords = {dim: cube[dim] for dim in DIMS}
    return xr.DataArray(
        mask, dims=DIMS, coords=coords, name="excluded", attrs={"long_name": "left out because of the audit"}
    )


def excluded_boxes(cube: xr.Dataset, findings: xr.Dataset, *, kinds: Collection[str] | None = None) -> list[Box]:
    """:func:`excluded_cells` as models, seeds, steps and metrics whose combinations are left out."""
    if missing := [name for name in ("kind", "at_step", "at_metric") if name not in findings]:
        raise AnalysisError(f"findings has no {shown(missing)}: give what audit_cube returned.")
    wanted = {name for name, kind in KINDS.items() if kind.excluded} if kinds is None else set(kinds)
    if unknown := sorted(wanted - set(KINDS)):
        raise AnalysisError(f"no findings of kind {shown(unknown)}. {did_you_mean(unknown[0], KINDS)}")
    at_step = _reindexed(findings["at_step"], cube, "step")
    at_metric = _reindexed(findings["at_metric"], cube, "metric")
    models, seeds = cube["model"].values, cube["seed"].values
    boxes: list[Box] = []
    for i, kind in enumerate(findings["kind"].values.tolist()):
        if kind in wanted:
            model, seed = str(findings["model"].values[i]), int(findings["seed"].values[i])
            rows: Bools = np.asarray(models == model) if model else np.ones(len(models), dtype=bool)
            columns: Bools = np.asarray(seeds == seed) if seed != NO_SEED else np.ones(len(seeds), dtype=bool)
            boxes.append((rows, columns, at_step[i], at_metric[i]))
    return boxes


def without_excluded(
    cube: xr.Dataset | xr.DataTree, findings: xr.Dataset, *, kinds: Collection[str] | None = None
) -> xr.Dataset:
    """A cube with NaN in the cells that an audit takes out.

    Parameters
    ----------
    cube, findings, kinds
        See :func:`excluded_cells`.

    Returns
    -------
    xarray.Dataset
        The cube with ``value`` and ``stderr`` NaN there, and everything else as it was. Those of a large cube
        are read when they are asked for.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis.audit.checks import audit_cube
    >>> cube = polystab.testing.synthetic_cube(rng=0)
    >>> without_excluded(cube, audit_cube(cube)).identical(cube)
    True
    """
    cube = as_cube(cube)
    boxes = excluded_boxes(cube, findings, kinds=kinds)
    kept = {name: masked(cube[name].variable, boxes) for name in ("value", "stderr") if name in cube.data_vars}
    if len(metric_slices(cube)) == 1:
        kept = {name: variable.load() for name, variable in kept.items()}
    return cube.assign(kept)


def _reindexed(marks: xr.DataArray, cube: xr.Dataset, dim: str) -> Bools:
    """The marks at the labels of this cube; a label that was not audited is not marked."""
    return np.asarray(marks.reindex({dim: cube[dim].values}, fill_value=False).values, dtype=bool)
