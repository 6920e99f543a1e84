"""Which column says what, and what its cells say."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polystab.errors import ReadError, RefusedFileError, did_you_mean, shown
from polystab.sources.tabular_files import ABSENT, Table

# Names that are taken to say what they seem to, in order of precedence. `_step` comes last:
# it is W&B's own counter of log calls, which need not be optimizer steps.
ALIASES: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "seed": ("seed", "run", "run_id", "run_name"),
    "step": (
        "step",
        "global_step",
        "train/global_step",
        "trainer/global_step",
        "iteration",
        "iter",
        "_step",
    ),
    "metric": ("metric",),
    "value": ("value",),
    "stderr": ("stderr",),
}
LABELS = ("model", "seed", "step")

# Beyond 2**53 a float no longer tells neighbouring integers apart.
MAX_STEP = 2**53

_NULLS = frozenset({"", "na", "n/a", "<na>", "null", "none", "-"})
_NANS = frozenset({"nan", "+nan", "-nan"})

Note = Callable[[str, str], None]


@dataclass(frozen=True)
class Source:
    """Where labels come from: columns joined by ``/``, or a constant."""

    columns: tuple[str, ...] = ()
    constant: str = ""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column as numbers, NaN where a cell holds none, and why it does not."""

    values: npt.NDArray[np.float64]
    empty: int
    nan: int
    text: tuple[str, ...]
    n_text: int
    first_text: int

    @property
    def measured(self) -> npt.NDArray[np.bool_]:
        return ~np.isnan(self.values)

    @property
    def only_text(self) -> bool:
        return self.n_text > 0 and not self.measured.any()

    @property
    def mostly_numbers(self) -> bool:
        """Whether numbers outweigh text; a column of hashes may hold a stray number."""
        count = int(self.measured.sum())
        return count > 0 and count >= self.n_text


def parse_assignments(text: str, *, option: str = "--columns") -> dict[str, str]:
    """Read ``model=record,seed=run`` as the command line has it.

    Only the first ``=`` of each part separates, so that ``model==gpt2`` gives the
    constant ``=gpt2``.

    Raises
    ------
    ReadError
        A part has no ``=`` or no name, or a name comes twice.

    Examples
    --------
    >>> parse_assignments("model=track+record, seed=run")
    {'model': 'track+record', 'seed': 'run'}
    >>> parse_assignments("model==gpt2-124m")
    {'model': '=gpt2-124m'}
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals):
            raise ReadError(f"{option} {text!r}: {part!r} is not NAME=COLUMN.")
        if name in found:
            raise ReadError(f"{option} {text!r}: {name!r} is given twice.")
        found[name] = value
    return found


def checked_mapping(
    columns: Mapping[str, str] | None, allowed: Collection[str], *, model: str | None
) -> dict[str, str]:
    """The mapping with ``model=`` folded in as a constant.

    Raises
    ------
    ReadError
        A role does not exist, is mapped to nothing, or the model is given twice.
    """
    mapping = dict(columns or {})
    unknown = [role for role in mapping if role not in allowed]
    if unknown:
        raise ReadError(
            f"columns maps {shown(unknown)}, which is no part of a cube. {did_you_mean(unknown[0], allowed)}"
        )
    if model is not None:
        if "model" in mapping:
            raise ReadError("the model is given twice: by model= and by columns['model']; leave one out.")
        mapping["model"] = f"={model}"
    blank = [role for role, target in mapping.items() if not target.strip("= ")]
    if blank:
        raise ReadError(f"{shown(blank)} is mapped to nothing; name a column, several joined by '+', or '=constant'.")
    return mapping


def find_source(role: str, mapping: Mapping[str, str], names: Collection[str]) -> Source | None:
    """Where a role's labels come from in a file with these columns; None if nothing says so.

    Raises
    ------
    RefusedFileError
        The mapping names a column that is not there.
    """
    target = mapping.get(role)
    if target is None:
        by_name: dict[str, str] = {}
        for name in names:
            by_name.setdefault(name.lower(), name)
        found = next((by_name[alias] for alias in ALIASES.get(role, (role,)) if alias in by_name), None)
        return None if found is None else Source((found,))
    if target in names:
        return Source((target,))
    if target.startswith("="):
        return Source(constant=target[1:].strip())
    parts = tuple(part.strip() for part in target.split("+"))
    missing = [part for part in parts if part not in names]
    if missing:
        raise RefusedFileError(
            "missing-column", f"no column {missing[0]!r} for the {role}. {_columns_there(missing[0], names)}"
        )
    return Source(parts)


def _columns_there(name: str, names: Collection[str]) -> str:
    text = f"Columns: {shown(names, 12)}."
    hint = did_you_mean(name, names)
    return f"{hint} {text}" if hint.startswith("Did") else text


def cells_of(table: Table, source: Source) -> list[Any]:
    """The cells as they stand in the file, where they come from one column."""
    return table.columns[source.columns[0]] if len(source.columns) == 1 else list(label_cells(table, source))


def label_cells(table: Table, source: Source) -> list[str]:
    """A label for each row, empty where it is not known."""
    if not source.columns:
        return [source.constant] * len(table)
    parts = [_texts(table.columns[name]) for name in source.columns]
    if len(parts) == 1:
        return parts[0]
    return ["/".join(row) if all(row) else "" for row in zip(*parts, strict=True)]


def _texts(cells: Iterable[Any]) -> list[str]:
    return [cell.strip() if type(cell) is str else text_of(cell) for cell in cells]


def text_of(cell: Any) -> str:
    """A cell as a label: whole numbers without a point, and nothing for null."""
    if cell is None or cell is ABSENT or cell != cell:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def numbers(cells: Sequence[Any]) -> Numbers:
    """Cells as float64; infinite values are numbers, text and null are not."""
    values = np.array([_number(cell) for cell in cells], dtype=np.float64)
    empty = nan = n_text = 0
    first_text = -1
    text: dict[str, None] = {}
    for row in np.flatnonzero(np.isnan(values)).tolist():
        cell = cells[row]
        if cell is ABSENT:
            continue
        word = "" if cell is None else str(cell).strip().lower()
        if word in _NULLS:
            empty += 1
        elif word in _NANS:
            nan += 1
        else:
            n_text += 1
            first_text = row if first_text < 0 else first_text
            if len(text) < 3:
                text[str(cell).strip()[:40]] = None
    return Numbers(values, empty, nan, tuple(text), n_text, first_text)


def _number(cell: Any) -> float:
    kind = type(cell)
    try:
        # Python reads 1_000 as a number; a table means a name.
        if kind is float or kind is int or (kind is str and "_" not in cell):
            return float(cell)
    except (ValueError, OverflowError):
        pass
    return float("nan")


def steps_of(cells: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Cells as steps, -1 where a cell is no whole number of steps from 0 on."""
    values = numbers(cells).values
    good = np.isfinite(values) & (values >= 0) & (values < MAX_STEP)
    steps = np.where(good, values, -1.0)
    return np.where(steps == np.floor(steps), steps, -1.0).astype(np.int64)


def note_numbers(columns: Mapping[str, Numbers], table: Table, note: Note) -> None:
    """Tell the audit how many cells of the used columns hold no number, and what they hold."""
    gaps = []
    for name, column in columns.items():
        kinds = [f"{column.empty:,} empty"] if column.empty else []
        kinds += [f"{column.nan:,} NaN"] if column.nan else []
        if kinds:
            gaps.append(f"{name!r} {' and '.join(kinds)}")
    if gaps:
        note("not-measured", f"of {len(table):,} cells: {listed(gaps)}.")
    words = [
        f"{name!r} {column.n_text:,} (first at {table.unit} {table.lines[column.first_text]}: {shown(column.text)})"
        for name, column in columns.items()
        if column.n_text
    ]
    if words:
        note("not-a-number", f"cells with text instead of a number, not used: {listed(words)}.")


def said_of_text(columns: Mapping[str, Numbers]) -> str:
    """A sentence on columns that hold nothing but text, with what they hold; empty if there are none."""
    words = [f"{name!r} ({shown(column.text)})" for name, column in columns.items() if column.only_text]
    return f" Text instead of plain numbers: {listed(words)}." if words else ""


def listed(parts: Sequence[str], limit: int = 12) -> str:
    """Parts joined by semicolons, at most ``limit`` and then a count."""
    text = "; ".join(parts[:limit])
    return f"{text} and {len(parts) - limit} more" if len(parts) > limit else text
