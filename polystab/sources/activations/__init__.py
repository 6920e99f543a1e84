"""Activations, gradients, singular directions and embeddings of checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.sources.activations.directions import Directions
    from polystab.sources.activations.embedding import Embedding
    from polystab.sources.activations.measurer import Activations

_NAMES = {
    "polystab.sources.activations.directions": ("Directions",),
    "polystab.sources.activations.embedding": ("Embedding",),
    "polystab.sources.activations.measurer": ("Activations",),
}

__all__ = [
    "Activations",
    "Directions",
    "Embedding",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
