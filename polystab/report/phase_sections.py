"""The section on training phases: change points and the training map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from polystab.plots.describe import MAX_PHASE_ROWS
from polystab.plots.words import count, number, percent, plural
from polystab.report import tables
from polystab.report.blocks import Block, Bullets, Details, Picture, codes, empty, paragraph

Summary = dict[str, Any]

# Rows of a table that are not folded away.
OPEN_ROWS = 60


def phases(summary: Summary) -> Iterator[Block]:
    """When training changes: change points that seeds share, glitches, the training map."""
    found = summary["phases"]
    if not found["curves"]:
        yield empty(
            f"No curve can be cut into phases: that takes {found['min_points']} checkpoints of a run with finite values that are "
            "not all equal. To add checkpoints of the same runs:",
            "polystab merge cube.nc more-steps.nc -o both.nc",
        )
    else:
        yield paragraph(
            f"{count(found['changing'])} of {plural(found['curves'], 'curve')} (of the metrics drawn above, one curve a run) move to "
            f"another level at some checkpoint; were there no changes at all, {percent(found['false_alarm'])} would be said to, "
            f"that is about {number(found['expected'], digits=2)}. The autocorrelation of each curve is allowed for. A smooth rise is cut into "
            "steps too: read a change as the middle of a rise, not as a jump."
        )
        if found["notes"]:
            yield Bullets(tuple((note,) for note in found["notes"]))
        if found["shared"]:
            yield paragraph(
                "Changes that the seeds of a model share, at steps closer together than changes at unrelated steps would stand:"
            )
            table = tables.changes_table(found["shared"][:OPEN_ROWS])
            yield table
            if len(found["shared"]) > OPEN_ROWS:
                yield Details(
                    f"All {count(len(found['shared']))} shared changes", (tables.changes_table(found["shared"]),)
                )
            rows = len({(row["metric"], row["model"]) for row in found["shared"]})
            yield paragraph(
                "A dot is a seed, the upright line the median of the seeds, the pale bar the interval of that median."
                + (f" Drawn are the first {MAX_PHASE_ROWS} of {count(rows)} rows." if rows > MAX_PHASE_ROWS else "")
            )
            yield Picture("changes", "Changes that seeds share", found["picture"], wide=True)
        else:
            yield paragraph(
                "No change is shared by the seeds of a model."
                if found["seeds"] > 1
                else "Whether seeds share a change takes two runs of a model; here each model has one that can be looked at."
            )
        if found["glitches"]:
            yield Details(
                f"{plural(sum(len(row['seeds']) for row in found['glitches']), 'glitch', 'glitches')}: isolated checkpoints "
                "off their neighbours, not taken for phases",
                (
                    paragraph(
                        "Where several seeds have one at the same step it may be a short phase that all go through, or a "
                        "cause they share: look at the curves."
                    ),
                    tables.glitches_table(found["glitches"]),
                ),
            )
    yield from _map(found["map"])


def _map(found: Summary) -> Iterator[Block]:
    if found["reason"]:
        yield paragraph(f"There is no training map: {found['reason']}", kind="empty")
        return
    names = found["metrics"]
    if found["n_states"] == 1:
        yield paragraph("The training map has a single state: it tells no phases apart on ", *codes(names, 14), ".")
        return
    yield paragraph(
        f"The training map: {plural(found['n_states'], 'state')} of a hidden Markov model, fitted to all runs together on ",
        *codes(names, 14),
        ", scaled by the mean and spread of each model's runs. States are numbered in the order in which runs first visit them.",
    )
    if found["notes"]:
        yield Bullets(tuple((note,) for note in found["notes"]))
    if found["runs"] > MAX_PHASE_ROWS:
        yield paragraph(
            f"Drawn are {MAX_PHASE_ROWS} of {count(found['runs'])} runs, as evenly from the models as can be."
        )
    yield Picture("map", "States of every run", found["picture"], wide=True)
    drawn = len(found["graphs"])
    of = f", in the first {drawn} of {count(found['models'])} models" if found["models"] > drawn else ""
    yield paragraph(f"How the states follow one another, with the number of runs that take each way{of}:")
    for i, graph in enumerate(found["graphs"]):
        yield Picture(f"graph{i}", graph["model"], graph["picture"], code=True)
