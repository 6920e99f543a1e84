"""The data model: what a cube is, how one is built, joined, kept and found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.cube.audit import AuditEntry, AuditLog, audit_entries, audit_facts
    from polystab.cube.build import cube_from_records
    from polystab.cube.catalog import cube_file, data_card, find_cube, list_cubes, load_cube, load_tree, open_any
    from polystab.cube.labels import MetricId, parse_metric_id
    from polystab.cube.merge import merge_cubes
    from polystab.cube.selection import select
    from polystab.cube.specs import DIMS, SCHEMA_VERSION
    from polystab.cube.store import open_cube, open_tree, save_cube
    from polystab.cube.validate import as_cube, validate_cube
    from polystab.errors import Violation

_NAMES = {
    "polystab.cube.audit": (
        "AuditEntry",
        "AuditLog",
        "audit_entries",
        "audit_facts",
    ),
    "polystab.cube.build": ("cube_from_records",),
    "polystab.cube.catalog": (
        "cube_file",
        "data_card",
        "find_cube",
        "list_cubes",
        "load_cube",
        "load_tree",
        "open_any",
    ),
    "polystab.cube.labels": (
        "MetricId",
        "parse_metric_id",
    ),
    "polystab.cube.merge": ("merge_cubes",),
    "polystab.cube.selection": ("select",),
    "polystab.cube.specs": (
        "DIMS",
        "SCHEMA_VERSION",
    ),
    "polystab.cube.store": (
        "open_cube",
        "open_tree",
        "save_cube",
    ),
    "polystab.cube.validate": (
        "as_cube",
        "validate_cube",
    ),
    "polystab.errors": ("Violation",),
}

__all__ = [
    "DIMS",
    "SCHEMA_VERSION",
    "AuditEntry",
    "AuditLog",
    "MetricId",
    "Violation",
    "as_cube",
    "audit_entries",
    "audit_facts",
    "cube_file",
    "cube_from_records",
    "data_card",
    "find_cube",
    "list_cubes",
    "load_cube",
    "load_tree",
    "merge_cubes",
    "open_any",
    "open_cube",
    "open_tree",
    "parse_metric_id",
    "save_cube",
    "select",
    "validate_cube",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
