"""``polystab watch``: is the run that writes this log going wrong?"""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import click

from polystab.cli_common import options
from polystab.redaction import without_secrets

if TYPE_CHECKING:
    from polystab.monitor.watcher import Finding, RunWatcher

_COMPARED = options(
    click.option("--reference", metavar="CUBE_OR_NAME", help="Past runs of the recipe; without it, the run's own past."),
    click.option("--model", help="The model of the reference, where it has several."),
    click.option("--false-alarm", type=float, metavar="SHARE",
                 help="Share of healthy runs that may raise an alarm; n past runs give 1/(n+1) at best (the default, but not below 0.05)."),
    click.option("--sustain", type=click.IntRange(min=1), default=3, show_default=True,
                 help="Values in a row that must be out."),
    click.option("--compare", metavar="ID,...", help="Only these metrics of the reference."),
    click.option("--no-own-past", is_flag=True, help="Without the rules about the run's own past."),
)  # fmt: skip
_LOG = options(
    click.option("--columns", default="", metavar="NAME=COLUMN,...", help="Where labels are: step=iteration."),
    click.option("--metrics", default="", metavar="COLUMN=ID,...",
                 help="Metric ids of columns: norm=gradient/all/norm."),
    click.option("--once", is_flag=True, help="Look at what is there, and end."),
    click.option("--interval", type=float, default=10.0, show_default=True, help="Seconds between looks."),
    click.option("--idle", type=float, default=math.inf, metavar="SECONDS",
                 help="End when nothing has come for so long; never by default."),
    click.option("--until", type=click.IntRange(min=0), metavar="STEP", help="End at this step."),
    click.option("--keep-going", is_flag=True, help="Go on after the first alarm."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line."),
)  # fmt: skip


@click.command(
    short_help="Watch the log of a running job.",
    epilog="Example: polystab watch runs/seed7/ --reference past.nc; [ $? = 1 ] && scancel $JOB",
)
@click.argument("log", type=click.Path())
@_COMPARED
@_LOG
def watch(log: str, once: bool, interval: float, idle: float, until: int | None, keep_going: bool, as_json: bool,
          columns: str, metrics: str, **compared: Any) -> None:  # fmt: skip
    """Watch LOG while a job appends to it: CSV, TSV, JSON lines, a trainer_state.json, or the folder of a run.

    An alarm: the run stays outside of the band of past runs (with --reference), its loss or gradient norm jumps 6 sd over
    the 128 values before and stays there, the loss climbs, or anything is not finite.

    \b
    Exit code 0: ended without an alarm. 1: an alarm. 2: wrong usage or bad input.
    """
    from polystab.monitor.tail import LogTail
    from polystab.monitor.watch import watch_log
    from polystab.sources.columns import parse_assignments

    watcher = _watcher(**compared)
    tail = LogTail(log, columns=parse_assignments(columns), metrics=parse_assignments(metrics, option="--metrics"))
    _say_start(log, watcher, as_json)
    try:
        for finding in watch_log(tail, watcher, interval=interval, idle=idle, until=until, once=once):
            _say(finding, as_json)
            if finding.alarm and not keep_going:
                break
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
    _say_end(watcher, tail.n_rows, tail.n_broken, as_json)
    sys.exit(1 if watcher.alarms else 0)


def _watcher(
    reference: str | None,
    model: str | None,
    false_alarm: float | None,
    sustain: int,
    compare: str | None,
    no_own_past: bool,
) -> RunWatcher:
    from polystab.monitor.reference import Reference
    from polystab.monitor.watcher import RunWatcher

    if reference is None:
        given = {"model": model, "false-alarm": false_alarm, "compare": compare}
        unused = [name for name, value in given.items() if value is not None]
        if unused:
            raise click.UsageError(f"--{unused[0]} is about past runs: it needs --reference.")
        return RunWatcher(own_past=not no_own_past, sustain=sustain)
    chosen = [name.strip() for name in compare.split(",") if name.strip()] if compare else None
    past = Reference(reference, model=model, metrics=chosen, false_alarm=false_alarm, sustain=sustain)
    return RunWatcher(past, own_past=not no_own_past)


def _say_start(log: str, watcher: RunWatcher, as_json: bool) -> None:
    past, log = watcher.reference, without_secrets(log)
    if as_json:
        about = None
        if past is not None:
            about = {"model": past.model, "seeds": past.runs, "false_alarm": past.false_alarm,
                     "metrics": list(past.curves), "notes": past.notes}  # fmt: skip
        _line({"event": "watching", "log": log, "reference": about})
        return
    if past is None:
        click.echo(f"{log}: compared with its own past")
        return
    click.echo(
        f"{log}: compared with {len(past.runs)} runs of {past.model} up to step {past.last_step:,}, "
        f"and its own past; false alarms by the band in at most {100 * past.false_alarm:.2g} % of healthy runs"
    )
    for note in past.notes:
        click.echo(f"  {note}")


def _say(finding: Finding, as_json: bool) -> None:
    if as_json:
        _line({"event": "alarm" if finding.alarm else "note", **finding.to_dict()})
    else:
        click.echo(f"{'ALARM' if finding.alarm else 'note'} {finding.rule} at step {finding.step:,}: {finding.message}")


def _say_end(watcher: RunWatcher, n_rows: int, n_broken: int, as_json: bool) -> None:
    last = watcher.last_step if watcher.last_step >= 0 else None
    if as_json:
        _line(
            {"event": "end", "last_step": last, "rows": n_rows, "broken_lines": n_broken, "alarms": len(watcher.alarms)}
        )
        return
    reached = "nothing logged" if last is None else f"{n_rows:,} row{'' if n_rows == 1 else 's'} up to step {last:,}"
    broken = f", {n_broken:,} broken lines passed over" if n_broken else ""
    click.echo(f"{reached}{broken}: {len(watcher.alarms) or 'no'} alarm{'' if len(watcher.alarms) == 1 else 's'}")


def _line(facts: dict[str, Any]) -> None:
    # One line each, at once: programs read it while the run goes on.
    click.echo(json.dumps(facts, ensure_ascii=False, default=str))
    sys.stdout.flush()
