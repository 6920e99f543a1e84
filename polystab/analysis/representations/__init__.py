"""What probes, singular directions, embeddings and outlier dimensions say over training and seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.representations.angles import probe_angles, random_subspace_angle, subspace_angles
    from polystab.analysis.representations.codelengths import probe_codelengths
    from polystab.analysis.representations.dimensions import outlier_persistence
    from polystab.analysis.representations.directions import direction_overlap
    from polystab.analysis.representations.embedding import embedding_matrix, embedding_similarity

_NAMES = {
    "polystab.analysis.representations.angles": (
        "probe_angles",
        "random_subspace_angle",
        "subspace_angles",
    ),
    "polystab.analysis.representations.codelengths": ("probe_codelengths",),
    "polystab.analysis.representations.dimensions": ("outlier_persistence",),
    "polystab.analysis.representations.directions": ("direction_overlap",),
    "polystab.analysis.representations.embedding": (
        "embedding_matrix",
        "embedding_similarity",
    ),
}

__all__ = [
    "direction_overlap",
    "embedding_matrix",
    "embedding_similarity",
    "outlier_persistence",
    "probe_angles",
    "probe_codelengths",
    "random_subspace_angle",
    "subspace_angles",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
