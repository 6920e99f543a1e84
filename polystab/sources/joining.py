"""From units to a cube: every unit file below a folder, joined with its details and its audit.

What comes out depends on the units only, not on the order in which they were
measured, by how many processes, or how often that was interrupted.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab._version import __version__
from polystab.cube.audit import AuditLog
from polystab.cube.build import assemble, finished, timestamp
from polystab.cube.labels import model_order
from polystab.cube.specs import DIMS, DTYPES, METRIC_COORDINATES, SPECS, VariableSpec
from polystab.cube.validate import check_cube
from polystab.errors import ConflictError, ReadError, RefusedFileError, shown
from polystab.sources.joining_details import Layout, Layouts, join_details
from polystab.sources.outputs import read_created, read_failures, read_settings
from polystab.sources.unit_files import Metrics, UnitFile, open_unit
from polystab.sources.unit_keys import FAILED, UNITS, UnitKey, settings_digest

Labels = dict[str, npt.NDArray[Any]]

# How many lines of provenance, settings and addresses a cube's attributes carry.
_LINES = 40
_LINE_CHARACTERS = 1000


@dataclass
class Seen:
    """What joining keeps of a unit while it reads the others."""

    key: UnitKey
    path: str
    sha256: str
    settings: str
    facts: dict[str, Any]
    provenance: dict[str, str]
    notes: list[tuple[str, str]]
    metrics: Metrics
    values: npt.NDArray[np.float64]
    stderr: npt.NDArray[np.float64] | None
    layouts: dict[str, Layout] = field(default_factory=dict)


def join_units(folder: str | os.PathLike[str], *, title: str = "") -> xr.DataTree:
    """Join the units below an output folder of :func:`~polystab.fill` into a cube.

    Parameters
    ----------
    folder : path
        What ``fill`` was given as ``output``.
    title : str, optional
        Title of the cube.

    Returns
    -------
    xarray.DataTree
        The cube; ``audit`` with every unit that was read, refused (damaged, failed,
        of other settings) or noted; and a group for each kind of detail, over
        ``(model, seed, step)`` and its own dimensions. Where a unit has no detail
        there is -1 for integers, NaN for numbers and empty text for text. NaN values
        are cells that were not measured. ``created`` is when the folder was first
        filled, or ``SOURCE_DATE_EPOCH`` where that is set.

    Raises
    ------
    ReadError
        There is no folder, or no unit in it with a value.
    ConflictError
        Units contradict each other: about a run, a metric, an item, or a value that
        two sources measured.
    CubeTooLargeError
        The labels span too many cells.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ReadError(f"{root} is not a folder that `polystab fill ... -o {root}` has filled.")
    log = AuditLog()
    layouts = Layouts()
    units = _read_units(root, log, layouts)
    _log_failures(root, {unit.key for unit in units}, log)
    if not any(len(unit.values) for unit in units):
        failures = Counter(entry.reason for entry in log.entries if entry.status == "refused")
        said = "; ".join(f"{count} {reason}" for reason, count in failures.most_common(5))
        raise ReadError(f"no unit below {root} has a value to make a cube of ({said or 'none is there'}).")
    labels = _labels(units)
    codes = {dim: _codes(units, labels, dim) for dim in DIMS[:3]}
    cube = _values(units, labels, codes)
    cube = _run_coordinates(cube, units, codes)
    cube = _metric_coordinates(cube, units)
    cube = finished(cube, _attributes(root, units, title))
    groups = join_details(root, units, labels, codes, log)
    tree = xr.DataTree.from_dict({"/": cube, "/audit": log.dataset(), **groups})
    check_cube(tree, where=f"the cube of the units below {root}")
    return tree


def _read_units(root: Path, log: AuditLog, layouts: Layouts) -> list[Seen]:
    """Every usable unit, sorted by key; the others go to the audit."""
    found: list[Seen] = []
    wanted: dict[str, str] = {}
    for path in _files(root / UNITS):
        place = path.relative_to(root).as_posix()
        try:
            unit = open_unit(path)
            if place != str(unit.key.place()):
                raise RefusedFileError(
                    "label-mismatch", f"holds {unit.key}, which belongs at {unit.key.place()}.", sha256=unit.sha256
                )
            source = unit.key.source
            if source not in wanted:
                wanted[source] = _settings_of(root, source) or unit.settings
            if unit.settings != wanted[source]:
                raise RefusedFileError(
                    "other-settings",
                    "was measured with other settings than the rest; remove it and fill again.",
                    sha256=unit.sha256,
                )
            seen = _seen(unit, place, layouts)
        except RefusedFileError as error:
            log.refuse(place, error.reason, error.detail.replace(f"{path} ", "", 1), sha256=error.sha256)
            continue
        found.append(seen)
        log.read(place, sha256=seen.sha256)
        for reason, detail in seen.notes:
            log.note(place, reason, detail, sha256=seen.sha256)
    return sorted(found, key=lambda unit: unit.key)


def _seen(unit: UnitFile, place: str, layouts: Layouts) -> Seen:
    return Seen(
        unit.key, place, unit.sha256, unit.settings, unit.facts, unit.provenance, unit.notes,
        unit.metrics, unit.values, unit.stderr, layouts.of(unit),
    )  # fmt: skip


def _files(folder: Path) -> list[Path]:
    """Regular files below a folder, sorted; half-written ones have hidden names and are passed over."""
    found: list[Path] = []
    for base, folders, names in os.walk(folder):
        folders.sort()
        found.extend(Path(base, name) for name in names if not name.startswith("."))
    return sorted(found)


def _settings_of(root: Path, source: str) -> str:
    """Digest of the settings that the folder was filled with, empty if it does not say."""
    settings = read_settings(root, source)
    return "" if settings is None else settings_digest(settings)


def _log_failures(root: Path, done: set[UnitKey], log: AuditLog) -> None:
    """Units that failed and were not measured since, as refused."""
    for failure in read_failures(root):
        key = UnitKey(failure.source, failure.model, failure.seed, failure.step)
        if key not in done:
            log.refuse(str(key.place(FAILED, ".json")), failure.reason, failure.detail)


def _labels(units: Sequence[Seen]) -> Labels:
    metrics = {name for ids in {unit.metrics.ids for unit in units} for name in ids}
    return {
        "model": np.array(sorted({unit.key.model for unit in units}, key=lambda name: (model_order(name), name))),
        "seed": np.array(sorted({unit.key.seed for unit in units}), dtype=np.int64),
        "step": np.array(sorted({unit.key.step for unit in units}), dtype=np.int64),
        "metric": np.array(sorted(metrics)),
    }


def _codes(units: Sequence[Seen], labels: Labels, dim: str) -> npt.NDArray[np.intp]:
    place = {label: number for number, label in enumerate(labels[dim].tolist())}
    return np.array([place[getattr(unit.key, dim)] for unit in units], dtype=np.intp)


def _values(units: Sequence[Seen], labels: Labels, codes: Mapping[str, npt.NDArray[np.intp]]) -> xr.Dataset:
    place = {label: number for number, label in enumerate(labels["metric"].tolist())}
    sets = {ids: np.array([place[name] for name in ids], dtype=np.intp) for ids in {u.metrics.ids for u in units}}
    lengths = [len(unit.values) for unit in units]
    spread = {dim: np.repeat(codes[dim], lengths) for dim in DIMS[:3]}
    spread["metric"] = np.concatenate([sets[unit.metrics.ids] for unit in units])
    value = np.concatenate([unit.values for unit in units])
    stderr = None
    if any(unit.stderr is not None for unit in units):
        unknown = [np.full(n, np.nan) if u.stderr is None else u.stderr for n, u in zip(lengths, units, strict=True)]
        stderr = np.concatenate(unknown)
    return assemble(spread, labels, value, stderr)


def _run_coordinates(cube: xr.Dataset, units: Sequence[Seen], codes: Mapping[str, npt.NDArray[np.intp]]) -> xr.Dataset:
    """Seeds of weights and data, facts of models, and tokens where all runs agree on them."""
    for name in ("weight_seed", "data_seed"):
        array = _spread(SPECS[name], cube, codes, [unit.facts[name] for unit in units], units)
        if (array != -1).any():
            cube = cube.assign({name: (SPECS[name].dims, array)})
    for name in ("n_parameters", "n_layers", "hidden_size"):
        array = _spread(SPECS[name], cube, codes, [unit.facts["run"].get(name, -1) for unit in units], units)
        if (array != -1).any():
            cube = cube.assign_coords({name: (SPECS[name].dims, array)})
    each = [unit.facts["run"].get("tokens_per_step", -1) for unit in units]
    tokens = [-1 if n is None or n < 0 else int(n * unit.key.step) for n, unit in zip(each, units, strict=True)]
    try:
        array = _spread(SPECS["tokens"], cube, codes, tokens, units)
    except ConflictError:
        return cube  # runs with other batches: a step is then no number of tokens
    return cube.assign_coords(tokens=("step", array)) if (array != -1).any() else cube


def _spread(
    spec: VariableSpec,
    cube: xr.Dataset,
    codes: Mapping[str, npt.NDArray[np.intp]],
    given: Iterable[Any],
    units: Sequence[Seen],
) -> npt.NDArray[np.int64]:
    """An integer that each unit knows, along its own dimensions; -1 and None are unknown, two known ones must agree."""
    flat = np.array([-1 if number is None else int(number) for number in given], dtype=np.int64)
    array = np.full(tuple(cube.sizes[dim] for dim in spec.dims), -1, dtype=np.int64)
    where = tuple(codes[dim] for dim in spec.dims)
    known = flat != -1
    array[tuple(index[known] for index in where)] = flat[known]
    clash = np.flatnonzero(known & (array[where] != flat))
    if len(clash):
        first = units[int(clash[0])]
        raise ConflictError(
            f"units do not agree on {spec.name} ({spec.doc}): {shown([units[i].path for i in clash[:5]], total=len(clash))} "
            f"have {flat[clash[0]]}, others of {first.key.model} {array[where][clash[0]]}. "
            "Was the run table changed in between? Fill into another folder, or remove the wrong units."
        )
    return array


def _metric_coordinates(cube: xr.Dataset, units: Sequence[Seen]) -> xr.Dataset:
    """What the units say about their metrics; an unknown entry takes a known one, two known ones must agree."""
    specs = {spec.name: spec for spec in METRIC_COORDINATES}
    told: dict[str, dict[str, Any]] = defaultdict(dict)
    looked: set[int] = set()
    for unit in units:
        if id(unit.metrics) in looked:  # units mostly share one object, see unit_files._parse_metrics
            continue
        looked.add(id(unit.metrics))
        for metric, said in unit.metrics.known.items():
            for name, value in said.items():
                spec = specs[name]
                unknown = value != value if spec.kind == "f" else value == spec.fill and name != "shots"
                if not unknown and told[name].setdefault(metric, value) != value:
                    raise ConflictError(
                        f"units do not agree on {name} of {metric!r}: {told[name][metric]!r} and, in {unit.path}, "
                        f"{value!r}. These are not the same thing measured twice; fill into another folder."
                    )
    ids = cube["metric"].values.tolist()
    made: dict[str, tuple[str, npt.NDArray[Any]]] = {}
    for name, known in told.items():
        if name in ("shots", "filter"):
            continue  # stand in the id; finished() writes them, and -1 shots is what it says of other families
        spec = specs[name]
        made[name] = ("metric", np.array([known.get(metric, spec.fill) for metric in ids], dtype=DTYPES[spec.kind]))
    return cube.assign_coords(made)


def _attributes(root: Path, units: Sequence[Seen], title: str) -> dict[str, str]:
    sources = sorted({unit.key.source for unit in units})
    addresses = Counter(_address(unit.facts) for unit in units)
    history = [f"joined {len(units):,} units of {', '.join(sources)} with polystab {__version__}"]
    for source in sources:
        settings = read_settings(root, source)
        if settings:
            history.append(f"{source} settings: {json.dumps(settings, sort_keys=True)}")
        texts = {tuple(sorted(u.provenance.items())) for u in units if u.key.source == source and u.provenance}
        history += [f"{source} measured with {', '.join(f'{a} {b}' for a, b in text)}" for text in sorted(texts)]
    return {
        "title": title or f"{', '.join(sources)} of {len({unit.key[1:3] for unit in units}):,} runs",
        "source": "; ".join(_first(sorted(address for address in addresses if address))),
        "history": "\n".join(_first(history)),
        "created": timestamp() if os.environ.get("SOURCE_DATE_EPOCH", "").isdigit() else read_created(root),
    }


def _address(facts: Mapping[str, Any]) -> str:
    return f"{facts['location']} at {facts['revision']}" if facts["revision"] else "local checkpoints"


def _first(lines: Sequence[str]) -> list[str]:
    """The first lines, each cut where it is long, and how many more there are."""
    cut = [line if len(line) <= _LINE_CHARACTERS else f"{line[:_LINE_CHARACTERS]}..." for line in lines[:_LINES]]
    return cut + ([f"and {len(lines) - _LINES} more"] if len(lines) > _LINES else [])
