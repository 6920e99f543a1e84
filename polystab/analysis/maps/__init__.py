"""What training maps are made of, and how they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.maps.agreement import map_agreement, run_agreement
    from polystab.analysis.maps.model import TrainingMap
    from polystab.analysis.maps.performance import performance_from_occupancy
    from polystab.analysis.maps.reading import state_occupancy, state_paths, state_transitions, transition_effects

_NAMES = {
    "polystab.analysis.maps.agreement": (
        "map_agreement",
        "run_agreement",
    ),
    "polystab.analysis.maps.model": ("TrainingMap",),
    "polystab.analysis.maps.performance": ("performance_from_occupancy",),
    "polystab.analysis.maps.reading": (
        "state_occupancy",
        "state_paths",
        "state_transitions",
        "transition_effects",
    ),
}

__all__ = [
    "TrainingMap",
    "map_agreement",
    "performance_from_occupancy",
    "run_agreement",
    "state_occupancy",
    "state_paths",
    "state_transitions",
    "transition_effects",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
