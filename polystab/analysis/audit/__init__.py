"""Is the data what it says: copies, restarts, frozen and misplaced checkpoints, impossible values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.audit.checks import audit_cube
    from polystab.analysis.audit.exclude import leave_out, leave_out_items
    from polystab.analysis.audit.findings import excluded_cells, without_excluded
    from polystab.analysis.audit.runs import counted_cells, duplicate_runs

_NAMES = {
    "polystab.analysis.audit.checks": ("audit_cube",),
    "polystab.analysis.audit.exclude": (
        "leave_out",
        "leave_out_items",
    ),
    "polystab.analysis.audit.findings": (
        "excluded_cells",
        "without_excluded",
    ),
    "polystab.analysis.audit.runs": (
        "counted_cells",
        "duplicate_runs",
    ),
}

__all__ = [
    "audit_cube",
    "counted_cells",
    "duplicate_runs",
    "excluded_cells",
    "leave_out",
    "leave_out_items",
    "without_excluded",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
