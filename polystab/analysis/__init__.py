"""What a cube is fed to: every function takes a cube and returns a labelled Dataset.

Names are imported when they are first used, so that a report on seed spread does
not wait for the libraries of change points or hidden Markov models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.audit import duplicate_runs
    from polystab.analysis.component_seeds import seed_variances
    from polystab.analysis.components import variance_components, variance_fractions
    from polystab.analysis.coverage import cube_coverage, fingerprint
    from polystab.analysis.failures import failed_runs, loss_spikes
    from polystab.analysis.outliers import expected_share, outlier_scores, rank_runs
    from polystab.analysis.reml import RemlFit, fit_reml
    from polystab.analysis.trajectories import final_steps, pick_models, rank_metrics, seed_band
    from polystab.analysis.variance import c4, sd_factors, seed_spread, spread_overview

_NAMES = {
    "polystab.analysis.audit": ("duplicate_runs",),
    "polystab.analysis.component_seeds": ("seed_variances",),
    "polystab.analysis.components": (
        "variance_components",
        "variance_fractions",
    ),
    "polystab.analysis.coverage": (
        "cube_coverage",
        "fingerprint",
    ),
    "polystab.analysis.failures": (
        "failed_runs",
        "loss_spikes",
    ),
    "polystab.analysis.outliers": (
        "expected_share",
        "outlier_scores",
        "rank_runs",
    ),
    "polystab.analysis.reml": (
        "RemlFit",
        "fit_reml",
    ),
    "polystab.analysis.trajectories": (
        "final_steps",
        "pick_models",
        "rank_metrics",
        "seed_band",
    ),
    "polystab.analysis.variance": (
        "c4",
        "sd_factors",
        "seed_spread",
        "spread_overview",
    ),
}

__all__ = [
    "RemlFit",
    "c4",
    "cube_coverage",
    "duplicate_runs",
    "expected_share",
    "failed_runs",
    "final_steps",
    "fingerprint",
    "fit_reml",
    "loss_spikes",
    "outlier_scores",
    "pick_models",
    "rank_metrics",
    "rank_runs",
    "sd_factors",
    "seed_band",
    "seed_spread",
    "seed_variances",
    "spread_overview",
    "variance_components",
    "variance_fractions",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
