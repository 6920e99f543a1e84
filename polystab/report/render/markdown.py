"""The page as Markdown (GitHub's dialect): the same sections, pictures as their descriptions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from polystab._version import __version__
from polystab.report.blocks import Block, Bullets, Code, Details, Inline, Legend, Listing, Paragraph, Picture, Table
from polystab.report.sections import SECTIONS, lead, sections

# Rows of one table; a Markdown file is read as text more often than not.
MAX_ROWS = 200

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$])")


def render_markdown(summary: dict[str, Any], wanted: Sequence[str] = SECTIONS) -> str:
    """The summary as Markdown text."""
    lines = [
        f"<!-- polystab report {__version__} -->",
        "",
        f"# {escaped(summary['title'])}",
        "",
        escaped(lead(summary)),
        "",
    ]
    for section in sections(summary, wanted):
        lines += [f"## {escaped(section.title)}", ""]
        for block in section.blocks:
            lines += [*_block(block), ""]
    return "\n".join(lines).rstrip() + "\n"


def escaped(text: str) -> str:
    """Text on one line that Markdown and the HTML in it take for nothing but text."""
    return escape(_SPECIAL.sub(r"\\\1", " ".join(text.split())), quote=False)


def code(text: str, *, in_table: bool = False) -> str:
    """A code span, whatever is in the text."""
    plain = " ".join(text.split())
    if not plain:
        return ""
    runs = [len(run) for run in re.findall(r"`+", plain)]
    fence = "`" * next(n for n in range(1, len(runs) + 2) if n not in runs)
    space = " " if "`" in plain else ""
    span = f"{fence}{space}{plain}{space}{fence}"
    return span.replace("|", "\\|") if in_table else span


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Paragraph):
        yield ("> " if block.kind == "empty" else "") + _inline(block.parts)
    elif isinstance(block, Bullets):
        for i, item in enumerate(block.items):
            mark = {"bad": "**!!** ", "warn": "**!** "}.get(block.levels[i] if block.levels else "", "")
            yield f"- {mark}{_inline(item)}"
    elif isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Picture):
        title = code(block.title) if block.code else f"**{escaped(block.title)}**"
        yield f"{title}: {escaped(block.alt)}"
    elif isinstance(block, Legend):
        yield f"Lines: {escaped(block.title)}."
    elif isinstance(block, Listing):
        yield from ("```", *block.text.splitlines(), "```")
    elif isinstance(block, Details):
        yield f"### {escaped(block.title)}"
        for inner in block.blocks:
            yield ""
            yield from _block(inner)


def _inline(parts: Iterable[Inline]) -> str:
    return "".join(code(part.text) if isinstance(part, Code) else escaped_inline(part) for part in parts)


def escaped_inline(text: str) -> str:
    """Like :func:`escaped`, but keeps the spaces at both ends."""
    head = " " if text[:1].isspace() else ""
    tail = " " if text[-1:].isspace() and text.strip() else ""
    return f"{head}{escaped(text)}{tail}"


def _table(table: Table) -> Iterator[str]:
    titled = any(group.title for group in table.groups)
    heads = (["Metric"] if titled else []) + [column.title for column in table.columns]
    rules = (["---"] if titled else []) + ["---:" if column.number else "---" for column in table.columns]
    yield f"**{escaped(table.caption)}**"
    yield ""
    yield f"| {' | '.join(escaped(head) for head in heads)} |"
    yield f"| {' | '.join(rules)} |"
    rows = [(group.title, row) for group in table.groups for row in group.rows]
    for title, row in rows[:MAX_ROWS]:
        cells = [
            code(cell, in_table=True) if column.code else escaped(cell)
            for column, cell in zip(table.columns, row, strict=True)
        ]
        yield f"| {' | '.join(([code(title, in_table=True)] if titled else []) + cells)} |"
    left = len(rows) - len(rows[:MAX_ROWS]) + table.left_out
    if left:
        yield ""
        yield f"{left:,} more rows are in the JSON form of this report (`--format json`)."
