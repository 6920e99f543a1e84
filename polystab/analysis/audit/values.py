"""Values that cannot be, items and shots that change along a run, and what is missing."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, cells
from polystab.analysis.audit.findings import NO_SEED, Finding, Labels, counted, listed_steps
from polystab.analysis.audit.rows import Seen
from polystab.cube.parts import value_parts
from polystab.errors import shown

# Measure -> least and largest possible value.
_SHARE = (0.0, 1.0)
_SIZE = (0.0, np.inf)
LIMITS = {
    **dict.fromkeys(
        ("acc", "acc_norm", "accuracy", "exact_match", "em", "f1", "macro_f1", "pct_stereotype", "pct_male_preferred"),
        _SHARE,
    ),
    **dict.fromkeys(("ppl", "perplexity", "word_perplexity", "byte_perplexity"), (1.0, np.inf)),
    **dict.fromkeys(
        ("loss", "val_loss", "train_loss", "cross_entropy", "nll", "bits_per_byte", "brier_score", "grad_norm",
         "l1_norm", "l2_norm", "L1", "L2", "lambda_max", "spectral_norm", "sigma_w", "sigma_b", "sigma_lambda",
         "mu_lambda", "variance", "std", "stable_rank", "effective_rank"),
        _SIZE,
    ),
    **dict.fromkeys(("kappa", "mcc", "cosine", "correlation"), (-1.0, 1.0)),
}  # fmt: skip
# Room for rounding in the last digit of a share.
SLACK = 1e-9

# Measures whose standard error tells the number of items.
SHARES = ("acc", "acc_norm", "exact_match")

# An accuracy's standard error is sqrt(p (1 - p) / (n - 1)) in the harness, so that it tells n;
# it does so if this close to a whole number.
WHOLE = 0.01


def value_findings(cube: xr.Dataset, labels: Labels, seen: Seen) -> list[Finding]:
    """Findings on single values: impossible ones, infinite ones, item counts and shots that change.

    Parameters
    ----------
    cube : xarray.Dataset
        A cube.
    labels : Labels
        Of the cube.
    seen : Seen
        What of it is measured.
    """
    checks: list[_Check] = [_Impossible(cube), _Infinite(), _Shots(cube)]
    for place, values in value_parts(cube, wanted=seen.measured):
        for check in checks:
            check.add(place, values)
    return [
        *(finding for check in checks for finding in check.findings(labels)),
        *_item_counts(cube, labels, seen.measured),
    ]


class _Check(Protocol):
    """What is gathered metrics after metrics, and said in the end."""

    def add(self, place: slice, values: Floats) -> None:
        """Values (model, seed, step, metric) of the next metrics."""

    def findings(self, labels: Labels) -> Iterator[Finding]:
        """What is wrong with them."""


@dataclass
class _Bad:
    """Values of a run that are wrong for the same reason; metrics as positions in the cube."""

    steps: Bools
    metrics: list[int] = field(default_factory=list)
    number: int = 0
    least: float = np.inf
    most: float = -np.inf

    def add(self, mine: Bools, values: Floats, first: int) -> None:
        """Cells (step, metric) of the next metrics."""
        self.steps |= mine.any(axis=1)
        self.metrics += (first + np.flatnonzero(mine.any(axis=0))).tolist()
        self.number += int(mine.sum())
        self.least, self.most = min(self.least, float(values[mine].min())), max(self.most, float(values[mine].max()))


def _bad_of(found: dict[tuple[int, int, str], _Bad], wrong: Bools, reason: str, values: Floats, first: int) -> None:
    """Note wrong values (model, seed, step, metric) of the next metrics."""
    for m, s in np.argwhere(wrong.any(axis=(2, 3))).tolist():
        bad = found.setdefault((m, s, reason), _Bad(np.zeros(wrong.shape[2], dtype=bool)))
        bad.add(wrong[m, s], values[m, s], first)


def _limits(cube: xr.Dataset) -> tuple[Floats, Floats]:
    """Least and largest possible value of each metric."""
    low, high = np.full(cube.sizes["metric"], -np.inf), np.full(cube.sizes["metric"], np.inf)
    units = cube["units"].values.tolist() if "units" in cube.coords else [""] * len(low)
    for k, (measure, unit) in enumerate(zip(cube["measure"].values.tolist(), units, strict=True)):
        limit = LIMITS.get(measure)
        if limit is not None and not (limit == _SHARE and unit in ("%", "percent")):
            low[k], high[k] = limit
    return low, high


class _Impossible:
    """Values beyond what their measure can be; metrics that are impossible for the same reason go together."""

    def __init__(self, cube: xr.Dataset) -> None:
        self.low, self.high = _limits(cube)
        self.found: dict[tuple[int, int, str], _Bad] = {}

    def add(self, place: slice, values: Floats) -> None:
        finite, low, high = np.isfinite(values), self.low[place], self.high[place]
        _bad_of(self.found, finite & (values < low - SLACK), "below", values, place.start)
        _bad_of(self.found, finite & (values > high + SLACK), "above", values, place.start)

    def findings(self, labels: Labels) -> Iterator[Finding]:
        for (m, s, reason), bad in self.found.items():
            model, seed = labels.models[m], labels.seeds[s]
            limit, metrics = (self.low if reason == "below" else self.high), bad.metrics
            steps = np.flatnonzero(bad.steps).tolist()
            said = (
                f"{model} seed {seed} has {counted(bad.number, 'value')} {reason} the "
                f"{'least' if reason == 'below' else 'largest'} possible one ({limit[metrics[0]]:g} "
                f"for {labels.metrics[metrics[0]]}): {bad.least:g} to {bad.most:g} at {listed_steps([labels.steps[t] for t in steps])}."
            )
            percent = reason == "above" and (self.high[metrics] == 1).all() and bad.most <= 100
            advice = "These look like percentages: divide them by 100, and state the units." if percent else ""
            yield Finding("impossible-value", said, model, seed, steps=steps, metrics=metrics, advice=advice)


class _Infinite:
    """Infinite values of each run."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, int, str], _Bad] = {}

    def add(self, place: slice, values: Floats) -> None:
        _bad_of(self.found, np.isinf(values), "", values, place.start)

    def findings(self, labels: Labels) -> Iterator[Finding]:
        for (m, s, _), bad in self.found.items():
            steps = np.flatnonzero(bad.steps).tolist()
            said = (
                f"{labels.models[m]} seed {labels.seeds[s]} has infinite values from step {labels.steps[steps[0]]} on."
            )
            yield Finding("diverged", said, labels.models[m], labels.seeds[s], steps=steps, metrics=bad.metrics)


def _item_counts(cube: xr.Dataset, labels: Labels, measured: Bools) -> Iterator[Finding]:
    """Accuracies whose standard errors say that the number of items changed."""
    shares: Bools = np.isin(cube["measure"].values.astype(str), SHARES)
    if "stderr" not in cube.data_vars or not shares.any():
        return
    for place, values in value_parts(cube, wanted=shares & measured):
        stderr = cells(cube if place == slice(0, len(shares)) else cube.isel(metric=place), "stderr")
        for k in np.flatnonzero(shares[place]).tolist():
            yield from _item_count(values[..., k], stderr[..., k], place.start + k, labels)


def _item_count(p: Floats, se: Floats, metric: int, labels: Labels) -> Iterator[Finding]:
    """The same for one metric, (model, seed, step)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        n = np.where((p > 0) & (p < 1) & (se > 0), p * (1 - p) / se**2 + 1, np.nan)
    known = np.isfinite(n)
    whole = np.abs(n - np.round(n)) < WHOLE * np.maximum(1, n / 1000)
    if known.sum() < 2 or whole[known].mean() < 1 or np.nanmax(n) > 1 / WHOLE**2:
        return  # the error is not that of a plain share, or is rounded
    counts, number = np.unique(np.round(n[known]), return_counts=True)
    if len(counts) < 2:
        return
    usual = counts[number.argmax()]
    odd = known & (np.round(n) != usual)
    steps = np.flatnonzero(odd.any(axis=(0, 1))).tolist()
    runs = np.flatnonzero(odd.any(axis=2).reshape(-1))
    model, seed = labels.run(int(runs[0])) if len(runs) == 1 else ("", NO_SEED)
    said = (
        f"by its standard errors {labels.metrics[metric]} was measured on {shown([int(c) for c in counts])} items, "
        f"mostly {int(usual)}; other counts in {counted(len(runs), 'run')}, first {labels.name(int(runs[0]))}, "
        f"at {listed_steps([labels.steps[t] for t in steps])}."
    )
    yield Finding("mixed-items", said, model, seed, steps=steps, metrics=[metric])


class _Shots:
    """Tasks of a run whose shots change from one step to another instead of being measured side by side."""

    def __init__(self, cube: xr.Dataset) -> None:
        self.shots = cube["shots"].values if "shots" in cube.coords else None
        groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
        names = [name for name in ("family", "subject", "measure", "filter") if name in cube.coords]
        for k, key in enumerate(zip(*(cube[name].values.tolist() for name in names), strict=True)):
            groups[key].append(k)
        several = [metrics for metrics in groups.values() if len(metrics) > 1 and self.shots is not None]
        self.group_of = {k: number for number, metrics in enumerate(several) for k in metrics}
        # Per group the steps at which it was measured, as bits, and runs with two of it at a step.
        self.steps: dict[int, npt.NDArray[np.uint8]] = {}
        self.together: dict[int, Bools] = {}
        self.runs: dict[int, list[tuple[int, Bools]]] = defaultdict(list)

    def add(self, place: slice, values: Floats) -> None:
        for k in [k for k in range(values.shape[3]) if place.start + k in self.group_of]:
            group, known = self.group_of[place.start + k], ~np.isnan(values[..., k])
            if not known.any():
                continue
            before = self.steps.get(group)
            seen = np.zeros_like(known) if before is None else np.unpackbits(before, axis=2, count=known.shape[2]) > 0
            both, mine = (np.asarray(cells.any(axis=2)) for cells in (seen & known, known))
            self.together[group] = both | self.together.get(group, np.False_)
            self.steps[group] = np.packbits(seen | known, axis=2)
            self.runs[group].append((place.start + k, mine))

    def findings(self, labels: Labels) -> Iterator[Finding]:
        found: dict[tuple[int, int, tuple[int, ...], tuple[int, ...]], list[int]] = defaultdict(list)
        for group, members in self.runs.items():
            count = np.sum([any_ for _, any_ in members], axis=0)
            for m, s in np.argwhere((count > 1) & ~self.together[group]).tolist():
                there = [k for k, any_ in members if any_[m, s]]
                steps = np.flatnonzero(np.unpackbits(self.steps[group][m, s], count=len(labels.steps)))
                found[m, s, tuple(steps.tolist()), tuple(np.asarray(self.shots)[there].tolist())] += there
        for (m, s, steps_, said), there in found.items():
            text = (
                f"{labels.models[m]} seed {labels.seeds[s]} was measured with {shown(said)} shots, never at the same step: "
                f"{counted(len(there), 'metric')}, first {labels.metrics[there[0]]}."
            )
            yield Finding("mixed-shots", text, labels.models[m], labels.seeds[s], steps=steps_, metrics=there)


def coverage_findings(cube: xr.Dataset, labels: Labels, seen: Seen) -> list[Finding]:
    """Findings on what one run lacks and most runs of its model have.

    Parameters
    ----------
    cube : xarray.Dataset
        A cube; infinite values count as measured.
    labels : Labels
        Of the cube.
    seen : Seen
        What of it is measured.

    Notes
    -----
    A run alone in its model has nothing to be compared with. A model without values, and a
    seed that a model does not have, are no holes; a cube without any value is said.
    """
    there: Bools = np.asarray(seen.any.any(axis=2))
    if not there.any():
        return [Finding("no-values", "no cell of the cube holds a value.")]
    empty = [labels.models[m] for m, runs in enumerate(there) if not runs.any()]
    found = [Finding("no-values", f"{model} has no values.", model) for model in empty]
    compared = [_Coverage(m, np.flatnonzero(runs), labels) for m, runs in enumerate(there) if runs.sum() > 1]
    for _, values in value_parts(cube, wanted=seen.measured):
        for model in compared:
            model.add(~np.isnan(values[model.model, model.seeds]))
    for model in compared:
        model.choose()
    for place, values in value_parts(cube, wanted=seen.measured) if any(model.groups for model in compared) else ():
        for model in compared:
            model.add_holes(place, ~np.isnan(values[model.model, model.seeds]))
    return found + [finding for model in compared for finding in model.findings()]


class _Coverage:
    """What the runs of a model lack; runs that lack the same go together."""

    def __init__(self, model: int, seeds: Ints, labels: Labels) -> None:
        self.model, self.seeds, self.labels = model, seeds, labels
        n_step, n_metric = len(labels.steps), len(labels.metrics)
        self.pattern = [hashlib.blake2b() for _ in seeds]
        self.lacks: Bools = np.zeros(len(seeds), dtype=bool)
        self.steps: Bools = np.zeros((len(seeds), n_step), dtype=bool)
        self.usual: Bools = np.zeros(n_step, dtype=bool)
        self.groups: list[list[int]] = []
        self.missing: list[list[int]] = []
        self.number = np.zeros((len(seeds), n_step), dtype=np.int64)
        self.metrics: Bools = np.zeros((len(seeds), n_metric), dtype=bool)

    def add(self, mine: Bools) -> None:
        """Which cells (seed, step, metric) of the next metrics are measured."""
        usual = 2 * mine.sum(axis=0) > len(mine)
        self.lacks |= (usual & ~mine).any(axis=(1, 2))
        self.steps |= mine.any(axis=2)
        self.usual |= usual.any(axis=1)
        for digest, run in zip(self.pattern, mine, strict=True):
            # Metric by metric, so that it does not depend on the parts.
            digest.update(np.packbits(run.T, axis=1).tobytes())

    def choose(self) -> None:
        """Tell the groups, and where the runs of each stop."""
        groups: dict[bytes, list[int]] = defaultdict(list)
        for i in np.flatnonzero(self.lacks).tolist():
            groups[self.pattern[i].digest()].append(i)
        self.groups = list(groups.values())
        last = [int(np.flatnonzero(self.steps[group[0]])[-1]) for group in self.groups]
        self.missing = [[t for t in np.flatnonzero(self.usual).tolist() if t > end] for end in last]

    def add_holes(self, place: slice, mine: Bools) -> None:
        """The same cells again: count what is lacking before."""
        usual = 2 * mine.sum(axis=0) > len(mine)
        for group, missing in zip(self.groups, self.missing, strict=True):
            gap = usual & ~mine[group[0]]
            gap[missing] = False
            self.number[group[0]] += gap.sum(axis=1)
            self.metrics[group[0], place] = gap.any(axis=0)

    def findings(self) -> Iterator[Finding]:
        for group, missing in zip(self.groups, self.missing, strict=True):
            yield from self._holes(group, missing)

    def _holes(self, group: list[int], missing: list[int]) -> Iterator[Finding]:
        """Where runs stop, and what they lack before."""
        labels, steps, leader = self.labels, np.asarray(self.labels.steps), group[0]
        runs = [self.model * len(labels.seeds) + int(self.seeds[i]) for i in group]
        model, seed = labels.run(runs[0])
        who, lack = labels.name(runs[0]), "lacks"
        if len(runs) > 1:
            who = f"{counted(len(runs), 'run')} of {model} (seeds {shown([labels.run(r)[1] for r in runs])})"
            lack, seed = "lack", NO_SEED
        if missing:
            last = int(np.flatnonzero(self.steps[leader])[-1])
            said = (
                f"{who}: no values after step {steps[last]}; most runs of the model go on to step {steps[missing[-1]]}."
            )
            yield Finding("ends-early", said, model, seed, steps=missing)
        at, metrics = np.flatnonzero(self.number[leader]).tolist(), np.flatnonzero(self.metrics[leader]).tolist()
        if at:
            whole = [t for t in at if not self.steps[leader, t]]
            said = (
                f"{who} {lack} {counted(int(self.number[leader].sum()), 'value')} that most runs of the model have, "
                f"in {counted(len(metrics), 'metric')} at {listed_steps(steps[at].tolist())}"
                + (f"; nothing at all at {listed_steps(steps[whole].tolist())}." if whole else ".")
            )
            yield Finding("coverage-hole", said, model, seed, steps=at, metrics=metrics)
