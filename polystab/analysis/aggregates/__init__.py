"""Scores over many tasks in one number, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.aggregates.kernels import interquartile_mean
    from polystab.analysis.aggregates.scores import aggregate_scores, improvement_probability, performance_profile

_NAMES = {
    "polystab.analysis.aggregates.kernels": ("interquartile_mean",),
    "polystab.analysis.aggregates.scores": (
        "aggregate_scores",
        "improvement_probability",
        "performance_profile",
    ),
}

__all__ = [
    "aggregate_scores",
    "improvement_probability",
    "interquartile_mean",
    "performance_profile",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
