"""The audit: what was read, refused or replaced, and why."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from polystab.cube.labels import writable
from polystab.cube.specs import GROUPS
from polystab.redaction import without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import xarray as xr

AUDIT = next(group for group in GROUPS if group.name == "audit")
COLUMNS = tuple(spec.name for spec in AUDIT.variables)

# An audit is stored as columns of text, and xarray reads every text of a column as wide as the widest. So a list of
# lost values is stored in pieces, and any other detail is cut.
CELLS_IN_A_ROW = 50
DETAIL_CHARACTERS = 4000


class AuditEntry(NamedTuple):
    """One thing that happened to one file (or one cube, when cubes are merged)."""

    path: str
    status: str
    reason: str = ""
    detail: str = ""
    sha256: str = ""
    by: str = ""


@dataclass
class AuditLog:
    """Collects entries while something is read or merged.

    ``status`` is one of ``read``, ``refused`` (nothing of it was used), ``replaced``
    (some of its values gave way to ``by``; ``detail`` is JSON with the lost values)
    and ``noted`` (read, with something a person should know).
    """

    entries: list[AuditEntry] = field(default_factory=list)

    def read(self, path: str, *, sha256: str = "", detail: str = "") -> None:
        self.entries.append(AuditEntry(path, "read", "", detail, sha256))

    def refuse(self, path: str, reason: str, detail: str, *, sha256: str = "") -> None:
        self.entries.append(AuditEntry(path, "refused", reason, detail, sha256))

    def note(self, path: str, reason: str, detail: str, *, sha256: str = "") -> None:
        self.entries.append(AuditEntry(path, "noted", reason, detail, sha256))

    def replace(self, path: str, rule: str, lost: dict[str, float], *, by: str, sha256: str = "") -> None:
        """Record that ``lost`` (cell -> value) of ``path`` gave way to ``by`` under ``rule``."""
        # JSON has no infinity: a diverged value is kept as text.
        plain = {cell: value if math.isfinite(value) else str(value) for cell, value in lost.items()}
        detail = json.dumps(plain, sort_keys=True)
        self.entries.append(AuditEntry(path, "replaced", f"duplicate-{rule}", detail, sha256, by))

    def dataset(self) -> xr.Dataset:
        """The log as a Dataset: one text variable per column along ``entry``, sorted by path."""
        import numpy as np  # late: processes that only read files collect entries too
        import xarray as xr

        rows = [row for entry in sorted(self.entries) for row in _rows(entry)]
        columns = list(zip(*rows, strict=True)) or [()] * len(AUDIT.variables)
        # Texts are kept as objects: one long detail must not widen thousands of others.
        return xr.Dataset(
            {
                spec.name: (
                    ("entry",),
                    # xarray cannot tell the type of no objects at all
                    np.array(_clean(column), dtype=object if column else np.str_),
                    {"long_name": spec.doc},
                )
                for spec, column in zip(AUDIT.variables, columns, strict=True)
            },
            attrs={"summary": AUDIT.doc},
        )


def _clean(texts: Sequence[str]) -> list[str]:
    """Texts as a file may keep them; most stand there many times."""
    different = set(texts)
    together = "\n".join(different)
    if together.isascii() and "\0" not in together and without_secrets(together) == together:
        return list(texts)  # what is in no secret together is in none alone; one look at a long text is quicker
    clean = {text: as_kept(text) for text in different}
    return [clean[text] for text in texts]


def as_kept(text: str) -> str:
    """A text, such as a path, as an audit keeps it: without secrets, and as netCDF can hold it."""
    return writable(without_secrets(text))


def audit_entries(audit: xr.Dataset | xr.DataTree | None) -> list[AuditEntry]:
    """The entries of an ``audit`` group, or of the tree that holds one; none if there is none."""
    import xarray as xr

    if isinstance(audit, xr.DataTree):
        audit = audit["audit"].to_dataset() if "audit" in audit.children else None
    if audit is None:
        return []
    columns = [[str(text) for text in audit[name].values.tolist()] for name in COLUMNS]
    return _joined(AuditEntry(*row) for row in zip(*columns, strict=True))


def _rows(entry: AuditEntry) -> list[AuditEntry]:
    """The entry as it is stored: in several rows if it lists many lost values."""
    if len(entry.detail) <= DETAIL_CHARACTERS:
        return [entry]
    if entry.status != "replaced":
        rest = len(entry.detail) - DETAIL_CHARACTERS
        return [entry._replace(detail=f"{entry.detail[:DETAIL_CHARACTERS]}... and {rest:,} more characters")]
    lost = list(json.loads(entry.detail).items())
    pieces = [dict(lost[start : start + CELLS_IN_A_ROW]) for start in range(0, len(lost), CELLS_IN_A_ROW)]
    return [entry._replace(detail=json.dumps(piece, sort_keys=True)) for piece in pieces]


def _joined(rows: Iterable[AuditEntry]) -> list[AuditEntry]:
    """Entries of stored rows: rows that only differ in the lost values they list are one entry."""
    entries: list[AuditEntry] = []
    lost: dict[str, Any] = {}
    for row in rows:
        if row.status == "replaced" and entries and entries[-1]._replace(detail="") == row._replace(detail=""):
            more = json.loads(row.detail)
            lost = lost or json.loads(entries[-1].detail)
            if lost.keys().isdisjoint(more):
                lost |= more
                entries[-1] = row._replace(detail="")  # written when the last of its rows was seen
                continue
        _write_lost(entries, lost)
        lost = {}
        entries.append(row)
    _write_lost(entries, lost)
    return entries


def _write_lost(entries: list[AuditEntry], lost: dict[str, Any]) -> None:
    if lost:
        entries[-1] = entries[-1]._replace(detail=json.dumps(lost, sort_keys=True))


def audit_facts(tree: xr.DataTree) -> dict[str, Any]:
    """The audit of a tree in the form that ``polystab read --json`` prints.

    Returns
    -------
    dict
        ``files`` and ``read`` (counts), ``refused`` (list of ``path``, ``reason``,
        ``detail``), ``replaced`` (list of ``path``, ``reason``, ``by``, ``values``),
        ``noted`` (like ``refused``) and ``values`` (measured cells of the cube).
    """
    entries = audit_entries(tree)
    status = Counter(entry.status for entry in entries)
    said = {
        wanted: [{"path": e.path, "reason": e.reason, "detail": e.detail} for e in entries if e.status == wanted]
        for wanted in ("refused", "noted")
    }
    replaced = [
        {"path": e.path, "reason": e.reason, "by": e.by, "values": json.loads(e.detail)}
        for e in entries
        if e.status == "replaced"
    ]
    return {
        "files": status["read"] + status["refused"],
        "read": status["read"],
        "refused": said["refused"],
        "replaced": replaced,
        "noted": said["noted"],
        "values": int(tree.to_dataset()["value"].notnull().sum()),
    }
