"""One function per picture: each takes a cube or a result and returns a matplotlib Figure.

Names are imported when they are first used, because matplotlib takes most of a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.plots.agreement import agreement_curves, item_map, item_shares
    from polystab.plots.animation import animate
    from polystab.plots.bands import describe_picture
    from polystab.plots.comparisons import compared_curves, describe_differences, differences
    from polystab.plots.components import variance_shares
    from polystab.plots.describe import (
        describe_change_points,
        describe_coverage,
        describe_curves,
        describe_map,
        describe_outliers,
        describe_shares,
        describe_transitions,
    )
    from polystab.plots.distributions import histogram, qq, spectrum
    from polystab.plots.embeddings import embedding_matrix, embedding_similarity
    from polystab.plots.lines import curves
    from polystab.plots.maps import coverage, outliers
    from polystab.plots.phases import change_points, map_strips, transition_graph
    from polystab.plots.probes import layer_centre, probe_angles, probe_layers
    from polystab.plots.representations import direction_overlap, outlier_dimensions
    from polystab.plots.runs import run_distances, run_scores
    from polystab.plots.svg import to_svg
    from polystab.plots.warnings import describe_warning, warning_curves
    from polystab.plots.weights import layer_curves, layer_profile, statistics

_NAMES = {
    "polystab.plots.agreement": (
        "agreement_curves",
        "item_map",
        "item_shares",
    ),
    "polystab.plots.animation": ("animate",),
    "polystab.plots.bands": ("describe_picture",),
    "polystab.plots.comparisons": (
        "compared_curves",
        "describe_differences",
        "differences",
    ),
    "polystab.plots.components": ("variance_shares",),
    "polystab.plots.describe": (
        "describe_change_points",
        "describe_coverage",
        "describe_curves",
        "describe_map",
        "describe_outliers",
        "describe_shares",
        "describe_transitions",
    ),
    "polystab.plots.distributions": (
        "histogram",
        "qq",
        "spectrum",
    ),
    "polystab.plots.embeddings": (
        "embedding_matrix",
        "embedding_similarity",
    ),
    "polystab.plots.lines": ("curves",),
    "polystab.plots.maps": (
        "coverage",
        "outliers",
    ),
    "polystab.plots.phases": (
        "change_points",
        "map_strips",
        "transition_graph",
    ),
    "polystab.plots.probes": (
        "layer_centre",
        "probe_angles",
        "probe_layers",
    ),
    "polystab.plots.representations": (
        "direction_overlap",
        "outlier_dimensions",
    ),
    "polystab.plots.runs": (
        "run_distances",
        "run_scores",
    ),
    "polystab.plots.svg": ("to_svg",),
    "polystab.plots.warnings": (
        "describe_warning",
        "warning_curves",
    ),
    "polystab.plots.weights": (
        "layer_curves",
        "layer_profile",
        "statistics",
    ),
}

__all__ = [
    "agreement_curves",
    "animate",
    "change_points",
    "compared_curves",
    "coverage",
    "curves",
    "describe_change_points",
    "describe_coverage",
    "describe_curves",
    "describe_differences",
    "describe_map",
    "describe_outliers",
    "describe_picture",
    "describe_shares",
    "describe_transitions",
    "describe_warning",
    "differences",
    "direction_overlap",
    "embedding_matrix",
    "embedding_similarity",
    "histogram",
    "item_map",
    "item_shares",
    "layer_centre",
    "layer_curves",
    "layer_profile",
    "map_strips",
    "outlier_dimensions",
    "outliers",
    "probe_angles",
    "probe_layers",
    "qq",
    "run_distances",
    "run_scores",
    "spectrum",
    "statistics",
    "to_svg",
    "transition_graph",
    "variance_shares",
    "warning_curves",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
