"""The section on whether runs give the same answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from polystab.report.blocks import (
    Block,
    Bullets,
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
from polystab.words import NONE, count, number, percent, plural


def answers(summary: Summary) -> Iterator[Block]:
    """How far the runs of a model answer alike, beyond chance."""
    found = summary["agreement"]
    rows = found["rows"]
    if not rows:
        yield empty(
            f"Whether runs give the same answers cannot be told: {found['reason'].rstrip('.')}. To measure answers:",
            "polystab fill evals --tasks arc_easy --runs runs.csv -o fill/ --merge cube.nc",
        )
        return
    yield paragraph(
        "Do two runs of a model choose the same option for the same test item, and are they right on the same items? Cohen's "
        "kappa is 1 where they always agree and 0 where they agree as often as unrelated runs with the same habits. Shown is "
        f"its mean over all pairs of runs at the last step, with {percent(found['level'])} intervals over runs and items."
    )
    if found["notes"]:
        yield Bullets(tuple((note,) for note in found["notes"]))
    pooled = [row for row in rows if row["task"] == "pooled"]
    yield answers_table(pooled, "Agreement over all tasks")
    if len(rows) > len(pooled):
        yield Details(f"By task ({plural(len(rows), 'row')})", (answers_table(rows, "Agreement by task"),))
    picture = found["picture"]
    yield paragraph(
        "Over training, all tasks together, with the middle half of the runs: agreement on "
        + ("which items are answered correctly:" if picture["answer"] == "correct" else "the chosen option:")
    )
    yield Legend("Models", tuple(picture["models"]))
    yield Picture("agreement", "Cohen's kappa over all pairs of runs", picture["picture"])


def answers_table(rows: Sequence[Summary], caption: str) -> Table:
    """One row a model and task, by what is compared."""
    pooled = all(row["task"] == "pooled" for row in rows)
    columns = [
        Column("Model", code=True),
        *([] if pooled else [Column("Task", code=True)]),
        Column("Kappa", number=True),
        Column("Interval", number=True),
        Column("Fleiss' kappa", number=True),
        Column("Equal answers", number=True, help="share of equal answers of two runs"),
        Column("By chance", number=True, help="the same share for unrelated runs with the same habits"),
        Column("Runs", number=True),
        Column("Items", number=True),
        Column("Step", number=True),
    ]
    groups = [
        Group(
            {"choice": "the chosen option", "correct": "correct or not"}.get(answer, answer),
            tuple(
                (
                    row["model"],
                    *([] if pooled else [row["task"]]),
                    number(row["agreement"], decimals=2) or NONE,
                    f"{number(row['lower'], decimals=2)} – {number(row['upper'], decimals=2)}"
                    if row["lower"] is not None
                    else NONE,
                    number(row["fleiss"], decimals=2) or NONE,
                    percent(row["p_o"]) or NONE,
                    percent(row["p_e"]) or NONE,
                    count(row["n_runs"]),
                    count(row["n_items"]),
                    count(row["step"]),
                )
                for row in members
            ),
        )
        for answer, members in groupby(rows, key=lambda row: str(row["answer"]))
    ]
    return tables.capped(caption, columns, groups)
