"""What a cube is fed to: every function takes a cube and returns a labelled Dataset.

Names are imported when they are first used, so that a report on seed spread does
not wait for the libraries of change points or hidden Markov models.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polystab.analysis.audit import duplicate_runs
    from polystab.analysis.coverage import cube_coverage, fingerprint
    from polystab.analysis.outliers import expected_share, outlier_scores, rank_runs
    from polystab.analysis.trajectories import final_steps, pick_models, rank_metrics, seed_band
    from polystab.analysis.variance import c4, sd_factors, seed_spread, spread_overview

_PUBLIC = {
    "c4": "polystab.analysis.variance",
    "cube_coverage": "polystab.analysis.coverage",
    "duplicate_runs": "polystab.analysis.audit",
    "expected_share": "polystab.analysis.outliers",
    "final_steps": "polystab.analysis.trajectories",
    "fingerprint": "polystab.analysis.coverage",
    "outlier_scores": "polystab.analysis.outliers",
    "pick_models": "polystab.analysis.trajectories",
    "rank_runs": "polystab.analysis.outliers",
    "rank_metrics": "polystab.analysis.trajectories",
    "sd_factors": "polystab.analysis.variance",
    "seed_band": "polystab.analysis.trajectories",
    "seed_spread": "polystab.analysis.variance",
    "spread_overview": "polystab.analysis.variance",
}

__all__ = [
    "c4",
    "cube_coverage",
    "duplicate_runs",
    "expected_share",
    "final_steps",
    "fingerprint",
    "outlier_scores",
    "pick_models",
    "rank_metrics",
    "rank_runs",
    "sd_factors",
    "seed_band",
    "seed_spread",
    "spread_overview",
]


def __getattr__(name: str) -> Any:
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'polystab.analysis' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
