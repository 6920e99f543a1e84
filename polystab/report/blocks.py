"""What a page consists of, before it is HTML or Markdown: sections of a few kinds of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Code:
    """A name or command, set in a fixed width and never taken for markup."""

    text: str


Inline = str | Code


@dataclass(frozen=True)
class Paragraph:
    """Running text; ``kind`` is empty, ``note`` (small print) or ``empty`` (nothing to show, and why)."""

    parts: tuple[Inline, ...]
    kind: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table; ``number`` aligns it right, ``code`` makes its cells names."""

    title: str
    number: bool = False
    code: bool = False
    help: str = ""


@dataclass(frozen=True)
class Group:
    """Rows of a table below a common title (a metric), which may be empty."""

    title: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Table:
    """A table; the first column names its rows. ``left_out`` rows are in the JSON form only."""

    caption: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    left_out: int = 0


@dataclass(frozen=True)
class Picture:
    """A picture that stands elsewhere under ``key``, with its text alternative."""

    key: str
    title: str
    alt: str
    code: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Legend:
    """Which colour is which, for the pictures that follow; ``inks`` name the colours, by default those of models."""

    title: str
    names: tuple[str, ...]
    inks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bullets:
    """A list; ``levels`` (``bad``, ``warn``, ``info``) mark its items, ``links`` name sections, both if given."""

    items: tuple[tuple[Inline, ...], ...]
    levels: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """Lines of text set in a fixed width, to be copied."""

    text: str


@dataclass(frozen=True)
class Details:
    """Blocks that stay folded until a reader wants them."""

    title: str
    blocks: tuple[Block, ...]


Block = Paragraph | Table | Picture | Legend | Bullets | Listing | Details


@dataclass(frozen=True)
class Section:
    """A headed part of the page."""

    name: str
    title: str
    blocks: tuple[Block, ...] = field(default=())


def paragraph(*parts: Inline, kind: str = "") -> Paragraph:
    """A paragraph from its parts."""
    return Paragraph(parts, kind)


def codes(names: Sequence[str], limit: int) -> tuple[Inline, ...]:
    """Names as code, separated by commas, with a count of those beyond ``limit``."""
    parts: list[Inline] = []
    for i, name in enumerate(names[:limit]):
        parts += [", "] * bool(i) + [Code(name)]
    if len(names) > limit:
        parts.append(f" and {len(names) - limit:,} more")
    return tuple(parts)


def empty(text: str, command: str = "") -> Paragraph:
    """What a section without data says: why, and the command that fills it."""
    return paragraph(text + " ", Code(command), kind="empty") if command else paragraph(text, kind="empty")
