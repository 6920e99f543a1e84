"""One function per picture: each takes a cube or a result and returns a matplotlib Figure.

Names are imported when they are first used, because matplotlib takes most of a second.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polystab.plots.describe import describe_coverage, describe_curves, describe_outliers
    from polystab.plots.lines import curves
    from polystab.plots.maps import coverage, outliers
    from polystab.plots.svg import to_svg

_PUBLIC = {
    "coverage": "polystab.plots.maps",
    "curves": "polystab.plots.lines",
    "describe_coverage": "polystab.plots.describe",
    "describe_curves": "polystab.plots.describe",
    "describe_outliers": "polystab.plots.describe",
    "outliers": "polystab.plots.maps",
    "to_svg": "polystab.plots.svg",
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


def __getattr__(name: str) -> Any:
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'polystab.plots' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
