"""Restricted maximum likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.reml.model import RemlFit, fit_reml

_NAMES = {
    "polystab.analysis.reml.model": (
        "RemlFit",
        "fit_reml",
    ),
}

__all__ = [
    "RemlFit",
    "fit_reml",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
