"""The section on who is responsible for the spread."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from polystab.plots.describe import PARTS
from polystab.report.blocks import Block, Bullets, Column, Details, Group, Legend, Picture, Table, empty, paragraph
from polystab.report.sections import tables
from polystab.report.summary.schema import Summary
from polystab.words import NONE, count, number, percent

# Rows that are not folded away.
OPEN_ROWS = 15


def variance(summary: Summary) -> Iterator[Block]:
    variance = summary["variance"]
    rows = [row for row in variance["rows"] if row["informative"]]
    if not rows:
        yield empty(
            "The spread cannot be shared out: that takes several runs, and either several models or the sampling error "
            "of the test items (lm-eval's stderr). To add models or seeds:",
            "polystab merge a.nc b.nc -o both.nc",
        )
        return
    level = percent(variance["level"])
    yield paragraph(
        "The variance of the scores at the final step, split into parts that add up: what each would be if only it "
        f"varied. Shares of the total, with {level} intervals; a wide one says that there are too few models or runs to tell."
    )
    known = {name for row in rows for name, part in row["parts"].items() if part["fraction"] is not None}
    parts = [part for part in variance["parts"] if part["component"] in known]
    yield Bullets(tuple((_meaning(part),) for part in parts))
    if variance["confounded"]:
        yield paragraph(f"Not told apart here: {variance['confounded']}.", kind="note")
    caption = "Shares of the variance at the final step"
    if len(rows) <= OPEN_ROWS:
        yield components_table(rows, parts, level, caption)
    else:
        first = f"{caption}, {OPEN_ROWS} of {count(len(rows))} metrics"
        yield components_table(rows[:OPEN_ROWS], parts, level, first)
        every = components_table(rows, parts, level, f"{caption}, all metrics")
        yield Details(f"All {count(len(rows))} metrics", (every,))
    if variance["pictures"]:
        yield paragraph("The same shares over training:")
        yield Legend(
            "Parts", tuple(part["label"] for part in parts), tuple(PARTS[part["component"]].ink for part in parts)
        )
    for i, metric in enumerate(variance["pictures"]):
        yield Picture(f"share{i}", metric["metric"], metric["picture"], code=True)


def _meaning(part: Summary) -> str:
    said = part["meaning"] if part["meaning"].startswith(part["label"]) else f"{part['label']}: {part['meaning']}"
    return f"{said[:1].upper()}{said[1:]}."


def components_table(rows: Sequence[Summary], parts: Sequence[Summary], level: str, caption: str) -> Table:
    """Shares of the variance at the final step, one row a metric."""
    columns = [
        Column("Metric", code=True),
        Column("Step", number=True),
        Column("Runs", number=True),
        Column("SD", number=True, help="square root of the total variance"),
    ]
    for part in parts:
        columns.append(Column(part["label"][:1].upper() + part["label"][1:], number=True))
        columns.append(Column(f"{level} interval", number=True))
    lines = [
        (
            row["metric"],
            count(row["step"]),
            count(row["n_runs"]),
            number(None if row["total"] is None else math.sqrt(row["total"]), digits=2) or NONE,
            *(text for part in parts for text in _share(row["parts"][part["component"]])),
        )
        for row in rows
    ]
    return tables.capped(caption, columns, [Group("", tuple(lines))])


def _share(part: Summary) -> tuple[str, str]:
    if part["fraction"] is None:
        return NONE, NONE
    # An interval of no width lies beyond what a share can be: less spread than chance has, and no knowledge of it.
    if part["fraction_lower"] is None or part["fraction_lower"] == part["fraction_upper"]:
        return percent(part["fraction"]), NONE
    low, high = percent(part["fraction_lower"]), percent(part["fraction_upper"])
    return percent(part["fraction"]), f"{low.removesuffix(tables.PERCENT)} – {high}"
