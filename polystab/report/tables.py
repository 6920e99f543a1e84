"""The tables of the page: numbers of the summary as text, with sensible digits."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from polystab.plots.words import count, decimals_for, number, percent, plural
from polystab.report.blocks import Column, Group, Table

Summary = dict[str, Any]

# Rows of a table in the page; the JSON form has all of them.
MAX_ROWS = 1500

NONE = "–"
PERCENT = "\N{NO-BREAK SPACE}%"


def models_table(models: Sequence[Summary], caption: str) -> Table:
    """Which runs there are."""
    sized = any(model["n_parameters"] for model in models)
    columns = [
        Column("Model", code=True),
        *([Column("Parameters", number=True)] if sized else []),
        Column("Runs", number=True),
        Column("Seeds"),
        Column("Steps", number=True),
        Column("From – to"),
        Column("Metrics", number=True),
        Column("Measured", number=True, help="share of the model's own runs × steps × metrics"),
    ]
    rows = [
        (
            model["model"],
            *([number(model["n_parameters"], digits=3) and size_label(model["n_parameters"])] if sized else []),
            count(model["runs"]),
            ranges(model["seeds"]) or NONE,
            count(model["steps"]),
            f"{count(model['first_step'])}\N{NO-BREAK SPACE}–\N{NO-BREAK SPACE}{count(model['last_step'])}"
            if model["steps"]
            else NONE,
            count(model["metrics"]),
            percent(model["share"]) or NONE,
        )
        for model in models
    ]
    return capped(caption, columns, [Group("", tuple(rows))])


def families_table(families: Sequence[Summary]) -> Table:
    """How full each family is."""
    columns = [
        Column("Family", code=True),
        Column("Metrics", number=True),
        Column("Values", number=True),
        Column("Measured", number=True, help="share of all cells of the family"),
    ]
    rows = [
        (item["family"], count(item["metrics"]), count(item["measured"]), percent(item["share"])) for item in families
    ]
    return capped("Families of metrics", columns, [Group("", tuple(rows))])


def reasons_table(groups: Sequence[Summary], what: str) -> Table:
    """Files of one status by reason, each with an example."""
    columns = [
        Column("Reason", code=True),
        Column("Files", number=True),
        Column("For example", code=True),
        Column("Said"),
    ]
    rows = [
        (
            group["reason"] or NONE,
            count(group["count"]),
            group["entries"][0]["path"],
            _said(group["entries"][0]),
        )
        for group in groups
    ]
    return capped(what, columns, [Group("", tuple(rows))])


def entries_table(groups: Sequence[Summary], what: str) -> Table:
    """Every file of one status."""
    replaced = any(entry["by"] for group in groups for entry in group["entries"])
    columns = [
        Column("File", code=True),
        Column("Reason", code=True),
        *([Column("Replaced by", code=True)] if replaced else []),
        Column("Said"),
    ]
    rows = [
        (entry["path"], group["reason"], *([entry["by"]] if replaced else []), _said(entry))
        for group in groups
        for entry in group["entries"]
    ]
    return capped(what, columns, [Group("", tuple(rows))])


def copies_table(copies: Sequence[Summary]) -> Table:
    """Trajectories that stand under two seeds."""
    columns = [
        Column("Model", code=True),
        Column("Seed", number=True),
        Column("Repeats seed"),
        Column("Metrics", number=True),
    ]
    rows = [
        (
            copy["model"],
            str(copy["seed"]),
            str(copy["of"]) if copy["whole"] else ", ".join(str(seed) for seed in copy["of"]),
            "all" if copy["whole"] else count(copy["metrics"]),
        )
        for copy in copies
    ]
    return capped("Trajectories that repeat those of another seed", columns, [Group("", tuple(rows))])


def final_table(rows: Iterable[Summary], final: Summary, caption: str) -> Table:
    """Final values by metric, with the spread over seeds if any model has one."""
    with_sd = any(model["n_with_sd"] for model in final["models"])
    listed = list(rows)
    with_item = any(row["item_stderr"] is not None for row in final["rows"])
    level = percent(final["level"])
    alone = len({row["model"] for row in final["rows"]}) == 1
    columns = [
        Column("Metric" if alone else "Model", code=True),
        Column("Step", number=True),
        Column("Runs", number=True),
    ]
    columns += [Column("Mean" if with_sd else "Value", number=True)]
    if with_sd:
        columns += [
            Column("Seed SD", number=True, help="standard deviation over runs, divided by c4"),
            Column(f"{level} interval of the SD", number=True, help="exact for normal data, by chi-square"),
            Column("Known to", number=True, help="the interval as factors of the uncorrected SD"),
        ]
    if with_item:
        columns += [Column("Item error", number=True, help="standard error of one run from its test items")]
        columns += [Column("SD ÷ item error", number=True)] if with_sd else []
    if alone:
        lines = [(row["metric"], *_final_row(row, with_sd=with_sd, with_item=with_item)[1:]) for row in listed]
        return capped(caption, columns, [Group("", tuple(lines))])
    groups = []
    for metric, members in groupby(listed, key=lambda row: str(row["metric"])):
        lines = [_final_row(row, with_sd=with_sd, with_item=with_item) for row in members]
        groups.append(Group(metric, tuple(lines)))
    return capped(caption, columns, groups)


def _final_row(row: Summary, *, with_sd: bool, with_item: bool) -> tuple[str, ...]:
    sd, item = row["sd_c4"], row["item_stderr"]
    places = decimals_for(sd if sd else item)
    cells = [
        row["model"],
        count(row["step"]),
        _runs(row),
        number(row["mean"], decimals=places) or (f"diverged ({row['n_nonfinite']})" if row["n_nonfinite"] else NONE),
    ]
    if with_sd:
        known = row["sd_lower"] is not None
        cells += [
            number(sd, decimals=places) or NONE,
            f"{number(row['sd_lower'], decimals=places)} – {number(row['sd_upper'], decimals=places)}"
            if known
            else NONE,
            f"×{row['factor_lower']:.2f} – ×{row['factor_upper']:.2f}" if known else NONE,
        ]
    if with_item:
        cells.append(number(item, decimals=decimals_for(item)) or NONE)
        if with_sd:
            cells.append(number(row["sd_over_stderr"], digits=2) or NONE)
    return tuple(cells)


def _runs(row: Summary) -> str:
    """Runs that count and, where some do not, why."""
    notes = [
        f"{count(row[name])} {word}"
        for name, word in (("n_nonfinite", "diverged"), ("n_duplicates", "copied"))
        if row[name]
    ]
    return f"{count(row['n_seeds'])}" + (f" (+ {', '.join(notes)})" if notes else "")


def components_table(rows: Sequence[Summary], parts: Sequence[Summary], level: str) -> Table:
    """Shares of the variance at the final step, one row a metric."""
    columns = [
        Column("Metric", code=True),
        Column("Step", number=True),
        Column("Runs", number=True),
        Column("SD", number=True, help="square root of the total variance"),
    ]
    for part in parts:
        columns.append(Column(part["label"][:1].upper() + part["label"][1:], number=True))
        columns.append(Column(f"{level} interval", number=True))
    lines = [
        (
            row["metric"],
            count(row["step"]),
            count(row["n_runs"]),
            number(None if row["total"] is None else math.sqrt(row["total"]), digits=2) or NONE,
            *(text for part in parts for text in _share(row["parts"][part["component"]])),
        )
        for row in rows
    ]
    return capped("Shares of the variance at the final step", columns, [Group("", tuple(lines))])


def _share(part: Summary) -> tuple[str, str]:
    if part["fraction"] is None:
        return NONE, NONE
    # An interval of no width lies beyond what a share can be: less spread than chance has, and no knowledge of it.
    if part["fraction_lower"] is None or part["fraction_lower"] == part["fraction_upper"]:
        return percent(part["fraction"]), NONE
    low, high = percent(part["fraction_lower"]), percent(part["fraction_upper"])
    return percent(part["fraction"]), f"{low.removesuffix(PERCENT)} – {high}"


def changes_table(rows: Sequence[Summary]) -> Table:
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
    return capped("Shared change points", columns, groups)


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
    return capped("Glitches", columns, groups)


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
    return capped("Runs that stand out most", columns, [Group("", tuple(rows))])


def ranges(seeds: Sequence[int]) -> str:
    """``0, 1, 2, 5`` -> ``0–2, 5``; at most eight pieces, then a count."""
    pieces: list[list[int]] = []
    for seed in seeds:
        if pieces and seed == pieces[-1][1] + 1:
            pieces[-1][1] = seed
        else:
            pieces.append([seed, seed])
    texts = [str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a}–{b}" for a, b in pieces]
    return ", ".join(texts[:8]) + (f" and {len(texts) - 8} more" if len(texts) > 8 else "")


def size_label(parameters: float) -> str:
    """``70426624`` -> ``70.4M``."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return count(parameters)


def _said(entry: Summary) -> str:
    """What an entry says; of one that was replaced, how many values and one of them."""
    if entry["by"]:
        try:
            lost = json.loads(entry["detail"])
        except ValueError:
            lost = None
        if isinstance(lost, dict) and lost:
            cell, value = next(iter(lost.items()))
            return _cut(f"{plural(len(lost), 'value')} gave way, e.g. {cell} = {value}")
    return _cut(entry["detail"])


def _cut(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def capped(caption: str, columns: Sequence[Column], groups: Sequence[Group]) -> Table:
    """A table of at most ``MAX_ROWS`` rows that knows how many it leaves out."""
    kept, room = [], MAX_ROWS
    for group in groups:
        if room > 0:
            kept.append(Group(group.title, group.rows[:room]))
        room -= len(group.rows)
    return Table(caption, tuple(columns), tuple(kept), max(-room, 0))
