"""What was said when files were read: refused, replaced and noted; versions of the harness along a run."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from polystab.analysis.audit.findings import Finding, Labels, counted, listed_steps
from polystab.cube.audit import AuditEntry
from polystab.errors import shown

# As the readers of evaluations write it: "pythia-70m seed 0 step 8, 172 values, lm-eval 0.3".
_READ = re.compile(r"(?P<model>.+) seed (?P<seed>-?\d+) step (?P<step>\d+), \d+ values, (?P<version>.+)")

# Notes that say more than how something was read.
_NOTES = {"item-count-differs": "mixed-items"}
# Notes of things that a person has to look at.
_WORRYING = {"steps-go-back", "broken-lines", "truncated-line", "items-missing"}


def reading_findings(entries: Sequence[AuditEntry], labels: Labels) -> list[Finding]:
    """Findings carried over from the audit group of a cube.

    Parameters
    ----------
    entries : sequence of AuditEntry
        Of the group ``audit``.
    labels : Labels
        Of the cube, to place what names a run.
    """
    return [*_by_reason(entries), *_versions(entries, labels)]


def _by_reason(entries: Sequence[AuditEntry]) -> Iterator[Finding]:
    """One finding for each reason, with the first file as an example."""
    grouped: dict[tuple[str, str], list[AuditEntry]] = defaultdict(list)
    for entry in entries:
        if entry.status in ("refused", "replaced", "noted"):
            grouped[entry.status, entry.reason].append(entry)
    for (status, reason), group in grouped.items():
        first, number = group[0], counted(len(group), "file")
        # Nothing about files or values: no step, no metric.
        if status == "refused":
            kind = "label-mismatch" if reason == "label-mismatch" else "refused-files"
            said = f"{number} refused as {reason}, first {first.path}: {_short(first.detail)}"
        elif status == "replaced":
            kind = "replaced-values"
            said = f"values of {number} gave way under the rule {reason}, first those of {first.path} to {first.by}."
        else:
            kind = _NOTES.get(reason, "reading-note")
            said = f"{reason} ({counted(len(group), 'note')}), first {first.path}: {_short(first.detail)}"
        severity = "warning" if status == "noted" and reason in _WORRYING else ""
        yield Finding(kind, said, steps=(), metrics=(), severity=severity)


def _versions(entries: Sequence[AuditEntry], labels: Labels) -> Iterator[Finding]:
    """Runs, or the cube, measured with several versions of the harness."""
    versions: dict[tuple[str, int], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        match = _READ.fullmatch(entry.detail) if entry.status == "read" else None
        if match:
            versions[match["model"], int(match["seed"])][match["version"]].append(int(match["step"]))
    place = {step: i for i, step in enumerate(labels.steps)}
    for (model, seed), found in versions.items():
        if len(found) < 2:
            continue
        parts = [f"{version} at {listed_steps(sorted(set(steps)))}" for version, steps in found.items()]
        rare = min(found.values(), key=len)
        yield Finding(
            "mixed-versions", f"{model} seed {seed} was measured with {'; '.join(parts)}.", model, seed,
            steps=sorted({place[step] for step in rare if step in place}),
        )  # fmt: skip
    of_run = {next(iter(found)) for found in versions.values() if len(found) == 1}
    if len(of_run) > 1:
        yield Finding("mixed-versions", f"the runs of the cube were measured with {shown(sorted(of_run))}.")


def _short(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."
