"""How many states: runs held out, criteria, and the whole table of what was tried."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, described, divided
from polystab.analysis.maps.fit import Fit, Options, fit
from polystab.analysis.maps.inputs import Normalise, Rows, Scale, constant_metrics, normalised, reference_scale
from polystab.analysis.maps.kernels import Parameters, decode, n_parameters, packed
from polystab.errors import AnalysisError, did_you_mean, shown
from polystab.progress_bars import tracked

Criterion = Literal["bic", "aic", "heldout"]
HeldOut = Literal["each", "checkpoints"] | float | Sequence[int] | None

MOST_STATES = 8
# Leave-one-run-out refits everything; with more runs than this they are left out in groups.
MOST_FOLDS = 5
CHECKPOINT_SHARE = 0.2

TABLE_DOCS = {
    "log_likelihood": "log-likelihood of the fitted checkpoints under the best restart",
    "n_parameters": "free parameters: starts, transitions, means, covariances",
    "n_rows": "checkpoints that the criteria count",
    "aic": "-2 log-likelihood + 2 parameters; lowest is best",
    "bic": "-2 log-likelihood + parameters x ln(checkpoints); lowest is best",
    "held_out": "log-likelihood of the checkpoints held out",
    "held_out_per_checkpoint": "that, per checkpoint; highest is best",
    "optimum_share": "share of restarts that ended within 0.5 of the best log-likelihood",
    "converged": "EM of the best restart stopped by itself",
    "converged_share": "share of restarts whose EM stopped by itself",
    "n_unvisited": "states that no fitted checkpoint is decoded as",
    "refused": "why nothing was fitted, empty where it was",
}


@dataclass(frozen=True)
class Split:
    """Checkpoints to fit to and checkpoints held out, (run, step) arrays of bool."""

    fitted: Bools
    tested: Bools

    @property
    def fitted_runs(self) -> Bools:
        return np.asarray(self.fitted.any(axis=1))

    @property
    def tested_runs(self) -> Bools:
        return np.asarray(self.tested.any(axis=1))


@dataclass(frozen=True)
class Tried:
    """Every number of states that was tried: the fits, and the table of them."""

    fits: dict[int, Fit]
    table: xr.Dataset


def counts_of(n_states: int | Sequence[int] | None) -> list[int]:
    """Numbers of states to try, increasing."""
    given: Any = range(1, MOST_STATES + 1) if n_states is None else n_states
    listed = list(given) if isinstance(given, Iterable) else [given]
    if not listed or not all(isinstance(n, (int, np.integer)) and n >= 1 for n in listed):
        raise AnalysisError(f"n_states={n_states!r} is not a number of states, 1 or more, nor several of them.")
    return sorted({int(n) for n in listed})


def split_runs(
    rows: Rows, seeds: Sequence[int], held_out: HeldOut, rng: np.random.Generator
) -> tuple[Split, list[Split]]:
    """What the map is fitted to and, fold by fold, what is held out to judge it.

    Copies of other runs are in neither.
    """
    own = rows.used & ~rows.copies[:, None]
    nothing = np.zeros_like(own)
    if held_out is None:
        return Split(own, nothing), []
    candidates = np.flatnonzero(own.any(axis=1))
    if isinstance(held_out, str):
        if held_out == "checkpoints":
            tested = own & (rng.random(own.shape) < CHECKPOINT_SHARE)
            split = Split(own & ~tested, tested)
            return split, [split]
        if held_out != "each":
            raise AnalysisError(f"no held_out {held_out!r}. {did_you_mean(held_out, ('each', 'checkpoints'))}")
        return Split(own, nothing), _folds(own, candidates, rng)
    if isinstance(held_out, float):
        if not 0 < held_out < 1:
            raise AnalysisError(f"held_out={held_out} is not a share of the runs between 0 and 1, e.g. 0.2.")
        n = max(1, round(held_out * len(candidates)))
        chosen = rng.permutation(candidates)[:n]
    else:
        wanted = seeds_in(seeds, held_out, "held_out")
        chosen = candidates[np.isin(np.asarray(seeds)[rows.seed[candidates]], wanted)]
    if len(chosen) >= len(candidates):
        raise AnalysisError(f"held_out leaves no run to fit: {len(candidates)} runs, all held out.")
    out = np.zeros(rows.n_runs, dtype=np.bool_)
    out[chosen] = True
    split = Split(own & ~out[:, None], own & out[:, None])
    return split, [split]


def _folds(own: Bools, candidates: Any, rng: np.random.Generator) -> list[Split]:
    if len(candidates) < 2:
        raise AnalysisError(
            "a single run cannot be held out and fitted; choose the number of states by 'bic' or 'aic'."
        )
    dealt = rng.permutation(candidates)
    folds = []
    for i in range(min(len(candidates), MOST_FOLDS)):
        out = np.zeros(len(own), dtype=np.bool_)
        out[dealt[i::MOST_FOLDS]] = True
        folds.append(Split(own & ~out[:, None], own & out[:, None]))
    return folds


def seeds_in(seeds: Sequence[int], wanted: Sequence[int], argument: str) -> list[int]:
    """The wanted seeds, all of which the cube must have."""
    given: Any = wanted
    listed = list(given) if isinstance(given, Iterable) else [given]
    if not listed or not all(isinstance(seed, (int, np.integer)) for seed in listed):
        raise AnalysisError(f"{argument}={wanted!r} does not list seeds (integers).")
    if missing := sorted({int(seed) for seed in listed} - set(seeds)):
        raise AnalysisError(
            f"{argument} names seeds {shown(missing)}, which the cube lacks; it has {shown(list(seeds), 12)}."
        )
    return [int(seed) for seed in listed]


@dataclass(frozen=True)
class Trial:
    """One way to put rows on a scale and fit them, for any split."""

    rows: Rows
    normalise: Normalise
    reference: Bools | None
    options: Options

    def scaled(self, split: Split) -> Floats:
        """Values on the scale of the fitted runs, or of the reference runs that were named.

        With checkpoints held out of a run, its z-scores still count them: that is the leak of such a split.
        """
        scale = reference_scale(self.rows, split.fitted_runs if self.reference is None else self.reference)
        if self.normalise == "reference":
            check_scale(self.rows, scale, split.fitted_runs | split.tested_runs)
        return normalised(self.rows, self.normalise, scale)

    def fit(self, split: Split, n_states: int) -> Fit:
        z = self.scaled(split)
        return fit([z[r][split.fitted[r]] for r in range(self.rows.n_runs)], n_states, self.options)

    def score(self, split: Split, parameters: Parameters) -> float:
        """Log-likelihood of what the split holds out."""
        x, lengths, _ = packed(self.scaled(split), split.tested)
        return math.fsum(decode(x, lengths, parameters).log_likelihood)


def try_counts(trial: Trial, main: Split, folds: list[Split], counts: list[int]) -> Tried:
    """Fit every number of states that the checkpoints allow.

    Raises
    ------
    AnalysisError
        The checkpoints allow none of them.
    """
    n_rows, n_metrics = int(main.fitted.sum()), len(trial.rows.metrics)
    x, lengths, _ = packed(trial.scaled(main), main.fitted)
    n_tested = sum(int(fold.tested.sum()) for fold in folds)
    fits, lines = {}, []
    for n in tracked(counts, "fitting training maps", unit="map") if len(counts) > 1 else counts:
        parameters = n_parameters(n, n_metrics, trial.options.covariance)
        line: dict[str, Any] = dict.fromkeys(TABLE_DOCS, np.nan) | {
            "n_parameters": parameters, "n_rows": n_rows, "converged": False, "n_unvisited": -1, "refused": "",
        }  # fmt: skip
        smallest = min([n_rows, *(int(fold.fitted.sum()) for fold in folds)])
        if smallest < parameters:
            line["refused"] = f"{smallest} checkpoints for {parameters} parameters"
        else:
            fits[n] = trial.fit(main, n)
            line |= _judged(fits[n], x, lengths, parameters, n_rows)
            if folds:
                line["held_out"] = sum(
                    trial.score(fold, (fits[n] if fold is main else trial.fit(fold, n)).parameters) for fold in folds
                )
                line["held_out_per_checkpoint"] = float(divided(line["held_out"], n_tested))
        lines.append(line)
    if not fits:
        kind = trial.options.covariance
        raise AnalysisError(
            f"too few checkpoints to fit: {counts[0]} states over {n_metrics} metrics with {kind!r} covariance: "
            f"{lines[0]['refused']}. Use fewer metrics or states, 'diag', or more runs."
        )
    return Tried(fits, table_of(counts, lines))


def _judged(found: Fit, x: Floats, lengths: Any, parameters: int, n_rows: int) -> dict[str, Any]:
    read = decode(x, lengths, found.parameters)
    total = math.fsum(read.log_likelihood)
    return {
        "log_likelihood": total,
        "aic": -2 * total + 2 * parameters,
        "bic": -2 * total + parameters * np.log(n_rows),
        "optimum_share": found.optimum_share,
        "converged": bool(found.converged[found.best]),
        "converged_share": float(np.mean(found.converged)),
        "n_unvisited": found.parameters.n_states - len(np.unique(read.viterbi[read.viterbi >= 0])),
    }


def table_of(counts: Sequence[int], lines: Sequence[dict[str, Any]]) -> xr.Dataset:
    """What was tried, one line per number of states."""
    columns = {name: ("n_states", np.array([line[name] for line in lines])) for name in TABLE_DOCS}
    return described(xr.Dataset(columns, coords={"n_states": np.array(counts, dtype=np.int64)}), TABLE_DOCS)


def best_count(table: xr.Dataset, criterion: Criterion) -> int:
    """The number of states that the criterion prefers; the smaller one of equals."""
    value = table["held_out"].values if criterion == "heldout" else -table[criterion].values
    return int(table["n_states"].values[np.nanargmax(value)])


def check_scale(rows: Rows, scale: Scale, runs: Bools) -> None:
    """Raise unless the models of these runs have a scale."""
    needed = np.unique(rows.model[runs])
    if missing := [rows.models[m] for m in needed if np.isnan(scale.centre[m]).any()]:
        raise AnalysisError(
            f"no reference run is measured for {shown(missing)}: each model's scale comes from runs of its own that are "
            "fitted. Name reference seeds that it has, hold fewer runs out, or leave the model out."
        )


def varying(rows: Rows, main: Split, normalise: Normalise, chosen: Bools | None, notes: list[str]) -> Rows:
    """The rows without metrics that do not vary, which a note names."""
    fitted = main.fitted_runs
    scale = reference_scale(rows, fitted if chosen is None else chosen)
    if normalise == "reference":
        check_scale(rows, scale, fitted | main.tested_runs | rows.copies)
    constant = constant_metrics(rows, fitted, normalise, scale)
    if constant.all():
        raise AnalysisError(f"none of the {len(rows.metrics)} metrics varies, so there is nothing to map.")
    if constant.any():
        names = [name for name, flat in zip(rows.metrics, constant, strict=True) if flat]
        notes.append(f"{len(names)} of {len(rows.metrics)} metrics do not vary and are left out: {shown(names)}.")
    return rows.without(constant)
