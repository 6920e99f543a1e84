"""A short table that looks right in a notebook, in Markdown and on a terminal."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from polystab.words import MINUS, NONE, number, plural

if TYPE_CHECKING:
    import pandas as pd

DIGITS = 3
_MOST_DIGITS = 7

# Longer texts are cut: on a terminal, and elsewhere.
_LINE_LENGTH = 60
_CELL_LENGTH = 200


@dataclass(frozen=True)
class Column:
    """A column as it is shown: an estimate with its interval is one column from three.

    Attributes
    ----------
    name : str
        Its title.
    parts : tuple of str
        Columns of the table that it shows: one; an estimate and two ends; or two ends.
    doc : str
        What it is, in words.
    missing : int or None
        A whole number that stands for none.
    """

    name: str
    parts: tuple[str, ...]
    doc: str = ""
    missing: int | None = None


@dataclass(frozen=True, eq=False)
class Summary:
    """What :func:`polystab.summary` gives; it displays itself in a notebook and prints as text.

    Attributes
    ----------
    table : pandas.DataFrame
        All rows as they are: numbers are not rounded, ends of intervals have columns of their own.
    columns : tuple of Column
        What is shown of them.
    heading : str
        What the rows are.
    notes : tuple of str
        What holds for all rows, and what is left out.
    rows : int
        How many rows are shown.
    """

    table: pd.DataFrame
    columns: tuple[Column, ...]
    heading: str = ""
    notes: tuple[str, ...] = field(default=())
    rows: int = 20

    @property
    def left_out(self) -> int:
        """Rows of the table that are not shown."""
        return max(len(self.table) - self.rows, 0)

    def _cells(self, length: int) -> list[list[str]]:
        """The shown rows as text, cut to a length."""
        shown = self.table.iloc[: self.rows]
        return [
            [_cut(text, length) for text in row]
            for row in zip(*(column_texts(shown, column) for column in self.columns), strict=True)
        ]

    def _lines_below(self) -> list[str]:
        more = [f"{plural(self.left_out, 'more row')}: summary(..., rows={len(self.table)})"] if self.left_out else []
        return [*more, *self.notes]

    def __str__(self) -> str:
        rows = [[column.name for column in self.columns], *self._cells(_LINE_LENGTH)]
        right = [self._is_number(column) for column in self.columns]
        widths = [max(map(_width, texts)) for texts in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                _padded(text, *how) for text, how in zip(row, zip(widths, right, strict=True), strict=True)
            ).rstrip()
            for row in (rows if self.columns else [])
        ]
        return "\n".join([*([self.heading] if self.heading else []), *lines, *self._lines_below()])

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        rows = [[column.name for column in self.columns], *self._cells(_CELL_LENGTH)]
        rules = ["---:" if self._is_number(column) else "---" for column in self.columns]
        lines = ["| " + " | ".join(row) + " |" for row in ([*map(_markdown, row)] for row in rows)]
        lines = [lines[0], "| " + " | ".join(rules) + " |", *lines[1:]] if self.columns else []
        heading = [_markdown(self.heading), ""] if self.heading else []
        below = [part for line in self._lines_below() for part in ("", _markdown(line))]
        return "\n".join([*heading, *lines, *below])

    def _repr_html_(self) -> str:
        aligned = [f' style="text-align: {"right" if self._is_number(column) else "left"}"' for column in self.columns]
        titles = "".join(
            f'<th scope="col"{style} title="{html.escape(column.doc)}">{html.escape(column.name)}</th>'
            for column, style in zip(self.columns, aligned, strict=True)
        )
        body = "\n".join(
            "<tr>"
            + "".join(f"<td{style}>{html.escape(text)}</td>" for text, style in zip(row, aligned, strict=True))
            + "</tr>"
            for row in self._cells(_CELL_LENGTH)
        )
        caption = f'<caption style="text-align: left">{html.escape(self.heading)}</caption>' if self.heading else ""
        below = "".join(f"<div><small>{html.escape(line)}</small></div>" for line in self._lines_below())
        docs = "".join(
            f"<li><b>{html.escape(column.name)}</b>: {html.escape(column.doc)}</li>"
            for column in self.columns
            if column.doc
        )
        meaning = f"<details><summary><small>columns</small></summary><ul>{docs}</ul></details>" if docs else ""
        head = f"<thead><tr>{titles}</tr></thead>\n" if self.columns else ""
        return (
            f'<div style="overflow-x: auto"><table class="dataframe">{caption}\n{head}'
            f"<tbody>\n{body}\n</tbody></table>{below}{meaning}</div>"
        )

    def _is_number(self, column: Column) -> bool:
        return bool(self.table[column.parts[0]].dtype.kind in "iuf")


def column_texts(table: pd.DataFrame, column: Column) -> list[str]:
    """The cells of a column as text."""
    parts = [table[name] for name in column.parts]
    whole = all(part.dtype.kind == "f" and _is_whole(part.to_numpy()) for part in parts)
    texts = [[value_text(v, missing=column.missing, whole=whole) for v in part.tolist()] for part in parts]
    if len(texts) == 1:
        return texts[0]
    ends = ["" if low == high == NONE else f"[{low}, {high}]" for low, high in zip(*texts[-2:], strict=True)]
    if len(texts) == 2:
        return [end or NONE for end in ends]
    return [f"{text} {end}".strip() for text, end in zip(texts[0], ends, strict=True)]


def _is_whole(values: npt.NDArray[np.float64]) -> bool:
    finite = values[np.isfinite(values)]
    return bool((finite == np.round(finite)).all())


def value_text(value: Any, *, missing: int | None = None, whole: bool = False) -> str:
    """A value as text: three significant digits, whole numbers whole, a dash for none."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return NONE if value == missing else f"{int(value):,}".replace("-", MINUS)
    if isinstance(value, (float, np.floating)):
        if whole and abs(value) < 10**_MOST_DIGITS:
            return f"{value:,.0f}".replace("-", MINUS)
        rounded = float(f"{value:.{DIGITS}g}") if abs(value) < 10**DIGITS else float(value)  # or 9.9999 were 10.00
        return number(rounded, digits=DIGITS) or NONE
    return str(value) or NONE


def setting_texts(settings: Mapping[str, Any]) -> list[str]:
    """``name = value`` of each setting that fits on a line."""
    return [
        f"{name} = {f'{value:.6g}' if isinstance(value, float) else value_text(value)}"
        for name, value in settings.items()
        if isinstance(value, (str, int, float, np.generic)) and str(value) and len(str(value)) <= _CELL_LENGTH
    ]


def _cut(text: str, length: int) -> str:
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain if len(plain) <= length else f"{plain[: length - 1]}…"


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def _markdown(text: str) -> str:
    """A text that no character of which is taken for markup."""
    for character in "\\`*_|[]":
        text = text.replace(character, f"\\{character}")
    return html.escape(text, quote=False).replace("\n", " ")
