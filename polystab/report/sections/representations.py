"""The section on what the states of the networks tell."""

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
from polystab.words import NONE, count, number, plural

OPEN_ROWS = 24


def representations(summary: Summary) -> Iterator[Block]:
    """What linear probes read in the states of the layers, and whether seeds keep it in the same place."""
    found = summary["representations"]
    if not found["rows"]:
        yield empty(
            "What the hidden states know is told by linear probes, and this cube has none. To train them:",
            "polystab fill probes -O probes.data=DATA --runs runs.csv -o fill/ --merge cube.nc",
        )
        return
    yield paragraph(
        "Linear probes read a label of words or texts off the states of a layer (layer 0 are the embeddings). Compression is "
        "the codelength without the states over that with them: 1 is nothing learnt. The angle is between what the probes of "
        "two seeds read; where it is that of random subspaces, seeds keep the same knowledge in unrelated directions."
    )
    rows = found["rows"]
    largest = rows[-1]["model"]
    first = rows if len(rows) <= OPEN_ROWS else [row for row in rows if row["model"] == largest]
    yield probes_table(first[: 2 * OPEN_ROWS], "Probes at the last step" + ("" if first is rows else f", {largest}"))
    if len(rows) > len(first[: 2 * OPEN_ROWS]):
        yield Details(f"All probes ({plural(len(rows), 'row')})", (probes_table(rows, "All probes at the last step"),))
    if found["pictures"]:
        yield paragraph("Compression over training, in the layer from which it is read best at the end:")
        yield Legend(
            "Models",
            tuple(dict.fromkeys(name for picture in found["pictures"] for name in picture["models"])),
        )
    for i, picture in enumerate(found["pictures"]):
        yield Picture(f"probe{i}", picture["metric"], picture["picture"], code=True)


def probes_table(rows: Sequence[Summary], caption: str) -> Table:
    """One row a layer, by task and model."""
    columns = [
        Column("Model", code=True),
        Column("Layer", number=True),
        Column("Compression", number=True, help="median over runs"),
        Column("Middle half of runs", number=True),
        Column("Angle between seeds", number=True, help="degrees, median over pairs of runs"),
        Column("By chance", number=True, help="degrees between random subspaces of these dimensions"),
        Column("Runs", number=True),
        Column("Step", number=True),
    ]
    groups = [
        Group(
            task,
            tuple(
                (
                    row["model"],
                    str(row["layer"]),
                    number(row["compression"], digits=3) or NONE,
                    f"{number(row['lower'], digits=3)} – {number(row['upper'], digits=3)}"
                    if row["lower"] is not None
                    else NONE,
                    number(row["angle"], decimals=0) or NONE,
                    number(row["expected"], decimals=0) or NONE,
                    count(row["n_runs"]),
                    count(row["step"]),
                )
                for row in members
            ),
        )
        for task, members in groupby(rows, key=lambda row: str(row["task"]))
    ]
    return tables.capped(caption, columns, groups)
