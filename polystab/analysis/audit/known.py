"""Publicly reported faults of public checkpoints, matched against a cube."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from polystab.analysis.arrays import Bools
from polystab.analysis.audit.findings import NO_SEED, Finding, Labels, listed_steps
from polystab.errors import shown


@cache
def known_issues() -> tuple[Mapping[str, Any], ...]:
    """The list that comes with polystab: ``id``, ``link``, ``models``, ``seeds``, ``steps``, ``what`` and so on."""
    text = (files("polystab.analysis.audit") / "known_issues.json").read_text(encoding="utf-8")
    return tuple(json.loads(text)["issues"])


def known_issue_findings(measured: Bools, labels: Labels, found: Iterable[Finding] = ()) -> list[Finding]:
    """The known issues that concern checkpoints of a cube.

    Parameters
    ----------
    measured : (model, seed, step) array of bool
        Which checkpoints have values.
    labels : Labels
        Of the cube.
    found : iterable of Finding
        What else the audit found: an issue that it shows is a warning, others are for information.

    Notes
    -----
    A cube of Pythia runs by other labels than those of the suite is not recognised.
    """
    said = list(found)
    return [finding for issue in known_issues() for finding in _matches(issue, measured, labels, said)]


def _matches(issue: Mapping[str, Any], measured: Bools, labels: Labels, found: list[Finding]) -> Iterator[Finding]:
    """One finding for an issue, whatever number of models it concerns."""
    listed = issue.get("steps")
    at = np.ones(len(labels.steps), dtype=bool) if listed is None else _named(listed, np.asarray(labels.steps))
    named = [any(re.fullmatch(pattern, model) for pattern in issue["models"]) for model in labels.models]
    seeded = [seed in issue.get("seeds", labels.seeds) for seed in labels.seeds]
    # An issue that is about equal steps needs two of them.
    enough = (measured & at).sum(axis=2) >= issue.get("needs", 1)
    hit = enough & np.array(named)[:, None] & np.array(seeded)
    if not hit.any():
        return
    runs = [labels.run(number) for number in np.flatnonzero(hit).tolist()]
    steps = np.flatnonzero(measured[hit].any(axis=0) & at).tolist()
    seen = [f for f in found if f.kind in issue["kinds"] and (f.model, f.seed) in runs and _meets(f, steps)]
    shows = list(dict.fromkeys(f"{f.model} seed {f.seed}" for f in seen))
    state = f"this cube shows it for {_listed(shows)}" if shows else "nothing in this cube shows it"
    where = "" if listed is None else f" at {listed_steps([labels.steps[t] for t in steps])}"
    models, seeds = sorted({model for model, _ in runs}), sorted({seed for _, seed in runs})
    yield Finding(
        "known-issue",
        f"{_listed([f'{model} seed {seed}' for model, seed in runs])}{where}: {issue['what']} ({issue['link']}); {state}.",
        models[0] if len(models) == 1 else "",
        seeds[0] if len(seeds) == 1 else NO_SEED,
        steps=steps, advice=issue.get("advice", ""), severity="" if shows else "info",
    )  # fmt: skip


def _listed(names: list[str]) -> str:
    return shown(names).replace("'", "")


def _named(listed: list[str], steps: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Bools:
    at: Bools = np.zeros(len(steps), dtype=bool)
    for text in listed:
        first, _, last = text.partition(":")
        at |= (steps >= int(first)) & (steps <= int(last or first))
    return at


def _meets(finding: Finding, steps: list[int]) -> bool:
    return finding.steps is None or bool(set(finding.steps) & set(steps))
