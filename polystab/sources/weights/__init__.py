"""Statistics of weights, from checkpoint tensors without building a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.sources.weights.features import hu2023
    from polystab.sources.weights.measurer import Weights

_NAMES = {
    "polystab.sources.weights.features": ("hu2023",),
    "polystab.sources.weights.measurer": ("Weights",),
}

__all__ = ["Weights", "hu2023"]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
