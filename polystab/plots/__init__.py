"""One function per picture: each takes a cube or a result and returns a matplotlib Figure.

Names are imported when they are first used, because matplotlib takes most of a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
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
    from polystab.plots.lines import curves
    from polystab.plots.maps import coverage, outliers
    from polystab.plots.phases import change_points, map_strips, transition_graph
    from polystab.plots.svg import to_svg

_NAMES = {
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
    "polystab.plots.svg": ("to_svg",),
}

__all__ = [
    "change_points",
    "coverage",
    "curves",
    "describe_change_points",
    "describe_coverage",
    "describe_curves",
    "describe_map",
    "describe_outliers",
    "describe_shares",
    "describe_transitions",
    "map_strips",
    "outliers",
    "to_svg",
    "transition_graph",
    "variance_shares",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
