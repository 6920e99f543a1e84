"""Which runs went wrong by their logs, and whether that could be told early."""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

from polystab.analysis.early_warning.classifier import EarlyWarning
from polystab.analysis.early_warning.curves import last_time
from polystab.analysis.early_warning.evaluation import evaluate_warning
from polystab.analysis.failures import failed_runs
from polystab.errors import AnalysisError
from polystab.plots.warnings import MEASURE

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
