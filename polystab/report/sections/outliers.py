"""The section on outlier runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from polystab.report.blocks import Block, Bullets, Code, Column, Details, Group, Picture, Table, empty, paragraph
from polystab.report.sections import tables
from polystab.report.summary.schema import Summary
from polystab.words import NONE, count, number, percent, plural

OPEN_RUNS = 30
OPEN_SCORES = 8


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
    models = verdicts["n_models"]
    chance = f", {number(verdicts['n_expected_by_chance'], digits=2)} in all {models} models here" if models > 1 else ""
    yield paragraph(
        f"{found} of {plural(judged, 'run')} that were judged among the runs of their model. In "
        f"{percent(verdicts['false_alarm'])} of models without an outlier one would be found{chance}. The p-value is for all steps "
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
            count(row["from_step"]) if row["from_step"] >= 0 else NONE,
            count(row["until_step"]) if row["until_step"] >= 0 else NONE,
            number(row["p_value"], digits=2) or NONE,
            number(row["q_value"], digits=2) or NONE,
            row["group"] or NONE,
            ", ".join(
                f"{item['metric']} ({number(item['score'], digits=2) or '∞'})" for item in row["because"]
            ) or NONE,
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
    yield Picture("outliers", "When these runs stand out", outliers["picture"], wide=True)
    table = outliers_table(runs, outliers)
    yield Details("The same in numbers, run by run", (table,)) if len(runs) > OPEN_SCORES else table


def _chance(expected: Sequence[Summary]) -> str:
    shares = sorted({item["share"] for item in expected if item["share"] is not None})
    if not shares:
        return "at times"
    if percent(shares[0]) == percent(shares[-1]):
        return f"in {percent(shares[0])} of the values"
    return f"in {percent(shares[0])} to {percent(shares[-1])} of the values, depending on the number of runs"


def outliers_table(runs: Sequence[Summary], outliers: Summary) -> Table:
    """The runs with the largest share of cells beyond the threshold."""
    expected = {item["model"]: item["share"] for item in outliers["expected"]}
    several = any(run["n_metrics"] > 1 for run in runs)
    columns = [
        Column("Model", code=True),
        Column("Seed", number=True),
        *([Column("Run", code=True)] if any(run["name"] for run in runs) else []),
        Column("Beyond", number=True, help="share of the run's values beyond the threshold"),
        Column("By chance", number=True, help="the same share in clean Gaussian noise with as many runs"),
        Column("Values", number=True),
        Column("Largest z", number=True),
        Column("at step", number=True),
        *([Column("in", code=True)] if several else []),
        Column("Twice in a row from step", number=True),
        *([Column("Metrics with that", number=True)] if several else []),
    ]
    rows = [
        (
            run["model"],
            str(run["seed"]),
            *([run["name"]] if any(other["name"] for other in runs) else []),
            percent(run["share_beyond"]),
            percent(expected[run["model"]]),
            f"{count(run['n_beyond'])} of {count(run['n_cells'])}",
            number(run["largest"], digits=3) or "diverged",
            count(run["largest_step"]),
            *([run["largest_metric"]] if several else []),
            count(run["first_step"]) if run["first_step"] >= 0 else NONE,
            *([f"{count(run['n_sustained'])} of {count(run['n_metrics'])}"] if several else []),
        )
        for run in runs
    ]
    return tables.capped("Runs that stand out most", columns, [Group("", tuple(rows))])
