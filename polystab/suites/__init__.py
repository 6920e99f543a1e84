"""Small recipes to train many times: their models, data, tasks, and how runs begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.suites.init_laws import InitError
    from polystab.suites.initialisation import init_from, weights_digest
    from polystab.suites.recipes import Recipe, Suite, suite, suites

_NAMES = {
    "polystab.suites.init_laws": ("InitError",),
    "polystab.suites.initialisation": ("init_from", "weights_digest"),
    "polystab.suites.recipes": ("Recipe", "Suite", "suite", "suites"),
}

__all__ = ["InitError", "Recipe", "Suite", "init_from", "suite", "suites", "weights_digest"]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
