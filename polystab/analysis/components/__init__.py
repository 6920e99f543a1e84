"""Variance components: who is responsible for the spread, and what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.components.additivity import seed_additivity
    from polystab.analysis.components.at_end import final_components
    from polystab.analysis.components.comparison import variance_by_size, variance_ratio
    from polystab.analysis.components.fractions import variance_fractions
    from polystab.analysis.components.gtheory import decision_study
    from polystab.analysis.components.items import item_components, item_design
    from polystab.analysis.components.last_checkpoints import checkpoint_noise
    from polystab.analysis.components.needed import noise_floor, seeds_needed
    from polystab.analysis.components.permutation import permutation_test
    from polystab.analysis.components.reliability import coefficient_of_variation, seed_reliability
    from polystab.analysis.components.seeds import seed_variances
    from polystab.analysis.components.split import variance_components
    from polystab.analysis.components.windows import variance_over_windows

_NAMES = {
    "polystab.analysis.components.additivity": ("seed_additivity",),
    "polystab.analysis.components.at_end": ("final_components",),
    "polystab.analysis.components.comparison": (
        "variance_by_size",
        "variance_ratio",
    ),
    "polystab.analysis.components.fractions": ("variance_fractions",),
    "polystab.analysis.components.gtheory": ("decision_study",),
    "polystab.analysis.components.items": (
        "item_components",
        "item_design",
    ),
    "polystab.analysis.components.last_checkpoints": ("checkpoint_noise",),
    "polystab.analysis.components.needed": (
        "noise_floor",
        "seeds_needed",
    ),
    "polystab.analysis.components.permutation": ("permutation_test",),
    "polystab.analysis.components.reliability": (
        "coefficient_of_variation",
        "seed_reliability",
    ),
    "polystab.analysis.components.seeds": ("seed_variances",),
    "polystab.analysis.components.split": ("variance_components",),
    "polystab.analysis.components.windows": ("variance_over_windows",),
}

__all__ = [
    "checkpoint_noise",
    "coefficient_of_variation",
    "decision_study",
    "final_components",
    "item_components",
    "item_design",
    "noise_floor",
    "permutation_test",
    "seed_additivity",
    "seed_reliability",
    "seed_variances",
    "seeds_needed",
    "variance_by_size",
    "variance_components",
    "variance_fractions",
    "variance_over_windows",
    "variance_ratio",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
