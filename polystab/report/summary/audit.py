"""Which data to distrust: what was read, what the audit found, copies, and runs with infinite values.

``audit``
    None without an audit, else ``files``, ``read``; and ``refused``, ``replaced``, ``noted``:
    list of ``reason``, ``count``, ``entries`` (list of ``path``, ``detail``, ``by``).
``copies``
    List of ``model``, ``seed``, ``of``, ``metrics`` (number; whole runs have all), ``whole``.
``findings``
    ``notes`` (what was left out of a large cube), ``counts`` (by severity), ``kinds``: list of ``kind``, ``severity``,
    ``count``; ``rows``: the variables of :func:`polystab.analysis.audit_cube` without marks, worst first; ``left_out``.
``diverged``
    List of ``model``, ``seed``, ``values`` (number of infinite ones).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from polystab.cube.audit import AuditEntry
from polystab.report.results.computed import Results
from polystab.report.results.judged import Judged
from polystab.report.summary.schema import Summary

# Findings in the summary, and rows of shared events; more are counted.
MAX_FINDINGS = 500

# What was said on reading stands in tables of files.
OF_FILES = ("label-mismatch", "refused-files", "replaced-values", "reading-note")


def audit_summary(entries: tuple[AuditEntry, ...] | None) -> Summary | None:
    if entries is None:
        return None
    by_status = {
        status: _by_reason(entry for entry in entries if entry.status == status)
        for status in ("refused", "replaced", "noted")
    }
    read = sum(entry.status == "read" for entry in entries)
    return {"files": read + sum(group["count"] for group in by_status["refused"]), "read": read, **by_status}


def _by_reason(entries: Iterable[AuditEntry]) -> list[Summary]:
    """Entries grouped by reason, the most frequent first."""
    groups: dict[str, list[Summary]] = {}
    for entry in entries:
        found = {"path": entry.path, "detail": entry.detail, "by": entry.by}
        groups.setdefault(entry.reason, []).append(found)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [{"reason": reason, "count": len(listed), "entries": listed} for reason, listed in ordered]


def findings_summary(judged: Judged) -> Summary:
    """What the audit found."""
    found = judged.findings
    columns = {name: found[name].values.tolist() for name in _FINDING_COLUMNS}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {
        "notes": list(judged.searched.notes),
        "counts": dict(Counter(row["severity"] for row in rows)),
        "kinds": [
            {"kind": kind, "severity": severity, "count": n}
            for (kind, severity), n in Counter((row["kind"], row["severity"]) for row in rows).items()
        ],
        "rows": rows[:MAX_FINDINGS],
        "left_out": max(len(rows) - MAX_FINDINGS, 0),
    }


_FINDING_COLUMNS = (
    "kind", "severity", "model", "seed", "other_model", "other_seed", "first_step", "last_step", "n_metrics",
    "metrics", "evidence", "advice",
)  # fmt: skip


def copies_summary(results: Results) -> list[Summary]:
    copies = results.copies
    whole, of = copies["duplicate_run"].values, copies["duplicate_run_of"].values
    part, part_of = copies["duplicate"].values, copies["duplicate_of"].values
    models, seeds = copies["model"].values, copies["seed"].values
    return [
        {
            "model": str(models[m]),
            "seed": seeds[s],
            "of": of[m, s] if whole[m, s] else sorted(set(part_of[m, s][part[m, s]].tolist())),
            "metrics": part[m, s].sum(),
            "whole": whole[m, s],
        }
        for m, s in np.argwhere(part.any(axis=2)).tolist()
    ]


def diverged_summary(results: Results) -> list[Summary]:
    values = results.scores["n_nonfinite"].values
    models, seeds = results.scores["model"].values, results.scores["seed"].values
    return [
        {"model": str(models[m]), "seed": seeds[s], "values": values[m, s]} for m, s in np.argwhere(values > 0).tolist()
    ]
