"""Curves over training: bands over seeds, peaks, asymptotes, forecasts, and how alike they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.trajectories.consistency import curve_consistency
    from polystab.analysis.trajectories.forecasts import forecast_final
    from polystab.analysis.trajectories.limits import asymptotes
    from polystab.analysis.trajectories.peaks import curve_peaks
    from polystab.analysis.trajectories.spread import (
        MIN_RUNS,
        QUARTILES,
        final_steps,
        metric_group,
        pick_models,
        rank_metrics,
        seed_band,
    )

_NAMES = {
    "polystab.analysis.trajectories.limits": ("asymptotes",),
    "polystab.analysis.trajectories.consistency": ("curve_consistency",),
    "polystab.analysis.trajectories.forecasts": ("forecast_final",),
    "polystab.analysis.trajectories.peaks": ("curve_peaks",),
    "polystab.analysis.trajectories.spread": (
        "MIN_RUNS",
        "QUARTILES",
        "final_steps",
        "metric_group",
        "pick_models",
        "rank_metrics",
        "seed_band",
    ),
}

__all__ = [
    "MIN_RUNS",
    "QUARTILES",
    "asymptotes",
    "curve_consistency",
    "curve_peaks",
    "final_steps",
    "forecast_final",
    "metric_group",
    "pick_models",
    "rank_metrics",
    "seed_band",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
