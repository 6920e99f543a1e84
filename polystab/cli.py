"""The ``polystab`` command.

Nothing heavy is imported before a command needs it, so that ``--help`` answers at
once. No statistic is computed here: commands call functions and print what they say.

Exit codes: 0 fine, 1 something was found (a cube that is not valid), 2 wrong usage
or bad input.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from polystab._version import __version__
from polystab.cli_common import JSON, OUTPUT, RULES, Group, print_json, require_writable, write_cubes
from polystab.errors import printable

ELSEWHERE = {
    "audit": "polystab.cli_audit:audit",
    "cubes": "polystab.cli_release:cubes",
    "fill": "polystab.cli_fill:fill",
    "plan": "polystab.cli_plan:plan",
    "read": "polystab.cli_read:read",
    "release": "polystab.cli_release:release",
    "train": "polystab.cli_train:train",
    "watch": "polystab.cli_watch:watch",
}


class _MainGroup(Group):
    """Also the commands that live in modules of their own, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in ELSEWHERE:
            return super().get_command(ctx, name)
        module, _, attribute = ELSEWHERE[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=_MainGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="polystab")
def main() -> None:
    """Seed-stability of language-model training.

    Gathers results of runs into a cube, checks it, and reports on it.

    \b
    polystab read lm-eval results/ -o cube.nc     a folder of evaluations becomes a cube
    polystab report cube.nc -o report.html        and the cube a page
    """


@main.command(short_help="Write one page on a cube.", epilog="Example: polystab report evals.nc -o report.html")
@click.argument("cube", metavar="[CUBE_OR_NAME]", default="nano")
@click.option(
    "-o", "--output", type=click.Path(), help="The file to write; standard output for md and json if left out."
)
@click.option(
    "--format", "format_", type=click.Choice(["html", "md", "json"]), help="Default: by the output's ending, else html."
)
@click.option("--title", help="Title of the page.")
@click.option("--sections", metavar="A,B", help="Only these sections, e.g. takeaways,audit,outliers.")
@click.option("--metrics", metavar="A,B", help="Only these metrics: ids, or patterns such as 'eval/*'.")
@click.option("--compare", metavar="CUBE_OR_NAME",
              help="Another cube: which differences are real, given the seeds?")  # fmt: skip
@click.option("--compare-models", metavar="HERE=THERE,...", default="",
              help="Which of its models stand against which; by default those of the same name.")  # fmt: skip
@click.option(
    "--paired", is_flag=True, help="Seed k of one cube belongs to seed k of the other (same initialisation or order)."
)
@click.option("--fail-on", multiple=True, metavar="REASON",
              help="Exit with 1 if: outliers (a run is one, or diverged); audit (it has an error or warning); change (seeds share "
              "a change for the worse after a quarter of training); change:STEP (they share any change from that step on); "
              "difference (the cube of --compare is worse in a metric, q <= 0.05). May be repeated.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace a file that is not an earlier report.")
def report(
    cube: str,
    output: str | None,
    format_: Any,
    title: str | None,
    sections: str | None,
    metrics: str | None,
    compare: str | None,
    compare_models: str,
    paired: bool,
    fail_on: Sequence[str],
    overwrite: bool,
) -> None:
    """Write one page on a cube: its audit, curves, seed spread, variance, phases, outlier runs.

    Without a cube, the page is about nano, which comes with polystab. The page is written before
    --fail-on has its say.
    """
    from polystab.cube import open_any
    from polystab.report.failing import parsed, reasons_to_fail
    from polystab.report.page import is_report, write_page
    from polystab.report.sections import known_sections
    from polystab.sources.columns import parse_assignments

    if output is None and format_ in (None, "html"):
        raise click.UsageError("an HTML page needs a file: -o report.html (md and json can go to standard output).")
    given: dict[str, Any] = {"format": format_, "title": title}
    given |= {name: _names(text) for name, text in (("sections", sections), ("metrics", metrics)) if text is not None}
    known_sections(given.get("sections"))
    for text in fail_on:
        parsed(text)
    if output is not None:
        require_writable(output, overwrite or is_report(output))
    if compare is None and (compare_models or paired or "difference" in fail_on):
        raise click.UsageError(
            "--compare-models, --paired and --fail-on difference need another cube: --compare OTHER."
        )
    with ExitStack() as opened:
        tree = opened.enter_context(open_any(cube))
        if compare is not None:
            pairs = parse_assignments(compare_models, option="--compare-models") or None
            given |= {"compare": opened.enter_context(open_any(compare)), "compare_models": pairs, "paired": paired}
        page, summary = write_page(tree, output, fail_on=fail_on, **given)
    click.echo(page if output is None else f"Report: {Path(output).resolve()}")
    reasons = reasons_to_fail(summary, fail_on)
    for reason in reasons:
        click.echo(f"Found: {reason}", err=True)
    if reasons:
        sys.exit(1)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@main.command(epilog="Example: polystab info evals.nc --json")
@click.argument("cube", metavar="CUBE_OR_NAME")
@JSON
def info(cube: str, as_json: bool) -> None:
    """Say what is in a cube."""
    from polystab.cube import open_any
    from polystab.cube.describe import cube_facts, cube_text

    with open_any(cube) as tree:
        facts = cube_facts(tree)
    if as_json:
        print_json(facts)
    else:
        click.echo(cube_text(facts))


@main.command(short_help="List every violation of the rules.", epilog="Example: polystab validate evals.nc")
@click.argument("cube", metavar="CUBE_OR_NAME")
@JSON
def validate(cube: str, as_json: bool) -> None:
    """List every violation of the cube's rules; exit code 1 if there is one."""
    from polystab.cube import find_cube
    from polystab.cube.store import validate_file

    violations = validate_file(find_cube(cube))
    if as_json:
        print_json({"valid": not violations, "violations": [vars(violation) for violation in violations]})
    else:
        for violation in violations:
            click.echo(printable(str(violation)))
        click.echo(f"{cube}: " + (f"{len(violations)} violations" if violations else "valid"))
    sys.exit(1 if violations else 0)


@main.command(short_help="Join cubes.", epilog="Example: polystab merge evals.nc weights.nc -o all.nc")
@click.argument("cubes", nargs=-1, required=True, metavar="CUBES")
@OUTPUT
@JSON
@click.option("--on-conflict", type=click.Choice(RULES), default="error", show_default=True,
              help="Which of two different values for one cell to keep; what loses is kept in the audit.")  # fmt: skip
def merge(cubes: Sequence[str], output: str, overwrite: bool, as_json: bool, on_conflict: Any) -> None:
    """Join cubes over the union of their models, seeds, steps and metrics."""
    from polystab.cube import merge_cubes, open_any

    require_writable(output, overwrite)
    merged: Any = merge_cubes([open_any(cube) for cube in cubes], on_conflict=on_conflict)
    write_cubes({output: merged}, overwrite, as_json)


if __name__ == "__main__":
    main()
