"""The section on another cube: which differences are real, given the seeds."""

from __future__ import annotations

from collections.abc import Iterator

from polystab.report.blocks import (
    Block,
    Bullets,
    Code,
    Column,
    Details,
    Group,
    Inline,
    Legend,
    Picture,
    Table,
    empty,
    paragraph,
)
from polystab.report.sections import tables
from polystab.report.summary.compared_takeaways import compared_takeaways, lost, p_value, signed
from polystab.report.summary.comparison import DIFFER
from polystab.report.summary.schema import Summary
from polystab.words import NONE, count, decimals_for, number, percent, plural

# Rows that are not folded away.
OPEN_ROWS = 30

# Models that are named; more are counted.
MAX_PAIRS = 6

# Verdicts stay on one line.
_SPACE = "\N{NO-BREAK SPACE}"

_UNTESTED = {
    "not_measured": f"not{_SPACE}measured",
    "few_seeds": f"few{_SPACE}runs",
    "no_spread": f"all{_SPACE}equal",
    "same_runs": f"same{_SPACE}runs",
}


def comparison(summary: Summary) -> Iterator[Block]:
    found = summary["comparison"]
    if found is None:
        yield empty(
            "There is no other cube to compare with. To see which differences are real, given the seeds:",
            "polystab report cube.nc --compare other.nc -o report.html",
        )
        return
    yield paragraph(*_what(found))
    said = sorted(compared_takeaways(found), key=lambda one: ("bad", "warn", "info").index(one[0]))
    yield Bullets(tuple((text,) for _, text in said), tuple(level for level, _ in said))
    rows = found["rows"]
    if found["same"]:
        return
    if not any(row["effect"] is not None for row in rows):
        yield comparison_table(rows, found, "All comparisons")
        return
    yield Picture("differences", "Differences, in seed standard deviations", found["picture"], wide=True)
    yield paragraph(
        "Evaluations and losses come first, then what differs most. Full marks differ after correction for the number of tests; grey "
        "is less than one seed SD either way.",
        kind="note",
    )
    if len(rows) <= OPEN_ROWS:
        yield comparison_table(rows, found, "All comparisons, worst news first")
    else:
        caption = f"{count(OPEN_ROWS)} of {count(len(rows))} comparisons, worst news first"
        yield comparison_table(rows[:OPEN_ROWS], found, caption)
        yield Details(f"All {count(len(rows))} comparisons", (comparison_table(rows, found, "All comparisons"),))
    if found["curves"]:
        yield paragraph("Both cubes over training, for the comparisons that differ, worst news first:")
        yield Legend("Cubes", ("this cube", "the other cube"), ("full", "alarm"))
        for i, one in enumerate(found["curves"]):
            yield Picture(f"compared{i}", _title(one, found), one["picture"], code=True)
    other = ("SHA-256 of labels and values of the other cube: ", Code(found["fingerprint"]))
    yield Details("How this is tested", (Bullets((*((text,) for text in _how(found)), other)),))


def _what(found: Summary) -> tuple[Inline, ...]:
    pairs = found["models"]
    named: list[Inline] = []
    for pair in pairs[:MAX_PAIRS]:
        named += [", "] * bool(named) + [Code(pair["model"])]
        if pair["other_model"] != pair["model"]:
            named += [" with ", Code(pair["other_model"])]
    more = f" and {count(len(pairs) - MAX_PAIRS)} more" if len(pairs) > MAX_PAIRS else ""
    other = f" the cube “{found['title']}”" if found["title"] else " another cube"
    return (
        f"This cube is compared with{other} ({'seed k of one belongs to seed k of the other' if found['paired'] else 'runs are independent'}): ",
        *named,
        f"{more}. A difference is the other cube minus this one.{_alone(found)}",
    )


def _alone(found: Summary) -> str:
    """What stands in one of the cubes only."""
    parts = [plural(found[f"{name}s_alone"], name) for name in ("model", "metric") if found[f"{name}s_alone"]]
    return f" Not compared, because only one of the cubes has them: {' and '.join(parts)}." if parts else ""


def _title(one: Summary, found: Summary) -> str:
    return f"{one['metric']}, {one['model']}" if len(found["models"]) > 1 else str(one["metric"])


def comparison_table(rows: list[Summary], found: Summary, caption: str) -> Table:
    """A row a metric (and model): both means, the difference, and what can be said of it."""
    several = len(found["models"]) > 1
    items = any(row["items_lower"] is not None for row in rows)
    level = percent(found["level"])
    columns = [
        Column("Metric", code=True),
        *([Column("Model", code=True)] if several else []),
        Column("Verdict", help="worse and better are of the other cube"),
        Column("This", number=True, help="mean ± standard deviation over its runs (their number)"),
        Column("Other", number=True),
        Column("Difference", number=True, help=f"other minus this, with the {level} interval over runs"),
        Column("In seed SDs", number=True, help="Hedges' g, with its interval"),
        Column("q", number=True, help="p corrected for the number of tests"),
        *(
            [Column("On other items", number=True, help="the interval if the test items were drawn anew, too")]
            if items
            else []
        ),
        Column(
            "Would find",
            number=True,
            help=f"true difference that such runs find with {percent(found['power'])} power after correction, if it is the only one",
        ),
        Column("SD ratio", number=True, help="seed SD of the other over this one, with its interval"),
        Column("Step", number=True),
    ]
    lines = [tuple(_cells(row, several=several, items=items)) for row in rows]
    return tables.capped(caption, columns, [Group("", tuple(lines))])


def _cells(row: Summary, *, several: bool, items: bool) -> Iterator[str]:
    places = decimals_for(row["stderr"] or row["sd_this"] or row["sd_other"])
    yield row["metric"]
    if several:
        yield row["model"]
    yield verdict(row)
    for side in ("this", "other"):
        yield _side(row, side, places)
    yield _interval(row, ("difference", "lower", "upper"), places)
    yield _interval(row, ("effect", "effect_lower", "effect_upper"), 2)
    yield p_value(row["q"]).removeprefix("= ") if row["q"] is not None else NONE
    if items:
        known = row["items_lower"] is not None
        yield f"{signed(row['items_lower'], places)} to {signed(row['items_upper'], places)}" if known else NONE
    yield number(row["detectable_alone"], digits=2) or NONE
    yield _ratio(row)
    yield count(row["step"]) if row["step"] >= 0 else NONE


def verdict(row: Summary) -> str:
    """What can be said of a row, in words."""
    name, margin = row["verdict"], number(row["margin"], digits=2)
    if name == "untested":
        return _UNTESTED.get(row["reason"], NONE)
    if name in DIFFER:
        way = row["change"] if row["change"] != "unknown" else "differs"
        return f"{way},{_SPACE}less{_SPACE}than{_SPACE}{margin}" if name == "differs_slightly" else way
    return f"less{_SPACE}than{_SPACE}{margin}" if name == "no_larger_difference" else f"cannot{_SPACE}tell"


def _side(row: Summary, side: str, places: int | None) -> str:
    mean, sd, n = (row[f"{name}_{side}"] for name in ("mean", "sd", "n_seeds"))
    if mean is None:
        return f"{NONE} ({count(lost(row, side))} lost)" if lost(row, side) else NONE
    spread = f" ± {number(sd, decimals=places)}" if sd is not None else ""
    gone = f", {count(lost(row, side))} lost" if lost(row, side) else ""
    return f"{number(mean, decimals=places)}{spread} ({count(n)}{gone})"


def _interval(row: Summary, names: tuple[str, str, str], places: int | None) -> str:
    value, low, high = (row[name] for name in names)
    if value is None:
        return NONE
    ends = f" ({signed(low, places)} to {signed(high, places)})" if low is not None else ""
    return signed(value, places) + ends


def _ratio(row: Summary) -> str:
    ratio, low, high = (row[name] for name in ("variance_ratio", "ratio_lower", "ratio_upper"))
    if ratio is None:
        return NONE
    text = number(ratio**0.5, digits=2)
    return text + (
        f" ({number(low**0.5, digits=2)} to {number(high**0.5, digits=2)})"
        if low is not None and high is not None
        else ""
    )


def _tests(found: Summary, *, judged: bool) -> str:
    """How many tests p is corrected for, among the metrics that have a better and a worse or among the others."""
    return plural(max((row["n_tests"] for row in found["rows"] if bool(row["better"]) == judged), default=0), "test")


def _how(found: Summary) -> list[str]:
    level, rate = percent(found["level"]), percent(1 - found["level"])
    test = "Student's t of the differences of pairs" if found["paired"] else "Welch's t (unequal spreads allowed)"
    return [
        f"Interval and p: {test}; the run is the unit. A side with one or two runs takes the spread of the other: is it one of them? "
        "Fewer than three runs on both sides are not tested.",
        f"“Worse”, “better”: q, the p-value corrected for {_tests(found, judged=True)} of metrics that have a better and a worse (Benjamini "
        f"and Hochberg 1995), is at most {rate}: of two cubes of one recipe, at most {rate} of reports have any such row. “Differs”: the "
        f"same of all other metrics ({_tests(found, judged=False)}).",
        "“Less than” something: two one-sided tests (Schuirmann 1987) show that the true difference is less than one seed SD. "
        "“Cannot tell”: neither is shown.",
        f"In seed SDs: Hedges' g with the interval of the noncentral t distribution. SD ratio: F interval, {level}; too short for heavy tails.",
        "Runs that stand in both cubes to the last bit, copies of runs, and infinite values are in no mean. “Lost” runs diverged or have no value at the step.",
    ]
