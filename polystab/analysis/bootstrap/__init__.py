"""Resampling seeds and items, and planning how many are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.bootstrap.detectable import detectable_difference, sizes_needed
    from polystab.analysis.bootstrap.resampling import multibootstrap

_NAMES = {
    "polystab.analysis.bootstrap.detectable": (
        "detectable_difference",
        "sizes_needed",
    ),
    "polystab.analysis.bootstrap.resampling": ("multibootstrap",),
}

__all__ = [
    "detectable_difference",
    "multibootstrap",
    "sizes_needed",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
