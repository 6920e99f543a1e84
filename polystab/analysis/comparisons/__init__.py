"""Two cubes against each other: which differences are real, given the seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.comparisons.cubes import compare_cubes
    from polystab.analysis.comparisons.curves import compare_curves
    from polystab.analysis.comparisons.undecided import undecided_overview

_NAMES = {
    "polystab.analysis.comparisons.cubes": ("compare_cubes",),
    "polystab.analysis.comparisons.curves": ("compare_curves",),
    "polystab.analysis.comparisons.undecided": ("undecided_overview",),
}

__all__ = [
    "compare_cubes",
    "compare_curves",
    "undecided_overview",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
