"""Probing frozen checkpoints for linguistic labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.sources.probes.measurer import Probes

_NAMES = {
    "polystab.sources.probes.measurer": ("Probes",),
}

__all__ = [
    "Probes",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
