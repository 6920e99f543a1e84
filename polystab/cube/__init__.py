"""The data model: what a cube is, how one is built, joined, kept and found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.cube.audit import AuditEntry, AuditLog, audit_entries, audit_facts
    from polystab.cube.build import cube_from_records
    from polystab.cube.catalog import cube_file, find_cube, list_cubes, load_cube, open_any
    from polystab.cube.labels import MetricId, parse_metric_id
    from polystab.cube.merge import merge_cubes
    from polystab.cube.selection import select
    from polystab.cube.specs import DIMS, SCHEMA_VERSION
    from polystab.cube.store import open_cube, open_tree, save_cube
    from polystab.cube.validate import Violation, as_cube, validate_cube

_HOMES = {
    **dict.fromkeys(
        (
            "AuditEntry",
            "AuditLog",
            "audit_entries",
            "audit_facts",
        ),
        "polystab.cube.audit",
    ),
    **dict.fromkeys(("cube_from_records",), "polystab.cube.build"),
    **dict.fromkeys(
        (
            "cube_file",
            "find_cube",
            "list_cubes",
            "load_cube",
            "open_any",
        ),
        "polystab.cube.catalog",
    ),
    **dict.fromkeys(
        (
            "MetricId",
            "parse_metric_id",
        ),
        "polystab.cube.labels",
    ),
    **dict.fromkeys(("merge_cubes",), "polystab.cube.merge"),
    **dict.fromkeys(("select",), "polystab.cube.selection"),
    **dict.fromkeys(
        (
            "DIMS",
            "SCHEMA_VERSION",
        ),
        "polystab.cube.specs",
    ),
    **dict.fromkeys(
        (
            "open_cube",
            "open_tree",
            "save_cube",
        ),
        "polystab.cube.store",
    ),
    **dict.fromkeys(
        (
            "Violation",
            "as_cube",
            "validate_cube",
        ),
        "polystab.cube.validate",
    ),
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
    "find_cube",
    "list_cubes",
    "load_cube",
    "merge_cubes",
    "open_any",
    "open_cube",
    "open_tree",
    "parse_metric_id",
    "save_cube",
    "select",
    "validate_cube",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
