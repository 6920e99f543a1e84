"""The values of many results files, column by column. Imports nothing heavy: see ``eval_parts``."""

from __future__ import annotations

import marshal
import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from polystab.cube.audit import AuditEntry
from polystab.sources.eval_files import EvalFile, Identity, TaskFacts, key_parts, number
from polystab.sources.run_labels import RunLabel

# (task, measure, filter, shots)
MetricKey = tuple[str, str, str, int]


@dataclass(slots=True)
class Source:
    """A file that could be parsed, and where its values stand in the table."""

    path: str
    sha256: str
    identity: Identity
    facts: TaskFacts
    shots: frozenset[int]
    time: float
    version: str
    n_values: int
    kept: bool = True

    @property
    def model(self) -> str:
        return self.identity.run.model

    @property
    def seed(self) -> int:
        """The reference run has no seed in its name."""
        return self.identity.run.seed or 0

    @property
    def step(self) -> int:
        return self.identity.step


@dataclass(frozen=True)
class _Plan:
    """How the scores of one task with given keys are read: (key, stderr key or "", metric code)."""

    columns: tuple[tuple[str, str, int], ...]
    shots: int


@dataclass
class Table:
    """One row for each number read; ``owner`` is the number of the file in ``sources``."""

    sources: list[Source] = field(default_factory=list)
    metrics: dict[MetricKey, int] = field(default_factory=dict)
    owner: array[int] = field(default_factory=lambda: array("i"))
    metric: array[int] = field(default_factory=lambda: array("i"))
    value: array[float] = field(default_factory=lambda: array("d"))
    stderr: array[float] = field(default_factory=lambda: array("d"))
    _plans: dict[tuple[object, ...], _Plan] = field(default_factory=dict)

    def add(self, path: str, sha256: str, parsed: EvalFile) -> list[str]:
        """Append the scores of a file; return what in it was no number."""
        metrics, values, errors = self.metric.append, self.value.append, self.stderr.append
        before = len(self.value)
        unusable: list[str] = []
        shots = set()
        for task, scores in parsed.results.items():
            if not isinstance(scores, dict):
                unusable.append(f"{task}: {type(scores).__name__}")
                continue
            plan = self._plan(task, scores, parsed)
            shots.add(plan.shots)
            for key, error_key, metric in plan.columns:
                score = scores[key]
                if type(score) is not float:
                    score = number(score)
                if score != score:  # NaN
                    unusable.append(f"{task}/{key}: {scores[key]!r:.40}")
                    continue
                error = scores.get(error_key)
                if type(error) is not float:
                    error = number(error)
                metrics(metric)
                values(score)
                errors(error if 0 <= error < math.inf else math.nan)
        count = len(self.value) - before
        self.owner.extend([len(self.sources)] * count)
        self.sources.append(
            Source(
                path,
                sha256,
                parsed.identity,
                parsed.facts,
                frozenset(shots),
                parsed.time,
                parsed.version,
                count,
                count > 0,
            )
        )
        return unusable

    def _plan(self, task: str, scores: Mapping[str, Any], parsed: EvalFile) -> _Plan:
        shots = parsed.facts.shots.get(task, parsed.identity.num_fewshot)
        group = task in parsed.facts.groups
        known = (task, shots, group, *scores)
        plan = self._plans.get(known)
        if plan is None:
            # The harness pools a group's standard error by a formula that does not match its mean.
            columns = tuple(
                (
                    key,
                    "" if group else error,
                    self.metrics.setdefault((task, measure, chosen, shots), len(self.metrics)),
                )
                for key, error, measure, chosen in key_parts(tuple(scores))
            )
            plan = self._plans[known] = _Plan(columns, shots)
        return plan

    def used(self) -> list[Source]:
        """The files whose values are wanted."""
        return [source for source in self.sources if source.kept]

    def packed(self, entries: list[AuditEntry]) -> bytes:
        """The table, and audit entries that go with it, as bytes for another process of ours."""
        facts = {id(source.facts): source.facts for source in self.sources}
        place = {key: i for i, key in enumerate(facts)}
        identities = {id(source.identity): source.identity for source in self.sources}
        who = {key: i for i, key in enumerate(identities)}
        rows = [
            (s.path, s.sha256, who[id(s.identity)], place[id(s.facts)], s.shots, s.time, s.version, s.n_values, s.kept)
            for s in self.sources
        ]
        columns = [column.tobytes() for column in (self.owner, self.metric, self.value, self.stderr)]
        stated = [(f.shots, f.n_items, f.better, f.groups) for f in facts.values()]
        runs = [
            ((i.run.model, i.run.seed, i.run.step, i.run.varied), i.step, i.num_fewshot) for i in identities.values()
        ]
        return marshal.dumps((rows, runs, stated, list(self.metrics), columns, [tuple(entry) for entry in entries]))

    def extend(self, packed: bytes) -> list[AuditEntry]:
        """Append a table that was packed by another process; return its audit entries."""
        rows, runs, stated, keys, columns, entries = marshal.loads(packed)  # noqa: S302 (our own process wrote it)
        facts = [TaskFacts(*fields) for fields in stated]
        identities = [Identity(RunLabel(*run), step, shots) for run, step, shots in runs]
        first = len(self.sources)
        codes = [self.metrics.setdefault(key, len(self.metrics)) for key in keys]
        for path, sha256, who, place, *rest in rows:
            self.sources.append(Source(path, sha256, identities[who], facts[place], *rest))
        owner, metric = array("i", columns[0]), array("i", columns[1])
        self.owner.extend([number + first for number in owner])
        self.metric.extend([codes[number] for number in metric])
        self.value.frombytes(columns[2])
        self.stderr.frombytes(columns[3])
        return [AuditEntry(*entry) for entry in entries]
