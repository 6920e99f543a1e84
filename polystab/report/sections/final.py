"""The section on final values and the spread over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from polystab.report.blocks import Block, Column, Details, Group, Table, empty, paragraph
from polystab.report.sections import tables
from polystab.report.summary.schema import Summary
from polystab.words import NONE, count, decimals_for, listed, number, percent, plural

OPEN_ROWS = 30


def final(summary: Summary) -> Iterator[Block]:
    final = summary["final"]
    if not final["rows"]:
        yield empty("No value was measured. To read some:", "polystab read lm-eval RESULTS -o cube.nc")
        return
    if any(model["n_with_sd"] for model in final["models"]):
        yield paragraph(
            "The final step of a metric is the last one that more than half of its runs share. The seed SD is the standard "
            "deviation over runs, corrected for its bias in small samples (c4); its interval is exact for normal data. "
            + _known_to(final)
            + (
                " The item error is what one run's score is uncertain by because the test has only so many items."
                if _has_items(final)
                else ""
            )
        )
    else:
        yield empty(
            f"No seed statistic can be given: polystab needs at least {final['min_runs']} runs of a model. To add seeds:",
            "polystab merge seed0.nc seed1.nc seed2.nc -o seeds.nc",
        )
    rows = final["rows"]
    if len(rows) <= OPEN_ROWS:
        yield final_table(rows, final, "Final values")
    else:
        drawn = set(summary["curves"]["models_shown"])
        first = _whole_metrics([row for row in rows if row["model"] in drawn], OPEN_ROWS)
        metrics, among = (len({row["metric"] for row in listing}) for listing in (first, rows))
        parts = [f"{count(metrics)} of {count(among)} metrics"] if metrics < among else []
        if len(drawn) < len(final["models"]):
            parts.append(f"{count(len(drawn))} of {count(len(final['models']))} models")
        yield final_table(first, final, f"Final values of {' and '.join(parts)}")
        yield Details(f"All final values ({plural(len(rows), 'row')})", (final_table(rows, final, "All final values"),))


def _whole_metrics(rows: list[Summary], limit: int) -> list[Summary]:
    """Rows of the first metrics that fit into ``limit`` rows, but of one metric at least."""
    kept: list[Summary] = []
    for _, members in groupby(rows, key=lambda row: str(row["metric"])):
        found = list(members)
        if kept and len(kept) + len(found) > limit:
            break
        kept += found
    return kept


def _known_to(final: Summary) -> str:
    said = [f"of {item['n']} runs to ×{item['lower']:.2f} – ×{item['upper']:.2f}" for item in final["factors"]]
    if len(said) > 4:
        said = [said[0], said[len(said) // 2], said[-1]]
    return f"An SD is only known to a factor: {listed(said, 4)} ({percent(final['level'])})." if said else ""


def _has_items(final: Summary) -> bool:
    return any(row["item_stderr"] is not None for row in final["rows"])


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
        return tables.capped(caption, columns, [Group("", tuple(lines))])
    groups = []
    for metric, members in groupby(listed, key=lambda row: str(row["metric"])):
        lines = [_final_row(row, with_sd=with_sd, with_item=with_item) for row in members]
        groups.append(Group(metric, tuple(lines)))
    return tables.capped(caption, columns, groups)


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
