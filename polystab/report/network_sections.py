"""The sections on answers, representations, and weights, activations and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from polystab.plots.words import count, decimals_for, listed, number, percent, plural
from polystab.report import tables
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

Summary = dict[str, Any]

OPEN_ROWS = 24

_COMMANDS = {"weight": "weights", "activation": "activations", "gradient": "activations"}


def answers(found: Summary) -> Iterator[Block]:
    """How far the runs of a model answer alike, beyond chance."""
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
    yield Legend("Models in agreement", tuple(picture["models"]))
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
                    number(row["agreement"], decimals=2) or tables.NONE,
                    f"{number(row['lower'], decimals=2)} – {number(row['upper'], decimals=2)}"
                    if row["lower"] is not None
                    else tables.NONE,
                    number(row["fleiss"], decimals=2) or tables.NONE,
                    percent(row["p_o"]) or tables.NONE,
                    percent(row["p_e"]) or tables.NONE,
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
            "Models in probes",
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
                    number(row["compression"], digits=3) or tables.NONE,
                    f"{number(row['lower'], digits=3)} – {number(row['upper'], digits=3)}"
                    if row["lower"] is not None
                    else tables.NONE,
                    number(row["angle"], decimals=0) or tables.NONE,
                    number(row["expected"], decimals=0) or tables.NONE,
                    count(row["n_runs"]),
                    count(row["step"]),
                )
                for row in members
            ),
        )
        for task, members in groupby(rows, key=lambda row: str(row["task"]))
    ]
    return tables.capped(caption, columns, groups)


def networks(found: Summary) -> Iterator[Block]:
    """The statistics of weights, activations and gradients that training moves most."""
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
        yield Legend("Models in networks", tuple(found["models"]))
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
                    number(row["first"], digits=3) or tables.NONE,
                    number(row["last"], digits=3) or tables.NONE,
                    number(row["sd"], decimals=decimals_for(row["sd"])) or tables.NONE,
                    f"{count(row['first_step'])} – {count(row['last_step'])}",
                )
                for row in members
            ),
        )
        for metric, members in groupby(rows, key=lambda row: str(row["metric"]))
    ]
    return tables.capped(caption, columns, groups)
