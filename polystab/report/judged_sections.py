"""The sections on what to distrust: the audit and outlier runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from polystab.plots.words import count, listed, number, percent, plural
from polystab.report import tables
from polystab.report.blocks import Block, Bullets, Code, Column, Details, Group, Picture, Table, empty, paragraph
from polystab.report.judged import OF_FILES

Summary = dict[str, Any]

# Rows that are not folded away.
OPEN_FINDINGS = 15
OPEN_RUNS = 30


def audit(summary: Summary) -> Iterator[Block]:
    """What the audit found, then what was read."""
    yield from _findings(summary["findings"])
    if summary["copies"]:
        yield paragraph(
            "These trajectories are equal, to the last bit, to those of another seed of the same model. "
            "They count once: every statistic below leaves them out."
        )
        yield tables.copies_table(summary["copies"])
    yield from _files(summary["audit"])


def _findings(findings: Summary) -> Iterator[Block]:
    rows = [row for row in findings["rows"] if row["kind"] not in OF_FILES]
    if findings["notes"]:
        yield Bullets(tuple((note,) for note in findings["notes"]))
    if not rows:
        yield paragraph(
            "The audit compared every run with every other and with itself, and found nothing: no copies, no frozen or "
            "misplaced checkpoints, no restarts, no impossible values, no holes."
        )
        return
    said = [plural(n, f"finding of kind {kind}", f"findings of kind {kind}") for kind, n in _kinds(findings)]
    to_look_at = [row for row in rows if row["severity"] != "info"]
    yield paragraph(
        f"{'' if to_look_at else 'No error and no warning: '}{listed(said, 8)}. An error says that numbers are not what they say; "
        "a warning asks for a look. Analyses leave out what errors and frozen checkpoints concern with ",
        Code('exclude="audit"'),
        "; this page leaves out copies of whole runs only.",
    )
    if to_look_at:
        yield findings_table(to_look_at[:OPEN_FINDINGS], "What the audit found, worst first")
    if len(rows) > len(to_look_at[:OPEN_FINDINGS]):
        more = f" of {count(len(rows) + findings['left_out'])}" if findings["left_out"] else ""
        yield Details(f"All {count(len(rows))}{more} findings", (findings_table(rows, "All findings"),))


def _kinds(findings: Summary) -> list[tuple[str, int]]:
    return [(item["kind"], item["count"]) for item in findings["kinds"] if item["kind"] not in OF_FILES]


def findings_table(rows: Sequence[Summary], caption: str) -> Table:
    """One row a finding."""
    columns = [
        Column("Kind", code=True),
        Column("Severity"),
        Column("Model", code=True),
        Column("Seed", number=True),
        Column("Steps", number=True),
        Column("What was seen"),
        Column("What to do"),
    ]
    lines = [
        (
            row["kind"],
            row["severity"],
            row["model"] or "all",
            str(row["seed"]) if row["seed"] >= 0 else "all",
            _steps(row["first_step"], row["last_step"]),
            row["evidence"],
            row["advice"],
        )
        for row in rows
    ]
    return tables.capped(caption, columns, [Group("", tuple(lines))])


def _steps(first: int, last: int) -> str:
    if first < 0:
        return tables.NONE
    return count(first) if first == last else f"{count(first)} – {count(last)}"


def _files(audit: Summary | None) -> Iterator[Block]:
    if audit is None:
        yield empty(
            "This cube carries no audit of files, so nothing is known about where its numbers were read. A cube that is "
            "read from files has one:",
            "polystab read lm-eval RESULTS -o cube.nc",
        )
        return
    totals = {status: sum(group["count"] for group in audit[status]) for status in ("refused", "replaced", "noted")}
    said = (
        f"{plural(audit['files'], 'file')} looked at: {count(audit['read'])} read, {count(totals['refused'])} refused."
    )
    if totals["replaced"]:
        said += f" {plural(totals['replaced'], 'source')} gave way to another for the same cells."
    yield paragraph(said + (f" {plural(totals['noted'], 'remark')}." if totals["noted"] else ""))
    for status, what, everything in (
        ("refused", "Refused: nothing of these files was used", "All refused files"),
        ("replaced", "Replaced: other files took the place of some values", "All that was replaced"),
        ("noted", "Noted: read, with something to know", "All remarks"),
    ):
        if audit[status]:
            yield tables.reasons_table(audit[status], what)
            if totals[status] > len(audit[status]):
                yield Details(
                    f"{everything} ({count(totals[status])})", (tables.entries_table(audit[status], everything),)
                )


def outliers(summary: Summary) -> Iterator[Block]:
    """The verdicts, what is no outlier though it looks like one, and the listing of scores."""
    verdicts = summary["verdicts"]
    judged = sum(model["n_judged"] for model in verdicts["models"])
    if judged:
        yield from _verdicts(verdicts, judged)
    elif summary["outliers"]["runs"]:
        yield paragraph(
            f"There is no verdict on runs: that takes {verdicts['min_runs']} runs of a model and three checkpoints.",
        )
    yield from _scores(summary["outliers"])


def _verdicts(verdicts: Summary, judged: int) -> Iterator[Block]:
    rows = verdicts["rows"]
    found = (
        "None is an outlier"
        if not rows
        else f"{count(len(rows))} {'is an outlier' if len(rows) == 1 else 'are outliers'}"
    )
    yield paragraph(
        f"{found} of {plural(judged, 'run')} that were judged among the runs of their model. In "
        f"{percent(verdicts['false_alarm'])} of models without an outlier one would be found. The p-value is for all steps "
        f"and metrics of the run together; with these settings it cannot be below {number(verdicts['smallest_p'], digits=1)}. "
        "What happens to most runs at once, and what lasts one or two checkpoints, is no outlier."
    )
    if rows:
        yield verdicts_table(rows[:OPEN_RUNS], "Outlier runs, worst first")
        if len(rows) > OPEN_RUNS:
            yield Details(f"All {count(len(rows))} outlier runs", (verdicts_table(rows, "All outlier runs"),))
    led = [row for row in rows if len(row["leads"]) > 1]
    if led:
        what = "families of metrics" if verdicts["leads_by"] == "family" else "metrics"
        yield leads_table(led[:OPEN_RUNS], f"What moved first: {what} in the order in which they left the other runs")
    notes = [(Code(item["model"]), f": {item['note']}.") for item in verdicts["models"] if item["note"]]
    if notes:
        yield paragraph("Not judged, or not in full:")
        yield Bullets(tuple(notes[:OPEN_RUNS]))
    yield from _events(verdicts)


def _events(verdicts: Summary) -> Iterator[Block]:
    events, most = verdicts["shared_events"], verdicts["most_glitches"]
    if verdicts["n_glitches"] and most:
        yield paragraph(
            f"Glitches, single values off while those before and after agree: {count(verdicts['n_glitches'])} in all, most in ",
            Code(most["model"]),
            f" seed {most['seed']} ({count(most['count'])}). They make no outlier.",
        )
    if events:
        n = verdicts["n_shared_events"]
        columns = [Column("Model", code=True), Column("Step", number=True), Column("Metrics", number=True), Column("Which", code=True)]  # fmt: skip
        lines = [
            (
                event["model"],
                count(event["step"]),
                count(event["n_metrics"]),
                ", ".join(event["metrics"]) + (" …" if event["n_metrics"] > len(event["metrics"]) else ""),
            )
            for event in events
        ]
        caption = "Shared events: most runs of the model are off at this checkpoint, and at no neighbour"
        yield Details(
            f"{plural(n, 'shared event')}: something that all runs go through, such as the same data",
            (tables.capped(caption, columns, [Group("", tuple(lines))]),),
        )


def verdicts_table(rows: Sequence[Summary], caption: str) -> Table:
    """One row an outlier run."""
    columns = [
        Column("Model", code=True),
        Column("Seed", number=True),
        Column("Verdict", help="deviates: it left the other runs; diverged: infinite values where they have none"),
        Column("From step", number=True),
        Column("Until", number=True),
        Column("p", number=True, help="how often a set of such runs without an outlier has one this far out"),
        Column("q", number=True, help="p adjusted for the number of runs judged (Benjamini-Hochberg)"),
        Column("Where", help="the set of metrics in which it is furthest out"),
        Column("Most in (robust z)"),
    ]
    lines = [
        (
            row["model"],
            str(row["seed"]),
            row["kind"],
            count(row["from_step"]) if row["from_step"] >= 0 else tables.NONE,
            count(row["until_step"]) if row["until_step"] >= 0 else tables.NONE,
            number(row["p_value"], digits=2) or tables.NONE,
            number(row["q_value"], digits=2) or tables.NONE,
            row["group"] or tables.NONE,
            ", ".join(
                f"{item['metric']} ({number(item['score'], digits=2) or '∞'})" for item in row["because"]
            ) or tables.NONE,
        )
        for row in rows
    ]  # fmt: skip
    return tables.capped(caption, columns, [Group("", tuple(lines))])


def leads_table(rows: Sequence[Summary], caption: str) -> Table:
    """For each outlier run the families of metrics in the order in which they left the others."""
    columns = [
        Column("Group", code=True),
        Column("Place", number=True),
        Column("First at step", number=True, help="known to a checkpoint; later for what is noisy among the runs"),
        Column("First metric", code=True),
        Column("Metrics that left", number=True),
    ]
    groups = [
        Group(
            f"{row['model']} seed {row['seed']}",
            tuple(
                (
                    lead["group"],
                    count(lead["order"]),
                    count(lead["first_onset"]),
                    lead["first_metric"],
                    f"{count(lead['n_onsets'])} of {count(lead['n_metrics'])}",
                )
                for lead in row["leads"]
            ),
        )
        for row in rows
    ]
    return tables.capped(caption, columns, groups)


def _scores(outliers: Summary) -> Iterator[Block]:
    if not outliers["runs"]:
        yield empty(
            f"No run can be compared with its siblings: that takes at least {outliers['min_runs']} runs of one model at the same step. To add seeds:",
            "polystab merge seed0.nc seed1.nc seed2.nc -o seeds.nc",
        )
        return
    threshold = f"{outliers['threshold']:g}"
    yield paragraph(
        f"Where to look: each value is compared with those of the other seeds at the same step by robust z, 0.6745 × deviation from the median ÷ MAD; "
        f"beyond {threshold} it is counted. This listing is not a verdict: nothing is corrected for the number of "
        f"values, and even clean noise goes beyond {threshold} {_chance(outliers['expected'])}."
    )
    by_key = {(run["model"], run["seed"]): run for run in outliers["runs"]}
    runs = [by_key[run["model"], run["seed"]] for run in outliers["listed"]]
    if not runs:
        yield paragraph(f"No value of any run lies beyond {threshold}.")
        return
    beyond = sum(run["n_beyond"] > 0 for run in outliers["runs"])
    if beyond > len(runs):
        yield paragraph(
            f"The {len(runs)} runs with the largest share, of {count(beyond)} with any value beyond {threshold}."
        )
    yield tables.outliers_table(runs, outliers)
    yield Picture("outliers", "When these runs stand out", outliers["picture"], wide=True)


def _chance(expected: Sequence[Summary]) -> str:
    shares = sorted({item["share"] for item in expected if item["share"] is not None})
    if not shares:
        return "at times"
    if percent(shares[0]) == percent(shares[-1]):
        return f"in {percent(shares[0])} of the values"
    return f"in {percent(shares[0])} to {percent(shares[-1])} of the values, depending on the number of runs"
