"""Values that cannot be, items and shots that change along a run, and what is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, cells
from polystab.analysis.audit.findings import NO_SEED, Finding, Labels, counted, listed_steps
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

# An accuracy's standard error is sqrt(p (1 - p) / (n - 1)) in the harness, so that it tells n;
# it does so if this close to a whole number.
WHOLE = 0.01


def value_findings(cube: xr.Dataset, labels: Labels) -> list[Finding]:
    """Findings on single values: impossible ones, infinite ones, item counts and shots that change.

    Parameters
    ----------
    cube : xarray.Dataset
        A cube.
    labels : Labels
        Of the cube.
    """
    values = cells(cube)
    return [
        *_impossible(values, cube, labels),
        *_infinite(values, labels),
        *_item_counts(values, cube, labels),
        *_shots(values, cube, labels),
    ]


def _limits(cube: xr.Dataset) -> tuple[Floats, Floats]:
    """Least and largest possible value of each metric."""
    low, high = np.full(cube.sizes["metric"], -np.inf), np.full(cube.sizes["metric"], np.inf)
    units = cube["units"].values.tolist() if "units" in cube.coords else [""] * len(low)
    for k, (measure, unit) in enumerate(zip(cube["measure"].values.tolist(), units, strict=True)):
        limit = LIMITS.get(measure)
        if limit is not None and not (limit == _SHARE and unit in ("%", "percent")):
            low[k], high[k] = limit
    return low, high


def _impossible(values: Floats, cube: xr.Dataset, labels: Labels) -> Iterator[Finding]:
    low, high = _limits(cube)
    finite = np.isfinite(values)
    bad = finite & ((values < low - SLACK) | (values > high + SLACK))
    if not bad.any():
        return
    for m, s in np.argwhere(bad.any(axis=(2, 3))).tolist():
        model, seed = labels.models[m], labels.seeds[s]
        # Metrics that are impossible for the same reason go together.
        for reason in ("below", "above"):
            mine = bad[m, s] & (values[m, s] < low if reason == "below" else values[m, s] > high)
            metrics = np.flatnonzero(mine.any(axis=0)).tolist()
            if not metrics:
                continue
            steps = np.flatnonzero(mine.any(axis=1)).tolist()
            worst = values[m, s][mine]
            said = (
                f"{model} seed {seed} has {counted(int(mine.sum()), 'value')} {reason} the "
                f"{'least' if reason == 'below' else 'largest'} possible one ({(low if reason == 'below' else high)[metrics[0]]:g} "
                f"for {labels.metrics[metrics[0]]}): {worst.min():g} to {worst.max():g} at {listed_steps([labels.steps[t] for t in steps])}."
            )
            percent = reason == "above" and (high[metrics] == 1).all() and worst.max() <= 100
            advice = "These look like percentages: divide them by 100, and state the units." if percent else ""
            yield Finding("impossible-value", said, model, seed, steps=steps, metrics=metrics, advice=advice)


def _infinite(values: Floats, labels: Labels) -> Iterator[Finding]:
    bad = np.isinf(values)
    if not bad.any():
        return
    for m, s in np.argwhere(bad.any(axis=(2, 3))).tolist():
        steps = np.flatnonzero(bad[m, s].any(axis=1)).tolist()
        metrics = np.flatnonzero(bad[m, s].any(axis=0)).tolist()
        said = f"{labels.models[m]} seed {labels.seeds[s]} has infinite values from step {labels.steps[steps[0]]} on."
        yield Finding("diverged", said, labels.models[m], labels.seeds[s], steps=steps, metrics=metrics)


def _item_counts(values: Floats, cube: xr.Dataset, labels: Labels) -> Iterator[Finding]:
    """Accuracies whose standard errors say that the number of items changed."""
    if "stderr" not in cube.data_vars:
        return
    stderr = cells(cube, "stderr")
    for k, measure in enumerate(cube["measure"].values.tolist()):
        if measure not in ("acc", "acc_norm", "exact_match"):
            continue
        p, se = values[..., k], stderr[..., k]
        with np.errstate(divide="ignore", invalid="ignore"):
            n = np.where((p > 0) & (p < 1) & (se > 0), p * (1 - p) / se**2 + 1, np.nan)
        known = np.isfinite(n)
        whole = np.abs(n - np.round(n)) < WHOLE * np.maximum(1, n / 1000)
        if known.sum() < 2 or whole[known].mean() < 1 or np.nanmax(n) > 1 / WHOLE**2:
            continue  # the error is not that of a plain share, or is rounded
        counts, number = np.unique(np.round(n[known]), return_counts=True)
        if len(counts) < 2:
            continue
        usual = counts[number.argmax()]
        odd = known & (np.round(n) != usual)
        steps = np.flatnonzero(odd.any(axis=(0, 1))).tolist()
        runs = np.flatnonzero(odd.any(axis=2).reshape(-1))
        model, seed = labels.run(int(runs[0])) if len(runs) == 1 else ("", NO_SEED)
        said = (
            f"by its standard errors {labels.metrics[k]} was measured on {shown([int(c) for c in counts])} items, "
            f"mostly {int(usual)}; other counts in {counted(len(runs), 'run')}, first {labels.name(int(runs[0]))}, "
            f"at {listed_steps([labels.steps[t] for t in steps])}."
        )
        yield Finding("mixed-items", said, model, seed, steps=steps, metrics=[k])


def _shots(values: Floats, cube: xr.Dataset, labels: Labels) -> Iterator[Finding]:
    """Tasks of a run whose shots change from one step to another instead of being measured side by side."""
    if "shots" not in cube.coords:
        return
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    parts = [cube[name].values.tolist() for name in ("family", "subject", "measure", "filter") if name in cube.coords]
    for k, key in enumerate(zip(*parts, strict=True)):
        groups[key].append(k)
    shots = cube["shots"].values
    found: dict[tuple[int, int, tuple[int, ...], tuple[int, ...]], list[int]] = defaultdict(list)
    for metrics in groups.values():
        if len(metrics) < 2:
            continue
        known = ~np.isnan(values[..., metrics])
        for m, s in np.argwhere(known.any(axis=2).sum(axis=-1) > 1).tolist():
            if (known[m, s].sum(axis=1) <= 1).all():
                there = [k for k, any_ in zip(metrics, known[m, s].any(axis=0).tolist(), strict=True) if any_]
                steps = np.flatnonzero(known[m, s].any(axis=1))
                found[m, s, tuple(steps.tolist()), tuple(shots[there].tolist())] += there
    for (m, s, steps_, said), there in found.items():
        text = (
            f"{labels.models[m]} seed {labels.seeds[s]} was measured with {shown(said)} shots, never at the same step: "
            f"{counted(len(there), 'metric')}, first {labels.metrics[there[0]]}."
        )
        yield Finding("mixed-shots", text, labels.models[m], labels.seeds[s], steps=steps_, metrics=there)


def coverage_findings(measured: Bools, labels: Labels) -> list[Finding]:
    """Findings on what one run lacks and most runs of its model have.

    Parameters
    ----------
    measured : (model, seed, step, metric) array of bool
        Infinite values count as measured.
    labels : Labels
        Of the cube.

    Notes
    -----
    A run alone in its model has nothing to be compared with. A model without values, and a
    seed that a model does not have, are no holes; a cube without any value is said.
    """
    if not measured.any():
        return [Finding("no-values", "no cell of the cube holds a value.")]
    found: list[Finding] = []
    for m, model in enumerate(labels.models):
        there = np.flatnonzero(measured[m].any(axis=(1, 2)))
        if not len(there):
            found.append(Finding("no-values", f"{model} has no values.", model))
        if len(there) > 1:
            found += _lacking(measured[m, there], [m * len(labels.seeds) + int(s) for s in there], labels)
    return found


def _lacking(mine: Bools, runs: list[int], labels: Labels) -> Iterator[Finding]:
    """What runs of a model lack; runs that lack the same go together."""
    usual = 2 * mine.sum(axis=0) > len(runs)
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, run in enumerate(mine):
        if (usual & ~run).any():
            groups[np.packbits(run).tobytes()].append(i)
    for group in groups.values():
        yield from _holes(mine[group[0]], usual, [runs[i] for i in group], labels)


def _holes(run: Bools, usual: Bools, runs: list[int], labels: Labels) -> Iterator[Finding]:
    """Where runs stop, and what they lack before."""
    steps, gap = np.asarray(labels.steps), usual & ~run
    model, seed = labels.run(runs[0])
    who, lack = labels.name(runs[0]), "lacks"
    if len(runs) > 1:
        who, lack = f"{counted(len(runs), 'run')} of {model} (seeds {shown([labels.run(r)[1] for r in runs])})", "lack"
        seed = NO_SEED
    last = int(np.flatnonzero(run.any(axis=1))[-1])
    missing = [t for t in np.flatnonzero(usual.any(axis=1)).tolist() if t > last]
    if missing:
        said = f"{who}: no values after step {steps[last]}; most runs of the model go on to step {steps[missing[-1]]}."
        yield Finding("ends-early", said, model, seed, steps=missing)
        gap[missing] = False
    if gap.any():
        at, metrics = np.flatnonzero(gap.any(axis=1)).tolist(), np.flatnonzero(gap.any(axis=0)).tolist()
        whole = [t for t in at if not run[t].any()]
        said = (
            f"{who} {lack} {counted(int(gap.sum()), 'value')} that most runs of the model have, "
            f"in {counted(len(metrics), 'metric')} at {listed_steps(steps[at].tolist())}"
            + (f"; nothing at all at {listed_steps(steps[whole].tolist())}." if whole else ".")
        )
        yield Finding("coverage-hole", said, model, seed, steps=at, metrics=metrics)
