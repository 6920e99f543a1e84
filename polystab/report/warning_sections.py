"""The section on runs that went wrong, and what an early warning of them would have been worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from polystab.plots.warnings import LABELS
from polystab.plots.words import count, number, percent, plural
from polystab.report import tables
from polystab.report.blocks import Block, Column, Details, Group, Picture, Table, empty, paragraph

Summary = dict[str, Any]

# Rows that are not folded away.
OPEN_ROWS = 15


def warning(found: Summary | None) -> Iterator[Block]:
    """Runs that went wrong by their training logs: what an early warning can be learnt from."""
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
        Column("Rules"),
        Column("Seen at update", number=True),
        Column("Spikes", number=True, help="updates whose loss lies 6 standard deviations above the 128 before"),
        Column("Final loss", number=True, help="nats, mean of the last 50 updates"),
    ]
    lines = [
        (
            row["model"],
            str(row["seed"]),
            ", ".join(row["rules"]),
            count(row["seen_at"]) if row["seen_at"] is not None else tables.NONE,
            count(row["n_spikes"]) if row["n_spikes"] is not None else tables.NONE,
            number(row["final_loss"], digits=3) or tables.NONE,
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


def verdict(early: Summary) -> str:
    """Better than the best baseline, worse, or no better, with the numbers."""
    ours = next(row for row in early["methods"] if row["name"] == early["method"])
    what = f"At step {count(early['step'])} ({percent(early['share'])} of training) the early warning tells"
    if ours["auroc"] is None:
        return f"At step {count(early['step'])} no run that goes wrong later can be compared with a sibling."
    reached = f"an AUROC of {_with_interval(ours, 'auroc', number_of)}"
    if early.get("gain") is None:
        return f"{what} runs that will go wrong from others with {reached}; there is no baseline to compare with."
    against = (
        f"the best simple baseline, {LABELS.get(early['best_baseline'], early['best_baseline'])} (difference "
        f"{_signed(early['gain'])}, {percent(early['level'])} interval {_signed(early['gain_lower'])} to "
        f"{_signed(early['gain_upper'])})"
    )
    low, high = early["gain_lower"], early["gain_upper"]
    if low is not None and low > 0:
        how = "better than"
    elif high is not None and high < 0:
        how = "worse than"
    else:
        how = "no better than"
    return f"{what} runs that will go wrong from others {how} {against}: {reached}."


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
            _with_interval(row, "auroc", number_of),
            _with_interval(row, "caught", percent),
            _with_interval(row, "false_alarms", percent),
            percent(row["caught_matched"]) or tables.NONE,
            count(row["median_lead"]) if row["median_lead"] is not None else tables.NONE,
            tables.NONE
            if row["brier"] is None
            else f"{number_of(row['brier'])} (plain: {number_of(row['brier_base'])})",
        )
        for row in early["methods"]
    ]
    caption = f"What early warnings were worth: {plural(early['wrong'], 'run')} that went wrong, {count(early['good'])} that did not"
    return tables.capped(caption, columns, [Group("", tuple(lines))])


def number_of(value: float) -> str:
    """A share or score with two decimals."""
    return number(value, decimals=2)


def _signed(value: float | None) -> str:
    return tables.NONE if value is None else ("+" if value >= 0 else "") + number_of(value)


def _with_interval(row: Summary, name: str, written: Callable[[float], str]) -> str:
    value, low, high = (row[key] for key in (name, f"{name}_lower", f"{name}_upper"))
    if value is None:
        return tables.NONE
    return written(value) + (f" ({written(low)} to {written(high)})" if low is not None and high is not None else "")
