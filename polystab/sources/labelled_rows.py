"""Which run and step each row of a table belongs to."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from polystab.errors import ReadError, RefusedFileError, shown
from polystab.sources.columns import (
    ALIASES,
    Note,
    Numbers,
    Source,
    cells_of,
    find_source,
    label_cells,
    listed,
    numbers,
    steps_of,
    text_of,
)
from polystab.sources.finding import InputFile
from polystab.sources.gathering import Gathering, Values
from polystab.sources.run_numbers import seed_in
from polystab.sources.tabular_files import TRAINER_STATE, Table


@dataclass(frozen=True)
class LabelOptions:
    """How a user said that labels are found: a checked mapping, and a pattern for paths or run names."""

    mapping: Mapping[str, str]
    pattern: re.Pattern[str] | None = None


@dataclass(frozen=True)
class LabelledRows:
    """Rows that have all labels: ``kept`` are their numbers in the table, the rest runs along them.

    ``used`` are the columns that labels were taken from.
    """

    kept: npt.NDArray[np.intp]
    model: list[str]
    run: list[str]
    step: npt.NDArray[np.int64]
    used: frozenset[str]


def compiled_pattern(pattern: str | None) -> re.Pattern[str] | None:
    """The pattern, checked to be one with a group ``model`` or ``seed``.

    Raises
    ------
    ReadError
        It is no regular expression, or names neither group.
    """
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ReadError(f"the run pattern {pattern!r} is not a regular expression: {error}.") from error
    if not {"model", "seed"} & set(compiled.groupindex):
        raise ReadError(f"the run pattern {pattern!r} has no group (?P<model>...) or (?P<seed>...).")
    return compiled


def label_rows(table: Table, file: InputFile, options: LabelOptions, note: Note) -> LabelledRows:
    """Find model, run and step of each row; rows that lack one are left out and noted.

    Raises
    ------
    RefusedFileError
        ``missing-column``, ``no-step``, ``no-model``, ``no-run`` or ``no-labels``.
    """
    stated = _by_pattern(table, file, options.pattern)
    sources = {role: _source(role, table, options.mapping, stated) for role in ("model", "seed", "step")}
    step_source, model_source, run_source = sources["step"], sources["model"], sources["seed"]
    if step_source is None:
        headless = bool(table.columns) and bool(numbers(list(table.columns)).measured.all())
        raise RefusedFileError(
            "no-step",
            f"no column is named {shown(ALIASES['step'][:2])} or the like; say which with columns={{'step': 'COLUMN'}} "
            f"(--columns step=COLUMN). Columns: {shown(table.columns, 12)}."
            + (" Is the line with their names missing?" if headless else ""),
        )
    if model_source is None and "model" not in stated:
        raise RefusedFileError(
            "no-model",
            "nothing names the model; pass model='NAME' (--model NAME), columns={'model': 'COLUMN'} "
            "(--columns model=COLUMN), or a run_pattern with (?P<model>...).",
        )
    models = stated["model"] if model_source is None else label_cells(table, model_source)
    if run_source is not None:
        runs = label_cells(table, run_source)
    else:
        runs = stated["seed"] if "seed" in stated else [_run_of(file, note)] * len(table)
    step_cells = cells_of(table, step_source)
    steps = steps_of(step_cells)
    kept = _kept(table, {"model": models, "run": runs}, steps, step_cells, note)
    return LabelledRows(
        kept,
        [models[row] for row in kept.tolist()],
        [runs[row] for row in kept.tolist()],
        steps[kept],
        frozenset(name for source in sources.values() if source for name in source.columns),
    )


def _source(role: str, table: Table, mapping: Mapping[str, str], stated: Collection[str]) -> Source | None:
    """What the mapping says; else what the pattern stated; else a column with an obvious name."""
    return None if role in stated and role not in mapping else find_source(role, mapping, table.columns)


def _by_pattern(table: Table, file: InputFile, pattern: re.Pattern[str] | None) -> dict[str, list[str]]:
    """Labels that the user's pattern finds in the run names of the format, or else in the path."""
    if pattern is None:
        return {}
    if table.run_column:
        names = [str(name) for name in table.columns[table.run_column]]
    else:
        names = [file.shown if pattern.search(file.shown) else file.within] * len(table)
    found: dict[str, dict[str, str]] = {}
    for name in dict.fromkeys(names):
        match = pattern.search(name)
        if match is None:
            raise RefusedFileError("no-run", f"the run pattern {pattern.pattern!r} does not match {name!r}.")
        found[name] = {role: text or "" for role, text in match.groupdict().items()}
    return {role: [found[name][role] for name in names] for role in ("model", "seed") if role in pattern.groupindex}


def _run_of(file: InputFile, note: Note) -> str:
    """The run that a whole file is of, by its path: the seed stated there, or else the path itself."""
    for text in (file.shown, file.within):
        seed = seed_in(text)
        if seed is not None:
            note("seed-from-path", f"no column names the run: seed {seed} from {text!r}.")
            return str(seed)
    name = _named_by_path(file)
    note("run-from-path", f"no column names the run and the path states no seed: the run is named {name!r}.")
    return name


def _named_by_path(file: InputFile) -> str:
    """The path without suffixes; a trainer state is named by its folder, whichever checkpoint it lies in."""
    for text in (file.shown, file.within):
        path = PurePosixPath(text.removesuffix(".gz"))
        path = path.parent if path.name == TRAINER_STATE else path.with_suffix("")
        while path.name.startswith("checkpoint-"):
            path = path.parent
        if path.name:
            return path.as_posix()
    return file.shown


def _kept(
    table: Table,
    labels: Mapping[str, Sequence[str]],
    steps: npt.NDArray[np.int64],
    step_cells: Sequence[object],
    note: Note,
) -> npt.NDArray[np.intp]:
    """Numbers of the rows with a usable model, run and step."""
    keep = steps >= 0
    if not keep.all():
        bad = np.flatnonzero(~keep)
        first = f"first at {table.unit} {table.lines[bad[0]]}: {text_of(step_cells[bad[0]])!r}"
        note("bad-step", f"{len(bad):,} rows left out, whose step is no whole number from 0 on, {first}.")
    for name, texts in labels.items():
        # Control characters and lone surrogates could not be written into a cube.
        unusable = {text for text in set(texts) if not text or not text.isprintable()}
        if unusable:
            bad = np.flatnonzero(np.array([text in unusable for text in texts]))
            keep[bad] = False
            note(
                "no-label",
                f"{len(bad):,} rows left out without a usable {name}, first at {table.unit} {table.lines[bad[0]]}.",
            )
    if not keep.any():
        raise RefusedFileError(
            "no-labels", f"none of {len(table):,} rows has a model, a run and a step that can be used."
        )
    return np.flatnonzero(keep)


def measured_values(
    gathering: Gathering,
    rows: LabelledRows,
    columns: Mapping[str, Numbers],
    note: Note,
    *,
    coordinates: Mapping[str, npt.NDArray[np.generic]] | None = None,
) -> Values:
    """The measured cells of metric columns, by metric id.

    ``coordinates`` run along the rows of the table, like the columns.

    Raises
    ------
    RefusedFileError
        ``no-values``: nothing is left.
    """
    model, run = gathering.models.code(rows.model), gathering.runs.code(rows.run)
    metric = gathering.metrics.code(columns)
    found = [np.flatnonzero(~np.isnan(column.values[rows.kept])) for column in columns.values()]
    at = np.concatenate(found) if found else np.empty(0, dtype=np.intp)
    if not len(at):
        raise RefusedFileError("no-values", f"no row holds a number in {shown(columns)}.")
    note_silent_runs(gathering, model, run, at, note)
    # Metric by metric, and in the order of rows within each, which decides between duplicates.
    return Values(
        model[at],
        run[at],
        rows.step[at],
        np.repeat(metric, [len(part) for part in found]),
        np.concatenate([column.values[rows.kept[part]] for column, part in zip(columns.values(), found, strict=True)]),
        coordinates={name: array[rows.kept[at]] for name, array in (coordinates or {}).items()},
    )


def note_silent_runs(
    gathering: Gathering,
    model: npt.NDArray[np.intp],
    run: npt.NDArray[np.intp],
    measured: npt.NDArray[np.intp],
    note: Note,
) -> None:
    """Name runs that have rows but not one value: they are not in the cube."""
    size = len(gathering.runs.codes)
    pairs = model * size + run
    silent = np.setdiff1d(pairs, pairs[measured])
    if len(silent):
        models, runs = gathering.models.texts(), gathering.runs.texts()
        names = [f"{models[pair // size]}|{runs[pair % size]}" for pair in silent.tolist()]
        note("run-without-values", f"runs without one measured value, left out: {shown(names)}.")


def note_steps_back(table: Table, rows: LabelledRows, note: Note) -> None:
    """Say where a run's steps go back: it was probably restarted."""
    runs: dict[tuple[str, str], int] = {}
    codes = np.array([runs.setdefault(pair, len(runs)) for pair in zip(rows.model, rows.run, strict=True)])
    order = np.argsort(codes, kind="stable")
    before, after = order[:-1], order[1:]
    back = np.flatnonzero((codes[before] == codes[after]) & (rows.step[after] < rows.step[before]))
    if not len(back):
        return
    said = [
        f"run {rows.run[now]} from {rows.step[then]} to {rows.step[now]} at {table.unit} {table.lines[rows.kept[now]]}"
        for then, now in zip(before[back[:5]].tolist(), after[back[:5]].tolist(), strict=True)
    ]
    said += [f"{len(back) - len(said)} more"] if len(back) > len(said) else []
    note("steps-go-back", f"{len(back):,} times: {listed(said)}. A restarted run logs steps again.")
