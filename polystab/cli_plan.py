"""``polystab plan``: what a fill would take, before anyone starts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from polystab.cli_common import JSON, duration, print_json

if TYPE_CHECKING:
    from polystab.sources.plan import FillPlan

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@click.command(
    short_help="Say what a fill would download, store and compute.",
    epilog="Example: polystab plan --runs polypythias --sources weights,evals --workers 16",
)
@click.option("--runs", required=True, help="A run table (runs.csv), its folder, or a catalog such as polypythias.")
@click.option("--sources", required=True, metavar="A,B", help="What to measure, as `polystab fill --list` names it.")
@click.option("--models", metavar="A,B", help="Only these models.")
@click.option("--seeds", metavar="0,1|0:9", help="Only these seeds; 0:9 is 0 to 9.")
@click.option("--steps", metavar="0,512|0:9000:1000", help="Only these steps.")
@click.option("--tasks", metavar="A,B", help="evals: tasks of the lm-evaluation-harness.")
@click.option("-o", "--output", type=click.Path(), help="A folder of units; what is done there is not counted.")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that measure at once."
)
@click.option(
    "--speed",
    type=float,
    default=1.0,
    show_default=True,
    help="How many times as fast as the stated machine a worker is.",
)
@click.option(
    "--bandwidth", metavar="SIZE", default="50MB", show_default=True, help="Downloads in a second, all together."
)
@JSON
def plan(
    runs: str,
    sources: str,
    models: str | None,
    seeds: str | None,
    steps: str | None,
    tasks: str | None,
    output: str | None,
    workers: int,
    speed: float,
    bandwidth: str,
    as_json: bool,
) -> None:
    """Say what `polystab fill` would download, store and compute, with every assumption. Nothing is downloaded."""
    from polystab.cli_fill import parse_numbers
    from polystab.sources.plan import plan_fill

    found = plan_fill(
        _names(sources),
        runs=runs,
        output=output,
        models=_names(models) if models else None,
        seeds=None if seeds is None else parse_numbers("--seeds", seeds),
        steps=None if steps is None else parse_numbers("--steps", steps),
        tasks=_names(tasks) if tasks else (),
        workers=workers,
        speed=speed,
        bandwidth=_bytes_a_second(bandwidth),
    )
    if as_json:
        print_json(asdict(found))
    else:
        click.echo(plan_text(found))


def plan_text(found: FillPlan) -> str:
    """A plan for a person."""
    done = f", {found.already_done:,} of them done" if found.already_done else ""
    lines = [
        f"{found.runs:,} runs, {found.checkpoints:,} checkpoints, {found.units:,} units{done}",
        f"download  {found.downloads:,} checkpoints, {_size(found.download_bytes)} (the largest {_size(found.largest_bytes)}), "
        f"{_time(found.download_bytes / found.bandwidth)}",
        f"store     {_size(found.store_bytes)} of units, and about as much for the cube",
        f"compute   {_time(found.seconds)} of one worker",
        f"in all    {_hours(found)} on {found.workers:,} worker{'' if found.workers == 1 else 's'}",
        "",
        *_table(found),
        "",
        "This rests on:",
        *(f"- {text}" for text in found.assumptions),
    ]
    if found.unknown:
        lines += ["", "Not known:", *(f"- {text}" for text in found.unknown)]
    return "\n".join(lines)


def _bytes_a_second(text: str) -> float:
    from polystab.cli_fill import parse_size

    try:
        return float(parse_size(text.strip().removesuffix("/s")))
    except click.UsageError:
        raise click.UsageError(f"--bandwidth takes a size a second such as 50MB or 1GB, not {text!r}.") from None


def _time(seconds: float) -> str:
    hours = seconds / 3600
    return duration(seconds) if hours < 100 else f"{hours:,.0f} h ({hours / 24:,.0f} days)"


def _hours(found: FillPlan) -> str:
    least, most = (_time(3600 * hours) for hours in (found.hours_least, found.hours_most))
    return f"about {least}" if least == most else f"{least} to {most}"


def _table(found: FillPlan) -> list[str]:
    rows: list[Sequence[Any]] = [("model", "source", "units", "one worker", "a unit", "bytes of units")]
    for row in found.rows:
        each = None if row.seconds is None or not row.units else row.seconds / row.units
        rows.append(
            (
                row.model,
                row.source,
                f"{row.units:,}",
                "?" if row.seconds is None else _time(row.seconds),
                "?" if each is None else f"{each:.2g} s" if each < 90 else duration(each),
                "?" if row.store_bytes is None else _size(row.store_bytes),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _size(n_bytes: float) -> str:
    unit, name = next(((unit, name) for unit, name in _UNITS if n_bytes >= unit), (1, "bytes"))
    return f"{n_bytes / unit:.3g} {name}"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
