"""What a training map is fitted to: which metrics, which checkpoints, on which scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, cells, divided, moments
from polystab.analysis.audit.runs import duplicate_runs
from polystab.errors import AnalysisError, did_you_mean, shown

Normalise = Literal["reference", "causal", "run"]

# The 14 statistics of the weights of Hu et al. (2023), in the order of the PolyPythias tables. A cube names them
# <family>/<subject>/<measure> with "_over_" for "/" in a measure; capitals do not matter.
HU2023 = (
    "L1", "L2", "L1/L2", "mu_w", "median_w", "sigma_w", "mu_b", "median_b", "sigma_b",
    "trace", "lambda_max", "trace/lambda", "mu_lambda", "sigma_lambda",
)  # fmt: skip

# Spread below this times the size of the centre is rounding of a constant.
ROUNDING = 8 * np.finfo(np.float64).eps

# Scaled values are held within this, so that the square of a wild one stays a number.
LARGEST = 1e6
_SQUARABLE = 1e150


@dataclass(frozen=True)
class Rows:
    """The checkpoints of every run of a cube.

    Attributes
    ----------
    values : (run, step, metric) array
        As measured.
    used : (run, step) array of bool
        Every metric is measured and finite.
    model, seed : (run,) array of int
        Positions of the run in the cube.
    models, metrics : tuple of str
        Labels.
    copies : (run,) array of bool
        The run repeats another one.
    incomplete, nonfinite : (run,) array of int
        Checkpoints left out: some metric is not measured; some is infinite.
    """

    values: Floats
    used: Bools
    model: Ints
    seed: Ints
    models: tuple[str, ...]
    metrics: tuple[str, ...]
    copies: Bools
    incomplete: Ints
    nonfinite: Ints

    @property
    def n_runs(self) -> int:
        return len(self.model)

    def without(self, constant: Bools) -> Rows:
        """The same without some metrics."""
        kept = tuple(name for name, drop in zip(self.metrics, constant, strict=True) if not drop)
        return replace(self, values=self.values[:, :, ~constant], metrics=kept)


@dataclass(frozen=True)
class Scale:
    """Centre and spread (ddof 0) of each model's reference checkpoints, both (model, metric); NaN where there are none."""

    centre: Floats
    spread: Floats


def choose_metrics(cube: xr.Dataset, metrics: Sequence[str] | None) -> list[str]:
    """Ids of the metrics to map.

    Raises
    ------
    AnalysisError
        A wanted metric is not in the cube, stands there twice, or none is wanted.
    """
    present = [str(name) for name in cube["metric"].values.tolist()]
    if metrics is None:
        return hu2023_metrics(cube) or present
    wanted = [metrics] if isinstance(metrics, str) else [str(name) for name in metrics]
    if not wanted:
        raise AnalysisError("metrics lists none; leave it out for the 14 weight features, or all metrics that vary.")
    for name in wanted:
        if name not in present:
            raise AnalysisError(f"no metric {name!r} in the cube. {did_you_mean(name, present)}")
    if len(set(wanted)) < len(wanted):
        raise AnalysisError(
            f"metrics names {shown(sorted({n for n in wanted if wanted.count(n) > 1}))} more than once."
        )
    return wanted


def hu2023_metrics(cube: xr.Dataset) -> list[str]:
    """Ids of the 14 weight features of Hu et al. (2023) in the order of the papers; none if the cube lacks one."""
    found: dict[str, dict[str, str]] = {}
    labels = (cube[name].values.tolist() for name in ("metric", "family", "subject", "measure"))
    for metric, family, subject, measure in zip(*labels, strict=True):
        if family == "weight":
            found.setdefault(subject, {}).setdefault(_plain(measure), metric)
    wanted = [_plain(name) for name in HU2023]
    whole = [subject for subject, named in found.items() if all(name in named for name in wanted)]
    for subject in ("hu2023", "all", *whole):
        if subject in whole:
            return [found[subject][name] for name in wanted]
    return []


def gather(cube: xr.Dataset, metrics: Sequence[str]) -> Rows:
    """The checkpoints of a cube at which all of the metrics are measured and finite.

    Runs without a single value are left out; runs stay in the cube's order.
    """
    part = cube.sel(metric=list(metrics))
    values = cells(part)
    n_model, n_seed, n_step, n_metric = values.shape
    copies = np.asarray(duplicate_runs(part)["duplicate_run"].values).reshape(-1)
    values = values.reshape(n_model * n_seed, n_step, n_metric)
    some: Bools = np.asarray((~np.isnan(values)).any(axis=2))
    infinite: Bools = np.asarray(np.isinf(values).any(axis=2))
    used: Bools = np.asarray(np.isfinite(values).all(axis=2))
    there = np.flatnonzero(some.sum(axis=1))
    return Rows(
        values=values[there],
        used=used[there],
        model=(there // n_seed).astype(np.int64),
        seed=(there % n_seed).astype(np.int64),
        models=tuple(str(name) for name in part["model"].values.tolist()),
        metrics=tuple(str(name) for name in metrics),
        copies=copies[there],
        incomplete=(some & ~used & ~infinite).sum(axis=1)[there].astype(np.int64),
        nonfinite=infinite.sum(axis=1)[there].astype(np.int64),
    )


def reference_scale(rows: Rows, chosen: Bools) -> Scale:
    """Mean and standard deviation (ddof 0) of the used checkpoints of the chosen runs, pooled per model."""
    centre = np.full((len(rows.models), len(rows.metrics)), np.nan)
    spread = centre.copy()
    for m in range(len(rows.models)):
        picked = chosen & (rows.model == m)
        pooled = rows.values[picked][rows.used[picked]]
        if len(pooled):
            # In a fixed order, so that the order of runs does not decide the last digit of a sum.
            centre[m], spread[m] = _centre_spread(np.sort(pooled, axis=0))
    return Scale(centre, spread)


def constant_metrics(rows: Rows, fitted: Bools, normalise: Normalise, scale: Scale) -> Bools:
    """Which metrics cannot be put on the scale: they do not vary (in some model's reference; in any run)."""
    if normalise == "reference":
        needed = np.unique(rows.model[fitted])
        return np.asarray((scale.spread[needed] == 0).any(axis=0))
    spreads = [_centre_spread(x[u])[1] for x, u in zip(rows.values[fitted], rows.used[fitted], strict=True) if u.any()]
    return np.asarray((np.array(spreads).reshape(-1, len(rows.metrics)) == 0).all(axis=0))


def normalised(rows: Rows, normalise: Normalise, scale: Scale) -> Floats:
    """Values (run, step, metric) on the scale of the map; NaN at checkpoints that are not used.

    ``"reference"``: minus centre, over spread, of the run's model. ``"run"``: the z-score over all
    used checkpoints of the run (ddof 0). ``"causal"``: the z-score of each checkpoint among the used
    ones of its run so far, itself included; the first of a run is 0. A metric that does not vary
    within a run (so far) is 0.
    """
    result = np.full(rows.values.shape, np.nan)
    for r in range(rows.n_runs):
        used = rows.used[r]
        x = rows.values[r][used]
        if normalise == "reference":
            centre, spread = scale.centre[rows.model[r]], scale.spread[rows.model[r]]
        elif normalise == "run":
            centre, spread = _centre_spread(x)
        else:
            centre, spread = _so_far(x)
        with np.errstate(over="ignore"):
            z = divided(x - centre, spread)
        result[r, used] = np.clip(np.where(spread == 0, 0.0, z), -LARGEST, LARGEST)
    return result


def _centre_spread(x: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation (ddof 0) over rows; exactly 0 where only rounding varies."""
    if not len(x):
        nothing = np.full(x.shape[1], np.nan)
        return nothing, nothing
    centre, sd, n = moments(x, axis=0)
    spread = np.where(n > 1, sd * np.sqrt((n - 1) / np.maximum(n, 1)), 0.0)
    return centre, np.where(spread <= ROUNDING * np.abs(centre), 0.0, spread)


def _so_far(x: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation (ddof 0) of the rows up to each row, itself included."""
    if not len(x):
        return x, x
    # From the first row, which is among those that vary: so the difference of squares loses nothing that matters.
    # No scaling by the largest value, which may come later; what lies beyond is as far as its square can be told.
    with np.errstate(over="ignore"):
        away = np.clip(x - x[0], -_SQUARABLE, _SQUARABLE)
    n = np.arange(1, len(x) + 1)[:, None]
    mean = np.cumsum(away, axis=0) / n
    spread = np.sqrt(np.maximum(np.cumsum(away**2, axis=0) / n - mean**2, 0.0))
    centre = x[0] + mean
    return centre, np.where(spread <= ROUNDING * np.abs(centre), 0.0, spread)


def _plain(measure: str) -> str:
    return measure.replace("/", "_over_").lower()
