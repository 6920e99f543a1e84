"""``polystab fill``: measure checkpoints, and join what was measured."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from polystab.cli_common import JSON, ProgressDisplay, duration, options, print_json, require_writable

if TYPE_CHECKING:
    from polystab.sources.fill import FillProgress, FillResult
    from polystab.sources.outputs import UnitFailure

_SIZES = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

_WHAT = options(
    click.option("--runs", help="Where the checkpoints lie: a run table (runs.csv), its folder, or a catalog such as polypythias."),
    click.option("-o", "--output", type=click.Path(), help="The folder of the units; run it again to go on."),
    click.option("--models", metavar="A,B", help="Only these models."),
    click.option("--seeds", metavar="0,1|0:9", help="Only these seeds; 0:9 is 0 to 9."),
    click.option("--steps", metavar="0,512|0:9000:1000", help="Only these steps."),
    click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes at work."),
    click.option("--scheduler", metavar="ADDRESS|local", help="A Dask cluster to do the work, such as tcp://host:8786; local: one of --jobs processes here."),
)  # fmt: skip
_CHECKPOINTS = options(
    click.option("--cache-dir", type=click.Path(), help="Where checkpoints from the Hub are kept."),
    click.option("--cache-limit", metavar="SIZE", help="What they may take, e.g. 20GB; the least recently used go first."),
    click.option("--local-files-only", is_flag=True, help="Never reach for the network."),
    click.option("--trust-remote-code", is_flag=True, help="Run code that comes with a checkpoint."),
    click.option("--device", default="auto", show_default=True, help="Where models run: auto, cpu, cuda, ..."),
)  # fmt: skip
_EVALS = options(
    click.option("--tasks", metavar="A,B", help="evals: tasks of the lm-evaluation-harness."),
    click.option("--include-path", multiple=True, type=click.Path(), help="evals: a folder of task YAML; may be repeated."),
    click.option("--num-fewshot", type=click.IntRange(min=0), help="evals: examples in the prompt."),
    click.option("--batch-size", type=click.IntRange(min=1), help="evals: requests at once."),
    click.option("-O", "others", multiple=True, metavar="SOURCE.KEY=VALUE", help="Option of a source; may be repeated."),
)  # fmt: skip


@click.command(
    short_help="Measure checkpoints into a cube.",
    epilog="Example: polystab fill evals --tasks arc_easy --runs polypythias --models pythia-14m -o fill/ --merge evals.nc",
)
@click.argument("sources", nargs=-1, metavar="SOURCE...")
@_WHAT
@click.option("--merge", type=click.Path(), help="Join all units of the folder into this cube; alone, only join.")
@click.option("--overwrite", is_flag=True, help="Replace the cube if it exists.")
@_EVALS
@_CHECKPOINTS
@click.option("--list", "listing", is_flag=True, help="List the sources that measure.")
@JSON
def fill(
    sources: Sequence[str],
    listing: bool,
    output: str | None,
    merge: str | None,
    overwrite: bool,
    as_json: bool,
    runs: str | None,
    **given: Any,
) -> None:
    """Measure checkpoints with SOURCES, one small file a unit (model, seed, step, source).

    What is done is not measured again: run the same command to go on after a stop, or
    to retry what failed. Exit code 1 if a unit failed.
    """
    if listing:
        _list(as_json)
        return
    if output is None:
        raise click.UsageError("-o DIR is missing: the folder that the units are written to.")
    if not sources and not merge:
        raise click.UsageError(
            "name a source to measure (polystab fill --list), or --merge CUBE to join what is there."
        )
    if merge:
        require_writable(merge, overwrite)
    facts: dict[str, Any] = {"output": output}
    failed: Sequence[UnitFailure] = ()
    if sources:
        if runs is None:
            raise click.UsageError("--runs is missing: a run table or catalog that says where the checkpoints lie.")
        result = _fill(sources, runs, output, given, show=not as_json)
        failed = result.failed
        facts |= _facts(result)
        if not as_json:
            _print_result(result, output)
    if merge:
        facts["cube"] = _merge(output, merge, overwrite, quiet=as_json)
    if as_json:
        print_json(facts)
    sys.exit(1 if failed else 0)


def _list(as_json: bool) -> None:
    from polystab.sources.registry import measurers
    from polystab.sources.registry import sources as known

    listed = [known()[name] for name in measurers()]
    if as_json:
        print_json([{"name": source.name, "summary": source.summary, "extra": source.extra} for source in listed])
        return
    width = max((len(source.name) for source in listed), default=0)
    for source in listed:
        click.echo(f"{source.name:<{width}}  {source.summary}")


def _fill(sources: Sequence[str], runs: str, output: str, given: dict[str, Any], *, show: bool) -> FillResult:
    from polystab.sources.checkpoints import CheckpointOptions
    from polystab.sources.fill import fill as fill_units
    from polystab.sources.registry import get_measurer, get_source

    for name in sources:
        get_source(name)  # a misspelt name is said before options that seem to lack their source
    chosen = source_options(sources, given)
    cache_limit = None if given["cache_limit"] is None else parse_size(given["cache_limit"])
    checkpoints = CheckpointOptions(
        cache_dir=given["cache_dir"],
        cache_limit=cache_limit,
        local_files_only=given["local_files_only"],
        trust_remote_code=given["trust_remote_code"],
        device=given["device"],
    )
    display = _Display(show)
    try:
        with _scheduler_warnings_as_lines():
            return fill_units(
                [get_measurer(name, **chosen.get(name, {})) for name in sources],
                runs=runs,
                output=output,
                jobs=given["jobs"],
                scheduler=given["scheduler"],
                models=_names(given["models"]),
                seeds=None if given["seeds"] is None else parse_numbers("--seeds", given["seeds"]),
                steps=None if given["steps"] is None else parse_numbers("--steps", given["steps"]),
                options=checkpoints,
                progress=display,
            )
    except KeyboardInterrupt as error:
        display.close()
        for note in getattr(error, "__notes__", ()):
            click.echo(str(note).replace("The same call goes", "The same command goes"), err=True)
        sys.exit(1)
    finally:
        display.close()


@contextmanager
def _scheduler_warnings_as_lines() -> Iterator[None]:
    """What is said of a cluster goes to standard error in plain lines; other warnings as ever."""
    from polystab.sources.schedulers import SchedulerWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", SchedulerWarning)
        as_ever = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, SchedulerWarning):
                click.echo(f"Warning: {message}", err=True)
            else:
                as_ever(message, category, *where, **more)

        warnings.showwarning = show
        yield


def source_options(sources: Sequence[str], given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Options by source, of those that evals has on the command line and of every ``-O SOURCE.KEY=VALUE``.

    Raises
    ------
    click.UsageError
        An option is malformed, or of a source that is not measured.
    """
    chosen: dict[str, dict[str, Any]] = {}
    evals = {name: given[name] for name in ("num_fewshot", "batch_size") if given[name] is not None}
    if given["tasks"] is not None:
        evals["tasks"] = _names(given["tasks"])
    if given["include_path"]:
        evals["include_path"] = list(given["include_path"])
    if evals:
        chosen["evals"] = evals
    for text in given["others"]:
        name, equals, value = text.partition("=")
        source, dot, key = name.partition(".")
        if not (equals and dot and source and key):
            raise click.UsageError(f"-O takes SOURCE.KEY=VALUE such as evals.limit=100, not {text!r}.")
        chosen.setdefault(source, {})[key.replace("-", "_")] = _value(value)
    for source in chosen:
        if source not in sources:
            said = f"-O {source}..." if source != "evals" else f"--{next(iter(evals or ['O'])).replace('_', '-')}"
            raise click.UsageError(f"{said} is an option of {source!r}, which is not measured here.")
    if "evals" in sources and "tasks" not in chosen.get("evals", {}):
        raise click.UsageError("--tasks is missing: which tasks evals is to run, e.g. --tasks arc_easy,lambada_openai.")
    return chosen


def parse_numbers(option: str, text: str) -> list[int]:
    """``0,1,5`` and inclusive ranges ``0:9`` or ``0:9000:1000`` as numbers."""
    numbers: list[int] = []
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d+)(?::(\d+)(?::([1-9]\d*))?)?", part)
        if not match:
            raise click.UsageError(
                f"{option} takes numbers and ranges such as 0,1 or 0:9 or 0:9000:1000, not {part!r}."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise click.UsageError(f"{option}: the range {part} is empty; write the smaller number first.")
        numbers += range(first, last + 1, int(match[3] or 1))
    return numbers


def parse_size(text: str) -> int:
    """``20GB``, ``500 MB`` or plain bytes as bytes; GB is 10^9, GiB 2^30."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", text.strip().upper())
    if not match:
        raise click.UsageError(f"--cache-limit takes a size such as 20GB or 500MB, not {text!r}.")
    unit = 1024 ** "KMGT".index(match[2]) * 1024 if match[3] and match[2] else _SIZES[match[2]]
    return int(float(match[1]) * unit)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _value(text: str) -> Any:
    """A value as JSON, or else as text: true, 3, [1,2], last."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _facts(result: FillResult) -> dict[str, Any]:
    return {
        "planned": result.planned,
        "already_done": result.already_done,
        "done": result.done,
        "failed": [vars(failure) for failure in result.failed],
        "seconds": round(result.seconds, 3),
    }


def _print_result(result: FillResult, output: str) -> None:
    there = f", {result.already_done:,} were there" if result.already_done else ""
    click.echo(f"{output}: measured {result.done:,} of {result.planned:,} units{there}")
    if not result.failed:
        return
    for (source, reason), count in Counter((f.source, f.reason) for f in result.failed).most_common():
        first = next(f for f in result.failed if (f.source, f.reason) == (source, reason))
        click.echo(
            f"  failed {count:,} {source} {reason}, first {first.model} seed {first.seed} step {first.step}: {first.detail}"
        )
    click.echo(f"  {len(result.failed):,} units failed; run the same command again to retry them.")


def _merge(output: str, merge: str, overwrite: bool, *, quiet: bool) -> dict[str, Any]:
    from polystab.cube import audit_facts, save_cube
    from polystab.cube.describe import coverage_sentence
    from polystab.sources.joining import join_units

    tree = join_units(output)
    save_cube(tree, merge, overwrite=overwrite)
    facts = {**audit_facts(tree), "output": merge}
    if not quiet:
        refused = f", {len(facts['refused']):,} refused (see its audit)" if facts["refused"] else ""
        click.echo(f"{merge}: {coverage_sentence(tree)}")
        click.echo(f"  joined {facts['read']:,} of {facts['files']:,} units, {facts['values']:,} values{refused}")
    return facts


class _Display(ProgressDisplay):
    """Units on standard error."""

    def __call__(self, progress: FillProgress) -> None:
        self.show(
            progress.done + progress.failed,
            progress.total,
            unit="unit",
            note=f"{progress.failed} failed" if progress.failed else "",
            line=lambda: progress_line(progress),
        )


def progress_line(progress: FillProgress) -> str:
    """``120 of 1,540 units, 2 failed, 3.1 units/s, 7 min left``."""
    failed = f", {progress.failed:,} failed" if progress.failed else ""
    rate = f", {progress.rate:.2g} units/s" if progress.rate else ""
    left = "" if progress.seconds_left is None else f", {duration(progress.seconds_left)} left"
    return f"{progress.done + progress.failed:,} of {progress.total:,} units{failed}{rate}{left}"
