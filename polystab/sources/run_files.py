"""Run tables as files: CSV in, CSV out, every mistake at once."""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from polystab.errors import ReadError, did_you_mean
from polystab.files import write_text
from polystab.sources.run_patterns import parse_steps, steps_text
from polystab.sources.runs import Run, RunTableError, repeated_runs, run_mistakes

NEEDED = ("model", "seed", "location")
COLUMNS = ("model", "seed", "weight_seed", "data_seed", "location", "revision", "steps")
WHOLE_FACTS = ("n_parameters", "n_layers", "hidden_size", "tokens_per_step")
FACTS = ("n_parameters", "n_layers", "hidden_size", "learning_rate", "tokens_per_step")

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
# So alike that it is a slip of the pen, and not a column of the person's own.
_ALIKE = 0.8

Row = tuple[str, dict[str, str]]


def runs_of_file(path: Path) -> tuple[Run, ...]:
    """The runs of a CSV or TSV file; see :func:`polystab.sources.runs.read_runs`.

    Raises
    ------
    RunTableError
        Something is wrong with what it says.
    ReadError
        It cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            header = [name.strip() for name in next(lines, [])]
            rows = [(f"line {lines.line_num}", cells) for cells in lines if any(cell.strip() for cell in cells)]
    except OSError as error:
        raise ReadError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ReadError(f"{path} is not a table in UTF-8 text: {error}.") from error
    uneven = [
        f"{line}: {len(cells)} cells under {len(header)} columns; put cells with commas in quotes"
        for line, cells in rows
        if len(cells) > len(header)
    ]
    if uneven:
        raise RunTableError(str(path), uneven)
    texts = [(line, dict(zip(header, map(str.strip, cells), strict=False))) for line, cells in rows]
    return _runs(header, texts, str(path), path.resolve().parent)


def runs_of_frame(frame: pd.DataFrame) -> tuple[Run, ...]:
    """The runs of a DataFrame; relative folders count from the current one.

    Raises
    ------
    RunTableError
        Something is wrong with it.
    """
    header = [str(name) for name in frame.columns]
    rows = [
        (f"row {number}", dict(zip(header, map(_text, cells), strict=True)))
        for number, cells in enumerate(frame.itertuples(index=False, name=None))
    ]
    return _runs(header, rows, "the DataFrame", Path.cwd())


def write_runs_file(runs: Sequence[Run], path: str | os.PathLike[str]) -> None:
    """Write runs as CSV; see :func:`polystab.sources.runs.write_runs`.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    folder = Path(os.path.realpath(Path(path).expanduser())).parent
    facts = [name for name in FACTS if any(name in run.facts for run in runs)]
    facts += sorted({name for run in runs for name in run.facts} - set(FACTS))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *facts])
    for run in runs:
        seeds = ["" if seed == -1 else seed for seed in (run.weight_seed, run.data_seed)]
        location = run.location if run.on_hub else _relative(run.location, folder)
        cells = [run.model, run.seed, *seeds, location, run.revision, steps_text(run.steps)]
        writer.writerow([*cells, *(_text(run.facts.get(name)) for name in facts)])
    write_text(path, text.getvalue())


def _runs(header: Sequence[str], rows: Sequence[Row], where: str, folder: Path) -> tuple[Run, ...]:
    mistakes = _header_mistakes(header)
    if not rows:
        mistakes.append("there is no run in it")
    if mistakes:  # without its columns every row would be wrong as well
        raise RunTableError(where, mistakes)
    runs: list[tuple[str, Run]] = []
    for line, cells in rows:
        run, wrong = _run(cells, folder)
        mistakes += [f"{line}: {mistake}" for mistake in wrong]
        if run is not None:
            mistakes += [f"{line}: {mistake}" for mistake in run_mistakes(run)]
            runs.append((line, run))
    mistakes += repeated_runs((run.model, run.seed, line) for line, run in runs)
    if mistakes:
        raise RunTableError(where, mistakes)
    return tuple(run for _, run in runs)


def _header_mistakes(header: Sequence[str]) -> list[str]:
    known = (*COLUMNS, *FACTS)
    mistakes = []
    for name in NEEDED:
        if name not in header:
            alike = difflib.get_close_matches(name, [each for each in header if each not in known], 1, _ALIKE)
            have = f"is {alike[0]!r} it?" if alike else f"it has {', '.join(header) or 'none'}"
            mistakes.append(f"the column {name!r} is missing; {have}")
    mistakes += [
        f"the column {name!r} is unknown. {did_you_mean(name, known).removesuffix('.')}"
        for name in header
        if name not in known and difflib.get_close_matches(name, known, 1, _ALIKE)
    ]
    mistakes += [f"the column {name!r} stands there twice" for name in {n for n in header if header.count(n) > 1}]
    if "" in header:
        mistakes.append("a column has no name")
    return mistakes


def _run(cells: Mapping[str, str], folder: Path) -> tuple[Run | None, list[str]]:
    mistakes: list[str] = []
    seeds = {
        name: _integer(cells.get(name, ""), name, mistakes, default=None if name == "seed" else -1)
        for name in ("seed", "weight_seed", "data_seed")
    }
    facts: dict[str, Any] = {}
    for name, text in cells.items():
        if name in WHOLE_FACTS and text:
            facts[name] = _integer(text, name, mistakes, default=None)
        elif name == "learning_rate" and text:
            facts[name] = _number(text, name, mistakes)
        elif name not in COLUMNS and text:
            facts[name] = text
    steps: tuple[int, ...] = ()
    try:
        steps = parse_steps(cells.get("steps", ""))
    except ValueError as error:
        mistakes.append(f"steps: {error}")
    if seeds["seed"] is None:
        return None, mistakes
    revision, location = cells.get("revision", ""), cells.get("location", "")
    if location and not revision and "://" not in location:
        location = _absolute(location, folder)
    known = {name: -1 if seed is None else seed for name, seed in seeds.items()}
    return Run(
        cells.get("model", ""), **known, location=location, revision=revision, steps=steps, facts=facts
    ), mistakes


def _integer(text: str, name: str, mistakes: list[str], *, default: int | None) -> int | None:
    if not text and default is not None:
        return default
    if not _INTEGER.fullmatch(text):
        mistakes.append(f"{name} is {text!r}, not an integer")
        return None
    return int(text)


def _number(text: str, name: str, mistakes: list[str]) -> float | None:
    try:
        return float(text)
    except ValueError:
        mistakes.append(f"{name} is {text!r}, not a number")
        return None


def _text(cell: Any) -> str:
    """A cell as it stands in a file: empty if missing, whole numbers without a point."""
    if isinstance(cell, Iterable) and not isinstance(cell, str):
        return " ".join(_text(part) for part in cell)
    if pd.isna(cell):
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    return str(cell).strip()


def _absolute(location: str, folder: Path) -> str:
    """A location counted from a folder, in whose own name braces are no fields."""
    path = Path(os.path.expanduser(location))  # noqa: PTH111  that of pathlib raises over the home of nobody
    if path.is_absolute():
        return os.path.normpath(path)
    return os.path.normpath(Path(str(folder).replace("{", "{{").replace("}", "}}")) / path)


def _relative(location: str, folder: Path) -> str:
    here = str(folder).replace("{", "{{").replace("}", "}}")
    absolute = _absolute(location, Path.cwd())
    return os.path.relpath(absolute, here) if Path(absolute).is_relative_to(here) else absolute
