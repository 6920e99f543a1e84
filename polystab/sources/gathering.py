"""What was read file by file, into cubes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from polystab.cube.audit import AuditEntry, AuditLog
from polystab.cube.build import cube_from_records, documented
from polystab.cube.describe import coverage_sentence
from polystab.cube.labels import model_order, parse_metric_id
from polystab.cube.specs import ATTRIBUTES, DIMS
from polystab.errors import (
    SHOWN_LABELS,
    ConflictError,
    CubeTooLargeError,
    ReadError,
    RefusedFileError,
    UnknownNameError,
    did_you_mean,
    shown,
)
from polystab.progress_bars import tracked
from polystab.redaction import without_secrets
from polystab.sources import metric_names
from polystab.sources.columns import Note
from polystab.sources.duplicates import Codes, Floats, OnDuplicate, Settled, settle
from polystab.sources.finding import InputFile
from polystab.sources.run_numbers import number_runs
from polystab.sources.tabular_files import Table, read_tabular

Integers = npt.NDArray[np.int64]

# A grid of more than half a GiB with less than one cell in a hundred measured is refused.
SPARSE_CELLS = 2**26
SPARSE_SHARE = 0.01


def checked_attrs(attrs: Mapping[str, str]) -> None:
    """Raise for an attribute that a cube does not have, before anything is read."""
    known = [spec.name for spec in ATTRIBUTES if spec.type is str]
    unknown = [name for name in attrs if name not in known]
    if unknown:
        raise UnknownNameError(f"no option or attribute {shown(unknown)}. {did_you_mean(unknown[0], known)}")


@dataclass(slots=True)
class Labels:
    """Texts as numbers, in order of appearance. Secrets in them, as names of sweeps have, are removed."""

    codes: dict[str, int] = field(default_factory=dict)
    _given: dict[str, int] = field(default_factory=dict)

    def code(self, texts: Iterable[str]) -> Codes:
        return np.array(
            [self._given[text] if text in self._given else self._new(text) for text in texts], dtype=np.intp
        )

    def _new(self, text: str) -> int:
        code = self._given[text] = self.codes.setdefault(without_secrets(text), len(self.codes))
        return code

    def texts(self) -> list[str]:
        return list(self.codes)


@dataclass(slots=True)
class Values:
    """Measured cells, one entry of each array for each; codes index the labels of a Gathering."""

    model: Codes
    run: Codes
    step: Integers
    metric: Codes
    value: Floats
    stderr: Floats | None = None
    coordinates: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.value)

    def taken(self, rows: Codes) -> Values:
        """Some of the entries, copied."""
        parts: dict[str, Any] = {}
        for spec in fields(self):
            part = getattr(self, spec.name)
            if isinstance(part, dict):
                parts[spec.name] = {name: array[rows] for name, array in part.items()}
            elif part is not None:
                parts[spec.name] = part[rows]
        return Values(**parts)


@dataclass
class Gathering:
    """Values of many files, the labels they share, and the audit of reading them."""

    what: str
    log: AuditLog = field(default_factory=AuditLog)
    models: Labels = field(default_factory=Labels)
    runs: Labels = field(default_factory=Labels)
    metrics: Labels = field(default_factory=Labels)
    met: set[str] = field(default_factory=set)
    paths: list[str] = field(default_factory=list)
    parts: list[Values] = field(default_factory=list)

    def read(
        self, files: Sequence[InputFile], interpret: Callable[[Table, InputFile, Note], tuple[Values, str]]
    ) -> None:
        """Read each file and let ``interpret`` make values of its table, with a line for the audit.

        A file that cannot be used goes to the audit and nothing else suffers.
        """
        for file in tracked(files, "reading tables", unit="file"):
            digest = ""
            notes: list[tuple[str, str]] = []
            try:
                table, digest = read_tabular(file.path)
                self.met.update(table.columns)
                values, detail = interpret(table, file, _noting(notes))
            except RefusedFileError as refusal:
                self.log.refuse(file.shown, refusal.reason, refusal.detail, sha256=digest or refusal.sha256)
                continue
            self.paths.append(file.shown)
            self.parts.append(values)
            self.log.read(file.shown, sha256=digest, detail=detail)
            for reason, text in (*table.notes, *notes):
                self.log.note(file.shown, reason, text, sha256=digest)
        if not self.parts:
            raise ReadError(_nothing_read(self.what, self.log.entries))

    def check_met(self, metrics: Iterable[str]) -> None:
        """Raise for a name in ``metrics`` that no file has: it is probably misspelt."""
        unmet = [name for name in metrics if name not in self.met]
        if unmet:
            raise ReadError(f"metrics names {shown(unmet)}, which no file has. {did_you_mean(unmet[0], self.met)}")

    def tree(self, rule: OnDuplicate, attrs: Mapping[str, str]) -> xr.DataTree:
        """All models in one cube, with the audit."""
        values, files = self._together()
        return self._tree(values, files, AuditLog(list(self.log.entries)), rule, attrs)

    def trees(self, rule: OnDuplicate, attrs: Mapping[str, str]) -> dict[str, xr.DataTree]:
        """A cube for each model, on a grid of its own."""
        values, files = self._together()
        names = self.models.texts()
        trees = {}
        for name in sorted((names[code] for code in np.unique(values.model).tolist()), key=model_order):
            mine = np.flatnonzero(values.model == self.models.codes[name])
            used = self._used(files[mine])
            log = AuditLog([entry for entry in self.log.entries if entry.status == "refused" or entry.path in used])
            title = f"{attrs.get('title') or self._title(used)}: {name}"
            trees[name] = self._tree(values.taken(mine), files[mine], log, rule, {**attrs, "title": title})
        return trees

    def _together(self) -> tuple[Values, Codes]:
        """All values, and the number of the file that each is from."""
        parts = self.parts
        stderr = None
        if any(part.stderr is not None for part in parts):
            stderr = np.concatenate([np.full(len(p), np.nan) if p.stderr is None else p.stderr for p in parts])
        names = dict.fromkeys(name for part in parts for name in part.coordinates)
        values = Values(
            np.concatenate([part.model for part in parts]),
            np.concatenate([part.run for part in parts]),
            np.concatenate([part.step for part in parts]),
            np.concatenate([part.metric for part in parts]),
            np.concatenate([part.value for part in parts]),
            stderr,
            {name: np.concatenate([_coordinate(part, name, parts) for part in parts]) for name in names},
        )
        return values, np.repeat(np.arange(len(parts), dtype=np.intp), [len(part) for part in parts])

    def _tree(
        self, values: Values, files: Codes, log: AuditLog, rule: OnDuplicate, attrs: Mapping[str, str]
    ) -> xr.DataTree:
        used = self._used(files)
        seeds, names = self._seeds(values)
        settled = settle(_cells(values, seeds), values.value, values.stderr, rule)
        if settled is not None:
            self._report(values, files, seeds, settled, rule, log)
            values, seeds = values.taken(settled.kept), seeds[settled.kept]
        _refuse_waste(values, seeds)
        frame = pd.DataFrame(
            {
                "model": _categories(values.model, self.models),
                "seed": seeds,
                "step": values.step,
                "metric": _categories(values.metric, self.metrics),
                "value": values.value,
                **({} if values.stderr is None else {"stderr": values.stderr}),
                **values.coordinates,
            }
        )
        source = f"{self.what}: {', '.join(used[:SHOWN_LABELS])}"
        if len(used) > SHOWN_LABELS:
            source += f" and {len(used) - SHOWN_LABELS} more"
        given = {"title": self._title(used), "source": source, **{name: text for name, text in attrs.items() if text}}
        given = {name: without_secrets(text) for name, text in given.items()}  # paths may be named by a sweep
        cube = _described(cube_from_records(frame, **given), names)
        if "summary" not in given:
            said = coverage_sentence(cube)
            cube.attrs["summary"] = f"{said} The runs' own names are in run_name." if names else said
        return xr.DataTree.from_dict({"/": cube, "/audit": log.dataset()})

    def _used(self, files: Codes) -> list[str]:
        return [self.paths[file] for file in np.unique(files).tolist()]

    def _title(self, used: Sequence[str]) -> str:
        return f"{self.what} {used[0]}" if len(used) == 1 else f"{self.what}s, {len(used):,} files"

    def _seeds(self, values: Values) -> tuple[Integers, dict[tuple[str, int], str]]:
        """The seed of each value, and the runs' own names where they are not that number."""
        n_runs = len(self.runs.codes)
        pairs, inverse = np.unique(values.model * n_runs + values.run, return_inverse=True)
        models, runs = self.models.texts(), self.runs.texts()
        members: dict[int, list[int]] = defaultdict(list)
        for place, pair in enumerate(pairs.tolist()):
            members[pair // n_runs].append(place)
        seeds = np.empty(len(pairs), dtype=np.int64)
        names: dict[tuple[str, int], str] = {}
        for model, places in members.items():
            labels = [runs[pairs[place] % n_runs] for place in places]
            numbers, named = number_runs(labels)
            seeds[places] = numbers
            if named and "run_name" not in values.coordinates:
                names.update({(models[model], seed): label for seed, label in zip(numbers, labels, strict=True)})
        return seeds[inverse], names

    def _report(
        self, values: Values, files: Codes, seeds: Integers, settled: Settled, rule: OnDuplicate, log: AuditLog
    ) -> None:
        """Refuse contradictions, or write what they lose into the audit."""
        if rule == "error" and len(settled.losing):
            raise self._conflict(values, files, seeds, settled)
        pairs: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
        times: Counter[tuple[int, int, str]] = Counter()
        losing, against = settled.losing.tolist(), settled.against.tolist()
        for row, winner, name in zip(losing, against, self._cells_of(settled.losing, values, seeds), strict=True):
            number = float(values.value[row])
            if number == values.value[winner] and values.stderr is not None:
                name, number = f"{name}|stderr", float(values.stderr[row])
            pair = int(files[row]), int(files[winner])
            times[*pair, name] += 1
            # A cell can lose more than once in one file.
            again = times[*pair, name]
            pairs[pair][name if again == 1 else f"{name}#{again}"] = number
        for (loser, winner), lost in sorted(pairs.items()):
            log.replace(self.paths[loser], rule, lost, by=self.paths[winner])

    def _conflict(self, values: Values, files: Codes, seeds: Integers, settled: Settled) -> ConflictError:
        places = dict.fromkeys(self._cells_of(settled.losing, values, seeds))
        one, other = int(settled.against[0]), int(settled.losing[0])
        what, array = "values", values.value
        if array[one] == array[other] and values.stderr is not None:
            what, array = "standard errors", values.stderr
        return ConflictError(
            f"{len(places):,} cells have different {what}: {shown(places)}. The first has {array[one]:.6g} in "
            f"{self.paths[files[one]]} and {array[other]:.6g} in {self.paths[files[other]]}. Choose "
            "on_duplicate='last' (--on-duplicate last: a restarted run logs steps again) or 'first'; "
            "what gives way is kept in the audit."
        )

    def _cells_of(self, rows: Codes, values: Values, seeds: Integers) -> list[str]:
        """``model|seed|step|metric``, as everywhere in an audit."""
        models, metrics = self.models.texts(), self.metrics.texts()
        return [
            f"{models[model]}|{seed}|{step}|{metrics[metric]}"
            for model, seed, step, metric in zip(
                values.model[rows].tolist(),
                seeds[rows].tolist(),
                values.step[rows].tolist(),
                values.metric[rows].tolist(),
                strict=True,
            )
        ]


def _noting(notes: list[tuple[str, str]]) -> Note:
    def note(reason: str, detail: str) -> None:
        notes.append((reason, detail))

    return note


def _nothing_read(what: str, entries: Sequence[AuditEntry]) -> str:
    refused = [f"{entry.path}: {entry.detail} ({entry.reason})" for entry in entries if entry.status == "refused"]
    if len(refused) == 1:
        return refused[0]
    listed = "\n".join(f"  {line}" for line in refused[:SHOWN_LABELS])
    more = f"\n  and {len(refused) - SHOWN_LABELS} more" if len(refused) > SHOWN_LABELS else ""
    return f"none of {len(refused)} files could be read as a {what}:\n{listed}{more}"


def _coordinate(part: Values, name: str, parts: Sequence[Values]) -> npt.NDArray[Any]:
    """A part's column, or as many unknowns of the type that other parts have."""
    if name in part.coordinates:
        return part.coordinates[name]
    dtype = next(other.coordinates[name].dtype for other in parts if name in other.coordinates)
    return np.full(len(part), np.nan if dtype.kind == "f" else None, dtype=dtype)


def _categories(codes: Codes, labels: Labels) -> pd.Categorical:
    """Those labels that occur, each stored once."""
    present, compact = np.unique(codes, return_inverse=True)
    texts = labels.texts()
    return pd.Categorical.from_codes(compact, categories=pd.Index([texts[code] for code in present.tolist()]))


def _cells(values: Values, seeds: Integers) -> Integers:
    """One number for each cell."""
    cell = np.zeros(len(values), dtype=np.int64)
    for labels in (values.model, seeds, values.step, values.metric):
        unique, codes = np.unique(labels, return_inverse=True)
        cell = cell * len(unique) + codes
    return cell


def _refuse_waste(values: Values, seeds: Integers) -> None:
    """Refuse a common grid that would take gigabytes to hold next to nothing."""
    sizes = [len(np.unique(labels)) for labels in (values.model, seeds, values.step, values.metric)]
    cells = math.prod(sizes)
    if cells > SPARSE_CELLS and len(values) < SPARSE_SHARE * cells:
        grid = " x ".join(f"{size:,} {dim}s" for size, dim in zip(sizes, DIMS, strict=True))
        raise CubeTooLargeError(
            f"a common grid of {grid} has {cells:,} cells for {len(values):,} values, {100 * len(values) / cells:.2g} % of "
            "it. Make one cube for each model: --split model, or in Python the reader whose name ends in _by_model."
        )


def _described(cube: xr.Dataset, names: Mapping[tuple[str, int], str]) -> xr.Dataset:
    """Units and direction where the ids tell and the table did not, and the runs' own names."""
    ids = [parse_metric_id(label) for label in cube["metric"].values.tolist()]
    found: dict[str, tuple[tuple[str, ...], npt.NDArray[np.str_]]] = {}
    for name, derive in (("units", metric_names.units), ("better", metric_names.direction)):
        said = cube[name].values.tolist()
        texts = [text or derive(part) for text, part in zip(said, ids, strict=True)]
        found[name] = ("metric",), np.array(texts, dtype=np.str_)
    if names:
        seeds = cube["seed"].values.tolist()
        table = [[names.get((model, seed), "") for seed in seeds] for model in cube["model"].values.tolist()]
        found["run_name"] = ("model", "seed"), np.array(table, dtype=np.str_)
    return documented(cube.assign_coords(found))
