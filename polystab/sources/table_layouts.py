"""The two layouts of tables: one value a row, or one column a metric."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from polystab.cube.specs import BETTER, SPECS
from polystab.errors import RefusedFileError, shown
from polystab.redaction import without_secrets
from polystab.sources.columns import (
    ALIASES,
    LABELS,
    Note,
    cells_of,
    find_source,
    label_cells,
    listed,
    note_numbers,
    numbers,
    said_of_text,
    text_of,
)
from polystab.sources.finding import InputFile
from polystab.sources.gathering import Gathering, Values
from polystab.sources.labelled_rows import LabelledRows, LabelOptions, label_rows, measured_values, note_silent_runs
from polystab.sources.metric_names import NOT_A_METRIC, is_metric_id, one_column_each
from polystab.sources.tabular_files import Table

Layout = Literal["auto", "tidy", "wide"]

# Coordinates that a table may hold beside its values. The other ones along `metric` follow from the id.
PER_RUN = ("n_parameters", "n_layers", "hidden_size", "tokens", "weight_seed", "data_seed", "run_name")
PER_METRIC = ("units", "better", "component", "layer", "n_items", "chance")
ROLES = (*LABELS, "metric", "value", "stderr", *PER_RUN, *PER_METRIC)

# Row numbers as spreadsheets and pandas leave them.
_UNNAMED = re.compile(r"column \d+ \(unnamed\)|Unnamed: \d+|index", re.I)

_NOUNS = {"column": "column of numbers", "metric": "entry of the metric column"}

Coordinates = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class TableOptions:
    """What a user said about a table; names without an id become ``<family>/<subject>/<name>``."""

    labels: LabelOptions
    metrics: Mapping[str, str]
    layout: Layout = "auto"
    family: str | None = None
    subject: str = "all"


def interpreted(
    table: Table, file: InputFile, options: TableOptions, gathering: Gathering, note: Note
) -> tuple[Values, str]:
    """One file's values, and a line on it for the audit.

    Raises
    ------
    RefusedFileError
        Those of labelling rows, and ``missing-column``, ``no-metric``, ``no-values``,
        ``ambiguous-metric``, ``bad-coordinate``.
    """
    rows = label_rows(table, file, options.labels, note)
    found = {role: find_source(role, options.labels.mapping, table.columns) for role in ("metric", "value")}
    lacking = [role for role, source in found.items() if source is None]
    mapped = [role for role in ("metric", "value", "stderr", *PER_METRIC) if role in options.labels.mapping]
    if options.layout == "wide" and mapped:
        raise RefusedFileError("missing-column", f"columns maps {shown(mapped)}, which only a tidy table has.")
    if options.layout == "wide" or (options.layout == "auto" and lacking and not mapped):
        return _wide(table, rows, options, gathering, note)
    if lacking:
        raise RefusedFileError(
            "missing-column",
            f"a tidy table needs a column for {shown(lacking)}; map it with columns={{{lacking[0]!r}: 'COLUMN'}}, or "
            f"say layout='wide' (--layout wide). Columns: {shown(table.columns, 12)}.",
        )
    return _tidy(table, rows, options, gathering, note)


def _wide(
    table: Table, rows: LabelledRows, options: TableOptions, gathering: Gathering, note: Note
) -> tuple[Values, str]:
    coordinates, used = _coordinates(table, options, PER_RUN, rows.used, note)
    others = [name for name in table.columns if name not in used]
    read = {name: numbers(table.columns[name]) for name in others}
    asked = options.metrics
    usable = [name for name in others if name in asked or (read[name].mostly_numbers and not _is_label(name))]
    left = [name for name in others if name not in usable]
    ids = _ids(usable, options, left)
    _tell_ids(ids, left, options, "column", note, text=said_of_text(read))
    chosen = {name: read[name] for name in ids}
    note_numbers(chosen, table, note)
    by_metric = {metric: chosen[name] for name, metric in ids.items()}
    values = measured_values(gathering, rows, by_metric, note, coordinates=coordinates)
    _check_coordinates(values, gathering)
    return values, _told(table, values, "wide", ids)


def _tidy(
    table: Table, rows: LabelledRows, options: TableOptions, gathering: Gathering, note: Note
) -> tuple[Values, str]:
    sources = {role: find_source(role, options.labels.mapping, table.columns) for role in ("metric", "value", "stderr")}
    taken = rows.used.union(*(source.columns for source in sources.values() if source))
    coordinates, used = _coordinates(table, options, (*PER_RUN, *PER_METRIC), taken, note)
    if others := [name for name in table.columns if name not in used]:
        note(
            "unused-column",
            f"left out: {shown(others, 12)}. They are no part of a cube, or follow from the metric's id.",
        )
    metric_source, value_source, stderr_source = sources["metric"], sources["value"], sources["stderr"]
    if metric_source is None or value_source is None:
        raise RefusedFileError("missing-column", "a tidy table needs columns for metric and value.")
    every = label_cells(table, metric_source)
    said = [every[row] for row in rows.kept.tolist()]
    gathering.met.update(said)
    left: list[str] = []
    ids = _ids(dict.fromkeys(said), options, left)
    _tell_ids(ids, left, options, "metric", note)
    codes = dict(zip(ids, gathering.metrics.code(ids.values()).tolist(), strict=True))
    metric = np.array([codes.get(text, -1) for text in said], dtype=np.intp)
    value = numbers(cells_of(table, value_source))
    note_numbers({"value": value}, table, note)
    at = np.flatnonzero((metric >= 0) & value.measured[rows.kept])
    if not len(at):
        raise RefusedFileError("no-values", f"no row of {shown(ids)} holds a number.")
    model, run = gathering.models.code(rows.model), gathering.runs.code(rows.run)
    note_silent_runs(gathering, model, run, at, note)
    values = Values(
        model[at],
        run[at],
        rows.step[at],
        metric[at],
        value.values[rows.kept[at]],
        None if stderr_source is None else _stderr(cells_of(table, stderr_source), table, note)[rows.kept[at]],
        {name: array[rows.kept[at]] for name, array in coordinates.items()},
    )
    _check_coordinates(values, gathering)
    return values, _told(table, values, "tidy", ids)


def _is_label(name: str) -> bool:
    """Whether a numeric column numbers rows, runs or layers rather than measuring anything."""
    labels = {alias for role in LABELS for alias in ALIASES[role]}
    return bool(_UNNAMED.fullmatch(name)) or name.lower() in labels or name in PER_METRIC


def _ids(names: Iterable[str], options: TableOptions, left: list[str]) -> dict[str, str]:
    """Metric ids of columns, or of entries of the metric column; names without one go to ``left``."""
    ids: dict[str, str] = {}
    for name in names:
        if name in options.metrics:
            metric = options.metrics[name]
        elif is_metric_id(name):
            metric = name
        elif options.family is not None and name and name.isprintable():
            metric = f"{options.family}/{options.subject}/{name.replace('/', '_over_')}"
        else:
            metric = NOT_A_METRIC
        if metric:
            ids[name] = metric
        else:
            left.append(name)
    return one_column_each(ids, options.metrics, left)


def _tell_ids(
    ids: Mapping[str, str], left: Sequence[str], options: TableOptions, noun: str, note: Note, *, text: str = ""
) -> None:
    """Note what has no id and what was renamed.

    Raises
    ------
    RefusedFileError
        ``no-metric``: nothing has an id.
    """
    hint = " Pass family= (--family) to make ids of names, or metrics={'NAME': 'ID'} (--metrics NAME=ID)."
    if not ids:
        raise RefusedFileError(
            "no-metric",
            f"no {_NOUNS[noun]} is a metric id <family>/<subject>/<measure>, among {shown(left, 12) or 'none'}.{text}"
            f"{'' if options.family else hint}",
        )
    if left:
        note(f"unused-{noun}", f"left out: {shown(left, 12)}.{'' if options.family else hint}")
    renamed = [
        f"{name!r} is {metric}"
        for name, metric in ids.items()
        if "/" in name and metric != name and name not in options.metrics
    ]
    if renamed:
        note("renamed", f"a '/' cannot stand in a measure: {listed(renamed)}.")


def _stderr(cells: Sequence[Any], table: Table, note: Note) -> npt.NDArray[np.float64]:
    """Standard errors, NaN where unknown; a negative or infinite one is none."""
    column = numbers(cells)
    if column.n_text:
        note_numbers({"stderr": column}, table, note)
    wrong = (column.values < 0) | np.isinf(column.values)
    if wrong.any():
        first = table.lines[int(np.flatnonzero(wrong)[0])]
        note(
            "bad-stderr",
            f"{int(wrong.sum()):,} are negative or infinite, taken as unknown, first at {table.unit} {first}.",
        )
    return np.where(wrong, np.nan, column.values)


def _coordinates(
    table: Table, options: TableOptions, names: Iterable[str], taken: Collection[str], note: Note
) -> tuple[Coordinates, frozenset[str]]:
    """Coordinates along the rows, and all columns that are used by now."""
    found: Coordinates = {}
    used = set(taken)
    for name in names:
        source = find_source(name, options.labels.mapping, table.columns)
        if source is None or (name not in options.labels.mapping and not used.isdisjoint(source.columns)):
            continue
        used.update(source.columns)
        cells = cells_of(table, source)
        if SPECS[name].kind == "U":
            texts = [text_of(cell) for cell in cells]
            clean = {text: without_secrets(text) or None for text in set(texts)}
            found[name] = np.array([clean[text] for text in texts], dtype=object)
            continue
        column = numbers(cells)
        if column.n_text:
            note(
                "not-a-number", f"{name!r} has text in {column.n_text:,} cells, taken as unknown: {shown(column.text)}."
            )
        found[name] = column.values
    if "better" in found and (odd := set(found["better"].tolist()) - {*BETTER, None}):
        raise RefusedFileError(
            "bad-coordinate", f"column 'better' has {shown(sorted(odd))}; use 'higher', 'lower' or nothing."
        )
    for name, array in found.items():
        known = array[~np.isnan(array)] if array.dtype.kind == "f" else array[:0]
        if SPECS[name].kind == "i" and not all(
            float(number).is_integer() and abs(number) < 2**63 for number in set(known.tolist())
        ):
            raise RefusedFileError("bad-coordinate", f"column {name!r} must hold whole numbers ({SPECS[name].doc}).")
    return found, frozenset(used)


def _check_coordinates(values: Values, gathering: Gathering) -> None:
    """Refuse a file that gives a coordinate two values for the same labels."""
    along: dict[str, npt.NDArray[Any]] = {
        "model": values.model,
        "seed": values.run,
        "step": values.step,
        "metric": values.metric,
    }
    names = {"model": gathering.models.texts(), "seed": gathering.runs.texts(), "metric": gathering.metrics.texts()}
    for name, array in values.coordinates.items():
        dims = SPECS[name].dims
        frame = pd.DataFrame({**{dim: along[dim] for dim in dims}, "said": array}).dropna().drop_duplicates()
        twice = frame[frame.duplicated(list(dims), keep=False)]
        if len(twice):
            first = twice.iloc[0]
            at = ", ".join(f"{dim} {names[dim][first[dim]] if dim in names else first[dim]}" for dim in dims)
            here = twice[(twice[list(dims)] == first[list(dims)]).all(axis=1)]["said"].tolist()
            raise RefusedFileError(
                "bad-coordinate",
                f"column {name!r} must be constant along {', '.join(dims)}, but at {at} it has {shown(here)}.",
            )


def _told(table: Table, values: Values, layout: str, ids: Mapping[str, str]) -> str:
    named = listed([f"{name!r} is {metric}" if name != metric else metric for name, metric in ids.items()])
    return f"{table.kind}, {layout}, {len(table):,} rows, {len(values):,} values; {named}."
