"""The section on runs that went wrong, and what an early warning of them would have been worth."""

from __future__ import annotations

from collections.abc import Iterator

from polystab.plots.warnings import LABELS
from polystab.report.blocks import (
    Block,
    Column,
    Details,
    Group,
    Picture,
    Table,
    empty,
    paragraph,
)
from polystab.report.sections import tables
from polystab.report.summary.schema import Summary
from polystab.report.summary.warning import number_of, verdict, with_interval
from polystab.words import NONE, count, number, percent, plural

# Rows that are not folded away.
OPEN_ROWS = 15


def warning(summary: Summary) -> Iterator[Block]:
    """Runs that went wrong by their training logs: what an early warning can be learnt from."""
    found = summary["warning"]
    if found is None:
        yield empty(
            "Which runs went wrong is told from their training logs (loss and gradient norm at every update), and this cube "
            "has none in a group log. To have one, train with polystab or read logs:",
            "polystab read training-log LOGS -o log.nc",
        )
        return
    if not found["rows"]:
        yield paragraph(
            f"None of {plural(found['runs'], 'run')} with a log went wrong: no divergence, no spike, no high final loss, no "
            "ability missing. There is nothing to learn an early warning from; what stands out is above."
        )
        return
    yield paragraph(
        f"{count(found['wrong'])} of {plural(found['runs'], 'run')} with a log went wrong by at least one rule; the update is "
        "the first at which a rule could have said so, which is what an early warning has to beat."
    )
    columns = [
        Column("Model", code=True),
        Column("Seed", number=True),
        Column(
            "Rules",
            help="non-finite: a value that is none; spike; high-loss: its loss ends above that of good siblings; missing-ability: a score "
            "that its siblings acquire stays low",
        ),
        Column("Seen at update", number=True),
        Column("Spikes", number=True, help="updates whose loss lies 6 standard deviations above the 128 before"),
        Column("Final loss", number=True, help="nats, mean of the last 50 updates"),
    ]
    lines = [
        (
            row["model"],
            str(row["seed"]),
            ", ".join(row["rules"]),
            count(row["seen_at"]) if row["seen_at"] is not None else NONE,
            count(row["n_spikes"]) if row["n_spikes"] is not None else NONE,
            number(row["final_loss"], digits=3) or NONE,
        )
        for row in found["rows"]
    ]
    yield tables.capped("Runs that went wrong", columns, [Group("", tuple(lines[:OPEN_ROWS]))])
    if len(lines) > OPEN_ROWS:
        whole = tables.capped("All runs that went wrong", columns, [Group("", tuple(lines))])
        yield Details(f"All {count(found['wrong'])} runs that went wrong", (whole,))
    yield from _early(found)


def _early(found: Summary) -> Iterator[Block]:
    """What an early warning learnt from the other runs was worth."""
    early = found["early"]
    if early is None:
        yield empty(f"Whether it could have been told early is not known: {found['reason']}.")
        return
    yield paragraph(
        "Could it have been told early? A classifier learns from the beginnings of the other runs (their losses, gradient norms "
        f"and logs) and is asked about runs it has not seen: {early['splits']} parts of the seeds in turn. {verdict(early)} "
        f"AUROC is the share of pairs of a run that goes wrong and one of its model that does not in which the former "
        f"looks worse; guessing gives 0.5. Runs that a rule had already seen by then ({count(early['n_already'])}) are left out."
    )
    yield Picture("warning", "AUROC against step", early["picture"], wide=True)
    yield early_table(early)


def early_table(early: Summary) -> Table:
    """One row a method: the learned one and the baselines."""
    level, step = percent(early["level"]), count(early["step"])
    columns = [
        Column("Warning"),
        Column(f"AUROC at step {step}", number=True, help=f"within models, with {level} intervals over runs"),
        Column("Caught in time", number=True, help="of the runs that went wrong, alarm before a rule could see it"),
        Column("False alarms", number=True, help=f"of good runs, ever; the budget is {percent(early['false_alarm'])}"),
        Column("Caught at the budget", number=True, help="with the threshold that keeps the budget on these very runs"),
        Column("Median lead", number=True, help="steps from the alarm until a rule could see it, of those caught"),
        Column("Brier score", number=True, help="mean squared error of its probabilities, and of the plain share"),
    ]
    lines = [
        (
            LABELS.get(row["name"], row["name"]),
            with_interval(row, "auroc", number_of),
            with_interval(row, "caught", percent),
            with_interval(row, "false_alarms", percent),
            percent(row["caught_matched"]) or NONE,
            count(row["median_lead"]) if row["median_lead"] is not None else NONE,
            NONE if row["brier"] is None else f"{number_of(row['brier'])} (plain: {number_of(row['brier_base'])})",
        )
        for row in early["methods"]
    ]
    caption = f"What early warnings were worth: {plural(early['wrong'], 'run')} that went wrong, {count(early['good'])} that did not"
    return tables.capped(caption, columns, [Group("", tuple(lines))])
