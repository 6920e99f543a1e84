"""The first section: what a reader should know, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from polystab.report.blocks import Block, Bullets, paragraph
from polystab.report.summary.schema import Summary


def takeaways(summary: Summary) -> Iterator[Block]:
    items = summary["takeaways"]
    if items:
        yield Bullets(
            tuple((item["text"],) for item in items),
            tuple(item["level"] for item in items),
            tuple(item["section"] for item in items),
        )
    else:
        yield paragraph(
            "Nothing was refused, repeated or left out, and no run stands out much more often than chance has it."
        )
