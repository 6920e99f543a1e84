"""How unusual runs are, and which ones are outliers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.outliers.distances import curve_depth, joint_distance
    from polystab.analysis.outliers.events import shared_events, spike_scores
    from polystab.analysis.outliers.leads import lead_lag
    from polystab.analysis.outliers.paths import unlikely_paths
    from polystab.analysis.outliers.scores import expected_share, outlier_scores, rank_runs
    from polystab.analysis.outliers.verdicts import outlier_runs

_NAMES = {
    "polystab.analysis.outliers.distances": (
        "curve_depth",
        "joint_distance",
    ),
    "polystab.analysis.outliers.events": (
        "shared_events",
        "spike_scores",
    ),
    "polystab.analysis.outliers.leads": ("lead_lag",),
    "polystab.analysis.outliers.paths": ("unlikely_paths",),
    "polystab.analysis.outliers.scores": (
        "expected_share",
        "outlier_scores",
        "rank_runs",
    ),
    "polystab.analysis.outliers.verdicts": ("outlier_runs",),
}

__all__ = [
    "curve_depth",
    "expected_share",
    "joint_distance",
    "lead_lag",
    "outlier_runs",
    "outlier_scores",
    "rank_runs",
    "shared_events",
    "spike_scores",
    "unlikely_paths",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
