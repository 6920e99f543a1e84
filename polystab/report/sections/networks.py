"""The section on weights, activations and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from polystab.report.blocks import (
    Block,
    Column,
    Details,
    Group,
    Legend,
    Picture,
    Table,
    empty,
    paragraph,
)
from polystab.report.sections import tables
from polystab.report.summary.schema import Summary
from polystab.words import NONE, count, decimals_for, listed, number

OPEN_ROWS = 24

_COMMANDS = {"weight": "weights", "activation": "activations", "gradient": "activations"}


def networks(summary: Summary) -> Iterator[Block]:
    """The statistics of weights, activations and gradients that training moves most."""
    found = summary["networks"]
    lacking = found["lacking"]
    if lacking:
        sources = " ".join(dict.fromkeys(_COMMANDS[family] for family in lacking))
        yield empty(
            f"The cube has no {listed([f'{family} statistics' for family in lacking], 3)}. To measure them on kept checkpoints:",
            f"polystab fill {sources} --runs runs.csv -o fill/ --merge cube.nc",
        )
    if not found["families"]:
        return
    said = [f"{count(item['metrics'])} of family {item['family']}" for item in found["families"]]
    yield paragraph(
        f"The cube has {listed(said, 3)}. Shown are those that training moves most against their noise: the median of the "
        "seeds at their first and last shared step, and how far the seeds are apart at the end."
    )
    rows = [row for item in found["families"] for row in item["rows"]]
    table = networks_table(rows, "Statistics of the networks, first and last")
    yield table if len(rows) <= 2 * OPEN_ROWS else Details(f"All {count(len(rows))} rows", (table,))
    drawn = [(i, item) for i, item in enumerate(found["families"]) if item["metric"]]
    if drawn:
        yield Legend("Models", tuple(found["models"]))
    for i, item in drawn:
        yield Picture(f"network{i}", item["metric"], item["picture"], code=True)


def networks_table(rows: Sequence[Summary], caption: str) -> Table:
    """One row a model, by metric."""
    columns = [
        Column("Model", code=True),
        Column("First", number=True, help="median over seeds"),
        Column("Last", number=True, help="median over seeds"),
        Column("Seed SD", number=True, help="standard deviation over runs at the final step, divided by c4"),
        Column("From – to step", number=True),
    ]
    groups = [
        Group(
            metric,
            tuple(
                (
                    row["model"],
                    number(row["first"], digits=3) or NONE,
                    number(row["last"], digits=3) or NONE,
                    number(row["sd"], decimals=decimals_for(row["sd"])) or NONE,
                    f"{count(row['first_step'])} – {count(row['last_step'])}",
                )
                for row in members
            ),
        )
        for metric, members in groupby(rows, key=lambda row: str(row["metric"]))
    ]
    return tables.capped(caption, columns, groups)
