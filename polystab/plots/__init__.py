"""One function per picture: each takes a cube or a result and returns a matplotlib Figure.

Names are imported when they are first used, because matplotlib takes most of a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.plots.describe import describe_coverage, describe_curves, describe_outliers
    from polystab.plots.lines import curves
    from polystab.plots.maps import coverage, outliers
    from polystab.plots.svg import to_svg

_NAMES = {
    "polystab.plots.describe": (
        "describe_coverage",
        "describe_curves",
        "describe_outliers",
    ),
    "polystab.plots.lines": ("curves",),
    "polystab.plots.maps": (
        "coverage",
        "outliers",
    ),
    "polystab.plots.svg": ("to_svg",),
}

__all__ = [
    "coverage",
    "curves",
    "describe_coverage",
    "describe_curves",
    "describe_outliers",
    "outliers",
    "to_svg",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
