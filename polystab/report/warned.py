"""Which runs went wrong by their logs, and whether that could be told early: analysed and summed up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from polystab.analysis.early_warning.classifier import EarlyWarning
from polystab.analysis.early_warning.curves import last_time
from polystab.analysis.early_warning.evaluation import evaluate_warning
from polystab.analysis.failures import failed_runs
from polystab.errors import AnalysisError
from polystab.plots.warnings import MEASURE, best_baseline, describe_warning

Summary = dict[str, Any]

# Runs that went wrong in the summary; more are counted.
MAX_WRONG = 200

# With fewer runs of either kind, intervals would reach from nearly nothing to nearly everything.
MIN_EACH = 4

# Shares of training after which runs are judged; with all steps and curves an evaluation takes minutes.
SHARES = (0.125, 0.25, 0.375, 0.5)
# Of which the one that the sentence and the table are about.
TOLD = 0.25
FAMILIES = ("log", "loss", "gradient")
SPLITS = 6
FOLDS = 5
RESAMPLES = 1000

METHOD = "logistic"


@dataclass(frozen=True)
class Warned:
    """Runs that went wrong; how well that could be told early, or why that is not known; the last step."""

    failed: xr.Dataset
    last: float
    evaluation: xr.Dataset | None
    reason: str


def warn(cube: xr.Dataset | xr.DataTree, *, rng: int) -> Warned | None:
    """Evaluate an early warning on the runs of a cube whose logs say which went wrong; None without such logs."""
    if not isinstance(cube, xr.DataTree) or "log" not in cube.children:
        return None
    try:
        failed = failed_runs(cube)
    except AnalysisError:
        return None  # a log without losses
    last = last_time(cube)
    wrong, known = int(failed["wrong"].sum()), int(failed["known"].sum())
    if min(wrong, known - wrong) < MIN_EACH:
        few = f"{wrong} went wrong" if wrong < MIN_EACH else f"{known - wrong} did not"
        return Warned(failed, last, None, f"of {known} runs only {few}, and it takes {MIN_EACH} of either kind")
    steps = sorted({max(round(share * last), 1) for share in SHARES})
    method = EarlyWarning(method=METHOD, families=FAMILIES, views=["all"], steps=steps, n_folds=FOLDS, rng=rng)
    try:
        found = evaluate_warning(
            cube, failed, methods={METHOD: method}, n_splits=SPLITS, n_resamples=RESAMPLES, rng=rng
        )
    except AnalysisError as error:
        return Warned(failed, last, None, str(error).rstrip("."))
    if not found["value"].sel(measure=MEASURE, warning=METHOD).notnull().any():
        return Warned(failed, last, None, "at no step did a run that went wrong have a sibling that did not")
    return Warned(failed, last, found, "")


def warning_summary(warned: Warned | None) -> Summary | None:
    """Which runs went wrong, and what early warnings were worth; see :mod:`polystab.report.summary`."""
    if warned is None:
        return None
    failed = warned.failed
    wrong = failed["wrong"].transpose("model", "seed").values
    models, seeds, rules = (failed[dim].values for dim in ("model", "seed", "rule"))
    by_rule = failed["failed"].transpose("model", "seed", "rule").values
    columns = {name: failed[name].transpose("model", "seed").values for name in ("seen_at", "n_spikes", "final_loss")}
    places = np.argwhere(wrong).tolist()
    return {
        "runs": failed["known"].sum().item(),
        "wrong": len(places),
        "rows": [
            {"model": str(models[m]), "seed": seeds[s], "rules": [str(rule) for rule in rules[by_rule[m, s]]]}
            | {name: column[m, s] for name, column in columns.items()}
            for m, s in places[:MAX_WRONG]
        ],
        "left_out": max(len(places) - MAX_WRONG, 0),
        "reason": warned.reason,
        "early": None if warned.evaluation is None else _early(warned.evaluation, warned.last),
    }


def _early(found: xr.Dataset, last: float) -> Summary:
    """What held-out runs were told, at the step that the sentence is about and over steps."""
    step = int(min(found["step"].values.tolist(), key=lambda t: abs(t - TOLD * last)))
    at = found.sel(measure=MEASURE, step=step)
    ranked = found.sel(measure=MEASURE)
    methods = [
        {
            "name": name,
            "auroc": at["value"].sel(warning=name).item(),
            "auroc_lower": at["lower"].sel(warning=name).item(),
            "auroc_upper": at["upper"].sel(warning=name).item(),
        }
        | {column: found[column].sel(warning=name).item() for column in _ALARM_COLUMNS}
        | {column: found[column].sel(warning=name, step=step).item() for column in ("brier", "brier_base")}
        for name in found["warning"].values.tolist()
    ]
    return {
        "method": METHOD,
        "families": list(FAMILIES),
        "splits": found.attrs["n_splits"],
        "folds": FOLDS,
        "resamples": found.attrs["n_resamples"],
        "level": found.attrs["level"],
        "false_alarm": found.attrs["false_alarm"],
        "step": step,
        "share": step / last,
        "baseline": best_baseline(found),
        **{name: ranked[name].sel(step=step).item() for name in _GAINS if name in ranked},
        **{name: at[name].item() for name in ("n_wrong", "n_good", "n_already", "n_pairs")},
        "wrong": (found["wrong"] & found["evaluated"]).sum().item(),
        "good": (~found["wrong"] & found["evaluated"]).sum().item(),
        "methods": methods,
        "steps": found["step"].values.tolist(),
        "curves": [
            {"name": name}
            | {column: ranked[column].sel(warning=name).values.tolist() for column in ("value", "lower", "upper")}
            for name in found["warning"].values.tolist()
        ],
        "picture": describe_warning(found),
    }


_GAINS = ("best_baseline", "gain", "gain_lower", "gain_upper")
_ALARM_COLUMNS = (
    "caught", "caught_lower", "caught_upper", "caught_matched", "false_alarms", "false_alarms_lower",
    "false_alarms_upper", "median_lead",
)  # fmt: skip
