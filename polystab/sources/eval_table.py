"""The values of many results files, column by column. Imports nothing heavy: see ``eval_parts``."""

from __future__ import annotations

import marshal
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any, NamedTuple, TypeVar

from polystab.cube.audit import AuditEntry
from polystab.cube.labels import MetricId, is_writable, parse_metric_id
from polystab.errors import RecordsError
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


class _Plan(NamedTuple):
    """How the scores of a file are read, where its tasks have exactly the keys ``keys``.

    ``columns`` are (task, key, key of the standard error or "", metric code);
    ``unnamed`` are keys that no metric id can be made of.
    """

    keys: list[frozenset[str]]
    columns: list[tuple[str, str, str, int]]
    metrics: array[int]
    shots: frozenset[int]
    unnamed: list[str]


@dataclass
class Table:
    """One row for each number read; ``owner`` is the number of the file in ``sources``.

    ``stderr`` holds what stood in the files, unchecked.
    """

    sources: list[Source] = field(default_factory=list)
    metrics: dict[MetricKey, int] = field(default_factory=dict)
    owner: array[int] = field(default_factory=lambda: array("i"))
    metric: array[int] = field(default_factory=lambda: array("i"))
    value: array[float] = field(default_factory=lambda: array("d"))
    stderr: array[float] = field(default_factory=lambda: array("d"))
    _plans: dict[tuple[object, ...], _Plan] = field(default_factory=dict)
    _kept_facts: list[TaskFacts] = field(default_factory=list)

    def add(self, path: str, sha256: str, parsed: EvalFile) -> list[str]:
        """Append the scores of a file; return what in it was no number."""
        results, unusable = parsed.results, []
        if not _DICT.issuperset(map(type, results.values())):
            results = {task: scores for task, scores in results.items() if isinstance(scores, dict)}
            unusable = [f"{task}: {type(s).__name__}" for task, s in parsed.results.items() if task not in results]
        plan = self._plan(results, parsed)
        unusable += plan.unnamed
        values = [results[task][key] for task, key, _, _ in plan.columns]
        errors = [results[task].get(error, math.nan) for task, _, error, _ in plan.columns]
        metrics = plan.metrics
        if not _FLOAT.issuperset(map(type, values)) or not _FLOAT.issuperset(map(type, errors)) or isnan(sum(values)):
            values, errors = [number(value) for value in values], [number(error) for error in errors]
            bad = [i for i, value in enumerate(values) if isnan(value)]
            for task, key, _, _ in [plan.columns[i] for i in bad]:
                unusable.append(f"{task}/{key}: {results[task][key]!r:.40}")
            values, errors, metrics = _without(values, bad), _without(errors, bad), array("i", _without(metrics, bad))
        self.owner.extend(array("i", [len(self.sources)]) * len(values))
        self.metric.extend(metrics)
        self.value.extend(values)
        self.stderr.extend(errors)
        state = (parsed.time, parsed.version, len(values), bool(values))
        self.sources.append(Source(path, sha256, parsed.identity, parsed.facts, plan.shots, *state))
        return unusable

    def _plan(self, results: Mapping[str, Mapping[str, Any]], parsed: EvalFile) -> _Plan:
        """The plan of an earlier file with the same tasks and keys, or a new one."""
        known = (id(parsed.facts), parsed.identity.num_fewshot, *results)
        plan = self._plans.get(known)
        if plan is not None and plan.keys == [scores.keys() for scores in results.values()]:
            return plan
        columns, unnamed = [], []
        shots = {task: parsed.facts.shots.get(task, parsed.identity.num_fewshot) for task in results}
        for task, scores in results.items():
            # The harness pools a group's standard error by a formula that does not match its mean.
            group = task in parsed.facts.groups
            for key, error, measure, chosen in key_parts(tuple(scores)):
                parts = (task, measure.replace("/", "_"), chosen, shots[task])
                if not _is_name(parts):
                    unnamed.append(f"{task}/{key}: no name for a metric")
                    continue
                metric = self.metrics.setdefault(parts, len(self.metrics))
                columns.append((task, key, "" if group else error, metric))
        plan = _Plan(
            [frozenset(scores) for scores in results.values()],
            columns,
            array("i", [metric for *_, metric in columns]),
            frozenset(shots.values()),
            unnamed,
        )
        self._plans[known] = plan
        self._kept_facts.append(parsed.facts)  # so that its id() stays its own
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
        rows, runs, stated, keys, columns, entries = marshal.loads(packed)  # noqa: S302 (our own process wrote it)  # nosec B302
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


_DICT = frozenset({dict})
_FLOAT = frozenset({float})

T = TypeVar("T")


def _without(items: Sequence[T], positions: Sequence[int]) -> list[T]:
    dropped = set(positions)
    return [item for i, item in enumerate(items) if i not in dropped]


def _is_name(parts: MetricKey) -> bool:
    """Whether the id made of the parts can be written, and read back as the same parts."""
    task, measure, chosen, shots = parts
    wanted = MetricId("eval", task, measure, shots, chosen)
    try:
        return is_writable(str(wanted)) and parse_metric_id(str(wanted)) == wanted
    except RecordsError:
        return False
