"""The section on training phases: change points and the training map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from polystab.plots.describe import MAX_PHASE_ROWS
from polystab.report.blocks import Block, Bullets, Column, Details, Group, Picture, Table, codes, empty, paragraph
from polystab.report.sections import tables
from polystab.report.summary.schema import Summary
from polystab.words import NONE, count, number, percent, plural, ranges

# Rows of a table that are not folded away.
OPEN_ROWS = 30


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
            shared = found["shared"]
            yield changes_table(shared[:OPEN_ROWS], "Shared change points")
            if len(shared) > OPEN_ROWS:
                every = changes_table(shared, "All shared change points")
                yield Details(f"All {count(len(shared))} shared changes", (every,))
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
                    glitches_table(found["glitches"]),
                ),
            )
    yield from _map(found["map"])


def _map(found: Summary) -> Iterator[Block]:
    if found["reason"]:
        yield empty(
            f"There is no training map: {found['reason'].rstrip('.')}. To add checkpoints of the same runs:",
            "polystab merge cube.nc more-steps.nc -o both.nc",
        )
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


def changes_table(rows: Sequence[Summary], caption: str) -> Table:
    """Change points that seeds share, by metric."""
    columns = [
        Column("Model", code=True),
        Column("Step", number=True, help="median over seeds of the first checkpoint of the new phase"),
        Column("Interval", number=True, help="of that median, from the seeds, at least 95 % from six seeds on"),
        Column("Seeds", number=True),
        Column("From – to", number=True, help="earliest and latest seed"),
        Column("Change", number=True, help="median over seeds, in the metric's units"),
        Column("p", number=True, help="chance that unrelated changes stand as close together anywhere"),
        Column("Seeds without it"),
    ]
    groups = [
        Group(metric, tuple(_change_row(row) for row in members))
        for metric, members in groupby(rows, key=lambda row: str(row["metric"]))
    ]
    return tables.capped(caption, columns, groups)


def _change_row(row: Summary) -> tuple[str, ...]:
    return (
        row["model"],
        count(row["step"]),
        f"{count(row['lower'])} – {count(row['upper'])}" if row["lower"] >= 0 else NONE,
        f"{count(row['n_runs'])} of {count(row['n_looked_at'])}",
        f"{count(row['first'])} – {count(row['last'])}",
        number(row["size"], digits=2) or NONE,
        number(row["p"], digits=1) or NONE,
        ranges(row["lacking"]) or NONE,
    )


def glitches_table(rows: Sequence[Summary]) -> Table:
    """Isolated bad checkpoints."""
    columns = [Column("Model", code=True), Column("Step", number=True), Column("Seeds")]
    groups = [
        Group(metric, tuple((row["model"], count(row["step"]), ranges(row["seeds"])) for row in members))
        for metric, members in groupby(rows, key=lambda row: str(row["metric"]))
    ]
    return tables.capped("Glitches", columns, groups)
