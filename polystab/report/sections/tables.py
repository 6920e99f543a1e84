"""What the tables of all sections share: how many rows fit, and how numbers are written."""

from __future__ import annotations

from collections.abc import Sequence

from polystab.report.blocks import (
    Column,
    Group,
    Table,
)
from polystab.words import count

# Rows of a table in the page; the JSON form has all of them.
MAX_ROWS = 1500

PERCENT = "\N{NO-BREAK SPACE}%"


def capped(caption: str, columns: Sequence[Column], groups: Sequence[Group]) -> Table:
    """A table of at most ``MAX_ROWS`` rows that knows how many it leaves out."""
    kept, room = [], MAX_ROWS
    for group in groups:
        if room > 0:
            kept.append(Group(group.title, group.rows[:room]))
        room -= len(group.rows)
    return Table(caption, tuple(columns), tuple(kept), max(-room, 0))


def size_label(parameters: float) -> str:
    """``70426624`` -> ``70.4M``."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return count(parameters)


def cut(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
