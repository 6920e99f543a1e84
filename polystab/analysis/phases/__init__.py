"""When training changes: curve by curve, over seeds, over sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.phases.agreement import adjusted_rand, change_point_f1, covering, hausdorff
    from polystab.analysis.phases.consensus import consensus_change_points, seed_agreement
    from polystab.analysis.phases.curves import change_points
    from polystab.analysis.phases.sizes import phase_size_trend

_NAMES = {
    "polystab.analysis.phases.agreement": (
        "adjusted_rand",
        "change_point_f1",
        "covering",
        "hausdorff",
    ),
    "polystab.analysis.phases.consensus": (
        "consensus_change_points",
        "seed_agreement",
    ),
    "polystab.analysis.phases.curves": ("change_points",),
    "polystab.analysis.phases.sizes": ("phase_size_trend",),
}

__all__ = [
    "adjusted_rand",
    "change_point_f1",
    "change_points",
    "consensus_change_points",
    "covering",
    "hausdorff",
    "phase_size_trend",
    "seed_agreement",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
