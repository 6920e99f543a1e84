"""Which runs will go wrong, told from their beginnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.early_warning.classifier import EarlyWarning
    from polystab.analysis.early_warning.curves import prefix
    from polystab.analysis.early_warning.evaluation import evaluate_warning
    from polystab.analysis.early_warning.features import prefix_features

_NAMES = {
    "polystab.analysis.early_warning.classifier": ("EarlyWarning",),
    "polystab.analysis.early_warning.curves": ("prefix",),
    "polystab.analysis.early_warning.evaluation": ("evaluate_warning",),
    "polystab.analysis.early_warning.features": ("prefix_features",),
}

__all__ = ["EarlyWarning", "evaluate_warning", "prefix", "prefix_features"]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
