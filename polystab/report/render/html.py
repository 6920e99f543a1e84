"""The page as HTML: one file, no script, light and dark, screen, phone and paper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby
from typing import Any

from polystab._version import __version__
from polystab.plots.style import DASHED_FROM
from polystab.report.blocks import Block, Picture
from polystab.report.render.pictures import Pictures
from polystab.report.sections import SECTIONS, lead, sections

# Names up to this length stay on one line.
SHORT = 22


def render_html(summary: dict[str, Any], pictures: Pictures, wanted: Sequence[str] = SECTIONS) -> str:
    """The summary and its pictures as one self-contained HTML page."""
    page: str = _template().render(
        version=__version__,
        title=summary["title"],
        lead=lead(summary),
        sections=sections(summary, wanted),
        pictures=pictures.svg,
        inks=pictures.inks,
        dashed_from=DASHED_FROM,
        fingerprint=summary["polystab_report"]["fingerprint"],
    )
    return page


def _arranged(blocks: Iterable[Block]) -> list[tuple[bool, list[Block]]]:
    """Blocks in runs: (True, small pictures that stand side by side) or (False, anything else)."""
    grouped = groupby(blocks, key=lambda block: isinstance(block, Picture) and not block.wide)
    return [(small, list(members)) for small, members in grouped]


def _breakable(name: str) -> Any:
    """A long name that may break after ``/``, ``_`` and ``-`` rather than anywhere; a short one whole."""
    from markupsafe import Markup, escape

    if len(name) <= SHORT:
        return escape(name)
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[/_\-@])", name))


@cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("polystab.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["text"] = lambda part: isinstance(part, str)
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["arranged"] = _arranged
    environment.filters["breakable"] = _breakable
    return environment.get_template("page.html")
