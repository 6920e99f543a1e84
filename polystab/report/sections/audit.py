"""The section on what to distrust: the audit, copies, and what was read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from polystab.report.blocks import Block, Bullets, Code, Column, Details, Group, Table, empty, paragraph
from polystab.report.sections import tables
from polystab.report.summary.audit import OF_FILES
from polystab.report.summary.schema import Summary
from polystab.words import NONE, count, listed, plural

# Rows that are not folded away.
OPEN_FINDINGS = 15


def audit(summary: Summary) -> Iterator[Block]:
    """What the audit found, then what was read."""
    yield from _findings(summary["findings"], sum(model["runs"] for model in summary["contents"]["models"]))
    if summary["copies"]:
        yield paragraph(
            "These trajectories are equal, to the last bit, to those of another seed of the same model. "
            "They count once: every statistic below leaves them out."
        )
        yield copies_table(summary["copies"])
    yield from _files(summary["audit"])


def _findings(findings: Summary, runs: int) -> Iterator[Block]:
    rows = [row for row in findings["rows"] if row["kind"] not in OF_FILES]
    if findings["notes"]:
        yield Bullets(tuple((note,) for note in findings["notes"]))
    if not rows:
        yield paragraph(
            "The audit compared every run with every other and with itself, and found nothing: no copies, no frozen or "
            "misplaced checkpoints, no restarts, no impossible values, no holes."
            if runs > 1
            else "The audit has one run only, and found no frozen checkpoint, no restart, no impossible value and no hole in it. "
            "Copies and mislabelled runs show among several."
        )
        return
    said = [plural(n, f"finding of kind {kind}", f"findings of kind {kind}") for kind, n in _kinds(findings)]
    to_look_at = [row for row in rows if row["severity"] != "info"]
    yield paragraph(
        f"{'' if to_look_at else 'No error and no warning: '}{listed(said, 8)}. An error says that numbers are not what they say; "
        "a warning asks for a look. Analyses leave out what errors and frozen checkpoints concern with ",
        Code('exclude="audit"'),
        "; this page leaves out copies of whole runs only.",
    )
    if to_look_at:
        yield findings_table(to_look_at[:OPEN_FINDINGS], "What the audit found, worst first")
    if len(rows) > len(to_look_at[:OPEN_FINDINGS]):
        more = f" of {count(len(rows) + findings['left_out'])}" if findings["left_out"] else ""
        yield Details(f"All {count(len(rows))}{more} findings", (findings_table(rows, "All findings"),))


def _kinds(findings: Summary) -> list[tuple[str, int]]:
    """Kinds, of whatever severity, with their numbers."""
    counts: Counter[str] = Counter()
    for item in findings["kinds"]:
        if item["kind"] not in OF_FILES:
            counts[item["kind"]] += item["count"]
    return list(counts.items())


def findings_table(rows: Sequence[Summary], caption: str) -> Table:
    """One row a finding."""
    columns = [
        Column("Kind", code=True),
        Column("Severity"),
        Column("Model", code=True),
        Column("Seed", number=True),
        Column("Steps", number=True),
        Column("What was seen"),
        Column("What to do"),
    ]
    lines = [
        (
            row["kind"],
            row["severity"],
            row["model"] or "all",
            str(row["seed"]) if row["seed"] >= 0 else "all",
            _steps(row["first_step"], row["last_step"]),
            row["evidence"],
            row["advice"],
        )
        for row in rows
    ]
    return tables.capped(caption, columns, [Group("", tuple(lines))])


def _steps(first: int, last: int) -> str:
    if first < 0:
        return NONE
    return count(first) if first == last else f"{count(first)} – {count(last)}"


def _files(audit: Summary | None) -> Iterator[Block]:
    if audit is None:
        yield empty(
            "This cube carries no audit of files, so nothing is known about where its numbers were read. A cube that is "
            "read from files has one:",
            "polystab read lm-eval RESULTS -o cube.nc",
        )
        return
    totals = {status: sum(group["count"] for group in audit[status]) for status in ("refused", "replaced", "noted")}
    said = (
        f"{plural(audit['files'], 'file')} looked at: {count(audit['read'])} read, {count(totals['refused'])} refused."
    )
    if totals["replaced"]:
        said += f" {plural(totals['replaced'], 'source')} gave way to another for the same cells."
    yield paragraph(said + (f" {plural(totals['noted'], 'remark')}." if totals["noted"] else ""))
    for status, what, everything in (
        ("refused", "Refused: nothing of these files was used", "All refused files"),
        ("replaced", "Replaced: other files took the place of some values", "All that was replaced"),
        ("noted", "Noted: read, with something to know", "All remarks"),
    ):
        if audit[status]:
            yield reasons_table(audit[status], what)
            if totals[status] > len(audit[status]):
                yield Details(f"{everything} ({count(totals[status])})", (entries_table(audit[status], everything),))


def copies_table(copies: Sequence[Summary]) -> Table:
    """Trajectories that stand under two seeds."""
    columns = [
        Column("Model", code=True),
        Column("Seed", number=True),
        Column("Repeats seed"),
        Column("Metrics", number=True),
    ]
    rows = [
        (
            copy["model"],
            str(copy["seed"]),
            str(copy["of"]) if copy["whole"] else ", ".join(str(seed) for seed in copy["of"]),
            "all" if copy["whole"] else count(copy["metrics"]),
        )
        for copy in copies
    ]
    return tables.capped("Trajectories that repeat those of another seed", columns, [Group("", tuple(rows))])


def reasons_table(groups: Sequence[Summary], what: str) -> Table:
    """Files of one status by reason, each with an example."""
    columns = [
        Column("Reason", code=True),
        Column("Files", number=True),
        Column("For example", code=True),
        Column("Said"),
    ]
    rows = [
        (
            group["reason"] or NONE,
            count(group["count"]),
            group["entries"][0]["path"],
            _said(group["entries"][0]),
        )
        for group in groups
    ]
    return tables.capped(what, columns, [Group("", tuple(rows))])


def entries_table(groups: Sequence[Summary], what: str) -> Table:
    """Every file of one status."""
    replaced = any(entry["by"] for group in groups for entry in group["entries"])
    columns = [
        Column("File", code=True),
        Column("Reason", code=True),
        *([Column("Replaced by", code=True)] if replaced else []),
        Column("Said"),
    ]
    rows = [
        (entry["path"], group["reason"], *([entry["by"]] if replaced else []), _said(entry))
        for group in groups
        for entry in group["entries"]
    ]
    return tables.capped(what, columns, [Group("", tuple(rows))])


def _said(entry: Summary) -> str:
    """What an entry says; of one that was replaced, how many values and one of them."""
    if entry["by"]:
        try:
            lost = json.loads(entry["detail"])
        except ValueError:
            lost = None
        if isinstance(lost, dict) and lost:
            cell, value = next(iter(lost.items()))
            return tables.cut(f"{plural(len(lost), 'value')} gave way, e.g. {cell} = {value}")
    return tables.cut(entry["detail"])
